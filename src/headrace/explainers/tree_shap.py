"""Shapley values of a forest or of boosted trees, exact and fast, from the library that grew them or from shap.

Lundberg et al., "From local explanations to global understanding with explainable AI for trees" (Nature Machine
Intelligence 2, 2020), algorithms 1 (path-dependent) and 3 (interventional). White box: the model is read, not asked.

XGBoost, LightGBM and CatBoost have the path-dependent algorithm inside, and are asked for it; for the trees of
scikit-learn, and for the interventional one, the library shap is needed (extra `shap`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.errors import InvalidRequest, MissingExtra
from headrace.explainers import rows, shapley, white_box
from headrace.explainers.base import Ask, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_PERTURBATIONS: Final = ("auto", "interventional", "path-dependent")
_FORESTS: Final = ("RandomForest", "ExtraTrees", "ExtraTree", "DecisionTree")
_BOOSTED: Final = ("GradientBoosting", "HistGradientBoosting")
_LARGEST_BACKGROUND: Final = 100
"""Rows; of more, shap draws its own hundred."""
_TOLERANCE: Final = 1e-5
"""Of the sum of effects against the model's own answer, relative: beyond it the engine misread the model."""


class TreeShap(Explainer):
    """Interventional: the left-out columns are drawn from the reference's rows, as of the other Shapley methods here.
    Path-dependent: they follow the splits as the training rows did, so that columns that go together share effects; it
    needs no background. `output_space` says what is added up: of forests the probability, of boosted trees the
    raw sum of leaves (log-odds of two classes, what goes into the softmax of more), of regressions the prediction.
    """

    METHOD: ClassVar[str] = "tree-shap"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    NEEDS_MODEL: ClassVar[bool] = True

    def __init__(
        self,
        reference: Reference,
        background: Array | None,
        model: Any,
        scale: Array,
        shift: Array,
        *,
        may_fall_back: bool,
    ) -> None:
        self._may_fall_back = may_fall_back
        self._reference, self._background, self._model = reference, background, model
        self._scale, self._shift = scale, shift
        self._engines: dict[str, Any] = {}

    @classmethod
    def make(
        cls,
        reference: Reference,
        *,
        seed: int = 0,
        perturbation: Literal["auto", "interventional", "path-dependent"] = "auto",
        background: int = 100,
    ) -> Self:
        """Prepare.

        Args:
            reference: Its rows are the background; its artifact is the model.
            seed: Of the draw of the background.
            perturbation: What is meant by a column that is left out; auto: path-dependent where the model's own library
                computes it, else interventional.
            background: How many of the reference's rows, of the interventional one.

        Raises:
            InvalidRequest: the artifact is no tree model, or a parameter is out of its range.
            MissingExtra: shap is needed and not installed.
        """
        rows.one_of("perturbation", perturbation, _PERTURBATIONS)
        columns = len(reference.features)
        scale, shift, model = white_box.opened(reference.artifact, columns, method=cls.METHOD)
        family = white_box.family(model)
        named = type(model).__name__.startswith((*_FORESTS, *_BOOSTED))
        if family not in {"xgboost", "lightgbm", "catboost"} and not (family == "sklearn" and named):
            raise InvalidRequest(
                f"tree-shap reads tree models of scikit-learn, XGBoost, LightGBM and CatBoost; the model is a "
                f"{type(model).__name__} of {family}: use permutation-shap"
            )
        is_own = family != "sklearn" and perturbation != "interventional"
        if family == "catboost" and not is_own:  # measured: shap does not come back from one of several classes
            raise InvalidRequest("tree-shap of CatBoost is path-dependent only; for the other use permutation-shap")
        if not 1 <= background <= _LARGEST_BACKGROUND:
            raise InvalidRequest(f"background is from 1 to {_LARGEST_BACKGROUND} rows; it is {background}")
        if not is_own:
            _shap()
        chosen = None
        if not is_own and perturbation != "path-dependent":
            chosen = rows.sample(rows.table(reference), background, np.random.default_rng(seed)) * scale + shift
        return cls(reference, chosen, _lone(model), scale, shift, may_fall_back=perturbation == "auto")

    def explain(self, ask: Ask, x: Array) -> Explanation:
        """Explain one row `[f]`; the model is read, not asked.

        Raises:
            InvalidRequest: x has other columns, a number is too large for a tree, or the engine's effects do not add
                up to what the model says.
        """
        x = rows.row(self._reference.features, x)
        inside = (x * self._scale + self._shift)[None]
        beyond = np.abs(inside[0]) > np.finfo(np.float32).max  # what trees compare; NaN is a missing value
        if beyond.any():
            column = self._reference.features.names[int(beyond.argmax())]
            raise InvalidRequest(f"tree-shap: column '{column}' is beyond what a number of single precision can be")
        family = white_box.family(self._model)
        is_own = family != "sklearn" and self._background is None
        way = "path-dependent" if self._background is None else "interventional"
        effects, base = _OWN[family](self._model, inside) if is_own else self._by_shap(inside, way)
        total = _MARGINS[family](self._model, inside)
        warnings: tuple[str, ...] = ()
        if _misses(effects, base, total) and way == "interventional" and self._may_fall_back:
            way = "path-dependent"
            effects, base = self._by_shap(inside, way)
            warnings = ("path-dependent: the interventional effects of this model do not add up",)
        if _misses(effects, base, total):
            raise InvalidRequest(
                f"the {way} effects of tree-shap do not add up to what the model says: the engine cannot read this "
                f"{type(self._model).__name__}; use permutation-shap"
            )
        chosen = int(total[0] > 0) if len(total) == 1 else int(total.argmax())
        told = shapley.explanation(
            self.METHOD,
            reference=self._reference,
            x=x,
            effects=effects,
            base=base,
            total=total,
            said=total,
            output_space=_space(self._model, self._reference.classes),
            warnings=warnings,
            extra={
                "perturbation": way,
                "engine": family if is_own else "shap",
            },
        )
        if self._reference.classes:
            told.data["raw"]["prediction"] = [chosen]
        return told

    def _by_shap(self, inside: Array, way: str) -> tuple[Array, Array]:
        if way not in self._engines:
            self._engines[way] = _engine(self._model, self._background if way == "interventional" else None)
        engine, steps = self._engines[way]
        found = engine.shap_values(
            _ranked(inside.astype(engine.model.input_dtype).astype(np.float64), steps), check_additivity=False
        )
        base = np.atleast_1d(np.asarray(engine.expected_value, np.float64))
        if isinstance(found, list):
            effects = np.stack([np.asarray(each, np.float64)[0] for each in found])
        else:
            array = np.asarray(found, np.float64)
            effects = array[0].T if array.ndim == 3 else array[:1]
        return effects, base[-len(effects) :]


