"""The gRPC server over real sockets: grpcio and tritonclient as clients, raw HTTP/2 where they are too polite.

Matrix: every call of the service; raw and typed; every error class; deadlines, cancellation and disconnects for inline
and waiting models; large, too large and compressed messages; streams both ways with back-pressure; health; reflection;
many streams at once; graceful and abrupt ends; TLS; limits of connections, memory and patience.
"""

import asyncio
import contextlib
import queue
import socket
import ssl
import struct
import threading

import grpc
import hpack
import numpy as np
import pytest
import tritonclient.grpc as triton
import uvloop

from headrace import errors
from headrace.monitoring.tracing import parse as parse_traceparent
from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import v2_grpc
from headrace.protocols.v2_control import BatchStatistics, Duration, Statistics
from headrace.server import h2
from headrace.server.grpc import GrpcServer
from headrace.server.grpc_connection import GrpcLimits
from headrace.serving.models import Models, Served, State

SERVICE = "inference.GRPCInferenceService"
PATIENCE = 20


class Host:
    """A server with a few models, on a loop of its own, in a thread."""

    def __init__(self, tls=None, **options):
        self.options, self.tls = options, tls
        self.models = Models()
        self.loaded, self.counts = [], {}
        self.started, self.cancelled = queue.Queue(), queue.Queue()  # calls of `slow` and its like
        self.sent = 0  # answers that `endless` has given away
        self.port = 0

    def __enter__(self):
        ready = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(ready,))
        self.thread.start()
        assert ready.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.finish.set)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def run(self, ready):
        async def main():
            self.loop = asyncio.get_running_loop()
            self.finish, self.release = asyncio.Event(), asyncio.Event()
            for name in ("echo", "slow", "stubborn"):
                self.put(name, infer=getattr(self, name))
            self.put("counter", infer=self.many, infer_stream=self.counter)
            self.put("endless", infer=self.many, infer_stream=self.endless)
            self.put("raises", infer=self.raises)
            self.models.put(Served(name="loading", state=State.LOADING, reason="on its way", wanted=False))
            self.server = GrpcServer(self.models, self, version="1.2.3", counts=self.counts, **self.options)
            self.port = await self.server.start("127.0.0.1", 0, ssl=self.tls)
            ready.set()
            await self.finish.wait()
            await self.server.stop(0)

        uvloop.run(main())

    def put(self, name, **calls):
        specs = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),)
        labels = (TensorSpec(name="x", datatype="FP32", shape=(-1, 4), labels=("a", "b", "c", "d")),)
        signature = Signature(platform="python", inputs=specs, outputs=labels, properties={"engine": "none"})
        self.models.put(
            Served(name=name, version="1", state=State.READY, signature=signature, placement="inline", **calls)
        )

    def call(self, function, *arguments):
        """Run something on the server's loop."""

        async def run():
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def stop(self, grace):
        return asyncio.run_coroutine_threadsafe(self.server.stop(grace), self.loop)

    # models

    async def echo(self, request):
        return InferenceResponse(
            model_name=request.model_name,
            model_version="1",
            outputs=request.inputs,
            parameters=request.parameters,
            headers={"x-seen": request.headers.get("x-asked", "")} if "x-asked" in request.headers else {},
        )

    async def slow(self, request):
        self.started.put(request)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.put(request)
            raise
        return await self.echo(request)

    async def stubborn(self, request):
        self.started.put(request)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        self.cancelled.put(request)
        await self.release.wait()
        return await self.echo(request)

    async def raises(self, request):
        kind = request.parameters["error"]
        if request.parameters.get("late"):
            await asyncio.sleep(0)
        if kind == "cancelled":
            raise asyncio.CancelledError
        raise getattr(errors, kind)("the reason") if hasattr(errors, kind) else KeyError("secret")

    async def many(self, request):
        raise errors.NotSupported("it answers with a stream")

    async def counter(self, request):
        for number in range(int(request.parameters.get("count", 3))):
            await asyncio.sleep(0)
            if number == request.parameters.get("fail_at"):
                raise errors.RuntimeFailed("no more numbers")
            yield InferenceResponse(
                model_name="counter", outputs=(Tensor("n", "INT64", np.array([number])),), id=request.id
            )

    async def endless(self, request):
        try:
            while True:
                yield InferenceResponse(
                    model_name="endless", outputs=(Tensor("n", "UINT8", np.zeros(100_000, np.uint8)),)
                )
                self.sent += 1
        finally:
            self.cancelled.put(request)

    # the repository

    async def load(self, name, parameters):
        if name == "broken":
            raise errors.LoadFailed("model 'broken': no such file")
        self.loaded.append((name, dict(parameters)))

    async def unload(self, name, *, unload_dependents=False):
        self.loaded.append((name, unload_dependents))


@pytest.fixture(scope="module")
def shared():
    with Host() as host:
        yield host


@pytest.fixture
def fresh():
    with Host() as host:
        yield host


@contextlib.contextmanager
def channel(host, options=(), **keywords):
    made = grpc.insecure_channel(
        f"127.0.0.1:{host.port}",
        options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1), *options],
        **keywords,
    )
    with made:
        yield made


def method(connection, name, service=SERVICE, kind="unary_unary"):
    row = v2_grpc.POOL.FindServiceByName(service).methods_by_name[name]
    response = v2_grpc.message_class(row.output_type.full_name)
    return getattr(connection, kind)(
        f"/{service}/{name}",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=response.FromString,
    )


def message(name, /, **fields):
    return v2_grpc.message_class(f"inference.{name}")(**fields)


def infer_request(model="echo", data=None, **fields):
    data = np.ones((1, 4), np.float32) if data is None else data
    made = v2_grpc.ModelInferRequest(model_name=model, **fields)
    made.inputs.add(name="x", datatype="FP32", shape=data.shape)
    made.raw_input_contents.append(data.tobytes())
    return made


