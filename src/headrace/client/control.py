"""A synchronous client of the control API, on the standard library: resources applied, looked at, waited for. The
commands of the command line call it, and programs may.

What comes back is typed here as the wire has it: a newer server may say more than is read.
"""

from __future__ import annotations

import datetime as dt
import http.client
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from headrace.client.http import address_of, error_text
from headrace.errors import (
    Conflict,
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    InvalidResources,
    ModelNotReady,
    NotFound,
    NotSupported,
    RuntimeFailed,
    SettingsError,
    Temporary,
    TooLarge,
    Unreachable,
)
from headrace.payload import EMPTY

T = TypeVar("T")

DEFAULT_URL: Final = "http://127.0.0.1:8083"
_LONGEST_WATCH_SECONDS: Final = 25.0
"""One long poll; proxies close what is silent for longer."""


class Manifest(Protocol):
    """A file of documents (`control.parse.File` is one)."""

    @property
    def name(self) -> str:
        """As messages name it."""

    @property
    def text(self) -> str:
        """YAML or JSON, several documents perhaps."""

    @property
    def base(self) -> str:
        """The folder that relative paths in it start from, absolute."""


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    pass


class Metadata(_Wire, frozen=True, kw_only=True):
    """Whose spec it is."""

    name: str
    namespace: str = "default"
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    uid: str = ""
    generation: int = 0
    resource_version: int = 0
    creation_timestamp: dt.datetime | None = None


class Condition(_Wire, frozen=True, kw_only=True):
    """One thing that is so (`True`), or not (`False`), or not known (`Unknown`)."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: dt.datetime | None = None


class Status(_Wire, frozen=True, kw_only=True):
    """What became of a spec."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    revision: int = 0
    ready_revision: int = 0
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = EMPTY


class Resource(_Wire, frozen=True, kw_only=True):
    """A declaration and what became of it."""

    api_version: str = ""
    kind: str
    metadata: Metadata
    spec: Mapping[str, Any] = EMPTY
    status: Status = Status()
    origin: str = ""
    """The foreign manifest that it was made of; empty: one of ours."""
    base: str = ""
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`model/iris`, as the command line names it."""
        return f"{self.kind.lower()}/{self.metadata.name}"

    def condition(self, kind: str = "Ready") -> Condition | None:
        """The condition of a type; None: nothing is said of it, or what is said is of an older generation."""
        if self.status.observed_generation < self.metadata.generation:
            return None
        return next((each for each in self.status.conditions if each.type.lower() == kind.lower()), None)


class Change(_Wire, frozen=True, kw_only=True):
    """What an apply, a rollback or a deletion does to one resource."""

    action: str
    """`created`, `configured`, `unchanged` or `deleted`."""
    kind: str
    name: str
    generation: int = 0
    """After it."""
    revision: int = 0
    """Models: the newest after it."""
    before: Mapping[str, Any] | None = None
    """The manifest as it stands; None: there is none."""
    after: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    """What of the manifest is refused or without effect."""

    @property
    def title(self) -> str:
        """`model/iris`."""
        return f"{self.kind.lower()}/{self.name}"


class Action(_Wire, frozen=True, kw_only=True):
    """One thing that the server would do."""

    verb: str
    """`set` or `remove`."""
    unit: str
    """`model`, `pipeline`, `split` or `server`."""
    name: str
    revision: int = 0
    stage: int = 0
    reason: str = ""


class Changes(_Wire, frozen=True, kw_only=True):
    """What was done, or would be."""

    changes: tuple[Change, ...] = ()
    actions: tuple[Action, ...] = ()
    """Of a plan."""
    resource_version: int = 0
    """After it."""

    @property
    def differ(self) -> bool:
        """Whether anything changes."""
        return any(each.action != "unchanged" for each in self.changes) or bool(self.actions)


class Generation(_Wire, frozen=True, kw_only=True):
    """One state that a resource was in."""

    generation: int
    revision: int = 0
    """Models: the revision that was served of it."""
    at: float = 0.0
    """Since when, in seconds since the epoch."""
    who: str = ""
    action: str = ""
    """As of a change."""
    resource: Resource
    """As it was declared then."""


class Event(_Wire, frozen=True, kw_only=True):
    """Something that happened to a resource, once or several times in a row."""

    kind: str
    name: str
    type: str = "Normal"
    """`Normal` or `Warning`."""
    reason: str = ""
    message: str = ""
    at: float = 0.0
    """When, the last time: seconds since the epoch."""
    first: float = 0.0
    count: int = 1
    id: int = 0
    """Rises with time."""


class Watched(_Wire, frozen=True, kw_only=True):
    """What changed since a resource version."""

    resource_version: int
    """To watch after next."""
    resources: tuple[Resource, ...] = ()
    """Those that changed, as they are now."""
    deleted: tuple[tuple[str, str], ...] = ()
    """Kind and name of those that are gone."""
    complete: bool = False
    """Not what changed, which nobody knows any more, but all that there is: what is not among them is gone."""


class TappedTensor(_Wire, frozen=True, kw_only=True):
    """A tensor as a tap shows it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Any = None


