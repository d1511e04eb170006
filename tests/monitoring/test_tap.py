"""The tap: what passes, what is gathered, what is merged, and what never harms the caller."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import child
from headrace.errors import RuntimeFailed
from headrace.monitoring.tap import Tap, merged, packed, tensors_of
from headrace.payload import InferenceRequest, InferenceResponse, Tensor


def asked(x, *, name="x", **more):
    x = np.asarray(x)
    return InferenceRequest(model_name="m", inputs=(Tensor(name, "BYTES" if x.dtype == object else "FP64", x),), **more)


async def doubled(request):
    data = request.inputs[0].data
    y = np.arange(float(len(data))) if data.dtype == object else data * 2
    return InferenceResponse(model_name="m", outputs=(Tensor("y", "FP64", y),), id=request.id)


def tapped(infer=doubled, most=100):
    gathered = []
    tap = Tap("m", "1", most=most, gathered=lambda: gathered.append(1))
    return tap, tap.around(infer), gathered


def ask(infer, *requests):
    async def all_of_them():
        return [await infer(each) for each in requests]

    return asyncio.run(all_of_them())


def test_an_answer_without_id_gets_one_of_its_own():
    """Two requests without ids are told apart in their answers and in what is gathered."""
    tap, infer, _ = tapped()
    first, second = ask(infer, asked([[1.0]]), asked([[2.0]]))
    assert first.id
    assert first.id != second.id
    assert [each[2] for each in tap.take()] == [first.id, second.id]


def test_the_callers_id_stays():
    """An id that the caller gave is the answer's, and the very answer of the model passes on."""
    tap, infer, _ = tapped()
    (answer,) = ask(infer, asked([[1.0]], id="mine"))
    assert answer.id == "mine"
    assert tap.take()[0][4] is answer


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        ({"headrace-internal": "watch"}, 0),
        ({"seldon-skip-logging": "True"}, 0),
        ({"seldon-skip-logging": "false"}, 1),
        ({"host": "x"}, 1),
    ],
    ids=["internal", "skip", "not to skip", "usual"],
)
def test_internal_requests_are_not_watched(headers, count):
    """A request that the server makes itself, or that says so, is answered and not gathered."""
    tap, infer, _ = tapped()
    ask(infer, asked([[1.0]], headers=headers))
    assert len(tap.take()) == count


def test_a_failure_passes_through():
    """What the model raises reaches the caller unchanged, and nothing is gathered."""
    error = RuntimeFailed("no")

    async def fails(request):
        raise error

    tap, infer, _ = tapped(fails)
    with pytest.raises(RuntimeFailed) as caught:
        ask(infer, asked([[1.0]]))
    assert caught.value is error
    assert tap.take() == []


async def test_a_caller_that_leaves_is_not_gathered():
    """Cancelling the request cancels the model's work, and the tap keeps nothing."""
    begun = asyncio.Event()

    async def slow(request):
        begun.set()
        await asyncio.Event().wait()

    tap, infer, _ = tapped(slow)
    task = asyncio.create_task(infer(asked([[1.0]])))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tap.waiting == 0


def test_what_finds_no_room_is_counted_by_rows():
    """With room for two exchanges the third is answered, not gathered, and its rows are counted."""
    tap, infer, gathered = tapped(most=2)
    answers = ask(infer, *[asked([[1.0]] * 3)] * 3)
    assert len(answers) == 3
    assert (tap.waiting, tap.dropped, gathered) == (2, 3, [1])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(1, 2)), min_size=1, max_size=12))
def test_merging_loses_no_row(kinds):
    """Whatever names and widths come one after the other, parts hold each exchange's rows beside its id."""
    tap, infer, _ = tapped()
    requests = [
        asked(np.full((rows, width), float(at)), name=name, id=str(at)) for at, (name, rows, width) in enumerate(kinds)
    ]
    ask(infer, *requests)
    parts, total = merged(tap.take())
    assert total == sum(rows for _, rows, _ in kinds)
    seen = {}
    for part in child.unpack(child.pack({"parts": parts})[4:])["parts"]:
        ((x,), (y,)) = tensors_of(part["inputs"]), tensors_of(part["outputs"])
        np.testing.assert_array_equal(y.data, x.data * 2)
        start = 0
        for index, (identity, rows) in enumerate(zip(part["ids"], part["rows"], strict=True)):
            seen[identity] = (x.name, x.data[start : start + rows].tolist())
            assert part.get("at", list(range(len(requests))))[index] == int(identity)
            start += rows
    assert seen == {str(at): (each.inputs[0].name, each.inputs[0].data.tolist()) for at, each in enumerate(requests)}


def test_tensors_of_other_lengths_stand_alone():
    """A request whose answer has another number of rows is a part of its own, beside those that are merged."""

    async def odd(request):
        rows = 1 if request.id == "b" else len(request.inputs[0].data)
        return InferenceResponse(model_name="m", outputs=(Tensor("y", "FP64", np.zeros(rows)),), id=request.id)

    tap, infer, _ = tapped(odd)
    ask(infer, *[asked([[1.0], [2.0]], id=each) for each in "abc"])
    parts, total = merged(tap.take())
    assert sorted(tuple(part["ids"]) for part in parts) == [("a", "c"), ("b",)]
    assert total == 6


def test_texts_keep_what_they_are():
    """BYTES of different content types are not mixed."""
    values = np.array([b"1"], object)
    tap, infer, _ = tapped()
    plain = asked(values, id="a")
    coded = InferenceRequest(model_name="m", inputs=(Tensor("x", "BYTES", values, {"content_type": "json"}),), id="b")
    ask(infer, plain, coded)
    parts, _ = merged(tap.take())
    assert [part["inputs"][0][3] for part in parts] == ["", "json"]


def test_tensors_cross_as_they_are():
    """Tensors come back from their packed form with names, datatypes, content types and values."""
    tensors = (
        Tensor("a", "FP64", np.ones((2, 2))),
        Tensor("b", "BYTES", np.array([b"x"], object), {"content_type": "s"}),
    )
    back = tensors_of(child.unpack(child.pack({"t": packed(tensors)})[4:])["t"])
    assert [(each.name, each.datatype, each.data.tolist(), dict(each.parameters)) for each in back] == [
        ("a", "FP64", [[1.0, 1.0], [1.0, 1.0]], {}),
        ("b", "BYTES", [b"x"], {"content_type": "s"}),
    ]


def test_the_payload_log_is_told_more():
    """With `whole`, parameters, headers, protocol and duration of each request go along."""
    tap, infer, _ = tapped()
    ask(infer, asked([[1.0]], parameters={"a": 1}, headers={"h": "v"}, protocol="v1"))
    ((part,), _) = merged(tap.take(), whole=True)
    assert (part["parameters"], part["headers"], part["protocols"]) == ([{"a": 1}], [{"h": "v"}], ["v1"])
    assert part["seconds"][0] >= 0
