"""Fisher's exact test: its p-values against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headrace.detectors.fisher import Fisher
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features, numeric
from headrace.testing.drift import DriftConformance

YES = Features(columns=(Feature(name="yes", kind="category", categories=("no", "yes")),))


class TestFisher(DriftConformance):
    detector = Fisher
    numbers = False


@pytest.mark.parametrize("table", [[[8, 2], [1, 5]], [[300, 20], [80, 15]], [[12, 0], [5, 3]]])
def test_p_values_of_two_cells_are_scipys(table):
    """A yes-or-no column has the p-value of fisher_exact."""
    rows = [np.repeat([0.0, 1.0], counts)[:, None] for counts in table]
    found = Fisher.fit(rows[0], YES).test(rows[1])
    assert found.p_value[0] == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-12)


def test_an_unseen_category_makes_a_larger_table():
    """With a third cell the p-value is that of Freeman and Halton, counted over all tables, within its drawing."""
    reference = np.repeat([0.0, 1.0], [10, 10])[:, None]
    sample = np.repeat([0.0, 1.0, UNSEEN], [5, 2, 3])[:, None]
    found = Fisher.fit(reference, YES).test(sample)
    law = stats.multivariate_hypergeom(m=[15, 12, 3], n=10)
    tables = [(a, b, 10 - a - b) for a in range(11) for b in range(11 - a) if 10 - a - b <= 3]
    chances = np.array([law.pmf(each) for each in tables])
    expected = chances[chances <= law.pmf([5, 2, 3]) * (1 + 1e-9)].sum()
    assert found.statistic[0] == pytest.approx(-np.log(law.pmf([5, 2, 3])))
    assert found.p_value[0] == pytest.approx(expected, abs=4 * np.sqrt(expected / 999))


def test_numbers_of_many_values_are_not_for_it():
    """A table of numbers only is refused, with the methods that would do; of numbers of two values it is not."""
    with pytest.raises(InvalidRequest, match="tabular"):
        Fisher.fit(np.arange(20.0)[:, None], numeric(1))
    assert Fisher.fit(np.resize([3.0, 5.0], 40)[:, None], numeric(1)).test(np.full((20, 1), 5.0)).is_drift
