"""Whether a caller's queries look like those of somebody who copies the model, and what is done about it.

Juuti, Szyller, Marchal, Asokan: PRADA, Protecting Against DNN Model Stealing Attacks (EuroS&P 2019), section 5. Benign
queries are scattered: the distance of each to the nearest earlier one of its class is close to normally distributed.
Those made to explore a model are not, which the Shapiro-Wilk statistic W shows. Deviations: queries are rows scaled by
the reference's spread; sets are bounded; the threshold is lowered to what the reference's own rows give, since few
tables have distances as normal as images; and three rules of our own stand beside W (shares of rows outside all ranges,
of near duplicates, and of rows next to the decision boundary). W misses queries drawn from natural data, and a caller
who mixes them in: an attack over many keys is not seen at all. It makes copying slower; it does not prevent it.

Queries are noted on the loop and judged in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from headrace.errors import Forbidden, InvalidRequest, Throttled
from headrace.payload import Array, Infer, InferenceRequest, InferenceResponse
from headrace.security import output_policy
from headrace.trust.rows import Rows
from headrace.trust.spec import Extraction, OutputPolicy

log = logging.getLogger(__name__)

_CALLERS: Final = 1000
_GROWING: Final = 1000  # rows of one class that later ones are compared with
_DISTANCES: Final = 1000
_LEAST: Final = 100  # distances for a verdict, as in the paper
_OUTSIDE: Final = 0.5
_NEAR: Final = 0.05  # of the reference's median distance to the nearest neighbour
_NEAR_SHARE: Final = 0.5
_MARGIN: Final = 0.05
_MARGIN_SHARE: Final = 0.5
_SIMULATED: Final = 20
_ROUNDED: Final = OutputPolicy(decimals=1)
_LABELS: Final = OutputPolicy(label_only=True)


class Suspicion(msgspec.Struct, frozen=True, kw_only=True):
    """What the last look at a caller found."""

    caller: str
    statistic: float
    """W; 1 where there are too few queries."""
    threshold: float
    reasons: tuple[str, ...]
    """Empty: nothing is wrong."""
    action: str
    """What is done now; empty: nothing."""
    queries: int


class Scale:
    """Rows on the scale of the reference, so that a distance means the same in each column.

    Args:
        x: `[n, f]` FP64, the reference.
    """

    def __init__(self, x: Array) -> None:
        filled = np.where(np.isnan(x), 0.0, x)
        self._middle = np.median(filled, axis=0)
        spread = filled.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)

    def __call__(self, x: Array) -> Array:
        """Rows `[n, f]` on that scale; a missing value is in the middle."""
        scaled: Array = (np.where(np.isnan(x), self._middle, x) - self._middle) / self._spread
        return scaled


class Queries:
    """One caller's queries of one model: PRADA's growing sets and distances."""

    def __init__(self) -> None:
        self._sets: dict[float, list[Array]] = {}
        self._kept: dict[float, list[float]] = {}
        self._least: dict[float, float] = {}
        self.distances: deque[float] = deque(maxlen=_DISTANCES)
        self.count = 0

    def add(self, x: Array, predicted: Array) -> Array:
        """Take scaled rows `[n, f]` with their classes `[n]`; their distances, NaN for the first of a class."""
        found = np.full(len(x), np.nan)
        for at, (row, cls) in enumerate(zip(x, predicted.tolist(), strict=True)):
            kept = self._sets.setdefault(cls, [])
            if kept:
                distance = float(np.sqrt(((np.asarray(kept) - row) ** 2).sum(axis=1).min()))
                found[at] = distance
                self.distances.append(distance)
                if distance > self._least.get(cls, 0.0):
                    self._keep(cls, row, distance)
            else:
                kept.append(row)
        self.count += len(x)
        return found

    def _keep(self, cls: float, row: Array, distance: float) -> None:
        kept, distances = self._sets[cls], self._kept.setdefault(cls, [])
        kept.append(row)
        distances.append(distance)
        if len(kept) > _GROWING:
            kept.pop(0)
            distances.pop(0)
        self._least[cls] = max(self._least.get(cls, 0.0), float(np.mean(distances) - np.std(distances)))

    def statistic(self) -> float:
        """Shapiro-Wilk's W of the distances within three standard deviations; 1 while there are too few."""
        from scipy.stats import shapiro

        distances = np.asarray(self.distances)
        if len(distances) < _LEAST:
            return 1.0
        spread = distances.std()
        if not spread > 0:
            return 0.0  # all the same: nothing that occurs by itself
        return float(shapiro(distances[np.abs(distances - distances.mean()) <= 3 * spread]).statistic)


