"""Answers in MLServer's form, compared with what release 1.7.1 was seen to answer to the same requests.

Matrix: outputs of rank 0 to 3, numbers and text; with an id and without; arrays and whole requests; REST and gRPC;
streams; MLflow's array and table.
"""

from __future__ import annotations

import json
import re
import uuid

import numpy as np
import pytest

from headrace.payload import EMPTY, InferenceRequest, InferenceResponse, RequestedOutput, Signature, Tensor, TensorSpec
from headrace.protocols import v2_rest
from headrace.routing.mlserver_answers import answers, answers_stream, metadata, namespace, new_id

CLOUD_EVENT = {
    "Ce-Specversion": "0.3",
    "Ce-Source": "io.seldon.serving.deployment.mlserver",
    "Ce-Type": "io.seldon.serving.inference.response",
    "Ce-Modelid": "skl",
    "Ce-Inferenceservicename": "mlserver",
    "Ce-Endpoint": "skl",
}


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def model(*outputs, seen=None, **fields):
    async def infer(request):
        if seen is not None:
            seen.append(request)
        return InferenceResponse(**{"model_name": "skl", "outputs": outputs, "id": request.id, **fields})

    return infer


def wrapped(infer, **options):
    options = {"model": "skl", "version": "", "server_name": "mlserver", "whole": False, **options}
    return answers(infer, **options)


def request(**fields):
    return InferenceRequest(model_name="skl", inputs=(), protocol="v2_rest", **fields)


async def test_an_answer_is_the_one_that_mlserver_gives():
    """Body and headers are those of the real server for a scikit-learn classifier with two outputs."""
    infer = model(
        Tensor("predict_proba", "FP64", np.array([[0.25, 0.75]])),
        Tensor("predict", "INT64", np.array([1])),
        model_version="v1",
    )
    asked = request(id="x")
    response = await wrapped(infer, version="v1")(asked)
    assert v2_rest.render(asked, response).body.decode() == (
        '{"model_name":"skl","model_version":"v1","id":"x","parameters":{},"outputs":['
        '{"name":"predict_proba","shape":[1,2],"datatype":"FP64","parameters":{"content_type":"np"},"data":[0.25,0.75]},'
        '{"name":"predict","shape":[1,1],"datatype":"INT64","parameters":{"content_type":"np"},"data":[1]}]}'
    )
    assert response.headers == {**CLOUD_EVENT, "Ce-Id": "x", "Ce-Requestid": "x"}


@pytest.mark.parametrize(
    ("data", "shape"),
    [((), []), ((3,), [3, 1]), ((0,), [0, 1]), ((3, 2), [3, 2]), ((1, 2, 2), [1, 2, 2])],
    ids=["scalar", "rows", "no rows", "table", "images"],
)
async def test_a_result_of_rank_one_is_a_column(data, shape):
    """Only outputs of rank 1 change their shape, and none its data."""
    response = await wrapped(model(Tensor("predict", "FP32", np.ones(data, np.float32))))(request())
    assert list(response.outputs[0].shape) == shape
    assert response.outputs[0].data.size == np.ones(data).size


async def test_text_of_a_classifier_goes_by_the_codec_np():
    """Labels are BYTES of content type np, as the real server answers them, and UTF-8."""
    asked = request(id="x")
    response = await wrapped(model(Tensor("predict", "BYTES", texts("ja", "né".encode()))))(asked)
    (output,) = json.loads(v2_rest.render(asked, response).body)["outputs"]
    assert output == {
        "name": "predict",
        "shape": [2, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "np"},
        "data": ["ja", "né"],
    }


async def test_what_an_output_says_of_itself_stays():
    """An output with a content type and other parameters keeps them."""
    own = {"content_type": "str", "labels": 3}
    response = await wrapped(
        model(Tensor("a", "BYTES", texts("x"), own), Tensor("b", "FP32", np.ones((1, 2), np.float32), {"k": 1}))
    )(request())
    assert [dict(each.parameters) for each in response.outputs] == [own, {"content_type": "np", "k": 1}]


async def test_nan_is_null():
    """A NaN of the model is JSON's null."""
    asked = request()
    response = await wrapped(model(Tensor("predict", "FP32", np.array([np.nan, 1], np.float32))))(asked)
    assert b'"data":[null,1.0]' in v2_rest.render(asked, response).body


async def test_a_request_without_id_gets_one_that_its_attributes_share():
    """The id of body and headers is the same version 4 UUID, and another for each request."""
    infer = wrapped(model())
    first, second = await infer(request()), await infer(request())
    assert first.id == first.headers["Ce-Id"] == first.headers["Ce-Requestid"] != second.id
    assert uuid.UUID(first.id).version == 4


