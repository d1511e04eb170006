"""What becomes of models, told. Matrix: each change of a version's state; a real repository that loads, reloads, fails
and unloads; both kinds of types; a receiver that is away over a restart. Left out: who wires it (tests of the app).
"""

import json

import pytest
from tests.monitoring.receivers import receiver

from headrace.monitoring.model_events import ABSENT, ModelEvents, Seen, what_happened
from headrace.monitoring.settings import EventSettings
from headrace.protocols import cloudevents
from headrace.serving.models import Models, Served, State


@pytest.mark.parametrize(
    ("before", "after", "happened"),
    [
        (ABSENT, Seen("LOADING"), None),
        (Seen("LOADING"), Seen("READY", "", 1.0), "loaded"),
        (Seen("READY", "", 1.0), Seen("READY", "", 2.0), "swapped"),
        (Seen("READY", "", 1.0), Seen("READY", "", 1.0), None),
        (Seen("READY", "", 1.0), Seen("READY", "reload failed: x", 1.0), "failed"),
        (Seen("READY", "reload failed: x", 1.0), Seen("READY", "", 1.0), None),
        (Seen("READY", "reload failed: x", 1.0), Seen("READY", "", 2.0), "swapped"),
        (Seen("LOADING"), Seen("UNAVAILABLE", "no such file"), "failed"),
        (Seen("UNAVAILABLE", "a"), Seen("UNAVAILABLE", "b"), "failed"),
        (Seen("LOADING"), Seen("UNAVAILABLE", "not loaded yet: a repository load starts it"), None),
        (Seen("READY", "", 1.0), Seen("UNLOADING"), None),
        (Seen("UNLOADING"), Seen("UNAVAILABLE", "unloaded"), "unloaded"),
        (Seen("READY", "", 1.0), ABSENT, "unloaded"),
        (Seen("UNAVAILABLE", "unloaded"), ABSENT, None),
        (Seen("UNAVAILABLE", "unloaded"), Seen("LOADING"), None),
    ],
)
def test_what_happened(before, after, happened):
    """Two looks at a version say what became of it."""
    assert what_happened(before, after) == happened


def told(sink, count):
    return [cloudevents.parse(*each) for each in sink.wait(count)]


@pytest.mark.parametrize(
    ("types", "prefix", "named"),
    [
        ("seldon", "io.seldon.serving.model.", {"modelid": "iris"}),
        ("kserve", "org.kubeflow.serving.model.", {"component": "predictor"}),
    ],
)
def test_a_life(tmp_path, types, prefix, named):
    """A version that is loaded, loaded anew, fails to reload, is rolled back and unloaded is told of in that order, with
    the attributes of the dialect; pipelines and looks where nothing happened are not.
    """
    with receiver() as sink:
        models = Models()
        settings = EventSettings(sink=sink.url, types=types, spool=str(tmp_path))
        events = ModelEvents(settings, rows=models.versions, server="edge")
        events.open()
        models.listen(events.changed)
        served = Served(name="iris", version="2", state=State.LOADING)
        models.put(served)
        models.put(Served(name="iris", kind="pipeline", state=State.READY))
        models.changed(served, State.READY)
        models.put(served)
        served.loaded_at += 1
        models.put(served)
        served.reason = "reload failed: broken"
        models.put(served)
        events.rolled_back("iris", "3", to="2", reason="worse")
        models.changed(served, State.UNLOADING)
        models.changed(served, State.UNAVAILABLE, "unloaded")
        models.forget(served)
        found = told(sink, 5)
        events.close(5)
    assert [event.type.removeprefix(prefix) for event in found] == [
        "loaded",
        "swapped",
        "failed",
        "rolledback",
        "unloaded",
    ]
    assert found[0].source == "/v2/models/iris/versions/2"
    assert found[0].extensions == {"inferenceservicename": "iris", "namespace": "default", "endpoint": "2"} | named
    assert json.loads(found[2].data)["reason"] == "reload failed: broken"
    assert json.loads(found[3].data) == {
        "event": "rolled-back",
        "model": "iris",
        "version": "3",
        "server": "edge",
        "to_version": "2",
        "reason": "worse",
    }
    assert events.counts() == {"sent": 5, "failed": 0, "dropped": 0, "retried": 0}


def test_a_receiver_that_is_away(tmp_path):
    """What was told while the receiver was away is sent by the next server that has the folder."""
    with receiver() as sink:
        port = sink.port
    settings = EventSettings(sink=f"http://127.0.0.1:{port}", mode="structured", spool=str(tmp_path))
    for version in ("1", "2"):
        events = ModelEvents(settings, rows=lambda _: [])
        events.open()
        events.rolled_back("iris", version, to="0", reason="worse")
        events.close(0)
    with receiver(port) as sink:
        events = ModelEvents(settings, rows=lambda _: [])
        events.open()
        found = told(sink, 2)
        events.close(5)
    assert {json.loads(event.data)["version"] for event in found} == {"1", "2"}


def test_off():
    """Without a sink nothing is looked at, kept or counted."""
    events = ModelEvents(EventSettings(), rows=lambda _: pytest.fail("looked"))
    events.open()
    events.changed("iris")
    events.close(0)
    assert events.counts() == {}
