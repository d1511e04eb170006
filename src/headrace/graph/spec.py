"""What a pipeline says: the fields of a `Pipeline` resource's spec, as types. Pure; `control.resources` holds them.

References (`inputs`, `triggers`, keys of `tensorMap`, `output.steps`) have this grammar, which is Seldon Core v2's with
one more side, `branches`:

    STEP | STEP.outputs | STEP.outputs.TENSOR       what a step answered, or one tensor of it
    STEP.inputs | STEP.inputs.TENSOR                what a step was asked
    STEP.branches.BRANCH                            what a step was asked, if its router chose that branch
    PIPELINE | PIPELINE.inputs | PIPELINE.inputs.TENSOR      what the pipeline was asked (PIPELINE: its own name)

and between pipelines (`input.externalInputs`, `input.externalTriggers`):

    OTHER.inputs | OTHER.outputs [.TENSOR] | OTHER.step.STEP.inputs | OTHER.step.STEP.outputs [.TENSOR]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from headrace.payload import EMPTY

JOIN_WINDOW_MS: Final = 60_000
Join = Literal["inner", "outer", "any"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    pass


class Batch(_Part, frozen=True, kw_only=True):
    """Rows of several requests gathered for one call of a step. Each request gets its own rows back."""

    size: int = 0
    """Rows on dimension 0 that end the wait; 0: no gathering."""
    window_ms: int = 0
    """Milliseconds after which what has come is sent on; 0: 50."""
    rolling: bool = False
    """Accepted for Seldon's sake; without effect."""


class Branch(_Part, frozen=True, kw_only=True):
    """One way that a router may choose."""

    name: str
    """As `ROUTER.branches.NAME` refers to it."""
    weight: float = 0.0
    """Its share, relative to the sum of all; for `weights`."""
    when: str = ""
    """A condition; for `conditions`: the first branch whose condition holds is chosen, and a
    branch without one always holds."""


class Route(_Part, frozen=True, kw_only=True):
    """A step that chooses among branches and passes its input on to the chosen ones."""

    type: Literal["weights", "conditions", "epsilonGreedy", "thompsonSampling", "custom"] = "weights"
    """How it chooses."""
    branches: tuple[Branch, ...] = ()
    """What it chooses among."""
    epsilon: float = 0.1
    """`epsilonGreedy`: the share of requests that explore."""
    best_branch: str = ""
    """`epsilonGreedy`: taken for the best while no reward has come; empty: the first."""
    seed: int | None = None
    """Makes the choices repeatable."""
    reference: str = ""
    """`custom`: `module:name` or `file.py:name` of a function or class."""
    parameters: Mapping[str, Any] = EMPTY
    """`custom`: given to the class."""


class Combine(_Part, frozen=True, kw_only=True):
    """A step that makes one answer of those of several steps."""

    type: Literal[
        "mean", "weightedMean", "vote", "median", "krum", "multi-krum", "trimmed-mean", "concatenate", "custom"
    ] = "mean"
    """What it makes of them."""
    weights: Mapping[str, float] = EMPTY
    """`weightedMean` and `vote`: by the reference of the input as it stands in `inputs`; a missing one weighs 1."""
    reference: str = ""
    """`custom`: as in Route."""
    parameters: Mapping[str, Any] = EMPTY
    """`custom`: given to the class or function; `concatenate`: `axis`; `krum`, `multi-krum`, `trimmed-mean`, `median`,
    `vote`: `f`, how many inputs may answer anything, `dissent: true` for one more tensor that says which did, and `m`
    of `multi-krum`."""


class Step(_Part, frozen=True, kw_only=True):
    """One node: a model (the default), a model elsewhere (`url`), another pipeline, Python, a combiner or a router."""

    name: str
    """As references call it."""
    model: str = ""
    """The model to ask; empty: the one of the step's name."""
    version: str = ""
    """Its version; empty: the one served by default, whatever that is when a request comes."""
    url: str = ""
    """`http://host:port` or `grpc://host:port` of another server of the Open Inference Protocol that has the model."""
    pipeline: str = ""
    """The pipeline to ask instead."""
    python: str = ""
    """`module:Class` or `file.py:Class`, relative to the manifest: a model of its own, loaded for this step."""
    parameters: Mapping[str, Any] = EMPTY
    """For `python`: what the class takes; else request parameters added to each call."""
    combine: Combine | None = None
    """Makes one answer of those of its inputs, and asks nothing."""
    route: Route | None = None
    """Chooses among branches, and asks nothing."""
    inputs: tuple[str, ...] = ()
    """Empty: what the pipeline was asked."""
    inputs_join_type: Join = "inner"
    """Whether it waits for all inputs, for those that can come, or for the first."""
    join_window_ms: int | None = None
    """Milliseconds; absent: 60000 for `inner` and `outer`. `outer` waits no longer than until nothing more can come."""
    tensor_map: Mapping[str, str] = EMPTY
    """Reference of a tensor to the name that this step knows it by."""
    triggers: tuple[str, ...] = ()
    """What must have come for the step to run; its data is not passed."""
    triggers_join_type: Join = "inner"
    """As `inputsJoinType`, of the triggers."""
    when: str = ""
    """A condition on the step's input; where it does not hold, the step does not run."""
    batch: Batch | None = None
    """Gathers rows of several requests for one call."""
    mirror: bool = False
    """Asked, but nobody waits for it and its failure is nobody's."""
    dependency: Literal["hard", "soft"] = "hard"
    """`soft`: a failure counts as no answer; `hard`: it fails the request."""
    timeout_ms: int = 0
    """For one call of the step; 0: what is left of the request's own time."""


