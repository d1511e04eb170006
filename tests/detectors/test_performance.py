"""Performance: realised metrics against scikit-learn, their intervals, and estimates without truth on known generators."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from headrace.detectors.performance import Cbpe, realised
from headrace.errors import InvalidRequest
from headrace.features import UNSEEN
from headrace.testing.detectors import through_files

WEIGHTS = np.array([1.5, -1.0, 0.5])


def two_classes(rows, *, seed, shift=0.0, flip=False):
    """Truth by a known P(y | x), and a model that orders rows rightly and is too sure of itself."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, 3)) + shift) @ WEIGHTS
    truth = (rng.random(rows) < special.expit(-logits if flip else logits)) * 1.0
    p = special.expit(2 * logits + 0.4)
    return np.column_stack([1 - p, p]), truth


def three_classes(rows, *, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3)) + shift
    p = special.softmax(x @ np.array([[1.0, -1.0, 0.5], [0, 1, -0.5], [-1, 0.3, 0.2]]), axis=1)
    truth = (rng.random(rows)[:, None] > np.cumsum(p, axis=1)).sum(axis=1).clip(max=2) * 1.0
    return special.softmax(1.8 * np.log(p), axis=1), truth


GENERATORS = {"two": (two_classes, 2), "three": (three_classes, 3)}


@pytest.mark.parametrize("name", GENERATORS)
def test_metrics_are_scikit_learns(name):
    """Accuracy, macro precision, recall and F1, AUC, log loss and Brier score equal scikit-learn's, within their intervals."""
    generator, classes = GENERATORS[name]
    p, truth = generator(500, seed=0)
    said = p.argmax(axis=1)
    found = realised("classification", classes, p, said * 1.0, truth)
    expected = {
        "accuracy": metrics.accuracy_score(truth, said),
        "precision": metrics.precision_score(truth, said, average="macro"),
        "recall": metrics.recall_score(truth, said, average="macro"),
        "f1": metrics.f1_score(truth, said, average="macro"),
        "roc_auc": metrics.roc_auc_score(truth, p[:, 1] if classes == 2 else p, multi_class="ovr"),
        "log_loss": metrics.log_loss(truth, p),
        "brier": ((p - np.eye(classes)[truth.astype(int)]) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1),
    }
    assert set(found) == set(expected)
    for metric, value in expected.items():
        assert found[metric].value == pytest.approx(value), metric
        assert found[metric].low < value < found[metric].high, metric


def test_metrics_of_numbers_are_scikit_learns():
    """MAE, RMSE and R2 equal scikit-learn's, within their intervals."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=300)
    said = truth + rng.normal(0, 0.5, size=300)
    found = realised("regression", 0, None, said, truth)
    assert found["mae"].value == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert found["rmse"].value == pytest.approx(metrics.root_mean_squared_error(truth, said))
    assert found["r2"].value == pytest.approx(metrics.r2_score(truth, said))
    assert all(each.low < each.value < each.high for each in found.values())


def test_delong_interval_holds_the_truth_as_often_as_it_says():
    """Of samples of two normals a deviation apart about 95 % of the intervals hold the area Phi(1 / sqrt 2)."""
    rng, runs = np.random.default_rng(2), 300
    truth = np.repeat([0.0, 1.0], [60, 40])
    area, held = special.ndtr(1 / np.sqrt(2)), 0
    for _ in range(runs):
        p = special.expit(rng.normal(size=100) + truth)
        found = realised("classification", 2, p, (p > 0.5) * 1.0, truth)["roc_auc"]
        held += found.low <= area <= found.high
    assert abs(held / runs - 0.95) <= 0.04


def test_r2_and_rmse_intervals_hold_the_truth_as_often_as_they_say():
    """Of samples of 200 rows about 95 % of the intervals hold R2 = .8 and RMSE = .5."""
    rng, runs = np.random.default_rng(3), 300
    held = np.zeros(2)
    for _ in range(runs):
        said = rng.normal(size=200)
        found = realised("regression", 0, None, said, said + rng.normal(0, 0.5, size=200))
        held += [found[name].low <= true <= found[name].high for name, true in (("r2", 0.8), ("rmse", 0.5))]
    assert (np.abs(held / runs - 0.95) <= 0.045).all(), held / runs


def test_truth_that_is_not_known_is_left_out():
    """NaN labels do not count; without any there are no metrics; a label that is no class is a wrong answer."""
    p, truth = two_classes(100, seed=3)
    said = p.argmax(axis=1) * 1.0
    some = truth.copy()
    some[50:] = np.nan
    assert realised("classification", 2, p, said, some) == realised("classification", 2, p[:50], said[:50], truth[:50])
    assert realised("classification", 2, p, said, np.full(100, np.nan)) == {}
    strange = np.full(100, UNSEEN)
    found = realised("classification", 2, p, said, strange)
    assert found["accuracy"].value == 0.0
    assert "roc_auc" not in found


def test_one_row_and_one_class_have_what_can_be_had():
    """One row has an accuracy and no area; perfect answers have an interval that begins below 1."""
    found = realised("classification", 2, np.array([[0.2, 0.8]]), np.array([1.0]), np.array([1.0]))
    assert found["accuracy"].value == 1.0
    assert "roc_auc" not in found
    truth = np.resize([0.0, 1.0], 40)
    area = realised("classification", 2, truth * 0.8 + 0.1, truth, truth)["roc_auc"]
    assert area.value == 1.0
    assert area.low < 0.9
    assert "r2" not in realised("regression", 0, None, np.ones(5), np.ones(5))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("calibration", ["isotonic", "platt"])
def test_estimates_are_within_their_band_of_what_is_realised(name, calibration):
    """When inputs move and P(y | x) stays, every estimate's band holds the realised metric, though the model is too sure of itself."""
    generator, classes = GENERATORS[name]
    fitted = Cbpe.fit(*generator(3000, seed=1), calibration=calibration)
    for seed, shift in ((2, 0.0), (3, 0.7), (4, -0.7)):
        p, truth = generator(1500, seed=seed, shift=shift)
        estimated = fitted.estimate(p)
        found = realised("classification", classes, p, p.argmax(axis=1) * 1.0, truth)
        assert set(estimated) == {"accuracy", "precision", "recall", "f1", "roc_auc"}
        for metric, each in estimated.items():
            assert each.low <= found[metric].value <= each.high, (metric, shift)
            assert each.high - each.low < 0.25, metric


