"""Messages to requests and back.

Matrix: every datatype x raw and typed; parameters of every kind; each rule of raw and typed contents broken once;
status of every error class; both wire forms of the repository calls; the shipped descriptors are those of the .proto.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headrace import errors
from headrace.errors import InvalidRequest, NotSupported, RuntimeFailed
from headrace.payload import DTYPES, InferenceRequest, InferenceResponse, RequestedOutput, Tensor
from headrace.protocols import v2_grpc

ROOT = Path(__file__).resolve().parents[2]
TYPED = sorted(set(DTYPES) - {"FP16", "BF16"})


def infer_request(**fields):
    return v2_grpc.ModelInferRequest(**{"model_name": "iris", **fields})


def tensor(name="x", datatype="FP32", shape=(1, 2), **fields):
    return {"name": name, "datatype": datatype, "shape": shape, **fields}


def same(left, right):
    """Equality of tensors by name, datatype, shape and every bit of their data."""
    assert [(t.name, t.datatype, t.shape, dict(t.parameters)) for t in left] == [
        (t.name, t.datatype, t.shape, dict(t.parameters)) for t in right
    ]
    for a, b in zip(left, right, strict=True):
        assert a.data.dtype == b.data.dtype == DTYPES[a.datatype]
        if a.datatype == "BYTES":
            assert a.data.tolist() == b.data.tolist()
        else:
            assert a.data.tobytes() == b.data.tobytes()


@st.composite
def tensors(draw, datatypes=tuple(DTYPES)):
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if datatype == "BYTES":
        data = np.empty(shape, np.object_)
        size = int(np.prod(shape))
        flat = draw(st.lists(st.binary(max_size=8), min_size=size, max_size=size))
        data.reshape(-1)[:] = flat
    else:
        data = draw(hnp.arrays(DTYPES[datatype], shape))
    return Tensor(draw(st.text(max_size=5)), datatype, data, draw(parameters))


parameters = st.dictionaries(
    st.text(max_size=5),
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    max_size=2,
)


@given(
    inputs=st.lists(tensors(), max_size=3, unique_by=lambda t: t.name),
    identifier=st.text(max_size=5),
    given_parameters=parameters,
    raw=st.booleans(),
)
def test_requests_survive_render_and_parse(inputs, identifier, given_parameters, raw):
    """A request rendered, serialised and parsed is the same request, raw or typed."""
    request = InferenceRequest(
        model_name="m",
        model_version="3",
        id=identifier,
        inputs=tuple(inputs),
        outputs=(RequestedOutput("y", {"k": 1}),),
        parameters=given_parameters,
        protocol="v2_grpc",
    )
    wire = v2_grpc.render_request(request, raw=raw).SerializeToString()
    parsed = v2_grpc.parse(v2_grpc.ModelInferRequest.FromString(wire))
    same(parsed.inputs, request.inputs)
    assert (parsed.model_name, parsed.model_version, parsed.id) == ("m", "3", identifier)
    assert dict(parsed.parameters) == given_parameters
    assert {name: type(value) for name, value in parsed.parameters.items()} == {
        name: type(value) for name, value in given_parameters.items()
    }
    assert [(output.name, dict(output.parameters)) for output in parsed.outputs] == [("y", {"k": 1})]


@given(outputs=st.lists(tensors(), max_size=3, unique_by=lambda t: t.name), raw=st.booleans())
def test_responses_survive_render_and_parse(outputs, raw):
    """A response rendered and parsed is the same response, raw or typed."""
    request = InferenceRequest(model_name="m", inputs=(), id="7")
    response = InferenceResponse(model_name="m", model_version="2", outputs=tuple(outputs), parameters={"a": True})
    message = v2_grpc.render(request, response, raw=raw)
    parsed = v2_grpc.parse_response(v2_grpc.ModelInferResponse.FromString(message.SerializeToString()))
    same(parsed.outputs, outputs)
    assert (parsed.model_name, parsed.model_version, parsed.id, dict(parsed.parameters)) == ("m", "2", "7", {"a": True})


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_in_gives_typed_out(datatype):
    """A response to a typed request holds typed contents and nothing raw, for every datatype with a typed form."""
    data = np.array([b"1"], np.object_) if datatype == "BYTES" else np.ones(1, DTYPES[datatype])
    request = InferenceRequest(model_name="m", inputs=())
    response = InferenceResponse(model_name="m", outputs=(Tensor("y", datatype, data),))
    message = v2_grpc.render(request, response, raw=False)
    assert not message.raw_output_contents
    assert [field.name for field, _ in message.outputs[0].contents.ListFields()] == [v2_grpc._FIELDS[datatype]]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_forces_raw(datatype):
    """One output without a typed form makes all outputs raw, in order."""
    request = InferenceRequest(model_name="m", inputs=())
    outputs = (Tensor("a", "FP32", np.ones(1, np.float32)), Tensor("b", datatype, np.ones(1, DTYPES[datatype])))
    message = v2_grpc.render(request, InferenceResponse(model_name="m", outputs=outputs), raw=False)
    assert [len(raw) for raw in message.raw_output_contents] == [4, 2]
    assert not any(output.HasField("contents") for output in message.outputs)


def test_raw_tensors_are_views():
    """A raw tensor is a read-only view of the bytes that came, not a copy."""
    message = infer_request(inputs=[tensor()], raw_input_contents=[np.ones(2, np.float32).tobytes()])
    data = v2_grpc.parse(message).inputs[0].data
    assert not data.flags.writeable
    assert data.base is not None


def test_is_raw_mirrors_the_request():
    """A typed request asks for a typed answer, a raw one or one without data for a raw one."""
    assert v2_grpc.is_raw(infer_request(inputs=[tensor()], raw_input_contents=[b"\0" * 8]))
    assert not v2_grpc.is_raw(infer_request(inputs=[tensor(contents={"fp32_contents": [1, 2]})]))
    assert v2_grpc.is_raw(infer_request())


def test_empty_contents_beside_raw_ones_are_none():
    """MLServer's own client sets `contents` of every raw tensor, with nothing in it; the raw bytes are the tensor's."""
    message = infer_request(inputs=[tensor(contents={}), tensor("y", contents={})], raw_input_contents=[b"\0" * 8] * 2)
    request = v2_grpc.parse(message)
    assert [each.data.tolist() for each in request.inputs] == [[[0.0, 0.0]]] * 2
    assert v2_grpc.is_raw(message)


BROKEN = {
    "raw and contents mixed": (
        {"inputs": [tensor(contents={"fp32_contents": [1, 2]})], "raw_input_contents": [b"\0" * 8]},
        "contents field must not be specified when using raw_input_contents for input 'x' for model 'iris'",
    ),
    "fewer raw contents than inputs": (
        {"inputs": [tensor(), tensor("y")], "raw_input_contents": [b"\0" * 8]},
        r"2 inputs but 1 raw input contents for model 'iris'",
    ),
    "more raw contents than inputs": (
        {"inputs": [tensor()], "raw_input_contents": [b"\0" * 8] * 2},
        r"1 inputs but 2 raw input contents",
    ),
    "raw contents without inputs": ({"raw_input_contents": [b""]}, "0 inputs but 1 raw input contents"),
    "no data": ({"inputs": [tensor()]}, "unable to find data for input tensor 'x' for model 'iris' in request."),
    "wrong typed field": (
        {"inputs": [tensor(contents={"int64_contents": [1, 2]})]},
        "unexpected explicit tensor data for input tensor 'x' for model 'iris' of type 'INT64', expected datatype 'FP32'",
    ),
    "two typed fields": (
        {"inputs": [tensor(contents={"fp32_contents": [1, 2], "bytes_contents": [b""]})]},
        "unexpected explicit tensor data .* of type 'BYTES'",
    ),
    "typed elements missing": ({"inputs": [tensor(contents={"fp32_contents": [1]})]}, "expected 2 elements .* got 1"),
    "raw too short": ({"inputs": [tensor()], "raw_input_contents": [b"\0" * 7]}, r"expected 8 bytes .* got 7"),
    "raw too long": ({"inputs": [tensor()], "raw_input_contents": [b"\0" * 9]}, r"expected 8 bytes .* got 9"),
    "unknown datatype": ({"inputs": [tensor(datatype="FLOAT")]}, "unknown datatype 'FLOAT'; known: BOOL, .*BYTES"),
    "negative dimension": (
        {"inputs": [tensor(shape=(-1, 2))], "raw_input_contents": [b"\0" * 8]},
        "negative dimension in its shape",
    ),
    "two negative dimensions": (
        {"inputs": [tensor(shape=(-1, -2))], "raw_input_contents": [b"\0" * 8]},
        "negative dimension in its shape",
    ),
    "too many dimensions": (
        {"inputs": [tensor(shape=(1,) * 100)], "raw_input_contents": [b"\0" * 4]},
        "impossible shape",
    ),
    "huge dimensions beside an empty one": (
        {"inputs": [tensor(shape=(2**62, 2**62, 0))], "raw_input_contents": [b""]},
        "impossible shape",
    ),
    "huge shape": (
        {"inputs": [tensor(shape=(2**62, 2**62), datatype="BYTES")], "raw_input_contents": [b"\0" * 8]},
        "input 'x' for model 'iris'",
    ),
    "BYTES cut off in a length": (
        {"inputs": [tensor(shape=(2,), datatype="BYTES")], "raw_input_contents": [b"\x01\0\0\0abcd"]},
        "input 'x' for model 'iris'",
    ),
    "BYTES element longer than the data": (
        {"inputs": [tensor(shape=(1,), datatype="BYTES")], "raw_input_contents": [b"\x09\0\0\0ab"]},
        "input 'x' for model 'iris'",
    ),
    "BYTES left over": (
        {"inputs": [tensor(shape=(1,), datatype="BYTES")], "raw_input_contents": [b"\x01\0\0\0ab"]},
        "input 'x' for model 'iris'",
    ),
    "typed FP16": (
        {"inputs": [tensor(datatype="FP16", contents={"fp32_contents": [1, 2]})]},
        "FP16 has no typed contents; send it raw",
    ),
    "INT8 out of range": (
        {"inputs": [tensor(datatype="INT8", contents={"int_contents": [1, 128]})]},
        "128 is not a value of INT8",
    ),
    "UINT16 out of range": (
        {"inputs": [tensor(datatype="UINT16", contents={"uint_contents": [65536, 1]})]},
        "65536 is not a value of UINT16",
    ),
    "BOOL of 2": (
        {"inputs": [tensor(datatype="BOOL")], "raw_input_contents": [b"\x01\x02"]},
        "bytes of BOOL are 0 or 1",
    ),
    "duplicate input": (
        {"inputs": [tensor(), tensor()], "raw_input_contents": [b"\0" * 8] * 2},
        "input 'x' already exists in request",
    ),
    "duplicate output": ({"outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' already exists in request"),
    "parameter without a value": ({"parameters": {"k": {}}}, "parameter 'k' has no value"),
}


@pytest.mark.parametrize(("fields", "text"), BROKEN.values(), ids=BROKEN)
def test_contradictions_are_refused(fields, text):
    """A message that breaks a rule is an InvalidRequest that names the tensor and the rule."""
    with pytest.raises(InvalidRequest, match=text):
        v2_grpc.parse(infer_request(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": [tensor(parameters={"shared_memory_region": {"string_param": "r"}})]},
        {"outputs": [{"name": "y", "parameters": {"shared_memory_region": {"string_param": "r"}}}]},
    ],
    ids=["input", "output"],
)
def test_shared_memory_is_not_supported(fields):
    """A tensor in shared memory is refused as unsupported, not as missing data."""
    with pytest.raises(NotSupported, match="shared memory"):
        v2_grpc.parse(infer_request(**fields))


def test_empty_tensors_need_no_data():
    """A tensor whose shape has no elements may come without contents."""
    parsed = v2_grpc.parse(infer_request(inputs=[tensor(shape=(0, 4))]))
    assert parsed.inputs[0].shape == (0, 4)


def test_narrow_integers_of_typed_contents():
    """INT8 and UINT8 come through their 32-bit fields with values kept, the limits included."""
    parsed = v2_grpc.parse(
        infer_request(
            inputs=[
                tensor("a", "INT8", contents={"int_contents": [-128, 127]}),
                tensor("b", "UINT8", contents={"uint_contents": [0, 255]}),
            ]
        )
    )
    assert parsed.inputs[0].data.tolist() == [[-128, 127]]
    assert parsed.inputs[1].data.tolist() == [[0, 255]]


def test_classification_replaces_the_output():
    """An output asked for with a classification count comes as `value:index:label`, highest first; others stay."""
    request = InferenceRequest(
        model_name="m", inputs=(), outputs=(RequestedOutput("p", {"classification": 2}), RequestedOutput("q"))
    )
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    response = InferenceResponse(model_name="m", outputs=(Tensor("p", "FP32", scores), Tensor("q", "FP32", scores)))
    parsed = v2_grpc.parse_response(v2_grpc.render(request, response, raw=True, labels={"p": ("a", "b", "c")}))
    assert parsed.outputs[0].data.tolist() == [[b"0.700000:1:b", b"0.200000:2:c"]]
    assert parsed.outputs[1].datatype == "FP32"


@pytest.mark.parametrize("count", [0, -1, True, "2", 1.5])
def test_a_bad_classification_count_is_refused(count):
    """A classification count that is not a positive integer is the caller's mistake."""
    request = InferenceRequest(model_name="m", inputs=(), outputs=(RequestedOutput("p", {"classification": count}),))
    with pytest.raises(InvalidRequest, match="'p': classification"):
        v2_grpc.render(request, InferenceResponse(model_name="m", outputs=()), raw=True)


