"""Settings in the words of librdkafka, and its errors as ours. Every other file of the room begins here."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from confluent_kafka import KafkaError, KafkaException

from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError, SettingsError, Temporary, TooLarge

Role = Literal["consumer", "producer", "admin"]
log = logging.getLogger("headrace.brokers.librdkafka")
_AGAIN_SECONDS: Final = 60.0
_KINDS: Final = 1000
_PASSING: Final = re.compile(r"\(after \d+ms in state \w+\)|#(?:consumer|producer)-\d+|\[thrd:[^\]]*\]")

_CONSUMER_ONLY: Final = (
    "group.", "session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "fetch.", "auto.offset.",
    "enable.auto.", "isolation.level", "queued.", "max.poll.", "max.partition.fetch.bytes", "check.crcs",
    "coordinator.query.interval.ms", "auto.commit.", "consume.", "allow.auto.create.topics",
)  # fmt: skip
_PRODUCER_ONLY: Final = (
    "transactional.id", "transaction.timeout.ms", "enable.idempotence", "enable.gapless.guarantee", "queue.buffering.",
    "message.send.max.retries", "retries", "linger.ms", "acks", "request.required.acks", "compression.", "batch.",
    "delivery.", "message.timeout.ms", "partitioner", "sticky.", "request.timeout.ms",
)  # fmt: skip
_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
UNKNOWN: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
_WRONG: Final = frozenset(
    {
        KafkaError._INVALID_ARG,
        KafkaError._CONFLICT,
        KafkaError._NOT_IMPLEMENTED,
        KafkaError.INVALID_CONFIG,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_SESSION_TIMEOUT,
    }
)


class Seldom(logging.Filter):
    """Lets a complaint through once in a while: clients that find no broker say so many times a second.

    Args:
        seconds: Between two lines of one text, what differs from try to try left out.
    """

    def __init__(self, seconds: float = _AGAIN_SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING:
            return True
        text = _PASSING.sub("", record.getMessage())
        if record.created - self._last.get(text, 0.0) < self._seconds:
            return False
        if len(self._last) >= _KINDS:
            self._last.clear()
        self._last[text] = record.created
        return True


for _name in ("librdkafka", "producer", "follower", "pump", "answering"):
    logging.getLogger(f"headrace.brokers.{_name}").addFilter(Seldom())


def librdkafka(settings: KafkaSettings, role: Role, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a client of librdkafka is made with. It holds secrets: it is handed to the library, and printed nowhere.

    Args:
        settings: Of the connection.
        role: Whose; options that only another role has are left out, because the library would warn of them.
        more: What this client needs; `settings.options` hold over it.

    Raises:
        SettingsError: an option is not `NAME=VALUE`.
    """
    options = _options(settings)
    mechanism = settings.sasl_mechanism or ("PLAIN" if settings.username else "")
    protocol = settings.protocol or _protocol(settings, mechanism)
    named = {
        "security.protocol": protocol,
        "ssl.ca.location": settings.tls_ca,
        "ssl.certificate.location": settings.tls_certificate,
        "ssl.key.location": settings.tls_key,
        "sasl.mechanism": mechanism,
        "sasl.username": settings.username,
        "sasl.password": settings.password,
    }
    config: dict[str, Any] = {
        "bootstrap.servers": settings.brokers,
        "client.id": "headrace",
        "logger": log,
        "log.connection.close": "false",
        "reconnect.backoff.max.ms": "2000",
        **{name: value for name, value in named.items() if value},
        **(more or {}),
    }
    if not settings.tls_verify_hostname and protocol.endswith("ssl"):
        config["ssl.endpoint.identification.algorithm"] = "none"
    elsewhere = {"consumer": _PRODUCER_ONLY, "producer": _CONSUMER_ONLY, "admin": _CONSUMER_ONLY + _PRODUCER_ONLY}[role]
    return {**config, **{name: value for name, value in options.items() if not name.startswith(elsewhere)}}


def option(settings: KafkaSettings, name: str) -> str:
    """What `settings.options` say of a name; empty: nothing."""
    return _options(settings).get(name, "")


def _options(settings: KafkaSettings) -> dict[str, str]:
    options = {}
    for number, text in enumerate(settings.options, 1):
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"kafka.options: entry {number} is not NAME=VALUE; write group.protocol=consumer")
        options[name.strip()] = value.strip()
    return options


def _protocol(settings: KafkaSettings, mechanism: str) -> str:
    tls = bool(settings.tls_ca or settings.tls_certificate)
    return f"{'sasl_' if mechanism else ''}{'ssl' if tls else 'plaintext'}"


def hidden(settings: KafkaSettings, text: str) -> str:
    """A text of the library without any value that is nobody's business."""
    secrets = [settings.password, *_options(settings).values()]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def error_of(settings: KafkaSettings, error: KafkaError, doing: str) -> HeadraceError:
    """One of librdkafka's errors as ours.

    Args:
        settings: Of the connection.
        error: The library's.
        doing: What failed, as a sentence goes on: `read topic 'orders'`.

    Returns:
        `SettingsError` for what only another setting heals (who we are, certificates, rights, topics that are not
        there), `TooLarge` for a message above the broker's limit, `Temporary` for everything that may pass.
    """
    code = error.code()
    said = hidden(settings, error.str())
    where = f"Kafka at {settings.brokers}: cannot {doing}"
    if code in _REFUSED:
        return SettingsError(
            f"{where}: {said}; check kafka.username, kafka.password, kafka.sasl_mechanism, kafka.tls_ca and the rights "
            "of that user"
        )
    if code in UNKNOWN:
        return SettingsError(f"{where}: {said}; make the topic, or set kafka.create_topics")
    if code in _WRONG:
        return SettingsError(f"{where}: {said}; check kafka.*, kafka.options above all")
    if code in {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}:
        return TooLarge(
            f"{where}: {said}; raise the topic's max.message.bytes and kafka.options message.max.bytes, or send less"
        )
    return Temporary(f"{where}: {said}; it is tried again until the broker answers")


def failure(settings: KafkaSettings, exc: Exception, doing: str) -> HeadraceError:
    """As `error_of`, for what a call of the library raised."""
    first = exc.args[0] if exc.args else None
    if isinstance(exc, KafkaException) and isinstance(first, KafkaError):
        return error_of(settings, first, doing)
    if isinstance(exc, KafkaException | ValueError | TypeError):
        return SettingsError(f"Kafka at {settings.brokers}: cannot {doing}: {hidden(settings, str(exc))}")
    return Temporary(f"Kafka at {settings.brokers}: cannot {doing}: {hidden(settings, str(exc))}")