class Input(_Part, frozen=True, kw_only=True):
    """What other pipelines give to this one. Each time they answer, it runs on that, without a caller."""

    external_inputs: tuple[str, ...] = ()
    """References to other pipelines whose tensors it runs on."""
    external_triggers: tuple[str, ...] = ()
    """References to other pipelines that must have come; their data is not passed."""
    join_type: Join = "inner"
    """As a step's `inputsJoinType`."""
    triggers_join_type: Join = "inner"
    """As a step's `triggersJoinType`."""
    join_window_ms: int | None = None
    """Milliseconds; absent: 60000."""
    tensor_map: Mapping[str, str] = EMPTY
    """Reference of a tensor to the name that the steps know it by."""


class Output(_Part, frozen=True, kw_only=True):
    """What the pipeline answers."""

    steps: tuple[str, ...] = ()
    """References whose tensors are the answer."""
    steps_join: Literal["inner", "outer", "any", "last"] = "inner"
    """`last`: the last in the list that answered, once no other can any more."""
    join_window_ms: int | None = None
    """Milliseconds; absent: 60000."""
    tensor_map: Mapping[str, str] = EMPTY
    """Reference of a tensor to its name in the answer."""
    by_step: bool = False
    """Tensors of different steps keep apart: each is named `STEP.TENSOR`."""
    repeats: bool = False
    """Tensors of one name may come from several steps and stand side by side, in the order of `steps`, as Seldon Core
    v2 answers; else that is refused."""


class Dataflow(_Part, frozen=True, kw_only=True):
    """What becomes of the topics of a pipeline with `durability: kafka`."""

    clean_topics_on_delete: bool = False
    """Whether they go with the pipeline. Elsewhere without effect."""


class Pipeline(_Part, frozen=True, kw_only=True):
    """Steps, and how tensors flow between them."""

    steps: tuple[Step, ...] = ()
    """In any order."""
    input: Input | None = None
    """What feeds it beside its callers; absent: nothing."""
    output: Output | None = None
    """What it answers; absent: what its only step answers."""
    allow_cycles: bool = False
    """A step may take what comes of its own answer; `maxStepRevisits` bounds it."""
    max_step_revisits: int = 0
    """How often one step may run again for one request; 0: cycles are refused, as they have no bound."""
    durability: Literal["memory", "kafka"] = "memory"
    """`kafka`: requests wait in a topic and answers go to one, so that another replica finishes what a killed one
    began. Needs the settings `kafka`."""
    topics: Literal["none", "outputs", "all"] | tuple[str, ...] = "none"
    """Of which steps the messages are written to topics too: of none, what they answer, what they are asked as well,
    or a list of `STEP.inputs` and `STEP.outputs`. For `durability: kafka`."""
    partitions: int = 0
    """Of topics that are made, so how many replicas can share the work; 0: the setting `kafka.partitions`."""
    result_seconds: int = 3600
    """How long a result can be had by its request's id."""
    dataflow: Dataflow | None = None
    """What becomes of topics."""
    timeout_ms: int = 0
    """For one request; 0: the server's own."""


def topic_references(pipeline: Pipeline) -> tuple[str, ...]:
    """What of a pipeline's steps is written to topics, each as `STEP.inputs` or `STEP.outputs`."""
    if not isinstance(pipeline.topics, str):
        return pipeline.topics
    sides: tuple[str, ...] = {"none": (), "outputs": ("outputs",), "all": ("inputs", "outputs")}[pipeline.topics]
    return tuple([f"{step.name}.{side}" for step in pipeline.steps for side in sides])
