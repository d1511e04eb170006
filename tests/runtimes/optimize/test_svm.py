"""Support vector classifiers in numpy: the native labels, or none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.svm import SVC, NuSVC

from headrace.runtimes.optimize.engine import Labels, Refused
from headrace.runtimes.optimize.svm import KernelVotes, between

DATA = {"iris": load_iris, "digits": load_digits, "cancer": load_breast_cancer}


def engine(model):
    return KernelVotes(model, Labels(model.classes_))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    "model",
    [SVC(gamma=0.001), SVC(), SVC(kernel="linear"), NuSVC(nu=0.1), SVC(decision_function_shape="ovo")],
    ids=["rbf", "scaled", "linear", "nu", "ovo"],
)
def test_labels_are_the_models(data, model):
    """On rows of the data, between support vectors and far away, every label is the one that scikit-learn gives."""
    rows, labels = DATA[data](return_X_y=True)
    model.fit(rows[::2], labels[::2])
    rng = np.random.default_rng(0)
    asked = np.concatenate([rows, between(model)(rows[:500], rng), rng.uniform(-1e3, 1e3, (50, rows.shape[1]))])
    told = 0
    for start in range(0, len(asked), 16):
        part = asked[start : start + 16]
        answer = engine(model).answer(part, ("predict",))
        if answer is not None:
            told += len(part)
            np.testing.assert_array_equal(answer["predict"], model.predict(part))
    assert told > 0.7 * len(asked), "few batches hold a row that is too close to tell"


def test_rows_on_the_border_are_declined():
    """A row found by bisection to lie on the border of two classes is left to the native model."""
    rows, labels = load_iris(return_X_y=True)
    model = SVC().fit(rows[labels > 0], labels[labels > 0])
    low, high = rows[labels == 1][0], rows[labels == 2][0]
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if model.predict([middle])[0] == 1 else (low, middle)
    assert engine(model).answer(middle[None], ("predict",)) is None


def test_many_rows_are_answered_in_parts():
    """More rows than one product takes are answered whole and in order."""
    rows, labels = load_digits(return_X_y=True)
    model = SVC(gamma=0.001).fit(rows[:300], labels[:300])
    many = np.tile(rows, (2, 1))
    np.testing.assert_array_equal(engine(model).answer(many, ("predict",))["predict"], model.predict(many))


@pytest.mark.parametrize(
    "model",
    [SVC(kernel="poly"), SVC(kernel=lambda a, b: a @ b.T), SVC(break_ties=True)],
    ids=["poly", "callable", "ties"],
)
def test_what_is_not_known_is_refused(model):
    """Kernels and settings without a numpy form here get no engine."""
    rows, labels = load_iris(return_X_y=True)
    with pytest.raises(Refused):
        engine(model.fit(rows, labels))
