"""Counts as Prometheus reads them: parsed back from the text form, by the names in `NAMES`."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.errors import InvalidRequest
from headrace.monitoring import memory_metrics
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
from headrace.routing.cache import Cache

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
    """Aliases are absent by default and present, with values, kinds and labels of the table, when the setting asks."""
    plain, aliased = Metrics(), Metrics(**{option: True})
    for metrics in (plain, aliased):
        mine = metrics.model("m", "")
        mine.finished("v1", "ok", 1_000_000)
        mine.queued(3)
        metrics.grpc["ModelStreamInfer", "OK"] = 1
    if aliased.rest_times is not None:
        aliased.rest_times.begin("GET")
        aliased.rest_times.end("GET", "/v2", 200, 1_000_000)
        aliased.grpc_times.started["ModelStreamInfer"] = 1
        aliased.grpc_times.sent["ModelStreamInfer"] = aliased.grpc_times.received["ModelStreamInfer"] = 2
        aliased.grpc_times.end("ModelStreamInfer", 1_000_000)
    bare = {name.removesuffix("_total") for name in names}
    assert not bare & {family.name for family in text_string_to_metric_families(plain.render().decode())}
    exposed = {family.name: family for family in text_string_to_metric_families(aliased.render().decode())}
    for name, (kind, _, labels) in names.items():
        family = exposed[name.removesuffix("_total")]
        assert family.type == kind
        assert {tuple(sorted(set(sample.labels) - {"le"})) for sample in family.samples} == {tuple(sorted(labels))}


def test_versions_of_a_model_are_one_for_kserve():
    """KServe's names have no version label: two versions are counted together, not shown twice."""
    metrics = Metrics(kserve_names=True)
    for version in ("1", "2"):
        metrics.model("m", version).executed(requests=1, rows=1, queue_ns=0, predict_ns=1_000_000)
    lines = [
        line for line in metrics.render().decode().splitlines() if line.startswith("request_predict_seconds_count")
    ]
    assert lines == ['request_predict_seconds_count{model_name="m"} 2.0']


# -- what a model's own code measures --


def test_a_logged_value_is_a_histogram_under_the_models_own_name():
    """Logged values stand in default buckets with model and version, under the name and description they came with."""
    metrics = Metrics()
    metrics.model("m", "v1").logged(
        [("confidence", "How sure it is", 0.3), ("confidence", "", 0.004), ("rows", "", 70)]
    )
    metrics.model("n", "").logged([("confidence", "Another's words", 2.5)])
    found = samples(metrics)
    mine = (("model_name", "m"), ("model_version", "v1"))
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "confidence_bucket" and ("model_name", "m") in labels
    }
    assert list(buckets) == [
        "0.005",
        "0.01",
        "0.025",
        "0.05",
        "0.075",
        "0.1",
        "0.25",
        "0.5",
        "0.75",
        "1.0",
        "2.5",
        "5.0",
        "7.5",
        "10.0",
        "+Inf",
    ]
    assert list(buckets.values()) == [1] * 7 + [2] * 8
    assert (found["confidence_count", mine], found["confidence_sum", mine]) == (2, pytest.approx(0.304))
    assert found["rows_bucket", (("le", "10.0"), *mine)] == 0
    assert found["confidence_sum", (("model_name", "n"), ("model_version", ""))] == 2.5
    assert metrics.render().count(b"# HELP confidence How sure it is\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("headrace_requests_total", id="ours"),
        pytest.param("headrace_anything", id="ours one day"),
        pytest.param("headrace_requests", id="ours without its suffix"),
        pytest.param("model_infer_request_duration", id="MLServer's"),
        pytest.param("edge_requests_total", id="MLServer's, under the prefix that is set"),
        pytest.param("request_predict_seconds", id="KServe's"),
        pytest.param("process_open_fds", id="of the process"),
        pytest.param("python_info", id="of the interpreter"),
        pytest.param("größe", id="no ASCII"),
        pytest.param("7up", id="begins with a digit"),
        pytest.param('a"} 1\nb{x="', id="a line of its own"),
        pytest.param("", id="empty"),
    ],
)
def test_a_name_that_a_model_cannot_have_is_left_out_with_one_warning(name, caplog):
    """A clash with the server's names or no Prometheus name: the value is dropped, the warning is written once."""
    metrics = Metrics(rest_prefix="edge")
    before = metrics.render().decode().count("\n")
    mine = metrics.model("m", "")
    for _ in range(3):
        mine.logged([(name, "", 1.0), ("fine", "", 1.0)])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "model 'm': custom metric" in caplog.text
    names = {sample for sample, _ in samples(metrics)}
    assert "fine_sum" in names
    metrics.forget("m", "")
    assert metrics.render().decode().count("\n") == before