class _Watched:
    """What is known of one caller."""

    def __init__(self) -> None:
        self.queries = Queries()
        self.waiting: list[tuple[Array, Array, Array | None]] = []
        self.rows = 0
        self.judging = False
        self.level = 0
        self.next_at = 0.0
        self.blocked_until = 0.0
        self.last: Suspicion | None = None


class Monitor:
    """All callers of one model.

    Args:
        model: Its name, for the log.
        reference: `[n, f]` FP64, rows of the reference.
        predicted: `[n]`, their classes as the model says.
        settings: What to do.
        low: `[f]`, the least of each column in the reference.
        high: `[f]`, the largest.
        clock: Seconds.
    """

    def __init__(
        self,
        model: str,
        reference: Array,
        predicted: Array,
        settings: Extraction,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._settings, self._clock = model, settings, clock
        self._scale = Scale(reference)
        self._callers: OrderedDict[str, _Watched] = OrderedDict()
        with np.errstate(invalid="ignore"):
            self._low = np.where(np.isnan(reference), np.inf, reference).min(axis=0)
            self._high = np.where(np.isnan(reference), -np.inf, reference).max(axis=0)
        self._reference, self._predicted = reference, predicted
        self.threshold = settings.threshold
        self._near = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def calibrate(self, *, seed: int = 0) -> None:
        """Learn what the reference's own rows give, which is no attack: a thread's work, some tenths of a second."""
        generator = np.random.default_rng(seed)
        scaled = self._scale(self._reference)
        found, distances = [], []
        rows = min(len(scaled), 2 * _LEAST + self._settings.window)
        for _ in range(_SIMULATED):
            chosen = generator.permutation(len(scaled))[:rows]
            queries = Queries()
            distances.append(queries.add(scaled[chosen], self._predicted[chosen]))
            found.append(queries.statistic())
        self.threshold = min(self.threshold, min(found) - 0.05)
        seen = np.concatenate(distances)
        seen = seen[np.isfinite(seen) & (seen > 0)]
        self._near = _NEAR * float(np.median(seen)) if len(seen) else 0.0

    def admit(self, caller: str) -> OutputPolicy | None:
        """Whether a caller may ask now, and how much of the answer it gets.

        Raises:
            Throttled: it must ask more slowly.
            Forbidden: it may not ask for some time.
        """
        watched = self._callers.get(caller)
        if watched is None or not watched.level:
            return None
        action = self._action(watched)
        now = self._clock()
        if watched.blocked_until > now:
            raise Forbidden(
                f"model '{self._model}' does not answer '{caller}' for {watched.blocked_until - now:.0f} s: its "
                "queries look like those of somebody who copies the model"
            )
        if action in {"throttle", "block"}:
            if watched.next_at > now:
                raise Throttled(
                    f"model '{self._model}' answers '{caller}' {self._settings.throttle_per_second:g} times a second: "
                    "its queries look like those of somebody who copies the model",
                    retry_after_seconds=watched.next_at - now,
                )
            watched.next_at = now + 1 / self._settings.throttle_per_second
        return {"log": None, "round": _ROUNDED}.get(action, _LABELS)

    def note(self, caller: str, x: Array, predicted: Array, probabilities: Array | None) -> None:
        """Take what a caller asked, on the loop; a look is begun when there is enough."""
        watched = self._callers.get(caller)
        if watched is None:
            if len(self._callers) >= _CALLERS:
                self._callers.popitem(last=False)
            watched = self._callers[caller] = _Watched()
        self._callers.move_to_end(caller)
        if watched.rows > 20 * self._settings.window:
            return  # a look is under way, and enough waits for the next
        watched.waiting.append((x, predicted, probabilities))
        watched.rows += len(x)
        if watched.rows >= self._settings.window and not watched.judging:
            watched.judging = True
            task = asyncio.get_running_loop().create_task(self._look(caller, watched))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look(self, caller: str, watched: _Watched) -> None:
        try:
            waiting, watched.waiting, watched.rows = watched.waiting, [], 0
            statistic, reasons = await asyncio.to_thread(self.judge, watched.queries, waiting)
            self._decide(caller, watched, statistic, reasons)
        finally:
            watched.judging = False

    def judge(
        self, queries: Queries, waiting: list[tuple[Array, Array, Array | None]]
    ) -> tuple[float, tuple[str, ...]]:
        """W, and what is wrong, of a caller's queries with those that wait; a thread's work."""
        x = np.concatenate([each for each, _, _ in waiting])[-10 * self._settings.window :]
        predicted = np.concatenate([each for _, each, _ in waiting])[-len(x) :]
        distances = queries.add(self._scale(x), predicted)
        reasons = []
        statistic = queries.statistic()
        if statistic < self.threshold:
            reasons.append(f"distances between queries are not as of natural ones (W {statistic:.3f})")
        with np.errstate(invalid="ignore"):
            outside = float(((x < self._low) | (x > self._high)).any(axis=1).mean())
        if outside > _OUTSIDE:
            reasons.append(f"{outside:.0%} of the rows are outside what the reference has")
        known = distances[np.isfinite(distances)]
        near = float(((known > 0) & (known < self._near)).mean()) if len(known) else 0.0
        if near > _NEAR_SHARE:
            reasons.append(f"{near:.0%} of the rows nearly repeat earlier ones")
        margins = [_margins(each) for _, _, each in waiting if each is not None and each.ndim == 2]
        if margins and (close := float((np.concatenate(margins) < _MARGIN).mean())) > _MARGIN_SHARE:
            reasons.append(f"{close:.0%} of the rows are next to the decision boundary")
        return statistic, tuple(reasons)

    def _decide(self, caller: str, watched: _Watched, statistic: float, reasons: tuple[str, ...]) -> None:
        most = len(self._settings.actions)
        watched.level = min(watched.level + 1, most) if reasons else max(watched.level - 1, 0)
        action = self._action(watched)
        watched.last = Suspicion(
            caller=caller,
            statistic=statistic,
            threshold=self.threshold,
            reasons=reasons,
            action=action,
            queries=watched.queries.count,
        )
        if not reasons:
            return
        log.warning("model '%s': caller '%s': %s; %s", self._model, caller, "; ".join(reasons), action or "no action")
        if action == "block":
            watched.blocked_until = self._clock() + self._settings.block_seconds

    def _action(self, watched: _Watched) -> str:
        return self._settings.actions[watched.level - 1] if watched.level else ""

    def suspicions(self) -> list[Suspicion]:
        """The last look at each caller."""
        return [each.last for each in self._callers.values() if each.last is not None]

    async def settle(self) -> None:
        """Wait for looks that are under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks)


def _margins(probabilities: Array) -> Array:
    if probabilities.shape[1] < 2:
        margin: Array = np.abs(2 * probabilities[:, 0] - 1)
        return margin
    best = np.partition(probabilities, -2, axis=1)
    gap: Array = best[:, -1] - best[:, -2]
    return gap


def monitored(infer: Infer, monitor: Monitor, rows: Rows, *, caller: Callable[[InferenceRequest], str]) -> Infer:
    """The same `Infer`, watched for extraction.

    Args:
        infer: The model, with its whole answer.
        monitor: Of this model.
        rows: How requests and answers become rows.
        caller: The name of who asks.
    """

    async def answer(request: InferenceRequest) -> InferenceResponse:
        name = caller(request)
        policy = monitor.admit(name)
        response = await infer(request)
        try:
            x, predicted = rows.matrix(request.inputs), rows.predictions(response.outputs)
            monitor.note(name, x, predicted, rows.answers(response.outputs))
        except InvalidRequest as error:  # an answer without labels, say: this query tells nothing
            log.debug("model '%s': a query of '%s' is not looked at: %s", request.model_name, name, error)
        return response if policy is None else output_policy.apply(policy, response)

    return answer
