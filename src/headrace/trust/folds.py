"""What a model would say of its training data had it not seen it: answers of its clones, each fitted without the rows
that it is asked of. `trust.fit` asks, where nobody gave it rows that the model was not trained on.

A model knows the rows that it was fitted on: it is right and sure of them more often than of others. What it says of
them is no reference for what it will say of others, and each window of these would differ from it at once. Stone 1974
("Cross-validatory choice and assessment of statistical predictions", J. R. Statist. Soc. B 36, section 2) is the mend:
each row is answered by a fit that left it out.

What that is worth: the law of the answers of clones, fitted on (k - 1) / k of the rows, and pooled over k of them. It
is near the model's own where the fit is stable (Bousquet and Elisseeff 2002); it is not the model's own. Rows that the
model was truly not trained on are better, and `unseen` takes them.

Whether the model was fitted on the rows at all is judged by its answers (`judged`), as by the shadow models of Shokri,
Stronati, Song and Shmatikov 2017 ("Membership inference attacks against machine learning models", section V), but of
all rows together and by their mean loss (Yeom, Giacomelli, Fredrikson and Jha 2018, "Privacy risk in machine learning",
section 3: what an attacker wins is the gap of the losses).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec
import numpy as np

from headrace.features import UNSEEN
from headrace.payload import Array
from headrace.trust import calibrate
from headrace.trust.rows import Coder
from headrace.trust.spec import Schema
from headrace.trust.table import Table

FOLDS: Final = 10
"""Each clone is fitted on nine tenths of the rows: the bias of a smaller fit is small, and ten fits are not many."""
LEAST_FOLDS: Final = 5
"""With less time; with fewer the clones are models of much less data, and none is made."""
_NOTICED: Final = 3.0
_AROUND: Final = 0.15
_TOLD_BY: Final = 100
_UNSEEN: Final = 0.3
_PROBE_ROWS: Final = 256
_PROBE_GROWTH: Final = 4
_SLOWEST: Final = 2.0
"""The power of the number of rows that the time of a fit is thought to grow with, until it was seen."""
_COMPARED_ROWS: Final = 200

Tell = Callable[[str, int, int], None]


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of clones."""

    answers: Array
    """`[n, k]`: of a clone that was fitted without the row."""
    predictions: Array
    """`[n]`."""
    seen: Array
    """`[n, k]`: of a clone that was fitted with the row."""
    folds: int
    is_same: bool
    """A clone that was fitted on all rows answers as the model does."""


Verdict = Literal["stable", "seen", "unseen", "unclear"]


class Unfolded(Exception):
    """Why there are none."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Whether rows are those that a model was fitted on."""

    own: float
    """Accuracy, of a regression the root of the mean square error, of the model's own answers."""
    folded: float
    """The same of the answers of clones to rows that they were fitted without."""
    optimism: float
    """How much smaller the loss of clones is on rows that they know, in standard errors of the paired mean."""
    place: float
    """Where the model's loss lies between that of clones on rows that they do not know (0) and that they know (1)."""
    error: float
    """The standard error of `place`: of a ratio of means, by the delta method."""
    is_same: bool
    """A clone that was fitted on all rows answers as the model does: they are what it was fitted on."""
    rows: int
    """That this is told by."""

    @property
    def verdict(self) -> Verdict:
        """`seen`: it was fitted on them. `stable`: it matters little, a fit is hardly better on rows that it knows.
        `unseen`: it was fitted on others. `unclear`: on some of them, or its clones are no models like it, which was
        fitted on more rows than these.

        `seen` is certain where a fit can be repeated. Elsewhere it needs a place at 1 that is known well, as a model of
        many more, other rows may be as good on these as clones on rows that they know.
        """
        if self.is_same:
            return "seen"
        if self.optimism < _NOTICED:
            return "stable"
        if abs(self.place - 1.0) <= _AROUND and self.error <= _AROUND and self.rows >= _TOLD_BY:
            return "seen"
        return "unseen" if abs(self.place) <= _UNSEEN else "unclear"


