"""What is wrong with training data: duplicates, labels that contradict, labels that others would not give, sources that
drift, rows planted to poison, values out of range. Pure; `headrace trust scan-data` calls it.

Each look says which rows, how strongly each, from which value on and why. None of it is a proof: a finding is where a
person should look first. Attacks with right labels and usual values are not seen (see the limits of each paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
import numpy as np

from headrace.detectors.base import Drift
from headrace.detectors.encoding import Encoding
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Features
from headrace.payload import Array

Severity = Literal["low", "medium", "high"]
SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high")

_FOLDS: Final = 5
_MOST_SOURCES: Final = 10
"""That are told."""
_FAR: Final = 4.0
"""Times the span of 95 % of a column's values: further beyond them a value is told."""
_MOST_ROWS: Final = 20_000
"""Of which nearest neighbours are looked for."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that somebody should look at."""

    check: str
    """`exact-duplicates`, `contradicting-labels`, `near-duplicates`, `label-noise`, `source-drift`,
    `spectral-signatures`, `activation-clusters`, `range`, `missing` or `constant`."""
    severity: Severity
    why: str
    """For a person."""
    rows: tuple[int, ...]
    """From 0; of `constant`, none."""
    scores: tuple[float, ...]
    """How strongly, one for each of `rows`; larger is odder."""
    threshold: float
    """What a score passed."""
    of: str = ""
    """The class, source or column that it is about."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the looks go by."""

    near: float = 0.02
    """Rows this share of the usual distance to the nearest other row apart are near duplicates."""
    noise: float = 0.3
    """How much likelier another class must be than the row's own, as a difference of probabilities."""
    poison: float = 0.05
    """The share of a class that poison may be: what spectral signatures look for at most, times 1.5."""
    alpha: float = 0.01
    """The level of tests of sources, all sources together."""
    seed: int = 0


def scan(
    x: Array,
    features: Features,
    *,
    labels: Array | None = None,
    classes: tuple[str, ...] = (),
    sources: Array | None = None,
    outputs: Array | None = None,
    expected: Features | None = None,
    options: Options | None = None,
) -> list[Finding]:
    """All looks that the data allows, the severest findings first.

    Args:
        x: `[n, f]` FP64.
        features: Its columns.
        labels: `[n]`, positions of classes; None: looks that need labels are left out.
        classes: Their names; empty: their positions.
        sources: `[n]`, where each row is from; None: not known.
        outputs: `[n, k]`, what a model says of the rows: what spectral signatures and activation clusters look at in
            place of the rows.
        expected: Columns with the ranges and categories that values should have; None: those of `features` are of these
            rows, and only what is far outside the others is told.
        options: What the looks go by.

    Raises:
        InvalidRequest: fewer than 10 rows, or arrays of other lengths.
    """
    options = options or Options()
    for name, each in (("labels", labels), ("sources", sources), ("outputs", outputs)):
        if each is not None and len(each) != len(x):
            raise InvalidRequest(f"{len(each)} {name} came for {len(x)} rows")
    if len(x) < 10:
        raise InvalidRequest(f"a scan needs 10 rows or more, found {len(x)}")
    points = Encoding.of(x, features, scale=True).points(x)
    found = [*duplicates(x, labels), *near_duplicates(points, labels, options), *ranges(x, features, expected)]
    if sources is not None:
        found += source_drift(x, features, sources, options)
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)
        names = tuple(classes[int(each)] if classes else str(each) for each in codes[0].tolist())
        kind, at = names, codes[1]
        if len(names) > 1:
            found += label_noise(points, at, kind, options)
        seen = points if outputs is None else np.where(np.isfinite(outputs), outputs, 0.0).astype(np.float64)
        found += spectral_signatures(seen, at, kind, options)
        found += activation_clusters(seen, at, kind, options)
    return sorted(found, key=lambda each: -SEVERITIES.index(each.severity))


# -- duplicates --


