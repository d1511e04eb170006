"""Drift detection by Hoeffding's bounds, column by column: methods `hddm-a` and `hddm-w`.

Frias-Blanco, del Campo-Avila, Ramos-Jimenez, Morales-Bueno, Ortiz-Diaz and Caballero-Mota (2015, IEEE Trans. Knowl.
Data Eng. 27, "Online and non-parametric drift detection methods based on Hoeffding's bounds"). Values lie in [0, 1]:
0 and 1 as they are (errors of a model, flags), numbers by the reference's range.

A: the mean up to the cut, where mean + bound was least, against that of all (section 3, corollary 2). W: exponentially
weighted means before and after the cut, with McDiarmid's bound on their weights (section 4, corollary 5); the bound of
the first value is 1, as in the paper and in MOA (river's is smaller, so that it alarms earlier). The statistic is the
logarithm of 2 / alpha (A) or 1 / alpha (W) at which a row would just be drift.

With `confidence` that is the paper's test. Without, the bounds hold the cut at 0.001, the paper's default, and the
threshold is chosen for an expected run time (`detectors.streams`), because the bounds alone are far too careful: of a
stream that does not vary much they need many times the rows. The paper begins with nothing, here with the reference's
mean (`anchored=False`: as in the paper). Warnings are not given.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.streams import Memory, Streamed, Unit, accumulated, at, latest, lowest
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_CUT: Final = 0.001


class HddmA(Streamed):
    """Plain means."""

    METHOD = "hddm-a"
    UNIT: ClassVar[Unit] = "range"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,
        seed: int = 0,
        confidence: float | None = None,
        two_sided: bool = True,
        anchored: bool = True,
    ) -> Self:
        """See `DriftOnline.fit`.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            ert: Rows.
            seed: Of the simulation.
            confidence: Alpha of the paper, instead of a threshold chosen for `ert`.
            two_sided: False: only a mean that rises is drift, as of errors.
            anchored: Begin with the reference's mean.

        Raises:
            InvalidRequest: `confidence` is not in (0, 1), `ert` is below 2, or too few rows.
        """
        return cls.calibrated(
            x,
            features,
            ert=ert,
            seed=seed,
            threshold=None if confidence is None else math.log(2 / _checked("hddm-a", confidence)),
            anchored=anchored,
            cut=_CUT if confidence is None else confidence,
            two_sided=two_sided,
        )

    def begin(self, means: Array, rows: float) -> Memory:
        """See `Streamed.begin`."""
        seen = np.full(means.size, rows)
        memory = {"seen": seen, "total": means * rows}
        for side, sign in _SIDES:
            key = sign * means + self._bound(seen) if rows else np.full(means.size, math.inf)
            memory |= {f"{side}.key": key, f"{side}.seen": seen, f"{side}.mean": sign * means}
        return memory

    def _bound(self, seen: Array) -> Array:
        found: Array = np.sqrt(math.log(1 / self.options["cut"]) / (2 * np.maximum(seen, 1)))
        return found

    def advance(self, memory: Memory, block: Array) -> tuple[Array, Memory]:
        """See `Streamed.advance`."""
        is_there = ~np.isnan(block)
        seen = accumulated(memory["seen"], is_there.astype(np.float64))
        total = accumulated(memory["total"], np.where(is_there, block, 0.0))
        mean = total / np.maximum(seen, 1)
        bound = self._bound(seen)
        after = {"seen": seen, "total": total}
        statistics = np.zeros(block.shape)
        for side, sign in _SIDES[: 2 if self.options["two_sided"] else 1]:
            key = np.where(seen > 0, sign * mean + bound, math.inf)
            least = lowest(memory[f"{side}.key"], key)
            cut = latest((key <= least) & (seen > 0))
            cut_seen, cut_mean = at(cut, memory[f"{side}.seen"], seen), at(cut, memory[f"{side}.mean"], sign * mean)
            later = seen > cut_seen
            m = np.where(later, (seen - cut_seen) / np.maximum(cut_seen * seen, 1), 1.0)
            rise = np.where(later, np.maximum(sign * mean - cut_mean, 0.0), 0.0)
            statistics = np.maximum(statistics, 2 * rise**2 / m)
            after |= {f"{side}.key": least, f"{side}.seen": cut_seen, f"{side}.mean": cut_mean}
        return statistics, memory | {name: array[-1] for name, array in after.items()}

    def fallback(self, ert: float) -> float:
        """The paper's bound at one alarm in `ert`."""
        return math.log(2 * ert)


