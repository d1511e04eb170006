"""Pipelines and experiments over gRPC: who is asked by name and by the metadata `seldon-model`, and the way back."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v2_grpc
from headrace.routing.shares import Candidate
from headrace.routing.split import Split
from headrace.server.grpc import GrpcServer
from headrace.serving.models import Models, Served, State

SIGNATURE = Signature(
    platform="test",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),),
)


class Loads:
    async def load(self, name, parameters):
        raise NotImplementedError

    async def unload(self, name, *, unload_dependents=False):
        raise NotImplementedError


def times(name, factor):
    async def infer(request):
        data = request.inputs[0].data * np.float32(factor)
        return InferenceResponse(model_name=name, outputs=(Tensor("y", "FP32", data),), id=request.model_name)

    return infer


@pytest.fixture
async def client():
    """A client of a server with a model and a pipeline of one name, and an experiment. Calls run in a thread."""
    models = Models()

    def put(name, infer, **fields):
        models.put(Served(name=name, signature=SIGNATURE, infer=infer, state=State.READY, wanted=False, **fields))

    put("iris", times("iris", 2), version="1")
    put("iris", times("iris", 3), kind="pipeline")
    split = Split("ab", [Candidate(name, "1", 1, times(name, 7), f":{name}_1:") for name in ("a", "b")], seed=1)
    put("ab", split.infer, kind="experiment")
    waiting = Served(name="q", kind="pipeline", state=State.UNAVAILABLE, reason="model 'm' is not ready", wanted=False)
    models.put(waiting)
    server = GrpcServer(models, Loads(), version="1")
    port = await server.start("127.0.0.1", 0)
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    yield client
    await asyncio.to_thread(client.close)
    await server.stop(0)


async def infer(client, name, version="", **metadata):
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    headers = {key.replace("_", "-"): value for key, value in metadata.items()}
    return await asyncio.to_thread(client.infer, name, [tensor], version, headers=headers)


@pytest.mark.parametrize(
    ("name", "version", "metadata", "factor"),
    [
        ("iris", "", {}, 2),
        ("iris.pipeline", "", {}, 3),
        ("ab", "", {}, 7),
        ("iris", "1", {"seldon_model": "iris"}, 2),
        ("iris", "1", {"seldon_model": "iris.pipeline"}, 3),
        ("", "", {"seldon_model": "ab.experiment"}, 7),
        ("ab", "", {"seldon_model": "iris.model"}, 2),
    ],
)
async def test_name_and_metadata_say_who_is_asked(client, name, version, metadata, factor):
    """The metadata's name goes over the message's."""
    result = await infer(client, name, version, **metadata)
    assert result.as_numpy("y").tolist() == [factor]


async def test_streams_follow_the_metadata_too(client):
    """Every request of the call is for what it names."""
    answers = asyncio.Queue()
    loop = asyncio.get_running_loop()
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))

    def told(result, error):
        loop.call_soon_threadsafe(answers.put_nowait, (result, error))

    client.start_stream(told, headers={"seldon-model": "iris.pipeline"})
    client.async_stream_infer("anything", [tensor])
    result, error = await answers.get()
    await asyncio.to_thread(client.stop_stream)
    assert error is None
    assert result.as_numpy("y").tolist() == [3]


async def test_readiness_and_metadata_of_pipelines(client):
    """By their key, and by the metadata; what is not ready is not, and nobody's is not found."""

    async def ready(name, **metadata):
        headers = {key.replace("_", "-"): value for key, value in metadata.items()}
        return await asyncio.to_thread(client.is_model_ready, name, headers=headers)

    assert await ready("iris.pipeline")
    assert await ready("whatever", seldon_model="iris.pipeline")
    assert not await ready("q.pipeline")
    assert not await ready("iris", seldon_model="q.pipeline")
    metadata = await asyncio.to_thread(client.get_model_metadata, "iris.pipeline")
    assert (metadata.name, metadata.inputs[0].name, list(metadata.versions)) == ("iris", "x", [])
    index = await asyncio.to_thread(client.get_model_repository_index)
    assert {each.name for each in index.models} == {"iris", "iris.pipeline", "ab.experiment", "q.pipeline"}
    with pytest.raises(triton.InferenceServerException, match="pipeline 'nobody' is not found"):
        await ready("iris", seldon_model="nobody.pipeline")


async def test_routes_come_back_as_trailers_and_stick(client):
    """What `x-seldon-route` said, sent back as metadata, asks the same candidate."""
    channel = client._channel
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=v2_grpc.ModelInferResponse.FromString,
    )
    request = v2_grpc.ModelInferRequest(model_name="ab")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(1.0)

    async def ask(*metadata):
        answer, done = await asyncio.to_thread(call.with_call, request, metadata=metadata, timeout=60)
        return answer.model_name, dict(done.trailing_metadata())["x-seldon-route"]

    name, route = await ask()
    assert route == f":{name}_1:"
    for _ in range(10):
        assert await ask(("x-seldon-route", route)) == (name, route)
    with pytest.raises(grpc.RpcError):
        await asyncio.to_thread(call, request, metadata=(("seldon-model", "q.pipeline"),), timeout=60)
