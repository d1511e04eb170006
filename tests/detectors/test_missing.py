"""What is missing, compared with the reference: its own entry, its level and power, what asks for none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headrace.detectors import missing, registry
from headrace.detectors.base import DriftTest
from headrace.features import Feature, Features, numeric

METHODS = ("ks", "cvm", "wasserstein", "chi-square", "psi", "jensen-shannon", "tabular")


def drift_test(method: str) -> type[DriftTest]:
    found = registry.find(method)
    assert issubclass(found, DriftTest)
    return found


def holed(rng, rows, columns, share):
    x = rng.normal(size=(rows, columns))
    x[rng.random(x.shape) < share] = np.nan
    return x


@pytest.mark.parametrize("method", METHODS)
def test_a_column_that_goes_missing_is_drift_under_its_own_name(method):
    """Of ten columns, one of which is missing in a fifth of the rows and was in a hundredth, that one alone drifts."""
    rng = np.random.default_rng(1)
    fitted = drift_test(method).fit(holed(rng, 1000, 10, 0.01), numeric(10), alpha=0.001)
    sample = holed(rng, 300, 10, 0.01)
    sample[rng.random(300) < 0.2, 4] = np.nan
    found = fitted.test(sample)
    assert [name for name, drifted in zip(found.tested, found.drifted, strict=True) if drifted] == ["x4 (missing)"]
    assert found.is_drift
    assert found.threshold == pytest.approx(0.001 / len(found.tested))
    assert found.effect_name.endswith("cramers_v of missing")


def test_values_that_come_where_none_did_are_drift():
    """A column that is missing in a third of the reference and never in a sample is drift."""
    rng = np.random.default_rng(2)
    sample = rng.normal(size=(200, 2))
    found = drift_test("cvm").fit(holed(rng, 600, 2, 0.33), numeric(2)).test(sample)
    assert found.is_drift
    assert found.tested == ("x0", "x1", "x0 (missing)", "x1 (missing)")


def test_categories_go_missing_too():
    """A category that is missing in a sample and never was is drift, of Fisher's test as of the others."""
    features = Features(columns=(Feature(name="kind", kind="category", categories=("a", "b")),))
    rng = np.random.default_rng(3)
    x, sample = rng.integers(0, 2, (400, 1)) * 1.0, rng.integers(0, 2, (100, 1)) * 1.0
    sample[:20] = np.nan
    for method in ("fisher", "chi-square", "tabular"):
        found = drift_test(method).fit(x, features).test(sample)
        assert found.tested[found.drifted.argmax()] == "kind (missing)", method


@pytest.mark.parametrize(("rows", "window", "share"), [(1000, 100, 0.02), (200, 1000, 0.1), (2000, 50, 0.5)])
def test_a_share_that_stays_is_drift_as_often_as_the_level_says(rows, window, share):
    """Of columns missing as often as in the reference, at most so many p-values are below a level as it says."""
    rng = np.random.default_rng(4)
    fitted = drift_test("ks").fit(holed(rng, rows, 600, share), numeric(600), correction="none")
    found = fitted.test(holed(rng, window, 600, share))
    own = found.p_value[600:]
    assert own.size > 500
    for alpha in (0.05, 0.01):
        assert np.count_nonzero(own <= alpha) <= stats.binom.ppf(0.999, own.size, alpha)
        assert np.count_nonzero(own <= 0.1) >= 1


def test_without_missing_values_nothing_is_added():
    """Where no value is missing on either side there are as many entries as columns, and the correction is over these."""
    rng = np.random.default_rng(5)
    found = drift_test("tabular").fit(rng.normal(size=(100, 3)), numeric(3)).test(rng.normal(size=(50, 3)))
    assert found.tested == ("x0", "x1", "x2")
    assert found.threshold == pytest.approx(0.05 / 3)


def test_a_fixed_bound_has_no_entry_of_what_is_missing():
    """A method that is asked for a bound of its statistic, and so has no p-values, compares values only."""
    rng = np.random.default_rng(6)
    for method in ("psi", "jensen-shannon", "wasserstein"):
        fitted = drift_test(method).fit(rng.normal(size=(200, 2)), numeric(2), threshold=0.3)
        assert fitted.test(holed(rng, 100, 2, 0.5)).tested == ("x0", "x1")


def test_p_values_are_scipys():
    """Few rows have Fisher's p-value, many that of chi-square without correction."""
    few, many = (np.array([[1.0, 19.0], [6.0, 4.0]]), np.array([[40.0, 460.0], [90.0, 410.0]]))
    assert missing.compare(*few)[1] == pytest.approx(stats.fisher_exact(few.astype(int)).pvalue)
    assert missing.compare(*many)[1] == pytest.approx(stats.chi2_contingency(many, correction=False).pvalue)
    assert missing.compare(*many)[0] == pytest.approx(0.1)
