"""LIME: a small linear model that says what the model says, near one row.

Ribeiro, Singh & Guestrin, "Why Should I Trust You? Explaining the Predictions of Any Classifier" (KDD 2016),
algorithm 1: interpretable parts of the row (a column in the same quarter of its range, a word, a patch), samples with
some of the parts changed, the kernel exp(-D^2 / width^2), and a weighted ridge. The fit is a surrogate: its R2 near the
row, which says how far it may be believed, is part of the answer.

Deviations from the paper's text: ridge on all parts, then again on the chosen ones (as its authors' code does), not
K-LASSO. Values of columns are drawn from the reference, not from a normal law.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows, shapley, superpixels
from headrace.explainers.anchor_image import channels_last
from headrace.explainers.base import Ask, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_WORD: Final = re.compile(r"\w+")
_QUARTERS: Final = (0.25, 0.5, 0.75)
_TEXT_WIDTH: Final = 0.25
_WIDTH: Final = 0.75
_FEWEST: Final = 4
"""Samples, below which nothing is fitted."""


@dataclasses.dataclass(frozen=True)
class _Near:
    """A neighbourhood of the row."""

    names: list[str]
    """Of the parts."""
    parts: Array
    """`[n, d]`: what the linear model sees of each sample; the first sample is the row itself."""
    distances: Array
    """`[n]`, of each sample from the row."""
    width: float
    """Of the kernel."""
    render: Callable[[int, int], Array]
    """The samples from one to another, as the model takes them."""
    extra: dict[str, Any]


class Lime(Explainer):
    """Weights of the parts of a row, of one linear model per output, and how well each fits."""

    METHOD: ClassVar[str] = "lime"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "text", "image")

    def __init__(self, reference: Reference, table: Array | None, seed: int) -> None:
        self._reference, self._table, self._seed = reference, table, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: Its rows are what samples are drawn from; of text and images they are not needed.
            seed: Of the samples.

        Raises:
            InvalidRequest: it has columns and no rows.
        """
        features = reference.features
        table = rows.table(reference) if len(features) and len(features.shape) < 2 else None
        return cls(reference, table, seed)

    def explain(
        self,
        ask: Ask,
        x: Array,
        *,
        samples: int = 2000,
        parts: int = 10,
        width: float = 0.0,
        ridge: float = 1.0,
        discretize: bool = True,
        segments: int = 50,
    ) -> Explanation:
        """Explain one row.

        Args:
            ask: The model.
            x: The row `[f]`; of text, a `str` in an array of no dimensions.
            samples: Rows to ask the model for.
            parts: How many weights there are at most, of each output those that matter most.
            width: Of the kernel; 0: 0.75 times the root of the number of columns for tables, 0.25 for texts and images,
                whose distance is the cosine's.
            ridge: The penalty.
            discretize: Of tables: parts are quarters of the reference; else numbers are seen as they are.
            segments: Of images: patches, about.

        Raises:
            InvalidRequest: a parameter is out of its range, x is no such row, or a text has no word.
        """
        rows.at_least("samples", samples, _FEWEST)
        rows.at_least("parts", parts, 1)
        rows.at_least("width", width, 0)
        rows.at_least("ridge", ridge, 0)
        rng = np.random.default_rng(self._seed)
        near = self._near(x, samples, rng, discretize=discretize, segments=segments)
        said = _said(ask, near)
        output_space = shapley.space(self._reference)
        if len(said) < min(_FEWEST, samples):
            empty = {"weights": [], "feature_names": near.names, "score": [], "output_space": output_space}
            return rows.nothing(self.METHOD, empty)
        done = len(said)
        kernel = np.exp(-((near.distances[:done] / (width or near.width)) ** 2))
        weights, intercept, fit = surrogate(near.parts[:done], said, kernel, ridge=ridge, parts=parts)
        names = rows.output_names(self._reference.classes, said.shape[1])
        chosen = int(said[0].argmax()) if self._reference.classes else 0
        local = intercept + near.parts[0] @ weights.T
        order = np.argsort(-np.abs(weights[chosen]), kind="stable")
        told = [f"{near.names[at]} ({weights[chosen, at]:+.3g})" for at in order[:4] if weights[chosen, at]]
        warnings = [f"{rows.SPENT}: {done} of {samples} samples were asked"] if done < samples else []
        if fit[chosen] < 0.5:
            warnings.append(f"the linear model fits badly here (R2 {fit[chosen]:.2f}): do not rely on its weights")
        return Explanation(
            method=self.METHOD,
            data={
                "weights": list(weights),
                "intercept": intercept,
                "score": fit,
                "local_prediction": local,
                "prediction": said[0],
                "feature_names": near.names,
                "output_names": list(names),
                "output_space": output_space,
                "target": chosen,
                "samples": done,
                "kernel_width": width or near.width,
                **near.extra,
            },
            text=f"Near this row, '{names[chosen]}' ({said[0, chosen]:.4g}) goes with "
            f"{', '.join(told) or 'nothing'}; the linear model explains {max(fit[chosen], 0):.0%} of it there.",
            complete=done == samples,
            warnings=tuple(warnings),
        )

    def _near(self, x: Array, samples: int, rng: np.random.Generator, *, discretize: bool, segments: int) -> _Near:
        features = self._reference.features
        if not len(features):
            return _texts(x, samples, rng)
        row = rows.row(features, x)
        if self._table is None:
            return _images(row, features.shape, samples, rng, segments=segments)
        return self._tables(row, self._table, samples, rng, discretize=discretize)

    def _tables(self, x: Array, table: Array, samples: int, rng: np.random.Generator, *, discretize: bool) -> _Near:
        """Each value of a sample is drawn from its column of the reference (numbers as they are: from around x)."""
        features = self._reference.features
        drawn = np.take_along_axis(table, rng.integers(0, len(table), (samples, len(x))), axis=0)
        numeric = np.array([not each.is_category for each in features.columns])
        names = [""] * len(x)
        same = np.empty_like(drawn, np.bool_)
        for at, column in enumerate(features.columns):
            if column.is_category or np.isnan(x[at]):
                same[:, at] = np.isnan(drawn[:, at]) if np.isnan(x[at]) else drawn[:, at] == x[at]
                names[at] = rows.shown(features, at, x[at])
                continue
            present = table[:, at][~np.isnan(table[:, at])]
            low, high = _bounds(present, x[at])
            same[:, at] = (drawn[:, at] > low) & (drawn[:, at] <= high)
            names[at] = _condition(column.name, low, high)
        deviation = rows.spread(table)
        if not discretize:
            around = x + rng.normal(size=drawn.shape) * deviation
            drawn = np.where(numeric & ~np.isnan(x), around, drawn)
        drawn[0] = x
        same[0] = True
        parts = same.astype(np.float64)
        away = 1 - parts
        if not discretize:
            as_number = numeric & ~np.isnan(x)
            away = np.where(as_number, np.where(np.isnan(drawn), 0.0, drawn - np.nan_to_num(x)) / deviation, away)
            parts = np.where(as_number, away, parts)
            names = [each.name if as_number[at] else names[at] for at, each in enumerate(features.columns)]
        return _Near(
            names,
            parts,
            np.sqrt((away**2).sum(axis=1)),
            _WIDTH * float(np.sqrt(len(x))),
            lambda start, end: drawn[start:end],
            {"unit": "in the quarter" if discretize else "standard deviation"},
        )


