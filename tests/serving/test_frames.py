"""Frames between server and worker: pack and Reader are inverse however the bytes arrive; tensors survive the way."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace import errors
from headrace.errors import HeadraceError, ModelError, ModelNotReady, Overloaded, RuntimeFailed, UnsupportedEncoding
from headrace.payload import (
    DTYPES,
    InferenceRequest,
    InferenceResponse,
    RequestedOutput,
    Route,
    RouteRequest,
    RouteResponse,
    Signature,
    Tensor,
    TensorSpec,
)
from headrace.serving import frames
from headrace.serving.build import RuntimeSpec
from headrace.serving.frames import Answer, Ask, Load, Loaded, Part, Room, Shared

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


NAMES = st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PARAMETERS = st.dictionaries(NAMES, VALUES, max_size=3)
HEADERS = st.dictionaries(NAMES, NAMES, max_size=3)
LOGGED = st.lists(st.tuples(NAMES, NAMES, st.floats(allow_nan=False)), max_size=2).map(tuple)


@st.composite
def tensors(draw, parameters=st.sampled_from([{}, {"content_type": "str", "n": 1, "b": True}])):  # noqa: B008
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    elements = st.binary(max_size=9) if datatype == "BYTES" else None
    data = draw(arrays.arrays(DTYPES[datatype], draw(SHAPES), elements=elements))
    if draw(st.booleans()) and data.ndim > 1:
        data = data.T  # not in C order
    return Tensor(draw(st.text(max_size=5)), datatype, data, draw(parameters), draw(st.booleans()))


def equal(one, two):
    assert (one.name, one.datatype, one.shape, dict(one.parameters), one.nested) == (
        two.name,
        two.datatype,
        two.shape,
        dict(two.parameters),
        two.nested,
    )
    assert one.data.dtype == two.data.dtype
    assert one.data.tobytes() == two.data.tobytes() or one.data.tolist() == two.data.tolist()


@given(st.lists(st.lists(tensors(), max_size=4), max_size=5), st.lists(st.integers(1, 200), max_size=20))
def test_frames_survive_any_cutting(messages, cuts):
    """Frames read back are those written, tensor for tensor, wherever the stream of bytes was cut."""
    stream = b""
    for number, message in enumerate(messages):
        laid, buffers = frames.lay(message)
        stream += b"".join(frames.pack(Answer(number, 5, False, laid), buffers))
    reader = frames.Reader()
    read = []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        read += [(frames.from_worker.decode(head), body) for head, body in reader.feed(stream[:size])]
        stream = stream[size:]
    assert [header.id for header, _ in read] == list(range(len(messages)))
    for (header, body), message in zip(read, messages, strict=True):
        for one, two in zip(message, frames.lift(header.tensors, body), strict=True):
            equal(one, two)
            assert two.datatype == "BYTES" or not two.data.size or not two.data.flags.writeable


def test_arrays_lie_aligned():
    """Every array is aligned for its datatype, whatever came before it in the body."""
    mixed = [
        Tensor("a", "INT8", np.zeros(3, np.int8)),
        Tensor("b", "FP64", np.ones(2)),
        Tensor("c", "FP32", np.ones(1, np.float32)),
    ]
    laid, buffers = frames.lay(mixed)
    stream = b"".join(frames.pack(Part(1, laid), buffers)) * 3
    for head, body in frames.Reader().feed(stream):
        for tensor in frames.lift(frames.from_worker.decode(head).tensors, body):
            assert tensor.data.flags.aligned


@pytest.mark.parametrize("size", [1 << 16, 1 << 20], ids=["64 KiB", "1 MiB"])
def test_large_arrays_are_not_copied_to_be_packed(size):
    """A large contiguous tensor is handed over as its own memory."""
    data = np.arange(size, dtype=np.uint8)
    laid, buffers = frames.lay([Tensor("x", "UINT8", data)])
    assert np.shares_memory(np.frombuffer(buffers[0], np.uint8), data)
    assert sum(len(piece) for piece in frames.pack(Part(1, laid), [buffers[0], b"abc"])) % 8 == 0


def test_what_is_no_frame_is_refused():
    """Bytes that somebody else wrote to the socket are an error, not a wait for gigabytes."""
    with pytest.raises(RuntimeFailed, match="not a frame"):
        frames.Reader().feed(b"hello, is this a model? no...")


def test_load_and_loaded_cross_whole():
    """What to load and what was loaded arrive equal, read-only mappings and all."""
    spec = RuntimeSpec(
        name="m", runtime="onnx", path="/a", parameters={"deep": {"list": [1, 2.5, None]}}, allowed_globals=("a.*",)
    )
    ((head, _),) = frames.Reader().feed(b"".join(frames.pack(Load(spec, [], ["/p"], None, 20))))
    assert frames.to_worker.decode(head) == Load(spec, [], ["/p"], None, 20)
    signature = Signature(
        platform="p",
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 4), labels=("a", "b")),),
        properties={"engine": "onnx"},
    )
    ((head, _),) = frames.Reader().feed(b"".join(frames.pack(Loaded(signature, False, True, 0.5))))
    loaded = frames.from_worker.decode(head)
    assert loaded == Loaded(signature, False, True, 0.5)
    assert loaded.signature.inputs[0].shape == (-1, 4)


def test_parameters_of_numpy_cross():
    """Numbers of numpy inside parameters cross as plain numbers; what cannot cross says so."""
    ((head, _),) = frames.Reader().feed(b"".join(frames.pack(Ask(1, -1, False, [], ("y",), {"k": np.int64(3)}, 1))))
    assert frames.to_worker.decode(head).parameters == {"k": 3}
    with pytest.raises(TypeError, match="object cannot cross to a worker process"):
        frames.pack(Ask(1, -1, False, [], (), {"k": object()}, 1))


LEAVES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HeadraceError)]


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_error_crosses_as_its_class(kind):
    """An error arrives with its class and its text, whichever leaf of the tree it is."""
    failure = frames.failure_of(3, kind("why"), separable=True)
    ((head, _),) = frames.Reader().feed(b"".join(frames.pack(failure)))
    back = frames.error_of(frames.from_worker.decode(head))
    assert type(back) is kind
    assert str(back) == "why"


def test_half_a_character_in_an_error_crosses():
    """A message with a lone surrogate, as names of files have, arrives with a mark in its place."""
    header, _ = there(frames.from_worker, frames.failure_of(1, RuntimeFailed("no file 'a\udcff'")))
    assert str(frames.error_of(header)) == "no file 'a?'"


def test_somebody_elses_error_crosses_as_ours():
    """A subclass that only the worker knows arrives as the nearest class of the tree."""

    class Own(ModelNotReady):
        pass

    assert type(frames.error_of(frames.failure_of(1, Own("x")))) is ModelNotReady
    assert type(frames.error_of(frames.Failure(1, "Unheard", "x"))) is RuntimeFailed
    assert issubclass(Overloaded, HeadraceError)
    assert issubclass(UnsupportedEncoding, HeadraceError)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory needs memfd_create")
def test_shared_memory_grows_and_is_used_again():
    """What one side writes the other reads, small after large and larger again, BYTES included."""
    fd = os.memfd_create("test")
    try:
        writer, reader = Shared(fd), Shared(fd)
        for size in (10, 100_000, 3, 1_000_000, 0):
            message = [
                Tensor("a", "FP64", np.random.default_rng(size).random(size)),
                Tensor("b", "BYTES", np.array([b"x" * (size % 77), b""], object)),
            ]
            laid, buffers = frames.lay(message)
            writer.write(buffers)
            for one, two in zip(message, reader.read(laid), strict=True):
                equal(one, two)
    finally:
        os.close(fd)


def test_words_are_small():
    """A word about a stream is one short write."""
    (piece,) = frames.pack(Room(1))
    assert len(piece) <= 24


# -- whole requests, routes --


def there(decoder, header, buffers=()):
    """A frame's header and body as the other side reads them."""
    ((head, body),) = frames.Reader().feed(b"".join(frames.pack(header, buffers)))
    return decoder.decode(head), body