def test_what_no_parameter_of_gRPC_holds_travels_as_its_json():  # noqa: N802
    """A list, an object and null are text that JSON reads back; none of them is dropped."""
    request = InferenceRequest(model_name="m", inputs=())
    given = {"l": [1, "a"], "d": {"x": None}, "n": None}
    message = v2_grpc.render(request, InferenceResponse(model_name="m", outputs=(), parameters=given), raw=True)
    assert {name: json.loads(each.string_param) for name, each in message.parameters.items()} == given


def test_a_parameter_that_json_cannot_hold_is_the_models_failure():
    """An object of Python's is reported, not dropped."""
    request = InferenceRequest(model_name="m", inputs=())
    with pytest.raises(RuntimeFailed, match="parameter 'k' is a object"):
        v2_grpc.render(request, InferenceResponse(model_name="m", outputs=(), parameters={"k": object()}), raw=True)


@pytest.mark.parametrize(("status", "code"), [(400, 3), (404, 5), (422, 9), (500, 13), (418, 2), (503, 2)], ids=str)
def test_a_status_that_the_model_chose_is_translated(status, code):
    """The HTTP statuses that MLServer translates have its codes, any other is UNKNOWN."""
    assert v2_grpc.status(errors.ModelError("x", status=status)) == code


def test_numpy_scalars_are_parameters():
    """The numbers and booleans are carried as the plain ones are."""
    request = InferenceRequest(model_name="m", inputs=())
    response = InferenceResponse(
        model_name="m", outputs=(), parameters={"i": np.int32(3), "f": np.float32(0.5), "b": np.bool_(True)}
    )
    parsed = v2_grpc.parse_response(v2_grpc.render(request, response, raw=True))
    assert dict(parsed.parameters) == {"i": 3, "f": 0.5, "b": True}


