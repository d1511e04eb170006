"""What detectors say as metrics: names, kinds, and a bound on how many series there are."""

from __future__ import annotations

from headrace.monitoring.families import Family
from headrace.monitoring.trust_metrics import FEATURES_SHOWN, NAMES, TrustMetrics, shown


def told(features, **more):
    data = {
        "is_drift": True,
        "features": [f"f{at}" for at in range(features)],
        "distance": [float(at) for at in range(features)],
        "p_val": [None] * features,
        "threshold": 0.05,
        "drifted": [True] * features,
        "effect": [float(at) for at in range(features)],
    }
    detector = {
        "name": "drift",
        "kind": "drift",
        "state": "ok",
        "errors": 0,
        "seconds": 0.0,
        "skipped_rows": 0,
        "windows": 3,
        "drift_windows": 1,
        "latest": {"data": data},
    }
    return {"rows": 10, "detectors": [detector], **more}


def filled(metrics):
    families = {name: Family(name, kind, text) for name, (kind, text, _) in NAMES.items()}
    metrics.fill(families)
    return {name: family.metric.samples for name, family in families.items()}


def test_of_many_features_those_that_differ_most_are_shown():
    """A thousand features are FEATURES_SHOWN series, the largest effects among them."""
    metrics = TrustMetrics()
    metrics.attach("m", "1", lambda: told(1000))
    names = {each.labels["feature"] for each in filled(metrics)["headrace_drift_distance"]}
    assert names == {f"f{at}" for at in range(1000 - FEATURES_SHOWN, 1000)}


def test_a_missing_p_value_is_no_sample():
    """A method without p-values has none, and its distances."""
    metrics = TrustMetrics()
    metrics.attach("m", "1", lambda: told(3))
    found = filled(metrics)
    assert found["headrace_drift_p_value"] == []
    assert len(found["headrace_drift_distance"]) == 3


def test_each_sample_has_the_labels_of_its_table():
    """Labels are those of NAMES, of every family that has samples."""
    metrics = TrustMetrics()
    metrics.attach("m", "1", lambda: told(3))
    metrics.counts = {"payloads": {"sent": 1}, "actions": {"webhook": {"sent": 1, "waiting": 3}}}
    for name, samples in filled(metrics).items():
        for each in samples:
            assert set(each.labels) == set(NAMES[name][2]), name


def test_a_version_that_is_detached_is_shown_no_more():
    """After detach nothing of it is left."""
    metrics = TrustMetrics()
    metrics.attach("m", "1", lambda: told(3))
    metrics.detach("m", "1")
    assert not any(filled(metrics).values())


def test_detectors_that_failed_are_shown_as_such():
    """One that could not be set up has a state and an error, and no values."""
    metrics = TrustMetrics()
    metrics.attach("m", "1", lambda: {"detectors": [{"name": "a", "state": "failed", "errors": 1, "error": "no"}]})
    found = filled(metrics)
    states = {each.labels["state"]: each.value for each in found["headrace_detector_alert"]}
    assert states["failed"] == 1.0
    assert sum(states.values()) == 1.0


def test_performance_and_bias_have_their_intervals():
    """Value, low and high of each measure are a sample each; what is not known is none."""
    metrics = TrustMetrics()
    fair = told(1)
    fair["detectors"][0] |= {
        "kind": "bias",
        "latest": {
            "data": {"groups": [{"attribute": "age", "metrics": {"di": {"value": 0.5, "low": 0.4, "high": None}}}]}
        },
    }
    metrics.attach("m", "1", lambda: fair)
    found = {each.labels["interval"]: each.value for each in filled(metrics)["headrace_bias_value"]}
    assert found == {"value": 0.5, "low": 0.4}


def test_the_order_of_features_survives_missing_effects():
    """A feature whose effect is not known comes last."""
    assert shown({"features": ["a", "b", "c"], "distance": [1.0, 2.0, 3.0], "effect": [0.1, None, -0.5]}) == [2, 0, 1]
