"""What every detector of rows keeps: inherit `OutlierConformance` or `AdversarialConformance` in a pytest class.

class TestPca(OutlierConformance):
    detector = Pca
    parameters = {"components": 0.8}
"""

from __future__ import annotations

import abc
import io
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from headrace.detectors.base import Adversarial, Outlier, Scores, State
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features
from headrace.payload import EMPTY, Array

MIXED = Features(
    columns=(
        Feature(name="width"),
        Feature(name="height"),
        Feature(name="kind", kind="category", categories=("oak", "elm", "ash")),
        Feature(name="depth"),
        Feature(name="always"),
    )
)
"""Three numbers that go together, a category, and a number that is 7 in every row."""
_CONSTANT = 4
_CATEGORY = 2


def through_files(state: State) -> State:
    """A state as it comes back from JSON and npz, as a trust folder and a snapshot keep it."""
    file = io.BytesIO()
    arrays: dict[str, Any] = dict(state.arrays)
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        read = {name: loaded[name] for name in loaded.files}
    return State(parameters=msgspec.json.decode(msgspec.json.encode(dict(state.parameters))), arrays=read)


def mixed(rows: int, *, seed: int) -> Array:
    """Rows of `MIXED`."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=rows)
    kinds = rng.choice(3, rows, p=[0.6, 0.3, 0.1]).astype(np.float64)
    numbers = common[:, None] + rng.normal(0, 0.5, (rows, 3))
    return np.column_stack([numbers[:, 0], 100 * numbers[:, 1], kinds, numbers[:, 2] - 5, np.full(rows, 7.0)])


class OutlierConformance(abc.ABC):
    """What an `Outlier` keeps. A detector of series gives `features`, `usual` and `odd` of its own."""

    detector: ClassVar[type[Outlier]]
    parameters: ClassVar[Mapping[str, Any]] = EMPTY
    features: ClassVar[Features] = MIXED
    tells: ClassVar[bool] = True
    """It has feature scores."""
    points: ClassVar[bool] = True
    """They point at the column that is odd."""
    tables: ClassVar[bool] = True
    """Its rows are of tables: those of `MIXED`."""

    @classmethod
    def usual(cls, rows: int, *, seed: int) -> Array:
        """Rows of one law, whatever the seed."""
        return mixed(rows, seed=seed)

    @classmethod
    def odd(cls, rows: int, *, seed: int) -> Array:
        """Rows that are none of it, some of the usual between them where the order counts; the last one is odd."""
        x = mixed(rows, seed=seed)
        x[:, 0] += 6
        x[:, 1] -= 600
        x[:, 3] += 6
        return x

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls) -> State:
        """The state of a detector of 400 usual rows."""
        return cls.fit(cls.usual(400, seed=0)).state()

    @classmethod
    def fit(cls, x: Array) -> Outlier:
        """Fit one."""
        return cls.detector.fit(x, cls.features, seed=0, **cls.parameters)

    def again(self, state: State) -> Outlier:
        """A detector of its own: what one test feeds it no other sees."""
        return self.detector.restore(through_files(state), self.features)

    def test_odder_rows_score_higher(self, fitted: State) -> None:
        """At the score that a twentieth of usual rows pass, about a twentieth of others pass, and odd ones do."""
        detector = self.again(fitted)
        threshold = np.quantile(detector.score(self.usual(1000, seed=1)).instance, 0.95)
        rate = np.mean(detector.score(self.usual(1000, seed=2)).instance > threshold)
        # The threshold and the rate both are of 1000 rows: four standard deviations of their difference.
        assert abs(rate - 0.05) < 4 * (2 * 0.05 * 0.95 / 1000) ** 0.5
        assert detector.score(self.odd(1, seed=3)).instance[-1] > threshold
        assert np.mean(detector.score(self.odd(200, seed=4)).instance > threshold) > 0.4

    def test_state_survives_files(self, fitted: State) -> None:
        """A detector that was kept after some rows as JSON and npz scores the next ones bit by bit as it would have."""
        detector = self.again(fitted)
        detector.score(self.usual(45, seed=5))
        other = self.again(detector.state())
        rows = self.odd(70, seed=6)
        same(detector.score(rows), other.score(rows))

    def test_state_is_numbers(self, fitted: State) -> None:
        """A state holds arrays of numbers or booleans alone, and does not change behind its owner's back."""
        assert all(array.dtype.kind in "biuf" for array in fitted.arrays.values())
        before = {name: array.copy() for name, array in fitted.arrays.items()}
        self.detector.restore(fitted, self.features).score(self.odd(70, seed=7))
        for name, array in before.items():
            np.testing.assert_array_equal(array, fitted.arrays[name])

    def test_same_seed_gives_the_same(self, fitted: State) -> None:
        """Two fits on the same rows score alike, and leave the rows as they were."""
        x = self.usual(400, seed=0)
        before = x.copy()
        rows = self.odd(20, seed=8)
        same(self.fit(x).score(rows), self.again(fitted).score(rows))
        np.testing.assert_array_equal(x, before)

    def test_rows_one_by_one(self, fitted: State) -> None:
        """Rows score the same one by one, in two parts and together."""
        rows = self.odd(75, seed=9)
        together = self.again(fitted).score(rows)
        detector = self.again(fitted)
        single = np.concatenate([detector.score(row[None]).instance for row in rows])
        detector = self.again(fitted)
        parts = np.concatenate([detector.score(part).instance for part in (rows[:33], rows[33:])])
        np.testing.assert_allclose(single, together.instance, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(parts, together.instance, rtol=1e-7, atol=1e-9)

    def test_feature_scores_have_the_rows_shape(self, fitted: State) -> None:
        """Scores are [n] and, where there are any of features, [n, f] of finite numbers."""
        for rows in (0, 1, 5):
            scores = self.again(fitted).score(self.usual(5, seed=10)[:rows])
            assert scores.instance.shape == (rows,)
            assert (scores.feature is not None) == self.tells
            if scores.feature is not None:
                assert scores.feature.shape == (rows, len(self.features))
                assert np.isfinite(scores.feature).all()

    def test_missing_values_are_no_answer(self, fitted: State) -> None:
        """Rows with missing values, even with nothing else, and with infinite ones have finite scores."""
        detector = self.again(fitted)
        rows = self.usual(6, seed=11)
        rows[0, 0] = np.nan
        rows[1] = np.nan
        rows[4, 0] = np.inf
        rows[5, 0] = -np.inf
        scores = detector.score(rows)
        assert np.isfinite(scores.instance).all()
        if self.tables:
            usual = detector.score(self.usual(500, seed=12)).instance
            assert scores.instance[1] <= np.quantile(usual, 0.95)
            assert scores.instance[4] > np.median(usual)

    def test_missing_values_in_the_reference(self) -> None:
        """A reference with missing values can be fitted, even with a column that is always missing."""
        x = self.usual(400, seed=13)
        x[::7, 0] = np.nan
        x[:, -1] = np.nan
        assert np.isfinite(self.fit(x).score(self.usual(10, seed=14)).instance).all()

    def test_one_constant_column(self, fitted: State) -> None:
        """A row that differs in what never varied is odder than the same row without that."""
        if not self.tables:
            pytest.skip("of series")
        detector = self.again(fitted)
        rows = self.usual(40, seed=15)
        before = detector.score(rows).instance
        rows[:, _CONSTANT] = 7.001
        assert (detector.score(rows).instance > before).mean() > 0.9

    def test_unseen_category(self, fitted: State) -> None:
        """A row whose category nobody has seen is odder than the same row with the most frequent one."""
        if not self.tables:
            pytest.skip("of series")
        detector = self.again(fitted)
        rows = self.usual(40, seed=17)
        rows[:, _CATEGORY] = 0
        unseen = rows.copy()
        unseen[:, _CATEGORY] = UNSEEN
        assert (detector.score(unseen).instance > detector.score(rows).instance).mean() > 0.9

    def test_the_odd_column_is_told(self, fitted: State) -> None:
        """Of rows that are odd in one number, it has the largest feature score."""
        if not self.tables or not self.tells or not self.points:
            pytest.skip("of series, or tells nothing of features")
        for column, shift in ((0, 9.0), (1, -900.0), (3, 9.0), (_CONSTANT, 1.0)):
            rows = self.usual(20, seed=18)
            rows[:, column] += shift
            feature = self.again(fitted).score(rows).feature
            assert feature is not None
            assert np.mean(feature.argmax(1) == column) > 0.8, column

    def test_other_columns_are_the_callers_mistake(self, fitted: State) -> None:
        """Rows of another width, no rows to fit, and an infinite reference raise InvalidRequest."""
        wide = np.zeros((3, len(self.features) + 1))
        with pytest.raises(InvalidRequest, match="columns"):
            self.again(fitted).score(wide)
        with pytest.raises(InvalidRequest):
            self.again(fitted).score(np.zeros(3))
        with pytest.raises(InvalidRequest, match="columns"):
            self.fit(wide)
        with pytest.raises(InvalidRequest, match="needs a reference"):
            self.fit(self.usual(400, seed=0)[:0])
        x = self.usual(400, seed=0)
        x[3, 0] = np.inf
        with pytest.raises(InvalidRequest, match="infinite"):
            self.fit(x)

    def test_other_states_are_refused(self, fitted: State) -> None:
        """A state of another method, of other columns, or that lacks a part raises InvalidRequest."""
        refused(self.detector, fitted, self.features)


class AdversarialConformance(abc.ABC):
    """What an `Adversarial` keeps, beside a logistic model of `MIXED`."""

    detector: ClassVar[type[Adversarial]]
    parameters: ClassVar[Mapping[str, Any]] = EMPTY

    @staticmethod
    def predict(x: Array) -> Array:
        """Probabilities of two classes."""
        logit = 3 * x[:, 0] - 0.03 * x[:, 1] + 0.5 * x[:, _CATEGORY]
        second = 1 / (1 + np.exp(-np.clip(logit, -500, 500)))
        return np.column_stack([1 - second, second])

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls) -> State:
        """The state of a detector of 400 usual rows."""
        return cls.fit(mixed(400, seed=0)).state()

    @classmethod
    def fit(cls, x: Array) -> Adversarial:
        """Fit one."""
        return cls.detector.fit(x, MIXED, cls.predict, seed=0, **cls.parameters)

    def again(self, state: State) -> Adversarial:
        """A detector of its own."""
        return self.detector.restore(through_files(state), MIXED)

    def test_usual_rows_pass_as_often_as_they_should(self, fitted: State) -> None:
        """At the score that a twentieth of usual rows pass, about a twentieth of others pass."""
        detector = self.again(fitted)
        threshold = np.quantile(detector.score(mixed(1000, seed=1), self.predict).instance, 0.95)
        rate = np.mean(detector.score(mixed(1000, seed=2), self.predict).instance > threshold)
        assert abs(rate - 0.05) < 4 * (2 * 0.05 * 0.95 / 1000) ** 0.5

    def test_state_survives_files(self, fitted: State) -> None:
        """A detector that was kept as JSON and npz scores bit by bit the same."""
        rows = mixed(70, seed=6)
        detector = self.again(fitted)
        same(detector.score(rows, self.predict), self.again(detector.state()).score(rows, self.predict))
        assert all(array.dtype.kind in "biuf" for array in fitted.arrays.values())

    def test_same_seed_gives_the_same(self, fitted: State) -> None:
        """Two fits on the same rows score alike, and leave the rows as they were."""
        x = mixed(400, seed=0)
        before = x.copy()
        rows = mixed(20, seed=8)
        same(self.fit(x).score(rows, self.predict), self.again(fitted).score(rows, self.predict))
        np.testing.assert_array_equal(x, before)

    def test_scores_have_the_rows_shape(self, fitted: State) -> None:
        """No rows, one and five have as many finite scores, the same together as alone."""
        rows = mixed(5, seed=10)
        together = self.again(fitted).score(rows, self.predict)
        for many in (0, 1, 5):
            scores = self.again(fitted).score(rows[:many], self.predict)
            np.testing.assert_allclose(scores.instance, together.instance[:many], rtol=1e-9, atol=1e-12)
            if scores.feature is not None:
                assert scores.feature.shape == (many, len(MIXED))

    def test_the_model_is_asked_in_few_calls(self, fitted: State) -> None:
        """However many rows are scored, the model is called at most three times, and never for none."""
        calls: list[int] = []

        def counted(x: Array) -> Array:
            calls.append(len(x))
            return self.predict(x)

        self.again(fitted).score(mixed(300, seed=11), counted)
        assert 1 <= len(calls) <= 3
        calls.clear()
        self.again(fitted).score(mixed(1, seed=11)[:0], counted)
        assert not calls

    def test_missing_and_unseen_values_are_no_answer(self, fitted: State) -> None:
        """Missing values, infinite ones, constants that differ and unseen categories have finite scores."""
        rows = mixed(6, seed=12)
        rows[0, 0] = np.nan
        rows[1] = np.nan
        rows[2, 0] = np.inf
        rows[3, _CATEGORY] = UNSEEN
        rows[4, _CONSTANT] = 8
        assert np.isfinite(self.again(fitted).score(rows, self.predict).instance).all()

    def test_mistakes_are_the_callers(self, fitted: State) -> None:
        """Rows of another width, no reference, and states of others raise InvalidRequest."""
        with pytest.raises(InvalidRequest, match="columns"):
            self.again(fitted).score(np.zeros((3, len(MIXED) + 1)), self.predict)
        with pytest.raises(InvalidRequest, match="needs a reference"):
            self.fit(mixed(1, seed=0)[:0])
        refused(self.detector, fitted, MIXED)


def refused(detector: type[Outlier | Adversarial], state: State, features: Features) -> None:
    """States that are not of a detector raise InvalidRequest."""
    other = {**state.parameters, "method": "another"}
    with pytest.raises(InvalidRequest, match="another"):
        detector.restore(State(parameters=other, arrays=state.arrays), features)
    with pytest.raises(InvalidRequest, match="columns"):
        detector.restore(state, Features(columns=(*features.columns, Feature(name="more"))))
    with pytest.raises(InvalidRequest):
        detector.restore(State(parameters=state.parameters), features)
    with pytest.raises(InvalidRequest):
        detector.restore(State(arrays=state.arrays), features)


def same(one: Scores, other: Scores) -> None:
    """Asserts that scores are equal bit by bit."""
    np.testing.assert_array_equal(one.instance, other.instance)
    assert (one.feature is None) == (other.feature is None)
    if one.feature is not None and other.feature is not None:
        np.testing.assert_array_equal(one.feature, other.feature)
