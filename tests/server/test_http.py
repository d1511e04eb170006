"""HTTP/1.1 over real sockets: framing, order, limits, deadlines, streams, departures, shutdown.

Left to llhttp's own tests: the grammar of requests. Left to `test_rest`: what paths mean.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from headrace.server.http import HttpLimits, HttpReply, HttpServer

POST = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n%b"


class Client:
    """A raw connection that reads replies."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, data):
        self.writer.write(data)

    async def head(self):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def reply(self):
        status, headers = await self.head()
        return status, headers, await self.reader.readexactly(int(headers["content-length"]))

    async def closed(self):
        return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def serving(handler, **limits):
    server = HttpServer(handler, limits=HttpLimits(**limits))
    port = await server.start("127.0.0.1", 0)
    clients = []

    async def connect():
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        clients.append(client)
        return client

    connect.server = server
    try:
        yield connect
    finally:
        for client in clients:
            client.writer.close()
        await server.stop(grace_seconds=1)


async def echo(request):
    return HttpReply(request.method + b" " + request.target + b" " + request.body)


async def test_a_request_is_answered_and_the_connection_kept():
    """Two requests on one connection get two answers, in order."""
    async with serving(echo) as connect:
        client = await connect()
        for body in (b"one", b"two"):
            client.send(POST % (3, body))
            status, headers, answer = await client.reply()
            assert (status, headers["content-type"], answer) == (200, "application/json", b"POST /x " + body)


async def test_a_body_may_come_in_any_pieces():
    """A request that trickles in a byte at a time is the same request."""
    async with serving(echo) as connect:
        client = await connect()
        for byte in POST % (5, b"hello"):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.reply())[2] == b"POST /x hello"


