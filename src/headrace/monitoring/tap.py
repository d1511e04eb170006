"""Where a model is watched: an `Infer` around its `Infer`, and what makes few messages of many exchanges.

`watch.Watch` makes one `Tap` per model version. On the way of an answer it does one thing: it puts request and answer
into a bounded list. Everything else is done ten or twenty times a second, for all that gathered: exchanges of the same
names, datatypes and trailing shapes become one array each, and one message.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np

from headrace.child import Message
from headrace.payload import EMPTY, Array, Infer, InferenceRequest, InferenceResponse, Tensor

INTERNAL: Final = "headrace-internal"
"""The header of a request that the server makes itself: it is neither watched nor logged."""
SKIP: Final = "seldon-skip-logging"
"""The header of Seldon for the same; its value is `true`."""
CALLER: Final = "headrace-caller"
"""The header in which `security` says who asks."""
MOST_ID: Final = 128
"""Characters of a request's id that are kept."""

Exchange = tuple[float, float, str, InferenceRequest, InferenceResponse]
"""When it began and ended, seconds since the epoch; its id; what was asked; what was answered."""

_name = attrgetter("name")
_datatype = attrgetter("datatype")
_data = attrgetter("data")


class Tap:
    """What waits to be sent of one model version.

    Args:
        model: Its name.
        version: Empty for a model without versions.
        most: Exchanges that may wait for `take`; more are dropped, and counted.
        gathered: Called when the first exchange since the last `take` waits: whoever takes may set a timer.
    """

    def __init__(self, model: str, version: str, *, most: int, gathered: Callable[[], None]) -> None:
        self.model, self.version = model, version
        self.dropped = 0
        """Rows that were never sent, because too many waited."""
        self.failed = 0
        """Rows that could not be sent: their tensors are none that a message can carry."""
        self._most, self._gathered = most, gathered
        self._waiting: list[Exchange] = []
        self._numbers = itertools.count()
        self._prefix = secrets.token_hex(6) + "-"

    def __repr__(self) -> str:
        return f"<Tap {self.model} {self.version} waiting={len(self._waiting)} dropped={self.dropped}>"

    @property
    def waiting(self) -> int:
        """Exchanges that wait for `take`."""
        return len(self._waiting)

    def around(self, infer: Infer) -> Infer:
        """The same `Infer`, watched. An answer without an id gets one, so that its labels can be told later.

        What it raises, and a caller that leaves, pass through; such a request is not watched.
        """
        clock, numbers, prefix, most = time.time, self._numbers.__next__, self._prefix, self._most
        waiting = self._waiting

        async def tapped(request: InferenceRequest) -> InferenceResponse:
            began = clock()
            response = await infer(request)
            headers = request.headers
            if headers and (INTERNAL in headers or (SKIP in headers and headers[SKIP].lower() == "true")):
                return response
            identity = request.id or response.id
            if not identity:
                identity = prefix + str(numbers())
                response = InferenceResponse(
                    model_name=response.model_name,
                    outputs=response.outputs,
                    model_version=response.model_version,
                    id=identity,
                    parameters=response.parameters,
                    headers=response.headers,
                )
            if len(waiting) >= most:
                self.dropped += rows_of(request.inputs)
                return response
            if not waiting:
                self._gathered()
            waiting.append((began, clock(), identity, request, response))
            return response

        return tapped

    def take(self) -> list[Exchange]:
        """What waited; the list is the caller's."""
        taken = self._waiting.copy()
        self._waiting.clear()
        return taken


def rows_of(tensors: Sequence[Tensor]) -> int:
    """How many rows tensors have, as their first axis counts; one without axes is one row."""
    shape = tensors[0].data.shape if tensors else ()
    return int(shape[0]) if shape else 1


def merged(exchanges: Sequence[Exchange], *, whole: bool = False) -> tuple[list[dict[str, Any]], int]:
    """Exchanges as parts of one message, and how many rows they have.

    A part has `inputs` and `outputs` as lists of `[name, datatype, array, content type]`; `rows`, how many each
    exchange has, in order; `at`, the position of each among all, where there is more than one part; `ids`; `times`,
    when each came; and `callers`, where somebody said who they are. Exchanges whose tensors do not agree in their
    first axis are a part each.

    Args:
        exchanges: One at least.
        whole: Also `seconds`, `parameters`, `headers` and `protocols` of each, for the payload log.
    """
    alike = _alike(exchanges)
    if alike is not None:
        if whole:
            alike |= _more(exchanges)
        return [alike], sum(alike["rows"])
    groups: dict[Any, list[int]] = {}
    for at, (_, _, _, request, response) in enumerate(exchanges):
        groups.setdefault(_key(request.inputs, response.outputs, at), []).append(at)
    parts = []
    for positions in groups.values():
        chosen = [exchanges[at] for at in positions]
        parts.append(_part(chosen, positions) | (_more(chosen) if whole else {}))
    return parts, sum(sum(part["rows"]) for part in parts)