@given(
    st.builds(
        InferenceRequest,
        model_name=NAMES,
        model_version=NAMES,
        id=NAMES,
        inputs=st.lists(tensors(PARAMETERS), max_size=3).map(tuple),
        outputs=st.lists(st.builds(RequestedOutput, NAMES, PARAMETERS), max_size=2).map(tuple),
        parameters=PARAMETERS,
        headers=HEADERS,
        protocol=NAMES,
        deadline=st.none() | st.floats(0, 1e9),
    )
)
def test_a_whole_request_crosses(request):
    """A whole request arrives equal: nested parameters of the request, of its tensors, of its outputs."""
    laid, buffers = frames.lay(request.inputs)
    header, body = there(frames.to_worker, Ask(1, -1, False, laid, (), {}, 1, asked=frames.ask_of(request)), buffers)
    back = frames.request_of(header.asked, frames.lift(header.tensors, body))
    for one, two in zip(request.inputs, back.inputs, strict=True):
        equal(one, two)
    assert msgspec.structs.replace(back, inputs=()) == msgspec.structs.replace(request, inputs=())


@given(
    st.builds(
        InferenceResponse,
        model_name=NAMES,
        model_version=NAMES,
        id=NAMES,
        outputs=st.lists(tensors(PARAMETERS), max_size=3).map(tuple),
        parameters=PARAMETERS,
        headers=HEADERS,
    ),
    LOGGED,
)
def test_a_whole_response_crosses(response, logged):
    """A response, and a stream's part, arrive equal, and so does what the model measured."""
    laid, buffers = frames.lay(response.outputs)
    for told in (Answer(1, 5, False, laid, frames.tell(response), None, logged), Part(1, laid, frames.tell(response))):
        header, body = there(frames.from_worker, told, buffers)
        back = frames.response_of(header.told, frames.lift(header.tensors, body))
        for one, two in zip(response.outputs, back.outputs, strict=True):
            equal(one, two)
        assert msgspec.structs.replace(back, outputs=()) == msgspec.structs.replace(response, outputs=())
        assert getattr(header, "logged", logged) == logged


