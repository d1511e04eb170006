"""The server's end of an HTTP/2 connection (RFC 9113): bytes in, events out, frames queued. `server.grpc` drives it.

It opens nothing and waits for nothing: `receive` takes what came from the socket and returns what it means, `send_*`,
`respond` and `reset` queue frames, `to_send` gives the bytes to write. Flow control, header compression, the states of
streams and the limits against abusive peers are all here; what a request means is not.

The laws of a stream (RFC 9113, section 5.1), as seen from here:

    IDLE           no frame yet; the next identifier opens it, and every lower one that is idle is closed by that
    OPEN           headers have come, the request goes on
    REQUEST_ENDED  the request is complete ("half-closed (remote)"); the answer goes on
    ENDED          both sides have ended
    RESET_BY_PEER, RESET_HERE, FORGOTTEN    closed early, or too long ago to remember how

"Half-closed (local)" has no entry: an answer that ends before its request ends the stream with RST_STREAM(NO_ERROR), as
section 8.1 allows. Frames that a state does not expect are answered by the table `_UNEXPECTED`.
"""

from __future__ import annotations

import enum
import re
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import hpack
import hpack.table
import msgspec

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = struct.Struct(">HBBBI")  # a frame's length comes as 16 high bits and 8 low ones
_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
MAX_WINDOW: Final = (1 << 31) - 1
_MAX_STREAM: Final = (1 << 31) - 1
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_FRAME: Final = 16_384
_REMEMBERED: Final = 1024
"""Closed streams whose end is remembered, so that frames still under way are told from violations."""
_MEMORISED: Final = 64
"""Header blocks whose meaning is remembered."""
_SIZE_UPDATES: Final = frozenset(bytes((first,)) for first in range(0x20, 0x40))
"""First bytes of a header block that changes the size of the table (RFC 7541, section 6.3)."""
_DRAIN_PING: Final = b"\x00drain\x00\x00"

# Frame types and flags (section 6).
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

# Settings (section 6.5.2).
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class H2Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer may do to a connection."""

    max_concurrent_streams: int = 256
    """Streams open at once; more are refused, and the peer may try again."""
    stream_window_bytes: int = 1 << 20
    """What a peer may send on a stream before it is consumed."""
    connection_window_bytes: int = 4 << 20
    """What a peer may send on all streams before it is consumed: the bound of memory that waits for handlers."""
    max_frame_bytes: int = 256 << 10
    """The longest frame accepted; one incomplete frame is held in memory."""
    max_header_list_bytes: int = 16 << 10
    """Headers of a request, uncompressed, counted as in section 6.5.2; more are answered 431, four times as many end
    the connection."""
    max_header_block_bytes: int = 32 << 10
    """Headers of a request, compressed, over all its CONTINUATION frames."""
    max_continuations: int = 16
    """CONTINUATION frames of one header block (CVE-2024-27316)."""
    resets_burst: int = 1000
    """Streams that the peer may cancel, or make us cancel, at once (CVE-2023-44487, CVE-2025-8671)."""
    resets_per_second: float = 200.0
    """And as a rate."""
    control_burst: int = 1000
    """Frames that cost work and carry no request (PING, SETTINGS, empty DATA, PRIORITY, tiny WINDOW_UPDATE) at once."""
    control_per_second: float = 200.0
    """And as a rate."""


# -- events --


class RequestHead(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A request's headers, checked by sections 8.2 and 8.3. Requests with the same headers may share one."""

    method: str
    path: str
    scheme: str
    authority: str
    headers: tuple[tuple[str, str], ...]
    """The fields that are not pseudo-headers, in the order they came; names in lower case."""
    content_length: int | None = None


class RequestReceived(msgspec.Struct, frozen=True, gc=False):
    """A stream has been opened. `ended`: it has no body."""

    stream_id: int
    head: RequestHead
    ended: bool


class DataReceived(msgspec.Struct, frozen=True, gc=False):
    """A piece of a request's body; `H2Connection.consume` its length when it may leave the window."""

    stream_id: int
    data: bytes
    ended: bool


class TrailersReceived(msgspec.Struct, frozen=True, gc=False):
    """The request has ended with trailers."""

    stream_id: int
    headers: tuple[tuple[str, str], ...]


class StreamReset(msgspec.Struct, frozen=True, gc=False):
    """The stream has ended early: cancelled by the peer, or by us because of what the peer sent."""

    stream_id: int
    code: int
    by_peer: bool


class StreamDrained(msgspec.Struct, frozen=True, gc=False):
    """What waited for the peer's window on this stream has been queued; more may be sent."""

    stream_id: int


class PingAcked(msgspec.Struct, frozen=True, gc=False):
    """The peer has answered a PING."""

    payload: bytes