class HddmW(Streamed):
    """Weighted means, of which recent rows are more."""

    METHOD = "hddm-w"
    UNIT: ClassVar[Unit] = "range"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,
        seed: int = 0,
        confidence: float | None = None,
        weight: float = 0.05,
        two_sided: bool = True,
        anchored: bool = True,
    ) -> Self:
        """See `HddmA.fit`; `weight` is lambda, that of the latest row, in (0, 1)."""
        if not 0 < weight < 1:
            raise InvalidRequest(f"detector 'hddm-w': weight is between 0 and 1, got {weight}")
        return cls.calibrated(
            x,
            features,
            ert=ert,
            seed=seed,
            threshold=None if confidence is None else math.log(1 / _checked("hddm-w", confidence)),
            anchored=anchored,
            cut=_CUT if confidence is None else confidence,
            weight=weight,
            two_sided=two_sided,
        )

    def begin(self, means: Array, rows: float) -> Memory:
        """See `Streamed.begin`."""
        squares = np.full(means.size, 1 / rows if rows else 1.0)
        anchor = np.full(means.size, 1.0 if rows else 0.0)
        memory = {"seen": np.zeros(means.size), "mean": means, "squares": squares, "anchor": anchor, "is_known": anchor}
        for side, sign in _SIDES:
            key = sign * means + self._bound(squares) if rows else np.full(means.size, math.inf)
            memory |= {f"{side}.key": key, f"{side}.mean": sign * means, f"{side}.squares": squares}
            memory |= {f"{side}.seen": np.zeros(means.size), f"{side}.first": np.zeros(means.size)}
        return memory

    def _bound(self, squares: Array) -> Array:
        """McDiarmid's, of a mean whose squared weights add up to this."""
        found: Array = np.sqrt(squares * math.log(1 / self.options["cut"]) / 2)
        return found

    def _squares(self, begin: Array, rows: Array) -> Array:
        """Sums of squared weights so many rows after they were `begin`."""
        fades = (1 - self.options["weight"]) ** 2
        limit = self.options["weight"] ** 2 / (1 - fades)
        found: Array = fades**rows * (begin - limit) + limit
        return found

    def _means(self, memory: Memory, block: Array, is_there: Array) -> Array:
        """Weighted means `[r, s]`; a stream that has none yet begins with its first value."""
        from scipy.signal import lfilter

        kept_share = 1 - self.options["weight"]

        def along(values: Array, before: Array) -> Array:
            found: Array = lfilter([1 - kept_share], [1, -kept_share], values, axis=0, zi=kept_share * before[None])[0]
            return found

        first = np.take_along_axis(block, is_there.argmax(0)[None], axis=0)[0]
        before = np.where((memory["is_known"] > 0) | ~is_there.any(0), memory["mean"], first)
        if is_there.all():
            return along(block, before)
        found = np.empty(block.shape)
        for stream in range(block.shape[1]):
            rows = np.flatnonzero(is_there[:, stream])
            own = np.concatenate(
                [
                    before[stream : stream + 1],
                    along(block[rows, stream : stream + 1], before[stream : stream + 1])[:, 0],
                ]
            )
            found[:, stream] = own[np.cumsum(is_there[:, stream])]
        return found

    def advance(self, memory: Memory, block: Array) -> tuple[Array, Memory]:
        """See `Streamed.advance`."""
        is_there = ~np.isnan(block)
        seen = accumulated(memory["seen"], is_there.astype(np.float64))
        mean = self._means(memory, block, is_there)
        has = (memory["is_known"] > 0) | (seen > 0)
        squares = self._squares(memory["squares"], np.maximum(seen - 1 + memory["anchor"], 0.0))
        after = {"seen": seen, "mean": mean, "is_known": has.astype(np.float64)}
        # The weighted mean of the rows after a cut is that of all, and what the first of them would have to add to it
        # for its mean to begin there: `first`, which fades.
        residual = np.where(is_there, np.where(is_there, block, 0.0) - mean, 0.0)
        bound = self._bound(squares)
        statistics = np.zeros(block.shape)
        for side, sign in _SIDES[: 2 if self.options["two_sided"] else 1]:
            key = np.where(has, sign * mean + bound, math.inf)
            least = lowest(memory[f"{side}.key"], key)
            before = np.concatenate([memory[f"{side}.key"][None], least[:-1]])
            cut = latest(key < before)
            cut_seen = at(cut, memory[f"{side}.seen"], seen)
            cut_mean = at(cut, memory[f"{side}.mean"], sign * mean)
            cut_squares = at(cut, memory[f"{side}.squares"], squares)
            rows = seen - cut_seen  # after the cut
            begins = latest(is_there & (rows == 1))
            first = at(begins, memory[f"{side}.first"], sign * residual)
            later = rows >= 1
            ago = np.where(later, rows - 1, 0.0)
            recent = sign * mean + (1 - self.options["weight"]) ** ago * first
            rise = np.where(later, np.maximum(recent - cut_mean, 0.0), 0.0)
            statistics = np.maximum(statistics, 2 * rise**2 / (cut_squares + self._squares(np.ones(1), ago)))
            after |= {f"{side}.key": least, f"{side}.seen": cut_seen, f"{side}.mean": cut_mean}
            after |= {f"{side}.squares": cut_squares, f"{side}.first": first}
        return statistics, memory | {name: array[-1] for name, array in after.items()}

    def fallback(self, ert: float) -> float:
        """The paper's bound at one alarm in `ert`."""
        return math.log(ert)


_SIDES: Final = (("up", 1.0), ("down", -1.0))


def _checked(method: str, confidence: float) -> float:
    if not 0 < confidence < 1:
        raise InvalidRequest(f"detector '{method}': confidence is between 0 and 1, got {confidence}")
    return confidence
