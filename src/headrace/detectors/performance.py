"""How good a model's answers are: realised, where the truth came later, and estimated without it. Called by windows.

Classes are positions, 0 to k - 1, as FP64; truth that is NaN is not known, and its row is left out. A label that is no
class of the model (`features.UNSEEN`) is a wrong answer, and is left out where probabilities are judged: none was
given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import msgspec
import numpy as np
from scipy import special
from scipy import stats as scipy_stats

from headrace.detectors import intervals
from headrace.detectors.base import State
from headrace.detectors.cells import cut
from headrace.errors import InvalidRequest
from headrace.payload import EMPTY, Array

RESAMPLES = 400
LEAST_LABELS = 30
CROSSED = 5


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its interval."""

    value: float
    low: float
    high: float
    rows: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A metric that the truth is not known for."""

    value: float
    low: float
    high: float
    """The band in which the realised one is, if the probabilities mean what they meant in the reference."""
    reference: float
    """What it was in the reference, where the truth was known."""
    reference_low: float
    reference_high: float
    """The band in which it is in a window of so many rows when nothing changed."""
    alarm: bool
    """The estimate is outside of the reference's band."""
    rows: int


def realised(
    task: Literal["classification", "regression"],
    classes: int,
    probabilities: Array | None,
    predicted: Array,
    labels: Array,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Metrics of answers whose truth is known.

    Classification: `accuracy` (Wilson's interval); `precision`, `recall`, `f1` as means over the classes that come (of
    draws of the confusion matrix); with probabilities `roc_auc`, of more than two classes the mean of one against the
    rest (DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, by placements), `log_loss` and `brier` (normal
    intervals).
    Regression: `mae`, `rmse`, `r2` (normal intervals, of the last two by the delta method).

    Args:
        task: Which.
        classes: How many there are; 0 for regression.
        probabilities: `[n, k]`, or of two classes also `[n]` or `[n, 1]` of the second; None: not known.
        predicted: `[n]` FP64: classes, or numbers.
        labels: `[n]` FP64, the truth; NaN: not known.
        confidence: Of the intervals.
        seed: Of the resampling.

    Returns:
        By name; empty where no truth is known. A metric that cannot be had (the area under the curve of one class, R2
        of constant truth) is left out.

    Raises:
        InvalidRequest: arrays of different lengths.
    """
    predicted, labels = np.asarray(predicted, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if len(predicted) != len(labels) or (probabilities is not None and len(probabilities) != len(labels)):
        raise InvalidRequest(
            f"performance: {len(predicted)} predictions and {len(labels)} labels are to be as many as rows with"
            " probabilities, if there are any"
        )
    known = ~np.isnan(labels) & ~np.isnan(predicted)
    predicted, labels = predicted[known], labels[known]
    if not labels.size:
        return {}
    if task == "regression":
        return _regression(predicted, labels, confidence)
    count = int((predicted == labels).sum())
    low, high = intervals.wilson(count, labels.size, confidence)
    found = {"accuracy": Metric(value=count / labels.size, low=low, high=high, rows=labels.size)}
    found |= _by_class(predicted, labels, classes, confidence, seed)
    if probabilities is None:
        return found
    p = columns(probabilities)[known]
    given = (labels >= 0) & (labels < p.shape[1]) & ~np.isnan(p).any(axis=1)
    return found | _of_probabilities(p[given], labels[given].astype(np.int64), confidence)


def columns(probabilities: Array) -> Array:
    """Probabilities `[n, k]` of what may be those of the second of two classes only, `[n]` or `[n, 1]`."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim == 1:
        p = p[:, None]
    return np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p


def _regression(predicted: Array, labels: Array, confidence: float) -> dict[str, Metric]:
    errors = predicted - labels
    squares = errors**2
    square = _mean(squares, confidence)
    found = {
        "mae": _mean(np.abs(errors), confidence),
        "rmse": Metric(
            value=square.value**0.5, low=max(square.low, 0.0) ** 0.5, high=square.high**0.5, rows=square.rows
        ),
    }
    spread = (labels - labels.mean()) ** 2
    variance = float(spread.mean())
    if variance > 0:
        value = 1 - square.value / variance
        # The influence of each row on 1 - MSE / variance.
        influence = -(squares - square.value) / variance + square.value / variance**2 * (spread - variance)
        half = intervals.normal(confidence) * float(influence.std()) / labels.size**0.5
        found["r2"] = Metric(value=value, low=value - half, high=min(value + half, 1.0), rows=labels.size)
    return found


def _mean(values: Array, confidence: float) -> Metric:
    """The mean with Student's interval; of one value it is infinite."""
    value = float(values.mean())
    if values.size < 2:
        return Metric(value=value, low=-np.inf, high=np.inf, rows=1)
    quantile = float(special.stdtrit(values.size - 1, 0.5 + confidence / 2))
    half = quantile * float(values.std(ddof=1)) / values.size**0.5
    return Metric(value=value, low=value - half, high=value + half, rows=values.size)


def _by_class(predicted: Array, labels: Array, classes: int, confidence: float, seed: int) -> dict[str, Metric]:
    # A label or an answer that is no class has a row and a column of its own, which no mean is over.
    true = np.where((labels >= 0) & (labels < classes), labels, classes).astype(np.int64)
    said = np.where((predicted >= 0) & (predicted < classes), predicted, classes).astype(np.int64)
    size = classes + 1
    counts = np.bincount(true * size + said, minlength=size * size)
    # Shares of the cells as they may be (the posterior of Perks' prior, one row over all cells; Gelman et al. 2013,
    # Bayesian Data Analysis, section 3.4), not resampled rows: of rows that are all right, these would be all right,
    # too, and the interval would be a point.
    # Of a class that does not come nothing is known, and no mean is over it.
    square = counts.reshape(size, size)
    comes = np.flatnonzero(square.sum(0) + square.sum(1))
    posterior = square[np.ix_(comes, comes)].ravel() + 1.0 / comes.size**2
    cells = (comes[:, None] * size + comes).ravel()
    drawn = np.zeros((RESAMPLES, size * size))
    drawn[:, cells] = np.random.default_rng(seed).dirichlet(posterior, size=RESAMPLES)
    tail = (1 - confidence) / 2
    found: dict[str, Metric] = {}
    seen = macro(counts.reshape(1, size, size).astype(np.float64))
    again = macro(drawn.reshape(-1, size, size).astype(np.float64))
    for name, value in seen.items():
        low, high = np.quantile(again[name], [tail, 1 - tail]).tolist()
        was = float(value[0])
        found[name] = Metric(value=was, low=min(low, was), high=max(high, was), rows=labels.size)
    return found


def macro(confusion: Array) -> dict[str, Array]:
    """`precision`, `recall` and `f1` of confusion matrices `[b, k + 1, k + 1]` (truth, answer), `[b]` each.

    The last row and column are what is no class. Means are over classes that are in the truth or in the answers; a
    class that has none of one of them counts as 0 there, as in scikit-learn.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    hits = np.diagonal(confusion, axis1=1, axis2=2)[:, :-1]
    true, said = confusion.sum(2)[:, :-1], confusion.sum(1)[:, :-1]
    there = np.maximum((true + said > 0).sum(1), 1)

    def mean(of: Array) -> Array:
        found: Array = np.divide(hits, of, out=np.zeros_like(hits), where=of > 0).sum(1) / there
        return found

    return {"precision": mean(said), "recall": mean(true), "f1": mean((true + said) / 2)}


def _of_probabilities(p: Array, labels: Array, confidence: float) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    if not labels.size:
        return found
    area = roc_auc(p, labels, confidence)
    if area is not None:
        found["roc_auc"] = area
    own = p[np.arange(labels.size), labels]
    found["log_loss"] = _mean(-np.log(np.clip(own, np.finfo(np.float64).eps, 1.0)), confidence)
    squares = ((p - np.eye(p.shape[1])[labels]) ** 2).sum(1)
    found["brier"] = _mean(squares / 2 if p.shape[1] == 2 else squares, confidence)
    return found


def roc_auc(p: Array, labels: Array, confidence: float = 0.95) -> Metric | None:
    """The area under the curve of probabilities `[n, k]`, the mean of one class against the rest; None: one class only.

    The interval is of the logit, by DeLong's variance of the mean over classes; at 0 and 1, where that variance is 0,
    it is Wilson's of the smallest class.
    """
    rows = labels.size
    wanted = [1] if p.shape[1] == 2 else range(p.shape[1])
    influence = np.zeros(rows)
    total, used, smallest = 0.0, 0, rows
    for each in wanted:
        held = labels == each
        ones = int(held.sum())
        zeros = rows - ones
        if not ones or not zeros:
            continue
        ranks = scipy_stats.rankdata(p[:, each])
        of_ones = (ranks[held] - scipy_stats.rankdata(p[held, each])) / zeros
        of_zeros = 1 - (ranks[~held] - scipy_stats.rankdata(p[~held, each])) / ones
        value = float(of_ones.mean())
        influence[held] += (of_ones - value) / (ones * max(ones - 1, 1)) ** 0.5
        influence[~held] += (of_zeros - value) / (zeros * max(zeros - 1, 1)) ** 0.5
        total, used, smallest = total + value, used + 1, min(smallest, ones, zeros)
    if not used:
        return None
    value = min(max(total / used, 0.0), 1.0)
    spread = float(np.sqrt((influence**2).sum())) / used
    if spread == 0 or not 0 < value < 1:
        low, high = intervals.wilson(value * smallest, smallest, confidence)
    else:
        half = intervals.normal(confidence) * spread / (value * (1 - value))
        low, high = special.expit(special.logit(value) + np.array([-half, half])).tolist()
    return Metric(value=value, low=low, high=high, rows=rows)


class Cbpe:
    """Confidence-based performance estimation: what accuracy, AUC, precision, recall and F1 are, without the truth.

    A calibrated probability says how often the answer is right; its sum over a window is how many are. (Garg et al.
    2022, ICLR, average confidence; Bialek, Kuberski, Perrakis and Bifet 2024, arXiv 2401.08348 and NannyML for the
    expected confusion matrix.) It sees a drift of the inputs, as long as P(y | x) is as it was. A CONCEPT DRIFT, in
    which the same inputs have other truths, IS INVISIBLE to it: only labels show that.

    Calibration is of each class against the rest, isotonic (Zadrozny and Elkan 2002) or Platt's (1999, a logistic curve
    of the logit), normalised to sum to one. It is fitted on the rows whose metrics are the reference, and follows them
    too closely: of a hundred rows the area under the curve would be estimated .03 too high. So what the estimate is off
    by on the reference itself is taken from it (`offset`).
    """

    def __init__(
        self,
        *,
        curves: list[tuple[Array, Array]],
        metrics: Mapping[str, float],
        spread: Mapping[str, float],
        offset: Mapping[str, float],
        rows: int,
        gaps: Mapping[str, float] = EMPTY,
    ) -> None:
        self.curves = curves
        """Of each class: points of probabilities, ascending, and what they are worth; between them it is straight."""
        self.metrics = metrics
        """Realised on the reference."""
        self.spread = spread
        """The standard deviation of each metric times the root of the number of rows."""
        self.offset = offset
        """By how much each metric of the reference was more than its estimate."""
        self.rows = rows
        self.gaps = gaps
        """How far from the realised metrics of the reference those are that it estimates of rows whose truth the curves
        were fitted without: its own error, which is no drift."""

    @classmethod
    def fit(
        cls,
        probabilities: Array,
        labels: Array,
        *,
        calibration: Literal["isotonic", "platt", "none"] = "isotonic",
        seed: int = 0,
    ) -> Self:
        """Calibrate on rows that the model was not trained on.

        Args:
            probabilities: `[n, k]`, or of two classes `[n]` or `[n, 1]` of the second.
            labels: `[n]` FP64, the true classes; NaN: not known.
            calibration: How; `none`: the probabilities are right as they are.
            seed: Of the resampling.

        Raises:
            InvalidRequest: fewer than 30 rows with a truth, truth of one class only, or another calibration.
        """
        p, labels = columns(probabilities), np.asarray(labels, dtype=np.float64)
        if len(p) != len(labels):
            raise InvalidRequest(f"cbpe: {len(p)} rows of probabilities and {len(labels)} labels are to be as many")
        known = (labels >= 0) & (labels < p.shape[1]) & ~np.isnan(p).any(axis=1)
        p, true = p[known], labels[known].astype(np.int64)
        if true.size < LEAST_LABELS:
            raise InvalidRequest(f"cbpe needs at least {LEAST_LABELS} rows with a truth, found {true.size}")
        if np.unique(true).size < 2:
            raise InvalidRequest("cbpe needs truth of at least two classes, found one")
        curves = [_curve(p[:, each], true == each, calibration) for each in range(p.shape[1])]
        if p.shape[1] == 2:
            points, worth = curves[1]
            curves[0] = ((1 - points)[::-1].copy(), (1 - worth)[::-1].copy())
        made = cls(curves=curves, metrics={}, spread={}, offset={}, rows=int(true.size))
        said = p.argmax(axis=1)
        values, spread = _expected(made.calibrated(p), p, said, np.random.default_rng(seed))
        found = _realised_values(p, said, true)
        made.metrics = {name: found[name] for name in values if name in found}
        made.offset = {name: found[name] - values[name] for name in made.metrics} if calibration != "none" else {}
        # Curves are too sure of the rows that they were fitted to, most of all where a class has few: what they say of
        # others is told by curves that were fitted without them.
        apart = _crossed(p, true, calibration, seed)
        again, wider = _expected(apart, p, said, np.random.default_rng(seed))
        made.spread = {name: max(spread[name], wider.get(name, 0.0)) * true.size**0.5 for name in made.metrics}
        made.gaps = {name: abs(again.get(name, value) - value) for name, value in made.metrics.items()}
        return made

    def calibrated(self, p: Array) -> Array:
        """Probabilities `[n, k]` as they would be if they were right."""
        found: Array = np.stack([np.interp(p[:, at], *curve) for at, curve in enumerate(self.curves)], axis=1)
        total = found.sum(axis=1, keepdims=True)
        # Where every curve is at 0 nothing is known.
        even: Array = np.full_like(found, 1 / found.shape[1])
        np.divide(found, total, out=even, where=total > 0)
        return even

    def estimate(
        self, probabilities: Array, predicted: Array | None = None, *, deviations: float = 3.0, seed: int = 0
    ) -> dict[str, Estimate]:
        """What the metrics of a window are.

        Args:
            probabilities: `[n, k]` as at `fit`; rows with NaN are left out.
            predicted: `[n]`, the classes said; None: the likeliest.
            deviations: Standard deviations to each end of both bands.
            seed: Of the drawing of truths, from which bands come.

        Returns:
            By name: `accuracy`, `precision`, `recall`, `f1`, `roc_auc`; empty without rows.

        Raises:
            InvalidRequest: another number of classes or of predictions.
        """
        p = columns(probabilities)
        if p.shape[1] != len(self.curves):
            raise InvalidRequest(f"cbpe: expected probabilities of {len(self.curves)} classes, found {p.shape[1]}")
        if predicted is not None and len(predicted) != len(p):
            raise InvalidRequest(f"cbpe: {len(p)} rows and {len(predicted)} predictions are to be as many")
        known = ~np.isnan(p).any(axis=1)
        said = p[known].argmax(axis=1) if predicted is None else np.asarray(predicted)[known].astype(np.int64)
        p = p[known]
        if not len(p):
            return {}
        values, spread = _expected(self.calibrated(p), p, said, np.random.default_rng(seed))
        found: dict[str, Estimate] = {}
        for name, expected in values.items():
            if name not in self.metrics:
                continue
            reference = self.metrics[name]
            value = min(max(expected + self.offset.get(name, 0.0), 0.0), 1.0)
            # The curves are known from so many rows only.
            half = deviations * (spread[name] ** 2 + self.spread[name] ** 2 / self.rows) ** 0.5
            usual = deviations * self.spread[name] * (1 / len(p) + 1 / self.rows) ** 0.5 + self.gaps.get(name, 0.0)
            found[name] = Estimate(
                value=value,
                low=max(value - half, 0.0),
                high=min(value + half, 1.0),
                reference=reference,
                reference_low=max(reference - usual, 0.0),
                reference_high=min(reference + usual, 1.0),
                alarm=abs(value - reference) > usual,
                rows=len(p),
            )
        return found

    def state(self) -> State:
        """What `restore` makes the same estimator of."""
        return State(
            parameters={
                "method": "cbpe",
                "metrics": dict(self.metrics),
                "spread": dict(self.spread),
                "offset": dict(self.offset),
                "rows": self.rows,
                "gaps": dict(self.gaps),
            },
            arrays={
                "points": np.concatenate([points for points, _ in self.curves]),
                "worth": np.concatenate([worth for _, worth in self.curves]),
                "lengths": np.array([points.size for points, _ in self.curves], dtype=np.int64),
            },
        )

    @classmethod
    def restore(cls, state: State) -> Self:
        """The estimator that had this state.

        Raises:
            InvalidRequest: the state is not of one.
        """
        found, arrays = state.parameters, state.arrays
        if found.get("method") != "cbpe" or not {"points", "worth", "lengths"} <= set(arrays):
            raise InvalidRequest(f"cbpe: the state is of method '{found.get('method')}', or lacks its arrays")
        points, worth = cut(arrays["points"], arrays["lengths"]), cut(arrays["worth"], arrays["lengths"])
        return cls(
            curves=list(zip(points, worth, strict=True)),
            metrics=dict(found["metrics"]),
            spread=dict(found["spread"]),
            offset=dict(found["offset"]),
            rows=int(found["rows"]),
            gaps=dict(found.get("gaps", {})),
        )


def _crossed(p: Array, true: Array, calibration: str, seed: int) -> Array:
    """Calibrated probabilities of each row by curves that were fitted without it, in fifths of each class."""
    order = np.random.default_rng(seed).permutation(true.size)
    order = order[np.argsort(true[order], kind="stable")]
    fifth = np.empty(true.size, dtype=np.int64)
    fifth[order] = np.arange(true.size) % CROSSED
    found = np.empty(p.shape)
    for each in range(CROSSED):
        rest, own = fifth != each, fifth == each
        curves = [_curve(p[rest, at], true[rest] == at, calibration) for at in range(p.shape[1])]
        if p.shape[1] == 2:
            points, worth = curves[1]
            curves[0] = ((1 - points)[::-1].copy(), (1 - worth)[::-1].copy())
        found[own] = Cbpe(curves=curves, metrics={}, spread={}, offset={}, rows=int(rest.sum())).calibrated(p[own])
    return found


def _curve(p: Array, held: Array, calibration: str) -> tuple[Array, Array]:
    """Points of a calibration curve of probabilities `[n]` of a class that rows are of or not."""
    if calibration == "none" or held.all() or not held.any():
        worth = np.array([0.0, 1.0]) if calibration == "none" else np.full(2, float(held.all()))
        return np.array([0.0, 1.0]), worth
    if calibration == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, held.astype(np.float64))
        return np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(fitted.y_thresholds_, dtype=np.float64)
    if calibration == "platt":
        from sklearn.linear_model import LogisticRegression

        def logit(values: Array) -> Array:
            found: Array = special.logit(np.clip(values, 1e-9, 1 - 1e-9))[:, None]
            return found

        fitted = LogisticRegression(C=1e6).fit(logit(p), held)
        points = np.concatenate([[0.0], special.expit(np.linspace(-12, 12, 193)), [1.0]])
        return points, np.asarray(fitted.predict_proba(logit(points))[:, 1], dtype=np.float64)
    raise InvalidRequest(f"cbpe: calibration is to be isotonic, platt or none, found '{calibration}'")


def _expected(q: Array, p: Array, said: Array, rng: np.random.Generator) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics that answers have on average if q is right, and their standard deviations over drawn truths.

    Args:
        q: `[n, k]`, calibrated.
        p: `[n, k]`, as the model says, by which the area under the curve orders rows.
        said: `[n]`, the classes said.
        rng: Of the truths.
    """
    rows, classes = q.shape
    said = np.where((said >= 0) & (said < classes), said, classes)
    size = classes + 1
    matrix = np.zeros((1, size, size))
    for each in range(size):
        matrix[0, :classes, each] = q[said == each].sum(axis=0)
    values = {"accuracy": float(np.trace(matrix[0])) / rows}
    values |= {name: float(each[0]) for name, each in macro(matrix).items()}
    # Of a large window the deviation is that of some rows, scaled.
    used = np.arange(rows) if rows <= 5000 else np.sort(rng.choice(rows, size=5000, replace=False))
    below = np.cumsum(q[used], axis=1)
    below /= below[:, -1:]
    confusions = np.empty((RESAMPLES, size, size))
    truths = np.empty((RESAMPLES, used.size), dtype=np.int64)
    for at in range(RESAMPLES):
        truths[at] = np.minimum((rng.random(used.size)[:, None] > below).sum(axis=1), classes - 1)
        confusions[at] = np.bincount(truths[at] * size + said[used], minlength=size * size).reshape(size, size)
    drawn = {"accuracy": np.trace(confusions, axis1=1, axis2=2) / used.size, **macro(confusions)}
    areas: list[float] = []
    drawn_areas: list[Array] = []
    for each in [1] if classes == 2 else range(classes):
        area = _expected_area(q[:, each], p[:, each])
        if area is None:
            continue
        held = (truths == each).astype(np.float64)
        ones = held.sum(axis=1)
        zeros = used.size - ones
        won = held @ scipy_stats.rankdata(p[used, each]) - ones * (ones + 1) / 2
        areas.append(area)
        drawn_areas.append(np.divide(won, ones * zeros, out=np.full_like(won, area), where=ones * zeros > 0))
    if areas:
        values["roc_auc"] = float(np.mean(areas))
        drawn["roc_auc"] = np.mean(drawn_areas, axis=0)
    scale = (used.size / rows) ** 0.5
    return values, {name: float(each.std()) * scale for name, each in drawn.items()}


def _expected_area(q: Array, scores: Array) -> float | None:
    """The expected share of pairs, of a row that is of the class and another that is not, that scores order rightly.

    None: no such pair is to be expected.
    """
    distinct, place = np.unique(scores, return_inverse=True)
    ones = np.bincount(place, q, minlength=distinct.size)
    zeros = np.bincount(place, 1 - q, minlength=distinct.size)
    itself = float((q * (1 - q)).sum())  # a row is no pair with itself, which would count as a tie
    pairs = float(ones.sum() * zeros.sum()) - itself
    if pairs <= 1e-12:
        return None
    lower = np.cumsum(zeros) - zeros
    won = float(ones @ (lower + zeros / 2)) - itself / 2
    return min(max(won / pairs, 0.0), 1.0)


def _realised_values(p: Array, said: Array, true: Array) -> dict[str, float]:
    classes = p.shape[1]
    size = classes + 1
    matrix = np.bincount(true * size + said, minlength=size * size).reshape(1, size, size)
    found = {"accuracy": float((said == true).mean())}
    found |= {name: float(each[0]) for name, each in macro(matrix).items()}
    area = roc_auc(p, true)
    return found if area is None else found | {"roc_auc": area.value}
