"""Requests that come to a chain in one turn of the loop go through it as one. `run` puts it before a chain whose steps
all say that rows do not depend on one another (`Signature.batchable`).

Alone, a request goes straight through. Together, each step is asked once for all of them, so that a chain costs each
request little more than one model does; the model's own engine would merge them as well, but they would wait for each
other and be woken at every step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final

import numpy as np

from headrace.errors import DeadlineExceeded, HeadraceError, InvalidRequest, RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse, Tensor

_MOST_ROWS: Final = 64
"""Rows that go through together; a request with more goes alone."""
_Member = tuple[InferenceRequest, asyncio.Future[InferenceResponse]]


class Crowd:
    """For one event loop.

    Args:
        through: Takes a request through the chain, given how many it stands for.
    """

    def __init__(self, through: Callable[[InferenceRequest, int], Awaitable[InferenceResponse]]) -> None:
        self._through = through
        self._waiting: list[_Member] = []
        self._turn: asyncio.Handle | None = None  # set from the first request of a turn of the loop to its end
        self._crowded = False
        self._merges = True
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Crowd crowded={self._crowded} waiting={len(self._waiting)} merges={self._merges}>"

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The chain's answer to this request: its rows of the answer to all.

        Raises:
            HeadraceError: what the chain raises for it; a request never fails for another's sake.
        """
        if not self._merges:
            return await self._through(request, 1)
        loop = asyncio.get_running_loop()
        if not self._crowded and self._turn is None:
            self._turn = loop.call_soon(self._turn_over)
            return await self._through(request, 1)
        self._crowded = True
        if not self._waiting:
            loop.call_soon(self._send)
        answer: asyncio.Future[InferenceResponse] = loop.create_future()
        self._waiting.append((request, answer))
        try:
            return await answer
        finally:
            if not answer.done():  # the caller left
                answer.cancel()

    def _turn_over(self) -> None:
        self._turn = None

    def _send(self) -> None:
        members, self._waiting = [each for each in self._waiting if not each[1].done()], []
        self._crowded = len(members) > 1
        groups: dict[Hashable, list[_Member]] = {}
        for number, member in enumerate(members):
            key = _key(member[0])
            groups.setdefault(number if key is None else key, []).append(member)
        loop = asyncio.get_running_loop()
        for group in groups.values():
            for begin in range(0, len(group), _MOST_ROWS):
                task = loop.create_task(self._answer(group[begin : begin + _MOST_ROWS]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, group: Sequence[_Member]) -> None:
        try:
            if len(group) == 1 or not await self._together(group):
                for member in group:
                    await self._alone(member)
        except BaseException as error:  # whatever it is, nobody is left waiting
            for _, answer in group:
                if not answer.done():
                    answer.set_exception(error) if isinstance(error, Exception) else answer.cancel()
            if not isinstance(error, Exception):
                raise

    async def _together(self, group: Sequence[_Member]) -> bool:
        """Whether all were answered in one go; if not, the cause may be one of them, so each is worth another try."""
        rows = [request.inputs[0].data.shape[0] for request, _ in group]
        first = group[0][0]
        inputs = tuple(
            [
                Tensor(each.name, each.datatype, np.concatenate([request.inputs[index].data for request, _ in group]))
                for index, each in enumerate(first.inputs)
            ]
        )
        deadlines = [request.deadline for request, _ in group if request.deadline is not None]
        merged = InferenceRequest(
            model_name=first.model_name,
            inputs=inputs,
            protocol=first.protocol,
            deadline=min(deadlines) if deadlines else None,
        )
        try:
            response = await self._through(merged, len(group))
        except (DeadlineExceeded, InvalidRequest, RuntimeFailed):
            return False
        total = sum(rows)
        if any(not tensor.data.ndim or tensor.data.shape[0] != total for tensor in response.outputs):
            self._merges = False  # rows in are not rows out, whatever the steps say of themselves
            return False
        begin = 0
        for (request, answer), count in zip(group, rows, strict=True):
            end = begin + count
            if not answer.done():
                outputs = [
                    Tensor(each.name, each.datatype, each.data[begin:end], each.parameters) for each in response.outputs
                ]
                answer.set_result(
                    InferenceResponse(
                        model_name=response.model_name,
                        outputs=tuple(outputs),
                        model_version=response.model_version,
                        id=request.id,
                    )
                )
            begin = end
        return True

    async def _alone(self, member: _Member) -> None:
        request, answer = member
        if answer.done():
            return
        try:
            response = await self._through(request, 1)
        except HeadraceError as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(response)


def _key(request: InferenceRequest) -> Hashable:
    """What requests have in common that can go together; None: this one cannot."""
    found: list[Hashable] = []
    rows = -1
    for tensor in request.inputs:
        shape = tensor.data.shape
        if not shape or tensor.parameters or (rows not in {-1, shape[0]}) or shape[0] > _MOST_ROWS:
            return None
        rows = shape[0]
        found.append((tensor.name, tensor.datatype, shape[1:]))
    return tuple(found) if found else None
