"""Reading, answering and committing, on real brokers: what is lost (nothing), doubled, in order, in flight."""

from __future__ import annotations

import asyncio
import collections
import subprocess

import pytest

from headrace.brokers.answering import pause
from headrace.brokers.base import Outgoing
from headrace.brokers.settings import KafkaSettings
from headrace.brokers.transactions import Transactions
from headrace.errors import InvalidRequest, ModelNotReady, SettingsError
from headrace.testing.brokers import free_port

ONCE = pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])


def numbers(count, keys=0):
    return [(b"%d" % number, b"k%d" % (number % keys) if keys else None) for number in range(count)]


def values(messages):
    return sorted(int(each.value()) for each in messages)


@ONCE
async def test_every_message_is_answered_once(topics, eventually, delivery):
    """Without trouble each message of all partitions is answered once, and the group's positions are the ends."""
    mine = topics(delivery=delivery).make()
    mine.send(numbers(3000, keys=50) + [(b"%d" % number, None) for number in range(3000, 6000)])
    async with mine.pumping() as pump:
        await eventually(lambda: pump.counts.answered == 6000)
        assert pump.counts.in_flight == pump.counts.bytes_in_flight == 0
    found = await asyncio.to_thread(mine.read, mine.output, 6000)
    assert values(found) == [*range(6000)]
    committed, ends = await asyncio.to_thread(mine.committed)
    assert committed == ends or delivery == "exactly-once"  # where ends also count marks of transactions
    assert pump.counts.sent == 6000
    assert (pump.counts.transactions > 0) == (delivery == "exactly-once")


@ONCE
async def test_order_by_key(topics, eventually, delivery):
    """Messages of one key are handled one at a time and answered in their order; while one of them waits, those of
    other keys and those without a key overtake it.
    """
    mine = topics(delivery=delivery, max_in_flight=5000).make(partitions=1)
    mine.send([(b"first", b"slow"), *numbers(500, keys=7), (b"second", b"slow"), (b"alone", None)])
    release, handled, now = asyncio.Event(), [], collections.Counter()

    async def handle(record):
        now[record.key] += 1
        assert now[record.key] == 1 or record.key is None
        if record.value == b"first":
            await release.wait()
        for _ in range(len(record.value)):
            await asyncio.sleep(0)
        now[record.key] -= 1
        handled.append(record.value)
        return [Outgoing(mine.output, record.value, record.key)]

    async with mine.pumping(handle) as pump:
        await eventually(lambda: len(handled) == 501)
        assert b"alone" in handled
        assert not {b"first", b"second"} & set(handled)
        release.set()
        await eventually(lambda: pump.counts.answered == 503)
    found = await asyncio.to_thread(mine.read, mine.output, 503)
    by_key = collections.defaultdict(list)
    for each in found:
        by_key[each.key()].append(each.value())
    assert by_key.pop(b"slow") == [b"first", b"second"]
    assert by_key.pop(None) == [b"alone"]
    assert len(by_key) == 7
    for answered in by_key.values():
        assert answered == sorted(answered, key=int)


@ONCE
async def test_unanswered_holds_the_position(topics, eventually, delivery):
    """While one message is unanswered the position stays before it, so the next member answers it; with transactions
    nothing behind it was shown before, and every answer is seen once.
    """
    mine = topics(delivery=delivery).make(partitions=1)
    mine.send(numbers(100))
    begun = []

    async def stuck(record):
        begun.append(record.value)
        if record.value == b"10":
            await asyncio.Event().wait()
        return [Outgoing(mine.output, record.value)]

    async with mine.pumping(stuck, drain=0.0):
        await eventually(lambda: len(begun) == 100)
        await asyncio.sleep(0)
    committed, _ = await asyncio.to_thread(mine.committed)
    assert committed[0] <= 10
    async with mine.pumping() as pump:
        await eventually(lambda: pump.counts.answered >= 90)
    found = await asyncio.to_thread(mine.read, mine.output, 100)
    assert set(values(found)) == set(range(100))
    assert delivery == "at-least-once" or len(found) == 100


