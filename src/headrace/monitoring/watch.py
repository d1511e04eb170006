"""The server's side of watching: taps around models, and the one child process (`watcher`) that everything goes to.

    watch = Watch(settings.trust, settings.payloads, ask=..., metrics=...)
    infer = watch.watch(model="iris", version="1", folder=Path("iris/trust"), infer=infer)

The event loop does no statistics: what taps gathered is sent as one message ten times a second, and what the child
tells is kept for Prometheus. The child starts with the first watched model. When it dies it is started again, and goes
on from its snapshots; models are served all the while.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from headrace.brokers.settings import KafkaSettings
from headrace.child import Link, Message
from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    ModelNotReady,
    NotFound,
    Overloaded,
    Temporary,
    WorkerDied,
)
from headrace.monitoring import tap
from headrace.monitoring.settings import PayloadSettings, TrustSettings
from headrace.monitoring.trust_metrics import TrustMetrics
from headrace.payload import Infer, InferenceRequest, RequestedOutput

WATCHER: Final = "headrace.monitoring.watcher"
FLUSH_SECONDS: Final = 0.1
"""How long exchanges gather before they are sent."""
STATUS_SECONDS: Final = 1.0
"""How long a status may take; a child that is busier has its last one told."""
REPORT_SECONDS: Final = 60.0
LABEL_SECONDS: Final = 10.0
_MOST_EXCHANGES: Final = 20_000
_FIRST_BACK_OFF: Final = 0.2
_LAST_BACK_OFF: Final = 30.0
_STABLE_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 2.0

Key = tuple[str, str]
log = logging.getLogger(__name__)


class _Watched:
    """One model version, as the server sees it."""

    def __init__(self, tapped: tap.Tap, folder: Path | None) -> None:
        self.tap, self.folder = tapped, folder
        self.sent_rows = 0
        """To the child that runs now."""
        self.done_rows = 0
        """Of them, as the child told last."""
        self.lost_rows = 0
        """Rows that were with a child when it died."""
        self.told: dict[str, Any] = {}
        """The status that the child told last."""
        self.told_at = 0.0


class _Logged:
    """What became of exchanges that the payload log should have had, over all children: sent, dropped and failed are
    what was offered, also when a child dies or is behind.
    """

    def __init__(self) -> None:
        self.offered = 0
        """To the child that runs now."""
        self.dropped = self.failed = 0
        """Here, or with children that ended."""
        self._sent = 0
        """By children that ended."""
        self._latest: Mapping[str, Any] = {}

    def told(self, counts: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the child counts, with all that it does not know of."""
        self._latest = counts
        payloads = counts["payloads"]
        if not payloads:
            return counts
        whole = {
            "sent": self._sent + payloads["sent"],
            "dropped": self.dropped + payloads["dropped"] + counts["unlogged"],
            "failed": self.failed + payloads["failed"],
        }
        return {**counts, "payloads": whole}

    def ended(self, counts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The child died: what it had and did not tell of is taken for dropped."""
        latest, self._latest = self._latest, {}
        payloads = latest.get("payloads") or {"sent": 0, "dropped": 0, "failed": 0}
        unlogged = latest.get("unlogged", 0)
        lost = max(self.offered - latest.get("exchanges", 0) - unlogged, 0)
        self._sent += payloads["sent"]
        self.dropped += payloads["dropped"] + unlogged + lost
        self.failed += payloads["failed"]
        self.offered = 0
        if not counts.get("payloads"):
            return counts
        return {**counts, "payloads": {"sent": self._sent, "dropped": self.dropped, "failed": self.failed}}


class Watch:
    """Watches the models of one server. For one event loop.

    Args:
        trust: Of the child.
        payloads: Of the child.
        ask: From model and version to an `Infer` below the tap, for what callers did not ask for. Raises as routing
            does.
        metrics: What is shown to Prometheus.
        server: How the source of events is called.
        kafka: Of the child, where events go to a topic.
    """

    def __init__(
        self,
        trust: TrustSettings,
        payloads: PayloadSettings,
        *,
        ask: Callable[[str, str], Infer],
        metrics: TrustMetrics,
        server: str = "",
        kafka: KafkaSettings = KafkaSettings(),
    ) -> None:
        self._trust, self._payloads, self._ask, self._metrics, self._server = trust, payloads, ask, metrics, server
        self._kafka = kafka
        self._watched: dict[Key, _Watched] = {}
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._logged = _Logged()
        self.restarts = 0
        """Times that the child died."""
        self.ending = ""
        """How it ended last."""

    def __repr__(self) -> str:
        return f"<Watch {len(self._watched)} models, pid {self.pid}, restarts {self.restarts}>"

    @property
    def pid(self) -> int:
        """Of the child; 0: there is none."""
        return self._link.pid if self._link is not None and self._link.is_open else 0

    # -- what is watched --

    def watch(self, *, model: str, version: str, folder: Path | None, infer: Infer) -> Infer:
        """Watch a version of a model from now on; one of the same name before is watched no more.

        Args:
            model: Its name.
            version: Empty for a model without versions.
            folder: Its trust folder; None: only its payloads are logged.
            infer: It.

        Returns:
            What is to be served in its place.
        """
        if self._closing.is_set() or (folder is None and self._payloads.mode == "off"):
            return infer
        tapped = tap.Tap(model, version, most=_MOST_EXCHANGES, gathered=self._schedule)
        watched = self._watched[model, version] = _Watched(tapped, folder)
        self._metrics.attach(model, version, lambda: self._shown(watched))
        if self._link is not None:
            self._send_watch(self._link, watched)
        self._start()
        return tapped.around(infer)

    def forget(self, model: str, version: str) -> None:
        """Watch a version no more. Its state is kept on disk for when it is watched again."""
        watched = self._watched.get((model, version))
        if watched is None:
            return
        self._flush_one(watched)
        del self._watched[model, version]
        self._metrics.detach(model, version)
        if self._link is not None:
            self._link.send({"kind": "forget", "model": model, "version": version}, waits=True)

    async def close(self) -> None:
        """Send what gathered, let the child finish and write its state, and end it. Twice is once."""
        if self._closing.is_set():
            return
        self._flush()
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            await self._link.close(_CLOSE_SECONDS)
        for task in [*self._asking, *([self._running] if self._running is not None else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._fail_replies("the server is ending")

    # -- what is asked of it --

    async def status(self, model: str, version: str = "") -> dict[str, Any]:
        """All that is known of a watched version now, as JSON values; answers within a second.

        Raises:
            NotFound: it is not watched.
        """
        watched = self._find(model, version)
        self._flush_one(watched)
        fresh = True
        try:
            reply = await self._call(watched, {"kind": "status"}, STATUS_SECONDS)
            self._keep(watched, reply["value"])
        except Temporary:
            fresh = False
        return self._shown(watched) | {"fresh": fresh}

    async def report(self, model: str, version: str = "") -> bytes:
        """One self-contained HTML page about a watched version.

        Raises:
            NotFound: it is not watched, or has no trust folder.
            WorkerDied, Overloaded, DeadlineExceeded: the child is not there, or takes too long.
        """
        watched = self._find(model, version)
        if watched.folder is None:
            raise NotFound(
                f"model '{model}' has no trust folder, so there is nothing to report; see `headrace trust fit`"
            )
        self._flush_one(watched)
        reply = await self._call(watched, {"kind": "report"}, REPORT_SECONDS)
        page: bytes = reply["page"]
        return page

    async def label(self, model: str, version: str, request_id: str, labels: list[Any]) -> bool:
        """Say what would have been right for the rows of a request that was answered before.

        Args:
            model: Who answered.
            version: Its version; empty: the only one that is watched, or the last one.
            request_id: As in the answer.
            labels: One per row, as the model's classes are written, or numbers; None: not known.

        Returns:
            Whether the request is remembered and had no labels yet.

        Raises:
            NotFound: the model is not watched.
            InvalidRequest: the labels do not fit the request.
            WorkerDied, Overloaded, DeadlineExceeded: the child is not there, or takes too long.
        """
        watched = self._find(model, version)
        self._flush_one(watched)
        reply = await self._call(watched, {"kind": "label", "request_id": request_id, "labels": labels}, LABEL_SECONDS)
        if "invalid" in reply:
            raise InvalidRequest(reply["invalid"])
        return bool(reply["value"])

    def _find(self, model: str, version: str) -> _Watched:
        found = self._watched.get((model, version))
        if found is None and not version:
            found = next((each for (name, _), each in reversed(self._watched.items()) if name == model), None)
        if found is None:
            told = f" version '{version}'" if version else ""
            raise NotFound(f"model '{model}'{told} is not watched; it has no trust folder, or is not loaded")
        return found

    def _shown(self, watched: _Watched) -> dict[str, Any]:
        """What is known of it here."""
        told = watched.told
        return {
            "model": watched.tap.model,
            "version": watched.tap.version,
            "state": "starting" if watched.folder is not None else "unwatched",
            **told,
            "lag_rows": max(watched.sent_rows - watched.done_rows, 0),
            "dropped_rows": watched.tap.dropped + watched.lost_rows + told.get("dropped_rows", 0),
            "unsendable_rows": watched.tap.failed,
            "told_at": watched.told_at,
            "watcher": {"pid": self.pid, "restarts": self.restarts, "ending": self.ending},
        }

    async def _call(self, watched: _Watched, message: Message, seconds: float) -> Message:
        link = self._link
        number = next(self._numbers)
        about = {"id": number, "model": watched.tap.model, "version": watched.tap.version}
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            if link is None or not link.send({**message, **about}):
                raise Overloaded(
                    f"the process that watches models is {'starting' if link is None else 'behind'}; try again later",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            await asyncio.wait([future], timeout=seconds)  # not asyncio.timeout: who asks over HTTP is no task
            if not future.done():
                raise DeadlineExceeded(f"the process that watches models did not answer within {seconds:g} seconds")
            reply = future.result()
        finally:
            del self._replies[number]
        if reply.get("error"):
            raise ModelNotReady(str(reply["error"]))
        if reply.get("busy"):
            raise Overloaded(str(reply["busy"]), retry_after_seconds=_RETRY_SECONDS)
        return reply

    # -- what is sent --

    def _schedule(self) -> None:
        if self._timer is None and not self._closing.is_set():
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._timer = None
        for watched in self._watched.values():
            self._flush_one(watched)

    def _flush_one(self, watched: _Watched) -> None:
        """Send what gathered, or count it as dropped: the child is not there, or is too far behind."""
        tapped = watched.tap
        exchanges = tapped.take()
        if not exchanges:
            return
        link = self._link
        behind = watched.sent_rows - watched.done_rows >= self._trust.max_waiting_rows
        if link is None or not link.is_open or link.is_full or behind:
            tapped.dropped += sum(tap.rows_of(request.inputs) for _, _, _, request, _ in exchanges)
            self._logged.dropped += len(exchanges)
            return
        try:
            parts, rows = tap.merged(exchanges, whole=self._payloads.mode != "off")
            is_sent = link.send(tap.message(tapped, parts, rows))
        except (TypeError, ValueError, NotImplementedError, OverflowError) as error:  # what a model's own code answers
            rows = sum(tap.rows_of(request.inputs) for _, _, _, request, _ in exchanges)
            if not tapped.failed:
                log.warning("exchanges of model '%s' cannot be watched: %s", tapped.model, error)
            tapped.failed += rows
            self._logged.failed += len(exchanges)
            return
        if is_sent:
            watched.sent_rows += rows
            self._logged.offered += len(exchanges)
        else:
            tapped.dropped += rows
            self._logged.dropped += len(exchanges)

    def _send_watch(self, link: Link, watched: _Watched) -> None:
        watched.sent_rows = watched.done_rows = 0
        folder = "" if watched.folder is None else str(watched.folder.absolute())
        about = {"kind": "watch", "model": watched.tap.model, "version": watched.tap.version, "folder": folder}
        link.send(about, waits=True)  # a child that missed it would never know the model

    # -- the child --

    def _start(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="watch")

    async def _run(self) -> None:
        """Keep one child running until `close`."""
        back_off = _FIRST_BACK_OFF
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                await self._run_one()
            except OSError as error:
                self.ending = f"could not be started: {error.strerror or error}"
            if self._closing.is_set():
                return
            self.restarts += 1
            log.warning("the process that watches models %s; it is started again", self.ending)
            back_off = _FIRST_BACK_OFF if time.monotonic() - started > _STABLE_SECONDS else back_off
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(back_off):
                    await self._closing.wait()
            back_off = min(2 * back_off, _LAST_BACK_OFF)

    async def _run_one(self) -> None:
        link = await Link.open(WATCHER, self._received)
        try:
            link.send(
                {
                    "kind": "settings",
                    "trust": dataclasses.asdict(self._trust),
                    "payloads": dataclasses.asdict(self._payloads),
                    "kafka": dataclasses.asdict(self._kafka),
                    "server": self._server,
                }
            )
            for watched in self._watched.values():
                self._send_watch(link, watched)
            self._link = link
            self.ending = await asyncio.shield(link.ended)
        finally:
            self._link = None
            if not link.ended.done():
                link.kill()
            for watched in self._watched.values():
                watched.lost_rows += max(watched.sent_rows - watched.done_rows, 0)
                watched.lost_rows += watched.told.get("dropped_rows", 0)
                watched.told = {**watched.told, "dropped_rows": 0}
                watched.sent_rows = watched.done_rows = 0
            self._metrics.counts = self._logged.ended(self._metrics.counts)
            self._fail_replies(f"the process that watches models {self.ending or 'ended'}")

    def _fail_replies(self, reason: str) -> None:
        for future in self._replies.values():
            if not future.done():
                future.set_exception(WorkerDied(reason))

    def _received(self, message: Message) -> None:
        """What the child says."""
        kind = message["kind"]
        if kind == "reply":
            future = self._replies.get(message["id"])
            if future is not None and not future.done():
                future.set_result(message)
        elif kind == "told":
            status = message["status"]
            self._metrics.counts = self._logged.told(message["counts"])
            watched = self._watched.get((status["model"], status["version"]))
            if watched is not None:
                watched.done_rows = message["done_rows"]
                self._keep(watched, status)
        elif kind == "asked":
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def _keep(self, watched: _Watched, status: Mapping[str, Any]) -> None:
        watched.told, watched.told_at = dict(status), time.time()

    async def _answer(self, message: Message) -> None:
        """Ask the model for the child."""
        answer: dict[str, Any] = {"kind": "answer", "id": message["id"]}
        request = InferenceRequest(
            model_name=message["model"],
            model_version=message["version"],
            inputs=tap.tensors_of(message["inputs"]),
            outputs=tuple(RequestedOutput(name) for name in message["outputs"]),
            headers={tap.INTERNAL: "watch"},
        )
        try:
            response = await self._ask(message["model"], message["version"])(request)
            answer["outputs"] = tap.packed(response.outputs)
        except HeadraceError as error:
            answer["error"] = str(error)
        except Exception as error:  # noqa: BLE001 - what a model says wrong is the child's to hear
            answer["error"] = f"{type(error).__name__}: {error}"
        if self._link is not None:
            self._link.send(answer, waits=True)  # the child does nothing else until it comes
