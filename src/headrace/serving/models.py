"""The routing table: step 3 of the walk, name and version to something that answers.

The server asks, the repository writes.
"""

from __future__ import annotations

import difflib
import enum
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Literal, Protocol

import msgspec

from headrace.errors import ModelNotFound, ModelNotReady, NotFound
from headrace.payload import EMPTY, Infer, InferenceRequest, InferenceResponse, InferStream, Route, Signature, Visit
from headrace.protocols.explain import ExplainReply, ExplainRequest, JobStatus

Kind = Literal["model", "pipeline", "experiment"]
KINDS: Final[tuple[Kind, ...]] = ("model", "pipeline", "experiment")
"""What an endpoint may be. A bare name means the first of these that there is; `NAME.KIND` means that one."""


class State(enum.StrEnum):
    """The states of the model repository extension."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


Feedback = Callable[[Mapping[str, str], float, InferenceRequest | None], None]
"""Router to the branch it chose, the reward, and the request where the caller gave it back."""


class Explain(Protocol):
    """What explains a model's answers (`serving.explain`); errors as it says."""

    def __call__(self, request: ExplainRequest) -> Awaitable[ExplainReply]:
        """Explain, now."""

    def submit(self, request: ExplainRequest) -> JobStatus:
        """Begin to explain, and say where it will be."""

    def job(self, identity: str) -> JobStatus:
        """How far a job is."""

    def cancel(self, identity: str) -> JobStatus:
        """End a job, and forget it."""


class Results(Protocol):
    """What keeps the answers of a pipeline by its requests' ids (`local.durable`); errors as it says."""

    async def submit(self, request: InferenceRequest) -> str:
        """Store a request, and say its id once it is safe."""

    async def find(self, request_id: str) -> InferenceResponse | None:
        """The answer; None: not yet."""


class Served(msgspec.Struct, kw_only=True, eq=False, gc=True):
    """One version of one model, or a pipeline or an experiment, as the table holds it. Who put it there writes its
    fields (the repository those of models); everybody else reads them.
    """

    name: str
    version: str = ""
    kind: Kind = "model"
    state: State = State.UNKNOWN
    reason: str = ""
    """Why it is not READY; `unloaded` when somebody asked for that."""
    wanted: bool = True
    """It was asked for, so the server is not ready until it is."""
    signature: Signature | None = None
    infer: Infer | None = None
    """Set while READY."""
    infer_stream: InferStream | None = None
    """Set while READY, for models that stream."""
    routes: tuple[Route, ...] = ()
    """Paths of the model's own, while READY."""
    visit: Visit | None = None
    """Set while READY, for models with routes of their own."""
    elsewhere: bool = False
    """Another server holds it, so the repository leaves it alone."""
    feedback: Feedback | None = None
    """Set for pipelines whose routers learn."""
    explain: Explain | None = None
    """Set while READY, for models that can be explained."""
    explains_at: str = ""
    """Of a model that explains another: the name at which it is asked why, in place of what stands there."""
    results: Results | None = None
    """Set for pipelines whose requests are stored."""
    graph: bool = False
    """It answers as a graph of Seldon Core v1 or KServe's InferenceGraph does, for their clients."""
    dialect: str = ""
    """The server whose answers the model's clients expect: `mlserver`; empty: ours."""
    declared: Mapping[str, Any] = EMPTY
    """What its foreign settings file declares, in the V2 metadata's own members: `platform`, `versions`, `inputs`,
    `outputs`, `parameters`; shown in metadata over what the signature says."""
    warnings: tuple[str, ...] = ()
    """What of its settings is not honoured; shown in metadata and in `headrace models`, with the signature's."""
    placement: str = ""
    """`inline`, `thread` or `process`, once loaded."""
    loaded_at: float = 0.0
    """Seconds since the epoch."""

    @property
    def key(self) -> str:
        """What it is called when nothing else can be meant: a model by its name, others by `NAME.KIND`."""
        return self.name if self.kind == "model" else f"{self.name}.{self.kind}"

    def explained(self) -> Explain:
        """What explains it.

        Raises:
            NotFound: nothing does.
        """
        if self.explain is None:
            raise NotFound(
                f"{self.describe()} has no explainer; write the model's trust folder by `headrace trust fit`, and load "
                "the model again"
            )
        return self.explain

    def describe(self) -> str:
        """The model as a message names it."""
        return f"{self.kind} '{self.name}'" + (f" version '{self.version}'" if self.version else "")


def newest(versions: list[str]) -> str:
    """The version served when none is asked for: the unversioned one if there is one, else the highest.

    Versions compare as integers when all are; otherwise by runs of digits and text, as people read them.
    """
    if "" in versions:
        return ""
    return max(versions, key=readable)


