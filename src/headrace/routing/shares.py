"""Who shares the requests of a split, who is next, and what each has done. `split` and `mirror` ask it; pure."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from headrace.errors import (
    Conflict,
    InvalidRequest,
    ModelError,
    ModelNotFound,
    NotFound,
    NotSupported,
    TooLarge,
)
from headrace.payload import Infer, InferStream

BOUNDS: Final[tuple[float, ...]] = tuple(10.0 ** (each / 20 - 5) for each in range(141))
"""Upper bounds of latency buckets, seconds: 20 a decade from 10 microseconds to 100 seconds, 12 % apart."""

_CALLERS: Final = (Conflict, InvalidRequest, NotFound, NotSupported, TooLarge)


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """One of those who answer for a split."""

    name: str
    """`Served.key`: a model's name, or `NAME.pipeline`."""
    version: str
    """Of a model; empty: the one that the name stands for."""
    weight: float
    """Relative to the sum of all; 0: it is asked nothing. Of a mirror: percent."""
    infer: Infer
    route: str
    """What names it in the header `x-seldon-route` (`sticky.route_of`)."""
    infer_stream: InferStream | None = None
    """None: its stream is its one answer."""

    @property
    def key(self) -> str:
        """What counts and weights call it: `name@version`, or the name alone without a version."""
        return f"{self.name}@{self.version}" if self.version else self.name


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What one candidate has done since the split was set up, its weights changed or `reset` was called."""

    requests: int = 0
    failures: int = 0
    """Requests that failed by the candidate's fault (`is_failure`)."""
    latency: Mapping[float, int] = MappingProxyType({})
    """Upper bound of a bucket in seconds to the requests in it, not cumulated; the last bound is infinity. Failures
    count as well. Of a mirror: of requests that went alone, so that a merged one does not pass for slow."""
    compared: int = 0
    """Of a mirror: answers compared with the callers'."""
    agreed: int = 0


class Tally:
    """The same while it grows."""

    __slots__ = ("agreed", "buckets", "compared", "failures", "requests")

    def __init__(self) -> None:
        self.requests = self.failures = self.compared = self.agreed = 0
        self.buckets = [0] * (len(BOUNDS) + 1)

    def took(self, seconds: float) -> None:
        """Note the latency of one request."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1

    def counted(self) -> Counted:
        """As it stands now."""
        return Counted(
            requests=self.requests,
            failures=self.failures,
            latency=dict(zip((*BOUNDS, math.inf), self.buckets, strict=True)),
            compared=self.compared,
            agreed=self.agreed,
        )


def is_failure(error: BaseException) -> bool:
    """Whether an error is the candidate's fault, as a status of 5xx, and not the caller's.

    A model that is not found is the candidate's: the caller named the split.
    """
    if isinstance(error, ModelError):
        return error.status >= 500
    return isinstance(error, ModelNotFound) or not isinstance(error, _CALLERS)


class Arm:
    """A candidate in a table, with its tally."""

    __slots__ = ("candidate", "infer", "key", "moves", "route", "stamps", "tally", "weight")

    def __init__(self, candidate: Candidate, weight: float) -> None:
        self.candidate, self.weight, self.key = candidate, weight, candidate.key
        self.infer, self.route = candidate.infer, candidate.route
        self.moves = not candidate.version and not candidate.name.endswith((".pipeline", ".experiment"))
        """Whether it is whatever version of its model is served."""
        self.stamps: dict[str, Mapping[str, str]] = {}
        """Headers that name it, by the version it is: the same object each time (`sticky`)."""
        self.tally = Tally()

    def __repr__(self) -> str:
        return f"<Arm {self.candidate.key} {self.weight:g}, {self.tally.requests} requests>"


class Table:
    """Candidates with their weights, which never change: other weights are another table. Requests keep theirs.

    Args:
        candidates: At least one.
        weights: By `Candidate.key`; those that are missing keep the candidate's own.

    Raises:
        InvalidRequest: a weight is none, all are 0, or a candidate is there twice.
    """

    __slots__ = ("alone", "arms", "asked", "cumulated")

    def __init__(self, candidates: Sequence[Candidate], weights: Mapping[str, float]) -> None:
        self.arms = {each.key: Arm(each, weights.get(each.key, each.weight)) for each in candidates}
        if len(self.arms) < len(candidates):
            raise InvalidRequest(f"candidates must differ, got {', '.join(each.key for each in candidates)}")
        for key, arm in self.arms.items():
            if not 0 <= arm.weight < math.inf:
                raise InvalidRequest(f"the weight of candidate '{key}' must be a number from 0 on, got {arm.weight}")
        self.asked = tuple(arm for arm in self.arms.values() if arm.weight > 0)
        """Those with a weight."""
        if not self.asked:
            raise InvalidRequest(f"at least one candidate needs a weight above 0: {', '.join(self.arms) or 'none'}")
        self.alone = len(self.arms) == 1
        """Nobody was chosen, as there is one only."""
        total = sum(arm.weight for arm in self.asked)
        cumulated = list(itertools.accumulate(arm.weight / total for arm in self.asked))
        cumulated[-1] = 1.0  # whatever rounding made of the sum: numbers below 1 find somebody
        self.cumulated = tuple(cumulated)

    def pick(self, number: float) -> Arm:
        """Who answers, by a random number from 0 to below 1."""
        return self.asked[bisect_right(self.cumulated, number)]

    def pick_other(self, number: float, tried: Sequence[Arm]) -> Arm | None:
        """Who answers in place of those who could not; None: nobody is left."""
        left = [arm for arm in self.asked if arm not in tried]
        threshold = number * sum(arm.weight for arm in left)
        for arm in left:
            threshold -= arm.weight
            if threshold < 0:
                return arm
        return left[-1] if left else None
