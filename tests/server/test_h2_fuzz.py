"""Bytes nobody meant: random ones, valid sessions with bits turned, and every way of cutting a session into pieces.

What must hold: `receive` never raises; after a failure nothing more comes of it and GOAWAY is the last frame; windows,
streams and memories stay within their limits; the pieces in which bytes come change nothing.
"""

import random
import struct

import hpack
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.server import h2
from headrace.server.h2 import PREFACE, H2Connection, H2Limits, frame, header_block

LIMITS = H2Limits(max_concurrent_streams=8, stream_window_bytes=2000, connection_window_bytes=70_000)
FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), ("content-type", "application/grpc")]


def frames(wire):
    found, position = [], 0
    while position < len(wire):
        high, low, kind, flags, stream = struct.unpack_from(">HBBBI", wire, position)
        length = high << 8 | low
        found.append((kind, flags, stream, wire[position + 9 : position + 9 + length]))
        position += 9 + length
    assert position == len(wire), "what we send is whole frames"
    return found


class Application:
    """Answers every complete request and consumes what it gets, as a server would; a silent one only listens."""

    def __init__(self, *, silent=False):
        self.silent = silent
        self.connection = H2Connection(LIMITS, clock=lambda: 0.0)
        self.events = []
        self.open = set()

    def feed(self, piece):
        connection = self.connection
        for event in connection.receive(piece):
            self.events.append(event)
            if self.silent:
                continue
            match event:
                case h2.RequestReceived():
                    assert event.stream_id not in self.open
                    self.open.add(event.stream_id)
                case h2.DataReceived():
                    assert event.stream_id in self.open, "data only for a stream that was announced"
                    connection.consume(event.stream_id, len(event.data))
                case h2.StreamReset():
                    assert event.stream_id in self.open, "a reset only for a stream that was announced"
                    self.open.discard(event.stream_id)
                case h2.TrailersReceived():
                    assert event.stream_id in self.open
            if getattr(event, "ended", isinstance(event, h2.TrailersReceived)):
                connection.respond(event.stream_id, b"\x88", b"answer" * 40, b"\x89")
        assert connection.open_streams <= LIMITS.max_concurrent_streams
        assert connection._window >= 0 or connection.failed
        assert connection._send_window <= h2.MAX_WINDOW or connection.failed
        assert len(connection._closed) <= 1024
        assert connection._have <= LIMITS.max_frame_bytes + 9 + len(piece)

    def result(self):
        sent = frames(self.connection.to_send())
        if self.connection.failed:
            assert sent[-1][0] == h2.GOAWAY
            assert isinstance(self.events[-1], h2.ConnectionFailed)
            assert self.connection.receive(b"\0" * 100) == []
        return [describe(event) for event in self.events], sent


def describe(event):
    """An event as a value that compares by content."""
    if isinstance(event, h2.RequestReceived):
        head = event.head
        return (event.stream_id, event.ended, head.method, head.path, head.scheme, head.authority, head.headers)
    return event


@st.composite
def frame_bytes(draw):
    """A frame: often plausible, sometimes not."""
    stream = draw(st.sampled_from([0, 1, 3, 5, 7, 2, 1 << 31 | 1]))
    flags = draw(st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]) | st.integers(0, 255))
    kind = draw(st.integers(0, 10))
    payload = draw(
        st.sampled_from(
            [
                b"",
                header_block(FIELDS),
                b"\0\0\0\0\x10" + header_block(FIELDS),
                header_block([*FIELDS, ("content-length", "6")]),
                b"\x40\x01x\x01y" + header_block(FIELDS),
                b"\xbe",
                b"\x20",
                struct.pack(">I", 1000),
                struct.pack(">I", 0x7FFFFFFF),
                struct.pack(">HI", 4, 100),
                struct.pack(">HI", 4, 0x7FFFFFFF),
                struct.pack(">HI", 1, 0),
                b"12345678",
                b"data!!",
                b"\x03da\0\0\0",
                b"x" * 1500,
            ]
        )
        | st.binary(max_size=40)
    )
    return frame(kind, flags, stream, payload)


