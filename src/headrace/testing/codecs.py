"""What every codec keeps: inherit `CodecConformance` in a pytest class, say which values it carries.

class TestText(CodecConformance):
    codec = TextCodec()
    values = st.text(st.characters(codec="utf-8"))
    refused = (b"bytes", 1)
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.codecs.base import Codec
from headrace.errors import InvalidRequest
from headrace.payload import DTYPES, Tensor
from headrace.testing import strategies

_checked = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
)


class CodecConformance(abc.ABC):
    """Properties of a codec."""

    codec: Codec
    values: st.SearchStrategy[Any]
    """Values that it carries."""
    refused: Sequence[Any] = ()
    """Values that it does not."""
    found: bool = True
    """It accepts its values when nobody names it."""

    @_checked
    @given(st.data())
    def test_decode_undoes_encode(self, data: st.DataObject) -> None:
        """A decoded value equals the encoded one, and its tensor is well formed."""
        value = data.draw(self.values, "value")
        tensor = self.codec.encode("name", value)
        assert tensor.name == "name"
        assert tensor.data.dtype == DTYPES[tensor.datatype]
        assert same(self.codec.decode(tensor), value)
        if self.found:
            assert self.codec.accepts(value)

    @_checked
    @given(strategies.tensors())
    def test_any_tensor_decodes_or_is_the_callers_mistake(self, tensor: Tensor) -> None:
        """Arbitrary tensors decode or raise InvalidRequest; nothing else, and the tensor stays as it was."""
        before = tensor.data.copy()
        with contextlib.suppress(InvalidRequest):  # a codec need not take every tensor
            self.codec.decode(tensor)
        assert same(tensor.data, before)

    def test_what_it_does_not_carry_is_refused(self) -> None:
        """Encoding a value of another kind raises InvalidRequest, and no such value is accepted."""
        for value in self.refused:
            assert not self.codec.accepts(value), value
            with pytest.raises(InvalidRequest):
                self.codec.encode("name", value)


def same(one: Any, other: Any) -> bool:
    """Whether two values are alike; arrays by dtype, shape and elements, with NaN equal to itself."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.kind == "f":
            return bool(np.array_equal(one, other, equal_nan=True))
        return bool((one == other).all())
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (one != one and other != other)  # noqa: PLR0124 - NaN
    return type(one) is type(other) and bool(one == other)
