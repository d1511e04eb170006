"""Uris of stores as paths of this machine, for as long as a server runs: what `headrace serve s3://...` serves.

A uri becomes a link to its copy in the cache, so the paths that the repository looks at stay the same when the uri
comes to stand for something else: `Follower` points the link elsewhere, and the repository's own hot reload does the
rest. A copy that has a version, as registries have it, is a version folder below the link's name.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from headrace.artifacts.base import Fetched, Pinned, Progress
from headrace.artifacts.settings import ArtifactSettings
from headrace.artifacts.uri import is_local, shown
from headrace.control.events import Event
from headrace.control.resources import Model, Resolved
from headrace.control.service import Control
from headrace.errors import ArtifactUnreachable, HeadraceError
from headrace.serving.models import State
from headrace.serving.repository import Repository

if TYPE_CHECKING:
    from headrace.artifacts.cache import Cache, Hold

_log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0


class Copies:
    """What uris stand for, on this machine. `path_of` may be called from several threads.

    Args:
        settings: The section `artifacts`.
    """

    def __init__(self, settings: ArtifactSettings) -> None:
        self.settings = settings
        self._cancel = threading.Event()
        self._folder: tuple[Path, Hold] | None = None
        self._holds: dict[str, Hold] = {}
        self._lasting: set[str] = set()
        self._lock = threading.Lock()
        self.links: list[Link] = []

    def path_of(self, uri: str, pinned: Pinned | None = None) -> Path:
        """The copy of a uri. Blocks while it comes.

        Args:
            uri: Of a store.
            pinned: What it stood for; None: what it stands for now.

        Raises:
            ArtifactFailed: one of its causes.
        """
        return Path(self.fetch(uri, pinned=pinned).path)

    def open(self, paths: Sequence[str], report: Callable[[str, Progress], None] | None = None) -> list[str]:
        """The paths with a link to the copy in the place of each uri. Blocks while they come.

        Args:
            paths: Of models; uris of stores among them perhaps.
            report: Told how far each uri is.

        Raises:
            ArtifactFailed: one of its causes.
        """
        return [path if is_local(path) else self._linked(path, report) for path in paths]

    def cancel(self) -> None:
        """End downloads that are under way; the next ones end at once."""
        self._cancel.set()

    def close(self) -> None:
        """End downloads, and remove the links; the copies stay in the cache until somebody needs their room. Twice is
        once.
        """
        self.cancel()
        self.links.clear()
        with self._lock:
            while self._holds:
                self._holds.popitem()[1].close()
            self._lasting.clear()
        if self._folder is not None:
            folder, hold = self._folder
            shutil.rmtree(folder, ignore_errors=True)  # what stays, the next process removes
            hold.close()
            self._folder = None

    def _linked(self, uri: str, report: Callable[[str, Progress], None] | None) -> str:
        fetched = self.fetch(uri, None if report is None else functools.partial(report, shown(uri)), lasting=False)
        if self._folder is None:
            self._folder = self._cache().links()
        place = self._folder[0] / str(len(self.links))
        place.mkdir()
        link = Link(uri, place / Path(fetched.path).name)
        link.point(fetched)
        self.links.append(link)
        return str(link.path)

    def fetch(
        self,
        uri: str,
        report: Callable[[Progress], None] | None = None,
        pinned: Pinned | None = None,
        *,
        lasting: bool = True,
    ) -> Fetched:
        """The copy of a uri, and what it is a copy of; other arguments and errors as of `path_of`. The cache keeps it.
        Where a store cannot be reached, and nobody says which bytes are meant, the copy that was used last is taken.

        Args:
            uri: Of a store.
            report: Told how far it is.
            pinned: What it stood for.
            lasting: Kept until `close`; otherwise until `let_go`.
        """
        from headrace.artifacts import fetch

        try:
            fetched = fetch.fetch(uri, settings=self.settings, report=report, cancel=self._cancel, pinned=pinned)
        except ArtifactUnreachable as error:
            before = fetch.last(uri, settings=self.settings) if pinned is None else None
            if before is None:
                raise
            _log.warning("%s; the copy of it that was used last is taken: %s", error, before.pinned.uri)
            fetched = before
        hold = self._cache().hold(fetched.path)
        if hold is not None:
            with self._lock:
                if self._cancel.is_set() or self._holds.setdefault(fetched.path, hold) is not hold:
                    hold.close()
                if lasting:
                    self._lasting.add(fetched.path)
        return fetched

    def _cache(self) -> Cache:
        from headrace.artifacts.cache import Cache

        return Cache(self.settings)

    def let_go(self, path: str) -> None:
        """Let the cache take the room of a copy that no link leads to any more."""
        with self._lock:
            linked = any(link.fetched is not None and link.fetched.path == path for link in self.links)
            if path not in self._lasting and not linked and (hold := self._holds.pop(path, None)) is not None:
                hold.close()


class Link:
    """A path of this machine that leads to whatever a uri stands for."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self.shown = shown(uri)
        self.fetched: Fetched | None = None
        self.token = ""
        """Of what the uri stood for at the last look, whether it could be served or not."""

    @property
    def newest(self) -> Path:
        """Where what it leads to lies: the version's folder, where there are versions."""
        version = self.fetched.pinned.version if self.fetched is not None else ""
        return self.path / version if version else self.path

    def named(self, text: str, fetched: Fetched) -> str:
        """A text for callers, who know the uri, and have no business with paths of this machine."""
        version = self.path / (fetched.pinned.version or ".")
        for path in (str(version), str(self.path), fetched.path):
            text = text.replace(path, self.shown)
        return text

    def point(self, fetched: Fetched) -> None:
        """Lead there, from one moment to the next."""
        before, self.fetched, self.token = self.fetched, fetched, fetched.pinned.token
        if not fetched.pinned.version:
            _replace(self.path, fetched.path)
            return
        self.path.mkdir(exist_ok=True)
        _replace(self.path / fetched.pinned.version, fetched.path)
        if before is not None and before.pinned.version not in {"", fetched.pinned.version}:
            (self.path / before.pinned.version).unlink()


