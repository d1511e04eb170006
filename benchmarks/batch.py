"""What a batch job costs beside a loop written by hand: an ONNX model on Parquet, in this process, and memory.

Usage: .venv-test/bin/python benchmarks/batch.py [ROWS]

Prints rows a second of `headrace batch run`'s own code, of a bare loop of pyarrow and onnxruntime, and of a pandas loop
row by row; and the peak of memory at a tenth of the rows and at all of them, each in a process of its own. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

COLUMNS = 20
BATCH = 16_384
NAMES = [f"c{at}" for at in range(COLUMNS)]


def prepare(folder: Path, rows: int) -> None:
    """A model, and a file of rows."""
    from skl2onnx import to_onnx
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = make_classification(2000, COLUMNS, random_state=0)
    model = GradientBoostingClassifier(n_estimators=20, max_depth=3).fit(x, y)
    graph = to_onnx(model, x[:1].astype(np.float32), options={id(model): {"zipmap": False}}, target_opset=17)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, rows, 100_000):
        count = min(100_000, rows - start)
        block = rng.standard_normal((count, COLUMNS)).astype(np.float32)
        ids = pa.array(np.arange(start, start + count))
        table = pa.table({"id": ids, **{name: block[:, at] for at, name in enumerate(NAMES)}})
        writer = writer or pyarrow.parquet.ParquetWriter(folder / "rows.parquet", table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def ours(folder: Path) -> int:
    """The job."""
    from headrace.lifecycle.batch.base import Job
    from headrace.lifecycle.batch.run import run
    from headrace.offline import open_model

    source, output = str(folder / "rows.parquet"), str(folder / "out.parquet")
    job = Job(model=str(folder / "model.onnx"), inputs=(source,), output=output, id_column="id")
    model = open_model(job.model)
    begin = time.perf_counter()
    outcome = run(job, open_predictor=lambda _: model, state=folder / "state", overwrite=True)
    say(outcome.rows, time.perf_counter() - begin)
    return outcome.rows


def bare(folder: Path) -> int:
    """The loop that somebody writes who knows both libraries."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (name,) = (each.name for each in session.get_inputs())
    begin, rows, writer = time.perf_counter(), 0, None
    for batch in pyarrow.parquet.ParquetFile(folder / "rows.parquet").iter_batches(BATCH):
        block = np.column_stack([batch.column(each).to_numpy() for each in NAMES])
        labels, chances = session.run(None, {name: block})
        shares = pa.FixedSizeListArray.from_arrays(pa.array(chances.reshape(-1)), chances.shape[1])
        made = pa.record_batch({"id": batch.column("id"), "label": labels, "probabilities": shares})
        writer = writer or pyarrow.parquet.ParquetWriter(folder / "bare.parquet", made.schema)
        writer.write_batch(made)
        rows += batch.num_rows
    if writer is not None:
        writer.close()
    say(rows, time.perf_counter() - begin)
    return rows


def pandas(folder: Path) -> int:
    """Row by row, of the first ten thousand."""
    import onnxruntime
    import pandas as pd

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (name,) = (each.name for each in session.get_inputs())
    frame = pd.read_parquet(folder / "rows.parquet").head(10_000)
    begin = time.perf_counter()
    found = [session.run(None, {name: row[NAMES].to_numpy(np.float32)[None]})[0][0] for _, row in frame.iterrows()]
    say(len(found), time.perf_counter() - begin)
    return len(found)


def say(rows: int, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rows / seconds:.0f} {peak:.0f}")


WAYS = {"ours": ours, "bare": bare, "pandas": pandas}


def measured(way: str, folder: Path) -> tuple[float, float]:
    """Rows a second and MiB at the peak, the best of three processes."""
    found = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, __file__, way, str(folder)], capture_output=True, text=True, check=True, timeout=900
        )
        speed, peak = done.stdout.split()
        found.append((float(speed), float(peak)))
    return max(found)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        for folder, count in ((small, rows // 10), (large, rows)):
            folder.mkdir()
            prepare(folder, count)
        found = {way: measured(way, large) for way in WAYS}
        tenth = measured("ours", small)
    print("| way | rows/s | peak, MiB |\n|---|---|---|")
    for way, (speed, peak) in found.items():
        print(f"| {way} | {speed:,.0f} | {peak:,.0f} |")
    own = found["ours"]
    print(f"ours / bare: {own[0] / found['bare'][0]:.2f} (target 0.7)")
    print(f"ours / pandas: {own[0] / found['pandas'][0]:.1f} (target 5)")
    print(f"peak at {rows // 10:,} rows: {tenth[1]:,.0f} MiB, at {rows:,}: {own[1]:,.0f} MiB")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        WAYS[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
