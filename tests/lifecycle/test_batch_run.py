"""Batch jobs from end to end: what is written, what bad rows and failing models do, what is refused."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from headrace.artifacts.objects import expand
from headrace.errors import ArtifactCorrupt, ArtifactFailed, Conflict, InvalidRequest, Overloaded, RuntimeFailed
from headrace.lifecycle.batch import rows
from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch.file import run_file
from headrace.lifecycle.batch.formats import registry
from headrace.lifecycle.batch.run import run
from headrace.lifecycle.batch.sketch import sketch
from headrace.payload import EMPTY, Signature, Tensor, TensorSpec


class Sum:
    """A model that adds up two columns, refuses negative numbers, and can be away for some calls."""

    name, version, digest = "sum", "1", "sha256:1"

    def __init__(self, *, away=0, batchable=True, outputs=("sum",)):
        self.signature = Signature(
            platform="test",
            inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
            outputs=tuple(TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in outputs),
            batchable=batchable,
        )
        self.away, self.asked, self.closed = away, [], False
        self.lock = threading.Lock()

    def predict(self, inputs, parameters=EMPTY, outputs=()):
        (tensor,) = inputs
        with self.lock:
            self.asked.append(len(tensor.data))
            if self.away:
                self.away -= 1
                raise Overloaded("busy", retry_after_seconds=0.001)
        if (tensor.data < 0).any():
            raise InvalidRequest("input 'x' has negative numbers")
        return [Tensor(spec.name, "FP32", tensor.data.sum(1)) for spec in self.signature.outputs]

    def close(self):
        self.closed = True


def job(inputs, output, **more):
    return Job(model="sum", inputs=(str(inputs),), output=str(output), **{"batch_rows": 16, "threads": 2, **more})


def do(given_job, model=None, **more):
    model = model or Sum()
    return run(given_job, open_predictor=lambda _: model, **more)


def csv(path, count, *, bad=()):
    lines = [f"r{at},{'?' if at in bad else at},{2 * at}" for at in range(count)]
    path.write_text("\n".join(["id,a,b", *lines]) + "\n")
    return path


def lines(path):
    return path.read_text().splitlines()


def rejects(path):
    return [json.loads(line) for line in lines(Path(f"{path}.rejects.jsonl"))]


def manifest(path):
    return json.loads(Path(f"{path}.manifest.json").read_text())


def test_each_row_is_answered_in_its_order(tmp_path):
    """Every row of a file has its answer, in the file's order, with its id, and the manifest counts them."""
    outcome = do(job(csv(tmp_path / "in.csv", 1000), tmp_path / "out.csv", id_column="id"))
    assert (outcome.rows, outcome.answered, outcome.rejected, outcome.files) == (1000, 1000, 0, 1)
    assert lines(tmp_path / "out.csv") == ['"id","sum"', *(f'"r{at}",{3 * at}' for at in range(1000))]
    told = manifest(tmp_path / "out.csv")
    assert (told["rows"], told["answered"], told["rejected"], told["rejects"]) == (1000, 1000, 0, "")
    assert told["model"]["digest"] == "sha256:1"
    assert told["columns"] == {"x": ["a", "b"]}
    assert not Path(f"{tmp_path / 'out.csv'}.rejects.jsonl").exists()


def test_a_wrong_type_in_row_70_001_rejects_that_row_alone(tmp_path):
    """A word among seventy thousand numbers is rejected with file, row, line, id and reason; all others are answered."""
    path = csv(tmp_path / "in.csv", 70_010, bad={70_001})
    outcome = do(job(path, tmp_path / "out.parquet", id_column="id", batch_rows=4096))
    assert (outcome.answered, outcome.rejected) == (70_009, 1)
    (reject,) = rejects(tmp_path / "out.parquet")
    assert (reject["row"], reject["line"], reject["id"]) == (70_001, 70_003, "r70001")
    assert reject["reason"] == "column 'a': expected FP32, came '?'"
    assert reject["text"] == "r70001,?,140002"
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["id"] == [f"r{at}" for at in range(70_010) if at != 70_001]
    assert found["sum"] == [3 * at for at in range(70_010) if at != 70_001]


