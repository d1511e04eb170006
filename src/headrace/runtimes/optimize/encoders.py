"""ColumnTransformers and encoders of categories, as one numpy step. Called by `candidates`.

An encoder that looks at each column alone is a table: place in the vocabulary (or number among the known ones) to what
the encoder makes of it. The table is filled by the encoder itself, asked for every category and for an unknown one, so
nothing of its options is imitated here. A category that it refuses stands in the table as infinite, which every engine
declines, so the native model refuses it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize import steps
from headrace.runtimes.optimize.engine import F32, F64, Refused
from headrace.runtimes.optimize.steps import NumpyStep
from headrace.runtimes.optimize.table import Table, strangers

_ENCODERS: Final = frozenset({"OneHotEncoder", "OrdinalEncoder", "TargetEncoder"})
_ALONE: Final = _ENCODERS | {"SimpleImputer", "StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"}
"""Transformers whose every output column depends on one input column."""
_MOST_CELLS: Final = 4_000_000
"""Of the tables of a model: 32 MiB."""
_MOST_COMPARED: Final = 20_000
"""Cells of a table beyond which rows are not aimed at its entries, but anywhere."""

Selection = slice | Array


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """What an encoder makes of one column."""

    column: int
    keys: Array | None
    """Sorted numbers it knows; None: the column holds places already."""
    table: Array
    """(known + 1, outputs); the last row is for what is unknown."""
    into: Selection
    """Columns of the step's output."""

    @property
    def closed(self) -> bool:
        """Unknown categories are refused."""
        return bool(np.isinf(self.table[-1:]).any())

    def places(self, values: Array) -> Array:
        """The table's row of each value."""
        if self.keys is None:
            return values.astype(np.intp)
        found = np.searchsorted(self.keys, values)
        found[self.keys.take(found, mode="clip") != values] = len(self.keys)
        return found

    def values(self, places: Array) -> Array:
        """Numbers that stand at these places."""
        if self.keys is None:
            return places.astype(F64)
        return np.append(self.keys, _beyond(self.keys))[places]

    def nearest(self, wanted: Array, rng: np.random.Generator) -> Array:
        """Places whose table rows come closest to what is wanted; any, where that costs too much."""
        rows = np.nan_to_num(self.table[:-1] if self.closed else self.table)
        if not rows.shape[1] or rows.size > _MOST_COMPARED:
            return rng.integers(len(rows), size=len(wanted))
        wanted = np.clip(np.nan_to_num(wanted), -1e9, 1e9)
        closest: Array = ((rows**2).sum(axis=1) - 2.0 * (wanted @ rows.T)).argmin(axis=1)
        return closest


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of numbers and the steps they pass."""

    columns: Selection
    steps: tuple[NumpyStep, ...]
    into: Selection


def read_table(model: Any, names: Sequence[str], text: Sequence[int]) -> Table:
    """The vocabularies of a model's text columns, from the encoders that see them first.

    Args:
        model: The estimator.
        names: Of its columns.
        text: Positions of those that hold text.

    Raises:
        Refused: if what sees the text is no encoder of categories.
    """
    known: dict[int, dict[str, None]] = {at: {} for at in text}
    for part, columns in _pieces(members(model), names)[0]:
        mentioned = _mentioned(part, len(columns))
        for column, values in zip(columns, mentioned, strict=True):
            if column in known:
                known[column] |= dict.fromkeys(value for value in values if isinstance(value, str))
    return Table(names, {at: tuple(values) for at, values in known.items()})


def members(model: Any) -> list[Any]:
    """The steps of a pipeline, and of pipelines in it, in order; any other estimator alone."""
    if not (type(model).__module__ == "sklearn.pipeline" and type(model).__name__ == "Pipeline"):
        return [model]
    found = [member for _, member in model.steps if member is not None and not isinstance(member, str)]
    return [inner for member in found for inner in members(member)]


def step_of(chain: Sequence[Any], table: Table | None, names: Sequence[str]) -> tuple[NumpyStep, int] | None:
    """What the first members of a pipeline do, where they are a ColumnTransformer or encoders, and how many they are.

    None: they are neither.

    Raises:
        Refused: if they are, but something in them has no numpy form.
    """
    if table is None and type(chain[0]).__name__ not in _ENCODERS | {"ColumnTransformer"}:
        return None
    pieces, taken = _pieces(chain, names)
    lookups: list[Lookup] = []
    numbers: list[Numbers] = []
    vocabularies = {} if table is None else table.vocabularies
    offset = 0
    for part, columns in pieces:
        plain = None if set(columns) & vocabularies.keys() else _plain(part)
        if plain is not None:
            width = _width(plain, len(columns))
            numbers.append(
                Numbers(columns=_selection(columns), steps=plain, into=_selection(range(offset, offset + width)))
            )
        else:
            made, width = _lookups(part, columns, names, vocabularies, offset)
            lookups.extend(made)
        offset += width
    if not offset:
        raise Refused("a ColumnTransformer keeps no column")
    return _joined(lookups, numbers, len(names), offset), taken


def _pieces(chain: Sequence[Any], names: Sequence[str]) -> tuple[list[tuple[Any, list[int]]], int]:
    """What each group of columns meets first, and how many members of the pipeline that was."""
    first = chain[0]
    if type(first).__name__ == "ColumnTransformer":
        if first.transformer_weights:
            raise Refused("a ColumnTransformer with weights has no numpy form")
        kept = [(part, _columns(columns, names)) for _, part, columns in first.transformers_ if part != "drop"]
        return [(part, columns) for part, columns in kept if columns], 1
    taken = []
    for member in chain:
        taken.append(member)
        if type(member).__name__ not in _ALONE:
            raise Refused(f"{type(member).__name__} takes text and has no numpy form")
        if type(member).__name__ in _ENCODERS:
            break
    return [(_Run(taken), list(range(len(names))))], len(taken)


class _Run:
    """Members of a pipeline as one transformer."""

    def __init__(self, chain: Sequence[Any]) -> None:
        self.chain = list(chain)

    def transform(self, rows: Any) -> Any:
        """One after the other."""
        for member in self.chain:
            rows = member.transform(rows)
        return rows


def _chain(part: Any) -> list[Any]:
    return part.chain if isinstance(part, _Run) else members(part)


def _columns(chosen: Any, names: Sequence[str]) -> list[int]:
    """Positions that a ColumnTransformer's selection means."""
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            raise Refused("a ColumnTransformer that selects from name to name has no numpy form")
        return list(range(len(names)))[chosen]
    picked = np.asarray(chosen).reshape(-1)
    if picked.dtype == bool:
        return np.flatnonzero(picked).tolist()
    places = {name: at for at, name in enumerate(names)}
    return [places[item] if isinstance(item, str) else int(item) % len(names) for item in picked.tolist()]


