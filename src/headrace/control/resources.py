"""The resources: what a person declares, and what became of it. Pure; everything else in the room works on these.

In YAML and JSON, names are in camelCase, as in Kubernetes, where the same documents are custom resources.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from headrace.graph.spec import Pipeline
from headrace.payload import EMPTY

API_VERSION: Final = "headrace.io/v1"
EXPLAINER: Final = "explainer"
"""The runtime of a model that explains another."""
EXPLAINER_NAME: Final = "-explainer"
"""How the name of one ends that was made of Seldon's or KServe's, as of their services."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    pass


# -- Model --


class TensorSpec(_Part, frozen=True, kw_only=True):
    """One input or output of a model."""

    name: str
    """As requests call it."""
    datatype: str
    """Of the Open Inference Protocol."""
    shape: tuple[int, ...]
    """-1: any length."""
    content_type: str = ""
    """As in headrace.yaml: `np`, `pd`, `str`, `json`, ..."""
    optional: bool = False
    """A request may leave it out."""
    labels: tuple[str, ...] = ()
    """The names of classes, for the classification extension."""


class Batching(_Part, frozen=True, kw_only=True):
    """As `batching` of headrace.yaml."""

    max_batch_size: int = 64
    """Rows of one call."""
    max_wait_seconds: float = 0.0
    """How long a request may wait for others; 0: requests that wait anyway are merged."""
    max_queue_size: int = 1000
    """Requests that may wait; more are answered 503."""


class Cache(_Part, frozen=True, kw_only=True):
    """As `cache` of headrace.yaml."""

    max_entries: int = 1000
    """Answers that are kept."""
    max_bytes: int = 64 << 20
    """What they may take together."""
    ttl_seconds: float = 0.0
    """After so long an answer is computed anew; 0: never."""


class Resolved(_Part, frozen=True, kw_only=True):
    """What a uri stood for when it was looked at."""

    uri: str
    """`models:/iris/3` of `models:/iris@champion`; the same uri where the store has no versions."""
    token: str = ""
    """Changes when the bytes do."""
    version: str = ""
    """In a registry; empty: there is none."""


class Model(_Part, frozen=True, kw_only=True):
    """A model to serve. Each change of what is loaded makes a revision, which is the version that is served."""

    uri: str = ""
    """A file or folder, relative to the manifest, or a uri of a store or registry: `s3://...`, `models:/iris@champion`.
    Empty with `reference`: a model in code."""
    follow_seconds: float = 0.0
    """How often a uri that may come to stand for something else is looked at again. When it does, that is a new
    revision, which is loaded, warmed and takes over, or gets the canary's share; one that cannot be loaded gets
    nothing. 0: never."""
    resolved: Resolved | None = None
    """What `uri` stood for at the last look: written by the server that follows it, kept by an apply that leaves it
    out."""
    artifact_version: str = ""
    """Which version folder below `uri`; empty: the highest, if there are any."""
    runtime: str = ""
    """As in headrace.yaml; empty: recognised. `explainer`: it explains the model that `parameters.model` names, by
    `parameters.method`, and is asked at its own name and at that which `parameters.endpoint` names; `uri` is then
    empty, or a trust folder of its own."""
    reference: str = ""
    """`module:Class` or `file.py:Class`, relative to the manifest."""
    inputs: tuple[TensorSpec, ...] = ()
    """In place of what the artifact says; empty: as it says."""
    outputs: tuple[TensorSpec, ...] = ()
    """In place of what the artifact says; empty: as it says."""
    batching: Batching | None = None
    """How requests are merged; absent: as the runtime has it."""
    placement: Literal["auto", "inline", "thread", "process"] = "auto"
    """Where its code runs: on the loop, in a thread, in processes; `auto`: measured at load."""
    replicas: int = 1
    """Copies that predict at the same time, in threads or processes."""
    min_replicas: int | None = None
    """0: it may leave memory when idle (`idleSeconds`). More: without effect in one process."""
    max_replicas: int | None = None
    """Without effect in one process."""
    predict_timeout_seconds: float = 60.0
    """After so long a worker process is taken for stuck, and started again."""
    timeout_seconds: float = 0.0
    """For one request; 0: the server's own."""
    warm_up: tuple[Any, ...] = ()
    """Requests in the V2 form that are asked before it counts as ready; a failing one fails the load."""
    optimize: Literal["auto", "require", "off"] = "auto"
    """Whether a faster engine may answer, once it is proven equal; `require`: it fails to load where there is none."""
    load_policy: Literal["auto", "restricted"] = "auto"
    """`trusted` is for who starts the server, not for a manifest."""
    parameters: Mapping[str, Any] = EMPTY
    """The runtime's own; for a class, what its constructor takes."""
    cache: Cache | None = None
    """Keeps answers; absent: none are kept."""
    environment: str = "auto"
    """The environment that it runs in, as in headrace.yaml."""
    requirements: tuple[str, ...] = ()
    """What a server must be capable of to hold it: `sklearn`, `xgboost`, ..., or tags of your own."""
    server: str = ""
    """The Server resource to be on; empty: any that is capable."""
    memory_bytes: int = 0
    """Planned with until it is measured; 0: not known."""
    load: Literal["always", "onDemand"] = "always"
    """`onDemand`: loaded by the first request, or by hand."""
    idle_seconds: float = 0.0
    """Leaves memory after so long without a request, and comes back with the next; 0: stays."""
    canary_traffic_percent: int | None = None
    """What the newest revision gets of the requests; the rest goes to the revision that last had all. Absent or 100:
    all; 0: it is loaded and gets none."""


