"""Whether a model treats groups of rows alike: differences and ratios between them, with intervals. Called by windows.

The words are aif360's (Bellamy et al. 2018): every difference is the unprivileged group's share less the privileged
one's, and 0 is even; the ratio is theirs in the same order, and 1 is even. With few rows any of them says nothing, so
each has an interval, and a group below `min_rows` is not judged at all.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from headrace.detectors import intervals
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array


class Attribute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows are privileged. Either `values` or bounds."""

    column: str
    """Its name."""
    values: tuple[str | int | float | bool, ...] = ()
    """Of a category: those that are privileged; of a number: the numbers that are."""
    above: float | None = None
    """Of a number: those above it are privileged (age > 25)."""
    at_most: float | None = None
    """Of a number: those at or below it are privileged."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """How often something is so in a group, with Wilson's interval."""

    count: int
    rows: int
    value: float
    low: float
    high: float


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A difference or a ratio between groups, with its interval."""

    value: float
    low: float
    high: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one group."""

    rows: int
    selected: Share | None = None
    """Predicted favourable."""
    base: Share | None = None
    """Favourable in truth."""
    true_positive: Share | None = None
    """Predicted favourable, among those favourable in truth."""
    false_positive: Share | None = None
    """Predicted favourable, among the others."""


class Bias(msgspec.Struct, frozen=True, kw_only=True):
    """What a window says of one attribute. What cannot be measured is None."""

    attribute: str
    rule: str
    """Who is privileged, as a person reads it."""
    status: Literal["measured", "too_few"]
    """`too_few`: a group has fewer rows than `min_rows`, and nothing is judged."""
    min_rows: int
    unknown: int
    """Rows left out: attribute or prediction missing, or a category that the reference does not have."""
    labelled: int
    """Rows whose truth is known."""
    privileged: Group
    unprivileged: Group
    spd: Gap | None = None
    """Statistical parity difference, of shares predicted favourable (Newcombe's interval)."""
    di: Gap | None = None
    """Disparate impact, the ratio of these shares (Donner and Zou's); the US EEOC's rule (1978) is four fifths."""
    eod: Gap | None = None
    """Equal opportunity difference, of true positive rates (Hardt, Price and Srebro 2016; Newcombe's)."""
    aod: Gap | None = None
    """Average odds difference, half the sum of the differences of true and false positive rates (Zou and Donner's)."""


def groups(
    x: Array,
    features: Features,
    predicted: Array,
    labels: Array | None,
    attribute: Attribute,
    *,
    favourable: float = 1.0,
    confidence: float = 0.95,
    min_rows: int = 30,
) -> Bias:
    """Compare the groups of one attribute.

    Args:
        x: `[n, f]` FP64.
        features: Its columns.
        predicted: `[n]` FP64, the class that the model says, by position; NaN: none.
        labels: `[n]` FP64, the true class; NaN: not known. None: of no row.
        attribute: Who is privileged.
        favourable: The class that is good to get.
        confidence: Of every interval.
        min_rows: Of either group, and of either group's favourable (and other) rows for the metrics that divide by
        them.

    Raises:
        InvalidRequest: no such column, no rule or a rule of the other kind, or arrays of different lengths.
    """
    predicted = np.asarray(predicted, dtype=np.float64)
    labels = np.full(len(x), np.nan) if labels is None else np.asarray(labels, dtype=np.float64)
    if not len(x) == len(predicted) == len(labels):
        raise InvalidRequest(
            f"bias of '{attribute.column}': rows, predictions and labels are to be as many, found"
            f" {len(x)}, {len(predicted)} and {len(labels)}"
        )
    privileged, known = _privileged(x, features, attribute)
    known = known & ~np.isnan(predicted)
    sides = [
        _group(known & side, predicted == favourable, labels, favourable, confidence)
        for side in (privileged, ~privileged)
    ]
    enough = min(each.rows for each in sides) >= min_rows
    found = Bias(
        attribute=attribute.column,
        rule=_rule(attribute),
        status="measured" if enough else "too_few",
        min_rows=min_rows,
        unknown=int(np.count_nonzero(~known)),
        labelled=int(np.count_nonzero(known & ~np.isnan(labels))),
        privileged=sides[0],
        unprivileged=sides[1],
    )
    if not enough:
        return found
    over, under = sides
    spd = _difference(under.selected, over.selected, confidence, 1)
    eod = _difference(under.true_positive, over.true_positive, confidence, min_rows)
    false = _difference(under.false_positive, over.false_positive, confidence, min_rows)
    return msgspec.structs.replace(
        found,
        spd=spd,
        di=_ratio(under.selected, over.selected, confidence),
        eod=eod,
        aod=_half_sum(eod, false) if eod is not None and false is not None else None,
    )


