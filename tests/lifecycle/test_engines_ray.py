"""Batch jobs on Ray: in a network namespace, since Ray listens on all interfaces otherwise. Left out: several machines;
what engines have in common is in test_engines.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.lifecycle import engine_jobs
from tests.lifecycle.engine_jobs import a_job, locally, outcomes, same

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

SECONDS = 200
ALONE = [
    "unshare",
    "-n",
    "-p",
    "-f",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    'ip link set lo up && exec "$@"',
    "sh",
]


@pytest.fixture
def alone():
    """What a command begins with that is to have a network and processes of its own."""
    pytest.importorskip("ray")
    if shutil.which("unshare") is None or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("Ray is tested in a network namespace only: needs root, unshare and ip")
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("Ray is tested in a network namespace only, and none can be made here")
    return ALONE


def test_a_cluster(alone, tmp_path):
    """On two workers, outputs are those of one machine, byte by byte, though a worker is killed in the middle; and a
    worker's process loads the model once.
    """
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kill-once").touch()
    engine_jobs.write_csv(tmp_path / "a.csv", 6000, bad=(0, 2999, 5999))
    engine_jobs.write_parquet(tmp_path / "b.parquet", 6000, bad=(7, 4000), group=500)
    jobs = [
        a_job(tmp_path, "a.csv", "there.csv", batch_rows=500),
        a_job(tmp_path, "b.parquet", "there.parquet", batch_rows=500),
    ]
    process = engine_jobs.driver(
        "ray://local[2]", jobs, 20_000, before=alone, HOME=str(tmp_path), RAY_USAGE_STATS_ENABLED="0"
    )
    found = outcomes(process, SECONDS)
    assert [(each["rows"], each["rejected"]) for each in found] == [(6000, 3), (6000, 2)]
    assert not (tmp_path / "model" / "kill-once").exists()
    loads = [each.name.split("-")[1] for each in (tmp_path / "model").iterdir()]
    workers = [pid for pid in set(loads) if loads.count(pid) == 1]
    assert len(set(loads)) - len(workers) == 1  # the driver plans each job with the model
    for asked, name in zip(jobs, ("here.csv", "here.parquet"), strict=True):
        locally(asked, tmp_path / name)
        same(Path(asked.output), tmp_path / name)
