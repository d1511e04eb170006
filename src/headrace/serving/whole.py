"""Steps 4, 5 and 7 of the walk for runtimes that take whole requests: no signature is held against them, merged ones
look like one request of a caller, and answers come back as the model gave them. The engine calls it.

A merged request must not be told from one that somebody sent, and must not tell callers of one another: neighbours are
equal in all that the model may look at (`key`), ids and headers apart. So it has an id of its own, and the headers that
all of them sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Sequence
from typing import Final

import msgspec
import numpy as np

from headrace.errors import RuntimeFailed
from headrace.payload import EMPTY, InferenceRequest, InferenceResponse, Parameters, Tensor
from headrace.serving import batching
from headrace.serving.batching import Merging
from headrace.serving.build import plain
from headrace.serving.decoding import UNCOUNTED, Call
from headrace.serving.execution import Outcome

_encoder: Final = msgspec.msgpack.Encoder(enc_hook=plain, order="deterministic")


class WholeDecoder:
    """Turns requests into calls that carry them; what is in them is the model's to check."""

    def __init__(self, *, batchable: bool) -> None:
        self._batchable = batchable

    def decode(self, request: InferenceRequest) -> Call:
        """The call that answers the request. Never raises."""
        rows = rows_of(request.inputs) if self._batchable else UNCOUNTED
        return Call({}, (), EMPTY, rows, request)


def completed(response: InferenceResponse, request: InferenceRequest, name: str, version: str) -> InferenceResponse:
    """The model's response, with the names and the id that it left out."""
    return InferenceResponse(
        model_name=response.model_name or name,
        model_version=response.model_version or version,
        id=response.id or request.id,
        outputs=response.outputs,
        parameters=response.parameters,
        headers=response.headers,
    )


def rows_of(inputs: Sequence[Tensor]) -> int:
    """How many rows all inputs have; UNCOUNTED where they differ, or have none to count."""
    rows = UNCOUNTED
    for tensor in inputs:
        shape = tensor.data.shape
        if not shape or (rows not in (UNCOUNTED, shape[0])):
            return UNCOUNTED
        rows = shape[0]
    return rows


# -- merging --


def key(call: Call) -> Hashable:
    """What neighbours have in common: names, datatypes, trailing shapes, parameters of all kinds, wanted outputs."""
    request = _request(call)
    try:
        return (
            tuple([(t.name, t.datatype, t.data.shape[1:], _packed(t.parameters), t.nested) for t in request.inputs]),
            tuple([(output.name, _packed(output.parameters)) for output in request.outputs]),
            _packed(request.parameters),
        )
    except (TypeError, ValueError, OverflowError):  # a value that cannot be compared by its bytes: like no other
        return object()


def merge(calls: Sequence[Call]) -> Call:
    """One call of equal `key`s' rows, in order; a single one is itself."""
    if len(calls) == 1:
        return calls[0]
    requests = [_request(call) for call in calls]
    first = requests[0]
    inputs = [
        Tensor(
            tensor.name,
            tensor.datatype,
            np.concatenate([request.inputs[position].data for request in requests]),
            tensor.parameters,
            tensor.nested,
        )
        for position, tensor in enumerate(first.inputs)
    ]
    merged = InferenceRequest(
        model_name=first.model_name,
        model_version=_shared([request.model_version for request in requests]),
        inputs=tuple(inputs),
        id=str(uuid.uuid4()),
        outputs=first.outputs,
        parameters=first.parameters,
        headers=dict(set.intersection(*[set(request.headers.items()) for request in requests])),
        protocol=_shared([request.protocol for request in requests]),
    )
    return Call({}, (), EMPTY, sum([call.rows for call in calls]), merged)


def split(outcome: Outcome, rows: Sequence[int]) -> list[InferenceResponse]:
    """Each caller's rows of a merged answer, in order, and all that the model said of the answer; its id is nobody's.

    Raises:
        RuntimeFailed: an output has another number of rows than all callers together.
    """
    response = outcome.response
    if not isinstance(response, InferenceResponse):
        raise RuntimeFailed(f"a merged request was answered by {type(response).__name__}")
    return [
        msgspec.structs.replace(response, outputs=tensors, id="") for tensors in batching.split(outcome.tensors, rows)
    ]


MERGING: Final = Merging(key, merge, split)


def _request(call: Call) -> InferenceRequest:
    request = call.request
    assert isinstance(request, InferenceRequest)
    return request


def _packed(parameters: Parameters) -> bytes:
    """Parameters as something that hashes; 1, 1.0 and True stay apart, the order of names does not count."""
    return _encoder.encode(parameters) if parameters else b""


def _shared(values: Sequence[str]) -> str:
    """The value that all have; empty where they differ."""
    return values[0] if len(set(values)) == 1 else ""
