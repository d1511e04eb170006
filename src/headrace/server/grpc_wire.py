"""gRPC over HTTP/2 as values: message framing, timeouts, metadata, statuses. `server.grpc` calls it; it opens nothing.

Source: the document "gRPC over HTTP2" and the compression document of the gRPC project.
"""

from __future__ import annotations

import base64
import functools
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from headrace.errors import HeadraceError, InvalidRequest, TooLarge, UnsupportedEncoding
from headrace.protocols import v2_grpc
from headrace.server.h2 import RequestHead, header_block, integer

STATUS_NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip

ENCODINGS: Final = "identity,deflate,gzip"
_PREFIX: Final = struct.Struct(">BI")
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_METADATA_NAME: Final = re.compile(r"[0-9a-z_.\-]+").fullmatch
_METADATA_VALUE: Final = re.compile(r"[\x20-\x7e]*").fullmatch
_RESERVED: Final = frozenset(
    {"connection", "content-length", "content-type", "date", "host", "keep-alive", "proxy-connection", "server", "te"}
    | {"trailer", "transfer-encoding", "upgrade"}
)
_LONGEST_MESSAGE: Final = 2048
"""Characters of an error's text that are sent: trailers count against the client's header limit."""

HEAD: Final = header_block([(":status", "200"), ("content-type", "application/grpc")])
"""The headers of every answer with a message."""
TAIL_OK: Final = header_block([("grpc-status", "0")])
"""The trailers of a call that went well and has nothing to add."""
NOT_GRPC: Final = header_block([(":status", "415"), ("accept-post", "application/grpc")])
NOT_POST: Final = header_block([(":status", "405"), ("allow", "POST")])


class CallHead(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What the headers of a call say."""

    path: str
    metadata: Mapping[str, str]
    """Every header by lower-case name; repeated ones joined by commas."""
    encoding: str = "identity"
    timeout: float | None = None
    """Seconds."""
    refusal: bytes = b""
    """Not a gRPC call: the headers to answer with."""
    error: HeadraceError | None = None
    """A gRPC call that cannot be taken."""


def parse_head(head: RequestHead) -> CallHead:
    """What the headers of a request say about the call."""
    metadata: dict[str, str] = {}
    for name, value in head.headers:
        metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
    headers = MappingProxyType(metadata)
    if head.method != "POST":
        return CallHead(path=head.path, metadata=headers, refusal=NOT_POST)
    kind = metadata.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"application/grpc", "application/grpc+proto"}:
        return CallHead(path=head.path, metadata=headers, refusal=NOT_GRPC)
    encoding = metadata.get("grpc-encoding", "identity")
    error: HeadraceError | None = None
    timeout = None
    if encoding not in {"identity", "gzip", "deflate"}:
        error = UnsupportedEncoding(f"grpc-encoding '{encoding}' is not one of {ENCODINGS}")
    if "grpc-timeout" in metadata:
        match = _TIMEOUT.fullmatch(metadata["grpc-timeout"])
        if match is None:
            error = InvalidRequest("grpc-timeout must be up to 8 digits and one of H, M, S, m, u, n")
        else:
            timeout = int(match[1]) * _UNITS[match[2]]
    return CallHead(path=head.path, metadata=headers, encoding=encoding, timeout=timeout, error=error)


def prefix(size: int) -> bytes:
    """What stands before a message of this size, not compressed."""
    return _PREFIX.pack(0, size)


class MessageReader:
    """Cuts the data of one call into messages.

    Args:
        limit: Bytes of a message, before and after decompression.
        encoding: Of the messages whose compressed flag is set: `identity`, `gzip` or `deflate`.
    """

    __slots__ = ("buffered", "chunks", "encoding", "flag", "length", "limit", "prefix")

    def __init__(self, limit: int, encoding: str) -> None:
        self.limit, self.encoding = limit, encoding
        self.prefix = b""  # the part of a prefix that has come
        self.length = -1  # of the message whose prefix has come; -1: none
        self.flag = 0
        self.chunks: list[bytes] = []  # of that message, joined once
        self.buffered = 0
        """Bytes held of an incomplete message."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete, decompressed.

        Raises:
            TooLarge: a message over the limit, seen from its prefix or while decompressing.
            InvalidRequest: not a message.
            UnsupportedEncoding: a compressed message of a call that named no encoding.
        """
        messages: list[bytes] = []
        position = 0
        if self.length >= 0:
            position = self.length - self.buffered
            self.chunks.append(data if position >= len(data) else data[:position])
            if position > len(data):
                self.buffered += len(data)
                return messages
            payload = b"".join(self.chunks)
            self.chunks.clear()
            messages.append(self._decompress(payload) if self.flag else payload)
            self.length = -1
        elif self.prefix:
            data = self.prefix + data
        size = len(data)
        while size - position >= 5:
            flag, length = _PREFIX.unpack_from(data, position)
            if length > self.limit:
                raise TooLarge(
                    f"a message of {length} bytes is over the limit of {self.limit} (grpc.max_message_bytes)"
                )
            if flag > 1:
                raise InvalidRequest(f"the compressed flag of a message must be 0 or 1, got {flag}")
            position += 5
            if position + length > size:
                self.prefix, self.flag, self.length = b"", flag, length
                self.chunks.append(data[position:])
                self.buffered = size - position
                return messages
            payload = data[position : position + length]
            messages.append(self._decompress(payload) if flag else payload)
            position += length
        self.prefix = data[position:]
        self.buffered = size - position
        return messages

    def _decompress(self, payload: bytes) -> bytes:
        if self.encoding == "identity":
            raise UnsupportedEncoding("a compressed message in a call without grpc-encoding")
        reader = zlib.decompressobj(31 if self.encoding == "gzip" else 15)
        try:
            data = reader.decompress(payload, self.limit + 1)
        except zlib.error as exc:
            raise InvalidRequest(f"a message that is not {self.encoding}") from exc
        if len(data) > self.limit:
            raise TooLarge(
                f"a message is over the limit of {self.limit} bytes after decompression (grpc.max_message_bytes)"
            )
        if not reader.eof:
            raise InvalidRequest(f"a message whose {self.encoding} is cut off")
        return data


def percent_encode(text: str) -> str:
    """An error's text as `grpc-message`: UTF-8, all but printable ASCII percent-encoded."""
    return "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in text[:_LONGEST_MESSAGE].encode(errors="replace")
    )


