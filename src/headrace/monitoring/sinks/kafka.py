"""CloudEvents into a Kafka topic: `kafka://BROKER:PORT/TOPIC`, several brokers by commas, or `kafka:///TOPIC` for those
of the settings. One record an event, in the binding's binary or structured mode; its key is `partitionkey`, or the
model, so that events of a model stay in order.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Final

from headrace.brokers import admin, connection
from headrace.brokers.base import Outgoing
from headrace.brokers.producer import Producer
from headrace.errors import HeadraceError, SettingsError, Temporary, TooLarge
from headrace.monitoring.sinks.base import Options
from headrace.protocols import cloudevents

_AT_ONCE: Final = 1000
_LATE_SECONDS: Final = 2.0
_TOPIC_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST_TOPIC: Final = 249


def open_kafka(address: str, *, setting: str, options: Options) -> Kafka:
    """As `registry.SINKS` has it."""
    return Kafka(address, setting=setting, options=options)


class Kafka:
    """One topic that is written to. It connects when the first event comes.

    Args:
        address: `kafka://BROKER:PORT/TOPIC`.
        setting: The key that holds it, for messages.
        options: Mode, time, and how brokers are reached.

    Raises:
        SettingsError: the address is none, or a setting of Kafka is wrong.
    """

    most_at_once = _AT_ONCE

    def __init__(self, address: str, *, setting: str, options: Options) -> None:
        brokers, _, topic = address.partition("://")[2].partition("/")
        if "@" in brokers:
            raise SettingsError(f"{setting}: a user or password is not part of the address; set kafka.username")
        if not topic or not _TOPIC_LETTERS.issuperset(topic) or len(topic) > _LONGEST_TOPIC or topic in {".", ".."}:
            raise SettingsError(
                f"{setting}: expected kafka://BROKER:PORT/TOPIC, or kafka:///TOPIC with the brokers of kafka.brokers; "
                f"a topic is up to {_LONGEST_TOPIC} letters, digits, '.', '_' and '-'"
            )
        settings = options.kafka
        if brokers:
            settings = dataclasses.replace(settings, brokers=brokers)
        connection.librdkafka(settings, "producer")  # says now what is wrong with them
        self._settings, self._topic, self._options = settings, topic, options
        self._opening = threading.Lock()
        self._producer: Producer | None = None
        self._is_closed = False
        self.name = f"kafka://{settings.brokers}/{topic}"
        """For messages."""

    def __repr__(self) -> str:
        return f"Kafka({self.name})"

    def send(self, event: cloudevents.Event) -> None:
        """As of Sink."""
        (error,) = self.send_many([event])
        if error is not None:
            raise error

    def send_many(self, events: Sequence[cloudevents.Event]) -> Sequence[HeadraceError | None]:
        """As of SinkOfMany. What the broker refuses, but for an event that is too large, is tried again: a topic may be
        made and rights may be given while events wait.
        """
        try:
            producer = self._started()
        except HeadraceError as exc:
            return [_later(exc)] * len(events)
        waiting = _Waiting(len(events))
        for at, event in enumerate(events):
            producer.send(self._outgoing(event), functools.partial(waiting.told, at))
        waiting.wait(self._options.timeout_seconds + _LATE_SECONDS, self.name)
        outcomes = [_later(error) for error in waiting.outcomes]
        if any(isinstance(error, Temporary) for error in outcomes):
            self._given_up(producer)
        return outcomes

    def _outgoing(self, event: cloudevents.Event) -> Outgoing:
        render = cloudevents.kafka_structured if self._options.mode == "structured" else cloudevents.kafka_binary
        headers, value = render(event)
        return Outgoing(self._topic, value, cloudevents.kafka_key(event), headers)

    def _started(self) -> Producer:
        with self._opening:
            if self._is_closed:
                raise Temporary(f"{self.name} is closed")
            if self._producer is None:
                admin.ensure_topics(self._settings, [self._topic], timeout_seconds=self._options.timeout_seconds)
                producer = Producer(self._settings, delivery_seconds=self._options.timeout_seconds)
                producer.start()
                self._producer = producer
            return self._producer

    def _given_up(self, producer: Producer) -> None:
        """The next event gets another producer: a broker that lost what it knew of this one would refuse it for ever,
        and what was not acknowledged must not arrive twice, late.
        """
        with self._opening:
            if self._producer is not producer:
                return
            self._producer = None
        producer.close(0.0)

    def close(self) -> None:
        """As of Sink."""
        with self._opening:
            self._is_closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(0.0)  # what was sent is acknowledged; what was not, its sender has again


class _Waiting:
    """What became of messages, as the producer's thread tells it."""

    def __init__(self, count: int) -> None:
        self.outcomes: list[HeadraceError | None] = [None] * count
        self._left = set(range(count))
        self._changed = threading.Condition()

    def told(self, at: int, error: HeadraceError | None) -> None:
        with self._changed:
            if at in self._left:  # else it is too late
                self._left.discard(at)
                self.outcomes[at] = error
                if not self._left:
                    self._changed.notify_all()

    def wait(self, seconds: float, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._left, seconds)
            for at in self._left:
                self.outcomes[at] = Temporary(f"{name}: no acknowledgement within {seconds:g} s")
            self._left.clear()


def _later(error: HeadraceError | None) -> HeadraceError | None:
    """What is wrong with the broker, the topic or our rights is not wrong with the event."""
    if error is None or isinstance(error, Temporary | TooLarge):
        return error
    later = Temporary(str(error))
    later.__cause__ = error
    return later
