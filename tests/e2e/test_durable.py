"""Durable pipelines over processes: replicas that are killed under load, counted by request; results by id; answers
looked at elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import threading
import time
import urllib.parse

import pytest
from confluent_kafka import Producer

from headrace.brokers.follower import Follower
from headrace.brokers.settings import KafkaSettings

CODE = """
import time
import numpy as np


class Add:
    def predict(self, x: np.ndarray) -> dict:
        time.sleep(0.002)
        return {"x": x + 1.0}
"""
RESOURCES = """
apiVersion: headrace.io/v1
kind: Model
metadata: {name: a}
spec: {reference: "code.py:Add", optimize: "off"}
---
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: p}
spec:
  durability: kafka
  partitions: 6
  steps: [{name: a}]
  output: {steps: [a]}
"""


class Callers:
    """Threads that ask one server, each time under a new id, with and without waiting; what each was told is kept."""

    def __init__(self, name, server):
        self._name, self._port = name, server.http_port
        self.answered, self.accepted, self.unknown, self.refused = {}, set(), set(), []
        self._ending, self._numbers = threading.Event(), itertools.count()
        self._threads = [threading.Thread(target=self._call, args=(index % 2 == 0,)) for index in range(4)]

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self._ending.set()
        for each in self._threads:
            each.join(60)
            assert not each.is_alive()

    def wait(self, count):
        deadline = time.monotonic() + 60
        while len(self.answered) + len(self.accepted) < count:
            assert time.monotonic() < deadline, self.refused[:3]
            time.sleep(0.01)

    def _call(self, waits):
        headers = {} if waits else {"prefer": "respond-async"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            while not self._ending.is_set():
                number = next(self._numbers)
                identity = f"{self._name}-{number}"
                tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [float(number)]}
                body = json.dumps({"inputs": [tensor]})
                try:
                    connection.request("POST", "/v2/pipelines/p/infer", body, {"x-request-id": identity, **headers})
                    reply = connection.getresponse()
                    text = reply.read()
                except (OSError, http.client.HTTPException):
                    self.unknown.add(identity)  # the server is gone: it may have stored the request
                    return
                if reply.status == 200:
                    self.answered[identity] = json.loads(text)["outputs"][0]["data"] == [number + 1.0]
                elif reply.status == 202:
                    assert reply.headers["location"] == f"/v2/pipelines/p/results/{identity}"
                    self.accepted.add(identity)
                else:
                    self.refused.append((reply.status, text))


def everything(brokers, prefix, *, until):
    """Ids of all requests, once the condition on them and those of answers holds."""
    settings = KafkaSettings(brokers=brokers)
    records = []
    follower = Follower(settings, records.extend)
    follower.start()
    try:
        topics = [f"{prefix}.default.pipeline.p.{side}" for side in ("inputs", "outputs")]
        for each in topics:
            follower.follow(each, records=100_000)
        deadline = time.monotonic() + 60
        while True:
            for each in topics:
                assert follower.catch_up(each, timeout_seconds=30)
            asked, answered = (
                {each.header("x-request-id") for each in records if each.topic == topic} for topic in topics
            )
            if until(asked, answered):
                return asked
            assert time.monotonic() < deadline, f"{len(asked - answered)} of {len(asked)} were never answered"
            time.sleep(0.05)
    finally:
        follower.close()


@pytest.fixture
def cluster(mock_kafka, topic):
    """Bootstrap servers of a cluster that notices dead members of a group: the packaged broker never does."""
    given = os.environ.get("HEADRACE_TEST_KAFKA", "")
    if given:
        return given
    producer = Producer({"bootstrap.servers": mock_kafka})
    for each in ("inputs", "outputs", "errors"):
        producer.list_topics(f"{topic}.default.pipeline.p.{each}", timeout=10)  # which makes it
    return mock_kafka


@pytest.fixture
def replica(tmp_path, serve, cluster, topic):
    """Start replicas of one pipeline on one cluster, each with a state of its own."""
    (tmp_path / "code.py").write_text(CODE)
    (tmp_path / "all.yaml").write_text(RESOURCES)
    numbers = itertools.count()
    given = "HEADRACE_TEST_KAFKA" in os.environ  # brokers refuse shorter sessions
    environment = {
        "HEADRACE_KAFKA_BROKERS": cluster,
        "HEADRACE_KAFKA_PREFIX": topic,
        "HEADRACE_KAFKA_OPTIONS": f"session.timeout.ms={6000 if given else 3000},heartbeat.interval.ms=500",
    }
    started = []

    def start():
        state = tmp_path / f"state{next(numbers)}.db"
        flags = ("-f", tmp_path / "all.yaml", "--state", state, "--control-port", "0")
        started.append(serve(*flags, environment=environment))
        return started[-1]

    yield start
    for each in started:  # while their brokers are there
        each.process.terminate()
        each.process.wait(30)


def until_ready(server):
    deadline = time.monotonic() + 60
    while server.ask("/v2/pipelines/p/ready")[0] != 200:
        assert time.monotonic() < deadline, server.ask("/v2/pipelines/p/ready")
        time.sleep(0.02)


def result(server, identity):
    """What a result's address answers once it is not pending."""
    deadline = time.monotonic() + 60
    while True:
        status, _, reply = server.ask(f"/v2/pipelines/p/results/{urllib.parse.quote(identity)}")
        if status != 202:
            return status, reply
        assert time.monotonic() < deadline, f"{identity} is pending for ever"
        time.sleep(0.02)


def test_a_killed_replicas_requests_are_finished_by_another(replica, cluster, topic):
    """Of two replicas under load one is killed with what it had begun: every request that was stored is answered by
    the other, with the right numbers, and what its callers were promised can be had from there.
    """
    lasting, victim = replica(), replica()
    for each in (lasting, victim):
        until_ready(each)
    with Callers("one", lasting) as one, Callers("two", victim) as two:
        one.wait(150)
        two.wait(150)
        os.kill(victim.process.pid, signal.SIGKILL)
        before = len(one.answered) + len(one.accepted)
        one.wait(before + 100)
    assert one.refused == two.refused == []
    assert not one.unknown
    assert two.unknown, "nobody was waiting when the replica was killed"
    told = one.answered.keys() | one.accepted | two.answered.keys() | two.accepted
    asked = everything(cluster, topic, until=lambda asked, answered: told <= asked == answered)
    assert asked <= told | two.unknown
    assert all(one.answered.values())
    assert all(two.answered.values())
    for identity in sorted(two.accepted)[-30:] + sorted(one.accepted)[-10:] + sorted(two.unknown & asked):
        status, reply = result(lasting, identity)
        number = float(identity.partition("-")[2])
        assert (status, reply["outputs"][0]["data"]) == (200, [number + 1.0])
    for identity in two.unknown - asked:
        assert result(lasting, identity)[0] == 404
