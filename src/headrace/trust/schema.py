"""What a model takes and says, from its signature, its training data and a few of its answers: the second step of
`trust.fit`. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features
from headrace.payload import Array, Signature, Tensor, TensorSpec
from headrace.trust.rows import Coder
from headrace.trust.spec import Bias, Input, Output, Schema, Task
from headrace.trust.table import Table

MOST_CATEGORIES: Final = 1000
"""Of one column; of more, the most frequent ones are kept and the others are unseen."""
_NUMERIC_SHARE: Final = 0.9
"""A text column with so many numbers in it is one of numbers with mistakes."""
_PROTECTED: Final = re.compile(r"(?P<attribute>[^=<>]+?)\s*(?P<sign>=|>)\s*(?P<value>.+)")

Data = Literal["tabular", "image", "text", "series"]


class Hints(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says of the model and the data, where it is not told by these."""

    data: Data | Literal[""] = ""
    """Empty: `text` and `image` are told by what the model takes, else `tabular`."""
    task: Task | Literal[""] = ""
    """Empty: told by the labels and by what the model answers."""
    categories: tuple[str, ...] = ()
    """Columns of numbers that are categories."""
    protected: tuple[str, ...] = ()
    """`sex=male`, `race=white,asian` or `age>25`: an attribute and its privileged group."""
    favourable: str = ""
    """The class that is good to get; empty: 1, `True`, `yes` or the last one."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What the model takes, and the data as rows of it."""

    data: Data
    features: Features
    inputs: tuple[Input, ...]
    x: Array
    """`[n, f]` FP64; of text, `[n]` objects, which are `str`."""
    warnings: tuple[str, ...] = ()


def taken(table: Table, signature: Signature, hints: Hints) -> Taken:
    """What the model takes, by its signature and the columns of its training data (without the labels).

    Raises:
        InvalidRequest: the data does not fit the model: other columns, another width, something that is no value;
            names the column, and the row where there is one.
    """
    specs = [each for each in signature.inputs if not each.optional or each.name in table.columns]
    if hints.data == "text" or (not hints.data and _is_text(table, specs)):
        return _text(table, specs)
    if table.block is not None:
        return _block(table.block, specs, hints)
    return _columns(table, specs, signature, hints)


def said(
    seen: Taken, outputs: Sequence[Tensor], signature: Signature, labels: Array | None, hints: Hints
) -> tuple[Schema, Array | None]:
    """The schema, and the labels as positions of classes (or, of a regression, numbers).

    Args:
        seen: What the model takes.
        outputs: What it answered to some of the rows, all of its outputs.
        signature: What it declares.
        labels: `[n]`, as the data has them; None: there are none.
        hints: What a person says.

    Raises:
        InvalidRequest: no output is what a classifier or a regression says, a label is none of the classes, or a
            protected attribute is no feature.
    """
    task, output = roles(outputs, labels, hints, preferred=signature.default_outputs)
    schema = Schema(data=seen.data, task=task, features=seen.features, inputs=seen.inputs, output=output)
    if task == "regression":
        if hints.protected:
            raise InvalidRequest(
                "protected attributes are compared by the classes that their groups get: of classifiers"
            )
        return schema, None if labels is None else truth(labels, schema)
    schema = msgspec.structs.replace(schema, classes=_classes(outputs, output, signature, labels))
    schema = msgspec.structs.replace(schema, bias=_bias(schema, hints))
    if labels is None:
        return schema, None
    return schema, truth(labels, schema)


def truth(labels: Array, known: Schema) -> Array:
    """Labels as positions of classes, INT64, or of a regression as numbers, FP64: `[n]`.

    Raises:
        InvalidRequest: one is none of the classes, or no number.
    """
    if known.task == "regression":
        return _targets(labels)
    positions = Coder(known.classes).encode(labels)
    if (unknown := np.flatnonzero(~(positions >= 0))).size:
        raise InvalidRequest(
            f"labels, row {unknown[0]}: {labels[unknown[0]]!r} is none of the model's classes "
            f"{', '.join(map(str, known.classes[:20]))}"
        )
    return positions.astype(np.int64)


