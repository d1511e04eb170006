"""What the control API can be asked, as methods: apply, plan, diff, get, delete, history, rollback, events, watch.

`app` makes one `Control`; `server.control` and `headrace serve -f` call it. An apply is parse -> check -> commit, all
or nothing; what becomes of it is the reconciler's, and `watch` tells.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec

from headrace.control import check, parse
from headrace.control.backends.base import Action, Backend
from headrace.control.events import KEPT_EACH, Event
from headrace.control.manifests.base import MADE_FROM
from headrace.control.parse import File, Read, Survey
from headrace.control.reconciler import LOADS, LOOK_SECONDS, Reconciler
from headrace.control.resources import KINDS, Model, Resolved, Resource
from headrace.control.store import Change, Past, Prepared, Store
from headrace.errors import Conflict, InvalidResources, NotFound
from headrace.payload import Signature

T = TypeVar("T")
Key = tuple[str, str]


class Manifest(Protocol):
    """A file of documents, as whoever sends it has it; `parse.File` is one."""

    @property
    def name(self) -> str:
        """As messages name it."""

    @property
    def text(self) -> str:
        """YAML or JSON."""

    @property
    def base(self) -> str:
        """The folder that relative paths start from, absolute."""


class Applied(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was done, or would be."""

    changes: tuple[Change, ...]
    """One for each resource, in the order of the files; then what went with it."""
    resource_version: int
    """After it."""
    dry_run: bool = False


