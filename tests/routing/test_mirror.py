"""A mirror costs its callers nothing, whatever becomes of it, and says how its answers differ from theirs."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from tests.routing.small_candidates import Model, asking

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.routing.mirror import Mirror
from headrace.routing.split import Split


def mirrored(shadow, *, percent=100, **options):
    """A split of one model, and its mirror."""
    options = {"delay_seconds": 0.0, "seed": 1, **options}
    mirror = Mirror("e", shadow.candidate(percent), **options)
    return Split("e", [Model("a").candidate()], mirror=mirror), mirror


async def ask(split, count, **fields):
    return [await split.infer(asking(float(index), 2.0, **fields)) for index in range(count)]


async def test_what_gathers_goes_on_as_one_request(settle):
    """The first alone, the rest merged, each compared with its own caller's answer."""
    shadow = Model("shadow")
    split, mirror = mirrored(shadow, compares=True)
    await ask(split, 10)
    assert not shadow.calls
    await settle(lambda: mirror.counted().requests == 10)
    counted = mirror.counted()
    assert shadow.rows == [1, 9]
    assert shadow.calls[1].inputs[0].data[:, 0].tolist() == [float(index) for index in range(1, 10)]
    assert (counted.failures, counted.compared, counted.agreed) == (0, 10, 10)
    assert sum(counted.latency.values()) == 1
    assert split.counts()["a"].requests == 10
    split.close()


async def test_kinds_of_requests_are_not_mixed(settle):
    """Rows of other widths, names, datatypes and parameters go apart."""
    shadow = Model("shadow")
    split, mirror = mirrored(shadow, compares=True)
    kinds = [
        asking(1.0, 2.0),
        asking(1.0, 2.0, 3.0),
        asking(1.0, 2.0, parameters={"temperature": 1}),
        asking(1.0, 2.0, parameters={"deep": [1]}),
        InferenceRequest(model_name="e", inputs=(Tensor("z", "FP32", np.ones((1, 2), np.float32)),)),
        InferenceRequest(model_name="e", inputs=(Tensor("x", "FP64", np.ones((1, 2))),)),
    ]
    for request in kinds * 4:
        await split.infer(request)
    await settle(lambda: mirror.counted().requests == 24)
    assert sorted(shadow.rows) == [1] * (5 + 4) + [3] * 5
    assert mirror.counted().agreed == 24
    split.close()


