"""What tests of engines have in common: files of rows, a model that leaves traces, and a driver in a process of its own:
`python engine_jobs.py ENGINE '{"job": {...}, "times": 1, ...}'`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from headrace.errors import InvalidRequest, RuntimeFailed
from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.batch.engines import base, work
from headrace.lifecycle.batch.run import run
from headrace.payload import EMPTY, Signature, Tensor, TensorSpec

OPENER = "tests.lifecycle.engine_jobs:open_model"


class Sums:
    """A row to its sum; a row with -13 in it is bad. Each load leaves a file in the model's folder; a file `kill-once`
    there kills the process that finds it.
    """

    name, version, digest = "sums", "1", "sha256:sums"
    signature = Signature(
        platform="test",
        inputs=(TensorSpec(name="x", datatype="FP64", shape=(-1, 3)),),
        outputs=(TensorSpec(name="sum", datatype="FP64", shape=(-1,)),),
        batchable=True,
    )

    def __init__(self, folder):
        self._kill = Path(folder) / "kill-once"

    def predict(self, inputs, parameters=None, outputs=()):
        with contextlib.suppress(FileNotFoundError):
            self._kill.unlink()  # one process finds it
            os.kill(os.getpid(), signal.SIGKILL)
        data = inputs[0].data
        if (data == -13).any():
            raise InvalidRequest("-13 is no number")
        return (Tensor("sum", "FP64", data.sum(axis=1)),)

    def close(self):
        """Nothing is held."""


def open_model(path, *, settings=EMPTY):
    (Path(path) / f"loaded-{os.getpid()}-{uuid.uuid4().hex[:8]}").touch()
    return Sums(path)


class Here:
    """An engine of one process: it does tasks in turn, or the last first and some of them twice.

    Args:
        dies_after: Tasks that are done before it is gone.
        in_turn: Nothing is done out of turn, or twice.
    """

    def __init__(self, dies_after=None, *, in_turn=False):
        self.done, self._dies_after, self._in_turn = 0, dies_after, in_turn

    def open(self):
        """Nothing to connect to."""

    def close(self):
        """Nothing to let go of."""

    def run(self, tasks, *, tick, cancel):
        found = {}
        for number in range(len(tasks)) if self._in_turn else reversed(range(len(tasks))):
            if cancel.is_set():
                return None
            if self.done == self._dies_after:
                raise RuntimeFailed("the engine is gone")
            for _ in range(1 if self._in_turn else 1 + number % 2):
                found[number] = work.work(tasks[number])
            self.done += 1
            tick()
        return [found[number] for number in range(len(tasks))]


def write_csv(path, rows, bad=()):
    """Quoted line breaks and quotes in every seventh row; numbers that are none where they are to be bad."""
    with path.open("w", newline="") as file:
        file.write("id,a,b,c,note\n")
        for at in range(rows):
            note = '"first ""line"",\nsecond"' if at % 7 == 3 else "plain"
            a = "oops" if at in bad else at
            file.write(f"r{at},{a},{at / 2},{at % 5},{note}\n")


def write_parquet(path, rows, bad=(), group=250):
    made = pa.table(
        {
            "id": [f"r{at}" for at in range(rows)],
            "a": np.where(np.isin(np.arange(rows), list(bad)), -13.0, np.arange(rows) + 0.25),
            "b": np.arange(rows) / 2,
            "c": np.arange(rows) % 5,
        }
    )
    pyarrow.parquet.write_table(made, path, row_group_size=group)


def write_jsonl(path, rows, bad=()):
    with path.open("w") as file:
        for at in range(rows):
            a = "oops" if at in bad else at
            file.write(json.dumps({"id": f"r{at}", "a": a, "b": at / 2, "c": at % 5, "note": "x" * (at % 50)}) + "\n")


def a_job(folder, name, output, **more):
    """A job of a model in `model`."""
    chosen = {
        "model": str(folder / "model"),
        "inputs": (str(folder / name),),
        "output": str(folder / output),
        "columns": {"x": ("a", "b", "c")},
        "keep": ("c",),
        "batch_rows": 100,
        **more,
    }
    return Job(**chosen)


def locally(asked, output):
    """The same job on this machine."""
    job = msgspec.structs.replace(asked, output=str(output))
    return run(job, open_predictor=lambda each: open_model(each.model))


def same(one, other):
    """Two outputs, byte by byte, with their rejects and what of their manifests does not depend on the clock."""
    assert one.read_bytes() == other.read_bytes()
    first, second = (each.with_name(each.name + ".rejects.jsonl") for each in (one, other))
    assert first.exists() == second.exists()
    assert not first.exists() or first.read_bytes() == second.read_bytes()
    first, second = (json.loads(each.with_name(each.name + ".manifest.json").read_bytes()) for each in (one, other))
    for name in ("rows", "answered", "rejected", "rejected_by_reason", "input", "model", "columns", "identity"):
        assert first[name] == second[name]


ROOT = Path(__file__).resolve().parents[2]


def driver(engine, jobs, task_bytes, *, before=(), **environ):
    """A process that does jobs on an engine, one after the other."""
    told = {"jobs": [msgspec.to_builtins(each) for each in jobs], "task_bytes": task_bytes, "opener": OPENER}
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return subprocess.Popen(
        [*before, sys.executable, __file__, engine, json.dumps(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "", **environ},
    )


def outcomes(process, seconds):
    """What a driver says at its end."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]  # Ray talks between jobs


def main(engine, text):
    told = json.loads(text)
    opened = Here(in_turn=True) if engine == "here" else base.engine_of(engine)
    opened.open()
    for each in told["jobs"]:
        job = msgspec.convert(each, type=Job)
        outcome = base.run_on(opened, job, opener=told["opener"], task_bytes=told["task_bytes"])
        sys.stdout.write(json.dumps(msgspec.to_builtins(outcome)) + "\n")
        sys.stdout.flush()
    opened.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
