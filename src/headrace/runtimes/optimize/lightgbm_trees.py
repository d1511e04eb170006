"""LightGBM boosters, read from their model text into ensembles. Called by `candidates`.

LightGBM drops values with |x| <= 1e-35 before it compares. Instead of doing so per request, splits within that band
are moved to its edge, which sends every row the same way. NaN goes where 0 goes, unless the node was trained with NaN.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from headrace.runtimes.optimize import trees
from headrace.runtimes.optimize.engine import Refused
from headrace.runtimes.optimize.graph import INPUT, Graph
from headrace.runtimes.optimize.trees import Grown, Tree

TINY: Final = float(np.float32(1e-35))
"""LightGBM's kZeroThreshold, which is a float32."""
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_ZERO, _MISSING_NAN = 1, 2, 4, 8
_EXPONENTIAL: Final = frozenset({"poisson", "gamma", "tweedie"})
_IDENTITY: Final = frozenset(
    {
        *("regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg"),
        *("regression_l2", "l2", "l1", "mean_squared_error", "mean_absolute_error"),
    }
)


def read(booster: Any, classes: Any) -> Grown:
    """The trees of a `lightgbm.Booster`.

    Args:
        booster: Answered for up to its best iteration, as its own `predict` does.
        classes: Those of the scikit-learn estimator around it; None: answer as the booster itself does.

    Raises:
        Refused: for linear trees, zero as missing, and objectives without a graph here.
    """
    head, *bodies = booster.model_to_string().split("end of trees")[0].split("\nTree=")
    settings = _settings(head)
    per_round = int(settings["num_tree_per_iteration"])
    width = int(settings["max_feature_idx"]) + 1
    parsed = [_tree(_settings(body), at % per_round) for at, body in enumerate(bodies)]
    if not parsed:
        raise Refused("the booster holds no trees")
    forest = trees.grow(parsed, width=width, targets=per_round)
    graph = Graph(width)
    categorical = np.unique(forest.feature[forest.mode == trees.MEMBER]).tolist()
    rows = graph.only_codes(graph.truncate(INPUT, categorical), categorical) if categorical else INPUT
    raw = graph.ensemble(rows, forest)
    if "average_output" in settings:
        raw = graph.node("Div", raw, graph.number(float(len(parsed) // per_round)))
    score = _link(graph, raw, settings.get("objective", "").split())
    outputs = _outputs(graph, score, per_round, classes)
    return Grown(
        forest=forest,
        artefact=graph.render(),
        outputs=outputs,
        classes=None if classes is None else np.asarray(classes),
        missing=True,
        infinite=False,
    )


def _settings(block: str) -> dict[str, str]:
    lines = (line.partition("=") for line in block.splitlines())
    return {key: value for key, _, value in lines}


def _tree(settings: dict[str, str], target: int) -> Tree:
    if settings.get("is_linear", "0") != "0":
        raise Refused("linear trees have no graph here")
    weight = np.array(settings["leaf_value"].split(), dtype=np.float64)
    if int(settings["num_leaves"]) <= 1:
        return trees.constant(float(weight[0]), target)
    kind = np.array(settings["decision_type"].split(), dtype=np.int64)
    split = np.array(settings["threshold"].split(), dtype=np.float64)
    categorical = (kind & _CATEGORICAL) != 0
    if ((kind & _MISSING_ZERO) != 0)[~categorical].any():
        raise Refused("zero_as_missing has no graph here")
    missing = np.where(kind & _MISSING_NAN, (kind & _DEFAULT_LEFT) != 0, split >= 0.0) & ~categorical
    within = ~categorical & (np.abs(split) <= TINY)
    split = np.where(within & (split >= 0.0), TINY, split)
    split = np.where(within & (split < 0.0), np.nextafter(-TINY, -1.0), split)
    return Tree(
        feature=np.array(settings["split_feature"].split(), dtype=np.int64),
        split=np.where(categorical, 0.0, split),
        mode=np.where(categorical, trees.MEMBER, trees.LEQ).astype(np.uint8),
        yes=np.array(settings["left_child"].split(), dtype=np.int64),
        no=np.array(settings["right_child"].split(), dtype=np.int64),
        missing_yes=missing.astype(np.uint8),
        weight=weight,
        members=_members(settings, split[categorical].astype(np.int64)),
        target=target,
    )


def _members(settings: dict[str, str], numbers: trees.Integers) -> tuple[trees.Floats, ...]:
    """The categories that go left, of each categorical node: bit sets of 32-bit words, one after the other."""
    if not numbers.size:
        return ()
    starts = np.array(settings["cat_boundaries"].split(), dtype=np.int64)
    words = np.array(settings["cat_threshold"].split(), dtype=np.uint32)
    sets = []
    for number in numbers:
        own = words[starts[number] : starts[number + 1]]
        bits = (own[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        sets.append(np.flatnonzero(bits.ravel()).astype(np.float64))
    return tuple(sets)


def _link(graph: Graph, raw: str, objective: list[str]) -> str:
    """What `Booster.predict` makes of the sum of the leaves."""
    name = objective[0] if objective else ""
    options = dict(part.partition(":")[::2] for part in objective[1:])
    if name in {"binary", "multiclassova"}:
        steepness = float(options.get("sigmoid", "1"))
        scaled = raw if steepness == 1.0 else graph.node("Mul", raw, graph.number(steepness))
        return graph.node("Sigmoid", scaled)
    if name in {"cross_entropy", "xentropy"}:
        return graph.node("Sigmoid", raw)
    if name in {"multiclass", "softmax"}:
        return graph.node("Softmax", raw, axis=1)
    if name in _EXPONENTIAL:
        return graph.node("Exp", raw)
    if name in _IDENTITY and "sqrt" not in objective:
        return raw
    raise Refused(f"objective {' '.join(objective) or 'of the user'!r} has no graph here")


def _outputs(graph: Graph, score: str, targets: int, classes: Any) -> frozenset[str]:
    if classes is None:
        columns = targets if targets > 1 else None
        graph.output("predict", score if targets > 1 else graph.flat(score), "float64", columns=columns)
        return frozenset({"predict"})
    probabilities = score if targets > 1 else graph.pair(score)
    graph.output("predict_proba", probabilities, "float64", columns=max(targets, 2))
    graph.output("predict", graph.node("ArgMax", probabilities, axis=1, keepdims=0), "int64", columns=None)
    return frozenset({"predict", "predict_proba"})
