"""Sends messages in the library's own batches, and says when each is safe. Pumps, sinks and pipelines use it.

One client and one thread, which serves the library's reports: whoever waits is told there, from that thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as Client

from headrace.brokers import connection
from headrace.brokers.base import Outgoing
from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError, Temporary

log = logging.getLogger(__name__)
Sent = Callable[[HeadraceError | None], None]
"""Told when a message is safe with all its replicas (None), or never will be."""

_POLL_SECONDS: Final = 0.1
_ENDED: Final = frozenset(
    {
        KafkaError._FATAL,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)
"""What is reported of messages whose client ended."""
DEFAULTS: Final = {"enable.idempotence": "true", "linger.ms": "1"}
"""In order and once, as far as one producer's life goes."""


class Producer:
    """Sends messages: `start`, then `send` from any thread, then `close`."""

    def __init__(
        self, settings: KafkaSettings, *, delivery_seconds: float = 0.0, reported: Callable[[], None] | None = None
    ) -> None:
        """Store how.

        Args:
            settings: Of the connection.
            delivery_seconds: How long a message may wait for its broker before it fails; 0: for ever.
            reported: Called from the producer's thread after each round of calls of `sent`.
        """
        self._settings, self._reported = settings, reported
        self._delivery_ms = str(int(delivery_seconds * 1000))
        self._client: Any = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._held: deque[tuple[Outgoing, Sent]] = deque()
        self.reason = ""
        """Why nothing can be sent now, as far as is known."""

    def start(self) -> None:
        """Make the client; it connects by itself, now and after every loss.

        Raises:
            SettingsError: no client can be made of these settings.
        """
        self._client = self._made()
        self._thread = threading.Thread(target=self._serve, name="kafka-producer", daemon=True)
        self._thread.start()

    def send(self, outgoing: Outgoing, sent: Sent) -> None:
        """Queue a message; never blocks. Messages of one key to one topic keep their order.

        Args:
            outgoing: The message.
            sent: Called once, from the producer's thread or from here.
        """
        if self._held:
            self._hold(outgoing, sent)
            return
        try:
            self._produce(outgoing, sent)
        except BufferError:
            self._hold(outgoing, sent)

    async def deliver(self, messages: Sequence[Outgoing]) -> None:
        """Send, and return when all are safe.

        Raises:
            HeadraceError: the first that failed.
        """
        if messages:
            await asyncio.wrap_future(self._all(messages))

    def deliver_now(self, messages: Sequence[Outgoing], timeout_seconds: float) -> None:
        """As `deliver`, for threads: blocks.

        Raises:
            HeadraceError: the first that failed.
            Temporary: it took longer.
        """
        if not messages:
            return
        try:
            self._all(messages).result(timeout_seconds)
        except TimeoutError as exc:
            why = f": {self.reason}" if self.reason else ""
            raise Temporary(
                f"Kafka at {self._settings.brokers} did not take {len(messages)} messages in {timeout_seconds:g} s{why}"
            ) from exc

    def flush(self, seconds: float) -> bool:
        """Wait until everything is sent; whether it was. Blocks."""
        deadline = time.monotonic() + seconds
        while self._held and time.monotonic() < deadline:
            self._client.flush(min(0.1, max(0.0, deadline - time.monotonic())))
        return self._client is None or not self._client.flush(max(0.0, deadline - time.monotonic()))

    def close(self, seconds: float = 5.0) -> None:
        """Send what is left for at most so long, and end; what could not be sent is told so. Blocks."""
        if self._client is None:
            return
        self.flush(seconds)
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._client.purge()
        self._client.flush(1.0)  # the reports of what was purged
        if self._reported is not None:
            self._reported()  # of what `flush` was told
        with self._lock:
            held, self._held = list(self._held), deque()
        for _, sent in held:
            sent(Temporary(f"Kafka at {self._settings.brokers}: the producer was closed before a message was sent"))
        self._client = None

    def _all(self, messages: Sequence[Outgoing]) -> Future[None]:
        done: Future[None] = Future()
        lock, left = threading.Lock(), len(messages)

        def sent(error: HeadraceError | None) -> None:
            nonlocal left
            with lock:
                left -= 1
                if done.done():
                    return
                if error is not None:
                    done.set_exception(error)
                elif not left:
                    done.set_result(None)

        for each in messages:
            self.send(each, sent)
        return done

    def _made(self) -> Any:
        config = connection.librdkafka(
            self._settings,
            "producer",
            {**DEFAULTS, "message.timeout.ms": self._delivery_ms, "error_cb": self._error},
        )
        try:
            return Client(config)
        except (KafkaException, ValueError, TypeError) as exc:
            raise connection.failure(self._settings, exc, "connect") from exc

    def _produce(self, outgoing: Outgoing, sent: Sent) -> None:
        headers = outgoing.headers
        try:
            self._client.produce(
                outgoing.topic,
                outgoing.value,
                outgoing.key,
                on_delivery=partial(self._report, outgoing, sent),
                headers=list(headers) if headers else None,
            )
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError._FATAL and not self._closing.is_set():
                raise BufferError("the client ended; the next one takes the message") from exc
            sent(connection.failure(self._settings, exc, f"write to topic {outgoing.topic!r}"))

    def _report(self, outgoing: Outgoing, sent: Sent, error: KafkaError | None, _: Any) -> None:
        """What the library says of a message."""
        if error is None:
            sent(None)
        elif not self._closing.is_set() and (error.fatal() or error.code() in _ENDED):
            self._hold(outgoing, sent)  # the client ended, not the message
        else:
            sent(connection.error_of(self._settings, error, f"write to topic {outgoing.topic!r}"))

    def _hold(self, outgoing: Outgoing, sent: Sent) -> None:
        """Keep a message until the library's queue has room again."""
        with self._lock:
            self._held.append((outgoing, sent))

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                served = self._client.poll(0.01 if self._held else _POLL_SECONDS)
            except KafkaException as exc:  # which it raises only where the client is of no use any more
                self._renew(exc)
                continue
            if served:
                self.reason = ""
                if self._reported is not None:
                    self._reported()
            while self._held:
                try:
                    self._produce(*self._held[0])
                except BufferError:
                    break
                with self._lock:
                    self._held.popleft()

    def _renew(self, exc: KafkaException) -> None:
        """Go on with another client: brokers that lost what they knew of the old one's messages refuse it for ever."""
        log.warning("%s; a new client goes on", connection.failure(self._settings, exc, "go on"))
        old, self._client = self._client, self._made()
        old.purge()
        try:
            old.flush(1.0)  # its reports, by which what it had not sent is held for the new one
        except KafkaException as again:
            log.debug("the old client ends: %s", connection.failure(self._settings, again, "end"))

    def _error(self, error: KafkaError) -> None:
        self.reason = str(connection.error_of(self._settings, error, "send"))
        log.warning("%s", self.reason)
