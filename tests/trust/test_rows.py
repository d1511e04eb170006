"""Requests to rows and back."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.features import UNSEEN, Feature, Features, numeric
from headrace.payload import Tensor
from headrace.trust.rows import Rows, entropy, fed
from headrace.trust.spec import Input, Output, Schema

OUTPUT = Output(probabilities="predict_proba", labels="predict")
MATRIX = Schema(
    features=numeric(3),
    inputs=(Input(name="input-0", datatype="FP64", columns=(0, 1, 2)),),
    output=OUTPUT,
    classes=(0, 1),
)
TABLE = Schema(
    features=Features(
        columns=(
            Feature(name="age", integer=True),
            Feature(name="sex", kind="category", categories=("f", "m")),
            Feature(name="zone", kind="category", categories=(1, 5)),
        )
    ),
    inputs=(
        Input(name="age", datatype="INT64", columns=(0,)),
        Input(name="sex", datatype="BYTES", columns=(1,)),
        Input(name="zone", datatype="FP64", columns=(2,)),
    ),
    output=OUTPUT,
    classes=("no", "yes"),
)


def text(*values):
    data = np.empty(len(values), object)
    data[:] = values
    return data


def table(age=(30, 40), sex=(b"f", b"m"), zone=(1.0, 5.0)):
    return (
        Tensor("age", "INT64", np.array(age)),
        Tensor("sex", "BYTES", text(*sex)),
        Tensor("zone", "FP64", np.array(zone)),
    )


class TestMatrix:
    def test_takes_an_optional_input_that_was_left_out_as_missing(self):
        """Its columns are NaN; a request without one that is required is refused, by name."""
        inputs = tuple(msgspec.structs.replace(each, optional=each.name != "age") for each in TABLE.inputs)
        rows = Rows(msgspec.structs.replace(TABLE, inputs=inputs))
        assert np.array_equal(rows.matrix(table()[:2]), [[30, 0, np.nan], [40, 1, np.nan]], equal_nan=True)
        with pytest.raises(InvalidRequest, match="missing"):
            rows.matrix(table()[1:])

    def test_passes_a_matrix_on_uncopied(self):
        """One tensor of doubles becomes the rows without a copy, whatever it is called."""
        data = np.arange(6.0).reshape(2, 3)
        x = Rows(MATRIX).matrix([Tensor("anything", "FP64", data)])
        assert np.shares_memory(x, data)
        assert np.array_equal(x, data)

    @pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", "float32", "bool"])
    def test_takes_any_number(self, dtype):
        """Numbers of every datatype become doubles."""
        data = np.array([[0, 1, 1]], dtype)
        x = Rows(MATRIX).matrix([Tensor("i", "X", data)])
        assert x.dtype == np.float64
        assert x.tolist() == [[0, 1, 1]]

    def test_reads_bfloat16(self):
        """The bits of BF16 become the numbers they stand for."""
        bits = np.array([[0x3F80, 0xC000, 0x0000]], np.uint16)
        assert Rows(MATRIX).matrix([Tensor("i", "BF16", bits)]).tolist() == [[1.0, -2.0, 0.0]]

    def test_takes_columns_where_a_matrix_is_declared(self):
        """Columns by name do for a model that declares one matrix."""
        tensors = [Tensor(f"x{at}", "FP64", np.array([float(at)])) for at in (2, 0, 1)]
        assert Rows(MATRIX).matrix(tensors).tolist() == [[0, 1, 2]]

    def test_takes_a_matrix_where_columns_are_declared(self):
        """One BYTES tensor of all columns does for a model that declares columns."""
        data = np.empty((2, 3), object)
        data[:] = [[b"30", b"m", b"5"], [b"", None, b"7"]]
        x = Rows(TABLE).matrix([Tensor("input-0", "BYTES", data)])
        assert np.array_equal(x, [[30, 1, 1], [np.nan, np.nan, UNSEEN]], equal_nan=True)

    def test_codes_categories(self):
        """Known categories become positions, unknown ones UNSEEN, missing ones NaN; extra tensors are passed over."""
        tensors = table(age=(1, 2, 3), sex=(b"m", b"x", None), zone=(5.0, np.nan, 2.0))
        x = Rows(TABLE).matrix([*tensors, Tensor("note", "BYTES", text(b"a", b"b", b"c"))])
        assert np.array_equal(x, [[1, 1, 1], [2, UNSEEN, np.nan], [3, np.nan, UNSEEN]], equal_nan=True)

    def test_reads_json_elements(self):
        """Text that travels as JSON, as a DataFrame's with missing values does, is read as what it says."""
        sex = Tensor("sex", "BYTES", text(b'"m"', b"null"), {"content_type": "json"})
        age, _, zone = table()
        x = Rows(TABLE).matrix([age, sex, zone])
        assert np.array_equal(x[:, 1], [1, np.nan], equal_nan=True)

    def test_puts_tensors_of_several_columns_together(self):
        """Columns stand where the schema says, whatever order tensors carry them in."""
        schema = Schema(
            features=numeric(3),
            inputs=(
                Input(name="a", datatype="FP32", columns=(2, 0)),
                Input(name="b", datatype="FP32", columns=(1,)),
            ),
        )
        rows = Rows(schema)
        x = rows.matrix([Tensor("b", "FP32", np.array([9.0])), Tensor("a", "FP32", np.array([[7.0, 8.0]]))])
        assert x.tolist() == [[8, 9, 7]]
        assert rows.matrix(rows.tensors(x)).tolist() == x.tolist()

    def test_puts_a_shuffled_matrix_in_order(self):
        """A matrix whose columns are declared in another order is put in the order of the features."""
        schema = Schema(features=numeric(3), inputs=(Input(name="", datatype="FP64", columns=(2, 0, 1)),))
        x = Rows(schema).matrix([Tensor("i", "FP64", np.array([[7.0, 8.0, 9.0]]))])
        assert x.tolist() == [[8, 9, 7]]
        assert Rows(schema).tensors(x)[0].data.tolist() == [[7, 8, 9]]

    def test_flattens_images(self):
        """The pixels of an image are the columns of its row, and go back into its shape."""
        schema = Schema(
            data="image",
            features=numeric(4, shape=(2, 2)),
            inputs=(Input(name="image", datatype="UINT8", columns=(0, 1, 2, 3)),),
        )
        rows, data = Rows(schema), np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
        x = rows.matrix([Tensor("image", "UINT8", data)])
        assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
        (back,) = rows.tensors(x)
        assert np.array_equal(back.data, data)
        assert back.data.dtype == np.uint8

    def test_reads_texts(self):
        """Of a model of texts, rows are texts, from [n] and [n, 1]."""
        rows = Rows(Schema(data="text", inputs=(Input(name="input-0", datatype="BYTES", columns=()),)))
        x = rows.matrix([Tensor("i", "BYTES", text("ä".encode(), "b").reshape(2, 1))])
        assert x.tolist() == ["ä", "b"]
        assert rows.matrix(rows.tensors(x)).tolist() == ["ä", "b"]

    def test_takes_no_rows(self):
        """A request of no rows gives no rows."""
        assert Rows(MATRIX).matrix([Tensor("i", "FP64", np.empty((0, 3)))]).shape == (0, 3)
        assert Rows(TABLE).matrix(table((), (), ())).shape == (0, 3)

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            (lambda: table()[:2], "missing: zone"),
            (lambda: (*table()[:2], Tensor("zone", "FP64", np.ones(3))), "3 rows"),
            (lambda: (Tensor("age", "BYTES", text(b"1", b"old")), *table()[1:]), r"'age', row 1: .*old"),
            (lambda: [Tensor("i", "FP64", np.ones((2, 4)))], "missing"),
            (lambda: [Tensor("age", "FP64", np.float64(1)), *table()[1:]], "scalar"),
        ],
    )
    def test_names_what_is_wrong(self, tensors, message):
        """A missing column, unequal rows, text for a number and a wrong width are refused by name."""
        with pytest.raises(InvalidRequest, match=message):
            Rows(TABLE).matrix(tensors())


