"""The process in which models are watched: `python -m headrace.monitoring.watcher`, a child of the server (`watch`).

It owns everything with a memory: windows, detectors, alerts, the payload log, truth that arrives later, snapshots. One
thread reads messages and answers at once what needs no work (status); one does all work, model after model; one draws
reports. A detector that raises, or is slow, is counted and harms no other.

    settings, watch, forget, rows, label, status, report, answer      from the server
    asked, told (status of a stream), reply                           to the server
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from headrace.brokers.settings import KafkaSettings
from headrace.child import Channel, Message
from headrace.errors import HeadraceError, InvalidRequest, ModelNotReady
from headrace.monitoring import report, snapshots, tap
from headrace.monitoring.follow import Followers
from headrace.monitoring.settings import PayloadSettings, TrustSettings
from headrace.monitoring.stream import Outcome, Stream
from headrace.payload import RequestedOutput, Tensor
from headrace.trust.folder import open_folder

ASK_SECONDS: Final = 30.0
"""How long the model may take to answer us."""
CLOSING_SECONDS: Final = 3.0
"""How long what waits is still worked on after the server said that it ends."""
_TOLD_SECONDS: Final = 0.25
_IDLE_SECONDS: Final = 1.0
_MOST_REPORTS: Final = 4
_THREADS: Final = Path("/proc/self/task")

log = logging.getLogger(__name__)

Key = tuple[str, str]


class Watched:
    """One model version here."""

    def __init__(self, model: str, version: str, folder: str) -> None:
        self.model, self.version, self.folder = model, version, folder
        self.stream: Stream | None = None
        self.error = ""
        """Why it has no stream though it has a folder."""
        self.refused = 0
        """Snapshots that were not of this folder, or damaged."""
        self.refusal = ""
        self.snapshot_errors = 0
        self.jobs: deque[Message] = deque()
        self.waiting_rows = 0
        self.dropped_rows = 0
        """Rows that were never looked at, because too many waited."""
        self.done_rows = 0
        """Rows that were worked on, or dropped, since the server last started this process."""
        self.is_changed = True
        """Since the server was told."""
        self.is_unwritten = False
        """It changed since the last snapshot."""
        self.shown: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        """Status, and what the report draws; replaced as a whole."""

    @property
    def key(self) -> Key:
        """By which it is found."""
        return self.model, self.version

    def publish(self) -> None:
        """Let other threads see what there is now."""
        if self.stream is not None:
            self.shown = (self.stream.status(), self.stream.shown())

    def status(self) -> dict[str, Any]:
        """As JSON values; any thread may ask."""
        stream, (told, _) = self.stream, self.shown
        busy = stream.busy if stream is not None else None
        state = "failed" if self.error else "starting" if self.folder and stream is None else "unwatched"
        return {
            "model": self.model,
            "version": self.version,
            "state": state,
            **told,
            "error": self.error,
            "lag_rows": self.waiting_rows,
            "dropped_rows": self.dropped_rows,
            "snapshots_refused": self.refused,
            "snapshot_refusal": self.refusal,
            "snapshot_errors": self.snapshot_errors,
            "busy": None if busy is None else {"detector": busy[0], "seconds": round(time.monotonic() - busy[1], 3)},
        }


class Watcher:
    """The process's one object.

    Args:
        channel: To the server.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._trust, self._payloads = TrustSettings(), PayloadSettings()
        self._followers: Followers | None = None
        self._watched: dict[Key, Watched] = {}
        self._gone: list[Watched] = []
        self._wake = threading.Condition()
        self._ends_at: float | None = None
        self._asked: dict[int, queue.SimpleQueue[Message]] = {}
        self._asks = 0
        self._told_at = self._written_at = 0.0
        self._gives_way = False
        self._unlogged = 0
        """Exchanges that were dropped before the payload log saw them."""
        self._reports: queue.Queue[tuple[int, Watched] | None] = queue.Queue(_MOST_REPORTS)

    # -- the thread that reads --

    def run(self) -> None:
        """Work until the server ends or says so; then finish, write everything down, and return."""
        first = self._channel.receive()
        if first is None:
            return
        self._trust = TrustSettings(**first["trust"])
        self._payloads = PayloadSettings(**_tupled(first["payloads"]))
        kafka = KafkaSettings(**_tupled(first.get("kafka", {})))
        self._followers = Followers(self._trust, self._payloads, server=str(first.get("server", "")), kafka=kafka)
        worker = threading.Thread(target=self._work_or_end, name="work")
        reporter = threading.Thread(target=self._report, name="report", daemon=True)
        worker.start()
        reporter.start()
        for message in self._channel:
            self._receive(message)
        with self._wake:
            self._ends_at = time.monotonic() + CLOSING_SECONDS
            for waiting in self._asked.values():
                waiting.put({"error": "the server has ended"})
            self._wake.notify()
        worker.join()

    def _receive(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "answer":
            waiting = self._asked.get(message["id"])
            if waiting is not None:
                waiting.put(message)
            return
        key: Key = (message["model"], message["version"])
        if kind == "watch":
            with self._wake:
                before = self._watched.get(key)
                if before is not None:
                    self._leave(before)
                fresh = self._watched[key] = Watched(*key, message["folder"])
                fresh.jobs.append(message)
                self._wake.notify()
            return
        watched = self._watched.get(key)
        if watched is None:
            if "id" in message:
                self._reply(message, error=f"model '{key[0]}' version '{key[1]}' is not watched")
            return
        if kind == "rows":
            self._take_in(watched, message)
        elif kind == "status":
            self._reply(message, value=watched.status())
        elif kind == "report":
            self._order_report(message, watched)
        else:
            with self._wake:
                if kind == "forget":
                    del self._watched[key]
                    self._leave(watched)
                else:
                    watched.jobs.append(message)
                self._wake.notify()

    def _leave(self, watched: Watched) -> None:
        """Let what waits be worked on, and then write its state."""
        watched.jobs.append({"kind": "forget"})
        self._gone.append(watched)

    def _take_in(self, watched: Watched, message: Message) -> None:
        rows = message["rows"]
        with self._wake:
            # The server stops sending at half of that, so this holds against one that does not know what waits here.
            if watched.waiting_rows and watched.waiting_rows + rows > 2 * self._trust.max_waiting_rows:
                watched.dropped_rows += rows
                watched.done_rows += rows
                self._unlogged += sum(len(part["rows"]) for part in message["parts"])
            else:
                watched.jobs.append(message)
                watched.waiting_rows += rows
            self._wake.notify()

    def _reply(self, message: Message, **answer: Any) -> None:
        self._channel.send({"kind": "reply", "id": message["id"], **answer})

    # -- the thread that works --

    def _work_or_end(self) -> None:
        try:
            self._work()
        except BaseException:
            log.critical("the process that watches models cannot go on", exc_info=True)
            os._exit(1)  # a process without this thread would take rows for ever; the server starts another one

    def _work(self) -> None:
        self._told_at = self._written_at = time.monotonic()
        while True:
            turn = self._next()
            if turn is not None:
                self._do(*turn)
            self._tick()
            now = time.monotonic()
            if now - self._told_at >= (_TOLD_SECONDS if self._is_changed() else _IDLE_SECONDS):
                self._tell()
            every = self._trust.snapshot_seconds
            if every and now - self._written_at >= every:
                self._write_all()
            if self._ends_at is not None and (turn is None or now >= self._ends_at):
                break
        self._write_all()
        self._tell()
        assert self._followers is not None
        self._followers.close()

    def _next(self) -> tuple[Watched, Message] | None:
        """Something to do, the models in turn; None: there was nothing, or it is time for something else."""
        with self._wake:
            turn = self._pop()
            if turn is None and self._ends_at is None:
                self._wake.wait(self._nap())
                turn = self._pop()
            return turn

    def _pop(self) -> tuple[Watched, Message] | None:
        for watched in [*self._gone, *self._watched.values()]:
            if watched.jobs:
                self._to_the_end(watched)
                return watched, watched.jobs.popleft()
        return None

    def _nap(self) -> float:
        """How long nothing needs to be done if nothing comes."""
        dues = [due for each in self._watched.values() if each.stream and (due := each.stream.due()) is not None]
        to_due = min(dues) - time.time() if dues else _IDLE_SECONDS
        to_tell = self._told_at + _TOLD_SECONDS - time.monotonic() if self._is_changed() else _IDLE_SECONDS
        return max(min(to_due, to_tell, _IDLE_SECONDS), 0.0)

    def _is_changed(self) -> bool:
        return any(each.is_changed for each in list(self._watched.values()))

    def _to_the_end(self, watched: Watched) -> None:
        if watched.key in self._watched and self._watched[watched.key] is watched:
            del self._watched[watched.key]
            self._watched[watched.key] = watched

    def _do(self, watched: Watched, message: Message) -> None:
        kind = message["kind"]
        watched.is_changed = watched.is_unwritten = True
        if kind == "watch":
            self._open(watched)
            self._give_way()
        elif kind == "rows":
            try:
                self._take(watched, message)
            finally:
                with self._wake:
                    watched.waiting_rows -= message["rows"]
                    watched.done_rows += message["rows"]
        elif kind == "label":
            self._label(watched, message)
        elif kind == "forget":
            self._write(watched)
            with self._wake:
                self._gone.remove(watched)

    def _give_way(self) -> None:
        """From now on, on a core that is full of requests, this process gets the hundredth part, and elsewhere what is
        free. Not before the first model is watched: what that imports would take minutes so.
        """
        if self._gives_way:
            return
        self._gives_way = True
        try:
            threads = [int(each.name) for each in _THREADS.iterdir()]  # Linux: of each thread
        except OSError:
            threads = [0]
        for each in threads:
            with contextlib.suppress(OSError):  # it has ended, or may not
                os.setpriority(os.PRIO_PROCESS, each, 19)

    def _open(self, watched: Watched) -> None:
        if not watched.folder:
            return
        try:
            watched.stream = self._stream(watched)
        except Exception as error:  # noqa: BLE001 - a folder that cannot be used must not end the others
            watched.error = f"{type(error).__name__}: {error}"
            log.warning("model '%s' version '%s' is not watched: %s", watched.model, watched.version, error)
            return
        path = self._path(watched)
        try:
            state = snapshots.read(path, digest=watched.stream.folder.digest)
            if state is not None:
                watched.stream.restore(state)
        except Exception as error:  # noqa: BLE001 - what it held is lost, and said to be
            watched.refused += 1
            watched.refusal = str(error)
            log.warning("the state of model '%s' version '%s' starts anew: %s", watched.model, watched.version, error)
            watched.stream = self._stream(watched)
        watched.publish()

    def _stream(self, watched: Watched) -> Stream:
        folder = open_folder(Path(watched.folder))

        def ask(inputs: tuple[Tensor, ...], outputs: tuple[RequestedOutput, ...]) -> tuple[Tensor, ...]:
            return self._ask(watched, inputs, outputs)

        return Stream(watched.model, watched.version, folder, ask=ask, most_rows=self._trust.max_waiting_rows)

    def _take(self, watched: Watched, message: Message) -> None:
        assert self._followers is not None
        parts: Sequence[Mapping[str, Any]] = message["parts"]
        pressed = watched.waiting_rows > self._trust.max_waiting_rows // 2
        if watched.stream is not None:
            try:
                outcomes = watched.stream.take(parts, pressed=pressed)
            except Exception as error:  # rows that break us are lost, and nothing else is
                watched.error = f"{type(error).__name__}: {error}"
                log.exception("rows of model '%s' version '%s' could not be watched", watched.model, watched.version)
                outcomes = []
            self._follow(watched, outcomes)
        self._followers.log(watched.model, watched.version, parts, watched.stream)

    def _label(self, watched: Watched, message: Message) -> None:
        assert self._followers is not None
        request_id, labels = str(message["request_id"]), list(message["labels"])
        known = self._followers.label(watched.model, watched.version, request_id, labels)
        try:
            if watched.stream is not None:
                joined, outcomes = watched.stream.label(request_id, labels)
                self._follow(watched, outcomes)
                known = known or joined
        except InvalidRequest as error:
            self._reply(message, invalid=str(error))
            return
        except Exception as error:  # noqa: BLE001 - a label that breaks us is refused, and nothing else is
            self._reply(message, error=f"{type(error).__name__}: {error}")
            return
        self._reply(message, value=known)

    def _follow(self, watched: Watched, outcomes: Sequence[Outcome]) -> None:
        assert self._followers is not None
        assert watched.stream is not None
        for outcome in outcomes:
            try:
                self._followers.follow(outcome, watched.stream)
            except Exception:  # who is told of a verdict must not end what makes verdicts
                log.exception("what follows a verdict on model '%s' failed", watched.model)

    def _tick(self) -> None:
        now = time.time()
        for watched in list(self._watched.values()):
            due = watched.stream.due() if watched.stream is not None else None
            if watched.stream is not None and due is not None and due <= now:
                watched.is_changed = watched.is_unwritten = True
                self._follow(watched, watched.stream.tick(now))

    def _tell(self) -> None:
        assert self._followers is not None
        self._told_at = time.monotonic()
        counts = self._followers.counts() | {"unlogged": self._unlogged}
        for watched in list(self._watched.values()):
            if watched.is_changed:
                watched.publish()
                watched.is_changed = False
            self._channel.send(
                {"kind": "told", "status": watched.status(), "done_rows": watched.done_rows, "counts": counts}
            )

    # -- what survives --

    def _path(self, watched: Watched) -> Path:
        return snapshots.path_of(Path(self._trust.state), watched.model, watched.version)

    def _write_all(self) -> None:
        assert self._followers is not None
        for watched in list(self._watched.values()):
            self._write(watched)
        self._followers.flush()
        self._written_at = time.monotonic()

    def _write(self, watched: Watched) -> None:
        stream = watched.stream
        if stream is None or not watched.is_unwritten:
            return
        watched.is_unwritten = False
        try:
            snapshots.write(self._path(watched), stream.state(), digest=stream.folder.digest)
        except (OSError, HeadraceError) as error:
            watched.snapshot_errors += 1
            log.warning("the state of model '%s' cannot be written: %s", watched.model, error)

    # -- asking the model --

    def _ask(
        self, watched: Watched, inputs: tuple[Tensor, ...], outputs: tuple[RequestedOutput, ...]
    ) -> tuple[Tensor, ...]:
        self._asks += 1
        number = self._asks
        answer: queue.SimpleQueue[Message] = queue.SimpleQueue()
        if self._ends_at is not None:
            raise ModelNotReady("the server has ended")
        self._asked[number] = answer
        try:
            self._channel.send(
                {
                    "kind": "asked",
                    "id": number,
                    "model": watched.model,
                    "version": watched.version,
                    "inputs": tap.packed(inputs),
                    "outputs": [each.name for each in outputs],
                }
            )
            got = answer.get(timeout=ASK_SECONDS)
        except queue.Empty:
            raise ModelNotReady(f"model '{watched.model}' did not answer within {ASK_SECONDS:g} seconds") from None
        finally:
            del self._asked[number]
        if got.get("error"):
            raise ModelNotReady(f"model '{watched.model}' could not be asked: {got['error']}")
        return tap.tensors_of(got["outputs"])

    # -- the thread that draws --

    def _order_report(self, message: Message, watched: Watched) -> None:
        try:
            self._reports.put_nowait((message["id"], watched))
        except queue.Full:
            self._reply(message, busy=f"{_MOST_REPORTS} reports wait to be drawn; try again later")

    def _report(self) -> None:
        while (ordered := self._reports.get()) is not None:
            number, watched = ordered
            try:
                answer = _drawn(watched)
            except Exception as error:  # a report that cannot be drawn is an answer, too
                log.exception("the report of model '%s' failed", watched.model)
                answer = {"error": f"{type(error).__name__}: {error}"}
            self._channel.send({"kind": "reply", "id": number, **answer})


def _drawn(watched: Watched) -> dict[str, Any]:
    if watched.stream is not None:
        return {"page": report.render(watched.stream.folder, watched.status(), watched.shown[1])}
    if watched.error:
        return {"error": f"model '{watched.model}' is not watched: {watched.error}"}
    return {"busy": f"the trust folder of model '{watched.model}' is being read; try again"}


def _tupled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def main() -> None:
    """The program."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    Watcher(Channel.of_arguments()).run()
    logging.shutdown()
    os._exit(0)  # everything is written; the thread that draws may be inside a library that takes an end badly


if __name__ == "__main__":
    main()
