"""What is declared survives: changes under load fail no request, and a killed server comes back with all of it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
import re
import signal
import threading
import time
import urllib.request

import pytest

from headrace.client.control import ControlClient
from headrace.control.parse import File

CODE = """
import time
import numpy as np


class Add:
    def __init__(self, amount: float = 1.0, fails: bool = False, slow: float = 0.0):
        if fails:
            raise ValueError("it was told to fail")
        self.amount, self.slow = amount, slow

    def predict(self, x: np.ndarray) -> dict:
        time.sleep(self.slow)
        return {"x": x + self.amount}
"""
BODY = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}


def model(name, amount, *, spec="", **parameters):
    said = json.dumps({"amount": amount, **parameters})
    return f"""
apiVersion: headrace.io/v1
kind: Model
metadata: {{name: {name}}}
spec: {{reference: "code.py:Add", optimize: "off", parameters: {said}{spec}}}
---"""


CHAIN = """
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: chain}
spec:
  steps: [{name: a}, {name: b, inputs: [a]}, {name: own, python: "code.py:Add", inputs: [b]}]
  output: {steps: [own]}
---"""


def split(weight):
    return f"""
apiVersion: headrace.io/v1
kind: Experiment
metadata: {{name: split}}
spec: {{candidates: [{{name: a, weight: {weight}}}, {{name: b, weight: {100 - weight}}}]}}
---"""


ROLLOUT = """
apiVersion: headrace.io/v1
kind: Rollout
metadata: {name: move}
spec:
  stable: a
  candidate: b
  steps: [{weight: 25, pauseSeconds: 0}, {weight: 50, pauseSeconds: 3600}]
  judge: {minRequests: 20, maxLatencyRatio: 0}
