"""The gate: an engine takes a model's place only where it is proven to answer the same. Called by `choose`, at load.

`compare` judges two answers; `examine` puts rows before both engines, in float64, float32 and integers, in batches of
one, two and many, and with the special values alone. An engine that declines a row is right about it by construction:
the native model answers. What the gate cannot finish in time, it refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize import rows as aim
from headrace.runtimes.optimize.engine import F32, F64, Engine, OutOfTime, Refused
from headrace.runtimes.optimize.rows import Terrain

Native = Callable[[Array, Sequence[str]], Mapping[str, Array]]
"""The model as its own library answers: rows, names of outputs to outputs by name."""


_FEWEST: Final = 500
"""An engine that declines nearly every row proves nothing."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """How far two answers may be apart and still be the same."""

    score: float
    """Scores within `score * (1 + |native score|)`."""
    margin: float = 0.0
    """A label may differ only where the native scores of the two best classes are closer than this."""
    excused: float = 0.0
    """And only for this share of the rows."""


EXACT: Final = Tolerance(score=1e-12)
"""For engines in float64."""
SINGLE: Final = Tolerance(score=1e-5, margin=1e-5, excused=1e-4)
"""For engines, or libraries, that add in float32."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison found."""

    rows: int = 0
    labels_different: int = 0
    """Labels that differ without an excuse."""
    labels_excused: int = 0
    scores_different: int = 0
    """Rows with a score beyond the tolerance."""
    largest: float = 0.0
    """The largest |difference| / (1 + |native score|) seen."""
    contract: tuple[str, ...] = ()
    """Names, datatypes or shapes that are not the native model's."""

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            rows=self.rows + other.rows,
            labels_different=self.labels_different + other.labels_different,
            labels_excused=self.labels_excused + other.labels_excused,
            scores_different=self.scores_different + other.scores_different,
            largest=max(self.largest, other.largest),
            contract=(*self.contract, *(line for line in other.contract if line not in self.contract)),
        )

    def refusal(self, tolerance: Tolerance) -> str:
        """Why these figures do not pass; empty: they do."""
        if self.contract:
            return "; ".join(self.contract)
        if self.labels_different:
            return f"{self.labels_different} of {self.rows} labels differ"
        if self.labels_excused > tolerance.excused * self.rows:
            return f"{self.labels_excused} of {self.rows} labels differ at near ties, more than may be excused"
        if self.scores_different:
            return f"scores of {self.scores_different} of {self.rows} rows differ, by up to {self.largest:.1e}"
        return ""

    def text(self) -> str:
        """For people."""
        excused = f" ({self.labels_excused} near ties excused)" if self.labels_excused else ""
        labels = f"{self.labels_different} labels different{excused}"
        return f"{self.rows} rows, {labels}, largest score difference {self.largest:.1e}"


def compare(native: Mapping[str, Array], engine: Mapping[str, Array], tolerance: Tolerance) -> Figures:
    """Judge one answer of an engine by the native one. Floats are scores; everything else is a label."""
    contract = [
        f"output {name!r} is missing"
        if name not in engine
        else f"output {name!r} is {_form(engine[name])}, native {_form(value)}"
        for name, value in native.items()
        if name not in engine or _form(engine[name]) != _form(value)
    ]
    count = len(next(iter(native.values())))
    if contract or native.keys() != engine.keys():
        return Figures(rows=count, contract=tuple(contract) or (f"outputs {sorted(engine)} for {sorted(native)}",))
    wrong_label = np.zeros(count, dtype=bool)
    wrong_score = np.zeros(count, dtype=bool)
    largest = 0.0
    for name, want in native.items():
        have = engine[name]
        if want.dtype.kind != "f":
            wrong_label |= _per_row(have != want)
            continue
        distance = _distance(have, want)
        largest = max(largest, float(distance.max(initial=0.0)))
        wrong_score |= _per_row(~(distance <= tolerance.score))
    near = _margins(native, count) < tolerance.margin
    return Figures(
        rows=count,
        labels_different=int((wrong_label & ~near).sum()),
        labels_excused=int((wrong_label & near).sum()),
        scores_different=int(wrong_score.sum()),
        largest=largest,
    )


