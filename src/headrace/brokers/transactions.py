"""Answers and the position behind them in one transaction: readers of committed messages see each answer once.

The pump's thread calls this, between two reads, so that no rebalance comes in between.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as Client

from headrace.brokers import connection
from headrace.brokers.base import Outgoing
from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError

log = logging.getLogger(__name__)
_CALL_SECONDS: Final = 8.0
_GRACE_SECONDS: Final = 1.0
_LIFE_MS: Final = 20_000
"""After this the broker ends the transaction of a member that died: readers of committed messages wait for that."""


class Aborted(Exception):
    """Nothing of the transaction counts; the same may be sent again. `refused`: answers that never will be taken."""

    def __init__(self, message: str, refused: dict[int, HeadraceError]) -> None:
        super().__init__(message)
        self.refused = refused


class Lost(Exception):
    """Another producer has our name, or the broker gave us up: what was sent last may count or not."""


class Transactions:
    """A transactional producer of one member."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._settings = settings
        # Members are told apart by the group itself (KIP-447), so any name does; one that lasts ends at once what its
        # owner left open when it was killed.
        self._name = f"{group}-{connection.option(settings, 'group.instance.id') or uuid.uuid4().hex}"
        self._client: Any = None

    def start(self) -> None:
        """Make the client, and end what an earlier one of our name left open. Blocks.

        Raises:
            HeadraceError: it cannot be had.
        """
        more = {
            "transactional.id": self._name,
            "transaction.timeout.ms": str(_LIFE_MS),
            "linger.ms": "1",
        }
        try:
            self._client = Client(connection.librdkafka(self._settings, "producer", more))
            self._client.init_transactions(_CALL_SECONDS)
        except (KafkaException, ValueError, TypeError) as exc:
            raise connection.failure(self._settings, exc, "begin transactions") from exc

    def send(self, answers: Sequence[Outgoing], positions: Sequence[Any], member: Any) -> None:
        """All of the answers and the positions, or nothing. Blocks.

        Args:
            answers: In order.
            positions: `TopicPartition`s with the offsets to go on from.
            member: The consumer's group metadata.

        Raises:
            Aborted: nothing counts.
            Lost: nobody knows; read again from what is committed.
        """
        refused: dict[int, HeadraceError] = {}
        try:
            self._client.begin_transaction()
            for each in answers:
                self._produce(each, refused)
            _patiently(lambda left: self._client.send_offsets_to_transaction(list(positions), member, left))
            _patiently(self._client.commit_transaction)
        except KafkaException as exc:
            self._abort(exc.args[0], refused)

    def close(self) -> None:
        """End; what is open is aborted."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            client.purge()
            client.flush(0)
        except KafkaException as exc:  # a client that was fenced refuses even that
            log.debug("the old client ends: %s", connection.failure(self._settings, exc, "end"))

    def _produce(self, answer: Outgoing, refused: dict[int, HeadraceError]) -> None:
        def report(error: KafkaError | None, _: Any) -> None:
            if error is not None and error.code() in {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}:
                refused[id(answer)] = connection.error_of(self._settings, error, f"write to topic {answer.topic!r}")

        while True:
            try:
                self._client.produce(
                    answer.topic,
                    value=answer.value,
                    key=answer.key,
                    headers=list(answer.headers) if answer.headers else None,
                    on_delivery=report,
                )
            except BufferError:
                self._client.poll(0.1)
            except KafkaException as exc:
                report(exc.args[0], None)
                raise
            else:
                return

    def _abort(self, error: KafkaError, refused: dict[int, HeadraceError]) -> None:
        """Leave the transaction in a known state, or say that it is not.

        Raises:
            Aborted, Lost: one of them, always.
        """
        text = str(connection.error_of(self._settings, error, "write a transaction"))
        if error.fatal() or self._is_unknown(error):
            raise Lost(text)
        try:
            _patiently(self._client.abort_transaction)
        except KafkaException as exc:
            raise Lost(f"{text}; and it could not be aborted: {connection.hidden(self._settings, str(exc))}") from exc
        raise Aborted(text, refused)

    @staticmethod
    def _is_unknown(error: KafkaError) -> bool:
        """Whether a commit may have happened, although we were not told."""
        return bool(error.retriable()) and not error.txn_requires_abort()


def _patiently(call: Callable[[float], None]) -> None:
    """Call again what the library says may be called again, for a while."""
    deadline = time.monotonic() + _CALL_SECONDS
    while True:
        left = max(0.1, deadline - time.monotonic())
        try:
            _watched(call, left)
        except KafkaException as exc:
            error = exc.args[0]
            if not error.retriable() or error.txn_requires_abort() or time.monotonic() > deadline:
                raise
        else:
            return


def _watched(call: Callable[[float], None], seconds: float) -> None:
    """Call in a thread of its own: when its broker was restarted, librdkafka waits beyond the time that it is given.

    Raises:
        KafkaException: what the call raised.
        Lost: it did not come back. Its thread ends with the client, which nobody uses again.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call(seconds)
        except BaseException as exc:  # noqa: BLE001 - raised below, in the thread that asked
            raised.append(exc)

    thread = threading.Thread(target=run, name="kafka-transaction", daemon=True)
    thread.start()
    thread.join(seconds + _GRACE_SECONDS)
    if thread.is_alive():
        raise Lost(f"the broker did not end a step of a transaction within {seconds:g} s")
    if raised:
        raise raised[0]
