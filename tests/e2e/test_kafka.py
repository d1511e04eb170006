"""`headrace serve --kafka` in processes of its own: servers that are killed under load, counted by message; what ends in
order; MLServer's variables; a broker that comes late.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import signal
import time
import urllib.request

import joblib
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from sklearn.linear_model import LogisticRegression

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.producer import Producer
from headrace.brokers.settings import KafkaSettings
from headrace.testing.brokers import Broker

DEADLINE = 60.0
CODE = """
import time
import numpy as np


class Double:
    def predict(self, x: np.ndarray) -> dict:
        time.sleep(0.001)
        return {"y": x * 2.0}
"""


def body(number):
    return json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [number]}]}).encode()


class Wire:
    """Topics on a broker, and both ends of them."""

    def __init__(self, brokers, name, *, group=""):
        self.settings = KafkaSettings(brokers=brokers)
        self.brokers, self.input, self.output, self.dead = brokers, name, f"{name}-out", f"{name}-dead"
        self.group = group or name
        self.answers, self._open = collections.defaultdict(list), contextlib.ExitStack()

    def __enter__(self):
        topics = [self.input, self.output, self.dead]
        admin.ensure_topics(self.settings, topics, create=True, partitions=4, timeout_seconds=15)
        self._producer = Producer(self.settings)
        self._producer.start()
        self._open.callback(self._producer.close)
        self._reader = Consumer({"bootstrap.servers": self.brokers, "group.id": f"{self.group}-reader"})
        self._open.callback(self._reader.close)
        self._reader.assign([TopicPartition(self.output, number, OFFSET_BEGINNING) for number in range(4)])
        return self

    def __exit__(self, *_):
        self._open.close()

    def flags(self, *options):
        values = {
            "brokers": self.brokers,
            "group": self.group,
            "input_topics": self.input,
            "output_topic": self.output,
            "dead_letter_topic": self.dead,
            "options": "session.timeout.ms=6000" + "".join(f",{each}" for each in options),
        }
        return ["--kafka", *(text for name, value in values.items() for text in ("--set", f"kafka.{name}={value}"))]

    def send(self, numbers, **headers):
        """Requests whose key is their number."""
        named = tuple((name.replace("_", "-"), text.encode()) for name, text in headers.items())
        messages = [Outgoing(self.input, body(number), b"%d" % number, named) for number in numbers]
        self._producer.deliver_now(messages, DEADLINE)

    def read(self, count):
        """All answers so far by number, once there are those of so many requests."""
        deadline = time.monotonic() + DEADLINE
        while len(self.answers) < count:
            assert time.monotonic() < deadline, f"{len(self.answers)} of {count} answers came"
            self.look(0.1)
        return self.answers

    def look(self, seconds):
        for each in self._reader.consume(1000, seconds):
            assert each.error() is None
            self.answers[int(each.key())].append(each)


@pytest.fixture
def wire(kafka, topic):
    with Wire(kafka, topic) as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of which each request takes a millisecond."""
    folder = tmp_path_factory.mktemp("double")
    (folder / "code.py").write_text(CODE)
    return f"{folder / 'code.py'}:Double"


def test_killed_servers(serve, wire, model):
    """Two servers of one group are killed under load, one after the other, and started again: every message is answered,
    by the value that belongs to it, some of them again. That a group goes on without the dead one is shown in `tests/brokers`.
    """

    def start(name):
        flags = wire.flags(f"group.instance.id={name}")  # so that it has its partitions again without waiting
        return serve(model, "--optimize", "off", *flags, "--set", "kafka.max_in_flight=100")

    servers, sent = {name: start(name) for name in ("one", "two")}, 0
    for turn in range(4):
        wire.send(range(sent, sent + 1000), headrace_model="Double")
        sent += 1000
        if turn in {1, 2}:
            wire.read(sent - 700)  # in the middle of it
            name = ["one", "two"][turn - 1]
            os.kill(servers[name].process.pid, signal.SIGKILL)
            servers[name].process.wait()
            servers[name] = start(name)
    answers = wire.read(sent)
    wire.look(0.5)
    assert sorted(answers) == [*range(sent)]
    for number, found in answers.items():
        for each in found:
            assert json.loads(each.value())["outputs"][0]["data"] == [number * 2.0]


