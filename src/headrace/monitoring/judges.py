"""One detector of one watched model version: what it has seen, what it said, and what it keeps. `stream` feeds them.

There is one class per way of being fed: rows as they come (outliers, adversarial inputs), rows one after the other with
an alarm (drift online), whole windows (drift tests), and windows of which facts are told (performance, bias). The
statistics are those of `detectors`; a judge only hands them their rows and remembers.
"""

from __future__ import annotations

import heapq
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from headrace.detectors.base import Adversarial, DriftOnline, DriftTest, Outlier, Predict, Scores, State, Step
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.monitoring import verdicts
from headrace.monitoring.alerts import Alerts, Transition
from headrace.monitoring.verdicts import Record, Subject
from headrace.monitoring.window import Columns, Full
from headrace.payload import Array
from headrace.trust.folder import Folder
from headrace.trust.rows import fed
from headrace.trust.spec import Alert, DetectorSpec

HISTORY: Final = 200
"""Verdicts that are remembered of each detector."""
RECENT: Final = 4096
"""Scores that are remembered of each detector of rows."""
WORST: Final = 20
"""Odd rows that are remembered, for a day."""
_DAY: Final = 86_400.0
_SLOW_SECONDS: Final = 0.5
_REST: Final = 3.0

R = TypeVar("R")


class Judge(ABC):
    """What all share: counts, history, alerts, and never harming the others."""

    def __init__(self, subject: Subject, spec: DetectorSpec) -> None:
        self.subject, self.spec = subject, spec
        self.alerts = Alerts(alert_of(spec), model=subject.model, version=subject.version, detector=spec.name)
        self.history: deque[Record] = deque(maxlen=HISTORY)
        """Verdicts on windows, the oldest first."""
        self.windows = 0
        """Verdicts on windows since the state began."""
        self.drifts = 0
        """Those of them that were drift."""
        self.rows = 0
        """Rows that it was given."""
        self.errors = 0
        """Calls that raised."""
        self.error = ""
        """What the last of them said."""
        self.skipped = 0
        """Rows that it was not given, because it is slow and others waited."""
        self.seconds = 0.0
        """Time spent in it."""
        self.busy_since: float | None = None
        """On `time.monotonic`: it works now, since then."""
        self._rests_until = 0.0
        self._calls = 0

    @property
    def is_labelled(self) -> bool:
        """Whether it is fed rows whose truth is known, and no others."""
        return self.spec.on == "errors" or self.spec.method == "realised"

    @property
    def needs_answers(self) -> bool:
        """Whether its windows need what the model said of each row."""
        return self.spec.on != "inputs" or self.spec.kind in {"performance", "bias"}

    def attempt(self, rows: int, work: Callable[[], R], *, pressed: bool = False) -> R | None:
        """Do something with the detector. What it raises is counted and told in the status, and is None.

        A call that takes long is followed by a rest of three times as long, if others wait (`pressed`): the rows that
        come meanwhile are counted as skipped. So no detector takes more than a quarter of the time from others.
        """
        started = time.monotonic()
        if pressed and started < self._rests_until:
            self.skipped += rows
            return None
        self.busy_since = started
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever a detector raises is its own
            self.errors += 1
            self.error = f"{type(error).__name__}: {error}"
            return None
        finally:
            self.busy_since = None
            took = time.monotonic() - started
            self.seconds += took
            self._calls += 1
            if took > _SLOW_SECONDS and self._calls > 1:  # the first call imports what it needs
                self._rests_until = started + took * (1 + _REST)

    @abstractmethod
    def window(self, full: Full) -> Record | None:
        """The verdict on one window; None: this one says nothing of it."""

    def told(self, record: Record) -> Transition | None:
        """Remember a verdict on a window, and count it towards an alert."""
        self.history.append(record)
        self.windows += 1
        is_drift = bool(record["data"].get("is_drift"))
        self.drifts += is_drift
        return self.alerts.take(is_drift, now=record["time"], window=record["window"])

    def status(self) -> dict[str, Any]:
        """For people and for metrics."""
        latest = self.history[-1] if self.history else None
        return {
            "name": self.spec.name,
            "kind": self.spec.kind,
            "method": self.spec.method,
            "on": self.spec.on,
            "online": self.spec.online,
            "alert": self.alerts.current,
            "threshold": self.spec.threshold,
            "false_positive_rate": self.spec.false_positive_rate,
            "rows": self.rows,
            "windows": self.windows,
            "drift_windows": self.drifts,
            "latest": latest,
            "errors": self.errors,
            "error": self.error,
            "skipped_rows": self.skipped,
            "seconds": round(self.seconds, 6),
        }

    def state(self) -> State:
        """What `restore` goes on from."""
        parameters = {
            "alerts": self.alerts.state(),
            "history": list(self.history),
            "windows": self.windows,
            "drifts": self.drifts,
            "rows": self.rows,
        }
        return State(parameters=parameters)

    def restore(self, state: State) -> None:
        """Go on from a state of the same detector.

        Raises:
            LoadFailed, InvalidRequest: it is not.
        """
        told = state.parameters
        self.alerts.restore(told["alerts"])
        self.history.extend(told["history"])
        self.windows, self.drifts, self.rows = int(told["windows"]), int(told["drifts"]), int(told["rows"])


