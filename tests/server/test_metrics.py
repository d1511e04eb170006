"""The metrics listener over a real socket, and REST and gRPC timed as MLServer's metrics want it."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest

from headrace.errors import NotFound
from headrace.monitoring.metrics import Metrics
from headrace.payload import InferenceResponse, Signature
from headrace.protocols import v2_grpc
from headrace.server.grpc_connection import GrpcLimits, Listener
from headrace.server.grpc_services import SERVICE, InferenceService
from headrace.server.http import HttpLimits, HttpReply, HttpServer
from headrace.server.metrics import handler, timed, timed_calls
from headrace.serving.models import Models, Served, State

INFER = "/v2/models/{model_name}/infer"


@contextlib.asynccontextmanager
async def serving(answer):
    server = HttpServer(answer, limits=HttpLimits())
    port = await server.start("127.0.0.1", 0)
    try:
        yield lambda path, method="GET": asyncio.to_thread(ask, port, path, method)
    finally:
        await server.stop(1)


def ask(port, path, method):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize("path", ["/metrics", "/prometheus/m"])
async def test_metrics_are_at_the_path_that_is_set_and_nowhere_else(path):
    """The set path is scraped, the root says where it is, other paths and methods are refused."""
    metrics = Metrics()
    metrics.model("m", "").finished("v1", "ok", 10)
    async with serving(handler(metrics.render, path=path)) as call:
        code, headers, body = await call(path + "?name=x")
        assert (code, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b'headrace_requests_total{model="m",protocol="v1",status="ok",version=""} 1.0' in body
        assert (await call("/"))[::2] == (200, f"metrics are at {path}\n".encode())
        assert (await call("/other"))[0] == 404
        assert (await call(path + "/"))[0] == 404
        assert (await call(path, "POST"))[0] == 405


async def test_rest_requests_are_timed_by_path_method_and_status():
    """Each answer is counted once under MLServer's path; root path and query do not matter, wrong methods do not count."""

    async def answer(request):
        code = {b"DELETE": 405}.get(request.method, 404 if b"absent" in request.target else 200)
        return HttpReply(b"{}", code)

    times = Metrics(mlserver_names=True).rest_times
    async with serving(timed(answer, times, root_path="/edge/", own=lambda: ["/invocations"])) as call:
        for path, method in [
            ("/edge/v2/models/a/infer?x=1", "POST"),
            ("/v2/models/b/infer", "POST"),
            ("/v2/models/absent/infer", "POST"),
            ("/v2/models/a/infer", "DELETE"),
            ("/v2/health/ready", "GET"),
            ("/invocations", "POST"),
            ("/nope", "GET"),
        ]:
            await call(path, method)
    assert {key: durations.count() for key, durations in times.ended.items()} == {
        (INFER, "POST", 200): 2,
        (INFER, "POST", 404): 1,
        ("/invocations", "POST", 200): 1,
    }
    assert all(durations.total > 0 for durations in times.ended.values())
    assert times.in_progress == {"POST": 0, "DELETE": 0, "GET": 0}


async def test_a_stream_is_in_progress_until_its_last_part():
    """A stream counts when it has been sent whole, not when it begins."""
    last = asyncio.Event()
    times = Metrics(mlserver_names=True).rest_times

    async def parts():
        yield b"one"
        await last.wait()
        yield b"two"

    async def answer(request):
        return HttpReply(stream=parts())

    async with serving(timed(answer, times)) as call:
        asked = asyncio.create_task(call("/v2/models/a/infer_stream", "POST"))
        while not times.in_progress.get("POST"):
            await asyncio.sleep(0.001)
        assert not times.ended
        last.set()
        assert (await asked)[2] == b"onetwo"
    assert times.in_progress == {"POST": 0}
    assert [durations.count() for durations in times.ended.values()] == [1]