def more(table: Table, known: Schema) -> Array:
    """Other rows of a model whose schema is known, as `Taken.x`.

    Raises:
        InvalidRequest: a column is missing, or holds text where numbers are; names it, and the file.
    """
    try:
        return _more(table, known)
    except InvalidRequest as error:
        raise InvalidRequest(f"{table.source}: {error}") from error


def _more(table: Table, known: Schema) -> Array:
    if known.data == "text":
        name = known.inputs[0].name if known.inputs else ""
        return _text(table, [TensorSpec(name=name, datatype="BYTES", shape=(-1,))]).x
    columns = dict(table.columns)
    names = known.features.names
    if table.block is not None:
        rows = table.block.reshape(len(table.block), -1)
        if rows.shape[1] != len(names):
            raise InvalidRequest(f"it has {rows.shape[1]} columns, and the data has {len(names)}")
        columns = {name: rows[:, at] for at, name in enumerate(names)}
    elif not set(names) & columns.keys() and len(columns) == len(names):  # the data had no names
        columns = dict(zip(names, columns.values(), strict=True))
    if absent := [name for name in names if name not in columns]:
        raise InvalidRequest(f"it lacks columns that the data has: {', '.join(absent[:20])}")
    x: Array = np.empty((len(table), len(names)))
    for at, feature in enumerate(known.features.columns):
        column = columns[feature.name]
        coder = Coder(feature.categories) if feature.is_category else None
        x[:, at] = coder.encode(column) if coder is not None else _number_column(feature.name, column)
    return x


def roles(
    outputs: Sequence[Tensor], labels: Array | None, hints: Hints, *, preferred: Sequence[str] = ()
) -> tuple[Task, Output]:
    """Which outputs are probabilities and labels, judged by their values.

    Args:
        outputs: Of some rows.
        labels: Of the training data, where known.
        hints: What a person says.
        preferred: Names of outputs that go before others: the model's default ones.

    Raises:
        InvalidRequest: there is neither.
    """
    ranked = sorted(outputs, key=lambda each: each.name not in preferred)
    likely = sorted(outputs, key=lambda each: "prob" not in each.name.lower())
    probabilities = next((each.name for each in likely if _are_probabilities(each)), "")
    if not probabilities:
        probabilities = next((each.name for each in likely if "prob" in each.name.lower() and _is_share(each)), "")
    named = next((each.name for each in ranked if _is_vector(each) and each.data.dtype.kind in "Obiu"), "")
    numbers = next((each for each in ranked if each.data.dtype.kind == "f" and 0 < each.data.ndim <= 2), None)
    task: Task
    if hints.task:
        task = hints.task
    elif labels is not None and labels.dtype.kind in "Ob":
        task = "classification"
    else:
        task = "classification" if probabilities or named else "regression"
    if task == "regression":
        found = numbers if numbers is not None else next((each for each in ranked if each.name == named), None)
        if found is None or found.data.dtype == object:
            raise InvalidRequest(f"no output is a number a row, as of a regression; outputs are {_names(outputs)}")
        return task, Output(labels=found.name, width=found.data.shape[1] if found.data.ndim == 2 else 1)
    if not named:
        named = next((each.name for each in ranked if each.name != probabilities and _are_whole(each)), "")
    if not probabilities and not named:
        share = next((each for each in ranked if _is_share(each)), None)
        if share is None:
            raise InvalidRequest(
                f"no output is a class or a distribution over classes; outputs are {_names(outputs)}. If the model is "
                "a regression, say so by the task"
            )
        probabilities = share.name
    return task, Output(probabilities=probabilities, labels=named)