def _plain(part: Any) -> tuple[NumpyStep, ...] | None:
    """The numpy steps of a transformer of numbers; None: some member has none."""
    if part == "passthrough":
        return ()
    found = []
    for member in _chain(part):
        if type(member).__name__ == "FunctionTransformer" and member.func is None:
            continue
        step = steps.step_of(member)
        if step is None:
            return None
        found.append(step)
    return tuple(found)


def _width(chain: Sequence[NumpyStep], columns: int) -> int:
    rows = np.zeros((1, columns))
    for step in chain:
        rows = step.run(rows)
    return int(rows.shape[1])


def _mentioned(part: Any, count: int) -> list[list[Any]]:
    """By column, values that the members of a transformer name."""
    found: list[list[Any]] = [[] for _ in range(count)]
    if part == "passthrough":
        return found
    for member in _chain(part):
        known = getattr(member, "categories_", None)
        if known is not None:
            if len(known) != count:
                raise Refused(f"{type(member).__name__} sees other columns than came")
            for values, more in zip(found, known, strict=True):
                values.extend(np.asarray(more).tolist())
            break  # what follows sees its output
        fills = getattr(member, "statistics_", None)
        if fills is not None and len(fills) == count:
            for values, fill in zip(found, np.asarray(fills, dtype=object).tolist(), strict=True):
                values.extend((fill, member.missing_values))
    return found


def _beyond(keys: Array) -> float:
    """A number that is none of these."""
    return float(keys[-1]) + 1.5 if len(keys) else 0.5


