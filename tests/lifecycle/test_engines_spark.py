"""Batch jobs on Spark: a standalone master with two workers, as processes of this machine, and a driver in a process of
its own. Left out: YARN, Kubernetes, several machines; what engines have in common is in test_engines.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.lifecycle import engine_jobs
from tests.lifecycle.engine_jobs import ROOT, a_job, driver, locally, outcomes, same

from headrace.testing.brokers import free_port, wait_for_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECONDS = 400
QUICK = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"}
"""For every Java: launchers, the master, workers, executors and the driver."""
CONF = "--conf spark.ui.enabled=false --conf spark.executor.memory=512m pyspark-shell"


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """Address of a master that has two workers of one core each."""
    pyspark = pytest.importorskip("pyspark")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java")
    program = Path(pyspark.__file__).with_name("bin") / "spark-class"
    folder = tmp_path_factory.mktemp("spark")
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    environ = {
        **os.environ,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONPATH": path,
        "PYTHONWARNINGS": "",
        **QUICK,
        "SPARK_DAEMON_MEMORY": "256m",
    }
    processes = []

    def started(kind, *words):
        with (folder / f"log-{len(processes)}").open("wb") as log:
            command = [program, f"org.apache.spark.deploy.{kind}", "--host", "127.0.0.1", *words]
            # a session of its own, so that the end reaches executors, too
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True)
            )

    try:
        port = free_port()
        started("master.Master", "--port", str(port), "--webui-port", str(free_port()))
        wait_for_port(port, SECONDS)
        for number in range(2):
            where = ["--work-dir", str(folder / f"worker-{number}"), "--webui-port", str(free_port())]
            started("worker.Worker", "--cores", "1", "--memory", "600m", *where, f"spark://127.0.0.1:{port}")
        yield f"spark://127.0.0.1:{port}"
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_cluster(master, tmp_path):
    """On two workers, outputs are those of one machine, byte by byte, though a worker is killed in the middle; and a
    worker's process loads the model once.
    """
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kill-once").touch()
    engine_jobs.write_csv(tmp_path / "a.csv", 6000, bad=(0, 2999, 5999))
    engine_jobs.write_parquet(tmp_path / "b.parquet", 6000, bad=(7, 4000), group=500)
    inputs = (str(tmp_path / "a.csv"), str(tmp_path / "b.parquet"))
    asked = a_job(tmp_path, "", "there/", inputs=inputs, batch_rows=500)
    process = driver(master, [asked], 40_000, SPARK_LOCAL_IP="127.0.0.1", PYSPARK_SUBMIT_ARGS=CONF, **QUICK)
    (found,) = outcomes(process, SECONDS)
    assert (found["files"], found["rows"], found["rejected"]) == (2, 12_000, 5)
    assert not (tmp_path / "model" / "kill-once").exists()
    loads = [each.name.split("-")[1] for each in (tmp_path / "model").iterdir()]
    assert loads.count(str(process.pid)) == 1  # the driver plans the job with the model
    workers = [pid for pid in loads if pid != str(process.pid)]
    assert len(workers) == len(set(workers)) >= 2
    locally(asked, tmp_path / "here/")
    for name in ("a.csv", "b.parquet"):
        same(tmp_path / "there" / name, tmp_path / "here" / name)