PAIRS = st.lists(st.tuples(NAMES, NAMES), max_size=3).map(tuple)


@given(
    st.builds(
        RouteRequest,
        route=NAMES,
        method=NAMES,
        target=NAMES,
        headers=PAIRS,
        body=st.binary(max_size=20),
        parameters=HEADERS,
        deadline=st.none() | st.floats(0, 1e9),
    ),
    st.builds(RouteResponse, status=st.integers(200, 599), headers=PAIRS, body=st.binary(max_size=20)),
)
def test_a_visit_crosses_there_and_back(request, response):
    """What is asked of a route and what it answers arrive equal, bodies included."""
    bare, of_request = frames.part_body(request)
    laid, buffers = frames.lay([of_request])
    header, body = there(frames.to_worker, Ask(1, -1, False, laid, (), {}, -1, route=bare), buffers)
    assert frames.join_body(header.route, frames.lift(header.tensors, body)) == request
    bare, of_response = frames.part_body(response)
    laid, buffers = frames.lay([of_response])
    header, body = there(frames.from_worker, Answer(1, 5, False, laid, visited=bare), buffers)
    assert frames.join_body(header.visited, frames.lift(header.tensors, body)) == response


@given(st.integers(400, 599), st.floats(0, 1e6), LOGGED)
def test_errors_keep_what_they_carry(status, seconds, logged):
    """A ModelError's status, an Overloaded's pause, and what was measured before a failure arrive."""
    header, _ = there(frames.from_worker, frames.failure_of(1, ModelError("why", status=status), logged=logged))
    assert frames.error_of(header).status == status
    assert header.logged == logged
    header, _ = there(frames.from_worker, frames.failure_of(1, Overloaded("full", retry_after_seconds=seconds)))
    assert frames.error_of(header).retry_after_seconds == seconds


def test_a_loaded_model_tells_its_routes():
    """Routes, and what the load measured, arrive with the signature."""
    routes = (Route(method="GET", path="/a/{b}", name="c"),)
    sent = Loaded(Signature(platform="p"), True, True, None, True, routes, (("n", "d", 1.0),))
    header, _ = there(frames.from_worker, sent)
    assert header == sent
