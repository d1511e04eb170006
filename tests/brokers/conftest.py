"""Consuming, producing and pumping, as tests need it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.counts import PumpCounts
from headrace.brokers.producer import Producer
from headrace.brokers.pump import Pump
from headrace.brokers.settings import KafkaSettings

DEADLINE = 40.0


class Topics:
    """A topic of requests and one of answers, on a broker, and what a test does with them."""

    def __init__(self, brokers, name, **settings):
        self.settings = KafkaSettings(brokers=brokers, **settings)
        self.name, self.input, self.output, self.dead = name, name, f"{name}-out", f"{name}-dead"

    def make(self, partitions=3):
        admin.ensure_topics(self.settings, [self.input, self.output, self.dead], create=True, partitions=partitions)
        return self

    def touch(self):
        """Have topics made by a broker that makes what is asked for, and cannot be told to."""
        producer = Producer(self.settings)
        producer.start()
        for name in (self.input, self.output, self.dead):
            producer._client.list_topics(topic=name, timeout=10)
        producer.close()
        return self

    def send(self, messages):
        """Messages as (value, key) or Outgoing."""
        producer = Producer(self.settings)
        producer.start()
        try:
            producer.deliver_now(
                [each if isinstance(each, Outgoing) else Outgoing(self.input, *each) for each in messages], DEADLINE
            )
        finally:
            producer.close()

    @contextlib.contextmanager
    def reading(self, topic, isolation="read_committed"):
        """A function that gives all messages so far, from all partitions, once there are at least so many values."""
        client = Consumer(
            {
                "bootstrap.servers": self.settings.brokers,
                "group.id": f"{self.name}-reader",
                "enable.auto.commit": False,
                "isolation.level": isolation,
            }
        )
        found = []

        def read(values):
            deadline = time.monotonic() + DEADLINE
            while len({each.value() for each in found}) < values and time.monotonic() < deadline:
                found.extend(each for each in client.consume(1000, 0.05) if each.error() is None)
            found.extend(each for each in client.consume(10_000, 0.3) if each.error() is None)  # any that came twice
            return found

        try:
            partitions = client.list_topics(topic=topic, timeout=10).topics[topic].partitions
            client.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
            yield read
        finally:
            client.close()

    def read(self, topic, values, isolation="read_committed"):
        with self.reading(topic, isolation) as read:
            return read(values)

    def committed(self):
        """The group's positions, and the ends, by partition."""
        client = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": self.name})
        try:
            numbers = client.list_topics(topic=self.input, timeout=10).topics[self.input].partitions
            places = [TopicPartition(self.input, number) for number in numbers]
            ends = [client.get_watermark_offsets(each, timeout=10)[1] for each in places]
            return [max(0, each.offset) for each in client.committed(places, timeout=10)], ends
        finally:
            client.close()

    @contextlib.asynccontextmanager
    async def pumping(self, handle=None, *, drain=10.0, **options):
        """A member of the group `name`; by default it answers each message with itself."""

        async def echo(record):
            return [Outgoing(self.output, record.value, record.key)]

        settings = options.pop("settings", self.settings)
        pump = Pump(
            settings,
            topics=[self.input],
            group=self.name,
            handle=handle or echo,
            counts=PumpCounts(),
            dead_letter_topic=options.pop("dead_letter_topic", self.dead),
            first_pause_seconds=0.01,
            **options,
        )
        try:
            await pump.start()
            yield pump
        finally:
            await pump.stop(drain)

    def member(self, **settings):
        """A process that does the same."""
        values = {"brokers": self.settings.brokers, "delivery": self.settings.delivery, **settings}
        given = {"input": self.input, "output": self.output, "group": self.name, "settings": values}
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("member.py")), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


async def until(condition, seconds=DEADLINE):
    """Return when it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.01)


@pytest.fixture
def eventually():
    return until


@pytest.fixture
def topics(kafka, topic):
    """Make topics of the test's own on the broker that all tests share."""
    return lambda **settings: Topics(kafka, topic, **settings)


@pytest.fixture
def own_topics(broker, topic):
    """The same on a broker that may be killed."""
    return lambda **settings: Topics(broker.bootstrap, topic, **settings)


@pytest.fixture
def mock_topics(mock_kafka, topic):
    """The same on the mock cluster."""
    return lambda **settings: Topics(mock_kafka, topic, **settings).touch()
