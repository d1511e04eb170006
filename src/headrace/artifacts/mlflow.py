"""Models of MLflow: `models:/`, `runs:/` and `mlflow-artifacts:/`, as `artifacts.registry` opens them. MLflow itself is
not imported.

What a uri of models or runs stands for is asked of the store in MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI, once for
each source: one that was asked stays with what it was told, another one looks again. Files are where the store says:
behind the tracking server (`mlflow-artifacts:`), or in a store of another scheme, which opens them.

A registered version is taken to be what it was: MLflow does not let its source be changed, and whoever overwrites its
files in place is not seen. Another version behind an alias is, and so is a number given again after it was deleted.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, unquote

import msgspec

from headrace.artifacts import mlflow_stores
from headrace.artifacts import uri as uris
from headrace.artifacts.base import Entry, Pinned, Ranged, Source
from headrace.artifacts.credentials import Credentials
from headrace.artifacts.mlflow_stores import Logged, Server, Store, Version
from headrace.artifacts.rest import Rest, origin_of
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    SettingsError,
)

ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"
_MODEL_ID: Final = re.compile(r"m-[0-9a-f]{32}")
_MOST_FILES: Final = 100_000
_MOST_DEPTH: Final = 64
_MOST_STEPS: Final = 4
"""A version may be a copy of another one, that of a logged model."""


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A `models:` uri taken apart: a logged model, or a registered one with one of number, stage, alias."""

    model_id: str = ""
    name: str = ""
    number: str = ""
    alias: str = ""
    stage: str = ""
    """As it stands there; none of these three: the newest of all."""
    path: str = ""
    """Below the model's folder."""


def named(uri: str) -> Named:
    """Take a `models:` uri apart. Names are as they stand there, as MLflow has them: `%20` is no blank.

    Raises:
        SettingsError: it is none.
    """
    rest = uri.partition(":")[2]
    if rest.startswith("//"):
        raise SettingsError(
            f"{uris.shown(uri)!r}: a uri of models names no host: models:/NAME/VERSION; set MLFLOW_TRACKING_URI to the "
            "server's address"
        )
    first, _, more = rest.lstrip("/").partition("/")
    name, at, alias = first.rpartition("@")
    if at and name and alias:
        return Named(name=name, alias=alias, path=more.strip("/"))
    second, _, path = more.partition("/")
    if _MODEL_ID.fullmatch(first):
        return Named(model_id=first, path=more.strip("/"))
    if not first or at or not second.strip():
        raise SettingsError(
            f"{uri!r}: expected models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest, models:/NAME/STAGE or "
            "models:/m-ID"
        )
    path = path.strip("/")
    if second.isdigit():
        return Named(name=first, number=second, path=path)
    if second.lower() == "latest":
        return Named(name=first, path=path)
    return Named(name=first, stage=second, path=path)


def open_models(uri: str, *, settings: ArtifactSettings, credentials: Credentials) -> Source:
    """The source of a `models:` uri, as of `registry.SCHEMES`."""
    wanted = named(uri)
    variables = credentials.variables
    asked = _store(variables, settings, registry=not wanted.model_id)
    return Resolved(
        uri,
        store=asked,
        resolve=lambda: _model(uri, wanted, asked),
        open_location=_opener(asked, settings, credentials),
    )


def open_runs(uri: str, *, settings: ArtifactSettings, credentials: Credentials) -> Source:
    """The source of a `runs:` uri, as of `registry.SCHEMES`."""
    run_id, _, path = uri.partition(":")[2].lstrip("/").partition("/")
    if not run_id or uri.partition(":")[2].startswith("//"):
        raise SettingsError(f"{uris.shown(uri)!r}: expected runs:/RUN_ID/PATH")
    asked = _store(credentials.variables, settings, registry=False)
    return Resolved(
        uri,
        store=asked,
        resolve=lambda: _run(uri, run_id, path.strip("/"), asked),
        open_location=_opener(asked, settings, credentials),
    )


def open_artifacts(uri: str, *, settings: ArtifactSettings, credentials: Credentials) -> Source:
    """The source of an `mlflow-artifacts:` uri, as of `registry.SCHEMES`: with or without the host of a server."""
    tracking = credentials.variables.get("MLFLOW_TRACKING_URI", "")
    return _behind_server(uri, uri, tracking, settings, credentials.variables)


class _Stands(msgspec.Struct, frozen=True, kw_only=True):
    """What a uri stands for."""

    pinned: Pinned | None
    """None: what the files themselves say."""
    location: Callable[[], str]


class _Open(Protocol):
    def __call__(self, location: str, uri: str) -> Source: ...


