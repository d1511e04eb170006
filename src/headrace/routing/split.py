"""A split: requests shared among candidates by weight, as an `Infer`. `local` puts it in the routing table.

What it costs is one random number, one search in a few numbers and one bucket of a histogram: a microsecond or two.
"""

from __future__ import annotations

import contextlib
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from headrace.errors import InvalidRequest, ModelNotFound, ModelNotReady
from headrace.payload import InferenceRequest, InferenceResponse
from headrace.routing import sticky
from headrace.routing.mirror import Mirror
from headrace.routing.shares import BOUNDS, Arm, Candidate, Counted, Table, is_failure

_AWAY = (ModelNotReady, ModelNotFound)
"""What a candidate answers that is not there: nothing was done yet, so another can do it."""


class Split:
    """Candidates that share what is asked of one name.

    Who is chosen: the candidate that the header `x-seldon-route` names, if it is there and its weight is above 0;
    else one by chance. If that one is not there (loading, unloaded, failed to load), the failure is counted as its own
    and the request goes to another with a weight; so a candidate that dies costs its callers nothing. Any other error
    is the answer. Each answer says in `x-seldon-route` who gave it, where there is anybody else who could have.

    Args:
        name: Of the experiment, for messages.
        shares: The candidates, at least one with a weight.
        mirror: Gets a copy of some requests.
        seed: Makes the choices repeatable.
        clock: Seconds, never going back.

    Raises:
        InvalidRequest: the weights or candidates cannot be.
    """

    def __init__(
        self,
        name: str,
        shares: Sequence[Candidate],
        *,
        mirror: Mirror | None = None,
        seed: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name, self.mirror = name, mirror
        self._table = Table(shares, {})
        self._random = random.Random(seed).random  # noqa: S311 - shares traffic, keeps no secret
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Split {self.name} {list(self._table.arms.values())}>"

    # -- requests --

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """What the chosen candidate answers, with the header that names it.

        Raises:
            HeadraceError: whatever the candidate raises. ModelNotReady, ModelNotFound: no candidate is there.
        """
        table = self._table
        if sticky.HEADER in request.headers:
            arm = self._choose(table, request)
        else:
            arm = table.asked[bisect_right(table.cumulated, self._random())]
        clock = self._clock
        started = clock()
        try:
            response = await arm.infer(request)
        except _AWAY as error:
            arm, response = await self._infer_elsewhere(table, arm, request, error)
        except Exception as error:
            self._failed(arm, request, error, started)
            raise
        else:
            tally = arm.tally
            tally.requests += 1
            tally.buckets[bisect_left(BOUNDS, clock() - started)] += 1
        mirror = self.mirror
        if mirror is not None and arm.key != mirror.candidate.key:  # nobody is compared with himself
            mirror.offer(request, response)
        return response if table.alone else sticky.signed_by(arm, response)

    async def infer_stream(self, request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        """The stream of the chosen candidate, or its one answer; another's while nothing was answered yet and it is not
        there. Mirrors see no streams.

        Raises:
            HeadraceError: as `infer`.
        """
        table = self._table
        arm: Arm | None = self._choose(table, request)
        tried: list[Arm] = []
        while arm is not None:
            started, begun = self._clock(), False
            responses = _stream(arm.candidate, request)
            try:
                async with contextlib.aclosing(responses):
                    async for response in responses:
                        begun = True
                        yield response if table.alone else sticky.signed_by(arm, response)
            except Exception as error:
                self._failed(arm, request, error, started)
                tried.append(arm)
                other = None if begun or not isinstance(error, _AWAY) else table.pick_other(self._random(), tried)
                if other is None:
                    raise
                arm = other
            else:
                arm.tally.requests += 1
                arm.tally.took(self._clock() - started)
                return

    def _choose(self, table: Table, request: InferenceRequest) -> Arm:
        headers = request.headers
        if sticky.HEADER in headers:
            arm = sticky.pinned(table.asked, headers[sticky.HEADER])
            if arm is not None:
                return arm
        return table.pick(self._random())

    async def _infer_elsewhere(
        self, table: Table, arm: Arm, request: InferenceRequest, error: Exception
    ) -> tuple[Arm, InferenceResponse]:
        """Ask those that are left, each once, until one is there."""
        tried: list[Arm] = []
        while True:
            arm.tally.requests += 1
            arm.tally.failures += 1
            tried.append(arm)
            other = table.pick_other(self._random(), tried)
            if other is None:
                raise error
            arm, started = other, self._clock()
            try:
                response = await arm.infer(request)
            except _AWAY as another:
                error = another
            except Exception as another:
                self._failed(arm, request, another, started)
                raise
            else:
                arm.tally.requests += 1
                arm.tally.took(self._clock() - started)
                return arm, response

    def _failed(self, arm: Arm, request: InferenceRequest, error: Exception, started: float) -> None:
        arm.tally.requests += 1
        arm.tally.took(self._clock() - started)
        if is_failure(error):
            arm.tally.failures += 1
            if self.mirror is not None and arm.key != self.mirror.candidate.key:
                self.mirror.offer(request, None)

    # -- what others set and see --

    def set_weights(self, weights: Mapping[str, float], *, mirror_percent: float | None = None) -> None:
        """Share anew, at once and for every request from now on; those under way end with whom they are.

        Counts begin anew where a weight changes.

        Args:
            weights: By `Candidate.key`; a candidate that is not named keeps its weight.
            mirror_percent: What the mirror gets copies of; None: as before.

        Raises:
            InvalidRequest: a candidate is not known, a weight is none, or all would be 0. Nothing has changed then.
        """
        table, mirror = self._table, self.mirror
        unknown = weights.keys() - table.arms.keys()
        if unknown:
            known = ", ".join(table.arms)
            raise InvalidRequest(
                f"experiment '{self.name}' has no candidate {', '.join(map(repr, sorted(unknown)))}; known: {known}"
            )
        now = {key: weights.get(key, arm.weight) for key, arm in table.arms.items()}
        if any(now[key] != arm.weight for key, arm in table.arms.items()):
            self._table = Table([arm.candidate for arm in table.arms.values()], now)
            if mirror is not None:
                mirror.reset()
        if mirror is not None and mirror_percent is not None:
            mirror.set_percent(mirror_percent)

    def weights(self) -> dict[str, float]:
        """The weights as they are, by `Candidate.key`; without the mirror."""
        return {key: arm.weight for key, arm in self._table.arms.items()}

    def counts(self) -> dict[str, Counted]:
        """What each candidate, and the mirror, has done since the split was made, its weights changed or `reset`. One
        that is both has the requests, failures and latency of what callers asked it, and the comparisons of the mirror.
        """
        counted = {key: arm.tally.counted() for key, arm in self._table.arms.items()}
        if self.mirror is not None:
            key, copies = self.mirror.candidate.key, self.mirror.counted()
            asked = counted.get(key)
            counted[key] = (
                msgspec.structs.replace(asked, compared=copies.compared, agreed=copies.agreed) if asked else copies
            )
        return counted

    def reset(self) -> None:
        """Count anew."""
        table = self._table
        self._table = Table([arm.candidate for arm in table.arms.values()], self.weights())
        if self.mirror is not None:
            self.mirror.reset()

    def examples(self) -> list[dict[str, Any]]:
        """Requests that the mirror answered otherwise than the caller was, as JSON values; newest last."""
        return self.mirror.examples() if self.mirror is not None else []

    def summary(self) -> dict[str, Any]:
        """What the mirror has compared, dropped and found; empty without a mirror."""
        return self.mirror.summary() if self.mirror is not None else {}

    def close(self) -> None:
        """Let the mirror go. Requests under way end as they would."""
        if self.mirror is not None:
            self.mirror.close()


async def _stream(candidate: Candidate, request: InferenceRequest) -> Any:
    if candidate.infer_stream is None:
        yield await candidate.infer(request)
        return
    responses = candidate.infer_stream(request)
    try:
        async for response in responses:
            yield response
    finally:
        close = getattr(responses, "aclose", None)
        if close is not None:
            await close()
