"""Content encodings of HTTP bodies: gzip and deflate, in and out (RFC 9110, section 8.4). Called by `server.rest`."""

from __future__ import annotations

import zlib
from typing import Final

from headrace.errors import InvalidRequest, TooLarge, UnsupportedEncoding

ENCODINGS: Final = ("gzip", "deflate")
_WINDOW: Final = {"gzip": 31, "deflate": 15}  # deflate is a zlib stream, whatever its name says (RFC 9110, 8.4.1.2)


def decompress(body: bytes, encoding: str, *, limit: int) -> bytes:
    """The body as it was before it was encoded.

    Args:
        body: What came.
        encoding: The `Content-Encoding` header: one of gzip and deflate, or identity.
        limit: Bytes that the result may have: a small body that unfolds into a large one stops there.

    Raises:
        UnsupportedEncoding: another encoding, or a chain of several.
        InvalidRequest: the body is not what the header says, or ends early.
        TooLarge: the result passes the limit.
    """
    name = encoding.strip().lower().removeprefix("x-")
    if name == "identity":
        return body
    if name not in _WINDOW:
        raise UnsupportedEncoding(
            f"Content-Encoding '{encoding}' is not supported; send gzip, deflate, or no encoding at all"
        )
    inflate = zlib.decompressobj(_WINDOW[name])
    try:
        data = inflate.decompress(body, limit + 1)
    except zlib.error as exc:
        if name == "deflate" and not body.startswith(b"\x78"):
            raise InvalidRequest("the body is not a zlib stream, which Content-Encoding: deflate asks for") from exc
        raise InvalidRequest(f"the body is not valid {name}: {exc}") from exc
    if len(data) > limit:
        raise TooLarge(f"the decompressed body is over {limit} bytes (max_body_bytes)")
    if not inflate.eof:
        raise InvalidRequest(f"the {name} body ends early: its end marker did not come")
    return data


def negotiate(accept: str) -> str:
    """The encoding to answer with, for an `Accept-Encoding` header (RFC 9110, section 12.5.3); empty: none.

    The highest weight wins; between equals, gzip. A weight of 0 refuses.
    """
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, _, parameters = item.partition(";")
        key, _, value = parameters.strip().partition("=")
        try:
            weights[name.strip().removeprefix("x-")] = float(value) if key == "q" else 1.0
        except ValueError:
            return ""  # a malformed header asks for nothing
    rest = weights.get("*", 0.0)
    best = max(ENCODINGS, key=lambda name: weights.get(name, rest))
    return best if weights.get(best, rest) > 0 else ""


def compress(body: bytes, encoding: str) -> bytes:
    """The body, encoded at the fastest level: on a fast network anything slower costs more than it saves."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[encoding])
    return deflate.compress(body) + deflate.flush()