async def test_differences_are_counted_and_shown(settle):
    """Every differing answer is found though it was compared in a heap, with examples that are JSON."""

    async def wrong_for_three(request):
        data = request.inputs[0].data * np.float32(2)
        data[request.inputs[0].data[:, 0] == 3] += np.float32(0.5)
        return InferenceResponse(model_name="s", outputs=(Tensor("y", "FP32", data),))

    shadow = Model("shadow")
    shadow.infer = wrong_for_three
    split, mirror = mirrored(shadow, compares=True)
    await ask(split, 8, id="r")
    await settle(lambda: mirror.counted().compared == 8)
    assert mirror.counted().agreed == 7
    (example,) = json.loads(json.dumps(split.examples()))
    assert (example["id"], example["output"], example["inputs"]) == ("r", "y", {"x": [[3.0, 2.0]]})
    assert (example["expected"], example["found"]) == ({"y": [[6.0, 4.0]]}, {"y": [[6.5, 4.5]]})
    summary = json.loads(json.dumps(split.summary()))
    assert summary["outputs"] == {"y": {"differing": 1, "difference": 0.5}}
    assert (summary["worst"], summary["compared"], summary["agreed"], summary["dropped"]) == ("y", 8, 7, 0)
    split.close()


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        pytest.param(np.array([1.0, np.nan]), np.array([1.0005, np.nan]), True, id="within the tolerance"),
        pytest.param(np.array([1.0]), np.array([1.01]), False, id="beyond it"),
        pytest.param(np.array([1.0]), np.array([np.nan]), False, id="not a number"),
        pytest.param(np.array([np.inf]), np.array([np.inf]), True, id="infinities"),
        pytest.param(np.array([1], np.float32), np.array([1.0]), True, id="another precision"),
        pytest.param(np.array([1]), np.array([2]), False, id="classes"),
        pytest.param(np.array([10**6]), np.array([10**6 + 1]), False, id="integers exactly"),
        pytest.param(np.array([b"a"], object), np.array([b"a"], object), True, id="bytes"),
        pytest.param(np.array([b"a"], object), np.array([b"b"], object), False, id="other bytes"),
        pytest.param(np.array([b"1"], object), np.array([1]), False, id="bytes and numbers"),
        pytest.param(np.array([1.0]), np.array([[1.0]]), False, id="another shape"),
        pytest.param(np.zeros((1, 0)), np.zeros((1, 0)), True, id="nothing"),
        pytest.param(np.array(1.0), np.array(1.0), True, id="scalars"),
    ],
)
async def test_answers_agree_within_a_tolerance(settle, ours, theirs, agree):
    """Floats by 1e-3 and 1e-5, everything else exactly."""
    names = {"f": "FP64", "i": "INT64", "O": "BYTES"}

    def model(name, data):
        answering = Model(name)

        async def infer(request):
            datatype = "FP32" if data.dtype == np.float32 else names[data.dtype.kind]
            return InferenceResponse(model_name=name, outputs=(Tensor("y", datatype, data),))

        answering.infer = infer
        return answering

    mirror = Mirror("e", model("b", theirs).candidate(100), compares=True, delay_seconds=0.0)
    split = Split("e", [model("a", ours).candidate()], mirror=mirror)
    for _ in range(3):
        await split.infer(asking())
    await settle(lambda: mirror.counted().compared == 3)
    assert mirror.counted().agreed == (3 if agree else 0)
    json.dumps([split.examples(), split.summary()], allow_nan=False)
    split.close()


async def test_outputs_are_matched_by_name(settle):
    """An output that only one of them has is a difference, and it has no number."""
    split, mirror = mirrored(Model("shadow", output="other"), compares=True)
    await ask(split, 3)
    await settle(lambda: mirror.counted().compared == 3)
    assert mirror.counted().agreed == 0
    assert {name: each["difference"] for name, each in split.summary()["outputs"].items()} == {"other": None, "y": None}
    split.close()


async def test_a_failing_mirror_is_nobodys_failure(settle):
    """Callers are answered; each copy counts as a failed request, and as one that does not agree."""
    split, mirror = mirrored(Model("shadow", error=RuntimeFailed("broken")), compares=True)
    assert len(await ask(split, 20)) == 20
    await settle(lambda: mirror.counted().requests == 20)
    assert (mirror.counted().failures, mirror.counted().compared, mirror.counted().agreed) == (20, 20, 0)
    assert split.counts()["a"].failures == 0
    split.close()


async def test_one_bad_request_does_not_spoil_its_neighbours(settle):
    """A merged request that is refused is sent again one by one."""
    shadow = Model("shadow")
    good = shadow.infer

    async def picky(request):
        if (request.inputs[0].data[:, 0] == 3).any():
            raise InvalidRequest("3 is not for me")
        return await good(request)

    shadow.infer = picky
    split, mirror = mirrored(shadow, compares=True)
    await ask(split, 6)
    await settle(lambda: mirror.counted().requests == 6)
    counted = mirror.counted()
    assert (counted.failures, counted.compared, counted.agreed) == (0, 5, 5)
    split.close()