class Resolved:
    """Files that another uri names, which a store of MLflow's knows.

    Args:
        uri: That was asked for, for messages.
        store: Let go of at the end.
        resolve: Asks it what the uri stands for.
        open_location: Opens what it says.
    """

    def __init__(self, uri: str, *, store: Store, resolve: Callable[[], _Stands], open_location: _Open) -> None:
        self._uri, self._store, self._resolve, self._open_location = uri, store, resolve, open_location
        self._stands: _Stands | None = None
        self._inner: Source | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Resolved({self._uri!r}, {self._store.name})"

    def pin(self) -> Pinned:
        """As of Source."""
        stands = self._asked()
        return stands.pinned or msgspec.structs.replace(self._files().pin(), uri=self._uri)

    def entries(self) -> Sequence[Entry]:
        """As of Source."""
        return self._files().entries()

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[bytes | memoryview]:
        """As of Source."""
        return self._files().read(entry, start=start)

    @property
    def ranges(self) -> bool:
        """As of Ranged."""
        files = self._files()
        return isinstance(files, Ranged) and files.ranges

    def read_range(self, entry: Entry, *, start: int, end: int) -> Iterator[bytes | memoryview]:
        """As of Ranged."""
        files = self._files()
        if not isinstance(files, Ranged):
            raise ArtifactFailed(f"{self._uri}: its store sends no parts of files")
        return files.read_range(entry, start=start, end=end)

    def close(self) -> None:
        """As of Source."""
        if self._inner is not None:
            self._inner.close()
        self._store.close()

    def _asked(self) -> _Stands:
        with self._lock:
            if self._stands is None:
                try:
                    self._stands = self._resolve()
                except ArtifactFailed as exc:
                    if str(exc).startswith(f"{self._uri}: "):
                        raise
                    heals = isinstance(exc, ArtifactUnreachable)
                    hint = "; is the server up, and its address in MLFLOW_TRACKING_URI right?" if heals else ""
                    raise type(exc)(f"{self._uri}: {exc}{hint}") from exc
            return self._stands

    def _files(self) -> Source:
        stands = self._asked()
        with self._lock:
            if self._inner is None:
                self._inner = self._open_location(stands.location(), self._uri)
            return self._inner


class Proxied:
    """Files that a tracking server hands out.

    Args:
        rest: Asks it.
        path: Below the server's root of artifacts.
        shown: The uri, for messages.
        parallel: Questions at the same time.
    """

    def __init__(self, rest: Rest, path: str, *, shown: str, parallel: int) -> None:
        self._rest, self._path, self._shown, self._parallel = rest, path.strip("/"), shown, parallel
        self._here = f" of {self._path}"
        """Ends our etags. MLflow makes its own of a file's size and time, which another version's may share."""
        self._is_file = False
        self._ranges = False

    def __repr__(self) -> str:
        return f"Proxied({self._shown!r}, {self._rest.origin})"

    def pin(self) -> Pinned:
        """As of Source: MLflow keeps no versions of artifacts, so the token is a digest over paths, sizes and etags."""
        listed = sorted((entry.path, entry.size, entry.etag) for entry in self.entries())
        return Pinned(uri=self._shown, token=_digest(listed))

    def entries(self) -> Sequence[Entry]:
        """As of Source."""
        found = list(self._below("", 0))
        if not found:
            folder, _, name = self._path.rpartition("/")
            found = [entry for entry in self._listed(folder)[0] if entry.path == name]
            self._is_file = bool(found)
        if not found:
            raise ArtifactNotFound(f"{self._shown}: {self._rest.origin} has no artifacts there")
        return self._with_etags(found)

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[bytes | memoryview]:
        """As of Source."""
        return self.read_range(entry, start=start, end=-1)

    @property
    def ranges(self) -> bool:
        """As of Ranged: a server whose files are in a bucket sends whole ones only."""
        return self._ranges

    def read_range(self, entry: Entry, *, start: int, end: int) -> Iterator[bytes | memoryview]:
        """As of Ranged."""
        etag = entry.etag.removesuffix(self._here)
        return self._rest.read(self._url(entry), start=start, end=end, size=entry.size, etag=etag)

    def close(self) -> None:
        """As of Source."""
        self._rest.close()

    def _below(self, folder: str, depth: int) -> Iterator[Entry]:
        if depth > _MOST_DEPTH:
            raise ArtifactCorrupt(f"{self._shown}: has folders within folders, more than {_MOST_DEPTH} deep")
        files, folders = self._listed(uris.join(self._path, folder) if folder and self._path else folder or self._path)
        for entry in files:
            yield msgspec.structs.replace(entry, path=f"{folder}/{entry.path}" if folder else entry.path)
        for name in folders:
            yield from self._below(f"{folder}/{name}" if folder else name, depth + 1)

    def _listed(self, path: str) -> tuple[list[Entry], list[str]]:
        """Files and folders right below a path of the server's."""
        answer = self._rest.ask(ARTIFACTS, query={"path": path} if path else None)
        if answer.status != 200:
            raise self._rest.failed(answer, self._shown)
        found = answer.json()
        listed = found.get("files", ()) if isinstance(found, dict) else None
        if listed is None or len(listed) > _MOST_FILES:
            raise ArtifactCorrupt(f"{self._shown}: expected a list of at most {_MOST_FILES} files")
        files, folders = [], []
        for each in listed:
            name = str(each.get("path", ""))
            if name in {"", ".", ".."} or "/" in name or "\0" in name:
                raise ArtifactCorrupt(f"{self._shown}: {name!r} is no name of a file")
            if each.get("is_dir"):
                folders.append(name)
            else:
                files.append(Entry(path=name, size=int(each.get("file_size", -1))))
        return files, folders

    def _with_etags(self, found: list[Entry]) -> Sequence[Entry]:
        """With what tells that a file is another one by now, where the server has it at hand: it has for files of its
        own disk; those of a bucket it would fetch whole to answer, so only the smallest is asked for.
        """
        smallest = min(found, key=lambda entry: entry.size if entry.size > 0 else 1 << 62)
        self._ranges = self._rest.head(self._url(smallest)).ranges
        if not self._ranges:
            return found
        with ThreadPoolExecutor(min(self._parallel, len(found))) as threads:
            heads = list(threads.map(self._rest.head, map(self._url, found)))
        return [
            msgspec.structs.replace(entry, etag=etag + self._here if (etag := head.headers.get("etag", "")) else "")
            for entry, head in zip(found, heads, strict=True)
        ]

    def _url(self, entry: Entry) -> str:
        path = self._path if self._is_file else f"{self._path}/{entry.path}" if self._path else entry.path
        return f"{ARTIFACTS}/{quote(path)}"


