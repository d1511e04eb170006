"""Explanations of served models. `app` adds each model that has a trust folder, and puts what it gets into the routing
table; `server.trust` calls it there.

    explaining = Explaining(settings.trust)
    explainable = explaining.add(model="iris", version="1", folder=path, infer=infer)     # at load
    reply = await explainable(request)                                                    # POST .../explain
    infer = explainable.infer(name="iris-explainer")                                      # gRPC, pipelines
    loaded = await explaining.load(spec, ask=models.asking)                               # runtime: explainer
    await explaining.close()

Explanations are made in processes of their own (`serving.explain_process`), one at a time each. They begin with the
first request and end when nobody asks for some minutes. Those of jobs are others than those of callers who wait, so
that no job of minutes is before a caller of seconds. The model is asked through this process, a few milliseconds' worth
of rows at a time, through the `Infer` that `app` gives: below the tap, the payload log and the counts.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np

from headrace.errors import (
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotReady,
    NotFound,
    Overloaded,
)
from headrace.explainers.registry import METHODS
from headrace.payload import (
    EMPTY,
    Infer,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    Route,
    RouteRequest,
    RouteResponse,
    Signature,
    Tensor,
    TensorSpec,
    Visit,
)
from headrace.protocols import explain as wire
from headrace.protocols import v2_rest
from headrace.protocols.explain import ExplainReply, ExplainRequest, JobStatus
from headrace.runtimes.base import check_parameters
from headrace.serving.build import RuntimeSpec, plain
from headrace.serving.explain_process import Budget, Pool, Progress, Subject, tensors
from headrace.serving.models import Explain
from headrace.serving.spec import EXPLAINER, ModelSpec
from headrace.trust.folder import find_folder, is_folder, open_folder
from headrace.trust.spec import Explainers, ExplainerSpec

log = logging.getLogger(__name__)

_JOB_SECONDS: Final = 600.0  # of a job that says no deadline
_JOBS_KEPT: Final = 64
_JOB_KEPT_SECONDS: Final = 3600.0  # after its end
_LEFT_SECONDS: Final = 0.5  # between an explanation's end and the end of its caller's patience, to send it
OUTPUT: Final = "explanation"
PARAMETERS: Final = (
    "model",
    "version",
    "explainer",
    "method",
    "parameters",
    "options",
    "deadline_seconds",
    "max_rows",
    "endpoint",
)
"""Of a model of the runtime `explainer`; `endpoint` is `ModelSpec.explains_at`."""
_ALIBI: Final = ("meta.dill", "explainer.dill")
_EXPLAIN: Final = Route(method="POST", path="/explain", name="explain")
"""As MLServer's explainers have it."""


class Limits(Protocol):
    """What of the settings counts here (`TrustSettings`)."""

    @property
    def explain_processes(self) -> int:
        """Explanations at the same time."""

    @property
    def explain_queue(self) -> int:
        """Explanations that may wait."""