def parameter(made, name, value):
    field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
    setattr(made.parameters[name], field, value)
    return made


def failure(call, *arguments, **keywords):
    """The RpcError that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **keywords)
    return caught.value


def connect_until_refused(port):
    """Raises ConnectionRefusedError when the listener has closed, which the loop does in its own time."""
    while True:
        with contextlib.suppress(ConnectionResetError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()


class Raw:
    """A client that sends frames as it likes."""

    def __init__(self, host, window=1 << 20):
        self.socket = socket.create_connection(("127.0.0.1", host.port), timeout=PATIENCE)
        self.decoder, self.buffer = hpack.Decoder(), b""
        self.send(h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", h2.INITIAL_WINDOW_SIZE, window)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, wire):
        self.socket.sendall(wire)

    def request(self, stream=1, body=None, path=f"/{SERVICE}/ModelInfer", end=True, **headers):
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            "te": "trailers",
            "content-type": "application/grpc",
            **{
                (":" + name[:-1] if name.endswith("_") else name.replace("_", "-")): value
                for name, value in headers.items()
            },
        }
        self.send(h2.frame(h2.HEADERS, 4, stream, h2.header_block(fields.items())))
        if body is not None:
            wire = struct.pack(">BI", 0, len(body)) + body
            for start in range(0, len(wire), 16_384):
                self.send(h2.frame(h2.DATA, 0, stream, wire[start : start + 16_384]))
        if end:
            self.send(h2.frame(h2.DATA, 1, stream))

    def frame(self):
        """(type, flags, stream, payload); None at the end of the connection."""
        while True:
            if len(self.buffer) >= 9:
                high, low, kind, flags, stream = struct.unpack_from(">HBBBI", self.buffer)
                length = high << 8 | low
                if len(self.buffer) >= 9 + length:
                    payload, self.buffer = self.buffer[9 : 9 + length], self.buffer[9 + length :]
                    return kind, flags, stream, payload
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.buffer += data

    def until(self, wanted):
        """The next frame of this type."""
        while (found := self.frame()) is not None:
            if found[0] == wanted:
                return found
        return None

    def fields(self):
        """The headers of the next HEADERS frame."""
        return dict(self.decoder.decode(self.until(h2.HEADERS)[3]))


# -- calls --


def test_tritonclient_sees_everything_but_inference(shared):
    """Each call of tritonclient's gRPC client that is not inference is answered with what is true."""
    client = triton.InferenceServerClient(f"127.0.0.1:{shared.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("loading")
    server = client.get_server_metadata()
    assert (server.name, server.version) == ("headrace", "1.2.3")
    assert "classification" in server.extensions
    metadata = client.get_model_metadata("echo", as_json=True)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert metadata["versions"] == ["1"]
    config = client.get_model_config("counter").config
    assert (config.name, config.backend, list(config.input[0].dims)) == ("counter", "python", [-1, 4])
    assert config.model_transaction_policy.decoupled
    index = {entry.name: (entry.state, entry.reason) for entry in client.get_model_repository_index().models}
    assert index["echo"] == ("READY", "")
    assert index["loading"] == ("LOADING", "on its way")
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert client.get_log_settings().settings["log_error"].bool_param
    with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED.*maps no memory"):
        client.register_system_shared_memory("r", "/r", 64)
    with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED.*cannot be changed by a call"):
        client.update_trace_settings(settings={"trace_rate": "1"})
    with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED.*cannot be changed by a call"):
        client.update_log_settings({"log_info": True})
    with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED.*no statistics"):
        client.get_inference_statistics()
    client.close()


def test_metadata_carries_properties(shared):
    """The protocol's own properties field tells engine and placement."""
    with channel(shared) as connection:
        answer = method(connection, "ModelMetadata")(message("ModelMetadataRequest", name="echo"))
        assert dict(answer.properties) == {"engine": "none", "placement": "inline"}


def test_statistics_are_what_was_counted():
    """ModelStatistics renders what the server was given for each version."""
    counted = Statistics(
        name="echo",
        version="1",
        last_inference_ms=5,
        inference_count=10,
        execution_count=2,
        success=Duration(3, 300),
        batches=(BatchStatistics(batch_size=5, compute_infer=Duration(2, 200)),),
    )
    with Host(statistics=lambda served: counted) as host:
        client = triton.InferenceServerClient(f"127.0.0.1:{host.port}")
        (stats,) = client.get_inference_statistics("echo").model_stats
        assert (stats.inference_count, stats.execution_count, stats.last_inference) == (10, 2, 5)
        assert (stats.inference_stats.success.count, stats.inference_stats.success.ns) == (3, 300)
        assert (stats.batch_stats[0].batch_size, stats.batch_stats[0].compute_infer.count) == (5, 2)
        with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
            client.get_inference_statistics("nothing")
        client.close()


def test_raw_inference_by_tritonclient(shared):
    """Tensors of several datatypes, an id, parameters and a classification come back as they should."""
    client = triton.InferenceServerClient(f"127.0.0.1:{shared.port}")
    x = triton.InferInput("x", [1, 4], "FP32").set_data_from_numpy(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32))
    words = triton.InferInput("words", [2], "BYTES").set_data_from_numpy(np.array([b"one", b"\xff"], np.object_))
    half = triton.InferInput("half", [1], "FP16").set_data_from_numpy(np.ones(1, np.float16))
    result = client.infer("echo", [x, words, half], request_id="7", parameters={"k": "v", "n": 3})
    assert result.get_response().id == "7"
    assert result.get_response().parameters["n"].int64_param == 3
    assert result.as_numpy("words").tolist() == [b"one", b"\xff"]
    assert result.as_numpy("half").dtype == np.float16
    np.testing.assert_array_equal(result.as_numpy("x"), np.array([[0.1, 0.4, 0.3, 0.2]], np.float32))
    ranked = client.infer("echo", [x], outputs=[triton.InferRequestedOutput("x", class_count=2)])
    assert ranked.as_numpy("x").tolist() == [[b"0.400000:1:b", b"0.300000:2:c"]]
    client.close()


