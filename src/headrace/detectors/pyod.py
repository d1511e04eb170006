"""Any detector of PyOD by its name, for what is not among ours: `HBOS`, `LOF`, `OCSVM`, `INNE`, `LODA`, ...

No pickle is kept: the reference's encoded rows are, with the model's name, options and seed, and a restored detector is
fitted again. That it came out the same is checked by the scores of some of the rows; a model that does not come out the
same twice is refused when it is first fitted. PyOD itself: Zhao, Nasrullah and Li, JMLR 2019.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Outlier, Scores, State
from headrace.detectors.filled import Parts, kept, reference, sample
from headrace.detectors.space import Encoding, Scale
from headrace.errors import InvalidRequest, MissingExtra
from headrace.features import Features
from headrace.payload import EMPTY, Array

_CHECKED: Final = 16
"""Rows of the reference whose scores are kept."""


class Pyod(Outlier):
    """A fitted model of PyOD."""

    METHOD: ClassVar[str] = "pyod"

    def __init__(self, encoding: Encoding, points: Array, *, model: str, options: Mapping[str, Any], seed: int) -> None:
        self.encoding = encoding
        self.points = points
        self.model = model
        self.options = options
        self.seed = seed
        self._fitted = _fitted(points, model, options, seed=seed)

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,
        model: str = "HBOS",
        options: Mapping[str, Any] = EMPTY,
        rows: int = 2000,
        scale: Scale = "auto",
    ) -> Self:
        """Fit the model.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of the choice of rows, where there are more than `rows`, and of a model that takes `random_state`.
            model: As PyOD calls it; case does not matter.
            options: Keyword arguments of the model, JSON values.
            rows: So many of the reference are kept and fitted on.
            scale: Of numbers, as `space.Scale`.

        Raises:
            InvalidRequest: there is no such model, it does not take the options or the rows, or it does not come out
                the same twice.
            MissingExtra: PyOD, or what the model needs, is not installed.
        """
        try:
            options = json.loads(json.dumps(dict(options)))
        except TypeError as exc:
            raise InvalidRequest(f"options of PyOD's '{model}' are to be JSON values: {exc}") from exc
        x = reference(x, features, method=cls.METHOD)
        encoding = Encoding.fit(x, features, scale=scale)
        points = encoding(sample(x, rows, seed=seed), method=cls.METHOD)
        found = cls(encoding, points, model=model, options=options, seed=seed)
        again = _fitted(points, model, options, seed=seed)
        if not np.allclose(found._scores(points[:_CHECKED]), _scores(again, points[:_CHECKED]), rtol=1e-6, atol=1e-9):
            raise InvalidRequest(
                f"PyOD's '{model}' does not come out the same twice on the same rows, and so cannot be kept: give it a "
                "seed in its options, or take another"
            )
        return found

    def score(self, x: Array) -> Scores:
        """PyOD's `decision_function`, of encoded rows."""
        points = self.encoding(x, method=self.METHOD)
        return Scores(instance=self._scores(points) if points.shape[0] else np.empty(0))

    def _scores(self, points: Array) -> Array:
        return _scores(self._fitted, points)

    def state(self) -> State:
        """What the model is fitted from, and what it says of some of that."""
        arrays = {
            **self.encoding.arrays(),
            "points": self.points,
            "check": self._scores(self.points[:_CHECKED]),
        }
        return kept(
            self.METHOD,
            len(self.encoding.features),
            arrays,
            model=self.model,
            options=dict(self.options),
            seed=self.seed,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`: fits again; raises InvalidRequest where the installed PyOD gives other scores."""
        parts = Parts(state, cls.METHOD, features)
        found = cls(
            Encoding.restore(parts, features),
            parts.array("points"),
            model=str(parts.value("model")),
            options=parts.value("options"),
            seed=int(parts.value("seed")),
        )
        if not np.allclose(found._scores(found.points[:_CHECKED]), parts.array("check"), rtol=1e-6, atol=1e-9):
            raise InvalidRequest(
                f"PyOD's '{found.model}' gives other scores than when it was fitted: its version has changed; "
                "fit it again"
            )
        return found


def _fitted(points: Array, model: str, options: Mapping[str, Any], *, seed: int) -> Any:
    kind = _find(model)
    takes = inspect.signature(kind).parameters
    if "random_state" in takes and "random_state" not in options:
        options = {**options, "random_state": seed}
    try:
        return kind(**options).fit(points.copy())
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"PyOD's '{model}' could not be fitted with {dict(options)}: {exc}") from exc


def _scores(fitted: Any, points: Array) -> Array:
    return np.asarray(fitted.decision_function(points.copy()), np.float64).reshape(-1)


def _find(model: str) -> Any:
    """The class of a model; it is in the module of `pyod.models` that is called like it."""
    name = model.lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InvalidRequest(f"'{model}' is no name of a model of PyOD: one is like 'HBOS'")
    try:
        base = importlib.import_module("pyod.models.base").BaseDetector
    except ImportError as exc:
        raise MissingExtra(
            "detector 'pyod' needs pyod, which is not installed; run: pip install 'headrace[pyod]'"
        ) from exc
    try:
        module = importlib.import_module(f"pyod.models.{name}")
    except ModuleNotFoundError as exc:
        if exc.name == f"pyod.models.{name}":
            raise InvalidRequest(f"PyOD has no model '{model}' in pyod.models") from exc
        raise MissingExtra(f"PyOD's '{model}' needs {exc.name}, which is not installed") from exc
    except ImportError as exc:
        raise MissingExtra(f"PyOD's '{model}' needs what is not installed: {exc}") from exc
    for each in vars(module).values():
        if inspect.isclass(each) and each.__name__.lower() == name and issubclass(each, base):
            return each
    raise InvalidRequest(f"pyod.models.{name} has no detector of that name")