class Explaining:
    """All explanations of a server. Nothing starts before the first request."""

    def __init__(self, trust: Limits) -> None:
        self._calls = Pool(trust.explain_processes, trust.explain_queue)
        self._works = Pool(trust.explain_processes, trust.explain_queue)
        self._keys = itertools.count(1)
        self._known: dict[tuple[str, str], Explainable] = {}
        self._jobs = Jobs()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that there are now."""
        return (*self._calls.pids, *self._works.pids)

    def add(
        self,
        *,
        model: str,
        version: str,
        folder: Path,
        infer: Infer,
        artifact: RuntimeSpec | None = None,
        check: Callable[[InferenceRequest], None] = lambda _: None,
    ) -> Explainable:
        """A model that can be explained from now on, in place of one of its name and version.

        Args:
            model: Its name.
            version: Empty: it has none.
            folder: Its trust folder.
            infer: What asks it, below everything that watches, logs and counts.
            artifact: What loads it, for methods that look into it; None: it is in memory alone.
            check: Raises Forbidden for who may not have whole answers: an explanation says more than they do.

        Raises:
            LoadFailed: the folder cannot be used.
        """
        explainers = open_folder(folder).explainers
        key = next(self._keys)

        async def latest(request: InferenceRequest) -> InferenceResponse:
            """The model, also while one of the same version takes its place."""
            try:
                return await infer(request)
            except ModelNotReady:
                newer = self._known.get((model, version))
                if newer is None or newer.subject.key == key:
                    raise
                return await newer.subject.infer(request)

        subject = Subject(
            key=key,
            model=model,
            version=version,
            folder=str(folder),
            infer=latest,
            artifact=msgspec.json.encode(artifact, enc_hook=plain) if artifact is not None and artifact.path else b"",
        )
        self.forget(model, version)
        made = Explainable(subject, explainers, self._calls, self._works, self._jobs, check=check)
        self._known[model, version] = made
        return made

    def forget(self, model: str, version: str) -> None:
        """A version is not served any more. Jobs that are done keep their answers for a while."""
        gone = self._known.pop((model, version), None)
        if gone is not None:
            self._calls.forget(gone.subject.key)
            self._works.forget(gone.subject.key)

    async def load(
        self, spec: ModelSpec, *, ask: Callable[[str, str], Infer], explain: Callable[[str, str], Explain]
    ) -> LoadedExplainer:
        """A model of the runtime `explainer`: it explains another, which its parameter `model` names.

        Args:
            spec: `path` may be a trust folder of its own; else that of the other model is used.
            ask: A model's name and version to what asks it (`Models.asking`).
            explain: A model's name and version to what explains it by its own folder (`Models.explain`); called for
                each explanation.

        Raises:
            LoadFailed: the path is an explainer of alibi's, or no trust folder; there is no such method.
            SettingsError: a parameter nobody knows.
        """
        check_parameters(spec.parameters, PARAMETERS, runtime=EXPLAINER)
        given = dict(spec.parameters)
        model, version = str(given.get("model") or ""), str(given.get("version") or "")
        if not model:
            raise LoadFailed(f"{spec.describe()} explains another: parameters.model must name it")
        method = str(given.get("method") or "")
        if method and method not in METHODS:
            near = difflib.get_close_matches(method, METHODS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(METHODS)}"
            raise LoadFailed(f"{spec.describe()}: there is no explainer method '{method}'; {hint}")
        own: Explainable | None = None
        if spec.path:
            folder = await asyncio.to_thread(own_folder, Path(spec.path), method, spec.describe())
            own = self.add(model=spec.name, version=spec.version, folder=folder, infer=ask(model, version))
        wanted = _Wanted(
            explainer=str(given.get("explainer") or ""),
            method=method,
            parameters=given.get("parameters") or EMPTY,
            options=given.get("options") or EMPTY,
            deadline_seconds=given.get("deadline_seconds"),
            max_rows=given.get("max_rows"),
        )

        def closed() -> None:
            if own is not None and self._known.get((spec.name, spec.version)) is own:
                self.forget(spec.name, spec.version)

        return LoadedExplainer(spec, lambda: own or explain(model, version), wanted, model, closed)

    async def close(self) -> None:
        """End the processes; what is under way fails."""
        await self._jobs.close()
        await asyncio.gather(self._calls.close(), self._works.close())


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a model that explains always asks for, where its request does not."""

    explainer: str = ""
    method: str = ""
    parameters: Mapping[str, Any] = EMPTY
    options: Mapping[str, Any] = EMPTY
    deadline_seconds: float | None = None
    max_rows: int | None = None


