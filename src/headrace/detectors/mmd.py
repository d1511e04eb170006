"""Maximum mean discrepancy between whole rows: method `mmd`.

Gretton, Borgwardt, Rasch, Schoelkopf and Smola (2012, J. Mach. Learn. Res. 13, "A kernel two-sample test"): the
unbiased estimate of MMD^2 (lemma 6, equation 3), which may be below 0, with the kernel exp(-|a - b|^2 / median), the
median of the squared distances between rows of the reference (section 8's heuristic, there on both samples). The
p-value is by permutation, (1 + k) / (1 + B).
"""

from __future__ import annotations

from typing import Self

import numpy as np

from headrace.detectors import permutation
from headrace.detectors.encoding import bandwidth, gaussian
from headrace.detectors.whole import Found, Whole
from headrace.features import Features
from headrace.payload import Array


class Mmd(Whole):
    """Compares rows by a kernel, so that a drift of how columns go together is seen too."""

    METHOD = "mmd"
    EFFECT = "mmd"

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
        scale: bool = True,
    ) -> Self:
        """See `DriftTest.fit`.

        Args:
            x: `[n, f]` FP64.
            features: Its columns.
            alpha: The level.
            seed: Of the permutations and of which rows are taken.
            min_effect: Of the MMD (not squared; 0 where its square is below 0), at most sqrt 2.
            permutations: B; the least p-value is 1 / (1 + B).
            max_rows: Of each sample; more are sampled. Time and memory grow with its square.
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
        )

    def compare(self, reference: Array, sample: Array, rng: np.random.Generator) -> Found:
        """See `Whole.compare`."""
        n, m = len(reference), len(sample)
        pooled = np.concatenate([reference, sample])
        kernel = gaussian(pooled, pooled, bandwidth(reference))
        labels = permutation.deals(rng, first=n, second=m, count=self.more["permutations"])
        labels = np.concatenate([np.repeat([0.0, 1.0], [n, m])[:, None], labels], axis=1)
        square, *null = unbiased(kernel, labels).tolist()
        found = np.array(null)
        far = np.count_nonzero(found >= square - 1e-12)
        limit = permutation.threshold(found, self.level.alpha)
        return Found(
            statistic=square,
            p_value=(1 + far) / (1 + found.size),
            effect=float(np.sqrt(max(square, 0.0))),
            distance_threshold=limit if np.isfinite(limit) else None,
        )


def unbiased(kernel: Array, labels: Array) -> Array:
    """The unbiased MMD^2 of ways to deal N rows to two samples: `[b]`.

    A sample of one row has no pair within; its term, the same for each way, is left out.

    Args:
        kernel: `[N, N]`, symmetric.
        labels: `[N, b]`, 1 where a row is the second's.
    """
    second = labels.sum(0)
    first = len(kernel) - second
    own = np.diag(kernel)
    of_second = np.einsum("ib,ib->b", labels, kernel @ labels)
    reached = kernel.sum(0) @ labels  # by the second's rows, of all pairs
    across = reached - of_second
    of_first = kernel.sum() - 2 * reached + of_second
    own_second = own @ labels
    within_first = (of_first - (own.sum() - own_second)) / np.maximum(first * (first - 1), 1)
    within_second = (of_second - own_second) / np.maximum(second * (second - 1), 1)
    found: Array = within_first + within_second - 2 * across / (first * second)
    return found
