"""What is declared, on disk: one SQLite file that survives a kill and a loss of power. For `service` and `reconciler`.

What is declared is written with `synchronous=FULL`, all of an apply in one transaction, so that what was acknowledged
is there after anything. Everything that can be found out again (conditions, events) is written with less care.

The declarations are in memory as well, as values that are replaced whole: `get` and `all` read them from any thread and
touch no disk. All that writes blocks, and is called in one thread (`service` has one for it).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self

import msgspec

from headrace.control import events as happenings
from headrace.control import plan
from headrace.control.events import Event
from headrace.control.parse import encodable
from headrace.control.plan import Revision
from headrace.control.resources import KINDS, Metadata, Model, Resolved, Resource, Spec, Status
from headrace.errors import Conflict, NotFound, SettingsError, Temporary

SCHEMA: Final = 2
"""Of the file. A migration from each older one stands in `_MIGRATIONS`."""
HISTORY_KEPT: Final = 50
"""Generations of one resource; the oldest leave."""
CHANGES_KEPT: Final = 10_000
"""Deletions that `since` knows of."""

Key = tuple[str, str]
Verdict = Literal["created", "configured", "unchanged", "deleted"]

_MIGRATIONS: Final[Mapping[int, str]] = {
    0: """
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE resources (
        kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
        metadata BLOB NOT NULL, spec BLOB NOT NULL, origin TEXT NOT NULL, base TEXT NOT NULL, notes BLOB NOT NULL,
        PRIMARY KEY (kind, name)) WITHOUT ROWID;
    CREATE TABLE revisions (
        name TEXT NOT NULL, number INTEGER NOT NULL, spec BLOB NOT NULL, base TEXT NOT NULL,
        PRIMARY KEY (name, number)) WITHOUT ROWID;
    CREATE TABLE history (
        kind TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, revision INTEGER NOT NULL,
        at REAL NOT NULL, who TEXT NOT NULL, verdict TEXT NOT NULL,
        metadata BLOB NOT NULL, spec BLOB NOT NULL, origin TEXT NOT NULL, base TEXT NOT NULL, notes BLOB NOT NULL,
        PRIMARY KEY (kind, name, generation)) WITHOUT ROWID;
    CREATE TABLE statuses (
        kind TEXT NOT NULL, name TEXT NOT NULL, status BLOB NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (kind, name)) WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT NOT NULL, event BLOB NOT NULL);
    CREATE INDEX events_of ON events (kind, name, id);
    """,
    1: "CREATE TABLE learnt (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
}


class Change(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an apply or a delete did to one resource, or would do."""

    kind: str
    name: str
    action: Verdict
    generation: int
    revision: int = 0
    """Models: the newest."""
    notes: tuple[str, ...] = ()
    """What of the manifest is refused or without effect here."""

    @property
    def key(self) -> Key:
        """Kind and name."""
        return self.kind, self.name