async def test_whatever_becomes_of_a_request_it_is_no_longer_in_progress():
    """A handler that fails or is cancelled, a stream that fails, is closed or is never read: none stays in progress."""
    times = Metrics(mlserver_names=True).rest_times

    class Request:
        """What the wrapper reads of one."""

        method, target = b"GET", b"/v2"

    async def fail(request):
        raise RuntimeError("no")

    async def hang(request):
        await asyncio.Event().wait()

    async def broken():
        yield b"one"
        raise RuntimeError("no")

    async def stream(request):
        return HttpReply(stream=broken())

    with pytest.raises(RuntimeError):
        await timed(fail, times)(Request())
    task = asyncio.create_task(timed(hang, times)(Request()))
    await asyncio.sleep(0)
    assert times.in_progress == {"GET": 1}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (times.in_progress, times.ended) == ({"GET": 0}, {})
    failed = (await timed(stream, times)(Request())).stream
    with pytest.raises(RuntimeError):
        [part async for part in failed]
    closed = (await timed(stream, times)(Request())).stream
    async with contextlib.aclosing(closed):
        await anext(closed)
    unread = await timed(stream, times)(Request())
    assert times.in_progress == {"GET": 1}
    del unread
    assert times.in_progress == {"GET": 0}
    assert [durations.count() for durations in times.ended.values()] == [3]


async def test_calls_and_the_messages_of_streams_are_counted_for_mlserver():
    """A unary call, a failing one and a stream are started, handled, timed; only the stream counts its messages."""
    metrics = Metrics(mlserver_names=True)
    models = Models()

    async def echo(request):
        if request.id == "bad":
            raise NotFound("no")
        return InferenceResponse(model_name="m", outputs=request.inputs)

    async def twice(request):
        for _ in range(2):
            yield await echo(request)

    models.put(
        Served(
            name="m",
            state=State.READY,
            infer=echo,
            infer_stream=twice,
            signature=Signature(platform="python"),
            wanted=True,
        )
    )
    service = InferenceService(models, None, name="headrace", version="1")
    listener = Listener(timed_calls(service.methods(), metrics.grpc_times), limits=GrpcLimits(), counts=metrics.grpc)
    port = await listener.start("127.0.0.1", 0, None)

    def call():
        message = v2_grpc.ModelInferRequest(model_name="m")
        tensor = message.inputs.add(name="x", datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(np.float32(1))
        bad = v2_grpc.ModelInferRequest()
        bad.CopyFrom(message)
        bad.id = "bad"
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            options = {
                "request_serializer": v2_grpc.ModelInferRequest.SerializeToString,
                "response_deserializer": lambda payload: payload,
            }
            unary = channel.unary_unary(f"/{SERVICE}/ModelInfer", **options)
            unary(message, timeout=60)
            with pytest.raises(grpc.RpcError):
                unary(bad, timeout=60)
            stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", **options)
            return len(list(stream(iter([message] * 3), timeout=60)))

    try:
        assert await asyncio.to_thread(call) == 6
    finally:
        await listener.stop(1)
    times = metrics.grpc_times
    assert dict(times.started) == {"ModelInfer": 2, "ModelStreamInfer": 1}
    assert (dict(times.received), dict(times.sent)) == ({"ModelStreamInfer": 3}, {"ModelStreamInfer": 6})
    assert {method: durations.count() for method, durations in times.ended.items()} == {
        "ModelInfer": 2,
        "ModelStreamInfer": 1,
    }
    text = metrics.render().decode()
    labels = 'grpc_service="inference.GRPCInferenceService",grpc_type="{}"'
    unary, bidirectional = labels.format("UNARY"), labels.format("BIDI_STREAMING")
    for line in (
        f'grpc_server_handled_total{{grpc_code="OK",grpc_method="ModelInfer",{unary}}} 1.0',
        f'grpc_server_handled_total{{grpc_code="NOT_FOUND",grpc_method="ModelInfer",{unary}}} 1.0',
        f'grpc_server_handled_total{{grpc_code="OK",grpc_method="ModelStreamInfer",{bidirectional}}} 1.0',
        f'grpc_server_handling_seconds_count{{grpc_method="ModelInfer",{unary}}} 2.0',
    ):
        assert line in text
