"""The rows that `trust.fit` fits, calibrates and measures on, with what the model says of them; and, of what depends on
its answers, rows that it does not know.

A model is right and sure of rows that it was trained on. Detectors that were fitted to its answers to these would take
every window of others for a drift. So rows that it was not trained on are given, which is best (`Asking.unseen`); or
clones of it say what it would have answered (`Asking.estimated`, by `trust.folds`), if they show that it was trained on
the rows; or its own answers are taken, with a warning where they may be better than they should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array, RequestedOutput, Signature, Tensor
from headrace.trust import calibrate, folds, schema
from headrace.trust.rows import Rows, fed
from headrace.trust.spec import On, Schema
from headrace.trust.table import Table

Ask = Callable[[tuple[Tensor, ...], tuple[RequestedOutput, ...]], Sequence[Tensor]]
"""The model: inputs and the outputs wanted (none: its default ones) to outputs."""
Progress = Callable[[str, int, int], None]
"""Told what is being done now, how much is done, and of how much."""

SHARES: Final = (0.6, 0.2, 0.2)
"""Of the rows: fitted on, thresholds chosen on, rates measured on."""
LEAST_ROWS: Final = 20
"""With fewer nothing is fitted."""
_CALL_ROWS: Final = 4096
_FEW_ROWS: Final = 200
_TOO_RIGHT: Final = 0.99
_MEND: Final = "give rows that it was not trained on: --unseen FILE (unseen=)"
_OPTIMISTIC: Final = (
    "If it was trained on them, its answers to them are surer and better than to others, and what depends on answers "
    f"(outputs, uncertainty, errors, cbpe, realised) will alarm; {_MEND}"
)
_VERDICTS: Final = {
    "stable": "which hardly depend on whether it knows a row",
    "unseen": "and it does not seem to know these rows",
    "unclear": "and it may know these rows",
}


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    ask: Ask
    signature: Signature
    artifact: Any = None
    """The model itself, for explainers that look into it; None: they are left out."""
    digest: str = ""
    """SHA-256 of its files; empty: it is in memory."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and what the model says of them."""

    x: Array
    y: Array | None
    answers: Array
    predictions: Array
    is_classified: bool = True

    def fed(self, on: On) -> Array | None:
        """What a detector on these is fed."""
        if on == "errors":
            if self.y is None or self.predictions.dtype == object:
                return None
            return self.wrong.reshape(-1, 1)
        return fed(on, x=self.x, answers=self.answers, predictions=self.predictions)

    @property
    def wrong(self) -> Array:
        """1 where a class is wrong, how far off a number is: `[n]`."""
        wrong: Array = self.predictions != self.y if self.is_classified else np.abs(self.predictions - self.y)
        return wrong.astype(np.float64)


Parts = tuple[Part, Part, Part]
"""Fitted on, thresholds chosen on, rates measured on."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What detectors of answers are fitted to. The fields are those of the card."""

    parts: Parts
    kind: Literal["own", "unseen", "out-of-fold"]
    told: str
    warnings: tuple[str, ...] = ()