def _model(uri: str, wanted: Named, store: Store) -> _Stands:
    """What a `models:` uri stands for now."""
    if wanted.model_id:
        return _logged_model(_ready(store.logged(wanted.model_id), uri), wanted.path)
    try:
        version = _version(wanted, store)
    except ArtifactNotFound as exc:
        raise ArtifactNotFound(f"{uri}: {exc}{_instead(wanted, store)}") from exc
    if version.status.startswith("PENDING"):
        raise ArtifactUnreachable(f"{uri}: version {version.number} is being registered; it is not ready yet")
    if version.status.startswith("FAILED"):
        raise ArtifactNotFound(f"{uri}: version {version.number} failed to register; register the model again")
    return _Stands(
        pinned=Pinned(
            uri=uris.join(f"models:/{version.name}/{version.number}", wanted.path),
            token=_digest([version.name, version.number, version.created, version.source, version.run_id, wanted.path]),
            version=version.number,
        ),
        location=lambda: uris.join(store.location(version), wanted.path),
    )


def _version(wanted: Named, store: Store) -> Version:
    if wanted.number:
        return store.version(wanted.name, str(int(wanted.number)))
    if wanted.alias:
        return store.aliased(wanted.name, wanted.alias)
    if not wanted.stage:
        return store.newest(wanted.name, None)
    stage = mlflow_stores.stage_named(wanted.stage)
    if stage is None:
        raise ArtifactNotFound(
            f"{wanted.stage!r} is neither a version nor a stage; if it is an alias, write "
            f"models:/{wanted.name}@{wanted.stage}"
        )
    return store.newest(wanted.name, stage)


def _instead(wanted: Named, store: Store) -> str:
    """What there is of a model, for messages; empty when that cannot be told either."""
    try:
        there = store.registered(wanted.name)
    except ArtifactFailed:
        return ""
    aliases = ", ".join(f"{alias} (version {number})" for alias, number in sorted(there.aliases.items()))
    newest = f"its newest version is {there.newest}" if there.newest else "it has no version"
    return f"; {newest}, its aliases: {aliases or 'none'}"


def _logged_model(logged: Logged, path: str) -> _Stands:
    return _Stands(
        pinned=Pinned(
            uri=uris.join(f"models:/{logged.model_id}", path), token=_digest([logged.model_id, logged.location, path])
        ),
        location=lambda: uris.join(logged.location, path),
    )


def _ready(logged: Logged, uri: str) -> Logged:
    if logged.status == "PENDING":
        raise ArtifactUnreachable(f"{uri}: is still being logged; it is ready when its run has logged all of it")
    if logged.status.endswith("FAILED"):
        raise ArtifactNotFound(f"{uri}: was not logged whole, says MLflow; log the model again")
    return logged


