"""Permutation importance: how much worse the model fares when one column is shuffled among the rows. Needs labels.

Breiman, "Random Forests" (Machine Learning 45, 2001), section 10; Fisher, Rudin & Dominici, "All Models are Wrong, but
Many are Useful" (JMLR 20, 2019), equations 1 and 3. The interval takes in that the rows are a sample, which the
spread of shuffles alone does not.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal, Self

import numpy as np

from headrace.errors import InvalidRequest
from headrace.explainers import rows
from headrace.explainers.base import Ask, BudgetSpent, Data, Explainer, Explanation, Reference
from headrace.payload import Array

Loss = Literal["auto", "error", "log-loss", "squared", "absolute"]
_LOSSES: Final = ("auto", "error", "log-loss", "squared", "absolute")
_NORMAL: Final = 1.959963984540054
"""95 % of a normal law lie within so many deviations."""
_LEAST: Final = 1e-12


class PermutationImportance(Explainer):
    """The loss with a column shuffled, less the loss as it is; with 95 % intervals."""

    METHOD: ClassVar[str] = "permutation-importance"
    DATA: ClassVar[tuple[Data, ...]] = ("tabular",)
    IS_GLOBAL: ClassVar[bool] = True

    def __init__(self, reference: Reference, labels: Array, seed: int) -> None:
        self._reference, self._labels, self._seed = reference, labels, seed

    @classmethod
    def make(cls, reference: Reference, *, seed: int = 0) -> Self:
        """Prepare.

        Args:
            reference: With labels.
            seed: Of the draw of rows and of the shuffles.

        Raises:
            InvalidRequest: it has no labels.
        """
        table = rows.table(reference)
        if reference.y is None or len(reference.y) != len(table):
            raise InvalidRequest("permutation-importance needs the label of each row of the reference")
        return cls(reference, np.asarray(reference.y), seed)

    def explain(self, ask: Ask, x: Array, *, loss: Loss = "auto", repeats: int = 5, sample: int = 500) -> Explanation:
        """Speak of the model.

        Args:
            ask: The model; each column asks for `repeats` rows of each row.
            x: Nothing beside the reference can be used: it has no labels.
            loss: `error` (0 or 1) and `log-loss` of classes, `squared` and `absolute` of numbers; auto: log-loss,
                or squared.
            repeats: Shuffles of each column.
            sample: Rows, at most.

        Raises:
            InvalidRequest: a parameter is out of its range, or the loss is not one of such a model.
        """
        rows.one_of("loss", loss, _LOSSES)
        rows.at_least("repeats", repeats, 1)
        rows.at_least("sample", sample, 2)
        is_classifier = bool(self._reference.classes)
        chosen_loss = loss if loss != "auto" else "log-loss" if is_classifier else "squared"
        if is_classifier != (chosen_loss in {"error", "log-loss"}):
            raise InvalidRequest(f"loss '{loss}' is not one of a model of {'classes' if is_classifier else 'numbers'}")
        names = list(self._reference.features.names)
        table = rows.table(self._reference)
        rows.table(self._reference, x)  # refuses rows of another width
        rng = np.random.default_rng(self._seed)
        affordable = max(2, ask.left() // (len(names) * repeats + 1))
        picked = rng.permutation(len(table))[: min(sample, affordable)]
        wanted = min(sample, len(table))
        warnings = [f"the budget allows {len(picked)} of {wanted} rows"] if len(picked) < wanted else []
        chosen, labels = table[picked], self._labels[picked]
        try:
            before = losses(rows.answer(ask, chosen), labels, chosen_loss)
        except BudgetSpent:
            return rows.nothing(self.METHOD, {"feature_names": names, "feature_importance": [], "metric_names": []})
        count = len(chosen)
        added: list[Array] = []
        errors: list[float] = []
        for at in range(len(names)):
            order = rng.permuted(np.tile(np.arange(count), (repeats, 1)), axis=1)
            moved = np.repeat(chosen[None], repeats, axis=0)
            moved[:, :, at] = chosen[order, at]
            try:
                said = rows.answer(ask, moved.reshape(-1, len(names)))
            except BudgetSpent:
                warnings.append(f"{rows.SPENT}: {len(added)} of {len(names)} columns")
                break
            shuffled = losses(said, np.tile(labels, repeats), chosen_loss).reshape(repeats, count)
            added.append((shuffled - before).mean(axis=1))
            errors.append(_error(shuffled, order, before))
        means = np.array([each.mean() for each in added])
        deviations = np.array(errors)
        order = np.argsort(-means, kind="stable")
        told = [f"{names[at]} ({means[at]:+.3g})" for at in order[:5] if means[at] - _NORMAL * deviations[at] > 0]
        unit = {"error": "error rate", "log-loss": "log-loss", "squared": "squared error"}.get(
            chosen_loss, "absolute error"
        )
        return Explanation(
            method=self.METHOD,
            data={
                "feature_names": names[: len(added)],
                "metric_names": [chosen_loss],
                "feature_importance": [
                    [
                        {
                            "mean": float(each.mean()),
                            "std": float(each.std()),
                            "samples": each,
                        }
                        for each in added
                    ]
                ],
                "importance": means,
                "standard_errors": deviations,
                "low": means - _NORMAL * deviations,
                "high": means + _NORMAL * deviations,
                "base_loss": float(before.mean()),
                "rows": count,
                "repeats": repeats,
            },
            text=f"The {unit} is {before.mean():.3g} over {count} rows of the reference. Shuffled, it grows most by "
            f"{', '.join(told)}."
            if told
            else f"The {unit} is {before.mean():.3g} over {count} rows of the reference; no column surely changes it.",
            complete=not warnings,
            warnings=(*warnings, "rows that the model was trained on make a column look more important than it is"),
        )


def _error(shuffled: Array, order: Array, before: Array) -> float:
    """The standard error of an importance, from what each row adds to it.

    The shuffled loss is a mean over pairs: of a row, and of the row that lends it its value. A row has a part in both
    (its influence on a U-statistic: Hoeffding, Annals of Mathematical Statistics 19, 1948).

    Args:
        shuffled: `[repeats, n]`.
        order: `[repeats, n]`: which row lends its value.
        before: `[n]`.
    """
    lent = np.empty_like(shuffled)
    np.put_along_axis(lent, order, shuffled, axis=1)
    influence = shuffled.mean(axis=0) + lent.mean(axis=0) - before
    return float(influence.std(ddof=1) / np.sqrt(len(before))) if len(before) > 1 else 0.0


def losses(said: Array, labels: Array, loss: Loss) -> Array:
    """Of each row `[n]`: what its answer costs."""
    if loss in {"error", "log-loss"}:
        probabilities = said if said.shape[1] > 1 else np.concatenate([1 - said, said], axis=1)
        positions = labels.astype(np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < probabilities.shape[1]:
            raise InvalidRequest(
                f"labels are positions of classes, and the model has {probabilities.shape[1]}; found {positions.max()}"
            )
        if loss == "error":
            return np.asarray(probabilities.argmax(axis=1) != positions, np.float64)
        return np.asarray(-np.log(np.clip(probabilities[np.arange(len(labels)), positions], _LEAST, 1)))
    missed = said[:, 0] - labels
    return np.asarray(missed**2 if loss == "squared" else np.abs(missed))