class Asking:
    """Asks a model of rows whose schema is known."""

    def __init__(self, model: Model, known: Schema, *, most: tuple[int, int, int], seed: int, tell: Progress) -> None:
        self._model, self._known, self._rows = model, known, Rows(known)
        self._most, self._seed, self._tell = most, seed, tell
        self._is_classified = known.task == "classification"

    def predict(self, x: Array) -> Array:
        """What the model says of rows: `[n, k]`."""
        return self.answers(x)[0]

    def answers(self, x: Array) -> tuple[Array, Array]:
        """What the model says of rows: `[n, k]`, and the predictions `[n]`.

        Raises:
            InvalidRequest: an output is missing, or of another width than before.
        """
        known, rows = self._known, self._rows
        width = len(known.classes) if self._is_classified else known.output.width
        answers: list[Array] = [np.empty((0, width))]
        predictions: list[Array] = [np.empty(0)]
        for start in range(0, len(x), _CALL_ROWS):
            outputs = self._model.ask(rows.tensors(x[start : start + _CALL_ROWS]), rows.requested())
            found = rows.answers(outputs)
            if found is None:
                wanted = known.output.probabilities or known.output.labels
                raise InvalidRequest(f"the model's answer lacks output '{wanted}', or it has another width than before")
            answers.append(found)
            predictions.append(rows.predictions(outputs))
        return np.concatenate(answers), np.concatenate(predictions)

    def chosen(self, rows: int, y: Array | None) -> list[Array]:
        """Which rows make the three parts, as sorted positions."""
        strata = y if self._is_classified else None
        in_order = self._known.data == "series"
        found = []
        positions = calibrate.parts(rows, strata, shares=SHARES, seed=self._seed, in_order=in_order)
        for part, most in zip(positions, self._most, strict=True):
            classes = None if strata is None else strata[part]
            some = calibrate.sample(len(part), classes, most=most, seed=self._seed, in_order=in_order)
            found.append(part[some])
        return found

    def parts(self, x: Array, y: Array | None, chosen: Sequence[Array]) -> Parts:
        """The three parts with what the model says of them."""
        found = []
        for at, rows in enumerate(chosen):
            self._tell("asking the model", at, len(chosen))
            answers, predictions = self.answers(x[rows])
            truth = None if y is None else y[rows]
            part = Part(x=x[rows], y=truth, answers=answers, predictions=predictions, is_classified=self._is_classified)
            found.append(part)
        reference, held_out, fresh = found
        return reference, held_out, fresh

    def unseen(self, table: Table, labels: Array | None, *, among: Array) -> Answered:
        """Of rows that somebody says it was not trained on.

        Args:
            table: The rows.
            labels: `[n]`, as they came; None: there are none.
            among: The training rows, in which none of these should be.

        Raises:
            InvalidRequest: there are too few, they do not fit the model, or most of them are training rows.
        """
        if len(table) < LEAST_ROWS:
            raise InvalidRequest(f"{table.source}: {len(table)} unseen rows came; at least {LEAST_ROWS} are needed")
        x = schema.more(table, self._known)
        twice = int(_among(x, among).sum())
        if 2 * twice > len(x):
            raise InvalidRequest(
                f"{table.source}: {twice} of its {len(x)} rows are in the training data, too: they are not unseen"
            )
        y = None if labels is None else schema.truth(labels, self._known)
        warnings = []
        if twice:
            warnings.append(f"{twice} of the {len(x)} rows of {table.source} are in the training data, too")
        if len(x) < _FEW_ROWS:
            warnings.append(f"{len(x)} unseen rows are few: detectors of answers find gross changes only")
        if y is None:
            warnings.append(f"{table.source} has no labels: how good the model is on unseen rows is not known")
        parts = self.parts(x, y, self.chosen(len(x), y))
        told = f"the model's answers to {len(x)} rows of {table.source}"
        told += "" if y is None else f": {self._measure} {_right(parts):.3g}"
        return Answered(parts=parts, kind="unseen", told=told, warnings=tuple(warnings))

    def estimated(
        self, own: Parts, chosen: Sequence[Array], table: Table, x: Array, y: Array | None, *, seconds: float
    ) -> Answered:
        """Of training data, where nobody gave other rows.

        Clones are judged first. Only where the model was trained on the rows do their answers stand for its own: of
        rows that it does not know its own answers are right, and clones of a model of more rows are worse than it is.

        Args:
            own: The model's answers to the three parts.
            chosen: Which rows these are.
            table: All rows as they came.
            x: The same, as of `schema.taken`.
            y: Their truth; None: not known.
            seconds: What clones may take.
        """
        plain = "the model's own answers"
        if y is None or seconds <= 0:
            why = "there are no labels to tell by" if y is None else "clones were not wanted"
            note = f"whether the model was trained on these rows is not known: {why}. {_OPTIMISTIC}"
            return Answered(parts=own, kind="own", told=plain, warnings=(note,))
        asked = np.concatenate(list(chosen))
        answers = np.concatenate([part.answers for part in own])
        try:
            folded = folds.fold(
                self._model.artifact,
                table,
                x,
                y,
                own=answers,
                rows=asked,
                schema=self._known,
                seconds=seconds,
                seed=self._seed,
                tell=self._tell,
            )
        except folds.Unfolded as reason:
            right = _right(own)
            odd = f"; it is right about {right:.2%}, which is suspicious"
            suspect = odd if self._is_classified and right >= _TOO_RIGHT else ""
            note = f"whether the model was trained on these rows is not known: {reason}{suspect}. {_OPTIMISTIC}"
            return Answered(parts=own, kind="own", told=plain, warnings=(note,))
        judged = folds.judged(answers, folded, asked, y[asked], is_classifier=self._is_classified)
        told = (
            f"{self._measure} {judged.own:.3g} on these rows, {judged.folded:.3g} by {folded.folds} clones on rows new "
            "to them"
        )
        if judged.verdict == "seen":
            note = (
                f"the model was trained on these rows: {told}. Detectors of its answers were fitted to those of the "
                f"clones: near its own answers to other rows, and not the same. Better {_MEND}"
            )
            parts = _with(own, chosen, folded)
            return Answered(parts=parts, kind="out-of-fold", told=f"answers of clones: {told}", warnings=(note,))
        notes = [f"it is not clear whether the model was trained on some of these rows: {told}. {_OPTIMISTIC}"]
        return Answered(
            parts=own,
            kind="own",
            told=f"{plain}, {_VERDICTS[judged.verdict]}: {told}",
            warnings=tuple(notes if judged.verdict == "unclear" else ()),
        )

    @property
    def _measure(self) -> str:
        return "accuracy" if self._is_classified else "rmse"


def _with(own: Parts, chosen: Sequence[Array], folded: folds.Folded) -> Parts:
    """The same rows with the answers of clones."""
    reference, held_out, fresh = (
        msgspec.structs.replace(part, answers=folded.answers[rows], predictions=folded.predictions[rows])
        for part, rows in zip(own, chosen, strict=True)
    )
    return reference, held_out, fresh


def _right(parts: Parts) -> float:
    """The accuracy of the model's answers, or of a regression the root of their mean square error."""
    wrong = np.concatenate([part.wrong for part in parts])
    return float(1.0 - wrong.mean()) if parts[0].is_classified else float(np.sqrt((wrong**2).mean()))


def _among(x: Array, others: Array) -> Array:
    """Which rows are among others, bit by bit: `[n]` BOOL."""
    if x.dtype == object:
        found: Array = np.isin(x.astype(str), others.astype(str))
        return found
    one, two = (np.ascontiguousarray(each).view(np.dtype((np.void, each.shape[1] * 8))).ravel() for each in (x, others))
    same: Array = np.isin(one, two)
    return same
