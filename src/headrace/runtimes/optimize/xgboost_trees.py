"""XGBoost boosters, read from their JSON into ensembles, or one product where they are linear. Called by `candidates`.

XGBoost rounds rows and splits to float32 and goes left where x < t. The comparison is the same in float64 after the
same rounding; sums differ from its float32 ones by 1e-7, so the gate's float32 tolerance applies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize import trees
from headrace.runtimes.optimize.engine import Engine, Labels, Refused
from headrace.runtimes.optimize.graph import INPUT, Graph
from headrace.runtimes.optimize.trees import Grown, Tree

_SIGMOID: Final = frozenset({"binary:logistic", "reg:logistic"})
_EXPONENTIAL: Final = frozenset({"count:poisson", "reg:gamma", "reg:tweedie"})
_IDENTITY: Final = frozenset(
    {
        *("reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "binary:logitraw"),
        *("rank:pairwise", "rank:ndcg", "rank:map"),
    }
)


class Booster(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a booster's JSON that answers depend on."""

    name: str
    """`gbtree`, `dart` or `gblinear`."""
    body: dict[str, Any]
    objective: str
    width: int
    targets: int
    base: Array
    """Added to the sum, per target."""


def parse(booster: Any) -> Booster:
    """Read an `xgboost.Booster`.

    Raises:
        Refused: for several targets and objectives without a graph here.
    """
    learner = msgspec.json.decode(booster.save_raw(raw_format="json"))["learner"]
    settings = learner["learner_model_param"]
    objective = learner["objective"]["name"]
    targets = max(1, int(settings["num_class"]))
    if int(settings.get("num_target", "1")) > 1:
        raise Refused("several targets at once have no graph here")
    scores = [float(part) for part in settings["base_score"].strip("[]").split(",")]
    if objective in _SIGMOID:
        scores = [
            math.log(score / (1.0 - score)) if 0 < score < 1 else math.copysign(math.inf, score) for score in scores
        ]
    elif objective in _EXPONENTIAL:
        scores = [math.log(score) for score in scores]
    elif objective not in _IDENTITY and not objective.startswith("multi:"):
        raise Refused(f"objective {objective!r} has no graph here")
    body = learner["gradient_booster"]
    return Booster(
        name=body["name"],
        body=body,
        objective=objective,
        width=int(settings["num_feature"]),
        targets=targets,
        base=np.broadcast_to(np.array(scores, dtype=np.float64), (targets,)),
    )


def read(booster: Booster, classes: Any, rounds: int | None) -> Grown:
    """The trees of a booster that has them.

    Args:
        booster: What `parse` returned.
        classes: Those of the scikit-learn estimator around it; None: answer as the booster itself does.
        rounds: Boosting rounds that answer; None: all.

    Raises:
        Refused: for categorical splits, and leaves that hold vectors.
    """
    inner = booster.body["gbtree"] if booster.name == "dart" else booster.body
    drops = booster.body.get("weight_drop")
    bodies, target = inner["model"]["trees"], inner["model"]["tree_info"]
    if rounds is not None:
        last = inner["model"]["iteration_indptr"][rounds]
        bodies, target = bodies[:last], target[:last]
    weights = np.ones(len(bodies)) if drops is None else np.array(drops[: len(bodies)], dtype=np.float64)
    parsed = [_tree(body, weight, at) for body, weight, at in zip(bodies, weights, target, strict=True)]
    base = [trees.constant(float(value), at) for at, value in enumerate(booster.base)]
    forest = trees.grow([*base, *parsed], width=booster.width, targets=booster.targets)
    graph = Graph(forest.width)
    raw = graph.ensemble(graph.narrow(INPUT), forest)
    outputs = _outputs(graph, raw, booster, classes)
    return Grown(
        forest=forest,
        artefact=graph.render(),
        outputs=outputs,
        classes=None if classes is None else np.asarray(classes),
        missing=True,
        exact=False,
    )