async def test_a_hanging_mirror_holds_nobody_and_little(settle):
    """Callers are answered at once, what waits is bounded, the rest is dropped and counted, and close ends it."""
    shadow = Model("shadow", gate=asyncio.Event())
    split, mirror = mirrored(shadow, max_requests=5)
    await ask(split, 3)
    await settle(lambda: shadow.calls)
    async with asyncio.timeout(60):
        await ask(split, 100)
    assert mirror.dropped == 95
    assert len(shadow.calls) <= 2
    before = asyncio.all_tasks()
    split.close()
    await settle(lambda: not (before & asyncio.all_tasks()) - {asyncio.current_task()})
    await ask(split, 3)
    assert mirror.dropped == 98


async def test_a_mirror_has_its_own_deadline(settle):
    """What takes too long has failed, and the next copies are sent."""
    shadow = Model("shadow", gate=asyncio.Event())
    split, mirror = mirrored(shadow, timeout_seconds=0.01)
    await ask(split, 1)
    await settle(lambda: mirror.counted().failures == 1)
    shadow.gate.set()
    await ask(split, 1)
    await settle(lambda: mirror.counted().requests == 2)
    assert mirror.counted().failures == 1
    split.close()


async def test_memory_is_bounded_by_bytes():
    """Large requests are dropped before they fill it, answers and texts counted in."""
    texts = np.empty(1, object)
    texts[0] = b"x" * 600
    request = InferenceRequest(model_name="e", inputs=(Tensor("x", "BYTES", texts),))
    mirror = Mirror("e", Model("shadow").candidate(100), max_bytes=1500, delay_seconds=60)
    for _ in range(5):
        mirror.offer(request, None)
    assert mirror.dropped == 3
    mirror.close()


async def test_a_percentage_is_copied():
    """Of 2000 requests, 20 percent are, within five standard deviations."""
    mirror = Mirror("e", Model("shadow").candidate(20), delay_seconds=60, max_requests=2000, seed=4)
    for _ in range(2000):
        mirror.offer(asking(), None)
    waiting = int(repr(mirror).split()[2])
    assert abs(waiting - 400) < 5 * np.sqrt(2000 * 0.2 * 0.8)
    mirror.close()


async def test_a_candidate_whose_rows_depend_on_each_other_is_asked_one_by_one(settle):
    """Where a merged request gets one row back, it is not merged again."""
    shadow = Model("shadow")

    async def total(request):
        shadow.calls.append(request)
        return InferenceResponse(model_name="s", outputs=(Tensor("y", "FP32", request.inputs[0].data.sum(0)[None]),))

    shadow.infer = total
    split, mirror = mirrored(shadow)
    await ask(split, 5)
    await settle(lambda: mirror.counted().requests == 5)
    assert shadow.rows == [1, 4, 1, 1, 1, 1]
    await ask(split, 5)
    await settle(lambda: mirror.counted().requests == 10)
    assert shadow.rows[6:] == [1] * 5
    split.close()


async def test_the_loop_turns_between_calls(settle):
    """While many copies are sent on one by one, others run in between."""
    shadow = Model("shadow")
    split, mirror = mirrored(shadow, merges=False)
    await ask(split, 30)
    turns = 0
    seen = set()
    while mirror.counted().requests < 30:
        await asyncio.sleep(0)
        turns += 1
        seen.add(len(shadow.calls))
    assert turns >= 30
    assert len(seen) >= 25
    split.close()


async def test_requests_that_failed_for_their_caller_are_copied_too(settle):
    """A failure of the model's is mirrored, without a comparison; a mistake of the caller's is not."""
    shadow = Model("shadow")
    mirror = Mirror("e", shadow.candidate(100), compares=True, delay_seconds=0.0)
    broken = Model("a", error=RuntimeFailed("broken"))
    split = Split("e", [broken.candidate()], mirror=mirror)
    with pytest.raises(RuntimeFailed):
        await split.infer(asking())
    broken.error = InvalidRequest("yours")
    with pytest.raises(InvalidRequest):
        await split.infer(asking())
    await settle(lambda: mirror.counted().requests == 1)
    assert mirror.counted().compared == 0
    split.close()
