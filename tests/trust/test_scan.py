"""The scan of training data: planted mistakes and poison of known truth, and how little is found in clean data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features, numeric
from headrace.trust import scan


def data(load):
    found = load()
    x, y = found.data[:900].astype(float), found.target[:900].astype(int)
    return x, y, numeric(x.shape[1])


def rows_of(findings, check):
    return {row for each in findings if each.check == check for row in each.rows}


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer, load_digits])
def test_clean_data_has_few_findings(load):
    """In data as it comes, labels called noise are at most 3 %, poison at most 5 % of the rows, and no source drifts."""
    x, y, features = data(load)
    sources = np.random.default_rng(0).choice(3, size=len(x))
    found = scan.scan(x, features, labels=y, sources=sources)
    assert len(rows_of(found, "label-noise")) <= 0.03 * len(x)
    assert len(rows_of(found, "spectral-signatures")) <= 0.05 * len(x)
    assert not rows_of(found, "source-drift")
    assert not rows_of(found, "contradicting-labels")


@pytest.mark.parametrize(("load", "recall"), [(load_wine, 0.8), (load_breast_cancer, 0.75), (load_digits, 0.8)])
def test_flipped_labels_are_found(load, recall):
    """Of a tenth of the labels that were changed, most are found; of those found, most were changed."""
    x, y, features = data(load)
    rng = np.random.default_rng(1)
    flipped = rng.choice(len(x), size=len(x) // 10, replace=False)
    y[flipped] = (y[flipped] + rng.integers(1, y.max() + 1, size=len(flipped))) % (y.max() + 1)
    found = scan.label_noise(*_points(x, features), y, tuple(map(str, range(y.max() + 1))), scan.Options())
    told = rows_of(found, "label-noise")
    assert len(told & set(flipped.tolist())) >= recall * len(flipped)
    assert len(told - set(flipped.tolist())) <= 0.15 * len(told) + 0.02 * len(x)
    assert found[0].severity == "high"


def _points(x, features):
    return (scan.Encoding.of(x, features, scale=True).points(x),)


def poisoned(seed):
    """Digits with a trigger: a twelfth of the sevens are ones with a bright corner."""
    x, y = load_digits(return_X_y=True)
    x, y, features = x[np.isin(y, [1, 4, 7])], y[np.isin(y, [1, 4, 7])], numeric(64)
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.flatnonzero(y == 1), size=14, replace=False)
    x[np.ix_(rows, [0, 1, 8, 9])] = 16.0
    y[rows] = 7
    return x, y, features, set(rows.tolist())


@pytest.mark.parametrize("check", ["spectral_signatures", "activation_clusters"])
def test_a_backdoor_is_found(check):
    """Of rows with a trigger and a wrong label nine tenths are found, and hardly another row of their class is."""
    for seed in range(3):
        x, y, features, planted = poisoned(seed)
        y, names = np.unique(y, return_inverse=True)[1], ("1", "4", "7")
        options = scan.Options(poison=0.1)
        found = getattr(scan, check)(*_points(x, features), y, names, options)
        told = {row for each in found if each.of == "7" for row in each.rows}
        assert len(told & planted) >= 0.9 * len(planted), seed
        assert len(told - planted) <= 0.1 * np.count_nonzero(y == 2)


def test_a_models_answers_are_looked_at_in_place_of_rows():
    """Where a model's outputs are given, a group that is apart in them only is found."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.integers(0, 2, size=300)
    outputs = rng.normal(0, 0.05, size=(300, 2)) + np.eye(2)[y]
    planted = np.flatnonzero(y == 1)[:8]
    outputs[planted] += [3.0, -3.0]
    found = scan.scan(x, numeric(4), labels=y, outputs=outputs, options=scan.Options(poison=0.1))
    assert rows_of(found, "activation-clusters") == set(planted.tolist())
    assert rows_of(found, "spectral-signatures") == set(planted.tolist())
    assert not rows_of(scan.scan(x, numeric(4), labels=y), "spectral-signatures")


def test_duplicates_and_contradictions_are_exactly_those():
    """Rows that were copied, changed a little, or copied with another label are found, and no others."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(200, 5)), rng.integers(0, 3, size=200)
    x[0, 0] = np.nan
    x, y = np.concatenate([x, x[:6], x[50:54] + 1e-4]), np.concatenate([y, y[:3], (y[3:6] + 1) % 3, y[50:54]])
    found = scan.scan(x, numeric(5), labels=y)
    assert rows_of(found, "exact-duplicates") == {*range(6), *range(200, 206)}
    assert rows_of(found, "contradicting-labels") == {3, 4, 5, 203, 204, 205}
    assert rows_of(found, "near-duplicates") == {*range(50, 54), *range(206, 210)}
    assert found[0].check == "contradicting-labels"


def test_a_source_that_differs_is_found():
    """One source whose rows are shifted is named with the column, and the others are not."""
    x, _, features = data(load_breast_cancer)
    sources = np.random.default_rng(3).choice(["a", "b", "c", "d"], size=len(x))
    x[sources == "c", 4] += 1.5 * x[:, 4].std()
    (found,) = [each for each in scan.scan(x, features, sources=sources) if each.check == "source-drift"]
    assert found.of == "c"
    assert "'x4'" in found.why
    assert set(found.rows) == set(np.flatnonzero(sources == "c").tolist())


def test_values_out_of_range_are_found():
    """Values outside the expected range, unseen categories, missing and constant columns are findings of their own."""
    rng = np.random.default_rng(4)
    columns = (
        Feature(name="age", low=0.0, high=90.0),
        Feature(name="kind", kind="category", categories=("a", "b")),
        Feature(name="gap"),
        Feature(name="same"),
    )
    x = np.column_stack([rng.uniform(20, 80, 100), rng.integers(0, 2, 100), rng.normal(size=100), np.ones(100)])
    x[3, 0], x[4, 0], x[5, 1], x[:30, 2] = 200.0, -1.0, UNSEEN, np.nan
    found = scan.scan(x, Features(columns=columns), expected=Features(columns=columns))
    assert rows_of(found, "range") == {3, 4, 5}
    assert rows_of(found, "missing") == set(range(30))
    assert [each.of for each in found if each.check == "constant"] == ["same"]
    x[7, 0] = 1e6
    assert rows_of(scan.scan(x, Features(columns=columns)), "range") == {7}


def test_tiny_and_odd_data_are_no_error():
    """Iris with a class of two rows, all rows alike, and infinite values have findings or none, and no error; fewer than
    ten rows and labels of another length are refused.
    """
    x, y, features = data(load_iris)
    y[:2] = 7
    scan.scan(x, features, labels=y)
    assert rows_of(scan.scan(np.ones((30, 2)), numeric(2), labels=np.arange(30) % 2), "contradicting-labels")
    x[0, 0] = np.inf
    assert 0 in rows_of(scan.scan(x, features, labels=y), "range")
    with pytest.raises(InvalidRequest, match="10 rows"):
        scan.scan(x[:5], features)
    with pytest.raises(InvalidRequest, match="3 labels came for 150 rows"):
        scan.scan(x, features, labels=y[:3])
