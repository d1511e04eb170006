"""Trust score: whether the nearest rows of the reference say what the model says.

Jiang, Kim, Guan & Gupta, "To Trust Or Not To Trust A Classifier" (NeurIPS 2018), algorithms 1 and 2: of each class the
share alpha of rows with the largest radius to their k-th neighbour is set aside (outliers, wrong labels); the score is
the distance to the nearest class that was not answered, over the distance to the answered one. Above 1: the row is
nearer to the answer than to any other class.

Deviations: columns are scaled to the reference's deviation (distances would be those of the widest column); the
distance is that to the second neighbour, not to the first, so that a row of the reference itself is not infinitely
trusted; what is missing stands at its column's typical value.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

_LEAST: Final = 1e-12
"""A distance of 0 is taken for this."""


class TrustScore(Explainer):
    """How far the answered class is, and how far the next."""

    METHOD: ClassVar[str] = "trust-score"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular", "image")

    def __init__(self, reference: Reference, trees: dict[int, Any], typical: Array, scale: Array, k: int) -> None:
        self._reference, self._trees, self._typical, self._scale, self._k = reference, trees, typical, scale, k

    @classmethod
    def make(
        cls, reference: Reference, *, seed: int = 0, alpha: float = 0.05, neighbours: int = 10, k: int = 2
    ) -> Self:
        """Prepare.

        Args:
            reference: Rows with labels of at least two classes.
            seed: Not used: nothing is random.
            alpha: The share of each class that is set aside, from 0 to below 1.
            neighbours: Which neighbour's distance is the radius of a row, when setting aside.
            k: Which neighbour's distance is that of a class.

        Raises:
            InvalidRequest: there are no labels, or of one class only; a parameter is out of its range.
        """
        del seed
        table = rows.table(reference)
        if not 0 <= alpha < 1:
            raise InvalidRequest(f"alpha is from 0 to below 1; it is {alpha}")
        rows.at_least("neighbours", neighbours, 1)
        rows.at_least("k", k, 1)
        if reference.y is None or len(reference.y) != len(table) or reference.y.dtype.kind not in "iub":
            raise InvalidRequest("trust-score needs the class of each row of the reference, as whole numbers")
        labels = np.asarray(reference.y, np.int64)
        if len(np.unique(labels)) < 2:
            raise InvalidRequest("trust-score compares classes, and the reference has rows of one only")
        typical, scale = rows.typical(reference.features, table), rows.spread(table)
        points = np.where(np.isnan(table), typical, table) / scale
        trees = {
            int(label): _tree(points[labels == label], alpha=alpha, neighbours=neighbours)
            for label in np.unique(labels)
        }
        return cls(reference, trees, typical, scale, k)

    def explain(self, ask: Ask, x: Array) -> Explanation:
        """Explain one row `[f]`; asks for the row itself.

        Raises:
            InvalidRequest: x has other columns, or the reference has no row of the answered class.
        """
        x = rows.row(self._reference.features, x)
        try:
            said = rows.answer(ask, x[None])[0]
        except BudgetSpent:
            return rows.nothing(self.METHOD, {"score": [], "closest_class": []})
        if len(said) == 1:
            said = np.array([1 - said[0], said[0]])
        answered = int(said.argmax())
        if answered not in self._trees:
            raise InvalidRequest(
                f"the model answers '{self._name(answered)}', and the reference has no row of it to compare with"
            )
        distances = self.distances(x)
        other = min((label for label in distances if label != answered), key=distances.__getitem__)
        score = distances[other] / max(distances[answered], _LEAST)
        nearer = "nearer to" if score > 1 else "no nearer to"
        return Explanation(
            method=self.METHOD,
            data={
                "score": np.array([score]),
                "closest_class": np.array([other]),
                "closest_class_name": self._name(other),
                "prediction": [answered],
                "prediction_name": self._name(answered),
                "probability": float(said[answered]),
                "distances": {self._name(label): distance for label, distance in distances.items()},
            },
            text=f"Trust score {score:.3g}: the row is {nearer} the reference's rows of "
            f"'{self._name(answered)}', which the model answers ({distances[answered]:.3g}), than to those of "
            f"the next class, '{self._name(other)}' ({distances[other]:.3g}).",
            warnings=("the nearest rows are of another class than the answer",) if score < 1 else (),
        )

    def distances(self, x: Array) -> dict[int, float]:
        """From one row `[f]` to each class, in deviations of the reference."""
        point = np.where(np.isnan(x), self._typical, x) / self._scale
        found: dict[int, float] = {}
        for label, tree in self._trees.items():
            near, _ = tree.query(point, k=[min(self._k, tree.n)])
            found[label] = float(near[0])
        return found

    def _name(self, label: int) -> str:
        classes = self._reference.classes
        return classes[label] if 0 <= label < len(classes) else str(label)


def _tree(points: Array, *, alpha: float, neighbours: int) -> Any:
    """A search tree of one class, less the share alpha with the largest radius (algorithm 1)."""
    from scipy.spatial import cKDTree

    if alpha > 0 and len(points) > 2:
        radius = cKDTree(points).query(points, k=[min(neighbours + 1, len(points))])[0][:, 0]
        kept = max(1, len(points) - int(alpha * len(points)))
        points = points[np.sort(np.argsort(radius, kind="stable")[:kept])]
    return cKDTree(points)
