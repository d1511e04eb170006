"""What can go wrong between tensors and values: all of it the caller's doing, 400."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type

from ..errors import MLServerError
from ..types import RequestInput


class CodecError(MLServerError):
    """The payload cannot be encoded or decoded."""

    def __init__(self, msg: str) -> None:
        super().__init__(f"There was an error encoding / decoding the payload: {msg}", 400)


class _InvalidTensor(CodecError, ValueError):
    """A tensor's data are not what its datatype, shape or content type say; numpy and Python call it a ValueError."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(f"tensor '{name}': {error}")


class _InputMissing(MLServerError, TypeError):
    """A function's argument has no input; Python calls it a TypeError."""

    def __init__(self, missing: List[str], came: List[str]) -> None:
        lacking = ", ".join(f"'{name}'" for name in missing)
        present = ", ".join(f"'{name}'" for name in came) or "none"
        super().__init__(f"Input {lacking} is missing. The request has {present}.", 400)


class CodecNotFound(MLServerError):
    """No codec takes the payload."""

    def __init__(
        self,
        name: Optional[str] = None,
        payload_type: Optional[str] = None,
        is_input: bool = False,
        is_request: bool = False,
    ) -> None:
        side = "input" if is_input else "output"
        part = ("request" if is_input else "response") if is_request else "field"
        known = []
        if name:
            known.append(f"with name '{name}'")
        if payload_type:
            known.append(f"{'and' if name else 'with'} type {payload_type}")
        super().__init__(f"Codec not found for {side} {part} {' '.join(known)}", 400)


class OutputNotFound(MLServerError):
    """A function gave a value that its return hint does not announce."""

    def __init__(self, output_idx: int, output_type: Type[Any], output_hints: List[Type[Any]]) -> None:
        hints = ", ".join(f"'{hint}'" for hint in output_hints)
        super().__init__(
            f"Unexpected output value at position '{output_idx}' ({output_type}). "
            f"Expected outputs are {hints} outputs.",
            400,
        )


class InputsNotFound(MLServerError):
    """The request has inputs that the function does not take."""

    def __init__(self, inputs: List[RequestInput], input_hints: Dict[str, Any]) -> None:
        came = ", ".join(f"'{request_input.name}'" for request_input in inputs)
        taken = ", ".join(f"'{name}'" for name in input_hints)
        super().__init__(f"Input {came} was not found. Available inputs are {taken}.", 400)
