"""What a scikit-learn estimator is made of: what forbids its conversion, and where to aim rows. Called by `converted`.

The gate would find each of the conversions that are refused here by name, but only after a conversion in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.engine import Refused
from headrace.runtimes.optimize.rows import Terrain

_REFUSED: Final = {
    "IsotonicRegression": "isotonic calibration converts with scores off by up to 0.03",
    "_CalibratedClassifier:isotonic": "isotonic calibration converts with scores off by up to 0.03",
    "KBinsDiscretizer": "values on a bin's edge fall into the wrong bin in float32, and float64 does not convert",
    "GaussianProcessRegressor": "seven times slower when converted",
    "GaussianProcessClassifier": "ONNX Runtime has no operator to solve with",
    "KNNImputer": "eight times slower when converted",
    "IsolationForest": "seconds to convert and to load, for little",
    "SplineTransformer": "the converter does not know it",
    "FunctionTransformer": "a function of the user's own does not convert",
    "HashingVectorizer": "the converter does not know it",
    "CountVectorizer": "its tokenizer splits accents and punctuation otherwise",
    "TfidfVectorizer": "its tokenizer splits accents and punctuation otherwise",
    "HistGradientBoostingClassifier": "the converter rounds its splits to float32",
    "HistGradientBoostingRegressor": "the converter rounds its splits to float32",
}
_SINGLE_ONLY: Final = frozenset(
    {"SVR", "SVC", "NuSVC", "NuSVR", "SimpleImputer", "PowerTransformer", "PolynomialFeatures"}
)
"""The double graph fails, or computes in float32 inside."""
_DOUBLE_ONLY: Final = frozenset({"GaussianMixture", "BayesianGaussianMixture"})
"""float32 gives other labels: 5 % of them."""
_CHILDREN: Final = (
    *("steps", "transformers_", "transformer_list", "estimators_", "estimator_", "estimator", "final_estimator_"),
    *("calibrated_classifiers_", "calibrators", "best_estimator_", "regressor_", "classifier_", "base_estimator_"),
)
_MOST_PARTS: Final = 20_000
_FEW: Final = 8


def parts(model: Any) -> Iterator[Any]:
    """The estimator and all fitted estimators inside it."""
    waiting, seen = [model], 0
    while waiting and seen < _MOST_PARTS:
        part = waiting.pop()
        if isinstance(part, (list, tuple)):
            waiting.extend(part)
        elif isinstance(part, np.ndarray):
            if part.dtype == np.object_:
                waiting.extend(part.ravel().tolist())
        elif hasattr(part, "get_params") or type(part).__module__.startswith("sklearn."):
            seen += 1
            yield part
            waiting.extend(vars(part)[name] for name in _CHILDREN if name in getattr(part, "__dict__", {}))


def refuse_known(model: Any) -> None:
    """Raise for what is known not to convert, or to convert wrongly.

    Raises:
        Refused: with the reason.
    """
    for part in parts(model):
        kind = type(part)
        name = f"{kind.__name__}:{part.method}" if kind.__name__ == "_CalibratedClassifier" else kind.__name__
        if name in _REFUSED:
            raise Refused(f"{kind.__name__}: {_REFUSED[name]}")
        if not kind.__module__.startswith("sklearn."):
            raise Refused(f"{kind.__module__}.{kind.__name__} is no class of scikit-learn")


def widths(model: Any) -> tuple[bool, ...]:
    """Whether to convert in float64 (True) or float32 (False), in the order to try.

    Trees inside round rows to float32 themselves, which a float64 graph does not.
    """
    names = {type(part).__name__ for part in parts(model)}
    if names & _DOUBLE_ONLY:
        return (True,)
    if names & _SINGLE_ONLY or any(hasattr(part, "tree_") for part in parts(model)):
        return (False,)
    return (True, False)


def takes_missing(model: Any) -> bool:
    """Whether NaN is an ordinary value to the estimator and its conversion; that of trees forgets where NaN goes."""
    from sklearn.utils import get_tags

    if any(hasattr(part, "tree_") for part in parts(model)):
        return False
    return bool(get_tags(model).input_tags.allow_nan)


def terrain(model: Any, width: int) -> Terrain:
    """What the estimator's parts say about the rows it saw."""
    low, high = np.full(width, -3.0), np.full(width, 3.0)
    for part in _first(model):
        span = _span(part)
        if span is not None and span[0].shape == (width,):
            low, high = span
            break
    kept = next(
        (rows for rows in map(_samples, _first(model)) if rows is not None and rows.shape[1:] == (width,)), None
    )
    if kept is not None:
        margin = 0.1 * (kept.max(axis=0) - kept.min(axis=0)) + 1e-6
        low, high = kept.min(axis=0) - margin, kept.max(axis=0) + margin
    edges = _edges(model, width)
    for column, values in enumerate(edges):
        if values.size >= _FEW:  # a few splits may lie close together and say nothing of the column
            margin = 0.1 * (values[-1] - values[0]) + 1e-3 * (1 + abs(values[0]))
            low[column], high[column] = values[0] - margin, values[-1] + margin
    return Terrain(low=low, high=high, edges=edges, samples=kept, missing=takes_missing(model))