def consistency(points: Array, predicted: Array, *, neighbours: int = 5) -> float:
    """How alike rows are treated that are alike: 1 less the mean distance of a prediction from that of its neighbours.

    Zemel, Wu, Swersky, Pitassi and Dwork (2013, ICML, "Learning fair representations", section 5); a row is among its
    own neighbours, as in aif360.

    Args:
        points: `[n, d]`, without missing values, scaled as distances are to be meant.
        predicted: `[n]`, 0 or 1.
        neighbours: Of each row; at most n.
    """
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=min(neighbours, len(points)), n_jobs=1).fit(points)
    near = found.kneighbors(points, return_distance=False)
    return float(1 - np.abs(predicted - predicted[near].mean(axis=1)).mean())


def _privileged(x: Array, features: Features, attribute: Attribute) -> tuple[Array, Array]:
    """Which rows are privileged, and of which it is known: both `[n]`."""
    name = attribute.column
    if name not in features.names:
        raise InvalidRequest(f"bias: there is no column '{name}'; there are {', '.join(features.names)}")
    if bool(attribute.values) == (attribute.above is not None or attribute.at_most is not None):
        raise InvalidRequest(f"bias of '{name}': give either values or bounds of the privileged rows")
    feature = features.columns[features.names.index(name)]
    values = x[:, features.names.index(name)]
    known = ~np.isnan(values)
    if feature.is_category:
        if lacking := [each for each in attribute.values if each not in feature.categories] or not attribute.values:
            raise InvalidRequest(f"bias of '{name}': {lacking} are no categories; there are {list(feature.categories)}")
        wanted = [float(feature.categories.index(each)) for each in attribute.values]
        return np.isin(values, wanted), known & (values >= 0) & (values < len(feature.categories))
    if attribute.values:
        return np.isin(values, np.array(attribute.values, dtype=np.float64)), known
    inside = known.copy()
    if attribute.above is not None:
        inside &= values > attribute.above
    if attribute.at_most is not None:
        inside &= values <= attribute.at_most
    return inside, known


def _rule(attribute: Attribute) -> str:
    if attribute.values:
        return f"{attribute.column} in {', '.join(str(each) for each in attribute.values)}"
    above = "" if attribute.above is None else f" > {attribute.above:g}"
    at_most = "" if attribute.at_most is None else f" <= {attribute.at_most:g}"
    return f"{attribute.column}{above}{' and' if above and at_most else ''}{at_most}"


def _group(rows: Array, selected: Array, labels: Array, favourable: float, confidence: float) -> Group:
    truth = labels == favourable
    labelled = rows & ~np.isnan(labels)

    def share(held: Array, among: Array) -> Share | None:
        count, size = int(np.count_nonzero(held & among)), int(np.count_nonzero(among))
        if not size:
            return None
        low, high = intervals.wilson(count, size, confidence)
        return Share(count=count, rows=size, value=count / size, low=low, high=high)

    return Group(
        rows=int(np.count_nonzero(rows)),
        selected=share(selected, rows),
        base=share(truth, labelled),
        true_positive=share(selected, labelled & truth),
        false_positive=share(selected, labelled & ~truth),
    )


def _difference(first: Share | None, second: Share | None, confidence: float, least: int) -> Gap | None:
    if first is None or second is None or min(first.rows, second.rows) < least:
        return None
    value, low, high = intervals.newcombe((first.count, first.rows), (second.count, second.rows), confidence)
    return Gap(value=value, low=low, high=high)


def _ratio(first: Share | None, second: Share | None, confidence: float) -> Gap | None:
    if first is None or second is None:
        return None
    found = intervals.ratio((first.count, first.rows), (second.count, second.rows), confidence)
    return None if found is None else Gap(value=found[0], low=found[1], high=found[2])


def _half_sum(first: Gap, second: Gap) -> Gap:
    """Of independent gaps: Zou and Donner (2008, Statist. Med. 27, equation 3), by the distances to their own
    limits.
    """
    value = (first.value + second.value) / 2
    return Gap(
        value=value,
        low=value - math.hypot(first.value - first.low, second.value - second.low) / 2,
        high=value + math.hypot(first.high - first.value, second.high - second.value) / 2,
    )
