"""How much of an answer a role gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.security.output_policy import apply, limited
from headrace.trust.spec import OutputPolicy

PROBABILITIES = np.array([[0.123456, 0.7, 0.176544], [0.4, 0.4, 0.2]])


def answer(*tensors):
    return InferenceResponse(model_name="m", outputs=tensors)


def probabilities(data=PROBABILITIES):
    return Tensor("predict_proba", "FP64", data)


def labels(*values):
    return Tensor("predict", "INT64", np.array(values, np.int64))


def test_numbers_are_rounded_and_labels_are_not():
    """Decimals concern fractions; whole numbers and the rest of the answer stay as they are."""
    rounded = apply(OutputPolicy(decimals=2), answer(labels(1, 0), probabilities()))
    assert rounded.outputs[0].data.tolist() == [1, 0]
    assert rounded.outputs[1].data.tolist() == [[0.12, 0.7, 0.18], [0.4, 0.4, 0.2]]


def test_only_the_largest_probabilities_stay():
    """Of a row the k largest stay, of equal ones the first, and others are 0."""
    limited_ = apply(OutputPolicy(top_k=1), answer(probabilities()))
    assert limited_.outputs[0].data.tolist() == [[0, 0.7, 0], [0.4, 0, 0]]


def test_labels_alone_leave_out_probabilities():
    """A caller of labels gets the outputs that are no probabilities."""
    left = apply(OutputPolicy(label_only=True), answer(labels(1, 0), probabilities()))
    assert [each.name for each in left.outputs] == ["predict"]


@pytest.mark.parametrize(
    ("data", "classes", "expected"),
    [
        (PROBABILITIES, (), [1, 0]),
        (PROBABILITIES, ("a", "b", "c"), [b"b", b"a"]),
        (np.array([[0.2], [0.9]]), ("no", "yes"), [b"no", b"yes"]),
    ],
)
def test_a_model_of_probabilities_alone_answers_labels(data, classes, expected):
    """Where nothing would be left, the label of the largest probability is answered, by its name where it has one."""
    (left,) = apply(
        OutputPolicy(label_only=True), answer(probabilities(data)), probabilities="predict_proba", classes=classes
    ).outputs
    assert (left.name, left.data.tolist()) == ("label", expected)


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 5)), elements=st.floats(0, 1)),
    st.builds(OutputPolicy, decimals=st.none() | st.integers(0, 3), top_k=st.none() | st.integers(1, 5)),
)
def test_a_policy_twice_is_a_policy_once(data, policy):
    """What a policy leaves, it leaves: asking again gains nothing."""
    once = apply(policy, answer(probabilities(data)))
    twice = apply(policy, once)
    assert np.array_equal(once.outputs[0].data, twice.outputs[0].data)


async def test_each_role_gets_its_own():
    """A role has its policy, others the default's, and a role with an empty one gets everything."""

    async def infer(request):
        return answer(labels(1, 0), probabilities())

    infer = limited(
        infer,
        {"default": OutputPolicy(label_only=True), "partner": OutputPolicy(decimals=1), "own": OutputPolicy()},
        role=lambda request: request.headers["role"],
    )

    async def of(role):
        response = await infer(InferenceRequest(model_name="m", inputs=(), headers={"role": role}))
        return [each.data.tolist() for each in response.outputs]

    assert await of("stranger") == [[1, 0]]
    assert await of("partner") == [[1, 0], [[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]]]
    assert await of("own") == [[1, 0], PROBABILITIES.tolist()]