@ONCE
async def test_poison(topics, eventually, delivery):
    """A message that can never be answered becomes a dead letter with its key, value, headers and the cause; others go
    on, those of its key too; the text of an error that is not ours stays in the log.
    """
    mine = topics(delivery=delivery).make(partitions=1)
    mine.send(
        [
            Outgoing(mine.input, b"bad", b"k", (("trace", b"t"), ("headrace-error", b"older"))),
            Outgoing(mine.input, b"bug", b"k"),
            Outgoing(mine.input, b"1", b"k"),
        ]
    )

    async def handle(record):
        if record.value == b"bad":
            raise InvalidRequest("it has no inputs")
        if record.value == b"bug":
            raise ZeroDivisionError("inner secret")
        return [Outgoing(mine.output, record.value, record.key)]

    async with mine.pumping(handle) as pump:
        await eventually(lambda: pump.counts.answered == 3)
    assert [each.value() for each in await asyncio.to_thread(mine.read, mine.output, 1)] == [b"1"]
    bad, bug = await asyncio.to_thread(mine.read, mine.dead, 2)
    assert (bad.key(), bad.value(), pump.counts.dead) == (b"k", b"bad", 2)
    assert dict(bad.headers()) == {
        "trace": b"t",
        "headrace-error": b"InvalidRequest",
        "headrace-error-message": b"it has no inputs",
        "headrace-error-topic": mine.input.encode(),
        "headrace-error-partition": b"0",
        "headrace-error-offset": b"0",
        "headrace-error-group": mine.name.encode(),
        "headrace-error-attempts": b"1",
    }
    assert dict(bug.headers())["headrace-error"] == b"ZeroDivisionError"
    assert b"secret" not in dict(bug.headers())["headrace-error-message"]


async def test_temporary_failures(topics, eventually):
    """What fails for a while is tried again, and its key waits for it; after `retries` further tries it is a dead letter."""
    mine = topics(retries=3).make(partitions=1)
    mine.send([(b"soon", b"k"), (b"never", b"k"), (b"after", b"k")])
    tries, order = collections.Counter(), []

    async def handle(record):
        tries[record.value] += 1
        if record.value == b"never" or (record.value == b"soon" and tries[record.value] < 3):
            raise ModelNotReady("model 'm' is loading")
        order.append(record.value)
        return [Outgoing(mine.output, record.value, record.key)]

    async with mine.pumping(handle) as pump:
        await eventually(lambda: pump.counts.answered == 3)
    assert tries == {b"soon": 3, b"never": 4, b"after": 1}
    assert order == [b"soon", b"after"]
    assert (pump.counts.retried, pump.counts.dead) == (5, 1)
    (letter,) = await asyncio.to_thread(mine.read, mine.dead, 1)
    assert dict(letter.headers())["headrace-error-attempts"] == b"4"


def test_pauses_grow():
    """The pauses between tries grow threefold, to half a minute and no more, however long a broker refuses."""
    found = [pause(attempt, 0.25) for attempt in (1, 2, 3, 4, 5, 6, 100_000)]
    assert found == [0.25, 0.75, 2.25, 6.75, 20.25, 30.0, 30.0]


@ONCE
async def test_answer_that_is_too_large(topics, eventually, delivery):
    """An answer above the limit of messages makes a dead letter of its request, and others are answered once."""
    mine = topics(delivery=delivery, options=("message.max.bytes=20000",)).make(partitions=1)
    mine.send(numbers(50))

    async def handle(record):
        large = b"x" * 30_000 if record.value == b"20" else record.value
        return [Outgoing(mine.output, large)]

    async with mine.pumping(handle) as pump:
        await eventually(lambda: pump.counts.answered == 50)
    found = await asyncio.to_thread(mine.read, mine.output, 49)
    assert values(found) == [number for number in range(50) if number != 20]
    (letter,) = await asyncio.to_thread(mine.read, mine.dead, 1)
    assert letter.value() == b"20"
    assert dict(letter.headers())["headrace-error"] == b"TooLarge"


@pytest.mark.parametrize("bound", ["messages", "bytes"])
@ONCE
async def test_back_pressure(topics, eventually, delivery, bound):
    """No more is being answered than settings allow, by number or by size; reading goes on when there is room."""
    limits = {"max_in_flight": 20} if bound == "messages" else {"max_in_flight_bytes": 2000, "batch_messages": 10}
    mine = topics(delivery=delivery, **limits).make()
    mine.send([(b"%0100d" % number, None) for number in range(300)])
    release, now, most = asyncio.Event(), 0, 0

    async def handle(record):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1
        return [Outgoing(mine.output, record.value)]

    async with mine.pumping(handle) as pump:
        await eventually(lambda: pump.counts.paused)
        assert pump.counts.in_flight <= 31
        release.set()
        await eventually(lambda: pump.counts.answered == 300)
    assert 20 <= most <= 31
    assert values(await asyncio.to_thread(mine.read, mine.output, 300)) == [*range(300)]


