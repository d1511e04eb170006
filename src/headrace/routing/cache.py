"""A cache as an `Infer`: equal requests are answered from memory. `app.py` wraps a model's `Infer` in one where asked.

Equal is: the same model and version, and in every byte the same inputs, requested outputs and parameters. Who asks (id,
headers, protocol) and for how long (deadline) makes no difference, so a model whose answers depend on headers is not
for a cache. What a caller is given is answered under its own id; transport headers of an answer were for the first
caller and are given to nobody else, so whatever sets headers for each reply (CloudEvents) wraps the cache.

A cache lives and dies with the loaded model that it wraps. It is for one event loop. Streams do not pass through it.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import numpy as np

from headrace.errors import DeadlineExceeded
from headrace.payload import EMPTY, Array, Infer, InferenceRequest, InferenceResponse, Parameters, Tensor

Key = bytes

_KEY_BYTES: Final = 32  # so that nobody can craft a request which is answered with another's answer
_OFF_LOOP_BYTES: Final = 1 << 20
"""Requests above this are hashed in a thread, a millisecond or more: others need not wait for it."""
_ENTRY_BYTES: Final = 384
"""What keeping an answer takes beside its tensors: key, place in the order, response."""
_TENSOR_BYTES: Final = 240
_ELEMENT_BYTES: Final = 41  # a bytes object without its bytes, and the pointer to it

_LEFT: Final = (asyncio.CancelledError, GeneratorExit)
"""What a coroutine ends with when its caller leaves."""
_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")


class _Kept(msgspec.Struct, gc=False):
    response: InferenceResponse
    size: int
    good_until: float


class _Left(Exception):
    """How a follower learns that the leader is gone without an answer, and that it leads now."""


class _Alone(Exception):
    """How a follower learns that the leader's predict failed, and that it asks for itself."""


_Waiter = asyncio.Future[InferenceResponse]


class Cache:
    """Answers equal requests from memory, each different one by one predict however many ask at once.

    `infer` is the `Infer`. A request that is answered from memory awaits nothing.

    Args:
        infer: What answers the first time.
        model: Part of every key.
        version: Part of every key.
        max_entries: Answers kept; the least recently used leaves first.
        max_bytes: Of all answers kept, with what keeping them takes. A larger answer is not kept.
        ttl_seconds: How long an answer is good; 0: until it leaves.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        infer: Infer,
        *,
        model: str,
        version: str,
        max_entries: int,
        max_bytes: int,
        ttl_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infer, self._model, self._version = infer, model, version
        self._max_entries, self._max_bytes, self._ttl_seconds = max_entries, max_bytes, ttl_seconds
        self._clock = clock
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._flights: dict[Key, list[_Waiter]] = {}
        """Those who wait for a predict that is under way, by what it is for."""
        self.hits = 0
        """Requests answered without a predict of their own."""
        self.misses = 0
        """Requests that needed one."""
        self.evictions = 0
        """Answers that left because newer ones needed their place."""
        self.bytes = 0
        """What the answers kept now take."""

    def __repr__(self) -> str:
        return f"<Cache {self._model} {self.entries} kept, {self.bytes} bytes, {self.hits} hits, {self.misses} misses>"

    @property
    def entries(self) -> int:
        """How many answers are kept now."""
        return len(self._kept)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The kept answer under the caller's id, or the model's.

        Raises:
            DeadlineExceeded: the request's deadline passed while an equal request was being answered.
            HeadraceError: whatever the model raises; errors are not kept.
        """
        try:
            if _size(request.inputs) > _OFF_LOOP_BYTES:
                key = await asyncio.get_running_loop().run_in_executor(None, self._key, request)
            else:
                key = self._key(request)
        except (TypeError, ValueError, OverflowError):  # parameters or elements that no wire gives: compare nothing
            self.misses += 1
            return await self._infer(request)
        kept = self._find(key)
        if kept is not None:
            self.hits += 1
            return _stamped(kept, request)
        if key in self._flights:
            try:
                response = await self._follow(key, request)
            except _Alone:
                self.misses += 1
                return await self._infer(request)
            except _Left:
                pass
            else:
                self.hits += 1
                return _stamped(response, request)
        self.misses += 1
        return await self._lead(key, request)

    def _key(self, request: InferenceRequest) -> Key:
        return key_of(request, model=self._model, version=self._version)

    # -- one predict for all who ask the same at once --

    async def _lead(self, key: Key, request: InferenceRequest) -> InferenceResponse:
        waiters = self._flights.setdefault(key, [])
        try:
            response = await self._infer(request)
        except (*_LEFT, DeadlineExceeded):  # this caller's end, not the others'
            self._pass_on(key)
            raise
        except BaseException:
            # Each of the others learns by its own predict, all at once: one after the other they would wait for as many
            # failures as there are callers.
            del self._flights[key]
            _tell(waiters, _Alone())
            raise
        del self._flights[key]
        try:
            size = _ENTRY_BYTES + _size(response.outputs) + _parameter_bytes(response)
            own = _own(response) if waiters or size <= self._max_bytes else None
        except (TypeError, ValueError, copy.Error):  # parameters or elements that cannot be copied: an answer for one
            _tell(waiters, _Alone())
            return response
        if own is not None:
            self._keep(key, own, size)
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(own)
        return response

    async def _follow(self, key: Key, request: InferenceRequest) -> InferenceResponse:
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        alarm = None
        if request.deadline is not None:
            late = DeadlineExceeded(f"model '{self._model}': the deadline of the request passed while it was answered")
            alarm = loop.call_later(request.deadline - time.monotonic(), _tell, [waiter], late)
        self._flights[key].append(waiter)
        try:
            return await waiter
        except _LEFT:
            if waiter.done() and not waiter.cancelled() and isinstance(waiter.exception(), _Left):
                self._pass_on(key)  # it was to lead, and has left as well
            raise
        finally:
            waiter.cancel()  # nothing, but where the caller left
            if alarm is not None:
                alarm.cancel()

    def _pass_on(self, key: Key) -> None:
        """The leader has left: the first who still waits leads, the others wait on."""
        waiters = self._flights[key]
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_exception(_Left())
                return
        del self._flights[key]

    # -- what is kept --

    def _find(self, key: Key) -> InferenceResponse | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if self._ttl_seconds and self._clock() >= kept.good_until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.response

    def _keep(self, key: Key, response: InferenceResponse, size: int) -> None:
        if key in self._kept:
            self._drop(key)
        if size > self._max_bytes:
            return
        self._kept[key] = _Kept(response, size, self._clock() + self._ttl_seconds)
        self.bytes += size
        while self.bytes > self._max_bytes or len(self._kept) > self._max_entries:
            self._drop(next(iter(self._kept)))
            self.evictions += 1

    def _drop(self, key: Key) -> None:
        self.bytes -= self._kept.pop(key).size


