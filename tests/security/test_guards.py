"""Detectors on the path, and canary inputs at load, in front of a real model."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from headrace.detectors.base import Adversarial, Outlier, Scores, State
from headrace.errors import Refused
from headrace.features import numeric
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.security.canaries import check
from headrace.security.guards import guarded, predictor
from headrace.trust.rows import Rows
from headrace.trust.spec import DetectorSpec, Input, Output, Schema

X, Y = load_iris(return_X_y=True)
MODEL = LogisticRegression(max_iter=1000).fit(X, Y)
FEATURES = numeric(("sl", "sw", "pl", "pw"))
SCHEMA = Schema(
    features=FEATURES,
    inputs=(Input(name="x", datatype="FP64", columns=(0, 1, 2, 3)),),
    output=Output(probabilities="predict_proba", labels="predict"),
    classes=(0, 1, 2),
)


def serving(model):
    async def infer(request):
        data = request.inputs[0].data
        wanted = {each.name for each in request.outputs} or {"predict"}
        made = {"predict": ("INT64", model.predict), "predict_proba": ("FP64", model.predict_proba)}
        outputs = tuple(Tensor(name, *_of(made[name], data)) for name in sorted(wanted))
        return InferenceResponse(model_name="iris", outputs=outputs)

    return infer


def _of(made, data):
    datatype, ask = made
    return datatype, ask(data)


class FarFromMean(Outlier):
    """The largest distance to the mean of a column, in its own unit."""

    METHOD = "far-from-mean"

    def __init__(self, mean):
        self.mean = mean

    @classmethod
    def fit(cls, x, features, *, seed=0):
        return cls(x.mean(axis=0))

    def score(self, x):
        return Scores(instance=np.abs(x - self.mean).max(axis=1))

    def state(self):
        return State(arrays={"mean": self.mean})

    @classmethod
    def restore(cls, state, features):
        return cls(state.arrays["mean"])


class Confidence(FarFromMean, Adversarial):
    """How unsure the model is."""

    METHOD = "confidence"
    KIND = "adversarial"

    def score(self, x, predict):
        return Scores(instance=1 - predict(x).max(axis=1))


def request(x):
    return InferenceRequest(model_name="iris", inputs=(Tensor("x", "FP64", np.atleast_2d(x)),))


def guard(mode, counts, *, kind="outlier"):
    infer, rows = serving(MODEL), Rows(SCHEMA)
    detector = (FarFromMean if kind == "outlier" else Confidence).fit(X, FEATURES)
    spec = DetectorSpec(
        name="odd", method=detector.METHOD, kind=kind, threshold=5.0 if kind == "outlier" else 0.3, guard=mode
    )
    predict = None if kind == "outlier" else lambda: predictor(rows, infer, model="iris")
    return guarded(infer, rows, spec, detector, counts, predict=predict)


async def test_an_outlier_is_refused_with_its_score():
    """A row beyond the threshold is not answered, and the text has detector, row, score and threshold."""
    counts = {}
    with pytest.raises(Refused, match=r"odd takes 1 of 2 rows \(row 1\) for outliers: .* 17.64, the threshold 5"):
        await guard("reject", counts)(request([X[0], X[0] + np.array([0, 0, 20, 0])]))
    assert counts == {"refused": 1}


async def test_an_outlier_is_flagged_beside_the_answer():
    """Flagging answers, and says which rows."""
    counts = {}
    answer = await guard("flag", counts)(request([X[0] + 20, X[0]]))
    assert len(answer.outputs[0].data) == 2
    assert (answer.parameters["odd_rows"], answer.headers["headrace-outlier"]) == ("0", "odd rows=0")
    assert counts == {"flagged": 1}


async def test_usual_rows_pass_untouched():
    """Rows below the threshold are answered as if nobody looked."""
    counts = {}
    answer = await guard("reject", counts)(request(X[:10]))
    assert (len(answer.outputs[0].data), dict(answer.parameters), counts) == (10, {}, {})


async def test_an_adversarial_detector_asks_the_model():
    """A detector that needs the model's probabilities gets them, whatever outputs the caller asks for."""
    unsure = int(np.argmin(MODEL.predict_proba(X).max(axis=1)))
    with pytest.raises(Refused, match="adversarial"):
        await guard("reject", {}, kind="adversarial")(request(X[unsure]))
    assert (await guard("reject", {}, kind="adversarial")(request(X[0]))).outputs[0].data.tolist() == [0]


async def test_the_model_that_was_fitted_passes_its_canaries():
    """A model that answers as recorded differs in nothing."""
    assert await check(serving(MODEL), Rows(SCHEMA), X, MODEL.predict_proba(X), model="iris") == ""


async def test_another_model_fails_them():
    """A model trained otherwise is found out, with a row and both answers."""
    other = LogisticRegression(max_iter=1000, C=0.01).fit(X, Y)
    said = await check(serving(other), Rows(SCHEMA), X, MODEL.predict_proba(X), model="iris")
    assert "answers 16 of 16 recorded rows otherwise" in said


async def test_a_model_of_other_classes_fails_them():
    """An answer of another shape is found out, too."""
    said = await check(serving(MODEL), Rows(SCHEMA), X, np.ones((150, 5)), model="iris")
    assert said == "its trust folder recorded answers of shape (16, 5), and it gives answers of shape (16, 3)"