def test_a_model_cannot_grow_its_metrics_without_bound(caplog):
    """However many names a model makes up, a bounded number is kept, those keep counting, and one warning says so."""
    metrics = Metrics()
    mine = metrics.model("m", "")
    for number in range(1000):
        mine.logged([(f"user_{number}", "", 1.0), ("user_0", "", 1.0)])
    assert len(list(mine.custom)) == 200
    assert dict(mine.custom)["user_0"].total == 1001
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_does_not_spoil_the_sum(value, caplog):
    """NaN and infinities are left out with one warning."""
    mine = Metrics().model("m", "")
    mine.logged([("score", "", 1.0), ("score", "", value), ("score", "", value)])
    assert (dict(mine.custom)["score"].total, sum(dict(mine.custom)["score"].counts)) == (1.0, 1)
    assert len(caplog.records) == 1


# -- caches, queues, unloading --


class Counts:
    """What a cache counts."""

    def __init__(self, hits, misses, evictions):
        self.hits, self.misses, self.evictions, self.bytes, self.entries = hits, misses, evictions, 640, 4


def test_a_caches_counters_go_on_over_a_reload():
    """Hits, misses and evictions add up over the caches of a version; entries and bytes are those of the cache now."""
    metrics = Metrics()
    mine = metrics.model("m", "1")
    assert not any(name.startswith("headrace_cache") for name, _ in samples(metrics))
    mine.attach(Counts(5, 3, 1))
    mine.attach(Counts(2, 2, 0))
    found = {name: value for (name, labels), value in samples(metrics).items() if name.startswith("headrace_cache")}
    assert found == {
        "headrace_cache_hits_total": 7,
        "headrace_cache_misses_total": 5,
        "headrace_cache_evictions_total": 1,
        "headrace_cache_entries": 4,
        "headrace_cache_bytes": 640,
    }


async def test_the_cache_of_requests_is_what_is_attached():
    """The routing room's cache has what the metrics read."""
    metrics = Metrics()
    cache = Cache(answer, model="m", version="", max_entries=10, max_bytes=1 << 20)
    metrics.model("m", "").attach(cache)
    for _ in range(3):
        await cache.infer(REQUEST)
    labels = (("model", "m"), ("version", ""))
    found = samples(metrics)
    assert (found["headrace_cache_hits_total", labels], found["headrace_cache_misses_total", labels]) == (2, 1)
    assert found["headrace_cache_entries", labels] == 1
    assert found["headrace_cache_bytes", labels] == cache.bytes


def test_queue_lengths_are_kept_under_mlservers_names():
    """Lengths fall into MLServer's buckets by model; those of models in processes are also shown together."""
    metrics = Metrics(mlserver_names=True)
    near, far = metrics.model("near", "1"), metrics.model("far", "")
    far.parallel = True
    for depth in (0, 1, 7, 40):
        near.queued(depth)
    far.queued(2)
    metrics.model("never", "")
    found = samples(metrics)
    labels = (("model_name", "near"), ("model_version", "1"))
    assert [found["batch_request_queue_bucket", (("le", bound), *labels)] for bound in ("0.005", "1.0", "7.5", "+Inf")] == [
        1, 2, 3, 4,
    ]  # fmt: skip
    assert found["batch_request_queue_sum", labels] == 48
    assert (found["parallel_request_queue_count", ()], found["parallel_request_queue_sum", ()]) == (1, 2)
    assert ("batch_request_queue_count", (("model_name", "never"), ("model_version", ""))) not in found
    assert Metrics().model("m", "").queue_lengths is None


