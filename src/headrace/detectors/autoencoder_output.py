"""Auto-encoder output: does the model still say the same of a row that was brought back to what is usual?

Meng and Chen, "MagNet: a two-pronged defense against adversarial examples", CCS 2017, whose two kinds of detectors are
added: the divergence of the model's answers to the row and to its reconstruction, and the reconstruction's error. The
divergence is KL(model(x) || model(reconstruction)), as Vacanti and Van Looveren, "Adversarial detection and correction
by matching prediction distributions", 2020, have it, where MagNet takes Jensen and Shannon's. Unlike theirs our
auto-encoder is not trained through the model, of which no gradient is known: it is `pca` or `vae`, fitted to the
reference alone.

Both parts are told in their 95 % quantiles over rows of the reference that the auto-encoder has not seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np

from headrace.detectors.answers import ask, divergence, units
from headrace.detectors.base import Adversarial, Predict, Scores, State
from headrace.detectors.filled import Parts, kept, part, reference, within
from headrace.detectors.pca import Pca
from headrace.detectors.vae import Vae
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import EMPTY, Array

Reconstruction = Literal["pca", "vae"]
_KINDS: Final[Mapping[str, type[Pca | Vae]]] = {"pca": Pca, "vae": Vae}
_APART: Final = 0.25
"""The share of the reference that the auto-encoder does not see."""


@dataclasses.dataclass(frozen=True)
class AutoencoderOutput(Adversarial):
    """A fitted auto-encoder, and the units of what it is asked for."""

    METHOD: ClassVar[str] = "autoencoder-output"

    features: Features
    encoder: Pca | Vae
    unit: Array
    """`[k]` FP64: what answers are told in."""
    probabilities: bool
    moved: float
    """The unit of the divergence."""
    lost: float
    """The unit of the reconstruction's error."""
    error: float
    """The weight of the latter."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        predict: Predict,
        *,
        seed: int = 0,
        reconstruction: Reconstruction = "pca",
        options: Mapping[str, Any] = EMPTY,
        error: float = 1.0,
    ) -> Self:
        """Fit the auto-encoder.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            predict: The model.
            seed: Of the rows that are kept apart, and of the auto-encoder.
            reconstruction: Which one.
            options: Its parameters; `scale` is `column` where they do not say.
            error: The weight of the reconstruction's error against the divergence's; 0: only the answers count.

        Raises:
            InvalidRequest: fewer than 8 rows, or a parameter out of range.
        """
        if reconstruction not in _KINDS or not error >= 0:
            raise InvalidRequest(f"reconstruction is pca or vae, error 0 or more; got '{reconstruction}' and {error}")
        # Attacks change pixels and columns that otherwise hardly vary, so each has its own scale.
        options = {"scale": "column", **options}
        x = reference(x, features, method=cls.METHOD, rows=8)
        order = np.random.default_rng(seed).permutation(x.shape[0])
        apart = x[order[: int(_APART * x.shape[0])]]
        try:
            encoder = _KINDS[reconstruction].fit(x[order[apart.shape[0] :]], features, seed=seed, **options)
        except TypeError as exc:
            raise InvalidRequest(f"'{reconstruction}' does not take the options {dict(options)}: {exc}") from exc
        filled = encoder.encoding.filling(apart)
        unit = units(ask(predict, filled))
        plain = cls(features, encoder, unit, bool((unit == 1.0).all()), 1.0, 1.0, error)
        change, loss = plain._parts(apart, predict)
        return dataclasses.replace(plain, moved=_unit(change), lost=_unit(loss.sum(1)))

    def score(self, x: Array, predict: Predict) -> Scores:
        """Divergence and error, each in its unit; of a feature, its error. The model is asked once."""
        change, loss = self._parts(x, predict)
        loss = loss * (self.error / self.lost)
        return Scores(instance=change / self.moved + loss.sum(1), feature=loss)

    def _parts(self, x: Array, predict: Predict) -> tuple[Array, Array]:
        """The divergence `[n]`, and the error of every feature `[n, f]`."""
        points = self.encoder.encoding(x, method=self.METHOD)
        near = self.encoder.outside(points)[1] if isinstance(self.encoder, Pca) else self.encoder.back(points)
        loss = self.encoder.encoding.per_feature((points - near) ** 2)
        if not points.shape[0]:
            return np.empty(0), loss
        rows = self.encoder.encoding.filling(np.asarray(x, np.float64))
        both = ask(predict, np.concatenate([rows, self.encoder.encoding.decode(near)]))
        if both.shape[1] != self.unit.size:
            raise InvalidRequest(
                f"detector '{self.METHOD}' was fitted on answers of {self.unit.size} numbers, the model gave "
                f"{both.shape[1]}: fit it again"
            )
        before, after = both[: rows.shape[0]], both[rows.shape[0] :]
        return divergence(before, after, self.unit, probabilities=self.probabilities), loss

    def state(self) -> State:
        """The auto-encoder's, and the units."""
        inner, arrays = within("encoder", self.encoder.state())
        return kept(
            self.METHOD,
            len(self.features),
            {**arrays, "unit": self.unit},
            encoder=inner,
            probabilities=self.probabilities,
            moved=self.moved,
            lost=self.lost,
            error=self.error,
        )

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        inner = parts.value("encoder")
        kind = _KINDS.get(inner.get("method", ""))
        if kind is None:
            raise InvalidRequest(f"this state of detector '{cls.METHOD}' has no auto-encoder: fit it again")
        return cls(
            features,
            kind.restore(part("encoder", inner, state.arrays), features),
            parts.array("unit"),
            bool(parts.value("probabilities")),
            moved=float(parts.value("moved")),
            lost=float(parts.value("lost")),
            error=float(parts.value("error")),
        )


def _unit(values: Array) -> float:
    """The 95 % quantile, or of what is always 0, 1."""
    quantile = float(np.quantile(values, 0.95))
    return quantile if quantile > 1e-12 else 1.0
