"""Training data in its many forms."""

from __future__ import annotations

import datetime as dt
import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import InvalidRequest
from headrace.trust import table

FRAME = pd.DataFrame({"age": [1, 2, 3], "pay": [1.5, np.nan, 2.0], "sex": ["f", None, "m"], "ok": [True, False, True]})


def check(found):
    assert found.columns["age"].tolist() == [1, 2, 3]
    assert np.array_equal(found.columns["pay"], [1.5, np.nan, 2.0], equal_nan=True)
    assert found.columns["sex"].tolist() == ["f", None, "m"]
    assert found.columns["ok"].dtype == np.bool_
    assert len(found) == 3


class TestFiles:
    @pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.parquet", "t.jsonl", "t.arrow", "t.feather"])
    def test_reads_the_same_from_every_form(self, tmp_path, name):
        """Numbers, missing values, text and booleans come the same from every kind of file."""
        path = tmp_path / name
        arrow = pa.Table.from_pandas(FRAME)
        if name.endswith((".csv", ".csv.gz")):
            text = FRAME.to_csv(index=False).encode()
            path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
        elif name.endswith(".tsv"):
            FRAME.to_csv(path, index=False, sep="\t")
        elif name.endswith(".parquet"):
            pq.write_table(arrow, path)
        elif name.endswith(".jsonl"):
            FRAME.to_json(path, orient="records", lines=True)
        else:
            kind = pa.ipc.new_file if name.endswith(".feather") else pa.ipc.new_stream
            with path.open("wb") as file, kind(file, arrow.schema) as writer:
                writer.write_table(arrow)
        found = table.read(path)
        check(found)
        assert found.source == name
        assert found.digest() == table.of(FRAME).digest() or name != "t.parquet"

    def test_reads_numpy(self, tmp_path):
        """A matrix or images come as a block, labels beside them as labels, several vectors as columns."""
        np.save(tmp_path / "a.npy", np.ones((4, 2, 2), np.uint8))
        assert table.read(tmp_path / "a.npy").block.shape == (4, 2, 2)
        np.savez(tmp_path / "b.npz", X=np.ones((4, 2)), y=np.array(["a", "b", "a", "b"]))
        found = table.read(tmp_path / "b.npz")
        assert found.block.shape == (4, 2)
        assert found.labels.tolist() == ["a", "b", "a", "b"]
        np.savez(tmp_path / "c.npz", age=np.arange(3), sex=np.array(["f", "m", "f"]))
        assert table.read(tmp_path / "c.npz").columns["sex"].tolist() == ["f", "m", "f"]

    def test_leaves_out_the_index(self, tmp_path):
        """The index that pandas writes beside the columns is none of them."""
        FRAME.iloc[[2, 0, 1]].to_parquet(tmp_path / "i.parquet")
        assert list(table.read(tmp_path / "i.parquet").columns) == list(FRAME)

    def test_reads_categories_and_lists(self, tmp_path):
        """A dictionary column tells all its categories, and a column of lists of one length is a block."""
        frame = pd.DataFrame({"c": pd.Categorical(["b", "a"], categories=["a", "b", "z"])})
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / "c.parquet")
        assert table.read(tmp_path / "c.parquet").categories == {"c": ("a", "b", "z")}
        pq.write_table(pa.table({"image": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "i.parquet")
        assert table.read(tmp_path / "i.parquet").block.tolist() == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv.*Row #3"),
            ("a.jsonl", b'{"a": 1}\n{"a": "x"}\n', r"a\.jsonl.*/a.*row 1"),
            ("a.parquet", b"PAR1 and no more", r"a\.parquet"),
            ("a.npz", b"PK", r"a\.npz"),
            ("a.txt", b"1", "suffix '.txt'"),
            ("a.csv", b"a,b\n", "no rows"),
            ("a.csv", b"a,a\n1,2\n", "two columns"),
        ],
    )
    def test_says_where_a_file_is_wrong(self, tmp_path, name, content, message):
        """A file that is no table is refused by its name, and the row and column where they are known."""
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidRequest, match=message):
            table.read(tmp_path / name)

    def test_refuses_what_is_no_value(self, tmp_path):
        """A column of dates is refused with what to do, and objects in numpy's files are never loaded."""
        pq.write_table(pa.table({"day": [dt.date(2020, 1, 1)]}), tmp_path / "d.parquet")
        with pytest.raises(InvalidRequest, match=r"'day'.*dates"):
            table.read(tmp_path / "d.parquet")
        np.save(tmp_path / "o.npy", np.array([{}], object))
        with pytest.raises(InvalidRequest, match="cannot be read"):
            table.read(tmp_path / "o.npy")
        with pytest.raises(InvalidRequest, match="no such file"):
            table.read(tmp_path / "none.csv")


class TestMemory:
    def test_takes_what_a_person_has(self):
        """DataFrames, arrays, mappings and texts become tables."""
        check(table.of(FRAME))
        check(table.of({name: FRAME[name].to_numpy() for name in FRAME}))
        assert table.of(np.ones((2, 3))).block.shape == (2, 3)
        assert table.of([[1, 2], [3, 4]]).block.tolist() == [[1, 2], [3, 4]]
        assert table.of(["a", "b"]).columns["text"].tolist() == ["a", "b"]
        assert table.of(np.array([["a", 1]], object)).columns["x1"].tolist() == [1]

    def test_takes_frames_of_every_type(self):
        """Nullable and category columns come as numbers and objects; dates are refused by name."""
        frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "c": pd.Categorical([3, 1]), "b": [True, None]})
        found = table.of(frame)
        assert np.array_equal(found.columns["a"], [1, np.nan], equal_nan=True)
        assert found.columns["c"].tolist() == [3, 1]
        assert found.categories["c"] == (1, 3)
        assert found.columns["b"].tolist() == [True, None]
        with pytest.raises(InvalidRequest, match=r"'t'.*dates"):
            table.of(pd.DataFrame({"t": pd.to_datetime(["2020-01-01"])}))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ([], "no rows"),
            ({"a": [1, 2], "b": [1]}, "different numbers of rows"),
            ({"a": [{}]}, "'a', row 0: dict"),
            ([[1], [1, 2]], "different lengths"),
        ],
    )
    def test_refuses_what_is_no_table(self, data, message):
        """Nothing, ragged rows and objects are refused."""
        with pytest.raises(InvalidRequest, match=message):
            table.of(data)

    def test_tells_changed_data(self):
        """One changed value changes the digest, and the order of equal bytes in other columns does, too."""
        digest = table.of(FRAME).digest()
        assert table.of(FRAME.assign(age=[1, 2, 4])).digest() != digest
        assert table.of(FRAME.rename(columns={"age": "Age"})).digest() != digest
        assert table.of(FRAME.copy()).digest() == digest