def duplicates(x: Array, labels: Array | None) -> list[Finding]:
    """Rows that are there more than once, and such that have different labels."""
    plain = np.where(np.isnan(x), np.inf, x) + 0.0  # missing is equal to missing, and -0 to 0
    _, group, count = np.unique(plain, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    often = count[group]
    found = []
    rows = np.flatnonzero(often > 1)
    if rows.size:
        share = rows.size / len(x)
        found.append(
            _finding(
                "exact-duplicates",
                "medium" if share > 0.05 else "low",
                f"{rows.size} rows are there more than once: {np.count_nonzero(count > 1)} different ones",
                rows,
                often[rows],
                1.0,
            )
        )
    if labels is not None and rows.size:
        pairs = np.unique(np.column_stack([group, labels]), axis=0)[:, 0].astype(np.int64)
        ways = np.bincount(pairs, minlength=len(count))[group]
        rows = np.flatnonzero(ways > 1)
        if rows.size:
            why = f"{rows.size} rows are equal to one with another label"
            found.append(_finding("contradicting-labels", "high", why, rows, ways[rows], 1.0))
    return found


def near_duplicates(points: Array, labels: Array | None, options: Options) -> list[Finding]:
    """Rows that are almost another one: much nearer to it than rows usually are to their nearest."""
    from sklearn.neighbors import NearestNeighbors

    if len(points) > _MOST_ROWS:
        return []
    gap, nearest = NearestNeighbors(n_neighbors=2, n_jobs=1).fit(points).kneighbors(points)
    own = nearest[:, 0] == np.arange(len(points))
    other = np.where(own, nearest[:, 1], nearest[:, 0])
    distance = np.where(own, gap[:, 1], gap[:, 0])
    usual = float(np.median(distance[distance > 1e-9])) if (distance > 1e-9).any() else 0.0
    is_near = (distance > 1e-9) & (distance < options.near * usual)
    rows = np.flatnonzero(is_near)
    if not rows.size:
        return []
    contradicts = labels is not None and bool((labels[rows] != labels[other[rows]]).any())
    why = f"{rows.size} rows are almost equal to another" + (", some with another label" if contradicts else "")
    scores = usual / np.maximum(distance[rows], 1e-12)
    return [_finding("near-duplicates", "medium" if contradicts else "low", why, rows, scores, 1 / options.near)]


# -- labels --


def label_noise(points: Array, labels: Array, names: tuple[str, ...], options: Options) -> list[Finding]:
    """Labels that the other rows would not give.

    Northcutt, Jiang and Chuang (2021, J. Artif. Intell. Res. 70, "Confident learning"), section 3: out-of-fold
    probabilities, and rows ranked by their normalised margin (section 3.2), how much likelier another class is than the
    label. Not theirs: rows are told from a margin of `options.noise` on, whether or not the other class is likelier
    than it is on average among the rows labelled so; that rule, their confident joint, leaves out rows whose class the
    classifier is unsure of, and with forests found up to a third fewer planted mistakes. The forest has 3
    rows a leaf at least, on 5 folds.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(labels, minlength=len(names))
    kept = np.flatnonzero(counts[labels] >= _FOLDS)
    if np.unique(labels[kept]).size < 2:
        return []
    said = np.full((len(labels), len(names)), 0.0)
    folds = StratifiedKFold(n_splits=_FOLDS, shuffle=True, random_state=options.seed)
    for train, test in folds.split(points[kept], labels[kept]):
        model = RandomForestClassifier(n_estimators=100, min_samples_leaf=3, n_jobs=1, random_state=options.seed)
        model.fit(points[kept[train]], labels[kept[train]])
        said[np.ix_(kept[test], model.classes_)] = model.predict_proba(points[kept[test]])
    own = said[np.arange(len(labels)), labels]
    others = said.copy()
    others[np.arange(len(labels)), labels] = -1.0
    likeliest = others.argmax(1)
    margin = others.max(1) - own
    rows = np.flatnonzero((margin > options.noise) & (counts[labels] >= _FOLDS))
    if not rows.size:
        return []
    share = rows.size / len(labels)
    shown = np.unique(np.column_stack([labels[rows], likeliest[rows]]), axis=0, return_counts=True)
    most = shown[0][shown[1].argmax()]
    why = (
        f"{rows.size} labels ({share:.1%}) are not what the other rows say, most of all '{names[most[0]]}' that look "
        f"like '{names[most[1]]}'"
    )
    severity: Severity = "high" if share > 0.05 else "medium" if share > 0.01 else "low"
    return [_finding("label-noise", severity, why, rows, margin[rows], options.noise)]


# -- poison --


def spectral_signatures(seen: Array, labels: Array, names: tuple[str, ...], options: Options) -> list[Finding]:
    """Rows of a class that lie together far out along its first direction.

    Tran, Li and Madry (2018, NeurIPS, "Spectral signatures in backdoor attacks"), algorithm 1: scores are the squared
    projections on the top right singular vector of a class's centred representations, and the 1.5 eps highest are
    poison. It removes so many of every class; told are here only those that are more than 16 times the median square
    beyond the median (four deviations, were it normal: none of a usual class), and only if they are a group: three rows
    at least, on one side.
    """
    found = []
    for at, name in enumerate(names):
        rows = np.flatnonzero(labels == at)
        if len(rows) < 20:
            continue
        centred = seen[rows] - seen[rows].mean(0)
        if not np.abs(centred).max() > 0:
            continue
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        along = along - np.median(along)
        spread = float(np.median(np.abs(along))) * 1.4826
        if not spread > 1e-12 * float(np.abs(along).max()):
            spread = float(along.std())
        scores = (along / spread) ** 2
        side = 1.0 if along[scores.argmax()] > 0 else -1.0
        most = max(int(np.ceil(1.5 * options.poison * len(rows))), 3)
        order = np.argsort(-scores, kind="stable")[:most]
        far = order[(scores[order] > 16.0) & (along[order] * side > 0)]
        if len(far) >= 3:
            why = f"{len(far)} rows of class '{name}' lie together {np.sqrt(scores[far].min()):.1f} deviations out"
            found.append(_finding("spectral-signatures", "high", why, rows[far], scores[far], 16.0, name))
    return found


def activation_clusters(seen: Array, labels: Array, names: tuple[str, ...], options: Options) -> list[Finding]:
    """Classes that are two groups of which one is small and clearly apart.

    Chen et al. (2018, SafeAI, "Detecting backdoor attacks on deep neural networks by activation clustering"), section
    4: the representations of each class are reduced and cut in two by 2-means; the class is suspect where the
    silhouette is high (theirs: 0.10 to 0.15 is usual) and one group is much smaller. Reduced by principal components to
    10, not independent ones. Told are groups of at most a third with a silhouette above 0.35 whose rows' own mean
    silhouette is also above it.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_samples

    found = []
    for at, name in enumerate(names):
        rows = np.flatnonzero(labels == at)
        if len(rows) > 3000:
            rows = np.sort(np.random.default_rng(options.seed).choice(rows, 3000, replace=False))
        if len(rows) < 20:
            continue
        centred = seen[rows] - seen[rows].mean(0)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        reduced = left[:, :10] * values[:10]
        if len(np.unique(reduced.round(9), axis=0)) < 3:
            continue
        group = KMeans(n_clusters=2, n_init=5, random_state=options.seed).fit_predict(reduced)
        small = int(group.sum() < len(group) / 2)
        members = np.flatnonzero(group == small)
        each = silhouette_samples(reduced, group)
        if 3 <= len(members) <= len(rows) / 3 and min(float(each.mean()), float(each[members].mean())) > 0.35:
            why = (
                f"class '{name}' is two groups: {len(members)} of {len(rows)} rows are apart from the others "
                f"(silhouette {each.mean():.2f})"
            )
            severity: Severity = "high" if each.mean() > 0.5 else "medium"
            found.append(_finding("activation-clusters", severity, why, rows[members], each[members], 0.35, name))
    return found


# -- sources --


def source_drift(x: Array, features: Features, sources: Array, options: Options) -> list[Finding]:
    """Sources whose rows follow another law than those of all others: the test `tabular`, its level shared by them.

    The source that differs most is set aside, and the others are compared anew without it: otherwise each would differ
    from a rest that holds it.
    """
    from headrace.detectors.tabular import Tabular

    of = np.array([str(each) for each in sources.tolist()])
    names, counts = np.unique(of, return_counts=True)
    left = names[counts >= 10].tolist()
    others = np.ones(len(x), np.bool_)
    alpha = options.alpha / max(len(left), 1)
    found = []
    for _ in range(min(len(left), _MOST_SOURCES)):
        worst_drift: tuple[float, str, Drift] | None = None
        for name in left:
            own = of == name
            rest = others & ~own
            if rest.sum() < 10:
                continue
            drift = Tabular.fit(x[rest], features, alpha=alpha, seed=options.seed).test(x[own])
            strength = float(drift.effect[drift.drifted].sum()) if drift.is_drift else 0.0
            if strength > (worst_drift[0] if worst_drift else 0.0):
                worst_drift = strength, name, drift
        if worst_drift is None:
            break
        _, name, drift = worst_drift
        left.remove(name)
        rows = np.flatnonzero(of == name)
        others[rows] = False
        columns = [drift.tested[at] for at in np.argsort(-drift.effect) if drift.drifted[at]]
        told = ", ".join(f"'{each}'" for each in columns[:5])
        why = f"source '{name}' ({len(rows)} rows) differs from the others in {len(columns)} columns: {told}"
        severity: Severity = "high" if 2 * len(columns) > len(drift.tested) else "medium"
        strengths = np.full(len(rows), float(drift.effect.max()))
        found.append(_finding("source-drift", severity, why, rows, strengths, drift.threshold, name))
    return found


# -- values --


def ranges(x: Array, features: Features, expected: Features | None) -> list[Finding]:
    """Values outside what is expected, or far outside what the others are; columns that are missing or constant."""
    found = []
    for at, feature in enumerate(features.columns):
        column = x[:, at]
        missing = np.isnan(column)
        values = column[~missing]
        if missing.mean() > 0.2:
            why = f"column '{feature.name}' is missing in {missing.mean():.0%} of the rows"
            rows = np.flatnonzero(missing)
            found.append(_finding("missing", "low", why, rows, np.ones(len(rows)), 0.2, feature.name))
        if values.size and (values == values[0]).all():
            why = f"column '{feature.name}' has one value in all rows"
            found.append(_finding("constant", "low", why, np.empty(0, np.int64), np.empty(0), 0.0, feature.name))
            continue
        wanted = expected.columns[at] if expected is not None else None
        if feature.is_category:
            rows = np.flatnonzero(column == UNSEEN)
            if rows.size and wanted is not None:
                why = f"column '{feature.name}' has {rows.size} values that are none of its categories"
                found.append(_finding("range", "medium", why, rows, np.ones(len(rows)), 0.0, feature.name))
            continue
        found += _outside(column, values, feature.name, wanted.low if wanted else None, wanted.high if wanted else None)
    return found


def _outside(column: Array, values: Array, name: str, low: float | None, high: float | None) -> list[Finding]:
    known = np.where(np.isnan(column), values[0] if values.size else 0.0, column)
    if low is not None and high is not None:
        beyond = np.maximum(low - known, known - high)
        rows = np.flatnonzero(~np.isnan(column) & (beyond > 0))
        if not rows.size:
            return []
        why = f"column '{name}' has {rows.size} values outside {low:.6g} to {high:.6g}"
        return [_finding("range", "medium", why, rows, beyond[rows], 0.0, name)]
    finite = values[np.isfinite(values)]
    if finite.size < 20:
        return []
    first, third = np.quantile(finite, [0.025, 0.975])
    reach = float(third - first)
    if not reach > 0:
        return []
    beyond = np.maximum(first - known, known - third) / reach
    rows = np.flatnonzero(~np.isnan(column) & (beyond > _FAR))
    if not rows.size:
        return []
    why = f"column '{name}' has {rows.size} values far outside {first:.6g} to {third:.6g}, where 95 % of them are"
    return [_finding("range", "medium", why, rows, np.minimum(beyond[rows], 1e300), _FAR, name)]


def worst(findings: list[Finding]) -> Mapping[str, int]:
    """How many findings there are of each severity."""
    return {each: sum(found.severity == each for found in findings) for each in SEVERITIES}


def _finding(  # noqa: PLR0917 - the columns of a table, in their order
    check: str, severity: Severity, why: str, rows: Array, scores: Array, threshold: float, of: str = ""
) -> Finding:  # a row of a table
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return Finding(
        check=check,
        severity=severity,
        why=why,
        rows=tuple(np.asarray(rows)[order].tolist()),
        scores=tuple(np.asarray(scores, np.float64)[order].tolist()),
        threshold=float(threshold),
        of=of,
    )
