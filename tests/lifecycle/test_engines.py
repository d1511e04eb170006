"""Batch jobs in tasks. Matrix: each format x files that are one task or many; tasks done out of turn, twice, half, or
never; what changes between two runs; what ends a job. The engine here is a real one of one process, which does tasks as
badly as engines may; Spark and Ray have tests of their own.
"""

import gzip
import threading
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.lifecycle import engine_jobs
from tests.lifecycle.engine_jobs import OPENER, Here, a_job, driver, locally, outcomes, same

from headrace.artifacts import objects
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import Conflict, InvalidRequest, RuntimeFailed, SettingsError, Temporary
from headrace.lifecycle.batch.engines import base, work
from headrace.testing.brokers import free_port

BAD = (0, 5, 700, 701, 1999)


@pytest.fixture(autouse=True)
def model(tmp_path):
    """The model's folder."""
    (tmp_path / "model").mkdir()
    work._open.clear()
    yield tmp_path / "model"
    work._open.clear()


def on_engine(asked, engine=None, **options):
    engine = engine or Here()
    return base.run_on(engine, asked, opener=OPENER, **{"task_bytes": 5000, **options})


def written(tmp_path, kind, rows=2000, bad=BAD):
    name = f"in.{kind}"
    if kind == "csv.gz":
        engine_jobs.write_csv(tmp_path / "plain.csv", rows, bad)
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    else:
        getattr(engine_jobs, f"write_{kind}")(tmp_path / name, rows, bad)
    return name


@pytest.mark.parametrize(("kind", "tasks"), [("csv", 5), ("jsonl", 5), ("parquet", 4), ("csv.gz", 1)])
@pytest.mark.parametrize("id_column", ["", "id"])
def test_the_outputs_are_those_of_one_machine(tmp_path, kind, tasks, id_column):
    """Answers, rejects with their rows and lines, and the counts of the manifest are the local engine's, byte by byte."""
    name = written(tmp_path, kind)
    asked = a_job(tmp_path, name, f"there.{kind}", id_column=id_column)
    here = locally(asked, tmp_path / f"here.{kind}")
    engine = Here()
    there = on_engine(asked, engine)
    assert engine.done >= tasks
    same(tmp_path / f"there.{kind}", tmp_path / f"here.{kind}")
    assert (there.rows, there.answered, there.rejected) == (here.rows, here.answered, here.rejected)
    assert there.rejected == len(BAD)
    assert not list(tmp_path.glob("_*"))


@given(rows=st.integers(1, 60), task_bytes=st.integers(1, 600), batch=st.integers(1, 20))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_it_is_cut(tmp_path_factory, rows, task_bytes, batch):
    """However small the ranges of a file with quoted line breaks are, no row is lost, doubled or torn."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "model").mkdir()
    engine_jobs.write_csv(folder / "in.csv", rows, bad=(1, rows - 1))
    asked = a_job(folder, "in.csv", "there.csv", batch_rows=batch)
    try:
        locally(asked, folder / "here.csv")
    except InvalidRequest:
        with pytest.raises(InvalidRequest):
            on_engine(asked, task_bytes=task_bytes)
        return
    on_engine(asked, task_bytes=task_bytes)
    same(folder / "there.csv", folder / "here.csv")


def test_several_files(tmp_path):
    """Tasks of all files of a folder are done together, and each file has its own output."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        engine_jobs.write_parquet(tmp_path / "in" / f"{number}.parquet", 500 + number, bad=(number,))
    engine = Here()
    outcome = on_engine(a_job(tmp_path, "in", "there/"), engine)
    assert outcome.files == 3
    assert outcome.rows == 1503
    assert outcome.rejected == 3
    locally(a_job(tmp_path, "in", "there/"), tmp_path / "here/")
    for number in range(3):
        same(tmp_path / f"there/{number}.parquet", tmp_path / f"here/{number}.parquet")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "csv.gz"])
@pytest.mark.parametrize("limit", [1, 450, 501, 2000])
def test_a_limit_is_of_all_files_together(tmp_path, kind, limit):
    """With a limit, the first rows of the files are answered and no more, as on one machine, though tasks know nothing
    of one another; the same job again has nothing to do.
    """
    (tmp_path / "in").mkdir()
    for name in ("1", "2"):
        (tmp_path / written(tmp_path, kind, 500, (0, 5, 450))).rename(tmp_path / "in" / f"{name}.{kind}")
    asked = a_job(tmp_path, "in", "there/", limit=limit)
    here = locally(asked, tmp_path / "here/")
    there = on_engine(asked)
    assert (there.rows, there.rejected, there.files) == (here.rows, here.rejected, here.files)
    assert there.rows == min(limit, 1000)
    for each in (tmp_path / "here").glob(f"[12].{kind}"):
        same(tmp_path / "there" / each.name, each)
    assert on_engine(asked, engine := Here()).rows == there.rows
    assert engine.done == 0