def key_of(request: InferenceRequest, *, model: str, version: str) -> Key:
    """What two requests share exactly when they ask the same of the same version: 32 bytes of BLAKE2b (RFC 7693).

    What is hashed can be read back in one way only: a self-delimiting head (msgpack, parameters in the order of their
    names) says how many bytes or elements each tensor has; then the tensors follow, BYTES elements after their lengths,
    which is -1 where there is no value.

    Raises:
        TypeError, ValueError, OverflowError: parameters or elements that are no JSON values, bytes or 64-bit integers.
    """
    inputs = request.inputs
    head = (
        model,
        version,
        [(each.name, each.datatype, each.data.dtype.str, each.data.shape, _plain(each.parameters)) for each in inputs],
        [(each.name, _plain(each.parameters)) for each in request.outputs],
        _plain(request.parameters),
    )
    hashed = hashlib.blake2b(_encoder.encode(head), digest_size=_KEY_BYTES)
    for each in inputs:
        data = each.data
        if data.dtype.hasobject:
            elements = data.ravel().tolist()
            content = b"".join([each for each in elements if each is not None])  # raises for what is not bytes
            lengths = [-1 if each is None else len(each) for each in elements]
            hashed.update(np.fromiter(lengths, np.int64, len(lengths)).data)
            hashed.update(content)
        else:
            hashed.update(np.ascontiguousarray(data).data)
    return hashed.digest()


def _plain(parameters: Parameters) -> dict[str, object] | None:
    return dict(parameters) if parameters else None


def _tell(waiters: Iterable[_Waiter], error: Exception) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)


def _stamped(response: InferenceResponse, request: InferenceRequest) -> InferenceResponse:
    return InferenceResponse(
        model_name=response.model_name,
        outputs=response.outputs,
        model_version=response.model_version,
        id=request.id,
        parameters=response.parameters,
    )


def _own(response: InferenceResponse) -> InferenceResponse:
    """A copy that shares nothing with the model, whose buffers may be used again, and that nobody can write to."""
    return InferenceResponse(
        model_name=response.model_name,
        outputs=tuple(
            Tensor(each.name, each.datatype, _read_only(each.data), _copied(each.parameters))
            for each in response.outputs
        ),
        model_version=response.model_version,
        parameters=_copied(response.parameters),
    )


def _read_only(data: Array) -> Array:
    copied: Array = np.array(data, order="C", copy=True)
    copied.flags.writeable = False
    return copied


def _copied(parameters: Parameters) -> Parameters:
    return copy.deepcopy(dict(parameters)) if parameters else EMPTY


def _size(tensors: Iterable[Tensor]) -> int:
    """Bytes of memory that tensors take, elements included."""
    total = 0
    for each in tensors:
        data = each.data
        total += _TENSOR_BYTES + data.nbytes
        if data.dtype.hasobject:
            total += (
                sum(len(each) for each in data.ravel().tolist() if each is not None) + (_ELEMENT_BYTES - 8) * data.size
            )
    return total


def _parameter_bytes(response: InferenceResponse) -> int:
    given = [response.parameters, *(each.parameters for each in response.outputs)]
    return sum(512 + 2 * len(repr(each)) for each in given if each)
