"""Anchors of images: the patches that must stay for the answer to hold. The search itself is in `anchors`.

A condition is one superpixel (`superpixels`). The others are, each by itself and with probability `change`, replaced by
their mean colour (`mean`), by the image out of focus (`blur`), or by the same pixels of a row of the reference drawn at
random (`reference`: Ribeiro, Singh, Guestrin 2018, section 4, "image"). Coverage is the share of all choices of
superpixels that have the anchor's, measured on `coverage_samples` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import anchors, superpixels
from headrace.explainers.anchors import Anchor
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

Segmentation = Literal["auto", "grid", "slic"]
Background = Literal["mean", "blur", "reference"]

SMALL: Final = 32
"""Pixels: a side below which `auto` cuts by a grid."""


class AnchorImage(Explainer):
    """Patches of one image under which the model's answer (nearly) always holds."""

    METHOD: ClassVar[str] = "anchor-image"
    DATA: ClassVar[tuple[Data, ...]] = ("image",)

    def __init__(self, reference: Reference, *, seed: int) -> None:
        self._reference, self._seed = reference, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its features say the shape of an image: `(h, w)`, `(h, w, c)` or `(c, h, w)`, c at most 4.
            seed: Of the samples.

        Raises:
            InvalidRequest: the reference's rows are no images.
        """
        shape = reference.features.shape
        if len(shape) not in {2, 3} or (len(shape) == 3 and min(shape[0], shape[2]) > 4):
            raise InvalidRequest(f"anchors of images need rows of shape (h, w), (h, w, c) or (c, h, w), not {shape}")
        return cls(reference, seed=seed)

    def explain(
        self,
        ask: Ask,
        x: Array,
        *,
        threshold: float = 0.95,
        delta: float = 0.05,
        tau: float = 0.1,
        beam_size: int = 4,
        batch: int = 50,
        max_anchor_size: int = 8,
        precision_samples: int = 1000,
        coverage_samples: int = 10_000,
        segmentation: Segmentation = "auto",
        segments: int = 25,
        compactness: float = 0.5,
        background: Background = "mean",
        change: float = 0.5,
        tolerance: float | None = None,
        output: int = 0,
    ) -> Explanation:
        """Explain one image.

        Args:
            ask: The model.
            x: `[f]`: the image in C order.
            threshold: Precision to reach.
            delta: Chance that a bound is wrong.
            tau: How far below the threshold the lower bound of the precision may be.
            beam_size: Candidates that are gone on with.
            batch: Samples of one candidate in one round.
            max_anchor_size: Superpixels, at most.
            precision_samples: Fresh samples that the precision is measured from.
            coverage_samples: Choices of superpixels that the coverage is measured on.
            segmentation: `grid`, `slic`, or `auto`: a grid for small images.
            segments: About how many superpixels.
            compactness: Of `slic`.
            background: What a superpixel that need not stay is replaced by: `mean`, `blur` or `reference`.
            change: With which probability.
            tolerance: Of a model of numbers: how far an answer may be to be the same.
            output: Of several numbers, which.

        Raises:
            InvalidRequest: a parameter is out of its range, or x is of another size.
        """
        options = anchors.Options(
            threshold=threshold,
            delta=delta,
            tau=tau,
            beam_size=beam_size,
            batch=batch,
            max_anchor_size=max_anchor_size,
            precision_samples=precision_samples,
        )
        shape = self._reference.features.shape
        if x.shape != (int(np.prod(shape)),):
            raise InvalidRequest(f"the image has shape {list(x.shape)}, and the reference rows of {list(shape)}")
        if not 0 < change < 1:
            raise InvalidRequest(f"'change' of anchors must be between 0 and 1, and is {change}")
        if coverage_samples < 1:
            raise InvalidRequest(f"'coverage_samples' of anchors must be at least 1, not {coverage_samples}")
        if segmentation not in {"auto", "grid", "slic"}:
            raise InvalidRequest(f"'segmentation' of images is 'auto', 'grid' or 'slic', not '{segmentation}'")
        x = np.asarray(x, np.float64)
        image = channels_last(x, shape)
        height, width, _ = image.shape
        if segmentation == "grid" or (segmentation == "auto" and min(height, width) < SMALL):
            found_segments = superpixels.grid(height, width, segments)
        else:
            found_segments = superpixels.slic(image, segments, compactness=compactness)
        rng = np.random.default_rng(self._seed)
        law = ImageLaw(
            x,
            columns=_columns(found_segments, shape),
            behind=self._behind(image, found_segments, background),
            change=change,
            count=coverage_samples,
            rng=rng,
        )
        law_name = f"{background} {change:g}"
        extra: dict[str, Any] = {"anchor": np.zeros(shape), "segments": found_segments}
        raw: dict[str, Any] = {"feature": [], "mean": [], "precision": [], "coverage": [], "instance": x.reshape(shape)}
        try:
            what = anchors.said(ask, self._reference, x[None], tolerance=tolerance, output=output)
        except BudgetSpent:
            return anchors.nothing(self.METHOD, options=options, law=law_name, extra=extra, raw=raw)
        found = anchors.Search(ask, law, what.agrees, options=options, rng=rng).run()

        stays = np.isin(_columns(found_segments, shape), found.anchor)
        raw |= {
            "feature": list(found.anchor),
            "mean": [each[0] for each in found.prefixes],
            "precision": [each[0] for each in found.prefixes],
            "coverage": [each[1] for each in found.prefixes],
        }
        return anchors.explanation(
            self.METHOD,
            found,
            what,
            names=[f"superpixel {at}" for at in found.anchor],
            options=options,
            law=law_name,
            extra=extra | {"anchor": np.where(stays, x, 0.0).reshape(shape)},
            raw=raw,
            asked=ask.rows,
            of=f"variants of the image, in {len(law.groups)} superpixels,",
            covered="of all variants are such",
        )

    def _behind(self, image: Array, segments: Array, background: Background) -> Array:
        """`[m, f]`: what shows where a superpixel is taken away."""
        shape = self._reference.features.shape
        if background == "reference":
            if not len(self._reference.x):
                raise InvalidRequest("the background 'reference' needs rows of reference")
            return self._reference.x
        if background == "mean":
            flat, count = segments.ravel(), int(segments.max()) + 1
            sizes = np.bincount(flat, minlength=count)
            means = [
                np.bincount(flat, weights=each.ravel(), minlength=count) / sizes for each in np.moveaxis(image, 2, 0)
            ]
            return _flat(np.stack(means, axis=-1)[segments], shape)
        if background != "blur":
            raise InvalidRequest(f"'background' of images is 'mean', 'blur' or 'reference', not '{background}'")
        from scipy.ndimage import gaussian_filter

        width = max(1.0, min(image.shape[:2]) / 4)
        return _flat(gaussian_filter(image, sigma=(width, width, 0)), shape)


class ImageLaw:
    """How variants of an image are drawn; a Law of `anchors`.

    Args:
        x: `[f]`: the image.
        columns: `[f]` INT64: the superpixel of each column, from 0 without a gap.
        behind: `[m, f]`: of several, each variant gets one at random.
        change: With which probability a superpixel is replaced.
        count: Choices of superpixels that coverage is measured on.
        rng: What these are drawn with.
    """

    def __init__(
        self, x: Array, *, columns: Array, behind: Array, change: float, count: int, rng: np.random.Generator
    ) -> None:
        self._x, self._columns, self._behind, self._change = x, columns, behind, change
        self._count = int(columns.max()) + 1
        self._present = rng.random((count, self._count)) >= change

    @property
    def groups(self) -> Array:
        """Each superpixel is one of its own."""
        return np.arange(self._count)

    @property
    def present(self) -> Array:
        """Of the choices that coverage is measured on."""
        return self._present

    @property
    def largest(self) -> int:
        """Rows of 64 MiB."""
        return max(1, 2**23 // len(self._x))

    def draw(self, anchors: Sequence[Anchor], count: int, rng: np.random.Generator) -> Array:
        """`count` variants for each anchor, one anchor after the other."""
        kept = rng.random((len(anchors) * count, self._count)) >= self._change
        for at, anchor in enumerate(anchors):
            kept[at * count : (at + 1) * count, list(anchor)] = True
        behind = self._behind
        if len(behind) > 1:
            behind = behind[rng.integers(len(behind), size=len(kept))]
        drawn: Array = np.where(kept[:, self._columns], self._x, behind)
        return drawn


def channels_last(x: Array, shape: tuple[int, ...]) -> Array:
    """A row as an image `[h, w, c]`."""
    image = x.reshape(shape)
    if len(shape) == 2:
        return image[..., None]
    return np.moveaxis(image, 0, 2) if _channels_first(shape) else image


def _flat(image: Array, shape: tuple[int, ...]) -> Array:
    """`[h, w, c]` to `[1, f]`, as the model takes it."""
    if len(shape) == 3 and _channels_first(shape):
        image = np.moveaxis(image, 2, 0)
    return image.reshape(1, -1)


def _columns(segments: Array, shape: tuple[int, ...]) -> Array:
    """The superpixel of each column of a row."""
    if len(shape) == 2:
        return segments.ravel()
    axis, channels = (0, shape[0]) if _channels_first(shape) else (2, shape[2])
    return np.repeat(np.expand_dims(segments, axis), channels, axis=axis).ravel()


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[2] > 4
