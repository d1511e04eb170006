"""Messages a second through `headrace.server.kafka` on one replica, beside a bare loop of the same client.

Usage: .venv-test/bin/python benchmarks/kafka.py [BOOTSTRAP]

Without BOOTSTRAP it starts the broker that the tests use. `bare` consumes 500 at a time and produces the same bytes
again; `bare + model` also parses each value by `json`, asks the model row by row and renders the answer, as a loop
written by hand would; `headrace` answers the same V2 requests with the same model. `once` is exactly-once delivery.
Run it on a machine that does nothing else; each figure is the median of three.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

import numpy as np
import uvloop
from confluent_kafka import Consumer, Producer

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.producer import Producer as OurProducer
from headrace.brokers.settings import KafkaSettings
from headrace.payload import InferenceResponse, Signature, Tensor, TensorSpec
from headrace.server.kafka import KafkaServer
from headrace.serving.models import Models, Served, State
from headrace.testing.brokers import Broker

MESSAGES = 60_000
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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = None
        if len(sys.argv) > 1:
            brokers = sys.argv[1]
        else:
            broker = Broker(Path(folder))
            broker.start()
            brokers = broker.bootstrap
        try:
            ways = {
                "bare": lambda: bare(brokers, answer=False),
                "bare + model": lambda: bare(brokers, answer=True),
                "headrace": lambda: headrace(brokers, "at-least-once"),
                "headrace, once": lambda: headrace(brokers, "exactly-once"),
            }
            rates = {name: median(way() for _ in range(3)) for name, way in ways.items()}
        finally:
            if broker is not None:
                broker.kill()
    print("| way | messages/s | of bare | of bare + model |\n|---|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates['bare']:.2f} | {rate / rates['bare + model']:.2f} |")


if __name__ == "__main__":
    main()