def _said(ask: Ask, near: _Near) -> Array:
    """What the model says of the leading samples, as far as the budget goes."""
    parts: list[Array] = []
    at_once = 1024
    for start in range(0, len(near.parts), at_once):
        end = min(start + at_once, len(near.parts))
        said = rows.answers(ask, near.render(start, end))
        if len(said):
            parts.append(said)
        if len(said) < end - start:
            break
    return np.concatenate(parts) if parts else np.empty((0, 0))


def _bounds(present: Array, value: float) -> tuple[float, float]:
    """The quarter of a column that a value lies in: above the first, at most the second."""
    if not len(present):
        return -np.inf, np.inf
    edges = np.unique(np.quantile(present, _QUARTERS))
    at = int(np.searchsorted(edges, value))
    return (float(edges[at - 1]) if at else -np.inf), (float(edges[at]) if at < len(edges) else np.inf)


def _condition(name: str, low: float, high: float) -> str:
    if np.isinf(low):
        return name if np.isinf(high) else f"{name} <= {high:.6g}"
    return f"{name} > {low:.6g}" if np.isinf(high) else f"{low:.6g} < {name} <= {high:.6g}"


def _kept(count: int, samples: int, rng: np.random.Generator) -> Array:
    """Which parts stay: of each sample a number of them, from 1 to all, are away; of the first none is."""
    away = rng.integers(1, count + 1, samples)
    away[0] = 0
    ranks: Array = rng.permuted(np.tile(np.arange(count), (samples, 1)), axis=1)
    kept: Array = ranks >= away[:, None]
    return kept


def _cosine(kept: Array) -> Array:
    """The distance of each sample from the whole: one less the cosine between them."""
    distances: Array = 1 - np.sqrt(kept.mean(axis=1))
    return distances