# -- Experiment --


class Candidate(_Part, frozen=True, kw_only=True):
    """One of the things between which requests are split."""

    name: str
    """A model or pipeline; `NAME@REVISION` for one revision of a model."""
    weight: float = 1.0
    """Its share, relative to the sum of all."""


class Mirror(_Part, frozen=True, kw_only=True):
    """Where copies of requests go whose answers nobody waits for."""

    name: str
    """A model or pipeline, of the experiment's `resourceType`."""
    percent: float = 100.0
    """Of the requests."""


class Experiment(_Part, frozen=True, kw_only=True):
    """Requests split by weight, and copied to a mirror."""

    default: str = ""
    """The candidate whose own name this answers for, while it is active; empty: the experiment has a name of its own
    only."""
    candidates: tuple[Candidate, ...] = ()
    """What the requests are split between."""
    mirror: Mirror | None = None
    """What gets copies of requests besides."""
    resource_type: Literal["model", "pipeline"] = "model"
    """What candidates and mirror are."""


# -- Server --


class Server(_Part, frozen=True, kw_only=True):
    """What holds models: this process (no `url`), or another server of the Open Inference Protocol."""

    url: str = ""
    """`http://host:port` or `grpc://host:port`; empty: this process."""
    capabilities: tuple[str, ...] = ()
    """In place of the runtimes that are installed here."""
    extra_capabilities: tuple[str, ...] = ()
    """Beside the runtimes that are installed here."""
    memory_bytes: int = 0
    """What its models may take together; 0: the setting `models.memory_bytes`."""
    overcommit_percent: int = 0
    """Models may be asked for that much beyond it; the least recently used leave memory, and come back when asked."""
    replicas: int = 1
    """Kept for others' sake; without effect in one process."""


# -- Rollout --


class RolloutStep(_Part, frozen=True, kw_only=True):
    """A share of the requests for the candidate, and how long it is watched there at least."""

    weight: float
    """Percent."""
    pause_seconds: float = 0.0
    """The least time in this step."""


class MetricCheck(_Part, frozen=True, kw_only=True):
    """A metric of the server's own `/metrics` that must hold for the candidate."""

    name: str
    """Of the metric."""
    at_most: float | None = None
    """What it may be; absent: no bound."""
    at_least: float | None = None
    """What it must be; absent: no bound."""


