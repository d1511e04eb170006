"""CatBoost models of numeric features, read from their JSON into ensembles. Called by `candidates`.

A CatBoost tree asks the same question at every node of a level, so its leaf number is the answers' bits. Rows are
rounded to float32 first, sums are made in float64.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from headrace.runtimes.optimize import trees
from headrace.runtimes.optimize.engine import Refused
from headrace.runtimes.optimize.graph import INPUT, Graph
from headrace.runtimes.optimize.sklearn_trees import MOST_NODES
from headrace.runtimes.optimize.trees import Grown, Tree

_SIGMOID: Final = frozenset({"Logloss", "CrossEntropy"})
_IDENTITY: Final = frozenset(
    {
        *("RMSE", "MAE", "Quantile", "MAPE", "Huber", "Expectile", "LogCosh", "Lq", "LogLinQuantile"),
        *(
            "YetiRank",
            "YetiRankPairwise",
            "PairLogit",
            "PairLogitPairwise",
            "QueryRMSE",
            "QuerySoftMax",
            "StochasticRank",
        ),
    }
)


def read(model: Any, classes: Any) -> Grown:
    """The trees of a CatBoost model.

    Args:
        model: A fitted CatBoost estimator.
        classes: Those of a classifier; None: it answers values.

    Raises:
        Refused: for categories, texts, trees that are not symmetric, and losses without a graph here.
    """
    document = _document(model)
    if "oblivious_trees" not in document:
        raise Refused("the trees are not symmetric; only such have a graph here")
    bodies = document["oblivious_trees"]
    scale, bias = document["scale_and_bias"]
    targets = len(bias)
    if sum(1 << len(body["splits"] or ()) for body in bodies) * targets > MOST_NODES:
        raise Refused(f"more than {MOST_NODES:,} nodes; as many are slower in a graph")
    features = document["features_info"].get("float_features", [])
    forest = trees.grow(
        [_tree(body, features, targets, target) for body in bodies for target in range(targets)],
        width=len(model.feature_names_),
        targets=targets,
    )
    graph = Graph(forest.width)
    raw = graph.ensemble(graph.narrow(INPUT), forest)
    if scale != 1:
        raw = graph.node("Mul", raw, graph.number(float(scale)))
    if any(bias):
        raw = graph.node("Add", raw, graph.constant(np.array([bias], dtype=np.float64)))
    loss = document["model_info"]["params"]["loss_function"]["type"]
    return Grown(
        forest=forest,
        artefact=_finished(graph, raw, loss, targets, classes),
        outputs=frozenset({"predict"} if classes is None else {"predict", "predict_proba"}),
        classes=None if classes is None else np.asarray(classes),
        missing=True,
        copies=targets,
    )


def _document(model: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="headrace-catboost-") as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        document: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return document


def _tree(body: dict[str, Any], features: list[dict[str, Any]], targets: int, target: int) -> Tree:
    splits = body["splits"] or ()
    weight = np.array(body["leaf_values"], dtype=np.float64)[target::targets]
    if not splits:
        return trees.constant(float(weight[0]), target)
    if any(split["split_type"] != "FloatFeature" for split in splits):
        raise Refused("categorical splits of CatBoost have no graph here")
    known = [features[split["float_feature_index"]] for split in splits]
    depth = len(splits)
    level = np.repeat(np.arange(depth), 1 << np.arange(depth))
    answers = np.arange(level.size) + 1 - (1 << level)  # of the levels above, as bits
    last = level == depth - 1
    below = (1 << (level + 1)) - 1 + answers
    over = answers + (1 << level)  # with this level's bit set
    return Tree(
        feature=np.array([each["flat_feature_index"] for each in known], dtype=np.int64)[level],
        split=np.array([split["border"] for split in splits], dtype=np.float32).astype(np.float64)[level],
        mode=np.zeros(level.size, np.uint8),
        yes=np.where(last, ~answers, below),
        no=np.where(last, ~over, below + (1 << level)),
        missing_yes=np.array([each["nan_value_treatment"] != "AsTrue" for each in known], dtype=np.uint8)[level],
        weight=weight,
        target=target,
    )


def _finished(graph: Graph, raw: str, loss: str, targets: int, classes: Any) -> bytes:
    if classes is None:
        if loss in {"Poisson", "Tweedie"}:
            raw = graph.node("Exp", raw)
        elif loss not in _IDENTITY or targets > 1:
            raise Refused(f"loss {loss!r} with {targets} targets has no graph here")
        graph.output("predict", graph.flat(raw), "float64", columns=None)
        return graph.render()
    if loss in _SIGMOID and targets == 1:
        graph.output("predict_proba", graph.pair(graph.node("Sigmoid", raw)), "float64", columns=2)
        number = graph.cast(graph.flat(graph.node("Greater", raw, graph.number(0.0))), "int64")
    elif loss == "MultiClass":
        graph.output("predict_proba", graph.node("Softmax", raw, axis=1), "float64", columns=targets)
        number = graph.node("ArgMax", raw, axis=1, keepdims=0)
    else:
        raise Refused(f"loss {loss!r} has no graph here")
    graph.output("predict", number, "int64", columns=None)
    return graph.render()