def test_rows_that_the_model_refuses_are_searched_out(tmp_path):
    """Of a batch that the model refuses, only the rows that it refuses alone are rejected."""
    bad = {3, 17, 18, 99}
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"x": [-1 if at in bad else at, 1]}) + "\n" for at in range(100)))
    do(job(path, tmp_path / "out.jsonl"))
    assert [reject["row"] for reject in rejects(tmp_path / "out.jsonl")] == sorted(bad)
    assert {reject["reason"] for reject in rejects(tmp_path / "out.jsonl")} == {"input 'x' has negative numbers"}
    found = [json.loads(line) for line in lines(tmp_path / "out.jsonl")]
    assert [each["row"] for each in found] == [at for at in range(100) if at not in bad]
    assert [each["sum"] for each in found] == [at + 1 for at in range(100) if at not in bad]


def test_faulty_lines_and_refused_rows_keep_their_numbers(tmp_path):
    """Rows that are no rows, values that do not fit and rows that are refused are told by their place in the file."""
    path = tmp_path / "in.csv"
    path.write_text(
        "a,b\n"
        + "".join(
            "1\n" if at % 50 == 7 else f"{-1 if at % 50 == 9 else at},{'x' if at % 50 == 8 else 1}\n"
            for at in range(400)
        )
    )
    do(job(path, tmp_path / "out.csv", batch_rows=7))
    told = rejects(tmp_path / "out.csv")
    assert [each["row"] for each in told] == [at for at in range(400) if at % 50 in {7, 8, 9}]
    assert all(each["line"] == each["row"] + 2 for each in told)
    found = [line.split(",") for line in lines(tmp_path / "out.csv")[1:]]
    assert [int(number) for number, _ in found] == [at for at in range(400) if at % 50 not in {7, 8, 9}]
    assert all(float(total) == int(number) + 1 for number, total in found)
    assert sum(manifest(tmp_path / "out.csv")["rejected_by_reason"].values()) == 24


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        pytest.param("in.csv", b"id,a,b\nr0,1,2\nr1\nr2,1,2,3\nr3,1,2\n", ["r1", "r2"], id="fields"),
        pytest.param("in.csv", b"a,id,b\n1,r0,2\n1,r1\n1,2,r2,3\n1,r3,2\n", ["r1", ""], id="fields, id within"),
        pytest.param("in.csv", b"id,a,b\nr0,1,2\nr1,\xff,2\nr2,1,2\n", ["r1"], id="no text"),
        pytest.param(
            "in.jsonl", b'{"id":"r","a":1,"b":2}\n' * 2 + b'{"id":"r1","a":"?","b":2}\n[1]\n', ["r1", ""], id="JSON"
        ),
    ],
)
def test_each_reject_is_named(tmp_path, name, text, ids):
    """Each reject has file, row and line, and the id wherever it can be read, in rows that are none as well."""
    (tmp_path / name).write_bytes(text)
    do(job(tmp_path / name, tmp_path / "out.jsonl", id_column="id", columns={"x": ("a", "b")}))
    told = rejects(tmp_path / "out.jsonl")
    assert [each.get("id", "") for each in told] == ids
    originals = text.decode(errors="replace").splitlines()
    assert [originals[each["line"] - 1] for each in told] == [each["text"] for each in told]
    assert [each["row"] for each in told] == [each["line"] - 1 - name.endswith("csv") for each in told]
    assert {each["file"] for each in told} == {f"{tmp_path}/{name}"}


def test_a_busy_server_is_asked_again(tmp_path):
    """Errors that may heal reject nothing: the batch is asked again."""
    model = Sum(away=2)
    outcome = do(job(csv(tmp_path / "in.csv", 50), tmp_path / "out.csv", id_column="id"), model)
    assert (outcome.answered, outcome.rejected) == (50, 0)


def test_a_model_that_takes_rows_alone_is_asked_so(tmp_path):
    """A model whose rows depend on one another gets one row a request."""
    model = Sum(batchable=False)
    do(job(csv(tmp_path / "in.csv", 40), tmp_path / "out.csv", id_column="id"), model)
    assert set(model.asked) == {1}