def test_ids_are_uuids():
    """Every id has the form and the bits of a version 4 UUID, and none comes twice."""
    ids = {new_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids
    )
    assert {uuid.UUID(each).variant for each in ids} == {uuid.RFC_4122}


async def test_faithful_answers_leave_grpc_without_an_id():
    """Bug for bug, a gRPC request without id is answered without, and has no attribute for it; REST has one."""
    infer = wrapped(model(), faithful=True)
    bare = await infer(InferenceRequest(model_name="skl", inputs=(), protocol="v2_grpc"))
    assert (bare.id, "Ce-Id" in bare.headers) == ("", False)
    assert (await infer(request())).id
    assert (await wrapped(model())(InferenceRequest(model_name="skl", inputs=(), protocol="v2_grpc"))).id


async def test_code_written_for_mlserver_sees_the_attributes_and_answers_as_it_likes():
    """A whole request carries the id and its attributes; outputs stay as the model made them."""
    seen = []
    output = Tensor("y", "FP32", np.ones(3, np.float32))
    infer = wrapped(model(output, seen=seen, headers={"X-Mine": "q"}), whole=True, namespace="prod", version="2")
    response = await infer(request(headers={"accept": "*/*"}))
    asked = seen[0]
    assert asked.id == asked.headers["Ce-Id"] == response.id
    assert asked.headers["accept"] == "*/*"
    assert asked.headers["Ce-Type"] == "io.seldon.serving.inference.request"
    assert asked.headers["Ce-Source"] == "io.seldon.serving.deployment.mlserver.prod"
    assert response.outputs == (output,)
    assert (response.headers["X-Mine"], response.headers["Ce-Namespace"]) == ("q", "prod")
    assert response.headers["Ce-Type"] == "io.seldon.serving.inference.response"
    assert response.model_version == "2"


async def test_a_models_own_id_and_parameters_are_kept():
    """What code written for MLServer puts into its answer reaches the caller."""
    infer = wrapped(model(id="own", parameters={"a": 1}), whole=True)
    response = await infer(request(id="asked"))
    assert (response.id, response.parameters) == ("own", {"a": 1})
    assert response.headers["Ce-Id"] == "asked"


async def test_no_parameters_are_shown_as_an_empty_object():
    """MLServer's clients find `parameters` in every answer; ours leave out the empty ones."""
    shown = await wrapped(model())(request())
    assert b'"parameters":{}' in v2_rest.render(request(), shown).body
    plain = InferenceResponse(model_name="m", outputs=(), parameters=EMPTY)
    assert b"parameters" not in v2_rest.render(request(), plain).body


async def test_an_mlflow_array_is_output_one():
    """One array without a name goes by MLServer's name and codec, and the answer by the codec np."""
    infer = wrapped(model(Tensor("predict", "INT64", np.array([1, 0]))), signature=Signature(platform="mlflow"))
    response = await infer(request())
    (output,) = response.outputs
    assert (output.name, output.shape, output.parameters["content_type"]) == ("output-1", (2, 1), "np")
    assert response.parameters == {"content_type": "np"}


async def test_an_mlflow_table_is_columns_of_a_table():
    """Columns of text say their codec, columns of numbers none, and the answer says pd."""
    outputs = Tensor("u", "FP64", np.array([1.0])), Tensor("v", "BYTES", texts(b"t"))
    response = await wrapped(model(*outputs), signature=Signature(platform="mlflow"))(request())
    assert [(each.name, dict(each.parameters), each.shape) for each in response.outputs] == [
        ("u", {}, (1, 1)),
        ("v", {"content_type": "str"}, (1, 1)),
    ]
    assert response.parameters == {"content_type": "pd"}


async def test_mlflow_tensors_by_name_are_a_dict():
    """Outputs that the signature has as tensors each go by np, and the answer by MLServer's codec dict."""
    signature = Signature(platform="mlflow", properties={"output_schema": "tensors"})
    outputs = Tensor("u", "FP64", np.array([1.0])), Tensor("v", "FP64", np.ones((1, 2)))
    response = await wrapped(model(*outputs), signature=signature)(request())
    assert [(each.shape, each.parameters["content_type"]) for each in response.outputs] == [
        ((1, 1), "np"),
        ((1, 2), "np"),
    ]
    assert response.parameters == {"content_type": "dict"}


