"""How columns become tensors: which column feeds which input, and which values make a row bad."""

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.lifecycle.batch import columns
from headrace.lifecycle.batch.base import Job
from headrace.payload import Signature, TensorSpec


def signature(*inputs, strict=True):
    return Signature(platform="test", inputs=inputs, strict=strict)


def job(**more):
    return Job(model="m", inputs=("in.csv",), output="out.csv", **more)


def text(*names):
    return pa.schema([(name, pa.string()) for name in names])


BLOCK = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
AGE = TensorSpec(name="age", datatype="INT64", shape=(-1,))
CITY = TensorSpec(name="city", datatype="BYTES", shape=(-1, 1))


def feeds(plan):
    return {feed.tensor: feed.columns for feed in plan.feeds}


def test_inputs_take_the_columns_of_their_names():
    """Each input takes the column of its name, in any order of the file, and columns of no input are left alone."""
    plan = columns.plan(job(), signature(AGE, CITY), text("other", "city", "age"))
    assert feeds(plan) == {"age": ("age",), "city": ("city",)}
    assert "other" not in plan.used


def test_the_only_input_takes_all_columns_in_the_order_of_the_file():
    """A model with one input of another name takes the columns as they stand, the id column excepted."""
    plan = columns.plan(job(id_column="id"), signature(BLOCK), text("b", "id", "a"))
    assert feeds(plan) == {"x": ("b", "a")}


def test_columns_of_text_are_no_numbers_where_the_file_knows_types():
    """Of typed files, dates are not taken for what makes up a tensor of numbers."""
    schema = pa.schema([("a", pa.float32()), ("when", pa.timestamp("s")), ("b", pa.int8())])
    assert feeds(columns.plan(job(), signature(BLOCK), schema)) == {"x": ("a", "b")}


def test_kept_columns_are_left_out_where_there_are_too_many():
    """A kept column is taken for an extra one only where all columns together are too many."""
    assert feeds(columns.plan(job(keep=("c",)), signature(BLOCK), text("a", "b", "c"))) == {"x": ("a", "b")}
    assert feeds(columns.plan(job(keep=("b",)), signature(BLOCK), text("a", "b"))) == {"x": ("a", "b")}


def test_one_column_of_lists_is_the_tensor():
    """A column of lists is the model's only input as it is."""
    schema = pa.schema([("id", pa.int64()), ("row", pa.list_(pa.float32()))])
    assert feeds(columns.plan(job(id_column="id"), signature(BLOCK), schema)) == {"x": ("row",)}


@pytest.mark.parametrize(
    ("given_job", "inputs", "names", "said"),
    [
        pytest.param(job(), (AGE, CITY), ("age", "town"), "no column 'city'", id="missing"),
        pytest.param(job(), (AGE, CITY), ("age", "citi"), "did you mean 'citi'", id="near"),
        pytest.param(job(), (BLOCK,), ("a", "b", "c"), "takes 2 numbers a row; the file has 3 columns", id="extra"),
        pytest.param(job(), (BLOCK,), ("a",), "--columns x=COLUMN", id="too few"),
        pytest.param(job(), (AGE,), ("age", "age"), "two columns are named 'age'", id="twice"),
        pytest.param(job(keep=("z",)), (AGE,), ("age",), "no column 'z', to be kept", id="kept"),
        pytest.param(job(id_column="z"), (AGE,), ("age",), "no column 'z', as the id column", id="id"),
        pytest.param(job(columns={"y": ("age",)}), (AGE,), ("age",), "no input 'y'", id="no such input"),
        pytest.param(job(columns={"age": ("a",)}), (AGE, CITY), ("a",), "leaves out input 'city'", id="left out"),
        pytest.param(job(columns={"age": ("b",)}), (AGE,), ("a",), "no column 'b', for tensor 'age'", id="mapped"),
        pytest.param(job(), (), ("a",), "does not say what it takes", id="undeclared"),
    ],
)
def test_what_does_not_fit_is_said_before_a_row_is_read(given_job, inputs, names, said):
    """A missing, extra or ambiguous column is named, with what there is and what to do."""
    with pytest.raises(InvalidRequest, match=said.replace("(", r"\(")):
        columns.plan(given_job, signature(*inputs), text(*names))


def read(spec, column, name="v", tail=None):
    plan = columns.Plan((columns.Feed("x", spec, (name,), tail or ()),))
    tensors, faults = columns.read(plan, pa.RecordBatch.from_arrays([column], names=[name]))
    return tensors[0].data, faults


@pytest.mark.parametrize(
    ("datatype", "values", "bad", "good"),
    [
        pytest.param("FP32", ["1", " 2.5 ", "x", "", "1e3"], {2}, [1, 2.5, None, np.nan, 1000], id="floats"),
        pytest.param("INT64", ["1", "3.0", "3.5", "", "9"], {2, 3}, [1, 3, None, None, 9], id="whole"),
        pytest.param("INT8", ["1", "200", "-7"], {1}, [1, None, -7], id="range"),
        pytest.param("UINT64", ["18446744073709551615", "-1"], {1}, [18446744073709551615, None], id="unsigned"),
        pytest.param("BOOL", ["true", "0", "maybe", "FALSE", ""], {2, 4}, [True, False, None, False, None], id="bools"),
        pytest.param("BYTES", ["a", "", "é"], set(), [b"a", b"", "é".encode()], id="texts"),
    ],
)
def test_text_that_does_not_fit_makes_its_own_row_bad(datatype, values, bad, good):
    """Of a column of text, exactly the values that do not fit are faults, and the others are what they say."""
    found, faults = read(datatype, pa.array(values, pa.string()))
    assert set(faults) == bad
    for at, value in enumerate(good):
        if at not in bad:
            np.testing.assert_equal(found[at], value)