def test_typed_inference(shared):
    """A typed request is answered typed."""
    request = v2_grpc.ModelInferRequest(model_name="echo", model_version="1")
    request.inputs.add(name="x", datatype="INT64", shape=[2], contents={"int64_contents": [1, -2]})
    with channel(shared) as connection:
        answer = method(connection, "ModelInfer")(request)
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.int64_contents) == [1, -2]


@pytest.mark.parametrize("late", [False, True], ids=["inline", "waiting"])
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("InvalidRequest", grpc.StatusCode.INVALID_ARGUMENT),
        ("TooLarge", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("NotSupported", grpc.StatusCode.UNIMPLEMENTED),
        ("RuntimeFailed", grpc.StatusCode.INTERNAL),
        ("ModelNotReady", grpc.StatusCode.UNAVAILABLE),
        ("Overloaded", grpc.StatusCode.UNAVAILABLE),
        ("DeadlineExceeded", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("WorkerDied", grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_errors_have_their_status_and_text(shared, kind, code, late):
    """An error of ours reaches the client with its code and its text, raised at once or later."""
    request = parameter(parameter(infer_request("raises"), "error", kind), "late", late)
    with channel(shared, options=[("grpc.enable_retries", 0)]) as connection:
        error = failure(method(connection, "ModelInfer"), request)
    assert (error.code(), error.details()) == (code, "the reason")
    if kind == "Overloaded":
        assert ("grpc-retry-pushback-ms", "1000") in [tuple(item) for item in error.trailing_metadata()]


@pytest.mark.parametrize("late", [False, True], ids=["inline", "waiting"])
def test_a_foreign_error_says_its_type_and_nothing_else(shared, late):
    """An exception nobody meant is INTERNAL; neither its text nor a traceback reaches the client."""
    request = parameter(parameter(infer_request("raises"), "error", "foreign"), "late", late)
    with channel(shared) as connection:
        error = failure(method(connection, "ModelInfer"), request)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error: KeyError")


@pytest.mark.parametrize("late", [False, True], ids=["inline", "waiting"])
def test_a_model_that_cancels_itself_is_unavailable(shared, late):
    """A CancelledError that nobody asked for ends its own call, and the connection goes on."""
    request = parameter(parameter(infer_request("raises"), "error", "cancelled"), "late", late)
    with channel(shared, options=[("grpc.enable_retries", 0)]) as connection:
        assert failure(method(connection, "ModelInfer"), request).code() == grpc.StatusCode.UNAVAILABLE
        assert method(connection, "ModelInfer")(infer_request()).model_name == "echo"


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (infer_request("nothing"), grpc.StatusCode.NOT_FOUND, "model 'nothing' is not found"),
        (infer_request("echo", model_version="9"), grpc.StatusCode.NOT_FOUND, "version '9' is not found"),
        (infer_request("loading"), grpc.StatusCode.UNAVAILABLE, "on its way"),
        (infer_request("counter"), grpc.StatusCode.UNIMPLEMENTED, "it answers with a stream"),
        (message("ModelInferRequest", model_name="echo", raw_input_contents=[b""]), grpc.StatusCode.INVALID_ARGUMENT, "raw input contents"),
    ],
    ids=["unknown model", "unknown version", "loading", "decoupled", "contradiction"],
)  # fmt: skip
def test_requests_that_cannot_be_served(shared, request_, code, text):
    """What is wrong with the request decides the code, and the text says it."""
    with channel(shared, options=[("grpc.enable_retries", 0)]) as connection:
        error = failure(method(connection, "ModelInfer"), request_)
    assert error.code() == code
    assert text in error.details()


def test_unknown_methods_and_broken_messages(shared):
    """A path nobody serves is UNIMPLEMENTED, bytes that are no message INVALID_ARGUMENT."""
    with channel(shared) as connection:
        error = failure(connection.unary_unary("/inference.GRPCInferenceService/Nothing"), b"")
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        error = failure(connection.unary_unary(f"/{SERVICE}/ModelInfer"), b"\xff\xff\xff")
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "inference.ModelInferRequest" in error.details()


def test_metadata_goes_in_and_comes_back(shared):
    """Call metadata are the request's headers, and the response's headers are trailing metadata."""
    with channel(shared) as connection:
        _, call = method(connection, "ModelInfer").with_call(infer_request(), metadata=(("x-asked", "this"),))
        answers = method(connection, "ModelStreamInfer", kind="stream_stream")(
            iter([infer_request()]), metadata=(("x-asked", "that"),)
        )
        assert len(list(answers)) == 1
        assert ("x-seen", "that") in [tuple(item) for item in answers.trailing_metadata()]
    assert ("x-seen", "this") in [tuple(item) for item in call.trailing_metadata()]


MLSERVER_METADATA = "inference.MLServerModelMetadataResponse"


def put_mlservers(host, name="theirs", **calls):
    """A model whose clients are made for MLServer."""
    calls = {"infer": host.many, "infer_stream": host.counter, **calls}
    tensors = [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "parameters": {"content_type": "np"}}]
    signature = Signature(platform="python", warnings=("it is old",), properties={"engine": "none"})
    served = Served(
        name=name,
        version="1",
        state=State.READY,
        signature=signature,
        dialect="mlserver",
        declared={"platform": "sk", "inputs": tensors, "parameters": {"content_type": "pd", "more": [1]}},
        warnings=("`warm_workers` is not honoured",),
        **calls,
    )
    host.call(host.models.put, served)