def feature_of(
    name: str, column: Array, *, known: tuple[Any, ...] | None = None, is_category: bool = False
) -> tuple[Feature, tuple[str, ...]]:
    """A column of training data as a feature, and warnings.

    Args:
        name: Of the column.
        column: `[n]`, as of `Table.columns`.
        known: All its categories in order, where the data says so.
        is_category: Its numbers are categories.

    Raises:
        InvalidRequest: numbers and text are mixed, or a number is infinite; names the row.
    """
    missing = _missing(column)
    share = float(missing.mean()) if len(column) else 0.0
    present = column[~missing]
    if known is None and not is_category and column.dtype.kind in "iuf":
        if column.dtype.kind == "f" and (wrong := np.flatnonzero(np.isinf(column))).size:
            raise InvalidRequest(f"column '{name}', row {wrong[0]}: it is infinite; expected a number or nothing")
        if not len(present):
            return Feature(name=name, missing=share), (f"column '{name}' has no values at all",)
        low, high = float(present.min()), float(present.max())
        integer = column.dtype.kind in "iu" or bool(np.all(present == np.rint(present)))
        return Feature(name=name, integer=integer, low=low, high=high, missing=share), ()
    if column.dtype == object:
        _check_mixture(name, column, missing)
    if known is not None:
        return Feature(name=name, kind="category", categories=tuple(map(_plain, known)), missing=share), ()
    values, counts = np.unique(present, return_counts=True)
    warnings: tuple[str, ...] = ()
    if len(values) > MOST_CATEGORIES:
        told = f"column '{name}' has {len(values)} different values; the {MOST_CATEGORIES} most frequent are its"
        warnings = (f"{told} categories, and the others count as unseen",)
        values = np.sort(values[np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]])
    categories = tuple(map(_plain, values.tolist()))
    return Feature(name=name, kind="category", categories=categories, missing=share), warnings


# -- what the model takes --


def _is_text(table: Table, specs: Sequence[TensorSpec]) -> bool:
    if table.block is not None or len(specs) > 1:
        return False
    texts = [column for column in table.columns.values() if column.dtype == object]
    if not specs:
        return len(table.columns) == 1 and len(texts) == 1 and _is_prose(texts[0])
    spec = specs[0]
    if spec.datatype != "BYTES" or len(spec.shape) > 1 or not texts:
        return False
    return spec.name not in table.columns or _is_prose(table.columns[spec.name])


def _is_prose(column: Array) -> bool:
    """Texts that hardly repeat: nobody's categories."""
    present = [each for each in column.tolist() if isinstance(each, str)]
    return len(present) > 20 and len(set(present)) > len(present) / 2


def _text(table: Table, specs: Sequence[TensorSpec]) -> Taken:
    texts = {name: column for name, column in table.columns.items() if column.dtype == object}
    name = specs[0].name if specs else ""
    if name not in texts:
        name = "text" if "text" in texts else next(iter(texts)) if len(texts) == 1 else ""
    if not name:
        told = ", ".join(table.columns) or "none"
        raise InvalidRequest(f"the model takes one text, and it is not known which column that is: {told}")
    column = texts[name]
    x: Array = np.empty(len(column), np.object_)
    for row, each in enumerate(column.tolist()):
        if each is not None and not isinstance(each, str):
            raise InvalidRequest(f"column '{name}', row {row}: expected text, got {each!r}")
        x[row] = each or ""
    tensor = Input(name=specs[0].name if specs else "", datatype="BYTES", columns=())
    return Taken(data="text", features=Features(columns=()), inputs=(tensor,), x=x)


