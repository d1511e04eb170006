"""When p-values of several columns, and the sizes of their differences, are a drift. Called by every test of
samples.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from headrace.detectors.base import Drift
from headrace.errors import InvalidRequest
from headrace.payload import Array

Correction = Literal["bonferroni", "bh", "none"]
CORRECTIONS = ("bonferroni", "bh", "none")


def threshold(p_value: Array, *, alpha: float, correction: Correction) -> float:
    """The p-value `[k]` at or below which an entry is rejected.

    `bonferroni`: alpha / k, which bounds the chance of any false one. `bh`: the step-up of Benjamini and Hochberg
    (1995, J. R. Statist. Soc. B 57, equation 1), alpha * i / k for the largest i whose i-th smallest p-value is not
    above it, which bounds the expected share of false ones among those rejected (and, where nothing differs, the chance
    of any); alpha / k where none is. `none`: alpha.
    """
    tests = max(p_value.size, 1)
    if correction == "none":
        return alpha
    if correction == "bonferroni":
        return alpha / tests
    steps = alpha * np.arange(1, tests + 1) / tests
    passed = np.flatnonzero(np.sort(p_value) <= steps[: p_value.size])
    return float(steps[passed[-1]]) if passed.size else alpha / tests


def judge(
    *,
    tested: tuple[str, ...],
    statistic: Array,
    p_value: Array,
    effect: Array,
    effect_name: str,
    alpha: float,
    correction: Correction,
    min_effect: float,
    rows: int,
    missing: int = 0,
    distance_threshold: float | None = None,
) -> Drift:
    """An entry drifted when its p-value is at or below the threshold and its effect is at least `min_effect`.

    With `none` each entry is at the level alpha, so that among many some drift by chance; the sample as a whole is
    still judged at alpha, by Bonferroni's threshold.
    """
    large = effect >= min_effect
    limit = threshold(p_value, alpha=alpha, correction=correction)
    drifted = (p_value <= limit) & large
    whole = drifted if correction != "none" else (p_value <= alpha / max(p_value.size, 1)) & large
    return Drift(
        is_drift=bool(whole.any()),
        tested=tested,
        statistic=statistic,
        p_value=p_value,
        threshold=limit,
        drifted=drifted,
        effect=effect,
        effect_name=effect_name,
        rows=rows,
        missing=missing,
        distance_threshold=distance_threshold,
    )


def by_threshold(found: Drift, limit: float) -> Drift:
    """The same by a fixed bound of the statistic, above which it is a drift: no p-values, no level, no correction."""
    drifted = found.statistic > limit
    return msgspec.structs.replace(
        found, p_value=None, threshold=limit, drifted=drifted, is_drift=bool(drifted.any()), distance_threshold=limit
    )


def check_level(method: str, *, alpha: float, correction: str = "none", min_effect: float = 0.0) -> None:
    """Refuse a level that no test can have.

    Raises:
        InvalidRequest: it names the parameter, what was expected and what came.
    """
    if not 0 < alpha < 1:
        raise InvalidRequest(f"{method}: alpha is to be between 0 and 1, found {alpha}")
    if correction not in CORRECTIONS:
        raise InvalidRequest(f"{method}: correction is to be one of {', '.join(CORRECTIONS)}, found '{correction}'")
    if not min_effect >= 0:
        raise InvalidRequest(f"{method}: min_effect is to be 0 or more, found {min_effect}")
