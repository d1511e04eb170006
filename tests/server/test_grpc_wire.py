"""gRPC's framing, timeouts, metadata and statuses, as values."""

import gzip
import zlib

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, TooLarge, UnsupportedEncoding
from headrace.server import grpc_wire
from headrace.server.grpc_wire import MessageReader
from headrace.server.h2 import RequestHead


def frame_message(payload):
    return grpc_wire.prefix(len(payload)) + payload


def head(method="POST", **headers):
    fields = {"content-type": "application/grpc", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return grpc_wire.parse_head(
        RequestHead(method=method, path="/s/m", scheme="http", authority="h", headers=tuple(fields.items()))
    )


@given(st.lists(st.binary(max_size=50), max_size=6), st.data())
def test_messages_survive_any_cutting(messages, choice):
    """Messages framed, joined and cut anywhere come out as they went in, and nothing stays behind."""
    wire = b"".join(map(frame_message, messages))
    cuts = sorted(choice.draw(st.sets(st.integers(0, len(wire)), max_size=8)))
    reader = MessageReader(1000, "identity")
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += reader.feed(wire[start:end])
    assert found == messages
    assert reader.buffered == 0


@given(st.binary(max_size=100))
def test_noise_is_messages_or_an_error(noise):
    """Any bytes give messages or one of our errors, and what is held is what came."""
    reader = MessageReader(60, "gzip")
    try:
        reader.feed(noise)
    except (InvalidRequest, TooLarge):
        return
    assert reader.buffered <= len(noise)


def test_a_message_over_the_limit_is_refused_by_its_prefix():
    """The length alone is enough to refuse a message; its bytes need not come."""
    with pytest.raises(TooLarge, match=r"11 bytes is over the limit of 10 \(grpc.max_message_bytes\)"):
        MessageReader(10, "identity").feed(b"\0\0\0\0\x0b")


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_messages(encoding, compress):
    """A flagged message is decompressed by the call's encoding; an unflagged one in the same call is not."""
    packed = compress(b"hello" * 100)
    wire = b"\1" + len(packed).to_bytes(4, "big") + packed + frame_message(b"plain")
    assert MessageReader(1000, encoding).feed(wire) == [b"hello" * 100, b"plain"]


def test_a_decompression_bomb_is_refused():
    """A message that grows beyond the limit is refused without growing."""
    packed = zlib.compress(bytes(100_000_000))
    with pytest.raises(TooLarge, match="after decompression"):
        MessageReader(1_000_000, "deflate").feed(b"\1" + len(packed).to_bytes(4, "big") + packed)


@pytest.mark.parametrize(
    ("encoding", "wire", "error"),
    [
        ("identity", b"\1\0\0\0\1x", UnsupportedEncoding),
        ("gzip", b"\1\0\0\0\1x", InvalidRequest),
        ("gzip", b"\1\0\0\0\x17" + gzip.compress(b"abc")[:-1] + b"\1", InvalidRequest),
        ("deflate", b"\1\0\0\0\4" + zlib.compress(b"hello")[:4], InvalidRequest),
        ("identity", b"\2\0\0\0\0", InvalidRequest),
    ],
    ids=["no encoding", "not gzip", "wrong checksum", "cut off", "flag of 2"],
)
def test_broken_messages(encoding, wire, error):
    """A message that cannot be read is refused with the right class."""
    with pytest.raises(error):
        MessageReader(1000, encoding).feed(wire)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("40m", 0.04), ("50u", 5e-5), ("60n", 6e-8), ("99999999S", 99_999_999)],
)
def test_timeouts(text, seconds):
    """Each unit of grpc-timeout is read in seconds."""
    assert head(grpc_timeout=text).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "1s", "-1S", "1.5S", "123456789S", " 1S", "\u0661S"])
def test_bad_timeouts(text):
    """A grpc-timeout of any other form is the caller's mistake."""
    assert isinstance(head(grpc_timeout=text).error, InvalidRequest)


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"])
def test_content_types_of_grpc(kind):
    """The content type of gRPC is taken with its subtype for protobuf and with parameters."""
    assert not head(content_type=kind).refusal


@pytest.mark.parametrize("kind", ["", "application/json", "application/grpc-web", "application/grpc+json"])
def test_other_content_types(kind):
    """Anything else is answered 415, whatever the message would have been."""
    assert head(content_type=kind).refusal == grpc_wire.NOT_GRPC


def test_other_methods():
    """A GET is answered 405."""
    assert head(method="GET").refusal == grpc_wire.NOT_POST


def test_unknown_encoding():
    """A grpc-encoding that nobody here speaks is an UnsupportedEncoding, which the answer explains."""
    assert isinstance(head(grpc_encoding="snappy").error, UnsupportedEncoding)
    fields = dict(hpack.Decoder().decode(grpc_wire.trailers_only(12, "no")))
    assert fields["grpc-accept-encoding"] == "identity,deflate,gzip"


def test_repeated_metadata_is_joined():
    """Fields of the same name are one value with commas."""
    made = grpc_wire.parse_head(
        RequestHead(
            method="POST",
            path="/s/m",
            scheme="http",
            authority="h",
            headers=(("content-type", "application/grpc"), ("a", "1"), ("a", "2")),
        )
    )
    assert made.metadata["a"] == "1,2"


@given(st.text(max_size=50))
def test_messages_of_errors_survive(text):
    """Any text comes back from its percent-encoding, which is printable ASCII."""
    from urllib.parse import unquote

    encoded = grpc_wire.percent_encode(text)
    assert encoded.isascii()
    assert encoded == "" or encoded.isprintable()
    assert unquote(encoded) == text.encode(errors="replace").decode()


def test_metadata_of_models():
    """What belongs to the transport is left out, and what is no ASCII goes as binary metadata."""
    fields = grpc_wire.metadata_fields(
        {"X-Model": "a", "content-type": "x", "grpc-status": "9", "bad name": "x", "city": "Köln", "key-bin": "raw"}
    )
    assert fields == [("x-model", "a"), ("city-bin", "S8O2bG4"), ("key-bin", "cmF3")]


@given(
    st.dictionaries(
        st.sampled_from(["age", "Accept-Encoding", "Ce-Id", "x-é", "key-bin", "grpc-x", "date", "link"])
        | st.text("abc-_. A", max_size=8),
        st.text(max_size=150) | st.sampled_from(["", " a ", "gzip, deflate", "\x7f"]),
    )
)
def test_the_quick_trailers_are_the_others(headers):
    """A model's headers end as the same metadata whichever way they are written."""
    quick = hpack.Decoder().decode(grpc_wire.tail_ok(headers))
    slow = hpack.Decoder().decode(grpc_wire.tail(0, "", grpc_wire.metadata_fields(headers)))
    assert quick == slow