def _engine(model: Any, background: Array | None) -> tuple[Any, list[Array]]:
    """The engine, and the splits of each column where rows are given to it as their ranks among them.

    shap compares rows with splits in single precision, where a value that stands on a split can fall to the other side
    than in the model, and effects then do not add up. Ranks are small whole numbers: they compare alike in any
    precision, and `x <= split` exactly where the rank of x is at most that of the split.
    """
    if background is None:
        return _shap().TreeExplainer(model, feature_perturbation="tree_path_dependent", model_output="raw"), []
    engine = _shap().TreeExplainer(model, data=background, feature_perturbation="interventional", model_output="raw")
    trees = engine.model
    steps = [np.unique(trees.thresholds[trees.features == at]).astype(np.float64) for at in range(background.shape[1])]
    ranks = np.array(trees.thresholds, np.float64)
    for at, splits in enumerate(steps):
        used = trees.features == at
        ranks[used] = np.searchsorted(splits, trees.thresholds[used])
    as_read = background.astype(trees.input_dtype).astype(np.float64)
    trees.thresholds, engine.data = ranks, _ranked(as_read, steps)
    return engine, steps


def _ranked(x: Array, steps: list[Array]) -> Array:
    """Rows as how many splits of their column lie below each value; what is missing stays so."""
    if not steps:
        return x
    ranks = [np.searchsorted(splits, x[:, at]).astype(np.float64) for at, splits in enumerate(steps)]
    return np.where(np.isnan(x), np.nan, np.stack(ranks, axis=1))


