"""Component classes of Seldon Core v1, called as its wrapper calls them. The runtime `seldon_v1` and the combiners and
routers of pipelines share it.

A component is an object of any class with some of these methods:

    predict(X, names[, meta])           transform_input(...)      transform_output(...)
    route(X, names) -> int              aggregate([X, ...], [names, ...])
    send_feedback(X, names, reward, truth[, routing])
    predict_raw(message), ...           tags() metrics() class_names feature_names() init_metadata() health_status()

X is an array: the one tensor that came, text as `str`; or the columns of several tensors side by side. `names` are the
parameter `names` of the tensor, else the names of the tensors whose columns they are; empty where there is one tensor
without. A BYTES tensor of shape [1] without names is no array but what it holds: JSON, a text, or bytes. A `..._raw`
method takes and gives a SeldonMessage as a dictionary, and comes before the other form.

What a component answers: an array or list of numbers or texts is one tensor `output-0`, with the columns' names as its
parameter `names` where `class_names` (of a transformer `feature_names`) says them; a text, bytes, or anything else that
JSON can hold is BYTES of shape [1] with content type `str`, none, or `json`. SeldonResponse adds tags and metrics.
"""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import Array, Tensor, datatype_of

OUTPUT: Final = "output-0"
"""The name of the tensor that a component answers."""
NAMES: Final = "names"
"""The parameter of a tensor, or of a request, with the names of its columns."""
ALL: Final = -1
"""A route to every child."""
STOP: Final = -2
"""A route to none: the request is answered as it stands."""


class Answer(NamedTuple):
    """What a component gave."""

    tensors: tuple[Tensor, ...]
    tags: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]


class Component:
    """An object with the methods above."""

    def __init__(self, found: Any, name: str = "") -> None:
        self.found = found
        self.name = name or type(found).__name__

    def offers(self, method: str) -> bool:
        """Whether it has the method itself, in either form; the base class's that only refuse do not count."""
        return self._method(method) is not None or self._method(f"{method}_raw") is not None

    def asked(
        self, method: str, inputs: Sequence[Tensor], *, names: Any = None, meta: Mapping[str, Any] | None = None
    ) -> Answer:
        """What `predict`, `transform_input` or `transform_output` answers.

        Raises:
            RuntimeFailed: it has no such method, or answered what no tensor carries.
        """
        if (raw := self._method(f"{method}_raw")) is not None:
            given = self._tried(raw, message(inputs, names, meta))
            if given is not _REFUSED:
                return self._read(given)
        values, columns = features(inputs, names)
        function = self._method(method)
        given = _REFUSED if function is None else self._tried(function, values, columns, {**(meta or {})})
        if given is _REFUSED:
            raise RuntimeFailed(f"component {self.name} has no {method}")
        return self._answer(given, columns, "class_names" if method == "predict" else "feature_names")

    def aggregate(self, inputs: Sequence[Sequence[Tensor]]) -> Answer:
        """What `aggregate` makes of the answers of several children. Raises as `asked` does."""
        if (raw := self._method("aggregate_raw")) is not None:
            given = self._tried(raw, {"seldonMessages": [message(each) for each in inputs]})
            if given is not _REFUSED:
                return self._read(given)
        pairs = [features(each) for each in inputs]
        function = self._method("aggregate")
        given = (
            _REFUSED
            if function is None
            else self._tried(function, [one for one, _ in pairs], [two for _, two in pairs])
        )
        if given is _REFUSED:
            raise RuntimeFailed(f"component {self.name} has no aggregate")
        return self._answer(given, pairs[0][1] if pairs else [], "class_names")

    def route(self, inputs: Sequence[Tensor]) -> int:
        """The number of the child that `route` chooses, ALL or STOP.

        Raises:
            RuntimeFailed: it has no such method, or answered no number.
        """
        given: Any = _REFUSED
        if (raw := self._method("route_raw")) is not None:
            given = self._tried(raw, message(inputs))
            if isinstance(given, Mapping):
                given = self._read(given).tensors[0].data
        if given is _REFUSED and (function := self._method("route")) is not None:
            given = self._tried(function, *features(inputs))
        if given is _REFUSED:
            raise RuntimeFailed(f"component {self.name} has no route")
        chosen = np.asarray(getattr(given, "data", given) if _is_response(given) else given)
        if chosen.size != 1 or chosen.dtype.kind not in "iuf" or (value := chosen.item()) != int(value):
            raise RuntimeFailed(
                f"component {self.name}: route gave {given!r}; expected the number of a child, -1 or -2"
            )
        return int(value)

    def feedback(
        self, inputs: Sequence[Tensor], reward: float, *, truth: Any = None, routing: int | None = None
    ) -> None:
        """Tell the component what an answer was worth; one that has no `send_feedback` is told nothing."""
        function = self._method("send_feedback")
        if function is not None:
            self._tried(function, *features(inputs), reward, truth, routing)

    def said(self, method: str) -> Any:
        """What `tags`, `metrics`, `init_metadata` or such gives, be it a method or a value; None: nothing."""
        found = getattr(self.found, method, None)
        if found is None or not callable(found):
            return found
        given = self._tried(found) if self._method(method) is not None else None
        return None if given is _REFUSED else given

    # -- parts --

    def _method(self, name: str) -> Callable[..., Any] | None:
        found = getattr(self.found, name, None)
        if not callable(found):
            return None
        owner = next((kind for kind in type(self.found).__mro__ if name in vars(kind)), None)
        of_base = (
            owner is not None and owner.__name__ == "SeldonComponent" and owner.__module__.startswith("seldon_core")
        )
        return None if of_base else found

    @staticmethod
    def _tried(function: Callable[..., Any], *arguments: Any) -> Any:
        """What a method gives, with as many of the arguments as it takes; _REFUSED: it says that it is not there."""
        try:
            return function(*arguments[: _taken(function)])
        except Exception as error:
            if type(error).__name__ in {"SeldonNotImplementedError", "NotImplementedError"}:
                return _REFUSED
            raise

    def _answer(self, given: Any, columns: Sequence[str], naming: str) -> Answer:
        tags, metrics = dict(self.said("tags") or {}), [*(self.said("metrics") or ())]
        if _is_response(given):
            tags.update(given.tags or {})
            metrics.extend(given.metrics or ())
            given = given.data
        names = self.said(naming)
        if names is None and naming == "feature_names":
            names = columns
        made = tensor(OUTPUT, given)
        if names is not None and made.data.ndim == 2 and made.data.shape[1] == len(names := [str(n) for n in names]):
            made = Tensor(made.name, made.datatype, made.data, {**made.parameters, NAMES: names})
        return Answer((made,), tags, metrics)

    def _read(self, given: Any) -> Answer:
        if not isinstance(given, Mapping):
            return self._answer(given, [], "class_names")
        meta = given.get("meta") or {}
        return Answer((_of_message(given, self.name),), meta.get("tags") or {}, meta.get("metrics") or ())


