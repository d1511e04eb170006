"""The bodies around inference: metadata, repository, statistics, configuration."""

import base64
import json

import pytest

from headrace.errors import InvalidRequest
from headrace.payload import Signature, TensorSpec
from headrace.protocols import v2_control

SIGNATURE = Signature(
    platform="onnx_onnxruntime",
    inputs=(
        TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),
        TensorSpec(name="s", datatype="BYTES", shape=(-1,), content_type="str", optional=True),
    ),
    outputs=(TensorSpec(name="p", datatype="FP32", shape=(-1, 2), labels=("no", "yes")),),
    default_outputs=("p",),
    libraries={"onnxruntime": "1.20"},
    warnings=("one", "two"),
    properties={"engine": "native"},
)


def test_metadata_says_what_the_model_declares():
    """Metadata holds names, datatypes, shapes, content types, and properties as text."""
    assert json.loads(v2_control.render_metadata("m", ["1", "2"], SIGNATURE, placement="inline")) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnx_onnxruntime",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {
                "name": "s",
                "datatype": "BYTES",
                "shape": [-1],
                "parameters": {"content_type": "str", "optional": True},
            },
        ],
        "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, 2], "parameters": {"labels": ["no", "yes"]}}],
        "properties": {
            "engine": "native",
            "library.onnxruntime": "1.20",
            "default_outputs": "p",
            "warnings": "one; two",
            "placement": "inline",
        },
    }


def test_metadata_of_a_model_without_versions_or_signature():
    """What is not known is left out or empty, never null."""
    assert json.loads(v2_control.render_metadata("m", [], None)) == {
        "name": "m",
        "platform": "",
        "inputs": [],
        "outputs": [],
    }


def test_health_and_server():
    """Health bodies hold one boolean, server metadata the extensions."""
    assert v2_control.render_live(live=True) == b'{"live":true}'
    assert v2_control.render_ready(ready=False) == b'{"ready":false}'
    assert v2_control.render_model_ready("m", ready=True) == b'{"name":"m","ready":true}'
    assert "binary_tensor_data" in json.loads(v2_control.render_server("headrace", "1"))["extensions"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"", False), (b" \n", False), (b"{}", False), (b'{"ready":true}', True), (b'{"ready":null}', False)],
)
def test_an_index_may_ask_for_ready_models(body, expected):
    """Nothing, an empty object and false ask for all."""
    assert v2_control.parse_index(body) is expected


@pytest.mark.parametrize("body", [b'{"ready":1}', b'{"ready":"true"}'])
def test_an_index_of_another_type_is_refused(body):
    """Triton's words: expected a boolean."""
    with pytest.raises(InvalidRequest, match="Invalid value for 'ready': expected a boolean"):
        v2_control.parse_index(body)


def test_the_index_leaves_out_the_version_that_is_not_there():
    """A version appears only where there is one; a reason always, which MLServer's client asks for."""
    entries = [v2_control.IndexEntry("a", "1", "READY"), v2_control.IndexEntry("b", "", "UNAVAILABLE", "unloaded")]
    assert json.loads(v2_control.render_index(entries)) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "b", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]


def test_a_load_brings_configuration_and_files():
    """Files come out as bytes, the configuration as text, other parameters as they are."""
    content = base64.b64encode(b"\x00model").decode()
    body = json.dumps({"parameters": {"config": '{"a":1}', "file:1/model.onnx": content, "x": 5}}).encode()
    assert v2_control.parse_load(body) == {"config": '{"a":1}', "file:1/model.onnx": b"\x00model", "x": 5}
    assert v2_control.parse_load(b"") == {}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ([], "'parameters' must be an object"),
        ({"config": {}}, "must be the JSON text"),
        ({"config": "{"}, "parameter 'config' is not JSON"),
        ({"config": "[]"}, "must be a JSON object"),
        ({"file:a": "YQ=="}, "give its 'config' too"),
        ({"config": "{}", "file:a": "?"}, "'file:a' is not base64"),
        ({"config": "{}", "file:a": 5}, "in base64, as a string"),
    ],
    ids=str,
)
def test_a_load_that_is_wrong_is_refused(parameters, text):
    """The parameter is named."""
    with pytest.raises(InvalidRequest, match=text):
        v2_control.parse_load(json.dumps({"parameters": parameters}).encode())


def test_an_unload_may_take_dependents_along():
    """The parameter is a boolean."""
    assert v2_control.parse_unload(b'{"parameters":{"unload_dependents":true}}') is True
    assert v2_control.parse_unload(b"") is False
    with pytest.raises(InvalidRequest, match="unload_dependents"):
        v2_control.parse_unload(b'{"parameters":{"unload_dependents":"yes"}}')


def test_statistics_have_the_shape_clients_read():
    """Counts stand under inference_stats, batches by size."""
    batch = v2_control.BatchStatistics(batch_size=4, compute_infer=v2_control.Duration(1, 20))
    given = v2_control.Statistics(
        name="m",
        version="1",
        inference_count=4,
        execution_count=1,
        success=v2_control.Duration(2, 30),
        batches=(batch,),
    )
    (stats,) = json.loads(v2_control.render_statistics([given]))["model_stats"]
    assert stats["inference_stats"]["success"] == {"count": 2, "ns": 30}
    assert set(stats["inference_stats"]) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    assert stats["batch_stats"][0]["batch_size"] == 4
    assert stats["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": 20}
    assert (stats["inference_count"], stats["execution_count"], stats["last_inference"]) == (4, 1, 0)


@pytest.mark.parametrize(("most", "dims"), [(0, [-1, 4]), (8, [4])])
def test_configuration_is_in_tritons_terms(most, dims):
    """A model that batches leaves the batch out of its dims."""
    config = json.loads(v2_control.render_config("m", SIGNATURE, max_batch_size=most))
    assert (config["max_batch_size"], config["backend"]) == (most, "onnxruntime")
    assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": dims}
    assert config["input"][1]["data_type"] == "TYPE_STRING"