@pytest.mark.parametrize("is_csv", [True, False])
@pytest.mark.parametrize("missing_texts", [True, False])
def test_a_text_may_be_missing_where_the_model_takes_that(missing_texts, is_csv):
    """Nulls are None, and so is in CSV what pandas reads as nothing; for other models these are texts, and nulls bad."""
    city = TensorSpec(name="v", datatype="BYTES", shape=(-1,))
    model = Signature(platform="test", inputs=(city,), missing_texts=missing_texts)
    batch = pa.RecordBatch.from_arrays([pa.array(["Oslo", "", "n/a", " ", None])], names=["v"])
    (tensor,), faults = columns.read(columns.plan(job(), model, batch.schema, is_csv=is_csv), batch)
    found = [None if at in faults else each for at, each in enumerate(tensor.data.tolist())]
    assert set(faults) == (set() if missing_texts else {4})
    assert found == [b"Oslo", *([None, None] if is_csv and missing_texts else [b"", b"n/a"]), b" ", None]


@pytest.mark.parametrize(
    ("datatype", "column", "bad", "good"),
    [
        pytest.param("FP32", pa.array([1, None, 3]), set(), [1, np.nan, 3], id="null is NaN"),
        pytest.param("INT32", pa.array([1, None, 3]), {1}, [1, None, 3], id="null is no whole number"),
        pytest.param("INT32", pa.array([1.0, 2.5, np.nan, 4.0]), {1, 2}, [1, None, None, 4], id="fractions"),
        pytest.param("INT8", pa.array([1, 300]), {1}, [1, None], id="narrow"),
        pytest.param("UINT8", pa.array([1, -1], pa.int8()), {1}, [1, None], id="negative"),
        pytest.param("FP32", pa.array([1.0, 1e300, np.inf]), {1}, [1, None, np.inf], id="too large"),
        pytest.param("FP64", pa.array([decimal.Decimal("1.25"), None]), set(), [1.25, np.nan], id="decimals"),
        pytest.param("FP32", pa.array([True, False]), set(), [1, 0], id="booleans"),
        pytest.param("INT64", pa.array(["1", "2", "1"]).dictionary_encode(), set(), [1, 2, 1], id="dictionary"),
        pytest.param("BYTES", pa.array(["b", None, "a"]).dictionary_encode(), {1}, [b"b", None, b"a"], id="categories"),
        pytest.param("BYTES", pa.array([7, 8]), set(), [b"7", b"8"], id="numbers as text"),
        pytest.param(
            "BYTES",
            pa.array([dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)], pa.timestamp("s")),
            set(),
            [b"2026-01-02T03:04:05"],
            id="timestamps",
        ),
        pytest.param("FP16", pa.array([1.5, 1e6]), {1}, [1.5, None], id="half"),
        pytest.param("FP64", pa.nulls(2), set(), [np.nan, np.nan], id="nothing at all"),
    ],
)
def test_values_of_other_types_are_read_where_they_fit(datatype, column, bad, good):
    """Typed values become the tensor's datatype where nothing is lost but precision; the others make their rows bad."""
    found, faults = read(datatype, column)
    assert set(faults) == bad
    for at, value in enumerate(good):
        if at not in bad:
            np.testing.assert_equal(found[at], value)


def test_lists_are_rows_of_the_tensor():
    """Lists of the length that the input has are its rows; one of another length makes its row bad, and no other."""
    column = pa.array([[1.0, 2.0], [3.0], None, [5.0, 6.0]])
    found, faults = read("FP32", column, tail=(2,))
    assert set(faults) == {1, 2}
    assert found.shape == (4, 2)
    np.testing.assert_array_equal(found[[0, 3]], [[1, 2], [5, 6]])


def test_nested_lists_are_deeper_tensors():
    """Lists of lists make a tensor of three dimensions, and an element that does not fit makes its own row bad."""
    column = pa.array([[["1", "2"], ["3", "4"]], [["5", "x"], ["7", "8"]]])
    found, faults = read("FP64", column, tail=(2, 2))
    assert set(faults) == {1}
    np.testing.assert_array_equal(found[0], [[1, 2], [3, 4]])


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=40), st.data())
def test_bad_values_harm_no_others(values, data):
    """Wherever bad values stand among numbers, the others are read as if there were none."""
    bad = data.draw(st.sets(st.integers(0, len(values) - 1)))
    texts = ["?" if at in bad else repr(value) for at, value in enumerate(values)]
    found, faults = read("FP32", pa.array(texts))
    assert set(faults) == bad
    kept = [at for at in range(len(values)) if at not in bad]
    np.testing.assert_array_equal(found[kept], np.array(values, np.float32)[kept])


def test_columns_without_faults_are_not_copied():
    """A column of the tensor's own datatype is the tensor, without a copy."""
    column = pa.array(np.arange(5, dtype=np.float32))
    found, _ = read("FP32", column)
    assert found.__array_interface__["data"][0] == column.buffers()[1].address