class Explainable:
    """One model version that can be explained: what `Served.explain` is."""

    def __init__(
        self,
        subject: Subject,
        explainers: Explainers,
        calls: Pool,
        works: Pool,
        jobs: Jobs,
        *,
        check: Callable[[InferenceRequest], None],
    ) -> None:
        self.subject, self.explainers = subject, explainers
        self._calls, self._works, self._jobs, self._check = calls, works, jobs, check

    def __repr__(self) -> str:
        names = ", ".join(each.name for each in self.explainers.explainers)
        return f"<Explainable {self.subject.model} {self.subject.version}: {names}>"

    @property
    def model(self) -> str:
        """The name that the trust folder gives to a model that explains this one; empty: none."""
        return self.explainers.model

    async def __call__(self, request: ExplainRequest) -> ExplainReply:
        """Explain, now. What the deadline (the request's, and its transport's) allows is the answer. The first request
        of a model also waits for a process to begin and to read the folder, which does not count.

        Raises:
            Forbidden: the caller may not have whole answers.
            NotFound: the model has no explainers.
            InvalidRequest: no such explainer, option or row, or the rows do not fit the model.
            Overloaded: too many wait.
            DeadlineExceeded: nothing could be said by the deadline.
            WorkerDied: the process that made it ended; the same request may succeed.
            RuntimeFailed: the model or the explainer failed.
        """
        self._check(request.inference)
        spec = self.chosen(request.explainer, request.method)
        latest = None if request.inference.deadline is None else request.inference.deadline - _LEFT_SECONDS
        budget = Budget(request.deadline_seconds or self.explainers.deadline_seconds, latest=latest)
        work = self._explain(self._calls, spec, request, budget, Progress())
        task = asyncio.get_running_loop().create_task(work)  # a handler's first step is in none, and this has timeouts
        try:
            return await task
        finally:
            task.cancel()

    def submit(self, request: ExplainRequest) -> JobStatus:
        """Begin to explain, and say where it will be. Raises as a call does, for what is known at once."""
        self._check(request.inference)
        spec = self.chosen(request.explainer, request.method)
        self._works.check()
        progress = Progress()
        budget = Budget(request.deadline_seconds or _JOB_SECONDS)
        name = self.subject.model
        return self._jobs.begin(name, progress, self._explain(self._works, spec, request, budget, progress))

    def job(self, identity: str) -> JobStatus:
        """How far a job is. Raises NotFound where there is none, or it is long done."""
        return self._jobs.find(self.subject.model, identity).status()

    def cancel(self, identity: str) -> JobStatus:
        """End a job, and forget it. Raises NotFound."""
        return self._jobs.cancel(self.subject.model, identity)

    def chosen(self, name: str, method: str = "") -> ExplainerSpec:
        """The explainer of a name: one of the folder's, else the method of that name, made from the reference. Of no
        name, the folder's first of a method, else that method; of neither, the folder's first.

        Raises:
            NotFound: none is named, and the folder has none.
            InvalidRequest: there is no such one; names the nearest.
        """
        known = self.explainers.explainers
        if method and not name:
            name = next((each.name for each in known if each.method == method), method)
        for each in known:
            if name in {"", each.name}:
                return each
        if not name:
            raise NotFound(
                f"model '{self.subject.model}' has a trust folder without explainers; write one that has them by "
                f"`headrace trust fit`, or name a method by the parameter 'explainer': {', '.join(METHODS)}"
            )
        if name in METHODS:
            return ExplainerSpec(name=name, method=name)
        names = [*(each.name for each in known), *METHODS]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(dict.fromkeys(names))}"
        raise InvalidRequest(f"model '{self.subject.model}' has no explainer '{name}'; {hint}")

    def infer(self, *, name: str, version: str = "") -> Infer:
        """A model of that name that answers with explanations: the one which `explainers.json` names."""
        return _as_model(lambda: self, _Wanted(), name, version)

    async def _explain(
        self, pool: Pool, spec: ExplainerSpec, request: ExplainRequest, budget: Budget, progress: Progress
    ) -> ExplainReply:
        most = self.explainers.max_rows
        message = {
            "explainer": msgspec.to_builtins(spec, enc_hook=plain),
            "inputs": tensors(request.inference.inputs),
            "options": dict(request.options),
            "rows": None if request.rows is None else list(request.rows),
            "max_rows": min(request.max_rows or most, most),
            "format": request.format,
        }
        await pool.explain(self.subject, message, budget, progress)
        return ExplainReply(
            model_name=self.subject.model,
            model_version=self.subject.version,
            explainer=spec.name,
            method=spec.method,
            explanations=tuple(progress.explained),
        )