async def test_lag(topics, eventually):
    """The lag of a partition is the number of its messages that are not done with, those in flight included."""
    mine = topics(max_in_flight=10).make(partitions=1)
    mine.send(numbers(40))
    release = asyncio.Event()

    async def handle(record):
        if int(record.value) >= 5:
            await release.wait()
        return []

    async with mine.pumping(handle) as pump:
        await eventually(lambda: pump.counts.lag == {(mine.input, 0): 35})
        release.set()
        await eventually(lambda: pump.counts.lag == {(mine.input, 0): 0})
        await asyncio.to_thread(mine.send, numbers(1))
        await eventually(lambda: pump.counts.answered == 41)
    assert pump.counts.lag == {}


async def test_topics_that_are_missing(topics):
    """A topic that is not there ends the start with its name and what to do; it is made where settings say so."""
    mine = topics()
    with pytest.raises(SettingsError, match=rf"no topic '{mine.input}'.*kafka\.create_topics"):
        async with mine.pumping():
            pass
    made = topics(create_topics=True, partitions=2)
    async with made.pumping(needs=[made.output]):
        pass
    committed, _ = await asyncio.to_thread(made.committed)
    assert len(committed) == 2


@pytest.mark.parametrize("protocol", ["consumer", "cooperative"])
async def test_rebalances(mock_topics, eventually, protocol):
    """Under KIP-848 and under cooperative rebalancing, members share the partitions, messages that are in flight while
    partitions move are answered, and who stays has all.
    """
    options = {
        "consumer": ("group.protocol=consumer",),
        "cooperative": (
            "partition.assignment.strategy=cooperative-sticky",
            "session.timeout.ms=3000",
            "heartbeat.interval.ms=300",
        ),
    }[protocol]
    mine = mock_topics(options=options)
    mine.send(numbers(200))
    async with mine.pumping() as first:
        await eventually(lambda: len(first.assignment) == 4)
        async with mine.pumping() as second:
            sent = 200
            while len(second.assignment) != 2 or len(first.assignment) != 2:
                await asyncio.to_thread(mine.send, [(b"%d" % (sent + each), None) for each in range(20)])
                sent += 20
                assert sent < 20_000
            await asyncio.to_thread(mine.send, [(b"%d" % (sent + each), None) for each in range(100)])
            sent += 100
            await eventually(lambda: first.counts.answered + second.counts.answered >= sent)
        await eventually(lambda: len(first.assignment) == 4)
        assert first.counts.rebalances >= 3
        found = await asyncio.to_thread(mine.read, mine.output, sent)  # before it ends: some count twice above
    assert set(values(found)) == set(range(sent))


@ONCE
async def test_killed_members(topics, delivery):
    """Two members under load are killed one after the other and started again under their names: every message is
    answered, and with transactions, readers of committed messages see each answer once.
    """
    mine = topics(delivery=delivery).make(partitions=4)
    patience = {"max_in_flight": 200, "batch_messages": 50}

    def start(name):
        return mine.member(options=[f"group.instance.id={name}"], **patience)

    members = [start("one"), start("two")]
    ended, count = [], 500
    try:
        await asyncio.to_thread(mine.send, numbers(count))
        assert await asyncio.to_thread(members[0].stdout.readline) == b"reading\n"
        with mine.reading(mine.output) as read:
            for turn in range(5):
                batch = [(b"%d" % (count + each), b"%d" % (each % 11)) for each in range(1000)]
                sending = asyncio.create_task(asyncio.to_thread(mine.send, batch))
                if turn in {1, 3}:
                    await asyncio.to_thread(read, count - 250)  # in the middle of it
                    which = turn // 2
                    members[which].kill()
                    ended.append(members[which])
                    members[which] = start(["one", "two"][which])
                await sending
                count += 1000
            found = await asyncio.to_thread(read, count)
        assert set(values(found)) == set(range(count))
        assert delivery == "at-least-once" or len(found) == count
    finally:
        for member in [*members, *ended]:
            end(member)


