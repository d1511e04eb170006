"""Conformance of the HTTP/2 server connection, section by section of RFC 9113 (and RFC 7541), with raw frames.

Each case sends frames after a good handshake (unless it is about the handshake) and says what must come of them: the
connection fails with a code, a stream is reset with a code, or the events are these and nothing is reset.

Left out: what only a client receives (PUSH_PROMISE), TLS profiles (section 9.2, set by the ssl context).
"""

import struct

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.server import h2
from headrace.server.h2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    H2Connection,
    H2Limits,
    frame,
    header_block,
)

FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/m"),
    (":authority", "h"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
BLOCK = header_block(FIELDS)
LIMITS = H2Limits(max_concurrent_streams=4, stream_window_bytes=65_535, connection_window_bytes=200_000)


def u32(value):
    return struct.pack(">I", value)


def settings(**values):
    return frame(
        SETTINGS, 0, 0, b"".join(struct.pack(">HI", getattr(h2, name), value) for name, value in values.items())
    )


def headers(stream=1, *, end=True, fields=None, flags=END_HEADERS, block=None):
    payload = block if block is not None else header_block(fields if fields is not None else FIELDS)
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream, payload)


def data(stream=1, payload=b"", *, end=False, flags=0):
    return frame(DATA, flags | (END_STREAM if end else 0), stream, payload)


def changed(**changes):
    """The usual fields with some replaced (None: left out); names with _ for - and a trailing _ for a leading colon."""
    fields = dict(FIELDS)
    for name, value in changes.items():
        real = ":" + name[:-1] if name.endswith("_") else name.replace("_", "-")
        if value is None:
            fields.pop(real)
        else:
            fields[real] = value
    return tuple(fields.items())


def frames(wire):
    """(type, flags, stream, payload) of each frame."""
    found, position = [], 0
    while position < len(wire):
        high, low, kind, flags, stream = struct.unpack_from(">HBBBI", wire, position)
        length = high << 8 | low
        found.append((kind, flags, stream, wire[position + 9 : position + 9 + length]))
        position += 9 + length
    assert position == len(wire)
    return found


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Peer:
    """A client with a connection, past the handshake."""

    def __init__(self, limits=LIMITS, *, greet=True):
        self.clock = Clock()
        self.connection = H2Connection(limits, clock=self.clock)
        self.events, self.sent = [], []
        if greet:
            self.connection.to_send()
            self.receive(PREFACE + settings())
            assert self.sent == [(SETTINGS, ACK, 0, b"")]
            self.sent.clear()

    def receive(self, wire):
        events = self.connection.receive(wire)
        self.events += events
        self.flush()
        return events

    def flush(self):
        new = frames(self.connection.to_send())
        self.sent += new
        return new

    def of(self, kind):
        return [item for item in self.sent if item[0] == kind]


class Fails:
    """The connection ends with GOAWAY of this code."""

    def __init__(self, code):
        self.code = code

    def check(self, peer):
        assert peer.connection.failed, f"still open: {peer.sent} {peer.events}"
        kind, _, stream, payload = peer.sent[-1]
        assert (kind, stream) == (GOAWAY, 0)
        assert ErrorCode(struct.unpack_from(">I", payload, 4)[0]) == self.code
        assert isinstance(peer.events[-1], h2.ConnectionFailed)
        assert peer.events[-1].code == self.code
        assert peer.connection.open_streams == 0


class Resets:
    """The stream is reset with this code and the connection lives."""

    def __init__(self, code, stream=1, *, told=None):
        self.code, self.stream, self.told = code, stream, told

    def check(self, peer):
        assert not peer.connection.failed, peer.events
        resets = [(stream, ErrorCode(struct.unpack(">I", payload)[0])) for _, _, stream, payload in peer.of(RST_STREAM)]
        assert resets == [(self.stream, self.code)]
        told = [event.stream_id for event in peer.events if isinstance(event, h2.StreamReset)]
        opened = [event.stream_id for event in peer.events if isinstance(event, h2.RequestReceived)]
        if self.told is not None:
            assert told == ([self.stream] if self.told else [])
        assert set(told) <= set(opened)


class Gives:
    """These events come, nothing is reset, and the connection lives."""

    def __init__(self, *kinds):
        self.kinds = list(kinds)

    def check(self, peer):
        assert not peer.connection.failed, peer.events
        assert not peer.of(RST_STREAM)
        assert [type(event) for event in peer.events] == self.kinds


class Answers:
    """These frames are sent and the connection lives."""

    def __init__(self, *expected):
        self.expected = list(expected)

    def check(self, peer):
        assert not peer.connection.failed, peer.events
        assert peer.sent == self.expected


PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR
CLOSED, CALM, COMPRESSION = ErrorCode.STREAM_CLOSED, ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.COMPRESSION_ERROR
REQUEST, BODY = h2.RequestReceived, h2.DataReceived


def answer(peer, stream=1):
    peer.connection.respond(stream, header_block([(":status", "200")]), b"x", header_block([("grpc-status", "0")]))
    peer.flush()
    peer.sent.clear()


def reset_here(peer, stream=1):
    peer.connection.reset(stream, ErrorCode.CANCEL)
    peer.flush()
    peer.sent.clear()


