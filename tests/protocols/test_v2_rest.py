"""V2 over REST: both wire forms against the conformance class, the three roads against each other, and the errors.

Left out: content encodings and headers, which are the server's.
"""

import contextlib
import json
import math
import struct

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, NotSupported, RuntimeFailed
from headrace.payload import DTYPES, InferenceRequest, InferenceResponse, RequestedOutput, Signature, Tensor, TensorSpec
from headrace.protocols import v2_rest
from headrace.testing import strategies
from headrace.testing.protocols import ProtocolConformance, assert_same


def parse(body, **options):
    return v2_rest.parse(body, model_name="m", **options)


def one(data, *, shape=None, datatype="FP32", **more):
    """A body with one input."""
    return orjson.dumps(
        {
            "inputs": [
                {
                    "name": "X",
                    "shape": [len(data)] if shape is None else shape,
                    "datatype": datatype,
                    "data": data,
                    **more,
                }
            ]
        }
    )


def response(*outputs, **more):
    return InferenceResponse(model_name="m", outputs=outputs, **more)


class TestJson(ProtocolConformance):
    datatypes = strategies.JSON_DATATYPES
    text = True
    infinite = False

    def parse(self, body):
        return parse(body)

    def through(self, request):
        rendered = v2_rest.render_request(request)
        assert rendered.header_length is None
        return v2_rest.parse(rendered.body, model_name=request.model_name)

    def answered(self, request, response):
        return v2_rest.parse_response(v2_rest.render(request, response).body)


class TestBinary(ProtocolConformance):
    def parse(self, body):
        return parse(body, header_length=len(body) // 2)

    def through(self, request):
        rendered = v2_rest.render_request(request, binary=True)
        return v2_rest.parse(rendered.body, model_name=request.model_name, header_length=rendered.header_length)

    def answered(self, request, response):
        asked = msgspec.structs.replace(request, parameters={"binary_data_output": True})
        rendered = v2_rest.render(asked, response)
        assert rendered.content_type == b"application/octet-stream"
        return v2_rest.parse_response(rendered.body, header_length=rendered.header_length)


class TestRoads:
    """The quick roads answer as the careful one, or not at all."""

    @staticmethod
    def outcome(road, body):
        return road(body, body, len(body))

    @staticmethod
    def careful(body):
        return v2_rest._careful(body, body, len(body), "m", "input")

    def agree(self, body):
        for road in (v2_rest._quick, v2_rest._wide):
            found = self.outcome(road, body)
            if found is not None:
                identity, tensors, outputs, parameters = self.careful(body)
                assert (found[0], found[2], {**found[3]}) == (identity, outputs, {**parameters})
                assert_same(found[1], tensors)

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_quick_roads_equal_the_careful_one(self, data):
        """Any mixture of shape, datatype and data that a quick road accepts, the careful road reads as the same request."""
        numbers = st.one_of(
            st.integers(-300, 300),
            st.integers(-(1 << 65), 1 << 65),
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
            st.none(),
            st.text(max_size=2),
        )
        nested = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
        tensor = st.fixed_dictionaries(
            {
                "name": st.sampled_from(["X", "Y", "["]),
                "shape": st.lists(st.integers(-1, 3), max_size=3),
                "datatype": st.sampled_from([*DTYPES, "nope"]),
                "data": nested,
            },
            optional={"parameters": st.none() | st.dictionaries(st.sampled_from(["a", "binary_data_size"]), numbers)},
        )
        body = st.fixed_dictionaries(
            {"inputs": st.lists(tensor, max_size=2)},
            optional={"id": st.none() | st.text(max_size=2), "outputs": st.none() | st.just([{"name": "y"}])},
        )
        self.agree(orjson.dumps(data.draw(body.filter(_fits_json))))

    @pytest.mark.parametrize("datatype", [name for name in strategies.JSON_DATATYPES if name not in {"BOOL", "BYTES"}])
    @pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6), (3, 1, 2), ()], ids=str)
    def test_well_formed_numbers_take_the_quick_roads(self, datatype, shape):
        """Numbers in a rectangular list are read by both quick roads, up to two dimensions by the small one."""
        data = np.arange(math.prod(shape)).reshape(shape).tolist() if shape else [7]
        body = one(data, shape=list(shape) or [1], datatype=datatype)
        assert self.outcome(v2_rest._wide, body) is not None
        assert len(shape) > 2 or self.outcome(v2_rest._quick, body) is not None
        self.agree(body)

    @pytest.mark.parametrize(
        ("shape", "data"),
        [
            ([], []),
            ([3], [[1, 2], [3]]),
            ([2, 2], [[1, 2, 3], [4]]),
            ([2, 2], [[1, [2]], [3, 4]]),
            ([3], [1, [2], 3]),
            ([2, 2], [[1, 2], 3, 4]),
            ([2, 2], [1, [2, 3], 4]),
            ([1, 2, 2], [[[1, 2], [3]]]),
            ([2, 2], [[1, 2], []]),
        ],
        ids=str,
    )
    def test_ragged_data_are_refused_on_every_road(self, shape, data):
        """Lists that do not make a rectangle are no tensor, however many numbers they hold."""
        body = one(data, shape=shape)
        assert self.outcome(v2_rest._quick, body) is None
        assert self.outcome(v2_rest._wide, body) is None
        with pytest.raises(InvalidRequest, match=r"ragged|elements|nested"):
            parse(body)

    def test_a_large_request_takes_the_wide_road_twice(self):
        """The parser is free again after a request, also after one that failed while its objects were alive."""
        data = np.random.default_rng(0).random((32, 784)).astype(np.float32)
        body = one(data.tolist(), shape=[32, 784])
        for _ in range(3):
            assert parse(body).inputs[0].data.tobytes() == data.tobytes()
            with pytest.raises(InvalidRequest):
                parse(body.replace(b'"FP32"', b'"UINT8"'))
        assert self.outcome(v2_rest._wide, body) is not None

    def test_the_last_of_two_members_counts_on_every_road(self):
        """A member given twice means the same however long the body is."""
        short = b'{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":[1],"data":[2]}]}'
        assert parse(short).inputs[0].data.tolist() == [2]
        assert parse(short + b" " * 8000).inputs[0].data.tolist() == [2]