def _tree(body: dict[str, Any], weight: float, target: int) -> Tree:
    if any(body.get("split_type", ())):
        raise Refused("categorical splits of XGBoost have no graph here")
    if int(body["tree_param"].get("size_leaf_vector", "0")) > 1:
        raise Refused("leaves that hold vectors have no graph here")
    left = np.array(body["left_children"], dtype=np.int64)
    split = np.array(body["split_conditions"], dtype=np.float32).astype(np.float64)
    return trees.from_children(
        feature=np.array(body["split_indices"], dtype=np.int64),
        split=split,
        left=left,
        right=np.array(body["right_children"], dtype=np.int64),
        leaf=left < 0,
        value=split * weight,
        missing_left=np.array(body["default_left"], dtype=np.uint8),
        mode=trees.LT,
        target=target,
    )


def _outputs(graph: Graph, raw: str, booster: Booster, classes: Any) -> frozenset[str]:
    if booster.objective in _SIGMOID:
        score = graph.node("Sigmoid", raw)
    elif booster.objective in _EXPONENTIAL:
        score = graph.node("Exp", raw)
    elif booster.objective.startswith("multi:"):
        score = graph.node("Softmax", raw, axis=1)
    else:
        score = raw
    score = graph.cast(score, "float32")
    if classes is None:
        if booster.objective == "multi:softmax":
            label = graph.cast(graph.node("ArgMax", score, axis=1, keepdims=0), "float32")
            graph.output("predict", label, "float32", columns=None)
        elif booster.targets > 1:
            graph.output("predict", score, "float32", columns=booster.targets)
        else:
            graph.output("predict", graph.flat(score), "float32", columns=None)
        return frozenset({"predict"})
    if booster.targets > 1:
        graph.output("predict", graph.node("ArgMax", score, axis=1, keepdims=0), "int64", columns=None)
        graph.output("predict_proba", score, "float32", columns=booster.targets)
    else:
        half = graph.constant(np.array(0.5, dtype=np.float32))
        one = graph.constant(np.array(1.0, dtype=np.float32))
        positive = graph.node("Greater", score, half)
        graph.output("predict", graph.cast(graph.flat(positive), "int64"), "int64", columns=None)
        pair = graph.node("Concat", graph.node("Sub", one, score), score, axis=1)
        graph.output("predict_proba", pair, "float32", columns=2)
    return frozenset({"predict", "predict_proba"})


class LinearBooster(Engine):
    """A `gblinear` booster: one product in float32, then the objective's link."""

    name = "numpy"

    def __init__(self, booster: Booster, classes: Any, labels: Labels | None) -> None:
        weights = np.array(booster.body["model"]["weights"], dtype=np.float32).reshape(-1, booster.targets)
        self._weights, self._bias = weights[:-1], weights[-1] + booster.base.astype(np.float32)
        self._objective = booster.objective
        self._labels = labels
        self._classifier = classes is not None
        self.outputs = frozenset({"predict", "predict_proba"} if self._classifier else {"predict"})
        if booster.objective == "multi:softmax" and not self._classifier:
            raise Refused("multi:softmax over gblinear has no numpy form here")

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """The product, then the objective's link."""
        raw = rows.astype(np.float32) @ self._weights + self._bias
        score = self._link(raw)
        if not self._classifier:
            return dict.fromkeys(outputs, score if score.shape[1] > 1 else score.reshape(-1))
        result = {}
        for output in outputs:
            if output == "predict_proba":
                result[output] = score if score.shape[1] > 1 else np.concatenate((1 - score, score), axis=1)
            else:
                numbers = score.argmax(axis=1) if score.shape[1] > 1 else (score[:, 0] > 0.5).astype(np.intp)
                result[output] = self._labels.take(numbers) if self._labels is not None else numbers
        return result

    def _link(self, raw: Array) -> Array:
        from scipy.special import expit

        if self._objective in _SIGMOID:
            return np.asarray(expit(raw), dtype=np.float32)
        if self._objective in _EXPONENTIAL:
            with np.errstate(over="ignore"):
                return np.asarray(np.exp(raw), dtype=np.float32)
        if self._objective.startswith("multi:"):
            raw = np.exp(raw - raw.max(axis=1).reshape(-1, 1))
            return np.asarray(raw / raw.sum(axis=1).reshape(-1, 1), dtype=np.float32)
        return raw
