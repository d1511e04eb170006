"""Placement: the decision as a table of cases, the measurement and the samples with real runtimes."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.errors import LoadFailed, SettingsError
from headrace.payload import DTYPES, Signature, Tensor, TensorSpec
from headrace.runtimes.base import Source
from headrace.serving import placement
from headrace.serving.execution import Execution
from headrace.serving.placement import Measurement, choose


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])


def loaded(kind, **parameters):
    import small_runtimes

    runtime = getattr(small_runtimes, kind)(Source(reference="x:y", parameters=parameters))
    return Execution("m", runtime, runtime.load())


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (Measurement(predict_seconds=0.000004), "inline"),
        (Measurement(predict_seconds=0.0004, releases_lock=True), "inline"),
        (Measurement(predict_seconds=0.0006, releases_lock=True), "thread"),
        (Measurement(predict_seconds=0.0018), "inline"),
        (Measurement(predict_seconds=0.005), "thread"),
        (Measurement(predict_seconds=0.03), "process"),
        (Measurement(predict_seconds=0.03, movable=False), "thread"),
        (Measurement(predict_seconds=3.0, releases_lock=True), "thread"),
        (Measurement(), "thread"),
        (Measurement(is_async=True), "inline"),
        (Measurement(predict_seconds=0.000004, streams=True), "thread"),
        (Measurement(is_async=True, streams=True), "inline"),
        (Measurement(is_async=True, environment="/e"), "process"),
    ],
)
def test_auto(measured, expected):
    """Each kind of model gets the place that the reasons at the constants give it, and the choice says why."""
    choice = choose(measured)
    assert choice.placement == expected
    assert choice.reason


@pytest.mark.parametrize("wanted", ["inline", "thread", "process"])
def test_a_wish_is_met(wanted):
    """What a person set is what they get."""
    assert choose(Measurement(predict_seconds=1.0), wanted).placement == wanted


@pytest.mark.parametrize(
    ("measured", "wanted", "message"),
    [
        (Measurement(movable=False), "process", "object in memory"),
        (Measurement(is_async=True), "thread", "async predict runs 'inline'"),
        (Measurement(streams=True), "inline", "cannot run 'inline'"),
        (Measurement(), "proces", "expected auto, inline, thread or process"),
        (Measurement(environment="/e"), "proces", "expected auto, inline, thread or process"),
        (Measurement(environment="/e"), "inline", r"has an environment \(/e\).* choose 'process' or 'auto'"),
        (Measurement(environment="/e"), "thread", "placement 'thread' is in the server's own process"),
        (Measurement(environment="/e", movable=False), "auto", "object in memory"),
    ],
)
def test_a_wish_that_cannot_be_met_is_an_error(measured, wanted, message):
    """The error names the model and says what can be chosen instead."""
    with pytest.raises(SettingsError, match=f"model 'm'.*{message}"):
        choose(measured, wanted, model="m")


def test_only_slower_models_are_worth_merging_on_the_loop():
    """A model of microseconds is called directly; one of 180 us gathers neighbours."""
    assert not choose(Measurement(predict_seconds=0.000005)).merges
    assert choose(Measurement(predict_seconds=0.00018)).merges


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_a_sample_is_made_for_every_datatype(datatype):
    """One row in the signature's shape, for each required input; -1 is 1."""
    signature = Signature(
        platform="t",
        inputs=(
            TensorSpec(name="x", datatype=datatype, shape=(-1, 3, -1)),
            TensorSpec(name="o", datatype=datatype, shape=(-1,), optional=True),
        ),
    )
    (sample,) = placement.samples(loaded("Linear").runtime, signature)
    assert list(sample) == ["x"]
    assert sample["x"].shape == (1, 3, 1)
    assert sample["x"].dtype == DTYPES[datatype]
    assert datatype != "BYTES" or sample["x"].reshape(-1).tolist() == [b""] * 3


def test_nothing_is_made_up_for_an_unknown_signature():
    """A model that says nothing of its inputs is not asked."""
    assert placement.samples(loaded("Linear").runtime, Signature(platform="t")) == []


def test_a_runtimes_own_sample_comes_first():
    """A runtime that has a sample is warmed up with that."""
    execution = loaded("Linear")
    execution.runtime.sample = lambda: {"x": np.full((1, 4), 7, np.float32)}
    (sample,) = placement.samples(execution.runtime, execution.signature)
    assert sample["x"].tolist() == [[7.0] * 4]


def test_one_row_is_measured():
    """Of a sample of many rows all are predicted, and one is measured."""
    execution = loaded("Linear")
    placement.warm_up(execution, [[Tensor("x", "FP32", np.zeros((9, 4), np.float32))]])
    assert execution.runtime.calls[0] == 9
    assert set(execution.runtime.calls[1:]) == {1}


def test_warm_up_measures_a_sleeping_model():
    """The time is that of a predict, and a model that sleeps is seen to release the lock even if it does not say so."""
    execution = loaded("Sleeping", seconds=0.1)
    type(execution.runtime).releases_lock = False
    try:
        measured = placement.warm_up(execution)
    finally:
        type(execution.runtime).releases_lock = True
    assert 0.1 <= measured.predict_seconds < 5
    assert measured.releases_lock


def test_warm_up_sees_who_holds_the_lock():
    """A model that spins in Python for 30 ms does not count as one that lets others run."""
    execution = loaded("Spinning", seconds=0.03)
    measured = placement.warm_up(execution)
    assert measured.predict_seconds >= 0.03
    assert not measured.releases_lock


def test_a_made_up_sample_may_be_refused():
    """A model that refuses zeros is not measured, and not failed."""
    assert placement.warm_up(loaded("Exits")).predict_seconds is None


def test_a_failure_is_told_of_callers_rows_only(caplog):
    """What a model makes of rows that nobody sent is not logged; the same failure for a caller is."""
    execution = loaded("Exits")
    placement.warm_up(execution)
    assert "failed" not in caplog.text
    execution.attempt(placement.call_of({"x": np.zeros((1, 4), np.float32)}, execution.signature))
    assert "model 'm' failed" in caplog.text


def test_a_given_sample_may_not():
    """A model that refuses what somebody gave for it cannot be served."""
    with pytest.raises(LoadFailed, match="model 'm' fails on its own warm-up sample: model 'm': SystemExit: 3"):
        placement.warm_up(loaded("Exits"), [[Tensor("x", "FP32", np.zeros((1, 4), np.float32))]])