class PeerGoneAway(msgspec.Struct, frozen=True, gc=False):
    """The peer will not open streams that matter after this."""

    last_stream_id: int
    code: int
    reason: bytes


class ConnectionFailed(msgspec.Struct, frozen=True, gc=False):
    """The peer broke a rule of the connection: GOAWAY is queued; write it, then close. Every stream has ended."""

    code: ErrorCode
    reason: str


Event = (
    RequestReceived
    | DataReceived
    | TrailersReceived
    | StreamReset
    | StreamDrained
    | PingAcked
    | PeerGoneAway
    | ConnectionFailed
)


# -- states --


class StreamState(enum.Enum):
    """See the laws at the top."""

    IDLE = enum.auto()
    OPEN = enum.auto()
    REQUEST_ENDED = enum.auto()
    ENDED = enum.auto()
    RESET_BY_PEER = enum.auto()
    RESET_HERE = enum.auto()
    FORGOTTEN = enum.auto()


_IDLE, _OPEN, _REQUEST_ENDED = StreamState.IDLE, StreamState.OPEN, StreamState.REQUEST_ENDED
_ENDED, _FORGOTTEN = StreamState.ENDED, StreamState.FORGOTTEN


class _Answer(enum.Enum):
    IGNORE = enum.auto()
    RESET = enum.auto()
    FAIL = enum.auto()


_UNEXPECTED: Final = {
    (StreamState.IDLE, DATA): (_Answer.FAIL, ErrorCode.PROTOCOL_ERROR),
    (StreamState.IDLE, HEADERS): (_Answer.FAIL, ErrorCode.PROTOCOL_ERROR),  # an even identifier
    (StreamState.IDLE, RST_STREAM): (_Answer.FAIL, ErrorCode.PROTOCOL_ERROR),
    (StreamState.IDLE, WINDOW_UPDATE): (_Answer.FAIL, ErrorCode.PROTOCOL_ERROR),
    (StreamState.REQUEST_ENDED, DATA): (_Answer.RESET, ErrorCode.STREAM_CLOSED),
    (StreamState.REQUEST_ENDED, HEADERS): (_Answer.RESET, ErrorCode.STREAM_CLOSED),
    (StreamState.ENDED, DATA): (_Answer.FAIL, ErrorCode.STREAM_CLOSED),
    (StreamState.ENDED, HEADERS): (_Answer.FAIL, ErrorCode.STREAM_CLOSED),
    (StreamState.RESET_BY_PEER, DATA): (_Answer.RESET, ErrorCode.STREAM_CLOSED),
    (StreamState.RESET_BY_PEER, HEADERS): (_Answer.RESET, ErrorCode.STREAM_CLOSED),
    (StreamState.FORGOTTEN, DATA): (_Answer.RESET, ErrorCode.STREAM_CLOSED),
    (StreamState.FORGOTTEN, HEADERS): (_Answer.FAIL, ErrorCode.PROTOCOL_ERROR),  # section 5.1.1
}
"""What a frame means in a state that does not expect it; not listed: ignored. A stream that we reset ignores all, for
the peer may have sent it before it knew."""


