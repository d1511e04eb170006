"""Messages a second through `headrace.server.kafka` on one replica, beside a bare loop of the same client and MLServer.

Usage: .venv-test/bin/python benchmarks/kafka.py [--write] [--mlserver PYTHON] [BOOTSTRAP]

Without BOOTSTRAP it starts the broker that the tests use. `bare` consumes 500 at a time and produces the same bytes
again; `bare + model` also parses each value by `json`, asks the model row by row and renders the answer, as a loop
written by hand would; `headrace` answers the same V2 requests with the same model. `once` is exactly-once delivery.

With PYTHON, an interpreter that has MLServer and aiokafka, both servers are started on one folder of MLServer's with a
scikit-learn model, and asked from outside: messages are sent at once, and the time ends with the last answer.

`--write` puts the table into docs/benchmarks.md. Run it on a machine that does nothing else. The ways take turns, five
times; a rate is the median of its rounds, a quotient the median of the quotients within a round, with the extremes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import uvloop
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.producer import Producer as OurProducer
from headrace.brokers.settings import KafkaSettings
from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.server.kafka import KafkaServer
from headrace.serving.models import Models, Served, State
from headrace.testing.brokers import Broker, free_port

DOCS = Path(__file__).resolve().parent.parent / "docs"
START_SECONDS = 60.0
MESSAGES = 60_000
MLSERVER_MESSAGES = 3_000
"""It answers one after the other."""
ROUNDS = 5
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3))
SIGNATURE = Signature(platform="bench", inputs=(TensorSpec(name="x", datatype="FP64", shape=(-1, 4)),))
VALUE = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}
).encode()


def prepare(brokers: str, delivery: str = "at-least-once") -> KafkaSettings:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(
        brokers=brokers,
        group=name,
        input_topics=(name,),
        output_topic=f"{name}-out",
        dead_letter_topic="",
        model="linear",
        delivery=delivery,
    )
    admin.ensure_topics(settings, [name, f"{name}-out"], create=True, partitions=4)
    producer = OurProducer(settings)
    producer.start()
    producer.deliver_now([Outgoing(name, VALUE, b"%d" % number) for number in range(MESSAGES)], 120)
    producer.close()
    return settings


def bare(brokers: str, *, answer: bool) -> float:
    settings = prepare(brokers)
    shared = {"bootstrap.servers": brokers}
    consumer = Consumer(
        {**shared, "group.id": settings.group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    producer = Producer({**shared, "enable.idempotence": True, "linger.ms": 1})
    consumer.subscribe(list(settings.input_topics))
    seen, started = 0, 0.0
    while seen < MESSAGES:
        messages = consumer.consume(500, 0.05)
        if messages and not started:
            started = time.perf_counter()
        for message in messages:
            value = message.value()
            if answer:
                document = json.loads(value)
                (tensor,) = document["inputs"]
                rows = np.array(tensor["data"], np.float64).reshape(tensor["shape"])
                found = rows @ WEIGHTS
                output = {"name": "y", "shape": list(found.shape), "datatype": "FP64", "data": found.ravel().tolist()}
                value = json.dumps({"model_name": "linear", "outputs": [output]}).encode()
            producer.produce(settings.output_topic, value, message.key())
        producer.poll(0)
        seen += len(messages)
        if messages:
            consumer.commit(asynchronous=True)
    producer.flush()
    rate = MESSAGES / (time.perf_counter() - started)
    consumer.close()
    return rate


def headrace(brokers: str, delivery: str) -> float:
    settings = prepare(brokers, delivery)
    models = Models()

    async def infer(request):
        found = request.inputs[0].data @ WEIGHTS
        return InferenceResponse(model_name="linear", outputs=(Tensor("y", "FP64", found),))

    served = Served(name="linear", signature=SIGNATURE, infer=infer)
    models.put(served)
    models.changed(served, State.READY)

    async def run() -> float:  # polled: what is counted is counted by other threads
        server = KafkaServer(models, settings)
        await server.start()
        while not server.counts.received:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        started = time.perf_counter()
        while server.counts.answered < MESSAGES:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        rate = MESSAGES / (time.perf_counter() - started)
        await server.stop(10)
        return rate

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def folder(place: Path, brokers: str, name: str) -> dict[str, str]:
    """A folder of MLServer's with a model of scikit-learn; what both servers need of the environment."""
    model = place / "linear"
    model.mkdir(parents=True)
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), model / "model.joblib")
    described = {"name": "linear", "implementation": "mlserver_sklearn.SKLearnModel"}
    (model / "model-settings.json").write_text(json.dumps({**described, "parameters": {"uri": "./model.joblib"}}))
    settings = {
        "debug": False,
        "parallel_workers": 0,
        "http_port": free_port(),
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "kafka_enabled": True,
        "kafka_servers": brokers,
        "kafka_topic_input": name,
        "kafka_topic_output": f"{name}-out",
    }
    (place / "settings.json").write_text(json.dumps(settings))
    return {"HEADRACE_KAFKA_GROUP": name, "HEADRACE_KAFKA_DEAD_LETTER_TOPIC": f"{name}-dead"}


