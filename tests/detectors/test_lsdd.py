"""Least-squares density difference: published numbers, and its decisions."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
from sklearn.datasets import load_wine

from headrace.detectors import lsdd
from headrace.detectors.lsdd import Lsdd
from headrace.features import numeric
from headrace.testing.drift import DriftConformance


class TestLsdd(DriftConformance):
    detector = Lsdd
    parameters = MappingProxyType({"max_rows": 400})
    size_runs = MappingProxyType({100: 100, 1000: 30})


def test_wine_agrees_with_the_published_numbers():
    """On wine, with as many random centres: shifted rows are far and certain, others near; the published distances are within two deviations of those of other centres."""
    x = load_wine().data
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32).astype(np.float64)
    fitted = [Lsdd.fit(x[::2], numeric(13), scale=False, centers=4, seed=seed) for seed in range(30)]
    same, shifted = ([each.test(x[1::2] + shift) for each in fitted] for shift in (0.0, 0.5))
    assert np.mean([each.is_drift for each in shifted]) > 0.8
    assert np.mean([each.is_drift for each in same]) < 0.1
    assert all(one.statistic[0] < other.statistic[0] for one, other in zip(same, shifted, strict=True))
    for found, published in ((same, 0.000454), (shifted, 0.037846)):
        values = [each.statistic[0] for each in found]
        assert abs(published - np.mean(values)) <= 2 * np.std(values)

    usual = Lsdd.fit(x[::2], numeric(13), scale=False)
    assert usual.test(x[1::2] + 0.5).p_value[0] == 1 / 200
    assert not usual.test(x[1::2]).is_drift


def test_distance_is_the_quadratic_form():
    """Of a given penalty the distance is 2 h theta - theta H theta with theta = (H + lambda I)^-1 h."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(6, 6))
    matrix, h = roots @ roots.T, rng.normal(size=(6, 3))
    found = lsdd.distances(matrix, h)
    expected = []
    for penalty in lsdd.LAMBDAS:
        theta = np.linalg.solve(matrix + penalty * np.eye(6), h)
        linear, quadratic = (h * theta).sum(0), (theta * (matrix @ theta)).sum(0)
        expected.append(2 * linear - quadratic)
        if (1 - quadratic / linear).mean() <= lsdd.RELATIVE:
            break
    np.testing.assert_allclose(found, expected[-1], rtol=1e-8)