def _texts(x: Array, samples: int, rng: np.random.Generator) -> _Near:
    """A part is a word, wherever it stands; away, it is cut out."""
    text = str(np.asarray(x).item())
    found = list(_WORD.finditer(text))
    if not found:
        raise InvalidRequest("a text to explain has no word")
    words = list(dict.fromkeys(each.group() for each in found))
    at = {word: position for position, word in enumerate(words)}
    kept = _kept(len(words), samples, rng)
    between = [
        text[a:b] for a, b in zip([0, *(m.end() for m in found)], [*(m.start() for m in found), None], strict=True)
    ]

    def cut(stay: Array) -> str:
        pieces = [between[0]]
        for each, gap in zip(found, between[1:], strict=True):
            pieces += [each.group() if stay[at[each.group()]] else "", gap]
        return " ".join("".join(pieces).split()) if not stay.all() else text

    def render(start: int, end: int) -> Array:
        made = np.empty(end - start, object)
        made[:] = [cut(stay) for stay in kept[start:end]]
        return made

    return _Near(words, kept.astype(np.float64), _cosine(kept), _TEXT_WIDTH, render, {"unit": "word", "text": text})


def _images(x: Array, shape: tuple[int, ...], samples: int, rng: np.random.Generator, *, segments: int) -> _Near:
    """A part is a patch; away, it is of its mean colour."""
    rows.at_least("segments", segments, 2)
    image = channels_last(x, shape)
    patches = (
        superpixels.grid(image.shape[0], image.shape[1], segments)
        if min(image.shape[:2]) < 32
        else superpixels.slic(image, segments)
    )
    count = int(patches.max()) + 1
    sizes = np.bincount(patches.ravel(), minlength=count)
    flat = patches.ravel()
    means = np.stack([np.bincount(flat, image[..., c].ravel(), count) / sizes for c in range(image.shape[2])], axis=1)
    is_first = len(shape) == 3 and image.shape[:2] != shape[:2]
    behind = means[patches]
    behind = (np.moveaxis(behind, 2, 0) if is_first else behind).reshape(-1)
    spread = np.broadcast_to(patches[..., None], image.shape)
    columns = (np.moveaxis(spread, 2, 0) if is_first else spread).reshape(-1)
    kept = _kept(count, samples, rng)
    return _Near(
        [f"patch {at}" for at in range(count)],
        kept.astype(np.float64),
        _cosine(kept),
        _TEXT_WIDTH,
        lambda start, end: np.where(kept[start:end][:, columns], x, behind),
        {"unit": "patch", "segments": patches, "image": x.reshape(shape)},
    )


def surrogate(seen: Array, said: Array, kernel: Array, *, ridge: float, parts: int) -> tuple[Array, Array, Array]:
    """Weighted ridge with an intercept that is not penalised, of each output: fitted on all parts, then on those that
    matter most.

    Args:
        seen: `[n, d]`.
        said: `[n, k]`.
        kernel: `[n]`, weights of samples.
        ridge: The penalty.
        parts: How many weights are kept.

    Returns:
        Weights `[k, d]`, intercepts `[k]`, and the weighted R2 `[k]`: at most 1; 1 where the model is constant here.
    """
    weights = np.zeros((said.shape[1], seen.shape[1]))
    mass = kernel.sum()
    if not mass > 0:  # every sample is out of the kernel's reach
        return weights, said.mean(axis=0), np.zeros(said.shape[1])
    means, level = kernel @ seen / mass, kernel @ said / mass
    centred, answers = seen - means, said - level
    scale = np.sqrt(kernel)[:, None]
    every = _ridge(scale * centred, scale * answers, ridge)
    kept = min(parts, seen.shape[1])
    for output, all_weights in enumerate(every):
        chosen = np.sort(np.argsort(-np.abs(all_weights), kind="stable")[:kept])
        refitted = _ridge(scale * centred[:, chosen], scale * answers[:, output : output + 1], ridge)
        weights[output, chosen] = refitted[0]
    residual = kernel @ (answers - centred @ weights.T) ** 2
    total = kernel @ answers**2
    constant = total <= 1e-12 * mass * (1 + level**2)
    fit = np.where(constant, 1.0, 1 - residual / np.where(constant, 1.0, total))
    return weights, level - weights @ means, fit


def _ridge(seen: Array, said: Array, penalty: float) -> Array:
    """`[k, d]`; of least norm where there is no penalty and parts cannot be told apart."""
    count = seen.shape[1]
    padded = np.concatenate([seen, np.sqrt(penalty) * np.eye(count)])
    found: Array = np.linalg.lstsq(padded, np.concatenate([said, np.zeros((count, said.shape[1]))]), rcond=None)[0].T
    return found
