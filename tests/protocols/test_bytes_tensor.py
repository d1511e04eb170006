"""The wire form of BYTES tensors."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.protocols import bytes_tensor
from headrace.testing import strategies


@given(strategies.arrays("BYTES"))
def test_unpack_undoes_pack(array):
    """Elements of any bytes come back in place, from bytes and from views."""
    packed = bytes_tensor.pack(array)
    for data in (packed, memoryview(packed)):
        came = bytes_tensor.unpack(data, array.shape, "input 'x'")
        assert came.shape == array.shape
        assert came.tolist() == array.tolist()
        assert {type(each) for each in came.ravel().tolist()} <= {bytes}


@given(st.binary(max_size=40), strategies.shapes(max_dimensions=2))
def test_any_bytes_are_a_tensor_or_the_callers_mistake(data, shape):
    """Arbitrary bytes raise InvalidRequest, or are what packing their elements gives."""
    try:
        array = bytes_tensor.unpack(data, shape, "input 'x'")
    except InvalidRequest as error:
        assert str(error).startswith("input 'x'")  # noqa: PT017 - either outcome is checked
    else:
        assert bytes_tensor.pack(array) == data


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        (b"", (1,), "hold fewer"),
        (b"", (1 << 50,), "hold fewer"),
        (b"", (0, 1 << 62), "no array has shape"),
        (struct.pack("<I", 4) + b"abc", (1,), "takes 4 bytes, but 3 are left"),
        (struct.pack("<I", 0xFFFFFFFF), (1,), "takes 4294967295 bytes"),
        (struct.pack("<I", 1) + b"abcdefg", (2,), "element 1 takes"),
        (struct.pack("<I", 3) + b"abc\x01", (2,), "length of element 1 is cut off"),
        (struct.pack("<I", 0) + b"x", (1,), "1 bytes are left"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lengths_that_do_not_add_up_are_refused(data, shape, text):
    """Every byte belongs to one element, and nothing is allocated for what is not there."""
    with pytest.raises(InvalidRequest, match=text):
        bytes_tensor.unpack(data, shape, "input 'x'")


def test_text_is_written_as_utf_8_and_other_objects_are_refused():
    """Models answer arrays of text; numbers are not bytes."""
    assert bytes_tensor.pack(np.array(["é"], np.object_)) == b"\x02\x00\x00\x00\xc3\xa9"
    with pytest.raises(InvalidRequest, match="got int"):
        bytes_tensor.pack(np.array([1], np.object_))
