"""Requests compared with the reference before they are answered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, Refused
from headrace.features import Feature, Features
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.security.validation import HEADER, PARAMETER, Bounds, validated
from headrace.trust.rows import Rows
from headrace.trust.spec import Input, Schema, Validation

FEATURES = Features(
    columns=(
        Feature(name="age", low=20.0, high=70.0, integer=True),
        Feature(name="income", low=0.0, high=1000.0, missing=0.1),
        Feature(name="sex", kind="category", categories=("f", "m")),
        Feature(name="year", low=2020.0, high=2020.0),
    )
)
SCHEMA = Schema(
    features=FEATURES,
    inputs=tuple(
        Input(name=each.name, datatype="BYTES" if each.is_category else "FP64", columns=(at,))
        for at, each in enumerate(FEATURES.columns)
    ),
)


def request(age=30.0, income=10.0, sex=b"f", year=2020.0):
    def tensor(name, value):
        data = np.array([value], object if isinstance(value, bytes) else float)
        return Tensor(name, "BYTES" if isinstance(value, bytes) else "FP64", data)

    values = {"age": age, "income": income, "sex": sex, "year": year}
    return InferenceRequest(model_name="m", inputs=tuple(tensor(*each) for each in values.items()))


async def model(asked):
    return InferenceResponse(model_name="m", outputs=(), parameters={"own": 1}, headers={"own": "1"})


def guard(mode, counts, tolerance=0.1):
    return validated(model, Rows(SCHEMA), FEATURES, Validation(mode=mode, tolerance=tolerance), counts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": 80.0}, "row 0: age is 80, outside 20 to 70 by more than 10%"),
        ({"age": 30.5}, "age is 30.5, and the reference has whole numbers only"),
        ({"age": float("nan")}, "age is missing, and was never missing"),
        ({"sex": b"x"}, "sex is none of the 2 categories"),
        ({"income": float("inf")}, "income is inf, outside 0 to 1000"),
        ({"year": 2300.0}, "year is 2300, outside 2020 to 2020"),
    ],
)
async def test_a_value_that_the_reference_does_not_have_is_refused(change, words):
    """Each kind of difference is refused with row, column, what came and what was expected."""
    counts = {}
    with pytest.raises(Refused, match=words):
        await guard("reject", counts)(request(**change))
    assert counts == {"refused": 1}


@pytest.mark.parametrize("change", [{}, {"age": 75.0}, {"income": float("nan")}, {"income": -100.0}, {"sex": b"m"}])
async def test_what_is_within_the_tolerance_passes(change):
    """Values in the range or near it, and what was missing before, reach the model, and the answer is its own."""
    counts = {}
    answer = await guard("reject", counts)(request(**change))
    assert (dict(answer.parameters), dict(answer.headers), counts) == ({"own": 1}, {"own": "1"}, {})


async def test_a_flag_stands_beside_the_answer():
    """Flagging answers as the model does, with what is wrong in a parameter and a header."""
    counts = {}
    answer = await guard("flag", counts)(request(age=99.0, sex=b"x"))
    assert answer.parameters["own"] == 1
    assert "age is 99" in answer.parameters[PARAMETER]
    assert answer.headers[HEADER] == "2 values of 1 rows"
    assert counts == {"flagged": 1}


async def test_a_request_that_is_no_rows_is_the_models_to_refuse_or_ours():
    """A missing column is refused by a guard that rejects, and left to the model by one that flags."""
    broken = InferenceRequest(model_name="m", inputs=request().inputs[:2])
    with pytest.raises(InvalidRequest, match="sex"):
        await guard("reject", {})(broken)
    assert (await guard("flag", {})(broken)).parameters == {"own": 1}


@given(st.lists(st.floats(-50, 150), min_size=1, max_size=20), st.floats(0, 2))
def test_a_wider_tolerance_never_finds_more(ages, tolerance):
    """Whatever a tolerance lets pass, a wider one does."""
    x = np.zeros((len(ages), 4))
    x[:, 0], x[:, 3] = np.round(ages), 2020
    narrow = Bounds(FEATURES, tolerance=tolerance).wrong(x)
    wide = Bounds(FEATURES, tolerance=tolerance + 0.5).wrong(x)
    assert not (wide & ~narrow).any()