class Planned(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an apply would do, down to the actions."""

    changes: tuple[Change, ...]
    actions: tuple[Action, ...]
    documents: Mapping[Key, tuple[dict[str, Any] | None, dict[str, Any] | None]]
    """By resource that changes: the manifest as it stands and as it would; None: there is none."""
    resource_version: int


class Difference(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One field that an apply would change."""

    kind: str
    name: str
    path: str
    """`spec.replicas`, `metadata.labels.team`, `spec.steps[0].inputs`; empty: the whole resource."""
    before: Any = None
    """None: it is not there."""
    after: Any = None


class Compared(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an apply would change, as documents and field by field."""

    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    documents: Mapping[Key, tuple[dict[str, Any] | None, dict[str, Any] | None]]
    """By resource: the manifest as it stands and as it would; None: there is none."""
    resource_version: int


class Watched(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What changed since a resource version."""

    resource_version: int
    """To watch after next."""
    resources: tuple[Resource, ...] = ()
    """Those that changed, as they are now."""
    deleted: tuple[Key, ...] = ()
    """Kind and name of those that are gone."""
    complete: bool = False
    """The version was too old to say what changed: these are all that there are, and what is not among them is gone."""


class Control:
    """The resources of one server. Used on one event loop; what blocks is done in threads."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        *,
        signatures: Callable[[], Mapping[str, Signature]] = dict,
        taken: Callable[[], Collection[str]] = tuple,
        capabilities: Callable[[], Collection[str] | None] = lambda: None,
        exists: Callable[[str], bool] = os.path.exists,
        clock: Callable[[], float] = time.time,
        loads: int = LOADS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Store what to work with; the store is opened already.

        Args:
            store: What is declared.
            backend: What carries it out.
            signatures: Of the models that are served now, by name, for checks of shape and datatype.
            taken: Names of models that the server was started with, without resources.
            capabilities: What this process can load; None: not known.
            exists: Whether there is a file or folder.
            clock: Seconds since the epoch.
            loads: Models that are loaded side by side.
            look_seconds: Between two looks at the counts of a rollout.
        """
        self._store, self._backend = store, backend
        self._signatures, self._taken, self._capabilities, self._exists = signatures, taken, capabilities, exists
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control-store")
        self._turn = asyncio.Lock()
        self._reconciler = Reconciler(
            store, backend, write=self._call, clock=clock, loads=loads, look_seconds=look_seconds
        )
        self._applied = asyncio.Event()

    # -- start, stop --

    async def start(self) -> None:
        """Begin to make what is declared so."""
        self._reconciler.start()

    async def stop(self) -> None:
        """End the loop; what is served stays as it is. The store stays open."""
        await self._reconciler.stop()
        self._thread.shutdown(wait=True)

    def changed(self) -> None:
        """Look again: something changed state by itself. For the backend."""
        self._reconciler.wake(urgent=False)

    async def settled(self) -> None:
        """Wait until all that can be done now is done; what failed waits for its next attempt."""
        await self._reconciler.settled()

    # -- to change --

    async def apply(self, files: Sequence[Manifest], *, dry_run: bool = False, who: str = "") -> Applied:
        """Declare what the files say: all of it, or nothing.

        Args:
            files: Manifests, ours or others'.
            dry_run: Only say what would be done.
            who: For the history.

        Raises:
            InvalidResources: it cannot be; carries every fault.
            Conflict: the server stops.
        """
        found = await asyncio.to_thread(parse.survey, _files(files))
        async with self._turn:
            prepared = await self._prepared(found)
            if not dry_run and prepared.touched:
                await self._commit(functools.partial(self._store.apply, (), who=who, prepared=prepared))
        return Applied(changes=prepared.changes, resource_version=self._store.resource_version, dry_run=dry_run)

    async def delete(self, kind: str, name: str, *, force: bool = False, who: str = "") -> Applied:
        """Take a resource away; with `force` although others need it.

        Raises:
            NotFound: there is none such.
            Conflict: others need it; the text names them.
        """
        return await self.delete_all([(kind, name)], force=force, who=who)

    async def delete_all(self, keys: Sequence[Key], *, force: bool = False, who: str = "") -> Applied:
        """Take resources away, all or nothing.

        Raises:
            NotFound: one of them is not there.
            Conflict: others, that stay, need one of them.
        """
        async with self._turn:
            for key in keys:
                self._store.get(*key)
            if not force and (needing := check.dependants(keys, self._store.resources.values())):
                whom = "; ".join(f"{each.describe()} needs {kind} '{name}'" for each, (kind, name) in needing)
                raise Conflict(f"{whom}. Delete or change that first, or delete it all the same by force (--force)")
            changes = await self._commit(functools.partial(self._store.delete, list(dict.fromkeys(keys)), who=who))
        return Applied(changes=changes, resource_version=self._store.resource_version)

    async def rollback(self, kind: str, name: str, generation: int = 0, *, who: str = "") -> Applied:
        """Declare again what was declared in a generation, as a new one; 0: the one before what is there now.

        Raises:
            NotFound: that generation is not kept.
            InvalidResources: it cannot be any more, beside what is there now.
        """
        async with self._turn:
            old = await self._call(functools.partial(self._store.past, kind, name, generation))
            again = Survey(reads=(Read(resource=old, file="history", lines={}),))
            prepared = await self._prepared(again, alone=True)
            if prepared.touched:
                who = who or "rollback"
                await self._commit(functools.partial(self._store.apply, (), who=who, prepared=prepared))
        return Applied(changes=prepared.changes, resource_version=self._store.resource_version)

    async def resolve(self, model: str, resolved: Resolved) -> Applied:
        """Declare that a model's uri stands for something else now: a new revision.

        Raises:
            NotFound: there is no such model any more.
            InvalidResources: it cannot be any more, beside what is there now.
        """
        async with self._turn:
            stored = self._store.get("Model", model)
            spec = msgspec.structs.replace(cast("Model", stored.spec), resolved=resolved)
            moved = msgspec.structs.replace(stored, spec=spec)
            found = Survey(reads=(Read(resource=moved, file="what is followed", lines={}),))
            prepared = await self._prepared(found, alone=True)
            if prepared.touched:
                await self._commit(functools.partial(self._store.apply, (), who="follow", prepared=prepared))
        return Applied(changes=prepared.changes, resource_version=self._store.resource_version)

    async def tell(self, event: Event) -> None:
        """Keep an event of a resource."""
        await self._call(lambda: self._store.record([event]))
        self._tell()

    async def _prepared(self, found: Survey, *, alone: bool = False) -> Prepared:
        """What an apply would write, if it can be; `alone`: nothing else goes with it.

        Raises:
            InvalidResources: it cannot.
        """
        stored, read = self._store.resources, found.reads
        deletes = [] if alone or found.faults else _replaced(read, stored)
        kept = {key: each for key, each in stored.items() if key not in deletes}
        signatures, taken, capabilities = self._signatures(), self._taken(), self._capabilities()

        def prepare() -> Prepared:
            faults = list(found.faults)
            faults += check.faults(
                read,
                kept,
                signatures=signatures,
                revisions=self._store.revisions,
                exists=self._exists,
                taken=taken,
                capabilities=capabilities,
                spoiled=found.spoiled,
            )
            resources = [each.resource for each in read]
            incoming = {each.key for each in resources}
            left = [each for key, each in kept.items() if key not in incoming]
            faults += [
                f"{each.describe()}: needs {kind} '{name}', which this apply takes away"
                for each, (kind, name) in check.dependants(deletes, left)
            ]
            if faults:
                raise InvalidResources(faults)
            return self._store.prepare(resources, deletes=deletes)

        return await asyncio.to_thread(prepare)

    async def _commit(self, write: Callable[[], tuple[Change, ...]]) -> tuple[Change, ...]:
        changes = await self._call(write)
        self._reconciler.wake()
        self._tell()
        now = self._clock()
        await self._call(lambda: self._store.record(_events(changes, now)))
        return changes

    async def _call(self, work: Callable[[], T]) -> T:
        """In the one thread that writes. What was begun is finished, whoever waits for it."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    # -- to look --

    async def plan(self, files: Sequence[Manifest] = ()) -> Planned:
        """What applying the files would do; without files: what is still to be done.

        Raises:
            InvalidResources: it cannot be.
        """
        found = await asyncio.to_thread(parse.survey, _files(files))
        async with self._turn:
            prepared = await self._prepared(found)
            stored = self._store.resources
        observed = list(await self._backend.observe())
        actions = self._reconciler.plan(prepared.resources, prepared.revisions, observed)
        return Planned(
            changes=prepared.changes,
            actions=tuple(actions),
            documents=_documents(prepared, stored),
            resource_version=self._store.resource_version,
        )

    async def diff(self, files: Sequence[Manifest]) -> Compared:
        """What applying the files would change, field by field.

        Raises:
            InvalidResources: it cannot be.
        """
        found = await asyncio.to_thread(parse.survey, _files(files))
        async with self._turn:
            prepared = await self._prepared(found)
            stored = self._store.resources
        documents = _documents(prepared, stored)
        differences = [
            Difference(kind=kind, name=name, path=path, before=before, after=after)
            for (kind, name), (old, new) in documents.items()
            for path, before, after in _differences("", old, new)
        ]
        return Compared(
            changes=prepared.changes,
            differences=tuple(differences),
            documents=documents,
            resource_version=self._store.resource_version,
        )

    @property
    def resource_version(self) -> int:
        """Counts the changes of anything."""
        return self._store.resource_version

    def get(self, kind: str = "", name: str = "") -> list[Resource]:
        """One resource, those of a kind, or all, with what their candidates have done by now.

        Raises:
            NotFound: no such kind, or none of that name.
        """
        if kind and kind not in KINDS:
            raise NotFound(f"no kind {kind!r}; there are {', '.join(KINDS)}")
        found = [self._store.get(kind, name)] if name else self._store.all(kind)
        return [self._counted(each) for each in found]

    def _counted(self, resource: Resource) -> Resource:
        counts = self._backend.counts(resource.metadata.name) if resource.kind in {"Experiment", "Rollout"} else {}
        if not counts:
            return resource
        details = dict(resource.status.details) | {
            "counts": {
                name: {
                    "requests": each.requests,
                    "failures": each.failures,
                    "compared": each.compared,
                    "agreed": each.agreed,
                    **({"differences": dict(each.differences)} if each.differences else {}),
                }
                for name, each in counts.items()
            }
        }
        return msgspec.structs.replace(resource, status=msgspec.structs.replace(resource.status, details=details))

    async def history(self, kind: str, name: str) -> list[Past]:
        """The generations of a resource, newest first.

        Raises:
            NotFound: nobody ever declared it.
        """
        return await self._call(functools.partial(self._store.history, kind, name))

    async def events(self, kind: str = "", name: str = "", *, limit: int = KEPT_EACH) -> list[Event]:
        """What happened, newest first: to all, to those of a kind, or to one resource."""
        return await self._call(functools.partial(self._store.events, kind, name, limit=limit))

    async def watch(self, after: int, timeout: float = 30.0) -> Watched:  # noqa: ASYNC109 - the caller's, not ours
        """What changed after a resource version, as soon as something did; nothing, when nothing does in time.

        Args:
            after: A resource version; 0: everything there is.
            timeout: Seconds.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            waiting = [asyncio.ensure_future(each) for each in (self._applied.wait(), self._reconciler.changed())]
            try:
                watched = self._since(after)
                left = deadline - asyncio.get_running_loop().time()
                if watched.resources or watched.deleted or watched.complete or left <= 0:
                    return watched
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()

    def _since(self, after: int) -> Watched:
        version = self._store.resource_version
        found = self._store.since(after) if after or not version else None  # where nothing ever was, wait
        if found is None:
            return Watched(resource_version=version, resources=tuple(self._store.all()), complete=True)
        changed, deleted = found
        return Watched(resource_version=version, resources=tuple(changed), deleted=tuple(deleted))

    def _tell(self) -> None:
        self._applied.set()
        self._applied = asyncio.Event()


def _files(files: Sequence[Manifest]) -> list[File]:
    return [File(name=each.name, text=each.text, base=each.base) for each in files]


def _replaced(read: Sequence[Read], stored: Mapping[Key, Resource]) -> list[Key]:
    """What was made of a foreign resource that is applied again, and is made of it no longer. Ours, that were printed
    and are applied on their own, take nothing with them.
    """
    sources = {
        source
        for each in read
        if each.resource.origin and (source := each.resource.metadata.annotations.get(MADE_FROM))
    }
    if not sources:
        return []
    incoming = {each.resource.key for each in read}
    return [
        key
        for key, each in stored.items()
        if key not in incoming and each.metadata.annotations.get(MADE_FROM) in sources
    ]


_WORDS: Final[Mapping[str, str]] = {"created": "Created", "configured": "Configured", "deleted": "Deleted"}


def _events(changes: Sequence[Change], now: float) -> list[Event]:
    return [
        Event(
            kind=each.kind,
            name=each.name,
            reason=_WORDS[each.action],
            message=f"generation {each.generation}" + (f", revision {each.revision}" if each.revision else ""),
            at=now,
        )
        for each in changes
        if each.action in _WORDS
    ]


def _documents(
    prepared: Prepared, stored: Mapping[Key, Resource]
) -> dict[Key, tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """What is touched, before and after."""
    return {key: (_declared(stored.get(key)), _declared(prepared.resources.get(key))) for key in prepared.touched}


def _declared(resource: Resource | None) -> dict[str, Any] | None:
    """What a person declared of a resource, as a document; the server's own fields left out."""
    if resource is None:
        return None
    document = parse.render(resource)
    for name in ("uid", "generation", "resourceVersion", "creationTimestamp"):
        document["metadata"].pop(name, None)
    return {name: document[name] for name in ("apiVersion", "kind", "metadata", "spec")}


def _differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(f"{path}.{name}" if path else name, before.get(name), after.get(name))
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{path}[{index}]", old, new)
    else:
        yield path, before, after
