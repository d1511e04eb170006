"""Feature squeezing: an answer that hangs on the finest detail of a row is suspicious. For images and tables.

Xu, Evans and Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", NDSS 2018: the score is
the L1 distance between the model's answers to the row and to a squeezed one, the largest over squeezers (section 5,
joint detection). Squeezers of an image are two of theirs: fewer bits of colour, and a median filter. Numbers of a
table are squeezed to fewer bits of their own range, and to the medians of their quantile bins in the reference, for
columns of long tails; categories stay.

Deviation: before the largest is taken, each distance is told in its 95 % quantile over the reference. A squeezer that
moves the answers to usual rows much, as a median filter of a small image does, would drown the others.

An answer that is no law over classes is told in standard deviations of the reference's answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.answers import ask, moved, units
from headrace.detectors.base import Adversarial, Predict, Scores, State
from headrace.detectors.filled import Filling, Parts, kept, matrix, reference, sample
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_CELLS: Final = 8_000_000
"""Numbers that the median is taken of together: bounds memory."""
_ASKED: Final = 2000
"""Rows of the reference that the model is asked for, and as many for every squeezer."""
_LEAST: Final = 1e-3
"""A distance that is usual in any case."""


@dataclasses.dataclass(frozen=True)
class FeatureSqueezing(Adversarial):
    """Fitted squeezers."""

    METHOD: ClassVar[str] = "feature-squeezing"

    features: Features
    filling: Filling
    unit: Array
    """`[k]` FP64: what answers are told in."""
    usual: Array
    """`[squeezers]` FP64: what their distances are told in."""
    low: Array
    """`[f]` FP64: the range of a number; of an image, of all its pixels."""
    high: Array
    bits: tuple[int, ...]
    median: tuple[int, ...]
    edges: tuple[Array, ...]
    """Of every number of bins, `[bins - 1, f]` FP64: where one ends; nothing reads those of categories."""
    middles: tuple[Array, ...]
    """`[bins, f]` FP64: what the values of a bin become."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        predict: Predict,
        *,
        seed: int = 0,
        bits: Sequence[int] | None = None,
        median: Sequence[int] | None = None,
        bins: Sequence[int] | None = None,
    ) -> Self:
        """Learn ranges and quantiles.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns; a shape of two axes or three is an image.
            predict: The model.
            seed: Of the choice of rows that the model is asked for.
            bits: Depths that numbers are squeezed to; None: of an image 1, 2 and 3, of a table 3.
            median: Of an image: sides of the median filter; None: 2.
            bins: Numbers of quantile bins; None: of an image none, of a table 8 and 16.

        Raises:
            InvalidRequest: fewer than 2 rows, a parameter out of range, or one of images with a table.
        """
        image = len(features.shape) >= 2 and not features.categorical
        if not image and median:
            raise InvalidRequest("a median filter is of images, whose features have a shape [h, w] or [h, w, c]")
        bits = tuple(bits if bits is not None else (1, 2, 3) if image else (3,))
        median = tuple(median if median is not None else (2,) if image else ())
        bins = tuple(bins if bins is not None else () if image else (8, 16))
        if any(not 1 <= each <= 16 for each in bits) or any(each < 2 for each in (*median, *bins)):
            raise InvalidRequest(f"bits are from 1 to 16, median and bins 2 or more; got {bits}, {median} and {bins}")
        if not bits and not median and not bins:
            raise InvalidRequest("feature squeezing needs one squeezer or more: bits, median or bins")
        x = reference(x, features, method=cls.METHOD)
        filling = Filling.fit(x, features)
        x = filling(x)
        low, high = x.min(0), x.max(0)
        if image:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        edges, middles = [], []
        for many in bins:
            edges.append(np.quantile(x, np.arange(1, many) / many, axis=0))
            middles.append(np.quantile(x, (np.arange(many) + 0.5) / many, axis=0))
        some = sample(x, _ASKED, seed=seed)
        plain = cls(
            features=features,
            filling=filling,
            unit=units(ask(predict, some)),
            usual=np.ones(len(bits) + len(median) + len(bins)),
            low=low,
            high=high,
            bits=bits,
            median=median,
            edges=tuple(edges),
            middles=tuple(middles),
        )
        usual = np.quantile(plain._distances(some, predict), 0.95, axis=1)
        return dataclasses.replace(plain, usual=np.maximum(usual, _LEAST))

    def score(self, x: Array, predict: Predict) -> Scores:
        """How far the answer moves at most; the model is asked once, for the rows and all that they become."""
        x = self.filling(matrix(x, len(self.features), method=self.METHOD))
        if not x.shape[0]:
            return Scores(instance=np.empty(0))
        return Scores(instance=(self._distances(x, predict) / self.usual[:, None]).max(0))

    def _distances(self, x: Array, predict: Predict) -> Array:
        """How far every squeezer moves the answers: `[squeezers, n]`."""
        squeezed = self.squeeze(x)
        answers = ask(predict, np.concatenate([x, *squeezed])).reshape(len(squeezed) + 1, x.shape[0], -1)
        if answers.shape[2] != self.unit.size:
            raise InvalidRequest(
                f"detector '{self.METHOD}' was fitted on answers of {self.unit.size} numbers, the model gave "
                f"{answers.shape[2]}: fit it again"
            )
        return np.stack([moved(answers[0], each, self.unit) for each in answers[1:]])

    def squeeze(self, x: Array) -> list[Array]:
        """Rows `[n, f]` as every squeezer leaves them."""
        found = [self._shallow(x, each) for each in self.bits]
        found += [self._smooth(x, each) for each in self.median]
        found += [self._binned(x, *each) for each in zip(self.edges, self.middles, strict=True)]
        return found

    def _shallow(self, x: Array, bits: int) -> Array:
        reach = self.high - self.low
        reach[reach == 0] = 1.0
        steps = 2**bits - 1
        shares = (np.clip(x, self.low, self.high) - self.low) / reach
        rounded: Array = np.round(shares * steps) / steps * reach + self.low
        if self.features.categorical:
            at = list(self.features.categorical)
            rounded[:, at] = x[:, at]
        return rounded

    def _smooth(self, x: Array, side: int) -> Array:
        shape = self.features.shape
        # Channels stand last, or where there are few of them, first.
        first = len(shape) == 3 and shape[0] in {1, 3, 4} and shape[2] not in {1, 3, 4}
        axes = (2, 3) if first else (1, 2)
        images = np.clip(x, self.low, self.high).reshape(-1, *shape)
        pad = [(0, 0)] * images.ndim
        for axis in axes:
            pad[axis] = (side // 2, (side - 1) // 2)
        views = np.lib.stride_tricks.sliding_window_view(np.pad(images, pad, mode="symmetric"), (side, side), axis=axes)
        smooth = np.empty_like(images)
        size = max(_CELLS // (x.shape[1] * side * side), 1)
        for start in range(0, x.shape[0], size):
            smooth[start : start + size] = np.median(views[start : start + size], axis=(-2, -1))
        return smooth.reshape(x.shape)

    def _binned(self, x: Array, edges: Array, middles: Array) -> Array:
        binned = x.copy()
        for at in self.features.numeric:
            binned[:, at] = middles[edges[:, at].searchsorted(x[:, at], side="right"), at]
        return binned

    def state(self) -> State:
        """Ranges and quantiles."""
        arrays = {
            "fill": self.filling.values,
            "unit": self.unit,
            "usual": self.usual,
            "low": self.low,
            "high": self.high,
        }
        for at, (edges, middles) in enumerate(zip(self.edges, self.middles, strict=True)):
            arrays |= {f"edges_{at}": edges, f"middles_{at}": middles}
        return kept(
            self.METHOD,
            len(self.features),
            arrays,
            bits=list(self.bits),
            median=list(self.median),
            bins=[len(each) for each in self.middles],
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        many = range(len(parts.value("bins")))
        return cls(
            features=features,
            filling=Filling(parts.array("fill")),
            unit=parts.array("unit"),
            usual=parts.array("usual"),
            low=parts.array("low"),
            high=parts.array("high"),
            bits=tuple(parts.value("bits")),
            median=tuple(parts.value("median")),
            edges=tuple(parts.array(f"edges_{at}") for at in many),
            middles=tuple(parts.array(f"middles_{at}") for at in many),
        )