def test_a_model_that_refuses_all_ends_the_job(tmp_path):
    """Where no row that is tried is answered, the job ends with the reason instead of a file of rejects."""
    path = tmp_path / "in.csv"
    path.write_text("a,b\n" + "-1,1\n" * 500)
    with pytest.raises(
        InvalidRequest, match="none of 16 rows that were tried alone is answered: input 'x' has negative"
    ):
        do(job(path, tmp_path / "out.csv", batch_rows=100))
    assert not (tmp_path / "out.csv").exists()


def test_columns_that_hold_no_numbers_end_the_job(tmp_path):
    """Where nothing in the first block can be read, the job ends with the reason: it is not the rows."""
    path = tmp_path / "in.csv"
    path.write_text("a,b\n" + "x,y\n" * 500)
    with pytest.raises(
        InvalidRequest, match=r"none of the first 500 rows .* row 0 \(line 2\): column 'a': expected FP32"
    ):
        do(job(path, tmp_path / "out.csv"))


def test_on_error_fail_ends_at_the_first_bad_row(tmp_path):
    """With `fail`, the first bad row of the file ends the job, and nothing is at the output."""
    with pytest.raises(InvalidRequest, match=r"in.csv, row 33 \(line 35\): column 'a'"):
        do(job(csv(tmp_path / "in.csv", 100, bad={33, 50}), tmp_path / "out.csv", id_column="id", on_error="fail"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.csv"]


def test_too_many_rejects_end_the_job(tmp_path):
    """More bad rows than the bound end the job; as many do not."""
    path = csv(tmp_path / "in.csv", 100, bad={1, 2, 3})
    with pytest.raises(InvalidRequest, match="more than 2 rows are bad"):
        do(job(path, tmp_path / "out.csv", id_column="id", max_rejects=2))
    assert do(job(path, tmp_path / "out.csv", id_column="id", max_rejects=3)).rejected == 3


def test_a_model_that_answers_other_rows_ends_the_job(tmp_path):
    """A model that answers with another number of rows is not trusted with any."""

    class Short(Sum):
        def predict(self, inputs, parameters=EMPTY, outputs=()):
            return [Tensor("sum", "FP32", np.zeros(1, np.float32))]

    with pytest.raises(rows.ContractBroken, match=r"output 'sum' of model 'sum' has shape \[1\] for"):
        do(job(csv(tmp_path / "in.csv", 30), tmp_path / "out.csv", id_column="id"), Short())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_formats_answer_alike(tmp_path, suffix):
    """The same rows have the same answers, whatever format they are in."""
    batch = pa.table({"a": [float(at) for at in range(300)], "b": [1.0] * 300})
    path = tmp_path / f"in.{suffix}"
    with path.open("wb") as file:
        writer = registry.open_writer(file, suffix)
        for each in batch.to_batches():
            writer.write(each)
        writer.close()
    do(job(path, tmp_path / "out.parquet"))
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found == {"row": list(range(300)), "sum": [at + 1.0 for at in range(300)]}


def test_kept_columns_stand_beside_the_answers(tmp_path):
    """Kept columns stand between id and answers, as they were; one that has an output's name gets another."""
    path = tmp_path / "in.csv"
    path.write_text("a,b,sum,id\n007,1,old,k\n")
    do(job(path, tmp_path / "out.csv", keep=("a", "sum"), id_column="id", columns={"x": ("a", "b")}))
    assert lines(tmp_path / "out.csv") == ['"id","a","input_sum","sum"', '"k","007","old",8']


def test_limit_is_of_all_files_together(tmp_path):
    """A job with a limit answers the first rows of its files in order, and no more."""
    (tmp_path / "in").mkdir()
    csv(tmp_path / "in" / "a.csv", 30)
    csv(tmp_path / "in" / "b.csv", 30)
    outcome = do(job(tmp_path / "in", tmp_path / "out", id_column="id", limit=40))
    assert outcome.rows == 40
    assert len(lines(tmp_path / "out" / "a.csv")) == 31
    assert lines(tmp_path / "out" / "b.csv")[-1].startswith('"r9"')


def test_a_folder_becomes_a_folder(tmp_path):
    """Each file of a folder gets an output of its own at its own place, hidden ones and those of jobs left out."""
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    csv(source / "a.csv", 3)
    csv(source / "deep" / "b.csv", 4)
    for name in ("_SUCCESS", ".hidden.csv", "old.csv.rejects.jsonl", "old.csv.manifest.json"):
        (source / name).write_text("x")
    outcome = do(job(source, source / "out", id_column="id", output_format="jsonl"))
    assert (outcome.files, outcome.rows) == (2, 7)
    again = do(job(source, source / "out", id_column="id", output_format="jsonl"))
    assert (again.files, again.finished_before) == (2, 2)
    found = sorted(str(each.relative_to(source / "out")) for each in (source / "out").rglob("*.jsonl"))
    assert found == ["a.jsonl", "deep/b.jsonl"]


def test_small_files_are_done_side_by_side(tmp_path):
    """Small files of a folder are asked at the same time, and are reported and told of in their order."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        csv(tmp_path / "in" / f"{number:02}.csv", 10 + number)
    together, reports = threading.Barrier(2), []

    class Paired(Sum):
        def predict(self, inputs, parameters=EMPTY, outputs=()):
            together.wait(60)  # for a batch of another file
            return super().predict(inputs, parameters, outputs)

    asked = job(tmp_path / "in", tmp_path / "out", id_column="id", batch_rows=100)
    outcome = do(asked, Paired(), report=lambda done, _: reports.append(done.rows))
    assert [Path(name).name for name in outcome.outputs[::2]] == [f"{number:02}.csv" for number in range(12)]
    assert reports == [sum(10 + each for each in range(number + 1)) for number in range(12)]
    assert lines(tmp_path / "out" / "11.csv") == ['"id","sum"', *(f'"r{at}",{3 * at}' for at in range(21))]


def test_two_inputs_of_one_output_are_refused(tmp_path):
    """Two files of one name from two folders would overwrite each other: the job is refused before anything is read."""
    for name in ("p", "q"):
        (tmp_path / name).mkdir()
        csv(tmp_path / name / "a.csv", 1)
    both = Job(model="m", inputs=(str(tmp_path / "p"), str(tmp_path / "q")), output=str(tmp_path / "out"))
    with pytest.raises(InvalidRequest, match="2 inputs have one output"):
        do(both)


def test_a_file_without_rows_has_an_output_without_rows(tmp_path):
    """A header alone is no error: the output has columns and no rows."""
    outcome = do(job(csv(tmp_path / "in.csv", 0), tmp_path / "out.parquet", id_column="id"))
    assert outcome.rows == 0
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").schema.names == ["id", "sum"]


# -- again --


def test_a_job_that_is_done_is_not_done_again(tmp_path):
    """The same job again asks nothing and says so; with overwrite it is done anew."""
    given_job = job(csv(tmp_path / "in.csv", 20), tmp_path / "out.csv", id_column="id")
    do(given_job)
    model = Sum()
    outcome = do(msgspec.structs.replace(given_job, threads=1, batch_rows=3), model)
    assert (outcome.finished_before, outcome.rows, model.asked, model.closed) == (1, 20, [], True)
    assert do(given_job, model, overwrite=True).finished_before == 0
    assert sum(model.asked) == 20


def test_the_output_of_another_job_is_not_overwritten(tmp_path):
    """An output of another input, model or mapping is refused with what is different, and stays as it is."""
    path = csv(tmp_path / "in.csv", 20)
    do(job(path, tmp_path / "out.csv", id_column="id"))
    before = (tmp_path / "out.csv").read_bytes()
    csv(path, 21)
    with pytest.raises(Conflict, match=r"from another job .*its input was .*--overwrite"):
        do(job(path, tmp_path / "out.csv", id_column="id"))
    assert (tmp_path / "out.csv").read_bytes() == before


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    """A file at the output that no job has written is refused, before the first row is asked."""
    (tmp_path / "out.csv").write_text("mine")
    model = Sum()
    with pytest.raises(Conflict, match="no manifest says"):
        do(job(csv(tmp_path / "in.csv", 20), tmp_path / "out.csv", id_column="id"), model, state=tmp_path / "state")
    with pytest.raises(Conflict, match="no manifest says"):
        do(job(tmp_path / "in.csv", tmp_path / "out.csv", id_column="id"), model, state=tmp_path / "state")
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert model.asked == []


def test_an_output_that_cannot_be_written_is_said_first(tmp_path):
    """Where nothing can be written, no row is asked."""
    (tmp_path / "file").write_text("")
    model = Sum()
    with pytest.raises(ArtifactFailed, match="file"):
        do(job(csv(tmp_path / "in.csv", 20), tmp_path / "file" / "out.csv", id_column="id"), model)
    assert model.asked == []


def test_a_file_that_changes_while_it_is_read_is_no_answer(tmp_path):
    """A file that is written while the job reads it ends the job, and nothing is at the output."""
    path = csv(tmp_path / "in.csv", 2000)

    class Meddling(Sum):
        def predict(self, inputs, parameters=EMPTY, outputs=()):
            with path.open("a") as file:
                file.write("x,1,1\n")
            return super().predict(inputs, parameters, outputs)

    with pytest.raises(ArtifactCorrupt, match="chang"):
        do(job(path, tmp_path / "out.csv", id_column="id"), Meddling())
    assert not (tmp_path / "out.csv").exists()


def test_one_file_is_done_as_watchers_do_it(tmp_path):
    """`run_file` does one object to one output, and leaves the model open."""
    (info,) = expand(str(csv(tmp_path / "in.csv", 20)))
    model = Sum()
    outcome = run_file(job("", "", id_column="id"), info, str(tmp_path / "o" / "x.jsonl"), model)
    assert (outcome.answered, model.closed) == (20, False)
    assert len(lines(tmp_path / "o" / "x.jsonl")) == 20


def test_a_sketch_writes_nothing(tmp_path):
    """What a job would do is told with the answers to the first rows, and nothing is written."""
    path = csv(tmp_path / "in.csv", 20, bad={1})
    told = sketch(job(path, tmp_path / "out.csv", id_column="id"), open_predictor=lambda _: Sum())
    assert told.answers == {"id": "string", "sum": "float"}
    assert [row["sum"] for row in told.sample] == [0, 6, 9, 12]
    assert [reject.row for reject in told.rejects] == [1]
    assert [each.name for each in tmp_path.iterdir()] == ["in.csv"]


def test_columns_are_known_before_rows_are(tmp_path):
    """The columns of the answers are those that the model declares, and those that it then gives."""
    batch = pa.RecordBatch.from_pydict({"a": ["1", "2"], "b": ["3", "x"]})
    told = rows.schema(batch, job("", ""), Sum())
    answered, bad = rows.answer(batch, job("", ""), Sum(), first_row=100)
    assert answered.schema.equals(told)
    assert answered.to_pydict() == {"row": [100], "sum": [4.0]}
    assert [reject.row for reject in bad] == [101]


def test_a_failing_model_is_no_bad_row(tmp_path):
    """A model that fails on each row ends the job as its own failure."""

    class Broken(Sum):
        def predict(self, inputs, parameters=EMPTY, outputs=()):
            raise RuntimeFailed("out of order")

    with pytest.raises(RuntimeFailed, match=r"none of 16 rows .*out of order"):
        do(job(csv(tmp_path / "in.csv", 100), tmp_path / "out.csv", id_column="id", batch_rows=100), Broken())


PEAK = """
import resource, sys
from pathlib import Path
from headrace.lifecycle.batch.run import run
from tests.lifecycle.test_batch_run import Sum, job

source, output = map(Path, sys.argv[1:])
given_job = job(source, output, id_column="id", batch_rows=16_384)
outcome = run(given_job, open_predictor=lambda _: Sum(), state=output.with_suffix(".state"))
print(outcome.answered, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_that_of_a_small_file(tmp_path):
    """Twenty times the rows, in row groups of the same size, take no more memory, but for what is noise."""
    count = 100_000
    random = np.random.default_rng(0)
    table = pa.table({"id": np.arange(count), **{name: random.random(count, np.float32) for name in "ab"}})
    peaks = []
    for times in (1, 20):
        path = tmp_path / f"{times}.parquet"
        with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
            for _ in range(times):
                writer.write_table(table, row_group_size=count // 2)
        command = [sys.executable, "-c", PEAK, str(path), str(path.with_suffix(".out.parquet"))]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        answered, peak = map(int, done.stdout.split())
        assert answered == count * times
        peaks.append(peak)
    assert peaks[1] < 1.5 * peaks[0], peaks  # allocators keep what threads have freed, now more, now less