def _misses(effects: Array, base: Array, total: Array) -> bool:
    residual = np.abs(effects.sum(axis=1) + base - total).max()
    return bool(residual > _TOLERANCE * max(1.0, float(np.abs(total).max())))


def _shap() -> Any:
    try:
        with warnings.catch_warnings():  # its plots, which we do not use, ask matplotlib for what it will drop
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            import shap  # type: ignore[import-untyped,unused-ignore]
    except ImportError as exc:
        raise MissingExtra(
            "tree-shap needs shap for this model, which is not installed; run: pip install 'headrace[shap]'"
        ) from exc
    return shap


def _lone(model: Any) -> Any:
    """The model as one thread asks it: of XGBoost, a copy of the booster, with the trees that it answers with."""
    if white_box.family(model) != "xgboost":
        return model
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    best = booster.attr("best_iteration") if booster is not model else None
    copied = booster.copy() if best is None else booster[: int(best) + 1]
    copied.set_param({"nthread": 1})
    return copied


def _space(model: Any, classes: Sequence[str]) -> str:
    if not classes:
        return "prediction"
    if white_box.family(model) == "sklearn" and type(model).__name__.startswith(_FORESTS):
        return "probability"
    return "log-odds" if len(classes) == 2 else "margin"


def _matrix(booster: Any, x: Array) -> Any:
    import xgboost

    return xgboost.DMatrix(
        x,
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
        nthread=1,
    )


def _split(found: Array, columns: int) -> tuple[Array, Array]:
    """Effects `[k, f]` and bases `[k]` from `[k, f + 1]`, laid out however the library does."""
    table = np.asarray(found, np.float64).reshape(-1, columns + 1)
    return table[:, :-1], table[:, -1]


def _xgboost_effects(model: Any, x: Array) -> tuple[Array, Array]:
    return _split(model.predict(_matrix(model, x), pred_contribs=True), x.shape[1])


def _xgboost_margin(model: Any, x: Array) -> Array:
    return np.asarray(model.predict(_matrix(model, x), output_margin=True), np.float64).reshape(-1)


def _lightgbm(model: Any) -> Any:
    return getattr(model, "booster_", model)


def _lightgbm_effects(model: Any, x: Array) -> tuple[Array, Array]:
    return _split(_lightgbm(model).predict(x, pred_contrib=True, num_threads=1), x.shape[1])


def _lightgbm_margin(model: Any, x: Array) -> Array:
    return np.asarray(_lightgbm(model).predict(x, raw_score=True, num_threads=1), np.float64).reshape(-1)


def _pool(model: Any, x: Array) -> Any:
    import catboost

    categories = list(model.get_cat_feature_indices())
    if not categories:
        return catboost.Pool(x)
    table = x.astype(object)
    table[:, categories] = x[:, categories].astype(np.int64)
    return catboost.Pool(table, cat_features=categories)


def _catboost_effects(model: Any, x: Array) -> tuple[Array, Array]:
    return _split(model.get_feature_importance(_pool(model, x), type="ShapValues", thread_count=1), x.shape[1])


def _catboost_margin(model: Any, x: Array) -> Array:
    found = model.predict(_pool(model, x), prediction_type="RawFormulaVal", thread_count=1)
    return np.asarray(found, np.float64).reshape(-1)


def _sklearn_margin(model: Any, x: Array) -> Array:
    if type(model).__name__.startswith(_FORESTS) and hasattr(model, "predict_proba"):
        probabilities: Array = np.asarray(model.predict_proba(x), np.float64)[0]
        return probabilities
    answer = model.decision_function if hasattr(model, "decision_function") else model.predict
    margin: Array = np.asarray(answer(x), np.float64).reshape(-1)
    return margin


_OWN: Final = {"xgboost": _xgboost_effects, "lightgbm": _lightgbm_effects, "catboost": _catboost_effects}
_MARGINS: Final = {
    "xgboost": _xgboost_margin,
    "lightgbm": _lightgbm_margin,
    "catboost": _catboost_margin,
    "sklearn": _sklearn_margin,
}