def _block(block: Array, specs: Sequence[TensorSpec], hints: Hints) -> Taken:
    shape = block.shape[1:]
    rows = block.reshape(len(block), -1)
    width = rows.shape[1]
    if len(specs) > 1:
        if len(specs) != width or any(_row_size(each) not in {1, -1} for each in specs):
            raise InvalidRequest(
                f"the model has {len(specs)} inputs ({', '.join(each.name for each in specs)}), and the data is an "
                f"array of {width} columns without names; give a table with these columns"
            )
        named = {spec.name: rows[:, at] for at, spec in enumerate(specs)}
        return _columns(Table(source="", columns=named), specs, Signature(platform=""), hints)
    spec = specs[0] if specs else None
    if spec is not None and _row_size(spec) not in {width, -1}:
        raise InvalidRequest(
            f"the model takes rows of shape {list(spec.shape[1:])}, the data has rows of shape {list(shape)}"
        )
    declared = spec.shape[1:] if spec is not None else shape
    is_image = hints.data == "image" or (not hints.data and (len(shape) > 1 or len(declared) > 1))
    row_shape = shape if len(shape) > 1 else tuple(declared) if len(declared) > 1 and -1 not in declared else shape
    names = tuple(f"x{at}" for at in range(width))
    columns: list[Feature] = []
    warnings: list[str] = []
    for at, name in enumerate(names):
        feature, told = feature_of(name, rows[:, at], is_category=name in hints.categories)
        columns.append(feature)
        warnings += told
    features = Features(columns=tuple(columns), shape=row_shape if is_image or len(shape) > 1 else ())
    tensor = Input(
        name=spec.name if spec is not None else "",
        datatype=spec.datatype if spec is not None and spec.datatype != "BYTES" else "FP64",
        columns=tuple(range(width)),
        flat=bool(features.shape) and len(features.shape) > 1 and len(declared) == 1,
    )
    data: Data = "image" if is_image else hints.data or "tabular"
    x = rows.astype(np.float64)
    for at in features.categorical:
        x[:, at] = Coder(features.columns[at].categories).encode(rows[:, at])
    return Taken(data=data, features=features, inputs=(tensor,), x=x, warnings=tuple(warnings[:20]))


def _columns(table: Table, specs: Sequence[TensorSpec], signature: Signature, hints: Hints) -> Taken:
    columns = dict(table.columns)
    by_name = {each.name: each for each in specs}
    single = len(specs) == 1 and not (specs[0].name in columns and _row_size(specs[0]) in {1, -1})
    if single and len(specs[0].shape) > 2:  # the pixels of an image, a column each
        block = np.column_stack([_number_column(name, column) for name, column in columns.items()])
        return _block(block, specs, hints)
    if specs and not single:
        if absent := [name for name in by_name if name not in columns]:
            raise InvalidRequest(
                f"the model takes columns that the data lacks: {', '.join(absent[:20])}; the data has "
                f"{', '.join(list(table.columns)[:20])}"
            )
        columns = {name: columns[name] for name in by_name}
    elif single and _row_size(specs[0]) not in {len(columns), -1}:
        wanted = _row_size(specs[0])
        hint = "; one of them may be the label: name it by --labels" if len(columns) == wanted + 1 else ""
        raise InvalidRequest(
            f"the model takes {wanted} columns, the data has {len(columns)}: {', '.join(list(columns)[:20])}{hint}"
        )
    if unknown := [name for name in hints.categories if name not in columns]:
        raise InvalidRequest(f"there is no column '{unknown[0]}' to be a category{_near(unknown[0], columns)}")
    by_hand = {*hints.categories, *(rule["attribute"] for rule in _rules(hints) if rule["sign"] == "=")}
    found: list[Feature] = []
    warnings: list[str] = []
    x: Array = np.empty((len(table), len(columns)))
    for at, (name, column) in enumerate(columns.items()):
        known = table.categories.get(name)
        if known is None and name in by_name and by_name[name].labels:
            known = _from_labels(by_name[name].labels, column)
        is_category = name in by_hand or column.dtype.kind in "Ob"
        feature, told = feature_of(name, column, known=known, is_category=is_category)
        found.append(feature)
        warnings += told
        x[:, at] = Coder(feature.categories).encode(column) if feature.is_category else column
    features = Features(columns=tuple(found))
    inputs: tuple[Input, ...]
    if specs and not single:
        inputs = tuple(
            Input(name=name, datatype=by_name[name].datatype, columns=(at,), optional=by_name[name].optional)
            for at, name in enumerate(columns)
        )
    elif not specs and signature.content_type == "pd":
        inputs = tuple(
            Input(name=name, datatype=_datatype(feature), columns=(at,))
            for at, (name, feature) in enumerate(zip(columns, found, strict=True))
        )
    else:
        datatype = specs[0].datatype if specs else "FP64"
        if any(_datatype(each) == "BYTES" for each in found):
            datatype = "BYTES"
        inputs = (Input(name=specs[0].name if specs else "", datatype=datatype, columns=tuple(range(len(columns)))),)
    return Taken(data=hints.data or "tabular", features=features, inputs=inputs, x=x, warnings=tuple(warnings))


