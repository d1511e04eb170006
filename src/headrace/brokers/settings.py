"""What may be set about Kafka; `headrace.settings` gathers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

_POSITIVE: Final = {"at_least": 1}
_NOT_NEGATIVE: Final = {"at_least": 0}


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """Requests from topics, answers to topics, and pipelines that survive their server."""

    enabled: bool = False
    """Whether requests are read from `input_topics`. `headrace serve --kafka` turns it on. Durable pipelines and sinks
    use the connection whether it is on or not."""
    brokers: str = "localhost:9092"
    """`host:port` of some brokers, by commas."""
    input_topics: tuple[str, ...] = ("headrace-input",)
    """Topics of requests. Servers of one `group` share their partitions."""
    output_topic: str = "headrace-output"
    """Where answers go, unless a request's header `headrace-reply-topic` names one of `reply_topics`."""
    reply_topics: tuple[str, ...] = ()
    """Other topics that a request may ask its answer to be sent to."""
    dead_letter_topic: str = "headrace-dead-letters"
    """Where messages go that can never be answered, as they came, with the cause in headers. Empty: they are logged and
    counted only."""
    group: str = "headrace"
    """The consumer group."""
    delivery: Literal["at-least-once", "exactly-once"] = "at-least-once"
    """`at-least-once`: after a kill, some requests may be answered twice. `exactly-once`: answers and progress are
    written in transactions; readers that read committed messages see each answer once."""
    model: str = ""
    """Who answers messages that name no model; empty: such a message is a dead letter."""
    batch_messages: int = field(default=500, metadata=_POSITIVE)
    """Messages that are taken at once."""
    max_in_flight: int = field(default=1000, metadata=_POSITIVE)
    """Messages that are being answered; reading pauses there. Ten times as many may wait for the broker to acknowledge
    their answers."""
    max_in_flight_bytes: int = field(default=64 << 20, metadata=_POSITIVE)
    """Keys and values of messages, and their answers that the broker has not acknowledged; reading pauses there as
    well."""
    revoke_seconds: float = field(default=10.0, metadata=_NOT_NEGATIVE)
    """When a partition goes to another member of the group: how long to wait for messages that are being answered.
    Those that take longer are answered again by the other member."""
    request_timeout_seconds: float = field(default=60.0, metadata=_POSITIVE)
    """For one message; then it fails as any other late request."""
    retries: int = field(default=5, metadata=_NOT_NEGATIVE)
    """Further tries of a message that failed for a while (model not ready, overloaded), with growing pauses; what its
    key is stays in order meanwhile. Then it is a dead letter."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where a group begins that has no progress yet."""
    create_topics: bool = False
    """Whether topics that are missing are made at the start; otherwise that is an error that names them."""
    partitions: int = field(default=4, metadata=_POSITIVE)
    """Of topics that are made."""
    replication: int = field(default=1, metadata=_POSITIVE)
    """Of topics that are made."""
    naming: Literal["headrace", "seldon"] = "headrace"
    """Of the topics of durable pipelines: `headrace.NAMESPACE.pipeline.NAME.inputs`, or Seldon Core v2's, whose headers
    and V2 protobuf bodies then hold as well."""
    prefix: str = ""
    """First part of those names; empty: `headrace` or `seldon`."""
    namespace: str = "default"
    """Second part."""
    protocol: Literal["", "plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = ""
    """Of the connection; empty: what the other settings imply."""
    tls_ca: str = ""
    """A PEM file of who signed the brokers' certificates; empty: the system's."""
    tls_certificate: str = ""
    """Ours, as a PEM file, for brokers that ask."""
    tls_key: str = ""
    """Its key."""
    tls_verify_hostname: bool = True
    """Whether a broker's certificate must be for its name."""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = ""
    """How we say who we are; empty: `PLAIN` where a username is set."""
    username: str = ""
    """Of SASL."""
    password: str = field(default="", repr=False)
    """Of SASL; shown to nobody."""
    options: tuple[str, ...] = field(default=(), repr=False)
    """`NAME=VALUE` of librdkafka, over all of the above: `group.protocol=consumer`. Values are shown to nobody."""
