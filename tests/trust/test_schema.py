"""What a model takes and says, found in its signature, its data and its answers."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest

from headrace.errors import InvalidRequest
from headrace.payload import Signature, Tensor, TensorSpec, datatype_of
from headrace.trust import schema
from headrace.trust.schema import Hints
from headrace.trust.spec import Bias, Input, Output
from headrace.trust.table import of

FRAME = pd.DataFrame(
    {
        "age": [20, 30, 40, 50],
        "pay": [1.5, np.nan, 2.5, 9.0],
        "sex": ["f", "m", None, "m"],
        "zone": [1, 2, 1, 3],
        "ok": [True, False, True, True],
    }
)
COLUMNS = Signature(
    platform="sklearn",
    inputs=tuple(TensorSpec(name=name, datatype="BYTES" if name == "sex" else "FP64", shape=(-1,)) for name in FRAME),
)


def signature(*shape, datatype="FP64", name="input-0", outputs=()):
    return Signature(platform="x", inputs=(TensorSpec(name=name, datatype=datatype, shape=shape),), outputs=outputs)


def tensor(name, values):
    data = np.asarray(values)
    if data.dtype.kind in "US":
        data = data.astype("S").astype(object)
    return Tensor(name, datatype_of(data), data)


class TestTaken:
    def test_reads_columns(self):
        """Kinds, ranges, categories, whole numbers and missing shares are those of the data; a tensor carries each."""
        found = schema.taken(of(FRAME), COLUMNS, Hints())
        age, pay, sex, zone, ok = found.features.columns
        assert (age.low, age.high, age.integer, age.missing) == (20, 50, True, 0)
        assert (pay.low, pay.high, pay.integer, pay.missing) == (1.5, 9, False, 0.25)
        assert (sex.categories, sex.missing) == (("f", "m"), 0.25)
        assert not zone.is_category
        assert ok.categories == (False, True)
        assert found.inputs[2] == Input(name="sex", datatype="BYTES", columns=(2,))
        expected = [[20, 1.5, 0, 1, 1], [30, np.nan, 1, 2, 0], [40, 2.5, np.nan, 1, 1], [50, 9, 1, 3, 1]]
        assert np.array_equal(found.x, expected, equal_nan=True)

    def test_takes_optional_inputs_that_the_data_has(self):
        """An input that may be left out is a feature where the data has a column for it, and none where it has not."""
        optional = tuple(msgspec.structs.replace(each, optional=each.name != "age") for each in COLUMNS.inputs)
        model = msgspec.structs.replace(COLUMNS, inputs=optional)
        found = schema.taken(of(FRAME[["age", "sex", "ok"]]), model, Hints())
        assert [(each.name, each.optional) for each in found.inputs] == [("age", False), ("sex", True), ("ok", True)]

    def test_takes_a_persons_word_for_categories(self):
        """A column of numbers is a category where a person says so, or compares groups by its values."""
        for hints in (Hints(categories=("zone",)), Hints(protected=("zone=1",))):
            found = schema.taken(of(FRAME), COLUMNS, hints)
            assert found.features.columns[3].categories == (1, 2, 3)
        with pytest.raises(InvalidRequest, match="did you mean 'zone'"):
            schema.taken(of(FRAME), COLUMNS, Hints(categories=("zones",)))

    def test_keeps_all_categories_that_the_data_names(self):
        """Categories that no row has, and those that the model names, are kept in their order."""
        frame = FRAME.assign(sex=pd.Categorical(["f", "m", None, "m"], categories=["x", "m", "f"]))
        assert schema.taken(of(frame), COLUMNS, Hints()).features.columns[2].categories == ("x", "m", "f")
        named = Signature(
            platform="x", inputs=(TensorSpec(name="zone", datatype="INT64", shape=(-1,), labels=("3", "1", "2")),)
        )
        assert schema.taken(of(FRAME), named, Hints()).features.columns[0].categories == (3, 1, 2)

    def test_reads_a_matrix(self):
        """One tensor of numbers carries all columns, by names or without."""
        found = schema.taken(of(FRAME[["age", "pay"]]), signature(-1, 2), Hints())
        assert found.features.names == ("age", "pay")
        assert found.inputs == (Input(name="input-0", datatype="FP64", columns=(0, 1)),)
        assert schema.taken(of(np.ones((3, 2))), signature(-1, 2), Hints()).features.names == ("x0", "x1")
        assert schema.taken(of(np.ones((3, 2))), signature(-1, -1), Hints()).x.shape == (3, 2)

    def test_reads_images(self):
        """Images are told by their shape, whether the model takes them so, flat, or as columns."""
        images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
        found = schema.taken(of(images), signature(-1, 2, 3, datatype="UINT8"), Hints())
        assert (found.data, found.features.shape, found.inputs[0].flat) == ("image", (2, 3), False)
        flat = schema.taken(of(images), signature(-1, 6), Hints())
        assert (flat.data, flat.features.shape, flat.inputs[0].flat) == ("image", (2, 3), True)
        assert np.array_equal(flat.x, images.reshape(4, 6))
        assert schema.taken(of(images.reshape(4, 6)), signature(-1, 2, 3), Hints()).features.shape == (2, 3)

    def test_reads_texts(self):
        """A model that takes one text is of texts, whatever else the table holds."""
        spec = signature(-1, datatype="BYTES")
        assert schema.taken(of(["a", "b"]), spec, Hints()).x.tolist() == ["a", "b"]
        found = schema.taken(of({"id": [1, 2], "text": ["a", None]}), spec, Hints())
        assert (found.data, found.x.tolist()) == ("text", ["a", ""])

    @pytest.mark.parametrize(
        ("data", "spec", "message"),
        [
            (FRAME[["age"]], signature(-1, 2), "takes 2 columns, the data has 1"),
            (FRAME[["age", "pay", "zone"]], signature(-1, 2), "--labels"),
            (FRAME[["age"]], COLUMNS, "lacks: pay, sex"),
            (np.ones((3, 4)), signature(-1, 3), r"shape \[3\].*shape \[4\]"),
            ({"a": [1.0, np.inf]}, signature(-1, 1), "'a', row 1: it is infinite"),
            ({"a": ["1"] * 12 + ["one"]}, signature(-1, 1), "'a', row 12: 'one' among numbers"),
            ({"a": [1.0, "x"]}, signature(-1, 1), "'a', row 1: text"),
        ],
    )
    def test_says_what_does_not_fit(self, data, spec, message):
        """Columns that lack or are too many, another width and values that are none are refused by name and row."""
        data = {name: np.array(values, object) for name, values in data.items()} if isinstance(data, dict) else data
        with pytest.raises(InvalidRequest, match=message):
            schema.taken(of(data), spec, Hints())

    def test_caps_categories(self):
        """Of very many values the most frequent are kept, and a warning says so."""
        column = np.array([f"v{at:05d}" for at in range(1500)] + ["v01499"] * 5, object)
        feature, (warning,) = schema.feature_of("c", column)
        assert len(feature.categories) == schema.MOST_CATEGORIES
        assert "v01499" in feature.categories
        assert "1500 different values" in warning


PROBABILITIES = [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]


class TestSaid:
    @pytest.mark.parametrize(
        ("outputs", "labels", "expected"),
        [
            (
                {"predict": [1, 0, 1], "predict_proba": PROBABILITIES, "decision_function": [0.5, -2.0, 0.1]},
                None,
                ("classification", Output(probabilities="predict_proba", labels="predict")),
            ),
            ({"label": ["a", "b", "a"]}, None, ("classification", Output(labels="label"))),
            ({"probability": [0.1, 0.9, 0.5]}, None, ("classification", Output(probabilities="probability"))),
            ({"output": PROBABILITIES}, None, ("classification", Output(probabilities="output"))),
            ({"predict": [1.5, 0.0, 7.0]}, None, ("regression", Output(labels="predict"))),
            (
                {"predict": [[1.5, 0.0], [0.0, 3.0], [1.0, 1.0]]},
                None,
                ("regression", Output(labels="predict", width=2)),
            ),
            (
                {"predict": [0.1, 0.9, 0.5]},
                np.array(["a", "b", "a"], object),
                ("classification", Output(probabilities="predict")),
            ),
        ],
    )
    def test_tells_roles_by_values(self, outputs, labels, expected):
        """Probabilities, labels and numbers are told by what they look like."""
        found = schema.roles([tensor(name, values) for name, values in outputs.items()], labels, Hints())
        assert found == expected

    def test_takes_a_persons_word_for_the_task(self):
        """Whole numbers are targets where a person says so, and what cannot be is refused with the outputs."""
        outputs = [tensor("predict", [1, 2, 3])]
        assert schema.roles(outputs, None, Hints(task="regression"))[0] == "regression"
        with pytest.raises(InvalidRequest, match="embedding"):
            schema.roles([tensor("embedding", [[1.0, 2.0], [3.0, 4.0]])], None, Hints(task="classification"))

    def _said(self, outputs, labels=None, hints=None, declared=()):
        hints = hints or Hints()
        spec = TensorSpec(name="predict_proba", datatype="FP64", shape=(-1, 2), labels=declared)
        seen = schema.taken(of(FRAME), COLUMNS, hints)
        return schema.said(
            seen,
            [tensor(name, values) for name, values in outputs.items()],
            Signature(platform="x", outputs=(spec,)),
            labels,
            hints,
        )

    def test_names_classes_as_labels_have_them(self):
        """Classes stand in the order of the probabilities, as the values that labels have; labels become positions."""
        outputs = {"predict": [1, 0, 1], "predict_proba": PROBABILITIES}
        found, y = self._said(outputs, np.array([0, 1, 1, 0]), declared=("1", "0"))
        assert found.classes == (1, 0)
        assert y.tolist() == [1, 0, 0, 1]
        found, y = self._said({"predict_proba": PROBABILITIES}, np.array(["b", "a", "a", "b"], object))
        assert found.classes == ("a", "b")
        assert self._said({"predict_proba": PROBABILITIES}, np.array([1.0, 0.0, 1.0, 0.0]))[0].classes == (0, 1)

    def test_refuses_a_label_that_is_no_class(self):
        """A label that the model does not know is refused with its row."""
        with pytest.raises(InvalidRequest, match="row 2: 'z' is none"):
            self._said({"predict_proba": PROBABILITIES}, np.array(["a", "b", "z", "a"], object), declared=("a", "b"))

    def test_reads_protected_attributes(self):
        """Rules become privileged values or bounds, and the favourable class a class."""
        outputs = {"predict": ["no", "yes", "no"], "predict_proba": PROBABILITIES}
        found, _ = self._said(outputs, hints=Hints(protected=("sex=m", "age>25"), favourable="no"))
        assert found.bias == (
            Bias(attribute="sex", privileged=("m",), favourable="no"),
            Bias(attribute="age", above=25.0, favourable="no"),
        )
        assert self._said(outputs, hints=Hints(protected=("zone=1,3",)))[0].bias == (
            Bias(attribute="zone", privileged=(1, 3), favourable="yes"),
        )

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            ("sexx=m", "did you mean 'sex'"),
            ("sex=x", "no row has 'x'"),
            ("sex>3", "numbers"),
            ("sex", "expected sex=male"),
        ],
    )
    def test_says_what_is_wrong_with_a_rule(self, rule, message):
        """An unknown attribute, value, bound or form is refused by name."""
        with pytest.raises(InvalidRequest, match=message):
            self._said({"predict_proba": PROBABILITIES}, hints=Hints(protected=(rule,)))
