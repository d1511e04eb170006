"""What decides between a candidate and the stable version: sequential tests whose rate of false alarms is stated.

`control.rollout` asks it at every look at the counts. Pure.

Three answers. `rollback`: one criterion is *proven* to be worse than allowed. Over the whole rollout, all steps,
criteria and looks together, the chance that this happens to a candidate that is within all bounds is at most
`errorRate`: each criterion of each step has its share of it (`alpha`), and its interval is a confidence sequence
(`control.sequential`), which stays true however often it is looked at. (Metrics are plain bounds, outside of this.)

`promote`: after `minRequests`, every criterion's estimate is within its bound, and its interval excludes a candidate
that is far beyond it (`FAR_FAILURES`, ...), so that the data would have shown one. `wait`: anything else, with what is
missing.

Requests are taken to fail independently, at a rate that does not change within one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from headrace.control import sequential
from headrace.control.backends.base import Counts
from headrace.control.resources import Judge, MetricCheck
from headrace.payload import EMPTY

FAR_FAILURES: Final = 0.05
"""A candidate goes on only when a failure rate this much beyond what is allowed is excluded."""

FAR_LATENCY: Final = 2.0
"""A candidate goes on only when a percentile so many times what is allowed is excluded."""

FAR_AGREEMENT: Final = 0.05
"""A candidate goes on only when an agreement this much below what is asked for is excluded."""

_FIRST: Final = 0.9
_AGAIN: Final = 0.1
"""The first attempt of a step has this part of its share of the error rate, each further one a tenth of the one before:
counts that are lost (the server was started again) make a new test, and all of them together keep the rate."""

_GROWTH: Final = np.concatenate([[1.0], np.geomspace(1.05, 1e5, 80)])
"""How many times as much traffic is tried, to say how much more is needed."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the counts allow to be done now."""

    decision: Literal["promote", "rollback", "wait"]
    reason: str
    """One word in CamelCase."""
    message: str
    """For people: what was found, or how much is missing."""
    evidence: dict[str, Any] = {}
    """By criterion (`errors`, `latency`, `agreement`, `metrics`): estimates, interval, alpha, bound, state; JSON."""


