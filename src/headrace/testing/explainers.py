"""What every explainer keeps: inherit `ExplainerConformance` in a pytest class, and say which method it is.

    class TestLime(ExplainerConformance):
        method = "lime"

The reference is a small table with numbers, a whole number, a category, a constant column and missing values; the model
is a closed form of it. Override `reference`, `row` and `predict` for other data, `parameters` (of `make`) and `options`
(of `explain`) for another size.

What is left to the method: whether a model that gives labels only, one column, one class or a number can be explained;
where it cannot, it says so with an InvalidRequest. A method that never asks the model is complete within any budget.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.explainers import registry
from headrace.explainers.base import Ask, BudgetSpent, Explainer, Explanation, Predict, Reference
from headrace.features import UNSEEN, Feature, Features
from headrace.payload import EMPTY, Array

FEATURES: Final = Features(
    columns=(
        Feature(name="age", integer=True, low=18.0, high=80.0),
        Feature(name="income", low=0.0, high=10.0),
        Feature(name="colour", kind="category", categories=("red", "green", "blue")),
        Feature(name="constant", low=1.0, high=1.0),
        Feature(name="debt", low=-3.0, high=3.0, missing=0.1),
    )
)
"""Of the table that explainers are tried on."""

CLASSES: Final = ("deny", "ask", "grant")
"""Of the model that explainers are tried on."""


def table(rows: int = 200, *, seed: int = 5) -> Array:
    """Rows `[rows, 5]` of FEATURES: one constant column, a tenth of the last one missing."""
    rng = np.random.default_rng(seed)
    x = np.empty((rows, 5))
    x[:, 0] = rng.integers(18, 81, rows)
    x[:, 1] = rng.uniform(0, 10, rows)
    x[:, 2] = rng.integers(0, 3, rows)
    x[:, 3] = 1.0
    x[:, 4] = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(0, 1, rows).clip(-3, 3))
    return x


def grant(x: Array) -> Array:
    """The model: `[n, 3]` probabilities of CLASSES that grow with income and age, and fall with debt, of green more."""
    filled = np.nan_to_num(x)
    score = filled[:, 1] - 5 + (filled[:, 0] - 45) / 30 - filled[:, 4] + np.where(filled[:, 2] == 1, 1.0, 0.0)
    odds = np.exp(np.stack([-score, np.full(len(x), 0.5), score], axis=1).clip(-30, 30))
    answer: Array = odds / odds.sum(axis=1, keepdims=True)
    return answer


class CountedAsk(Ask):
    """One that remembers whether it ever refused."""

    refused = False

    def __call__(self, x: Array) -> Array:
        """Rows to `[n, k]`, as of Ask."""
        try:
            return super().__call__(x)
        except BudgetSpent:
            self.refused = True
            raise


class _Untouchable:
    """A model that nobody may look into."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a black-box method took '{name}' of the model itself")