def fold(
    model: Any,
    table: Table,
    x: Array,
    y: Array,
    *,
    own: Array,
    rows: Array,
    schema: Schema,
    seconds: float,
    seed: int = 0,
    tell: Tell,
    clock: Callable[[], float] = time.monotonic,
) -> Folded:
    """Ask clones of a scikit-learn estimator.

    Args:
        model: The fitted estimator; it is cloned, and never fitted itself.
        table: The rows as they came, in the order in which they came: a fit that is repeated depends on it.
        x: The same rows as the schema has them.
        y: `[n]`: positions of classes, or numbers.
        own: `[m, k]`: what the model as it is served says of some rows.
        rows: `[m]`: which of them.
        schema: What the model takes and says.
        seconds: The most that all fits may take. A fit that is expected to take longer is not begun: smaller ones are
            timed first.
        seed: Of who is in which fold.
        tell: Told of each fit.
        clock: Seconds.

    Raises:
        Unfolded: it cannot be done, with the reason.
    """
    asked = _Asked(model, table, x, schema)
    some = own[:_COMPARED_ROWS]
    answers, _ = asked.answers(model, rows[:_COMPARED_ROWS])
    if answers.shape != some.shape or not np.allclose(answers, some, rtol=1e-4, atol=1e-5):
        raise Unfolded("the estimator answers otherwise than the model that is served")
    truth = asked.labels(y)
    deadline = clock() + seconds
    took = _probed(asked, truth, y, seconds=seconds, seed=seed, tell=tell, clock=clock)
    count = next((each for each in (FOLDS, LEAST_FOLDS) if (each + 1) * took <= deadline - clock()), 0)
    if not count:
        raise Unfolded(
            f"a fit is expected to take {took:.3g} s, and {LEAST_FOLDS} of them longer than the {seconds:.3g} s allowed"
        )
    strata = y if schema.task == "classification" else None
    parts = calibrate.parts(len(x), strata, shares=(1 / count,) * count, seed=seed)
    width = own.shape[1]
    unseen, seen, predictions = np.empty((len(x), width)), np.empty((len(x), width)), np.empty(len(x))
    for at, part in enumerate(parts):
        tell("asking clones of rows they have not seen", at, count)
        if clock() > deadline:
            raise Unfolded(f"{at} of {count} fits took longer than the {seconds:.3g} s allowed")
        rest = np.sort(np.concatenate([each for each in parts if each is not part]))
        clone = asked.fitted(rest, truth)
        unseen[part], predictions[part] = asked.answers(clone, part)
        before = parts[at - 1]
        seen[before], _ = asked.answers(clone, before)
    again, _ = asked.answers(asked.fitted(np.arange(len(x)), truth), rows)
    is_same = np.allclose(again, own, rtol=1e-4, atol=1e-5)
    return Folded(answers=unseen, predictions=predictions, seen=seen, folds=count, is_same=is_same)


def judged(own: Array, folded: Folded, rows: Array, y: Array, *, is_classifier: bool) -> Judgement:
    """Whether a model was fitted on rows, by how wrong it is about them: as wrong as clones that knew each row, or as
    those that did not.

    Args:
        own: `[m, k]`: the model's answers.
        folded: Of all rows.
        rows: `[m]`: which of them.
        y: `[m]`: their truth.
        is_classifier: Brier's score (1950) is the loss, else the square error.
    """
    theirs, seen = folded.answers[rows], folded.seen[rows]
    if is_classifier:
        truth = np.eye(own.shape[1])[y.astype(np.int64)]
        told = [float((each.argmax(axis=1) == y).mean()) for each in (own, theirs)]
    else:
        truth = y.reshape(-1, 1)
        own, theirs, seen = own[:, :1], theirs[:, :1], seen[:, :1]
        told = [float(np.sqrt(((each - truth) ** 2).mean())) for each in (own, theirs)]
    own_loss, unseen_loss, seen_loss = (((each - truth) ** 2).sum(axis=1) for each in (own, theirs, seen))
    gap, gain = unseen_loss - seen_loss, unseen_loss - own_loss
    error = float(gap.std()) / len(gap) ** 0.5
    mean = float(gap.mean())
    z = mean / error if error > 0 else 0.0
    place, spread = 0.0, 0.0
    if z > 0:
        place = float(gain.mean()) / mean
        spread = float((gain - place * gap).std()) / len(gap) ** 0.5 / mean
    return Judgement(
        own=told[0],
        folded=told[1],
        optimism=z,
        place=place,
        error=spread,
        is_same=folded.is_same,
        rows=len(rows),
    )


def _probed(
    asked: _Asked, truth: Array, y: Array, *, seconds: float, seed: int, tell: Tell, clock: Callable[[], float]
) -> float:
    """How long a fit without a tenth of the rows takes: told by smaller ones, so that none too long is begun."""
    strata = y if asked.schema.task == "classification" else None
    whole = round(len(y) * (1 - 1 / FOLDS))
    took, before, power = 0.0, 0, _SLOWEST
    for rows in _probes(whole):
        expected = took * (rows / before) ** power if before else 0.0
        if LEAST_FOLDS * expected > seconds:
            return float(expected * (whole / rows) ** power)
        tell("timing a fit", rows, whole)
        started = clock()
        asked.fitted(calibrate.sample(len(y), strata, most=rows, seed=seed), truth)
        now = clock() - started
        if before and took > 0 and now > 0:
            power = min(max(float(np.log(now / took) / np.log(rows / before)), 1.0), 3.0)
        took, before = now, rows
    return float(took * (whole / before) ** power)