class Follower:
    """Looks at uris again and again, and has what they come to stand for served: loaded and warmed first, swapped in
    then. What cannot be served is not, and what served before goes on.

    Args:
        copies: The uris that the server was started with.
        repository: Loads what they lead to.
        control: What declares resources; None: there are none.
        rolled_back: Told of what came and cannot be served: name, version, who serves on, and why.
    """

    def __init__(
        self,
        copies: Copies,
        repository: Repository,
        control: Control | None,
        *,
        rolled_back: Callable[[str, str, str, str], None] = lambda *_: None,
    ) -> None:
        self._copies, self._repository, self._control = copies, repository, control
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._rolled_back = rolled_back
        self._refused: dict[str, str] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        seconds = self._copies.settings.follow_seconds
        try:
            async with asyncio.TaskGroup() as group:
                if seconds > 0:
                    for link in self._copies.links:
                        group.create_task(self._again(seconds, functools.partial(self.look, link)))
                if self._control is not None:
                    group.create_task(self._resources(group, self._control))
        finally:
            self._tasks.clear()

    async def look(self, link: Link) -> bool:
        """Look at a uri once: whether something else is served than before."""
        pinned = await self._pinned(link.uri)
        before = link.fetched
        if pinned is None or before is None or pinned.token == link.token:
            return False
        try:
            fetched = await asyncio.to_thread(self._copies.fetch, link.uri, pinned=pinned, lasting=False)
        except HeadraceError as error:
            _log.warning(
                "%s moved to %s, which cannot be fetched; the next look may do better: %s",
                link.shown,
                pinned.uri,
                error,
            )
            return False
        link.point(fetched)
        wrong = await self._reloaded(link)
        if not wrong:
            self._copies.let_go(before.path)
            _log.info("%s stands for %s now, which is served", link.shown, _moved(before.pinned, fetched.pinned))
            return True
        link.point(before)
        link.token = fetched.pinned.token  # until it moves again
        await self._reloaded(link)
        self._copies.let_go(fetched.path)
        wrong = link.named(wrong, fetched)
        what = f"{link.shown} moved, and what is there cannot be served: {wrong}; what was there before is served on"
        _log.error("%s", what)
        for served in self._repository.at(link.path):
            served.reason = what
            self._rolled_back(served.name, fetched.pinned.version, before.pinned.version, what)
        return False

    async def _reloaded(self, link: Link) -> str:
        """Have what a link leads to served; why it is not, empty: it is."""
        await self._repository.reload_changed()
        rows = [*self._repository.at(link.newest), *self._repository.at(link.path)]  # of what came first
        for row in rows:
            if row.state is not State.READY or row.reason:
                return row.reason.removeprefix("reload failed: ") or row.state.value
        return "" if self._repository.at(link.newest) else "there is no model in it"

    # -- resources --

    async def _resources(self, group: asyncio.TaskGroup, control: Control) -> None:
        """Keep a look going for each model that is to be followed."""
        version = 0
        while True:
            try:
                self._follow_declared(group, control)
                version = (await control.watch(version)).resource_version
            except Exception:  # noqa: BLE001 - it would end the looks at all other uris with it
                _log.exception("what is to be followed cannot be told; it is asked again in %g s", _AGAIN_SECONDS)
                await asyncio.sleep(_AGAIN_SECONDS)

    def _follow_declared(self, group: asyncio.TaskGroup, control: Control) -> None:
        wanted = {each.metadata.name: each.spec for each in control.get("Model")}
        followed = {name for name, spec in wanted.items() if isinstance(spec, Model) and _is_followed(spec)}
        for name in self._tasks.keys() - followed:
            self._tasks.pop(name).cancel()
        looked_for = {name for name, task in self._tasks.items() if not task.done()}  # one ends with its model
        for name in sorted(followed - looked_for):
            self._tasks[name] = group.create_task(self._follow(control, name))

    async def _follow(self, control: Control, name: str) -> None:
        seen: set[str] = set()  # tokens that were declared: one that somebody rolled back from is not declared again
        while True:
            stored = next(iter(control.get("Model", name)), None)
            if stored is None or not isinstance(stored.spec, Model):
                return
            try:
                await self._look_for(control, name, stored.spec, seen)
            except Exception:  # noqa: BLE001 - whatever it was, the next look may do better
                _log.exception("looking at what Model '%s' follows failed", name)
            await asyncio.sleep(stored.spec.follow_seconds)

    async def _look_for(self, control: Control, name: str, spec: Model, seen: set[str]) -> None:
        pinned = await self._pinned(spec.uri, name)
        if pinned is None or pinned.token in seen:
            return
        resolved, before = Resolved(**msgspec.structs.asdict(pinned)), spec.resolved
        if resolved == before:
            return
        try:
            await control.resolve(name, resolved)
        except HeadraceError as error:
            await self._tell(name, "FollowFailed", f"{shown(spec.uri)} moved to {pinned.uri}: {error}", "Warning")
            return
        seen.clear()
        seen.add(pinned.token)
        if before is not None:
            await self._tell(name, "Moved", f"{shown(spec.uri)} stands for {_moved(before, pinned)} now")

    async def _tell(self, name: str, reason: str, message: str, kind: str = "Normal") -> None:
        if self._control is not None:
            event = Event(kind="Model", name=name, reason=reason, message=message, at=time.time())
            await self._control.tell(msgspec.structs.replace(event, type="Warning") if kind == "Warning" else event)

    # -- both --

    async def _again(self, seconds: float, look: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await look()
            except Exception:  # noqa: BLE001 - whatever it was, the next look may do better
                _log.exception("looking at what is followed failed; the next look is in %g s", seconds)

    async def _pinned(self, uri: str, model: str = "") -> Pinned | None:
        """What a uri stands for now; None: nobody can say, which is told once."""
        from headrace.artifacts import fetch

        try:
            pinned = await asyncio.to_thread(fetch.pin, uri, settings=self._copies.settings)
        except HeadraceError as error:
            if self._refused.get(uri) != str(error):
                self._refused[uri] = str(error)
                _log.warning("%s cannot be looked at; what is served stays: %s", shown(uri), error)
                if model:
                    await self._tell(model, "FollowFailed", str(error), "Warning")
            return None
        self._refused.pop(uri, None)
        return pinned


def _moved(before: Pinned | Resolved, now: Pinned) -> str:
    """What a uri stands for now, for people: where versions have no names of their own, that it is another."""
    return f"{now.uri}, not {before.uri}" if now.uri != before.uri else "other bytes"


def _is_followed(spec: Model) -> bool:
    return spec.follow_seconds > 0 and not is_local(spec.uri)


def _replace(link: Path, target: str) -> None:
    """Make a link, or point it elsewhere, in one step."""
    fresh = link.with_name(f".{link.name}.next")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
