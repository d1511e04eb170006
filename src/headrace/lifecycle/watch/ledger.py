"""What is known of every object, and what became of it: a SQLite file that several watchers of one machine may share.

An object is a uri and an etag. Its states, and who moves it:

    pending -> running -> done          answered; its output stands
                       -> pending       it changed while it was read, its store was away, its watcher was killed
                       -> failed        tried again later -> running
                       -> dead          it can never be answered, or was tried often enough
                       -> gone          it was deleted before it was read
                       -> superseded    it was replaced before it was read; what replaced it has a row of its own
    skipped                             it was there before the watcher began, and is to be left alone

Laws: of one uri at most one row is running; a row that is done becomes pending again only when another etag of its uri
was done after it and somebody saw it back (A, then B, then A again); what a watcher that no longer lives was running is
pending. That a watcher lives is a lock on a file beside the ledger, which a kill lets go of at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, Literal, Self, get_args

import msgspec

from headrace.errors import SettingsError, Temporary
from headrace.lifecycle.batch.base import Outcome
from headrace.lifecycle.watch.events import Malformed, ObjectCreated

State = Literal["pending", "running", "done", "failed", "dead", "gone", "superseded", "skipped"]

SCHEMA: Final = 1
_TABLES: Final = """
CREATE TABLE objects (
    uri TEXT NOT NULL, etag TEXT NOT NULL, bucket TEXT NOT NULL, size INTEGER NOT NULL, event_id TEXT NOT NULL,
    source TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
    owner TEXT NOT NULL DEFAULT '', output TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '',
    outcome BLOB, seen REAL NOT NULL, updated REAL NOT NULL,
    PRIMARY KEY (uri, etag)
);
CREATE INDEX objects_open ON objects (not_before) WHERE state IN ('pending', 'failed');
CREATE INDEX objects_running ON objects (uri) WHERE state = 'running';
CREATE TABLE latest (uri TEXT PRIMARY KEY, etag TEXT NOT NULL);
CREATE TABLE begun (at REAL NOT NULL);
CREATE TABLE letters (id INTEGER PRIMARY KEY, received REAL NOT NULL, source TEXT NOT NULL, reason TEXT NOT NULL,
                      text TEXT NOT NULL)