async def test_a_chunked_body_is_put_together():
    """A body without a length arrives whole."""
    async with serving(echo) as connect:
        client = await connect()
        client.send(
            b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert (await client.reply())[2] == b"POST /x abcde"


async def test_pipelined_requests_are_answered_in_their_order_one_at_a_time():
    """However fast later requests are, their answers wait for the earlier ones."""
    running = 0

    async def slow_first(request):
        nonlocal running
        running += 1
        assert running == 1
        if request.body == b"0":
            await asyncio.sleep(0.01)
        running -= 1
        return HttpReply(request.body)

    async with serving(slow_first) as connect:
        client = await connect()
        count = 100  # more than are kept waiting, so reading is paused and resumed
        client.send(b"".join(POST % (len(b"%d" % n), b"%d" % n) for n in range(count)))
        assert [(await client.reply())[2] for _ in range(count)] == [b"%d" % n for n in range(count)]


async def test_expect_100_continue_is_answered_before_the_body():
    """A client that asks first is told to go on."""
    async with serving(echo) as connect:
        client = await connect()
        client.send(b"POST /x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hi")
        assert (await client.reply())[2] == b"POST /x hi"


async def test_an_upgrade_is_not_taken_up():
    """A client that offers another protocol is answered in this one, and the connection closes."""
    async with serving(echo) as connect:
        client = await connect()
        client.send(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        status, headers, _ = await client.reply()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.closed()


async def test_connection_close_is_honoured():
    """The server closes after the answer when the client says so."""
    async with serving(echo) as connect:
        client = await connect()
        client.send(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        _, headers, _ = await client.reply()
        assert headers["connection"] == "close"
        assert await client.closed()


async def test_http_1_0_is_told_that_its_connection_is_kept():
    """An HTTP/1.0 client that asks to keep its connection reads that it is kept."""
    async with serving(echo) as connect:
        client = await connect()
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            _, headers, _ = await client.reply()
            assert headers["connection"] == "keep-alive"


async def test_head_gets_the_length_and_no_body():
    """HEAD carries the headers of GET only."""
    async with serving(echo) as connect:
        client = await connect()
        client.send(b"HEAD / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        _, headers = await client.head()
        assert headers["content-length"] == "7"
        assert await client.closed()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"NONSENSE\r\n\r\n", 400, id="not HTTP"),
        pytest.param(POST % (1001, b""), 413, id="announced body over the limit"),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
            413,
            id="chunked body over",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nhost: h\r\na: " + b"x" * 3000 + b"\r\n\r\n", 431, id="headers over the limit"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: h\r\na: " + b"x" * 3000, 431, id="headers over the limit, unfinished"),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="smuggling",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_with_a_reason_and_closed(sent, status):
    """Each refusal has its status, a JSON error, and ends the connection."""
    async with serving(echo, max_body_bytes=1000, max_header_bytes=2000) as connect:
        client = await connect()
        client.send(sent)
        got, headers, body = await client.reply()
        assert got == status
        assert body.startswith(b'{"error":"')
        assert headers["connection"] == "close"
        assert await client.closed()


async def test_refusals_are_told_to_whoever_counts():
    """Each request that does not reach the handler is told by its status."""
    codes = []
    server = HttpServer(echo, limits=HttpLimits(max_body_bytes=10), refused=codes.append)
    port = await server.start("127.0.0.1", 0)
    for sent in (POST % (11, b""), b"NONSENSE\r\n\r\n", POST % (2, b"ok")):
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.send(sent)
        await client.reply()
        client.writer.close()
    await server.stop(grace_seconds=1)
    assert codes == [413, 400]


async def test_a_deadline_is_a_504_and_cancels_the_work():
    """A handler that does not answer in time is cancelled and its caller told."""
    cancelled = asyncio.Event()

    async def hang(request):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(hang, request_timeout_seconds=0.05) as connect:
        client = await connect()
        client.send(POST % (0, b""))
        status, _, body = await client.reply()
        assert status == 504
        assert b"deadline" in body
        await cancelled.wait()


async def test_a_caller_that_leaves_cancels_its_request():
    """Closing the connection cancels the handler."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request):
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(hang) as connect:
        client = await connect()
        client.send(POST % (0, b""))
        await entered.wait()
        client.writer.close()
        await cancelled.wait()


@pytest.mark.parametrize("waits", [pytest.param(False, id="at once"), pytest.param(True, id="after waiting")])
async def test_a_handler_that_raises_is_a_500_without_its_text(waits, caplog):
    """A defect of a handler shows its class only, and the connection goes on."""

    async def broken(request):
        if waits:
            await asyncio.sleep(0)
        raise ValueError("secret")

    async with serving(broken) as connect:
        client = await connect()
        for _ in range(2):
            client.send(POST % (0, b""))
            status, _, body = await client.reply()
            assert status == 500
            assert b"secret" not in body
    assert "secret" in caplog.text


async def test_a_stream_arrives_as_chunks_and_the_connection_is_kept():
    """Each piece of a stream is a chunk; the next request follows on the same connection."""

    async def pieces():
        for piece in (b"one", b"two"):
            await asyncio.sleep(0)
            yield piece

    async def stream(request):
        return HttpReply(stream=pieces())

    async with serving(stream) as connect:
        client = await connect()
        for _ in range(2):
            client.send(POST % (0, b""))
            _, headers = await client.head()
            assert headers["transfer-encoding"] == "chunked"
            assert await client.reader.readuntil(b"0\r\n\r\n") == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


async def test_a_stream_to_http_1_0_ends_with_the_connection():
    """A client that knows no chunks reads to the end of the connection."""

    async def pieces():
        yield b"one"
        yield b"two"

    async def stream(request):
        return HttpReply(stream=pieces())

    async with serving(stream) as connect:
        client = await connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.head()
        assert await client.reader.read() == b"onetwo"


async def test_a_stream_is_made_no_faster_than_it_is_read():
    """A caller that stops reading stops the source, and one that leaves closes it."""
    made = 0
    closed = asyncio.Event()

    async def pieces():
        nonlocal made
        try:
            while True:
                made += 1
                yield b"x" * 65536
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def stream(request):
        return HttpReply(stream=pieces())

    async with serving(stream) as connect:
        client = await connect()
        client.send(POST % (0, b""))
        before = -1
        while made != before:
            before = made
            await asyncio.sleep(0.05)
        assert made < 1000  # 64 MB; the source stands still long before
        client.writer.transport.abort()
        await closed.wait()


async def test_one_connection_too_many_is_told_so():
    """Over the limit of connections the answer is 503, and the others go on."""
    async with serving(echo, max_connections=1) as connect:
        first = await connect()
        first.send(POST % (0, b""))
        await first.reply()
        second = await connect()
        assert (await second.reply())[0] == 503
        first.send(POST % (0, b""))
        assert (await first.reply())[0] == 200


async def test_slow_and_idle_connections_are_closed():
    """Half a request within the limit is a 408; a connection that asks nothing is closed."""
    async with serving(echo, header_timeout_seconds=0.01, idle_timeout_seconds=0.01) as connect:
        slow, idle = await connect(), await connect()
        slow.send(b"POST /x HTTP/1.1\r\n")
        assert (await slow.reply())[0] == 408
        assert await idle.closed()


async def test_stop_lets_the_request_in_flight_end():
    """Shutdown answers what runs, closes what idles, and accepts nothing new."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def wait(request):
        entered.set()
        await release.wait()
        return HttpReply(b"done")

    async with serving(wait) as connect:
        client, idle = await connect(), await connect()
        client.send(POST % (0, b""))
        await entered.wait()
        stopping = asyncio.create_task(connect.server.stop(grace_seconds=10))
        assert await idle.closed()
        with pytest.raises(OSError):
            await connect()
        release.set()
        _, headers, body = await client.reply()
        assert (body, headers["connection"]) == (b"done", "close")
        await stopping


async def test_stop_ends_by_force_after_the_grace():
    """A request that outlasts the grace loses its connection."""

    async def hang(request):
        await asyncio.Event().wait()

    async with serving(hang) as connect:
        client = await connect()
        client.send(POST % (0, b""))
        await asyncio.sleep(0.01)
        await connect.server.stop(grace_seconds=0.05)
        with contextlib.suppress(ConnectionResetError):
            assert await client.closed()
