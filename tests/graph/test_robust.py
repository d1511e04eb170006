"""Robust aggregation: the bounds of the papers with members that lie, the preconditions, and combiners of pipelines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.graph import robust
from headrace.graph.combine import combiner
from headrace.graph.spec import Combine
from headrace.payload import Tensor

LIES = {
    "far": lambda honest, rng: np.full_like(honest[0], 1e9),
    "huge": lambda honest, rng: np.full_like(honest[0], 1e300),
    "noise": lambda honest, rng: 100 * rng.normal(size=honest[0].shape),
    "nan": lambda honest, rng: np.full_like(honest[0], np.nan),
    "infinite": lambda honest, rng: np.full_like(honest[0], -np.inf),
    "against": lambda honest, rng: -10 * honest.mean(0),
    "little": lambda honest, rng: honest.mean(0) + 1.5 * honest.std(0),
}


def members(seed, n, f, lie, shape=(4, 3)):
    """Honest answers, n - f of them, around a truth, and f lies, shuffled: with who is honest."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=shape) + rng.normal(0, 0.1, size=(n - f, *shape))
    lies = [LIES[lie](honest, rng) for _ in range(f)]
    order = rng.permutation(n)
    return np.concatenate([honest, np.stack(lies)])[order], (np.arange(n) < n - f)[order], honest


@pytest.mark.parametrize("lie", LIES)
@given(seed=st.integers(0, 10**6), f=st.integers(1, 3), more=st.integers(0, 4))
def test_krum_stays_within_the_honest_ones(lie, seed, f, more):
    """With f liars of n >= 2 f + 3, Krum's answer is within the bound of its proof: as near to an honest member as the
    honest members' own scores are, and multi-Krum's is the mean of such.
    """
    n = 2 * f + 3 + more
    x, is_honest, honest = members(seed, n, f, lie)
    answer, whose = robust.krum(x, f)
    np.testing.assert_array_equal(answer, x[whose])
    # Lemma of the paper: the winner's score is at most the best honest one's, and at least one of its n - f - 2 nearest
    # is honest; so it is no further from that one than the square root of the best honest score.
    flat = honest.reshape(len(honest), -1)
    squares = np.sort(((flat[:, None] - flat[None]) ** 2).sum(-1), axis=1)[:, 1 : n - f - 1]
    bound = np.sqrt(squares.sum(1).min())
    nearest = np.sqrt(((flat - answer.ravel()) ** 2).sum(1)).min()
    assert nearest <= bound * (1 + 1e-9)
    if lie in {"far", "huge", "noise", "nan", "infinite", "against"}:
        assert is_honest[whose]
        mean, chosen = robust.multi_krum(x, f, m=n - f - 2)
        assert is_honest[chosen].all()
        np.testing.assert_allclose(mean, x[chosen].mean(0))


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("aggregate", [robust.trimmed_mean, robust.median])
@given(seed=st.integers(0, 10**6), f=st.integers(1, 3), more=st.integers(0, 4))
def test_coordinates_lie_between_honest_ones(aggregate, lie, seed, f, more):
    """With f liars of n >= 2 f + 1, each element of the trimmed mean and the median is between honest values."""
    x, _, honest = members(seed, 2 * f + 1 + more, f, lie)
    answer = aggregate(x, f)
    assert (answer >= honest.min(0) - 1e-12).all()
    assert (answer <= honest.max(0) + 1e-12).all()


@given(seed=st.integers(0, 10**6), n=st.integers(3, 9))
def test_without_liars_they_are_the_plain_ones(seed, n):
    """With f = 0 the trimmed mean is the mean, the median the median, and multi-Krum of all of them the mean."""
    x = np.random.default_rng(seed).normal(size=(n, 2))
    np.testing.assert_allclose(robust.trimmed_mean(x, 0), x.mean(0))
    np.testing.assert_allclose(robust.median(x, 0), np.median(x, axis=0))
    np.testing.assert_allclose(robust.multi_krum(x, 0, m=n)[0], x.mean(0))


