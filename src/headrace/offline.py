"""A model without a server around it, asked by plain calls: what batch jobs, functions and workers of Spark and Ray
open, and what trust folders are fitted with.

It lives on an event loop of its own in a thread of its own, so it works where a loop already runs and where none does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from headrace import settings as settings_
from headrace.app import App
from headrace.artifacts.uri import is_local, shown
from headrace.errors import LoadFailed, SettingsError
from headrace.local.copies import Copies
from headrace.payload import (
    EMPTY,
    Infer,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Signature,
    Tensor,
)
from headrace.serving import discovery
from headrace.serving.digest import digest
from headrace.serving.loaded import Loaded
from headrace.serving.spec import ModelSpec, Overrides
from headrace.trust.spec import Trust


class OpenModel:
    """One model in this process: `lifecycle.batch.base.Predictor`. `predict` may be called from several threads.

    Args:
        spec: The model.
        settings: By key, over the environment's: `{"models.optimize": "off"}`.
        headers: Of each request.
        copies: What holds its files; closed with it. None: they are held by nobody.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        settings: Mapping[str, Any] = EMPTY,
        headers: Mapping[str, str] = EMPTY,
        copies: Copies | None = None,
    ) -> None:
        quiet = settings_.Settings(log=settings_.LogSettings(level="warning"))
        self._settings = settings_.load(quiet, "", os.environ, settings)
        self.spec = msgspec.structs.replace(spec, trust=Trust(enabled=False))
        self._headers, self._copies = dict(headers), copies
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-model", daemon=True)
        self._loaded: Loaded | None = None
        self._digest: str | None = None

    def __repr__(self) -> str:
        return f"<OpenModel {self.spec.describe()}{'' if self._loaded else ', closed'}>"

    def __enter__(self) -> Self:
        return self.open() if self._loaded is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Load the model, and return when it answers.

        Raises:
            LoadFailed: it cannot be loaded.
        """
        self._thread.start()

        async def load() -> Loaded:
            return await App(self._settings, [self.spec]).load(self.spec)

        try:
            self._loaded = asyncio.run_coroutine_threadsafe(load(), self._loop).result()
        except BaseException:
            self._end()
            raise
        return self

    def close(self) -> None:
        """Unload it. Twice is once."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        try:
            drain = self._settings.models.drain_seconds
            asyncio.run_coroutine_threadsafe(loaded.close(drain), self._loop).result()
        finally:
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # no thread is begun any more while the interpreter ends
            asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._copies is not None:
            self._copies.close()

    @property
    def name(self) -> str:
        """The model's."""
        return self.spec.name

    @property
    def version(self) -> str:
        """The model's; empty: it has none."""
        return self.spec.version

    @property
    def digest(self) -> str:
        """`sha256:...` of its file or folder; empty for one that is neither."""
        if self._digest is None:
            self._digest = f"sha256:{digest(self.spec.path)}" if self.spec.path else ""
        return self._digest

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        signature = self.loaded.signature
        return Signature(platform="") if signature is None else signature

    @property
    def loaded(self) -> Loaded:
        """The model as the server would have it.

        Raises:
            LoadFailed: it is not open.
        """
        if self._loaded is None:
            raise LoadFailed(f"{self.spec.describe()} is not open")
        return self._loaded

    def predict(
        self, inputs: Sequence[Tensor], parameters: Parameters = EMPTY, outputs: Sequence[str] = ()
    ) -> Sequence[Tensor]:
        """Answers of a batch: as many rows as the inputs have. Raises as the model's `Infer` does."""
        return self.ask(tuple(inputs), tuple(map(RequestedOutput, outputs)), parameters=parameters)

    def ask(
        self,
        inputs: tuple[Tensor, ...],
        outputs: tuple[RequestedOutput, ...] = (),
        *,
        parameters: Parameters = EMPTY,
    ) -> Sequence[Tensor]:
        """As `predict`, for the outputs that are wanted. No outputs named: the model's default ones."""
        request = InferenceRequest(
            model_name=self.spec.name, inputs=inputs, outputs=outputs, parameters=parameters, headers=self._headers
        )
        return asyncio.run_coroutine_threadsafe(_answered(self.loaded.infer, request), self._loop).result().outputs


async def _answered(infer: Infer, request: InferenceRequest) -> InferenceResponse:
    return await infer(request)  # called where it is awaited: on the model's own loop


def open_model(model: str, *, settings: Mapping[str, Any] = EMPTY, overrides: Overrides = EMPTY) -> OpenModel:
    """The one model at a path, uri or `module:Class`, loaded. Close it, by `with` or by `close`.

    Args:
        model: Where it is.
        settings: As for `OpenModel`.
        overrides: Fields of headrace.yaml that hold over the model's own.

    Raises:
        SettingsError: there are several models.
        LoadFailed: there is none, or it cannot be loaded.
        ArtifactFailed: it cannot be fetched.
    """
    if is_local(model):
        return OpenModel(one_model(discovery.discover([model], overrides=overrides), model), settings=settings).open()
    copies = Copies(settings_.load(settings_.Settings(), "", os.environ, settings).artifacts)
    try:
        fetched = copies.fetch(model)
        spec = one_model(discovery.discover([fetched.path], overrides=overrides), shown(model))
        spec = msgspec.structs.replace(spec, version=spec.version or fetched.pinned.version)
        return OpenModel(spec, settings=settings, copies=copies).open()
    except BaseException:
        copies.close()
        raise


def one_model(specs: Sequence[ModelSpec], where: object) -> ModelSpec:
    """The one model that is meant: of several versions of it the highest.

    Raises:
        SettingsError: there are several models.
    """
    if len({spec.name for spec in specs}) != 1:
        told = ", ".join(spec.describe() for spec in specs)
        raise SettingsError(f"{where} holds {len(specs)} models ({told}): name the path of one")
    return specs[-1]
