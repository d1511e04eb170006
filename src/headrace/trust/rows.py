"""Requests to rows and rows to requests, by the schema of a trust folder: what stands between tensors and everything
that detects or explains. The tap, the guards, explanations and `trust.fit` call it.

A tensor per column, one tensor of all columns, images of any shape and text are read alike. The usual request, one
tensor of numbers, costs no copy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest
from headrace.features import UNSEEN
from headrace.payload import DTYPES, Array, RequestedOutput, Tensor
from headrace.trust.spec import Input, On, Schema

_JSON: Final = frozenset({"json", "pd_json"})
"""Content types whose elements are JSON texts: how a DataFrame's text with missing values travels."""
_UNNAMED: Final = "input-0"
"""What a tensor is called that the model takes by any name."""


class Rows:
    """Reads and makes requests of one model."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    # -- requests --

    def matrix(self, inputs: Sequence[Tensor]) -> Array:
        """The rows of a request: `[n, f]` FP64; of text, `[n]` objects, which are `str`.

        A missing value (NaN, null, empty text of a number or of a category that is never empty) is NaN, a category
        that the reference does not have is UNSEEN. Tensors that the schema does not know are passed over.

        Raises:
            InvalidRequest: a column is missing, has another number of rows, or holds what is no number; names the
                tensor, and the column and row where there is one.
        """
        schema = self.schema
        if schema.data == "text":
            return _texts(self._only(inputs))
        width = len(schema.features)
        if len(inputs) == 1:
            data = inputs[0].data
            if data.ndim > 1 and data.size == data.shape[0] * width and (width > 1 or len(schema.inputs) <= 1):
                whole = self._block(inputs[0], self._order, len(data))
                return whole if self._in_order else whole[:, np.argsort(self._order)]
        plan = self._plan(inputs)
        rows = _rows_of(plan[0][0])
        x: Array = np.full((rows, width), np.nan)  # where an optional input is left out
        for tensor, columns in plan:
            if _rows_of(tensor) != rows:
                raise InvalidRequest(
                    f"input '{tensor.name}' has {_rows_of(tensor)} rows, input '{plan[0][0].name}' has {rows}"
                )
            x[:, columns] = self._block(tensor, columns, rows)
        return x

    def tensors(self, x: Array) -> tuple[Tensor, ...]:
        """The inputs of a request for rows as `matrix` gives them: the way back, for asking the model.

        Whole numbers are rounded where the tensor carries whole numbers. A missing number in such a tensor makes it
        FP64, and a missing category of text is None; an unseen one is the text `unseen`, or NaN among numbers.
        """
        schema = self.schema
        if schema.data == "text":
            name = schema.inputs[0].name if schema.inputs else ""
            return (_text_tensor(name or _UNNAMED, x),)
        shape = schema.features.shape
        tensors = []
        for each in self._inputs:
            one = len(each.columns) == 1 and len(schema.inputs) > 1
            data = self._data(each, x)
            if len(schema.inputs) == 1 and shape and not each.flat:
                data = data.reshape(len(x), *shape)
            elif one:
                data = data.reshape(len(x))
            tensors.append(_tensor(each.name or _UNNAMED, each.datatype, data))
        return tuple(tensors)

    def requested(self) -> tuple[RequestedOutput, ...]:
        """Which outputs to ask for, so that `answers` and `predictions` find what they need."""
        return self._requested

    # -- answers --

    def answers(self, outputs: Sequence[Tensor]) -> Array | None:
        """What the model says: `[n, k]` FP64, the probabilities of k classes or k numbers; None: it is not in this
        answer (the caller asked for other outputs).

        A classifier that has no probabilities answers 1 for the class it says and 0 for the others.
        """
        schema = self.schema
        by_name = {each.name: each for each in outputs}
        if schema.task == "regression":
            tensor = by_name.get(schema.output.labels)
            return None if tensor is None else _floats(tensor).reshape(_rows_of(tensor), -1)
        if not schema.output.probabilities:
            tensor = by_name.get(schema.output.labels)
            return None if tensor is None else self._one_hot(tensor)
        tensor = by_name.get(schema.output.probabilities)
        if tensor is None:
            return None
        probabilities = _floats(tensor).reshape(_rows_of(tensor), -1)
        classes = len(schema.classes)
        if probabilities.shape[1] == 1 and classes == 2:
            return np.hstack((1.0 - probabilities, probabilities))
        return probabilities if probabilities.shape[1] == classes else None

    def predictions(self, outputs: Sequence[Tensor]) -> Array:
        """What the model decides: `[n]` FP64, the position of the class in `Schema.classes` (UNSEEN: none of them), or
        of a regression its (first) number.

        Raises:
            InvalidRequest: neither labels nor probabilities are in this answer.
        """
        schema = self.schema
        tensor = next((each for each in outputs if each.name == schema.output.labels), None)
        if tensor is not None and schema.task == "regression":
            numbers: Array = _floats(tensor).reshape(_rows_of(tensor), -1)[:, 0]
            return numbers
        if tensor is not None:
            return self._positions(tensor.data.reshape(-1))
        answers = self.answers(outputs)
        if answers is None:
            came = ", ".join(each.name for each in outputs) or "none"
            wanted = " or ".join(each.name for each in self._requested)
            raise InvalidRequest(f"the answer has outputs {came}; what the model says stands in {wanted}")
        return answers.argmax(axis=1).astype(np.float64) if schema.task == "classification" else answers[:, 0]

    def positions(self, labels: Sequence[Any] | Array) -> Array:
        """Labels as the caller has them, `[n]`, to FP64 as of `predictions`; of a regression, numbers.

        Raises:
            InvalidRequest: of a regression, something is no number.
        """
        values = np.asarray(labels)
        if values.dtype.kind in "US" or (values.dtype == object and values.size == 0):
            values = values.astype(object)
        values = values.reshape(-1)
        if self.schema.task == "classification":
            return self._positions(values)
        try:
            return values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the labels of a regression are numbers: {error}") from error

    # -- of requests --

    @functools.cached_property
    def _order(self) -> Array:
        """The columns of a tensor that carries them all."""
        given = self.schema.inputs
        if len(given) == 1 and len(given[0].columns) == len(self.schema.features):
            return np.array(given[0].columns, dtype=np.intp)
        return np.arange(len(self.schema.features))

    @functools.cached_property
    def _in_order(self) -> bool:
        return bool(np.array_equal(self._order, np.arange(len(self.schema.features))))

    @functools.cached_property
    def _inputs(self) -> tuple[Input, ...]:
        whole = Input(name="", datatype="FP64", columns=tuple(range(len(self.schema.features))))
        return self.schema.inputs or (whole,)

    @functools.cached_property
    def _coders(self) -> Mapping[int, Coder]:
        columns = self.schema.features.columns
        return {at: Coder(columns[at].categories) for at in self.schema.features.categorical}

    @functools.cached_property
    def _labels(self) -> Coder:
        return Coder(self.schema.classes)

    @functools.cached_property
    def _requested(self) -> tuple[RequestedOutput, ...]:
        output = self.schema.output
        return tuple(RequestedOutput(name) for name in (output.labels, output.probabilities) if name)

    def _only(self, inputs: Sequence[Tensor]) -> Tensor:
        if len(inputs) == 1:
            return inputs[0]
        wanted = self.schema.inputs[0].name if self.schema.inputs else ""
        for each in inputs:
            if each.name == wanted:
                return each
        raise InvalidRequest(f"expected one input of text, got {_named(inputs)}")

    def _plan(self, inputs: Sequence[Tensor]) -> list[tuple[Tensor, Array]]:
        """Which tensor carries which columns."""
        by_name = {each.name: each for each in inputs}
        declared = self._inputs
        if len(declared) == 1 and (not declared[0].name or len(inputs) == 1) and len(inputs) == 1:
            return [(inputs[0], np.array(declared[0].columns, dtype=np.intp))]
        if by_name.keys() & {each.name for each in declared} and all(
            each.name in by_name or each.optional for each in declared
        ):
            return [
                (by_name[each.name], np.array(each.columns, dtype=np.intp)) for each in declared if each.name in by_name
            ]
        names = self.schema.features.names
        missing = [name for name in names if name not in by_name]
        if missing:
            wanted = [each.name for each in declared if each.name not in by_name] if len(declared) > 1 else missing
            raise InvalidRequest(f"columns are missing: {_some(wanted or missing)}; the inputs are {_named(inputs)}")
        return [(by_name[name], np.array([at], dtype=np.intp)) for at, name in enumerate(names)]

    def _block(self, tensor: Tensor, columns: Array, rows: int) -> Array:
        """The columns that one tensor carries, `[n, len(columns)]`."""
        width = len(columns)
        data = tensor.data
        if data.size != rows * width:
            raise InvalidRequest(
                f"input '{tensor.name}' has shape {list(data.shape)}; expected {width} values in each of {rows} rows"
            )
        coders = self._coders
        if data.dtype != object and not coders:
            return _floats(tensor).reshape(rows, width)
        values = (_elements(tensor) if data.dtype == object else _floats(tensor)).reshape(rows, width)
        block: Array = np.empty((rows, width))
        for at, column in enumerate(columns.tolist()):
            part = values[:, at]
            if column in coders:
                block[:, at] = coders[column].encode(part)
            elif part.dtype == object:
                block[:, at] = _numbers(part, tensor.name, self.schema.features.columns[column].name)
            else:
                block[:, at] = part
        return block

    def _data(self, given: Input, x: Array) -> Array:
        """The values of one tensor: `[n, len(columns)]`, numbers or objects."""
        columns = list(given.columns)
        coded = [at for at, column in enumerate(columns) if column in self._coders]
        block = x[:, columns]
        if not coded and given.datatype != "BYTES":
            return block
        if given.datatype == "BYTES":
            data: Array = np.empty(block.shape, np.object_)
            for at, column in enumerate(columns):
                part = block[:, at]
                coder = self._coders.get(column)
                data[:, at] = coder.texts(part) if coder is not None else [_number_text(v) for v in part.tolist()]
            return data
        block = block.copy()
        for at in coded:
            block[:, at] = self._coders[columns[at]].values(block[:, at])
        return block

    # -- of answers --

    def _positions(self, labels: Array) -> Array:
        return self._labels.encode(labels)

    def _one_hot(self, tensor: Tensor) -> Array:
        positions = self._positions(tensor.data.reshape(-1))
        hot: Array = (positions[:, None] == np.arange(len(self.schema.classes))).astype(np.float64)
        return hot


def fed(on: On, *, x: Array, answers: Array | None, predictions: Array | None) -> Array | None:
    """What a detector is fed of rows and what the model said of them: `[n, f]` FP64; None: it needs what is not there.

    Args:
        on: As of the detector. `outliers` and `errors` are not made from these: their caller has the flags.
        x: As of `Rows.matrix`.
        answers: As of `Rows.answers`.
        predictions: As of `Rows.predictions`.
    """
    if on == "inputs":
        return None if x.dtype == object else x
    if on == "outputs":
        return answers
    if on == "uncertainty":
        return None if answers is None else entropy(answers)
    if on == "predictions":
        return None if predictions is None else predictions.reshape(-1, 1)
    return None


def entropy(probabilities: Array) -> Array:
    """Of each row of probabilities, in nats: `[n, 1]`. 0 log 0 is 0."""
    clipped = np.clip(probabilities, 0.0, 1.0)
    logs = np.log(clipped, out=np.zeros_like(clipped), where=clipped > 0)
    total: Array = -(clipped * logs).sum(axis=1, keepdims=True)
    return total


class Coder:
    """Values of a category to their positions and back, whatever form they come in."""

    def __init__(self, categories: tuple[str | int | float | bool, ...]) -> None:
        self._categories = categories
        self._by_value: dict[Any, float] = {}
        for at, each in enumerate(categories):
            text = each if isinstance(each, str) else msgspec.json.encode(each).decode()
            forms = {text, text.encode()} if isinstance(each, str) else {each, text, text.encode(), str(each)}
            for form in forms:
                self._by_value.setdefault(form, float(at))
        numbers = [(float(each), float(at)) for at, each in enumerate(categories) if not isinstance(each, str)]
        if not numbers:  # text that reads as numbers, where somebody sends the numbers
            numbers = [
                (number, float(at)) for at, each in enumerate(categories) if (number := _number(each)) is not None
            ]
        numbers.sort()
        self._numbers: Array = np.array([number for number, _ in numbers])
        self._positions: Array = np.array([at for _, at in numbers])
        values = [each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in categories]
        self._texts: Array = np.empty(len(categories) + 2, np.object_)  # the last two: missing (None), unseen
        self._texts[: len(categories)] = [each.encode() for each in values]
        self._texts[-1] = b"unseen"
        floats = [math.nan if (number := _number(each)) is None else number for each in categories]
        self._values: Array = np.array([*floats, math.nan, math.nan])

    def encode(self, values: Array) -> Array:
        """`[n]` of numbers, booleans or objects to positions; NaN: missing."""
        if values.dtype != object:
            return self._encode_numbers(values.astype(np.float64))
        known = self._by_value
        return np.array([self._one(each, known) for each in values.tolist()], dtype=np.float64)

    def _one(self, value: Any, known: Mapping[Any, float]) -> float:
        try:
            at = known.get(value)
        except TypeError:  # a list or an object among the values
            return UNSEEN
        if at is not None:
            return at
        if value is None or value in {b"", ""} or value != value:  # noqa: PLR0124 - NaN
            return math.nan
        return UNSEEN

    def _encode_numbers(self, values: Array) -> Array:
        if not len(self._numbers):
            return np.where(np.isnan(values), np.nan, UNSEEN)
        at = np.minimum(np.searchsorted(self._numbers, values), len(self._numbers) - 1)
        found = np.where(self._numbers[at] == values, self._positions[at], UNSEEN)
        return np.where(np.isnan(values), np.nan, found)

    def _at(self, positions: Array) -> Array:
        count = len(self._categories)
        missing = np.isnan(positions)
        at = np.where(missing, 0.0, np.rint(positions)).astype(np.intp)
        at[(at < 0) | (at >= count)] = count + 1
        at[missing] = count
        return at

    def texts(self, positions: Array) -> Array:
        """Positions to `bytes`, None where missing."""
        found: Array = self._texts[self._at(positions)]
        return found

    def values(self, positions: Array) -> Array:
        """Positions to the numbers that they stand for."""
        found: Array = self._values[self._at(positions)]
        return found


# -- tensors and values --


def _rows_of(tensor: Tensor) -> int:
    if not tensor.data.ndim:
        raise InvalidRequest(f"'{tensor.name}' is a scalar; expected its first dimension to count rows")
    return int(tensor.data.shape[0])


def _floats(tensor: Tensor) -> Array:
    """The numbers of a tensor as FP64."""
    data = tensor.data
    if tensor.datatype == "BF16":
        wide: Array = (data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return wide
    if data.dtype == object:
        return _numbers(_elements(tensor).reshape(-1), tensor.name, "").reshape(data.shape)
    return data.astype(np.float64, copy=False)


def _elements(tensor: Tensor) -> Array:
    """The values of a BYTES tensor: bytes, text, or what JSON says where its content type is that."""
    if tensor.parameters.get("content_type") not in _JSON:
        return tensor.data
    values: Array = np.empty(tensor.data.size, np.object_)
    try:
        values[:] = [
            msgspec.json.decode(each) if isinstance(each, bytes | str) else each for each in tensor.data.ravel()
        ]
    except msgspec.MsgspecError as error:
        raise InvalidRequest(
            f"input '{tensor.name}' says content type json, and an element is none: {error}"
        ) from error
    return values.reshape(tensor.data.shape)


def _texts(tensor: Tensor) -> Array:
    elements = _elements(tensor).reshape(-1).tolist()
    texts: Array = np.empty(len(elements), np.object_)
    try:
        texts[:] = [each.decode() if isinstance(each, bytes) else "" if each is None else each for each in elements]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input '{tensor.name}' holds bytes that are no UTF-8 text: {error.reason}") from error
    if tensor.datatype != "BYTES" or not all(isinstance(each, str) for each in texts):
        raise InvalidRequest(f"input '{tensor.name}' is {tensor.datatype}; expected text (BYTES)")
    return texts


def _numbers(values: Array, name: str, column: str) -> Array:
    """Objects, `[n]`, that should be numbers."""
    found: Array = np.empty(len(values))
    for row, value in enumerate(values.tolist()):
        number = math.nan if value is None else _number(value)
        if number is None:
            where = f"column '{column}', " if column and column != name else ""
            raise InvalidRequest(f"input '{name}', {where}row {row}: expected a number, got {_shown(value)}")
        found[row] = number
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bytes | str):
        text = value.strip()
        if not text:
            return math.nan
        try:
            return float(text)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float | np.number) else None


def _number_text(value: float) -> bytes | None:
    if math.isnan(value):
        return None
    return (str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)).encode()


def _text_tensor(name: str, x: Array) -> Tensor:
    data: Array = np.empty(len(x), np.object_)
    data[:] = [str(each).encode() for each in x.tolist()]
    return Tensor(name, "BYTES", data)


def _tensor(name: str, datatype: str, data: Array) -> Tensor:
    if data.dtype == object:
        return Tensor(name, "BYTES", data)
    dtype = DTYPES[datatype]
    if datatype == "BF16":
        bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
        return Tensor(name, datatype, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    if dtype.kind in "iub":
        if np.isnan(data).any():
            return Tensor(name, "FP64", np.ascontiguousarray(data, np.float64))
        if dtype.kind != "b":
            limits = np.iinfo(dtype)
            data = np.clip(np.rint(data), float(limits.min), float(limits.max))
    return Tensor(name, datatype, np.ascontiguousarray(data.astype(dtype)))


def _named(inputs: Sequence[Tensor]) -> str:
    return ", ".join(f"'{each.name}' {list(each.shape)}" for each in inputs) or "none"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
