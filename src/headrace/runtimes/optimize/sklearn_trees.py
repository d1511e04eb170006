"""scikit-learn's trees, forests and gradient boosting, read into ensembles. Called by `candidates`.

Sums keep scikit-learn's order (the baseline is the first tree, forests divide at the end), so scores of forests and
regressors are equal in every bit; only sigmoid and softmax come from another library, within 3e-16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize import trees
from headrace.runtimes.optimize.engine import Engine, Labels, Refused
from headrace.runtimes.optimize.graph import INPUT, Graph
from headrace.runtimes.optimize.trees import Grown, Tree

MOST_NODES: Final = 900_000
"""Beyond this, a float64 graph at 256 rows is slower than the library it replaces."""


def read(model: Any) -> Grown | None:
    """The trees of a fitted estimator; None: it is not one of scikit-learn's tree models.

    Raises:
        Refused: for a tree model with a setting that has no graph here.
    """
    kind = type(model)
    if not kind.__module__.startswith("sklearn."):
        return None
    reader = _READERS.get(kind.__name__)
    if reader is None:
        return None
    if getattr(model, "n_outputs_", 1) != 1:
        raise Refused(f"{kind.__name__} answers {model.n_outputs_} targets at once; trees here add to one")
    return reader(model)


# Forests and single trees: the mean of the leaves.


def members(model: Any) -> list[Any]:
    """The fitted low-level trees of a forest or a single tree."""
    return [one.tree_ for one in getattr(model, "estimators_", [model])]


def takes_missing(model: Any) -> bool:
    """Whether some tree learned where missing values go."""
    return any(bool(tree.missing_go_to_left.any()) for tree in members(model))


def splits(model: Any, width: int) -> list[Array]:
    """The thresholds of a forest, per column."""
    feature = np.concatenate([tree.feature for tree in members(model)])
    split = np.concatenate([tree.threshold for tree in members(model)])
    return [split[feature == column] for column in range(width)]


def _forest(model: Any) -> Grown:
    grown = members(model)
    classes = getattr(model, "classes_", None)
    targets = 1 if classes is None else len(classes)
    _small_enough(sum(tree.node_count for tree in grown) // 2 * targets)
    forest = trees.grow(
        [_tree(tree, tree.value[:, 0, target], target) for tree in grown for target in range(targets)],
        width=model.n_features_in_,
        targets=targets,
    )
    graph = Graph(forest.width)
    mean = graph.ensemble(graph.narrow(INPUT), forest)
    if len(grown) > 1:
        mean = graph.node("Div", mean, graph.number(float(len(grown))))
    if classes is None:
        graph.output("predict", graph.flat(mean), "float64", columns=None)
        outputs = {"predict"}
    else:
        graph.output("predict", graph.node("ArgMax", mean, axis=1, keepdims=0), "int64", columns=None)
        graph.output("predict_proba", mean, "float64", columns=targets)
        outputs = {"predict", "predict_proba"}
    return Grown(
        forest=forest,
        artefact=graph.render(),
        outputs=frozenset(outputs),
        classes=classes,
        missing=takes_missing(model),
        copies=targets,
    )


def _tree(tree: Any, value: Array, target: int = 0) -> Tree:
    return trees.from_children(
        feature=tree.feature,
        split=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        leaf=tree.children_left < 0,
        value=value,
        missing_left=tree.missing_go_to_left,
        target=target,
    )


def _small_enough(nodes: int) -> None:
    if nodes > MOST_NODES:
        raise Refused(f"{nodes:,} nodes; beyond {MOST_NODES:,} a float64 graph is slower than scikit-learn on batches")


class TreeLoop(Engine):
    """A forest's own trees, one after the other, without the thread pool and the checks of `predict`: the same bits."""

    name = "scikit-learn trees, one thread"
    releases_lock = True

    def __init__(self, model: Any, labels: Labels | None) -> None:
        self._trees = members(model)
        self._labels = labels
        self.outputs = frozenset({"predict"} if labels is None else {"predict", "predict_proba"})

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """Sum the trees in order, then divide."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        total = self._trees[0].predict(rows)
        for tree in self._trees[1:]:
            total += tree.predict(rows)
        total /= len(self._trees)
        if self._labels is None:
            return dict.fromkeys(outputs, total.reshape(-1))
        numbers = total.argmax(axis=1) if "predict" in outputs else None
        return {name: total if numbers is None or name != "predict" else self._labels.take(numbers) for name in outputs}


def is_known(model: Any) -> bool:
    """Whether the model is one that `read` reads."""
    return type(model).__module__.startswith("sklearn.") and type(model).__name__ in _READERS


def is_forest(model: Any) -> bool:
    """Whether the model is a forest of several trees, for which a loop may beat scikit-learn's thread pool."""
    return type(model).__name__ in _FORESTS


