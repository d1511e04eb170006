"""Detectors of PyOD by name: kept without a pickle, fitted again when restored."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from pyod.models.hbos import HBOS

from headrace.detectors.base import State
from headrace.detectors.pyod import Pyod
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.testing.detectors import OutlierConformance


class TestKernelDensity(OutlierConformance):
    detector = Pyod
    parameters: ClassVar = {"model": "KDE"}
    tells = False


def test_scores_are_those_of_the_model():
    """Scores are the model's own, of standardised rows, with the options that were given."""
    x = np.random.default_rng(0).normal(5, 3, size=(300, 4))
    z = (x - x.mean(0)) / x.std(0)
    expected = HBOS(n_bins=7).fit(z).decision_function(z)
    np.testing.assert_allclose(Pyod.fit(x, numeric(4), model="hbos", options={"n_bins": 7}).score(x).instance, expected)


@pytest.mark.parametrize("model", ["IForest", "INNE", "LOF", "OCSVM", "LODA"])
def test_models_with_chance_are_kept_by_their_seed(model):
    """A restored model scores as the one that was kept, where it draws at random, too."""
    x = np.random.default_rng(1).normal(size=(150, 3))
    detector = Pyod.fit(x, numeric(3), seed=5, model=model)
    again = Pyod.restore(detector.state(), numeric(3))
    rows = np.concatenate([x[:5], np.full((1, 3), 9.0)])
    np.testing.assert_allclose(again.score(rows).instance, detector.score(rows).instance)
    assert detector.score(rows).instance.argmax() == 5


def test_a_model_that_is_never_the_same_is_refused():
    """A model that draws without a seed comes out otherwise each time, and so raises InvalidRequest."""
    x = np.random.default_rng(3).normal(size=(100, 3))
    with pytest.raises(InvalidRequest, match="same twice"):
        Pyod.fit(x, numeric(3), model="IForest", options={"random_state": None})


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        ("Nope", {}, "no model"),
        ("../os", {}, "no name"),
        ("base", {}, "no detector"),
        ("HBOS", {"bins": 3}, "could not be fitted"),
        ("HBOS", {"n_bins": object()}, "JSON"),
    ],
)
def test_what_pyod_does_not_have_is_refused(model, options, text):
    """Models that do not exist and options that they do not take raise InvalidRequest."""
    with pytest.raises(InvalidRequest, match=text):
        Pyod.fit(np.random.default_rng(0).normal(size=(50, 2)), numeric(2), model=model, options=options)


def test_another_version_is_noticed():
    """A state whose scores the installed PyOD does not give raises InvalidRequest."""
    state = Pyod.fit(np.random.default_rng(2).normal(size=(100, 2)), numeric(2)).state()
    other = {**state.arrays, "check": state.arrays["check"] + 1}
    with pytest.raises(InvalidRequest, match="version"):
        Pyod.restore(State(parameters=state.parameters, arrays=other), numeric(2))
