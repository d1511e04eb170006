"""Whether resources can be, together with each other and with what is there: the second step of an apply. Pure.

`service` calls it before anything is written; every fault is found at once, each with its file and line.
"""

from __future__ import annotations

import difflib
import itertools
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from headrace.control import plan
from headrace.control.parse import Read
from headrace.control.resources import EXPLAINER, Experiment, Model, Resource, Rollout, Server
from headrace.control.resources import TensorSpec as Declared
from headrace.errors import InvalidRequest
from headrace.graph import check as graph
from headrace.graph import references
from headrace.graph.spec import Pipeline
from headrace.payload import EMPTY, Signature, TensorSpec

Key = tuple[str, str]

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def faults(
    incoming: Sequence[Read],
    stored: Mapping[Key, Resource],
    *,
    signatures: Mapping[str, Signature] = EMPTY,
    revisions: Mapping[str, Collection[int]] = EMPTY,
    exists: Callable[[str], bool] = lambda _: True,
    taken: Collection[str] = (),
    capabilities: Collection[str] | None = None,
    spoiled: Collection[str] | None = (),
) -> list[str]:
    """Everything that is wrong with what is to be applied; empty when it can be.

    Args:
        incoming: What is to be applied, with the places it was read from.
        stored: What is there; what is incoming replaces it.
        signatures: Of the models that are served, by name.
        revisions: By model, the numbers of its revisions that are kept.
        exists: Whether there is a file or folder.
        taken: Names of models that are served without being resources: the server was started with them.
        capabilities: What this process can load (`sklearn`, ...); None: not known, so nothing is said of it.
        spoiled: Names of resources that come with these but could not be read: they are not missed. None: any may be.
    """
    checker = _Checker(incoming, stored)
    checker.signatures, checker.revisions, checker.exists = signatures, revisions, exists
    checker.taken, checker.capabilities = frozenset(taken), capabilities
    checker.spoiled = spoiled
    return checker.faults()


def dependants(keys: Collection[Key], resources: Iterable[Resource]) -> list[tuple[Resource, Key]]:
    """What would no longer work without some resources, with the one it uses; those that go with them do not count."""
    gone = set(keys)
    rest = (each for each in resources if each.key not in gone)
    return [(each, used) for each in rest for used in dict.fromkeys(_uses(each)) if used in gone]


def _uses(resource: Resource) -> Iterator[Key]:
    """The resources that one names."""
    spec = resource.spec
    match spec:
        case Model(server=server):
            if server:
                yield "Server", server
        case Pipeline(steps=steps):
            for step in steps:
                if step.pipeline:
                    yield "Pipeline", step.pipeline
                elif model := plan.model_of(step):
                    yield "Model", model
            outside = spec.input
            for text in (*outside.external_inputs, *outside.external_triggers) if outside is not None else ():
                yield "Pipeline", references.parse_external(text).pipeline
        case Experiment() | Rollout():
            kind = "Pipeline" if spec.resource_type == "pipeline" else "Model"
            for name in _named(spec):
                yield kind, name.partition("@")[0]
        case _:
            return


def _named(spec: Experiment | Rollout) -> list[str]:
    if isinstance(spec, Rollout):
        return [spec.stable, spec.candidate]
    return [each.name for each in spec.candidates] + ([spec.mirror.name] if spec.mirror is not None else [])


_NEAR_LOOKED_FOR: Final = 50
"""So many unknown names get a hint; a file with thousands of them is wrong in another way."""