class Judge(_Part, frozen=True, kw_only=True):
    """What decides between candidate and stable version: sequential tests whose rate of false alarms is stated."""

    error_rate: float = 0.05
    """The chance, over the whole rollout, that a candidate as good as the stable version is rolled back."""
    min_requests: int = 100
    """Of the candidate, in each step, before it is judged well."""
    max_error_rate_increase: float = 0.01
    """How much higher the candidate's share of failed requests may be."""
    latency_percentile: float = 95.0
    """Which one of the latencies is compared."""
    max_latency_ratio: float = 1.25
    """How many times the stable version's percentile the candidate's may be; 0: not judged."""
    min_agreement: float = 0.0
    """The share of mirrored requests that both must answer alike; 0: not judged."""
    metrics: tuple[MetricCheck, ...] = ()
    """Bounds for metrics of the candidate, looked at once it has `minRequests`."""
    timeout_seconds: float = 0.0
    """After so long in one step without a decision it is rolled back; 0: it waits, and says so."""


class Rollout(_Part, frozen=True, kw_only=True):
    """A change of a name from one model or pipeline to another, step by step, judged."""

    stable: str
    """What has the requests now: a model, `NAME@REVISION`, or a pipeline."""
    candidate: str
    """What is to have them."""
    endpoint: str = ""
    """The name that callers ask; empty: that of `stable`."""
    resource_type: Literal["model", "pipeline"] = "model"
    """What both are."""
    steps: tuple[RolloutStep, ...] = (
        RolloutStep(weight=5, pause_seconds=60),
        RolloutStep(weight=25, pause_seconds=60),
        RolloutStep(weight=50, pause_seconds=60),
    )
    """Shares of the candidate, rising."""
    mirror_percent: float = 0.0
    """Of the stable version's requests, copied to the candidate to see whether they agree."""
    judge: Judge = Judge()
    """What decides whether it goes on."""
    paused: bool = False
    """Stays where it is."""


Spec = Model | Pipeline | Experiment | Server | Rollout
KINDS: Final[Mapping[str, type]] = {
    "Model": Model,
    "Pipeline": Pipeline,
    "Experiment": Experiment,
    "Server": Server,
    "Rollout": Rollout,
}
"""Kind to the type of its spec, in the order in which they are applied and shown."""


# -- what is around a spec --


class Metadata(_Part, frozen=True, kw_only=True):
    """Whose spec it is."""

    name: str
    namespace: str = "default"
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    # Written by the server:
    uid: str = ""
    generation: int = 0
    """Counts the changes of the spec, from 1."""
    resource_version: int = 0
    """Counts the changes of anything, over all resources."""
    creation_timestamp: dt.datetime | None = None


class Condition(_Part, frozen=True, kw_only=True):
    """One thing that is so, or not, or not known."""

    type: str
    """`Ready`, `ModelsReady`, `CandidatesReady`, `Judged`, ..."""
    status: Literal["True", "False", "Unknown"]
    reason: str
    """One word in CamelCase, for programs."""
    message: str = ""
    """For people."""
    last_transition_time: dt.datetime | None = None


class Status(_Part, frozen=True, kw_only=True):
    """What became of a spec."""

    observed_generation: int = 0
    """The generation that this speaks of."""
    conditions: tuple[Condition, ...] = ()
    revision: int = 0
    """Models: the newest revision."""
    ready_revision: int = 0
    """Models: the revision that has the traffic, or had it all last."""
    notes: tuple[str, ...] = ()
    """Fields that are refused or without effect here, each with the reason."""
    details: Mapping[str, Any] = EMPTY
    """By kind: measured memory, traffic by candidate, the step of a rollout and what its judge says, ..."""


class Resource(_Part, frozen=True, kw_only=True):
    """A declaration and what became of it."""

    kind: str
    metadata: Metadata
    spec: Spec
    api_version: str = API_VERSION
    status: Status = Status()
    origin: str = ""
    """The manifest that it was made of, as `FILE: apiVersion kind`; empty: ours."""
    base: str = ""
    """The folder that relative paths of the spec start from, absolute."""
    notes: tuple[str, ...] = ()
    """What the manifest says that is refused or without effect here; `status.notes` shows it."""

    @property
    def key(self) -> tuple[str, str]:
        """Kind and name."""
        return self.kind, self.metadata.name

    def describe(self) -> str:
        """As a message names it."""
        return f"{self.kind} '{self.metadata.name}'"
