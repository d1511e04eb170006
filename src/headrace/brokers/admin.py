"""Topics that must be there: looked for, made where settings say so, named where they are missing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headrace.brokers import connection
from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError, SettingsError, Temporary

_SHOWN_SECONDS: Final = 10.0
"""How long a topic that was made may take to be seen."""


def ensure_topics(
    settings: KafkaSettings,
    names: Sequence[str],
    *,
    create: bool | None = None,
    partitions: int = 0,
    config: Mapping[str, str] | None = None,
    timeout_seconds: float = 5.0,
) -> None:
    """Return when every topic is there. Blocks.

    Args:
        settings: Of the connection.
        names: The topics.
        create: Whether to make those that are missing; None: as `settings.create_topics` says.
        partitions: Of those that are made; 0: as settings say.
        config: Of those that are made: `{"retention.ms": "3600000"}`.
        timeout_seconds: For each question to the broker.

    Raises:
        SettingsError: a topic is missing and may not be made, or the broker refuses us.
        Temporary: the broker does not answer.
    """
    client = _looker(settings)
    try:
        lacking = missing(settings, names, timeout_seconds=timeout_seconds, client=client)
        if not lacking:
            return
        if not (settings.create_topics if create is None else create):
            raise SettingsError(
                f"Kafka at {settings.brokers} has no topic {', '.join(map(repr, lacking))}; make "
                f"{'it' if len(lacking) == 1 else 'them'}, correct the name, or set kafka.create_topics"
            )
        wanted = [
            NewTopic(
                name,
                num_partitions=partitions or settings.partitions,
                replication_factor=settings.replication,
                config=dict(config or {}),
            )
            for name in lacking
        ]
        _make(settings, wanted, timeout_seconds)
        deadline = time.monotonic() + _SHOWN_SECONDS
        while left := missing(settings, lacking, timeout_seconds=timeout_seconds, client=client):
            if time.monotonic() > deadline:
                raise Temporary(f"Kafka at {settings.brokers} made topic {left[0]!r}, and does not show it")
            time.sleep(0.05)  # there is nothing to wait for: a broker tells nobody of a new topic
    finally:
        client.close()


def _make(settings: KafkaSettings, wanted: Sequence[Any], timeout_seconds: float) -> None:
    client = admin(settings)  # kept while it works: it ends with its last reference
    for name, made in client.create_topics(list(wanted), request_timeout=timeout_seconds).items():
        try:
            made.result(timeout=timeout_seconds + 1)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another replica was quicker
                raise connection.failure(settings, exc, f"make topic {name!r}") from exc
        except TimeoutError as exc:
            raise Temporary(f"Kafka at {settings.brokers} did not make topic {name!r} in time") from exc


def admin(settings: KafkaSettings) -> Any:
    """A client for questions and orders about the cluster.

    Raises:
        SettingsError: no client can be made of these settings.
    """
    try:
        return AdminClient(connection.librdkafka(settings, "admin"))
    except (KafkaException, ValueError, TypeError) as exc:
        raise connection.failure(settings, exc, "connect") from exc


def _looker(settings: KafkaSettings) -> Any:
    """A client that asks for topics without making them, as others do at brokers that make what is asked for."""
    more = {"group.id": "headrace", "allow.auto.create.topics": "false"}  # the group is never joined
    try:
        return Consumer(connection.librdkafka(settings, "consumer", more))
    except (KafkaException, ValueError, TypeError) as exc:
        raise connection.failure(settings, exc, "connect") from exc


def missing(settings: KafkaSettings, names: Sequence[str], *, timeout_seconds: float, client: Any) -> list[str]:
    """Those of the topics that are not there, in their order. Blocks.

    Args:
        settings: Of the connection.
        names: The topics.
        timeout_seconds: For each of them.
        client: A consumer: looking for a topic with another client makes it, at brokers that make what is asked for.

    Raises:
        SettingsError: the broker refuses us.
        Temporary: it does not answer.
    """
    lacking = []
    for name in dict.fromkeys(names):
        try:
            found = client.list_topics(topic=name, timeout=timeout_seconds).topics.get(name)
        except KafkaException as exc:
            raise connection.failure(settings, exc, f"look for topic {name!r}") from exc
        if found is None or (found.error is not None and found.error.code() in connection.UNKNOWN):
            lacking.append(name)
        elif found.error is not None and found.error.code() != KafkaError.LEADER_NOT_AVAILABLE:
            raise connection.error_of(settings, found.error, f"use topic {name!r}")
    return lacking


def reachable(settings: KafkaSettings, *, timeout_seconds: float = 5.0) -> HeadraceError | None:
    """Why no broker answers; None: one does. Blocks."""
    try:
        admin(settings).list_topics(timeout=timeout_seconds)
    except KafkaException as exc:
        return connection.failure(settings, exc, "ask for its topics")
    except HeadraceError as error:
        return error
    return None


def delete_topics(settings: KafkaSettings, names: Sequence[str], *, timeout_seconds: float = 5.0) -> None:
    """Delete topics; one that is not there is no mistake. Blocks.

    Raises:
        SettingsError: the broker refuses us.
        Temporary: it does not answer.
    """
    client = admin(settings)
    for name, gone in client.delete_topics(list(names), request_timeout=timeout_seconds).items():
        try:
            gone.result(timeout=timeout_seconds + 1)
        except KafkaException as exc:
            if exc.args[0].code() not in connection.UNKNOWN:
                raise connection.failure(settings, exc, f"delete topic {name!r}") from exc
        except TimeoutError as exc:
            raise Temporary(f"Kafka at {settings.brokers} did not delete topic {name!r} in time") from exc