def test_a_server_that_is_told_to_end_answers_what_it_has(serve, wire, model):
    """After SIGTERM in the middle the server ends well, and another goes on behind it: every message is answered once."""
    first = serve(model, "--optimize", "off", *wire.flags(), "--set", "kafka.max_in_flight=50")
    wire.send(range(1500), headrace_model="Double")
    wire.read(200)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(timeout=30) == 0
    wire.look(0.5)
    assert len(wire.answers) < 1500, "nothing was left for the other one"
    serve(model, "--optimize", "off", *wire.flags())
    answers = wire.read(1500)
    wire.look(0.5)
    assert {len(found) for found in answers.values()} == {1}


def test_mlservers_variables(serve, wire, tmp_path, iris):
    """A folder of MLServer's answers by Kafka where MLServer's variables say so, with the headers that MLServer writes."""
    place = tmp_path / "double"
    place.mkdir()
    rows, _ = iris
    joblib.dump(LogisticRegression(max_iter=500).fit(rows[:, :1], rows[:, 0] > 5), place / "model.joblib")
    settings = {"name": "first", "implementation": "mlserver_sklearn.SKLearnModel"}
    (place / "model-settings.json").write_text(json.dumps({**settings, "parameters": {"uri": "./model.joblib"}}))
    (tmp_path / "settings.json").write_text(json.dumps({"server_name": "shop", "parallel_workers": 0}))
    variables = {
        "MLSERVER_KAFKA_ENABLED": "true",
        "MLSERVER_KAFKA_SERVERS": wire.brokers,
        "MLSERVER_KAFKA_TOPIC_INPUT": wire.input,
        "MLSERVER_KAFKA_TOPIC_OUTPUT": wire.output,
        "HEADRACE_KAFKA_GROUP": wire.group,
        "HEADRACE_KAFKA_DEAD_LETTER_TOPIC": wire.dead,
    }
    serve(tmp_path, environment=variables)
    message = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1, 9]}]}
    named = (("mlserver-model", b"first"),)
    wire._producer.deliver_now([Outgoing(wire.input, json.dumps(message).encode(), b"7", named)], DEADLINE)
    ((answer,),) = wire.read(1).values()
    headers = dict(answer.headers())
    assert json.loads(answer.value())["outputs"][0]["data"] == [0, 1]
    assert (headers["Ce-Requestid"], headers["Ce-Endpoint"]) == (b"7", b"first")
    assert headers["Ce-Source"] == b"io.seldon.serving.deployment.shop"


def test_a_broker_that_comes_late(serve, tmp_path, topic, model):
    """Without a broker the server starts, answers by REST and says that Kafka is away; messages are answered once one
    comes up.
    """
    broker = Broker(tmp_path / "broker")
    late = Wire(broker.bootstrap, topic)
    server = serve(model, "--optimize", "off", *late.flags(), "--set", "kafka.create_topics=true")

    assert server.infer("Double", [3.0], name="x")["y"].tolist() == [6.0]
    assert scrape(server) == 0
    broker.start()
    try:
        with late:
            late.send(range(50), headrace_model="Double")
            assert sorted(late.read(50)) == [*range(50)]
        assert scrape(server) == 1
    finally:
        server.process.terminate()
        server.process.wait(timeout=30)
        broker.kill()


def scrape(server):
    """Whether Kafka is connected, as the metrics say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as reply:
        (found,) = re.findall(r"^headrace_kafka_connected\{[^}]*\} (\S+)$", reply.read().decode(), re.MULTILINE)
    return float(found)
