"""Content encodings: an inverse, a limit, and who gets what."""

from __future__ import annotations

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, TooLarge, UnsupportedEncoding
from headrace.server import compression


@given(st.binary(max_size=2000), st.sampled_from(compression.ENCODINGS))
def test_what_is_compressed_comes_back(body, encoding):
    """Decompressing undoes compressing."""
    assert compression.decompress(compression.compress(body, encoding), encoding, limit=2000) == body


@given(st.binary(max_size=200), st.sampled_from(compression.ENCODINGS))
def test_any_bytes_are_a_body_or_a_wrong_request(body, encoding):
    """Bytes that are not what the header says are refused as the caller's mistake, never otherwise."""
    with contextlib.suppress(InvalidRequest, TooLarge):
        compression.decompress(body, encoding, limit=1000)


def test_a_small_body_that_unfolds_stops_at_the_limit():
    """A bomb of a few kilobytes is refused without being unfolded."""
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge, match="max_body_bytes"):
        compression.decompress(bomb, "gzip", limit=1 << 20)


@pytest.mark.parametrize(
    ("body", "encoding", "error", "text"),
    [
        pytest.param(b"x", "br", UnsupportedEncoding, "br", id="unknown encoding"),
        pytest.param(b"x", "gzip, gzip", UnsupportedEncoding, "gzip, gzip", id="a chain"),
        pytest.param(gzip.compress(b"hello")[:-9], "gzip", InvalidRequest, "ends early", id="cut short"),
        pytest.param(zlib.compress(b"hello")[2:], "deflate", InvalidRequest, "zlib", id="raw deflate"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_by_name(body, encoding, error, text):
    """Each refusal says what was wrong."""
    with pytest.raises(error, match=text):
        compression.decompress(body, encoding, limit=100)


def test_identity_is_no_encoding():
    """`identity` leaves the body as it is."""
    assert compression.decompress(b"x", "identity", limit=1) == b"x"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.2, deflate;q=0.9", "deflate"),
        ("gzip;q=0", ""),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("gzip;q=0, *", "deflate"),
        ("br, zstd", ""),
        ("", ""),
        ("identity", ""),
        ("gzip;q=high", ""),
        ("x-gzip", "gzip"),
    ],
)
def test_the_answers_encoding_follows_the_callers_weights(accept, chosen):
    """The highest weight wins, gzip between equals, zero refuses."""
    assert compression.negotiate(accept) == chosen