def _alike(exchanges: Sequence[Exchange]) -> dict[str, Any] | None:
    """All as one part, where their tensors agree and hold no BYTES: what is most often so, told quickly."""
    try:
        inputs = _columns([request.inputs for _, _, _, request, _ in exchanges])
        outputs = _columns([response.outputs for _, _, _, _, response in exchanges])
        rows = list(map(len, inputs[0][2]))
        if any(list(map(len, arrays)) != rows for _, _, arrays in (*inputs, *outputs)):
            return None
        return {
            "inputs": [[name, datatype, np.concatenate(arrays), ""] for name, datatype, arrays in inputs],
            "outputs": [[name, datatype, np.concatenate(arrays), ""] for name, datatype, arrays in outputs],
            "rows": rows,
            **_about(exchanges),
        }
    except (ValueError, TypeError, IndexError):  # other tensors, other shapes, no axes
        return None


def _columns(tensors: Sequence[tuple[Tensor, ...]]) -> list[tuple[str, str, list[Array]]]:
    """By position: name, datatype and the arrays of all. Raises ValueError where they do not agree, or may not by
    their content type.
    """
    found = []
    for column in zip(*tensors, strict=True):
        (name,), (datatype,) = set(map(_name, column)), set(map(_datatype, column))
        if datatype == "BYTES":
            raise ValueError(datatype)
        found.append((name, datatype, list(map(_data, column))))
    return found


def _key(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], at: int) -> Any:
    """What exchanges have in common that are one part."""
    tensors = inputs + outputs
    shapes = [each.data.shape for each in tensors]
    if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
        return at
    names = tuple([(each.name, each.datatype, each.data.shape[1:], _content(each)) for each in tensors])
    return len(inputs), names


def _part(exchanges: Sequence[Exchange], positions: list[int]) -> dict[str, Any]:
    return {
        "inputs": _joined([request.inputs for _, _, _, request, _ in exchanges]),
        "outputs": _joined([response.outputs for _, _, _, _, response in exchanges]),
        "rows": [rows_of(request.inputs) for _, _, _, request, _ in exchanges],
        "at": positions,
        **_about(exchanges),
    }


def _about(exchanges: Sequence[Exchange]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "ids": [identity for _, _, identity, _, _ in exchanges],
        "times": [began for began, _, _, _, _ in exchanges],
    }
    if any(CALLER in request.headers for _, _, _, request, _ in exchanges):
        about["callers"] = [request.headers.get(CALLER, "") for _, _, _, request, _ in exchanges]
    return about


def _more(exchanges: Sequence[Exchange]) -> dict[str, Any]:
    """What only the payload log wants to know."""
    return {
        "seconds": [ended - began for began, ended, _, _, _ in exchanges],
        "parameters": [dict(request.parameters) for _, _, _, request, _ in exchanges],
        "headers": [dict(request.headers) for _, _, _, request, _ in exchanges],
        "protocols": [request.protocol for _, _, _, request, _ in exchanges],
    }


def _joined(tensors: Sequence[tuple[Tensor, ...]]) -> list[list[Any]]:
    first = tensors[0]
    if len(tensors) == 1:
        return [[each.name, each.datatype, each.data, _content(each)] for each in first]
    return [
        [each.name, each.datatype, np.concatenate([some[index].data for some in tensors]), _content(each)]
        for index, each in enumerate(first)
    ]


def _content(tensor: Tensor) -> str:
    return str(tensor.parameters.get("content_type", "")) if tensor.datatype == "BYTES" else ""


def packed(tensors: Sequence[Tensor]) -> list[list[Any]]:
    """Tensors as a part's `inputs` or `outputs` say them."""
    return _joined([tuple(tensors)])


def tensors_of(part: Sequence[Sequence[Any]]) -> tuple[Tensor, ...]:
    """The inverse of `packed`."""
    return tuple(
        Tensor(name, datatype, data, {"content_type": content} if content else EMPTY)
        for name, datatype, data, content in part
    )


def message(tap: Tap, parts: Sequence[Mapping[str, Any]], rows: int) -> Message:
    """What the watcher is sent."""
    return {"kind": "rows", "model": tap.model, "version": tap.version, "parts": parts, "rows": rows}
