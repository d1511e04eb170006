"""The classification extension."""

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.payload import Tensor
from headrace.protocols.classification import classify


@pytest.mark.parametrize(
    ("data", "count", "labels", "expected"),
    [
        ([0.25, 1.5, -1.0], 2, (), [b"1.500000:1", b"0.250000:0"]),
        ([[0.25, 0.75], [1, 0]], 1, ("no", "yes"), [[b"0.750000:1:yes"], [b"1.000000:0:no"]]),
        ([[0.5, 0.5]], 9, ("a",), [[b"0.500000:0:a", b"0.500000:1"]]),
        ([np.nan, 1.0], 2, (), [b"1.000000:1", b"nan:0"]),
        (np.zeros((2, 0)), 3, (), [[], []]),
        (np.zeros((0, 3)), 2, (), []),
    ],
    ids=["vector", "batch with labels", "more than there are", "NaN last", "no classes", "no rows"],
)
def test_the_highest_come_first(data, count, labels, expected):
    """Scores are ordered along the last axis, ties by place, with labels where there are some."""
    tensor = classify(Tensor("p", "FP64", np.asarray(data, np.float64)), count, labels)
    assert tensor.datatype == "BYTES"
    assert tensor.data.tolist() == expected


@pytest.mark.parametrize(
    "tensor",
    [Tensor("p", "FP32", np.float32(1).reshape(())), Tensor("p", "BYTES", np.array([b"a"], np.object_))],
    ids=["scalar", "bytes"],
)
def test_what_has_no_scores_is_refused(tensor):
    """The output is named."""
    with pytest.raises(InvalidRequest, match="output 'p' cannot be classified"):
        classify(tensor, 1)