async def test_partitions_of_the_dead(mock_topics):
    """A member that is killed under load is followed by the other one: every message is answered."""
    mine = mock_topics()
    members = [mine.member(options=["session.timeout.ms=6000", "heartbeat.interval.ms=500"]) for _ in range(2)]
    try:
        await asyncio.to_thread(mine.send, numbers(500))
        assert await asyncio.to_thread(members[0].stdout.readline) == b"reading\n"
        with mine.reading(mine.output) as read:
            sending = asyncio.create_task(asyncio.to_thread(mine.send, numbers(3000, keys=40)))
            await asyncio.to_thread(read, 600)
            members[0].kill()
            await sending
            found = await asyncio.to_thread(read, 3000)
        assert set(values(found)) == set(range(3000))
    finally:
        for member in members:
            end(member)


def end(member):
    member.stdin.close()
    try:
        member.wait(timeout=15)
    except subprocess.TimeoutExpired:
        member.kill()
        member.wait()
    member.stdout.close()


@ONCE
async def test_broker_restarts(broker, own_topics, eventually, delivery):
    """A broker that ends in the middle and is started again costs no message; meanwhile the pump says why it waits.

    With transactions only this is shown: every answer is written, and the pump goes on. That readers of committed
    messages see each once after a restart is not shown, because the packaged broker throws away a transaction that was
    open when it ended and acknowledges its commit afterwards, to any client. A cluster is restarted by nobody here.
    """
    mine = own_topics(delivery=delivery).make()
    mine.send(numbers(2000))
    gone = asyncio.Event()

    async def handle(record):
        if int(record.value) > 1000:
            await gone.wait()
        return [Outgoing(mine.output, record.value, record.key)]

    async with mine.pumping(handle) as pump:
        await eventually(lambda: pump.counts.in_flight and pump.counts.answered > 100)
        await asyncio.to_thread(broker.stop)
        gone.set()
        await eventually(lambda: f"Kafka at {broker.bootstrap}" in pump.reason)
        broker.start()
        await asyncio.to_thread(mine.send, [(b"%d" % (2000 + each), None) for each in range(500)])
        found = await asyncio.to_thread(mine.read, mine.output, 2500, "read_uncommitted")
        await eventually(lambda: pump.counts.answered >= 2500 and not pump.reason)
    assert set(values(found)) == set(range(2500))


async def test_broker_away_at_start(tmp_path, topic, eventually):
    """Without a broker the start goes on, and says where it looks; when one comes up, everything is answered."""
    from headrace.testing.brokers import Broker

    broker = Broker(tmp_path / "late")
    settings = KafkaSettings(brokers=broker.bootstrap, create_topics=True)
    mine = _topics_of(settings, topic)
    async with mine.pumping(needs=[mine.output]) as pump:
        assert f"Kafka at {broker.bootstrap}" in pump.reason
        broker.start()
        try:
            await eventually(lambda: pump.assignment)
            assert not pump.reason
            await asyncio.to_thread(mine.send, numbers(10))
            await eventually(lambda: pump.counts.answered == 10)
        finally:
            await pump.stop(5)
            broker.kill()


def _topics_of(settings, name):
    import importlib.util
    from pathlib import Path

    place = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("kafka_helpers", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.Topics(settings.brokers, name)
    made.settings = settings
    return made


async def test_stop_without_a_broker(topic):
    """A pump that never found its broker stops at once."""
    settings = KafkaSettings(brokers=f"127.0.0.1:{free_port()}")
    mine = _topics_of(settings, topic)
    async with mine.pumping() as pump:
        assert pump.reason
    assert pump.assignment == []


async def test_a_zombie_is_fenced(topics, eventually):
    """A member whose name in transactions another producer took commits nothing more under it and begins anew; readers of
    committed messages see each answer once.
    """
    mine = topics(delivery="exactly-once", options=("group.instance.id=one",)).make(partitions=1)
    mine.send(numbers(300))
    async with mine.pumping() as zombie:
        await eventually(lambda: zombie.counts.answered == 300)
        successor = Transactions(mine.settings, mine.name)
        await asyncio.to_thread(successor.start)
        try:
            await asyncio.to_thread(mine.send, [(b"%d" % (300 + each), None) for each in range(200)])
            await eventually(lambda: zombie.counts.aborted)
            await eventually(lambda: zombie.counts.answered == 500)
        finally:
            successor.close()
    assert values(await asyncio.to_thread(mine.read, mine.output, 500)) == [*range(500)]