def test_krum_is_the_definition():
    """Scores are the sums of the squared distances to the n - f - 2 nearest others, counted one by one."""
    x = np.random.default_rng(0).normal(size=(7, 5))
    f = 2
    expected = []
    for one in range(7):
        others = sorted(((x[one] - x[other]) ** 2).sum() for other in range(7) if other != one)
        expected.append(sum(others[: 7 - f - 2]))
    np.testing.assert_allclose(robust.scores(x, f) * np.abs(x).max() ** 2, expected)
    assert robust.krum(x, f)[1] == int(np.argmin(expected))


def test_a_vote_of_honest_ones_wins():
    """Two of five that vote together for something else do not win, and the count says how many stand behind."""
    x = np.array([[1, 2], [7, 7], [1, 2], [7, 7], [1, 2]])
    values, behind = robust.vote(x, 2)
    assert values.tolist() == [1, 2]
    assert behind.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x: robust.krum(x, 1), r"n >= 2 f \+ 3.*needs 5 members, and 4 came"),
        (lambda x: robust.multi_krum(x, 0, m=5), "1 to 4"),
        (lambda x: robust.trimmed_mean(x, 2), r"n >= 2 f \+ 1"),
        (lambda x: robust.median(x, 2), r"n >= 2 f \+ 1"),
        (lambda x: robust.vote(x, 2), r"n >= 2 f \+ 1"),
        (lambda x: robust.trimmed_mean(np.where(np.eye(4)[:, :2] > 0, np.nan, x), 1), "2 of 4 members"),
        (lambda x: robust.median(np.where(np.eye(4)[:, :2] > 0, np.nan, x), 1), "2 of 4 members"),
        (lambda x: robust.krum(np.full((5, 2), np.nan), 1), "5 of 5 members"),
    ],
)
def test_too_few_members_are_refused(call, told):
    """Where there are not members enough for f, or more than f answer no numbers, the error says what is needed."""
    with pytest.raises(InvalidRequest, match=told):
        call(np.arange(8.0).reshape(4, 2))


def test_another_shape_is_an_error_that_names_the_member():
    """A member whose answer has another shape is named."""
    with pytest.raises(InvalidRequest, match=r"member 'third' answers shape \[3\]"):
        robust.stacked([("first", np.zeros(2)), ("second", np.zeros(2)), ("third", np.zeros(3))])


def step(kind, *answers, **parameters):
    inputs = {f"m{at}": (Tensor("y", "FP32", np.asarray(each, np.float32)),) for at, each in enumerate(answers)}
    return combiner(Combine(type=kind, parameters=parameters))(inputs)


@pytest.mark.parametrize("kind", ["krum", "multi-krum", "trimmed-mean", "median"])
def test_combiners_withstand_a_member_and_say_which(kind):
    """A step's answer stays with four honest members beside one that answers NaN or anything, and names the one."""
    for lie in ([np.nan, 0], [900, -900]):
        answer, dissent = step(kind, [1, 2], [1.01, 2], lie, [1, 2.01], [0.99, 2], f=1, dissent=True)
        assert (answer.name, answer.datatype) == ("y", "FP32")
        np.testing.assert_allclose(answer.data, [1, 2], atol=0.02)
        assert dissent.name == "dissent"
        assert dissent.data.tolist() == [False, False, True, False, False]


def test_votes_say_who_dissents():
    """A vote answers the majority, and its dissent is those who voted otherwise for any row."""
    labels, dissent = step("vote", [1, 2], [1, 2], [1, 3], f=1, dissent=True)
    assert labels.data.tolist() == [1, 2]
    assert dissent.data.tolist() == [False, False, True]


def test_steps_with_too_few_answers_fail():
    """Members that are too few when the request comes, or of other shapes, fail the step and are named."""
    with pytest.raises(RuntimeFailed, match="needs 5 members, and 3 came"):
        step("krum", [1], [1], [1])
    with pytest.raises(RuntimeFailed, match="'m4'"):
        step("krum", [1], [1], [1], [1], [1, 2])


@pytest.mark.parametrize("parameters", [{"f": -1}, {"f": 0.5}, {"g": 1}, {"dissent": 3}])
def test_parameters_that_are_none_are_refused(parameters):
    """A parameter that krum does not have, or that is no whole number, raises InvalidRequest."""
    with pytest.raises(InvalidRequest, match="krum"):
        combiner(Combine(type="krum", parameters=parameters))
