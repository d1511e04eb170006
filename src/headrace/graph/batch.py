"""Rows of several requests gathered for one call of a step, as an `Infer` around the step's own. `run` wraps steps that
say `batch` in one.

The model's own engine merges requests that wait for it anyway; this waits on purpose, as Seldon's `batch` does, for a
step whose work is about many rows (a drift detector) or that lives behind a wire. Requests share a call when their
tensors' names, datatypes and trailing shapes and their parameters are equal. When the shared call fails for a reason
that one of them may have caused, each is tried once more, alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from typing import Final

import msgspec
import numpy as np

from headrace.errors import DeadlineExceeded, HeadraceError, InvalidRequest, ModelNotReady, RuntimeFailed
from headrace.payload import EMPTY, Infer, InferenceRequest, InferenceResponse, Parameters, Tensor

DEFAULT_WINDOW_MS: Final = 50
_Answer = asyncio.Future[InferenceResponse]


class _Member(msgspec.Struct, gc=True, eq=False):
    request: InferenceRequest
    rows: int
    answer: _Answer


class _Open:
    """What has gathered under one key."""

    __slots__ = ("members", "rows", "timer")

    def __init__(self) -> None:
        self.members: list[_Member] = []
        self.rows = 0
        self.timer: asyncio.TimerHandle | None = None


class Gatherer:
    """Gathers until `size` rows have come or the window has passed. For one event loop.

    Args:
        infer: The step's own.
        where: The step, for messages.
        size: Rows on dimension 0 that end the wait. A request's rows are never torn apart, so a call may have more.
        window_ms: How long the first request waits for others; 0: 50.
    """

    def __init__(self, infer: Infer, *, where: str, size: int, window_ms: int = 0) -> None:
        self._infer = infer
        self._where = where
        self._size = size
        self._window_seconds = (window_ms or DEFAULT_WINDOW_MS) / 1000
        self._open: dict[Hashable, _Open] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        rows = sum([gathered.rows for gathered in self._open.values()])
        return f"<Gatherer {self._where} rows={rows}/{self._size} calls={len(self._calls)}>"

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """This request's rows of the shared call's answer.

        An output with a row for each row asked is cut among the requests. One with a single row, or none to count,
        speaks of the whole batch (drift) and is everybody's.

        Raises:
            InvalidRequest: its tensors do not have the same number of rows.
            DeadlineExceeded: its deadline passed before the shared call ended.
            RuntimeFailed: an output has another number of rows.
        """
        rows = _rows(request, self._where)
        loop = asyncio.get_running_loop()
        member = _Member(request, rows, loop.create_future())
        self._join(member, loop)
        timer = None
        if request.deadline is not None:
            left = max(0.0, request.deadline - time.monotonic())
            timer = loop.call_later(left, _expire, member.answer, self._where)
        try:
            return await member.answer
        finally:
            if timer is not None:
                timer.cancel()
            if not member.answer.done():
                member.answer.cancel()

    async def close(self) -> None:
        """End what waits and what runs."""
        for gathered in self._open.values():
            if gathered.timer is not None:
                gathered.timer.cancel()
            for member in gathered.members:
                self._turn_away(member)
        self._open.clear()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)

    def _join(self, member: _Member, loop: asyncio.AbstractEventLoop) -> None:
        key = _key(member.request)
        gathered = self._open.get(key)
        if gathered is None:
            gathered = self._open[key] = _Open()
            gathered.timer = loop.call_later(self._window_seconds, self._send, key)
        gathered.members.append(member)
        gathered.rows += member.rows
        if gathered.rows >= self._size:
            gathered.members = [each for each in gathered.members if not each.answer.done()]  # those who left
            gathered.rows = sum([each.rows for each in gathered.members])
            if gathered.rows >= self._size:
                self._send(key)

    def _send(self, key: Hashable) -> None:
        gathered = self._open.pop(key)
        if gathered.timer is not None:
            gathered.timer.cancel()
        members = [each for each in gathered.members if not each.answer.done()]
        if not members:
            return
        call = asyncio.get_running_loop().create_task(self._call(members))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        for member in members:
            member.answer.add_done_callback(lambda _: _abandon(call, members))

    async def _call(self, members: Sequence[_Member]) -> None:
        try:
            if len(members) == 1:
                await self._alone(members[0])
                return
            try:
                answers = _split(await self._infer(_merge(members)), members, self._where)
            except (InvalidRequest, RuntimeFailed):
                for member in members:
                    if not member.answer.done():
                        await self._alone(member)
                return
            for member, answer in zip(members, answers, strict=True):
                if not member.answer.done():
                    member.answer.set_result(answer)
        except Exception as exc:  # noqa: BLE001 - it is raised where the answers are awaited
            for member in members:
                if not member.answer.done():
                    member.answer.set_exception(exc)
        finally:
            for member in members:
                self._turn_away(member)

    def _turn_away(self, member: _Member) -> None:
        if not member.answer.done():
            member.answer.set_exception(ModelNotReady(f"{self._where} is being taken down"))

    async def _alone(self, member: _Member) -> None:
        try:
            response = await self._infer(member.request)
        except HeadraceError as exc:
            if not member.answer.done():
                member.answer.set_exception(exc)
            return
        if not member.answer.done():
            member.answer.set_result(response)


def _expire(answer: _Answer, where: str) -> None:
    if not answer.done():
        answer.set_exception(DeadlineExceeded(f"{where}: the deadline passed while rows gathered or were answered"))


def _abandon(call: asyncio.Task[None], members: Sequence[_Member]) -> None:
    """End a call that nobody waits for any more."""
    if all(member.answer.done() for member in members) and not call.done():
        call.cancel()


def _rows(request: InferenceRequest, where: str) -> int:
    counts = {tensor.name: tensor.data.shape[0] if tensor.data.ndim else -1 for tensor in request.inputs}
    if not counts or len(set(counts.values())) > 1 or -1 in counts.values():
        found = ", ".join([f"'{name}' {count if count >= 0 else 'a scalar'}" for name, count in counts.items()])
        raise InvalidRequest(
            f"{where}: a batch takes tensors of one number of rows on dimension 0; found {found or 'none'}"
        )
    return next(iter(counts.values()))


def _key(request: InferenceRequest) -> Hashable:
    return (
        request.model_name,
        request.model_version,
        tuple(
            sorted(
                [(each.name, each.datatype, each.data.shape[1:], _items(each.parameters)) for each in request.inputs]
            )
        ),
        tuple([(each.name, _items(each.parameters)) for each in request.outputs]),
        _items(request.parameters),
    )


def _items(parameters: Parameters) -> Hashable:
    """Parameters as something that hashes; 1, 1.0 and True stay apart."""
    return tuple(sorted([(name, type(value).__name__, str(value)) for name, value in parameters.items()]))


def _merge(members: Sequence[_Member]) -> InferenceRequest:
    """One request of all rows, with the latest deadline and the headers that all have."""
    first = members[0].request
    by_name = [{tensor.name: tensor.data for tensor in member.request.inputs} for member in members]
    inputs = tuple(
        [
            Tensor(
                each.name,
                each.datatype,
                np.concatenate([data[each.name] for data in by_name]),
                each.parameters,
                each.nested,
            )
            for each in first.inputs
        ]
    )
    deadlines = [member.request.deadline for member in members]
    latest = None if None in deadlines else max([each for each in deadlines if each is not None])
    shared = dict(first.headers)
    for member in members[1:]:
        shared = {key: value for key, value in shared.items() if member.request.headers.get(key) == value}
    return msgspec.structs.replace(first, inputs=inputs, deadline=latest, headers=shared or EMPTY, trace=None)


def _split(response: InferenceResponse, members: Sequence[_Member], where: str) -> list[InferenceResponse]:
    total = sum([member.rows for member in members])
    whole = set()
    for tensor in response.outputs:
        shape = tensor.data.shape
        if not shape or (shape[0] == 1 and total != 1):
            whole.add(tensor.name)
        elif shape[0] != total:
            raise RuntimeFailed(
                f"{where}: output '{tensor.name}' has shape {list(shape)} for a batch of {total} rows; expected one "
                f"row out for each row in, or one for all"
            )
    answers = []
    start = 0
    for member in members:
        stop = start + member.rows
        outputs = tuple(
            [
                each
                if each.name in whole
                else Tensor(each.name, each.datatype, each.data[start:stop], each.parameters, each.nested)
                for each in response.outputs
            ]
        )
        answers.append(msgspec.structs.replace(response, outputs=outputs, id=member.request.id))
        start = stop
    return answers