# -- jobs --


class Jobs:
    """Explanations that nobody waits for. At most so many, for so long."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], _Job] = {}

    def begin(self, model: str, progress: Progress, work: Any) -> JobStatus:
        """Keep one, and let it run.

        Raises:
            Overloaded: as many as are kept are still under way.
        """
        self._sweep()
        if len(self._jobs) >= _JOBS_KEPT:
            work.close()
            raise Overloaded(f"{len(self._jobs)} jobs of explanations are under way; try again later")
        job = _Job(secrets.token_urlsafe(12), progress, asyncio.get_running_loop().create_task(work))
        self._jobs[model, job.id] = job
        return job.status()

    def find(self, model: str, identity: str) -> _Job:
        """One of a model's. Raises NotFound."""
        self._sweep()
        job = self._jobs.get((model, identity))
        if job is None:
            raise NotFound(f"model '{model}' has no job '{identity}'; what is done is kept for an hour")
        return job

    def cancel(self, model: str, identity: str) -> JobStatus:
        """End one and forget it. Raises NotFound."""
        job = self.find(model, identity)
        del self._jobs[model, identity]
        job.task.cancel()
        return msgspec.structs.replace(job.status(), state="cancelled", reply=None)

    async def close(self) -> None:
        """End all."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._jobs.clear()

    def _sweep(self) -> None:
        now = time.monotonic()
        done = [key for key, job in self._jobs.items() if job.ended_at]
        old = {key for key in done if now - self._jobs[key].ended_at > _JOB_KEPT_SECONDS}
        excess = max(0, len(self._jobs) - len(old) - _JOBS_KEPT + 1)
        for key in [*old, *[each for each in done if each not in old][:excess]]:
            del self._jobs[key]


class _Job:
    def __init__(self, identity: str, progress: Progress, task: asyncio.Task[ExplainReply]) -> None:
        self.id, self.progress, self.task = identity, progress, task
        self.began_at, self.ended_at = time.monotonic(), 0.0
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[ExplainReply]) -> None:
        self.ended_at = time.monotonic()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HeadraceError):
            log.error("a job of an explanation failed", exc_info=error)

    def status(self) -> JobStatus:
        state: Literal["queued", "running", "done", "failed", "cancelled"]
        reply, error = None, ""
        task = self.task
        if not task.done():
            state = "running" if self.progress.is_running else "queued"
        elif task.cancelled():
            state = "cancelled"
        elif (failed := task.exception()) is not None:
            state = "failed"
            error = str(failed) if isinstance(failed, HeadraceError) else f"internal error: {type(failed).__name__}"
        else:
            state, reply = "done", task.result()
        return JobStatus(
            id=self.id,
            state=state,
            explained=len(self.progress.explained),
            of=self.progress.of,
            model_rows=self.progress.model_rows,
            seconds=(self.ended_at or time.monotonic()) - self.began_at,
            error=error,
            reply=reply,
        )


# -- a model that explains another --


def _as_model(find: Callable[[], Explain], wanted: _Wanted, name: str, version: str) -> Infer:
    """Requests for explanations in the form of inference: one output, a JSON text a row."""

    async def infer(request: InferenceRequest) -> InferenceResponse:
        reply = await find()(_filled(wire.parse(request, strict=False), wanted))
        data = np.empty(len(reply.explanations), np.object_)
        data[:] = [wire.render_row(each) for each in reply.explanations]
        return InferenceResponse(
            model_name=name,
            model_version=version,
            id=request.id,
            outputs=(Tensor(OUTPUT, "BYTES", data, {"content_type": "str"}),),
            headers={
                "x-headrace-detector-type": OUTPUT,
                "x-headrace-detector-method": reply.method,
                "x-seldon-alibi-type": OUTPUT,
                "x-seldon-alibi-method": reply.method,
            },
        )

    return infer


def _filled(request: ExplainRequest, wanted: _Wanted) -> ExplainRequest:
    return msgspec.structs.replace(
        request,
        explainer=request.explainer or wanted.explainer,
        method=wanted.method,
        options={**wanted.parameters, **wanted.options, **request.options},
        deadline_seconds=request.deadline_seconds or wanted.deadline_seconds,
        max_rows=request.max_rows or wanted.max_rows,
    )


class ExplainsAnother:
    """What `Served.explain` is of a model that explains another: that other's, as this one was declared."""

    def __init__(self, find: Callable[[], Explain], wanted: _Wanted) -> None:
        self._find, self._wanted = find, wanted

    async def __call__(self, request: ExplainRequest) -> ExplainReply:
        """As of `Explainable`; ModelNotReady where the other is not there."""
        return await self._find()(_filled(request, self._wanted))

    def submit(self, request: ExplainRequest) -> JobStatus:
        """As of `Explainable`."""
        return self._find().submit(_filled(request, self._wanted))

    def job(self, identity: str) -> JobStatus:
        """As of `Explainable`."""
        return self._find().job(identity)

    def cancel(self, identity: str) -> JobStatus:
        """As of `Explainable`."""
        return self._find().cancel(identity)


