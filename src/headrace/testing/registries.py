"""A real MLflow server for tests, one for a session: pytest loads this file as a plug-in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.brokers import free_port

_START_SECONDS = 240.0


class MlflowServer:
    """A tracking server with a registry, which hands out artifacts.

    Args:
        url: Its address.
        folder: Holds `artifacts`, where its files are, and `db.sqlite`.
        process: Its own, first of its group.
    """

    def __init__(self, url: str, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.url, self.folder, self._process = url, folder, process

    def client(self) -> Any:
        """MLflow's own, of this server."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def kill(self) -> None:
        """End it and what it started, as a crash would."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The server, for all tests of a session; models and runs are each test's own."""
    program = Path(sys.executable).with_name("mlflow")
    if not program.exists():
        pytest.skip("needs mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{free_port()}"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environ |= {"PATH": f"{program.parent}:{environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # another process, which nobody asks anything
    with (folder / "log").open("wb") as log:
        command: list[str | Path] = [
            program,
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            url.rpartition(":")[2],
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'db.sqlite'}", "--serve-artifacts"]
        command += ["--artifacts-destination", folder / "artifacts"]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True)
    server = MlflowServer(url, folder, process)
    try:
        _until_healthy(server, process)
        yield server
    finally:
        server.kill()


def _until_healthy(server: MlflowServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError as exc:
            if time.monotonic() > deadline or process.poll() is not None:
                log = (server.folder / "log").read_text()
                raise AssertionError(f"mlflow did not start: {log[-2000:]}") from exc
            time.sleep(0.1)


@pytest.fixture
def mlflow_at(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MlflowServer:
    """The server, with the usual variable set to it and nobody's credentials."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    return mlflow_server