def _run(uri: str, run_id: str, path: str, store: Store) -> _Stands:
    """What a `runs:` uri stands for: a model that the run logged (MLflow 3), or else artifacts of the run."""
    name, _, below = path.partition("/")
    logged = store.logged_by(run_id, name) if name else None
    if logged is not None:
        return _logged_model(_ready(logged, uri), below)
    location = store.artifacts_of(run_id)
    return _Stands(pinned=None, location=lambda: uris.join(location, path))


def _store(variables: Mapping[str, str], settings: ArtifactSettings, *, registry: bool) -> Store:
    setting = "MLFLOW_TRACKING_URI"
    if registry and variables.get("MLFLOW_REGISTRY_URI"):
        setting = "MLFLOW_REGISTRY_URI"
    address = variables.get(setting, "") or _local_store()
    if not address:
        raise SettingsError(f"{setting} is not set: expected the address of an MLflow server, http://HOST:PORT")
    return mlflow_stores.open_store(
        address, environ=variables, timeout_seconds=settings.timeout_seconds, setting=setting
    )


def _local_store() -> str:
    """What MLflow itself writes to when nothing is set; empty: it has not yet."""
    if any(Path("mlruns").glob("[0-9]*/meta.yaml")):
        return "mlruns"
    return "sqlite:///mlflow.db" if Path("mlflow.db").is_file() else ""


def _opener(store: Store, settings: ArtifactSettings, credentials: Credentials) -> _Open:
    """Opens a location that a store named: not every place that a person may name is one that a registry may."""
    variables = credentials.variables
    tracking = variables.get("MLFLOW_TRACKING_URI", "")
    if isinstance(store, Server) and not tracking.startswith(("http://", "https://")):
        tracking = variables.get("MLFLOW_REGISTRY_URI", "")

    def open_location(location: str, uri: str, steps: int = 0) -> Source:
        scheme = uris.scheme_of(location)
        if not location or steps > _MOST_STEPS:
            raise ArtifactCorrupt(f"{uri}: {store.name} says no place of its files")
        if scheme == "mlflow-artifacts" or (scheme in {"http", "https"} and ARTIFACTS in location):
            return _behind_server(location, uri, tracking, settings, variables, by_store=True)
        if scheme == "models":
            stands = _model(location, named(location), store)
            return open_location(stands.location(), uri, steps + 1)
        if scheme == "runs":
            run_id, _, path = location.partition(":")[2].lstrip("/").partition("/")
            return open_location(_run(location, run_id, path, store).location(), uri, steps + 1)
        if isinstance(store, Server) and uris.is_local(location) and not Path(uris.local_path(location)).exists():
            raise ArtifactNotFound(
                f"{uri}: its files are on the disk of {store.name}, not here: {location}; start that server with "
                "--serve-artifacts, or with an artifact root in a bucket"
            )
        from headrace.artifacts import registry

        return registry.open_source(location, settings=settings, credentials=credentials)

    return open_location


def _behind_server(
    location: str,
    shown: str,
    tracking: str,
    settings: ArtifactSettings,
    variables: Mapping[str, str],
    *,
    by_store: bool = False,
) -> Source:
    """Files at `mlflow-artifacts:/PATH`, `mlflow-artifacts://HOST/PATH`, or `http(s)://HOST/.../artifacts/PATH`.

    Args:
        location: As the user or a store has it.
        shown: The uri, for messages.
        tracking: Address of the tracking server; empty: there is none.
        settings: Deadlines.
        variables: MLflow's.
        by_store: A store names it: our credentials are for the tracking server alone, whatever a model says.
    """
    is_server = tracking.startswith(("http://", "https://"))
    scheme, _, rest = location.partition(":")
    host, _, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if scheme in {"http", "https"}:
        base, _, path = location.partition(ARTIFACTS)
    elif host:
        base = f"{tracking.partition(':')[0] if is_server else 'http'}://{host}"
        if is_server and origin_of(base) == origin_of(tracking):
            base = tracking.rstrip("/")
    elif is_server:
        base = tracking.rstrip("/")
    else:
        raise SettingsError(
            f"{shown}: its files are behind an MLflow server: set MLFLOW_TRACKING_URI to its http(s) address"
        )
    path = unquote(path.removeprefix(ARTIFACTS).removeprefix(ARTIFACTS[1:]))
    is_trusted = origin_of(base) == origin_of(tracking) if is_server else not by_store
    server = mlflow_stores.server_at(
        base, environ=variables, timeout_seconds=settings.timeout_seconds, is_trusted=is_trusted
    )
    return Proxied(server, path, shown=uris.shown(shown), parallel=settings.parallel)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