class Past(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One generation of a resource."""

    generation: int
    revision: int = 0
    at: float
    """Seconds since the epoch."""
    who: str
    action: Verdict
    resource: Resource
    """As it was declared then."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply will write: decided, not written."""

    changes: tuple[Change, ...]
    resources: Mapping[Key, Resource]
    """All that would be there."""
    revisions: Mapping[str, Mapping[int, Revision]]
    """Of all models."""
    touched: tuple[Key, ...]
    """What differs from what is there now, in the order given."""


class Store:
    """Declarations, their history, their status and their events, in one file."""

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        """Store where the file is, and the clock that history is dated by."""
        self.path = Path(path)
        self._clock = clock
        self._database: sqlite3.Connection | None = None
        self._lock: BinaryIO | None = None
        self._mutex = threading.RLock()
        self._resources: dict[Key, Resource] = {}
        self._revisions: dict[str, dict[int, Revision]] = {}
        self.heard: Callable[[Event], None] = lambda _: None
        """Told of each event that is kept, in the thread that keeps it."""
        self._generations: dict[Key, tuple[int, int]] = {}  # of what was deleted: a new one counts on
        self._version = 0
        self._gone: list[tuple[int, Key]] = []
        self._known_from = 0
        self._last_event: dict[Key, Event] = {}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- open, close --

    def open(self) -> None:
        """Open the file, make it where there is none, and read it.

        Raises:
            SettingsError: another server has it open, it is not ours or broken, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._migrate()
            self._read()
        except (sqlite3.DatabaseError, msgspec.MsgspecError, OSError) as error:
            self.close()
            raise SettingsError(
                f"the state file {self.path} cannot be used: {error}. Put a copy of it back, or move it and its -wal "
                "away to begin with none; resources then have to be applied again"
            ) from error
        except SettingsError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and let go of its lock. A second time does nothing."""
        with self._mutex:
            if self._database is not None:
                with contextlib.suppress(sqlite3.Error):  # a broken file closes as well as it can
                    self._database.close()
                self._database = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _locked(self) -> BinaryIO:
        file = self.path.with_name(f"{self.path.name}.lock").open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).decode(errors="replace").strip() or "another server"
            file.close()
            raise SettingsError(
                f"the state file {self.path} is held by {holder}; stop that one, or give this one a file of its own "
                "with the setting control.state (--state)"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}".encode())
        file.flush()
        return file

    def _migrate(self) -> None:
        database = self._open()
        # The first read shows whether it is a database at all.
        (found,) = database.execute("PRAGMA user_version").fetchone()
        if found > SCHEMA:
            raise SettingsError(
                f"the state file {self.path} was written by a newer version of Headrace (its schema is {found}, ours "
                f"is {SCHEMA}); run that version, or give this one a file of its own with the setting control.state"
            )
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if found == 0 and tables:
            raise SettingsError(
                f"{self.path} is a database, but not one of Headrace's; "
                "choose another file with the setting control.state"
            )
        (problem,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise sqlite3.DatabaseError(str(problem))
        database.execute("PRAGMA journal_mode=WAL")
        for version in range(found, SCHEMA):
            with self._writing(durable=True):
                for statement in filter(None, map(str.strip, _MIGRATIONS[version].split(";"))):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version={version + 1}")

    def _read(self) -> None:
        database = self._open()
        statuses = {
            (kind, name): _STATUS.decode(status)
            for kind, name, status in database.execute("SELECT kind, name, status FROM statuses")
        }
        self._resources = {}
        columns = "kind, name, revision, metadata, spec, origin, base, notes"
        for kind, name, revision, *document in database.execute(f"SELECT {columns} FROM resources"):  # noqa: S608 - ours
            resource = _decoded(kind, document)
            kept = statuses.get((kind, name), Status())
            status = msgspec.structs.replace(kept, revision=revision, notes=resource.notes)
            self._resources[kind, name] = msgspec.structs.replace(resource, status=status)
        self._revisions = {}
        for name, number, spec, base in database.execute("SELECT name, number, spec, base FROM revisions"):
            self._revisions.setdefault(name, {})[number] = Revision(number=number, spec=_MODEL.decode(spec), base=base)
        counted = "SELECT kind, name, max(generation), max(revision) FROM history GROUP BY kind, name"
        self._generations = {(kind, name): (last, revision) for kind, name, last, revision in database.execute(counted)}
        row = database.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()
        self._version = self._known_from = row[0] if row else 0

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            raise Conflict(f"the state file {self.path} is closed: the server stops")
        return self._database

    @contextlib.contextmanager
    def _writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            database = self._open()
            try:
                database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
            except BaseException as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):  # a full or broken disk: no fault of who asks
                    raise Temporary(
                        f"the state file {self.path} cannot be written: {error}; nothing of this was kept"
                    ) from error
                raise

    # -- what is declared --

    @property
    def resource_version(self) -> int:
        """Counts the changes of anything."""
        return self._version

    def get(self, kind: str, name: str) -> Resource:
        """One resource.

        Raises:
            NotFound: it is not declared.
        """
        found = self._resources.get((kind, name))
        if found is None:
            raise NotFound(f"{kind} '{name}' is not found")
        return found

    def all(self, kind: str = "") -> list[Resource]:
        """All resources, or those of one kind, by kind and name."""
        order = {each: at for at, each in enumerate(KINDS)}
        found = [each for each in self._resources.values() if not kind or each.kind == kind]
        return sorted(found, key=lambda each: (order[each.kind], each.metadata.name))

    @property
    def resources(self) -> Mapping[Key, Resource]:
        """All that is declared, by kind and name; a value that is replaced, never changed."""
        return self._resources

    @property
    def revisions(self) -> Mapping[str, Mapping[int, Revision]]:
        """By model: what its revisions were, as far back as anybody needs; a value that is replaced, never changed."""
        return self._revisions

    def prepare(self, resources: Sequence[Resource], *, deletes: Iterable[Key] = ()) -> Prepared:
        """Decide what an apply will write; nothing is written.

        Args:
            resources: What is declared; no two of one kind and name.
            deletes: What is to go in the same step.
        """
        after = dict(self._resources)
        revisions: dict[str, Mapping[int, Revision]] = dict(self._revisions)
        changes: list[Change] = []
        touched: list[Key] = []
        version = self._version
        now = dt.datetime.fromtimestamp(int(self._clock()), tz=dt.UTC)
        for given in resources:
            before = self._resources.get(given.key)
            settled, verdict = self._settled(given, before, version + 1, now)
            changes.append(_change(settled, verdict))
            if verdict == "unchanged":
                continue
            version += 1
            after[given.key] = settled
            touched.append(given.key)
            if isinstance(settled.spec, Model):
                number = settled.status.revision
                own = Revision(number=number, spec=settled.spec, base=settled.base)
                revisions[settled.metadata.name] = dict(revisions.get(settled.metadata.name, {})) | {number: own}
        for key in deletes:
            gone = after.pop(key)
            version += 1
            touched.append(key)
            changes.append(_change(gone, "deleted"))
            if gone.kind == "Model":
                revisions.pop(gone.metadata.name, None)
        return Prepared(changes=tuple(changes), resources=after, revisions=revisions, touched=tuple(touched))

    def _settled(
        self, given: Resource, before: Resource | None, version: int, now: dt.datetime
    ) -> tuple[Resource, Verdict]:
        """A declaration with what the server writes into it, and what it is to what was there."""
        spec = _SPECS[given.kind].decode(_encode(given.spec))  # as it will be read back
        if before is None:
            last, newest = self._generations.get(given.key, (0, 0))
            meta = msgspec.structs.replace(
                given.metadata,
                uid=str(uuid.uuid4()),
                generation=last + 1,
                resource_version=version,
                creation_timestamp=now,
            )
            status = Status(revision=newest + 1 if given.kind == "Model" else 0, notes=given.notes)
            return msgspec.structs.replace(given, metadata=meta, spec=spec, status=status), "created"
        past = before.spec
        if isinstance(spec, Model) and isinstance(past, Model):
            spec = msgspec.structs.replace(spec, resolved=_resolved(spec, past))
        if not plan.looks_beside(spec):  # the same from another folder is no other
            given = msgspec.structs.replace(given, base=before.base)
        same_spec = spec == before.spec and given.base == before.base
        old = before.metadata
        described = (given.metadata.labels, given.metadata.annotations, given.metadata.namespace)
        if same_spec and described == (old.labels, old.annotations, old.namespace) and given.notes == before.notes:
            return before, "unchanged"
        meta = msgspec.structs.replace(
            given.metadata,
            uid=old.uid,
            generation=old.generation + (not same_spec),
            resource_version=version,
            creation_timestamp=old.creation_timestamp,
        )
        status = msgspec.structs.replace(before.status, notes=given.notes)
        if isinstance(spec, Model) and isinstance(before.spec, Model) and _revises(spec, given.base, before):
            status = msgspec.structs.replace(status, revision=status.revision + 1)
        return msgspec.structs.replace(given, metadata=meta, spec=spec, status=status), "configured"

    def apply(
        self,
        resources: Sequence[Resource],
        *,
        who: str = "",
        deletes: Iterable[Key] = (),
        prepared: Prepared | None = None,
    ) -> tuple[Change, ...]:
        """Write declarations, all or nothing; what was acknowledged survives a loss of power.

        Args:
            resources: What is declared.
            who: For the history.
            deletes: What goes in the same step.
            prepared: What `prepare` said of the same, if nothing was declared since; statuses may have been written.
        """
        with self._mutex:
            decided = prepared or self.prepare(resources, deletes=deletes)
            if not decided.touched:
                return decided.changes
            now = self._clock()
            verdicts = {each.key: each.action for each in decided.changes}
            version = self._version
            everything, revisions = dict(self._resources), dict(self._revisions)
            gone: list[tuple[int, Key]] = []
            written: list[Resource] = []
            for key in decided.touched:
                version += 1
                if verdicts[key] == "deleted":
                    gone.append((version, key))
                    del everything[key]
                    if key[0] == "Model":
                        revisions.pop(key[1], None)
                    continue
                made = _carried_over(decided.resources[key], self._resources.get(key), version)
                everything[key] = made
                written.append(made)
                if isinstance(made.spec, Model):
                    number, name = made.status.revision, made.metadata.name
                    own = Revision(number=number, spec=made.spec, base=made.base)
                    revisions[name] = revisions.get(name, {}) | {number: own}
            with self._writing(durable=True) as database:
                self._write(database, written, verdicts, now=now, who=who)
                for _, key in gone:
                    self._erase(database, self._resources[key], now=now, who=who)
                _count(database, version)
            for _, key in gone:
                before = self._resources[key]
                self._generations[key] = before.metadata.generation + 1, before.status.revision
                self._last_event.pop(key, None)
            for each in written:
                self._generations[each.key] = each.metadata.generation, each.status.revision
            self._resources, self._revisions = everything, revisions
            self._gone = [*self._gone, *gone]
            if len(self._gone) > CHANGES_KEPT:
                self._known_from = self._gone[-CHANGES_KEPT - 1][0]
                self._gone = self._gone[-CHANGES_KEPT:]
            self._version = version
            return decided.changes

    def _write(
        self,
        database: sqlite3.Connection,
        resources: Sequence[Resource],
        verdicts: Mapping[Key, Verdict],
        *,
        now: float,
        who: str,
    ) -> None:
        rows, models, past = [], [], []
        for each in resources:
            name, revision, document = each.metadata.name, each.status.revision, _encoded(each)
            rows.append((each.kind, name, revision, *document))
            if each.kind == "Model":
                models.append((name, revision, document[1], each.base))
            before = self._resources.get(each.key)
            if before is None or before.metadata.generation != each.metadata.generation:
                generation = each.metadata.generation
                past.append((each.kind, name, generation, revision, now, who, verdicts[each.key], *document))
        database.executemany("INSERT OR REPLACE INTO resources VALUES (?,?,?,?,?,?,?,?)", rows)
        database.executemany("INSERT OR REPLACE INTO revisions VALUES (?,?,?,?)", models)
        database.executemany("INSERT OR REPLACE INTO history VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", past)
        database.executemany(_TRIM, [(kind, name, generation - HISTORY_KEPT) for kind, name, generation, *_ in past])

    def _erase(self, database: sqlite3.Connection, resource: Resource, *, now: float, who: str) -> None:
        key = resource.key
        generation, revision = resource.metadata.generation + 1, resource.status.revision
        for table in ("resources", "statuses"):
            database.execute(f"DELETE FROM {table} WHERE kind = ? AND name = ?", key)  # noqa: S608 - ours
        if resource.kind == "Model":
            database.execute("DELETE FROM revisions WHERE name = ?", key[1:])
        row = (*key, generation, revision, now, who, "deleted", *_encoded(resource))
        database.execute("INSERT OR REPLACE INTO history VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", row)
        database.execute(_TRIM, (*key, generation - HISTORY_KEPT))

    def delete(self, keys: Sequence[Key], *, who: str = "") -> tuple[Change, ...]:
        """Take declarations away, all or nothing; their history stays.

        Raises:
            NotFound: one is not declared.
        """
        with self._mutex:
            for key in keys:
                self.get(*key)
            return self.apply((), deletes=keys, who=who)

    # -- what was declared --

    def history(self, kind: str, name: str) -> list[Past]:
        """The generations of a resource, newest first; those of one that was deleted too.

        Raises:
            NotFound: nobody ever declared it.
        """
        columns = "generation, revision, at, who, verdict, metadata, spec, origin, base, notes"
        query = f"SELECT {columns} FROM history WHERE kind = ? AND name = ? ORDER BY generation DESC"  # noqa: S608 - ours
        with self._mutex:
            rows = self._open().execute(query, (kind, name)).fetchall()
        if not rows:
            raise NotFound(f"{kind} '{name}' is not found, and never was")
        return [
            Past(
                generation=generation,
                revision=revision,
                at=at,
                who=who,
                action=verdict,
                resource=_decoded(kind, document),
            )
            for generation, revision, at, who, verdict, *document in rows
        ]

    def past(self, kind: str, name: str, generation: int = 0) -> Resource:
        """A resource as it was declared in a generation, to be applied again.

        Args:
            kind: Of the resource.
            name: Of the resource.
            generation: 0: the one before what is there now; the last there was, where it was deleted.

        Raises:
            NotFound: that generation is not kept.
        """
        found = self.history(kind, name)
        declared = [each for each in found if each.action != "deleted"]
        if not generation:
            now = self._resources.get((kind, name))
            current = now.metadata.generation if now is not None else found[0].generation + 1
            declared = [each for each in declared if each.generation < current]
        else:
            declared = [each for each in declared if each.generation == generation]
        if not declared:
            kept = ", ".join(str(each.generation) for each in found if each.action != "deleted") or "none"
            wanted = f"generation {generation}" if generation else "a generation before this one"
            raise NotFound(f"{kind} '{name}': {wanted} is not kept; kept are: {kept}")
        old = declared[0].resource
        meta = Metadata(
            name=name,
            namespace=old.metadata.namespace,
            labels=old.metadata.labels,
            annotations=old.metadata.annotations,
        )
        return msgspec.structs.replace(old, metadata=meta)

    # -- what became of it --

    def write_statuses(self, statuses: Mapping[Key, tuple[str, Status]]) -> None:
        """Write what became of resources; of one that was deleted, or made anew since, nothing is written.

        Args:
            statuses: By resource, its uid, and its status. `revision` and `notes` are the declaration's own and are
                kept as they are.
        """
        with self._mutex:
            fresh: dict[Key, Resource] = {}
            durable = False
            version = self._version
            for key, (uid, status) in statuses.items():
                before = self._resources.get(key)
                if before is None or before.metadata.uid != uid:
                    continue
                old = before.status
                settled = msgspec.structs.replace(status, revision=old.revision, notes=old.notes)
                if settled == old:
                    continue
                # Which revision has the traffic, and how far a rollout is, cannot be found out again.
                durable = durable or settled.ready_revision != old.ready_revision or _progressed(old, settled)
                version += 1
                meta = msgspec.structs.replace(before.metadata, resource_version=version)
                fresh[key] = msgspec.structs.replace(before, metadata=meta, status=settled)
            if not fresh:
                return
            revisions = dict(self._revisions)
            obsolete: list[tuple[str, int]] = []
            for each in fresh.values():
                if each.kind == "Model":
                    obsolete += _obsolete(each, revisions.get(each.metadata.name, {}))
            rows = [(*key, _encode(each.status), each.metadata.resource_version) for key, each in fresh.items()]
            with self._writing(durable=durable) as database:
                database.executemany("INSERT OR REPLACE INTO statuses VALUES (?,?,?,?)", rows)
                database.executemany("DELETE FROM revisions WHERE name = ? AND number = ?", obsolete)
                _count(database, version)
            for name, number in obsolete:
                revisions[name] = {other: kept for other, kept in revisions[name].items() if other != number}
            self._resources = self._resources | fresh
            self._revisions = revisions
            self._version = version

    # -- what happened --

    def learnt(self) -> dict[str, Any]:
        """What routers of pipelines have learnt, by pipeline, as it was last kept."""
        with self._mutex:
            rows = self._open().execute("SELECT name, state FROM learnt").fetchall()
        return {name: msgspec.json.decode(state) for name, state in rows}

    def keep_learnt(self, states: Mapping[str, Any]) -> None:
        """Keep what routers have learnt; what was kept of other pipelines goes."""
        rows = [(name, _encode(state)) for name, state in states.items()]
        with self._writing(durable=False) as database:
            database.execute("DELETE FROM learnt")
            database.executemany("INSERT INTO learnt (name, state) VALUES (?,?)", rows)

    def record(self, events: Iterable[Event]) -> None:
        """Keep events; one that is as the last of its resource is counted there."""
        with self._mutex:
            added = list(events)
            if not added:
                return
            with self._writing(durable=False) as database:
                for new in added:
                    last = self._last_event.get(new.key)
                    event = happenings.merged(last, new)
                    row = (event.kind, event.name, _encode(event))
                    if event.id:
                        database.execute("UPDATE events SET event = ? WHERE id = ?", (row[2], event.id))
                    else:
                        written = database.execute("INSERT INTO events (kind, name, event) VALUES (?,?,?)", row)
                        event = msgspec.structs.replace(event, id=written.lastrowid or 0)
                        self._trim_events(database, event)
                    self._last_event[new.key] = event
            for new in added:
                self.heard(new)

    def _trim_events(self, database: sqlite3.Connection, event: Event) -> None:
        if event.id % 64:
            return
        database.execute("DELETE FROM events WHERE id <= ?", (event.id - happenings.KEPT,))
        old = "SELECT id FROM events WHERE kind = ? AND name = ? ORDER BY id DESC LIMIT -1 OFFSET ?"
        database.execute(f"DELETE FROM events WHERE id IN ({old})", (*event.key, happenings.KEPT_EACH))  # noqa: S608 - ours

    def events(self, kind: str = "", name: str = "", *, limit: int = happenings.KEPT_EACH) -> list[Event]:
        """What happened, newest first: to all, to those of a kind, or to one resource."""
        wanted = [(column, value) for column, value in (("kind", kind), ("name", name)) if value]
        where = " AND ".join(f"{column} = ?" for column, _ in wanted)
        query = f"SELECT id, event FROM events {'WHERE ' + where if where else ''} ORDER BY id DESC LIMIT ?"  # noqa: S608 - ours
        with self._mutex:
            rows = self._open().execute(query, (*(value for _, value in wanted), limit)).fetchall()
        return [msgspec.structs.replace(_EVENT.decode(event), id=number) for number, event in rows]

    def since(self, version: int) -> tuple[list[Resource], list[Key]] | None:
        """What changed after a resource version: what is there, and what was deleted; None: too long ago to say."""
        with self._mutex:
            if not self._known_from <= version <= self._version:
                return None
            changed = [each for each in self.all() if each.metadata.resource_version > version]
            return changed, [key for at, key in self._gone if at > version and key not in self._resources]


