"""What guards count, as Prometheus reads it."""

from __future__ import annotations

from headrace.monitoring.metrics import Metrics
from headrace.security.extraction import Suspicion


def suspicion(caller, statistic, *reasons):
    return Suspicion(caller=caller, statistic=statistic, threshold=0.9, reasons=reasons, action="", queries=100)


def test_outcomes_are_shown_while_the_model_is_served():
    """What a guard flagged and refused is shown by guard and outcome, until the model is forgotten."""
    metrics = Metrics()
    counts = {"flagged": 2, "refused": 1}
    metrics.guards.attach("m", "1", "validation", counts)
    counts["flagged"] += 1
    metrics.open()
    text = metrics.render().decode()
    labels = 'model="m",outcome="flagged",version="1"'
    assert f'headrace_guard_requests_total{{guard="validation",{labels}}} 3.0' in text
    metrics.guards.detach("m", "1")
    assert 'guard="validation"' not in metrics.render().decode()


def test_callers_are_shown_with_what_was_found():
    """Each caller has its statistic, and 1 where something is wrong; of very many, the most suspicious are shown."""
    metrics = Metrics()
    found = [suspicion("thief", 0.4, "distances"), *(suspicion(f"user{at}", 0.97) for at in range(200))]
    metrics.guards.attach_monitor("m", "", lambda: found)
    metrics.open()
    text = metrics.render().decode()
    assert 'headrace_extraction_suspected{caller="thief",model="m",version=""} 1.0' in text
    assert 'headrace_extraction_statistic{caller="thief",model="m",version=""} 0.4' in text
    assert text.count("headrace_extraction_suspected{") == 100