def stream(connection, *requests, response="inference.ModelStreamInferResponse", form=""):
    """The answers of a ModelStreamInfer call, read as messages of this class."""
    call = connection.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=v2_grpc.message_class(response).FromString,
    )
    return list(call(iter(requests), metadata=(("headrace-stream-form", form),) if form else ()))


def test_a_stream_of_a_model_with_mlservers_clients_is_of_bare_answers(fresh):
    """Answers are ModelInferResponse themselves, and an error ends the stream with its status."""
    put_mlservers(fresh)
    put_mlservers(fresh, "fails", infer=fresh.raises, infer_stream=None)
    bare = "inference.ModelInferResponse"
    with channel(fresh) as connection:
        asked = parameter(infer_request("theirs", id="7"), "count", 2)
        answers = stream(connection, asked, response=bare)
        assert [(answer.id, len(answer.outputs)) for answer in answers] == [("7", 1), ("7", 1)]
        broken = parameter(infer_request("fails"), "error", "InvalidRequest")
        error = failure(stream, connection, broken, response=bare)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_of_a_stream_may_choose_its_form(fresh):
    """Triton's form can be had of a model of MLServer's, and the other way round; a third form is refused."""
    put_mlservers(fresh)
    with channel(fresh) as connection:
        asked = parameter(infer_request("theirs"), "count", 1)
        assert [each.infer_response.model_name for each in stream(connection, asked, form="triton")] == ["counter"]
        asked = parameter(infer_request("counter"), "count", 1)
        answers = stream(connection, asked, response="inference.ModelInferResponse", form="mlserver")
        assert [each.model_name for each in answers] == ["counter"]
        assert failure(stream, connection, asked, form="x").code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_to_a_model_nobody_knows_is_of_the_form_of_all():
    """Where every model is MLServer's, an unknown one ends the stream with NOT_FOUND; elsewhere it is told in it."""
    with Host() as host, channel(host) as connection:
        assert "nope" in stream(connection, infer_request("nope"))[0].error_message
        for served in list(host.models):
            host.call(host.models.forget, served)
        put_mlservers(host)
        assert failure(stream, connection, infer_request("nope")).code() == grpc.StatusCode.NOT_FOUND


def test_metadata_for_mlservers_clients_is_in_their_form(fresh):
    """What is declared, content types and warnings are parameters, which their field 6 holds."""
    put_mlservers(fresh)
    with channel(fresh) as connection:
        metadata = connection.unary_unary(
            f"/{SERVICE}/ModelMetadata",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=v2_grpc.message_class(MLSERVER_METADATA).FromString,
        )(message("ModelMetadataRequest", name="theirs"))
    assert (metadata.platform, list(metadata.versions)) == ("sk", ["1"])
    (tensor,) = metadata.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [-1, 4])
    assert tensor.parameters["content_type"].string_param == "np"
    assert {name: each.string_param for name, each in metadata.parameters.items()} == {
        "content_type": "pd",
        "more": "[1]",
        "warnings": "it is old; `warm_workers` is not honoured",
    }


def test_the_repository_answers_under_its_first_name_too(fresh):
    """Index, load and unload of the deprecated service are those of the other."""
    service = "inference.model_repository"

    def ask(connection, name, **fields):
        response = v2_grpc.message_class(f"{service}.{name}Response")
        return connection.unary_unary(
            f"/{service}.ModelRepositoryService/{name}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=response.FromString,
        )(v2_grpc.message_class(f"{service}.{name}Request")(**fields))

    with channel(fresh) as connection:
        index = ask(connection, "RepositoryIndex", ready=True)
        assert {(each.name, each.state) for each in index.models} >= {("echo", "READY")}
        assert "loading" not in {each.name for each in index.models}
        ask(connection, "RepositoryModelLoad", model_name="m")
        ask(connection, "RepositoryModelUnload", model_name="m")
        assert fresh.loaded == [("m", {}), ("m", False)]


def test_server_metadata_names_the_extensions_of_the_settings():
    """What the settings name stands beside what is built in."""
    with Host(extensions=("mine",)) as host, channel(host) as connection:
        metadata = method(connection, "ServerMetadata")(message("ServerMetadataRequest"))
        assert metadata.extensions[-1] == "mine"
        assert "statistics" in metadata.extensions


def test_repository_calls_in_both_forms(fresh):
    """Load and unload read Triton's form and KServe's, pass parameters on, and answer with name and success."""
    client = triton.InferenceServerClient(f"127.0.0.1:{fresh.port}")
    client.load_model("m", config='{"a": 1}', files={"file:1/model.onnx": b"\0\1"})
    client.unload_model("m", unload_dependents=True)
    with pytest.raises(triton.InferenceServerException, match=r"INTERNAL.*no such file"):
        client.load_model("broken")
    client.close()
    with channel(fresh) as connection:
        answer = method(connection, "RepositoryModelLoad")(message("RepositoryModelLoadRequest", repository_name="k"))
        assert (answer.model_name, answer.isLoaded) == ("k", True)
    assert fresh.loaded == [("m", {"config": '{"a": 1}', "file:1/model.onnx": b"\0\1"}), ("m", True), ("k", {})]


# -- sizes --


def test_a_message_of_60_mebibytes(shared):
    """A request and an answer of 60 MiB go through, with every byte."""
    data = np.arange(15 << 20, dtype=np.float32).reshape(1, -1)
    with channel(shared) as connection:
        answer = method(connection, "ModelInfer")(infer_request(data=data))
    assert answer.raw_output_contents[0] == data.tobytes()
    assert shared.server._listener.buffered == 0


