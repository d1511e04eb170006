"""Golden rows: what is written is what is checked."""

import numpy as np
import pytest

from headrace.errors import InvalidRequest, LoadFailed
from headrace.runtimes.golden import check_golden, find_golden, write_golden

INPUTS = {"x": np.arange(6.0).reshape(3, 2), "t": np.array([b"a", "ü".encode(), b""], dtype=object)}
OUTPUTS = {"y": np.array([0.5, np.nan, 2.0]), "label": np.array([b"p", b"q", b"r"], dtype=object)}


@pytest.fixture
def path(tmp_path):
    write_golden(tmp_path / "golden.npz", INPUTS, OUTPUTS)
    return tmp_path / "golden.npz"


def test_the_same_answers_pass(path):
    """A model that answers as it did passes, and is asked what was written: text as bytes, only the written outputs."""

    def predict(inputs, outputs):
        assert outputs == ("y", "label")
        assert inputs["t"].tolist() == INPUTS["t"].tolist()
        np.testing.assert_array_equal(inputs["x"], INPUTS["x"])
        return OUTPUTS

    assert check_golden(path, predict).difference == ""


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("y", np.array([0.5, np.nan, 2.1]), "'y' differs in 1 of 3"),
        ("y", np.array([0.5, 0.0, 2.0]), "'y' differs in 1 of 3"),
        ("label", np.array([b"p", b"q", b"s"], dtype=object), "'label' differs in 1 of 3"),
        ("y", np.zeros((3, 1)), "shape"),
    ],
    ids=["number", "nan", "text", "shape"],
)
def test_another_answer_is_told(name, value, text, path):
    """An answer that differs is told by its output and number of rows."""
    assert text in check_golden(path, lambda inputs, outputs: {**OUTPUTS, name: value}).difference


def test_the_last_bits_of_a_float_may_differ(path):
    """A float within the tolerance is the same answer."""
    answer = {**OUTPUTS, "y": OUTPUTS["y"] * (1 + 1e-9)}
    assert check_golden(path, lambda inputs, outputs: answer).difference == ""


@pytest.mark.parametrize("error", [InvalidRequest("no"), AttributeError("_fill_dtype")], ids=["refusal", "failure"])
def test_a_model_that_cannot_answer_differs(error, path):
    """A refusal or failure on the golden rows is a difference, not an exception."""

    def predict(inputs, outputs):
        raise error

    assert str(error) in check_golden(path, predict).difference


@pytest.mark.parametrize("content", [b"", b"prose", b"PK\x03\x04"])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    """A file that holds no golden rows fails the load."""
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(LoadFailed, match="no golden rows"):
        check_golden(tmp_path / "golden.npz", lambda inputs, outputs: {})


def test_a_models_own_golden_rows_come_first(tmp_path):
    """Beside several models, the rows named for one are found before those of the folder."""
    write_golden(tmp_path / "golden.npz", INPUTS, OUTPUTS)
    write_golden(tmp_path / "a.golden.npz", INPUTS, OUTPUTS)
    assert find_golden(tmp_path / "a.joblib") == tmp_path / "a.golden.npz"
    assert find_golden(tmp_path / "b.joblib") == tmp_path / "golden.npz"
    assert find_golden(tmp_path / "absent" / "b.joblib") is None