sessions = st.lists(frame_bytes(), max_size=25).map(lambda made: PREFACE + frame(4, 0, 0) + b"".join(made))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions)
def test_sessions_of_odd_frames_break_nothing(session):
    """Any order of any frames keeps the invariants."""
    application = Application()
    application.feed(session)
    application.result()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_break_nothing(noise, greeted):
    """Noise, with or without a good preface, is an error at worst."""
    application = Application()
    application.feed((PREFACE + frame(4, 0, 0) if greeted else b"") + noise)
    application.result()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=100))
@example(b"\x80", b"")
@example(b"\x3f" + b"\xff" * 150, b"")
def test_random_header_blocks_break_nothing(first, second):
    """Any bytes as header blocks give a request, a reset or a failure; the second block sees the table of the first."""
    application = Application()
    application.feed(PREFACE + frame(4, 0, 0) + frame(1, 5, 1, first) + frame(1, 5, 3, second))
    application.result()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sessions, st.data())
def test_the_pieces_do_not_matter(session, choice):
    """Cut anywhere, the bytes give the same events, and the connection's own frames in answer are the same."""
    whole = Application(silent=True)
    whole.feed(session)
    cuts = sorted(choice.draw(st.sets(st.integers(0, len(session)), max_size=20)))
    pieces = Application(silent=True)
    for start, end in zip([0, *cuts], [*cuts, len(session)], strict=True):
        pieces.feed(session[start:end])
    assert pieces.result() == whole.result()


def good_session(generator):
    """What a real client could send: HPACK with its table, bodies in frames, windows, pings, cancellations."""
    encoder = hpack.Encoder()
    wire = [PREFACE, frame(4, 0, 0, struct.pack(">HIHI", 2, 0, 4, 1 << 20)), frame(8, 0, 0, struct.pack(">I", 1 << 20))]
    for stream in range(1, 41, 2):
        fields = [*FIELDS, ("te", "trailers"), ("user-agent", "fuzz"), ("grpc-timeout", f"{generator.randrange(9)}S")]
        block = encoder.encode(fields)
        cut = generator.randrange(len(block))
        wire += [frame(1, 0, stream, block[:cut]), frame(9, 4, stream, block[cut:])]
        wire += [frame(0, 0, stream, b"x" * generator.randrange(1, 400)) for _ in range(generator.randrange(3))]
        wire.append(frame(6, 0, 0, b"pingpong"))
        match generator.randrange(4):
            case 0:
                wire.append(frame(3, 0, stream, struct.pack(">I", 8)))
            case 1:
                wire.append(frame(1, 5, stream, encoder.encode([("x-trailer", "1")])))
            case _:
                wire.append(frame(0, 1 | 8, stream, b"\x02end\0\0"))
        wire.append(frame(8, 0, 0, struct.pack(">I", 5000)))
    return b"".join(wire)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=6))
def test_turned_bits_break_nothing(seed, turns):
    """A good session is answered in full; with bits turned it keeps the invariants."""
    session = bytearray(good_session(random.Random(seed)))
    for place, bit in turns:
        session[int(place * len(session))] ^= 1 << bit
    application = Application()
    for start in range(0, len(session), 777):
        application.feed(bytes(session[start : start + 777]))
    events, _ = application.result()
    if not turns:
        assert not application.connection.failed
        assert sum(type(event) is tuple for event in events) == 20
        assert application.connection.open_streams == 0


def test_bytes_one_at_a_time():
    """A whole session byte by byte gives what it gives at once."""
    session = good_session(random.Random(7))
    whole, single = Application(silent=True), Application(silent=True)
    whole.feed(session)
    for place in range(len(session)):
        single.feed(session[place : place + 1])
    assert single.result() == whole.result()