def alert_of(spec: DetectorSpec) -> Alert:
    """When its verdicts are an alert. A detector that is fed row by row was calibrated to the run length between two
    false alarms, so that one alarm of it is an alert, where the folder does not say otherwise.
    """
    if spec.online and spec.kind == "drift" and spec.alert == Alert():
        return Alert(windows=1, at_least=1)
    return spec.alert


class RowJudge(Judge):
    """A detector of rows."""

    def __init__(self, subject: Subject, spec: DetectorSpec, folder: Folder, predict: Predict) -> None:
        super().__init__(subject, spec)
        if spec.threshold is None:
            raise InvalidRequest(f"detector '{spec.name}' has no threshold, so no row is odd; fit it again")
        detector = folder.detector(spec.name)
        if not isinstance(detector, Outlier | Adversarial):
            raise InvalidRequest(f"detector '{spec.name}': method '{spec.method}' scores no rows")
        self._detector, self._predict = detector, predict
        self._features = folder.features(spec.on)
        self.threshold = spec.threshold
        self.flagged = 0
        """Rows that were odd."""
        self.recent: deque[float] = deque(maxlen=RECENT)
        """The newest scores."""
        self.worst: list[dict[str, Any]] = []
        """The oddest rows of a day, the oddest first."""

    def score(self, values: Array, columns: Columns) -> Array:
        """Score rows and remember: `[n]` FP64.

        Args:
            values: What it is fed, `[n, f]`.
            columns: All of these rows: `x`, `id`, `time`, `prediction`.
        """
        detector = self._detector
        scores = detector.score(values, self._predict) if isinstance(detector, Adversarial) else detector.score(values)
        odd = scores.instance > self.threshold
        self.rows += len(odd)
        self.flagged += int(odd.sum())
        self.recent.extend(scores.instance[-RECENT:].tolist())
        if odd.any():
            self._keep_worst(scores, odd, columns)
        return scores.instance

    def _keep_worst(self, scores: Scores, odd: Array, columns: Columns) -> None:
        instance = np.where(odd, scores.instance, -math.inf)
        chosen = np.argsort(-instance, kind="stable")[: min(WORST, int(odd.sum()))]
        fresh: list[dict[str, Any]] = [
            {
                "score": float(instance[at]),
                "id": str(columns["id"][at]),
                "time": float(columns["time"][at]),
                "prediction": float(columns["prediction"][at]),
                "row": columns["x"][at].tolist() if columns["x"].dtype != object else [str(columns["x"][at])],
                "features": None if scores.feature is None else scores.feature[at].tolist(),
            }
            for at in chosen.tolist()
        ]
        newest = max(each["time"] for each in fresh)
        alive = [each for each in self.worst if each["time"] > newest - _DAY]
        self.worst = heapq.nlargest(WORST, [*alive, *fresh], key=lambda each: each["score"])

    def window(self, full: Full) -> Record | None:
        """Whether more rows of a window were odd than expected."""
        scores = full.columns.get(f"score:{self.spec.name}")
        known = np.isfinite(scores) if scores is not None else np.zeros(0, np.bool_)
        if scores is None or not known.any():
            return None
        return verdicts.of_rate(self.subject, self.spec, scores[known] > self.threshold, scores[known], full)

    def status(self) -> dict[str, Any]:
        """With the counts of odd rows."""
        recent = np.array(self.recent)
        recent = recent[np.isfinite(recent)]
        return super().status() | {
            "flagged_rows": self.flagged,
            "rate": self.flagged / self.rows if self.rows else None,
            "score_last": float(recent[-1]) if len(recent) else None,
            "score_mean": float(recent.mean()) if len(recent) else None,
        }

    def state(self) -> State:
        """With scores, and what the detector learnt."""
        common = super().state()
        arrays = {"recent": np.array(self.recent, np.float64)}
        parameters = {**common.parameters, "flagged": self.flagged, "worst": self.worst}
        return _with_detector(State(parameters=parameters, arrays=arrays), self._detector)

    def restore(self, state: State) -> None:
        """See Judge."""
        super().restore(state)
        self.flagged = int(state.parameters["flagged"])
        self.worst = list(state.parameters["worst"])
        self.recent.extend(state.arrays["recent"].tolist())
        self._detector = _restored(self._detector, state, self._features)