def test_a_version_that_is_forgotten_is_shown_no_more():
    """Nothing that names the version is left in any family, and the other version is still there."""
    metrics = Metrics(mlserver_names=True, kserve_names=True)
    for version in ("1", "2"):
        mine = metrics.model("gone", version)
        mine.finished("v1", "ok", 10)
        mine.queued(1)
        mine.logged([("score", "", 1.0)])
        mine.attach(Counts(1, 1, 1))
    metrics.forget("gone", "1")
    assert metrics.find("gone", "1") is None
    text = metrics.render().decode()
    assert 'version="1"' not in text
    assert 'version="2"' in text
    metrics.forget("gone", "2")
    metrics.forget("gone", "2")
    assert "gone" not in metrics.render().decode()


def test_an_error_class_reads_as_a_label_value():
    """Class names become snake case."""
    assert status_of(InvalidRequest("x")) == "invalid_request"


# -- models that come to memory and leave it --


def test_models_that_come_and_leave_are_counted_until_they_are_unloaded():
    """What comes to memory, leaves it and is waited for stands under its name; an unloaded version takes its rows along."""
    metrics = Metrics()
    memory = metrics.memory
    memory.budgeted(1000)
    memory.came("a", "1", 300, demanded=False)
    memory.came("b", "", 200, demanded=True)
    memory.left("b", "", "memory")
    memory.came("b", "", 250, demanded=True)
    memory.left("a", "1", "idle")
    memory.waited(0.02)
    found = samples(metrics)
    b = (("model", "b"), ("version", ""))
    assert found["headrace_memory_budget_bytes", ()] == 1000
    assert found["headrace_resident_models", ()] == 1
    assert found["headrace_resident_bytes", b] == 250
    assert found["headrace_demand_loads_total", b] == 2
    assert found["headrace_evictions_total", (("cause", "memory"), *b)] == 1
    assert found["headrace_evictions_total", (("cause", "idle"), ("model", "a"), ("version", "1"))] == 1
    assert found["headrace_load_wait_seconds_count", ()] == 1
    assert found["headrace_load_wait_seconds_sum", ()] == pytest.approx(0.02)
    assert found["headrace_load_wait_seconds_bucket", (("le", "0.025"),)] == 1
    assert found["headrace_load_wait_seconds_bucket", (("le", "0.01"),)] == 0
    for name, version in (("a", "1"), ("b", "")):
        memory.forgotten(name, version)
    assert not [key for key in samples(metrics) if dict(key[1]).get("model") in {"a", "b"}]


def test_seldon_reads_the_same_under_its_names():
    """Under Seldon Core's names the versions of a model are one model, and only what left for room is an eviction."""
    metrics = Metrics(seldon_server="mlserver")
    metrics.memory.budgeted(1000)
    for version in ("1", "2"):
        metrics.memory.came("a", version, 300, demanded=True)
    metrics.memory.came("b", "", 200, demanded=False)
    metrics.memory.left("b", "", "memory")
    metrics.memory.came("c", "", 100, demanded=False)
    metrics.memory.left("c", "", "idle")
    found = {key: value for key, value in samples(metrics).items() if key[0].startswith("seldon_")}
    server = ("server", "mlserver")
    assert found == {
        ("seldon_cache_evict_count", (server,)): 1,
        ("seldon_cache_miss_count", (server,)): 2,
        ("seldon_server_replica_memory_capacity_bytes_gauge", (server,)): 1000,
        ("seldon_loaded_model_gauge", (("model", "a"), server)): 1,
        ("seldon_loaded_model_memory_bytes_gauge", (("model", "a"), server)): 600,
        ("seldon_evicted_model_memory_bytes_gauge", (("model", "b"), server)): 200,
        ("seldon_evicted_model_memory_bytes_gauge", (("model", "c"), server)): 100,
    }
    assert {key[0] for key in found} == set(memory_metrics.SELDON_NAMES)
    assert not [key for key in samples(Metrics()) if key[0].startswith("seldon_")]
