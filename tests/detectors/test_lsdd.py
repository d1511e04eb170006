"""Least-squares density difference: published numbers, and its decisions."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from sklearn.datasets import load_wine

from headrace.detectors import encoding, lsdd
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


@pytest.mark.parametrize(("columns", "shift"), [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)])
def test_of_normal_laws_it_is_the_closed_form(columns, shift):
    """Of two normal laws of unit variance the mean of ten distances is 2 (4 pi)^(-d/2) (1 - exp(-shift^2 / 4)) but for 10 %."""
    rng = np.random.default_rng(4)
    found = []
    for seed in range(10):
        reference, sample = rng.normal(size=(2, 800, columns))
        sample[:, 0] += shift
        fitted = Lsdd.fit(reference, numeric(columns), seed=seed, scale=False, permutations=19)
        # 2 s^2 is the median squared distance, and (pi s^2)^(d/2) what the distance is told in.
        unit = (np.pi * encoding.bandwidth(reference) / 2) ** (columns / 2)
        found.append(fitted.test(sample).statistic[0] / unit)
    expected = 2 * (4 * np.pi) ** (-columns / 2) * (1 - np.exp(-(shift**2) / 4))
    assert np.mean(found) == pytest.approx(expected, rel=0.1)