class OnlineJudge(Judge):
    """A detector of drift that is fed row by row. Its verdict on a window is whether it alarmed there; each alarm is
    told at once, too, as a verdict on the rows since the last one.
    """

    def __init__(self, subject: Subject, spec: DetectorSpec, folder: Folder) -> None:
        super().__init__(subject, spec)
        detector = folder.detector(spec.name)
        if not isinstance(detector, DriftOnline):
            raise InvalidRequest(f"detector '{spec.name}': method '{spec.method}' is not fed row by row")
        self._detector = detector
        self._features = folder.features(spec.on)
        self._steps: list[Step] = []
        self.alarms = 0
        """Since the state began."""

    def step(self, values: Array, columns: Columns) -> Record | None:
        """Feed rows; the verdict if it alarmed at one of them."""
        step = self._detector.step(values)
        self.rows += len(values)
        quiet = step if not step.is_drift else msgspec.structs.replace(step, is_drift=False, at=())
        self._steps = [quiet]  # what alarmed is told below, and need not be told again with its window
        if not step.is_drift:
            return None
        self.alarms += len(step.at)
        last = step.at[-1] + 1
        rows = {name: array[:last] for name, array in columns.items()}
        times = rows["time"]
        full = Full(columns=rows, number=self.alarms, start=float(times[0]), end=float(times[-1]))
        record = verdicts.of_step(self.subject, self.spec, [step], full)
        record["window"] += "-alarm"
        record["data"]["at"] = [str(columns["id"][at]) for at in step.at]
        return record

    def window(self, full: Full) -> Record | None:
        """That there was no alarm since the last verdict."""
        steps, self._steps = self._steps, []
        return verdicts.of_step(self.subject, self.spec, steps, full) if steps else None

    def status(self) -> dict[str, Any]:
        """With the number of alarms."""
        return super().status() | {"alarms": self.alarms}

    def state(self) -> State:
        """With what the detector learnt."""
        common = super().state()
        return _with_detector(State(parameters={**common.parameters, "alarms": self.alarms}), self._detector)

    def restore(self, state: State) -> None:
        """See Judge."""
        super().restore(state)
        self.alarms = int(state.parameters["alarms"])
        self._detector = _restored(self._detector, state, self._features)


class TestJudge(Judge):
    """A test between the reference and a window."""

    def __init__(self, subject: Subject, spec: DetectorSpec, folder: Folder) -> None:
        super().__init__(subject, spec)
        detector = folder.detector(spec.name)
        if not isinstance(detector, DriftTest):
            raise InvalidRequest(f"detector '{spec.name}': method '{spec.method}' tests no windows")
        self._detector = detector

    def window(self, full: Full) -> Record | None:
        """Whether a window differs from the reference."""
        values = values_of(self.spec, full.columns)
        if values is None:
            return None
        self.rows += len(values)
        return verdicts.of_drift(self.subject, self.spec, self._detector.test(values), full)


class FactsJudge(Judge):
    """Performance and bias: what was measured over a window."""

    def __init__(
        self, subject: Subject, spec: DetectorSpec, measure: Callable[[Columns], Mapping[str, Any] | None]
    ) -> None:
        super().__init__(subject, spec)
        self._measure = measure
        self._known: list[Mapping[str, Any]] = []

    def learn(self, full: Full) -> None:
        """Measure a window of rows whose truth is known: of bias, what only the truth shows is told beside what the
        answers alone show, with the next window.
        """
        facts = self._measure(full.columns)
        self._known = [] if facts is None else list(facts.get("groups", ()))

    def window(self, full: Full) -> Record | None:
        """What was measured, with `is_drift` where it is worse than it may be."""
        facts = self._measure(full.columns)
        if facts is None:
            return None
        self.rows += full.rows
        for group, known in zip(facts.get("groups", ()), self._known, strict=False):
            truths = {name: known["metrics"][name] for name in ("eod", "aod") if name in known["metrics"]}
            group["metrics"].update(truths)
            group["labelled"] = known["labelled"]
        return verdicts.of_facts(self.subject, self.spec, facts, full)


def values_of(spec: DetectorSpec, columns: Columns) -> Array | None:
    """What a detector is fed of rows, `[n, f]` FP64; None: the rows have it not.

    Of `outliers`, the flags of the outlier detector that its parameter `of` names, or of the first; of `errors`, 1
    where a class was wrong, and how far off a number was.
    """
    if spec.on == "outliers":
        of = spec.parameters.get("of", "")
        flags = columns.get(f"outlier:{of}" if of else "outlier")
        return None if flags is None else flags.astype(np.float64).reshape(-1, 1)
    if spec.on == "errors":
        wrong = columns.get("error")
        return None if wrong is None else wrong.reshape(-1, 1)
    return fed(spec.on, x=columns["x"], answers=columns.get("answers"), predictions=columns.get("prediction"))


_DETECTOR: Final = "detector/"

D = TypeVar("D", Outlier, Adversarial, DriftOnline, Outlier | Adversarial)


def _with_detector(state: State, detector: Outlier | Adversarial | DriftOnline) -> State:
    if not detector.ONLINE:
        return state
    learnt = detector.state()
    return State(
        parameters={**state.parameters, "detector": dict(learnt.parameters)},
        arrays={**state.arrays, **{_DETECTOR + name: array for name, array in learnt.arrays.items()}},
    )


def _restored(detector: D, state: State, features: Features) -> D:
    if not detector.ONLINE or "detector" not in state.parameters:
        return detector
    arrays = {name[len(_DETECTOR) :]: array for name, array in state.arrays.items() if name.startswith(_DETECTOR)}
    return detector.restore(State(parameters=state.parameters["detector"], arrays=arrays), features)