def tail(status: int, text: str = "", metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """The trailers of a call."""
    return header_block(_status_fields(status, text, metadata))


def trailers_only(status: int, text: str, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """The whole answer of a call that has no message."""
    fields = [(":status", "200"), ("content-type", "application/grpc"), *_status_fields(status, text, metadata)]
    if status == v2_grpc.UNIMPLEMENTED:
        fields.append(("grpc-accept-encoding", ENCODINGS))
    return header_block(fields)


def _status_fields(status: int, text: str, metadata: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    fields = [("grpc-status", str(status))]
    if text:
        fields.append(("grpc-message", percent_encode(text)))
    fields.extend(metadata)
    return fields


def tail_ok(headers: Mapping[str, str]) -> bytes:
    """The trailers of a call that went well, with headers that a model wants on its answer.

    The same as `tail` of `metadata_fields`, several times as fast: what follows from a name alone is remembered.
    """
    parts = [TAIL_OK]
    for given, value in headers.items():
        as_text, as_binary = _name_blocks(given)
        if as_text and value.isascii() and value.isprintable():
            name, raw = as_text, value.strip().encode("ascii")
        elif as_binary:
            name, raw = as_binary, _base64(value)
        else:
            continue
        size = len(raw)
        parts += (name, _SIZES[size] if size < len(_SIZES) else integer(size, 7, 0), raw)
    return b"".join(parts)


@functools.lru_cache(512)
def _name_blocks(given: str) -> tuple[bytes, bytes]:
    """A name as the block of its header begins, for text and for base64; empty: not to be sent so."""
    name = given.lower()
    if not _is_metadata(name):
        return b"", b""
    if name.endswith("-bin"):
        return b"", header_block([(name, "?")])[:-2]  # all but the value and its length
    return header_block([(name, "?")])[:-2], header_block([(f"{name}-bin", "?")])[:-2]


_SIZES: Final = tuple(bytes([size]) for size in range(127))


def _is_metadata(name: str) -> bool:
    return name not in _RESERVED and not name.startswith("grpc-") and _METADATA_NAME(name) is not None


def _base64(value: str) -> bytes:
    return base64.b64encode(value.encode(errors="replace")).rstrip(b"=")


def metadata_fields(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Headers that a model wants on its answer, as trailing metadata.

    Names that belong to the transport are left out; a value that metadata cannot carry as text goes as `NAME-bin`.
    """
    fields = []
    for given, value in headers.items():
        name = given.lower()
        if not _is_metadata(name):
            continue
        if name.endswith("-bin") or not _METADATA_VALUE(value):
            encoded = _base64(value).decode("ascii")
            fields.append((name if name.endswith("-bin") else f"{name}-bin", encoded))
        else:
            fields.append((name, value.strip()))
    return fields
