"""The control API: which path asks for what of the resources. `app.py` gives an instance to an `HttpServer` of its own,
with `LIMITS`, after `check_host`.

    POST   /v1/apply, /v1/plan, /v1/diff      {"files": [{"name", "text", "base"}]}, or YAML as it is
    POST   /v1/delete                         {"resources": [{"kind", "name"}], "force": false}
    GET    /v1/resources[/KIND[/NAME]]        DELETE /v1/resources/KIND/NAME[?force=true]
    GET    /v1/resources/KIND/NAME/history    POST .../rollback {"generation": N}
    GET    /v1/events[?kind=&name=]           GET /v1/watch?after=N&timeout=SECONDS (a long poll)
    GET    /v1/schemas[/KIND]                 GET /v1/pictures/NAME[?format=text|mermaid]
    GET    /v1/taps/PIPELINE[?reference=&count=] (JSON, a line each)
    POST   /v1/models/NAME/prefetch, .../evict

Who reaches this API decides what the server runs. With a token, callers show it. Without one, the API is for this
machine, and web pages that a person here looks at are kept out: no Origin, no foreign Host (which a name that is made
to point here would show), and nothing is changed by a content type that a page may send unasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import hmac
import ipaddress
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from headrace.control import schema
from headrace.control.parse import plain, render
from headrace.control.resources import KINDS
from headrace.errors import (
    HeadraceError,
    InvalidRequest,
    InvalidResources,
    NotFound,
    NotSupported,
    Overloaded,
    SettingsError,
    Temporary,
)
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.protocols import status, v2_rest
from headrace.server.http import HttpLimits, HttpReply, HttpRequest, error_body

if TYPE_CHECKING:
    from headrace.control.backends.base import Action
    from headrace.control.service import Control
    from headrace.control.store import Change, Past

log = logging.getLogger(__name__)
T = TypeVar("T")
_Key = tuple[str, str]

LIMITS: Final = HttpLimits(max_body_bytes=64 << 20, max_connections=512, request_timeout_seconds=600.0)
"""What a connection to the control API may ask. The deadline is that of a prefetch, which waits for a load."""

LINES: Final = b"application/x-ndjson"
_LONGEST_WATCH_SECONDS: Final = 60.0
_TAPPED_KEPT: Final = 1000
"""Exchanges that may wait for a reader of a tap; more are dropped, and counted."""
_TAPPED_ELEMENTS: Final = 4096
"""Larger tensors are shown without their data."""
_FILE_TYPES: Final = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


Listener = Callable[[str, str, tuple[Tensor, ...]], None]
"""Takes the request's id, the reference, and the tensors that passed it. Called on the server's loop."""


class Local(Protocol):
    """What is asked of this process beside carrying out resources (`headrace.local`)."""

    def tap(self, pipeline: str, reference: str, listener: Listener) -> Callable[[], None]:
        """Tell a listener what passes a reference (`STEP.inputs`, `STEP.outputs`, `inputs`, `outputs`; empty:
        `outputs`). Returns what ends it.

        Raises:
            NotFound: no such pipeline, or no such reference in it.
        """

    def picture(self, name: str, form: str) -> str:
        """A pipeline or an experiment, as `text` or `mermaid`.

        Raises:
            NotFound: no such pipeline or experiment.
        """

    async def prefetch(self, model: str) -> None:
        """Load a model that is not in memory; returns when it is."""

    async def evict(self, model: str) -> None:
        """Take a model out of memory."""


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of manifests, as a caller sends it."""

    text: str
    name: str = "request"
    base: str = ""