def _fits_json(value):
    """Whether orjson can write it: it has integers of 64 bits."""
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


class TestData:
    @pytest.mark.parametrize("size", [3, 3000], ids=["few", "many"])
    def test_null_is_nan_in_floats(self, size):
        """A null among floats is NaN."""
        data = parse(one([None] + [1.5] * (size - 1))).inputs[0].data
        assert math.isnan(data[0])
        assert (data[1:] == 1.5).all()

    @pytest.mark.parametrize(
        ("datatype", "data", "expected"),
        [
            ("INT32", [1.0, 2], [1, 2]),
            ("INT64", [1e3], [1000]),
            ("UINT64", [(1 << 64) - 1], [(1 << 64) - 1]),
            ("INT64", [-(1 << 63)], [-(1 << 63)]),
            ("FP64", [1, 2.5], [1.0, 2.5]),
            ("BOOL", [True, False], [True, False]),
            ("BYTES", ["a", "é\x00"], [b"a", "é\x00".encode()]),
        ],
        ids=str,
    )
    def test_what_fits_is_taken(self, datatype, data, expected):
        """Values that the datatype holds exactly arrive unchanged."""
        assert parse(one(data, datatype=datatype)).inputs[0].data.tolist() == expected

    @pytest.mark.parametrize("padding", [0, 5000], ids=["short", "long"])
    @pytest.mark.parametrize(
        ("datatype", "data", "text"),
        [
            ("UINT8", [300], "300"),
            ("UINT8", [-1], "-1"),
            ("INT8", [128], "-128 to 127"),
            ("INT64", [1 << 63], "outside INT64"),
            ("INT32", [1.5], "1.5"),
            ("INT32", [True], "a boolean"),
            ("INT32", ["1"], "a string"),
            ("INT32", [None], "null"),
            ("FP32", ["1"], "a string"),
            ("FP32", [True], "a boolean"),
            ("FP32", [3.5e38], "too large"),
            ("BOOL", [1], "true or false"),
            ("BOOL", ["true"], "true or false"),
            ("BYTES", [1], "strings"),
            ("BYTES", [None], "strings"),
            ("FP16", [65520.0], "too large"),
            ("BF16", [1.0], "receiving BF16 data via JSON is not supported"),
            ("FP8", [1.0], "expected one of BOOL"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_refused(self, datatype, data, text, padding):
        """A value of another JSON type, or out of range, is an error that names tensor and value."""
        with pytest.raises(InvalidRequest, match=text) as caught:
            parse(one(data, datatype=datatype) + b" " * padding)
        assert "'X'" in str(caught.value)

    @pytest.mark.parametrize(
        ("shape", "data"),
        [([1, 1, 4], [[1, 2, 3, 4]]), ([4], [[1, 2, 3, 4]]), ([2, 2], [1, 2, 3, 4]), ([2, 1, 2], [[1, 2], [3, 4]])],
        ids=str,
    )
    def test_nesting_may_differ_from_the_shape_by_ones(self, shape, data):
        """Dimensions of 1 are no reason to refuse data that read the same either way."""
        assert parse(one(data, shape=shape)).inputs[0].data.tolist() == np.reshape([1, 2, 3, 4], shape).tolist()

    def test_nesting_that_contradicts_the_shape_is_refused(self):
        """Three rows of two are not two rows of three."""
        with pytest.raises(InvalidRequest, match=r"nested as \[3, 2\], but its shape is \[2, 3\]"):
            parse(one([[1, 2], [3, 4], [5, 6]], shape=[2, 3]))

    def test_a_scalar_has_the_empty_shape(self):
        """Shape [] takes one element, in a list or bare."""
        for data in (b"[1.5]", b"1.5"):
            body = b'{"inputs":[{"name":"X","shape":[],"datatype":"FP32","data":%b}]}' % data
            tensor = parse(body).inputs[0]
            assert tensor.shape == ()
            assert tensor.data.item() == 1.5

    @pytest.mark.parametrize("shape", [[0], [0, 4], [2, 0]], ids=str)
    def test_zero_dimensions_make_empty_tensors(self, shape):
        """A shape with a zero takes an empty list."""
        assert list(parse(one([], shape=shape)).inputs[0].shape) == shape

    @pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "-NaN"])
    def test_tokens_that_are_not_json_are_refused_with_the_way_out(self, token):
        """NaN and Infinity as bare tokens are an error that names null and the binary form."""
        for padding in ("", " " * 5000):
            body = one([1, "token"]).replace(b'"token"', token.encode()) + padding.encode()
            with pytest.raises(InvalidRequest, match="null for NaN, or the tensor in the binary form"):
                parse(body)


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "text"),
        [
            (b"", "empty"),
            (b"  ", "empty"),
            (b"{", "not JSON"),
            (b"[]", "must be a JSON object"),
            (b"{}", "'inputs' is missing"),
            (b'{"inputs":null}', "'inputs' is missing"),
            (b'{"inputs":{}}', "'inputs' must be a list"),
            (b'{"inputs":[1]}', "input 0 must be an object"),
            (b'{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}', "input 0: 'name' is missing"),
            (b'{"inputs":[{"name":"X","datatype":"FP32","data":[1]}]}', "input 'X'.*'shape' is missing"),
            (b'{"inputs":[{"name":"X","shape":[1],"data":[1]}]}', "input 'X'.*'datatype' is missing"),
            (b'{"inputs":[{"name":"X","shape":[1],"datatype":"FP32"}]}', "must set only one.*got none"),
            (b'{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":null}]}', "must set only one"),
            (b'{"inputs":[{"name":"X","shape":[1.5],"datatype":"FP32","data":[1]}]}', "list of integers"),
            (b'{"inputs":[{"name":"X","shape":4,"datatype":"FP32","data":[1]}]}', "'shape' must be a list"),
            (b'{"inputs":[],"id":5}', "'id' must be a string"),
            (b'{"inputs":[],"parameters":[]}', "'parameters' must be an object"),
            (b'{"inputs":[],"outputs":{}}', "'outputs' must be a list"),
            (b'{"inputs":[],"outputs":[{}]}', "requested output 0: 'name' is missing"),
            (b'{"inputs":[],"outputs":[{"name":"y"},{"name":"y"}]}', "output 'y' already exists"),
            (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":1}}]}', "true or false"),
            (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":0}}]}', "at least 1"),
            (b'{"inputs":[],"parameters":{"binary_data_output":"yes"}}', "true or false"),
            (b'{"inputs":[]} x', "not JSON"),
            (b'\xff\xfe{"inputs":[]}', "not JSON"),
        ],
        ids=lambda value: value.decode("latin-1")[:60] if isinstance(value, bytes) else "",
    )
    def test_a_body_that_is_wrong_is_refused_with_the_place(self, body, text):
        """What is missing or of the wrong kind is named."""
        with pytest.raises(InvalidRequest, match=text):
            parse(body)

    @pytest.mark.parametrize("count", [200, 5000])
    def test_inputs_of_the_same_name_are_refused(self, count):
        """Two inputs of one name contradict each other, on every road."""
        entry = {"name": "X", "shape": [count], "datatype": "FP32", "data": [1] * count}
        with pytest.raises(InvalidRequest, match="input 'X' already exists"):
            parse(orjson.dumps({"inputs": [entry, entry]}))

    @pytest.mark.parametrize(
        "shape",
        [[-1], [-1, -4], [1 << 62, 4], [0, 1 << 70], [1 << 20] * 4, [1] * 40, [1 << 80], [0, 1 << 40, 1 << 40]],
        ids=str,
    )
    def test_impossible_shapes_are_refused_before_anything_is_allocated(self, shape):
        """Negative, overflowing and endless shapes are the caller's mistake."""
        body = b'{"inputs":[{"name":"X","shape":%b,"datatype":"FP32","data":[1,2,3,4]}]}' % json.dumps(shape).encode()
        with pytest.raises(InvalidRequest):
            parse(body)
        with pytest.raises(InvalidRequest):
            parse(body + b" " * 5000)

    @pytest.mark.parametrize("place", ["data", "parameters", "unknown", "top"])
    def test_nesting_without_end_is_refused(self, place):
        """A hundred thousand brackets are an error, not a crash."""
        deep = "[" * 100_000
        bodies = {
            "data": '{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","data":' + deep,
            "parameters": '{"inputs":[],"parameters":{"a":' + deep,
            "unknown": '{"inputs":[],"what":' + deep,
            "top": deep,
        }
        with pytest.raises(InvalidRequest, match=r"nesting|JSON"):
            parse(bodies[place].encode())

    @pytest.mark.parametrize(("depth", "taken"), [(99, True), (101, False)])
    def test_parameters_nest_a_hundred_levels(self, depth, taken):
        """The limit is Triton's."""
        body = b'{"inputs":[],"parameters":{"a":' + b"[" * depth + b"]" * depth + b"}}"
        if taken:
            assert parse(body).parameters
        else:
            with pytest.raises(InvalidRequest, match="nesting depth"):
                parse(body)

    def test_nested_parameters_are_passed_on(self):
        """Clients send objects of headers among the parameters."""
        body = b'{"inputs":[],"parameters":{"headers":{"a":"b"}},"unknown":1,"outputs":null,"id":null}'
        request = parse(body)
        assert request.parameters == {"headers": {"a": "b"}}
        assert (request.id, request.outputs) == ("", ())

    def test_shared_memory_is_not_supported(self):
        """An input or output in shared memory is refused as something this server does not do."""
        body = b'{"inputs":[{"name":"X","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}'
        with pytest.raises(NotSupported):
            parse(body)
        with pytest.raises(NotSupported):
            parse(b'{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}')


def binary(*entries, tail=b"", **more):
    """Body and header length for entries with `binary_data_size`."""
    head = orjson.dumps({"inputs": list(entries), **more})
    return head + tail, len(head)


def entry(size, *, shape=(2,), datatype="FP32", name="X", **more):
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}, **more}


