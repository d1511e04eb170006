"""A real MLflow server for tests, one for a session: pytest loads this file as a plug-in."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_START_SECONDS = 240.0
_SERVE = """
import os, socket
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
folder = os.environ["HEADRACE_TEST_FOLDER"]
from mlflow.server import constants
os.environ |= {
    constants.BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{folder}/db.sqlite",
    constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
    constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    constants.ARTIFACTS_DESTINATION_ENV_VAR: f"{folder}/artifacts",
}
import uvicorn
uvicorn.Server(uvicorn.Config("mlflow.server.fastapi_app:app")).run(sockets=[listening])
"""
"""What `mlflow server` starts as a process of its own, without the one that starts it: half the time to the first
answer, and a port that nobody else can take in between.
"""


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
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("needs mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "HEADRACE_TEST_FOLDER": str(folder)}
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-c", _SERVE]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=environ, start_new_session=True
        )
    assert process.stdout is not None
    port = int(process.stdout.readline() or 0)  # it ends, or says its port: connections wait until it answers
    process.stdout.close()
    server = MlflowServer(f"http://127.0.0.1:{port}", folder, process)
    try:
        _until_healthy(server)
        yield server
    finally:
        server.kill()


def _until_healthy(server: MlflowServer) -> None:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=_START_SECONDS) as answer:
            assert answer.status == 200
    except OSError as exc:
        log = (server.folder / "log").read_text()
        raise AssertionError(f"mlflow did not start: {log[-2000:]}") from exc


@pytest.fixture
def mlflow_at(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MlflowServer:
    """The server, with the usual variable set to it and nobody's credentials."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    return mlflow_server
