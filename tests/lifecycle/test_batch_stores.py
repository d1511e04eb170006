"""Batch jobs on an S3-compatible server that checks signatures: read, write, go on, and what is said when it cannot."""

import json
import threading

import pyarrow as pa
import pyarrow.parquet
import pytest

from headrace.errors import ArtifactDenied, ArtifactFailed, ArtifactNotFound
from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch.run import run
from headrace.payload import EMPTY, Signature, Tensor, TensorSpec

ROWS = 2000


class Double:
    """A model that doubles a column."""

    name, version, digest = "double", "", "sha256:2"
    signature = Signature(
        platform="test",
        inputs=(TensorSpec(name="v", datatype="FP64", shape=(-1,)),),
        outputs=(TensorSpec(name="twice", datatype="FP64", shape=(-1,)),),
    )

    def __init__(self):
        self.rows = 0

    def predict(self, inputs, parameters=EMPTY, outputs=()):
        self.rows += len(inputs[0].data)
        return [Tensor("twice", "FP64", inputs[0].data * 2)]

    def close(self):
        pass


def job(source, output, **more):
    return Job(
        model="double", inputs=(source,), output=output, id_column="id", **{"batch_rows": 100, "threads": 1} | more
    )


def do(given_job, model, **more):
    return run(given_job, open_predictor=lambda _: model, **more)


@pytest.fixture
def bucket(s3):
    """A bucket with two files below `in/`, one row of which is bad."""
    name, client = s3.bucket(), s3.client()
    sink = pa.BufferOutputStream()
    values = ["?" if at == 7 else str(at) for at in range(ROWS)]
    pyarrow.parquet.write_table(pa.table({"id": range(ROWS), "v": values}), sink, row_group_size=300)
    client.put_object(Bucket=name, Key="in/a.parquet", Body=sink.getvalue().to_pybytes())
    client.put_object(Bucket=name, Key="in/deep/b.csv", Body=b"id,v\nx,1\ny,2\n")
    return name


def got(s3, bucket, key):
    return s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()


def test_a_prefix_becomes_a_prefix(s3, bucket):
    """Files below a prefix are answered to a prefix, with rejects and manifests, and the second time nothing is asked."""
    outcome = do(job(f"s3://{bucket}/in/", f"s3://{bucket}/out/"), Double())
    assert (outcome.files, outcome.rows, outcome.rejected) == (2, ROWS + 2, 1)
    found = pyarrow.parquet.read_table(pa.BufferReader(got(s3, bucket, "out/a.parquet"))).to_pydict()
    assert found["twice"] == [at * 2 for at in range(ROWS) if at != 7]
    assert got(s3, bucket, "out/deep/b.csv").decode().splitlines() == ['"id","twice"', '"x",2', '"y",4']
    (reject,) = got(s3, bucket, "out/a.parquet.rejects.jsonl").splitlines()
    assert json.loads(reject)["row"] == 7
    listed = {each["Key"] for each in s3.client().list_objects_v2(Bucket=bucket, Prefix="out/deep/")["Contents"]}
    assert listed == {"out/deep/b.csv", "out/deep/b.csv.manifest.json"}
    told = json.loads(got(s3, bucket, "out/a.parquet.manifest.json"))
    assert told["rows"] == ROWS
    model = Double()
    assert do(job(f"s3://{bucket}/in/", f"s3://{bucket}/out/"), model).finished_before == 2
    assert model.rows == 0


def test_a_job_on_a_store_goes_on(s3, bucket, tmp_path):
    """A job that is stopped leaves no output on the store, and goes on from this machine's state."""
    cancel, model = threading.Event(), Double()
    given_job = job(f"s3://{bucket}/in/a.parquet", f"s3://{bucket}/out/a.jsonl")
    stopped = do(
        given_job,
        model,
        state=tmp_path,
        seal_seconds=0,
        cancel=cancel,
        report=lambda outcome, _: cancel.set() if outcome.rows >= 1000 else None,
    )
    assert stopped.interrupted
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket, Prefix="out/")
    outcome = do(given_job, model, state=tmp_path)
    assert outcome.resumed_rows >= 1000
    lines = got(s3, bucket, "out/a.jsonl").splitlines()
    assert [json.loads(line)["twice"] for line in lines] == [at * 2 for at in range(ROWS) if at != 7]
    assert model.rows < ROWS + 1000


def test_what_the_store_refuses_is_said_before_a_row_is_asked(s3, bucket, monkeypatch):
    """An output that the store does not take, and credentials that are wrong, are named before the first row is asked; no
    key is shown.
    """
    model = Double()
    with pytest.raises(ArtifactFailed, match="s3://x/out"):
        do(job(f"s3://{bucket}/in/a.parquet", "s3://x/out.parquet"), model)
    with pytest.raises(ArtifactNotFound, match=r"in/none\.csv"):
        do(job(f"s3://{bucket}/in/none.csv", f"s3://{bucket}/out/x.csv"), model)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(ArtifactDenied) as refused:
        do(job(f"s3://{bucket}/in/a.parquet", f"s3://{bucket}/out/x.csv"), model)
    assert "not-the-secret" not in str(refused.value)
    assert model.rows == 0
