"""The life of the models: start-up, load, reload, unload, hot reload. The app starts and closes it, the server's
repository routes ask it, and it writes what the routing table (`models`) reads.

A load: find -> load and warm up, beside the old engine -> swap in the table -> let the old one's requests end -> close
it. What fails before the swap leaves the old one serving.

    state        means                                              leaves by
    LOADING      no engine yet                                      swap -> READY, failure -> UNAVAILABLE
    READY        an engine answers; with a reason, a reload failed  reload -> READY, unload or files gone -> UNLOADING
    UNAVAILABLE  no engine; the reason says why                     load, retry, changed files -> LOADING
    UNLOADING    requests in flight end                             -> UNAVAILABLE (`unloaded`), or forgotten

Loads run side by side up to a bound; what changes one name happens one after the other. Work that a caller asked for
is owned here: a caller who leaves does not stop it half way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from weakref import WeakValueDictionary

import msgspec

from headrace.errors import (
    Conflict,
    HeadraceError,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
)
from headrace.payload import EMPTY
from headrace.runtimes.base import Recognition
from headrace.serving import discovery
from headrace.serving.discovery import Problem, Recognise, Survey
from headrace.serving.loaded import Loaded, LoadEngine
from headrace.serving.models import Models, Served, State
from headrace.serving.spec import TUNED, ModelSpec, Overrides, config_of
from headrace.serving.stamps import Stamp, stamp, stamps

Key = tuple[str, str]
"""Name and version."""
Policy = Literal["fail", "degrade", "retry"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 0.05
"""How long a replaced engine is still open for requests that were routed to it and have not reached it yet."""
RETRY_FIRST_SECONDS: Final = 1.0
RETRY_MOST_SECONDS: Final = 60.0
_LAST_LOAD_FAILED: Final = "its last load failed; the next request tries again"


class _Entry(msgspec.Struct, eq=False):
    """One version as the repository holds it."""

    spec: ModelSpec
    served: Served
    stamp: Stamp | None = None
    """Of the files that were loaded, or failed to be."""
    loaded: Loaded | None = None
    retiring: asyncio.Task[None] | None = None
    """Closes the engine that the present one replaced."""


class _Remembered(msgspec.Struct, frozen=True):
    """What a file was recognised as, at the last look."""

    stamp: tuple[int, int, int]
    outcome: tuple[str, Recognition] | HeadraceError


class Repository:
    """All models that the server may serve, and what becomes of them. Used on one event loop."""

    def __init__(
        self,
        *,
        models: Models,
        load_engine: LoadEngine,
        paths: Sequence[str] = (),
        defaults: Overrides = EMPTY,
        overrides: Overrides = EMPTY,
        recognise: Recognise | None = None,
        startup_policy: Policy = "fail",
        max_parallel_loads: int = 2,
        watch_seconds: float = 0.0,
        drain_seconds: float = 30.0,
        grace_seconds: float = GRACE_SECONDS,
        tune: Callable[[ModelSpec], bool] = lambda _: True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Store how models are found and loaded.

        Args:
            models: The routing table to write.
            load_engine: Loads one version.
            paths: Where models are looked for again by `load` and `reload_changed`, as `discovery.survey` takes them;
                none: the specs given to `start` are all there is.
            defaults: As for `discovery.survey`.
            overrides: As for `discovery.survey`.
            recognise: As for `discovery.survey`.
            startup_policy: What a model that cannot be loaded at start means: `fail` ends the start, `degrade` serves
                the others, `retry` also tries it again with growing pauses.
            max_parallel_loads: Loads that run side by side.
            watch_seconds: How often to look for changed files; 0: never.
            drain_seconds: How long requests in flight may take to end on an engine that leaves.
            grace_seconds: See GRACE_SECONDS.
            tune: Lets a version that is loaded take over the fields `spec.TUNED` of this spec, where it can: whether it
                did.
            sleep: Waits that many seconds.
        """
        self._models = models
        self._load_engine = load_engine
        self._paths = tuple(paths)
        self._defaults = defaults
        self._overrides = overrides
        self._recognise = recognise
        self._policy = startup_policy
        self._gate = asyncio.Semaphore(max_parallel_loads)
        self._watch_seconds = watch_seconds
        self._drain_seconds = drain_seconds
        self._grace_seconds = grace_seconds
        self._tune = tune
        self._sleep = sleep
        self._entries: dict[Key, _Entry] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # names come and go for years
        self._given: tuple[ModelSpec, ...] = ()
        self._added: dict[Key, ModelSpec] = {}  # by `add`; no path holds them
        self._configs: dict[str, Overrides] = {}  # what the last load of a name was told, until the next load of it
        self._asked: set[Key] = set()  # versions that were loaded, or tried; others may wait for a repository load
        self._troubled: dict[Key, str] = {}  # where what cannot be made out lies, until it is loaded
        self._unloaded: set[str] = set()  # by request: hot reload leaves these alone
        self._last_look: dict[Key, tuple[ModelSpec, Stamp]] = {}
        self._remembered: dict[Path, _Remembered] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retirements: set[asyncio.Task[None]] = set()  # never cancelled: what they close would stay open
        self._closing = False

    def __repr__(self) -> str:
        ready = sum(served.state is State.READY for served in self._models)
        return f"<Repository {ready} of {len(self._entries)} versions ready, {len(self._tasks)} tasks>"

    # -- start and close --

    async def start(self, specs: Sequence[ModelSpec], problems: Sequence[Problem] = ()) -> None:
        """Load these models, then keep watch if that is wanted.

        Args:
            specs: What to load.
            problems: What discovery found wrong, if the policy lets the others be served without it.

        Raises:
            LoadFailed: or a subclass, or SettingsError: the first failure under the policy `fail`, once the other loads
                have ended or were cancelled.
        """
        self._given = tuple(spec for spec in specs if spec.model is not None or not self._paths)
        for spec in specs:
            if spec.load_at_start:
                self._expect(spec, wanted=True)
            else:
                self._wait_for_load(spec)
        for problem in problems:
            self._tell(problem, wanted=True)
        self._models.complete = True
        if problems and self._policy == "fail":
            raise problems[0].error
        by_name: dict[str, list[ModelSpec]] = {}
        for spec in filter(lambda spec: spec.load_at_start, specs):
            by_name.setdefault(spec.name, []).append(spec)
        loads = [self._run(self._load_in_turn(name, versions)) for name, versions in by_name.items()]
        try:
            if loads:
                fails = self._policy == "fail"
                await asyncio.wait(loads, return_when=asyncio.FIRST_EXCEPTION if fails else asyncio.ALL_COMPLETED)
        finally:
            await _end(loads)
        if self._policy == "fail":
            for load in loads:
                if not load.cancelled():
                    load.result()
        if self._policy == "degrade":  # whoever starts so does not insist: what failed holds nobody's readiness up
            for served in self._models:
                served.wanted = served.wanted and served.state is State.READY
        if self._policy == "retry":
            waiting = {served.name for served in self._models if served.wanted and served.state is not State.READY}
            for name in sorted(waiting):
                self._run(self._retry(name))
        if self._watch_seconds > 0 and self._paths:
            self._run(self._watch())

    async def close(self) -> None:
        """Stop loading and watching, let requests in flight end, and close every engine. A second call does nothing."""
        self._closing = True
        await _end(self._tasks)
        leaving = []
        for entry in list(self._entries.values()):
            if entry.loaded is not None:
                self._models.changed(entry.served, State.UNLOADING, "the server is stopping")
                leaving.append(self._take_away(entry, "the server is stopping"))
        await asyncio.gather(*leaving, *self._retirements)

    # -- the repository extension --

    async def load(self, name: str, parameters: Mapping[str, Any] = EMPTY) -> None:
        """Find a model again and load all its versions; those that serve are replaced once the new ones are warm.

        Args:
            name: The model.
            parameters: `config`: JSON with keys of headrace.yaml (`spec.REMOTE_KEYS`), which holds until the next load.

        Raises:
            ModelNotFound: there is no such model at the paths.
            InvalidRequest: an unknown parameter, or a wrong config.
            NotSupported: a file is to be uploaded.
            LoadFailed: or a subclass, or SettingsError: a version cannot be loaded; what served before still does.
            ModelNotReady: the server is stopping.
        """
        config = config_of(parameters)
        await self._owned(self._load(name, config))

    async def _load(self, name: str, config: Overrides) -> None:
        async with self._lock(name):
            found = await asyncio.to_thread(self._survey)
            specs = [spec for spec in found.specs if spec.name == name]
            problems = [problem for problem in found.problems if problem.name == name]
            if not specs and not problems:
                # Where the server looks is the operator's to know, and a caller asks this.
                raise ModelNotFound(f"model '{name}' is not found among what the server was started with")
            self._unloaded.discard(name)
            self._configs[name] = config
            failed = await self._load_all([msgspec.structs.replace(spec, **config) for spec in specs])
            for problem in problems:
                self._tell(problem, wanted=False)
            await self._drop_gone(name, found)
            for error in (*failed, *(problem.error for problem in problems)):
                raise error

    async def again(self, name: str, version: str) -> None:
        """Load a version once more as it is: something that it is better served by has been found meanwhile.

        A failure leaves it as it was, and stands in the log and the table.
        """

        async def load() -> None:
            async with self._lock(name):
                entry = self._entries.get((name, version))
                if entry is not None and entry.loaded is not None:
                    await self._load_one(entry.spec)

        await self._owned(load())

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Take all versions of a model out of service. Returns once they are closed; requests in flight end first.

        Succeeds when it is unloaded already. A load that is under way ends first.

        Args:
            name: The model.
            unload_dependents: Also what depends on it; so far nothing does.

        Raises:
            ModelNotFound: nobody ever heard of it.
            ModelNotReady: the server is stopping.
        """
        if not self._versions(name):
            raise ModelNotFound(f"model '{name}' is not found")
        self._unloaded.add(name)  # from now on, for retries and hot reload
        await self._owned(self._unload(name))

    async def _unload(self, name: str) -> None:
        async with self._lock(name):
            self._unloaded.add(name)
            versions = self._versions(name)
            for served in versions:
                served.wanted = False
                self._models.changed(served, State.UNLOADING)
            entries = [self._entries.get((name, served.version)) for served in versions]
            await asyncio.gather(*(self._take_away(entry, "unloaded") for entry in entries if entry is not None))
            for served in versions:
                self._models.changed(served, State.UNAVAILABLE, "unloaded")

    # -- versions that no path holds --

    async def add(self, spec: ModelSpec) -> None:
        """Load one version that no path holds, or load it again: what served it before leaves once the new one is warm.

        Hot reload leaves it alone; a repository load by its name loads it again. A version that serves as this spec
        says, from files that did not change, stays as it is, and where only fields of `spec.TUNED` differ, they are
        taken over without a load. A caller who leaves takes a load that is under way with him: what was there before
        stays.

        Args:
            spec: The version, whatever its `load_at_start` says.

        Raises:
            LoadFailed: or a subclass, or SettingsError: it cannot be loaded; what served before still does, otherwise
                the version stands in the table with the reason.
            Conflict: a path holds that version of that name.
            ModelNotReady: the server is stopping.
        """
        await self._owned(self._add(spec), leaves=True)

    async def _add(self, spec: ModelSpec) -> None:
        key = (spec.name, spec.version)
        async with self._lock(spec.name):
            entry, before = self._entries.get(key), self._added.get(key)
            if entry is not None and before is None:
                raise Conflict(
                    f"{spec.describe()} is found at a path that the server was started with; give it another name or "
                    f"version"
                )
            if entry is not None and await self._serves(entry, spec):
                self._added[key] = entry.spec = spec
                return
            self._added[key] = spec
            self._unloaded.discard(spec.name)
            try:
                failed = await self._load_all([spec])
            except asyncio.CancelledError:
                if before is not None:
                    self._added[key] = before
                else:
                    del self._added[key]
                    if (row := self._row(*key)) is not None:
                        await self._drop(row, "whoever added it left")
                raise
            for error in failed:
                raise error

    async def _serves(self, entry: _Entry, spec: ModelSpec) -> bool:
        """Whether a version serves as this spec says; what can be changed without a load is changed."""
        if entry.loaded is None or entry.served.state is not State.READY:
            return False
        tuned = {field: getattr(spec, field) for field in TUNED}
        if msgspec.structs.replace(entry.spec, **tuned) != spec or entry.stamp != await asyncio.to_thread(stamp, spec):
            return False
        return entry.spec == spec or self._tune(spec)

    async def remove(self, name: str, version: str) -> None:
        """Take out of service what `add` brought, and forget it. Returns once it is closed; requests in flight end
        first, and a load that is under way. What is not there is removed already.

        Raises:
            Conflict: a path holds that version.
            ModelNotReady: the server is stopping.
        """
        await self._owned(self._remove((name, version)))

    async def _remove(self, key: Key) -> None:
        async with self._lock(key[0]):
            if self._added.pop(key, None) is None:
                if key in self._entries:
                    raise Conflict(f"model '{_describe(key)}' is found at a path; take its files away to remove it")
                return
            if (row := self._row(*key)) is not None:
                await self._drop(row, "removed")

    def refresh(self, spec: ModelSpec, loaded: Loaded, failed: str = "") -> None:
        """Write into the table what a version that may leave memory (`residency`) says of itself since it came back,
        left, or could not come back, which then waits for the next request with the reason.
        """
        entry = self._entries.get((spec.name, spec.version))
        if entry is None or entry.loaded is not loaded:
            return
        served = entry.served
        _show(loaded, entry.spec, served)
        if failed:
            served.reason = f"{_LAST_LOAD_FAILED}: {failed}"
        elif served.reason.startswith(_LAST_LOAD_FAILED):
            served.reason = ""
        if served.state is State.UNAVAILABLE:  # its worker process had died, and is no longer what answers
            self._models.changed(served, State.READY, served.reason if failed else "")

    # -- hot reload --

    async def reload_changed(self, *, settled: bool = False) -> list[Key]:
        """Look at the paths: load new and changed versions, drop those that are gone. Failures stand in the table.

        A model unloaded by request stays unloaded. Files whose load failed are tried again when they change.

        Args:
            settled: Leave alone what looks different from the look before: it may still be being written.

        Returns:
            The versions that were loaded, tried or dropped.
        """
        found = await asyncio.to_thread(self._survey)
        look = await asyncio.to_thread(stamps, found.specs)
        before, self._last_look = self._last_look, look
        changed: dict[str, list[ModelSpec]] = {}
        for key, (spec, now) in look.items():
            if key in self._added:  # the control plane says when
                continue
            if not spec.load_at_start and key not in self._asked:
                self._wait_for_load(spec)
            elif self._is_changed(spec, now) and not (settled and before.get(key) != (spec, now)):
                changed.setdefault(spec.name, []).append(spec)
        names = changed.keys() - self._unloaded | {name for name, _ in self._gone(found)}
        for problem in found.problems:
            if problem.name not in self._unloaded:
                self._tell(problem, wanted=False)
        touched = await asyncio.gather(*(self._reload(name, changed.get(name, ()), found) for name in sorted(names)))
        return [key for keys in touched for key in keys]

    async def _reload(self, name: str, specs: Iterable[ModelSpec], found: Survey) -> list[Key]:
        async with self._lock(name):
            config = self._configs.get(name, EMPTY)
            specs = [] if name in self._unloaded else [msgspec.structs.replace(spec, **config) for spec in specs]
            await self._load_all(specs)
            return [(name, spec.version) for spec in specs] + await self._drop_gone(name, found)

    async def _watch(self) -> None:
        while True:
            await self._sleep(self._watch_seconds)
            try:
                touched = await self.reload_changed(settled=True)
            except Exception:  # noqa: BLE001 - whatever it was, the next look may do better
                _log.exception("looking for changed models failed; the next look is in %g s", self._watch_seconds)
            else:
                if touched:
                    _log.info("reloaded: %s", ", ".join(_describe(key) for key in touched))

    async def _retry(self, name: str) -> None:
        """Load what is not READY of a model again and again, with growing pauses, until it is or nobody wants it."""
        pause = RETRY_FIRST_SECONDS
        attempt = 2
        while name not in self._unloaded:
            waiting = [served for served in self._versions(name) if served.wanted]
            waiting = [served for served in waiting if served.state is not State.READY]
            if not waiting:
                return
            for served in waiting:
                if served.state is State.UNAVAILABLE:
                    served.reason = f"{served.reason}; attempt {attempt} in {pause:g} s"
            await self._sleep(pause)
            try:
                await self._attempt(name)
            except Exception:  # noqa: BLE001 - whatever it was, the next attempt may do better
                _log.exception("model '%s': attempt %d to load it failed", name, attempt)
            attempt += 1
            pause = min(2 * pause, RETRY_MOST_SECONDS)

    async def _attempt(self, name: str) -> None:
        async with self._lock(name):
            if name in self._unloaded:
                return
            found = await asyncio.to_thread(self._survey)
            specs = [spec for spec in found.specs if spec.name == name and not self._is_serving(spec)]
            config = self._configs.get(name, EMPTY)
            await self._load_all([msgspec.structs.replace(spec, **config) for spec in specs])
            for problem in found.problems:
                if problem.name == name:
                    self._tell(problem, wanted=True)
            await self._drop_gone(name, found)

    # -- what there is --

    def _survey(self) -> Survey:
        """Everything there is now: what was given, and what the paths hold. Blocks."""
        before, seen = self._remembered, dict[Path, _Remembered]()

        def recognise(path: Path) -> tuple[str, Recognition]:
            """Recognise a file unless it is the one that was at the look before: some are read to the end for that."""
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = before.get(path)
            if known is None or known.stamp != stamp or path.is_dir():  # a folder's stamp tells nothing of its files
                try:
                    known = _Remembered(stamp, (self._recognise or _recognise)(path))
                except HeadraceError as error:
                    known = _Remembered(stamp, error)
            seen[path] = known
            if isinstance(known.outcome, HeadraceError):
                raise known.outcome.with_traceback(None)  # it is kept, and would grow with each look
            return known.outcome

        found = discovery.survey(self._paths, defaults=self._defaults, overrides=self._overrides, recognise=recognise)
        self._remembered = seen
        problems = tuple(map(self._of_known, found.problems))
        added = dict(self._added)  # they hold over files that appeared at a path since
        on_paths = (spec for spec in found.specs if (spec.name, spec.version) not in added)
        specs = (*self._given, *added.values(), *on_paths)
        return Survey(specs=specs, problems=problems, warnings=found.warnings)

    def _of_known(self, problem: Problem) -> Problem:
        """The problem of a version that is known: a settings file that cannot be read tells no name any more."""
        for (name, version), entry in list(self._entries.items()):
            if problem.place in entry.spec.watched:
                return msgspec.structs.replace(problem, name=name, version=version)
        return problem

    def at(self, place: Path) -> list[Served]:
        """The rows of what lies at a path, or should."""
        lie: dict[Key, tuple[str, ...]] = {key: (each,) for key, each in self._troubled.items()}
        lie |= {key: (each.spec.path, each.spec.folder, *lie.get(key, ())) for key, each in self._entries.items()}
        found = (key for key, paths in lie.items() if any(Path(each).is_relative_to(place) for each in paths if each))
        return [row for key in found if (row := self._row(*key)) is not None]

    def _is_serving(self, spec: ModelSpec) -> bool:
        entry = self._entries.get((spec.name, spec.version))
        return entry is not None and entry.loaded is not None

    def _is_changed(self, spec: ModelSpec, now: Stamp) -> bool:
        entry = self._entries.get((spec.name, spec.version))
        if entry is None:
            return True
        if spec.model is not None:
            return False
        return entry.stamp != now or entry.spec != msgspec.structs.replace(spec, **self._configs.get(spec.name, EMPTY))

    def _gone(self, found: Survey) -> list[Key]:
        """Versions in the table whose files are no longer there. Those below a place that is in trouble stay."""
        there = {(spec.name, spec.version) for spec in found.specs}
        there |= {(problem.name, problem.version) for problem in found.problems} | self._added.keys()
        troubled = [Path(problem.place) for problem in found.problems]

        def stays(served: Served) -> bool:
            entry = self._entries.get((served.name, served.version))
            if entry is None:
                return False
            spec = entry.spec
            places = [Path(each) for each in (spec.path or spec.folder, *spec.watched) if each]
            return any(place.is_relative_to(each) for place in places for each in troubled)

        return [
            (served.name, served.version)
            for served in self._models
            if _is_own(served) and (served.name, served.version) not in there and not stays(served)
        ]

    # -- the table --

    def _expect(self, spec: ModelSpec, *, wanted: bool) -> _Entry:
        """The entry of a version, with a row in the table; both new if need be."""
        key = (spec.name, spec.version)
        entry = self._entries.get(key)
        if entry is None:
            row = self._row(*key)  # of a problem, which is solved now
            wanted = wanted or (row is not None and row.wanted)
            served = Served(name=spec.name, version=spec.version, state=State.LOADING, wanted=wanted)
            served.explains_at = spec.explains_at
            entry = self._entries[key] = _Entry(spec, served)
            self._models.put(served)
        return entry

    def _wait_for_load(self, spec: ModelSpec) -> None:
        """Show a version that nobody has asked for yet."""
        if (spec.name, spec.version) not in self._entries:
            served = self._expect(spec, wanted=False).served
            self._models.changed(served, State.UNAVAILABLE, "not loaded yet: a repository load starts it")

    def _row(self, name: str, version: str) -> Served | None:
        return next((served for served in self._versions(name) if served.version == version), None)

    def _versions(self, name: str) -> list[Served]:
        """The rows of a model; the table may hold a pipeline or an experiment of that name as well."""
        return [served for served in self._models.versions(name) if _is_own(served) and served.name == name]

    def _tell(self, problem: Problem, *, wanted: bool) -> None:
        """Put what discovery found wrong where a person looks for it."""
        entry = self._entries.get((problem.name, problem.version))
        self._troubled[problem.name, problem.version] = problem.place
        served = self._row(problem.name, problem.version)
        if served is None:
            served = Served(name=problem.name, version=problem.version, wanted=wanted)
            self._models.put(served)
        reason = f"reload failed: {problem.error}" if entry is not None and entry.loaded else str(problem.error)
        if served.reason == reason:  # it was so at the look before
            return
        _log.warning("%s: %s", served.describe(), problem.error)
        if entry is not None:
            entry.stamp = None  # whatever comes next is a change
        if entry is not None and entry.loaded is not None:
            served.reason = reason
            self._models.put(served)
        else:
            self._models.changed(served, State.UNAVAILABLE, reason)

    async def _load_in_turn(self, name: str, specs: Sequence[ModelSpec]) -> None:
        async with self._lock(name):
            for error in await self._load_all(specs):
                raise error

    async def _load_all(self, specs: Sequence[ModelSpec]) -> list[HeadraceError]:
        """Load versions of a name whose lock is held, side by side; gives the failures, which the table shows too."""
        loads = [asyncio.create_task(self._load_one(spec)) for spec in specs]
        try:
            outcomes = await asyncio.gather(*loads)
        finally:
            await _end(loads)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _load_one(self, spec: ModelSpec) -> HeadraceError | None:
        entry = self._expect(spec, wanted=False)
        self._asked.add((spec.name, spec.version))
        self._troubled.pop((spec.name, spec.version), None)
        served = entry.served
        taken: Stamp | None = None
        if entry.loaded is None:
            self._models.changed(served, State.LOADING)
        elif entry.retiring is not None:
            await asyncio.wait([entry.retiring])  # two engines of a version at most are in memory
        try:
            async with self._gate:
                taken = await asyncio.to_thread(stamp, spec)  # before the load: a change during it is seen afterwards
                loaded = await self._load_engine(spec)
        except asyncio.CancelledError:
            if entry.loaded is None:
                self._models.changed(served, State.UNAVAILABLE, "the load was cancelled")
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a model raises is that model's failure, told in the table
            entry.spec, entry.stamp = spec, taken
            return self._failed(entry, exc)

        old, entry.loaded, entry.spec, entry.stamp = entry.loaded, loaded, spec, taken
        _show(loaded, spec, served)
        served.wanted = True
        self._models.changed(served, State.READY)
        _log.info("%s is ready", spec.describe())
        if old is not None:
            entry.retiring = self._retire(old, spec)
        return None

    def _failed(self, entry: _Entry, exc: Exception) -> HeadraceError:
        served = entry.served
        if isinstance(exc, HeadraceError):
            error = exc
            _log.warning("%s: %s", served.describe(), error)
        else:
            error = LoadFailed(f"{served.describe()}: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            _log.error("%s cannot be loaded", served.describe(), exc_info=exc)
        if entry.loaded is not None:
            served.reason = f"reload failed: {error}"
            self._models.put(served)  # so that whoever listens hears of it
        else:
            self._models.changed(served, State.UNAVAILABLE, str(error))
        return error

    def _retire(self, loaded: Loaded, spec: ModelSpec) -> asyncio.Task[None]:
        """Close an engine that no request is routed to any more."""
        task = asyncio.create_task(self._close(loaded, spec))
        self._retirements.add(task)
        task.add_done_callback(self._retirements.discard)
        return task

    async def _close(self, loaded: Loaded, spec: ModelSpec) -> None:
        await self._sleep(self._grace_seconds)
        try:
            await loaded.close(self._drain_seconds)
        except Exception:  # noqa: BLE001 - the model's own code; nobody waits for it any more
            _log.exception("%s: its engine did not close as it should", spec.describe())

    async def _take_away(self, entry: _Entry, reason: str) -> None:
        """Close the engine of a version that is UNLOADING; the row stays, with the reason."""
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            await asyncio.shield(self._retire(loaded, entry.spec))
        served = entry.served
        served.infer = served.infer_stream = served.signature = None
        served.placement = ""
        self._models.changed(served, State.UNAVAILABLE, reason)

    async def _drop_gone(self, name: str, found: Survey) -> list[Key]:
        """Forget the versions of a name whose files are gone, unless one of them is the last that serves while the
        files of another stand there and do not load.
        """
        gone = [key for key in self._gone(found) if key[0] == name]
        versions = self._versions(name)
        left = [served for served in versions if (name, served.version) not in gone]
        if left and not any(served.state is State.READY for served in left):
            for served in versions:
                if (name, served.version) in gone and served.state is State.READY:
                    served.reason = "its files are gone; it serves on, since no other version does"
            gone = [key for key in gone if not self._ready(key)]
        for served in versions:
            if (name, served.version) in gone:
                await self._drop(served, "its files are gone")
        return gone

    async def _drop(self, served: Served, reason: str) -> None:
        """Close the engine of a version, and forget the version."""
        entry = self._entries.pop((served.name, served.version), None)
        self._troubled.pop((served.name, served.version), None)
        if entry is not None and entry.loaded is not None:
            self._models.changed(served, State.UNLOADING, reason)
            await self._take_away(entry, reason)
        self._models.forget(served)

    def _ready(self, key: Key) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.served.state is State.READY

    # -- tasks --

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _run(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(
            error, HeadraceError
        ):  # ours are told in the table, or raised to callers
            _log.error("work on the models failed", exc_info=error)

    async def _owned(self, work: Coroutine[Any, Any, None], *, leaves: bool = False) -> None:
        """Do what a caller asked for to its end, whether or not the caller stays; `leaves`: only while he stays."""
        if self._closing:
            work.close()
            raise ModelNotReady("the server is stopping")
        task = self._run(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by close, not by the caller
                raise ModelNotReady("the server is stopping") from None
            if leaves:
                await _end([task])
            raise


def _show(loaded: Loaded, spec: ModelSpec, served: Served) -> None:
    """Write what an engine says of itself into its row."""
    signature = loaded.signature
    served.signature, served.placement = signature, loaded.placement
    served.infer, served.infer_stream = loaded.infer, loaded.infer_stream
    served.routes, served.visit = loaded.routes, loaded.visit
    served.explain, served.explains_at = loaded.explain, spec.explains_at
    of_code = signature.declared if signature is not None else EMPTY
    served.dialect, served.declared = spec.dialect, {**loaded.declared, **spec.declared, **of_code}
    served.warnings = loaded.warnings


def _is_own(served: Served) -> bool:
    """Whether a row of the table is the repository's to change."""
    return served.kind == "model" and not served.elsewhere


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what has not ended, and wait until all have."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _describe(key: Key) -> str:
    return f"{key[0]} {key[1]}".strip()


def _recognise(path: Path) -> tuple[str, Recognition]:
    from headrace.runtimes.recognise import recognise

    return recognise(path)
