"""Step 4 of the walk, decode: a request against the model's signature, to arrays by name. The engine calls it for each
request alone, so that a wrong one fails before it has neighbours.

What takes the place of an array for the model's sake (text, a DataFrame) is made later, where the model is
(`execution`): arrays merge and cross to another process, values of Python do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from headrace import codecs
from headrace.errors import InvalidRequest
from headrace.payload import (
    EMPTY,
    Array,
    InferenceRequest,
    Parameters,
    RequestedOutput,
    RouteRequest,
    Signature,
    Tensor,
)

WIRE_PARAMETERS: Final = frozenset({"binary_data_output", "content_type", "headers", "timeout", "priority"})
"""Request parameters that speak to the server. They are not the model's, and do not keep requests out of one batch."""

UNCOUNTED: Final = -1
"""The number of rows of a request to a model whose first axis does not count rows."""

_WANTED_KEPT: Final = 64  # combinations of outputs remembered as known; callers of one model ask for few


class Call(msgspec.Struct, frozen=True, gc=False):
    """What one predict is asked: the arrays of a request, or of several merged."""

    arrays: dict[str, Array]
    outputs: tuple[str, ...] = ()
    """Names wanted, in the caller's order; empty: the default ones."""
    parameters: Parameters = EMPTY
    rows: int = UNCOUNTED
    request: InferenceRequest | RouteRequest | None = None
    """For a runtime that takes whole requests, the request itself; for one of its own routes, that request."""