def _datatype(feature: Feature) -> str:
    return "BYTES" if any(isinstance(each, str) for each in feature.categories) else "FP64"


def _row_size(spec: TensorSpec) -> int:
    """Values of one row; -1: it varies."""
    size = 1
    for each in spec.shape[1:]:
        if each < 0:
            return -1
        size *= each
    return size


def _from_labels(labels: tuple[str, ...], column: Array) -> tuple[Any, ...]:
    """The categories that the model names, as the values that the data has for them."""
    values = {str(_plain(each)): _plain(each) for each in np.unique(column[~_missing(column)]).tolist()}
    return tuple(values.get(label, label) for label in labels)


def _number_column(name: str, column: Array) -> Array:
    if column.dtype.kind not in "biuf":
        raise InvalidRequest(f"column '{name}' holds text, and the model takes numbers")
    return column


def _missing(column: Array) -> Array:
    if column.dtype == object:
        return np.array([each is None for each in column.tolist()], dtype=np.bool_)
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), np.bool_)


def _check_mixture(name: str, column: Array, missing: Array) -> None:
    """Refuse a column of numbers in which some are no numbers: a mistake of the data, not a category."""
    values = column.tolist()
    texts = [row for row in np.flatnonzero(~missing).tolist() if isinstance(values[row], str)]
    present = int((~missing).sum())
    if texts and len(texts) < present:
        raise InvalidRequest(f"column '{name}', row {texts[0]}: text ({values[texts[0]]!r}) among numbers or booleans")
    odd = [row for row in texts if not _reads_as_number(values[row])]
    if odd and len(texts) - len(odd) >= _NUMERIC_SHARE * present and present > 10:
        raise InvalidRequest(
            f"column '{name}', row {odd[0]}: {values[odd[0]]!r} among numbers; correct it, or leave it empty"
        )


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(value: Any) -> Any:
    """A category as JSON keeps it: numpy's own become Python's, and whole floats whole numbers."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


# -- what it says --


def _are_probabilities(tensor: Tensor) -> bool:
    data = tensor.data
    if data.dtype.kind != "f" or data.ndim != 2 or data.shape[1] < 2 or not len(data):
        return False
    return bool(data.min() >= -1e-6 and np.all(np.abs(data.sum(axis=1, dtype=np.float64) - 1.0) < 1e-3))


def _is_share(tensor: Tensor) -> bool:
    data = tensor.data
    return bool(data.dtype.kind == "f" and _is_vector(tensor) and len(data) and data.min() >= 0.0 and data.max() <= 1.0)


def _is_vector(tensor: Tensor) -> bool:
    return tensor.data.ndim == 1 or (tensor.data.ndim == 2 and tensor.data.shape[1] == 1)


def _are_whole(tensor: Tensor) -> bool:
    data = tensor.data
    return bool(data.dtype.kind == "f" and _is_vector(tensor) and np.all(data == np.rint(data)))


def _classes(
    outputs: Sequence[Tensor], output: Output, signature: Signature, labels: Array | None
) -> tuple[str | int | float | bool, ...]:
    """The classes in the order of the probabilities, as the values that labels have."""
    by_name = {each.name: each for each in outputs}
    seen: list[Any] = []
    if output.labels:
        answered = by_name[output.labels].data.reshape(-1).tolist()
        seen += [each.decode() if isinstance(each, bytes) else each for each in answered]
    if labels is not None:
        own = [each for each in labels.tolist() if each is not None and each == each]  # noqa: PLR0124 - NaN
        whole = not output.labels and all(isinstance(each, float) and each.is_integer() for each in own)
        seen += [int(each) for each in own] if whole else own
    values: dict[str, Any] = {}
    for each in seen:
        values.setdefault(_text_of(each), int(each) if isinstance(each, float) and each.is_integer() else each)
    tensor = by_name.get(output.probabilities)
    count = 0 if tensor is None else tensor.data.shape[1] if tensor.data.ndim == 2 and tensor.data.shape[1] > 1 else 2
    declared = next(
        (each.labels for each in signature.outputs if each.name == output.probabilities and each.labels), ()
    )
    if declared and len(declared) in {count, 0}:
        return tuple(values.get(_text_of(label), label) for label in declared)
    ordered = sorted(values.values(), key=lambda each: (isinstance(each, str), each))
    if not count or len(ordered) == count:
        return tuple(ordered)
    if all(isinstance(each, int) and 0 <= each < count for each in ordered):
        return tuple(range(count))
    raise InvalidRequest(
        f"output '{output.probabilities}' has {count} probabilities, and {len(ordered)} classes are known "
        f"({', '.join(map(str, ordered[:20]))}); name the classes by `labels` of the output in headrace.yaml"
    )


def _text_of(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _targets(labels: Array) -> Array:
    if labels.dtype == object:
        raise InvalidRequest(f"the targets of a regression are numbers, got {labels[0]!r}")
    if (wrong := np.flatnonzero(~np.isfinite(labels.astype(np.float64)))).size:
        raise InvalidRequest(f"labels, row {wrong[0]}: {labels[wrong[0]]} is no number")
    return labels.astype(np.float64)


# -- who is compared with whom --


def _rules(hints: Hints) -> list[Mapping[str, str]]:
    found: list[Mapping[str, str]] = []
    for each in hints.protected:
        rule = _PROTECTED.fullmatch(each.strip())
        if rule is None:
            raise InvalidRequest(f"protected attribute {each!r}: expected sex=male, race=white,asian or age>25")
        found.append(rule.groupdict())
    return found


def _bias(schema: Schema, hints: Hints) -> tuple[Bias, ...]:
    favourable = _favourable(schema.classes, hints.favourable) if hints.protected else 1
    found = []
    for rule in _rules(hints):
        name, value = rule["attribute"], rule["value"].strip()
        if name not in schema.features.names:
            raise InvalidRequest(
                f"protected attribute '{name}' is none of the columns that the model takes"
                f"{_near(name, schema.features.names)}"
            )
        feature = schema.features.columns[schema.features.names.index(name)]
        if rule["sign"] == ">":
            if feature.is_category or not _reads_as_number(value):
                raise InvalidRequest(f"protected attribute '{name}>{value}': expected a column of numbers and a number")
            found.append(Bias(attribute=name, above=float(value), favourable=favourable))
            continue
        coder, privileged = Coder(feature.categories), []
        for text in (each.strip() for each in value.split(",")):
            at = coder.encode(np.array([text], object))[0]
            if not at > UNSEEN:
                known = ", ".join(map(str, feature.categories[:20]))
                raise InvalidRequest(f"protected attribute '{name}': no row has {text!r}; there are {known}")
            privileged.append(feature.categories[int(at)])
        found.append(Bias(attribute=name, privileged=tuple(privileged), favourable=favourable))
    return tuple(found)


def _favourable(classes: Sequence[Any], wanted: str) -> Any:
    texts = [_text_of(each) for each in classes]
    if wanted:
        if wanted not in texts:
            raise InvalidRequest(f"favourable class {wanted!r} is none of the classes {', '.join(texts)}")
        return classes[texts.index(wanted)]
    for usual in ("1", "True", "true", "yes"):
        if usual in texts:
            return classes[texts.index(usual)]
    return classes[-1]


def _near(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else f": {', '.join(list(known)[:20])}"


def _names(outputs: Sequence[Tensor]) -> str:
    return ", ".join(f"{each.name} {each.datatype}{list(each.shape[1:])}" for each in outputs) or "none"
