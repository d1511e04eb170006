"""Metrics: collected under the model at work until the server drains them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import mlserver
import pytest
from mlserver.context import model_context
from mlserver.metrics import REGISTRY, _drain
from mlserver.metrics.errors import InvalidModelContext, MetricNotFound
from mlserver.settings import ModelSettings


@pytest.fixture(autouse=True)
def drained():
    _drain()


def settings(name="m", version=None):
    return ModelSettings(
        name=name, implementation="mlserver.MLModel", parameters={"version": version} if version else None
    )


def test_log():
    """What is logged is drained once, with the description it was registered with."""
    mlserver.register("shim_e", "what e is")
    with model_context(settings()):
        mlserver.log(shim_e=1)
        mlserver.log(shim_e=2.5, shim_b=3)
    samples = _drain()
    assert samples[:2] == [("shim_e", "what e is", 1.0), ("shim_e", "what e is", 2.5)]
    assert samples[2][::2] == ("shim_b", 3.0)
    assert _drain() == []


def test_registered_late():
    """A metric that was logged before it was registered takes the description it is registered with."""
    with model_context(settings()):
        mlserver.log(shim_late=1)
        mlserver.register("shim_late", "what it is")
        mlserver.log(shim_late=2)
    assert [sample[1] for sample in _drain()][1] == "what it is"


def test_models_are_kept_apart():
    """Each model drains its own, by name and version."""
    for name, version, value in (("m", None, 1), ("m", "2", 2), ("n", None, 3)):
        with model_context(settings(name, version)):
            mlserver.log(shim_c=value)
    assert [sample[2] for sample in _drain(settings("m", "2"))] == [2.0]
    assert [sample[2] for sample in _drain(settings("m"))] == [1.0]
    assert [sample[2] for sample in _drain()] == [3.0]


def test_outside():
    """Outside of a model there is nothing to count under, and the context ends with its block."""
    with model_context(settings()):
        pass
    for call in (lambda: mlserver.log(shim_a=1), mlserver.register("shim_a", "").observe):
        with pytest.raises(InvalidModelContext, match="outside of a model context") as caught:
            call(1) if call.__name__ == "observe" else call()
        assert caught.value.status_code == 500


def test_not_a_number():
    """Only numbers are counted."""
    with model_context(settings()):
        for value in ("1", None):
            with pytest.raises(TypeError):
                mlserver.log(shim_a=value)
    assert _drain() == []


def test_registered_metric():
    """A registered metric observes, times, takes labels, and is the same when registered again."""
    metric = mlserver.register("shim_d", "d")
    assert mlserver.register("shim_d", "other") is metric
    assert REGISTRY.exists("shim_d")
    assert REGISTRY["shim_d"] is metric
    with model_context(settings("m")):
        metric.observe(1)
        with metric.time():
            pass
    metric.labels(model_name="n", model_version="").observe(2)
    assert [sample[2] for sample in _drain(settings("n"))] == [2.0]
    assert [sample[:2] for sample in _drain()] == [("shim_d", "d"), ("shim_d", "d")]
    with pytest.raises(MetricNotFound, match="No metric found with name 'shim_none'"):
        REGISTRY.get("shim_none")


async def test_threads():
    """What a model logs in threads that it awaits counts as its own."""
    with model_context(settings()):
        await asyncio.gather(*(asyncio.to_thread(mlserver.log, shim_a=n) for n in range(8)))
    assert sorted(sample[2] for sample in _drain(settings())) == [float(n) for n in range(8)]


def test_no_sample_is_lost():
    """Draining while other threads log loses nothing."""

    def work(n):
        with model_context(settings()):
            for _ in range(50):
                mlserver.log(shim_a=n)

    found = []
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(work, n) for n in range(4)]
        while not all(task.done() for task in tasks):
            found += _drain()
    assert len(found + _drain()) == 200


def test_foreign_collectors():
    """A collector of prometheus_client may name this registry."""
    from prometheus_client import Gauge

    gauge = Gauge("shim_gauge", "g", registry=REGISTRY)
    REGISTRY.unregister(gauge)
    with pytest.raises(KeyError):
        REGISTRY.unregister(gauge)
