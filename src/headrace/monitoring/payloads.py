"""The payload log: what came, what was answered, what would have been right. The watcher's process owns one.

    log = PayloadLog(settings, server="headrace")
    log.open()
    log.take(exchanges)          # returns at once; a thread of the log's own writes or sends
    log.label("request-1", [1])  # when somebody knows
    log.close(grace_seconds=5)

It is bounded: what comes while too much waits is dropped and counted, and so is what could not be written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from headrace.brokers.settings import KafkaSettings
from headrace.errors import SettingsError
from headrace.monitoring import payload_events, payload_rows
from headrace.monitoring.event_box import event_outbox, item_of
from headrace.monitoring.exchange import Exchange, is_sampled, size_of
from headrace.monitoring.payload_files import Folder
from headrace.monitoring.redaction import Redaction
from headrace.monitoring.settings import PayloadSettings
from headrace.monitoring.sinks.base import Options
from headrace.monitoring.sinks.registry import open_sink, scheme_of

log = logging.getLogger(__name__)

_WRITE_BYTES: Final = 8 << 20
"""What waits is written before its time when it is so much."""
_AT_ONCE: Final = 5000
_OVERHEAD: Final = 512
"""Bytes that an exchange counts beside its tensors."""
_TICK_SECONDS: Final = 60.0
_EVENT_SECONDS: Final = 60.0
_SENDERS: Final = 4


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What would have been right for the rows of one request."""

    request_id: str
    labels: tuple[Any, ...]
    """By row."""
    model: str = ""
    version: str = ""
    time: float = 0.0


class _Where(Protocol):
    def open(self) -> None: ...
    def write(self, exchanges: Sequence[Exchange]) -> None: ...
    def write_labels(self, labels: Sequence[Label]) -> None: ...
    def tick(self) -> None: ...
    def close(self, grace_seconds: float) -> None: ...
    def counts(self) -> dict[str, int]: ...


class PayloadLog:
    """One log.

    Args:
        settings: What, where, how much.
        server: Names the source of events: a URI reference, or a name.
        kafka: How brokers are reached, where events go to a topic.

    Raises:
        SettingsError: the sink is none that there is.
    """

    def __init__(
        self,
        settings: PayloadSettings,
        server: str = "headrace",
        *,
        kafka: KafkaSettings = KafkaSettings(),
    ) -> None:
        self._settings = settings
        is_file = scheme_of(settings.sink) == "file"
        self._where: _Where = _Files(settings) if is_file else _Events(settings, server, kafka)
        self._waiting: list[tuple[Exchange, int]] = []
        self._labels: list[Label] = []
        self._waiting_bytes = 0
        self._write_bytes = min(_WRITE_BYTES, settings.max_waiting_bytes // 2) if settings.flush_seconds else 1
        self._dropped = 0
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="payloads", daemon=True)

    def __repr__(self) -> str:
        return f"PayloadLog({self._settings.mode}, {len(self._waiting)} waiting, {self.counts()})"

    @property
    def waiting(self) -> int:
        """Exchanges that were taken and are not counted yet."""
        return len(self._waiting)

    def open(self) -> None:
        """Take up what an earlier process left, and begin.

        Raises:
            SettingsError: the folder cannot be used.
            MissingExtra: files are to be written, and pyarrow is not installed.
        """
        if self._settings.mode == "off":
            return
        self._where.open()
        self._thread.start()

    def take(self, batch: Iterable[Exchange]) -> None:
        """Log exchanges of the sampled requests."""
        if self._settings.mode == "off":
            return
        share, most = self._settings.sample, self._settings.max_waiting_bytes
        with self._changed:
            for each in batch:
                if not is_sampled(each.id, share):
                    continue
                size = size_of(each.inputs) + size_of(each.outputs) + _OVERHEAD
                if self._is_ending or self._waiting_bytes + size > most:
                    self._dropped += 1
                    continue
                self._waiting.append((each, size))
                self._waiting_bytes += size
            if self._waiting_bytes >= self._write_bytes:
                self._changed.notify()

    def label(self, request_id: str, labels: Sequence[Any], *, model: str = "", version: str = "") -> None:
        """Log what would have been right, by row, if the request is sampled. They are joined when the log is read."""
        if self._settings.mode == "off" or not is_sampled(request_id, self._settings.sample):
            return
        found = Label(request_id=request_id, labels=tuple(labels), model=model, version=version, time=time.time())
        size = _size_of(found)
        with self._changed:
            if self._is_ending or self._waiting_bytes + size > self._settings.max_waiting_bytes:
                self._dropped += 1
                return
            self._labels.append(found)
            self._waiting_bytes += size
            if self._waiting_bytes >= self._write_bytes:
                self._changed.notify()

    def flush_labels(self) -> None:
        """Write labels that wait: of files, they survive a kill after that. Whoever told them may hear so then."""
        with self._writing:
            with self._changed:
                labels, self._labels = self._labels, []
                self._waiting_bytes -= sum(_size_of(each) for each in labels)
            if labels:
                self._where.write_labels(labels)

    def flush(self) -> None:
        """Write all that waits; of files, it is on disk after that, and of events, it is being sent."""
        with self._writing:
            with self._changed:
                waiting, self._waiting = self._waiting, []
                labels, self._labels = self._labels, []
            try:
                for at in range(0, len(waiting), _AT_ONCE):
                    self._where.write([each for each, _ in waiting[at : at + _AT_ONCE]])
                if labels:
                    self._where.write_labels(labels)
                self._where.tick()
            finally:
                freed = sum(size for _, size in waiting) + sum(_size_of(each) for each in labels)
                with self._changed:
                    self._waiting_bytes -= freed

    def close(self, grace_seconds: float = 5.0) -> None:
        """Write all that waits, and finish. Events that cannot be sent within the grace stay on disk; without a spool
        they are dropped and counted.
        """
        if self._settings.mode == "off":
            return
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(max(grace_seconds, 1.0))
        self.flush()
        self._where.close(grace_seconds)

    def counts(self) -> dict[str, int]:
        """`sent`, `dropped`, `failed`: of files, exchanges and labels that were written, that found no room, that could
        not be written; of events, the events.
        """
        counts = self._where.counts()
        return {**counts, "dropped": counts["dropped"] + self._dropped}

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._is_ending and self._waiting_bytes < self._write_bytes:
                    self._changed.wait(self._settings.flush_seconds or _TICK_SECONDS)
                is_ending = self._is_ending
            try:
                self.flush()
            except Exception:  # one batch that cannot be written ends no log
                log.exception("payload log: some exchanges are lost")
            if is_ending:
                return


