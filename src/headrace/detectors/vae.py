"""Variational auto-encoder: how badly a row comes back from the few numbers that the reference can be told by.

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014: both networks are one layer of tanh units (appendix
C.2), the law of the latent numbers is standard normal, the noise of a reconstruction normal; the loss is the negative
of equation 10 with one draw per row, minimised by Adam (Kingma and Ba, ICLR 2015) on minibatches. In plain numpy: for
tables and small images.

The score is the squared error of the reconstruction from the mean of the latent law: the same row always scores the
same. The noise has one variance, that of the residual's, followed as it falls.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Final, Self

import numpy as np

from headrace.detectors.base import Data, Outlier, Scores, State
from headrace.detectors.filled import Parts, kept, reference
from headrace.detectors.space import Encoding, Scale
from headrace.errors import InvalidRequest
from headrace.features import Features
from headrace.payload import Array

_SEEN: Final = 8.0
"""The network sees points no further away than so many standard deviations; the error is of the point as it is."""
_LAYERS: Final = ("in", "mean", "spread", "out", "back")


@dataclasses.dataclass(frozen=True)
class Vae(Outlier):
    """Trained networks."""

    METHOD: ClassVar[str] = "vae"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image", "series")

    encoding: Encoding
    weights: dict[str, Array]
    """By layer: `[from, to]`, and under `LAYER_bias` `[to]`."""

    @classmethod
    def fit(
        cls,
        x: Array,
        features: Features,
        *,
        seed: int = 0,
        latent: int = 0,
        hidden: int = 0,
        epochs: int = 60,
        steps: int = 10_000,
        batch: int = 64,
        learning_rate: float = 2e-3,
        beta: float = 1.0,
        scale: Scale = "auto",
    ) -> Self:
        """Train.

        Args:
            x: `[n, f]` FP64, the reference.
            features: Its columns.
            seed: Of the first weights, the minibatches and the draws.
            latent: Numbers that a row is told by; 0: a third of the encoded columns, from 1 to 20.
            hidden: Units of each network; 0: twice the encoded columns, from 16 to 128.
            epochs: How often every row is seen.
            steps: At most so many minibatches, whatever the rows: bounds the time.
            batch: Rows of a minibatch.
            learning_rate: Of Adam; it falls to a tenth over the training.
            beta: Weight of the latent law against the reconstruction; 1 is the paper's.
            scale: Of numbers, as `space.Scale`.

        Raises:
            InvalidRequest: fewer than 2 rows, or a parameter out of range.
        """
        if min(latent, hidden) < 0 or min(epochs, steps, batch) < 1 or not learning_rate > 0 or not beta >= 0:
            raise InvalidRequest(
                "latent, hidden and beta are 0 or more, epochs, steps and batch 1 or more, learning_rate above 0; got "
                f"{latent}, {hidden}, {beta}, {epochs}, {steps}, {batch} and {learning_rate}"
            )
        x = reference(x, features, method=cls.METHOD)
        encoding = Encoding.fit(x, features, scale=scale)
        points = np.clip(encoding(x, method=cls.METHOD), -_SEEN, _SEEN)
        wide = points.shape[1]
        weights = _train(
            points,
            latent=latent or min(max(wide // 3, 1), 20),
            hidden=hidden or min(max(2 * wide, 16), 128),
            steps=min(steps, epochs * max(points.shape[0] // batch, 1)),
            batch=min(batch, points.shape[0]),
            learning_rate=learning_rate,
            beta=beta,
            rng=np.random.default_rng(seed),
        )
        return cls(encoding, weights)

    def back(self, points: Array) -> Array:
        """Points `[n, d]` as they come back from the mean of their latent law."""
        w = self.weights
        hidden = np.tanh(np.clip(points, -_SEEN, _SEEN) @ w["in"] + w["in_bias"])
        latent = hidden @ w["mean"] + w["mean_bias"]
        out: Array = np.tanh(latent @ w["out"] + w["out_bias"]) @ w["back"] + w["back_bias"]
        return out

    def score(self, x: Array) -> Scores:
        """Squared errors; of a feature, its share of it."""
        points = self.encoding(x, method=self.METHOD)
        shares = (points - self.back(points)) ** 2
        return Scores(instance=shares.sum(1), feature=self.encoding.per_feature(shares))

    def reconstruct(self, x: Array) -> Array:
        """The rows as they come back: `[n, f]`; a category is again one."""
        return self.encoding.decode(self.back(self.encoding(x, method=self.METHOD)))

    def state(self) -> State:
        """The weights."""
        return kept(self.METHOD, len(self.encoding.features), {**self.encoding.arrays(), **self.weights})

    @classmethod
    def restore(cls, state: State, features: Features) -> Self:
        """As `Detector.restore`."""
        parts = Parts(state, cls.METHOD, features)
        names = [*_LAYERS, *(f"{name}_bias" for name in _LAYERS)]
        return cls(Encoding.restore(parts, features), {name: parts.array(name) for name in names})


def _train(
    points: Array,
    *,
    latent: int,
    hidden: int,
    steps: int,
    batch: int,
    learning_rate: float,
    beta: float,
    rng: np.random.Generator,
) -> dict[str, Array]:
    wide = points.shape[1]
    sizes = {
        "in": (wide, hidden),
        "mean": (hidden, latent),
        "spread": (hidden, latent),
        "out": (latent, hidden),
        "back": (hidden, wide),
    }
    w: dict[str, Array] = {}
    for name, (here, there) in sizes.items():  # Glorot and Bengio, 2010, equation 16
        limit = (6.0 / (here + there)) ** 0.5
        w[name] = rng.uniform(-limit, limit, (here, there))
        w[f"{name}_bias"] = np.zeros(there)
    first = {name: np.zeros_like(each) for name, each in w.items()}
    second = {name: np.zeros_like(each) for name, each in w.items()}
    noise = 1.0
    order = rng.permutation(points.shape[0])
    at = 0
    for step in range(1, steps + 1):
        if at + batch > order.size:
            order, at = rng.permutation(points.shape[0]), 0
        some = points[order[at : at + batch]]
        at += batch
        gradient, squared = _gradient(some, w, rng.standard_normal((batch, latent)), noise=noise, beta=beta)
        noise = max(0.99 * noise + 0.01 * squared, 1e-3)
        rate = learning_rate * 0.1 ** (step / steps)
        correction = rate * (1.0 - 0.999**step) ** 0.5 / (1.0 - 0.9**step)
        for name, slope in gradient.items():
            first[name] += 0.1 * (slope - first[name])
            second[name] += 0.001 * (slope * slope - second[name])
            w[name] -= correction * first[name] / (np.sqrt(second[name]) + 1e-8)
    return w


def _gradient(
    x: Array, w: dict[str, Array], draw: Array, *, noise: float, beta: float
) -> tuple[dict[str, Array], float]:
    """Slopes of the mean loss of rows `[n, d]`, and their mean squared error."""
    n = x.shape[0]
    hidden = np.tanh(x @ w["in"] + w["in_bias"])
    mean = hidden @ w["mean"] + w["mean_bias"]
    raw = hidden @ w["spread"] + w["spread_bias"]  # ln of the variance
    spread = np.clip(raw, -12.0, 6.0)
    deviation = np.exp(0.5 * spread)
    latent = mean + deviation * draw
    again = np.tanh(latent @ w["out"] + w["out_bias"])
    error = again @ w["back"] + w["back_bias"] - x

    # -ln p(x|z) = |error|^2 / (2 noise), KL = (mean^2 + e^spread - spread - 1) / 2; from the end to the start.
    to_out = error / (noise * n)
    to_again = (to_out @ w["back"].T) * (1.0 - again * again)
    to_latent = to_again @ w["out"].T
    to_mean = to_latent + beta * mean / n
    to_spread = to_latent * draw * deviation * 0.5 + beta * 0.5 * (np.exp(spread) - 1.0) / n
    to_spread = np.where((raw > -12.0) & (raw < 6.0), to_spread, 0.0)
    to_hidden = (to_mean @ w["mean"].T + to_spread @ w["spread"].T) * (1.0 - hidden * hidden)
    slopes = {}
    for name, entering, leaving in (
        ("back", again, to_out),
        ("out", latent, to_again),
        ("mean", hidden, to_mean),
        ("spread", hidden, to_spread),
        ("in", x, to_hidden),
    ):
        slopes[name] = entering.T @ leaving
        slopes[f"{name}_bias"] = leaving.sum(0)
    return slopes, float(np.mean(error * error))