def _lookups(
    part: Any, columns: Sequence[int], names: Sequence[str], vocabularies: Mapping[int, Sequence[str]], offset: int
) -> tuple[list[Lookup], int]:
    """What a transformer makes of each of its columns, by asking it."""
    for member in _chain(part):
        if type(member).__name__ not in _ALONE or not type(member).__module__.startswith("sklearn."):
            raise Refused(f"{type(member).__name__} has no numpy form behind a selection of columns")
    known: list[list[Any]] = []
    for column, values in zip(columns, _mentioned(part, len(columns)), strict=True):
        if column in vocabularies:
            known.append([*vocabularies[column], strangers(vocabularies[column])[2]])
        else:
            numbers = np.unique([float(value) for value in values if _is_number(value)])
            known.append([*numbers.tolist(), _beyond(numbers)])
    if any(len(values) < 2 for values in known):
        raise Refused(f"{type(part).__name__} names no categories of some column")
    base = [values[0] for values in known]
    wanted = _asked(part, [[value] for value in base], columns, names, vocabularies)
    owner = np.full(wanted.shape[1], -1)
    found: list[Lookup] = []
    for at, values in enumerate(known):
        if len(values) * wanted.shape[1] > _MOST_CELLS:
            raise Refused(f"column {names[columns[at]]!r} has too many categories: {len(values):,}")
        cells = [[value] * len(values) for value in base]
        cells[at] = values
        try:
            made = _asked(part, cells, columns, names, vocabularies)
        except ValueError:  # the unknown one is refused, or a known one, which then is asked for in vain
            made = _asked(part, [each[:-1] for each in cells], columns, names, vocabularies)
            made = np.vstack([made, np.full((1, made.shape[1]), np.inf)])
        # a column that nothing changes belongs to whoever refuses, so that the refusal is seen
        varies = (made != made[0]) & ~(np.isnan(made) & np.isnan(made[0]))
        finite = np.isfinite(made[-1])
        own = np.flatnonzero(varies[:-1].any(axis=0) | (varies[-1] & finite))
        if (owner[own] >= 0).any():
            raise Refused(f"{type(part).__name__} joins columns")
        owner[own] = at
        keys = None if columns[at] in vocabularies else np.array(values[:-1])
        found.append(Lookup(column=columns[at], keys=keys, table=made, into=own))
    result = []
    for at, lookup in enumerate(found):
        own = np.flatnonzero(owner == at)
        if at == 0:
            own = np.flatnonzero((owner == at) | (owner < 0))  # constants are anybody's
        table = np.ascontiguousarray(lookup.table[:, own])
        if np.isinf(lookup.table[-1]).all() and not own.size:
            raise Refused(f"column {names[lookup.column]!r} has a single category")
        result.append(
            msgspec.structs.replace(lookup, table=table, into=_selection([offset + int(each) for each in own]))
        )
    return result, int(wanted.shape[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def _asked(
    part: Any,
    cells: Sequence[Sequence[Any]],
    columns: Sequence[int],
    names: Sequence[str],
    vocabularies: Mapping[int, Sequence[str]],
) -> Array:
    """What the transformer answers to these columns."""
    arrays = [
        np.array(values, dtype=object if column in vocabularies else F64)
        for column, values in zip(columns, cells, strict=True)
    ]
    rows: Any = np.stack(arrays, axis=1)
    if hasattr(_chain(part)[0], "feature_names_in_"):
        import pandas as pd

        rows = pd.DataFrame(dict(zip((names[column] for column in columns), arrays, strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = part.transform(rows)
    made: Array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    if made.ndim != 2 or made.dtype not in {F64, F32}:
        raise Refused(f"{type(part).__name__} answers {made.dtype}, not floats")
    return made


def _selection(columns: Sequence[int] | Array | range) -> Selection:
    """A slice where the columns lie side by side."""
    array = np.asarray(columns, dtype=np.intp)
    if array.size and (np.diff(array) == 1).all():
        return slice(int(array[0]), int(array[-1]) + 1)
    return array


def _joined(lookups: Sequence[Lookup], numbers: Sequence[Numbers], width: int, outputs: int) -> NumpyStep:
    fixed = [lookup.table.dtype for lookup in lookups]
    dtypes = {kind: np.result_type(*fixed, *([kind] if numbers else [])) for kind in (F64, F32)}
    ready = [(each.column, each.places, each.table, each.into) for each in lookups]
    chains = [(each.columns, [step.run for step in each.steps], each.into) for each in numbers]

    def run(rows: Array) -> Array:
        out = np.empty((len(rows), outputs), dtype=dtypes[rows.dtype])
        for column, places, table, into in ready:
            out[:, into] = table.take(places(rows[:, column]), axis=0)
        for columns, calls, into in chains:
            part = rows[:, columns]
            for call in calls:
                part = call(part)
            out[:, into] = part
        return out

    low, high = _range(lookups, numbers, width)
    return NumpyStep(
        run=run,
        back=_back(lookups, numbers, width),
        low=low,
        high=high,
        missing=all(lookup.keys is None for lookup in lookups)
        and all(step.missing for each in numbers for step in each.steps),
        fills=bool(numbers) and all(any(step.fills for step in each.steps) for each in numbers),
        coded=bool(lookups),
        closed=any(lookup.closed for lookup in lookups),
    )


def _back(lookups: Sequence[Lookup], numbers: Sequence[Numbers], width: int) -> Callable[[Array], Array]:
    def back(values: Array) -> Array:
        rng = np.random.default_rng(len(values))
        rows = np.zeros((len(values), width))
        anywhere = rng.random(len(values)) < 0.3
        for lookup in lookups:
            places = lookup.nearest(values[:, lookup.into], rng)
            most = len(lookup.table) - lookup.closed
            rows[:, lookup.column] = lookup.values(np.where(anywhere, rng.integers(most, size=len(values)), places))
        for each in numbers:
            part = values[:, each.into]
            for step in reversed(each.steps):
                part = step.back(part)
            rows[:, each.columns] = part
        return rows

    return back


def _range(lookups: Sequence[Lookup], numbers: Sequence[Numbers], width: int) -> tuple[Array, Array]:
    low, high = np.full(width, -5.0), np.full(width, 5.0)
    for each in numbers:
        known = next((step for step in each.steps if step.low is not None and step.high is not None), None)
        if known is not None and known.low is not None and known.high is not None:
            low[each.columns], high[each.columns] = known.low, known.high
    for lookup in lookups:
        last = len(lookup.table) - 1
        edge = 0.1 * last if lookup.closed else 0.0
        ends = (edge, last - edge) if lookup.keys is None else (lookup.keys[0], lookup.keys[-1])
        low[lookup.column], high[lookup.column] = ends
    return low, high
