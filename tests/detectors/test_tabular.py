"""Mixed tables: which test each column has."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

from headrace.detectors.tabular import Tabular
from headrace.errors import InvalidRequest
from headrace.features import Feature, Features, numeric
from headrace.testing.drift import DriftConformance


class TestTabular(DriftConformance):
    detector = Tabular


class TestTabularKs(DriftConformance):
    detector = Tabular
    parameters = MappingProxyType({"numbers": "ks", "correction": "bh"})


def test_each_column_has_the_test_of_its_kind():
    """In column order: a number by CVM, a category and a few-valued number by chi-square, under one threshold."""
    rng = np.random.default_rng(0)
    features = Features(
        columns=(
            Feature(name="kind", kind="category", categories=("a", "b", "c")),
            Feature(name="number"),
            Feature(name="few"),
        )
    )

    def draw(rows):
        return np.column_stack([rng.integers(3, size=rows), rng.normal(size=rows), rng.integers(4, size=rows)]) * 1.0

    a, b = draw(300), draw(200)
    found = Tabular.fit(a, features).test(b)
    counts = [[np.bincount(x[:, at].astype(int)) for x in (a, b)] for at in (0, 2)]
    expected = [
        stats.chi2_contingency(counts[0], correction=False).pvalue,
        stats.cramervonmises_2samp(a[:, 1], b[:, 1]).pvalue,
        stats.chi2_contingency(counts[1], correction=False).pvalue,
    ]
    np.testing.assert_allclose(found.p_value, expected, rtol=1e-6)
    assert found.tested == ("kind", "number", "few")
    assert found.threshold == pytest.approx(0.05 / 3)


def test_only_the_column_that_drifted_is_said_to():
    """Of five columns of which one moved, that one drifted."""
    rng = np.random.default_rng(1)
    sample = rng.normal(size=(300, 5))
    sample[:, 2] += 0.6
    found = Tabular.fit(rng.normal(size=(500, 5)), numeric(5)).test(sample)
    assert found.drifted.tolist() == [False, False, True, False, False]


def test_another_test_of_numbers_is_refused():
    """An unknown test of numbers raises InvalidRequest that names those there are."""
    with pytest.raises(InvalidRequest, match="cvm, ks"):
        Tabular.fit(np.zeros((20, 1)), numeric(1), numbers="t")