---"""


class Place:
    """A folder of manifests with a state file, and a server on it."""

    def __init__(self, folder, serve):
        self.folder, self._serve = folder, serve
        (folder / "code.py").write_text(CODE)
        self.server = self.client = None

    def start(self, *flags):
        """A server on the state file, ready."""
        state = str(self.folder / "state.db")
        self.server = self._serve("--state", state, "--control-port", "0", *flags)
        self.client = ControlClient(self.server.control_url)
        return self

    def apply(self, text, **fields):
        return self.client.apply([File(name="test.yaml", text=text, base=str(self.folder))], **fields)

    def wait(self, *names, until=None):
        self.client.wait([tuple(name.split("/")) for name in names], timeout_seconds=60, until=until)

    def ask(self, name):
        status, _, reply = self.server.ask(f"/v2/models/{name}/infer", BODY)
        return status, reply["outputs"][0]["data"][0] if status == 200 else reply["error"]

    def in_flight(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.metrics_port}/metrics", timeout=60) as reply:
            text = reply.read().decode()
        return float(re.search(rf'headrace_requests_in_flight{{model="{name}",version="1"}} (\S+)', text)[1])

    def kill(self):
        self.server.process.kill()
        self.server.process.wait()
        self.client.close()

    def declared(self):
        return {(each.kind, each.metadata.name): each.metadata.generation for each in self.client.get()}

    def settled(self):
        """Wait until there is nothing left to do."""
        deadline = time.monotonic() + 60
        while self.client.plan([]).actions:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path, serve):
    made = Place(tmp_path, serve)
    yield made
    if made.client is not None:
        made.client.close()
    if made.server is not None:
        made.server.process.kill()
        made.server.process.wait()


def refused(resource):
    """Whether a condition says that its newest revision could not be loaded."""
    return any("told to fail" in each.message for each in resource.status.conditions)


class Load:
    """Threads that ask endpoints over connections that stay open, and keep whatever is not 200."""

    def __init__(self, port, *names, threads=3):
        self._port, self._ending = port, threading.Event()
        self.answers, self.failures = {name: set() for name in names}, []
        self.count = 0
        self._threads = [
            threading.Thread(target=self._ask, args=(name,)) for name, _ in itertools.product(names, range(threads))
        ]

    def __enter__(self):
        for each in self._threads:
            each.start()
        self.more(20)
        return self

    def __exit__(self, *_):
        self._ending.set()
        for each in self._threads:
            each.join(30)

    def more(self, count):
        """Return once so many more were answered, or one was not."""
        until = self.count + count
        while self.count < until and not self.failures:
            time.sleep(0.005)

    def _ask(self, name):
        body = json.dumps(BODY)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            while not self._ending.is_set():
                try:
                    connection.request("POST", f"/v2/models/{name}/infer", body)
                    reply = connection.getresponse()
                    status, text = reply.status, reply.read()
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append((name, repr(error)))
                    return
                if status != 200:
                    self.failures.append((name, status, text))
                    return
                self.answers[name].add(json.loads(text)["outputs"][0]["data"][0])
                self.count += 1
                time.sleep(0.001)


def test_changes_under_load_fail_no_request(place):
    """New revisions, weights, a canary, a pipeline set anew, a revision that cannot load: every request is answered."""
    place.start()
    place.apply(model("a", 1.0) + model("b", 10.0) + CHAIN + split(50))
    place.wait("Pipeline/chain", "Experiment/split")
    with Load(place.server.http_port, "a", "chain", "split", threads=2) as load:
        for amount in (2.0, 3.0, 4.0):
            place.apply(model("a", amount) + split(int(10 * amount)))
            place.wait("Model/a")
            load.more(30)
        place.apply(model("a", 0.0, fails=True))
        place.wait("Model/a", until=refused)
        place.apply(model("a", 5.0, spec=", canaryTrafficPercent: 30"))
        load.more(100)
        place.apply(CHAIN.replace(', {name: own, python: "code.py:Add", inputs: [b]}', "").replace("[own]", "[b]"))
        load.more(50)
        place.client.rollback("Pipeline", "chain")
        place.apply(model("a", 5.0))
        place.wait("Model/a", "Pipeline/chain")
        load.more(50)
    assert load.failures == []
    assert place.ask("a") == (200, 5.0)
    assert place.ask("chain") == (200, 16.0)
    assert load.answers["a"] <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert {10.0} < load.answers["split"] <= {1.0, 2.0, 3.0, 4.0, 5.0, 10.0}


def test_a_revision_that_cannot_load_leaves_the_one_before(place):
    """The condition of a model says why its new revision is not there; the one before answers, also after a kill."""
    place.start()
    place.apply(model("a", 1.0))
    place.wait("Model/a")
    place.apply(model("a", 2.0, fails=True))
    place.wait("Model/a", until=refused)
    assert place.ask("a") == (200, 1.0)
    place.kill()
    place.start()
    assert place.ask("a") == (200, 1.0)


def test_what_is_deleted_is_not_found(place):
    """While a model is taken away callers see answers, then that it leaves or is not found; nothing else."""
    place.start()
    place.apply(model("a", 1.0))
    place.wait("Model/a")
    with Load(place.server.http_port, "a") as load:
        place.client.delete("Model", "a")
        load.more(math.inf)  # the delete is acknowledged before it is carried out: ask until somebody hears of it
    assert {status for _, status, _ in load.failures} <= {404, 503}
    deadline = time.monotonic() + 60
    while place.ask("a")[0] == 503:
        assert time.monotonic() < deadline
    assert place.ask("a") == (404, "model 'a' is not found")


def test_everything_acknowledged_survives_kills(place):
    """Killed three times in the middle of applies, the server has each time what it acknowledged, and nothing to do."""
    place.start()
    place.apply(model("a", 1.0) + model("b", 10.0) + CHAIN + split(50))
    known = dict.fromkeys(place.declared(), 1)
    amounts = itertools.count(2)
    sure, unsure = 1.0, None
    for seconds in (0.3, 0.6, 0.45):
        killer = threading.Timer(seconds, place.server.process.kill)
        killer.start()
        with contextlib.suppress(Exception):  # whatever the client says of a server that dies
            while True:
                unsure = float(next(amounts))
                changes = place.apply(model("a", unsure) + model(f"t{int(unsure)}", 1.0))
                known |= {(each.kind, each.name): each.generation for each in changes.changes}
                sure, unsure = unsure, None
        killer.join()
        place.server.process.wait()
        place.client.close()
        place.start()
        found = place.declared()
        extra = {("Model", "a"), *([("Model", f"t{int(unsure)}")] if unsure else [])}
        assert {key: found.get(key) for key in known if key not in extra} == {
            key: generation for key, generation in known.items() if key not in extra
        }
        assert found["Model", "a"] - known["Model", "a"] in ({0, 1} if unsure else {0})
        assert found.keys() - known.keys() <= extra
        assert place.ask("a")[1] in {sure, unsure}
        place.settled()
        known, sure = found, place.ask("a")[1]


def test_a_rollout_goes_on_where_it_was(place):
    """Killed in the second step of a rollout, the server comes back in that step, with its weights."""
    place.start()
    place.apply(model("a", 1.0) + model("b", 10.0))
    place.wait("Model/a", "Model/b")
    place.apply(ROLLOUT)

    def progress():
        return place.client.get("Rollout", "move")[0].status.details.get("progress", {})

    with Load(place.server.http_port, "a") as load:
        deadline = time.monotonic() + 60
        while progress().get("step") != 1:
            assert time.monotonic() < deadline, progress()
            time.sleep(0.05)
    assert load.failures == []
    before = progress()
    place.kill()
    place.start()
    after = progress()
    assert (before["step"], before["weight"]) == (after["step"], after["weight"]) == (1, 50.0)
    assert {place.ask("a")[1] for _ in range(60)} == {1.0, 10.0}
    place.settled()


def test_stopping_under_load_answers_what_was_asked(place):
    """Asked to stop, the server answers the requests that are under way and ends with 0."""
    place.start()
    place.apply(model("slow", 1.0, slow=0.5))
    place.wait("Model/slow")
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(place.ask("slow"))) for _ in range(3)]
    for each in asking:
        each.start()
    deadline = time.monotonic() + 60
    while len(answers) + place.in_flight("slow") < len(asking):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    place.server.process.send_signal(signal.SIGTERM)
    for each in asking:
        each.join(60)
    assert answers == [(200, 1.0)] * 3
    assert place.server.process.wait(60) == 0


def test_an_idle_model_leaves_and_comes_back(place):
    """A model with idleSeconds leaves memory by itself, and answers the next request all the same."""
    place.start()
    place.apply(model("a", 1.0, spec=", minReplicas: 0, idleSeconds: 0.2"))
    place.wait("Model/a")
    assert place.ask("a") == (200, 1.0)
    deadline = time.monotonic() + 60
    while place.client.get("Model", "a")[0].status.details.get("inMemory", True):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert place.ask("a") == (200, 1.0)
    assert [each.status for each in place.client.get("Model", "a")[0].status.conditions if each.type == "Ready"] == [
        "True"
    ]


def test_a_change_of_one_among_many_is_live_soon(place):
    """Among 60 models a change of one is answered by its new revision long before all would be, and the others stay."""
    place.start()
    began = time.monotonic()
    names = [f"m{number}" for number in range(60)]
    place.apply("".join(model(name, float(number)) for number, name in enumerate(names)))
    place.wait(*[f"Model/{name}" for name in names])
    everything = time.monotonic() - began
    began = time.monotonic()
    place.apply(model("m7", 1000.0))
    while place.ask("m7") != (200, 1000.0):
        assert time.monotonic() - began < max(2.0, everything)
    assert place.ask("m8") == (200, 8.0)
    assert {place.client.get("Model", name)[0].metadata.generation for name in ("m6", "m8")} == {1}


def test_two_servers_cannot_share_a_state_file(place):
    """A second server on the state file of a running one ends, and says that the file is in use."""
    place.start()
    with pytest.raises(pytest.fail.Exception, match=r"(?s)ended with [1-9].*state\.db.*") as refused:
        place._serve("--state", str(place.folder / "state.db"), "--control-port", "0")
    assert f"is held by process {place.server.process.pid}" in str(refused.value)


def test_a_wrong_manifest_at_the_start_ends_the_server(place):
    """`serve -f` on a manifest with faults ends with an error that names the file, the resource and the fault."""
    (place.folder / "wrong.yaml").write_text(model("a", 1.0).replace("reference", "referense"))
    with pytest.raises(pytest.fail.Exception, match=r"ended with [1-9]") as refused:
        place.start("-f", str(place.folder / "wrong.yaml"))
    assert "wrong.yaml" in str(refused.value)
    assert "referense" in str(refused.value)