class _Files(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    files: tuple[File, ...]
    dry_run: bool = False


class _Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str
    name: str


class _Delete(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    resources: tuple[_Named, ...]
    force: bool = False


class _Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    generation: int = 0


def check_host(host: str, token: str) -> None:
    """That the control API may listen on an address.

    Raises:
        SettingsError: other machines would reach it, and there is no token.
    """
    if not token and not _is_loopback(host):
        raise SettingsError(
            f"control.host is {host}: who reaches the control API decides what this server runs, so it needs a token "
            "there; set control.token (HEADRACE_CONTROL_TOKEN), or keep control.host at 127.0.0.1"
        )


class ControlApi:
    """Answers the control API. `close` ends what would otherwise wait for something to happen."""

    def __init__(self, control: Control, local: Local, *, token: str = "") -> None:
        """Store what to ask.

        Args:
            control: The resources.
            local: The process that serves them.
            token: What callers must show; empty: nothing, and only callers on this machine are answered.
        """
        self._control, self._local = control, local
        self._token = token.encode()
        self._closing = asyncio.Event()
        self._taps: set[asyncio.Event] = set()

    async def __call__(self, request: HttpRequest) -> HttpReply:
        """Answer one request; never raises but for cancellation."""
        try:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            call, allowed = self._route(request)
            if call is None:
                allow = ", ".join(allowed)
                text = f"{request.method.decode('latin-1')} is not for this path; it takes {allow}"
                return HttpReply(error_body(text), 405, headers=((b"allow", allow.encode()),))
            await asyncio.sleep(0)  # into a task of its own, which time-outs within need
            return await call()
        except Exception as error:  # noqa: BLE001 - the one place where errors become replies
            return _failed(error, request)

    def close(self) -> None:
        """End taps and watches, so that the listener can stop without waiting for them."""
        self._closing.set()
        for came in self._taps:
            came.set()

    # -- who may --

    def _refusal(self, request: HttpRequest) -> HttpReply | None:
        headers = request.headers
        if self._token:
            kind, _, shown = headers.get("authorization", "").partition(" ")
            if kind.lower() == "bearer" and hmac.compare_digest(shown.strip().encode("latin-1"), self._token):
                return None
            text = (
                "the control API needs its token: `--token`, HEADRACE_CONTROL_TOKEN, or `Authorization: Bearer TOKEN`"
            )
            return HttpReply(error_body(text), 401, headers=((b"www-authenticate", b'Bearer realm="headrace"'),))
        if "origin" in headers or headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return HttpReply(error_body("the control API does not answer web pages; set control.token for that"), 403)
        host = headers.get("host", "")
        if not _is_loopback(_host_of(host)):
            text = (
                f"the control API has no token and answers this machine only, by 127.0.0.1 or localhost, not {host!r}"
            )
            return HttpReply(error_body(text), 403)
        return None

    # -- which path --

    def _route(self, request: HttpRequest) -> tuple[Callable[[], Awaitable[HttpReply]] | None, Sequence[str]]:
        """What answers, or None, with the methods that the path takes.

        Raises:
            NotFound: no such path.
        """
        path, _, text = request.target.decode("latin-1").partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        calls: dict[str, Callable[[], Awaitable[HttpReply]]]
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["v1", "apply"]:
                calls = {"POST": lambda: self._apply(request, query)}
            case ["v1", "delete"]:
                calls = {"POST": lambda: self._delete_several(request)}
            case ["v1", "plan"]:
                calls = {"POST": lambda: self._plan(request, query)}
            case ["v1", "diff"]:
                calls = {"POST": lambda: self._diff(request, query)}
            case ["v1", "resources"]:
                calls = {"GET": lambda: self._get("", "")}
            case ["v1", "resources", kind]:
                calls = {"GET": lambda: self._get(_kind(kind), "")}
            case ["v1", "resources", kind, name]:
                calls = {
                    "GET": lambda: self._get(_kind(kind), name),
                    "DELETE": lambda: self._delete(request, [(_kind(kind), name)], force=_flag(query, "force")),
                }
            case ["v1", "resources", kind, name, "history"]:
                calls = {"GET": lambda: self._history(_kind(kind), name)}
            case ["v1", "resources", kind, name, "rollback"]:
                calls = {"POST": lambda: self._rollback(request, _kind(kind), name)}
            case ["v1", "events"]:
                kind = query.get("kind", "")
                calls = {"GET": lambda: self._events(_kind(kind) if kind else "", query.get("name", ""))}
            case ["v1", "watch"]:
                calls = {"GET": lambda: self._watch(query)}
            case ["v1", "schemas"]:
                calls = {"GET": lambda: self._schema("")}
            case ["v1", "schemas", kind]:
                calls = {"GET": lambda: self._schema(_kind(kind))}
            case ["v1", "pictures", name]:
                calls = {"GET": lambda: self._picture(name, query.get("format", "text"))}
            case ["v1", "taps", pipeline]:
                calls = {"GET": lambda: self._tap(pipeline, query)}
            case ["v1", "models", name, "prefetch"]:
                calls = {"POST": lambda: self._prefetch(request, name)}
            case ["v1", "models", name, "evict"]:
                calls = {"POST": lambda: self._evict(request, name)}
            case ["" | "v1"]:
                calls = {"GET": self._index}
            case _:
                raise NotFound(f"no path {path} here; this is Headrace's control API, see /v1")
        method = request.method.decode("latin-1")
        return calls.get("GET" if method == "HEAD" else method), tuple(calls)

    async def _index(self) -> HttpReply:
        return _json({"api": "headrace control", "kinds": list(KINDS)})

    # -- to change --

    async def _apply(self, request: HttpRequest, query: Mapping[str, str]) -> HttpReply:
        asked = _files(request, query)
        dry_run = asked.dry_run or _flag(query, "dryRun")
        done = await self._control.apply(asked.files, dry_run=dry_run, who=_who(request))
        return _changes(done.changes, done.resource_version)

    async def _delete(self, request: HttpRequest, keys: Sequence[_Key], *, force: bool) -> HttpReply:
        done = await self._control.delete_all(keys, force=force, who=_who(request))
        return _changes(done.changes, done.resource_version)

    async def _delete_several(self, request: HttpRequest) -> HttpReply:
        asked = _body(request, _Delete)
        keys = [(_kind(each.kind), each.name) for each in asked.resources]
        return await self._delete(request, keys, force=asked.force)

    async def _rollback(self, request: HttpRequest, kind: str, name: str) -> HttpReply:
        asked = _body(request, _Rollback)
        who = f"{_who(request)} (rollback)".strip()
        done = await self._control.rollback(kind, name, asked.generation, who=who)
        return _changes(done.changes, done.resource_version)

    async def _prefetch(self, request: HttpRequest, name: str) -> HttpReply:
        _body(request, dict)
        await self._local.prefetch(name)
        return _json({"name": name})

    async def _evict(self, request: HttpRequest, name: str) -> HttpReply:
        _body(request, dict)
        await self._local.evict(name)
        return _json({"name": name})

    # -- to look --

    async def _diff(self, request: HttpRequest, query: Mapping[str, str]) -> HttpReply:
        found = await self._control.diff(_files(request, query).files)
        return _changes(found.changes, found.resource_version, documents=found.documents)

    async def _plan(self, request: HttpRequest, query: Mapping[str, str]) -> HttpReply:
        found = await self._control.plan(_files(request, query).files)
        return _changes(found.changes, found.resource_version, documents=found.documents, actions=found.actions)

    async def _get(self, kind: str, name: str) -> HttpReply:
        version = self._control.resource_version
        return _json(
            {"resources": [render(each) for each in self._control.get(kind, name)], "resourceVersion": version}
        )

    async def _history(self, kind: str, name: str) -> HttpReply:
        return _json({"history": [_past(each) for each in await self._control.history(kind, name)]})

    async def _events(self, kind: str, name: str) -> HttpReply:
        return _json({"events": [plain(each) for each in await self._control.events(kind, name)]})

    async def _watch(self, query: Mapping[str, str]) -> HttpReply:
        seconds = min(_seconds(query, "timeout", 30.0), _LONGEST_WATCH_SECONDS)
        watched = await self._or_closing(self._control.watch(_number(query, "after", 0), seconds))
        if watched is None:
            raise Temporary("the server stops")
        return _json(
            {
                "resourceVersion": watched.resource_version,
                "resources": [render(each) for each in watched.resources],
                "deleted": watched.deleted,
                "complete": watched.complete,
            }
        )

    async def _schema(self, kind: str) -> HttpReply:
        return _json(schema.schema(kind))

    async def _picture(self, name: str, form: str) -> HttpReply:
        if form not in {"text", "mermaid"}:
            raise InvalidRequest(f"format: expected text or mermaid, got {form!r}")
        return _json({"name": name, "format": form, "picture": self._local.picture(name, form)})

    async def _or_closing(self, waiting: Awaitable[T]) -> T | None:
        """What is waited for; None when the server stops first."""
        task, closing = asyncio.ensure_future(waiting), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, closing):
                each.cancel()
            with contextlib.suppress(asyncio.CancelledError, HeadraceError):
                await task

    async def _tap(self, pipeline: str, query: Mapping[str, str]) -> HttpReply:
        reference, count = query.get("reference", ""), _number(query, "count", 0)
        self._local.tap(pipeline, reference, _unheard)()  # what is wrong with it is said with a status
        return HttpReply(content_type=LINES, stream=self._tapped(pipeline, reference, count))

    async def _tapped(self, pipeline: str, reference: str, count: int) -> AsyncIterator[bytes]:
        """Lines as exchanges pass; a reader that is too slow misses some, and is told how many."""
        kept: deque[tuple[str, str, tuple[Tensor, ...]]] = deque()
        came = asyncio.Event()
        dropped = sent = 0

        def listener(request_id: str, place: str, tensors: tuple[Tensor, ...]) -> None:
            nonlocal dropped
            if len(kept) < _TAPPED_KEPT:
                kept.append((request_id, place, tensors))
                came.set()
            else:
                dropped += 1

        end = self._local.tap(pipeline, reference, listener)
        self._taps.add(came)
        try:
            yield b"\n"  # the head of the answer goes out: the caller knows that somebody listens
            while not self._closing.is_set():
                while kept:
                    yield _tapped_line(*kept.popleft(), dropped)
                    dropped = 0
                    sent += 1
                    if sent == count:
                        return
                came.clear()
                await came.wait()
        finally:
            self._taps.discard(came)
            end()


def _unheard(request_id: str, reference: str, tensors: tuple[Tensor, ...]) -> None:
    pass


def _tapped_line(request_id: str, reference: str, tensors: tuple[Tensor, ...], dropped: int) -> bytes:
    line: dict[str, Any] = {"id": request_id, "reference": reference, "tensors": [_shown(each) for each in tensors]}
    if dropped:
        line["dropped"] = dropped
    return msgspec.json.encode(line) + b"\n"


class _Shown(msgspec.Struct):
    outputs: tuple[msgspec.Raw]


def _shown(tensor: Tensor) -> Any:
    """A tensor as V2 writes it, without the data where it is large, or has no JSON form."""
    if tensor.data.size <= _TAPPED_ELEMENTS:
        with contextlib.suppress(HeadraceError):
            rendered = v2_rest.render(_ASKED, InferenceResponse(model_name="", outputs=(tensor,)))
            return msgspec.json.decode(rendered.body, type=_Shown).outputs[0]
    return {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}


_ASKED: Final = InferenceRequest(model_name="", inputs=())


# -- what came --


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _kind(text: str) -> str:
    """The kind that a path names, in any case.

    Raises:
        NotFound: there is none such.
    """
    for kind in KINDS:
        if text.lower() in {kind.lower(), f"{kind.lower()}s"}:
            return kind
    near = difflib.get_close_matches(text.capitalize(), KINDS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(KINDS)}"
    raise NotFound(f"no kind {text!r}{hint}")


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in {"", "true", "false"}:
        raise InvalidRequest(f"{name}: expected true or false, got {text!r}")
    return text != "false"


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdecimal():
        raise InvalidRequest(f"{name}: expected a whole number from 0, got {text!r}")
    return int(text)


def _seconds(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InvalidRequest(f"{name}: expected seconds from 0, got {text!r}")
    return seconds


def _who(request: HttpRequest) -> str:
    """Who says to ask, for the history; nobody checks it."""
    name = request.headers.get("x-headrace-user", "")
    return name[:64] if name.isprintable() else ""


def _content_type(request: HttpRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _body(request: HttpRequest, kind: type[T]) -> T:
    """What a request says in JSON. Another content type is refused: pages send some of them without asking.

    Raises:
        InvalidRequest: it is not JSON, or says something else.
    """
    if _content_type(request) != "application/json":
        raise InvalidRequest(
            f"Content-Type: expected application/json, got {request.headers.get('content-type', 'none')!r}"
        )
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not what this path takes: {exc}") from exc


def _files(request: HttpRequest, query: Mapping[str, str]) -> _Files:
    """The manifests of a request: JSON that names files, or one document as it is, for curl.

    Raises:
        InvalidRequest: it holds neither.
    """
    if _content_type(request) not in _FILE_TYPES:
        return _body(request, _Files)
    try:
        text = request.body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not UTF-8 text: {exc}") from exc
    return _Files(files=(File(name=query.get("name", "request"), text=text, base=query.get("base", "")),))


# -- what goes back --


def _json(value: Any) -> HttpReply:
    return HttpReply(msgspec.json.encode(value))


def _changes(
    changes: Sequence[Change],
    version: int,
    *,
    documents: Mapping[_Key, tuple[Any, Any]] = MappingProxyType({}),
    actions: Sequence[Action] = (),
) -> HttpReply:
    """What was done or would be; of a look ahead with the manifests before and after."""
    shown = []
    for each in changes:
        entry = plain(each)
        if each.key in documents:
            entry["before"], entry["after"] = documents[each.key]
        shown.append(entry)
    return _json({"changes": shown, "actions": [_action(each) for each in actions], "resourceVersion": version})


def _action(action: Action) -> dict[str, Any]:
    unit, name, revision = action.key
    return {
        "verb": action.verb,
        "unit": unit,
        "name": name,
        "revision": revision,
        "stage": action.stage,
        "reason": action.reason,
    }


def _past(past: Past) -> dict[str, Any]:
    return {
        "generation": past.generation,
        "revision": past.revision,
        "at": past.at,
        "who": past.who,
        "action": past.action,
        "resource": render(past.resource),
    }


def _failed(error: Exception, request: HttpRequest) -> HttpReply:
    code = status.http_status(error)
    if code >= 500 and not isinstance(error, NotSupported | Temporary):
        unexpected = None if isinstance(error, HeadraceError) else error
        log.warning("%s: %s", request.target.decode("latin-1"), error, exc_info=unexpected)
    if isinstance(error, InvalidResources):
        return HttpReply(msgspec.json.encode({"error": str(error), "faults": error.faults}), code)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, Overloaded):
        headers = ((b"retry-after", b"%d" % max(1, round(error.retry_after_seconds))),)
    return HttpReply(status.error_body(status.public_text(error)), code, headers=headers)