def _probes(whole: int) -> Iterator[int]:
    rows = min(_PROBE_ROWS, whole)
    yield rows
    while rows * _PROBE_GROWTH <= whole // 2:
        rows *= _PROBE_GROWTH
        yield rows


class _Asked:
    """An estimator, its rows in the form that it takes, and its answers in the form of the schema."""

    def __init__(self, model: Any, table: Table, x: Array, schema: Schema) -> None:
        self.model, self.schema = model, schema
        try:
            from sklearn.base import BaseEstimator
        except ImportError as error:
            raise Unfolded("scikit-learn is not installed") from error
        if not isinstance(model, BaseEstimator) or not hasattr(model, "fit") or not hasattr(model, "predict"):
            raise Unfolded("it is no scikit-learn estimator that can be cloned and fitted again")
        if schema.data == "series":
            raise Unfolded("rows of a series depend on one another, so that none can be left out alone")
        self._rows = _as_fitted(model, table, x, schema)
        self._classes: Array = np.empty(0, np.object_)
        if schema.task == "classification":
            classes = getattr(model, "classes_", None)
            if not isinstance(classes, np.ndarray) or classes.ndim != 1:
                raise Unfolded("the estimator does not tell its classes")
            self._classes = classes
            if (self._places(classes) == UNSEEN).any():
                raise Unfolded("the estimator's classes are not those that the model answers")

    def labels(self, y: Array) -> Array:
        """Labels as the estimator was fitted on."""
        if self.schema.task != "classification":
            return y
        values = self._classes[np.argsort(self._places(self._classes), kind="stable")]
        if len(values) != len(self.schema.classes):
            raise Unfolded("the estimator's classes are not those that the model answers")
        found: Array = values[y.astype(np.int64)]
        return found

    def fitted(self, rows: Array, truth: Array) -> Any:
        """A clone that was fitted on some rows."""
        from sklearn.base import clone

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever trained the model has read them
            try:
                return clone(self.model).fit(self._taken(rows), truth[rows])
            except Exception as error:  # other people's code: whatever it raises, there are no clones
                raise Unfolded(f"a clone cannot be fitted: {type(error).__name__}: {error}") from error

    def answers(self, model: Any, rows: Array) -> tuple[Array, Array]:
        """`[m, k]` and `[m]`, as `Rows.answers` and `Rows.predictions` read them of the served model."""
        x = self._taken(rows)
        try:
            said = np.asarray(model.predict(x))
            if self.schema.task != "classification":
                answers = said.astype(np.float64).reshape(len(rows), -1)
                return answers, answers[:, 0]
            places = self._places(said)
            if not self.schema.output.probabilities:
                return (places[:, None] == np.arange(len(self.schema.classes))).astype(np.float64), places
            p = np.asarray(model.predict_proba(x), dtype=np.float64)
        except Exception as error:
            raise Unfolded(f"the estimator cannot be asked: {type(error).__name__}: {error}") from error
        answers = np.zeros((len(rows), len(self.schema.classes)))
        answers[:, self._places(model.classes_).astype(np.int64)] = p
        return answers, places

    def _taken(self, rows: Array) -> Any:
        return self._rows.iloc[rows] if hasattr(self._rows, "iloc") else self._rows[rows]

    def _places(self, values: Array) -> Array:
        """Classes as positions."""
        return Coder(self.schema.classes).encode(values.astype(object) if values.dtype.kind in "US" else values)


def _as_fitted(model: Any, table: Table, x: Array, schema: Schema) -> Any:
    """Rows as the estimator takes them: a DataFrame where it was fitted on one or has text in columns, else numbers."""
    names = getattr(model, "feature_names_in_", None)
    if schema.data == "text" or (names is None and not schema.features.categorical):
        return x
    try:
        import pandas as pd
    except ImportError as error:
        raise Unfolded("its rows are a DataFrame, and pandas is not installed") from error
    own = schema.features.names
    if all(name in table.columns for name in own):
        frame = pd.DataFrame({name: table.columns[name] for name in own})
    elif not schema.features.categorical:
        frame = pd.DataFrame(x, columns=list(own))
    else:
        raise Unfolded("its columns are not known by name")
    if names is None:
        return frame
    if set(names) == set(own):
        return frame[list(names)]
    if len(names) != len(own):
        raise Unfolded("it was fitted on other columns")
    return frame.set_axis(list(names), axis=1)