STATUS = {
    errors.InvalidRequest("x"): 3,
    errors.UnsupportedEncoding("x"): 12,
    errors.TooLarge("x"): 8,
    errors.NotFound("x"): 5,
    errors.ModelNotFound("x"): 5,
    errors.NotSupported("x"): 12,
    errors.RuntimeFailed("x"): 13,
    errors.LoadFailed("x"): 13,
    errors.MissingExtra("x"): 13,
    errors.SettingsError("x"): 3,
    errors.ModelNotReady("x"): 14,
    errors.Overloaded("x"): 14,
    errors.DeadlineExceeded("x"): 4,
    errors.WorkerDied("x"): 14,
    errors.HeadraceError("x"): 13,
}


@pytest.mark.parametrize(("error", "code"), STATUS.items(), ids=lambda value: type(value).__name__)
def test_status_is_that_of_the_nearest_class(error, code):
    """Every error class has the status code of its nearest ancestor in the table."""
    assert v2_grpc.status(error) == code


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"model_name": "m"}, "m"), ({"repository_name": "m"}, "m")],
    ids=["model_name = 2", "model_name = 1"],
)
def test_both_wire_forms_name_a_model(fields, name):
    """The model to load is read from field 2, or from field 1 where the other dialect has it."""
    message = v2_grpc.message_class("inference.RepositoryModelLoadRequest")(**fields)
    assert v2_grpc.parse_repository_target(message) == name


