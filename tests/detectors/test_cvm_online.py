"""Online CVM: windows computed one by one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from headrace.detectors.cvm_online import CvmOnline
from headrace.features import numeric
from headrace.testing.drift_online import DriftOnlineConformance


class TestCvmOnline(DriftOnlineConformance):
    detector = CvmOnline
    parameters: ClassVar = {"window": 10}
    ert = 60.0


def test_windows_are_the_integral():
    """Of one column, the statistic is W times the mean over the reference of the squared gap between the distribution
    functions, for values that repeat the mean of both of its sides.
    """
    rng = np.random.default_rng(1)
    for x in (rng.normal(size=(200, 1)), rng.poisson(2.0, size=(200, 1)).astype(float)):
        detector = CvmOnline.fit(x, numeric(1), window=6, ert=1e6)
        reference, rows = detector.arrays["reference"][:, 0], x[rng.integers(200, size=9), 0] + 1
        for at in range(9):
            found = detector.step(rows[at : at + 1, None])
            last = np.concatenate([detector.arrays["begin"][:, 0], rows[: at + 1]])[-6:]
            gaps = [
                (compare(reference[None], reference[:, None]).mean(1) - compare(last[None], reference[:, None]).mean(1))
                ** 2
                for compare in (np.less_equal, np.greater_equal)
            ]
            expected = 6 * np.mean(gaps) / detector.arrays["scales"][0]
            assert found.statistic == pytest.approx(expected, abs=1e-9)