async def test_mlflow_texts_go_by_their_own_codec():
    """A list of texts, which says that it is one, makes the whole answer one of texts."""
    output = Tensor("predict", "BYTES", texts(b"a", b"b"), {"content_type": "str"})
    response = await wrapped(model(output), signature=Signature(platform="mlflow"))(request())
    assert (response.outputs[0].name, response.outputs[0].shape) == ("output-1", (2, 1))
    assert (response.parameters, dict(response.outputs[0].parameters)) == ({"content_type": "str"},) * 2


async def test_a_library_of_mlflow_answers_output_one_whatever_the_signature_says():
    """scikit-learn gives an array, which MLServer does not call by the name that the signature has for it."""
    signature = Signature(platform="mlflow", properties={"loader": "mlflow.sklearn", "output_schema": "columns"})
    response = await wrapped(model(Tensor("species", "INT64", np.array([1]))), signature=signature)(request())
    assert (response.outputs[0].name, response.parameters) == ("output-1", {"content_type": "np"})


@pytest.mark.parametrize(
    ("datatype", "values", "told", "content_type"),
    [
        ("BYTES", [b"YmxvYg=="], {}, "base64"),
        ("BYTES", [b"YmxvYg==", b"\xff\xd8"], {}, None),
        ("BYTES", [b"YmxvYg=="], {"content_type": "str"}, "str"),
        ("INT64", [1], {}, None),
    ],
    ids=["base64", "bytes", "told", "numbers"],
)
async def test_bytes_of_mlflow_are_taken_for_base64_where_they_can_be(datatype, values, told, content_type):
    """A column that the signature has as binary comes in base64 unless it says something else, as for MLServer."""
    data = texts(*values) if datatype == "BYTES" else np.array(values)
    given = InferenceRequest(model_name="skl", inputs=(Tensor("blob", datatype, data, told),), protocol="v2_rest")
    signature = Signature(platform="mlflow", properties={"binary_columns": "blob,other"})
    seen = []
    await wrapped(model(seen=seen), signature=signature)(given)
    assert seen[0].inputs[0].parameters.get("content_type") == content_type


async def test_a_list_of_texts_is_output_one_whatever_the_signature_says():
    """Texts that come as a list have no name in MLServer's answer, though the signature has one for them."""
    output = Tensor("word", "BYTES", texts(b"a"), {"content_type": "str"})
    response = await wrapped(model(output), signature=Signature(platform="mlflow"))(request())
    assert (response.outputs[0].name, response.parameters) == ("output-1", {"content_type": "str"})


@pytest.mark.parametrize(("name", "asked"), [("output-1", ()), ("output-0", ()), ("predict", ()), ("u", ("u",))])
async def test_the_one_output_of_mlflow_may_be_asked_for_by_each_of_its_names(name, asked):
    """The names in MLServer's metadata and answers ask for the model's default; any other name is the model's own."""
    seen = []
    infer = wrapped(model(Tensor("predict", "INT64", np.array([1])), seen=seen), signature=Signature(platform="mlflow"))
    await infer(request(outputs=(RequestedOutput(name),)))
    assert tuple(each.name for each in seen[0].outputs) == asked


@pytest.mark.parametrize(
    ("default", "wanted", "asked"),
    [
        ("transform", (), ["a", "b"]),
        ("predict", ("transform",), ["a", "b"]),
        ("predict", (), []),
        ("predict", ("predict", "transform"), ["predict", "transform"]),
    ],
)
async def test_a_table_of_scikit_learn_is_asked_for_by_its_columns(default, wanted, asked):
    """`transform` alone, asked for or by default, is one output for each column where the model gives a table."""
    specs = [TensorSpec(name=name, datatype="FP64", shape=(-1,)) for name in ("predict", "a", "b")]
    table = TensorSpec(name="transform", datatype="FP64", shape=(-1, 2), labels=("a", "b"))
    signature = Signature(platform="sklearn", outputs=(table, *specs), default_outputs=(default,))
    seen = []
    infer = wrapped(model(Tensor("a", "FP64", np.array([1.0])), seen=seen), signature=signature)
    response = await infer(request(outputs=tuple(map(RequestedOutput, wanted))))
    assert [each.name for each in seen[0].outputs] == asked
    assert dict(response.outputs[0].parameters) == ({} if asked == ["a", "b"] else {"content_type": "np"})