_REFUSED: Final[Any] = object()


def _taken(function: Callable[..., Any]) -> int | None:
    """How many positional arguments a function takes; None: any number."""
    try:
        known = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return None
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in known):
        return None
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return sum(each.kind in positional for each in known)


def _is_response(given: Any) -> bool:
    return type(given).__name__ == "SeldonResponse"


# -- tensors to arrays and names --


def features(inputs: Sequence[Tensor], names: Any = None) -> tuple[Any, list[str]]:
    """The array and the names of columns that a component is given.

    Args:
        inputs: The tensors of a request or an answer.
        names: Of the columns, where the request says them.

    Raises:
        InvalidRequest: several tensors whose rows do not go together.
    """
    if not inputs:
        return np.empty((0, 0)), []
    if len(inputs) == 1:
        return _value(inputs[0]), _names(names if names is not None else inputs[0].parameters.get(NAMES))
    if len({tensor.data.shape[:1] for tensor in inputs}) > 1 or any(
        not 1 <= tensor.data.ndim <= 2 for tensor in inputs
    ):
        said = ", ".join(f"'{tensor.name}' {list(tensor.data.shape)}" for tensor in inputs)
        raise InvalidRequest(f"a component takes one array, and these are no columns of one: {said}")
    parts, columns = [], []
    for tensor in inputs:
        part = _array(tensor)
        parts.append(part[:, np.newaxis] if part.ndim == 1 else part)
        width = parts[-1].shape[1]
        own = _names(tensor.parameters.get(NAMES))
        columns += own if len(own) == width else [tensor.name] * width if width == 1 else _numbered(tensor.name, width)
    if any(part.dtype.kind == "O" for part in parts):
        parts = [part.astype(np.object_) for part in parts]
    return np.concatenate(parts, axis=1), columns


def _numbered(name: str, width: int) -> list[str]:
    return [f"{name}:{at}" for at in range(width)]


def _names(said: Any) -> list[str]:
    if isinstance(said, str):
        try:
            said = msgspec.json.decode(said)
        except msgspec.DecodeError:
            said = said.split(",")
    return [str(each) for each in said] if isinstance(said, Sequence) else []


