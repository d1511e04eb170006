"""The union of detectors of adversarial inputs: a row is as suspicious as the one says that is surest.

Attacks that one does not see another may. Their scores have no common scale, so each is put on that of its rank among
held-out rows of the reference, which no part was fitted on: p = (1 + scores as large) / (1 + rows), the conformal
p-value of Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; the score is the largest -ln p
(Tippett, 1931: the least of p-values). Above the largest held-out score it goes on rising, slowly.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Adversarial, Predict, Scores, State
from headrace.detectors.filled import Parts, kept, matrix, part, reference, within
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_METHODS: Final[Mapping[str, str]] = {
    "feature-squeezing": "headrace.detectors.feature_squeezing:FeatureSqueezing",
    "autoencoder-output": "headrace.detectors.autoencoder_output:AutoencoderOutput",
}
_APART: Final = 0.3
"""The share of the reference that no part is fitted on."""


@dataclasses.dataclass(frozen=True)
class AdversarialUnion(Adversarial):
    """Fitted parts, and the held-out scores of each."""

    METHOD: ClassVar[str] = "adversarial-union"

    features: Features
    parts: Mapping[str, Adversarial]
    held: Mapping[str, Array]
    """`[m]` FP64 each: scores of held-out rows, rising."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        predict: Predict,
        *,
        seed: int = 0,
        parts: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Fit the parts, and score the rows that were kept from them.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            predict: The model.
            seed: Of the rows that are kept apart, and of the parts.
            parts: Their parameters by method; None: all methods with their defaults.

        Raises:
            InvalidRequest: fewer than 30 rows, an unknown method, or parameters that it does not take.
        """
        parts = {name: {} for name in _METHODS} if parts is None else parts
        if not parts or not parts.keys() <= _METHODS.keys():
            raise InvalidRequest(f"parts of the union are of {', '.join(_METHODS)}; got {', '.join(parts) or 'none'}")
        x = reference(x, features, method=cls.METHOD, rows=30)
        order = np.random.default_rng(seed).permutation(x.shape[0])
        apart, seen = np.split(x[order], [int(_APART * x.shape[0])])
        fitted, held = {}, {}
        for name, options in parts.items():
            try:
                fitted[name] = _class(name).fit(seen, features, predict, seed=seed, **options)
            except TypeError as exc:
                raise InvalidRequest(f"'{name}' does not take the parameters {dict(options)}: {exc}") from exc
            held[name] = np.sort(fitted[name].score(apart, predict).instance)
        return cls(features, fitted, held)

    def score(self, x: Array, predict: Predict) -> Scores:
        """The largest -ln p of the parts; of a feature, what the surest part says, in its own unit."""
        x = matrix(x, len(self.features), method=self.METHOD)
        found = {name: each.score(x, predict) for name, each in self.parts.items()}
        surprises = [surprise(each.instance, self.held[name]) for name, each in found.items()]
        feature = [each.feature for each in found.values() if each.feature is not None]
        return Scores(instance=np.max(surprises, axis=0), feature=feature[0] if feature else None)

    def state(self) -> State:
        """The parts', and their held-out scores."""
        inner: dict[str, Any] = {}
        arrays: dict[str, Array] = {}
        for name, each in self.parts.items():
            inner[name], mine = within(name, each.state())
            arrays |= {**mine, f"held.{name}": self.held[name]}
        return kept(self.METHOD, len(self.features), arrays, parts=inner)

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        whole = Parts(state, cls.METHOD, features)
        inner = whole.value("parts")
        if not inner or not inner.keys() <= _METHODS.keys():
            raise InvalidRequest(f"this state of detector '{cls.METHOD}' has no parts that are known: fit it again")
        parts = {name: _class(name).restore(part(name, each, state.arrays), features) for name, each in inner.items()}
        return cls(features, parts, {name: whole.array(f"held.{name}") for name in inner})


def surprise(scores: Array, held: Array) -> Array:
    """-ln p of scores among held-out ones `[m]`, which rise: `[n]`, rising with the score, between ranks in a line.

    Above the largest: ln(m + 1), and the logarithm of how far, in distances from the median to the largest.
    """
    m = held.size
    levels = -np.log((1.0 + m - np.arange(m)) / (m + 1.0))
    # Of equal scores the first has as many as large as itself.
    values, first = np.unique(held, return_index=True)
    inside = np.interp(scores, values, levels[first])
    reach = values[-1] - np.median(held)
    excess = np.maximum(scores - values[-1], 0.0) / (reach if reach > 1e-12 else 1.0)
    top = np.where(excess > 0, np.log(m + 1.0) - levels[first[-1]] + np.log1p(excess), 0.0)
    total: Array = inside + top
    return total


def _class(name: str) -> type[Adversarial]:
    module, _, kind = _METHODS[name].partition(":")
    found: type[Adversarial] = getattr(importlib.import_module(module), kind)
    return found
