"""Files of rows: each format read in pieces, from any place on, and written again."""

import bz2
import csv
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ArtifactCorrupt, InvalidRequest, NotSupported
from headrace.lifecycle.batch.formats import registry, text

FORMATS = ["csv", "jsonl", "parquet", "arrow"]


def table(rows):
    return pa.RecordBatch.from_pydict({"id": [str(at) for at in range(rows)], "v": [at / 2 for at in range(rows)]})


def written(kind, *batches, compression=""):
    file = io.BytesIO()
    writer = registry.open_writer(file, kind, compression)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return file.getvalue()


def opened(data, name, wanted="auto", names=None, texts=frozenset()):
    reader = registry.open_reader(io.BytesIO(data), name, wanted)
    reader.want(frozenset(names or reader.schema.names), texts)
    return reader


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_file_without_a_header_has_the_names_that_are_given(rows):
    """With names given the first line of a CSV file is a row, the one with line 1, and a line with other fields is not."""
    reader = registry.open_reader(
        io.BytesIO(b"\xef\xbb\xbf39, Private\n50, ?\n7\n"), "adult.data", names=("age", "class")
    )
    assert (reader.schema.names, reader.header_lines) == (["age", "class"], 0)
    (block,) = reader.blocks(0, rows=rows)
    told = block.parse()
    assert told.rows.to_pylist() == [{"age": "39", "class": " Private"}, {"age": "50", "class": " ?"}]
    assert [fault.row for fault in told.faults] == [2]
    assert block.originals()[0] == (1, "39, Private")
    with pytest.raises(InvalidRequest, match="expected rows"):
        registry.open_reader(io.BytesIO(b""), "adult.data", "csv", names=("age",))


def rows_of(blocks):
    return [row for block in blocks for row in block.parse().rows.to_pylist()]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_read_again(kind):
    """Rows come back as they were written, in order, whatever number of them is read at once."""
    data = written(kind, table(500).slice(0, 200), table(500).slice(200))
    found = rows_of(opened(data, f"x.{kind}").blocks(0, rows=37))
    assert [str(row["id"]) for row in found] == [str(at) for at in range(500)]
    assert [float(row["v"]) for row in found] == [at / 2 for at in range(500)]


@pytest.mark.parametrize("kind", FORMATS)
def test_reading_goes_on_at_the_end_of_any_block(kind):
    """From where a block ended, exactly the rows behind it are read."""
    data = written(kind, *(table(30_000).slice(at, 3000) for at in range(0, 30_000, 3000)))
    whole = [(block.end, block.parse().count) for block in opened(data, f"x.{kind}").blocks(0, rows=1000)]
    assert len(whole) > 3
    done = 0
    for end, _ in whole[: len(whole) - 1 : 3] + whole[-1:]:
        done = sum(each for other, each in whole if other <= end)
        found = rows_of(opened(data, f"x.{kind}").blocks(end, rows=777))
        assert [str(row["id"]) for row in found[:1]] == ([str(done)] if done < 30_000 else [])
        assert len(found) == 30_000 - done