def test_metadata_of_mlflow_columns_are_those_of_mlserver():
    """Columns are [-1,1] by their own codecs, the whole a table; an output without a name is `output-0`."""
    columns = (
        TensorSpec(name="a", datatype="FP64", shape=(-1,)),
        TensorSpec(name="t", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="when", datatype="BYTES", shape=(-1,), content_type="datetime"),
        TensorSpec(name="blob", datatype="BYTES", shape=(-1,)),
    )
    signature = Signature(
        platform="mlflow",
        inputs=columns,
        outputs=(TensorSpec(name="predict", datatype="INT64", shape=(-1,)),),
        properties={"input_schema": "columns", "output_schema": "tensors", "binary_columns": "blob"},
    )
    found = metadata(signature)
    assert [(each["name"], each["shape"], each["parameters"]["content_type"]) for each in found["inputs"]] == [
        ("a", [-1, 1], "np"),
        ("t", [-1, 1], "str"),
        ("when", [-1, 1], "datetime"),
        ("blob", [-1, 1], "base64"),
    ]
    assert found["outputs"] == [
        {"name": "output-0", "datatype": "INT64", "shape": [-1], "parameters": {"content_type": "np"}}
    ]
    assert found["parameters"] == {"content_type": "pd"}


@pytest.mark.parametrize(("name", "content_type"), [("input-0", "np"), ("x", "dict")])
def test_metadata_of_mlflow_tensors_say_how_to_send_them(name, content_type):
    """A tensor without a name goes by np, tensors by name as a dict."""
    inputs = (TensorSpec(name=name, datatype="FP64", shape=(-1, 4)),)
    signature = Signature(platform="mlflow", inputs=inputs, properties={"input_schema": "tensors"})
    assert metadata(signature)["parameters"] == {"content_type": content_type}


def test_models_without_a_schema_describe_themselves():
    """Nothing of our own metadata is covered where MLServer would know nothing."""
    inputs = (TensorSpec(name="input-0", datatype="FP64", shape=(-1, 4)),)
    assert metadata(Signature(platform="sklearn", inputs=inputs)) == {}
    assert metadata(Signature(platform="mlflow", inputs=inputs)) == {}


async def test_an_id_that_no_header_carries_is_in_the_body_only():
    """A line break in a caller's id ends no header."""
    response = await wrapped(model())(request(id="a\r\nset-cookie: b"))
    assert (response.id, "Ce-Id" in response.headers) == ("a\r\nset-cookie: b", False)


@pytest.mark.parametrize("content", ["", "prod\n"], ids=["none", "in a pod"])
def test_the_namespace_is_the_pods(content, tmp_path):
    """Inside a pod its namespace is read where Kubernetes puts it; elsewhere there is none."""
    file = tmp_path / "namespace"
    if content:
        file.write_text(content)
    assert namespace(file) == content.strip()


@pytest.mark.parametrize("protocol", ["mlflow", "v1"])
async def test_protocols_of_another_form_are_left_alone(protocol):
    """MLflow's and the V1 protocol have neither ids nor columns of one: the array stays as it was."""
    infer = wrapped(model(Tensor("predict", "INT64", np.array([1, 0]))), signature=Signature(platform="mlflow"))
    response = await infer(InferenceRequest(model_name="skl", inputs=(), protocol=protocol))
    assert (response.outputs[0].shape, response.outputs[0].name, response.headers) == ((2,), "predict", {})


async def streamed(protocol, closed, **options):
    async def twice(request):
        try:
            for number in range(3):
                output = Tensor("y", "INT64", np.array([number]))
                yield InferenceResponse(model_name="skl", outputs=(output,), id=request.id, headers={"X-Mine": "q"})
        finally:
            closed.append(True)

    options = {"model": "skl", "version": "", "server_name": "mlserver", "whole": False, **options}
    stream = answers_stream(twice, **options)
    return stream(InferenceRequest(model_name="skl", inputs=(), protocol=protocol))


@pytest.mark.parametrize("whole", [True, False])
async def test_the_answers_of_a_stream_share_one_id(whole):
    """Over REST each answer of a stream has its headers in its parameters; over gRPC they travel as metadata."""
    over_rest = [each async for each in await streamed("v2_rest", [], whole=whole)]
    over_grpc = [each async for each in await streamed("v2_grpc", [], whole=whole)]
    assert len({each.id for each in over_rest}) == 1
    assert [dict(each.parameters["headers"]) for each in over_rest] == [dict(each.headers) for each in over_rest]
    assert over_rest[0].headers["X-Mine"] == "q"
    assert [dict(each.parameters) for each in over_grpc] == [{}, {}, {}]
    assert [each.outputs[0].shape for each in over_rest] == [(1,) if whole else (1, 1)] * 3


async def test_who_leaves_a_stream_stops_the_model():
    """Closing the stream closes the model's."""
    closed = []
    responses = await streamed("v2_rest", closed)
    await anext(responses)
    await responses.aclose()
    assert closed == [True]