def test_messages_over_the_limit():
    """A request over the limit is RESOURCE_EXHAUSTED and names the setting; so is an answer, and the server goes on."""
    with Host(max_message_bytes=10_000) as host, channel(host) as connection:
        infer = method(connection, "ModelInfer")
        error = failure(infer, infer_request(data=np.ones((1, 4000), np.float32)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc.max_message_bytes" in error.details()
        request = infer_request(data=np.ones((1, 2400), np.float32))
        request.outputs.add(name="x").parameters["classification"].int64_param = 2400
        error = failure(infer, request)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "answer" in error.details()
        assert infer(infer_request()).model_name == "echo"
        assert host.server._listener.buffered == 0


def test_requests_under_way_share_a_bound_of_memory():
    """The call that would make unfinished requests hold too much is RESOURCE_EXHAUSTED; what it held is given back."""
    limits = GrpcLimits(max_buffered_bytes=100_000)
    with Host(limits=limits) as host, Raw(host) as raw:
        for stream in (1, 3):
            raw.request(stream, None, end=False)
            raw.send(h2.frame(h2.DATA, 0, stream, struct.pack(">BI", 0, 90_000) + bytes(16_000)))
            for _ in range(3):
                raw.send(h2.frame(h2.DATA, 0, stream, bytes(16_000)))
        fields = raw.fields()
        assert fields["grpc-status"] == "8"
        assert "max_buffered_bytes" in fields["grpc-message"]
        raw.request(5, infer_request().SerializeToString())
        raw.fields()
        assert raw.fields() == {"grpc-status": "0"}
        assert 60_000 < host.server._listener.buffered < 70_000


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=["gzip", "deflate"])
def test_compressed_requests(shared, compression):
    """A client may compress by gzip or deflate."""
    data = np.zeros((100, 100), np.float32)
    with channel(shared, compression=compression) as connection:
        answer = method(connection, "ModelInfer")(infer_request(data=data))
    assert answer.raw_output_contents[0] == data.tobytes()


# -- time --


def test_a_deadline_of_the_client_cancels_the_model(fresh):
    """A call whose deadline passes ends with DEADLINE_EXCEEDED and its handler is cancelled."""
    with channel(fresh) as connection:
        error = failure(method(connection, "ModelInfer"), infer_request("slow"), timeout=0.1)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    request = fresh.started.get(timeout=PATIENCE)
    assert request.deadline is not None
    assert fresh.cancelled.get(timeout=PATIENCE) is request


def test_the_server_enforces_the_deadline(fresh):
    """Though the client keeps waiting, grpc-timeout ends the call; even a handler that ignores cancellation."""
    with Raw(fresh) as raw:
        raw.request(1, infer_request("stubborn").SerializeToString(), grpc_timeout="50m")
        fields = raw.fields()
        assert (fields["grpc-status"], ":status" in fields) == ("4", True)
        fresh.cancelled.get(timeout=PATIENCE)
        raw.request(3, infer_request("echo").SerializeToString(), grpc_timeout="50S")
        assert raw.fields() == {":status": "200", "content-type": "application/grpc"}
        assert raw.fields() == {"grpc-status": "0"}


def test_a_deadline_covers_a_request_that_never_ends(fresh):
    """A body that does not come is DEADLINE_EXCEEDED in time."""
    with Raw(fresh) as raw:
        raw.request(1, None, end=False, grpc_timeout="50m")
        assert raw.fields()["grpc-status"] == "4"


def test_the_default_deadline():
    """A call without a deadline gets the server's."""
    with Host(request_timeout_seconds=0.05) as host, channel(host) as connection:
        assert failure(method(connection, "ModelInfer"), infer_request("slow")).code() == (
            grpc.StatusCode.DEADLINE_EXCEEDED
        )


def test_cancelling_reaches_the_handler(fresh):
    """A client that cancels its call cancels the handler, and the server counts it."""
    with channel(fresh) as connection:
        future = method(connection, "ModelInfer").future(infer_request("slow"))
        request = fresh.started.get(timeout=PATIENCE)
        future.cancel()
        assert fresh.cancelled.get(timeout=PATIENCE) is request
    assert fresh.counts["ModelInfer", "CANCELLED"] == 1


def test_a_lost_connection_cancels_its_calls(fresh):
    """A client that disappears leaves no handler running."""
    with Raw(fresh) as raw:
        raw.request(1, infer_request("slow").SerializeToString())
        request = fresh.started.get(timeout=PATIENCE)
    assert fresh.cancelled.get(timeout=PATIENCE) is request


def test_cancelled_handlers_that_go_on_are_bounded():
    """Opening and cancelling calls of a handler that ignores it does not pile up more than the bound."""
    limits = GrpcLimits(h2=h2.H2Limits(max_concurrent_streams=4))
    with Host(limits=limits) as host, Raw(host) as raw:
        body = infer_request("stubborn").SerializeToString()
        for stream in range(1, 41, 2):
            raw.request(stream, body)
            raw.send(h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">I", 8)))
        raw.send(h2.frame(h2.PING, 0, 0, b"finished"))
        raw.until(h2.PING)
        assert host.started.qsize() <= 8
        host.call(host.release.set)


# -- streams --


def collect(host, send, count):
    """What a tritonclient stream gives for what `send` does: results and errors in order."""
    results = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{host.port}")
    client.start_stream(callback=lambda result, error: results.put((result, error)))
    send(client)
    found = [results.get(timeout=PATIENCE) for _ in range(count)]
    client.stop_stream()
    client.close()
    return found


def one_input():
    return [triton.InferInput("x", [1, 4], "FP32").set_data_from_numpy(np.ones((1, 4), np.float32))]


