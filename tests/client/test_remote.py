"""Models on other servers as an Infer, over real sockets: REST with bytes and with JSON, gRPC; errors, deadlines, turns."""

import asyncio
import json
import subprocess
import sys
import time

import numpy as np
import pytest

import headrace
from headrace.client.remote import Remote
from headrace.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    RuntimeFailed,
    Unreachable,
)
from headrace.payload import DTYPES, InferenceRequest, RequestedOutput, Tensor
from headrace.server.eager import start
from headrace.testing.brokers import free_port

NUMBERS = ["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64"]


class Echo:
    """Answers each input under its own name; the numbers of `slow` are seconds to sleep."""

    def predict(self, **inputs):
        if "wrong" in inputs:
            raise RuntimeError("the model broke")
        for seconds in inputs.get("slow", ()):
            time.sleep(float(seconds))
        return {name: value for name, value in inputs.items() if name != "slow"} or {"done": np.ones(1)}


@pytest.fixture(scope="module")
def real():
    """A server of ours with the model `echo`."""
    with headrace.serve(Echo(), name="echo", placement="thread") as running:
        yield running


@pytest.fixture(params=["rest", "grpc"])
def url(request, real):
    return f"http://127.0.0.1:{real.http_port}" if request.param == "rest" else f"grpc://127.0.0.1:{real.grpc_port}"


@pytest.fixture
async def remote(url):
    remote = Remote(url, model="echo")
    yield remote
    await remote.close()


def tensor(values, datatype, name="x"):
    array = np.asarray(values)
    return Tensor(name, datatype, array)


def texts(*values, name="x"):
    array = np.empty(len(values), object)
    array[:] = values
    return Tensor(name, "BYTES", array)


def asked(*inputs, **rest):
    return InferenceRequest(model_name="step", inputs=inputs, **rest)


# -- a server of ours --


@pytest.mark.parametrize("datatype", NUMBERS)
async def test_numbers_come_back_as_they_went(remote, datatype):
    """A tensor of numbers crosses to the other server and back with its datatype, shape and values."""
    data = np.array([[0, 1, 1], [1, 0, 1]]).astype(DTYPES[datatype])
    response = await remote.infer(asked(Tensor("x", datatype, data), id="7"))
    (output,) = response.outputs
    assert (output.name, output.datatype, output.data.tolist()) == ("x", datatype, data.tolist())
    assert (response.model_name, response.id) == ("echo", "7")


async def test_bytes_come_back_as_they_went(remote):
    """Bytes that are no text cross unharmed."""
    response = await remote.infer(asked(texts(b"\xff\x00", "é".encode(), b"")))
    assert response.outputs[0].data.tolist() == [b"\xff\x00", "é".encode(), b""]


async def test_nothing_of_the_callers_wire_goes_along(remote):
    """Parameters that ask for JSON or bytes of the caller's own answer do not change how the answer comes back."""
    wanted = (RequestedOutput("x", {"binary_data": False}),)
    request = asked(tensor([1.5], "FP64"), outputs=wanted, parameters={"binary_data_output": False})
    response = await remote.infer(request)
    assert response.outputs[0].data.tolist() == [1.5]


async def test_many_requests_at_once_keep_their_answers(remote):
    """Requests sent at once each get their own answer."""
    answers = await asyncio.gather(*[remote.infer(asked(tensor([i], "INT64"), id=str(i))) for i in range(100)])
    assert [(a.id, a.outputs[0].data.tolist()) for a in answers] == [(str(i), [i]) for i in range(100)]


async def test_a_model_that_is_not_there(url):
    """A model that the other server does not have is ModelNotFound, and its text names model and address."""
    remote = Remote(url, model="absent")
    with pytest.raises(ModelNotFound, match=r"model 'absent' at (http|grpc)://127"):
        await remote.infer(asked(tensor([1.0], "FP64")))
    assert await remote.ready() is False
    await remote.close()