class Decoder:
    """Turns requests for one model into calls of it."""

    def __init__(self, model: str, signature: Signature) -> None:
        self._model = model
        self._batchable = signature.batchable
        self._strict = signature.strict and bool(signature.inputs)
        self._inputs = {each.name: (each.datatype, each.shape, _trailing(each.shape)) for each in signature.inputs}
        self._usual = next(iter(self._inputs.values()))[2] if len(self._inputs) == 1 else None
        self._required = tuple(each.name for each in signature.inputs if not each.optional)
        self._outputs = frozenset(each.name for each in signature.outputs)
        self._checked: dict[tuple[str, ...], None] = {}

    def decode(self, request: InferenceRequest) -> Call:
        """The call that answers the request.

        Raises:
            InvalidRequest: an input is missing, unknown, of another datatype or of another shape than the signature
                says, or an output is unknown.
        """
        arrays: dict[str, Array] = {}
        inputs = request.inputs
        known = self._inputs
        encoded = False
        if self._strict:
            for tensor in inputs:
                name = tensor.name
                spec = known.get(name)
                if spec is None:
                    raise self._unknown(name)
                datatype, wanted, trailing = spec
                if tensor.datatype != datatype:
                    raise self._mistyped(tensor, datatype)
                data = tensor.data
                shape = data.shape
                if shape[1:] != trailing or not shape:  # the usual shape, [-1, known...], is told by one comparison
                    data = self._fitting(tensor, wanted)
                arrays[name] = data
                if tensor.parameters:
                    encoded = True
        else:
            for tensor in inputs:
                arrays[tensor.name] = tensor.data
                if tensor.parameters:
                    encoded = True
            if len(inputs) == 1 and len(known) == 1 and inputs[0].data.shape[1:] != self._usual:
                self._check_width(inputs[0])
        if len(arrays) != len(known) or len(inputs) != len(arrays):
            self._check_names(inputs, arrays)
        if encoded:
            for tensor in inputs:
                if tensor.parameters.get("content_type") == "base64":
                    arrays[tensor.name] = self._plain_bytes(tensor)

        outputs = self._wanted(request.outputs) if request.outputs else ()
        parameters = request.parameters
        if parameters:
            parameters = {key: value for key, value in parameters.items() if key not in WIRE_PARAMETERS} or EMPTY
        return Call(arrays, outputs, parameters, self._rows(arrays) if self._batchable else UNCOUNTED)

    def _rows(self, arrays: Mapping[str, Array]) -> int:
        rows = UNCOUNTED
        for name in arrays:
            shape = arrays[name].shape
            if not shape:
                raise InvalidRequest(
                    f"input '{name}' for model '{self._model}' is a scalar; expected its first dimension to count rows"
                )
            if shape[0] != rows:
                if rows != UNCOUNTED:
                    raise InvalidRequest(
                        f"input '{name}' batch size does not match other inputs for '{self._model}': "
                        f"expected {rows} rows, got {shape[0]}"
                    )
                rows = shape[0]
        return rows

    def _wanted(self, requested: tuple[RequestedOutput, ...]) -> tuple[str, ...]:
        names = tuple([output.name for output in requested])
        if names not in self._checked:
            for name in names:
                if self._outputs and name not in self._outputs:
                    raise InvalidRequest(f"unexpected inference output '{name}' for model '{self._model}'")
                if names.count(name) > 1:
                    raise InvalidRequest(f"output '{name}' is requested more than once of model '{self._model}'")
            if len(self._checked) < _WANTED_KEPT:
                self._checked[names] = None
        return names

    def _check_names(self, inputs: tuple[Tensor, ...], arrays: Mapping[str, Array]) -> None:
        if len(arrays) != len(inputs):
            names = [tensor.name for tensor in inputs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest(f"input '{twice}' already exists in request for model '{self._model}'")
        if not self._strict:
            return
        missing = [name for name in self._required if name not in arrays]
        if not missing:
            return
        least, most = len(self._required), len(self._inputs)
        expected = (
            f"expected {most} inputs" if least == most else f"expected number of inputs between {least} and {most}"
        )
        raise InvalidRequest(
            f"{expected} but got {len(inputs)} inputs for model '{self._model}'. Got input(s) {sorted(arrays)}, "
            f"but missing required input(s) {missing}. Please provide all required input(s)."
        )

    def _check_width(self, tensor: Tensor) -> None:
        """A model that is not strict about names still knows how wide its single input is."""
        _, wanted, _ = next(iter(self._inputs.values()))
        shape = tensor.data.shape
        if len(shape) == len(wanted):
            for got, want in zip(shape, wanted, strict=True):
                if want not in (got, -1):
                    raise self._misshapen(tensor, wanted)

    def _fitting(self, tensor: Tensor, wanted: tuple[int, ...]) -> Array:
        """The tensor's array in the wanted shape. One value a row may come as a column of a table: [n,1] for [-1]."""
        shape = tensor.data.shape
        if len(shape) == len(wanted) and all(want in (got, -1) for got, want in zip(shape, wanted, strict=True)):
            return tensor.data
        if wanted == (-1,) and len(shape) == 2 and shape[1] == 1:
            return tensor.data.reshape(-1)
        raise self._misshapen(tensor, wanted)

    def _plain_bytes(self, tensor: Tensor) -> Array:
        """Base64 text, which any BYTES input may come as, back to the bytes that the model is after."""
        values = codecs.decode(tensor, "base64")
        data = tensor.data.copy()
        data.reshape(-1)[:] = list(values)
        return data

    def _unknown(self, name: str) -> InvalidRequest:
        return InvalidRequest(
            f"unexpected inference input '{name}' for model '{self._model}'; expected {', '.join(self._inputs)}"
        )

    def _mistyped(self, tensor: Tensor, datatype: str) -> InvalidRequest:
        return InvalidRequest(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', "
            f"but model '{self._model}' expects '{datatype}'"
        )

    def _misshapen(self, tensor: Tensor, wanted: tuple[int, ...]) -> InvalidRequest:
        return InvalidRequest(
            f"unexpected shape for input '{tensor.name}' for model '{self._model}'. "
            f"Expected [{','.join(map(str, wanted))}], got [{','.join(map(str, tensor.data.shape))}]"
        )


def _trailing(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What follows the first dimension, if that varies and nothing else does: None for all other shapes."""
    return shape[1:] if shape and shape[0] == -1 and -1 not in shape[1:] else None
