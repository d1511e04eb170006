"""Who copies a model is noticed, who uses it is not, and what is done grows with the suspicion.

The attack is that of Papernot et al. (2017), which PRADA was made for: synthetic rows along the sign of a substitute's
gradient, from few seeds. The model is a classifier of digits.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from headrace.errors import Forbidden, Throttled
from headrace.features import numeric
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.security.extraction import Monitor, Queries, Scale, monitored
from headrace.trust.rows import Rows
from headrace.trust.spec import Extraction, Input, Output, Schema

X, Y = load_digits(return_X_y=True)
X = X / 16
MODEL = LogisticRegression(max_iter=2000, C=0.1).fit(X[:900], Y[:900])


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def monitor(*actions, clock=None, **settings):
    made = Monitor(
        "digits", X[:900], MODEL.predict(X[:900]).astype(float), Extraction(actions=actions, **settings),
        clock=clock or Clock(),
    )  # fmt: skip
    made.calibrate()
    return made


def augmented(rows, *, step=0.1, rounds=6, seed=0):
    """Jacobian-based augmentation: each round doubles the rows, along the sign of the gradient of their class."""
    x = X[900 + seed * 30 : 900 + seed * 30 + 20]
    while len(x) < rows and rounds:
        signs = np.sign(MODEL.coef_[MODEL.predict(x)])
        x = np.concatenate([x, x - step * signs])
        rounds -= 1
    return x[:rows]


async def ask(made, caller, x):
    for start in range(0, len(x), 50):
        part = x[start : start + 50]
        made.note(caller, part, MODEL.predict(part).astype(float), MODEL.predict_proba(part))
        await made.settle()


@pytest.mark.parametrize("seed", range(4))
async def test_who_uses_the_model_is_not_suspected(seed):
    """Rows of the model's own kind, in any order, raise no suspicion."""
    made = monitor("log")
    order = np.random.default_rng(seed).permutation(np.arange(900, len(X)))
    await ask(made, "user", X[order])
    assert made.suspicions()[0].reasons == ()


@pytest.mark.parametrize("seed", range(4))
async def test_who_copies_the_model_is(seed):
    """Synthetic rows along a gradient are noticed, with the reason."""
    made = monitor("log")
    await ask(made, "thief", augmented(600, seed=seed))
    (found,) = made.suspicions()
    assert found.reasons
    assert (found.caller, found.action) == ("thief", "log")


async def test_rows_outside_all_ranges_are_noticed():
    """Random queries that the reference has nothing of are noticed by their ranges."""
    made = monitor("log")
    await ask(made, "thief", np.random.default_rng(0).normal(size=(200, 64)) * 3)
    assert any("outside what the reference has" in each for each in made.suspicions()[0].reasons)


async def test_what_is_done_grows_and_shrinks():
    """Each suspicious look goes one action further, a good one goes back, and other callers notice nothing."""
    clock = Clock()
    made = monitor("log", "round", "label_only", "throttle", "block", clock=clock, window=50)
    attack = augmented(1000, rounds=9)
    steps = []
    for start in range(0, 250, 50):
        await ask(made, "thief", attack[300 + start : 350 + start] * 40)
        steps.append(made.suspicions()[0].action)
    assert steps == ["log", "round", "label_only", "throttle", "block"]
    with pytest.raises(Forbidden, match="does not answer 'thief' for 3600 s"):
        made.admit("thief")
    assert made.admit("user") is None
    clock.now += 3601
    made.admit("thief")
    with pytest.raises(Throttled) as caught:
        made.admit("thief")
    assert 0 < caught.value.retry_after_seconds <= 1


async def test_a_suspected_caller_gets_less():
    """While suspicion says so, the answer is rounded; another caller's is whole."""

    async def infer(request):
        x = request.inputs[0].data
        outputs = (
            Tensor("predict", "INT64", MODEL.predict(x)),
            Tensor("predict_proba", "FP64", MODEL.predict_proba(x)),
        )
        return InferenceResponse(model_name="digits", outputs=outputs)

    made = monitor("round", window=50)
    schema = Schema(
        features=numeric(64),
        inputs=(Input(name="x", datatype="FP64", columns=tuple(range(64))),),
        output=Output(probabilities="predict_proba", labels="predict"),
        classes=tuple(range(10)),
    )
    infer = monitored(infer, made, Rows(schema), caller=lambda request: request.headers["who"])

    async def of(who, x):
        request = InferenceRequest(model_name="digits", inputs=(Tensor("x", "FP64", x),), headers={"who": who})
        response = await infer(request)
        await made.settle()
        return response.outputs[1].data

    await of("thief", X[900:960] * 40)
    assert np.array_equal(await of("thief", X[:1]), MODEL.predict_proba(X[:1]).round(1))
    assert np.array_equal(await of("user", X[:1]), MODEL.predict_proba(X[:1]))


def test_distances_are_to_the_nearest_earlier_row_of_the_class():
    """The first row of a class has no distance, a later one the least to what was kept of its class."""
    queries = Queries()
    found = queries.add(np.array([[0.0], [10.0], [1.0], [4.0]]), np.array([0.0, 1.0, 0.0, 0.0]))
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [1.0, 3.0]


def test_missing_values_and_constant_columns_have_no_distance():
    """A missing value is in the middle of its column, and a constant column moves nothing."""
    scale = Scale(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert scale(np.array([[np.nan, 5.0], [2.0, 5.0]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_caller_who_asks_the_same_again_is_all_the_same():
    """Distances without any spread are nothing that occurs by itself: W is 0."""
    queries = Queries()
    queries.add(np.zeros((150, 2)), np.zeros(150))
    assert queries.statistic() == 0.0
