"""Following topics without a group, and looking at what a group has not done with."""

from __future__ import annotations

import queue

import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace.brokers import admin
from headrace.brokers.base import Outgoing
from headrace.brokers.follower import Follower, unread
from headrace.brokers.producer import Producer
from headrace.brokers.settings import KafkaSettings
from headrace.errors import SettingsError


@pytest.fixture
def settings(kafka):
    return KafkaSettings(brokers=kafka)


@pytest.fixture
def producer(settings):
    made = Producer(settings)
    made.start()
    yield made
    made.close()


@pytest.fixture
def follow(settings):
    """Start followers; each gives the queue of what it was shown."""
    started = []

    def start(topic, **options):
        shown = queue.Queue()
        follower = Follower(settings, lambda records: [shown.put(each) for each in records])
        follower.start()
        started.append(follower)
        follower.follow(topic, **options)
        return follower, shown

    yield start
    for each in started:
        each.close()


def send(producer, topic, numbers):
    producer.deliver_now([Outgoing(topic, str(n).encode(), str(n).encode(), (("n", b"%d" % n),)) for n in numbers], 30)


def drain(follower, topic, shown):
    assert follower.catch_up(topic, timeout_seconds=30)
    return [shown.get_nowait() for _ in range(shown.qsize())]


def test_everybody_who_follows_sees_all(settings, topic, producer, follow):
    """Two followers of one topic of three partitions are each shown every message once, with key, value and headers."""
    admin.ensure_topics(settings, [topic], create=True, partitions=3)
    followers = [follow(topic), follow(topic)]
    send(producer, topic, range(100))
    for follower, shown in followers:
        records = drain(follower, topic, shown)
        assert sorted(int(each.value) for each in records) == list(range(100))
        assert all(each.header("N") == each.key.decode() for each in records)
        assert len({each.partition for each in records}) > 1


def test_a_follower_goes_back_as_far_as_it_is_told(settings, topic, producer, follow):
    """What came before is shown within the time and the number of messages given, and not at all without them."""
    admin.ensure_topics(settings, [topic], create=True, partitions=1)
    send(producer, topic, range(20))
    shown = {}
    for name, options in {
        "none": {},
        "some": {"seconds": 600, "records": 5},
        "all": {"seconds": 600, "records": 50},
    }.items():
        shown[name] = follow(topic, **options)
    send(producer, topic, [20])
    values = {name: [int(each.value) for each in drain(follower, topic, q)] for name, (follower, q) in shown.items()}
    assert values == {"none": [20], "some": list(range(15, 21)), "all": list(range(21))}


def test_what_came_before_is_found_without_times(mock_kafka, topic):
    """At a broker that finds no message by its time, what came before is shown all the same."""
    settings = KafkaSettings(brokers=mock_kafka)
    sender, shown = Producer(settings), []
    sender.start()
    sender.deliver_now([Outgoing(topic, b"%d" % n) for n in range(20)], 30)
    sender.close()
    follower = Follower(settings, shown.extend)
    follower.start()
    try:
        follower.follow(topic, seconds=600, records=100)
        assert follower.catch_up(topic, timeout_seconds=30)
    finally:
        follower.close()
    assert sorted(int(each.value) for each in shown) == list(range(20))


def test_a_topic_that_is_forgotten_is_shown_no_more(settings, topic, producer, follow):
    """After `forget`, messages of that topic are not shown, and those of another go on."""
    other = f"{topic}-other"
    admin.ensure_topics(settings, [topic, other], create=True, partitions=1)
    follower, shown = follow(topic)
    follower.follow(other)
    follower.forget(topic)
    send(producer, topic, [1])
    send(producer, other, [2])
    assert [each.topic for each in drain(follower, other, shown)] == [other]


def test_a_topic_that_is_not_there_is_named(settings, topic, follow):
    """Following a topic that does not exist says which."""
    with pytest.raises(SettingsError, match=topic):
        follow(topic)


def test_what_a_group_has_not_done_is_looked_at_without_joining(settings, topic, producer):
    """Of ten messages, those after the committed position are unread, and looking twice finds the same."""
    admin.ensure_topics(settings, [topic], create=True, partitions=1)
    send(producer, topic, range(10))
    assert len(unread(settings, topic, topic)[0]) == 10
    member = Consumer({"bootstrap.servers": settings.brokers, "group.id": topic, "enable.auto.commit": False})
    member.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
    member.close()
    for _ in range(2):
        records, complete = unread(settings, topic, topic)
        assert complete
        assert [int(each.value) for each in records] == [7, 8, 9]
    assert unread(settings, topic, topic, records=1, timeout_seconds=0.0) == ([], False)