def _value(tensor: Tensor) -> Any:
    if tensor.datatype != "BYTES" or tensor.data.shape != (1,) or NAMES in tensor.parameters:
        return _array(tensor)
    element = _text(tensor.data.item())
    if isinstance(element, str) and element[:1] in {"{", "["} and tensor.parameters.get("content_type") != "str":
        try:
            return msgspec.json.decode(element)
        except msgspec.DecodeError:
            return element  # a text that only begins so
    return element


def _array(tensor: Tensor) -> Array:
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    if tensor.datatype != "BYTES":
        return tensor.data
    texts: Array = np.empty(tensor.data.shape, np.object_)
    texts.reshape(-1)[:] = [_text(each) for each in tensor.data.reshape(-1).tolist()]
    return texts


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


# -- answers to tensors --


def tensor(name: str, value: Any) -> Tensor:
    """Whatever Python code answered, as a tensor.

    Raises:
        RuntimeFailed: it is neither numbers nor text nor anything that JSON can hold.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bytes):
        return Tensor(name, "BYTES", _single(value))
    if isinstance(value, str):
        return Tensor(name, "BYTES", _single(value.encode()), {"content_type": "str"})
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    array: Array | None = value if isinstance(value, np.ndarray) else None
    if array is None and isinstance(value, (bool, int, float, np.generic)):
        array = np.asarray(value).reshape(1)
    if array is None and isinstance(value, (list, tuple)):
        array = _listed(value)
    if array is None or (array.dtype.kind == "O" and not _texts_only(array)):
        return Tensor(name, "BYTES", _single(_json(value)), {"content_type": "json"})
    if array.dtype.kind in "SUO":
        data: Array = np.empty(array.shape, np.object_)
        data.reshape(-1)[:] = [each.encode() if isinstance(each, str) else each for each in array.reshape(-1).tolist()]
        return Tensor(name, "BYTES", data)
    try:
        datatype = datatype_of(array)
    except InvalidRequest as error:
        raise RuntimeFailed(f"answered an array that no tensor carries: {error}") from error
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return Tensor(name, datatype, array)


def _single(value: bytes) -> Array:
    array: Array = np.empty(1, np.object_)
    array[0] = value
    return array


def _listed(value: Sequence[Any]) -> Array | None:
    """A list as an array, where it is one of numbers or of texts."""
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    if array.dtype.kind in "SU":  # numpy turns numbers beside text into text
        array = np.asarray(value, np.object_)
    return array


def _texts_only(array: Array) -> bool:
    return array.size > 0 and all(isinstance(each, (str, bytes)) for each in array.reshape(-1).tolist())


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise RuntimeFailed(
            f"answered {type(value).__name__}, which is neither numbers nor text nor JSON: {error}"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON knows")


# -- messages --


def message(inputs: Sequence[Tensor], names: Any = None, meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Tensors as a SeldonMessage, for methods that take one: `data.ndarray`, `strData`, `jsonData`, `binData`."""
    value, columns = features(inputs, names)
    if isinstance(value, np.ndarray):
        body: dict[str, Any] = {"data": {"names": columns, "ndarray": value.tolist()}}
    elif isinstance(value, bytes):
        body = {"binData": base64.b64encode(value).decode()}
    else:
        body = {"strData" if isinstance(value, str) else "jsonData": value}
    return {"meta": {**(meta or {})}, **body}


def _of_message(given: Mapping[str, Any], name: str) -> Tensor:
    data = given.get("data")
    if isinstance(data, Mapping):
        names = data.get("names")
        if "ndarray" in data:
            made = tensor(OUTPUT, data["ndarray"])
        elif isinstance(data.get("tensor"), Mapping):
            dense = data["tensor"]
            made = tensor(OUTPUT, np.asarray(dense.get("values", ()), np.float64).reshape(dense.get("shape", (-1,))))
        else:
            raise RuntimeFailed(f"component {name} answered a message whose data is neither ndarray nor tensor")
        return Tensor(made.name, made.datatype, made.data, {**made.parameters, NAMES: [*names]}) if names else made
    if "strData" in given:
        return tensor(OUTPUT, str(given["strData"]))
    if "binData" in given:
        raw = given["binData"]
        return tensor(OUTPUT, raw if isinstance(raw, bytes) else base64.b64decode(raw))
    if "jsonData" in given:
        return Tensor(OUTPUT, "BYTES", _single(_json(given["jsonData"])), {"content_type": "json"})
    raise RuntimeFailed(f"component {name} answered a message without data, strData, binData or jsonData")
