"""What `headrace predict --data` reads. Matrix: kind of file x form of the rows; wrong ones each with their reason."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from headrace.cli import predict
from headrace.errors import InvalidRequest
from headrace.payload import TensorSpec

ROWS = [[1.0, 2.0], [3.0, 4.5]]
COLUMNS = {"a": [1, 3], "b": [2.0, 4.5]}


def npy(value):
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def npz(**values):
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def parquet():
    buffer = io.BytesIO()
    pd.DataFrame(COLUMNS).to_parquet(buffer)
    return buffer.getvalue()


V2 = {"inputs": [{"name": "a", "datatype": "INT64", "shape": [2], "data": [1, 3]}]}

MATRICES = {
    "rows.json": json.dumps(ROWS).encode(),
    "v1.json": json.dumps({"instances": ROWS}).encode(),
    "rows.jsonl": b"[1.0, 2.0]\n\n[3.0, 4.5]\n",
    "rows.csv": b"1,2\n3,4.5\n",
    "rows.npy": npy(np.array(ROWS)),
}
TABLES = {
    "objects.json": json.dumps([{"a": 1, "b": 2.0}, {"a": 3, "b": 4.5}]).encode(),
    "v1-objects.json": json.dumps({"instances": [{"a": 1, "b": 2.0}, {"a": 3, "b": 4.5}]}).encode(),
    "columns.json": json.dumps(COLUMNS).encode(),
    "frame.json": b'{"a": {"0": 1, "1": 3}, "b": {"0": 2.0, "1": 4.5}}',
    "objects.jsonl": b'{"a": 1, "b": 2.0}\n{"b": 4.5, "a": 3}\n',
    "head.csv": b"\xef\xbb\xbfa,b\n1,2\n3,4.5\n",
    "named.npz": npz(a=np.array([1, 3]), b=np.array([2.0, 4.5])),
    "table.parquet": parquet(),
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrices(tmp_path, name):
    """Rows of numbers become one array, by file or by standard input's first bytes."""
    (tmp_path / name).write_bytes(MATRICES[name])
    np.testing.assert_array_equal(predict.read(str(tmp_path / name)), ROWS)


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    """Rows with names become columns by name."""
    (tmp_path / name).write_bytes(TABLES[name])
    read = predict.read(str(tmp_path / name))
    assert {str(column): list(read[column]) for column in read} == COLUMNS


STREAMS = [*MATRICES.keys() - {"rows.jsonl"}, "head.csv", "table.parquet", "named.npz"]  # lines of JSON have no mark


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_standard_input(monkeypatch, name):
    """Standard input is told apart by its first bytes."""
    content = (MATRICES | TABLES)[name]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    read = predict.read("-")
    if name in MATRICES:
        np.testing.assert_array_equal(read, ROWS)
    else:
        assert {str(column): list(read[column]) for column in read} == COLUMNS


def test_v2_request(tmp_path):
    """The body of a V2 request becomes its inputs, in their datatypes and shapes."""
    (tmp_path / "request.json").write_text(json.dumps(V2))
    read = predict.read(str(tmp_path / "request.json"))
    assert read["a"].dtype == np.int64
    assert read["a"].tolist() == [1, 3]


def test_csv_kinds(tmp_path):
    """A CSV column is whole numbers, numbers with NaN for empty cells, or text."""
    (tmp_path / "x.csv").write_text("n,f,t\n1,,a\n-2,0.5,\n")
    read = predict.read(str(tmp_path / "x.csv"))
    assert [read[name].dtype.kind for name in "nft"] == ["i", "f", "U"]
    assert np.isnan(read["f"][0])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.json", b"{", "is not what a .json file should be"),
        ("x.json", b'[{"a": 1}, {"b": 1}]', "every row should have the columns a"),
        ("x.json", b'{"inputs": [{"name": "a", "datatype": "FP99", "data": [], "shape": [0]}]}', "FP99"),
        ("x.csv", b"", "it has no rows"),
        ("x.csv", b"a,b\n1\n", "row 2 has 1 columns, the first has 2"),
        ("x.npy", b"\x93NUMPY", "is not what a .npy file should be"),
        ("x.npy", npy(np.array([{}], dtype=object)), "is not what a .npy file should be"),
        ("x.xls", b"", "expected one of .json"),
    ],
)
def test_files_that_are_wrong(tmp_path, name, content, expected):
    """A file that is not what its name says is refused with its name and the reason; pickles inside .npy never load."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=name) as caught:
        predict.read(str(tmp_path / name))
    assert expected in str(caught.value)


def test_file_that_is_not_there(tmp_path):
    """A file that is not there is refused with its name."""
    with pytest.raises(InvalidRequest, match=r"none\.csv: No such file"):
        predict.read(str(tmp_path / "none.csv"))


def spec(name, **rest):
    return TensorSpec(name=name, datatype="FP64", shape=(-1, 2), **rest)


def test_columns_into_one_matrix():
    """Columns for a model of one input of another name become the columns of that input."""
    columns = {name: np.array(values) for name, values in COLUMNS.items()}
    np.testing.assert_array_equal(predict.fit(columns, [spec("x")]), ROWS)


def test_columns_by_name():
    """Columns for a model of an input per column go by name; columns it does not know stay home."""
    columns = {name: np.array(values) for name, values in COLUMNS.items()}
    assert set(predict.fit(columns | {"c": np.zeros(2)}, [spec("a"), spec("b"), spec("o", optional=True)])) == {
        "a",
        "b",
    }


def test_columns_that_are_missing():
    """A declared input that no column has is named."""
    with pytest.raises(InvalidRequest, match="inputs z are not among the columns a"):
        predict.fit({"a": np.zeros(1)}, [spec("a"), spec("z")])
