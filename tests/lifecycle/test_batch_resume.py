"""Jobs that are stopped: cancelled, failed, killed with -9 at any moment; and begun again. Ids are counted."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from headrace.errors import Conflict, InvalidRequest, RuntimeFailed
from headrace.lifecycle.batch import file
from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch.formats import registry
from headrace.lifecycle.batch.run import run
from headrace.payload import EMPTY, Signature, Tensor, TensorSpec

ROWS = 3000


class Double:
    """A model that doubles a column, and counts what it is asked."""

    name, version, digest = "double", "", "sha256:2"
    signature = Signature(
        platform="test",
        inputs=(TensorSpec(name="v", datatype="FP64", shape=(-1,)),),
        outputs=(TensorSpec(name="twice", datatype="FP64", shape=(-1,)),),
    )

    def __init__(self, *, fail_after=0):
        self.asked: Counter[int] = Counter()
        self.fail_after, self.lock = fail_after, threading.Lock()

    def predict(self, inputs, parameters=EMPTY, outputs=()):
        with self.lock:
            self.asked.update(inputs[0].data.astype(int).tolist())
            if self.fail_after and self.asked.total() > self.fail_after:
                raise RuntimeError("a model's bug that nobody foresaw")
        return [Tensor("twice", "FP64", inputs[0].data * 2)]

    def close(self):
        pass


def source(folder, kind):
    """A file of rows, of which every hundredth is bad."""
    path = folder / f"in.{kind}"
    values = ["?" if at % 100 == 50 else str(at) for at in range(ROWS)]
    table = pa.table({"id": list(range(ROWS)), "v": values, "more": ["x" * 60] * ROWS})  # so that text has many blocks
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=700)
        return path
    plain, _, compression = kind.partition(".")
    with path.open("wb") as file:
        writer = registry.open_writer(file, plain, compression)
        for batch in table.to_batches(1000):
            writer.write(batch)
        writer.close()
    return path


def job(path, output, **more):
    return Job(
        model="double",
        inputs=(str(path),),
        output=str(output),
        id_column="id",
        **{"batch_rows": 100, "threads": 2} | more,
    )


def check(output):
    """Each row is answered once or rejected once, in order, and the manifest says so."""
    found = pyarrow.parquet.read_table(output).to_pydict()
    assert [int(each) for each in found["id"]] == [at for at in range(ROWS) if at % 100 != 50]
    assert found["twice"] == [at * 2 for at in range(ROWS) if at % 100 != 50]
    rejects = [json.loads(line) for line in Path(f"{output}.rejects.jsonl").read_text().splitlines()]
    assert [each["row"] for each in rejects] == [at for at in range(ROWS) if at % 100 == 50]
    assert [each["id"] for each in rejects] == [str(each["row"]) for each in rejects]
    told = json.loads(Path(f"{output}.manifest.json").read_text())
    assert (told["rows"], told["answered"], told["rejected"]) == (ROWS, ROWS - ROWS // 100, ROWS // 100)
    assert sum(told["rejected_by_reason"].values()) == ROWS // 100
    return told


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz", "parquet", "arrow"])
def test_a_job_that_is_stopped_again_and_again_has_each_row_once(tmp_path, kind):
    """However often a job is cancelled, its rows are answered once each, and those of sealed parts are not asked again."""
    path, output, model = source(tmp_path, kind), tmp_path / "out.parquet", Double()
    turns = random.Random(kind)
    runs = 0
    while True:
        cancel, left = threading.Event(), [turns.randint(1, 12)]

        def heed(*_, cancel=cancel, left=left):
            left[0] -= 1
            if not left[0]:
                cancel.set()

        outcome = run(
            job(path, output),
            open_predictor=lambda _: model,
            state=tmp_path / "state",
            report=heed,
            cancel=cancel,
            seal_seconds=0,
        )
        runs += 1
        if not outcome.interrupted:
            break
        assert not output.exists()
        assert runs < 100
    told = check(output)
    assert 0 < told["resumed_rows"] <= ROWS
    assert outcome.resumed_rows == told["resumed_rows"]
    assert model.asked.total() < ROWS + runs * 100 * 2 * 8  # what was under way, and no more
    assert list((tmp_path / "state").iterdir()) == []
    assert not list(tmp_path.glob(".*"))


def test_a_job_that_failed_goes_on(tmp_path):
    """After a failure that is no row's, the same job goes on with what is left."""
    path, output = source(tmp_path, "csv"), tmp_path / "out.parquet"
    with pytest.raises(RuntimeError, match="nobody foresaw"):
        go(path, output, Double(fail_after=1500), tmp_path)
    model = Double()
    outcome = go(path, output, model, tmp_path)
    assert outcome.resumed_rows > 500
    assert model.asked.total() < ROWS - 500
    check(output)


