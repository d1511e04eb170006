"""What every test between samples keeps: inherit `DriftConformance` in a pytest class.

class TestKs(DriftConformance):
    detector = Ks
    categories = False
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from scipy import stats

from headrace.detectors.base import Drift, DriftTest, State
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features
from headrace.payload import EMPTY, Array
from headrace.testing.detectors import through_files

MIXED = Features(
    columns=(
        Feature(name="usual"),
        Feature(name="skew"),
        Feature(name="few"),
        Feature(name="always"),
        Feature(name="kind", kind="category", categories=("oak", "elm", "ash", "fig")),
        Feature(name="yes", kind="category", categories=("no", "yes")),
    )
)
"""Four numbers, one of few values and one that is 7 in every row, and two categories."""
_ALWAYS = 3
_KIND = 4


class DriftConformance(abc.ABC):
    """What a `DriftTest` keeps. One that takes other columns gives `features`, `usual` and `drifted` of its own."""

    detector: ClassVar[type[DriftTest]]
    parameters: ClassVar[Mapping[str, Any]] = EMPTY
    """Of `fit`."""
    features: ClassVar[Features] = MIXED
    numbers: ClassVar[bool] = True
    """It tests numbers."""
    categories: ClassVar[bool] = True
    """It tests categories."""
    size_runs: ClassVar[Mapping[int, int]] = {100: 120, 1000: 40}
    """Rows of each sample to how often its level is tried."""
    level: ClassVar[bool] = True
    """It has p-values, and so a level."""

    def usual(self, rows: int, *, seed: int) -> Array:
        """Rows of the reference's law."""
        rng = np.random.default_rng(seed)
        return np.column_stack(
            [
                rng.normal(size=rows),
                100 * rng.exponential(size=rows),
                rng.poisson(1.0, size=rows),
                np.full(rows, 7.0),
                rng.choice(4, size=rows, p=[0.5, 0.3, 0.18, 0.02]),
                rng.random(rows) < 0.3,
            ]
        )

    def drifted(self, rows: int, *, seed: int) -> Array:
        """Rows of another law, in numbers and in categories."""
        x = self.usual(rows, seed=seed)
        rng = np.random.default_rng([seed, 1])
        x[:, 0] += 1.0
        x[:, 1] *= 1.5
        x[:, _KIND] = rng.choice(4, size=rows, p=[0.2, 0.3, 0.3, 0.2])
        x[:, _KIND + 1] = rng.random(rows) < 0.7
        return x

    def fitted(self, rows: int = 400, *, seed: int = 0, **more: Any) -> DriftTest:
        """One that knows the reference."""
        return self.detector.fit(self.usual(rows, seed=seed), self.features, **{**self.parameters, **more})

    @pytest.mark.parametrize("rows", [100, 1000])
    def test_a_sample_of_the_same_law_is_drift_as_often_as_the_level_says(self, rows: int) -> None:
        """Of samples of the reference's own law no more are called drift than alpha allows, whatever the effect."""
        if not self.level:
            pytest.skip("a fixed bound has no level")
        runs = self.size_runs[rows]
        found = []
        for run in range(runs):
            parameters = {**self.parameters, "min_effect": 0.0, "seed": run}
            fitted = self.detector.fit(self.usual(rows, seed=2 * run), self.features, **parameters)
            found.append(fitted.test(self.usual(rows, seed=2 * run + 1)).is_drift)
        assert sum(found) <= stats.binom.ppf(0.999, runs, 0.05), f"{sum(found)} of {runs}"

    def test_a_sample_of_another_law_is_drift(self) -> None:
        """A sample that differs clearly is drift, with an effect that is larger than a sample's that does not."""
        fitted = self.fitted()
        found, usual = fitted.test(self.drifted(300, seed=5)), fitted.test(self.usual(300, seed=5))
        assert found.is_drift
        assert found.drifted.any()
        assert found.effect.max() > usual.effect.max()

    def test_what_it_says_has_one_element_per_entry(self) -> None:
        """All arrays are as long as `tested`, p-values are from above 0 to 1, effects and statistics are finite."""
        for sample in (self.usual(150, seed=3), self.drifted(150, seed=3)):
            found = self.fitted().test(sample)
            assert found.rows == 150
            assert found.missing == 0
            assert found.effect_name
            shape = (len(found.tested),)
            assert found.statistic.shape == found.effect.shape == found.drifted.shape == shape
            assert np.isfinite(found.statistic).all()
            assert np.isfinite(found.effect).all()
            assert found.drifted.dtype == np.bool_
            if self.level:
                assert found.p_value is not None
                assert found.p_value.shape == shape
                assert ((found.p_value >= 0) & (found.p_value <= 1)).all()
            else:
                assert found.p_value is None

    def test_the_same_sample_has_the_same_answer(self) -> None:
        """Testing a sample again, and another between, gives the same to the last bit, and leaves the sample alone."""
        fitted, sample = self.fitted(), self.drifted(120, seed=4)
        before = sample.copy()
        first = fitted.test(sample)
        fitted.test(self.usual(50, seed=9))
        assert_same(fitted.test(sample), first)
        np.testing.assert_array_equal(sample, before)

    def test_a_restored_one_says_the_same(self) -> None:
        """State through JSON and npz gives a detector with the same answers, without objects in its arrays."""
        fitted = self.fitted()
        state = fitted.state()
        assert all(each.dtype.kind in "fiub" for each in state.arrays.values())
        restored = self.detector.restore(through_files(state), self.features)
        for sample in (self.usual(80, seed=6), self.drifted(80, seed=6)):
            assert_same(restored.test(sample), fitted.test(sample))

    def test_a_state_of_another_is_refused(self) -> None:
        """A state of another method, or of other columns, raises InvalidRequest instead of testing the wrong thing."""
        state = self.fitted().state()
        more = Features(columns=(*self.features.columns, Feature(name="one more")))
        with pytest.raises(InvalidRequest, match="columns"):
            self.detector.restore(state, more)
        with pytest.raises(InvalidRequest, match="method"):
            self.detector.restore(State(parameters={**state.parameters, "method": "another"}), self.features)

    def test_missing_values_are_counted_and_are_no_drift(self) -> None:
        """A tenth missing at random, as in the reference, is said, is no drift of a sample that is none, hides none."""
        reference = self.usual(400, seed=0)
        reference[np.random.default_rng(1).random(reference.shape) < 0.1] = np.nan
        fitted = self.detector.fit(reference, self.features, **self.parameters)
        usual, drifted = self.usual(300, seed=8), self.drifted(300, seed=8)
        holes = np.random.default_rng(0).random(usual.shape) < 0.1
        usual[holes] = drifted[holes] = np.nan
        found = fitted.test(usual)
        assert not found.is_drift
        assert 0 < found.missing <= holes.sum()
        assert fitted.test(drifted).is_drift

    def test_a_column_with_nothing_in_it_is_no_error(self) -> None:
        """A column that is missing in all of the sample, or of the reference, says nothing and breaks nothing."""
        sample = self.usual(100, seed=10)
        sample[:, 0] = np.nan
        assert np.isfinite(self.fitted().test(sample).statistic).all()
        reference = self.usual(200, seed=0)
        reference[:, 0] = np.nan
        found = self.detector.fit(reference, self.features, **self.parameters).test(self.usual(100, seed=11))
        assert np.isfinite(found.statistic).all()

    def test_a_constant_column_is_no_error(self) -> None:
        """A column of one value in the reference is no drift by itself, and is where a sample differs from it."""
        if not self.numbers or len(self.features) <= _ALWAYS:
            pytest.skip("it tests no number that is always the same")
        fitted = self.fitted()
        sample = self.usual(200, seed=12)
        assert not fitted.test(sample).is_drift
        sample[:, _ALWAYS] = 3.0
        assert fitted.test(sample).is_drift

    def test_one_row_has_an_answer(self) -> None:
        """A sample of one row is tested, and an ordinary one is no drift."""
        row = self.usual(1, seed=15)
        found = self.fitted().test(row)
        assert found.rows == 1
        assert np.isfinite(found.statistic).all()

    def test_an_unseen_category_is_a_category(self) -> None:
        """A sample whose categories are all unseen is drift; one unseen row of many is none."""
        if not self.categories:
            pytest.skip("it tests no categories")
        fitted = self.fitted()
        sample = self.usual(200, seed=13)
        sample[0, _KIND] = UNSEEN
        assert not fitted.test(sample).is_drift
        sample[:, _KIND] = UNSEEN
        assert fitted.test(sample).is_drift

    def test_infinities_are_far_values(self) -> None:
        """Infinite numbers give finite answers."""
        if not self.numbers or len(self.features) == 1:
            pytest.skip("it tests no numbers")
        sample = self.usual(100, seed=14)
        sample[:5, 0] = np.inf
        sample[5:8, 0] = -np.inf
        found = self.fitted().test(sample)
        assert np.isfinite(found.statistic).all()
        assert np.isfinite(found.effect).all()

    def test_other_columns_and_no_rows_are_refused(self) -> None:
        """A sample of more or fewer columns, or of no rows, raises InvalidRequest that says what was expected."""
        fitted, width = self.fitted(), len(self.features)
        for shape in ((5, width + 1), (5, width - 1)):
            with pytest.raises(InvalidRequest, match=f"{width} column|column of flags|1 columns"):
                fitted.test(np.zeros(shape))
        with pytest.raises(InvalidRequest, match="at least one row"):
            fitted.test(np.zeros((0, width)))

    def test_a_reference_of_few_rows_is_refused(self) -> None:
        """Fitting on two rows raises InvalidRequest that says how many are needed."""
        with pytest.raises(InvalidRequest, match="at least"):
            self.detector.fit(self.usual(2, seed=0), self.features, **self.parameters)

    def test_a_level_that_is_none_is_refused(self) -> None:
        """An alpha of 0 or of 1 raises InvalidRequest."""
        for alpha in (0.0, 1.0):
            with pytest.raises(InvalidRequest, match="alpha"):
                self.fitted(alpha=alpha)

    def test_a_small_effect_is_no_drift(self) -> None:
        """However small the p-value, a difference below `min_effect` is no drift."""
        if not self.level:
            pytest.skip("a fixed bound is the effect")
        found = self.fitted(min_effect=1e9).test(self.drifted(300, seed=5))
        assert found.p_value is not None
        assert found.p_value.min() <= found.threshold
        assert not found.is_drift
        assert not found.drifted.any()


def assert_same(one: Drift, other: Drift) -> None:
    """Fail unless two answers agree to the last bit."""
    first, second = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