def test_inputs_that_became_harder_are_an_alarm():
    """Rows that moved to where the classes mix lower the estimated accuracy as far as the realised one, and alarm; usual ones do not."""
    fitted = Cbpe.fit(*two_classes(4000, seed=1))
    rng = np.random.default_rng(5)
    logits = 0.2 * rng.normal(size=2000)
    truth = (rng.random(2000) < special.expit(logits)) * 1.0
    p = special.expit(2 * logits + 0.4)
    found = fitted.estimate(p)
    assert found["accuracy"].alarm
    assert found["accuracy"].value < found["accuracy"].reference_low
    actual = realised("classification", 2, p, (p > 0.5) * 1.0, truth)["accuracy"].value
    assert found["accuracy"].low <= actual <= found["accuracy"].high
    assert not any(each.alarm for each in fitted.estimate(two_classes(2000, seed=6)[0]).values())


def test_concept_drift_is_invisible():
    """Where the same inputs have the opposite truth the estimate stays, and is wrong: the docstring says so."""
    fitted = Cbpe.fit(*two_classes(3000, seed=1))
    p, truth = two_classes(1000, seed=7, flip=True)
    estimated = fitted.estimate(p)["accuracy"]
    assert not estimated.alarm
    assert realised("classification", 2, p, p.argmax(axis=1) * 1.0, truth)["accuracy"].value < estimated.low
    assert "CONCEPT DRIFT" in (Cbpe.__doc__ or "")


def test_a_restored_one_estimates_the_same():
    """State through JSON and npz gives the same estimates."""
    fitted = Cbpe.fit(*three_classes(600, seed=1))
    p, _ = three_classes(200, seed=2)
    assert Cbpe.restore(through_files(fitted.state())).estimate(p) == fitted.estimate(p)


def test_rows_without_probabilities_are_left_out():
    """NaN rows do not count, one row has an accuracy, and no row nothing."""
    fitted = Cbpe.fit(*two_classes(600, seed=1))
    p, _ = two_classes(100, seed=2)
    holes = np.concatenate([p, np.full((5, 2), np.nan)])
    assert fitted.estimate(holes) == fitted.estimate(p)
    assert fitted.estimate(p[:, 1]) == fitted.estimate(p)
    assert 0.5 < fitted.estimate(p[:1])["accuracy"].value <= 1
    assert fitted.estimate(p[:0]) == {}


def test_what_cannot_be_calibrated_is_refused():
    """Too few rows, truth of one class, another calibration, other classes and another state raise InvalidRequest."""
    p, truth = two_classes(100, seed=1)
    for arguments, said in (
        ((p[:20], truth[:20]), "at least 30"),
        ((p, np.ones(100)), "one"),
        ((p, truth[:50]), "as many"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            Cbpe.fit(*arguments)
    with pytest.raises(InvalidRequest, match="isotonic"):
        Cbpe.fit(p, truth, calibration="beta")
    fitted = Cbpe.fit(p, truth)
    with pytest.raises(InvalidRequest, match="2 classes"):
        fitted.estimate(np.full((3, 3), 1 / 3))


def test_few_rows_do_not_flatter_an_estimate():
    """Fitted on 100 rows and asked of 1,000 of the same law, estimates are as often too high as too low: their mean error is within three standard errors of 0."""
    rng, runs = np.random.default_rng(12), 40
    errors = {"accuracy": [], "roc_auc": []}

    def answers(rows):
        x = 1.5 * rng.normal(size=rows)
        said = 1 / (1 + np.exp(-(1.6 * x + 0.3)))
        return np.column_stack([1 - said, said]), (rng.random(rows) < 1 / (1 + np.exp(-x))) * 1.0

    for seed in range(runs):
        found = Cbpe.fit(*answers(100), seed=seed).estimate((window := answers(1000))[0], seed=seed)
        true = realised("classification", 2, window[0], window[0].argmax(1) * 1.0, window[1])
        for name, each in errors.items():
            each.append(found[name].value - true[name].value)
    for name, each in errors.items():
        assert abs(np.mean(each)) <= 3 * np.std(each) / runs**0.5, name


def test_the_interval_of_f1_is_of_the_classes_that_come():
    """Of ten classes of which two come, the interval holds F1 as often as it says and the value always; without errors it is no point."""
    rng, runs, held = np.random.default_rng(13), 200, 0
    for seed in range(runs):
        truth = rng.integers(0, 2, 200) * 1.0
        said = np.where(rng.random(200) < 0.02, 1 - truth, truth)
        found = realised("classification", 10, None, said, truth, seed=seed)["f1"]
        assert found.low <= found.value <= found.high
        assert found.low < found.high
        held += found.low <= 0.98 <= found.high
    assert held >= 0.91 * runs, held