def go(path, output, model, folder, **more):
    given_job = job(path, output, **{key: more.pop(key) for key in ("keep",) if key in more})
    return run(given_job, open_predictor=lambda _: model, state=folder / "state", seal_seconds=0, **more)


def half(tmp_path):
    path, output = source(tmp_path, "csv"), tmp_path / "out.parquet"
    with pytest.raises(RuntimeError):
        go(path, output, Double(fail_after=1500), tmp_path)
    return path, output


def test_what_has_changed_meanwhile_is_named(tmp_path):
    """A job that was begun on another input or model, or asked for something else, is not gone on with."""
    path, output = half(tmp_path)
    other = Double()
    other.digest = "sha256:3"
    with pytest.raises(Conflict, match=r"its model was sha256:2, is sha256:3.*--overwrite"):
        go(path, output, other, tmp_path)
    with pytest.raises(Conflict, match="its job was"):
        go(path, output, Double(), tmp_path, keep=("v",))
    with path.open("a") as file:
        file.write("3000,1,x\n")
    with pytest.raises(Conflict, match="its input was"):
        go(path, output, Double(), tmp_path)


def test_overwrite_begins_anew(tmp_path):
    """With overwrite, what was half done is forgotten."""
    path, output = half(tmp_path)
    model = Double()
    outcome = go(path, output, model, tmp_path, overwrite=True)
    assert outcome.resumed_rows == 0
    assert len(model.asked) == ROWS - ROWS // 100
    check(output)


def test_a_job_without_its_state_begins_anew(tmp_path):
    """Where the state was lost, the job is done from the start, and nothing stands twice."""
    path, output = half(tmp_path)
    shutil.rmtree(tmp_path / "state")
    assert go(path, output, Double(), tmp_path).resumed_rows == 0
    check(output)


def test_two_at_once_are_one_too_many(tmp_path):
    """While one process writes an output, another one that would is told so."""
    path, output = source(tmp_path, "csv"), tmp_path / "out.parquet"
    errors = []

    class Nested(Double):
        def predict(self, inputs, parameters=EMPTY, outputs=()):
            if not errors:
                try:
                    go(path, output, Double(), tmp_path)
                except Conflict as error:
                    errors.append(str(error))
            return super().predict(inputs, parameters, outputs)

    go(path, output, Nested(), tmp_path)
    assert "being written by another process" in errors[0]
    check(output)


def test_a_bad_row_that_ends_a_job_ends_it_again(tmp_path):
    """With `fail`, going on finds the same bad row, and loses none before it."""
    path, output = source(tmp_path, "csv"), tmp_path / "out.parquet"
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=r"row 50 \(line 52\)"):
            run(
                job(path, output, on_error="fail"),
                open_predictor=lambda _: Double(),
                state=tmp_path / "state",
                seal_seconds=0,
            )