def test_an_engine_that_dies(tmp_path):
    """A job whose engine dies goes on with the tasks that are left, and its output is as if nothing had happened."""
    name = written(tmp_path, "csv")
    asked = a_job(tmp_path, name, "there.csv")
    with pytest.raises(RuntimeFailed, match="gone"):
        on_engine(asked, Here(dies_after=4))
    assert not (tmp_path / "there.csv").exists()
    engine = Here()
    outcome = on_engine(asked, engine)
    assert 0 < outcome.resumed_rows < 2000
    locally(asked, tmp_path / "here.csv")
    same(tmp_path / "there.csv", tmp_path / "here.csv")
    again = Here()
    assert on_engine(asked, again).finished_before == 1
    assert again.done == 0


def test_a_driver_that_is_killed(tmp_path, model):
    """A job whose driver is killed goes on, when it is started again, with the tasks that were not done."""
    name = written(tmp_path, "csv")
    asked = a_job(tmp_path, name, "there.csv")
    killed = driver("here", [asked], 2000)
    try:
        deadline = time.monotonic() + 50
        while not any((tmp_path / "_there.csv.parts").glob("0*.json")):
            assert killed.poll() is None
            assert time.monotonic() < deadline
    finally:
        killed.kill()
        killed.communicate()
    (outcome,) = outcomes(driver("here", [asked], 2000), 50)
    assert outcome["rows"] == 2000
    assert outcome["resumed_rows"] > 0
    locally(asked, tmp_path / "here.csv")
    same(tmp_path / "there.csv", tmp_path / "here.csv")


def test_a_part_without_a_mark(tmp_path):
    """Answers of a task that never said that it was done are done again."""
    name = written(tmp_path, "parquet")
    asked = a_job(tmp_path, name, "there.parquet")
    with pytest.raises(RuntimeFailed):
        on_engine(asked, Here(dies_after=3))
    (mark, *_) = sorted((tmp_path / "_there.parquet.parts").glob("0*.json"))
    mark.unlink()
    mark.with_suffix(".arrow").write_bytes(b"half")
    engine = Here()
    on_engine(asked, engine)
    locally(asked, tmp_path / "here.parquet")
    same(tmp_path / "there.parquet", tmp_path / "here.parquet")


def test_what_changed_since(tmp_path):
    """A job that did not finish refuses to go on with another input, says what changed, and begins anew when told."""
    name = written(tmp_path, "csv")
    asked = a_job(tmp_path, name, "there.csv")
    with pytest.raises(RuntimeFailed):
        on_engine(asked, Here(dies_after=3))
    engine_jobs.write_csv(tmp_path / name, 1000)
    with pytest.raises(Conflict, match=r"input was .*--overwrite"):
        on_engine(asked)
    assert on_engine(asked, overwrite=True).rows == 1000
    with pytest.raises(Conflict, match="--overwrite"):
        on_engine(a_job(tmp_path, name, "there.csv", keep=()))


def test_stopping(tmp_path):
    """A job that is told to stop stops between tasks, says so, and goes on when it is started again."""
    name = written(tmp_path, "csv")
    asked = a_job(tmp_path, name, "there.csv")
    cancel = threading.Event()
    reports = []

    def report(outcome, total):
        reports.append((outcome.rows, outcome.bytes, total))
        if len(reports) == 3:
            cancel.set()

    outcome = on_engine(asked, report=report, cancel=cancel)
    assert outcome.interrupted
    assert reports[0][0] < reports[2][0] == outcome.rows < 2000
    assert 0 < reports[2][1] < reports[2][2]
    assert on_engine(asked).rows == 2000


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"columns": {"x": ("a", "b", "zz")}}, InvalidRequest, "no column 'zz'"),
        ({"on_error": "fail"}, InvalidRequest, r"row 0 \(line 2\).*oops"),
        ({"max_rejects": 2}, InvalidRequest, "more than 2 rows"),
    ],
    ids=["missing-column", "on-error-fail", "max-rejects"],
)
def test_what_ends_a_job(tmp_path, more, kind, said):
    """What ends a job on one machine ends it here with the same words, and no output is there."""
    name = written(tmp_path, "csv")
    with pytest.raises(kind, match=said):
        on_engine(a_job(tmp_path, name, "there.csv", **more))
    assert not (tmp_path / "there.csv").exists()