"""
_COLUMNS: Final = (
    "uri, etag, bucket, size, event_id, source, state, attempts, not_before, output, error, outcome, seen, updated"
)
_BUSY_SECONDS: Final = 30.0
_LETTERS_KEPT: Final = 10_000
_ALONE: Final = ".lock"
_OUTCOME: Final = msgspec.json.Decoder(Outcome)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One object, as the ledger knows it."""

    uri: str
    etag: str
    """Empty: who told of it did not say; it is asked for before it is read."""
    bucket: str
    size: int
    """Bytes; -1: not known."""
    event_id: str
    source: str
    """Who told of it first: `poll`, `webhook`, `sqs`, `kafka`."""
    state: State
    attempts: int
    """That failed."""
    not_before: float
    """When it may be tried again; seconds since the epoch."""
    output: str
    """Uri of what was written; empty: nothing yet."""
    error: str
    """Of the last try; empty: there was none."""
    outcome: Outcome | None
    seen: float
    """When it was heard of; seconds since the epoch."""
    updated: float
    """When its state changed; seconds since the epoch."""

    @property
    def key(self) -> str:
        """The object's, in its bucket."""
        return self.uri.removeprefix(f"{self.bucket}/")


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that nobody understood."""

    received: float
    """Seconds since the epoch."""
    source: str
    reason: str
    text: str
    """As it came, shortened."""


class Ledger:
    """The ledger in one file. Methods may be called from several threads, and by several processes at once.

    Args:
        path: The file; it is made where there is none.
        clock: Seconds since the epoch.
    """

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.owner = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._clock = clock
        self._mutex = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._alive: BinaryIO | None = None

    def __repr__(self) -> str:
        return f"<Ledger {self.path}{'' if self._database else ', closed'}>"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- open, close --

    def open(self, *, reading: bool = False) -> None:
        """Open the file.

        Args:
            reading: Only to look at it: it must be there, and nothing is running here.

        Raises:
            SettingsError: it is not ours, is broken, or cannot be written.
        """
        if reading and not self.path.exists():
            raise SettingsError(
                f"there is no ledger at {self.path}; name the one that the watcher writes with --ledger"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                if not reading:
                    self._alive = _locked(self._owners / self.owner, wait=False)
                self._database = sqlite3.connect(
                    self.path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS
                )
                self._migrate(self._database)
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise SettingsError(
                f"the ledger {self.path} cannot be used: {error}. Choose another file with --ledger; with a new one, "
                "objects whose output stands are looked at again and not answered again"
            ) from error
        except SettingsError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; what runs is for others from now on. A second time does nothing."""
        with self._mutex:
            if self._database is not None:
                with contextlib.suppress(sqlite3.Error):  # a broken file closes as well as it can
                    self._database.close()
                self._database = None
            if self._alive is not None:
                (self._owners / self.owner).unlink(missing_ok=True)
                self._alive.close()
                self._alive = None

    @property
    def _owners(self) -> Path:
        return self.path.with_name(f"{self.path.name}.watchers")

    def _alone(self) -> BinaryIO:
        """Of all watchers, one at a time begins, or looks which others live."""
        return _locked(self._owners / _ALONE, wait=True)

    def _migrate(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")  # an event is acknowledged because it stands here
        database.execute("BEGIN IMMEDIATE")
        (found,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if found > SCHEMA:
            raise SettingsError(
                f"the ledger {self.path} was written by a newer version of Headrace (its schema is {found}, ours is "
                f"{SCHEMA}); run that version, or choose another file with --ledger"
            )
        if found == 0 and tables:
            raise SettingsError(f"{self.path} is a database, but no ledger; choose another file with --ledger")
        if found == 0:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version={SCHEMA}")
        database.execute("COMMIT")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            database = self._open()
            try:
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
            except BaseException as error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):  # a full disk, or a lock held for too long
                    raise Temporary(f"the ledger {self.path} cannot be written: {error}; nothing was kept") from error
                raise

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            raise Temporary(f"the ledger {self.path} is closed: the watcher stops")
        return self._database

    # -- what is heard --

    def has_begun(self) -> bool:
        """Whether `begin` was called, by whichever watcher."""
        with self._mutex:
            return self._open().execute("SELECT 1 FROM begun").fetchone() is not None

    def begin(self) -> None:
        """Remember that what is to be left alone is known.

        Raises:
            Temporary: it was not kept.
        """
        with self._writing() as database:
            database.execute("INSERT INTO begun (at) VALUES (?)", (self._clock(),))

    def add(self, events: Iterable[ObjectCreated], *, source: str, state: State = "pending") -> int:
        """Keep what was heard. When this returns, it is on disk.

        Args:
            events: Of objects; those that are known already change nothing.
            source: Who tells.
            state: `skipped` for what is to be left alone: a watcher that begins with what comes from now on.

        Returns:
            How many of them are new, or are back after something else was in their place.

        Raises:
            Temporary: nothing was kept.
        """
        now = self._clock()
        fresh = 0
        with self._writing() as database:
            for event in events:
                row = (event.uri, event.etag, event.bucket, event.size, event.event_id, source, state, now, now)
                fresh += database.execute(
                    "INSERT INTO objects (uri, etag, bucket, size, event_id, source, state, seen, updated) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uri, etag) DO UPDATE SET "
                    "state = excluded.state, attempts = 0, not_before = 0, error = '', updated = excluded.updated "
                    "WHERE excluded.state = 'pending' AND (state IN ('gone', 'superseded') OR (state = 'done' "
                    "AND etag <> (SELECT etag FROM latest WHERE latest.uri = objects.uri)))",
                    row,
                ).rowcount
        return fresh

    def letter(self, malformed: Malformed, *, source: str) -> None:
        """Keep a message that nobody understood. The oldest go when there are too many.

        Raises:
            Temporary: it was not kept.
        """
        with self._writing() as database:
            database.execute(
                "INSERT INTO letters (received, source, reason, text) VALUES (?, ?, ?, ?)",
                (self._clock(), source, malformed.reason, malformed.text),
            )
            database.execute(
                "DELETE FROM letters WHERE id <= (SELECT max(id) FROM letters) - ?",
                (_LETTERS_KEPT,),
            )

    # -- what is done --

    def take(self) -> Row | None:
        """The next object to answer, running from now on; None: there is none now.

        Raises:
            Temporary: the file cannot be written.
        """
        now = self._clock()
        with self._writing() as database:
            found = database.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE state IN ('pending', 'failed') AND not_before <= ? AND NOT EXISTS "  # noqa: S608, E501 - ours
                "(SELECT 1 FROM objects AS other WHERE other.uri = objects.uri AND other.state = 'running') "
                "ORDER BY not_before, seen, rowid LIMIT 1",
                (now,),
            ).fetchone()
            if found is None:
                return None
            row = msgspec.structs.replace(_row(found), state="running", updated=now)
            database.execute(
                "UPDATE objects SET state = 'running', owner = ?, updated = ? WHERE uri = ? AND etag = ?",
                (self.owner, now, row.uri, row.etag),
            )
            return row

    def identify(self, row: Row, etag: str, size: int) -> Row | None:
        """What is there now has this etag: the row of that object, running; None: there is nothing to be done with it.

        Args:
            row: As taken; when its etag was another, it is superseded.
            etag: Of the object as it stands.
            size: Of the object as it stands.

        Raises:
            Temporary: nothing was kept.
        """
        if row.etag == etag:
            return row
        now = self._clock()
        with self._writing() as database:
            if row.etag:
                database.execute(
                    "UPDATE objects SET state = 'superseded', owner = '', updated = ? WHERE uri = ? AND etag = ?",
                    (now, row.uri, row.etag),
                )
            else:
                database.execute("DELETE FROM objects WHERE uri = ? AND etag = ''", (row.uri,))
            known = database.execute(
                "SELECT state, etag = (SELECT etag FROM latest WHERE latest.uri = objects.uri) FROM objects "
                "WHERE uri = ? AND etag = ?",
                (row.uri, etag),
            ).fetchone()
            if known is not None and (known[0] == "dead" or (known[0] == "done" and known[1])):
                return None
            taken = msgspec.structs.replace(row, etag=etag, size=size, attempts=0, error="", updated=now)
            database.execute(
                "INSERT INTO objects (uri, etag, bucket, size, event_id, source, state, owner, seen, updated) "
                "VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?) ON CONFLICT (uri, etag) DO UPDATE SET "
                "state = 'running', owner = excluded.owner, attempts = 0, error = '', updated = excluded.updated",
                (row.uri, etag, row.bucket, size, row.event_id, row.source, self.owner, row.seen, now),
            )
            return taken

    def settle(
        self,
        row: Row,
        state: State,
        *,
        error: str = "",
        outcome: Outcome | None = None,
        output: str = "",
        attempts: int | None = None,
        after_seconds: float = 0.0,
    ) -> None:
        """Say what became of a row that was running here.

        Args:
            row: As taken.
            state: From now on.
            error: Of this try.
            outcome: What was done.
            output: Uri of what was written.
            attempts: That failed; None: as many as before.
            after_seconds: How long it is to be left alone.

        Raises:
            Temporary: the file cannot be written; say it again.
        """
        now = self._clock()
        with self._writing() as database:
            changed = database.execute(
                "UPDATE objects SET state = ?, error = ?, outcome = coalesce(?, outcome), attempts = ?, updated = ?, "
                "output = CASE WHEN ? = '' THEN output ELSE ? END, not_before = ?, owner = '' "
                "WHERE uri = ? AND etag = ? AND state = 'running' AND owner = ?",
                (
                    state,
                    error,
                    None if outcome is None else msgspec.json.encode(outcome),
                    row.attempts if attempts is None else attempts,
                    now,
                    output,
                    output,
                    now + after_seconds if after_seconds else 0.0,
                    row.uri,
                    row.etag,
                    self.owner,
                ),
            ).rowcount
            if changed and state == "done":
                database.execute(
                    "INSERT INTO latest (uri, etag) VALUES (?, ?) ON CONFLICT (uri) DO UPDATE SET etag = excluded.etag",
                    (row.uri, row.etag),
                )

    def recover(self) -> frozenset[str]:
        """Make pending what was running in watchers that are no more. Who they were.

        Raises:
            Temporary: the file cannot be written.
        """
        gone: set[str] = set()
        with self._mutex, self._alone():
            found = self._open().execute("SELECT DISTINCT owner FROM objects WHERE owner <> ''")
            owners = {owner for (owner,) in found} | {each.name for each in self._owners.iterdir()}
            for owner in owners - {self.owner, _ALONE}:
                try:
                    lock = _locked(self._owners / owner, wait=False)
                except BlockingIOError:
                    continue  # it lives
                with lock, self._writing() as database:
                    database.execute(
                        "UPDATE objects SET state = 'pending', owner = '', not_before = 0, updated = ? "
                        "WHERE owner = ? AND state = 'running'",
                        (self._clock(), owner),
                    )
                (self._owners / owner).unlink(missing_ok=True)
                gone.add(owner)
        return frozenset(gone)

    def revive(self) -> int:
        """Give those that are dead another try. How many they are.

        Raises:
            Temporary: the file cannot be written.
        """
        with self._writing() as database:
            return database.execute(
                "UPDATE objects SET state = 'pending', attempts = 0, not_before = 0, updated = ? WHERE state = 'dead'",
                (self._clock(),),
            ).rowcount

    # -- what is known --

    def wait_seconds(self) -> float | None:
        """How long until a row may be taken, as far as is known now; None: no row waits."""
        with self._mutex:
            (at,) = (
                self._open()
                .execute("SELECT min(not_before) FROM objects WHERE state IN ('pending', 'failed')")
                .fetchone()
            )
        return None if at is None else max(0.0, at - self._clock())

    def counts(self) -> Mapping[State, int]:
        """Rows by state; every state is there."""
        with self._mutex:
            found = dict(self._open().execute("SELECT state, count(*) FROM objects GROUP BY state").fetchall())
        return MappingProxyType({state: found.get(state, 0) for state in get_args(State)})

    def rows(self, *states: State, limit: int = -1) -> Sequence[Row]:
        """Rows, those that changed last first.

        Args:
            states: Only these; none named: all.
            limit: The most; -1: all.
        """
        wanted = states or get_args(State)
        marks = ", ".join("?" for _ in wanted)
        with self._mutex:
            found = self._open().execute(
                f"SELECT {_COLUMNS} FROM objects WHERE state IN ({marks}) ORDER BY updated DESC, uri LIMIT ?",  # noqa: S608 - ours
                (*wanted, limit),
            )
            return [_row(each) for each in found]

    def letters(self, *, limit: int = -1) -> Sequence[Letter]:
        """Messages that nobody understood, the newest first."""
        with self._mutex:
            found = self._open().execute(
                "SELECT received, source, reason, text FROM letters ORDER BY id DESC LIMIT ?", (limit,)
            )
            return [
                Letter(received=received, source=source, reason=reason, text=text)
                for received, source, reason, text in found
            ]


def _row(found: Sequence[object]) -> Row:
    named = dict(zip(_COLUMNS.split(", "), found, strict=True))
    outcome = named.pop("outcome")
    decoded = _OUTCOME.decode(outcome) if isinstance(outcome, bytes) else None
    return msgspec.convert({**named, "outcome": decoded}, Row)


def _locked(path: Path, *, wait: bool) -> BinaryIO:
    """The file, locked until it is closed or the process ends. Raises BlockingIOError where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        file.close()
        raise
    return file