CASES = {
    # 3.4 connection preface
    "3.4 first frame is not SETTINGS": ("raw", [PREFACE, frame(PING, 0, 0, b"12345678")], Fails(PROTOCOL)),
    "3.4 first frame is an acknowledgement": ("raw", [PREFACE, frame(SETTINGS, ACK, 0)], Fails(PROTOCOL)),
    "3.4 HTTP/1.1 instead of the preface": ("raw", [b"GET / HTTP/1.1\r\n"], Fails(PROTOCOL)),
    "3.4 wrong preface seen at its first wrong byte": ("raw", [b"PRI * HTTP/1"], Fails(PROTOCOL)),
    "3.4 preface in single bytes": ("raw", [*(bytes((b,)) for b in PREFACE), settings()], Gives()),
    # 4.1 frame format
    "4.1 unknown frame type is ignored": ("", [frame(0x77, 0xFF, 0, b"hello"), headers()], Gives(REQUEST)),
    "4.1 unknown flags of PING are ignored": (
        "",
        [frame(PING, 0xFE, 0, b"12345678")],
        Answers((PING, ACK, 0, b"12345678")),
    ),
    "4.1 reserved bit of the stream identifier is ignored": (
        "",
        [frame(HEADERS, END_HEADERS | END_STREAM, 1 | 1 << 31, BLOCK)],
        Gives(REQUEST),
    ),
    "4.1 reserved bit of PING on stream 0": (
        "",
        [frame(PING, 0, 1 << 31, b"12345678")],
        Answers((PING, ACK, 0, b"12345678")),
    ),
    # 4.2 frame size
    "4.2 DATA over the maximum": ("", [headers(end=False), data(1, b"x" * (LIMITS.max_frame_bytes + 1))], Fails(SIZE)),
    "4.2 HEADERS over the maximum": ("", [headers(block=b"x" * (LIMITS.max_frame_bytes + 1))], Fails(SIZE)),
    "4.2 DATA of 16384 bytes": ("", [headers(end=False), data(1, b"x" * 16384)], Gives(REQUEST, BODY)),
    # 4.3 header blocks
    "4.3 block that does not decode": ("", [headers(block=b"\xff\xff\xff\xff")], Fails(COMPRESSION)),
    "4.3 PRIORITY inside a header block": (
        "",
        [headers(flags=0), frame(PRIORITY, 0, 1, b"\0\0\0\0\0")],
        Fails(PROTOCOL),
    ),
    "4.3 HEADERS of another stream inside a header block": ("", [headers(flags=0), headers(3)], Fails(PROTOCOL)),
    "4.3 DATA inside a header block": ("", [headers(1, end=False, flags=0), data(1, b"x")], Fails(PROTOCOL)),
    "4.3 unknown frame inside a header block": ("", [headers(flags=0), frame(0x77, 0, 0)], Fails(PROTOCOL)),
    # 5.1 stream states
    "5.1 idle: DATA": ("", [data(1, b"x", end=True)], Fails(PROTOCOL)),
    "5.1 idle: RST_STREAM": ("", [frame(RST_STREAM, 0, 1, u32(8))], Fails(PROTOCOL)),
    "5.1 idle: WINDOW_UPDATE": ("", [frame(WINDOW_UPDATE, 0, 1, u32(100))], Fails(PROTOCOL)),
    "5.1 idle: CONTINUATION": ("", [frame(CONTINUATION, END_HEADERS, 1, BLOCK)], Fails(PROTOCOL)),
    "5.1 idle: PRIORITY": ("", [frame(PRIORITY, 0, 1, b"\0\0\0\0\0"), headers(1)], Gives(REQUEST)),
    "5.1 half-closed (remote): DATA": ("", [headers(), data(1, b"x", end=True)], Resets(CLOSED, told=True)),
    "5.1 half-closed (remote): HEADERS": ("", [headers(), headers()], Resets(CLOSED, told=True)),
    "5.1 half-closed (remote): CONTINUATION": (
        "",
        [headers(), frame(CONTINUATION, END_HEADERS, 1, BLOCK)],
        Fails(PROTOCOL),
    ),
    "5.1 half-closed (remote): WINDOW_UPDATE": ("", [headers(), frame(WINDOW_UPDATE, 0, 1, u32(100))], Gives(REQUEST)),
    "5.1 half-closed (remote): RST_STREAM": (
        "",
        [headers(), frame(RST_STREAM, 0, 1, u32(8))],
        Gives(REQUEST, h2.StreamReset),
    ),
    "5.1 half-closed (remote): PRIORITY": ("", [headers(), frame(PRIORITY, 0, 1, b"\0\0\0\0\0")], Gives(REQUEST)),
    "5.1 closed: DATA after RST_STREAM": (
        "",
        [headers(end=False), frame(RST_STREAM, 0, 1, u32(8)), data(1, b"x")],
        Resets(CLOSED),
    ),
    "5.1 closed: HEADERS after RST_STREAM": (
        "",
        [headers(end=False), frame(RST_STREAM, 0, 1, u32(8)), headers(1)],
        Resets(CLOSED),
    ),
    "5.1 closed: DATA after both ended": ("", [headers(), answer, data(1, b"x")], Fails(CLOSED)),
    "5.1 closed: HEADERS after both ended": ("", [headers(), answer, headers(1)], Fails(CLOSED)),
    "5.1 closed: WINDOW_UPDATE after both ended": (
        "",
        [headers(), answer, frame(WINDOW_UPDATE, 0, 1, u32(100))],
        Answers(),
    ),
    "5.1 closed: RST_STREAM after both ended": ("", [headers(), answer, frame(RST_STREAM, 0, 1, u32(8))], Answers()),
    "5.1 closed: PRIORITY after both ended": (
        "",
        [headers(), answer, frame(PRIORITY, 0, 1, b"\0\0\0\0\0")],
        Answers(),
    ),
    "5.1 closed: DATA on a stream that we reset": ("", [headers(end=False), reset_here, data(1, b"x")], Answers()),
    "5.1 closed: trailers on a stream that we reset": ("", [headers(end=False), reset_here, headers(1)], Answers()),
    "5.1 closed: WINDOW_UPDATE on a stream that we reset": (
        "",
        [headers(end=False), reset_here, frame(WINDOW_UPDATE, 0, 1, u32(1 << 20))],
        Answers(),
    ),
    # 5.1.1 identifiers
    "5.1.1 even identifier": ("", [headers(2)], Fails(PROTOCOL)),
    "5.1.1 even identifier below the last": ("", [headers(5), headers(2)], Fails(PROTOCOL)),
    "5.1.1 identifier below the last": ("", [headers(5), headers(3)], Fails(PROTOCOL)),
    "5.1.1 identifiers may be skipped": ("", [headers(5), headers(9)], Gives(REQUEST, REQUEST)),
    "5.1.1 RST_STREAM on a skipped identifier": ("", [headers(5), frame(RST_STREAM, 0, 3, u32(8))], Gives(REQUEST)),
    # 5.1.2 concurrency
    "5.1.2 more streams than allowed": (
        "",
        [headers(1), headers(3), headers(5), headers(7), headers(9)],
        Resets(ErrorCode.REFUSED_STREAM, 9, told=False),
    ),
    "5.1.2 a closed stream makes room": (
        "",
        [headers(1), headers(3), headers(5), headers(7), answer, headers(9)],
        Gives(*[REQUEST] * 5),
    ),
    # 5.4 errors
    "5.4.1 frames after a connection error are not read": ("", [headers(2), headers(1)], Fails(PROTOCOL)),
    # 6.1 DATA
    "6.1 DATA on stream 0": ("", [data(0, b"x")], Fails(PROTOCOL)),
    "6.1 padding as long as the frame": (
        "",
        [headers(end=False), data(1, b"\x06hello", flags=PADDED)],
        Fails(PROTOCOL),
    ),
    "6.1 padding cut off": ("", [headers(end=False), data(1, b"", flags=PADDED)], Fails(SIZE)),
    "6.1 padding longer than the frame": (
        "",
        [headers(end=False), data(1, b"\xffhello", flags=PADDED)],
        Fails(PROTOCOL),
    ),
    "6.1 padded DATA": ("", [headers(end=False), data(1, b"\x02hi\0\0", flags=PADDED)], Gives(REQUEST, BODY)),
    "6.1 nothing but padding": ("", [headers(end=False), data(1, b"\x02\0\0", flags=PADDED)], Gives(REQUEST, BODY)),
    # 6.2 HEADERS
    "6.2 HEADERS on stream 0": ("", [headers(0)], Fails(PROTOCOL)),
    "6.2 padded HEADERS": (
        "",
        [headers(block=b"\x03" + BLOCK + b"\0\0\0", flags=END_HEADERS | PADDED)],
        Gives(REQUEST),
    ),
    "6.2 padding longer than the frame": (
        "",
        [headers(block=b"\xff" + BLOCK, flags=END_HEADERS | PADDED)],
        Fails(PROTOCOL),
    ),
    "6.2 padding cut off": ("", [headers(block=b"", flags=END_HEADERS | PADDED)], Fails(SIZE)),
    "6.2 HEADERS with a priority": (
        "",
        [headers(block=b"\0\0\0\0\x10" + BLOCK, flags=END_HEADERS | PRIORITISED)],
        Gives(REQUEST),
    ),
    "6.2 HEADERS with padding and a priority": (
        "",
        [headers(block=b"\x01\0\0\0\0\x10" + BLOCK + b"\0", flags=END_HEADERS | PRIORITISED | PADDED)],
        Gives(REQUEST),
    ),
    "6.2 priority cut off": ("", [headers(block=b"\0\0\0", flags=END_HEADERS | PRIORITISED)], Fails(SIZE)),
    # 6.3 PRIORITY
    "6.3 PRIORITY on stream 0": ("", [frame(PRIORITY, 0, 0, b"\0\0\0\0\0")], Fails(PROTOCOL)),
    "6.3 PRIORITY of another length": ("", [headers(end=False), frame(PRIORITY, 0, 1, b"\0\0\0\0")], Resets(SIZE)),
    "6.3 PRIORITY of another length on an idle stream": ("", [frame(PRIORITY, 0, 1, b"\0\0\0\0")], Fails(SIZE)),
    # 6.4 RST_STREAM
    "6.4 RST_STREAM on stream 0": ("", [frame(RST_STREAM, 0, 0, u32(8))], Fails(PROTOCOL)),
    "6.4 RST_STREAM of another length": ("", [headers(), frame(RST_STREAM, 0, 1, b"\0\0\0")], Fails(SIZE)),
    "6.4 RST_STREAM ends the stream": (
        "",
        [headers(end=False), frame(RST_STREAM, 0, 1, u32(8))],
        Gives(REQUEST, h2.StreamReset),
    ),
    # 6.5 SETTINGS
    "6.5 acknowledgement with a payload": ("", [frame(SETTINGS, ACK, 0, b"\0")], Fails(SIZE)),
    "6.5 SETTINGS on a stream": ("", [frame(SETTINGS, 0, 1)], Fails(PROTOCOL)),
    "6.5 length that is no multiple of 6": ("", [frame(SETTINGS, 0, 0, b"\0\0\0")], Fails(SIZE)),
    "6.5.2 ENABLE_PUSH of 2": ("", [settings(ENABLE_PUSH=2)], Fails(PROTOCOL)),
    "6.5.2 ENABLE_PUSH of 1": ("", [settings(ENABLE_PUSH=1)], Answers((SETTINGS, ACK, 0, b""))),
    "6.5.2 INITIAL_WINDOW_SIZE of 2^31": ("", [settings(INITIAL_WINDOW_SIZE=1 << 31)], Fails(FLOW)),
    "6.5.2 MAX_FRAME_SIZE of 16383": ("", [settings(MAX_FRAME_SIZE=16383)], Fails(PROTOCOL)),
    "6.5.2 MAX_FRAME_SIZE of 2^24": ("", [settings(MAX_FRAME_SIZE=1 << 24)], Fails(PROTOCOL)),
    "6.5.2 unknown setting is ignored": (
        "",
        [frame(SETTINGS, 0, 0, struct.pack(">HI", 0x99, 7))],
        Answers((SETTINGS, ACK, 0, b"")),
    ),
    "6.5.3 SETTINGS are acknowledged": ("", [settings(MAX_CONCURRENT_STREAMS=1)], Answers((SETTINGS, ACK, 0, b""))),
    # 6.6 PUSH_PROMISE
    "6.6 PUSH_PROMISE from a client": ("", [headers(), frame(PUSH_PROMISE, 4, 1, u32(2) + BLOCK)], Fails(PROTOCOL)),
    # 6.7 PING
    "6.7 PING is answered with its payload": (
        "",
        [frame(PING, 0, 0, b"12345678")],
        Answers((PING, ACK, 0, b"12345678")),
    ),
    "6.7 acknowledgement is not answered": ("", [frame(PING, ACK, 0, b"12345678")], Answers()),
    "6.7 PING on a stream": ("", [headers(), frame(PING, 0, 1, b"12345678")], Fails(PROTOCOL)),
    "6.7 PING of another length": ("", [frame(PING, 0, 0, b"1234567")], Fails(SIZE)),
    # 6.8 GOAWAY
    "6.8 GOAWAY on a stream": ("", [headers(), frame(GOAWAY, 0, 1, u32(0) + u32(0))], Fails(PROTOCOL)),
    "6.8 GOAWAY cut off": ("", [frame(GOAWAY, 0, 0, u32(0))], Fails(SIZE)),
    "6.8 GOAWAY leaves streams under way alone": (
        "",
        [headers(end=False), frame(GOAWAY, 0, 0, u32(0) + u32(0) + b"bye"), data(1, b"x", end=True)],
        Gives(REQUEST, h2.PeerGoneAway, BODY),
    ),
    # 6.9 WINDOW_UPDATE
    "6.9 WINDOW_UPDATE of 0 on the connection": ("", [frame(WINDOW_UPDATE, 0, 0, u32(0))], Fails(PROTOCOL)),
    "6.9 WINDOW_UPDATE of 0 on a stream": ("", [headers(), frame(WINDOW_UPDATE, 0, 1, u32(0))], Resets(PROTOCOL)),
    "6.9 WINDOW_UPDATE of another length": ("", [frame(WINDOW_UPDATE, 0, 0, b"\0\0\1")], Fails(SIZE)),
    "6.9.1 overflow on the connection -> GOAWAY FLOW_CONTROL_ERROR": (
        "",
        [frame(WINDOW_UPDATE, 0, 0, u32((1 << 31) - 1))],
        Fails(FLOW),
    ),
    "6.9.1 overflow on a stream -> RST_STREAM FLOW_CONTROL_ERROR": (
        "",
        [headers(), frame(WINDOW_UPDATE, 0, 1, u32((1 << 31) - 1))],
        Resets(FLOW, told=True),
    ),
    "6.9.1 DATA beyond the stream's window": (
        "",
        [headers(end=False), *[data(1, b"x" * 16384)] * 4],
        Resets(FLOW, told=True),
    ),
    "6.9.1 DATA beyond the connection's window": (
        "",
        [headers(n, end=False) for n in (1, 3, 5, 7)] + [data(n, b"x" * 65_535) for n in (1, 3, 5, 7)],
        Fails(FLOW),
    ),
    "6.9.2 change that overflows a stream's window": (
        "",
        [headers(), frame(WINDOW_UPDATE, 0, 1, u32((1 << 31) - 1 - 65_535)), settings(INITIAL_WINDOW_SIZE=65_536)],
        Fails(FLOW),
    ),
    # 6.10 CONTINUATION
    "6.10 block over several CONTINUATION": (
        "",
        [
            headers(block=BLOCK[:3], flags=0),
            frame(CONTINUATION, 0, 1, BLOCK[3:5]),
            frame(CONTINUATION, END_HEADERS, 1, BLOCK[5:]),
        ],
        Gives(REQUEST),
    ),
    "6.10 CONTINUATION of another stream": (
        "",
        [headers(flags=0), frame(CONTINUATION, END_HEADERS, 3, b"")],
        Fails(PROTOCOL),
    ),
    "6.10 CONTINUATION on stream 0": ("", [headers(flags=0), frame(CONTINUATION, END_HEADERS, 0)], Fails(PROTOCOL)),
    "6.10 CONTINUATION after a complete block": (
        "",
        [headers(end=False), frame(CONTINUATION, END_HEADERS, 1, BLOCK)],
        Fails(PROTOCOL),
    ),
    "6.10 CONTINUATION after DATA": (
        "",
        [headers(end=False), data(1, b"x"), frame(CONTINUATION, END_HEADERS, 1, BLOCK)],
        Fails(PROTOCOL),
    ),
    # 8.1 requests
    "8.1 HEADERS without END_STREAM inside a request": (
        "",
        [headers(end=False), headers(end=False, fields=(("x", "y"),))],
        Resets(PROTOCOL, told=True),
    ),
    "8.1 trailers": (
        "",
        [headers(end=False), data(1, b"x"), headers(fields=(("x", "y"),))],
        Gives(REQUEST, BODY, h2.TrailersReceived),
    ),
    "8.1 pseudo-header in trailers": (
        "",
        [headers(end=False), headers(fields=((":method", "GET"),))],
        Resets(PROTOCOL, told=True),
    ),
    "8.1.1 content-length above the body": (
        "",
        [headers(end=False, fields=changed(content_length="3")), data(1, b"x", end=True)],
        Resets(PROTOCOL, told=True),
    ),
    "8.1.1 content-length below the body": (
        "",
        [headers(end=False, fields=changed(content_length="1")), data(1, b"xx")],
        Resets(PROTOCOL, told=True),
    ),
    "8.1.1 content-length of a request without a body": (
        "",
        [headers(fields=changed(content_length="1"))],
        Resets(PROTOCOL, told=False),
    ),
    "8.1.1 content-length above the body, with trailers": (
        "",
        [headers(end=False, fields=changed(content_length="3")), data(1, b"x"), headers(fields=(("x", "y"),))],
        Resets(PROTOCOL, told=True),
    ),
    "8.1.1 content-length over several DATA": (
        "",
        [headers(end=False, fields=changed(content_length="3")), data(1, b"x"), data(1, b"yz", end=True)],
        Gives(REQUEST, BODY, BODY),
    ),
    "8.1.1 content-length that is no number": ("", [headers(fields=changed(content_length="+3"))], Resets(PROTOCOL)),
    "8.1.1 content-length twice, not the same": (
        "",
        [headers(end=False, fields=(*FIELDS, ("content-length", "1"), ("content-length", "2")))],
        Resets(PROTOCOL),
    ),
    # 8.2 fields
    "8.2.1 upper case in a name": ("", [headers(fields=(*FIELDS, ("X-Upper", "y")))], Resets(PROTOCOL, told=False)),
    "8.2.1 space in a name": ("", [headers(fields=(*FIELDS, ("a b", "y")))], Resets(PROTOCOL)),
    "8.2.1 empty name": ("", [headers(fields=(*FIELDS, ("", "y")))], Resets(PROTOCOL)),
    "8.2.1 byte above 0x7e in a name": ("", [headers(block=BLOCK + b"\x00\x01\xff\x01y")], Resets(PROTOCOL)),
    "8.2.1 line break in a value": ("", [headers(fields=(*FIELDS, ("x", "a\r\nb: c")))], Resets(PROTOCOL)),
    "8.2.1 NUL in a value": ("", [headers(fields=(*FIELDS, ("x", "a\0b")))], Resets(PROTOCOL)),
    "8.2.1 space before a value": ("", [headers(fields=(*FIELDS, ("x", " a")))], Resets(PROTOCOL)),
    "8.2.1 tab after a value": ("", [headers(fields=(*FIELDS, ("x", "a\t")))], Resets(PROTOCOL)),
    "8.2.1 bytes above 0x7f in a value": ("", [headers(fields=(*FIELDS, ("x", "\xe9")))], Gives(REQUEST)),
    "8.2.2 connection": ("", [headers(fields=changed(connection="keep-alive"))], Resets(PROTOCOL)),
    "8.2.2 transfer-encoding": ("", [headers(fields=changed(transfer_encoding="chunked"))], Resets(PROTOCOL)),
    "8.2.2 upgrade": ("", [headers(fields=changed(upgrade="h2c"))], Resets(PROTOCOL)),
    "8.2.2 te of gzip": ("", [headers(fields=changed(te="trailers, deflate;q=0.5"))], Resets(PROTOCOL)),
    "8.2.2 te of trailers": ("", [headers(fields=changed(te="trailers"))], Gives(REQUEST)),
    # 8.3 pseudo-headers
    "8.3 unknown pseudo-header": ("", [headers(fields=((":test", "ok"), *FIELDS))], Resets(PROTOCOL)),
    "8.3 pseudo-header of responses": ("", [headers(fields=((":status", "200"), *FIELDS))], Resets(PROTOCOL)),
    "8.3 pseudo-header after a field": ("", [headers(fields=(*FIELDS[1:], FIELDS[0]))], Resets(PROTOCOL)),
    "8.3.1 empty :path": ("", [headers(fields=changed(path_=""))], Resets(PROTOCOL)),
    "8.3.1 :path without a slash": ("", [headers(fields=changed(path_="s/m"))], Resets(PROTOCOL)),
    "8.3.1 no :method": ("", [headers(fields=changed(method_=None))], Resets(PROTOCOL)),
    "8.3.1 no :scheme": ("", [headers(fields=changed(scheme_=None))], Resets(PROTOCOL)),
    "8.3.1 no :path": ("", [headers(fields=changed(path_=None))], Resets(PROTOCOL)),
    "8.3.1 no :authority": ("", [headers(fields=changed(authority_=None))], Gives(REQUEST)),
    "8.3.1 :method twice": ("", [headers(fields=((":method", "POST"), *FIELDS))], Resets(PROTOCOL)),
    "8.3.1 :path twice": ("", [headers(fields=((":path", "/"), *FIELDS))], Resets(PROTOCOL)),
    "8.3.1 host other than :authority": ("", [headers(fields=changed(host="other"))], Resets(PROTOCOL)),
    "8.3.1 OPTIONS *": ("", [headers(fields=changed(method_="OPTIONS", path_="*"))], Gives(REQUEST)),
    "8.5 CONNECT with a path": ("", [headers(fields=changed(method_="CONNECT"))], Resets(PROTOCOL)),
    "8.5 CONNECT": ("", [headers(fields=changed(method_="CONNECT", path_=None, scheme_=None))], Gives(REQUEST)),
    # RFC 7541
    "HPACK 2.3.3 index 0": ("", [headers(block=b"\x80")], Fails(COMPRESSION)),
    "HPACK 2.3.3 index past the tables": ("", [headers(block=BLOCK + b"\xc6")], Fails(COMPRESSION)),
    "HPACK 4.2 size update after a field": ("", [headers(block=BLOCK + b"\x20")], Fails(COMPRESSION)),
    "HPACK 4.2 size update at the start": ("", [headers(block=b"\x20" + BLOCK)], Gives(REQUEST)),
    "HPACK 4.2 size update above the setting": ("", [headers(block=b"\x3f\xe2\x1f" + BLOCK)], Fails(COMPRESSION)),
    "HPACK 5.1 integer cut off": ("", [headers(block=BLOCK + b"\xff")], Fails(COMPRESSION)),
    "HPACK 5.2 string cut off": ("", [headers(block=BLOCK + b"\x00\x05ab")], Fails(COMPRESSION)),
    "HPACK 5.2 Huffman padding over 7 bits": (
        "",
        [headers(block=BLOCK + b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")],
        Fails(COMPRESSION),
    ),
    "HPACK 5.2 Huffman EOS": ("", [headers(block=BLOCK + b"\x00\x84\xff\xff\xff\xff\x01x")], Fails(COMPRESSION)),
    "HPACK table is kept for refused trailers": (
        "",
        [headers(end=False), reset_here, headers(block=b"\x40\x01x\x01y"), headers(3, block=BLOCK + b"\xbe")],
        Gives(REQUEST, REQUEST),
    ),
    # limits
    "limit: header list twice over -> 431": (
        "",
        [headers(fields=(*FIELDS, ("x", "y" * 20_000)), end=True)],
        Answers((HEADERS, END_HEADERS | END_STREAM, 1, header_block([(":status", "431")]))),
    ),
    "limit: header bomb of indexed fields": (
        "",
        [headers(block=BLOCK + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 1000)],
        Fails(CALM),
    ),
    "limit: header block too long": ("", [headers(block=b"\x00\x01x\x01y" * 7000)], Fails(CALM)),
    "limit: CONTINUATION flood": (
        "",
        [headers(flags=0), *[frame(CONTINUATION, 0, 1, b"")] * 100],
        Fails(CALM),
    ),
    "limit: CONTINUATION without end": (
        "",
        [headers(flags=0), *[frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y" * 3000)] * 3],
        Fails(CALM),
    ),
    "limit: PING flood": ("", [frame(PING, 0, 0, b"12345678")] * 1500, Fails(CALM)),
    "limit: SETTINGS flood": ("", [settings()] * 1500, Fails(CALM)),
    "limit: SETTINGS of many values": (
        "",
        [settings() + frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1" * 2000)] * 10,
        Fails(CALM),
    ),
    "limit: empty DATA flood": ("", [headers(end=False), *[data(1)] * 1500], Fails(CALM)),
    "limit: PRIORITY flood": ("", [frame(PRIORITY, 0, 1, b"\0\0\0\0\0")] * 1500, Fails(CALM)),
    "limit: unknown frame flood": ("", [frame(0x77, 0, 0)] * 1500, Fails(CALM)),
    "limit: WINDOW_UPDATE of one byte flood": ("", [frame(WINDOW_UPDATE, 0, 0, u32(1))] * 1500, Fails(CALM)),
    "limit: RST_STREAM flood on a closed stream": (
        "",
        [headers(), answer, *[frame(RST_STREAM, 0, 1, u32(8))] * 1500],
        Fails(CALM),
    ),
    "limit: rapid reset": (
        "",
        [headers(n) + frame(RST_STREAM, 0, n, u32(8)) for n in range(1, 4001, 2)],
        Fails(CALM),
    ),
    "limit: made to reset rapidly": (
        "",
        [headers(n) + frame(WINDOW_UPDATE, 0, n, u32(0)) for n in range(1, 4001, 2)],
        Fails(CALM),
    ),
    "limit: refused streams": ("", [headers(n) for n in range(1, 4001, 2)], Fails(CALM)),
}


@pytest.mark.parametrize(("mode", "steps", "outcome"), CASES.values(), ids=CASES)
def test_conformance(mode, steps, outcome):
    """The frames of the case have the outcome that its section asks for."""
    peer = Peer(greet=mode != "raw")
    for step in steps:
        if callable(step):
            step(peer)
        else:
            peer.receive(step)
    if mode == "raw" and isinstance(outcome, Gives):
        peer.sent = [item for item in peer.sent if item[0] == RST_STREAM]
    outcome.check(peer)


# -- sending --


def body_of(sent, stream=1):
    return b"".join(payload for kind, _, owner, payload in sent if kind == DATA and owner == stream)


def test_greeting_states_the_limits():
    """The first bytes are SETTINGS with the limits and the connection's window beyond the default."""
    first = frames(H2Connection(LIMITS).to_send())
    assert [kind for kind, *_ in first] == [SETTINGS, WINDOW_UPDATE]
    stated = dict(struct.iter_unpack(">HI", first[0][3]))
    assert stated == {3: 4, 4: 65_535, 5: LIMITS.max_frame_bytes, 6: LIMITS.max_header_list_bytes}
    assert struct.unpack(">I", first[1][3]) == (200_000 - 65_535,)


def test_a_unary_answer_is_three_frames():
    """An answer within the windows is HEADERS, DATA and HEADERS with END_STREAM, and closes the stream."""
    peer = Peer()
    peer.receive(headers())
    peer.connection.respond(1, b"\x88", b"body", b"\x89")
    assert peer.flush() == [
        (HEADERS, END_HEADERS, 1, b"\x88"),
        (DATA, 0, 1, b"body"),
        (HEADERS, END_HEADERS | END_STREAM, 1, b"\x89"),
    ]
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_535, 65_536, 200_000])
def test_an_answer_follows_the_windows(size):
    """No more than the window is sent before WINDOW_UPDATE, no frame is over the peer's maximum, and all arrives."""
    peer = Peer()
    peer.receive(headers())
    content = bytes(range(256)) * (size // 256 + 1)
    peer.connection.respond(1, b"\x88", content[:size], b"\x89")
    peer.flush()
    assert len(body_of(peer.sent)) == min(size, 65_535)
    while len(body_of(peer.sent)) < size:
        assert peer.connection.blocked_streams == 1
        before = len(body_of(peer.sent))
        peer.receive(frame(WINDOW_UPDATE, 0, 1, u32(50_000)))
        assert len(body_of(peer.sent)) == before, "the connection's window is still closed"
        peer.receive(frame(WINDOW_UPDATE, 0, 0, u32(50_000)))
        assert before < len(body_of(peer.sent)) <= before + 50_000
    assert body_of(peer.sent) == content[:size]
    assert all(len(payload) <= 16_384 for *_, payload in peer.sent)
    assert peer.sent[-1] == (HEADERS, END_HEADERS | END_STREAM, 1, b"\x89")
    assert peer.connection.open_streams == peer.connection.blocked_streams == 0


def test_a_window_of_one_byte_is_used_byte_by_byte():
    """6.9.2: with INITIAL_WINDOW_SIZE of 1, one byte goes out, and the next after one WINDOW_UPDATE of 1."""
    peer = Peer()
    peer.receive(settings(INITIAL_WINDOW_SIZE=1) + headers())
    peer.connection.respond(1, b"\x88", b"abc", b"\x89")
    peer.flush()
    assert body_of(peer.sent) == b"a"
    peer.receive(frame(WINDOW_UPDATE, 0, 1, u32(1)))
    assert body_of(peer.sent) == b"ab"
    peer.receive(settings(INITIAL_WINDOW_SIZE=100))
    assert body_of(peer.sent) == b"abc"


def test_a_window_may_become_negative():
    """6.9.2: after a smaller INITIAL_WINDOW_SIZE nothing is sent until updates have brought the window above zero."""
    peer = Peer()
    peer.receive(headers())
    peer.connection.send_headers(1, b"\x88")
    peer.connection.send_data(1, b"x" * 60_000)
    peer.receive(settings(INITIAL_WINDOW_SIZE=10_000))
    peer.sent.clear()
    assert not peer.connection.send_data(1, b"y" * 100)
    peer.receive(frame(WINDOW_UPDATE, 0, 1, u32(50_000)))
    assert body_of(peer.sent) == b"", "60000 were sent of a window that is now 10000 + 50000"
    peer.receive(frame(WINDOW_UPDATE, 0, 1, u32(64)))
    assert body_of(peer.sent) == b"y" * 64


def test_an_empty_end_needs_no_window():
    """An empty DATA frame that ends a stream goes out though the window is negative."""
    peer = Peer()
    peer.receive(headers())
    peer.connection.send_headers(1, b"\x88")
    peer.connection.send_data(1, b"x" * 60_000)
    peer.receive(settings(INITIAL_WINDOW_SIZE=0))
    peer.sent.clear()
    peer.connection.send_data(1, b"", end=True)
    peer.flush()
    assert peer.sent == [(DATA, END_STREAM, 1, b"")]


def test_streams_share_the_connections_window():
    """Two streams blocked by the connection's window both advance when it opens, frame by frame."""
    peer = Peer()
    peer.receive(settings(INITIAL_WINDOW_SIZE=1 << 20) + headers(1) + headers(3))
    peer.connection.respond(1, b"\x88", b"a" * 200_000, b"\x89")
    peer.connection.respond(3, b"\x88", b"b" * 200_000, b"\x89")
    peer.flush()
    peer.sent.clear()
    peer.receive(frame(WINDOW_UPDATE, 0, 0, u32(65_536)))
    assert len(body_of(peer.sent, 1)) == len(body_of(peer.sent, 3)) == 32_768


def test_a_larger_maximum_frame_is_used():
    """A peer that takes larger frames gets them."""
    peer = Peer()
    peer.receive(settings(MAX_FRAME_SIZE=1 << 20) + headers())
    peer.connection.respond(1, b"\x88", b"x" * 60_000, b"\x89")
    peer.flush()
    assert [len(payload) for kind, _, _, payload in peer.sent if kind == DATA] == [60_000]


def test_long_headers_are_continued():
    """Headers over the peer's maximum frame size go out as HEADERS and CONTINUATION and decode to what was meant."""
    peer = Peer()
    peer.receive(headers())
    fields = [(f"x-{index}", "v" * 1000) for index in range(50)]
    peer.connection.send_headers(1, header_block(fields), end=True)
    peer.flush()
    kinds = [(kind, flags) for kind, flags, *_ in peer.sent]
    assert kinds == [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert list(decoder.decode(b"".join(payload for *_, payload in peer.sent))) == fields


def test_an_answer_before_its_request_is_complete_resets_with_no_error():
    """8.1: ending an answer early tells the peer to stop sending, by RST_STREAM(NO_ERROR) after END_STREAM."""
    peer = Peer()
    peer.receive(headers(end=False))
    peer.connection.send_headers(1, b"\x88", end=True)
    assert peer.flush() == [(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"), (RST_STREAM, 0, 1, u32(0))]
    assert not peer.receive(data(1, b"still under way", end=True))
    assert not peer.connection.failed


def test_a_smaller_header_table_is_acknowledged_in_the_next_block():
    """RFC 7541, 4.2: after a smaller HEADER_TABLE_SIZE the next block, and only that, begins with a size update."""
    peer = Peer()
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 100
    peer.receive(settings(HEADER_TABLE_SIZE=100) + settings(HEADER_TABLE_SIZE=4096) + headers(1) + headers(3))
    for stream in (1, 3):
        peer.connection.respond(stream, b"\x88", b"", b"\x89")
    blocks = [payload for kind, _, _, payload in peer.flush() if kind == HEADERS]
    assert blocks == [b"\x20\x88", b"\x89", b"\x88", b"\x89"]
    assert list(decoder.decode(blocks[0])) == [(":status", "200")]


@pytest.mark.parametrize(
    "fields",
    [
        [(":status", "200")],
        [(":status", "415"), ("content-type", "application/grpc")],
        [("x" * 200, "y" * 300), ("date", ""), ("grpc-message", "a%20b")],
    ],
    ids=["indexed", "indexed name", "literal"],
)
def test_header_blocks_decode_to_what_was_meant(fields):
    """A block made from the static table alone is read by any HPACK decoder, and leaves its table empty."""
    decoder = hpack.Decoder()
    assert list(decoder.decode(header_block(fields))) == fields
    assert not decoder.header_table.dynamic_entries


def test_sending_on_a_closed_stream_is_nothing():
    """A handler that answers a stream which has been reset does no harm."""
    peer = Peer()
    peer.receive(headers() + frame(RST_STREAM, 0, 1, u32(8)))
    peer.connection.respond(1, b"\x88", b"", b"\x89")
    peer.connection.send_headers(1, b"\x88")
    assert peer.connection.send_data(1, b"x")
    peer.connection.reset(1, ErrorCode.CANCEL)
    peer.connection.consume(1, 5)
    assert peer.flush() == []


def test_a_reset_drops_what_waits():
    """RST_STREAM from the peer frees a blocked answer, and the connection's window serves others."""
    peer = Peer()
    peer.receive(headers(1))
    peer.connection.respond(1, b"\x88", b"x" * 100_000, b"\x89")
    peer.receive(frame(RST_STREAM, 0, 1, u32(8)))
    assert peer.connection.blocked_streams == peer.connection.open_streams == 0
    peer.sent.clear()
    peer.receive(frame(WINDOW_UPDATE, 0, 0, u32(1000)))
    assert peer.sent == []


def test_drained_is_told_when_the_window_has_taken_all():
    """StreamDrained comes once, when what waited has been queued."""
    peer = Peer()
    peer.receive(headers())
    peer.connection.send_headers(1, b"\x88")
    assert peer.connection.send_data(1, b"x" * 65_535)
    assert not peer.connection.send_data(1, b"y" * 10)
    peer.receive(frame(WINDOW_UPDATE, 0, 0, u32(1000)))
    assert peer.receive(frame(WINDOW_UPDATE, 0, 1, u32(1000))) == [h2.StreamDrained(1)]
    assert body_of(peer.sent)[-10:] == b"y" * 10


@given(
    size=st.integers(0, 70_000),
    connection=st.integers(0, 70_000),
    largest=st.integers(0, 50_000),
    resized=st.booleans(),
)
def test_the_fast_answer_is_the_slow_answer(size, connection, largest, resized):
    """`respond` queues what send_headers, send_data and send_headers queue, whatever the windows."""
    wires = []
    for fast in (True, False):
        peer = Peer()
        peer.receive(
            settings(MAX_FRAME_SIZE=16_384 + largest, **({"HEADER_TABLE_SIZE": 0} if resized else {}))
            + frame(WINDOW_UPDATE, 0, 0, u32(connection + 1))
            + headers()
        )
        if fast:
            peer.connection.respond(1, b"\x88", b"x" * size, b"\x89")
        else:
            peer.connection.send_headers(1, b"\x88")
            peer.connection.send_data(1, b"x" * size)
            peer.connection.send_headers(1, b"\x89", end=True)
        peer.flush()
        peer.receive(frame(WINDOW_UPDATE, 0, 1, u32(100_000)) + frame(WINDOW_UPDATE, 0, 0, u32(100_000)))
        wires.append([item for item in peer.sent if item != (DATA, 0, 1, b"")])
    assert wires[0] == wires[1]


# -- receiving windows --


def test_a_window_below_the_default_holds_after_its_acknowledgement():
    """6.9.2: before it has seen our SETTINGS a peer may use the protocol's default window, after that only ours."""
    peer = Peer(H2Limits(stream_window_bytes=1000))
    peer.receive(headers(1, end=False) + data(1, b"x" * 1001))
    assert not peer.of(RST_STREAM)
    peer.receive(frame(SETTINGS, ACK, 0) + headers(3, end=False) + data(3, b"x" * 1001))
    assert [stream for _, _, stream, _ in peer.of(RST_STREAM)] == [3]


def test_consumed_data_reopens_the_windows():
    """A body far above both windows arrives whole when it is consumed, and updates are few."""
    peer = Peer()
    peer.receive(headers(end=False))
    for _ in range(100):
        (event,) = peer.receive(data(1, b"x" * 16_384))
        peer.connection.consume(1, len(event.data))
        peer.flush()
    assert not peer.connection.failed
    assert 20 < len(peer.of(WINDOW_UPDATE)) < 70


def test_data_that_is_not_consumed_keeps_the_window_closed():
    """What a handler has not taken counts against the stream's window, so memory is bounded by it."""
    peer = Peer()
    peer.receive(headers(end=False))
    for _ in range(3):
        peer.receive(data(1, b"x" * 16_384))
    assert not peer.of(WINDOW_UPDATE)
    peer.receive(data(1, b"x" * 16_384))
    Resets(FLOW).check(peer)


def test_padding_is_given_back_at_once():
    """A body of much padding and little data does not close the windows."""
    peer = Peer()
    peer.receive(headers(end=False))
    for _ in range(2000):
        (event,) = peer.receive(data(1, b"\xff" + b"x" + bytes(255), flags=PADDED))
        assert event.data == b"x"
        peer.connection.consume(1, 1)
    assert not peer.connection.failed


def test_data_for_dead_streams_is_given_back():
    """What arrives for a stream that we have reset returns to the connection's window."""
    peer = Peer()
    for stream in range(1, 81, 2):
        peer.receive(headers(stream, end=False))
        peer.receive(data(stream, b"x" * 10_000))
        peer.connection.reset(stream, ErrorCode.CANCEL)
        peer.receive(data(stream, b"x" * 10_000))
    assert not peer.connection.failed
    assert sum(struct.unpack(">I", payload)[0] for *_, payload in peer.of(WINDOW_UPDATE)) >= 700_000


# -- budgets --


def test_budgets_refill_with_time():
    """Cancelling at a rate below the limit goes on for ever."""
    peer = Peer()
    for stream in range(1, 10_001, 2):
        peer.receive(headers(stream) + frame(RST_STREAM, 0, stream, u32(8)))
        peer.clock.now += 0.01
    assert not peer.connection.failed


def test_closed_streams_take_bounded_memory():
    """After many streams the connection remembers only the latest ones."""
    peer = Peer()
    for stream in range(1, 20_001, 2):
        peer.receive(headers(stream))
        answer(peer, stream)
        peer.events.clear()
    assert len(peer.connection._closed) <= 1024
    assert peer.connection.open_streams == 0


def test_remembered_header_blocks_are_bounded():
    """Many different header blocks do not grow the memory of what blocks mean."""
    peer = Peer()
    for stream in range(1, 2001, 2):
        peer.receive(headers(stream, fields=(*FIELDS, ("x", str(stream)))))
        answer(peer, stream)
        peer.events.clear()
    assert len(peer.connection._heads) <= 64


def test_small_answers_may_be_acknowledged_one_by_one():
    """A client that gives back the window of every small answer is no flood, however many there are."""
    peer = Peer()
    for stream in range(1, 10_001, 2):
        peer.receive(headers(stream))
        answer(peer, stream)
        peer.receive(frame(WINDOW_UPDATE, 0, 0, u32(1)) * 2)
        peer.events.clear()
    assert not peer.connection.failed


def test_floods_queue_no_more_than_they_sent():
    """What a flood makes us queue is no longer than the flood, and it ends."""
    peer = Peer()
    flood = frame(PING, 0, 0, b"12345678") * 5000
    peer.connection.receive(flood)
    assert len(peer.connection.to_send()) <= len(flood)
    assert peer.connection.failed


# -- remembered header blocks --


def test_a_remembered_block_means_the_same():
    """The same bytes give the same headers from memory as when decoded."""
    peer = Peer()
    first, second = peer.receive(headers(1) + headers(3))
    assert first.head is second.head
    assert (first.head.path, first.head.method, dict(first.head.headers)["te"]) == ("/s/m", "POST", "trailers")


def test_a_block_whose_table_changed_is_decoded_anew():
    """The same indexed bytes after a change of the table give what the table says now."""
    encoder, peer = hpack.Encoder(), Peer()
    paths = []
    for stream, path in ((1, "/a"), (3, "/a"), (5, "/a"), (7, "/b")):
        block = encoder.encode([(":method", "POST"), (":scheme", "http"), (":path", path), ("te", "trailers")])
        (event,) = peer.receive(headers(stream, block=block))
        paths.append((event.head.path, event.head.headers))
    assert paths == [(path, (("te", "trailers"),)) for path in ("/a", "/a", "/a", "/b")]
    assert encoder.encode([(":path", "/a")]) != encoder.encode([(":path", "/b")])


def test_evicted_entries_are_not_remembered():
    """A size update that empties the table makes a remembered block an error again."""
    encoder, peer = hpack.Encoder(), Peer()
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), ("x", "y")]
    peer.receive(headers(1, block=encoder.encode(fields)))
    indexed = encoder.encode(fields)
    peer.receive(headers(3, block=indexed))
    peer.receive(headers(5, block=b"\x20\x3f\xe1\x1f" + BLOCK))  # to nothing and back to 4096
    peer.receive(headers(7, block=indexed))
    Fails(COMPRESSION).check(peer)


# -- the graceful end --


def test_drain_serves_what_the_peer_opened_before_it_knew():
    """6.8: GOAWAY of the largest identifier and PING; streams until its answer are served, later ones ignored."""
    peer = Peer()
    peer.receive(headers(1))
    peer.connection.drain()
    goaway, ping = peer.flush()
    assert (goaway[0], goaway[3]) == (GOAWAY, u32((1 << 31) - 1) + u32(0))
    assert [type(event) for event in peer.receive(headers(3))] == [REQUEST]
    peer.sent.clear()
    peer.receive(frame(PING, ACK, 0, ping[3]))
    assert peer.sent == [(GOAWAY, 0, 0, u32(3) + u32(0))]
    assert peer.receive(headers(5, end=False) + data(5, b"x", end=True)) == []
    assert not peer.connection.drained
    answer(peer, 1)
    answer(peer, 3)
    assert peer.connection.drained
    assert not peer.connection.failed


def test_stop_accepting_does_not_wait_for_the_peer():
    """A peer that does not answer the PING is told the last stream anyway, once."""
    peer = Peer()
    peer.connection.drain()
    peer.connection.stop_accepting()
    peer.connection.stop_accepting()
    assert [kind for kind, *_ in peer.flush()] == [GOAWAY, PING, GOAWAY]
    assert peer.connection.drained