class _Fault(Exception):
    """A rule of the connection was broken."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Malformed(Exception):
    """A header list breaks a rule of sections 8.1 to 8.3."""


class _Stream:
    __slots__ = ("body", "expected", "held", "id", "pending", "send_window", "state", "unreturned", "window")

    def __init__(self, stream_id: int, state: StreamState, window: int, send_window: int, expected: int | None) -> None:
        self.id = stream_id
        self.state = state
        self.window = window  # what the peer may still send
        self.send_window = send_window  # what we may still send; below zero after the peer lowered its setting
        self.expected = expected  # content-length
        self.body = 0  # bytes received
        self.held = 0  # bytes delivered and not consumed
        self.unreturned = 0  # bytes consumed and not yet given back by WINDOW_UPDATE
        self.pending: deque[tuple[int, memoryview | bytes, bool]] | None = None  # frames waiting for the window


class _Bucket:
    """A budget that refills with time."""

    __slots__ = ("at", "capacity", "clock", "rate", "tokens")

    def __init__(self, capacity: int, rate: float, clock: Callable[[], float]) -> None:
        self.capacity, self.rate, self.clock = capacity, rate, clock
        self.tokens, self.at = float(capacity), clock()

    def take(self, amount: int = 1) -> bool:
        """Whether the budget had this much left."""
        now = self.clock()
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.rate) - amount
        self.at = now
        return self.tokens >= 0


class _Table(hpack.table.HeaderTable):
    """A header table that counts its additions: a block that made none means the same when it comes again."""

    def __init__(self) -> None:
        super().__init__()
        self.additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.additions += 1
        super().add(name, value)


# -- headers --

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_FORBIDDEN_IN_VALUES: Final = re.compile(rb"[\x00\r\n]").search
_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)


def _check_field(name: bytes, value: bytes) -> None:
    if not _NAME(name):
        raise _Malformed(f"field name {name!r}")
    if _FORBIDDEN_IN_VALUES(value) or value[:1] in {b" ", b"\t"} or value[-1:] in {b" ", b"\t"}:
        raise _Malformed(f"value of field {name!r}")
    if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
        raise _Malformed(f"connection-specific field {name!r}")


def _request_head(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """The head that a decoded header list stands for. Raises _Malformed."""
    pseudo: dict[bytes, bytes] = {}
    headers: list[tuple[str, str]] = []
    lengths: set[bytes] = set()
    host: bytes | None = None
    for name, value in fields:
        if name[:1] == b":":
            if headers:
                raise _Malformed(f"pseudo-header {name!r} after other fields")
            if name not in _PSEUDO:
                raise _Malformed(f"pseudo-header {name!r} in a request")
            if name in pseudo:
                raise _Malformed(f"pseudo-header {name!r} twice")
            if _FORBIDDEN_IN_VALUES(value):
                raise _Malformed(f"value of {name!r}")
            pseudo[name] = value
            continue
        _check_field(name, value)
        if name == b"content-length":
            lengths.add(value)
        elif name == b"host":
            host = value
        headers.append((name.decode("ascii"), value.decode("latin-1")))
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if method == b"CONNECT":  # section 8.5
        if b":scheme" in pseudo or path or not pseudo.get(b":authority"):
            raise _Malformed("CONNECT takes :authority alone")
    elif not method or not pseudo.get(b":scheme") or not path:
        raise _Malformed(":method, :scheme and :path are needed and may not be empty")
    elif path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
        raise _Malformed(":path must begin with /")
    if host is not None and pseudo.get(b":authority", host) != host:
        raise _Malformed("host differs from :authority")
    length = None
    if lengths:
        text = lengths.pop()
        if lengths or not text.isdigit() or len(text) > 18:
            raise _Malformed("content-length")
        length = int(text)
    return RequestHead(
        method=method.decode("latin-1"),
        path=path.decode("latin-1"),
        scheme=pseudo.get(b":scheme", b"").decode("latin-1"),
        authority=pseudo.get(b":authority", b"").decode("latin-1"),
        headers=tuple(headers),
        content_length=length,
    )


def _trailers(fields: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...] | None:
    """Checked trailers; None when they are malformed."""
    trailers = []
    try:
        for name, value in fields:
            _check_field(name, value)  # a pseudo-header's colon is no part of a name
            trailers.append((name.decode("ascii"), value.decode("latin-1")))
    except _Malformed:
        return None
    return tuple(trailers)


def integer(value: int, prefix_bits: int, flags: int) -> bytes:
    """HPACK's integer (RFC 7541, section 5.1) behind flag bits."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((flags | value,))
    value -= limit
    encoded = bytearray((flags | limit,))
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_STATIC: Final[tuple[tuple[bytes, bytes], ...]] = hpack.table.HeaderTable.STATIC_TABLE
_STATIC_FIELDS: Final = {field: index for index, field in reversed(list(enumerate(_STATIC, 1)))}
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Headers compressed by the static table alone: the same bytes on any connection, so made once and sent often.

    Args:
        fields: Names in lower case; values are sent as they are and must hold no line breaks.
    """
    block = bytearray()
    for name, value in fields:
        raw_name, raw_value = name.encode("ascii"), value.encode("latin-1")
        index = _STATIC_FIELDS.get((raw_name, raw_value))
        if index is not None:
            block += integer(index, 7, 0x80)
            continue
        index = _STATIC_NAMES.get(raw_name)
        if index is None:
            block += b"\x00" + integer(len(raw_name), 7, 0) + raw_name
        else:
            block += integer(index, 4, 0)
        block += integer(len(raw_value), 7, 0) + raw_value
    return bytes(block)


_TOO_LARGE: Final = header_block([(":status", "431")])


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A frame as it stands on the wire."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


class H2Connection:
    """One connection. Not safe to use from two threads; every method returns at once and none raises for what a peer
    sends: a broken rule becomes StreamReset or ConnectionFailed.

    Args:
        limits: What the peer may do.
        clock: Seconds that never go back, for the budgets.
    """

    def __init__(self, limits: H2Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._max_frame = max(limits.max_frame_bytes, _DEFAULT_FRAME)
        self._streams: dict[int, _Stream] = {}
        self._closed: dict[int, StreamState] = {}  # the last _REMEMBERED, oldest first
        self._blocked: dict[int, _Stream] = {}  # streams with pending frames; the first is next
        self._last_id = 0
        self._accept_up_to = _MAX_STREAM
        self._draining = self._failed = False
        # receiving
        self._chunks: list[bytes] = []  # of an incomplete frame
        self._have, self._need = 0, len(PREFACE)
        self._greeted = self._settled = False  # preface seen, SETTINGS seen
        self._window = max(limits.connection_window_bytes, _DEFAULT_WINDOW)
        # A smaller window than the protocol's default holds from the peer's acknowledgement on (section 6.9.2).
        self._stream_window = max(limits.stream_window_bytes, _DEFAULT_WINDOW)
        self._unreturned = 0
        self._continuing: tuple[int, bool, list[bytes]] | None = None
        self._continued = 0  # bytes of the block so far
        self._decoder = hpack.Decoder(max_header_list_size=4 * limits.max_header_list_bytes)
        self._table = self._decoder.header_table = _Table()
        self._heads: dict[bytes, RequestHead] = {}  # what blocks mean, as long as the table stays as it is
        self._lasting = False  # the last block decoded left the table as it was
        # sending
        self._send_window = _DEFAULT_WINDOW
        self._small_updates = 0  # tiny WINDOW_UPDATE that are fine: small frames of ours ask for two each
        self._peer_stream_window = _DEFAULT_WINDOW
        self._peer_max_frame = _DEFAULT_FRAME
        self.delayed_frames = 0
        """Data frames sent that once waited for a window: while it stands still, the peer takes nothing."""
        self._resize = False  # the peer's table became smaller than HPACK's default: say so once
        self._resized = False
        self._resets = _Bucket(limits.resets_burst, limits.resets_per_second, clock)
        self._control = _Bucket(limits.control_burst, limits.control_per_second, clock)
        settings = (
            (MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
            (INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
            (MAX_FRAME_SIZE, self._max_frame),
            (MAX_HEADER_LIST_SIZE, limits.max_header_list_bytes),
        )
        self._out: list[bytes | memoryview] = [
            frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings))
        ]
        if self._window > _DEFAULT_WINDOW:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, _U32.pack(self._window - _DEFAULT_WINDOW)))

    def __repr__(self) -> str:
        state = "failed" if self._failed else "draining" if self._draining else "open"
        return (
            f"<H2Connection {state} streams={len(self._streams)} blocked={len(self._blocked)} "
            f"window={self._window} send_window={self._send_window}>"
        )

    @property
    def open_streams(self) -> int:
        """Streams whose answer has not wholly been queued."""
        return len(self._streams)

    @property
    def blocked_streams(self) -> int:
        """Streams with an answer that waits for the peer's window."""
        return len(self._blocked)

    @property
    def drained(self) -> bool:
        """Whether no stream is open and the peer has been told that none will be served."""
        return self._accept_up_to != _MAX_STREAM and not self._streams

    @property
    def failed(self) -> bool:
        """Whether the connection has ended by an error; what is left to do is to write and close."""
        return self._failed

    # -- receiving --

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes from the peer mean, in order; the same for any way of cutting the stream into pieces."""
        events: list[Event] = []
        if self._failed:
            return events
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need and self._greeted:
                return events
            data = b"".join(self._chunks)
            self._chunks = []
        try:
            position = 0 if self._greeted else self._greet(data)
            if position >= 0:
                position = self._frames(data, position, events)
        except _Fault as fault:
            self._fail(fault.code, str(fault), events)
            return events
        if position < len(data):
            self._chunks.append(data[position:] if position > 0 else data)
            self._have = len(data) - max(position, 0)
        return events

    def _greet(self, data: bytes) -> int:
        """The position behind the preface; -1 while it is not complete."""
        if data[: len(PREFACE)] != PREFACE[: len(data)]:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 client: the connection preface is wrong")
        if len(data) < len(PREFACE):
            return -1
        self._greeted = True
        return len(PREFACE)

    def _frames(self, data: bytes, position: int, events: list[Event]) -> int:
        """Handle the complete frames from `position` on; returns the position behind them."""
        size, unpack = len(data), _HEAD.unpack_from
        while size - position >= 9:
            high, low, kind, flags, stream_id = unpack(data, position)
            length = high << 8 | low
            if length > self._max_frame:
                raise _Fault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes; the limit is {self._max_frame}")
            start = position + 9
            end = start + length
            if end > size:
                self._need = 9 + length
                return position
            stream_id &= _MAX_STREAM
            if kind == DATA and self._continuing is None and self._settled:
                self._data(stream_id, flags, data[start:end], events)
            elif kind == HEADERS and self._continuing is None and self._settled:
                self._headers(stream_id, flags, data[start:end], events)
            else:
                self._other(kind, stream_id, flags, data[start:end], events)
            position = end
        self._need = 9
        return position

    def _other(self, kind: int, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if not self._settled:
            if kind != SETTINGS or flags & ACK:
                raise _Fault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            self._settled = True
        if self._continuing is not None and kind != CONTINUATION:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "a header block must be continued before any other frame")
        match kind:
            case 8:
                self._window_update(stream_id, payload, events)
            case 3:
                self._rst_stream(stream_id, payload, events)
            case 4:
                self._settings(stream_id, flags, payload, events)
            case 6:
                self._ping(stream_id, flags, payload, events)
            case 9:
                self._continuation(stream_id, flags, payload, events)
            case 7:
                self._goaway(stream_id, payload, events)
            case 2:
                self._priority(stream_id, payload, events)
            case 5:
                raise _Fault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            case _:
                self._charge()  # section 5.5: unknown frames are ignored

    def _data(self, stream_id: int, flags: int, data: bytes, events: list[Event]) -> None:
        length = size = len(data)
        if stream_id == 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        self._window -= length
        if self._window < 0:
            raise _Fault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        if flags & PADDED:
            if length == 0:
                raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without a pad length")
            if data[0] >= length:
                raise _Fault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame, or longer")
            data = data[1 : length - data[0]]
            size = len(data)
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is not _OPEN:
            self._give_back(length)
            self._unexpected(stream_id, DATA, events)
            return
        stream.window -= length
        if stream.window < 0:
            self._give_back(length)
            self._break(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
            return
        ended = flags & END_STREAM != 0
        if not size and not ended:
            self._charge()
        stream.body += size
        expected = stream.expected
        if expected is not None and (stream.body > expected or (ended and stream.body != expected)):
            self._give_back(length)
            self._break(stream_id, ErrorCode.PROTOCOL_ERROR, events)  # section 8.1.1
            return
        stream.held += size
        if length != size:  # padding is consumed by being received
            self._give_back(length - size)
            self._return(stream, length - size)
        if ended:
            stream.state = _REQUEST_ENDED
        events.append(DataReceived(stream_id, data, ended))

    def consume(self, stream_id: int, size: int) -> None:
        """Let as many bytes of a stream's data leave the windows; nothing for a stream that has ended."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # what it held was given back when it ended
        stream.held -= size
        self._give_back(size)
        if stream.state is _OPEN:
            self._return(stream, size)

    def _give_back(self, size: int) -> None:
        self._unreturned += size
        if self._unreturned >= self._limits.connection_window_bytes >> 1:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, _U32.pack(self._unreturned)))
            self._window += self._unreturned
            self._unreturned = 0

    def _return(self, stream: _Stream, size: int) -> None:
        stream.unreturned += size
        if stream.unreturned >= max(self._limits.stream_window_bytes >> 1, 1):
            self._out.append(frame(WINDOW_UPDATE, 0, stream.id, _U32.pack(stream.unreturned)))
            stream.window += stream.unreturned
            stream.unreturned = 0

    def _headers(self, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if stream_id == 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (PADDED | PRIORITISED):
            payload = _unwrap(payload, flags)
        ended = flags & END_STREAM != 0
        if flags & END_HEADERS:
            if len(payload) > self._limits.max_header_block_bytes:
                raise _Fault(ErrorCode.ENHANCE_YOUR_CALM, "a header block over its limit")
            self._block(stream_id, payload, ended, events)
            return
        self._continuing = (stream_id, ended, [payload])
        self._continued = len(payload)

    def _continuation(self, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if self._continuing is None or self._continuing[0] != stream_id:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        _, ended, pieces = self._continuing
        pieces.append(payload)
        self._continued += len(payload)
        if len(pieces) > self._limits.max_continuations or self._continued > self._limits.max_header_block_bytes:
            raise _Fault(ErrorCode.ENHANCE_YOUR_CALM, "a header block over its limit")
        if flags & END_HEADERS:
            self._continuing = None
            self._block(stream_id, b"".join(pieces), ended, events)

    def _block(self, stream_id: int, block: bytes, ended: bool, events: list[Event]) -> None:
        """A complete header block: a request, or trailers."""
        if stream_id > self._last_id:
            self._request(stream_id, block, ended, events)
            return
        fields = self._decode(block)  # whatever comes of it, the table must follow
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is not _OPEN:
            self._unexpected(stream_id, HEADERS, events)
            return
        trailers = _trailers(fields)
        short = stream.expected is not None and stream.body != stream.expected
        if trailers is None or short or not ended:  # trailers end a request, and only they come inside one
            self._break(stream_id, ErrorCode.PROTOCOL_ERROR, events)
            return
        stream.state = _REQUEST_ENDED
        events.append(TrailersReceived(stream_id, trailers))

    def _request(self, stream_id: int, block: bytes, ended: bool, events: list[Event]) -> None:
        if not stream_id & 1:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even identifier")
        self._last_id = stream_id
        head = self._heads.get(block)
        malformed = too_large = False
        if head is None:
            fields = self._decode(block)
            too_large = sum(len(name) + len(value) + 32 for name, value in fields) > self._limits.max_header_list_bytes
            try:
                head = _request_head(fields)
            except _Malformed:
                malformed = True
            else:
                if self._lasting and not too_large:
                    if len(self._heads) >= _MEMORISED:
                        self._heads.clear()
                    self._heads[block] = head
        if stream_id > self._accept_up_to:  # section 6.8: it was told that these are not processed
            self._close(stream_id, StreamState.RESET_HERE)
            return
        state = _REQUEST_ENDED if ended else _OPEN
        expected = None if head is None else head.content_length
        stream = _Stream(stream_id, state, self._stream_window, self._peer_stream_window, expected)
        self._streams[stream_id] = stream
        if len(self._streams) > self._limits.max_concurrent_streams:
            self._break(stream_id, ErrorCode.REFUSED_STREAM, events, told=False)
        elif head is None or malformed or (ended and expected):
            self._break(stream_id, ErrorCode.PROTOCOL_ERROR, events, told=False)
        elif too_large:
            self.send_headers(stream_id, _TOO_LARGE, end=True)
        else:
            events.append(RequestReceived(stream_id, head, ended))

    def _decode(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        additions = self._table.additions
        try:
            fields = list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError as exc:
            raise _Fault(ErrorCode.ENHANCE_YOUR_CALM, "a header list far over its limit") from exc
        except hpack.HPACKError as exc:
            raise _Fault(ErrorCode.COMPRESSION_ERROR, "a header block that does not decode") from exc
        # What a block means may hang on the table; only additions and, at a block's start, size updates change it.
        if self._table.additions != additions or block[:1] in _SIZE_UPDATES:
            self._heads.clear()
            self._lasting = False
        else:
            self._lasting = True
        return fields

    def _settings(self, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if stream_id != 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with a payload")
            self._charge()
            change = self._limits.stream_window_bytes - self._stream_window
            self._stream_window += change
            for stream in self._streams.values() if change else ():
                stream.window += change
            return
        if len(payload) % 6:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
        self._charge(1 + len(payload) // 60)
        for name, value in _SETTING.iter_unpack(payload):
            match name:
                case 1:
                    self._resize |= not self._resized and value < hpack.table.HeaderTable.DEFAULT_SIZE
                case 2 if value > 1:
                    raise _Fault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH of {value}")
                case 4:
                    self._peer_window_changed(value)
                case 5:
                    if not _DEFAULT_FRAME <= value < 1 << 24:
                        raise _Fault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value}")
                    self._peer_max_frame = value
        self._out.append(frame(SETTINGS, ACK, 0))
        self._flush(events)

    def _peer_window_changed(self, value: int) -> None:
        if value > MAX_WINDOW:
            raise _Fault(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE of {value}")
        change = value - self._peer_stream_window
        self._peer_stream_window = value
        for stream in self._streams.values():  # section 6.9.2: it may go below zero
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise _Fault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE overflows a stream's window")

    def _window_update(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a length other than 4")
        increment = _U32.unpack(payload)[0] & MAX_WINDOW
        if increment < 64:  # windows opened by a few bytes make us send as small frames (CVE-2019-9511)
            self._small_updates = min(self._small_updates, self._limits.control_burst) - 1
            if self._small_updates < 0:
                self._small_updates = 0
                self._charge()
        if stream_id == 0:
            if increment == 0:
                raise _Fault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._send_window += increment
            if self._send_window > MAX_WINDOW:
                raise _Fault(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE overflows the connection's window")
            self._flush(events)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._unexpected(stream_id, WINDOW_UPDATE, events)
        elif increment == 0:
            self._break(stream_id, ErrorCode.PROTOCOL_ERROR, events)
        elif stream.send_window + increment > MAX_WINDOW:
            self._break(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
        else:
            stream.send_window += increment
            if stream.pending:
                self._flush(events)

    def _rst_stream(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id == 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if len(payload) != 4:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a length other than 4")
        if stream_id not in self._streams:
            self._unexpected(stream_id, RST_STREAM, events)
            self._charge()
            return
        if not self._resets.take():
            raise _Fault(ErrorCode.ENHANCE_YOUR_CALM, "streams are opened and reset too fast")
        self._close(stream_id, StreamState.RESET_BY_PEER)
        events.append(StreamReset(stream_id, _U32.unpack(payload)[0], by_peer=True))

    def _ping(self, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if stream_id != 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "PING of a length other than 8")
        self._charge()
        if not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif payload == _DRAIN_PING and self._draining:
            self.stop_accepting()
        else:
            events.append(PingAcked(payload))

    def _goaway(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id != 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self._charge()
        last, code = struct.unpack_from(">II", payload)
        events.append(PeerGoneAway(last & _MAX_STREAM, code, payload[8:]))

    def _priority(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id == 0:
            raise _Fault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._charge()
        if len(payload) != 5:
            if self._state(stream_id) is _IDLE:  # an idle stream cannot be reset
                raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a length other than 5")
            self._break(stream_id, ErrorCode.FRAME_SIZE_ERROR, events)

    # -- the ends of streams and of the connection --

    def _state(self, stream_id: int) -> StreamState:
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream.state
        if stream_id > self._last_id or not stream_id & 1:  # even ones are ours to open, and we never do
            return _IDLE
        return self._closed.get(stream_id, _FORGOTTEN)

    def _unexpected(self, stream_id: int, kind: int, events: list[Event]) -> None:
        """Answer a frame on a stream whose state does not expect it."""
        state = self._state(stream_id)
        answer, code = _UNEXPECTED.get((state, kind), (_Answer.IGNORE, ErrorCode.NO_ERROR))
        if answer is _Answer.FAIL:
            raise _Fault(code, f"a frame of type {kind} on a stream that is {state.name.lower()}")
        if answer is _Answer.RESET:
            self._break(stream_id, code, events)

    def _break(self, stream_id: int, code: ErrorCode, events: list[Event], *, told: bool = True) -> None:
        """End a stream for what the peer did. `told`: the application has heard of the stream."""
        if not self._resets.take():
            raise _Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams had to be reset")
        known = stream_id in self._streams
        self._out.append(frame(RST_STREAM, 0, stream_id, _U32.pack(code)))
        self._close(stream_id, StreamState.RESET_HERE)
        if known and told:
            events.append(StreamReset(stream_id, code, by_peer=False))

    def _close(self, stream_id: int, state: StreamState) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            if stream.held:
                self._give_back(stream.held)
            if stream.pending is not None:
                self._blocked.pop(stream_id, None)
        closed = self._closed
        closed[stream_id] = state
        if len(closed) > _REMEMBERED:
            del closed[next(iter(closed))]

    def _charge(self, amount: int = 1) -> None:
        if not self._control.take(amount):
            raise _Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that carry no request")

    def _fail(self, code: ErrorCode, reason: str, events: list[Event]) -> None:
        self._out.append(frame(GOAWAY, 0, 0, struct.pack(">II", self._last_id, code) + reason.encode()))
        self._failed = True
        self._chunks = []
        events.extend(StreamReset(stream_id, code, by_peer=False) for stream_id in self._streams)
        self._streams.clear()
        self._blocked.clear()
        self._heads.clear()
        events.append(ConnectionFailed(code, reason))

    # -- sending --

    def to_send(self) -> bytes:
        """The bytes to write now; empty when there are none."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def respond(self, stream_id: int, head: bytes, body: bytes, tail: bytes) -> None:
        """Queue a whole answer: headers, one body, trailers. Nothing for a stream that has ended.

        Args:
            stream_id: The request's.
            head: A block of `header_block`.
            body: Sent at once where the peer's windows allow it, else as they open.
            tail: A block of `header_block`.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size = len(body)
        if (
            stream.state is _REQUEST_ENDED
            and size <= self._send_window
            and size <= stream.send_window
            and size <= self._peer_max_frame
            and stream.pending is None
            and len(tail) <= _DEFAULT_FRAME
            and not self._resize
        ):
            self._send_window -= size
            self._small_updates += 2
            pack, head_size, tail_size = _HEAD.pack, len(head), len(tail)
            self._out += (
                pack(head_size >> 8, head_size & 0xFF, HEADERS, END_HEADERS, stream_id),
                head,
                pack(size >> 8, size & 0xFF, DATA, 0, stream_id),
                body,
                pack(tail_size >> 8, tail_size & 0xFF, HEADERS, END_HEADERS | END_STREAM, stream_id),
                tail,
            )
            self._close(stream_id, _ENDED)
            return
        self.send_headers(stream_id, head)
        self.send_data(stream_id, body)
        self.send_headers(stream_id, tail, end=True)

    def send_headers(self, stream_id: int, block: bytes, *, end: bool = False) -> None:
        """Queue headers or, with `end`, trailers (or an answer without a body); behind data that still waits."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.pending:
            stream.pending.append((HEADERS, block, end))
            return
        self._queue_headers(stream, block, end)

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> bool:
        """Queue data as far as the peer's windows allow, the rest behind it as they open.

        Returns:
            Whether all of it could be queued at once; if not, wait for StreamDrained before sending more.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return True
        if not data and not end:
            return not stream.pending
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append((DATA, memoryview(data), end))
        self._blocked[stream_id] = stream
        self._flush(None)
        return not stream.pending

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """End a stream at once; what waits to be sent on it is dropped. Nothing for a stream that has ended."""
        if stream_id in self._streams:
            self._out.append(frame(RST_STREAM, 0, stream_id, _U32.pack(code)))
            self._close(stream_id, StreamState.RESET_HERE)

    def ping(self, payload: bytes) -> None:
        """Queue a PING of 8 bytes; its answer is PingAcked."""
        self._out.append(frame(PING, 0, 0, payload))

    def drain(self) -> None:
        """Begin a graceful end: the peer is told to open no more streams, those under way go on.

        Streams opened before the peer knew are still served: the last one is told after a round trip (section 6.8).
        """
        if not self._draining and not self._failed:
            self._draining = True
            self._out.append(frame(GOAWAY, 0, 0, struct.pack(">II", _MAX_STREAM, ErrorCode.NO_ERROR)))
            self.ping(_DRAIN_PING)

    def stop_accepting(self) -> None:
        """Tell the last stream that is served; later ones are ignored from now on."""
        if self._accept_up_to == _MAX_STREAM and not self._failed:
            self._draining = True
            self._accept_up_to = self._last_id
            self._out.append(frame(GOAWAY, 0, 0, struct.pack(">II", self._last_id, ErrorCode.NO_ERROR)))

    def _queue_headers(self, stream: _Stream, block: bytes, end: bool) -> None:
        if self._resize:
            block = b"\x20" + block  # RFC 7541, section 4.2: our table is now of size 0, which fits any limit
            self._resized, self._resize = True, False
        flags = END_STREAM if end else 0
        limit, stream_id = self._peer_max_frame, stream.id
        if len(block) <= limit:
            self._out.append(frame(HEADERS, flags | END_HEADERS, stream_id, block))
        else:
            self._out.append(frame(HEADERS, flags, stream_id, block[:limit]))
            for start in range(limit, len(block), limit):
                last = END_HEADERS if start + limit >= len(block) else 0
                self._out.append(frame(CONTINUATION, last, stream_id, block[start : start + limit]))
        if end:
            self._end(stream)

    def _end(self, stream: _Stream) -> None:
        """Our side of the stream has ended."""
        if stream.state is _REQUEST_ENDED:
            self._close(stream.id, _ENDED)
        else:  # the rest of the request is of no use
            self._out.append(frame(RST_STREAM, 0, stream.id, _U32.pack(ErrorCode.NO_ERROR)))
            self._close(stream.id, StreamState.RESET_HERE)

    def _flush(self, events: list[Event] | None) -> None:
        """Queue what waits, a frame of each stream in turn, until the windows are used up."""
        stuck = 0
        while self._blocked and stuck < len(self._blocked):
            stream_id = next(iter(self._blocked))
            stream = self._blocked.pop(stream_id)
            if self._advance(stream):
                stuck = 0
            else:
                stuck += 1
            if stream.pending:
                self._blocked[stream_id] = stream
            elif events is not None and stream_id in self._streams:
                events.append(StreamDrained(stream_id))

    def _advance(self, stream: _Stream) -> bool:
        """Queue the next frame of a stream that waits; whether one could be."""
        pending = stream.pending
        if not pending:
            return False
        kind, data, end = pending[0]
        if kind == HEADERS:
            pending.popleft()
            self._queue_headers(stream, bytes(data), end)
            return True
        size = min(len(data), self._peer_max_frame, self._send_window, stream.send_window) if data else 0
        if size <= 0 and data:
            return False
        whole = size == len(data)
        flags = END_STREAM if whole and end else 0
        self._out.append(_HEAD.pack(size >> 8, size & 0xFF, DATA, flags, stream.id))
        self._out.append(data if whole else data[:size])
        self.delayed_frames += 1
        self._send_window -= size
        stream.send_window -= size
        if whole:
            self._small_updates += 2
            pending.popleft()
            if end:
                self._end(stream)
        else:
            pending[0] = (kind, data[size:], end)
        return True


def _unwrap(payload: bytes, flags: int) -> bytes:
    """A HEADERS payload without its padding and priority, which section 5.3.2 lets us ignore."""
    start = end = 0
    if flags & PADDED:
        if not payload:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "padded HEADERS without a pad length")
        start, end = 1, payload[0]
    if flags & PRIORITISED:
        start += 5
        if len(payload) < start:
            raise _Fault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS with a priority cut off")
    if start + end > len(payload):
        raise _Fault(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame, or longer")
    return payload[start : len(payload) - end]
