"""The role of a runtime: the model itself, in its framework. The engine calls it; it sees no wire, codec or thread."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from headrace.errors import MissingExtra, unknown_key
from headrace.payload import (
    EMPTY,
    InferenceRequest,
    InferenceResponse,
    Route,
    RouteRequest,
    RouteResponse,
    Signature,
)

UNCHECKED: Final = "not yet: looked for while the model serves"
"""The property `engine.check` of a model that may get a faster engine later."""
Values = Mapping[str, Any]
"""Inputs or outputs by name: arrays, unless the signature's content type asks for something else."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model comes from: a file or folder, an object in memory, or `module:Class`. Exactly one is set."""

    path: Path | None = None
    model: Any = None
    reference: str = ""
    allowed_globals: tuple[str, ...] | None = None
    """Globals that anything pickled may name (`sklearn.*`, `numpy.dtype`), decided by `security.load_policy`;
    None: the artifact is trusted. Enforced by `runtimes.pickles`, the only door to unpickling."""
    parameters: Mapping[str, Any] = EMPTY
    """`parameters` of headrace.yaml, for the runtime to interpret; an unknown one is a SettingsError."""


class Recognition(msgspec.Struct, frozen=True):
    """Why a runtime claims an artifact."""

    evidence: str
    """For a person: `pickle naming sklearn.pipeline.Pipeline`, `ONNX model, IR 9`."""
    confidence: float = 1.0
    """Between 0 and 1; the most confident runtime wins, a tie is an error that names both."""


class Runtime(abc.ABC):
    """A model in its framework. Constructors store; `load` does the work; a runtime is used by one thread at a time
    unless `concurrent` says otherwise.

    Errors: `load` raises LoadFailed or a subclass; `predict` raises InvalidRequest for input that the model refuses,
    anything else is the model's own failure and is chained into RuntimeFailed by the engine.
    """

    extra: ClassVar[str] = ""
    """The extra that installs what this runtime needs; empty: nothing beyond headrace."""
    releases_lock: ClassVar[bool] = False
    """The engine spends its time outside the interpreter lock, so a thread gains something."""
    concurrent: ClassVar[bool] = False
    """`predict` may be called from several threads at once."""
    optimizable: bool = False
    """`runtimes.optimize` can read the loaded model (attribute `model`) and may find a faster engine for it."""
    is_async: bool = False
    """`predict` returns an awaitable and `predict_stream` an async iterator."""
    streams: bool = False
    """`predict_stream` exists."""
    whole: ClassVar[bool] = False
    """It is given whole requests by `answer` (and `answer_stream`), in place of arrays by `predict`: code written for
    another server sees parameters, headers and ids. Such a runtime `is_async`."""
    routes: tuple[Route, ...] = ()
    """Paths of its own that `visit` answers; known once it is loaded."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    def prepare(cls) -> None:
        """Import what every model of this kind needs, in a way that takes a process in which nothing else runs yet.

        Called at the start of a server or worker that will load such a model, before any load; most need nothing.
        """

    @classmethod
    @abc.abstractmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """Whether the file or folder at `path` holds a model of this kind, judged by its content.

        Imports no framework and executes nothing from the file.
        """

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:  # noqa: ARG003 - the base claims nothing
        """Whether an object in memory is a model of this kind, judged by its class."""
        return None

    @abc.abstractmethod
    def load(self) -> Signature:
        """Bring the model into memory and say what it is."""

    @abc.abstractmethod
    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Any:
        """Answer a batch.

        Args:
            inputs: By name. Never written to: arrays may be read-only views of a request.
            outputs: Names wanted, each known to the signature; empty: the default ones.
            parameters: The request's parameters.

        Returns:
            Outputs by name (`Values`): arrays with as many rows as came in when the signature is batchable.
        """

    def predict_stream(
        self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY
    ) -> Iterator[Values] | Any:
        """Answer one request with many partial answers."""
        raise NotImplementedError  # streams is False: the engine never calls this

    async def begin(self) -> Signature | None:
        """Called once after `load`, before the first request, on the loop of the answers; only where `is_async`.

        For what must be made on that loop. Gives the signature as now known; None: as `load` gave it. Errors as of
        `load`.
        """
        return None

    async def answer(self, request: InferenceRequest) -> InferenceResponse:
        """Answer one whole request.

        The tensors of the answer carry their own parameters; `parameters` and `headers` of the answer reach the caller;
        its id, where empty, becomes the request's.

        Raises:
            ModelError: with a status that the model chose; anything else is treated as of `predict`.
        """
        raise NotImplementedError  # whole is False: the engine never calls this

    def answer_stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        """Answer one whole request with many responses."""
        raise NotImplementedError  # as above

    async def visit(self, request: RouteRequest) -> RouteResponse:
        """Answer a plain HTTP request to one of `routes`."""
        raise NotImplementedError  # routes is empty: the engine never calls this

    def logged(self) -> list[tuple[str, str, float]]:
        """What the model's code has measured of itself since the last call: metric name, description, value.

        Called after `load` and after each answer, in the thread or process where the model is; reads and forgets.
        """
        return []

    def sample(self) -> Values | None:
        """Inputs that the artifact carries and the loaded model answers, to warm it up by; None: it carries none."""
        return None

    async def end(self) -> None:
        """The counterpart of `begin`, on the same loop, after the last answer and before `unload`."""

    def unload(self) -> None:
        """Give back what `load` took. Called once, after the last predict has ended."""


def missing_extra(library: str, extra: str, *, needed_by: str = "this model") -> MissingExtra:
    """The error for a library that is not installed: names it, and the extra to install."""
    return MissingExtra(f"{needed_by} needs {library}, which is not installed; run: pip install 'headrace[{extra}]'")


def check_parameters(parameters: Mapping[str, Any], known: Collection[str], *, runtime: str) -> None:
    """Refuse a key of headrace.yaml's `parameters` that the runtime does not know.

    Raises:
        SettingsError: names the key and the nearest known one.
    """
    for key in parameters:
        if key not in known:
            raise unknown_key(key, known, where=f"parameters of a {runtime} model")