_TRIM: Final = "DELETE FROM history WHERE kind = ? AND name = ? AND generation <= ?"


def _carried_over(made: Resource, before: Resource | None, version: int) -> Resource:
    """A declaration that was prepared, with the status that its resource has by now."""
    status = made.status
    if before is not None:
        status = msgspec.structs.replace(before.status, revision=status.revision, notes=status.notes)
    metadata = msgspec.structs.replace(made.metadata, resource_version=version)
    return msgspec.structs.replace(made, metadata=metadata, status=status)


def _resolved(spec: Model, past: Model) -> Resolved | None:
    """What a uri stands for is written by who follows it: a declaration that leaves it out does not forget it, and one
    that was made of what stood here, with another uri in it, does not take it along.
    """
    if spec.uri == past.uri:
        return spec.resolved or past.resolved
    return None if spec.resolved == past.resolved else spec.resolved


def _revises(spec: Model, base: str, before: Resource) -> bool:
    past = before.spec
    if not isinstance(past, Model):
        return True
    if past.uri == spec.uri and past.resolved is None:  # the first look at a uri changes nothing of what it stood for
        past = msgspec.structs.replace(past, resolved=spec.resolved)
    return (plan.loaded(spec), base) != (plan.loaded(past), before.base)


def _progressed(before: Status, after: Status) -> bool:
    old, new = before.details.get("progress"), after.details.get("progress")
    return old != new and (old is None or new is None or _place(old) != _place(new))


