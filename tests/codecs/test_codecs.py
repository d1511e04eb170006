"""Every tensor codec against the conformance class, and the choice of a codec by value.

The matrix: each row of `CODECS` but the alias `np` of none.
"""

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import strategies as st

from headrace import codecs
from headrace.codecs.base64 import Base64Codec
from headrace.codecs.bytes import BlobCodec, BytesCodec
from headrace.codecs.datetime import DatetimeCodec
from headrace.codecs.json import JsonCodec
from headrace.codecs.numpy import NumpyCodec
from headrace.codecs.scalar import ScalarCodec
from headrace.codecs.string import StringCodec, TextCodec
from headrace.errors import InvalidRequest
from headrace.payload import DTYPES, Tensor
from headrace.testing import strategies
from headrace.testing.codecs import CodecConformance

texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


class TestNumpy(CodecConformance):
    codec = NumpyCodec()
    values = st.sampled_from([name for name in DTYPES if name != "BF16"]).flatmap(strategies.arrays)
    refused = ("text", {"a": 1}, [[1], [2, 3]], [object()], np.array(["2020-01-01"], "datetime64[D]"))


class TestString(CodecConformance):
    codec = StringCodec()
    values = st.lists(texts, min_size=1, max_size=4)
    refused = ("text", [b"bytes"], [1], ["a", None])


class TestText(CodecConformance):
    codec = TextCodec()
    values = texts
    refused = (b"bytes", ["text"], 1)


class TestBytes(CodecConformance):
    codec = BytesCodec()
    values = st.lists(st.binary(max_size=20), min_size=1, max_size=4)
    refused = (b"bytes", ["text"], [b"a", None])


class TestBlob(CodecConformance):
    codec = BlobCodec()
    values = st.binary(max_size=40)
    refused = ("text", [b"bytes"])


class TestBase64(CodecConformance):
    codec = Base64Codec()
    values = st.lists(st.binary(max_size=20), max_size=4)
    refused = (b"bytes", ["text"])
    found = False


class TestDatetime(CodecConformance):
    codec = DatetimeCodec()
    values = st.lists(
        st.datetimes(timezones=st.none() | st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))])),
        min_size=1,
        max_size=4,
    )
    refused = (datetime(2020, 1, 1, tzinfo=UTC), ["2020-01-01"], [1])


class TestJsonObjects(CodecConformance):
    codec = JsonCodec()
    values = st.dictionaries(texts, json_values, max_size=3)
    refused = (object(), {1, 2})


class TestJsonRows(CodecConformance):
    codec = JsonCodec()
    values = st.lists(st.dictionaries(texts, json_values, max_size=2), min_size=2, max_size=4)


class TestScalar(CodecConformance):
    codec = ScalarCodec()
    values = st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats()
    refused = ("1", [1], None)


class TestTable:
    @pytest.mark.parametrize(
        ("value", "content_type"),
        [
            ("text", "text"),
            (["a", "b"], "str"),
            (b"blob", "blob"),
            ([b"a"], "bytes"),
            ({"a": 1}, "json"),
            ([{"a": 1}, {}], "json"),
            (1, "scalar"),
            (True, "scalar"),
            (1.5, "scalar"),
            ([1, 2.5], "np"),
            ([[1, 2], [3, 4]], "np"),
            (np.float64(1.5), "np"),
            (np.array([1.5]), "np"),
            (np.array(["a"]), "np"),
            ([datetime(2020, 1, 1, tzinfo=UTC)], "datetime"),
            (np.array(["2020-01-01"], "datetime64[D]"), "datetime"),
            ([], "np"),
        ],
        ids=repr,
    )
    def test_a_value_finds_its_codec(self, value, content_type):
        """A value nobody named a content type for is carried as by the one that accepts it."""
        accepting = [name for name, codec in codecs.CODECS.items() if name and codec.accepts(value)]
        assert accepting == [content_type]
        found, named = codecs.encode("y", value), codecs.encode("y", value, content_type)
        assert (found.datatype, found.data.tolist()) == (named.datatype, named.data.tolist())

    @pytest.mark.parametrize("value", [None, Ellipsis, [[1], [2, 3]], {1, 2}, ["a", 1], np.array([1j])], ids=str)
    def test_a_value_of_no_codec_is_refused(self, value):
        """What nothing carries is an error that names the output."""
        with pytest.raises(InvalidRequest, match="'y'"):
            codecs.encode("y", value)

    def test_an_unknown_content_type_names_the_known(self):
        """A content type with a typing mistake is an error, not raw data."""
        tensor = codecs.encode("x", "a")
        with pytest.raises(InvalidRequest, match="unknown content type 'strng'; expected one of np, str, text"):
            codecs.decode(tensor, "strng")
        with pytest.raises(InvalidRequest, match="expected one of pd"):
            codecs.decode_request((tensor,), "dp")
        with pytest.raises(InvalidRequest, match="a list"):
            codecs.encode_request([1])

    def test_an_array_decodes_without_a_copy(self):
        """The default codec hands on the tensor's own memory."""
        data = np.zeros(3)
        assert codecs.decode(Tensor("x", "FP64", data), "") is data

    @pytest.mark.parametrize(
        ("element", "content_type", "text"),
        [
            (b"\xff", "str", "element 0 is not UTF-8"),
            (b"\xff", "text", "element 0 is not UTF-8"),
            (b"a?", "base64", "element 0 is not base64"),
            (b"yesterday", "datetime", "not an ISO 8601 date: 'yesterday'"),
            (b"{", "json", "element 0 is not JSON"),
            (b"[" * 100_000, "json", "element 0 is not JSON"),
            (1.5, "bytes", "element 0 must be bytes or text, got float"),
            (b"1", "scalar", "needs one number"),
        ],
        ids=str,
    )
    def test_content_that_does_not_fit_is_named(self, element, content_type, text):
        """A wrong element is named by tensor and place."""
        data = np.empty(1, np.object_)
        data[0] = element
        with pytest.raises(InvalidRequest, match=text) as caught:
            codecs.decode(Tensor("the tensor", "BYTES", data), content_type)
        assert "the tensor" in str(caught.value)

    @pytest.mark.parametrize("content_type", ["text", "blob", "scalar"])
    def test_one_value_needs_one_element(self, content_type):
        """Two elements are not one text, byte string or number."""
        with pytest.raises(InvalidRequest, match="one"):
            codecs.decode(codecs.encode("x", ["a", "b"]), content_type)

    def test_other_byte_orders_become_this_machines(self):
        """A big-endian array keeps its values."""
        tensor = codecs.encode("y", np.array([1, 2], ">i4"))
        assert (tensor.datatype, tensor.data.tolist()) == ("INT32", [1, 2])

    def test_json_takes_arrays_and_writes_nan_as_null(self):
        """Values of numpy inside an object are written as lists."""
        tensor = codecs.encode("y", {"a": np.array([1.0, math.nan])})
        assert codecs.decode(tensor, "json") == {"a": [1.0, None]}