async def test_a_model_that_fails(remote):
    """What the other model raises is RuntimeFailed here, and the next request is answered."""
    with pytest.raises(RuntimeFailed, match="model 'echo'"):
        await remote.infer(asked(tensor([1.0], "FP64", "wrong")))
    assert (await remote.infer(asked(tensor([1.0], "FP64")))).outputs[0].data.tolist() == [1.0]


async def test_a_request_that_is_wrong(url):
    """What the other server refuses is InvalidRequest here."""
    remote = Remote(url, model="echo")
    with pytest.raises(InvalidRequest):
        await remote.infer(asked(tensor([1.0], "FP64"), outputs=(RequestedOutput("x"), RequestedOutput("x"))))
    await remote.close()


async def test_a_deadline_ends_the_wait(remote):
    """A request whose own deadline passes while the other model works is DeadlineExceeded then, not later."""
    await remote.infer(asked(tensor([1.0], "FP64")))
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await remote.infer(asked(tensor([4.0], "FP64", "slow"), deadline=begun + 0.2))
    assert time.monotonic() - begun < 3.5


async def test_a_deadline_that_has_passed_is_not_sent(url):
    """A request that is too late already opens no connection."""
    remote = Remote(url, model="echo")
    with pytest.raises(DeadlineExceeded, match="before the request was sent"):
        await remote.infer(asked(tensor([1.0], "FP64"), deadline=time.monotonic() - 1))
    await remote.close()


async def test_ready_and_metadata(remote):
    """A remote is ready when the model is, and tells the model's platform."""
    assert await remote.ready() is True
    signature = await remote.metadata()
    assert signature.platform == "python"
    assert signature.strict is False


async def test_waiting_is_bounded(url):
    """With one turn and one place to wait, a third request at once is Overloaded, and the others are answered."""
    remote = Remote(url, model="echo", max_in_flight=1, max_waiting=1)
    await remote.infer(asked(tensor([1.0], "FP64")))
    slow = asked(tensor([0.3], "FP64", "slow"))
    answers = await asyncio.gather(*[remote.infer(slow) for _ in range(3)], return_exceptions=True)
    assert sorted(type(each).__name__ for each in answers) == ["InferenceResponse", "InferenceResponse", "Overloaded"]
    await remote.close()


