"""Any drift detector of river by its name, one for each column: method `river`.

For what is not among ours (KSWIN, DDM, EDDM, FHDDM, ...), or to have river's own. It sees the numbers as they are, NaN
left out, and its own parameters decide when it alarms: `ert` is not used, and its run time is what it is (`trust fit`
measures it). EDDM alarms often where nothing has changed.

No pickle is kept: the values since the last alarm are, the last `keep` of them, and a restored detector is fed them
again. That is the same detector as long as no run is longer than that; a longer one goes on with as much of its past as
was kept. After an alarm the detectors of all columns are made anew. river: Montiel et al. (2021, J. Mach. Learn. Res.
22).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from headrace.detectors.base import DriftOnline, State, Step
from headrace.detectors.filled import Parts, kept, matrix, reference
from headrace.errors import InvalidRequest, MissingExtra
from headrace.features import Features
from headrace.payload import EMPTY, Array


class River(DriftOnline):
    """Detectors of river."""

    METHOD = "river"

    def __init__(self, columns: int, *, model: str, options: Mapping[str, Any], keep: int) -> None:
        self.columns = columns
        self.model = model
        self.options = options
        self.keep = keep
        self.time = 0
        self.log: list[Array] = []
        """Rows since the last alarm, in blocks."""
        self.made = _made(model, options, columns)

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        ert: float = 1000.0,  # noqa: ARG003 - its own parameters decide
        seed: int = 0,  # noqa: ARG003 - as an option of the detector, where it has one
        model: str = "ADWIN",
        options: Mapping[str, Any] = EMPTY,
        keep: int = 10_000,
    ) -> Self:
        """See `DriftOnline.fit`.

        Args:
            x: `[n, f]` FP64; only its shape is looked at.
            features: Its columns.
            ert: Not used.
            seed: Not used.
            model: As river calls it: of `river.drift` or `river.drift.binary`.
            options: Keyword arguments of the detector, JSON values.
            keep: Rows for the state.

        Raises:
            InvalidRequest: river has no such detector or it does not take the options, or `keep` is below 1.
            MissingExtra: river is not installed.
        """
        reference(x, features, method=cls.METHOD)
        if keep < 1:
            raise InvalidRequest(f"detector 'river': keep is 1 row or more, got {keep}")
        return cls(len(features), model=model, options=options, keep=keep)

    def step(self, x: Array) -> Step:
        """See `DriftOnline.step`; the statistic is 1 where it has alarmed."""
        x = matrix(x, self.columns, method=self.METHOD)
        alarms: list[int] = []
        start = 0
        for row, values in enumerate(x.tolist()):
            self.time += 1
            if self._takes(values):
                alarms.append(row)
                self.made = _made(self.model, self.options, self.columns)
                self.log, self.time, start = [], 0, row + 1
        if start < len(x):
            self.log.append(x[start:].copy())
            if sum(map(len, self.log)) > 2 * self.keep:
                self.log = [self._kept()]
        last = bool(alarms) and alarms[-1] == len(x) - 1
        return Step(is_drift=bool(alarms), at=tuple(alarms), statistic=float(last), threshold=0.5, time=self.time)

    def _takes(self, values: list[float]) -> bool:
        """Feed one row; whether a detector alarmed."""
        found = False
        for detector, value in zip(self.made, values, strict=True):
            if value == value:  # noqa: PLR0124 - NaN is not
                detector.update(value)
                found = bool(detector.drift_detected) or found
        return found

    def _kept(self) -> Array:
        return np.concatenate([np.empty((0, self.columns)), *self.log])[-self.keep :]

    def state(self) -> State:
        """See `Detector.state`."""
        return kept(
            self.METHOD,
            self.columns,
            {"log": self._kept()},
            model=self.model,
            options=dict(self.options),
            keep=self.keep,
            time=self.time,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """See `Detector.restore`; raises MissingExtra where river is not installed."""
        parts = Parts(state, cls.METHOD, features)
        log = parts.array("log")
        found = cls(
            len(features), model=parts.value("model"), options=parts.value("options"), keep=int(parts.value("keep"))
        )
        for values in log.tolist():
            found._takes(values)
        found.log, found.time = [log], int(parts.value("time"))
        return found


def _made(model: str, options: Mapping[str, Any], columns: int) -> list[Any]:
    try:
        from river import drift
        from river.base import BinaryDriftDetector, DriftDetector
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "detector 'river' needs river, which is not installed; run: pip install 'headrace[river]'"
        ) from error
    known = {
        name: found
        for place in (drift, drift.binary)
        for name, found in vars(place).items()
        if isinstance(found, type) and issubclass(found, DriftDetector | BinaryDriftDetector)
    }
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known))}"
        raise InvalidRequest(f"river has no drift detector '{model}'; {hint}")
    try:
        return [known[model](**options) for _ in range(columns)]
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"river's {model} does not take these options: {error}") from error
