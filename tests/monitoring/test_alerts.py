"""When verdicts become alerts. Invariants over any sequence of windows, and the cases that have names."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import LoadFailed
from headrace.monitoring.alerts import MOVES, Alerts, idempotency_key
from headrace.trust.spec import Alert


@st.composite
def specs(draw):
    windows = draw(st.integers(1, 5))
    return Alert(
        windows=windows,
        at_least=draw(st.integers(1, windows)),
        cooldown_seconds=draw(st.sampled_from([0.0, 1.0, 10.0, 100.0])),
    )


runs = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 7.0, 60.0])), max_size=60)
"""Verdicts, and the seconds that passed before each."""


def play(alerts, run, *, start=1000.0, first=0):
    """The transitions of a run, None among them, each with its time."""
    now, found = start, []
    for at, (is_drift, passed) in enumerate(run):
        now += passed
        found.append((now, alerts.take(is_drift, now=now, window=f"w{first + at}")))
    return found


@given(specs(), runs)
def test_never_two_alerts_within_the_cool_down(spec, run):
    """Between two alerts of a detector lies at least the cool-down."""
    times = [now for now, moved in play(Alerts(spec), run) if moved is not None and moved.is_alert]
    assert all(after - before >= spec.cooldown_seconds for before, after in itertools.pairwise(times))


@given(specs(), runs)
def test_never_an_alert_with_fewer_than_asked(spec, run):
    """An alert stands on a window with drift, and on enough such windows among the last, none of which gave another."""
    used = set()
    for at, (_, moved) in enumerate(play(Alerts(spec), run)):
        if moved is None or not moved.is_alert:
            continue
        assert run[at][0]
        last = {f"w{number}" for number in range(max(at - spec.windows + 1, 0), at + 1) if run[number][0]}
        assert len(moved.windows) >= spec.at_least
        assert set(moved.windows) <= last - used
        used |= set(moved.windows)


@given(specs(), runs)
def test_an_alert_is_given_when_it_is_due(spec, run):
    """Where no alert was given before, the first window with drift that makes k of n gives one."""
    moves = play(Alerts(spec), run)
    first = next((at for at, (_, moved) in enumerate(moves) if moved is not None and moved.is_alert), None)
    due = [
        at
        for at, (is_drift, _) in enumerate(run)
        if is_drift and sum(drift for drift, _ in run[max(at - spec.windows + 1, 0) : at + 1]) >= spec.at_least
    ]
    assert first == (due[0] if due else None)


@given(specs(), runs)
def test_replayed_windows_change_nothing(spec, run):
    """Windows that were taken before give no transition and leave the state as it was."""
    alerts = Alerts(spec)
    play(alerts, run)
    before = alerts.state()
    assert all(moved is None for _, moved in play(alerts, run, start=5000.0))
    assert alerts.state() == before


@given(specs(), runs, st.integers(0, 60))
def test_a_restart_changes_nothing(spec, run, cut):
    """With its state through JSON into a new object at any point, the transitions are those of one that ran on."""
    whole = Alerts(spec)
    expected = play(whole, run)
    first, second = Alerts(spec), Alerts(spec)
    head = play(first, run[:cut])
    second.restore(json.loads(json.dumps(first.state())))
    tail = play(second, run[cut:], start=head[-1][0] if head else 1000.0, first=min(cut, len(run)))
    assert head + tail == expected
    assert second.state() == whole.state()


@given(specs(), runs)
def test_moves_are_those_of_the_table(spec, run):
    """Each transition is one that the table has, and begins where the one before ended."""
    state = "ok"
    for _, moved in play(Alerts(spec), run):
        if moved is not None:
            assert moved.before == state
            assert moved.after in MOVES[state]
            state = moved.after


def test_the_named_states_in_order():
    """Two of three windows with drift are an alert, then it cools, then windows without drift make it well."""
    alerts = Alerts(Alert(cooldown_seconds=10), model="m", version="1", detector="d")
    steps = [(False, 0), (True, 1), (False, 2), (True, 3), (True, 4), (True, 5), (False, 20), (False, 21), (False, 22)]
    states = []
    for drift, now in steps:
        alerts.take(drift, now=now, window=str(now))
        states.append(alerts.current)
    assert states == ["ok", "warning", "warning", "drift", "cooling", "cooling", "warning", "warning", "ok"]


def test_drift_that_stays_is_told_again_after_each_cool_down():
    """With drift in every window, alerts come at the cool-down's pace."""
    alerts = Alerts(Alert(cooldown_seconds=10))
    moves = [alerts.take(True, now=now, window=str(now)) for now in range(40)]
    assert [moved.at for moved in moves if moved is not None and moved.is_alert] == [1, 11, 21, 31]


def test_key_is_of_model_version_detector_and_window():
    """The key of an alert is that of its last window, and differs when any of its four parts does."""
    alerts = Alerts(Alert(windows=1, at_least=1), model="m", version="1", detector="d")
    moved = alerts.take(True, now=0, window="w")
    assert moved.key == idempotency_key("m", "1", "d", "w")
    others = [
        ("n", "1", "d", "w"),
        ("m", "2", "d", "w"),
        ("m", "1", "e", "w"),
        ("m", "1", "d", "x"),
        ("m1", "", "d", "w"),
    ]
    assert len({idempotency_key(*parts) for parts in others} | {moved.key}) == 6


def test_clock_set_back():
    """After a clock was set back, the cool-down is over at the latest once it has passed on the new clock."""
    alerts = Alerts(Alert(windows=1, at_least=1, cooldown_seconds=10))
    assert alerts.take(True, now=1e9, window="a").is_alert
    assert not alerts.take(True, now=5.0, window="b").is_alert
    assert alerts.take(True, now=14.9, window="c") is None
    assert alerts.take(True, now=15.0, window="d").is_alert


@pytest.mark.parametrize(("windows", "at_least"), [(3, 4), (3, 0), (0, 0)])
def test_an_alert_that_can_never_be(windows, at_least):
    """Numbers that no sequence of windows could meet are refused when the detector is loaded, by name."""
    with pytest.raises(LoadFailed, match=r"detector 'd'.*at_least"):
        Alerts(Alert(windows=windows, at_least=at_least), detector="d")


@pytest.mark.parametrize("state", [{}, {"state": "angry", "alerted_at": None, "recent": [], "seen": []}])
def test_a_state_that_is_none(state):
    """What is no saved state is refused, and named by its detector."""
    with pytest.raises(LoadFailed, match="detector 'd'"):
        Alerts(Alert(), detector="d").restore(state)
