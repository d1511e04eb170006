"""What every detector that is fed row by row keeps: inherit `DriftOnlineConformance` in a pytest class.

class TestAdwin(DriftOnlineConformance):
    detector = Adwin
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from headrace.detectors.base import DriftOnline, State
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features
from headrace.payload import EMPTY, Array
from headrace.testing.detectors import through_files

MIXED = Features(
    columns=(
        Feature(name="usual"),
        Feature(name="skew"),
        Feature(name="always"),
        Feature(name="kind", kind="category", categories=("oak", "elm", "ash")),
    )
)
"""Three numbers, one of which is 7 in every row, and a category."""


class DriftOnlineConformance(abc.ABC):
    """What a `DriftOnline` keeps."""

    detector: ClassVar[type[DriftOnline]]
    parameters: ClassVar[Mapping[str, Any]] = EMPTY
    """Of `fit`."""
    ert: ClassVar[float] = 100.0
    calibrated: ClassVar[bool] = True
    """Its run time is the one asked for."""
    longest_delay: ClassVar[int] = 60
    """Rows to an alarm after a shift of a deviation and a half."""

    @staticmethod
    def usual(rows: int, *, seed: int) -> Array:
        """Rows of the reference's law."""
        rng = np.random.default_rng(seed)
        kinds = rng.choice(3, size=rows, p=[0.5, 0.3, 0.2])
        return np.column_stack([rng.normal(size=rows), 100 * rng.exponential(size=rows), np.full(rows, 7.0), kinds])

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls) -> State:
        """The state of a detector of 600 usual rows."""
        return cls.fit(cls.usual(600, seed=0)).state()

    @classmethod
    def fit(cls, x: Array, *, seed: int = 0) -> DriftOnline:
        """Fit one."""
        return cls.detector.fit(x, MIXED, ert=cls.ert, seed=seed, **cls.parameters)

    def again(self, state: State) -> DriftOnline:
        """A detector of its own."""
        return self.detector.restore(through_files(state), MIXED)

    def test_it_runs_as_long_as_expected(self) -> None:
        """Without a change, rows per alarm over streams of ERT rows are ERT, within four standard errors and the
        calibration's own.
        """
        if not self.calibrated:
            pytest.skip("its run time is what its parameters make it")
        rows = alarms = 0
        for fit in range(4):
            state = self.fit(self.usual(600, seed=10 + fit), seed=fit).state()
            for run in range(20):
                found = self.again(state).step(self.usual(int(self.ert), seed=1000 + 20 * fit + run))
                rows += found.at[0] + 1 if found.at else int(self.ert)
                alarms += found.is_drift
        error = 4 * (1 / max(alarms, 1) + 0.02 / 4) ** 0.5
        assert self.ert * np.exp(-error) < rows / max(alarms, 1) < self.ert * np.exp(error)

    def test_it_alarms_soon_after_a_change(self, fitted: State) -> None:
        """A shift that begins after some rows is found within `longest_delay`, most of the time."""
        delays = []
        for run in range(12):
            rows = self.usual(40 + 2 * self.longest_delay, seed=100 + run)
            rows[40:, 0] += 1.5
            found = self.again(fitted).step(rows)
            after = [at - 40 for at in found.at if at >= 40]
            delays.append(after[0] if after else 2 * self.longest_delay)
        assert np.median(delays) <= self.longest_delay

    def test_one_row_at_a_time_is_as_many_at_once(self, fitted: State) -> None:
        """Alarms, statistic, threshold and time do not depend on how rows are grouped."""
        rows = self.usual(200, seed=3)
        rows[90:, 0] += 2.0
        whole, single, halves = self.again(fitted), self.again(fitted), self.again(fitted)
        together = whole.step(rows)
        alarms = []
        step = single.step(rows[:0])
        for at in range(len(rows)):
            step = single.step(rows[at : at + 1])
            assert step.at in {(), (0,)}
            alarms += [at] * step.is_drift
        first, second = halves.step(rows[:77]), halves.step(rows[77:])
        assert together.at == tuple(alarms) == (*first.at, *(77 + at for at in second.at))
        for other in (step, second):
            assert other.statistic == pytest.approx(together.statistic, rel=1e-8, abs=1e-10)
            assert other.threshold == together.threshold
            assert other.time == together.time

    def test_a_restored_one_goes_on_in_the_middle(self, fitted: State) -> None:
        """A state that was kept as JSON and npz between two rows gives the same later steps."""
        rows = self.usual(160, seed=4)
        rows[100:, 0] += 2.0
        detector = self.again(fitted)
        for start, stop in ((0, 45), (45, 101), (101, 160)):
            state = detector.state()
            assert all(array.dtype.kind in "biuf" for array in state.arrays.values())
            other = self.again(state)
            one, two = detector.step(rows[start:stop]), other.step(rows[start:stop])
            assert one.at == two.at
            assert one.time == two.time
            assert one.statistic == pytest.approx(two.statistic, rel=1e-9, abs=1e-12)
            detector = other

    def test_same_seed_gives_the_same(self, fitted: State) -> None:
        """Two fits on the same rows step alike, and leave the rows as they were."""
        x = self.usual(600, seed=0)
        before = x.copy()
        rows = self.usual(150, seed=5)
        one, two = self.fit(x).step(rows), self.again(fitted).step(rows)
        assert one.at == two.at
        assert one.statistic == pytest.approx(two.statistic, rel=1e-9, abs=1e-12)
        np.testing.assert_array_equal(x, before)

    def test_time_and_alarms_are_of_the_rows(self, fitted: State) -> None:
        """Time counts rows since the last alarm, alarms ascend within the batch, and no rows change nothing."""
        detector = self.again(fitted)
        rows = self.usual(120, seed=6)
        found = detector.step(rows)
        assert list(found.at) == sorted(set(found.at))
        assert found.time == 120 - 1 - found.at[-1] if found.at else found.time == 120
        nothing = detector.step(rows[:0])
        assert (nothing.at, nothing.is_drift, nothing.time) == ((), False, found.time)

    def test_missing_values_are_no_answer(self, fitted: State) -> None:
        """Rows with missing values, all missing, infinite or unseen ones are steps with finite statistics."""
        rows = self.usual(90, seed=7)
        rows[::3, 0] = np.nan
        rows[5] = np.nan
        rows[40, 1] = np.inf
        rows[50, 3] = UNSEEN
        found = self.again(fitted).step(rows)
        assert np.isfinite(found.statistic)
        x = self.usual(600, seed=0)
        x[::5, 1] = np.nan
        assert np.isfinite(self.fit(x).step(rows).statistic)

    def test_a_constant_that_moves_is_drift(self, fitted: State) -> None:
        """A column that never varied in the reference and now does alarms, upwards and downwards."""
        if not self.calibrated:
            pytest.skip("it knows nothing of the reference")
        for shift in (4.0, -4.0):
            rows = self.usual(2 * self.longest_delay, seed=8)
            rows[:, 2] += shift
            assert self.again(fitted).step(rows).is_drift

    def test_other_columns_are_the_callers_mistake(self, fitted: State) -> None:
        """Rows of another width, no rows to fit and run times that are none raise InvalidRequest."""
        wide = np.zeros((3, len(MIXED) + 1))
        with pytest.raises(InvalidRequest, match="columns"):
            self.again(fitted).step(wide)
        with pytest.raises(InvalidRequest, match="columns"):
            self.fit(wide)
        with pytest.raises(InvalidRequest, match="needs a reference"):
            self.fit(self.usual(10, seed=0)[:0])
        if self.calibrated:
            with pytest.raises(InvalidRequest, match="ert"):
                self.detector.fit(self.usual(600, seed=0), MIXED, ert=0.5)

    def test_other_states_are_refused(self, fitted: State) -> None:
        """A state of another method, of other columns, or that lacks a part raises InvalidRequest."""
        other = {**fitted.parameters, "method": "another"}
        with pytest.raises(InvalidRequest, match="another"):
            self.detector.restore(State(parameters=other, arrays=fitted.arrays), MIXED)
        more = Features(columns=(*MIXED.columns, Feature(name="more")))
        with pytest.raises(InvalidRequest, match="columns"):
            self.detector.restore(fitted, more)
        with pytest.raises(InvalidRequest):
            self.detector.restore(State(parameters=fitted.parameters), MIXED)