def _size_of(label: Label) -> int:
    return _OVERHEAD + 32 * len(label.labels)


class _Files:
    def __init__(self, settings: PayloadSettings) -> None:
        self._settings = settings
        self._redaction = Redaction(settings.redact)
        path = settings.sink.removeprefix("file://")
        self._folder = Folder(
            Path(path),
            kind=settings.format,
            most_file_bytes=settings.max_file_bytes,
            most_bytes=settings.max_total_bytes,
        )
        self._sent = self._failed = 0

    def open(self) -> None:
        payload_rows.require_arrow()
        try:
            self._folder.open()
        except OSError as exc:
            raise SettingsError(
                f"payloads.sink: the folder {self._folder.path} cannot be used: {exc.strerror or exc}"
            ) from exc

    def write(self, exchanges: Sequence[Exchange]) -> None:
        failed = 0
        for model, version, count, batch in self._batches(exchanges):
            try:
                self._folder.write(model, version, batch)
            except OSError as exc:
                if not failed:
                    log.warning("payload log: %s cannot be written: %s", self._folder.path, exc.strerror or exc)
                failed += count
            else:
                self._sent += count
        self._failed += failed

    def _batches(self, exchanges: Sequence[Exchange]) -> list[payload_rows.Rows]:
        try:
            return payload_rows.batches(
                exchanges,
                mode=self._settings.mode,
                redaction=self._redaction,
                max_bytes=self._settings.max_payload_bytes,
            )
        except Exception:  # values of a model's own code may be anything; what cannot be written fails alone
            if len(exchanges) == 1:
                self._failed += 1
                log.exception("payload log: request %s of model '%s'", exchanges[0].id, exchanges[0].model)
                return []
            return [rows for each in exchanges for rows in self._batches([each])]

    def write_labels(self, labels: Sequence[Label]) -> None:
        try:
            self._folder.write_labels([msgspec.to_builtins(each) for each in labels])
        except OSError as exc:
            self._failed += len(labels)
            log.warning("payload log: labels cannot be written: %s", exc.strerror or exc)
        else:
            self._sent += len(labels)

    def tick(self) -> None:
        self._folder.tick()

    def close(self, grace_seconds: float) -> None:
        self._folder.close()

    def counts(self) -> dict[str, int]:
        return {"sent": self._sent, "dropped": 0, "failed": self._failed}


class _Events:
    def __init__(self, settings: PayloadSettings, server: str, kafka: KafkaSettings) -> None:
        self._settings = settings
        self._source = server or "headrace"
        self._failed = 0
        self._redaction = Redaction(settings.redact)
        options = Options(mode=settings.event_mode, kafka=kafka)
        self._sink = open_sink(settings.sink, setting="payloads.sink", options=options)
        self._box = event_outbox(
            "payload-events",
            self._sink,
            most_bytes=settings.max_waiting_bytes,
            seconds=_EVENT_SECONDS,
            spool=Path(settings.spool),
            spool_bytes=settings.spool_bytes,
            setting="payloads.spool",
            threads=_SENDERS,
        )

    def open(self) -> None:
        self._box.open()

    def write(self, exchanges: Sequence[Exchange]) -> None:
        for exchange in exchanges:
            try:
                events = payload_events.events(
                    exchange,
                    mode=self._settings.mode,
                    dialect=self._settings.event_types,
                    source=self._source,
                    redaction=self._redaction,
                    max_bytes=self._settings.max_payload_bytes,
                )
            except Exception:  # as for files: values of a model's own code may be anything
                self._failed += 1
                log.exception("payload log: request %s of model '%s'", exchange.id, exchange.model)
                continue
            for event in events:
                self._box.put(item_of(event))

    def write_labels(self, labels: Sequence[Label]) -> None:
        for each in labels:
            event = payload_events.feedback(
                each.request_id,
                each.labels,
                model=each.model,
                version=each.version,
                dialect=self._settings.event_types,
                source=self._source,
            )
            self._box.put(item_of(event))

    def tick(self) -> None:
        """Outboxes empty themselves."""

    def close(self, grace_seconds: float) -> None:
        self._box.close(grace_seconds)
        self._sink.close()

    def counts(self) -> dict[str, int]:
        counts = self._box.counts
        return {"sent": counts.sent, "dropped": counts.dropped, "failed": counts.failed + self._failed}