def too_fine(ground: Terrain) -> str:
    """Why float32 cannot hold this model's columns: their range is a few steps of it; empty: it can."""
    largest = np.maximum(np.abs(ground.low), np.abs(ground.high)).astype(np.float32)
    steps = (ground.high - ground.low) / np.spacing(largest)
    worst = int(np.argmin(steps))
    return "" if steps[worst] >= 1e5 else f"column {worst} ranges over only {steps[worst]:,.0f} steps of float32"


def _first(model: Any) -> Iterator[Any]:
    """The estimator, and the parts that see its own columns."""
    yield model
    if type(model).__name__ == "Pipeline":
        yield model.steps[0][1]


def _span(part: Any) -> tuple[Array, Array] | None:
    """Where the values of each column usually lie."""
    have = vars(part)
    if have.get("mean_") is not None and have.get("scale_") is not None:
        return part.mean_ - 4 * part.scale_, part.mean_ + 4 * part.scale_
    if have.get("center_") is not None and have.get("scale_") is not None:
        return part.center_ - 4 * part.scale_, part.center_ + 4 * part.scale_
    if have.get("data_min_") is not None:
        return part.data_min_.copy(), part.data_max_.copy()
    if have.get("quantiles_") is not None:
        return part.quantiles_[0].copy(), part.quantiles_[-1].copy()
    if have.get("theta_") is not None and have.get("var_") is not None:
        spread = 4 * np.sqrt(part.var_)
        return (part.theta_ - spread).min(axis=0), (part.theta_ + spread).max(axis=0)
    return (np.zeros(part.n_features_in_), np.full(part.n_features_in_, 9.0)) if "feature_count_" in have else None


def _samples(part: Any) -> Array | None:
    """Rows that the estimator keeps."""
    for name in ("_fit_X", "support_vectors_", "X_train_", "cluster_centers_", "means_"):
        kept = getattr(part, name, None) if name in vars(part) else None
        if isinstance(kept, np.ndarray) and kept.ndim == 2 and len(kept):
            return kept.astype(np.float64)
    return None


def _edges(model: Any, width: int) -> tuple[Array, ...]:
    """The splits of trees that see the estimator's own columns, as far as their number says so."""
    if type(model).__name__ == "Pipeline":
        return ()
    found: list[list[Array]] = [[] for _ in range(width)]
    for part in parts(model):
        grown = getattr(part, "tree_", None)
        if grown is None or getattr(part, "n_features_in_", -1) != width:
            continue
        for column in np.unique(grown.feature[grown.feature >= 0]).tolist():
            found[column].append(grown.threshold[grown.feature == column])
    values = (np.unique(np.concatenate(each)) if each else np.zeros(0) for each in found)
    return tuple(each[np.isfinite(each)] for each in values)
