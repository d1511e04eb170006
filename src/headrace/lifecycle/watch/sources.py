"""Where messages come from that tell of new objects: a queue of SQS, topics of Kafka. `watch` runs each in a thread;
the command line adds the webhook, which needs a listener.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from headrace.artifacts import credentials as credentials_
from headrace.artifacts import stores
from headrace.artifacts.secrets import Secret
from headrace.artifacts.settings import ArtifactSettings
from headrace.artifacts.uri import Place
from headrace.brokers.base import Outgoing, Record, library
from headrace.brokers.counts import PumpCounts
from headrace.brokers.settings import KafkaSettings
from headrace.errors import ArtifactDenied
from headrace.lifecycle.watch.sigv4 import Keys
from headrace.lifecycle.watch.sqs import Queue

if TYPE_CHECKING:
    from headrace.brokers.pump import Pump
    from headrace.lifecycle.watch.watch import Offer

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.2
_DRAIN_SECONDS: Final = 30.0
_QUIET_LOOKS: Final = 3
_ONCE_SECONDS: Final = 120.0


class SqsSource:
    """A queue that a bucket, a topic of SNS or EventBridge writes to.

    Args:
        queue: To read. A message is deleted once the ledger has what it says.
        wait_seconds: Of a long poll; how long it may take to stop.
    """

    name = "sqs"

    def __init__(self, queue: Queue, *, wait_seconds: int = 10) -> None:
        self._queue, self._wait = queue, wait_seconds

    def read(self, offer: Offer, stop: threading.Event, *, once: bool) -> None:
        """See `watch.Source`. With `once`: until the queue gives nothing.

        Raises:
            ArtifactFailed: one of its causes.
        """
        while not stop.is_set():
            messages = self._queue.receive(wait_seconds=1 if once else self._wait)
            for each in messages:
                offer(each.body, source=self.name)
            self._queue.delete(messages)
            if once and not messages:
                return


def open_queue(url: str, settings: ArtifactSettings) -> Queue:
    """A queue, with the credentials that stores of AWS would be opened with.

    Raises:
        SettingsError: the url is none of a queue.
        ArtifactDenied: there are no credentials.
    """
    known = credentials_.load(settings.credentials)
    variables = known.of("s3")
    options = stores.s3_options(Place(scheme="s3", host="queue", shown=url), variables, known.home())
    return Queue(url, keys=_keys(url, options.config), region=str(options.config.get("region", "")))


def _keys(url: str, config: Any) -> Callable[[], Keys]:
    if config.get("access_key_id"):
        fixed = Keys(
            access_key=Secret(config["access_key_id"]),
            secret_key=Secret(config.get("secret_access_key", "")),
            token=Secret(config.get("session_token", "")),
        )
        return lambda: fixed
    # Roles of machines, containers and clusters: their keys change, and the library that gets them is AWS's own.
    try:
        import botocore.session  # type: ignore[import-untyped]
    except ModuleNotFoundError as exc:
        raise ArtifactDenied(
            f"{url}: there are no AWS keys in the environment or in the usual files; keys of a role of this machine "
            "need botocore: pip install botocore"
        ) from exc
    found = botocore.session.get_session().get_credentials()
    if found is None:
        raise ArtifactDenied(
            f"{url}: there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )

    def now() -> Keys:
        frozen = found.get_frozen_credentials()
        return Keys(
            access_key=Secret(frozen.access_key),
            secret_key=Secret(frozen.secret_key),
            token=Secret(frozen.token or ""),
        )

    return now


class KafkaSource:
    """Topics that stores write their events to (SeaweedFS, MinIO, Ceph, Knative's sources do).

    Args:
        settings: Of the connection.
        topics: To read.
        group: The consumer group; watchers that share a ledger share it.
    """

    name = "kafka"

    def __init__(self, settings: KafkaSettings, *, topics: Sequence[str], group: str) -> None:
        self._settings, self._topics, self._group = settings, tuple(topics), group

    def read(self, offer: Offer, stop: threading.Event, *, once: bool) -> None:
        """See `watch.Source`. With `once`: until there is no lag.

        Raises:
            SettingsError: the broker refuses us, or has no such topic.
            Temporary: it does not answer.
        """
        asyncio.run(self._read(offer, stop, once=once))

    async def _read(self, offer: Offer, stop: threading.Event, *, once: bool) -> None:
        loop = asyncio.get_running_loop()

        async def handle(record: Record) -> Sequence[Outgoing]:
            headers = {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers}
            await loop.run_in_executor(None, lambda: offer(record.value or b"", headers, source=self.name))
            return ()

        counts = PumpCounts()
        room = library("headrace.brokers.pump", needed_by="events by Kafka")
        pump: Pump = room.Pump(self._settings, topics=self._topics, group=self._group, handle=handle, counts=counts)
        await pump.start()
        try:
            if once:
                await self._drained(counts, stop)
            else:
                await loop.run_in_executor(None, stop.wait)
        finally:
            await pump.stop(_DRAIN_SECONDS)

    @staticmethod
    async def _drained(counts: PumpCounts, stop: threading.Event) -> None:
        """Return when several looks found nothing to read. A member that has no partition finds nothing."""
        until = time.monotonic() + _ONCE_SECONDS
        quiet = 0
        while quiet < _QUIET_LOOKS and not stop.is_set() and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            empty = bool(counts.lag) and not sum(counts.lag.values()) and not counts.in_flight
            quiet = quiet + 1 if empty else 0
        if quiet < _QUIET_LOOKS and not stop.is_set():
            log.warning("no partition of the topics came to this watcher, or they did not end: events may be left")