class TestBinaryForm:
    def test_an_aligned_tensor_is_a_view_of_the_body(self):
        """No byte of a tensor is copied where its address suits it."""
        head = orjson.dumps({"inputs": [entry(8)]})
        head += b" " * (-len(head) % 8)
        body = head + struct.pack("<2f", 1.5, -2)
        tensor = parse(body, header_length=len(head)).inputs[0]
        assert np.shares_memory(tensor.data, np.frombuffer(body, np.uint8))
        assert not tensor.data.flags.writeable
        assert tensor.data.tolist() == [1.5, -2]
        assert tensor.parameters == {}

    @pytest.mark.parametrize("shift", range(4))
    def test_an_unaligned_tensor_is_readable_by_engines(self, shift):
        """A header of any length gives aligned numbers."""
        body, length = binary(entry(8), tail=struct.pack("<2f", 1.5, -2), id="x" * shift)
        data = parse(memoryview(body), header_length=length).inputs[0].data
        assert data.flags.aligned
        assert data.tolist() == [1.5, -2]

    def test_text_and_bytes_may_be_mixed(self):
        """Inputs in JSON stand among inputs in bytes, in any order."""
        body, length = binary(
            entry(4, shape=[1]),
            {"name": "J", "shape": [1], "datatype": "INT8", "data": [5]},
            entry(7, shape=[1], datatype="BYTES", name="B"),
            tail=struct.pack("<f", 2.5) + b"\x03\x00\x00\x00abc",
        )
        request = parse(body, header_length=length)
        assert [tensor.data.tolist() for tensor in request.inputs] == [[2.5], [5], [b"abc"]]

    @pytest.mark.parametrize(
        ("entries", "tail", "text"),
        [
            ([entry(8)], bytes(7), "expecting 1 additional bytes"),
            ([entry(8)], bytes(9), "unexpected additional input data for model 'm'"),
            ([entry(4)], bytes(4), "Expected 8 .*got 4"),
            ([entry(-1)], b"", "number of bytes"),
            ([entry("8")], bytes(8), "number of bytes"),
            ([entry(8.0)], bytes(8), "number of bytes"),
            ([entry(8, data=[1, 2])], bytes(8), "must set only one"),
            ([entry(1, shape=[1], datatype="BOOL")], b"\x02", "0 or 1"),
            ([entry(3, shape=[1], datatype="BYTES")], bytes(3), "hold fewer"),
            ([entry(8, shape=[1], datatype="BYTES")], b"\x05\x00\x00\x00abcd", "element 0 takes 5 bytes"),
            ([entry(9, shape=[1], datatype="BYTES")], b"\x04\x00\x00\x00abcde", "left after 1 elements"),
            ([entry(8, shape=[1 << 61, 8])], bytes(8), "element count"),
            ([entry(0, shape=[0, 1 << 60])], b"", "element count"),
            ([entry(8, shape=[-1])], bytes(8), "negative"),
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_sizes_that_do_not_add_up_are_refused(self, entries, tail, text):
        """Every byte belongs to one tensor."""
        body, length = binary(*entries, tail=tail)
        with pytest.raises(InvalidRequest, match=text):
            parse(body, header_length=length)

    @pytest.mark.parametrize("length", [-1, 1 << 40], ids=["negative", "beyond the body"])
    def test_a_header_length_outside_the_body_is_refused(self, length):
        """The header lies within the body."""
        with pytest.raises(InvalidRequest, match=r"should be in range \(0, 13\)"):
            parse(b'{"inputs":[]}', header_length=length)

    def test_a_size_without_a_header_length_is_refused(self):
        """Without the header the whole body is JSON, and no bytes are left."""
        body, _ = binary(entry(8))
        with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
            parse(body)


def declared(*shapes, datatype="FP32", batchable=True):
    specs = tuple(TensorSpec(name=f"in{i}", datatype=datatype, shape=shape) for i, shape in enumerate(shapes))
    return Signature(platform="test", inputs=specs, batchable=batchable)


class TestRawForm:
    @pytest.mark.parametrize(
        ("shape", "floats", "expected"),
        [((-1, 4), 4, (1, 4)), ((-1, 4), 8, (2, 4)), ((2, 2), 4, (2, 2)), ((-1, -1), 3, (1, 3)), ((-1,), 5, (5,))],
        ids=str,
    )
    def test_the_shape_follows_from_the_length(self, shape, floats, expected):
        """One variable dimension is deduced; of two, the first is a batch of one."""
        request = parse(bytes(4 * floats), header_length=0, signature=declared(shape))
        assert request.inputs[0].shape == expected
        assert request.inputs[0].name == "in0"

    def test_bytes_are_one_element_without_a_length(self):
        """A model of one BYTES element takes the body as it is."""
        request = parse(b"\xffabc", header_length=0, signature=declared((-1, 1), datatype="BYTES"))
        assert request.inputs[0].data.tolist() == [[b"\xffabc"]]

    def test_the_answer_is_in_bytes(self):
        """What came raw is answered in the binary form."""
        request = parse(bytes(16), header_length=0, signature=declared((-1, 4)))
        rendered = v2_rest.render(request, response(Tensor("y", "FP32", np.ones(2, np.float32))))
        assert rendered.body[rendered.header_length :] == struct.pack("<2f", 1, 1)

    @pytest.mark.parametrize(
        ("signature", "body", "text"),
        [
            (None, b"", "only have 1 input"),
            (declared(), b"", "got 0 inputs"),
            (declared((1,), (1,)), b"", "got 2 inputs"),
            (declared((-1, -1, -1)), b"", "more than one variable-sized"),
            (declared((-1, -1), batchable=False), b"", "more than one variable-sized"),
            (declared((-1, 4)), bytes(15), "mismatch"),
            (declared((2,)), bytes(4), "mismatch"),
            (declared((-1, 2), datatype="BYTES"), b"x", r"input shape \[1\]"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_cannot_be_deduced_is_refused(self, signature, body, text):
        """The form needs a model of one input and a length that fits."""
        with pytest.raises(InvalidRequest, match=text):
            parse(body, header_length=0, signature=signature)


class TestRender:
    def test_numbers_are_flat_and_short(self):
        """FP32 is written in its shortest form, data flat, id echoed."""
        request = InferenceRequest(model_name="m", inputs=(), id="7")
        answer = response(Tensor("p", "FP32", np.array([[0.1, 0.2]], np.float32), {"a": 1}), model_version="2")
        assert v2_rest.render(request, answer).body == (
            b'{"model_name":"m","model_version":"2","id":"7","outputs":'
            b'[{"name":"p","shape":[1,2],"datatype":"FP32","parameters":{"a":1},"data":[0.1,0.2]}]}'
        )

    def test_nan_and_infinities_are_null(self):
        """JSON has no word for them."""
        answer = response(Tensor("p", "FP64", np.array([np.nan, np.inf, -np.inf, 1.0])))
        document = json.loads(v2_rest.render(InferenceRequest(model_name="m", inputs=()), answer).body)
        assert document["outputs"][0]["data"] == [None, None, None, 1.0]

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_rows_are_written_in_order_whatever_the_memory(self, order):
        """Transposed and sliced arrays are written row-major in both forms."""
        data = np.asarray(np.arange(6, dtype=np.int32).reshape(2, 3), order=order)[:, ::2]
        request = InferenceRequest(model_name="m", inputs=())
        came = v2_rest.parse_response(v2_rest.render(request, response(Tensor("y", "INT32", data))).body)
        assert came.outputs[0].data.tolist() == [[0, 2], [3, 5]]
        asked = InferenceRequest(model_name="m", inputs=(), parameters={"binary_data_output": True})
        rendered = v2_rest.render(asked, response(Tensor("y", "INT32", data)))
        came = v2_rest.parse_response(rendered.body, header_length=rendered.header_length)
        assert came.outputs[0].data.tolist() == [[0, 2], [3, 5]]

    def test_each_output_has_the_form_it_was_asked_in(self):
        """`binary_data` of an output outweighs `binary_data_output` of the request."""
        request = InferenceRequest(
            model_name="m",
            inputs=(),
            outputs=(RequestedOutput("a", {"binary_data": False}), RequestedOutput("b")),
            parameters={"binary_data_output": True},
        )
        ones = np.ones(1, np.float32)
        rendered = v2_rest.render(request, response(Tensor("a", "FP32", ones), Tensor("b", "FP32", ones)))
        first, second = json.loads(rendered.body[: rendered.header_length])["outputs"]
        assert first["data"] == [1.0]
        assert second["parameters"] == {"binary_data_size": 4}
        assert "data" not in second

    def test_classes_are_counted_and_named(self):
        """The classification extension answers the highest scores with their places and labels."""
        request = InferenceRequest(model_name="m", inputs=(), outputs=(RequestedOutput("p", {"classification": 2}),))
        answer = response(Tensor("p", "FP32", np.array([[0.25, 0.5, 0.125]], np.float32)))
        rendered = v2_rest.render(request, answer, labels={"p": ("cat", "dog", "bird")})
        assert json.loads(rendered.body)["outputs"] == [
            {"name": "p", "shape": [1, 2], "datatype": "BYTES", "data": ["0.500000:1:dog", "0.250000:0:cat"]}
        ]

    def test_brain_floats_are_refused_in_json(self):
        """An output without a JSON form is refused with the advice to ask for bytes."""
        answer = response(Tensor("y", "BF16", np.zeros(1, DTYPES["BF16"])))
        with pytest.raises(InvalidRequest, match="sending BF16 data via JSON is not supported"):
            v2_rest.render(InferenceRequest(model_name="m", inputs=()), answer)

    def test_half_floats_cross_in_json(self):
        """FP16 goes in and out as numbers, as with MLServer, and null is NaN both ways."""
        body = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP16", "data": [[0.1, 2], [None, -4.5]]}]}
        request = v2_rest.parse(json.dumps(body).encode(), model_name="m")
        (tensor,) = request.inputs
        assert tensor.data.dtype == np.float16
        assert json.loads(v2_rest.render(request, response(tensor)).body)["outputs"] == [
            {"name": "x", "shape": [2, 2], "datatype": "FP16", "data": [float(np.float16(0.1)), 2.0, None, -4.5]}
        ]

    @pytest.mark.parametrize("padding", [0, 5000], ids=["short", "long"])
    @pytest.mark.parametrize(
        ("datatype", "data", "nested"),
        [
            ("FP32", [[1, 2], [3, 4]], True),
            ("FP32", [1, 2, 3, 4], False),
            ("INT64", [[1, 2], [3, 4]], True),
            ("BYTES", [["a", "b"], ["c", "d"]], True),
            ("BYTES", ["a", "b", "c", "d"], False),
            ("BOOL", [[True, False], [True, True]], True),
        ],
    )
    def test_tensors_know_whether_they_came_in_rows(self, datatype, data, nested, padding):
        """On each road from JSON to tensors, lists in lists are told from a flat list."""
        document = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": datatype, "data": data}]}
        body = json.dumps(document, indent=1).encode() + b" " * padding
        (tensor,) = v2_rest.parse(body, model_name="m").inputs
        assert tensor.nested is nested
        assert tensor.data.shape == (2, 2)

    def test_one_element_needs_no_list(self):
        """A tensor of one element may have it bare, whatever its shape."""
        body = b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"INT32","data":5}]}'
        (tensor,) = v2_rest.parse(body, model_name="m").inputs
        assert tensor.data.tolist() == [[5]]

    def test_bytes_that_are_not_text_are_refused_in_json(self):
        """Nothing is replaced in silence."""
        answer = response(Tensor("y", "BYTES", np.array([b"\xff"], np.object_)))
        with pytest.raises(InvalidRequest, match="binary_data"):
            v2_rest.render(InferenceRequest(model_name="m", inputs=()), answer)

    def test_what_no_wire_carries_is_the_models_failure(self):
        """A parameter that is no JSON value fails and says so."""
        with pytest.raises(RuntimeFailed, match="JSON cannot carry"):
            v2_rest.render(InferenceRequest(model_name="m", inputs=()), response(parameters={"a": object()}))
        answer = response(Tensor("y", "BYTES", np.array([1], np.object_)))
        with pytest.raises(RuntimeFailed, match="'y'"):
            v2_rest.render(InferenceRequest(model_name="m", inputs=()), answer)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_bodies_are_requests_or_mistakes(data):
    """Cutting, repeating and changing bytes of a good body never raises anything but the caller's errors."""
    request = data.draw(strategies.requests(datatypes=strategies.JSON_DATATYPES, text=True, infinite=False))
    body = bytearray(v2_rest.render_request(request).body)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(body) - 1)))
        body[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    for padded in (bytes(body), bytes(body) + b" " * 5000):
        with contextlib.suppress(InvalidRequest, NotSupported):
            parse(padded)


@pytest.mark.parametrize("padding", ["", " " * 5000], ids=["small body", "large body"])
@pytest.mark.parametrize(
    ("data", "shape"),
    [(["hello"], [5]), ("hello", [5]), (["né"], [2]), (["né"], [3])],
    ids=["in a list", "bare", "length in characters", "length in bytes"],
)
def test_one_text_may_have_its_length_as_its_shape(data, shape, padding):
    """A single text whose shape is its own length is one element, as MLServer's examples mean it."""
    sent = {"inputs": [{"name": "x", "shape": shape, "datatype": "BYTES", "data": data}]}
    (tensor,) = v2_rest.parse((json.dumps(sent) + padding).encode(), model_name="m").inputs
    assert tensor.shape == (1,)
    assert tensor.data[0].decode() == (data if isinstance(data, str) else data[0])


@pytest.mark.parametrize(("data", "shape"), [(["hello"], [4]), (["a", "b"], [3]), ("ab", [3]), (["hello"], [5, 1])])
def test_any_other_shape_of_texts_is_held_to(data, shape):
    """A shape that is not the text's length counts elements, and so do shapes of other ranks."""
    sent = {"inputs": [{"name": "x", "shape": shape, "datatype": "BYTES", "data": data}]}
    with pytest.raises(InvalidRequest):
        v2_rest.parse(json.dumps(sent).encode(), model_name="m")


@pytest.mark.parametrize("count", [1, 3000])
def test_elements_of_bytes_may_be_objects_where_the_model_looks_at_them_itself(count):
    """JSON objects in a BYTES tensor reach a model whose signature allows it, as they are; others refuse them with 400."""
    data = [{"role": "user", "content": "é"}, "text", 3] * count
    body = json.dumps({"inputs": [{"name": "m", "shape": [len(data)], "datatype": "BYTES", "data": data}]}).encode()
    request = v2_rest.parse(body, model_name="chat", signature=Signature(platform="mlserver", objects=True))
    assert request.inputs[0].data.tolist() == [{"role": "user", "content": "é"}, b"text", 3] * count
    for signature in (None, Signature(platform="python")):
        with pytest.raises(InvalidRequest, match="BYTES data must be strings"):
            v2_rest.parse(body, model_name="chat", signature=signature)
