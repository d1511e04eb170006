"""Calls nobody meant: valid gRPC sessions with bits turned, cut and cancelled anywhere, over a real connection object.

What must hold: nothing is raised into the loop; when the connection is lost no call, task or byte is left behind.
"""

import asyncio
import itertools
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.payload import InferenceResponse, Signature
from headrace.protocols import v2_grpc
from headrace.server import h2
from headrace.server.grpc import GrpcServer
from headrace.serving.models import Models, Served, State

SERVICE = "/inference.GRPCInferenceService"


class Transport(asyncio.Transport):
    """Takes what is written; what a socket would do is of no matter here."""

    def __init__(self):
        super().__init__()
        self.written, self.closing = b"", False

    def write(self, data):
        assert not self.closing, "nothing is written after close"
        self.written += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    abort = close

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def echo(request):
    return InferenceResponse(model_name="echo", outputs=request.inputs)


async def slow(request):
    await asyncio.sleep(0)
    return await echo(request)


async def never(request):
    await asyncio.get_running_loop().create_future()


async def numbers(request):
    for _ in range(3):
        await asyncio.sleep(0)
        yield await echo(request)


def server():
    models = Models()
    for name, infer, stream in (
        ("echo", echo, None),
        ("slow", slow, None),
        ("never", never, None),
        ("many", echo, numbers),
    ):
        models.put(
            Served(name=name, state=State.READY, infer=infer, infer_stream=stream, signature=Signature(platform="test"))
        )
    return GrpcServer(models, repository=None)


def body(model, size):
    message = v2_grpc.ModelInferRequest(model_name=model, id="1")
    message.inputs.add(name="x", datatype="UINT8", shape=[size])
    message.raw_input_contents.append(bytes(size))
    payload = message.SerializeToString()
    return struct.pack(">BI", 0, len(payload)) + payload


@st.composite
def calls(draw):
    """The frames of one call on stream 0, as (type, flags, payload)."""
    path = draw(
        st.sampled_from(
            [f"{SERVICE}/ModelInfer"] * 3
            + [f"{SERVICE}/ModelStreamInfer"] * 3
            + [f"{SERVICE}/ServerLive", f"{SERVICE}/Nothing", "/grpc.health.v1.Health/Watch"]
            + ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
        )
    )
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    fields += draw(
        st.sampled_from([[], [("grpc-timeout", "1n")], [("grpc-timeout", "9S")], [("grpc-encoding", "gzip")]])
    )
    wire = b"".join(
        body(draw(st.sampled_from(["echo", "slow", "never", "many", "nothing"])), draw(st.sampled_from([0, 5, 2000])))
        for _ in range(draw(st.integers(0, 3)))
    )
    frames = [(h2.HEADERS, 4, h2.header_block(fields))]
    step = draw(st.sampled_from([7, 1000, 100_000]))
    frames += [(h2.DATA, 0, wire[start : start + step]) for start in range(0, min(len(wire), 60 * step), step)]
    ending = draw(st.sampled_from(["end", "end", "trailers", "reset", "nothing"]))
    frames += {
        "end": [(h2.DATA, 1, b"")],
        "trailers": [(h2.HEADERS, 5, h2.header_block([("x", "y")]))],
        "reset": [(h2.RST_STREAM, 0, struct.pack(">I", 8))],
        "nothing": [],
    }[ending]
    return frames


@st.composite
def sessions(draw):
    """Several calls, their frames interleaved."""
    waiting = [
        [h2.frame(kind, flags, 1 + 2 * index, payload) for kind, flags, payload in frames]
        for index, frames in enumerate(draw(st.lists(calls(), min_size=1, max_size=5)))
    ]
    wire = [frames.pop(0) for frames in waiting]
    while any(waiting):
        frames = draw(st.sampled_from([frames for frames in waiting if frames]))
        wire.append(frames.pop(0))
    return (
        h2.PREFACE
        + h2.frame(h2.SETTINGS, 0, 0, struct.pack(">HI", 4, draw(st.sampled_from([3, 100_000]))))
        + b"".join(wire)
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    sessions(),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=3),
    st.lists(st.floats(0, 1), max_size=6),
    st.booleans(),
)
def test_nothing_is_left_behind(session, turns, cuts, stop):
    """Whatever came, in whatever pieces: no error in the loop, and after the end no call, task or byte is held."""
    wire = bytearray(session)
    for place, bit in turns:
        wire[24 + int(place * (len(wire) - 24))] ^= 1 << bit

    async def main():
        problems = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        grpc = server()
        connection, transport = grpc.protocol_factory(), Transport()
        connection.connection_made(transport)
        places = sorted({0, len(wire), *(int(cut * len(wire)) for cut in cuts)})
        for index, (start, end) in enumerate(itertools.pairwise(places)):
            if not transport.closing:
                connection.data_received(bytes(wire[start:end]))
            await asyncio.sleep(0)
            if index == 2:
                connection.pause_writing()
                connection.resume_writing()
        for _ in range(5):
            await asyncio.sleep(0)
        if stop and not transport.closing:
            connection.drain()
            connection.abort()
        connection.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)
        listener = grpc._listener
        assert not connection._calls
        assert not connection._tasks
        assert listener.buffered == 0
        assert not listener._connections
        assert problems == []

    asyncio.run(main())