class TestTensors:
    @given(
        st.lists(
            st.tuples(
                st.integers(-(2**40), 2**40), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0, float("nan")])
            ),
            min_size=1,
        )
    )
    def test_is_the_inverse(self, values):
        """Rows made into a request are read as the same rows."""
        x = np.array(values, float)
        rows = Rows(TABLE)
        assert np.array_equal(rows.matrix(rows.tensors(x)), x, equal_nan=True)

    def test_says_what_the_model_was_trained_on(self):
        """Categories go to the model as the values they stand for, in the declared datatypes and shapes."""
        age, sex, zone = Rows(TABLE).tensors(np.array([[30.4, 1, 1], [np.nan, np.nan, UNSEEN]])[:1])
        assert (age.datatype, age.data.tolist()) == ("INT64", [30])
        assert (sex.datatype, sex.data.tolist()) == ("BYTES", [b"m"])
        assert (zone.datatype, zone.data.tolist()) == ("FP64", [5.0])

    def test_does_not_hide_missing_numbers(self):
        """A missing whole number makes its tensor one of doubles instead of a made-up number."""
        age, sex, _ = Rows(TABLE).tensors(np.array([[np.nan, np.nan, 0.0]]))
        assert age.datatype == "FP64"
        assert np.isnan(age.data[0])
        assert sex.data.tolist() == [None]