# Gradient boosting: baseline plus leaves, then a link.


def _gradient_boosting(model: Any) -> Grown:
    if not (isinstance(model.init_, str) or type(model.init_).__name__ in {"DummyClassifier", "DummyRegressor"}):
        raise Refused(f"{type(model).__name__} starts from a {type(model.init_).__name__}, which is not a constant")
    baseline = model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))[0]  # noqa: SLF001 - its only name
    targets = len(baseline)
    _small_enough(sum(one.tree_.node_count for one in model.estimators_.ravel()) // 2)
    stages = [
        _tree(one.tree_, model.learning_rate * one.tree_.value[:, 0, 0], target)
        for stage in model.estimators_
        for target, one in enumerate(stage)
    ]
    forest = trees.grow([*_constants(baseline), *stages], width=model.n_features_in_, targets=targets)
    graph = Graph(forest.width)
    raw = graph.ensemble(graph.narrow(INPUT), forest)
    classes = getattr(model, "classes_", None)
    if classes is None:
        graph.output("predict", graph.flat(raw), "float64", columns=None)
        outputs = frozenset({"predict"})
    else:
        twice = model.loss == "exponential"
        outputs = _classify(graph, raw, targets, positive="GreaterOrEqual", factor=2.0 if twice else 1.0)
    return Grown(forest=forest, artefact=graph.render(), outputs=outputs, classes=classes, missing=False)


def _constants(baseline: Array) -> list[Tree]:
    return [trees.constant(float(value), target) for target, value in enumerate(baseline)]


def _classify(graph: Graph, raw: str, targets: int, *, positive: str, factor: float = 1.0) -> frozenset[str]:
    """Labels, probabilities and scores from raw sums: sigmoid for one target, softmax for more."""
    if targets == 1:
        label = graph.cast(graph.flat(graph.node(positive, raw, graph.number(0.0))), "int64")
        scaled = raw if factor == 1.0 else graph.node("Mul", raw, graph.number(factor))
        graph.output("predict_proba", graph.pair(graph.node("Sigmoid", scaled)), "float64", columns=2)
        graph.output("decision_function", graph.flat(raw), "float64", columns=None)
    else:
        label = graph.node("ArgMax", raw, axis=1, keepdims=0)
        graph.output("predict_proba", graph.node("Softmax", raw, axis=1), "float64", columns=targets)
        graph.output("decision_function", raw, "float64", columns=targets)
    graph.output("predict", label, "int64", columns=None)
    return frozenset({"predict", "predict_proba", "decision_function"})


# Histogram gradient boosting: float64 splits, missing values, categories.


def _hist_gradient_boosting(model: Any) -> Grown:
    baseline = np.ravel(model._baseline_prediction)  # noqa: SLF001 - scikit-learn has no public name for it
    columns, categories = _categories(model)
    stages = [
        _hist_tree(predictor, columns, categories, target)
        for stage in model._predictors  # noqa: SLF001 - scikit-learn has no public name for it
        for target, predictor in enumerate(stage)
    ]
    forest = trees.grow([*_constants(baseline), *stages], width=model.n_features_in_, targets=len(baseline))
    _small_enough(forest.nodes)
    graph = Graph(forest.width)
    raw = graph.ensemble(graph.only_codes(INPUT, sorted(categories)) if categories else INPUT, forest)
    classes = getattr(model, "classes_", None)
    if classes is not None:
        outputs = _classify(graph, raw, len(baseline), positive="Greater")
    else:
        link = type(model._loss.link).__name__  # noqa: SLF001 - scikit-learn has no public name for it
        if link not in {"IdentityLink", "LogLink"}:
            raise Refused(f"{type(model).__name__}: no graph for a {link}")
        value = graph.node("Exp", raw) if link == "LogLink" else raw
        graph.output("predict", graph.flat(value), "float64", columns=None)
        outputs = frozenset({"predict"})
    return Grown(
        forest=forest, artefact=graph.render(), outputs=outputs, classes=classes, missing=True, infinite=not categories
    )


def _categories(model: Any) -> tuple[Array, dict[int, Array]]:
    """The model's own column numbers to ours, and each categorical column's values by code.

    Categorical columns come first inside the model, encoded by their rank among the values seen in training.
    """
    chosen = model.is_categorical_
    if chosen is None:
        return np.arange(model.n_features_in_), {}
    columns = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
    encoder = model._preprocessor.named_transformers_["encoder"]  # noqa: SLF001 - scikit-learn has no public name for it
    values = dict(zip(columns.tolist(), encoder.categories_, strict=False))
    for column, known in values.items():
        if known.dtype.kind not in "fiu" or bool((known != np.rint(known))[~np.isnan(known.astype(np.float64))].any()):
            raise Refused(f"column {column} holds categories that are no whole numbers; a tree graph takes only those")
    return columns, values


def _hist_tree(predictor: Any, columns: Array, categories: dict[int, Array], target: int) -> Tree:
    nodes = predictor.nodes
    feature = columns[nodes["feature_idx"]]
    leaf = nodes["is_leaf"].astype(bool)
    missing = nodes["missing_go_to_left"].astype(bool)
    tree = trees.from_children(
        feature=feature,
        split=nodes["num_threshold"],
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        leaf=leaf,
        value=nodes["value"],
        missing_left=missing,
        target=target,
    )
    chosen = nodes["is_categorical"].astype(bool) & ~leaf
    if not chosen.any():
        return tree
    at = (np.cumsum(~leaf) - 1)[chosen]
    mode, split, goes = tree.mode.copy(), tree.split.copy(), tree.missing_yes.copy()
    yes, no = tree.yes.copy(), tree.no.copy()
    mode[at], split[at], goes[at] = trees.MEMBER, 0.0, 0
    sets = []
    for number, node in zip(at.tolist(), nodes[chosen], strict=True):
        known = categories[int(columns[node["feature_idx"]])].astype(np.float64)
        known = known[~np.isnan(known)]
        bits = predictor.raw_left_cat_bitsets[node["bitset_idx"]]
        left = ((bits[np.arange(known.size) // 32] >> (np.arange(known.size) % 32).astype(np.uint32)) & 1).astype(bool)
        if node["missing_go_to_left"]:  # then unknown values go left too: name those that go right instead
            yes[number], no[number] = no[number], yes[number]
            left = ~left
        sets.append(known[left])
    return Tree(
        feature=tree.feature,
        split=split,
        mode=mode,
        yes=yes,
        no=no,
        missing_yes=goes,
        weight=tree.weight,
        members=tuple(sets),
        target=target,
    )


_FORESTS: Final = frozenset(
    {"RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"}
)
_READERS: Final[dict[str, Callable[[Any], Grown]]] = {
    **dict.fromkeys(sorted(_FORESTS), _forest),
    "DecisionTreeClassifier": _forest,
    "DecisionTreeRegressor": _forest,
    "ExtraTreeClassifier": _forest,
    "ExtraTreeRegressor": _forest,
    "GradientBoostingClassifier": _gradient_boosting,
    "GradientBoostingRegressor": _gradient_boosting,
    "HistGradientBoostingClassifier": _hist_gradient_boosting,
    "HistGradientBoostingRegressor": _hist_gradient_boosting,
}