def test_a_stream_answers_in_order_and_survives_errors(shared):
    """Plain and streaming models answer in one stream; an error names its request and the stream goes on."""

    def send(client):
        client.async_stream_infer("echo", one_input(), request_id="a")
        client.async_stream_infer("nothing", one_input(), request_id="b")
        client.async_stream_infer("counter", one_input(), request_id="c", parameters={"count": 2})
        client.async_stream_infer("counter", one_input(), request_id="d", parameters={"fail_at": 1})
        client.async_stream_infer("echo", one_input(), request_id="e")

    found = collect(shared, send, 7)
    seen = [(result.get_response().id if result is not None else "", str(error or "")) for result, error in found]
    assert [identifier for identifier, error in seen if not error] == ["a", "c", "c", "d", "e"]
    assert "model 'nothing' is not found" in seen[1][1]
    assert "no more numbers" in seen[5][1]


def test_errors_in_a_stream_carry_the_id(shared):
    """The response beside error_message holds the id of the request that failed."""
    with channel(shared) as connection:
        stream = method(connection, "ModelStreamInfer", kind="stream_stream")
        (answer,) = stream(iter([infer_request("nothing", id="b")]))
    assert (answer.infer_response.id, "not found" in answer.error_message) == ("b", True)


def test_triton_grpc_error_ends_the_stream(shared):
    """With that metadata the first error is the stream's status."""
    with channel(shared) as connection:
        stream = method(connection, "ModelStreamInfer", kind="stream_stream")
        requests = iter([infer_request("echo"), infer_request("nothing"), infer_request("echo")])
        answers = stream(requests, metadata=(("triton_grpc_error", "true"),))
        assert next(answers).infer_response.model_name == "echo"
        assert failure(lambda: next(answers)).code() == grpc.StatusCode.NOT_FOUND


def test_final_responses(shared):
    """Asked for, every response says whether it is the last, and a streaming model ends with an empty one."""

    def send(client):
        client.async_stream_infer("counter", one_input(), request_id="c", enable_empty_final_response=True)
        client.async_stream_infer("echo", one_input(), request_id="e", enable_empty_final_response=True)

    answers = [result.get_response() for result, _ in collect(shared, send, 5)]
    final = [
        (answer.id, answer.parameters["triton_final_response"].bool_param, len(answer.outputs)) for answer in answers
    ]
    assert final == [("c", False, 1), ("c", False, 1), ("c", False, 1), ("c", True, 0), ("e", True, 1)]


def test_an_empty_stream_is_fine(shared):
    """A stream without a request ends with OK and no answer."""
    with channel(shared) as connection:
        assert list(method(connection, "ModelStreamInfer", kind="stream_stream")(iter([]))) == []


def test_a_slow_reader_stops_the_model(fresh):
    """A client that opens no window gets what fits it, and the model waits; cancelling ends the model."""
    with Raw(fresh, window=300_000) as raw:
        raw.request(1, infer_request("endless").SerializeToString(), f"/{SERVICE}/ModelStreamInfer", end=False)
        raw.send(h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
        received = 0
        while received < 300_000:
            received += len(raw.until(h2.DATA)[3])
        raw.send(h2.frame(h2.PING, 0, 0, b"finished"))
        raw.until(h2.PING)
        assert received == 300_000
        assert fresh.sent <= 3
        raw.send(h2.frame(h2.WINDOW_UPDATE, 0, 1, struct.pack(">I", 200_000)))
        while received < 500_000:
            received += len(raw.until(h2.DATA)[3])
        assert fresh.sent <= 5
        raw.send(h2.frame(h2.RST_STREAM, 0, 1, struct.pack(">I", 8)))
        fresh.cancelled.get(timeout=PATIENCE)


def test_a_client_that_does_not_read_its_socket_stops_the_model(fresh):
    """With windows wide open and a full socket the model waits too: the server buffers a bounded amount."""
    with Raw(fresh, window=(1 << 31) - 1) as raw:
        raw.send(h2.frame(h2.WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 30))))
        raw.request(1, infer_request("endless").SerializeToString(), f"/{SERVICE}/ModelStreamInfer", end=False)
        raw.until(h2.DATA)
        last = -1
        while fresh.sent != last:  # until it stands still
            last = fresh.sent
            fresh.call(asyncio.sleep, 0.3)
        assert fresh.sent < 400
    fresh.cancelled.get(timeout=PATIENCE)


def test_a_handler_that_is_behind_closes_the_window(fresh):
    """Requests that nobody takes yet stop at the stream's window, and all are answered in the end."""
    with channel(fresh) as connection:
        data = np.ones((1, 100_000), np.float32)
        requests = [
            infer_request("slow", data, id="0"),
            *(infer_request("echo", data, id=str(n)) for n in range(1, 12)),
        ]
        answers = method(connection, "ModelStreamInfer", kind="stream_stream")(iter(requests))
        fresh.started.get(timeout=PATIENCE)
        fresh.call(asyncio.sleep, 0.2)
        (held,) = [live.unconsumed for peer in fresh.server._listener._connections for live in peer._calls.values()]
        assert held <= fresh.options.get("limits", GrpcLimits()).h2.stream_window_bytes
        fresh.call(fresh.release.set)
        assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(12)]


def test_many_streams_on_one_connection(fresh):
    """Two hundred calls wait at once on one connection and each gets its own answer."""
    with channel(fresh) as connection:
        infer = method(connection, "ModelInfer")
        futures = [infer.future(infer_request("slow", np.full((1, 4), n, np.float32), id=str(n))) for n in range(200)]
        for _ in futures:
            fresh.started.get(timeout=PATIENCE)
        fresh.call(fresh.release.set)
        for n, future in enumerate(futures):
            answer = future.result(PATIENCE)
            assert (answer.id, np.frombuffer(answer.raw_output_contents[0], np.float32)[0]) == (str(n), n)


# -- health and reflection --


def health(connection, name, kind="unary_unary"):
    return method(connection, name, "grpc.health.v1.Health", kind)


def check(service):
    return v2_grpc.message_class("grpc.health.v1.HealthCheckRequest")(service=service)