class ExplainerConformance(abc.ABC):
    """What every explainer keeps."""

    method: ClassVar[str]
    """In the registry."""
    parameters: ClassVar[Mapping[str, Any]] = EMPTY
    """Of `make`."""
    options: ClassVar[Mapping[str, Any]] = EMPTY
    """Of `explain`."""
    exact: ClassVar[bool] = True
    """The same seed gives the same bits; False: equal within 1e-9 (a library that sums in another order)."""

    # -- what it is tried on --

    def reference(self) -> Reference:
        """What it is made from."""
        x = table()
        y = grant(x).argmax(axis=1).astype(np.int64)
        return Reference(features=FEATURES, x=x, y=y, classes=CLASSES, artifact=_Untouchable())

    def predict(self, x: Array) -> Array:
        """The model."""
        return grant(x)

    def row(self) -> Array:
        """What is explained: a row `[f]`; of text, a `str` in an array of no dimensions; of a global method, no row."""
        return self.reference().x[:0] if self.kind.IS_GLOBAL else self.reference().x[0].copy()

    # -- what the tests share --

    @property
    def kind(self) -> type[Explainer]:
        """The class under test, found as the server finds it."""
        return registry.find(self.method)

    def made(self, *, reference: Reference | None = None, seed: int = 3) -> Explainer:
        """An explainer of the reference."""
        return self.kind.make(reference or self.reference(), seed=seed, **self.parameters)

    def explained(
        self, x: Array | None = None, *, ask: Ask | None = None, explainer: Explainer | None = None
    ) -> Explanation:
        """The explanation of a row, checked for what holds of all of them."""
        explanation = (explainer or self.made()).explain(
            ask or Ask(self.predict), self.row() if x is None else x, **self.options
        )
        check(explanation, self.method)
        return explanation

    # -- the tests --

    def test_is_found_by_its_name(self) -> None:
        """The registry's name of a method is the name that its class and its explanations bear."""
        kind = self.kind
        assert (kind.METHOD, self.explained().method) == (self.method, self.method)

    def test_is_complete_within_a_large_budget(self) -> None:
        """With rows and time enough the explanation says that it is complete."""
        assert self.explained().complete

    @pytest.mark.parametrize("rows", [0, 1, 2, 7, 30, 100, 400, 1500])
    def test_gives_what_it_has_when_rows_are_spent(self, rows: int) -> None:
        """However few rows it may ask for, there is an explanation, and one that was cut short says so."""
        ask = CountedAsk(self.predict, max_rows=rows)
        explanation = self.explained(ask=ask)
        assert not (ask.refused and explanation.complete)
        assert ask.rows <= rows

    @pytest.mark.parametrize("calls", [0, 1, 2, 3, 6])
    def test_gives_what_it_has_when_time_is_up(self, calls: int) -> None:
        """Whenever the time is up, there is an explanation, and one that was cut short says so."""
        made = [0]

        def counted(x: Array) -> Array:
            made[0] += 1
            return self.predict(x)

        ask = CountedAsk(counted, deadline=float(calls), clock=lambda: float(made[0]))
        explanation = self.explained(ask=ask)
        assert not (ask.refused and explanation.complete)

    def test_says_the_same_with_the_same_seed(self) -> None:
        """Two explainers with one seed, and one explainer asked twice, say the same."""
        explainer = self.made()
        first, again, other = self.explained(explainer=explainer), self.explained(explainer=explainer), self.explained()
        assert first.text == again.text == other.text
        assert same(first.data, again.data, exact=self.exact)
        assert same(first.data, other.data, exact=self.exact)

    def test_leaves_what_it_was_given_as_it_was(self) -> None:
        """Neither the reference nor the row is written to."""
        reference, x = self.reference(), self.row()
        for array in (reference.x, x):
            array.flags.writeable = False
        self.explained(x, explainer=self.made(reference=reference))

    @pytest.mark.parametrize("off", [-1, 1])
    def test_refuses_a_row_of_another_width(self, off: int) -> None:
        """A row with a column too many or too few is the caller's error."""
        x = self.row()
        if x.ndim == 0:
            pytest.skip("a text has no columns")
        width = x.shape[-1] + off
        with pytest.raises(InvalidRequest):
            self.made().explain(Ask(self.predict), np.zeros((*x.shape[:-1], width)), **self.options)

    @pytest.mark.parametrize("odd", ["nan", "unseen", "far", "deviant"])
    def test_explains_odd_rows(self, odd: str) -> None:
        """A missing value, an unseen category, a number far away or off a constant column is explained."""
        x = self.row()
        if x.ndim != 1 or not self._is_table():
            pytest.skip("the case is one of a row of a table")
        x[{"nan": 1, "unseen": 2, "far": 1, "deviant": 3}[odd]] = {
            "nan": np.nan,
            "unseen": UNSEEN,
            "far": 1e6,
            "deviant": 2.0,
        }[odd]
        self.explained(x)

    @pytest.mark.parametrize("answer", ["one-hot", "one column", "one class", "number"])
    def test_explains_other_answers_or_refuses(self, answer: str) -> None:
        """A model of labels, of one probability, of one class or of numbers is explained or refused with a reason."""
        reference = self.reference()
        labels = self.predict(reference.x).argmax(axis=1)
        predict: Predict = self.predict
        if answer == "one-hot":
            count = len(reference.classes) or int(labels.max()) + 1
            predict = lambda x: np.eye(count)[self.predict(x).argmax(axis=1)]  # noqa: E731
        elif answer == "one column":
            predict = lambda x: self.predict(x)[:, -1:]  # noqa: E731
            reference = msgspec.structs.replace(
                reference, classes=("no", "yes"), y=(self.predict(reference.x)[:, -1] > 0.5).astype(np.int64)
            )
        elif answer == "one class":
            predict = lambda x: np.tile([0.0, 1.0, 0.0], (len(x), 1))  # noqa: E731
            reference = msgspec.structs.replace(
                reference, classes=("a", "b", "c"), y=np.ones(len(reference.x), np.int64)
            )
        else:
            predict = lambda x: 100 * self.predict(x)[:, -1:]  # noqa: E731
            reference = msgspec.structs.replace(reference, classes=(), y=predict(reference.x)[:, 0])
        try:
            self.explained(ask=Ask(predict), explainer=self.made(reference=reference))
        except InvalidRequest as refusal:
            assert str(refusal)  # noqa: PT017 - either is right

    def _is_table(self) -> bool:
        return self.reference().features == FEATURES


def check(explanation: Explanation, method: str) -> None:
    """What holds of every explanation: its method, a text, and data that JSON can carry beside arrays."""
    assert explanation.method == method
    assert explanation.text.strip()
    assert all(explanation.warnings)
    _check_plain(explanation.data, "data")


def _check_plain(value: Any, where: str) -> None:
    if value is None or isinstance(value, (bool, int, str)):
        return
    if isinstance(value, float):
        assert math.isfinite(value), f"{where} is {value}, which JSON cannot say"
    elif isinstance(value, np.ndarray):
        assert value.dtype.kind in "biufO", f"{where} is an array of {value.dtype}"
        if value.dtype.kind == "O":
            assert all(isinstance(each, str) for each in value.ravel()), f"{where} holds other objects than texts"
    elif isinstance(value, Mapping):
        for name, each in value.items():
            assert isinstance(name, str), f"{where} has the key {name!r}"
            _check_plain(each, f"{where}.{name}")
    elif isinstance(value, Sequence):
        for at, each in enumerate(value):
            _check_plain(each, f"{where}[{at}]")
    else:
        pytest.fail(f"{where} is a {type(value).__name__}")


def same(left: Any, right: Any, *, exact: bool = True) -> bool:
    """Whether two explanations' data are equal, NaN equal to NaN; not exact: numbers within 1e-9."""
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[name], right[name], exact=exact) for name in left)
    if isinstance(left, np.ndarray) and left.dtype.kind == "f":
        tolerance = 0.0 if exact else 1e-9
        return bool(np.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True))
    if isinstance(left, np.ndarray):
        return bool(np.array_equal(left, right))
    if isinstance(left, float):
        return left == right or (not exact and math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9))
    if isinstance(left, Sequence) and not isinstance(left, str):
        return len(left) == len(right) and all(same(a, b, exact=exact) for a, b in zip(left, right, strict=True))
    return bool(left == right)