async def test_a_cancelled_request_leaves_its_turn(url):
    """A request that is cancelled gives its turn to the next, whose answer is its own."""
    remote = Remote(url, model="echo", max_in_flight=1)
    await remote.infer(asked(tensor([1.0], "FP64")))
    task = asyncio.create_task(remote.infer(asked(tensor([0.5], "FP64", "slow"))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    response = await asyncio.wait_for(remote.infer(asked(tensor([7.0], "FP64"))), 60)
    assert response.outputs[0].data.tolist() == [7.0]
    await remote.close()


async def test_a_request_whose_first_step_has_no_task_is_answered(remote):
    """A listener steps a request before it has a task; a remote answers it all the same."""
    answer = start(remote.infer(asked(tensor([3.0], "FP64"))), asyncio.get_running_loop())
    response = await answer
    assert response.outputs[0].data.tolist() == [3.0]


async def test_closing_waits_for_what_is_under_way(url):
    """A remote that is closed while a request is on its way lets it end."""
    remote = Remote(url, model="echo")
    task = asyncio.create_task(remote.infer(asked(tensor([0.3], "FP64", "slow"))))
    await asyncio.sleep(0.1)
    await remote.close()
    await asyncio.sleep(0)
    assert task.done()
    assert len((await task).outputs) == 1


async def test_closing_does_not_wait_for_ever(url):
    """A request that outlives the drain does not hold up who closes the remote."""
    remote = Remote(url, model="echo")
    task = asyncio.create_task(remote.infer(asked(tensor([4.0], "FP64", "slow"))))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    await remote.close(drain_seconds=0.05)
    assert time.monotonic() - begun < 3.5
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_a_server_that_is_away(scheme):
    """Where nobody listens the request is Unreachable, which is Temporary, and the model is not ready."""
    remote = Remote(f"{scheme}://127.0.0.1:{free_port()}", model="m")
    with pytest.raises(Unreachable):
        await remote.infer(asked(tensor([1.0], "FP64")))
    assert await remote.ready() is False
    await remote.close()


@pytest.mark.parametrize("wrong", ["ftp://host:1", "http://", "grpc://", "grpc://host:1/path", "http://host:0"])
def test_urls_that_are_none(wrong):
    """What is no URL of a server is refused when the remote is made."""
    with pytest.raises(InvalidRequest):
        Remote(wrong, model="m")


def test_without_grpcio():
    """Without grpcio a grpc:// model says which extra installs it, and http:// works without."""
    program = """
import asyncio, sys
sys.modules["grpc"] = None
from headrace.client.remote import Remote
from headrace.payload import InferenceRequest
async def main():
    Remote("http://127.0.0.1:1", model="m")
    try:
        await Remote("grpc://127.0.0.1:1", model="m").infer(InferenceRequest(model_name="m", inputs=()))
    except Exception as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
        env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
    )
    assert done.stdout.startswith("MissingExtra")
    assert "headrace[grpc-client]" in done.stdout


# -- a server whose answers are written down: JSON only --


async def test_a_server_that_reads_no_bytes_is_asked_in_json(server):
    """A server whose metadata names no binary extension gets JSON, and is asked for its metadata once."""
    server.ready = lambda: 404
    remote = Remote(server.url, model="m", headers={"authorization": "Bearer t"})
    for value in (1.0, 2.0):
        request = asked(
            tensor([value], "FP64"),
            headers={"traceparent": "00-a", "authorization": "Basic callers", "host": "elsewhere"},
            parameters={"binary_data_output": True, "k": 1},
        )
        response = await remote.infer(request)
        assert response.outputs[0].data.tolist() == [2 * value]
    sent = server.asked[-1]
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["traceparent"] == "00-a"
    assert sent.headers.get_all("authorization") == ["Bearer t"]
    assert sent.request["parameters"] == {"k": 1}
    assert sent.path == "/v2/models/m/infer"
    assert server.connections == 1
    await remote.close()


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (429, {"Retry-After": "3"}, Overloaded),
        (503, {}, ModelNotReady),
        (504, {}, DeadlineExceeded),
        (500, {}, RuntimeFailed),
        (400, {}, InvalidRequest),
        (404, {}, ModelNotFound),
    ],
)
async def test_statuses_are_our_errors(server, status, headers, error):
    """Each status of the other server is the error that an own model would raise, with the server's own text."""
    server.script = lambda asked: (status, {"error": "because"}, headers)
    remote = Remote(server.url, model="m")
    with pytest.raises(error, match="because") as raised:
        await remote.infer(asked(tensor([1.0], "FP64")))
    assert getattr(raised.value, "retry_after_seconds", 3.0) == 3.0
    await remote.close()


async def test_a_request_that_may_have_been_seen_is_not_sent_again(server, drop):
    """A connection that breaks after the request was sent is Unreachable, and the server has seen it once."""
    server.script = lambda asked: drop
    remote = Remote(server.url, model="m")
    remote._wire._binary = False
    with pytest.raises(Unreachable):
        await remote.infer(asked(tensor([1.0], "FP64")))
    assert len(server.asked) == 1
    await remote.close()


async def test_an_answer_that_is_none(server):
    """An answer that is no inference response is RuntimeFailed, not the caller's mistake."""
    server.script = lambda asked: (200, b"[]")
    remote = Remote(server.url, model="m")
    with pytest.raises(RuntimeFailed, match="no V2 inference response"):
        await remote.infer(asked(tensor([1.0], "FP64")))
    await remote.close()


async def test_the_route_comes_back(server):
    """The header x-seldon-route of the answer is the response's, and no other."""
    body = json.dumps({"model_name": "m", "outputs": []}).encode()
    server.script = lambda asked: (200, body, {"x-seldon-route": ":m_1:", "x-other": "1"})
    remote = Remote(server.url, model="m", version="3")
    response = await remote.infer(asked(tensor([1.0], "FP64")))
    assert response.headers == {"x-seldon-route": ":m_1:"}
    assert server.asked[-1].path == "/v2/models/m/versions/3/infer"
    await remote.close()