def test_a_repository_cannot_be_chosen():
    """Naming a repository beside the model is refused, and naming nothing is too."""
    request = v2_grpc.message_class("inference.RepositoryModelUnloadRequest")
    with pytest.raises(NotSupported, match="repository 'r'"):
        v2_grpc.parse_repository_target(request(repository_name="r", model_name="m"))
    with pytest.raises(InvalidRequest, match="model_name is empty"):
        v2_grpc.parse_repository_target(request())


def test_tritonclient_lives_in_the_same_process():
    """The same message names in protobuf's default pool do not clash, and both speak the same bytes."""
    from tritonclient.grpc import service_pb2

    theirs = service_pb2.ModelInferRequest(model_name="m", id="1")
    theirs.inputs.add(name="x", datatype="INT64", shape=[1])
    theirs.raw_input_contents.append(b"\1" + b"\0" * 7)
    theirs.parameters["p"].double_param = 0.5
    ours = v2_grpc.ModelInferRequest.FromString(theirs.SerializeToString())
    assert v2_grpc.parse(ours).inputs[0].data.tolist() == [1]
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_field_numbers_are_those_of_tritonclient():
    """Every message and field that both describe has the same number, type and label."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    compared = 0
    for module in (service_pb2, model_config_pb2):
        for theirs in module.DESCRIPTOR.message_types_by_name.values():
            try:
                ours = v2_grpc.POOL.FindMessageTypeByName(theirs.full_name)
            except KeyError:
                continue
            for field in ours.fields:
                other = theirs.fields_by_name.get(field.name)
                if other is not None:
                    assert (field.number, field.type, field.is_repeated) == (
                        other.number,
                        other.type,
                        other.is_repeated,
                    ), field.full_name
                    compared += 1
    assert compared > 100


def test_the_shipped_descriptors_are_up_to_date(tmp_path):
    """Compiling the .proto files again gives the descriptor set in the package."""
    pytest.importorskip("grpc_tools")
    from google.protobuf import descriptor_pb2

    target = tmp_path / "set.binpb"
    subprocess.run([sys.executable, ROOT / "scripts" / "protos", target], check=True)
    shipped = Path(v2_grpc.__file__).with_name("open_inference.binpb")
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(target.read_bytes()) == read(shipped.read_bytes()), "run scripts/protos"


def test_reflection_files_come_with_their_imports():
    """A file's descriptors include those it imports, each once; an unknown file is a KeyError."""
    files = v2_grpc.file_descriptors(["open_inference.proto", "open_inference.proto"])
    assert len(files) == 1
    with pytest.raises(KeyError):
        v2_grpc.file_descriptors(["nothing.proto"])


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(("text", "shape"), [("hello", 5), ("né", 2), ("né", 3)])
def test_one_text_may_have_its_length_as_its_shape(text, shape, raw):
    """A single text whose shape is its own length is one element, as MLServer's examples mean it."""
    element = text.encode()
    if raw:
        message = infer_request(
            inputs=[tensor(datatype="BYTES", shape=[shape])],
            raw_input_contents=[len(element).to_bytes(4, "little") + element],
        )
    else:
        message = infer_request(
            inputs=[tensor(datatype="BYTES", shape=[shape], contents={"bytes_contents": [element]})]
        )
    (parsed,) = v2_grpc.parse(message).inputs
    assert parsed.data.tolist() == [element]


@pytest.mark.parametrize("shape", [[4], [6], [5, 1]])
def test_any_other_shape_of_one_text_is_held_to(shape):
    """A shape that is not the text's length counts elements."""
    raw = infer_request(inputs=[tensor(datatype="BYTES", shape=shape)], raw_input_contents=[b"\x05\0\0\0hello"])
    typed = infer_request(inputs=[tensor(datatype="BYTES", shape=shape, contents={"bytes_contents": [b"hello"]})])
    for message in (raw, typed):
        with pytest.raises(InvalidRequest):
            v2_grpc.parse(message)