def test_health_by_name(shared):
    """The server, its service and each model have a health; an unknown name is NOT_FOUND."""
    with channel(shared) as connection:
        ask = health(connection, "Check")
        assert [ask(check(name)).status for name in ("", SERVICE, "echo", "loading")] == [1, 1, 1, 2]
        assert failure(ask, check("nothing")).code() == grpc.StatusCode.NOT_FOUND
        listed = health(connection, "List")(v2_grpc.message_class("grpc.health.v1.HealthListRequest")())
        assert {name: entry.status for name, entry in listed.statuses.items()}["loading"] == 2


def test_watch_tells_changes_and_the_end(fresh):
    """A watch gives the state now, every change, and NOT_SERVING when the server stops."""
    with channel(fresh) as connection:
        watch = health(connection, "Watch", "unary_stream")(check("loading"))
        assert next(watch).status == 2
        unknown = health(connection, "Watch", "unary_stream")(check("nothing"))
        assert next(unknown).status == 3
        served = fresh.call(fresh.models.find, "loading")
        served.infer = fresh.echo
        fresh.call(fresh.models.changed, served, State.READY)
        assert next(watch).status == 1
        stopped = fresh.stop(PATIENCE)
        assert [answer.status for answer in watch] == [2]
        stopped.result(PATIENCE)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_describes_the_service(shared, version):
    """A tool finds the services, loads their files into a pool of its own, and sees every call."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    service = f"grpc.reflection.{version}.ServerReflection"
    ask = v2_grpc.message_class(f"grpc.reflection.{version}.ServerReflectionRequest")
    questions = [
        ask(list_services=""),
        ask(file_containing_symbol=SERVICE),
        ask(file_by_filename="grpc_health.proto"),
        ask(file_containing_symbol="no.such.Thing"),
        ask(file_by_filename="nothing.proto"),
        ask(all_extension_numbers_of_type="inference.InferParameter"),
        ask(file_containing_extension={"containing_type": "inference.InferParameter", "extension_number": 1}),
        ask(),
    ]
    with channel(shared) as connection:
        answers = list(method(connection, "ServerReflectionInfo", service, "stream_stream")(iter(questions)))
    assert {entry.name for entry in answers[0].list_services_response.service} == {
        SERVICE,
        "inference.model_repository.ModelRepositoryService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = descriptor_pool.DescriptorPool()
    for answer in answers[1:3]:
        for file in answer.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(file))
    assert len(pool.FindServiceByName(SERVICE).methods) == 20
    assert len(pool.FindServiceByName("grpc.health.v1.Health").methods) == 3
    assert [answer.error_response.error_code for answer in answers[3:]] == [5, 5, 0, 5, 3]
    assert answers[5].all_extension_numbers_response.base_type_name == "inference.InferParameter"


def test_every_call_of_the_services_is_in_the_table(shared):
    """What reflection shows is what is served."""
    served = set(shared.server._listener.methods)
    for name in (SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"):
        for row in v2_grpc.POOL.FindServiceByName(name).methods:
            assert f"/{name}/{row.name}" in served


# -- connections --


def test_a_graceful_stop_lets_calls_end(fresh):
    """Stopping refuses new connections, answers what is in flight, and then closes."""
    with channel(fresh) as connection:
        future = method(connection, "ModelInfer").future(infer_request("slow"))
        fresh.started.get(timeout=PATIENCE)
        stopped = fresh.stop(PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            connect_until_refused(fresh.port)
        assert not stopped.done()
        fresh.call(fresh.release.set)
        assert future.result(PATIENCE).model_name == "slow"
        stopped.result(PATIENCE)


def test_the_end_of_the_grace_is_told(fresh):
    """Calls that outlive the grace period are cancelled and answered UNAVAILABLE."""
    with channel(fresh, options=[("grpc.enable_retries", 0)]) as connection:
        future = method(connection, "ModelInfer").future(infer_request("slow"))
        fresh.started.get(timeout=PATIENCE)
        fresh.stop(0.05).result(PATIENCE)
        assert future.exception(PATIENCE).code() == grpc.StatusCode.UNAVAILABLE
        fresh.cancelled.get(timeout=PATIENCE)


def test_a_stop_tells_the_last_stream(fresh):
    """GOAWAY comes twice, streams opened before the second are answered, and the connection closes by itself."""
    with Raw(fresh) as raw:
        raw.request(1, infer_request("slow").SerializeToString())
        fresh.started.get(timeout=PATIENCE)
        stopped = fresh.stop(PATIENCE)
        assert raw.until(h2.GOAWAY)[3][:4] == b"\x7f\xff\xff\xff"
        raw.request(3, infer_request("echo").SerializeToString())
        ping = raw.until(h2.PING)
        raw.send(h2.frame(h2.PING, 1, 0, ping[3]))
        seen = []
        fresh.call(fresh.release.set)
        while (found := raw.frame()) is not None:
            seen.append(found)
        assert [struct.unpack(">I", payload[:4])[0] for kind, _, _, payload in seen if kind == h2.GOAWAY] == [3]
        assert {stream for kind, flags, stream, _ in seen if kind == h2.HEADERS and flags & 1} == {1, 3}
        stopped.result(PATIENCE)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content_type": "application/json"}, "415"), ({"method_": "GET"}, "405")],
    ids=["content type", "method"],
)
def test_what_is_not_grpc(shared, headers, status):
    """Other HTTP/2 requests get an HTTP status."""
    with Raw(shared) as raw:
        raw.request(1, b"", **headers)
        assert raw.fields()[":status"] == status


def test_unsupported_compression_names_what_is(shared):
    """An unknown grpc-encoding is UNIMPLEMENTED with grpc-accept-encoding."""
    with Raw(shared) as raw:
        raw.request(1, b"", grpc_encoding="snappy")
        fields = raw.fields()
        assert (fields["grpc-status"], fields["grpc-accept-encoding"]) == ("12", "identity,deflate,gzip")


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"", "takes one message, got none"),
        (b"\0\0\0\0\0" * 2, "takes one message, got more"),
        (b"\0\0\0\0\5ab", "ends inside a message"),
        (b"\7\0\0\0\0", "must be 0 or 1"),
    ],
    ids=["none", "two", "cut off", "flag"],
)
def test_bodies_of_unary_calls(shared, wire, text):
    """A unary call whose body is not exactly one message is INVALID_ARGUMENT."""
    with Raw(shared) as raw:
        raw.request(1, None, f"/{SERVICE}/ServerLive", end=False)
        raw.send(h2.frame(h2.DATA, 1, 1, wire))
        fields = raw.fields()
        assert fields["grpc-status"] == "3"
        assert text in fields["grpc-message"]


def test_abuse_ends_its_own_connection_only(shared):
    """A rapid reset ends with GOAWAY(ENHANCE_YOUR_CALM) on that connection; others are served."""
    with Raw(shared) as raw, channel(shared) as connection:
        block = h2.header_block(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/{SERVICE}/ModelInfer"),
                ("content-type", "application/grpc"),
            ]
        )
        with contextlib.suppress(OSError):
            for stream in range(1, 8001, 2):
                raw.send(
                    h2.frame(h2.HEADERS, 4, stream, block) + h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">I", 8))
                )
        goaway = raw.until(h2.GOAWAY)
        assert struct.unpack(">I", goaway[3][4:8])[0] == h2.ErrorCode.ENHANCE_YOUR_CALM
        assert method(connection, "ModelInfer")(infer_request()).model_name == "echo"


def test_connections_are_bounded():
    """One connection over the limit is closed at once; when one goes, another may come."""
    with Host(limits=GrpcLimits(max_connections=1)) as host:
        with Raw(host) as first:
            assert first.until(h2.SETTINGS)
            with Raw(host) as second, contextlib.suppress(ConnectionError):
                assert second.frame() is None
        host.call(asyncio.sleep, 0.05)
        with Raw(host) as third:
            assert third.until(h2.SETTINGS)


def test_a_silent_connection_is_asked_and_closed():
    """A peer that does not answer the keepalive PING is dropped."""
    with Host(limits=GrpcLimits(keepalive_seconds=0.1)) as host, Raw(host) as raw:
        assert raw.until(h2.PING)[3] == b"headrace"
        with contextlib.suppress(ConnectionError):
            assert raw.until(h2.GOAWAY) is None


def test_a_peer_that_reads_nothing_is_dropped():
    """An answer that waits too long for the peer's window ends the connection."""
    with Host(limits=GrpcLimits(keepalive_seconds=0.1)) as host, Raw(host, window=10) as raw:
        raw.request(1, infer_request().SerializeToString())
        with contextlib.suppress(ConnectionError):
            while (found := raw.frame()) is not None:
                if found[0] == h2.PING:
                    raw.send(h2.frame(h2.PING, 1, 0, found[3]))


