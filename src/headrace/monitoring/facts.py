"""What is measured of a window beside drift: how well the model does, and whom it treats worse. `stream` makes a judge
of each; the statistics are in `detectors.performance` and `detectors.bias`, and here is what is made of them: which
numbers are an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from headrace.errors import NotSupported
from headrace.features import UNSEEN
from headrace.monitoring.window import Columns
from headrace.trust.folder import Folder
from headrace.trust.spec import Bias, DetectorSpec

Measure = Callable[[Columns], Mapping[str, Any] | None]
"""Columns of a window to JSON values: `is_drift`, `reason`, and `metrics` or `groups`; None: nothing can be said."""

_WORSE_ABOVE: Final = frozenset({"mae", "rmse", "log_loss", "brier"})
_JUDGED: Final = ("accuracy", "roc_auc", "f1", "rmse")
_GAPS: Final = ("spd", "di", "eod", "aod")


def measure_of(folder: Folder, spec: DetectorSpec) -> Measure:
    """What a detector of kind performance or bias measures.

    Raises:
        NotSupported: its method is not known.
    """
    if spec.method == "cbpe":
        return _estimated(folder, spec)
    if spec.method == "realised":
        return _realised(folder, spec)
    if spec.method == "groups":
        return _groups(folder)
    raise NotSupported(
        f"{folder.path}: method '{spec.method}' of detector '{spec.name}' measures nothing; there are cbpe, "
        "realised, groups"
    )


def _estimated(folder: Folder, spec: DetectorSpec) -> Measure:
    """Performance without labels. An alarm: an estimate below the band that chance explains."""
    from headrace.detectors.performance import Cbpe

    cbpe = Cbpe.restore(folder.state(spec.name))

    def measure(columns: Columns) -> Mapping[str, Any] | None:
        answers, said = columns.get("answers"), columns.get("prediction")
        if answers is None or said is None:
            return None
        known = ~np.isnan(answers).any(axis=1) & np.isfinite(said) & (said != UNSEEN)
        if not known.any():
            return None
        found = cbpe.estimate(answers[known], said[known], seed=spec.seed)
        worse = [name for name, each in found.items() if each.alarm and each.value < each.reference]
        told = [f"{name} is estimated at {found[name].value:.3g}, was {found[name].reference:.3g}" for name in worse]
        metrics = {
            name: {
                "value": each.value,
                "low": each.low,
                "high": each.high,
                "reference": each.reference,
                "reference_low": each.reference_low,
                "reference_high": each.reference_high,
                "alarm": each.alarm,
            }
            for name, each in found.items()
        }
        return {"is_drift": bool(worse), "reason": "; ".join(told), "metrics": metrics, "rows": int(known.sum())}

    return measure


def _realised(folder: Folder, spec: DetectorSpec) -> Measure:
    """Performance with labels. An alarm: the interval of a main metric is wholly on the worse side of its interval on
    the held-out rows; or, where the folder sets a threshold, of that for the first of them (accuracy, or rmse).
    """
    from headrace.detectors.performance import Metric, realised

    task = folder.schema.task
    classes = len(folder.schema.classes)

    def measured(columns: Columns) -> dict[str, Metric]:
        answers = columns.get("answers")
        if answers is not None and (task == "regression" or np.isnan(answers).all()):
            answers = None
        return realised(task, classes, answers, columns["prediction"], columns["label"], seed=spec.seed)

    reference: dict[str, Metric] = {}
    held, answers = folder.held_out(), folder.held_outputs()
    if held.y is not None and answers is not None and len(answers) == len(held.y):
        said = answers.argmax(axis=1) if task == "classification" else answers[:, 0]
        reference = measured(
            {"answers": answers, "prediction": said.astype(np.float64), "label": held.y.astype(np.float64)}
        )

    def measure(columns: Columns) -> Mapping[str, Any] | None:
        if "label" not in columns or "prediction" not in columns:
            return None
        found = measured(columns)
        told = []
        judged = [name for name in _JUDGED if name in found]
        if spec.threshold is not None:
            bounds = dict.fromkeys(judged[:1], (spec.threshold, spec.threshold))
        else:
            bounds = {name: (reference[name].low, reference[name].high) for name in judged if name in reference}
        for name, (low, high) in bounds.items():
            each = found[name]
            if each.low > high if name in _WORSE_ABOVE else each.high < low:
                was = f"{reference[name].value:.3g}" if name in reference else f"{low:.3g} at worst"
                told.append(f"{name} is {each.value:.3g}, was {was}")
        metrics = {
            name: {"value": each.value, "low": _finite(each.low), "high": _finite(each.high)}
            | ({"reference": reference[name].value} if name in reference else {})
            for name, each in found.items()
        }
        rows = int(np.isfinite(columns["label"]).sum())
        return {"is_drift": bool(told), "reason": "; ".join(told), "metrics": metrics, "rows": rows}

    return measure


def _groups(folder: Folder) -> Measure:
    """Bias by protected attribute. An alarm: the disparate impact is outside of what its attribute allows, and its
    interval says that it is no chance.
    """
    from headrace.detectors.bias import Attribute, groups

    schema = folder.schema
    positions = {value: float(at) for at, value in enumerate(schema.classes)}

    def one(columns: Columns, bias: Bias) -> tuple[dict[str, Any], str]:
        attribute = Attribute(column=bias.attribute, values=bias.privileged, above=bias.above)
        told = groups(
            columns["x"],
            schema.features,
            columns["prediction"],
            columns.get("label"),
            attribute,
            favourable=positions.get(bias.favourable, 1.0),
        )
        metrics: dict[str, Any] = {}
        for name in _GAPS:
            gap = getattr(told, name)
            if gap is not None:
                metrics[name] = {"value": _finite(gap.value), "low": _finite(gap.low), "high": _finite(gap.high)}
        reason = ""
        di = told.di
        if di is not None and 0 < bias.threshold <= 1:
            too_low = di.value < bias.threshold and di.high < 1
            too_high = di.value > 1 / bias.threshold and di.low > 1
            if too_low or too_high:
                reason = f"disparate impact of {bias.attribute} is {di.value:.3g} ({told.rule} is privileged)"
        record = {
            "attribute": bias.attribute,
            "rule": told.rule,
            "status": told.status,
            "favourable": bias.favourable,
            "threshold": bias.threshold,
            "rows": {"privileged": told.privileged.rows, "unprivileged": told.unprivileged.rows},
            "unknown": told.unknown,
            "labelled": told.labelled,
            "metrics": metrics,
        }
        return record, reason

    def measure(columns: Columns) -> Mapping[str, Any] | None:
        if "prediction" not in columns:
            return None
        found = [one(columns, bias) for bias in schema.bias]
        reasons = [reason for _, reason in found if reason]
        rows = len(columns["prediction"])
        return {
            "is_drift": bool(reasons),
            "reason": "; ".join(reasons),
            "groups": [each for each, _ in found],
            "rows": rows,
        }

    return measure


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