class LoadedExplainer:
    """A model that explains another, as the repository holds what is loaded (`serving.loaded.Loaded`)."""

    signature: Signature | None
    placement = "process"
    infer_stream = None
    declared: Parameters = EMPTY
    routes: tuple[Route, ...] = (_EXPLAIN,)
    pids: tuple[int, ...] = ()
    """None of its own: the processes of explanations are everybody's."""

    def __init__(
        self,
        spec: ModelSpec,
        find: Callable[[], Explain],
        wanted: _Wanted,
        model: str,
        closed: Callable[[], None],
    ) -> None:
        self.warnings = spec.warnings
        self.infer: Infer = _as_model(find, wanted, spec.name, spec.version)
        self.explain = ExplainsAnother(find, wanted)
        self.visit: Visit = self._visit
        self._name, self._version, self._closed = spec.name, spec.version, closed
        self.signature = Signature(
            platform="headrace_explainer",
            outputs=(TensorSpec(name=OUTPUT, datatype="BYTES", shape=(-1,), content_type="str"),),
            strict=False,
            properties={"explains": model, "method": wanted.method or wanted.explainer},
        )

    async def _visit(self, request: RouteRequest) -> RouteResponse:
        """MLServer's `POST /explain`: a V2 request, answered with the bare explanation (of several rows, a list)."""
        inference = v2_rest.parse(request.body, model_name=self._name, model_version=self._version)
        inference = msgspec.structs.replace(inference, deadline=request.deadline)
        reply = await self.explain(wire.parse(inference, strict=False))
        rows = [wire.render_row(each) for each in reply.explanations]
        body = rows[0] if len(rows) == 1 else b"[" + b",".join(rows) + b"]"
        return RouteResponse(body=body, headers=(("content-type", "application/json"),))

    async def close(self, drain_seconds: float) -> None:
        """Forget it; requests under way end by themselves."""
        self._closed()


def own_folder(path: Path, method: str, describe: str) -> Path:
    """The trust folder that an explainer's path is, or has.

    Raises:
        LoadFailed: it is an explainer that alibi saved, or something else.
    """
    if is_folder(path):
        return path
    found = find_folder(path) if path.exists() else None
    if found is not None:
        return found
    if any((path / each).exists() for each in _ALIBI) or path.suffix == ".dill":
        instead = f"our method for it is '{method}'" if method else f"our methods are {', '.join(METHODS)}"
        raise LoadFailed(
            f"{describe}: {path} is an explainer that alibi saved: pickled code, which is never read here. Write a "
            f"trust folder beside the model from its training data by `headrace trust fit`, and leave the path out; "
            f"{instead}"
        )
    raise LoadFailed(
        f"{describe}: {path} is no trust folder; write one beside the model by `headrace trust fit`, and leave the "
        "path out"
    )
