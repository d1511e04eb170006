"""What a detector says, as the one record that status, metrics, events, alerts and the report are made of. `stream`
calls these; nothing here computes more than it is given.

    {"kind": ..., "model": ..., "version": ..., "detector": ..., "window": ... (or "request_id": ...), "time": ...,
     "meta": {name, detector_type, data_type, online, version, artifact_digest, seed, method, on, threshold, window},
     "data": {is_drift | is_outlier | is_adversarial | metrics | groups, distance, p_val, threshold, ...},
     "members": {first, last, count}}

`meta` and `data` have the words that readers of other tools' verdicts know. `window` is `{number, rows, start, end}`,
times in seconds since the epoch. `members` are the requests whose rows were looked at. Arrays are lists, one element
per name of `features`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from headrace import __version__
from headrace.detectors.base import Drift, Step
from headrace.monitoring.window import Full
from headrace.payload import Array
from headrace.trust.spec import DetectorSpec

Record = dict[str, Any]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whom verdicts speak of."""

    model: str
    version: str
    digest: str
    """Of the trust folder."""
    data: str = "tabular"
    """`tabular`, `image`, `text` or `series`."""


def of_drift(subject: Subject, spec: DetectorSpec, drift: Drift, window: Full) -> Record:
    """Of a test of one window."""
    data: Record = {
        "is_drift": drift.is_drift,
        "features": list(drift.tested),
        "distance": plain(drift.statistic),
        "p_val": None if drift.p_value is None else plain(drift.p_value),
        "threshold": drift.threshold,
        "drifted": np.asarray(drift.drifted).tolist(),
        "effect": plain(drift.effect),
        "effect_name": drift.effect_name,
        "rows": drift.rows,
        "missing": drift.missing,
    }
    if drift.distance_threshold is not None:
        data["distance_threshold"] = drift.distance_threshold
    return _record(subject, spec, data, window, threshold=drift.threshold)


def of_step(subject: Subject, spec: DetectorSpec, steps: Sequence[Step], window: Full) -> Record:
    """Of a detector that was fed row by row, over one window: what it said after each batch, in order."""
    last = steps[-1] if steps else Step(is_drift=False, at=(), statistic=math.nan, threshold=math.nan, time=0)
    data = {
        "is_drift": any(each.is_drift for each in steps),
        "alarms": sum(len(each.at) for each in steps),
        "test_stat": last.statistic,
        "distance": [last.statistic],
        "features": ["instance"],
        "p_val": None,
        "threshold": last.threshold,
        "time": last.time,
        "ert": spec.parameters.get("ert"),
        "rows": window.rows,
    }
    return _record(subject, spec, data, window, threshold=last.threshold)


def of_rate(subject: Subject, spec: DetectorSpec, flags: Array, scores: Array, window: Full) -> Record:
    """Of a detector of rows, over one window: whether more of them are odd than chance would have it.

    The number of odd rows is compared with the rate that was measured when the threshold was chosen: an exact binomial
    test, one-sided, at level 0.01. That rate is known from so many rows only: the upper end of its interval is what
    usual rows may have, as one row of 32 says little about a window of 1,000 (the test is of the composite hypothesis
    that the rate is in the interval). A folder without a measured rate is taken to have 0.05.

    Args:
        subject: Whom it speaks of.
        spec: The detector.
        flags: `[n]` BOOL: which rows were odd.
        scores: `[n]` FP64.
        window: Its rows.
    """
    expected = 0.05 if spec.false_positive_rate is None else spec.false_positive_rate
    odd, n = int(flags.sum()), len(flags)
    usual = expected if spec.false_positive_interval is None else max(expected, spec.false_positive_interval[1])
    p_value = _binomial_tail(odd, n, min(max(usual, 1.0 / (n + 1)), 1.0))
    finite = scores[np.isfinite(scores)]
    data = {
        "is_drift": p_value < _RATE_LEVEL,
        "features": ["rate"],
        "distance": [odd / n],
        "p_val": [p_value],
        "threshold": _RATE_LEVEL,
        "rate": odd / n,
        "baseline_rate": expected,
        "count": odd,
        "score_threshold": spec.threshold,
        "score_mean": float(finite.mean()) if len(finite) else None,
        "score_max": float(finite.max()) if len(finite) else None,
        "rows": n,
    }
    return _record(subject, spec, data, window, threshold=spec.threshold)


_RATE_LEVEL = 0.01


def _binomial_tail(successes: int, n: int, p: float) -> float:
    from scipy.stats import binom

    return float(binom.sf(successes - 1, n, p))


def of_rows(subject: Subject, spec: DetectorSpec, scores: Array, *, identity: str, time: float) -> Record:
    """Of the rows of one request, one of which is odd at least."""
    assert spec.threshold is not None
    data = {
        f"is_{spec.kind}": (scores > spec.threshold).astype(int).tolist(),
        "instance_score": plain(scores),
        "threshold": spec.threshold,
    }
    return {
        "kind": spec.kind,
        "model": subject.model,
        "version": subject.version,
        "detector": spec.name,
        "request_id": identity,
        "time": time,
        "meta": meta(subject, spec, threshold=spec.threshold),
        "data": data,
        "members": {"first": identity, "last": identity, "count": 1},
    }


def of_facts(subject: Subject, spec: DetectorSpec, data: Mapping[str, Any], window: Full) -> Record:
    """Of performance and bias over one window: `data` has `is_drift`, and what was measured."""
    return _record(subject, spec, dict(data), window, threshold=spec.threshold)


def meta(subject: Subject, spec: DetectorSpec, *, threshold: float | None) -> Record:
    """What is echoed in every verdict."""
    return {
        "name": spec.name,
        "detector_type": spec.kind,
        "data_type": subject.data,
        "online": spec.online,
        "version": __version__,
        "artifact_digest": subject.digest,
        "seed": spec.seed,
        "method": spec.method,
        "on": spec.on,
        "threshold": threshold,
        "window": {
            "rows": spec.window.rows,
            "min_rows": spec.window.min_rows,
            "seconds": spec.window.seconds,
            "step": spec.window.step,
        },
    }


def window_id(window: Full) -> str:
    """Of a window of one model version: no two have the same, also when windows are counted anew."""
    return f"{int(window.end * 1000):x}-{window.number}"


def plain(array: Array) -> list[Any]:
    """Numbers as JSON has them: what is not finite is None."""
    values = np.asarray(array)
    if values.dtype.kind != "f":
        listed: list[Any] = values.tolist()
        return listed
    return [each if math.isfinite(each) else None for each in values.tolist()]


def members(ids: Array) -> Record:
    """Of rows, the requests they came in: the first, the last, and how many."""
    if not len(ids):
        return {"first": "", "last": "", "count": 0}
    return {"first": str(ids[0]), "last": str(ids[-1]), "count": len(dict.fromkeys(ids.tolist()))}


def _record(subject: Subject, spec: DetectorSpec, data: Record, window: Full, *, threshold: float | None) -> Record:
    about = meta(subject, spec, threshold=threshold)
    about["window"] |= {"number": window.number, "start": window.start, "end": window.end, "rows": window.rows}
    return {
        "kind": spec.kind,
        "model": subject.model,
        "version": subject.version,
        "detector": spec.name,
        "window": window_id(window),
        "time": window.end,
        "meta": about,
        "data": data,
        "members": members(window.columns["id"]),
    }