class Tapped(_Wire, frozen=True, kw_only=True):
    """What passed a place in a pipeline."""

    id: str = ""
    """Of the request."""
    reference: str
    tensors: tuple[TappedTensor, ...] = ()
    dropped: int = 0
    """How many before it were missed: the reader was too slow."""


class _Resources(_Wire, frozen=True, kw_only=True):
    resources: tuple[Resource, ...] = ()
    resource_version: int = 0


class _History(_Wire, frozen=True, kw_only=True):
    history: tuple[Generation, ...] = ()


class _Events(_Wire, frozen=True, kw_only=True):
    events: tuple[Event, ...] = ()


class ControlClient:
    """Talks to one server's control API. For one thread at a time; the connection is kept between calls.

    Example:
        >>> client = ControlClient("http://127.0.0.1:8083")  # doctest: +SKIP
        >>> client.get("Model", "iris")[0].condition("Ready").status  # doctest: +SKIP
        'True'

    Args:
        url: `http://host:port`, with a path when a proxy adds one.
        token: The server's `control.token`.
        timeout_seconds: How long one call may wait for the server.
        user: Who asks, for the history; nobody checks it.
        tls: For HTTPS, in place of the system's default context.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str = "",
        timeout_seconds: float = 60.0,
        user: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = address_of(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._parts, self._prefix = parts, parts.path.rstrip("/")
        self._timeout, self._tls = timeout_seconds, tls
        if not token.isprintable():
            raise SettingsError("the token holds a line break or another character that no header can carry")
        self._headers: dict[str, str | bytes] = {"Authorization": f"Bearer {token}".encode()} if token else {}
        if user.isascii() and user.isprintable() and user:
            self._headers["X-Headrace-User"] = user
        self._connection: http.client.HTTPConnection | None = None

    def __repr__(self) -> str:
        return f"ControlClient({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The client may still be used."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- to change --

    def apply(self, files: Iterable[Manifest], *, dry_run: bool = False) -> Changes:
        """Make the resources be what the files say: all of them, or nothing.

        Raises:
            InvalidResources: they cannot be; `faults` has every one.
            Conflict: they cannot be beside what is there.
            Unreachable: no server answers.
        """
        return self._post("/v1/apply", {"files": _files(files), "dryRun": dry_run}, Changes)

    def delete(self, kind: str, name: str, *, force: bool = False) -> Changes:
        """Take a resource away; with `force` although others need it.

        Raises:
            NotFound: there is none such.
            Conflict: others need it; the text names them.
        """
        return self._ask("DELETE", _path(kind, name) + ("?force=true" if force else ""), Changes)

    def delete_all(self, resources: Iterable[tuple[str, str]], *, force: bool = False) -> Changes:
        """Take resources away, by kind and name: all of them, or none. Raises as `delete`."""
        named = [{"kind": kind, "name": name} for kind, name in resources]
        return self._post("/v1/delete", {"resources": named, "force": force}, Changes)

    def rollback(self, kind: str, name: str, *, generation: int = 0) -> Changes:
        """Make a spec be what it was in a generation; 0: the one before the present."""
        return self._post(_path(kind, name) + "/rollback", {"generation": generation}, Changes)

    def prefetch(self, model: str) -> None:
        """Load a model that is not in memory, and wait for it."""
        self._post(f"/v1/models/{_quoted(model)}/prefetch", {}, dict[str, Any])

    def evict(self, model: str) -> None:
        """Take a model out of memory; the next request for it brings it back."""
        self._post(f"/v1/models/{_quoted(model)}/evict", {}, dict[str, Any])

    # -- to look --

    def plan(self, files: Iterable[Manifest]) -> Changes:
        """What an apply of the files would change, and what the server would do for it. Raises as `apply`."""
        return self._post("/v1/plan", {"files": _files(files)}, Changes)

    def diff(self, files: Iterable[Manifest]) -> Changes:
        """What an apply of the files would change, without looking at what the server would do. Raises as `apply`."""
        return self._post("/v1/diff", {"files": _files(files)}, Changes)

    def get(self, kind: str = "", name: str = "") -> tuple[Resource, ...]:
        """The resources of a kind, the one of a name, or all.

        Raises:
            NotFound: none of that name.
        """
        return self.snapshot(kind, name)[0]

    def snapshot(self, kind: str = "", name: str = "") -> tuple[tuple[Resource, ...], int]:
        """The resources, and the resource version that they are of, to watch after."""
        found = self._ask("GET", _path(kind, name), _Resources)
        return found.resources, found.resource_version

    def history(self, kind: str, name: str) -> tuple[Generation, ...]:
        """The states of a spec that are kept, newest first."""
        return self._ask("GET", _path(kind, name) + "/history", _History).history

    def events(self, kind: str = "", name: str = "") -> tuple[Event, ...]:
        """What happened, newest first."""
        query = {key: value for key, value in (("kind", kind), ("name", name)) if value}
        return self._ask("GET", "/v1/events" + (f"?{urlencode(query)}" if query else ""), _Events).events

    def schema(self, kind: str = "") -> dict[str, Any]:
        """The JSON Schema of a kind; of any of them when none is given."""
        return self._ask("GET", f"/v1/schemas/{_quoted(kind)}" if kind else "/v1/schemas", dict[str, Any])

    def picture(self, name: str, *, form: str = "text") -> str:
        """A pipeline or experiment as text or `mermaid`."""
        answer = self._ask("GET", f"/v1/pictures/{_quoted(name)}?{urlencode({'format': form})}", dict[str, Any])
        return str(answer.get("picture", ""))

    def watch(self, after: int, *, timeout_seconds: float = _LONGEST_WATCH_SECONDS) -> Watched:
        """What changed after a resource version; returns as soon as there is something, or when the time is up."""
        seconds = max(0.0, min(timeout_seconds, _LONGEST_WATCH_SECONDS))
        return self._ask("GET", f"/v1/watch?{urlencode({'after': after, 'timeout': f'{seconds:g}'})}", Watched)

    def wait(
        self,
        wanted: Sequence[tuple[str, str]],
        *,
        condition: str = "Ready",
        status: str = "True",
        timeout_seconds: float = 300.0,
        until: Callable[[Resource], bool] | None = None,
        seen: Callable[[Mapping[tuple[str, str], Resource | None]], None] | None = None,
    ) -> dict[tuple[str, str], Resource]:
        """Wait until each of the resources has a condition.

        Args:
            wanted: Kind and name of each.
            condition: Its type.
            status: What it is to be: `True`, `False` or `Unknown`.
            timeout_seconds: How long.
            until: Ends the wait for a resource that will not get there; it is looked at by the caller.
            seen: Told what there is at first and at each change; None for what is not there yet.

        Raises:
            ModelNotReady: the time is up; the text says what was still missing, and why.
        """
        deadline = time.monotonic() + timeout_seconds
        resources, version = self.snapshot()
        here = {(each.kind, each.metadata.name): each for each in resources}
        found: dict[tuple[str, str], Resource | None] = {key: here.get(key) for key in wanted}
        while True:
            if seen is not None:
                seen(found)
            missing = {
                key: each
                for key, each in found.items()
                if each is None or not (is_met(each, condition, status) or (until is not None and until(each)))
            }
            if not missing:
                return {key: each for key, each in found.items() if each is not None}
            before = found
            while found == before:
                left = deadline - time.monotonic()
                if left <= 0:
                    told = "; ".join(_unmet(key, each, condition) for key, each in missing.items())
                    raise ModelNotReady(f"after {timeout_seconds:g} s: {told}")
                watched = self.watch(version, timeout_seconds=left)
                version = watched.resource_version
                gone = found.keys() if watched.complete else set(watched.deleted)
                here = {(each.kind, each.metadata.name): each for each in watched.resources}
                found = {key: here.get(key, None if key in gone else each) for key, each in found.items()}

    def tap(self, pipeline: str, *, reference: str = "", count: int = 0) -> Iterator[Tapped]:
        """What passes a place in a pipeline, as it passes: what it answers, unless another place is named.

        Args:
            pipeline: Its name.
            reference: `STEP.inputs`, `STEP.outputs`, `STEP`, `inputs` or `outputs`; empty: `outputs`.
            count: Ends after so many; 0: goes on until the caller leaves or the server stops.
        """
        query = {key: value for key, value in (("reference", reference), ("count", count or "")) if value}
        path = f"/v1/taps/{_quoted(pipeline)}" + (f"?{urlencode(query)}" if query else "")
        connection = self._connect(timeout=self._timeout)
        try:
            with self._exchange(connection, "GET", path, b"", {}) as response:
                if response.status >= 400:
                    raise _error(response.status, response.read())
                if connection.sock is not None:
                    connection.sock.settimeout(None)  # nothing may pass for hours
                while line := self._line(response):
                    if line.strip():
                        yield _decode(line, Tapped)
        finally:
            connection.close()

    # -- steps --

    def _line(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.readline()
        except (OSError, http.client.HTTPException) as exc:
            raise Unreachable(f"the server at {self.url} ended the stream: {exc}") from exc

    def _post(self, path: str, value: Any, kind: type[T]) -> T:
        return self._ask("POST", path, kind, msgspec.json.encode(value))

    def _ask(self, method: str, path: str, kind: type[T], body: bytes = b"") -> T:
        """One exchange on the kept connection; one that the server closed meanwhile is replaced by a new one, once."""
        headers = {"Content-Type": "application/json"} if method == "POST" else {}
        connection, self._connection = self._connection, None
        fresh = connection is None
        if connection is None:
            connection = self._connect(timeout=self._timeout)
        try:
            try:
                response = self._exchange(connection, method, path, body, headers)
            except Unreachable as exc:
                if fresh or not isinstance(exc.__cause__, http.client.RemoteDisconnected | ConnectionError):
                    raise
                connection.close()
                connection = self._connect(timeout=self._timeout)
                response = self._exchange(connection, method, path, body, headers)
            answer = self._read(response)
        except BaseException:
            connection.close()  # an answer half read would be taken for the next call's
            raise
        if response.will_close:
            connection.close()
        else:
            self._connection = connection
        too_small = response.status == 413 and len(body) < _TAKEN_BY_ALL
        if (response.status == 404 or too_small) and path.partition("?")[0] in _ALWAYS:
            raise _not_ours(error_text(answer))
        if response.status >= 400:
            raise _error(response.status, answer)
        return _decode(answer, kind)

    def _connect(self, *, timeout: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, self._prefix + path, body=body or None, headers={**self._headers, **headers})
            return connection.getresponse()
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self.url} did not answer within {self._timeout:g} seconds") from exc
        except ssl.SSLCertVerificationError as exc:
            raise Unreachable(
                f"do not trust the server at {self.url}: {exc.verify_message}; "
                "name its certificate, or that of who signed it, by the environment variable SSL_CERT_FILE"
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            text = str(exc) or type(exc).__name__
            if type(exc) is http.client.BadStatusLine:
                text = "what answers there does not speak HTTP/1.1"
            raise Unreachable(
                f"cannot reach a control API at {self.url}: {text}; start a server that has one by `headrace serve`, "
                "or `headrace serve PATH --control`, or name another by --control-url"
            ) from exc

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        # Closed here, where an interrupt is heard: what the interpreter clears away it closes in silence.
        try:
            with response:
                return response.read()
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self.url} did not answer within {self._timeout:g} seconds") from exc
        except (OSError, http.client.HTTPException) as exc:
            raise Unreachable(f"the connection to {self.url} broke before the whole answer had come: {exc}") from exc


def is_met(resource: Resource, condition: str, status: str) -> bool:
    """Whether a resource has a condition, of its present generation."""
    found = resource.condition(condition)
    return found is not None and found.status.lower() == status.lower()


def _unmet(key: tuple[str, str], resource: Resource | None, condition: str) -> str:
    title = f"{key[0].lower()}/{key[1]}"
    if resource is None:
        return f"{title} is not there"
    found = resource.condition(condition)
    if found is None:
        return f"{title} says nothing of {condition} yet"
    why = ": ".join(part for part in (found.reason, found.message) if part)
    return f"{title} has {condition}={found.status}" + (f" ({why})" if why else "")


def _files(files: Iterable[Manifest]) -> list[dict[str, str]]:
    return [{"name": each.name, "text": each.text, "base": each.base} for each in files]


def _path(kind: str, name: str) -> str:
    parts = ["/v1/resources", *(_quoted(part) for part in (kind, name) if part)]
    return "/".join(parts)


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as exc:
        raise _not_ours(str(exc)) from exc


def _not_ours(why: str) -> Unreachable:
    return Unreachable(
        f"what answers there is not a control API, or one of another version: {why}; --control-url takes the address "
        "that the server prints as `control`"
    )


_ALWAYS: Final = frozenset({f"/v1/{each}" for each in ("apply", "plan", "diff", "resources", "events", "watch")})
"""Paths that every control API has, and that are there whatever is asked."""
_TAKEN_BY_ALL: Final = 64 << 10
"""Bytes that neither a control API nor a proxy before one finds too many; a metrics listener finds one too many."""
_BY_STATUS: Final[Mapping[int, type[HeadraceError]]] = MappingProxyType(
    {
        400: InvalidRequest,
        401: SettingsError,
        403: SettingsError,
        404: NotFound,
        405: NotSupported,
        409: Conflict,
        413: TooLarge,
        501: NotSupported,
        503: Temporary,
        504: DeadlineExceeded,
    }
)


def _error(status: int, body: bytes) -> HeadraceError:
    """Our error for a status, with the server's own text."""
    try:
        content = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        content = None
    faults = content.get("faults") if isinstance(content, dict) else None
    if status == 400 and isinstance(faults, list) and faults:
        return InvalidResources([str(fault) for fault in faults])
    text = error_text(body) or f"HTTP status {status}"
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else RuntimeFailed)
    return kind(text)
