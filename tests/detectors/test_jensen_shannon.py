"""Jensen and Shannon's distance: its value against scipy, and fixed bounds."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from scipy.spatial import distance

from headrace.detectors import jensen_shannon
from headrace.detectors.jensen_shannon import JensenShannon
from headrace.testing.drift import DriftConformance


class TestJensenShannon(DriftConformance):
    detector = JensenShannon


class TestFixed(DriftConformance):
    detector = JensenShannon
    parameters = MappingProxyType({"threshold": 0.2})
    level = False


@pytest.mark.parametrize("counts", [([3, 5, 2], [4, 4, 4]), ([10, 0, 1], [0, 10, 1]), ([1, 1], [2, 2])])
def test_value_is_scipys(counts):
    """The distance of counts, empty cells included, is scipy's in base 2."""
    a, b = (np.array(each, dtype=float) for each in counts)
    assert float(jensen_shannon.distance(a, b)) == pytest.approx(distance.jensenshannon(a, b, 2.0), abs=1e-9)