def test_another_model_on_a_worker(tmp_path, monkeypatch):
    """A worker whose model is not the driver's says so instead of answering."""
    name = written(tmp_path, "parquet")

    class Stranger(Here):
        def run(self, tasks, *, tick, cancel):
            monkeypatch.setattr(engine_jobs.Sums, "digest", "sha256:other")
            return super().run(tasks, tick=tick, cancel=cancel)

    with pytest.raises(Conflict, match=r"sha256:other.*sha256:sums"):
        on_engine(a_job(tmp_path, name, "there.parquet"), Stranger())


def test_an_error_of_a_worker_says_here_whether_another_try_may_help(tmp_path):
    """That no server answers a worker is `Temporary` on the driver, too, though the client's own class is another."""
    engine_jobs.write_csv(tmp_path / "in.csv", 3, ())
    url = f"http://127.0.0.1:{free_port()}"
    info = objects.open_objects(str(tmp_path)).head("in.csv")
    task = work.Task(
        job=msgspec.structs.replace(a_job(tmp_path, "in.csv", "out.csv"), url=url),
        info=info,
        parts=str(tmp_path / "parts"),
        number=0,
        cut=work.Cut(),
        settings=ArtifactSettings(),
        opener=OPENER,
        model="",
    )
    error = work.failure(msgspec.json.decode(work.work(msgspec.json.encode(task)), type=work.Mark))
    assert isinstance(error, Temporary)
    assert url in str(error)


def test_a_file_that_changes_meanwhile(tmp_path):
    """A file that is written anew while workers read it ends the job; nothing of either is published."""
    name = written(tmp_path, "csv")

    class Late(Here):
        def run(self, tasks, *, tick, cancel):
            engine_jobs.write_csv(tmp_path / name, 1500)
            return super().run(tasks, tick=tick, cancel=cancel)

    with pytest.raises(Exception, match="has changed since the job began"):
        on_engine(a_job(tmp_path, name, "there.csv"), Late())
    assert not (tmp_path / "there.csv").exists()


def test_one_load_for_each_process(tmp_path, model):
    """However many tasks a process does, it loads the model once."""
    name = written(tmp_path, "csv")
    engine = Here()
    on_engine(a_job(tmp_path, name, "there.csv"), engine)
    assert engine.done > 5
    assert len(list(model.glob("loaded-*"))) == 2  # one of the driver, one of the tasks


@pytest.mark.parametrize("name", ["dask://h:1", "spark", "spark://", "local"])
def test_engines_that_are_none(name):
    """What is no engine is refused by name, and the text says which there are."""
    with pytest.raises(SettingsError, match=r"local, spark://.*ray://"):
        base.engine_of(name)


@pytest.mark.parametrize("scheme", ["spark", "ray"])
def test_a_cluster_that_is_not_there(tmp_path, scheme):
    """Where nobody answers, that is said at once, with the address; a port that is none is refused."""
    name = written(tmp_path, "parquet")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Temporary, match=f"nobody answers at {address}: Connection refused"):
        on_engine(a_job(tmp_path, name, "there.parquet"), f"{scheme}://{address}")
    with pytest.raises(SettingsError, match="expected HOST:PORT, got: somewhere"):
        on_engine(a_job(tmp_path, name, "there.parquet"), f"{scheme}://somewhere")
    assert not (tmp_path / "there.parquet").exists()


def test_on_a_store(tmp_path, s3):
    """Files, parts and outputs may be on a store; an engine that dies is gone on from there, and no part is left."""
    name = written(tmp_path, "csv")
    bucket, client = s3.bucket(), s3.client()
    client.upload_file(str(tmp_path / name), bucket, f"in/{name}")
    asked = msgspec.structs.replace(
        a_job(tmp_path, name, "x.csv"), inputs=(f"s3://{bucket}/in/{name}",), output=f"s3://{bucket}/out/there.csv"
    )
    with pytest.raises(RuntimeFailed, match="gone"):
        on_engine(asked, Here(dies_after=3))
    outcome = on_engine(asked)
    assert (outcome.rows, outcome.rejected) == (2000, len(BAD))
    assert outcome.resumed_rows > 0
    keys = {each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]}
    there = "out/there.csv"
    assert keys == {f"in/{name}", there, f"{there}.rejects.jsonl", f"{there}.manifest.json"}
    locally(a_job(tmp_path, name, "x.csv"), tmp_path / "here.csv")
    assert client.get_object(Bucket=bucket, Key=there)["Body"].read() == (tmp_path / "here.csv").read_bytes()
