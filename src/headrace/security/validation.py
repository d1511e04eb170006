"""What is asked of a request before the model sees it: columns, types, ranges and categories, by the reference.

Well-formed rows that the model was never made for get a confident answer and no error: this says so (`flag`), or does
not let them through (`reject`). A row inside every range may still be an attack; detectors look at those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from headrace.errors import InvalidRequest, Refused
from headrace.features import UNSEEN, Feature, Features
from headrace.payload import Array, Infer, InferenceRequest, InferenceResponse
from headrace.trust.rows import Rows
from headrace.trust.spec import Validation

PARAMETER: Final = "headrace_validation"
"""The parameter of a flagged answer: a sentence for each value, the first few."""
HEADER: Final = "headrace-validation"
"""The header of a flagged answer: how many values of how many rows."""
_SHOWN: Final = 5


class Bounds:
    """What the columns of a row may be.

    Args:
        features: Of the reference.
        tolerance: How far outside the range seen a number may be, as a share of that range; of a constant column, of
            its size.
    """

    def __init__(self, features: Features, *, tolerance: float = 0.1) -> None:
        self._features, self._tolerance = features, tolerance
        columns = features.columns
        bounds = np.array([_bounds(each, tolerance) for each in columns]).reshape(-1, 2)
        self._low, self._high = bounds[:, 0], bounds[:, 1]
        self._categorical = np.array([each.is_category for each in columns], bool)
        self._integer = np.array([each.integer and not each.is_category for each in columns], bool)
        self._complete = np.array([each.missing == 0 for each in columns], bool)

    def wrong(self, x: Array) -> Array:
        """`[n, f]` BOOL: which values of rows `[n, f]` are not as the reference has them."""
        missing = np.isnan(x)
        with np.errstate(invalid="ignore"):  # comparisons with NaN are False, which is what is meant
            outside = (x < self._low) | (x > self._high)
            broken = self._integer & (x != np.floor(x)) & ~missing
        unseen = self._categorical & (x == UNSEEN)
        wrong: Array = (outside & ~self._categorical) | broken | unseen | (missing & self._complete)
        return wrong

    def sentences(self, x: Array, wrong: Array) -> list[str]:
        """What is wrong with the first values that are."""
        return [self._sentence(int(row), int(column), x[row, column]) for row, column in np.argwhere(wrong)[:_SHOWN]]

    def _sentence(self, row: int, column: int, value: float) -> str:
        feature = self._features.columns[column]
        place = f"row {row}: {feature.name}"
        if np.isnan(value):
            return f"{place} is missing, and was never missing in the reference"
        if feature.is_category:
            return f"{place} is none of the {len(feature.categories)} categories of the reference"
        if self._low[column] <= value <= self._high[column]:
            return f"{place} is {value:g}, and the reference has whole numbers only"
        return f"{place} is {value:g}, outside {feature.low:g} to {feature.high:g} by more than {self._tolerance:.0%}"


def _bounds(feature: Feature, tolerance: float) -> tuple[float, float]:
    if feature.is_category or feature.low is None or feature.high is None:
        return -np.inf, np.inf
    width = feature.high - feature.low or abs(feature.low)
    return feature.low - tolerance * width, feature.high + tolerance * width


def validated(infer: Infer, rows: Rows, features: Features, validation: Validation, counts: dict[str, int]) -> Infer:
    """The same `Infer`, behind what the reference says of requests.

    Args:
        infer: The model.
        rows: How its requests become rows.
        features: The columns of the rows.
        validation: What to do with rows that differ.
        counts: Written to: `flagged` and `refused` requests.
    """
    bounds = Bounds(features, tolerance=validation.tolerance)
    rejects = validation.mode == "reject"

    async def answer(request: InferenceRequest) -> InferenceResponse:
        try:
            x = rows.matrix(request.inputs)
        except InvalidRequest:
            if rejects:
                raise
            return await infer(request)  # the model says better than we what it cannot take
        wrong = bounds.wrong(x)
        if not wrong.any():
            return await infer(request)
        sentences, values, flagged = bounds.sentences(x, wrong), int(wrong.sum()), int(wrong.any(axis=1).sum())
        more = f"; and {values - len(sentences)} more" if values > len(sentences) else ""
        text = "; ".join(sentences) + more
        if rejects:
            counts["refused"] = counts.get("refused", 0) + 1
            raise Refused(f"model '{request.model_name}': not what it was made for: {text}")
        counts["flagged"] = counts.get("flagged", 0) + 1
        return flag(await infer(request), {PARAMETER: text}, {HEADER: f"{values} values of {flagged} rows"})

    return answer


def flag(
    response: InferenceResponse, parameters: Mapping[str, object], headers: Mapping[str, str]
) -> InferenceResponse:
    """The same answer, with parameters and headers beside its own."""
    return msgspec.structs.replace(
        response, parameters={**response.parameters, **parameters}, headers={**response.headers, **headers}
    )
