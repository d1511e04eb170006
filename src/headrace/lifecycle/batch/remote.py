"""A model on a running server as the `Predictor` of a batch job, over REST or gRPC.

The command `batch run` opens it where the job names a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self, TypeVar

from headrace.client.remote import VERSIONS, Remote
from headrace.errors import HeadraceError, InvalidRequest, ModelNotFound, ModelNotReady, Temporary, located
from headrace.lifecycle.batch.base import Job
from headrace.payload import DIGEST, EMPTY, InferenceRequest, RequestedOutput, Signature, Tensor

_T = TypeVar("_T")


class RemotePredictor:
    """One model of one server: `base.Predictor`. It lives on an event loop in a thread of its own.

    Args:
        url: `http://host:port`, `https://...`, `grpc://host:port` or `grpcs://...`.
        model: Its name there.
        version: Empty: the default one.
        timeout_seconds: The longest that one batch may take.
        headers: Of each request, for example an authorization.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        version: str = "",
        timeout_seconds: float = 60.0,
        headers: Mapping[str, str] = EMPTY,
    ) -> None:
        self._remote = Remote(url, model=model, version=version, timeout_seconds=timeout_seconds, headers=headers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-remote", daemon=True)
        self._signature: Signature | None = None
        self._seen: Mapping[str, str] = EMPTY
        self._looking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<RemotePredictor {self._remote!r}{'' if self._signature else ', closed'}>"

    def open(self) -> Self:
        """Ask the server what the model takes.

        Raises:
            Temporary: no server answers, or the model is not ready.
            ModelNotFound: it has no such model.
        """
        self._thread.start()
        try:
            self._signature = self._run(self._look())
        except BaseException:
            self._end()
            raise
        return self

    def close(self) -> None:
        """Close the connections. Twice is once."""
        if self._signature is not None:
            self._signature = None
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._run(self._remote.close(drain_seconds=1.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def name(self) -> str:
        """The model's."""
        return self._remote.model

    @property
    def version(self) -> str:
        """The model's, as it was asked for, else all that the server has of it."""
        return self._remote.version or self._seen.get(VERSIONS, "")

    @property
    def digest(self) -> str:
        """Of the model that was there after the last answer; empty: the server does not say it."""
        return self._seen.get(DIGEST, "")

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        if self._signature is None:
            raise InvalidRequest(f"{self._remote!r} is not open")
        return self._signature

    def predict(
        self,
        inputs: Sequence[Tensor],
        parameters: Mapping[str, str | float | bool] = EMPTY,
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Answers of a batch. Raises as `client.remote.Remote`, but ModelNotReady where the model that was there is not
        there: a server that was started again does not know it before it has looked.
        """
        request = InferenceRequest(
            model_name=self._remote.model,
            model_version=self._remote.version,
            inputs=tuple(inputs),
            outputs=tuple(RequestedOutput(name) for name in outputs),
            parameters=parameters,
        )
        try:
            return self._run(self._asked(request))
        except ModelNotFound as exc:
            raise ModelNotReady(f"{exc}, any more") from exc

    async def _asked(self, request: InferenceRequest) -> Sequence[Tensor]:
        try:
            response = await self._remote.infer(request)
        except (Temporary, ModelNotFound):  # it is asked again
            raise
        except HeadraceError as error:  # which another model may have raised
            try:
                await self._look()
            except HeadraceError as unseen:
                raise located(unseen, f"{error}; which model says so cannot be seen") from error
            raise
        await self._look()
        return response.outputs

    async def _look(self) -> Signature:
        """See which model is there; one look at a time, so that the last is the latest."""
        async with self._looking:
            signature = await self._remote.metadata()
            self._seen = signature.properties
            return signature


def open_remote(job: Job, *, timeout_seconds: float = 60.0, headers: Mapping[str, str] = EMPTY) -> RemotePredictor:
    """The model that a job names, on the server that it names. Close it. Raises as `RemotePredictor.open`."""
    return RemotePredictor(
        job.url, model=job.model, version=job.version, timeout_seconds=timeout_seconds, headers=headers
    ).open()
