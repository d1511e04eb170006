"""The classifier two-sample test between whole rows: method `classifier`.

Lopez-Paz and Oquab (2017, ICLR, "Revisiting classifier two-sample tests"): if a classifier can tell the sample from the
reference, they differ. Theirs tests accuracy on a held-out half; here every row is scored out of fold, and the
statistic is the area under the curve of these scores, which needs no threshold and no equal sizes (as Cai, Goggin and
Jiang 2020). Out-of-fold scores depend on each other, which makes a binomial test of them too eager; the classifier is
therefore one whose refit costs a matrix product, ridge regression on random Fourier features (Rahimi and Recht 2007)
beside the columns themselves, and the p-value is by permutation, refit and all: (1 + k) / (1 + B).
"""

from __future__ import annotations

from typing import Self

import numpy as np

from headrace.detectors import permutation
from headrace.detectors.encoding import bandwidth
from headrace.detectors.whole import Found, Whole
from headrace.features import Features
from headrace.payload import Array

FOLDS = 5


class Classifier(Whole):
    """Compares rows by how well a classifier tells reference and sample apart."""

    METHOD = "classifier"
    EFFECT = "auc_above_half"

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        alpha: float = 0.05,
        seed: int = 0,
        min_effect: float = 0.02,
        permutations: int = 199,
        max_rows: int = 1000,
        waves: int = 50,
        ridge: float = 0.1,
        scale: bool = True,
    ) -> Self:
        """See `DriftTest.fit`.

        Args:
            x: `[n, f]` FP64.
            features: Its columns.
            alpha: The level.
            seed: Of the permutations, the folds, the waves and of which rows are taken.
            min_effect: Of the area under the curve above one half.
            permutations: B; the least p-value is 1 / (1 + B).
            max_rows: Of each sample; more are sampled.
            waves: Random features beside the columns.
            ridge: The penalty, as a share of the number of rows.
            scale: Measure numbers in deviations of both samples; False: they are of one unit already.
        """
        return cls.keep(
            x,
            features,
            alpha=alpha,
            seed=seed,
            min_effect=min_effect,
            max_rows=max_rows,
            scale=scale,
            permutations=permutations,
            waves=waves,
            ridge=ridge,
        )

    def compare(self, reference: Array, sample: Array, rng: np.random.Generator) -> Found:
        """See `Whole.compare`."""
        n, m = len(reference), len(sample)
        rows = np.concatenate([reference, sample])
        waves = self.more["waves"]
        # exp(-|d|^2 / w) is the mean of cos(d z) for z normal with variance 2 / w
        frequencies = rng.standard_normal((rows.shape[1], waves)) * np.sqrt(2 / bandwidth(reference))
        phases = rng.uniform(0, 2 * np.pi, waves)
        inputs = np.concatenate([rows, np.sqrt(2) * np.cos(rows @ frequencies + phases)], axis=1)
        labels = permutation.deals(rng, first=n, second=m, count=self.more["permutations"])
        labels = np.concatenate([np.repeat([0.0, 1.0], [n, m])[:, None], labels], axis=1)
        folds = rng.permutation(n + m) % min(FOLDS, n + m)
        area, *null = areas(scores(inputs, labels, folds, self.more["ridge"]), labels, folds).tolist()
        found = np.array(null)
        far = np.count_nonzero(found >= area - 1e-12)
        limit = permutation.threshold(found, self.level.alpha)
        return Found(
            statistic=area,
            p_value=(1 + far) / (1 + found.size),
            effect=max(area - 0.5, 0.0),
            distance_threshold=limit if np.isfinite(limit) else None,
        )


def scores(inputs: Array, labels: Array, folds: Array, ridge: float) -> Array:
    """Of each row, by ridge regression on the other folds: `[N, b]`.

    Args:
        inputs: `[N, d]`.
        labels: `[N, b]`.
        folds: `[N]`, of each row, from 0.
        ridge: The penalty over the number of rows.
    """
    found = np.empty_like(labels)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        train = inputs[~out]
        center = train.mean(0)
        train = train - center
        matrix = train.T @ train
        matrix[np.diag_indices_from(matrix)] += ridge * len(train)
        weights = np.linalg.solve(matrix, train.T @ (labels[~out] - labels[~out].mean(0)))
        found[out] = (inputs[out] - center) @ weights
    return found


def areas(scored: Array, labels: Array, folds: Array) -> Array:
    """The area under the curve within each fold, over all pairs of a reference's and a sample's row: `[b]`.

    Scores of different folds come from different fits and are not compared. Without pairs it is one half.
    """
    won = np.zeros(labels.shape[1])
    pairs = np.zeros(labels.shape[1])
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        size = np.count_nonzero(out)
        order = np.argsort(scored[out], axis=0, kind="stable")
        sorted_labels = np.take_along_axis(labels[out], order, axis=0)
        second = sorted_labels.sum(0)
        ranks = np.arange(1, size + 1) @ sorted_labels
        won += ranks - second * (second + 1) / 2
        pairs += second * (size - second)
    return np.divide(won, pairs, out=np.full_like(won, 0.5), where=pairs > 0)
