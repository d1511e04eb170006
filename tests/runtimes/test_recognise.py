"""Which runtime claims what: the surest wins, a tie names both, and nothing found says what was found."""

import importlib.metadata
import pickle
import sys
import types
import zipfile

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from headrace import runtimes
from headrace.errors import LoadFailed, SettingsError, UnknownFormat
from headrace.runtimes import recognise
from headrace.runtimes.base import Recognition, Runtime

FITTED = LinearRegression().fit(np.eye(2), [0, 1])


class Sure(Runtime):
    @classmethod
    def recognise(cls, path):
        return Recognition("sure of it", 1.0)

    @classmethod
    def recognise_object(cls, model):
        return Recognition("sure of it", 1.0)

    def load(self):
        raise NotImplementedError

    def predict(self, inputs, outputs=(), parameters=None):
        raise NotImplementedError


class Unsure(Sure):
    @classmethod
    def recognise(cls, path):
        return Recognition("perhaps", 0.5)

    recognise_object = recognise


@pytest.fixture
def table(monkeypatch):
    module = types.ModuleType("third_party_runtimes")
    module.Sure, module.Unsure = Sure, Unsure
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return {"sure": "third_party_runtimes:Sure", "unsure": "third_party_runtimes:Unsure"}


def test_a_real_model_is_recognised_among_all_runtimes(tmp_path):
    """A joblib file with a name that says nothing goes to scikit-learn, with evidence."""
    joblib.dump(FITTED, tmp_path / "x")
    name, claim = recognise.recognise(tmp_path / "x")
    assert name == "sklearn"
    assert claim.evidence == "pickle of sklearn.linear_model._base.LinearRegression"


def test_an_object_is_recognised_among_all_runtimes():
    """An estimator in memory goes to scikit-learn."""
    assert recognise.recognise_object(FITTED)[0] == "sklearn"


def test_the_surest_wins(table, tmp_path):
    """Of two that claim a file, the more confident one gets it, whatever the order of the table."""
    for rows in (table, dict(reversed(table.items()))):
        assert recognise.recognise(tmp_path, rows)[0] == "sure"
        assert recognise.recognise_object(1, rows)[0] == "sure"


def test_a_tie_names_both(table, tmp_path):
    """Two that are equally sure are an error that names both and the way to choose."""
    table["twin"] = table["sure"]
    with pytest.raises(UnknownFormat, match=r"sure \(sure of it\) and twin \(sure of it\); name one by `runtime:`"):
        recognise.recognise(tmp_path, table)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"\x00\x01\x02", ["3 bytes", "suffix .bin", "00 01 02", "runtime:"]),
        (b"hello", ["5 bytes", "'hello'"]),
        (b"", ["the file is empty"]),
        (pickle.dumps({"a": 1}), ["a pickle of plain values", "the fitted model itself"]),
        (pickle.dumps(FITTED)[:-20], ["sklearn.linear_model", "cut off or damaged"]),
        (b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.", ["torch.nn.modules.linear.Linear", "torch.onnx.export"]),
        (
            pickle.dumps({"model": FITTED}),
            ["a pickle of builtins.dict", "sklearn.linear_model", "the fitted estimator"],
        ),
    ],
    ids=["binary", "text", "empty", "values", "torn", "torch", "dictionary"],
)
def test_what_nobody_recognises_is_described(content, parts, tmp_path):
    """The error says what was found, in numbers, bytes or globals, and what would help."""
    path = tmp_path / "thing.bin"
    path.write_bytes(content)
    with pytest.raises(UnknownFormat) as caught:
        recognise.recognise(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_an_archive_of_pytorch_is_told(tmp_path):
    """What torch.save writes is named as PyTorch's, and the way to serve it."""
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/version", "3\n")
    with pytest.raises(UnknownFormat, match=r"archive of PyTorch, .* torch\.onnx\.export"):
        recognise.recognise(path)


def test_a_folder_nobody_recognises_lists_its_entries(tmp_path):
    """A folder that is no model says what lies in it."""
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UnknownFormat, match=r"a folder of 1 entries \(notes\.txt\)"):
        recognise.recognise(tmp_path)


def test_a_missing_path_is_named(tmp_path):
    """A path that is not there is an error of its own."""
    with pytest.raises(UnknownFormat, match="absent does not exist"):
        recognise.recognise(tmp_path / "absent")


def test_an_object_nobody_recognises_names_its_class():
    """The error for an object names its class."""
    with pytest.raises(UnknownFormat, match=r"decimal\.Decimal"):
        recognise.recognise_object(__import__("decimal").Decimal(1))


# -- the registry --


@pytest.mark.parametrize("name", sorted(runtimes.RUNTIMES))
def test_every_row_is_a_runtime(name):
    """Each row of the table leads to a runtime class, whose extra installs it."""
    assert issubclass(runtimes.find(name), Runtime)


def test_an_unknown_runtime_names_the_nearest():
    """A runtime nobody registered is a settings error with the nearest name."""
    with pytest.raises(SettingsError, match="'xgboost'"):
        runtimes.find("xgbost")


@pytest.mark.parametrize("row", ["no_such_module_here:X", "headrace.runtimes.onnx:Nothing", "headrace.payload:Tensor"])
def test_a_row_that_leads_nowhere_fails(row):
    """A row whose module, class or kind is wrong fails the load and shows the row."""
    with pytest.raises(LoadFailed, match=row):
        runtimes.find("mine", {"mine": row})


def test_packages_add_rows(monkeypatch):
    """An installed package's entry point is a row beside ours; one that takes a name in use is refused."""

    def points(*, group):
        assert group == "headrace.runtimes"
        return (importlib.metadata.EntryPoint("mine", "a.b:C", group),)

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    merged = runtimes.with_entry_points()
    assert merged["mine"] == "a.b:C"
    assert set(runtimes.RUNTIMES) < set(merged)
    with pytest.raises(SettingsError, match=r"a\.b:C"):
        runtimes.with_entry_points({"mine": "other:D"})