class _Checker:
    """What is asked again and again of all resources, looked up once."""

    def __init__(self, incoming: Sequence[Read], stored: Mapping[Key, Resource]) -> None:
        self.signatures: Mapping[str, Signature] = EMPTY
        self.revisions: Mapping[str, Collection[int]] = EMPTY
        self.exists: Callable[[str], bool] = bool
        self.taken: Collection[str] = ()
        self.capabilities: Collection[str] | None = None
        self.spoiled: Collection[str] | None = ()
        self._incoming = incoming
        self._stored = stored
        self._all = dict(stored) | {each.resource.key: each.resource for each in incoming}
        self._servers = {name: each.spec for (_, name), each in self._all.items() if isinstance(each.spec, Server)}
        self._diverted: dict[str, list[Resource]] = {}
        for resource in self._all.values():
            if key := _diverted(resource):
                self._diverted.setdefault(key, []).append(resource)
        self._hints = 0
        self._found: list[str] = []

    def faults(self) -> list[str]:
        for read in self._incoming:
            spec = read.resource.spec
            match spec:
                case Model():
                    self._model(read, spec)
                case Pipeline():
                    self._pipeline(read, spec)
                case Experiment():
                    self._experiment(read, spec)
                case Rollout():
                    self._rollout(read, spec)
                case Server():
                    self._server(read, spec)
        self._between_pipelines()
        return self._found

    def _fault(self, read: Read, path: str, text: str) -> None:
        place = f"{path}: " if path else ""
        self._found.append(f"{read.where(path)}: {read.resource.describe()}: {place}{text}")

    def _near(self, kind: str, name: str) -> str:
        self._hints += 1
        if self._hints > _NEAR_LOOKED_FOR:
            return ""
        names = [each for other, each in self._all if other == kind] + (list(self.taken) if kind == "Model" else [])
        near = difflib.get_close_matches(name, names, n=1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def _knows(self, kind: str, name: str) -> bool:
        there = (kind, name) in self._all or (kind == "Model" and name in self.taken)
        return there or self._is_spoiled(name)

    def _is_spoiled(self, name: str) -> bool:
        """Whether it came, but could not be read. Of a foreign document several may have been made."""
        return self.spoiled is None or any(name == each or name.startswith(f"{each}-") for each in self.spoiled)

    def _answers(self, kind: str, name: str, asker: str) -> bool:
        """Whether a step of a pipeline finds what it asks. A bare name means a model, else a pipeline or experiment."""
        if kind == "pipeline":
            return self._knows("Pipeline", name)
        others = ("Pipeline", "Experiment") if name != asker else ()
        return self._knows("Model", name) or any(self._knows(each, name) for each in others)

    # -- models and servers --

    def _model(self, read: Read, spec: Model) -> None:
        name = read.resource.metadata.name
        if name in self.taken and ("Model", name) not in self._stored:
            self._fault(
                read, "metadata.name", f"the server was started with a model '{name}' of its own; choose another name"
            )
        server = self._servers.get(spec.server)
        if server is not None and server.url:
            if spec.uri or spec.reference:
                field = "uri" if spec.uri else "reference"
                text = f"Server '{spec.server}' is elsewhere and has to have the model already; leave '{field}' out"
                self._fault(read, f"spec.{field}", text)
        elif spec.runtime == EXPLAINER:
            if not spec.parameters.get("model"):
                self._fault(
                    read, "spec.parameters.model", "expected the name of the model that it explains, found none"
                )
        elif not spec.uri and not spec.reference:
            self._fault(read, "spec", "expected 'uri' or 'reference', found neither")
        self._files(read, spec)
        if (
            spec.min_replicas is not None
            and spec.max_replicas is not None
            and spec.min_replicas > spec.max_replicas > 0
        ):
            self._fault(
                read,
                "spec.minReplicas",
                f"expected no more than maxReplicas {spec.max_replicas}, found {spec.min_replicas}",
            )
        for side, tensors in (("inputs", spec.inputs), ("outputs", spec.outputs)):
            for twice in _repeated(each.name for each in tensors):
                self._fault(read, f"spec.{side}", f"two tensors are named {twice!r}")
        self._placed(read, spec)
        if spec.canary_traffic_percent is not None and spec.canary_traffic_percent < 100:
            self._alone(read, "spec.canaryTrafficPercent", name)

    def _files(self, read: Read, spec: Model) -> None:
        base = read.resource.base
        uri = spec.uri
        if uri and not _SCHEME.match(uri) and not posixpath.isabs(uri) and base:
            path = posixpath.normpath(posixpath.join(base, uri))
            if not self.exists(path):
                self._fault(read, "spec.uri", f"expected a file or folder, found none at {path}")
        self._code(read, "spec.reference", spec.reference)

    def _code(self, read: Read, path: str, reference: str) -> None:
        """That a file with code is there; what it holds is seen when it is loaded."""
        base = read.resource.base
        file, _, _ = reference.rpartition(":")
        if file.endswith(".py") and not posixpath.isabs(file) and base:
            place = posixpath.normpath(posixpath.join(base, file))
            if not self.exists(place):
                self._fault(read, path, f"expected a Python file, found none at {place}")

    def _placed(self, read: Read, spec: Model) -> None:
        server = self._servers.get(spec.server)
        if spec.server and server is None and self._is_spoiled(spec.server):
            return
        if spec.server and server is None:
            self._fault(read, "spec.server", f"no Server '{spec.server}'{self._near('Server', spec.server)}")
            return
        able = self._able(server)
        missing = [each for each in spec.requirements if able is not None and each not in able]
        if missing and able is not None:
            where = f"Server '{spec.server}'" if spec.server else "this server"
            can = ", ".join(sorted(able)) or "nothing"
            self._fault(
                read, "spec.requirements", f"{where} is not capable of {', '.join(missing)}; it is capable of {can}"
            )

    def _able(self, server: Server | None) -> Collection[str] | None:
        """What a server can hold; None: not known. Without one: what any server that is this process can."""
        if server is not None and server.url:
            return {*server.capabilities, *server.extra_capabilities} if server.capabilities else None
        if self.capabilities is None:
            return None
        if server is not None:
            return {*(server.capabilities or self.capabilities), *server.extra_capabilities}
        here = [each for each in self._servers.values() if not each.url]
        return {*self.capabilities}.union(*((*each.capabilities, *each.extra_capabilities) for each in here))

    def _server(self, read: Read, spec: Server) -> None:
        if spec.url and not re.match(r"(https?|grpcs?)://[^/]+", spec.url):
            self._fault(read, "spec.url", f"expected http://HOST:PORT or grpc://HOST:PORT, found {spec.url!r}")
        own = read.resource.metadata.name
        if not spec.url and spec.memory_bytes:
            for name, other in self._servers.items():
                if name != own and not other.url and other.memory_bytes:
                    self._fault(read, "spec.memoryBytes", f"Server '{name}' limits the memory of this process already")
                    break

    # -- pipelines --

    def _pipeline(self, read: Read, spec: Pipeline) -> None:
        known = {
            step.name: signature
            for step in spec.steps
            if (model := plan.model_of(step)) and (signature := self._signature(model, step.version)) is not None
        }
        found = graph.faults(
            read.resource.metadata.name,
            spec,
            signatures=known,
            known=lambda kind, name: self._answers(kind, name, read.resource.metadata.name),
            near=lambda kind, name: self._near(kind.capitalize(), name),
        )
        for text in found:
            self._fault(read, _step_path(spec, text), text)
        for index, step in enumerate(spec.steps):
            if model := plan.model_of(step):
                self._pinned(read, f"spec.steps[{index}].version", model, step.version)
            self._code(read, f"spec.steps[{index}].python", step.python)
            if step.route is not None:
                self._code(read, f"spec.steps[{index}].route.reference", step.route.reference)
            if step.combine is not None:
                self._code(read, f"spec.steps[{index}].combine.reference", step.combine.reference)

    def _pinned(self, read: Read, path: str, model: str, version: str) -> None:
        if not version or ("Model", model) not in self._all:
            return
        kept = self.revisions.get(model, ())
        if not version.isdecimal() or int(version) not in kept:
            numbers = ", ".join(str(each) for each in sorted(kept)) or "none yet"
            self._fault(read, path, f"model '{model}' has no revision {version!r}; its revisions are {numbers}")

    def _signature(self, model: str, version: str) -> Signature | None:
        """What is known of a model's tensors: what it declares, else what is served, if that is what will be."""
        resource = self._all.get(("Model", model))
        if resource is None:
            return self.signatures.get(model)
        spec, before = resource.spec, self._stored.get(("Model", model))
        if not isinstance(spec, Model):
            return None
        if spec.inputs and spec.outputs:
            return Signature(platform="", inputs=_tensors(spec.inputs), outputs=_tensors(spec.outputs))
        if version or before is None or not isinstance(before.spec, Model):
            return None
        same = (plan.loaded(before.spec), before.base) == (plan.loaded(spec), resource.base)
        settled = before.status.ready_revision == before.status.revision
        return self.signatures.get(model) if same and settled else None

    def _between_pipelines(self) -> None:
        incoming = {each.resource.metadata.name: each for each in self._incoming if each.resource.kind == "Pipeline"}
        if not incoming:
            return
        there = {name: each.spec for (_, name), each in self._all.items() if isinstance(each.spec, Pipeline)}
        sound = {name: spec for name, spec in there.items() if not self._unreadable(spec)}
        for names, text in graph.feeding_faults(sound):
            read = next((incoming[name] for name in names if name in incoming), None)
            if read is not None:
                self._fault(read, "spec", text)

    def _unreadable(self, spec: Pipeline) -> bool:
        """Whether its references to other pipelines cannot be understood, which is a fault of its own."""
        outside = spec.input
        try:
            for text in (*outside.external_inputs, *outside.external_triggers) if outside is not None else ():
                references.parse_external(text)
        except InvalidRequest:
            return True
        return False

    # -- experiments and rollouts --

    def _experiment(self, read: Read, spec: Experiment) -> None:
        name = read.resource.metadata.name
        kind = "Pipeline" if spec.resource_type == "pipeline" else "Model"
        if not spec.candidates:
            more = (
                "" if spec.mirror is None else "; a mirror alone has no requests to copy, so expected a candidate too"
            )
            self._fault(read, "spec.candidates", f"experiment {name} has no candidates or mirror{more}")
        names = _named(spec)
        if spec.default and spec.default not in [each.name for each in spec.candidates]:
            self._fault(
                read,
                "spec.default",
                f"default model/pipeline {spec.default} not found in experiment {name} candidates",
            )
        for twice in _repeated(names):
            self._fault(
                read,
                "spec.candidates",
                f"each candidate and mirror must be unique but found resource {twice} duplicated in experiment {name}",
            )
        if spec.candidates and not any(each.weight > 0 for each in spec.candidates):
            self._fault(read, "spec.candidates", "expected at least one candidate with a weight above 0, found none")
        for index, each in enumerate(names):
            path = f"spec.candidates[{index}].name" if index < len(spec.candidates) else "spec.mirror.name"
            self._exists_as(read, path, kind, each)
        self._alone(read, "spec.default", plan.endpoint(spec.default, spec.resource_type) if spec.default else "")
        self._split_name(read)

    def _rollout(self, read: Read, spec: Rollout) -> None:
        kind = "Pipeline" if spec.resource_type == "pipeline" else "Model"
        for path, name in (("spec.stable", spec.stable), ("spec.candidate", spec.candidate)):
            self._exists_as(read, path, kind, name)
        if spec.stable == spec.candidate:
            self._fault(
                read, "spec.candidate", f"expected another {kind.lower()} than stable, found {spec.candidate!r} twice"
            )
        if spec.endpoint and "@" in spec.endpoint:
            self._fault(
                read, "spec.endpoint", f"expected a name that callers ask, found the revision {spec.endpoint!r}"
            )
        elif spec.endpoint:
            self._exists_as(read, "spec.endpoint", kind, spec.endpoint)
        weights = [each.weight for each in spec.steps]
        if any(later <= before for before, later in itertools.pairwise(weights)):
            self._fault(
                read, "spec.steps", f"expected weights that rise, found {', '.join(f'{each:g}' for each in weights)}"
            )
        for index, metric in enumerate(spec.judge.metrics):
            if metric.at_most is None and metric.at_least is None:
                self._fault(read, f"spec.judge.metrics[{index}]", "expected 'atMost' or 'atLeast', found neither")
        self._alone(read, "spec.endpoint", plan.endpoint(spec.endpoint or spec.stable, spec.resource_type))
        self._split_name(read)

    def _exists_as(self, read: Read, path: str, kind: str, name: str) -> None:
        bare, at, number = name.partition("@")
        if kind == "Pipeline" and at:
            self._fault(
                read, path, f"expected the name of a pipeline, found {name!r}; pipelines have no revisions to ask"
            )
        elif not self._knows(kind, bare):
            self._fault(read, path, f"no {kind.lower()} {bare!r}{self._near(kind, bare)}")
        elif at:
            self._pinned(read, path, bare, number or "@")

    def _alone(self, read: Read, path: str, key: str) -> None:
        """That nothing else answers for the same name."""
        if not key:
            return
        own = read.resource.key
        for other in self._diverted.get(key, ()):
            if other.key == own:
                continue
            both = isinstance(other.spec, Experiment) and read.resource.kind == "Experiment"
            text = f"{other.describe()} answers for '{key}' already"
            if both:
                bare = key.removesuffix(".pipeline")
                text = (
                    f"Resource {bare} already in experiment {other.metadata.name} as a baseline. "
                    "A model or pipeline can only appear in one experiment as a baseline"
                )
            self._fault(read, path, text)

    def _split_name(self, read: Read) -> None:
        """That what is served as an experiment has its name for itself."""
        kind, name = read.resource.key
        other = self._all.get(("Rollout" if kind == "Experiment" else "Experiment", name))
        if other is not None:
            self._fault(
                read, "metadata.name", f"{other.describe()} has this name; both are asked as '{name}.experiment'"
            )
        model = self._all.get(("Model", name))
        if model is not None and _diverted(model):
            self._fault(read, "metadata.name", f"the canary of {model.describe()} is asked as '{name}.experiment'")


def _diverted(resource: Resource) -> str:
    """The key that a resource answers for beside its own; empty: none."""
    spec = resource.spec
    match spec:
        case Model(canary_traffic_percent=percent):
            return resource.metadata.name if percent is not None and percent < 100 else ""
        case Experiment(default=default):
            return plan.endpoint(default, spec.resource_type) if default else ""
        case Rollout():
            return plan.endpoint(spec.endpoint or spec.stable, spec.resource_type)
        case _:
            return ""


def _tensors(declared: Sequence[Declared]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=each.name,
            datatype=each.datatype,
            shape=each.shape,
            content_type=each.content_type,
            optional=each.optional,
            labels=each.labels,
        )
        for each in declared
    )


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for each in names:
        if each in seen:
            twice[each] = None
        seen.add(each)
    return list(twice)


def _step_path(spec: Pipeline, text: str) -> str:
    """The step that a sentence speaks of, as a path, so that the fault has its line."""
    match = re.search(r"\bstep '?([A-Za-z0-9_.-]+)'?", text)
    if match is not None:
        for index, step in enumerate(spec.steps):
            if step.name == match[1]:
                return f"spec.steps[{index}]"
    return "spec.output" if " output" in text and spec.output is not None else "spec"