def readable(version: str) -> list[tuple[int, int, str]]:
    """What to sort versions by, so that 10 comes after 9 and v1.10 after v1.9."""
    runs: list[tuple[int, int, str]] = []
    digits = text = ""
    for letter in version + "\0":
        if letter.isdecimal():
            if text:
                runs.append((0, 0, text))
                text = ""
            digits += letter
        else:
            if digits:
                runs.append((1, int(digits), ""))
                digits = ""
            text += letter.strip("\0")
    return [*runs, (0, 0, text)] if text else runs


class Models:
    """Everything the server answers for, by name and version: models, and what is made of them.

    A name is looked up as it is, then as that of a pipeline, then of an experiment. `NAME.model`, `NAME.pipeline` and
    `NAME.experiment` say which is meant.
    """

    def __init__(self) -> None:
        self.complete = True
        """False until every wanted model stands here: a server that listens already is not ready before."""
        self.starting = False
        """While it is true, the server is not ready: what is declared has not been carried out for the first time."""
        self._listeners: list[Callable[[str], None]] = []
        self._by_key: dict[str, dict[str, Served]] = {}
        self._ready: dict[tuple[str, str], Served] = {}  # what route answers at once; (name, "") is the default version
        self._routed: dict[
            str, set[tuple[str, str]]
        ] = {}  # a model's keys in _ready: a change costs its own versions only
        self._explainers: dict[str, str] = {}  # keys of models that explain others, and at which name
        self._diverted: dict[str, str] = {}

    def __iter__(self) -> Iterator[Served]:
        for versions in self._by_key.values():
            yield from versions.values()

    def route(self, name: str, version: str = "") -> Served:
        """The READY version to ask; with no version, the newest READY one, or what it is diverted to.

        Raises:
            ModelNotFound: nobody ever heard of this name or version.
            ModelNotReady: it is known, but loading, unloaded or failed; the text carries the reason.
        """
        served = self._ready.get((name, version))
        if served is not None:
            return served
        try:
            found = self.find(name, version)
        except ModelNotFound as error:
            if not self.starting:
                raise
            raise ModelNotReady(f"{error}; the server is starting, and what is declared comes yet") from error
        return _ready(found)

    def direct(self, name: str, version: str = "") -> Served:
        """As `route`, whatever the name is diverted to: what a split asks for its candidates.

        Raises:
            ModelNotFound, ModelNotReady: as `route`.
        """
        if name in self._by_key and not _has_kind(name):  # the model, whatever else answers to its name meanwhile
            return self._ready.get((f"{name}.model", version)) or _ready(self.find(f"{name}.model", version))
        if name not in self._diverted or version:
            return self.route(name, version)
        ready = {each.version: each for each in self._by_key.get(name, {}).values() if _answers(each)}
        return ready[newest(list(ready))] if ready else _ready(self.find(name))

    def asking(self, name: str, version: str = "", *, direct: bool = False) -> Infer:
        """What asks whatever `route` (or `direct`) gives at each call; what is not READY is raised by the call."""
        ready, diverted = self._ready, self._diverted
        look = self.direct if direct else self.route
        own = direct and not _has_kind(name)
        key = (f"{name}.model", version) if own else (name, version)
        aside = direct and not own

        def infer(request: InferenceRequest) -> Awaitable[InferenceResponse]:
            served = None if aside and name in diverted else ready.get(key)
            if served is None:
                served = look(name, version)
            return served.infer(request)  # type: ignore[misc]  # set while READY

        return infer

    def find(self, name: str, version: str = "") -> Served:
        """The version in whatever state it is.

        Raises:
            ModelNotFound: nobody ever heard of this name or version.
        """
        ready = self._ready.get((name, version))
        if ready is not None:
            return ready
        versions = self._versions(name)
        if not versions:
            raise ModelNotFound(self._missing(name))
        if version:
            if version not in versions:
                known = ", ".join(sorted(filter(None, versions), key=readable))
                raise ModelNotFound(
                    f"model '{name}' version '{version}' is not found; "
                    + (f"known versions: {known}" if known else "it has no versions, so ask it without one")
                )
            return versions[version]
        return versions[newest(list(versions))]

    def _missing(self, name: str) -> str:
        """That there is no such name, with the nearest there is; of a kind, where one was named."""
        bare, _, kind = name.rpartition(".")
        if not bare or kind not in KINDS:
            bare, kind, known = name, "model", list(self._by_key)
        elif kind == "model":
            known = [key for key in self._by_key if key.rpartition(".")[2] not in KINDS]
        else:
            known = [key.removesuffix(f".{kind}") for key in self._by_key if key.endswith(f".{kind}")]
        near = difflib.get_close_matches(bare, known, n=1)
        return f"{kind} '{bare}' is not found" + (f"; did you mean '{near[0]}'?" if near else "")

    def explaining(self, served: Served) -> Served:
        """What is asked why something answers as it does: the model that was declared to explain at its name, if there
        is one; else itself, or what its name stands for beside the split that has its requests.

        Raises:
            ModelNotReady: that model is loading, unloaded or failed.
        """
        for key, explained in self._explainers.items():
            if explained in {served.name, served.key}:
                return self.route(key)
        return served if served.explain is not None else self.direct(served.name)

    def explain(self, name: str, version: str = "") -> Explain:
        """What explains a model by its own trust folder.

        Raises:
            ModelNotFound, ModelNotReady: as `route`.
            NotFound: nothing does.
        """
        return self.direct(name, version).explained()

    def versions(self, name: str) -> list[Served]:
        """All versions of a model, oldest first; empty when nobody heard of it."""
        return [served for _, served in sorted(self._versions(name).items(), key=lambda item: readable(item[0]))]

    def put(self, served: Served) -> None:
        """Add a version, or put it in the place of the one that had its name and version, and route accordingly."""
        self._by_key.setdefault(served.key, {})[served.version] = served
        self._route(served.key)

    def changed(self, served: Served, state: State, reason: str = "") -> None:
        """Write a version's state and reason, and route accordingly."""
        served.state, served.reason = state, reason
        if state is State.READY:
            served.loaded_at = time.time()
        self._route(served.key)

    def forget(self, served: Served) -> None:
        """Take a version out of the table, if it is the one that stands there."""
        versions = self._by_key.get(served.key, {})
        if versions.get(served.version) is served:
            del versions[served.version]
            if not versions:
                del self._by_key[served.key]
        self._route(served.key)

    def divert(self, key: str, to: str) -> None:
        """Let the default version of what is at one key (`Served.key`) be answered by what is at another, while that
        is READY. Empty: by itself again.
        """
        if to:
            self._diverted[key] = to
        else:
            self._diverted.pop(key, None)
        self._route(key)

    def listen(self, changed: Callable[[str], None]) -> None:
        """Call with the key (`Served.key`) of whatever changes from now on, once it is routed."""
        self._listeners.append(changed)

    def is_ready(self) -> bool:
        """Whether every wanted model is READY."""
        return (
            self.complete and not self.starting and all(served.state is State.READY for served in self if served.wanted)
        )

    def _versions(self, name: str) -> dict[str, Served]:
        for key in (name, *(f"{name}.{kind}" for kind in KINDS[1:])):
            if key in self._by_key:
                return self._by_key[key]
        return self._by_key.get(name.removesuffix(".model"), {})

    def _route(self, key: str) -> None:
        """Write what `route` answers for a key, for the bare name that may mean it, and for what is diverted to it."""
        explained = next((each.explains_at for each in self._by_key.get(key, {}).values() if each.explains_at), "")
        if explained:
            self._explainers[key] = explained
        else:
            self._explainers.pop(key, None)
        name, _, kind = key.rpartition(".")
        names = {key, name} if kind in KINDS and name else {key}
        names |= {each for each, to in self._diverted.items() if to in names}
        for each in names:
            self._write(each)
        for changed in self._listeners:
            changed(key)

    @staticmethod
    def _rows(name: str, versions: Mapping[str, Served]) -> dict[tuple[str, str], Served]:
        """What of these answers to a name."""
        ready = {version: served for version, served in versions.items() if _answers(served)}
        rows = {(name, version): served for version, served in ready.items()}
        return rows | {(name, ""): ready[newest(list(ready))]} if ready else rows

    def _write(self, name: str) -> None:
        for row in self._routed.pop(name, ()):
            del self._ready[row]
        rows = self._rows(name, self._versions(name))
        if name in self._by_key and not _has_kind(name):
            rows |= {(f"{name}.model", version): served for (_, version), served in rows.items()}
        if not rows:  # while a name passes from one kind to another, the one that can answers
            rows = next(
                filter(None, (self._rows(name, self._by_key.get(f"{name}.{kind}", {})) for kind in KINDS[1:])), {}
            )
        to = self._by_key.get(self._diverted.get(name, ""), {}).get("")
        if to is not None and _answers(to):
            rows[name, ""] = to
        self._ready |= rows
        if rows:
            self._routed[name] = set(rows)


def _has_kind(name: str) -> bool:
    return name.rpartition(".")[2] in KINDS


def _answers(served: Served) -> bool:
    return served.state is State.READY and served.infer is not None


def _ready(served: Served) -> Served:
    if _answers(served):
        return served
    raise ModelNotReady(
        f"{served.describe()} is not ready: {served.state.lower()}" + (f", {served.reason}" if served.reason else "")
    )
