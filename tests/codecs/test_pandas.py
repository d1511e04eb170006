"""The request codec `pd`: columns of every kind, there and back, with and without missing values."""

import numpy as np
import pandas as pd
import pytest

from headrace import codecs
from headrace.errors import InvalidRequest
from headrace.payload import Tensor


def through(column):
    frame = pd.DataFrame({"c": column})
    (tensor,) = codecs.encode_request(frame)
    return tensor, codecs.decode_request((tensor,), "pd")["c"].tolist()


@pytest.mark.parametrize(
    ("column", "datatype"),
    [
        ([1, 2], "INT64"),
        (np.array([1, 2], np.uint8), "UINT8"),
        ([1.5, float("inf")], "FP64"),
        (np.array([1.5], np.float32), "FP32"),
        ([True, False], "BOOL"),
        (["a", "é"], "BYTES"),
        ([b"\xff", b""], "BYTES"),
        ([{"a": 1}, {"b": [2]}], "BYTES"),
        ([{"a": 1}], "BYTES"),
        (["a", None], "BYTES"),
        (pd.array([1, 2], dtype="Int32"), "INT32"),
        (pd.array([True, None], dtype="boolean"), "BYTES"),
        (pd.Categorical(["x", "y", "x"]), "BYTES"),
        (pd.to_datetime(["2020-01-31T12:00:00.000001", "1969-12-31T00:00:00.5"]), "BYTES"),
    ],
    ids=str,
)
def test_columns_come_back(column, datatype):
    """A column's values survive, missing ones too."""
    tensor, came = through(column)
    assert tensor.datatype == datatype
    for one, other in zip(came, list(column), strict=True):
        assert (pd.isna(one) and pd.isna(other)) if not isinstance(other, dict) and pd.isna(other) else one == other


def test_missing_numbers_are_nan():
    """Integers with a missing value travel as FP64."""
    tensor, came = through(pd.array([1, None], dtype="Int64"))
    assert tensor.datatype == "FP64"
    assert came[0] == 1
    assert pd.isna(came[1])


def test_dates_with_a_gap_keep_the_gap():
    """A missing date is null, the others ISO 8601 text."""
    _, came = through(pd.to_datetime(["2020-01-31", None]))
    assert came[0] == "2020-01-31T00:00:00"
    assert pd.isna(came[1])


def test_columns_keep_their_order_and_may_be_n_by_1():
    """Tensors of shape [n,1] are columns like those of shape [n]."""
    tensors = (
        Tensor("b", "INT64", np.array([[1], [2]])),
        Tensor("a", "BYTES", np.array([[b"x"], [b"y"]], np.object_)),
    )
    frame = codecs.decode_request(tensors, "pd")
    assert list(frame.columns) == ["b", "a"]
    assert frame["a"].tolist() == ["x", "y"]
    assert frame["b"].tolist() == [1, 2]


def test_a_wide_tensor_is_a_column_of_rows():
    """An embedding of shape [n, k] keeps its rows."""
    frame = codecs.decode_request((Tensor("e", "FP32", np.ones((2, 3), np.float32)),), "pd")
    assert [row.tolist() for row in frame["e"]] == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ((Tensor("a", "INT64", np.zeros(2, int)), Tensor("b", "INT64", np.zeros(3, int))), "'b' has 3 rows"),
        ((Tensor("a", "INT64", np.zeros((), int)),), "'a' is a scalar"),
        ((Tensor("a", "BYTES", np.array([b"\xff"], np.object_)),), "'a': element 0 is not UTF-8"),
    ],
    ids=["lengths", "scalar", "text"],
)
def test_tensors_that_make_no_table_are_refused(tensors, text):
    """The message names the column."""
    with pytest.raises(InvalidRequest, match=text):
        codecs.decode_request(tensors, "pd")


def test_columns_of_one_name_are_refused():
    """Two tensors cannot share a name."""
    with pytest.raises(InvalidRequest, match="same name"):
        codecs.encode_request(pd.DataFrame([[1, 2]], columns=["a", "a"]))
