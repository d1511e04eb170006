"""What a backend is: it says what is there, and carries out one action at a time. `control.reconciler` asks it.

What is deployed is made of units, which `control.plan` computes from resources: revisions of models, pipelines, splits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

import msgspec

from headrace.control.resources import Model, Server
from headrace.graph.spec import Pipeline
from headrace.payload import EMPTY


class _Unit(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: str
    """Changes when anything changes that the backend would have to do over."""
    base: str = ""
    """The folder that relative paths start from, absolute."""


class ModelUnit(_Unit, frozen=True, kw_only=True):
    """One revision of a model: served as version `revision` of `name`."""

    revision: int
    spec: Model


class PipelineUnit(_Unit, frozen=True, kw_only=True):
    """A pipeline: served as `name` of kind `pipeline`."""

    version: int
    spec: Pipeline
    form: str = ""
    """Whose clients it answers in their own form: `seldon_v1`, `inference_graph`; empty: ours."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One of the candidates of a split."""

    name: str
    """`Served.key`: a model's name, or `NAME.pipeline`."""
    version: str = ""
    """A revision of a model; empty: the one that the name stands for."""
    weight: float = 1.0


class SplitUnit(_Unit, frozen=True, kw_only=True):
    """Requests split by weight: served as `name` of kind `experiment`."""

    shares: tuple[Share, ...]
    default: str = ""
    """The candidate (`Share.name`) whose signature the split shows; empty: the first."""
    diverts: str = ""
    """The key (`Served.key`) that this answers for as well; empty: none."""
    mirror: Share | None = None
    """Its weight is in percent."""
    compares: bool = False
    """Whether the mirror's answers are compared with the callers'."""
    owner: tuple[str, str] = ("", "")
    """Kind and name of the resource that it is made of."""
    form: str = ""
    """As of PipelineUnit."""


class ServerUnit(_Unit, frozen=True, kw_only=True):
    """This process's limits (`Server` without url), or another server."""

    spec: Server


Unit = ModelUnit | PipelineUnit | SplitUnit | ServerUnit

UnitKey = tuple[str, str, int]
"""`model`, `pipeline`, `split` or `server`; name; revision, 0 where there is none."""


def key_of(unit: Unit) -> UnitKey:
    """What a unit is found by."""
    match unit:
        case ModelUnit():
            return "model", unit.name, unit.revision
        case PipelineUnit():
            return "pipeline", unit.name, 0
        case SplitUnit():
            return "split", unit.name, 0
        case ServerUnit():
            return "server", unit.name, 0


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend says of one unit."""

    key: UnitKey
    digest: str
    state: Literal["ready", "progressing", "failed", "leaving"]
    reason: str = ""
    """For a person: why it is not ready."""
    details: Mapping[str, Any] = EMPTY
    """Measured memory, placement, engine, ...; shown in the status of its resource. Of a split, `settling` says that a
    candidate is not yet as it will be: a rollout neither begins nor is judged meanwhile.
    """


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do. The reconciler carries them out stage by stage; those of one stage side by side."""

    verb: Literal["set", "remove"]
    key: UnitKey
    unit: Unit | None = None
    """What is to be there; None to remove."""
    stage: int = 0
    reason: str = ""
    """For a person: why."""
    after: tuple[UnitKey, ...] = ()
    """Units with an action in the same plan that must have succeeded before."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What one candidate of a split has done since the split was last set up, or its weights changed."""

    requests: int = 0
    failures: int = 0
    """Answers that were the candidate's fault (5xx), not the caller's."""
    latency: Mapping[float, int] = MappingProxyType({})
    """Upper bound of a bucket in seconds to the requests in it (not cumulated); the last bound is infinity."""
    compared: int = 0
    """Of the mirror: answers compared with the caller's."""
    agreed: int = 0
    differences: Mapping[str, Any] = MappingProxyType({})
    """Of the mirror, where it answered otherwise: a summary by output, and the last `examples`; JSON values."""


class Backend(Protocol):
    """Where resources are carried out. Used on one event loop."""

    async def observe(self) -> Sequence[Observed]:
        """All units there are, in any state."""

    async def carry_out(self, action: Action) -> None:
        """Do it, and return when it is done: a model is loaded, a pipeline answers, a split has its weights.

        Idempotent. A `set` of something that is there replaces it without a failed request.

        Raises:
            HeadraceError: it cannot be done; the text says why. What was there before stays.
        """

    def counts(self, split: str) -> Mapping[str, Counts]:
        """What each candidate of a split has done, by `Share.name@version` (name alone without a version)."""

    def metric(self, name: str, model: str, version: str) -> float | None:
        """A metric of the backend's own for one model; None: there is none such."""