def test_a_stream_of_arrow_is_read_and_gone_on_with():
    """Arrow's stream format is told from its file format, and read from a row on."""
    out = io.BytesIO()
    with pyarrow.ipc.new_stream(out, table(1).schema) as stream:
        for at in range(0, 100, 25):
            stream.write_batch(table(100).slice(at, 25))
    found = rows_of(opened(out.getvalue(), "x.bin").blocks(60, rows=10))
    assert [row["id"] for row in found] == [str(at) for at in range(60, 100)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", None)])
def test_compressed_text_is_read_and_gone_on_with(kind, suffix, pack):
    """Text that is compressed is read like any, from any place on."""
    plain = written(kind, table(9000))
    data = pack(plain) if pack else written(kind, table(9000), compression="zst")
    name = f"x.{kind}.{suffix}"
    first = next(iter(opened(data, name).blocks(0, rows=100)))
    rest = rows_of(opened(data, name).blocks(first.end, rows=100))
    assert [str(row["id"]) for row in rest] == [str(at) for at in range(first.parse().count, 9000)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(("compression", "unpack"), [("gz", gzip.decompress), ("bz2", bz2.decompress)])
def test_text_is_compressed_by_the_name_of_the_output(kind, compression, unpack):
    """What is written compressed is the same text as what is not."""
    assert unpack(written(kind, table(50), compression=compression)) == written(kind, table(50))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_format_is_told_by_content_where_the_name_says_nothing(kind):
    """A file without a suffix is read as what it is."""
    assert opened(written(kind, table(3)), "part-0000").format == kind


# -- CSV --

FIELD = st.text(st.sampled_from('ab,;"\n\r 1é'), max_size=6)


@settings(deadline=None)
@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=30), st.integers(1, 40), st.booleans())
def test_csv_is_cut_where_rows_end(rows, size, crlf):
    """However many bytes are read at once, rows with quotes, commas and newlines in them come as a CSV parser has them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n" if crlf else "\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    reader = opened(out.getvalue().encode(), "x.csv")
    pieces = list(reader._text.pieces(reader._start, reader._cut, lambda: size))
    found = [row for piece, _, _ in pieces for row in reader.parse(piece).rows.to_pylist()]
    assert [(row["a"], row["b"]) for row in found] == rows
    assert sum(len(reader.originals(piece)) for piece, _, _ in pieces) == len(rows)


def test_quotes_within_a_field_are_no_quotes():
    """A quote in the middle of a field, as of inches, opens nothing."""
    data = b'id,size\n1,5" pipe\n2,"6"" pipe"\n3,x\n'
    reader = opened(data, "x.csv")
    pieces = [piece for piece, _, _ in reader._text.pieces(reader._start, reader._cut, lambda: 3)]
    assert len(pieces) > 1
    assert [row["size"] for piece in pieces for row in reader.parse(piece).rows.to_pylist()] == [
        '5" pipe',
        '6" pipe',
        "x",
    ]


def test_rows_of_another_number_of_fields_are_faulty_alone():
    """A row with too few or too many fields is told by its number, and its neighbours are read."""
    data = b'a,b\n1,2\n3\n\n"x\ny",5\n4,5,6\n7,8\n'
    block = next(iter(opened(data, "x.csv").blocks(0, rows=100)))
    found = block.parse()
    assert [row["b"] for row in found.rows.to_pylist()] == ["2", "5", "8"]
    assert [fault.row for fault in found.faults] == [1, 3]
    assert "expected 2 fields" in found.faults[0].reason
    assert "came 3" in found.faults[1].reason
    assert found.positions().tolist() == [0, 2, 4]
    assert [line for line, _ in block.originals()] == [1, 2, 4, 6, 7]


def test_what_is_no_utf8_makes_its_row_faulty_alone():
    """Bytes that are no UTF-8 text are told with their column, and the other rows are read."""
    data = b"a,b\n1,x\n2,\xff\xfe\n3,z\n"
    found = next(iter(opened(data, "x.csv").blocks(0, rows=100))).parse()
    assert [row["b"] for row in found.rows.to_pylist()] == ["x", "z"]
    assert [fault.row for fault in found.faults] == [1]
    assert "column 'b'" in found.faults[0].reason


def test_bom_and_other_delimiters_are_understood():
    """A byte order mark is no part of the first name, and semicolons separate where there are no commas."""
    reader = opened(b"\xef\xbb\xbfa;b\n1;2\n", "x.csv")
    assert rows_of(reader.blocks(0, rows=10)) == [{"a": "1", "b": "2"}]


def test_a_quote_that_is_never_closed_ends_the_job(monkeypatch):
    """A row that does not end within the bound is an error that says where it begins, not endless reading."""
    monkeypatch.setattr(text, "MAX_ROW_BYTES", 1 << 18)
    data = b'a,b\n1,2\n3,"' + b"x" * (1 << 20)
    with pytest.raises(InvalidRequest, match=r"byte 8 .*quote not closed"):
        list(opened(data, "x.csv").blocks(0, rows=100))


# -- JSON lines --


def test_lines_that_are_no_objects_are_faulty_alone():
    """A line that is no JSON object, and a value of another type, are told by row; the others are read."""
    lines = ['{"v": 1.5, "s": "a"}', "nonsense", '{"v": "x", "s": "b"}', "", '{"s": "c"}', "[1]"]
    block = next(iter(opened("\n".join([*lines, ""]).encode(), "x.jsonl").blocks(0, rows=100)))
    found = block.parse()
    assert found.rows.to_pylist() == [{"v": 1.5, "s": "a"}, {"v": None, "s": "c"}]
    assert [fault.row for fault in found.faults] == [1, 2, 4]
    assert [line for line, _ in block.originals()] == [1, 2, 3, 5, 6]


VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-1000, 1000))


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={"v": VALUES, "t": st.text(max_size=5)}), min_size=1, max_size=20))
def test_json_is_read_fast_as_it_is_read_slowly(rows):
    """Lines read all at once are the lines read one by one."""
    data = "\n".join(json.dumps({**row, "id": 1}) for row in rows).encode() + b"\n"
    reader = opened(data, "x.jsonl", texts=frozenset({"t"}))
    fast, slow = reader.parse(data), reader._line_by_line(data)
    assert fast.rows.to_pylist() == slow.rows.to_pylist()
    assert fast.faults == slow.faults == ()


def test_dates_in_json_stay_the_text_that_they_are():
    """Text that looks like a time is not taken for one."""
    reader = opened(b'{"when": "2026-01-02T03:04:05"}\n', "x.jsonl")
    assert rows_of(reader.blocks(0, rows=1)) == [{"when": "2026-01-02T03:04:05"}]


# -- what cannot be read --


@pytest.mark.parametrize(
    ("data", "name", "error", "said"),
    [
        pytest.param(b"", "x.csv", InvalidRequest, "is empty", id="empty CSV"),
        pytest.param(b"\n\n", "x.jsonl", InvalidRequest, "empty or no JSON lines", id="empty JSON lines"),
        pytest.param(b"PAR1 but no more", "x.parquet", InvalidRequest, "cannot be read as parquet", id="no Parquet"),
        pytest.param(b"ARROW1\0\0 torn", "x.arrow", InvalidRequest, "cannot be read as arrow", id="no Arrow"),
        pytest.param(gzip.compress(b"PAR1"), "x.parquet.gz", NotSupported, "compressed as a whole", id="compressed"),
    ],
)
def test_files_that_cannot_be_read_are_named(data, name, error, said):
    """A file that is not what its name says is an error with the name and what was expected."""
    with pytest.raises(error, match=f"{name}.*{said}"):
        opened(data, name)


def test_a_torn_compressed_file_is_corrupt():
    """A compressed file that breaks off is an error, not a short file."""
    data = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (at, at * 7919 % 1000) for at in range(50_000)))
    with pytest.raises(ArtifactCorrupt, match=r"x\.csv\.gz cannot be decompressed"):
        rows_of(opened(data[: len(data) // 2], "x.csv.gz").blocks(0, rows=1000))


# -- writing --


def test_lists_are_columns_in_csv_and_lists_elsewhere():
    """Of CSV, a list of k values is k columns; of the other formats, it is a list."""
    batch = pa.RecordBatch.from_pydict({"p": [[0.25, 0.75], [1.0, 0.0]]})
    assert written("csv", batch).decode().splitlines() == ['"p_0","p_1"', "0.25,0.75", "1,0"]
    assert json.loads(written("jsonl", batch).splitlines()[0]) == {"p": [0.25, 0.75]}
    assert pyarrow.parquet.read_table(io.BytesIO(written("parquet", batch))).to_pydict() == {
        "p": [[0.25, 0.75], [1.0, 0.0]]
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_an_output_without_rows_has_columns(kind):
    """What is written without a row can be read, where the format has names of columns."""
    data = written(kind, table(0))
    if kind == "jsonl":
        assert data == b""
    else:
        assert opened(data, f"x.{kind}").schema.names == ["id", "v"]


def test_numbers_that_are_none_are_null_in_json():
    """NaN has no form in JSON: it is null."""
    assert written("jsonl", pa.RecordBatch.from_pydict({"v": np.array([np.nan, 1.0])})) == b'{"v":null}\n{"v":1.0}\n'
