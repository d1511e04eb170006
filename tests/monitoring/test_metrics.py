"""Counts as Prometheus reads them: parsed back from the text form, by the names in `NAMES`."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import InvalidRequest
from headrace.monitoring.metrics import (
    BATCH_SIZES_KEPT,
    KSERVE_NAMES,
    MLSERVER_NAMES,
    NAMES,
    Metrics,
    measure,
    status_of,
)
from headrace.payload import InferenceRequest, InferenceResponse, Tensor

REQUEST = InferenceRequest(
    model_name="m", inputs=(Tensor("x", "FP32", np.zeros((1, 2), np.float32)),), protocol="v2_rest"
)


def samples(metrics):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


async def answer(request):
    return InferenceResponse(model_name=request.model_name, outputs=())


async def refuse(request):
    raise InvalidRequest("no")


async def test_a_request_is_counted_once_under_its_outcome():
    """A request that is answered and one that is refused are counted under ok and invalid_request."""
    metrics = Metrics()
    mine = metrics.model("m", "1")
    await measure(answer, mine)(REQUEST)
    with pytest.raises(InvalidRequest):
        await measure(refuse, mine)(REQUEST)
    labels = (("model", "m"), ("protocol", "v2_rest"), ("status"), ("version", "1"))
    found = {
        dict(key[1])["status"]: value for key, value in samples(metrics).items() if key[0] == "headrace_requests_total"
    }
    assert found == {"ok": 1, "invalid_request": 1}, labels
    assert (mine.successes()[0], mine.failures()[0], mine.in_flight) == (1, 1, 0)


async def test_a_request_that_its_caller_leaves_is_no_longer_in_flight():
    """A cancelled request counts as cancelled_error and leaves the gauge of requests in flight."""
    metrics = Metrics()
    mine = metrics.model("m", "")
    entered = asyncio.Event()

    async def hang(request):
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(measure(hang, mine)(REQUEST))
    await entered.wait()
    assert mine.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mine.in_flight == 0
    assert {key: count for key, (count, _) in mine.outcomes.items()} == {("v2_rest", "cancelled_error"): 1}


def test_predict_durations_fall_into_cumulated_buckets():
    """Each bucket of a histogram holds every predict at or below its bound, and the sum is in seconds."""
    metrics = Metrics()
    mine = metrics.model("m", "")
    for nanoseconds in (50_000, 60_000, 2_000_000, 20_000_000_000):
        mine.executed(requests=1, rows=4, queue_ns=0, predict_ns=nanoseconds)
    found = samples(metrics)
    labels = (("model", "m"), ("version", ""))

    def bucket(bound):
        return found["headrace_predict_seconds_bucket", (("le", bound), *labels)]

    assert (bucket("5e-05"), bucket("0.0001"), bucket("0.0025"), bucket("10.0"), bucket("+Inf")) == (1, 2, 3, 3, 4)
    assert found["headrace_predict_seconds_sum", labels] == pytest.approx(20.00211)
    assert mine.batches == {4: [4, 20_002_110_000]}


def test_callers_cannot_grow_the_statistics_without_bound():
    """However many different batch sizes come, a bounded number is kept apart, and every predict is counted."""
    mine = Metrics().model("m", "")
    for rows in range(1, 5001):
        mine.executed(requests=1, rows=rows, queue_ns=0, predict_ns=1)
    assert len(mine.batches) <= BATCH_SIZES_KEPT + 32
    assert mine.predict.count() == mine.rows().count() == 5000


def test_every_listed_name_is_exposed_and_no_other_of_ours():
    """The names exposed are exactly those that the reference lists."""
    metrics = Metrics()
    metrics.model("m", "").finished("v1", "ok", 10)
    metrics.model("m", "").executed(requests=1, rows=1, queue_ns=1, predict_ns=1)
    metrics.http["/v2", "GET", 200] = 1
    metrics.grpc["ModelInfer", "OK"] = 1
    families = text_string_to_metric_families(metrics.render().decode())
    kinds = {family.name: family.type for family in families if family.name.startswith("headrace_")}
    assert kinds == {name.removesuffix("_total"): kind for name, (kind, _, _) in NAMES.items()}


@pytest.mark.parametrize(("option", "names"), [("mlserver_names", MLSERVER_NAMES), ("kserve_names", KSERVE_NAMES)])
def test_the_peers_names_appear_only_when_asked_for(option, names):
    """Aliases are absent by default and present, with values, when the setting asks."""
    plain, aliased = Metrics(), Metrics(**{option: True})
    for metrics in (plain, aliased):
        metrics.model("m", "").finished("v1", "ok", 1_000_000)
    bare = {name.removesuffix("_total") for name in names}
    assert not bare & {family.name for family in text_string_to_metric_families(plain.render().decode())}
    exposed = {family.name: family for family in text_string_to_metric_families(aliased.render().decode())}
    assert bare <= set(exposed)
    assert all(exposed[name].samples for name in bare)


def test_an_error_class_reads_as_a_label_value():
    """Class names become snake case."""
    assert status_of(InvalidRequest("x")) == "invalid_request"