def _place(progress: Any) -> Any:
    """What of a rollout's progress must survive: where it is, not what it counted."""
    return [progress.get(each) for each in ("of", "step", "weight", "since", "state", "attempt")]


def _obsolete(model: Resource, revisions: Mapping[int, Revision]) -> list[tuple[str, int]]:
    """Revisions that nobody can need: the oldest beyond what history keeps, but the one with the traffic."""
    kept = sorted(revisions)[-HISTORY_KEPT:]
    needed = {model.status.ready_revision, model.status.revision, *kept}
    return [(model.metadata.name, number) for number in revisions if number not in needed]


def _change(resource: Resource, verdict: Verdict) -> Change:
    return Change(
        kind=resource.kind,
        name=resource.metadata.name,
        action=verdict,
        generation=resource.metadata.generation,
        revision=resource.status.revision,
        notes=resource.notes,
    )


def _count(database: sqlite3.Connection, version: int) -> None:
    database.execute("INSERT OR REPLACE INTO counters VALUES ('version', ?)", (version,))


# -- resource <-> columns --

_encode: Final = msgspec.json.Encoder(enc_hook=encodable).encode
_STATUS: Final = msgspec.json.Decoder(Status)
_EVENT: Final = msgspec.json.Decoder(Event)
_MODEL: Final = msgspec.json.Decoder(Model)
_METADATA: Final = msgspec.json.Decoder(Metadata)
_NOTES: Final = msgspec.json.Decoder(tuple[str, ...])
_SPECS: Final[Mapping[str, msgspec.json.Decoder[Spec]]] = {
    kind: msgspec.json.Decoder(spec) for kind, spec in KINDS.items()
}


def _encoded(resource: Resource) -> tuple[bytes, bytes, str, str, bytes]:
    notes = _encode(resource.notes)
    return _encode(resource.metadata), _encode(resource.spec), resource.origin, resource.base, notes


def _decoded(kind: str, document: Sequence[Any]) -> Resource:
    metadata, spec, origin, base, notes = document
    return Resource(
        kind=kind,
        metadata=_METADATA.decode(metadata),
        spec=_SPECS[kind].decode(spec),
        origin=origin,
        base=base,
        notes=_NOTES.decode(notes),
    )