def _form(value: Array) -> str:
    return f"{value.dtype}{list(value.shape)}"


def _per_row(flags: Any) -> Array:
    array = np.asarray(flags, dtype=bool)
    flagged: Array = np.asarray(array.reshape(len(array), -1).any(axis=1))
    return flagged


def _distance(have: Array, want: Array) -> Array:
    """|have - want| / (1 + |want|); 0 where both are the same infinity or NaN, infinite where only one is."""
    with np.errstate(all="ignore"):
        distance = np.abs(have.astype(F64) - want) / (1.0 + np.abs(want.astype(F64)))
    same = (have == want) | (np.isnan(have) & np.isnan(want))
    result: Array = np.where(same, 0.0, np.where(np.isnan(distance), np.inf, distance))
    return result


def _margins(native: Mapping[str, Array], count: int) -> Array:
    """How clearly the best class wins, by the native scores; infinite where there are none."""
    margins = np.full(count, np.inf)
    for name in ("predict_proba", "decision_function"):
        scores = native.get(name)
        if scores is None:
            continue
        if scores.ndim == 1:
            margins = np.minimum(margins, np.abs(scores))
            continue
        if scores.ndim == 2 and scores.shape[1] > 1:
            best = np.partition(scores, scores.shape[1] - 2, axis=1)[:, -2:]
            margins = np.minimum(margins, best[:, 1] - best[:, 0])
    return margins


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine has been proven on."""

    datatypes: tuple[str, ...]
    """numpy dtype names of rows; at least float64."""
    figures: Figures
    remarks: tuple[str, ...] = ()
    """Why other datatypes stay with the native model."""


def examine(
    native: Native,
    engine: Engine,
    terrain: Terrain,
    *,
    outputs: Sequence[str],
    tolerance: Tolerance,
    count: int,
    deadline: float,
    patience: float = 10.0,
    seed: int = 0,
) -> Proof:
    """Prove an engine on about `count` rows.

    Args:
        native: The model.
        engine: Its would-be replacement.
        terrain: Where to aim rows.
        outputs: Names that both answer.
        tolerance: Of the engine's arithmetic.
        count: Rows in float64; float32 and integers take half and a tenth as many.
        deadline: On the clock of `time.monotonic`; the check is refused if it passes.
        patience: Seconds after which a quarter of the rows of each kind is enough; rows come in random order.
        seed: Of the rows.

    Raises:
        Refused: with the reason, where float64 rows show a difference or time runs out.
    """
    rng = np.random.default_rng(seed)
    wide = aim.make(terrain, count, rng)
    with np.errstate(all="ignore"):
        narrow = wide[: len(wide) // 2].astype(F32)
    ordinary = wide[np.isfinite(wide).all(axis=1)][:512]

    enough = time.monotonic() + patience

    def judged(parts: Iterator[_Part], total: int = 0) -> Figures:
        figures = Figures()
        for part, size in parts:
            now = time.monotonic()
            if now > deadline:
                raise OutOfTime(f"the check did not end in time, after {figures.rows} rows")
            if now > enough and total and figures.rows >= total // 4:
                break
            if size:
                figures += _judge_parts(native, engine, part, outputs, tolerance, size=size)
            else:
                figures += _judge(native, engine, part, outputs, tolerance)
            if figures.refusal(tolerance) and figures.labels_excused == 0:
                break
        return figures

    figures = judged(_batches(wide, engine.most_rows), len(wide))
    figures += judged(_batches(narrow.astype(F64), engine.most_rows), len(narrow))
    odd = np.concatenate(list(aim.special(ordinary if len(ordinary) else np.zeros((1, wide.shape[1])), rng)))
    figures += judged(iter([(odd, 1)]))
    if reason := figures.refusal(tolerance):
        raise Refused(reason)
    if figures.rows < min(count, _FEWEST):
        raise Refused(f"the engine took only {figures.rows} of the rows that were aimed at it")
    datatypes, remarks = ["float64"], []
    others = [narrow, *(aim.whole(wide[: len(wide) // 10 + 1], rng).astype(kind) for kind in (np.int64, np.int32))]
    for other in others:
        found = judged(_batches(other, engine.most_rows), len(other))
        if reason := found.refusal(tolerance):
            remarks.append(f"{other.dtype} stays native: {reason}")
        else:
            datatypes.append(other.dtype.name)
            figures += found
    return Proof(datatypes=tuple(datatypes), figures=figures, remarks=tuple(remarks))


_Part = tuple[Array, int]
"""Rows, and how many of them the engine is asked at a time; 0: all."""


def _batches(rows: Array, most: int | None) -> Iterator[_Part]:
    """A few single rows and pairs, one batch of 256, the rest in large batches; only single rows where `most` is 1."""
    yield rows[:1], 0
    if most == 1:
        yield from ((rows[at : at + 100], 1) for at in range(0, min(len(rows), 1000), 100))
        return
    yield rows[:12], 1
    if len(rows) > 12:
        yield rows[12:24], 2
    yield (rows[24:280] if len(rows) > 280 else rows), 0
    yield from ((rows[at : at + 2048], 0) for at in range(280, len(rows), 2048))


def _judge_parts(
    native: Native, engine: Engine, rows: Array, outputs: Sequence[str], tolerance: Tolerance, *, size: int
) -> Figures:
    """Ask the engine for `size` rows at a time, and the native model once for all that the engine takes.

    A call of a large forest costs ten milliseconds, however few its rows. Where the native model refuses them together,
    it is asked for each part.
    """
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    answers = [(part, engine.answer(part if part.dtype in {F64, F32} else part.astype(F64), outputs)) for part in parts]
    taken = [(part, answer) for part, answer in answers if answer is not None]
    if not taken:
        return Figures()
    try:
        with np.errstate(all="ignore"):
            want = native(np.concatenate([part for part, _ in taken]), outputs)
    except Exception:  # noqa: BLE001 - asked again below, one by one, to tell which rows it refuses
        return sum((_judge(native, engine, part, outputs, tolerance) for part, _ in taken), Figures())
    figures, at = Figures(), 0
    for part, answer in taken:
        own = {name: value[at : at + len(part)] for name, value in want.items()}
        figures += compare(own, answer, tolerance)
        at += len(part)
    return figures


def _judge(native: Native, engine: Engine, rows: Array, outputs: Sequence[str], tolerance: Tolerance) -> Figures:
    taken = rows if rows.dtype in {F64, F32} else rows.astype(F64)
    have = engine.answer(taken, outputs)
    if have is None and len(rows) > 1:
        parts = (_judge(native, engine, rows[at : at + 1], outputs, tolerance) for at in _taken(engine, taken, outputs))
        return sum(parts, Figures())
    if have is None:
        return Figures()
    try:
        with np.errstate(all="ignore"):
            want = native(rows, outputs)
    except Exception as error:  # noqa: BLE001 - whatever the native model raises, answering instead is the defect
        return Figures(rows=len(rows), contract=(f"native refuses what the engine answers: {str(error)[:120]}",))
    return compare(want, have, tolerance)


def _taken(engine: Engine, rows: Array, outputs: Sequence[str]) -> Iterator[int]:
    """A batch that an engine declines holds a row that it declines; the others are judged alone, some of them."""
    singles = (at for at in range(len(rows)) if engine.answer(rows[at : at + 1], outputs) is not None)
    for _, at in zip(range(64), singles, strict=False):
        yield at
