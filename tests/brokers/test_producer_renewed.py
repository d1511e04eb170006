"""A producer whose broker forgot it."""

from __future__ import annotations

import asyncio

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.follower import Follower
from headrace.brokers.producer import Producer
from headrace.brokers.settings import KafkaSettings


async def test_a_producer_goes_on_with_a_broker_that_knows_nothing_of_it(broker, topic):
    """After a restart in which the broker lost what it knew of its producers, every message is delivered, in order."""
    settings = KafkaSettings(brokers=broker.bootstrap)
    await asyncio.to_thread(admin.ensure_topics, settings, [topic], create=True, partitions=1)
    producer = Producer(settings)
    producer.start()
    try:
        await producer.deliver([Outgoing(topic, b"%d" % n, b"k") for n in range(5)])
        broker.kill()
        await asyncio.to_thread(broker.start)
        for n in range(5, 10):
            await producer.deliver([Outgoing(topic, b"%d" % n, b"k")])
    finally:
        await asyncio.to_thread(producer.close)
    shown = []
    follower = Follower(settings, shown.extend)
    follower.start()
    try:
        await asyncio.to_thread(follower.follow, topic, records=1000)
        assert await asyncio.to_thread(follower.catch_up, topic, timeout_seconds=30)
    finally:
        await asyncio.to_thread(follower.close)
    # Of what it took just before it was killed, the packaged broker may keep nothing.
    assert [int(each.value) for each in shown][-5:] == list(range(5, 10))