class _Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one criterion says."""

    state: Literal["worse", "within", "open"]
    reason: str
    text: str
    """For a verdict of this state."""
    evidence: Mapping[str, Any]
    missing: float | None = 0.0
    """Open: how many more requests of the candidate would decide it, if it goes on so; None: no number would."""


def judge(
    stable: Counts,
    candidate: Counts,
    judge: Judge,
    *,
    metrics: Mapping[str, float | None] = EMPTY,
    step: int = 0,
    steps: int = 1,
    attempt: int = 0,
    shadow: bool = False,
) -> Verdict:
    """The verdict on what both have done in one step.

    Args:
        stable: What the stable version has done since the step began.
        candidate: The same of the candidate.
        judge: Bounds and error rate.
        metrics: The candidate's values of the metrics that `judge.metrics` names; None or absent: there is none yet.
        step: Which step, from 0; for the message.
        steps: How many there are: the error rate is shared among them.
        attempt: How often the counts of this step were lost before.
        shadow: The candidate gets mirrored requests only: its answers are compared, and its failures too where they
            are counted, but its latency is that of requests which nobody waits for.
    """
    timed = judge.max_latency_ratio > 0 and not shadow
    criteria = 1 + timed + (judge.min_agreement > 0)
    part = _FIRST * _AGAIN**attempt
    alpha = min(max(judge.error_rate, 1e-12), 0.5) * part / (max(steps, 1) * criteria)
    findings: dict[str, _Finding] = {}
    if candidate.requests or not shadow:
        findings["errors"] = _errors(stable, candidate, judge, alpha)
    if timed:
        findings["latency"] = _latency(stable, candidate, judge, alpha)
    if judge.min_agreement > 0:
        findings["agreement"] = _agreement(candidate, judge, alpha)
    seen = max(candidate.requests, candidate.compared) if shadow else candidate.requests
    enough = seen >= judge.min_requests
    if judge.metrics:
        findings["metrics"] = _metrics(judge.metrics, metrics, enough=enough)
    evidence: dict[str, Any] = {name: {"state": each.state, **each.evidence} for name, each in findings.items()}
    evidence["requests"] = {"stable": stable.requests, "candidate": seen, "atLeast": judge.min_requests}
    decision, reason, message = _decide(list(findings.values()), seen, judge.min_requests, alpha)
    if steps > 1:
        message = f"step {step + 1} of {steps}: {message}"
    return Verdict(decision=decision, reason=reason, message=message, evidence=evidence)


def _decide(
    findings: Sequence[_Finding], seen: int, at_least: int, alpha: float
) -> tuple[Literal["promote", "rollback", "wait"], str, str]:
    worse = [each for each in findings if each.state == "worse"]
    if worse:
        return "rollback", worse[0].reason, "; ".join(each.text for each in worse)
    still = [each for each in findings if each.state == "open"]
    short = max(0, at_least - seen)
    if not still and not short:
        texts = "; ".join([*(each.text for each in findings if each.text), f"each with {_confidence(alpha)}"])
        return "promote", "WithinBounds", f"nothing speaks against it after {seen} of the candidate's requests: {texts}"
    unable = [each for each in still if each.missing is None]
    if unable and not short:
        return "wait", unable[0].reason, "; ".join(each.text for each in unable)
    more = max([short, *(each.missing for each in still if each.missing is not None)])
    why = "; ".join(each.text for each in still if each.text)
    about = f"{short} more are needed" if more <= short else f"about {_round(more)} more are needed"
    text = f"too little traffic to decide: {seen} of the candidate's requests, {about}"
    return "wait", "TooLittleTraffic", f"{text} ({why})" if why else text


# -- the criteria --


def _errors(stable: Counts, candidate: Counts, judge: Judge, alpha: float) -> _Finding:
    n_s, f_s, n_c, f_c = stable.requests, stable.failures, candidate.requests, candidate.failures
    margin = judge.max_error_rate_increase
    lower, upper = sequential.difference_interval(n_s, f_s, n_c, f_c, alpha=alpha)
    evidence = {
        "stable": {"requests": n_s, "failures": f_s, "rate": _rate(f_s, n_s)},
        "candidate": {"requests": n_c, "failures": f_c, "rate": _rate(f_c, n_c)},
        "increase": None if not n_s or not n_c else f_c / n_c - f_s / n_s,
        "interval": [lower, upper],
        "atMost": margin,
        "excludedToPromote": margin + FAR_FAILURES,
        "alpha": alpha,
    }
    if not n_c:
        return _Finding(state="open", reason="TooLittleTraffic", text="", evidence=evidence, missing=judge.min_requests)
    if not n_s:
        text = "the stable version has had no request in this step, so that there is nothing to compare with"
        return _Finding(state="open", reason="NothingToCompareWith", text=text, evidence=evidence, missing=None)
    increase = f_c / n_c - f_s / n_s
    shares = (
        f"{f_c} of its {n_c} requests fail ({_percent(f_c / n_c)}), "
        f"{f_s} of {n_s} of the stable version's ({_percent(f_s / n_s)})"
    )
    points = f"between {100 * lower:+.2f} and {100 * upper:+.2f} points, {100 * margin:g} allowed"
    if lower > margin:
        text = f"the candidate fails more: {shares}; the increase is {points} ({_confidence(alpha)})"
        return _Finding(state="worse", reason="ErrorRateIncreased", text=text, evidence=evidence)
    if increase <= margin and upper <= margin + FAR_FAILURES:
        text = f"failures {100 * increase:+.2f} points, at most {100 * upper:+.2f}"
        return _Finding(state="within", reason="WithinBounds", text=text, evidence=evidence)
    target = margin if increase > margin else margin + FAR_FAILURES
    shown = sequential.difference_evidence(
        n_s * _GROWTH, f_s * _GROWTH, n_c * _GROWTH, f_c * _GROWTH, min(target, 1.0)
    ) >= math.log(1 / alpha)
    text = f"failures: {100 * increase:+.2f} points, {points}"
    missing = _more(shown, n_c)
    return _Finding(state="open", reason="Undecided", text=text, evidence=evidence, missing=missing)


def _latency(stable: Counts, candidate: Counts, judge: Judge, alpha: float) -> _Finding:
    quantile = min(max(judge.latency_percentile / 100.0, 1e-6), 1.0 - 1e-6)
    most = judge.max_latency_ratio
    name = f"p{judge.latency_percentile:g}"
    bounds_s, counts_s = _histogram(stable.latency)
    bounds_c, counts_c = _histogram(candidate.latency)
    n_s, n_c = int(counts_s.sum()), int(counts_c.sum())
    # The interval of the ratio is that of two intervals, each wrong with half the chance.
    low_s, high_s = map(float, sequential.quantile_interval(bounds_s, counts_s, quantile, alpha=alpha / 2))
    low_c, high_c = map(float, sequential.quantile_interval(bounds_c, counts_c, quantile, alpha=alpha / 2))
    lower, upper = _ratios(low_s, high_s, low_c, high_c)
    of_stable = sequential.quantile_estimate(bounds_s, counts_s, quantile)
    of_candidate = sequential.quantile_estimate(bounds_c, counts_c, quantile)
    ratio = of_candidate / of_stable if of_stable > 0 else math.nan
    evidence = {
        "percentile": judge.latency_percentile,
        "stable": {"requests": n_s, "seconds": _finite(of_stable), "interval": [low_s, _finite(high_s)]},
        "candidate": {"requests": n_c, "seconds": _finite(of_candidate), "interval": [low_c, _finite(high_c)]},
        "ratio": _finite(ratio),
        "interval": [lower, _finite(upper)],
        "atMost": most,
        "excludedToPromote": most * FAR_LATENCY,
        "alpha": alpha,
    }
    if not n_c:
        return _Finding(state="open", reason="TooLittleTraffic", text="", evidence=evidence, missing=judge.min_requests)
    if not n_s:
        text = f"the stable version has no {name} to compare with"
        return _Finding(state="open", reason="NothingToCompareWith", text=text, evidence=evidence, missing=None)
    if lower > most:
        text = (
            f"the candidate is slower: its {name} is {_seconds(of_candidate)}, the stable version's "
            f"{_seconds(of_stable)}; it takes at least {lower:.3g} times as long, {most:g} allowed "
            f"({_confidence(alpha)})"
        )
        return _Finding(state="worse", reason="LatencyIncreased", text=text, evidence=evidence)
    if ratio <= most and upper <= most * FAR_LATENCY:
        text = f"{name} {ratio:.3g} times as long, at most {upper:.3g}"
        return _Finding(state="within", reason="WithinBounds", text=text, evidence=evidence)
    grown_s = sequential.quantile_interval(bounds_s, np.outer(_GROWTH, counts_s), quantile, alpha=alpha / 2)
    grown_c = sequential.quantile_interval(bounds_c, np.outer(_GROWTH, counts_c), quantile, alpha=alpha / 2)
    later = [_ratios(*map(float, each)) for each in zip(*grown_s, *grown_c, strict=True)]
    if ratio <= most:
        shown = np.array([end <= most * FAR_LATENCY for _, end in later])
    else:
        shown = np.array([start > most for start, _ in later])
    missing = _more(shown, n_c)
    if missing is None and ratio > most and upper <= most * FAR_LATENCY:
        text = f"{name} {ratio:.3g} times as long, at most {upper:.3g}: the histograms cannot tell that from {most:g}"
        return _Finding(state="within", reason="WithinBounds", text=text, evidence=evidence)
    if missing is None:
        text = (
            f"{name} cannot be decided from these histograms: {_range(low_c, high_c)} against {_range(low_s, high_s)}; "
            f"{most:g} times as long is allowed"
        )
        return _Finding(state="open", reason="Undecided", text=text, evidence=evidence, missing=None)
    text = f"{name}: {_range(low_c, high_c)} against {_range(low_s, high_s)}, {most:g} times as long allowed"
    return _Finding(state="open", reason="Undecided", text=text, evidence=evidence, missing=missing)


def _agreement(candidate: Counts, judge: Judge, alpha: float) -> _Finding:
    n, least = candidate.compared, min(judge.min_agreement, 1.0)
    differing = n - candidate.agreed
    lower, upper = (1.0 - end for end in reversed(sequential.rate_interval(n, differing, alpha=alpha)))
    evidence = {
        "compared": n,
        "agreed": candidate.agreed,
        "share": _rate(candidate.agreed, n),
        "interval": [lower, upper],
        "atLeast": least,
        "excludedToPromote": least - FAR_AGREEMENT,
        "alpha": alpha,
    }
    if not n:
        text = "no mirrored answers have been compared"
        return _Finding(
            state="open", reason="TooLittleTraffic", text=text, evidence=evidence, missing=judge.min_requests
        )
    share = candidate.agreed / n
    text = f"{candidate.agreed} of {n} mirrored answers agree ({_percent(share)})"
    # When all must agree, one that does not is proof in itself.
    if upper < least or (least == 1.0 and differing):
        text = f"the candidate answers differently: {text}, {_percent(least)} asked for ({_confidence(alpha)})"
        return _Finding(state="worse", reason="Disagrees", text=text, evidence=evidence)
    if share >= least and lower >= least - FAR_AGREEMENT:
        text = f"agreement {_percent(share)}, at least {_percent(lower)}"
        return _Finding(state="within", reason="WithinBounds", text=text, evidence=evidence)
    target = 1.0 - least if share < least else 1.0 - least + FAR_AGREEMENT
    shown = sequential.rate_evidence(n * _GROWTH, differing * _GROWTH, min(target, 1.0)) >= math.log(1 / alpha)
    missing = _more(shown, n)
    if missing is not None:  # in requests of the candidate, where it has some of its own
        missing *= max(candidate.requests, 1) / n if candidate.requests else 1.0
    return _Finding(state="open", reason="Undecided", text=text, evidence=evidence, missing=missing)


def _metrics(checks: Sequence[MetricCheck], values: Mapping[str, float | None], *, enough: bool) -> _Finding:
    """Plain bounds: nothing is known of how such a value varies. Judged after `minRequests` only."""
    rows, beyond, absent, fine = [], [], [], []
    for check in checks:
        value = values.get(check.name)
        if value is None or math.isnan(value):
            absent.append(check.name)
            value = None
        elif check.at_most is not None and value > check.at_most:
            beyond.append(f"{check.name} is {value:g}, at most {check.at_most:g} allowed")
        elif check.at_least is not None and value < check.at_least:
            beyond.append(f"{check.name} is {value:g}, at least {check.at_least:g} asked for")
        else:
            fine.append(f"{check.name} {value:g}")
        shown = None if value is None else _finite(value)
        rows.append({"name": check.name, "value": shown, "atMost": check.at_most, "atLeast": check.at_least})
    evidence = {"values": rows}
    if not enough:
        return _Finding(state="open", reason="TooLittleTraffic", text="", evidence=evidence)
    if beyond:
        return _Finding(state="worse", reason="MetricOutOfBounds", text="; ".join(beyond), evidence=evidence)
    if absent:
        text = f"no value yet of {', '.join(absent)}"
        return _Finding(state="open", reason="MetricMissing", text=text, evidence=evidence, missing=None)
    return _Finding(state="within", reason="WithinBounds", text=", ".join(fine), evidence=evidence)


# -- steps --


def _histogram(latency: Mapping[float, int]) -> tuple[sequential.Values, sequential.Values]:
    ends = sorted(latency)
    counts = [float(latency[end]) for end in ends]
    if not ends or not math.isinf(ends[-1]):
        ends, counts = [*ends, math.inf], [*counts, 0.0]
    return np.array(ends), np.array(counts)


def _ratios(low_s: float, high_s: float, low_c: float, high_c: float) -> tuple[float, float]:
    """The least and the greatest that candidate over stable can be."""
    return 0.0 if math.isinf(high_s) else low_c / high_s, high_c / low_s if low_s > 0 else math.inf


def _more(shown: Any, seen: float) -> float | None:
    """How many more requests it takes, by whether so many times as much would show it."""
    (found,) = np.nonzero(shown)
    return max(1.0, seen * float(_GROWTH[found[0]] - 1.0)) if found.size else None


def _round(number: float) -> str:
    """Two digits are all that is meant."""
    whole = math.ceil(number)
    scale = 10 ** max(0, len(str(whole)) - 2)
    return f"{-(-whole // scale) * scale:,}"


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "beyond the histogram"
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _range(lower: float, upper: float) -> str:
    if math.isinf(upper):
        return f"over {_seconds(lower)}" if lower else "not known yet"
    return f"{_seconds(lower)} to {_seconds(upper)}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _confidence(alpha: float) -> str:
    return f"confidence {_percent(1 - alpha)}"
