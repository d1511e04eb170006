"""Whether two answers say the same: outputs by name, numbers within a tolerance, all else exactly. `mirror` asks it.

Many answers are compared at once, those of one merged request: a few operations on arrays whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import Array, InferenceRequest, Tensor

RELATIVE: Final = 1e-3
ABSOLUTE: Final = 1e-5
_OF_BF16: Final = 1e-2  # 8 bits of it are significant
_FLOATS: Final = frozenset({"FP16", "FP32", "FP64", "BF16"})
_SMALL: Final = 256  # elements of an example, beyond which only its shape is kept


class Found(msgspec.Struct, frozen=True):
    """What one output of several answers came to."""

    output: str
    differs: Array
    """One BOOL for each answer."""
    difference: float
    """The largest between two numbers; infinity where what differs are no numbers."""


def compare(expected: Sequence[Tensor], found: Sequence[Tensor], rows: Sequence[int]) -> list[Found]:
    """How merged answers differ, output by output; an output that only one side has differs for all.

    Args:
        expected: What the callers were answered.
        found: What the mirror answered.
        rows: Of each answer, in order, where their sum is the first dimension of every output; `(0,)`: there is
            one answer, whatever its shape.
    """
    others = {tensor.name: tensor for tensor in found}
    results = []
    for tensor in expected:
        other = others.pop(tensor.name, None)
        results.append(_compare(tensor, other, rows))
    missing = np.ones(len(rows), np.bool_)
    results += [Found(name, missing, np.inf) for name in others]
    return results


def _compare(expected: Tensor, found: Tensor | None, rows: Sequence[int]) -> Found:
    everything = np.ones(len(rows), np.bool_)
    if found is None or found.shape != expected.shape:
        return Found(expected.name, everything, np.inf)
    kinds = {expected.datatype, found.datatype}
    if "BYTES" in kinds:
        if kinds != {"BYTES"}:
            return Found(expected.name, everything, np.inf)
        pairs = zip(_texts(expected), _texts(found), strict=True)
        differs = np.fromiter((ours != theirs for ours, theirs in pairs), np.bool_, expected.data.size)
        return Found(expected.name, _by_answer(differs, rows), np.inf if differs.any() else 0.0)
    ours, theirs = _numbers(expected), _numbers(found)
    differs = ours != theirs
    if not differs.any():  # the usual case, and the cheap one
        return Found(expected.name, np.zeros(len(rows), np.bool_), 0.0)
    ours, theirs = ours.astype(np.float64, copy=False), theirs.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        gaps = np.abs(theirs - ours)
    if kinds & _FLOATS:
        relative = _OF_BF16 if "BF16" in kinds else RELATIVE
        differs = ~np.isclose(theirs, ours, rtol=relative, atol=ABSOLUTE, equal_nan=True)
    gaps[~differs & ~np.isfinite(gaps)] = 0.0  # equal infinities and NaN differ by nothing
    return Found(expected.name, _by_answer(differs, rows), float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max()))


def _by_answer(differs: Array, rows: Sequence[int]) -> Array:
    """From elements to answers: whether any element of each differs."""
    if len(rows) == 1:
        return np.array([differs.any()])
    total = sum(rows)
    per_row = differs.reshape(total, differs.size // total if total else 0).any(axis=1)
    bounds = np.cumsum([0, *rows])
    counted = np.concatenate(([0], np.cumsum(per_row)))
    answers: Array = counted[bounds[1:]] > counted[bounds[:-1]]
    return answers


def _numbers(tensor: Tensor) -> Array:
    if tensor.datatype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    return tensor.data


def _texts(tensor: Tensor) -> list[Any]:
    return [each.encode() if isinstance(each, str) else each for each in tensor.data.ravel().tolist()]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One request that was answered in two ways. Tensors are copies, so that no larger buffer is held by them."""

    at: float
    """Seconds since the epoch."""
    id: str
    output: str
    """That differs most."""
    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]
    found: tuple[Tensor, ...]

    def document(self) -> dict[str, Any]:
        """As JSON values; of a large tensor, its datatype and shape."""
        return {
            "at": self.at,
            "id": self.id,
            "output": self.output,
            "inputs": {tensor.name: _shown(tensor) for tensor in self.inputs},
            "expected": {tensor.name: _shown(tensor) for tensor in self.expected},
            "found": {tensor.name: _shown(tensor) for tensor in self.found},
        }


def example(
    request: InferenceRequest, expected: Sequence[Tensor], found: Sequence[Tensor], output: str, *, at: float
) -> Example:
    """What is kept of a request that was answered in two ways."""
    return Example(
        at=at,
        id=request.id,
        output=output,
        inputs=tuple(map(_kept, request.inputs)),
        expected=tuple(map(_kept, expected)),
        found=tuple(map(_kept, found)),
    )


def _kept(tensor: Tensor) -> Tensor:
    if tensor.data.size > _SMALL:
        return Tensor(tensor.name, tensor.datatype, np.broadcast_to(np.zeros((), tensor.data.dtype), tensor.shape))
    return Tensor(tensor.name, tensor.datatype, tensor.data.copy())


def _shown(tensor: Tensor) -> Any:
    if tensor.data.size > _SMALL:
        return f"{tensor.datatype} {list(tensor.shape)}"
    values = _numbers(tensor)
    if tensor.datatype == "BYTES":
        values = np.array([_readable(each) for each in _texts(tensor)], np.object_).reshape(tensor.shape)
    elif values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():  # JSON has none of them
            texts = values.astype(np.object_)
            texts[~finite] = values[~finite].astype(str)
            values = texts
    return values.tolist()


def _readable(element: Any) -> str:
    return element.decode(errors="replace") if isinstance(element, bytes) else str(element)
