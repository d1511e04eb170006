"""The search for an anchor, whatever the data: a rule that holds of the row, and under which the model's answer holds.

Ribeiro, Singh, Guestrin (2018), "Anchors: high-precision model-agnostic explanations", section 3, algorithm 2: a beam
search that adds one predicate at a time, whose candidates are the arms of a bandit. The best few are found by KL-LUCB:
Kaufmann, Kalyanakrishnan (2013), "Information complexity in bandit subset selection", algorithm 1 and theorem 2, with
the exploration rate log(405.5 K t^1.1 / delta) + log log(405.5 K t^1.1 / delta).

Where this deviates, and why:
- one round draws for every arm whose interval overlaps the gap, not only for the two at it, so that a model is asked
  in few large calls; the bounds hold for all arms at all times, so that the rule to stop is as good as before;
- a level of the search ends after ROUNDS rounds, separated or not: arms that are alike are never told apart;
- beside the beam, the candidates of largest coverage whose mean reaches the threshold are examined, too: the beam is
  chosen by precision alone, and of many rules that hold always the widest is wanted;
- an anchor that was found is loosened: a predicate is left out, or one of the same kind that holds more often is put in
  its place, as long as the precision stays;
- at the end its precision is measured anew, from samples that had no part in its choice, and that is what is reported.

The data's own part is a `Law`: `anchor_tabular`, `anchor_text` and `anchor_image` each have one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers.base import LARGEST_CALL, Ask, BudgetSpent, Explanation, Reference
from headrace.explainers.outcome import Outcome, outcome
from headrace.payload import Array

Anchor = tuple[int, ...]
"""Positions of predicates, in the order in which they were added."""

ROUNDS: Final = 10
"""Of sampling, at most, to tell the arms of one level apart."""

FIRST: Final = 2 * LARGEST_CALL
"""Rows of the first round of a level, at most, while each arm has LEAST."""

LEAST: Final = 10

SHOWN: Final = 500
"""Fresh rows that examples are taken from."""

_K1: Final = 405.5
_ALPHA: Final = 1.1


class Law(Protocol):
    """The predicates that hold of the row, and how rows are drawn under some of them."""

    @property
    def groups(self) -> Array:
        """`[p]` INT64 of the p predicates: those of one number imply one another (`> 1`, `> 2`), and an anchor has one
        of them at most.
        """
        ...

    @property
    def present(self) -> Array:
        """`[m, p]` BOOL: of m rows that coverage is measured on, which predicates hold."""
        ...

    @property
    def largest(self) -> int:
        """Rows that are drawn at once at most, for the memory that they take."""
        ...

    def draw(self, anchors: Sequence[Anchor], count: int, rng: np.random.Generator) -> Array:
        """`count` rows for each anchor, one anchor after the other."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How the search is done."""

    threshold: float = 0.95
    """The precision that an anchor must reach: the share of rows under it with the same answer."""
    delta: float = 0.05
    """The chance that a bound is wrong; of the interval that is reported, too."""
    tau: float = 0.1
    """How far below the threshold the lower bound of an anchor's precision may be, and how well arms are told apart."""
    beam_size: int = 4
    """Candidates of one level that are gone on with."""
    batch: int = 50
    """Samples of one arm in one round."""
    max_anchor_size: int = 8
    """Predicates of an anchor, at most."""
    precision_samples: int = 1000
    """Fresh samples that the reported precision is measured from."""

    def __post_init__(self) -> None:
        for name in ("threshold", "delta", "tau"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidRequest(f"'{name}' of an anchor must be between 0 and 1, not {getattr(self, name)}")
        for name in ("beam_size", "batch", "max_anchor_size", "precision_samples"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"'{name}' of an anchor must be at least 1, not {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The best anchor that there is."""

    anchor: Anchor
    precision: float | None
    """Measured anew; where the budget did not allow it, as the search saw it; None: no sample was drawn."""
    interval: tuple[float, float] | None
    """Clopper and Pearson (1934), at 1 - delta."""
    samples: int
    """That the precision is measured from."""
    coverage: float
    met_threshold: bool
    reason: str
    """Why the threshold is not met; empty where it is."""
    complete: bool
    prefixes: tuple[tuple[float | None, float], ...]
    """Precision and coverage of the anchor's first predicate, its first two, ...; the precision from fewer samples."""
    rows: Array | None
    """Of the fresh samples, a few."""
    agreed: Array | None
    """Of those, which have the same answer."""


def upper(means: Array, levels: Array | float) -> Array:
    """The largest q with KL(mean, q) <= level, of Bernoulli distributions, elementwise; level is beta / n."""
    return _bound(means, levels, np.ones_like(means))


def lower(means: Array, levels: Array | float) -> Array:
    """The least q with KL(mean, q) <= level."""
    return _bound(means, levels, np.zeros_like(means))


def _bound(means: Array, levels: Array | float, far: Array) -> Array:
    near = means.astype(np.float64)
    for _ in range(30):  # to within 1e-9
        middle = (near + far) / 2
        is_within = _kl(means, middle) <= levels
        near, far = np.where(is_within, middle, near), np.where(is_within, far, middle)
    return near


def _kl(p: Array, q: Array) -> Array:
    tiny = 1e-12
    p, q = p.clip(tiny, 1 - tiny), q.clip(tiny, 1 - tiny)
    divergence: Array = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return divergence


def exploration(arms: int, time: int, delta: float) -> float:
    """The exploration rate beta(t, delta) of KL-LUCB for `arms` arms after `time` samples."""
    inner = math.log(_K1 * arms * max(time, 1) ** _ALPHA / delta)
    return inner + math.log(inner)


def interval(hits: int, samples: int, delta: float) -> tuple[float, float]:
    """The interval of a share at 1 - delta: Clopper, Pearson (1934)."""
    from scipy.special import betaincinv

    low = 0.0 if hits == 0 else float(betaincinv(hits, samples - hits + 1, delta / 2))
    high = 1.0 if hits == samples else float(betaincinv(hits + 1, samples - hits, 1 - delta / 2))
    return low, high


@dataclasses.dataclass(kw_only=True)
class _Arms:
    """Anchors of one level, with what was drawn under each."""

    anchors: list[Anchor]
    coverage: Array
    samples: Array
    hits: Array

    @property
    def means(self) -> Array:
        means: Array = self.hits / np.maximum(self.samples, 1)
        return means

    def levels(self, delta: float) -> Array:
        rate = exploration(len(self.anchors), int(self.samples.max()), delta)
        levels: Array = rate / np.maximum(self.samples, 1)
        return levels


class Search:
    """The search for one row.

    Args:
        ask: The model.
        law: Of the row.
        agrees: Answers `[n, k]` to `[n]` BOOL: whether they are the one to be explained.
        options: How it is done.
        rng: What samples are drawn with.
    """

    def __init__(
        self, ask: Ask, law: Law, agrees: Callable[[Array], Array], *, options: Options, rng: np.random.Generator
    ) -> None:
        self._ask, self._law, self._agrees, self._options, self._rng = ask, law, agrees, options, rng
        self._reserve = min(options.precision_samples, ask.left() // 4)
        self._valid: dict[Anchor, float] = {}  # anchor to its coverage
        self._seen: dict[Anchor, tuple[float, int, int]] = {(): (-1.0, 0, 0)}  # lower bound, hits, samples
        self._coverage = -1.0  # of the widest valid one

    def run(self) -> Found:
        """Search, measure, and say what was found; within the budget."""
        is_complete = True
        try:
            self._search()
            self._loosen()
        except BudgetSpent:
            is_complete = False
        self._reserve = 0
        refuted: list[Found] = []
        try:
            return self._measured(refuted, complete=is_complete)
        except BudgetSpent:
            return dataclasses.replace(_best(refuted), complete=False) if refuted else self._unmeasured()

    # -- the beam --

    def _search(self) -> None:
        options = self._options
        beam: list[Anchor] = [()]
        start = self._arms(beam)
        self._sample(start, np.zeros(1, np.int64), 2 * options.batch)
        self._examine(start, np.zeros(1, np.int64))
        for _ in range(min(options.max_anchor_size, len(self._law.groups))):
            beam = self._level(beam)
            if not beam:
                return

    def _level(self, beam: Sequence[Anchor]) -> list[Anchor]:
        """Add one predicate to each of the beam, and examine the best; these are the next beam."""
        options = self._options
        arms = self._arms(self._extended(beam))
        if not arms.anchors:
            return []
        each = np.arange(len(arms.anchors))
        self._sample(arms, each, min(options.batch, max(LEAST, FIRST // len(each))))
        best = self._select(arms)
        wide = each[arms.means >= options.threshold]
        wide = wide[np.argsort(-arms.coverage[wide], kind="stable")][: options.beam_size]
        self._examine(arms, np.union1d(best, wide))
        return [arms.anchors[at] for at in best]

    def _arms(self, anchors: Sequence[Anchor]) -> _Arms:
        """Arms that nothing was drawn of yet, of those that cover more than the widest valid one."""
        coverage = np.array([self._covers(anchor) for anchor in anchors])
        kept = [at for at, each in enumerate(coverage) if each > self._coverage]
        zeros = np.zeros(len(kept), np.int64)
        return _Arms(anchors=[anchors[at] for at in kept], coverage=coverage[kept], samples=zeros, hits=zeros.copy())

    def _extended(self, beam: Sequence[Anchor]) -> list[Anchor]:
        groups = self._law.groups
        found: dict[tuple[int, ...], Anchor] = {}
        for anchor in beam:
            taken = {int(groups[at]) for at in anchor}
            for at, group in enumerate(groups.tolist()):
                if group not in taken:
                    found.setdefault(tuple(sorted((*anchor, at))), (*anchor, at))
        return list(found.values())

    def _covers(self, anchor: Anchor) -> float:
        return coverage(self._law, anchor)

    def _sample(self, arms: _Arms, which: Array, count: int) -> None:
        room = (self._ask.left() - self._reserve) // len(which)
        if room < 1:
            raise BudgetSpent(f"the rows that are left are not one for each of {len(which)} candidates")
        count = min(count, room)
        agreed, _ = self._drawn([arms.anchors[at] for at in which], count)
        arms.samples[which] += count
        arms.hits[which] += agreed.sum(axis=1)

    def _drawn(self, anchors: Sequence[Anchor], count: int) -> tuple[Array, Array]:
        """Whether the model agrees on `count` samples of each anchor, `[anchors, count]`; the first SHOWN rows."""
        agreed = np.zeros((len(anchors), count), np.bool_)
        largest = self._law.largest
        step = max(1, largest // count)
        shown: list[Array] = []
        for first in range(0, len(anchors), step):
            block = anchors[first : first + step]
            for start in range(0, count, largest):
                size = min(largest, count - start)
                rows = self._law.draw(block, size, self._rng)
                agreed[first : first + step, start : start + size] = self._agrees(self._ask(rows)).reshape(-1, size)
                shown = shown or [rows[:SHOWN]]
        return agreed, shown[0]

    def _select(self, arms: _Arms) -> Array:
        """The arms of the largest precision: KL-LUCB, algorithm 1."""
        size, tau = self._options.beam_size, self._options.tau
        order = np.lexsort((-arms.coverage, -arms.means))
        for _ in range(ROUNDS):
            inside, outside = order[:size], order[size:]
            if not len(outside):
                break
            levels = arms.levels(self._options.delta)
            lows, highs = lower(arms.means[inside], levels[inside]), upper(arms.means[outside], levels[outside])
            if highs.max() - lows.min() < tau:
                break
            doubted = np.concatenate(
                [
                    inside[np.argsort(lows)][: 2 * size][np.sort(lows)[: 2 * size] < highs.max() - tau],
                    outside[np.argsort(-highs)][: 2 * size][np.sort(highs)[::-1][: 2 * size] > lows.min() + tau],
                ]
            )
            self._sample(arms, doubted, self._options.batch)
            order = np.lexsort((-arms.coverage, -arms.means))
        return order[:size]

    def _examine(self, arms: _Arms, which: Array) -> None:
        """Draw until each is known to reach the threshold, or not; keep those that do."""
        options = self._options
        threshold = options.threshold
        slack = min(options.tau, (1 - threshold) / 2)
        for _ in range(ROUNDS):
            means, levels = arms.means[which], arms.levels(options.delta)[which]
            open_ = np.where(
                means >= threshold,
                lower(means, levels) < threshold - options.tau,
                upper(means, levels) >= threshold + slack,
            )
            if not open_.any():
                break
            self._sample(arms, which[open_], 2 * options.batch)
        means = arms.means[which]
        lows = lower(means, arms.levels(options.delta)[which])
        for at, mean, low in zip(which.tolist(), means.tolist(), lows.tolist(), strict=True):
            anchor = arms.anchors[at]
            self._seen[anchor] = (low, int(arms.hits[at]), int(arms.samples[at]))
            if mean >= threshold and low >= threshold - options.tau:
                self._valid[anchor] = float(arms.coverage[at])
                self._coverage = max(self._coverage, float(arms.coverage[at]))

    def _loosen(self) -> None:
        """Widen the widest valid anchor while the precision stays."""
        groups, present = self._law.groups, self._law.present
        shares = present.mean(axis=0) if len(present) else np.zeros(len(groups))
        for _ in range(ROUNDS):
            if not self._valid:
                return
            widest = self._widest()[0]
            others: list[Anchor] = []
            for place, at in enumerate(widest):
                others.append(widest[:place] + widest[place + 1 :])
                looser = np.flatnonzero((groups == groups[at]) & (shares > shares[at])).tolist()
                others += [(*widest[:place], other, *widest[place + 1 :]) for other in looser]
            arms = self._arms([each for each in others if each not in self._seen])
            if not arms.anchors:
                return
            every = np.arange(len(arms.anchors))
            self._sample(arms, every, self._options.batch)
            self._examine(arms, every)

    def _widest(self) -> list[Anchor]:
        return sorted(self._valid, key=lambda anchor: (-self._valid[anchor], -self._seen[anchor][0]))

    # -- the end --

    def _measured(self, refuted: list[Found], *, complete: bool) -> Found:
        """The widest valid anchor that fresh samples confirm; else the most precise one that was seen.

        Args:
            refuted: What was measured and not confirmed goes here.
            complete: What is to be said of it.
        """
        for _ in range(2):
            for anchor in self._widest()[: self._options.beam_size]:
                found = self._fresh(anchor, complete=complete)
                if found.met_threshold:
                    return found
                refuted.append(found)
            # Near the threshold chance decided: one predicate more may do.
            self._valid, self._coverage = {}, -1.0
            narrower = [each.anchor for each in refuted if len(each.anchor) < self._options.max_anchor_size]
            if not narrower or not complete:
                break
            self._level(narrower)
        best = self._most_precise()
        if all(each.anchor != best for each in refuted):
            refuted.append(self._fresh(best, complete=complete))
        return _best(refuted)

    def _most_precise(self) -> Anchor:
        return max(self._seen, key=lambda anchor: (self._seen[anchor][0], self._covers(anchor)))

    def _fresh(self, anchor: Anchor, *, complete: bool) -> Found:
        options = self._options
        prefixes = [anchor[:end] for end in range(1, len(anchor))]
        some = max(options.precision_samples // 4, 1)
        count = min(options.precision_samples, self._ask.left())
        if count * 2 < options.precision_samples + some * len(prefixes):
            prefixes = []
        drawn, rows = self._drawn([anchor], max(count, 1))
        own = drawn[0]
        hits = int(own.sum())
        shares: list[float | None] = [None] * max(len(anchor) - 1, 0)
        if prefixes and self._ask.left() >= some * len(prefixes):
            shares = self._drawn(prefixes, some)[0].mean(axis=1).tolist()
        low, high = interval(hits, count, options.delta)
        precision = hits / count
        reason = self._reason(anchor, precision, low)
        return Found(
            anchor=anchor,
            precision=precision,
            interval=(low, high),
            samples=count,
            coverage=self._covers(anchor),
            met_threshold=not reason,
            reason=reason,
            complete=complete,
            prefixes=tuple(
                (share, self._covers(anchor[: end + 1]))
                for end, share in enumerate((*shares, precision)[: len(anchor)])
            ),
            rows=rows,
            agreed=own[: len(rows)],
        )

    def _reason(self, anchor: Anchor, precision: float, low: float) -> str:
        options = self._options
        if precision >= options.threshold and low >= options.threshold - options.tau:
            return ""
        if precision >= options.threshold:
            return f"too few rows could be asked for to know that the precision is near {options.threshold:g}"
        if self._seen[anchor][0] >= options.threshold - options.tau:
            return f"measured anew, its precision is {precision:.3f}, below {options.threshold:g}"
        if not len(self._law.groups):
            return "there is nothing that a rule could say of this row"
        return f"no rule of at most {options.max_anchor_size} conditions on this row reaches {options.threshold:g}"

    def _unmeasured(self) -> Found:
        """The best, as the search saw it: the budget is spent."""
        anchor = self._widest()[0] if self._valid else self._most_precise()
        _, hits, samples = self._seen[anchor]
        is_valid = anchor in self._valid
        return Found(
            anchor=anchor,
            precision=hits / samples if samples else None,
            interval=interval(hits, samples, self._options.delta) if samples else None,
            samples=samples,
            coverage=self._covers(anchor),
            met_threshold=is_valid,
            reason="" if is_valid else "the budget was spent before a rule was found",
            complete=False,
            prefixes=tuple((None, self._covers(anchor[: end + 1])) for end in range(len(anchor))),
            rows=None,
            agreed=None,
        )


def _best(found: Sequence[Found]) -> Found:
    return max(found, key=lambda each: (each.met_threshold, each.precision or 0.0))


def coverage(law: Law, anchor: Anchor) -> float:
    """The share of rows of which all the anchor's predicates hold, jointly; of no row, 0."""
    if not len(law.present):
        return 0.0
    return float(law.present[:, list(anchor)].all(axis=1).mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """What the model says of the row, and how others are compared with it."""

    outcome: Outcome
    answer: Array
    """`[1, k]`."""
    tolerance: float
    """Of numbers: how far another may be to be the same."""

    def agrees(self, answers: Array) -> Array:
        """`[n, k]` to `[n]` BOOL."""
        if self.outcome.is_classifier:
            same: Array = self.outcome.positions(answers) == self.outcome.positions(self.answer)[0]
            return same
        near: Array = np.abs(self.outcome.numbers(answers) - self.outcome.numbers(self.answer)[0]) <= self.tolerance
        return near

    def text(self) -> str:
        """As a person reads it."""
        if self.outcome.is_classifier:
            return f"The model says {self.outcome.text(self.answer)}"
        return f"The model says {self.outcome.text(self.answer)}, give or take {self.tolerance:.3g},"

    def prediction(self) -> list[float]:
        """The class's position, or the number, as `raw.prediction`."""
        if self.outcome.is_classifier:
            return [int(self.outcome.positions(self.answer)[0])]
        return [float(self.outcome.numbers(self.answer)[0])]


def said(ask: Ask, reference: Reference, rows: Array, *, tolerance: float | None, output: int) -> Said:
    """Ask the model of the row.

    Args:
        ask: The model.
        reference: Of the explainer.
        rows: `[1, ...]`: the row.
        tolerance: Of numbers; None: half the standard deviation of the targets, or of the model's answers where the
            reference has none.
        output: Of several numbers, which.

    Raises:
        BudgetSpent: not even that.
        InvalidRequest: the tolerance is negative, or there is no such output.
    """
    if tolerance is not None and not tolerance >= 0:
        raise InvalidRequest(f"'tolerance' of an anchor must not be negative, and is {tolerance}")
    answer = ask(rows)
    meaning = outcome(reference, answer, output=output)
    if not meaning.is_classifier and tolerance is None:
        targets = reference.y
        if targets is None or not len(targets):
            targets = meaning.numbers(ask(reference.x[:500]))
        tolerance = float(np.nanstd(targets)) / 2
    return Said(outcome=meaning, answer=np.asarray(answer, np.float64).reshape(1, -1), tolerance=tolerance or 0.0)


def explanation(
    method: str,
    found: Found,
    what: Said,
    *,
    names: Sequence[str],
    options: Options,
    law: str,
    extra: dict[str, Any],
    raw: dict[str, Any],
    asked: int,
    of: str = "rows",
    covered: str = "of the reference is such",
) -> Explanation:
    """What was found, in the words of every anchor method.

    Args:
        method: Its name.
        found: By the search.
        what: The model says of the row.
        names: The conditions, as a person reads them.
        options: Of the search.
        law: How rows were drawn, in a word or two.
        extra: More of `data`.
        raw: More of `data.raw`.
        asked: Rows.
        of: What was drawn, in the plural.
        covered: How the sentence about the coverage goes on after the percentage.
    """
    condition = " and ".join(names)
    parts = [what.text()]
    if found.precision is None or found.interval is None:
        parts.append("; the budget did not allow for more.")
    else:
        low, high = found.interval
        whose = f"of {of} with {condition}" if names else f"of all {of}, whatever they are,"
        parts.append(
            f", and so for {100 * found.precision:.1f} % ({100 * (1 - options.delta):g} % interval {100 * low:.1f} to"
            f" {100 * high:.1f} %) {whose}"
        )
        parts.append(f"; {100 * found.coverage:.1f} % {covered}." if names else ".")
    if found.reason:
        parts.append(f" That is no anchor: {found.reason}.")
    warnings = [] if found.met_threshold else [f"no anchor: {found.reason}"]
    if names and found.coverage == 0:
        warnings.append("no row of the reference satisfies the anchor")
    data: dict[str, Any] = {
        "anchor": list(names),
        "precision": found.precision,
        "precision_interval": None if found.interval is None else list(found.interval),
        "precision_samples": found.samples,
        "coverage": found.coverage,
        "threshold": options.threshold,
        "met_threshold": found.met_threshold,
        "reason": found.reason,
        "perturbation": law,
        **extra,
        "raw": {
            "names": list(names),
            "prediction": what.prediction(),
            "success": found.met_threshold,
            "num_preds": asked,
            "all_precision": None if not found.prefixes else found.prefixes[-1][0],
            **raw,
        },
    }
    return Explanation(method=method, data=data, text="".join(parts), complete=found.complete, warnings=tuple(warnings))


def nothing(method: str, *, options: Options, law: str, extra: dict[str, Any], raw: dict[str, Any]) -> Explanation:
    """What there is to say when the model could not even be asked about the row."""
    reason = "the budget was spent before the model was asked about the row"
    data: dict[str, Any] = {
        "anchor": [],
        "precision": None,
        "precision_interval": None,
        "precision_samples": 0,
        "coverage": 1.0,
        "threshold": options.threshold,
        "met_threshold": False,
        "reason": reason,
        "perturbation": law,
        **extra,
        "raw": {"names": [], "prediction": [], "success": False, "num_preds": 0, "all_precision": None, **raw},
    }
    return Explanation(
        method=method, data=data, text=f"No anchor: {reason}.", complete=False, warnings=(f"no anchor: {reason}",)
    )
