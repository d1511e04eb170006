"""Auto-encoder output: the divergence, the reconstruction's error, and their units."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

from headrace.detectors import answers
from headrace.detectors.autoencoder_output import AutoencoderOutput
from headrace.errors import InvalidRequest
from headrace.testing.detectors import MIXED, AdversarialConformance, mixed


class TestPrincipalComponents(AdversarialConformance):
    detector = AutoencoderOutput


class TestVariational(AdversarialConformance):
    detector = AutoencoderOutput
    parameters: ClassVar = {"reconstruction": "vae", "options": {"epochs": 20}}


def test_divergence_is_kullback_and_leiblers():
    """The divergence of probabilities is scipy's entropy of one relative to the other, finite where one is 0."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet([1, 1, 1], 50), rng.dirichlet([1, 1, 1], 50)
    unit = answers.units(p)
    found = answers.divergence(p, q, unit, probabilities=True)
    np.testing.assert_allclose(found, stats.entropy(p, q, axis=1), rtol=1e-6)
    sure = np.array([[1.0, 0.0]])
    assert np.isfinite(answers.divergence(sure, sure[:, ::-1], np.ones(2), probabilities=True)).all()
    assert answers.divergence(sure, sure, np.ones(2), probabilities=True)[0] == 0


def test_answers_that_are_no_law_have_a_unit():
    """Probabilities are told in 1, numbers in their standard deviation, a constant in 1."""
    rng = np.random.default_rng(1)
    assert (answers.units(rng.dirichlet([1, 1], 30)) == 1).all()
    numbers = rng.normal(5, 3, (1000, 2)) * [1, 0] + [0, 7]
    np.testing.assert_allclose(answers.units(numbers), [numbers[:, 0].std(), 1.0])


def test_only_answers_count_without_the_error():
    """With the error's weight at 0 a model whose answers never move scores 0 on any row."""

    def flat(x):
        return np.full((len(x), 2), 0.5)

    x = mixed(100, seed=0)
    rows = 10 * x
    assert (AutoencoderOutput.fit(x, MIXED, flat, error=0.0).score(rows, flat).instance == 0).all()
    scores = AutoencoderOutput.fit(x, MIXED, flat).score(rows, flat)
    assert (scores.instance > 1).mean() > 0.9
    np.testing.assert_allclose(scores.feature.sum(1), scores.instance)


@pytest.mark.parametrize("bad", [{"reconstruction": "gan"}, {"error": -1.0}, {"options": {"layers": 3}}], ids=str)
def test_parameters_out_of_range_are_refused(bad):
    """An unknown auto-encoder, a negative weight and unknown options raise InvalidRequest."""
    with pytest.raises(InvalidRequest):
        AutoencoderOutput.fit(mixed(50, seed=0), MIXED, TestVariational.predict, **bad)
