"""What Kafka brings and takes, as metrics. `app.py` attaches the counts of each pump (`brokers.counts`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from headrace.brokers.counts import PumpCounts
from headrace.monitoring.families import Family

_COUNTERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "received": ("headrace_kafka_received_total", "Messages read"),
        "answered": ("headrace_kafka_answered_total", "Messages that are done with: their answers are safe"),
        "sent": ("headrace_kafka_sent_total", "Answers that the broker has"),
        "dead": ("headrace_kafka_dead_letters_total", "Messages that can never be answered"),
        "retried": ("headrace_kafka_retries_total", "Further tries of messages that failed for a while"),
        "dropped": (
            "headrace_kafka_handed_over_total",
            "Messages whose partition went to another member before they were done; it reads them again",
        ),
        "rebalances": ("headrace_kafka_rebalances_total", "Times that partitions came or went"),
        "commits": ("headrace_kafka_commits_total", "Positions that the broker acknowledged"),
        "commit_failures": ("headrace_kafka_commit_failures_total", "Positions that it did not take"),
        "transactions": ("headrace_kafka_transactions_total", "Transactions that were committed"),
        "aborted": ("headrace_kafka_transactions_aborted_total", "Transactions that were aborted"),
        "paused": ("headrace_kafka_pauses_total", "Times that reading was paused because too much was in flight"),
    }
)
_GAUGES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "in_flight": ("headrace_kafka_in_flight", "Messages that are being answered, or wait for one of their key"),
        "bytes_in_flight": ("headrace_kafka_in_flight_bytes", "Their keys and values"),
    }
)
_LAG: Final = "headrace_kafka_lag"
_CONNECTED: Final = "headrace_kafka_connected"

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        **{name: ("counter", text, ("group",)) for name, text in _COUNTERS.values()},
        **{name: ("gauge", text, ("group",)) for name, text in _GAUGES.values()},
        _LAG: (
            "gauge",
            "Messages of a partition that are not done with; shown by the member that has it",
            ("group", "topic", "partition"),
        ),
        _CONNECTED: ("gauge", "1 while messages are read, 0 while the broker is away or refuses", ("group",)),
    }
)
"""Name to kind, meaning and labels. Rates are Prometheus's: `rate(headrace_kafka_answered_total[1m])`."""


class KafkaMetrics:
    """Reads the counts of what is attached, when somebody asks."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[PumpCounts, Callable[[], str]]] = {}

    def attach(self, group: str, counts: PumpCounts, reason: Callable[[], str]) -> None:
        """Show what a member of a group counts.

        Args:
            group: The consumer group; one attached to it before is shown no more.
            counts: Of its pump.
            reason: Why nothing is read; empty: all is well.
        """
        self._sources[group] = (counts, reason)

    def detach(self, group: str) -> None:
        """Show it no more."""
        self._sources.pop(group, None)

    def fill(self, families: Mapping[str, Family]) -> None:
        """Put the samples into the families of NAMES."""
        for group, (counts, reason) in self._sources.items():
            labels = {"group": group}
            for field, (name, _) in {**_COUNTERS, **_GAUGES}.items():
                families[name].value(labels, getattr(counts, field))
            for (topic, partition), lag in counts.lag.items():
                families[_LAG].value({**labels, "topic": topic, "partition": str(partition)}, lag)
            families[_CONNECTED].value(labels, 0 if reason() else 1)
