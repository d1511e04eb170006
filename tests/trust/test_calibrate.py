"""Thresholds and measured rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.trust import calibrate


class TestThreshold:
    @pytest.mark.parametrize(("rows", "rate", "above"), [(99, 0.01, 0), (199, 0.01, 1), (999, 0.05, 49), (9, 0.5, 4)])
    def test_is_passed_by_the_rank_of_the_rate(self, rows, rate, above):
        """So many of the rows that chose it pass the threshold as the conformal rank says."""
        scores = np.random.default_rng(1).permutation(rows).astype(float)
        assert int((scores > calibrate.threshold(scores, rate)).sum()) == above

    def test_is_passed_by_new_rows_at_the_asked_rate(self):
        """Over many calibrations, new rows pass the threshold at the asked rate, whatever the law of the scores."""
        generator = np.random.default_rng(2)
        held, fresh = generator.pareto(1.2, (400, 199)), generator.pareto(1.2, (400, 500))
        passed = [fresh[at] > calibrate.threshold(held[at], 0.05) for at in range(400)]
        # Var of one share: Beta(10, 190) around .05, then binomial; the mean of 400 lies within 4 of its deviations.
        deviation = np.sqrt((10 * 190 / (200**2 * 201) + 0.05 * 0.95 / 500) / 400)
        assert abs(np.mean(passed) - 0.05) < 4 * deviation

    def test_of_few_rows_is_their_largest_score(self):
        """Too few rows for the rate give their largest score, and the finest rate says what that is worth."""
        assert calibrate.threshold(np.array([1.0, 3.0, np.nan, 2.0]), 0.01) == 3.0
        assert calibrate.finest(3) == 0.25

    def test_refuses_what_cannot_be(self):
        """No numbers, or a rate that is none, are refused."""
        with pytest.raises(InvalidRequest, match="no score"):
            calibrate.threshold(np.array([np.nan]), 0.01)
        with pytest.raises(InvalidRequest, match="between 0 and 1"):
            calibrate.threshold(np.array([1.0]), 1.0)


class TestInterval:
    def test_is_clopper_pearsons(self):
        """The interval is that of scipy's exact binomial test, and closed forms hold at the ends."""
        from scipy import stats

        for count, of in ((3, 50), (0, 20), (20, 20)):
            expected = stats.binomtest(count, of).proportion_ci(method="exact")
            rate = calibrate.interval(count, of)
            assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high))
        assert calibrate.interval(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20))
        assert calibrate.interval(0, 0) == calibrate.Rate(count=0, of=0, low=0.0, high=1.0)


class TestRefusal:
    def test_seldom_refuses_the_honest(self):
        """Detectors whose scores are exchangeable are refused no more often than the level says."""
        generator = np.random.default_rng(3)
        refused = 0
        for _ in range(600):
            held, fresh = generator.normal(size=100), generator.normal(size=300)
            count = int((fresh > calibrate.threshold(held, 0.05)).sum())
            refused += calibrate.is_too_many(count, 300, held_out=100, rate=0.05)
        assert refused <= 600 * 0.01 + 4 * np.sqrt(600 * 0.01 * 0.99)

    def test_refuses_scores_that_grew(self):
        """A detector that finds fresh rows odder than held-out ones is refused."""
        generator = np.random.default_rng(4)
        held, fresh = generator.normal(size=500), generator.normal(size=500) + 1.5
        count = int((fresh > calibrate.threshold(held, 0.01)).sum())
        assert calibrate.is_too_many(count, 500, held_out=500, rate=0.01)
        assert not calibrate.is_too_many(0, 0, held_out=5, rate=0.01)

    def test_counts_tests(self):
        """Tests that are positive far more often than their level are told from those that are not."""
        assert calibrate.is_more_often(5, 20, rate=0.05)
        assert not calibrate.is_more_often(2, 20, rate=0.05)
        assert not calibrate.is_more_often(0, 0, rate=0.05)


class TestParts:
    @given(st.lists(st.integers(0, 3), min_size=20, max_size=300), st.integers(0, 5))
    def test_are_disjoint_whole_and_stratified(self, classes, seed):
        """Every row is in one part, and each part has each class by its share, give or take a few rows."""
        y = np.array(classes)
        parts = calibrate.parts(len(y), y, shares=(0.6, 0.2, 0.2), seed=seed)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
        for share, part in zip((0.6, 0.2, 0.2), parts, strict=True):
            for each in range(4):
                assert abs(int((y[part] == each).sum()) - share * int((y == each).sum())) <= 3

    def test_follow_time_where_rows_do(self):
        """Rows in time are cut, not shuffled."""
        parts = calibrate.parts(10, None, shares=(0.6, 0.2, 0.2), seed=0, in_order=True)
        assert [each.tolist() for each in parts] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]

    def test_sample_keeps_the_shares_of_classes(self):
        """A sample has each class by its share, and a rare one too."""
        y = np.array([0] * 900 + [1] * 90 + [2] * 10)
        kept = calibrate.sample(1000, y, most=100, seed=1)
        assert np.bincount(y[kept]).tolist() == [90, 9, 1]
        assert len(set(kept.tolist())) == 100
        assert calibrate.sample(10, None, most=3, seed=0, in_order=True).tolist() == [7, 8, 9]