def process(brokers: str, command: list[str], messages: int) -> float:
    """Messages a second of a server that reads one topic and writes another."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    settings = KafkaSettings(brokers=brokers)
    admin.ensure_topics(settings, [name, f"{name}-out", f"{name}-dead"], create=True, partitions=4)
    reader = Consumer({"bootstrap.servers": brokers, "group.id": f"{name}-reader"})
    reader.assign([TopicPartition(f"{name}-out", number, OFFSET_BEGINNING) for number in range(4)])
    sender = OurProducer(settings)
    sender.start()
    headers = (("mlserver-model", b"linear"),)
    with tempfile.TemporaryDirectory() as place, (Path(place) / "log").open("wb") as log:
        more = folder(Path(place) / "models", brokers, name)
        server = subprocess.Popen(
            [*command, str(Path(place) / "models")], env={**os.environ, **more}, stdout=log, stderr=log, cwd=place
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not reader.consume(1, 0.5):  # MLServer sees only what comes after it
                if time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not answer: {Path(place, 'log').read_text()[-2000:]}")
                sender.deliver_now([Outgoing(name, VALUE, b"first", headers)], 30)
            while reader.consume(1000, 1.0):  # what else was sent meanwhile
                pass
            client = Producer({"bootstrap.servers": brokers, "queue.buffering.max.messages": messages + 1})
            started, seen = time.perf_counter(), 0
            for number in range(messages):
                client.produce(name, VALUE, b"%d" % number, headers=[*headers])
            client.flush()
            while seen < messages:
                seen += len(reader.consume(1000, 0.1))
            return messages / (time.perf_counter() - started)
        finally:
            server.terminate()
            server.wait(30)
            sender.close()
            reader.close()


def alternating(ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The rates of each way, round by round: what disturbs the machine for a while disturbs all of them."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            rates[name].append(ways[name]())
    return rates


def ratio(rates: list[float], others: list[float]) -> str:
    """The median of the rounds' quotients, and the smallest and the largest."""
    found = sorted(ours / theirs for ours, theirs in zip(rates, others, strict=True))
    return f"{median(found):.2f} ({found[0]:.2f}-{found[-1]:.2f})"


def tables(brokers: str, mlserver: str) -> list[str]:
    rates = alternating(
        {
            "bare": lambda: bare(brokers, answer=False),
            "bare + model": lambda: bare(brokers, answer=True),
            "headrace": lambda: headrace(brokers, "at-least-once"),
            "headrace, once": lambda: headrace(brokers, "exactly-once"),
        }
    )
    lines = ["| way | messages/s | of bare | of bare + model |", "|---|---|---|---|"]
    for name, found in rates.items():
        parts = (ratio(found, rates[other]) for other in ("bare", "bare + model"))
        lines.append(f"| {name} | {median(found):,.0f} | {' | '.join(parts)} |")
    if mlserver:
        theirs = [str(Path(mlserver).with_name("mlserver")), "start"]
        ours = [sys.executable, "-m", "headrace", "serve"]
        served = alternating(
            {
                "MLServer": lambda: process(brokers, theirs, MLSERVER_MESSAGES),
                "headrace": lambda: process(brokers, ours, MESSAGES),
            }
        )
        lines += ["", "| server, scikit-learn model | messages/s | of MLServer |", "|---|---|---|"]
        for name, found in served.items():
            lines.append(f"| {name} | {median(found):,.0f} | {ratio(found, served['MLServer'])} |")
    return lines


def put(lines: list[str]) -> None:
    """Write the tables between their markers."""
    path = DOCS / "benchmarks.md"
    begin, end = "<!-- measured: kafka -->\n", "<!-- end -->"
    above, found, rest = path.read_text().partition(begin)
    if not found:
        raise SystemExit(f"{path} has no line {begin.strip()}")
    path.write_text(above + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--mlserver", default="", metavar="PYTHON")
    parser.add_argument("bootstrap", nargs="?", default="")
    given = parser.parse_args()
    if given.write and not given.mlserver:
        raise SystemExit("--write is for all ways; give --mlserver, too")
    with tempfile.TemporaryDirectory() as place:
        broker = None if given.bootstrap else Broker(Path(place))
        if broker is not None:
            broker.start()
        try:
            lines = tables(broker.unrelayed if broker is not None else given.bootstrap, given.mlserver)
        finally:
            if broker is not None:
                broker.kill()
    print("\n".join(lines))
    if given.write:
        put(lines)


if __name__ == "__main__":
    main()