KILLED = """
import sys
from pathlib import Path

import numpy as np

from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch import file
from headrace.lifecycle.batch.formats import registry
from headrace.lifecycle.batch.run import run
from headrace.payload import EMPTY, Signature, Tensor, TensorSpec


class Double:
    name, version, digest = "double", "", "sha256:2"
    signature = Signature(
        platform="test",
        inputs=(TensorSpec(name="v", datatype="FP64", shape=(-1,)),),
        outputs=(TensorSpec(name="twice", datatype="FP64", shape=(-1,)),),
    )

    def predict(self, inputs, parameters=EMPTY, outputs=()):
        return [Tensor("twice", "FP64", inputs[0].data * 2)]

    def close(self):
        pass


source, output, state = sys.argv[1:]
job = Job(model="double", inputs=(source,), output=output, id_column="id", batch_rows=100, threads=2)
print("open", flush=True)
outcome = run(
    job,
    open_predictor=lambda job: Double(),
    state=Path(state),
    report=lambda outcome, total: print(outcome.rows, outcome.resumed_rows, flush=True),
    seal_seconds=0,
)
print("done", outcome.resumed_rows, flush=True)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_job_killed_with_9_again_and_again_has_each_row_once(tmp_path, kind):
    """A process that is killed at any moment, again and again, leaves an output in which each row stands once."""
    path, output = source(tmp_path, kind), tmp_path / "out.parquet"
    command = [sys.executable, "-c", KILLED, str(path), str(output), str(tmp_path / "state")]
    turns = random.Random(kind)
    kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        left, said = turns.randint(1, 8) if kills < 3 else -1, ""
        try:
            for line in process.stdout:
                said = line
                left -= 1
                if not left:
                    process.send_signal(signal.SIGKILL)
        finally:
            process.stdout.close()
            code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert not Path(f"{output}.manifest.json").exists()
        kills += 1
    assert kills >= 1
    told = check(output)
    assert said.split() == ["done", str(told["resumed_rows"])]
    assert told["resumed_rows"] > 0
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [path.name, "out.parquet", "out.parquet.manifest.json", "out.parquet.rejects.jsonl", "state"]
    )


def test_the_moment_before_the_manifest_doubles_nothing(tmp_path, monkeypatch):
    """A job that ends between its output and its manifest is finished by the next run, with the same output."""
    path, output = source(tmp_path, "csv"), tmp_path / "out.parquet"
    real = file.manifest.render

    def torn(told):
        raise RuntimeFailed("the machine went away")

    monkeypatch.setattr(file.manifest, "render", torn)
    with pytest.raises(RuntimeFailed, match="went away"):
        go(path, output, Double(), tmp_path)
    assert output.exists()
    monkeypatch.setattr(file.manifest, "render", real)
    model = Double()
    assert go(path, output, model, tmp_path).resumed_rows == ROWS
    assert model.asked.total() == 0
    check(output)


def test_a_part_that_was_killed_before_its_seal_is_not_taken(tmp_path):
    """Answers and rejects that stand without an entry, as a kill within a seal leaves them, are never written."""
    path, output = source(tmp_path, "csv"), tmp_path / "out.parquet"
    stop = threading.Event()
    job_ = job(path, output)
    options = {"open_predictor": lambda _: Double(), "state": tmp_path / "state", "seal_seconds": 0}
    assert run(job_, cancel=stop, report=lambda outcome, _: stop.set(), **options).interrupted
    folder = next((tmp_path / "state").iterdir())
    number = len(list(folder.glob("*.json"))) - 1  # job.json is no entry
    shutil.copy(folder / "000000.arrow", folder / f"{number:06d}.arrow")
    (folder / f"{number:06d}.rejects").write_bytes(b'[{"file":"f","row":0,"reason":"of a part that never was"}]')
    assert run(job_, **options | {"seal_seconds": 1000}).rows == ROWS
    check(output)


def test_numbers_survive_going_on(tmp_path):
    """Answers that come from the log are bit for bit those that were given."""
    path, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    values = np.random.default_rng(0).standard_normal(ROWS)
    pyarrow.parquet.write_table(pa.table({"id": np.arange(ROWS), "v": values}), path)
    with pytest.raises(RuntimeError):
        go(path, output, Double(fail_after=2000), tmp_path)
    assert go(path, output, Double(), tmp_path).resumed_rows > 0
    np.testing.assert_array_equal(pyarrow.parquet.read_table(output)["twice"].to_numpy(), values * 2)