def test_an_idle_connection_is_closed_in_peace():
    """A connection without calls is told to go away, without an error."""
    with Host(limits=GrpcLimits(idle_seconds=0.1)) as host, Raw(host) as raw:
        goaway = raw.until(h2.GOAWAY)
        assert struct.unpack(">I", goaway[3][4:8])[0] == h2.ErrorCode.NO_ERROR
        assert raw.until(h2.DATA) is None


def test_http_1_is_told_and_closed(shared):
    """A client that speaks HTTP/1.1 sees the connection close."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while client.recv(4096):
                pass


def test_tls(certificate):
    """Over TLS, grpcio is served by ALPN h2, and a client that offers only HTTP/1.1 is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with Host(context) as host:
        credentials = grpc.ssl_channel_credentials((certificate / "cert.pem").read_bytes())
        with grpc.secure_channel(f"localhost:{host.port}", credentials) as connection:
            assert method(connection, "ModelInfer")(infer_request()).model_name == "echo"
        client = ssl.create_default_context(cafile=certificate / "cert.pem")
        client.set_alpn_protocols(["http/1.1"])
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            raw = socket.create_connection(("127.0.0.1", host.port), timeout=PATIENCE)
            with client.wrap_socket(raw, server_hostname="localhost") as wrapped:
                assert wrapped.recv(100) == b""


def test_calls_are_counted(fresh):
    """Every call is counted once by method and status name."""
    with channel(fresh) as connection:
        method(connection, "ModelInfer")(infer_request())
        failure(method(connection, "ModelInfer"), infer_request("nothing"))
        list(method(connection, "ModelStreamInfer", kind="stream_stream")(iter([infer_request()])))
        failure(connection.unary_unary("/x/Nothing"), b"")
    assert fresh.counts == {
        ("ModelInfer", "OK"): 1,
        ("ModelInfer", "NOT_FOUND"): 1,
        ("ModelStreamInfer", "OK"): 1,
        ("unknown", "UNIMPLEMENTED"): 1,
    }


def test_traced_calls_continue_the_callers_trace():
    """With tracing on, the answer names a span of the caller's trace, and parse and render are recorded."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from headrace.monitoring.tracing import Tracing

    exporter = sdk.InMemorySpanExporter()
    traces = Tracing(endpoint="", sample_ratio=1.0, service_name="test", exporter=exporter)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Host(traces=traces) as host, channel(host) as connection:
        _, call = method(connection, "ModelInfer").with_call(infer_request(), metadata=(("traceparent", parent),))
        context = parse_traceparent(dict(call.trailing_metadata())["traceparent"])
        failure(method(connection, "ModelInfer"), infer_request("counter"))
    traces.close()
    assert context.trace_id == "0af7651916cd43dd8448eb211c80319c"
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["parse", "render", "infer", "parse", "infer"]
