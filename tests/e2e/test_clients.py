"""Real clients against a real server: tritonclient over HTTP and gRPC, the KServe client, plain HTTP."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


@pytest.fixture(params=["HTTP", "gRPC"])
def wire(request, server):
    module, port = {"HTTP": (tritonclient.http, "http_port"), "gRPC": (tritonclient.grpc, "grpc_port")}[request.param]
    client = module.InferenceServerClient(f"127.0.0.1:{getattr(server, port)}")
    yield module, client
    client.close()


def asked(module, name, rows, datatype):
    tensor = module.InferInput(name, list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows)
    return [tensor]


@pytest.mark.parametrize("model", ["linear", "forest"])
def test_tritonclient_gets_the_models_own_answers(wire, saved, iris, model):
    """Labels and probabilities are those of the estimator, in its own datatypes."""
    module, client = wire
    estimator = saved[1][model]
    rows = np.random.default_rng(0).normal(5, 2, (7, estimator.n_features_in_))
    outputs = [module.InferRequestedOutput("predict"), module.InferRequestedOutput("predict_proba")]
    answer = client.infer(model, asked(module, "input-0", rows, "FP64"), outputs=outputs)
    np.testing.assert_array_equal(answer.as_numpy("predict"), estimator.predict(rows))
    np.testing.assert_allclose(answer.as_numpy("predict_proba"), estimator.predict_proba(rows), rtol=1e-9)


def test_tritonclient_reads_what_the_server_says_of_itself(wire):
    """Health, metadata, index and statistics are as tritonclient expects them."""
    module, client = wire
    kwargs = {"as_json": True} if module is tritonclient.grpc else {}
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("graph", "1")
    if module is tritonclient.grpc:  # there an unknown model is an error of the call, over HTTP a status
        with pytest.raises(InferenceServerException, match="nobody"):
            client.is_model_ready("nobody")
    else:
        assert not client.is_model_ready("nobody")
    metadata = client.get_model_metadata("graph", **kwargs)
    assert metadata["inputs"][0]["datatype"] == "FP32"
    index = client.get_model_repository_index(**kwargs)
    index = index.get("models", index) if isinstance(index, dict) else index
    assert {entry["name"] for entry in index} == {"linear", "graph", "forest", "custom"}
    statistics = client.get_inference_statistics("graph", **kwargs)["model_stats"]
    assert statistics[0]["name"] == "graph"


def test_text_goes_both_ways(wire):
    """BYTES tensors carry text to a Python class and back."""
    module, client = wire
    words = np.array([b"one", "zwei \u00e4".encode()], np.object_)
    metadata = client.get_model_metadata("custom", **({"as_json": True} if module is tritonclient.grpc else {}))
    answer = client.infer("custom", asked(module, metadata["inputs"][0]["name"], words, "BYTES"))
    output = answer.as_numpy(metadata["outputs"][0]["name"])
    assert [word.decode() for word in output.ravel()] == ["ONE", "ZWEI \u00c4"]


def test_a_wrong_request_is_an_error_with_a_text(wire):
    """Unknown models and wrong shapes raise in the client, saying which."""
    module, client = wire
    rows = np.zeros((1, 3), np.float64)
    with pytest.raises(InferenceServerException, match="nobody"):
        client.infer("nobody", asked(module, "input-0", rows, "FP64"))
    with pytest.raises(InferenceServerException, match="input-0"):
        client.infer("linear", asked(module, "input-0", rows, "FP64"))


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_compression_changes_no_answer(wire, saved, iris, compression):
    """Compressed requests and answers carry the same numbers."""
    module, client = wire
    rows = iris[0]
    options = {}
    if compression and module is tritonclient.http:
        options = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    elif compression:
        options = {"compression_algorithm": compression}
    answer = client.infer("linear", asked(module, "input-0", rows, "FP64"), **options)
    np.testing.assert_array_equal(answer.as_numpy("predict"), saved[1]["linear"].predict(rows))


def test_tritonclient_streams(server):
    """Each partial answer of a streaming model arrives by itself."""
    words = np.array([b"a", b"b", b"c"], np.object_)
    answers = []
    import threading

    done = threading.Event()

    def receive(result, error):
        answers.append(error or result.as_numpy(result.get_response().outputs[0].name).ravel()[0])
        if len(answers) == 3:
            done.set()

    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        name = client.get_model_metadata("custom", as_json=True)["inputs"][0]["name"]
        client.start_stream(receive)
        client.async_stream_infer("custom", asked(tritonclient.grpc, name, words, "BYTES"))
        assert done.wait(60), answers
        client.stop_stream()
    assert answers == [b"A", b"B", b"C"]


KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

rows = json.loads(sys.argv[3])


def request():
    tensor = InferInput("input-0", list(np.shape(rows)), "FP64")
    tensor.set_data_from_numpy(np.array(rows), binary_data=sys.argv[4] == "binary")
    return InferRequest("linear", [tensor])


async def main():
    base = f"http://127.0.0.1:{sys.argv[1]}"
    answers = {}
    v2 = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await v2.is_server_live(base) and await v2.is_server_ready(base)
    assert await v2.is_model_ready(base, "linear")
    answers["v2"] = (await v2.infer(base, request(), model_name="linear")).outputs[0].as_numpy().tolist()
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    answers["v1"] = (await v1.infer(base, {"instances": rows}, model_name="linear"))["predictions"]
    grpc = InferenceGRPCClient(url=f"127.0.0.1:{sys.argv[2]}")
    assert await grpc.is_server_ready() and await grpc.is_model_ready("linear")
    answers["grpc"] = (await grpc.infer(request())).outputs[0].as_numpy().tolist()
    print(json.dumps(answers))


asyncio.run(main())
"""


@pytest.mark.parametrize("form", ["json", "binary"])
def test_the_kserve_client_gets_the_models_own_answers(server, saved, iris, form):
    """KServe's clients for V1, V2 and gRPC read the estimator's labels."""
    python = os.environ.get("KSERVE_CLIENT_PYTHON")
    if not python:
        pytest.skip("KSERVE_CLIENT_PYTHON names no environment with the KServe client; scripts/test makes one")
    rows = iris[0][::40]
    command = [python, "-c", KSERVE, str(server.http_port), str(server.grpc_port), json.dumps(rows.tolist()), form]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stderr
    expected = saved[1]["linear"].predict(rows).tolist()
    answers = json.loads(result.stdout.splitlines()[-1])
    assert answers == {"v2": expected, "v1": expected, "grpc": expected}