class TestAnswers:
    def test_reads_probabilities_and_labels(self):
        """Probabilities are the answer, and labels its positions among the classes."""
        rows = Rows(TABLE)
        outputs = [
            Tensor("predict", "BYTES", text(b"yes", b"no", b"else")),
            Tensor("predict_proba", "FP32", np.array([[0.25, 0.75], [1, 0], [0, 1]], np.float32)),
        ]
        assert rows.answers(outputs).tolist() == [[0.25, 0.75], [1, 0], [0, 1]]
        assert rows.predictions(outputs).tolist() == [1, 0, UNSEEN]
        assert rows.predictions(outputs[1:]).tolist() == [1, 0, 1]
        assert [each.name for each in rows.requested()] == ["predict", "predict_proba"]

    def test_reads_the_probability_of_the_second_class(self):
        """Of two classes, the probability of the second alone is read, too."""
        for shape in ((2,), (2, 1)):
            outputs = [Tensor("predict_proba", "FP64", np.array([0.25, 1.0]).reshape(shape))]
            assert Rows(MATRIX).answers(outputs).tolist() == [[0.75, 0.25], [0, 1]]

    def test_says_that_probabilities_are_not_there(self):
        """An answer without probabilities gives none; without labels either, its prediction is refused."""
        outputs = [Tensor("predict", "INT64", np.array([1]))]
        assert Rows(MATRIX).answers(outputs) is None
        assert Rows(MATRIX).predictions(outputs).tolist() == [1]
        with pytest.raises(InvalidRequest, match="transform"):
            Rows(MATRIX).predictions([Tensor("transform", "FP64", np.ones((1, 2)))])

    def test_makes_probabilities_of_labels(self):
        """A classifier without probabilities is sure of what it says."""
        schema = Schema(features=numeric(1), output=Output(labels="predict"), classes=("a", "b", "c"))
        outputs = [Tensor("predict", "BYTES", text(b"c", b"a"))]
        assert Rows(schema).answers(outputs).tolist() == [[0, 0, 1], [1, 0, 0]]

    def test_reads_numbers(self):
        """A regression's answer is its numbers, its prediction the first."""
        schema = Schema(task="regression", output=Output(labels="predict", width=2))
        outputs = [Tensor("predict", "FP32", np.array([[1, 2], [3, 4]], np.float32))]
        assert Rows(schema).answers(outputs).tolist() == [[1, 2], [3, 4]]
        assert Rows(schema).predictions(outputs).tolist() == [1, 3]

    def test_codes_labels_in_any_form(self):
        """Labels that arrive later are coded whether they come as text, bytes or numbers."""
        assert Rows(TABLE).positions(["yes", b"no", "maybe"]).tolist() == [1, 0, UNSEEN]
        assert Rows(MATRIX).positions([1, 0]).tolist() == [1, 0]
        assert Rows(MATRIX).positions(["1", "0"]).tolist() == [1, 0]
        with pytest.raises(InvalidRequest, match="numbers"):
            Rows(Schema(task="regression")).positions(["much"])


def test_feeds_detectors():
    """What a detector is fed follows from rows and answers, and is None where it needs what is not there."""
    x, answers = np.ones((2, 3)), np.array([[0.5, 0.5], [1, 0]])
    assert fed("inputs", x=x, answers=None, predictions=None) is x
    assert fed("outputs", x=x, answers=None, predictions=None) is None
    assert np.allclose(fed("uncertainty", x=x, answers=answers, predictions=None), [[np.log(2)], [0]])
    assert fed("predictions", x=x, answers=answers, predictions=np.zeros(2)).shape == (2, 1)
    assert entropy(np.empty((0, 2))).shape == (0, 1)
