"""What a pump counts; metrics read it. Plain numbers, written by the pump's thread and its loop."""

from __future__ import annotations


class PumpCounts:
    """Of one pump, since it was made."""

    __slots__ = (
        "aborted", "answered", "bytes_in_flight", "commit_failures", "commits", "dead", "dropped", "in_flight", "lag",
        "paused", "reason", "rebalances", "received", "retried", "sent", "transactions",
    )  # fmt: skip

    def __init__(self) -> None:
        self.received = 0
        """Messages taken from topics."""
        self.answered = 0
        """Of those, messages that are done with: their answers are safe."""
        self.sent = 0
        """Answers that are safe with the broker."""
        self.dead = 0
        """Messages that can never be answered, as dead letters or logged."""
        self.retried = 0
        """Further tries of messages that failed for a while."""
        self.dropped = 0
        """Messages whose partition went to another member before they were done; it reads them again."""
        self.in_flight = 0
        """Messages that are being answered, or wait for one of their key."""
        self.bytes_in_flight = 0
        """Their keys and values."""
        self.rebalances = 0
        """Times that partitions came or went."""
        self.commits = 0
        """Positions that the broker acknowledged, partition by partition."""
        self.commit_failures = 0
        self.transactions = 0
        """Transactions that were committed."""
        self.aborted = 0
        """Transactions that were not."""
        self.paused = 0
        """Times that reading was paused because too much was in flight."""
        self.lag: dict[tuple[str, int], int] = {}
        """By topic and partition that this member has: messages that are not done with."""
        self.reason = ""
        """Why nothing is read now; empty: all is well."""
