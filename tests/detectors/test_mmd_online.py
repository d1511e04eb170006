"""Online MMD: windows computed one by one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from headrace.detectors.mmd_online import MmdOnline
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestMmdOnline(DriftOnlineConformance):
    detector = MmdOnline
    parameters: ClassVar = {"window": 10}
    ert = 60.0


def test_windows_are_the_unbiased_estimate():
    """The statistic after each row is that of the offline test between the same reference and the last rows."""
    rng = np.random.default_rng(1)
    detector = MmdOnline.fit(rng.normal(size=(100, 3)), numeric(3), window=5, scale=False, ert=1e6)
    reference, rows = detector.arrays["reference"], rng.normal(size=(12, 3))
    for at in range(12):
        found = detector.step(rows[at : at + 1])
        last = np.concatenate([detector.arrays["begin"], rows[: at + 1]])[-5:]

        def kernel(a, b):
            return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / detector.width)

        n, m = len(reference), 5
        square = (kernel(reference, reference).sum() - n) / (n * (n - 1)) + (kernel(last, last).sum() - m) / (
            m * (m - 1)
        )
        assert found.statistic == pytest.approx(square - 2 * kernel(reference, last).mean(), abs=1e-12)
