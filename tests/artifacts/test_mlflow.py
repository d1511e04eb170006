"""Uris of MLflow, against a real server, and against the SQLite file and the folder that MLflow writes without one."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import traceback
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.artifacts import credentials, fetch, mlflow
from headrace.artifacts.base import Source
from headrace.artifacts.mlflow_stores import Database, Folder, Server, server_at
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactDenied,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    SettingsError,
)
from headrace.testing.brokers import free_port

pytestmark = pytest.mark.timeout(300)  # the first of them waits for the server, on a machine that may be busy

_OPENERS = {"models": mlflow.open_models, "runs": mlflow.open_runs, "mlflow-artifacts": mlflow.open_artifacts}


@pytest.fixture
def opened() -> Iterator[Any]:
    """Opens sources, and closes them at the end."""
    sources: list[Source] = []

    def open_source(uri: str, **settings: Any) -> Source:
        options = ArtifactSettings(**{"timeout_seconds": 120.0, **settings})
        sources.append(_OPENERS[uri.partition(":")[0]](uri, settings=options, credentials=credentials.load()))
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


def _bytes(source: Source) -> dict[str, bytes]:
    """All files of a source, by path."""
    return {entry.path: b"".join(bytes(chunk) for chunk in source.read(entry)) for entry in source.entries()}


class _Made:
    """What a test logged: a run, a logged model of it, and a registered model with versions."""

    def __init__(self, client: Any, folder: Path, versions: int = 1, experiment: str = "0") -> None:
        self.client, self.experiment = client, experiment
        self.name = f"iris {uuid.uuid4().hex[:8]}"
        self.run_id = client.create_run(experiment).info.run_id
        self.models: list[str] = []
        client.create_registered_model(self.name)
        for number in range(1, versions + 1):
            self.log(folder, number)

    def log(self, folder: Path, number: int) -> str:
        place = folder / f"model-{number}"
        (place / "data").mkdir(parents=True)
        (place / "MLmodel").write_text(f"flavors: {{}}\nnumber: {number}\n")
        (place / "data" / "weights 1.bin").write_bytes(bytes([number]) * 300_000)
        model = self.client.create_logged_model(self.experiment, name="model", source_run_id=self.run_id)
        self.client.log_model_artifacts(model.model_id, str(place))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.models.append(model.model_id)
        return self.register(model.model_id)

    def register(self, model_id: str) -> str:
        source = f"models:/{model_id}"
        made = self.client.create_model_version(self.name, source, run_id=self.run_id, model_id=model_id)
        return str(made.version)


@pytest.fixture
def made(mlflow_at: Any, tmp_path: Path) -> _Made:
    """A registered model with two versions, the first of them called champion."""
    return _champion(mlflow_at, tmp_path)


@pytest.fixture(scope="module")
def kept(mlflow_server: Any, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """The same, of all tests that only read it."""
    return _champion(mlflow_server, tmp_path_factory.mktemp("kept"))


def _champion(server: Any, folder: Path) -> _Made:
    made = _Made(server.client(), folder, versions=2)
    made.client.set_registered_model_alias(made.name, "champion", "1")
    return made


@pytest.mark.parametrize(
    ("uri", "number"),
    [
        ("models:/{name}/1", 1),
        ("models:/{name}/2", 2),
        ("models:/{name}@champion", 1),
        ("models:/{name}/latest", 2),
        ("models:/{name}/LATEST", 2),
        ("models:/{model}", 1),
    ],
)
def test_a_model_is_read_whole(kept: _Made, opened: Any, mlflow_at: Any, uri: str, number: int) -> None:
    """Every way to name a model leads to all files of that model, with their paths, sizes and bytes."""
    source = opened(uri.format(name=kept.name, model=kept.models[0]))
    assert _bytes(source) == {
        "MLmodel": f"flavors: {{}}\nnumber: {number}\n".encode(),
        "data/weights 1.bin": bytes([number]) * 300_000,
    }
    assert {entry.path: entry.size for entry in source.entries()}["data/weights 1.bin"] == 300_000
    assert all(entry.etag for entry in source.entries())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_stage_is_its_newest_version(made: _Made, opened: Any) -> None:
    """`models:/NAME/Production` is the highest version in that stage, whatever the case of its letters."""
    made.client.transition_model_version_stage(made.name, "1", "Production")
    assert opened(f"models:/{made.name}/production").pin().version == "1"
    with pytest.raises(ArtifactNotFound, match="in stage 'Staging'; its newest version is 2, its aliases: champion"):
        opened(f"models:/{made.name}/Staging").pin()


def test_a_path_below_a_model_is_that_file_or_folder(kept: _Made, opened: Any, mlflow_at: Any) -> None:
    """What follows the version or the alias is read alone: a folder's files, or one file under its own name."""
    assert list(_bytes(opened(f"models:/{kept.name}/2/data"))) == ["weights 1.bin"]
    assert _bytes(opened(f"models:/{kept.name}@champion/MLmodel")) == {"MLmodel": b"flavors: {}\nnumber: 1\n"}
    assert list(_bytes(opened(f"models:/{kept.models[1]}/data/weights 1.bin"))) == ["weights 1.bin"]


def test_a_file_is_read_from_an_offset_on(kept: _Made, opened: Any, mlflow_at: Any) -> None:
    """Reading that begins in the middle gives the rest, and only the rest comes."""
    source = opened(f"models:/{kept.name}/1")
    entry = next(entry for entry in source.entries() if entry.size == 300_000)
    assert b"".join(source.read(entry, start=299_990)) == b"\x01" * 10
    assert b"".join(source.read(entry, start=300_000)) == b""


def test_runs_lead_to_artifacts_and_to_logged_models(made: _Made, opened: Any, tmp_path: Path) -> None:
    """`runs:/ID/PATH` is the model that the run logged by that name, and an artifact of the run otherwise."""
    report = tmp_path / "report.txt"
    report.write_text("fine")
    made.client.log_artifact(made.run_id, str(report), "reports")
    assert _bytes(opened(f"runs:/{made.run_id}/reports")) == {"report.txt": b"fine"}
    assert _bytes(opened(f"runs:/{made.run_id}/reports/report.txt")) == {"report.txt": b"fine"}
    assert _bytes(opened(f"runs:/{made.run_id}")) == {"reports/report.txt": b"fine"}
    source = opened(f"runs:/{made.run_id}/model")
    assert set(_bytes(source)) == {"MLmodel", "data/weights 1.bin"}
    assert source.pin().uri in {f"models:/{model}" for model in made.models}


@pytest.mark.parametrize("form", ["mlflow-artifacts:/{path}", "mlflow-artifacts://{host}/{path}"])
def test_artifacts_are_read_with_and_without_a_host(kept: _Made, opened: Any, mlflow_at: Any, form: str) -> None:
    """`mlflow-artifacts:` uris lead to the tracking server, or to the one that they name."""
    path = f"0/models/{kept.models[0]}/artifacts"
    source = opened(form.format(path=path, host=mlflow_at.url.removeprefix("http://")))
    assert set(_bytes(source)) == {"MLmodel", "data/weights 1.bin"}


def test_a_pin_stays_until_the_alias_moves(made: _Made, opened: Any) -> None:
    """An alias is pinned to its version, which has the same token; the token is another one after the alias moved."""
    uri = f"models:/{made.name}@champion"
    first = opened(uri).pin()
    assert (first.uri, first.version) == (f"models:/{made.name}/1", "1")
    assert opened(uri).pin() == first == opened(first.uri).pin()
    made.client.set_registered_model_alias(made.name, "champion", "2")
    second = opened(uri).pin()
    assert (second.uri, second.version) == (f"models:/{made.name}/2", "2")
    assert second.token != first.token


def test_a_source_stays_with_what_it_was_told(made: _Made, opened: Any) -> None:
    """An alias that moves between the pin and the download changes nothing: the files are those of the pin."""
    source = opened(f"models:/{made.name}@champion")
    assert source.pin().version == "1"
    made.client.set_registered_model_alias(made.name, "champion", "2")
    assert b"number: 1" in _bytes(source)["MLmodel"]
    assert source.pin().version == "1"


def test_a_new_version_is_the_latest(made: _Made, opened: Any, tmp_path: Path) -> None:
    """`latest` moves when a version is registered, and not when another model gets one."""
    uri = f"models:/{made.name}/latest"
    before = opened(uri).pin()
    _Made(made.client, tmp_path / "other")
    assert opened(uri).pin() == before
    made.log(tmp_path, 3)
    assert opened(uri).pin().version == "3"


def test_a_number_given_again_is_another_version(made: _Made, opened: Any, tmp_path: Path) -> None:
    """A version that was deleted is not found; one of a model made anew, with its number, has another token."""
    uri = f"models:/{made.name}/2"
    before = opened(uri).pin()
    made.client.delete_model_version(made.name, "2")
    with pytest.raises(ArtifactNotFound, match=r"has no version 2 of .*; its newest version is 1, its aliases: champ"):
        opened(uri).pin()
    made.client.delete_registered_model(made.name)
    with pytest.raises(ArtifactNotFound, match=r"has no version 2 of "):
        opened(uri).pin()
    made.client.create_registered_model(made.name)
    assert [made.register(each) for each in made.models] == ["1", "2"]
    assert opened(uri).pin().token != before.token


def test_a_copied_version_is_read(made: _Made, opened: Any) -> None:
    """A version that was promoted by copying it to another model has the files of the first, and a pin of its own."""
    copy = made.client.copy_model_version(f"models:/{made.name}/1", f"{made.name} prod")
    source = opened(f"models:/{made.name} prod/{copy.version}")
    assert b"number: 1" in _bytes(source)["MLmodel"]
    assert source.pin().token != opened(f"models:/{made.name}/1").pin().token


def test_an_alias_of_a_deleted_version_is_not_found(made: _Made, opened: Any) -> None:
    """When the version behind an alias is deleted, its pin fails as not found, which is not tried again."""
    made.client.delete_model_version(made.name, "1")
    with pytest.raises(ArtifactNotFound, match=r"models:/iris .*@champion: "):
        opened(f"models:/{made.name}@champion").pin()


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("models:/{name}@nobody", "has no alias 'nobody' of .* its aliases: champion \\(version 1\\)"),
        ("models:/{name}/champion", "if it is an alias, write models:/{name}@champion"),
        ("models:/{name}/77", "has no version 77 of .* its newest version is 2"),
        ("models:/nobody/1", "has no version 1 of 'nobody'"),
        ("models:/nobody@champion", "has no alias 'champion' of 'nobody'"),
        ("models:/nobody/latest", "has no model 'nobody'"),
        ("models:/m-00000000000000000000000000000000", "has no logged model m-0"),
        ("runs:/00000000000000000000000000000000/model", "has no run 0"),
        ("runs:/{run}/nothing", "has no artifacts there"),
        ("models:/{name}/1/nothing", "has no artifacts there"),
        ("mlflow-artifacts:/nothing/at/all", "has no artifacts there"),
    ],
)
def test_what_is_not_there_is_named(kept: _Made, opened: Any, mlflow_at: Any, uri: str, text: str) -> None:
    """Whatever part of a uri is not there is named in the error, with what there is instead."""
    with pytest.raises(ArtifactNotFound, match=text.format(name=kept.name)):
        opened(uri.format(name=kept.name, run=kept.run_id)).entries()


def test_a_model_that_is_still_being_logged_is_tried_again(made: _Made, opened: Any) -> None:
    """A logged model whose files are not all there yet is a cause that heals."""
    model = made.client.create_logged_model("0", name="late", source_run_id=made.run_id)
    with pytest.raises(ArtifactUnreachable, match="still being logged"):
        opened(f"models:/{model.model_id}").pin()


def test_a_copy_follows_an_alias(made: _Made, tmp_path: Path) -> None:
    """A fetched alias is a folder with the model; after the alias moved only files that differ come, and the old copy
    stays what it was.
    """
    settings = ArtifactSettings(cache_dir=str(tmp_path / "cache"), timeout_seconds=120.0)
    uri = f"models:/{made.name}@champion"
    first = fetch.fetch(uri, settings=settings)
    assert (first.files, first.downloaded_bytes, first.pinned.version) == (2, first.bytes, "1")
    assert fetch.fetch(uri, settings=settings).downloaded_bytes == 0
    made.client.set_registered_model_alias(made.name, "champion", "2")
    second = fetch.fetch(uri, settings=settings, pinned=fetch.pin(uri, settings=settings))
    assert second.pinned.version == "2"
    assert Path(second.path, "MLmodel").read_text().endswith("number: 2\n")
    assert Path(second.path, "data", "weights 1.bin").read_bytes() == b"\x02" * 300_000
    assert Path(first.path, "MLmodel").read_text().endswith("number: 1\n")


def test_artifacts_in_a_bucket_are_read_there(
    mlflow_at: Any, s3: Any, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose files are in a bucket is read from the bucket, with the bucket's credentials."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", s3.endpoint)
    client = mlflow_at.client()
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location=f"s3://{s3.bucket()}/runs")
    made = _Made(client, tmp_path, experiment=experiment)
    assert client.get_logged_model(made.models[0]).artifact_location.startswith("s3://")
    assert set(_bytes(opened(f"models:/{made.name}/1"))) == {"MLmodel", "data/weights 1.bin"}
    assert _bytes(opened(f"runs:/{made.run_id}/model/MLmodel")) == {"MLmodel": b"flavors: {}\nnumber: 1\n"}


def test_files_on_the_disk_of_a_server_are_named(mlflow_at: Any, opened: Any) -> None:
    """A server that keeps files on a disk that is not here is told how it would hand them out."""
    client = mlflow_at.client()
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location="s3://nowhere/at/all")
    run_id = client.create_run(experiment).info.run_id
    _written(mlflow_at, "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", "/not/here", run_id)
    with pytest.raises(ArtifactNotFound, match=r"start that server with --serve-artifacts"):
        opened(f"runs:/{run_id}/model").entries()


def _written(server: Any, sql: str, *values: str) -> None:
    """Change what the server has in writing."""
    with contextlib.closing(sqlite3.connect(server.folder / "db.sqlite", timeout=120)) as connection, connection:
        connection.execute(sql, values)


class _Front:
    """Stands before the real server: asks for an authorization, and sends whole files only.

    Args:
        url: Of the real server.
        expected: What `Authorization` must be; empty: nothing is asked.
    """

    def __init__(self, url: str, expected: str = "") -> None:
        self.expected = expected
        self.seen: list[dict[str, str]] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                front.seen.append({name.lower(): value for name, value in self.headers.items()})
                if front.expected and self.headers.get("Authorization") != front.expected:
                    return self.reply(401, b"You are not authenticated", {"WWW-Authenticate": "Basic"})
                length = int(self.headers.get("Content-Length", 0))
                sent = {"Content-Type": "application/json"} if length else {}
                asked = urllib.request.Request(url + self.path, self.rfile.read(length) or None, sent)
                try:
                    with urllib.request.urlopen(asked, timeout=120) as answer:
                        return self.reply(200, answer.read(), {})
                except urllib.error.HTTPError as exc:
                    with exc:
                        return self.reply(exc.code, exc.read(), {})

            do_POST = do_GET  # noqa: N815 - http.server has it so

            def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def front(mlflow_at: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Front]:
    """A server that asks for user and password, in MLFLOW_TRACKING_URI."""
    front = _Front(mlflow_at.url, "Basic YW5uYTpodW50ZXIyMg==")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{front.host}")
    yield front
    front.close()


@pytest.mark.parametrize("how", ["variables", "file", "address", "token"])
def test_credentials_are_sent(
    front: _Front, kept: _Made, opened: Any, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """User and password of variables, of MLflow's file or of the address, and a token, let us in for every question."""
    if how == "variables":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    elif how == "file":
        (tmp_path / ".mlflow").mkdir()
        text = "[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = hunter22\n"
        (tmp_path / ".mlflow" / "credentials").write_text(text)
    elif how == "address":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:hunter22@{front.host}")
    else:
        front.expected = "Bearer t0ken-of-anna"
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-of-anna")
    source = opened(f"models:/{kept.name}@champion")
    assert set(_bytes(source)) == {"MLmodel", "data/weights 1.bin"}
    assert "hunter22" not in repr(source)
    assert "t0ken" not in repr(source)
    assert {seen["authorization"] for seen in front.seen} == {front.expected}


def test_wrong_credentials_are_denied(front: _Front, kept: _Made, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not is told which variables say who we are, and no value of them."""
    for uri in (f"models:/{kept.name}@champion", "mlflow-artifacts:/0", f"runs:/{kept.run_id}/model"):
        with pytest.raises(ArtifactDenied, match="Set MLFLOW_TRACKING_USERNAME"):
            opened(uri).entries()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter23")
    with pytest.raises(ArtifactDenied, match="Set MLFLOW_TRACKING_USERNAME") as caught:
        opened(f"models:/{kept.name}@champion").pin()
    assert "hunter23" not in "".join(traceback.format_exception(caught.value))


def test_a_server_without_ranges_is_read_whole(front: _Front, kept: _Made, opened: Any) -> None:
    """Where a server sends whole files only, no etag is asked for but one, and reading from the middle is right."""
    front.expected = ""
    source = opened(f"models:/{kept.models[0]}")
    entries = source.entries()
    assert not any(entry.etag for entry in entries)
    assert not source.ranges
    assert len([1 for seen in front.seen if "range" in seen]) == 1
    entry = next(entry for entry in entries if entry.size == 300_000)
    assert b"".join(source.read(entry, start=299_990)) == b"\x01" * 10


def test_credentials_are_not_for_the_host_of_a_model(
    mlflow_at: Any, kept: _Made, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose files are said to be at another server is read there without our credentials."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken-of-anna")
    other = _Front(mlflow_at.url)
    place = f"mlflow-artifacts://{other.host}/0/models/{kept.models[0]}/artifacts"
    with contextlib.closing(other):
        assert set(_bytes(opened(place))) == {"MLmodel", "data/weights 1.bin"}
        name = uuid.uuid4().hex
        kept.client.create_registered_model(name)
        kept.client.create_model_version(name, f"models:/{kept.models[0]}", model_id=kept.models[0])
        # servers of this version refuse to register it; others did not
        _written(mlflow_at, "UPDATE model_versions SET storage_location = ? WHERE name = ?", place, name)
        assert set(_bytes(opened(f"models:/{name}/1"))) == {"MLmodel", "data/weights 1.bin"}
    assert other.seen
    assert not [seen for seen in other.seen if "authorization" in seen]


def test_a_server_that_is_away_is_unreachable(mlflow_at: Any, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no server there every uri is unreachable, which heals, and the text names the address."""
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for uri in ("models:/iris@champion", "runs:/abc/model"):
        with pytest.raises(
            ArtifactUnreachable, match=f"^{uri}: {address}.*; is the server up, and its address in MLFLOW"
        ):
            opened(uri).pin()
    with pytest.raises(ArtifactUnreachable, match=address):
        opened("mlflow-artifacts:/0/abc").pin()


def test_the_registry_may_be_another_server(
    kept: _Made, opened: Any, mlflow_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered models are asked of MLFLOW_REGISTRY_URI; runs and logged models of MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{free_port()}")
    assert opened(f"models:/{kept.models[0]}").pin()
    with pytest.raises(ArtifactUnreachable):
        opened(f"models:/{kept.name}/1").pin()


def test_a_path_of_an_address_is_kept(
    kept: _Made, opened: Any, mlflow_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracking address with a path that is no MLflow's says what was expected there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{kept.client.tracking_uri}/somewhere/")
    with pytest.raises(ArtifactNotFound, match="expected an MLflow server with its REST API"):
        opened(f"models:/{kept.name}/1").pin()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("postgresql://user:hunter22@db/mlflow", "start `mlflow server"),
        ("mysql+pymysql://user:hunter22@db/mlflow", "start `mlflow server"),
        ("databricks", "Unity Catalog"),
        ("databricks-uc://profile", "Unity Catalog"),
        ("", "MLFLOW_TRACKING_URI is not set"),
    ],
)
def test_a_store_that_is_not_read_is_refused(
    address: str, text: str, opened: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A store of another kind is refused with what to do, and without its password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with pytest.raises(SettingsError, match=text) as caught:
        opened("models:/iris/1").pin()
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["models:/", "models:/iris", "models:/iris@", "models:/@champion", "models://host/iris/1"]
)
def test_a_uri_of_no_model_is_refused(uri: str) -> None:
    """A uri that names no version is refused before anybody is asked, with the forms that there are."""
    with pytest.raises(SettingsError, match="models:/NAME/VERSION"):
        mlflow.named(uri)


@pytest.fixture
def local(mlflow_at: Any, kept: _Made, tmp_path: Path) -> Path:
    """A copy of what the server wrote into SQLite."""
    database, path = mlflow_at.folder / "db.sqlite", tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    return tmp_path / "copy.db"


def test_sqlite_says_what_the_server_says(kept: _Made, mlflow_at: Any, local: Path) -> None:
    """The SQLite file answers every question as the server over it does."""
    server, database = Server(server_at(mlflow_at.url, environ={}, timeout_seconds=120)), Database(str(local))
    _same_answers(server, database, kept)
    server.close()


def test_sqlite_leads_to_files(
    kept: _Made, mlflow_at: Any, local: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the SQLite file as the store, files on this disk are read; those behind a server are said to be there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{local}")
    assert opened(f"models:/{kept.name}@champion").pin().version == "1"
    with pytest.raises(SettingsError, match="its files are behind an MLflow server: set MLFLOW_TRACKING_URI"):
        opened(f"models:/{kept.name}@champion").entries()
    place = mlflow_at.folder / "artifacts" / "0" / "models" / kept.models[0] / "artifacts"
    with contextlib.closing(sqlite3.connect(local)) as connection, connection:
        connection.execute("UPDATE model_versions SET storage_location = ? WHERE name = ?", (str(place), kept.name))
    assert _bytes(opened(f"models:/{kept.name}@champion"))["MLmodel"] == b"flavors: {}\nnumber: 1\n"


def test_a_folder_says_what_mlflow_wrote(
    made: _Made, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's folder answers as MLflow's own client of that folder does, and leads to the files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    folder = tmp_path / "mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{folder}")
    client = MlflowClient(tracking_uri=f"file://{folder}", registry_uri=f"file://{folder}")
    client.search_experiments()
    other = _Made(client, tmp_path / "own", versions=2)
    client.set_registered_model_alias(other.name, "champion", "1")
    store = Folder(str(folder))
    assert store.aliased(other.name, "champion").number == "1"
    assert store.newest(other.name, None).number == "2"
    assert store.registered(other.name).aliases == {"champion": "1"}
    assert store.logged(other.models[0]).location == client.get_logged_model(other.models[0]).artifact_location
    found = store.logged_by(other.run_id, "model")
    assert found is not None
    assert found.model_id in other.models
    assert store.artifacts_of(other.run_id) == client.get_run(other.run_id).info.artifact_uri
    assert store.location(store.version(other.name, "2")) == client.get_model_version_download_uri(other.name, "2")
    assert _bytes(opened(f"models:/{other.name}@champion"))["MLmodel"] == b"flavors: {}\nnumber: 1\n"
    assert _bytes(opened(f"runs:/{other.run_id}/model/data"))
    client.delete_model_version(other.name, "2")
    assert store.newest(other.name, None).number == "1"
    with pytest.raises(ArtifactNotFound):
        store.version(other.name, "2")
    with pytest.raises(ArtifactNotFound):
        store.version("../other", "1")


def _same_answers(one: Any, other: Any, made: _Made) -> None:
    for ask in (
        lambda store: store.version(made.name, "2"),
        lambda store: store.aliased(made.name, "champion"),
        lambda store: store.newest(made.name, None),
        lambda store: store.location(store.version(made.name, "1")),
        lambda store: store.registered(made.name),
        lambda store: store.logged(made.models[0]),
        lambda store: store.artifacts_of(made.run_id),
        lambda store: store.logged_by(made.run_id, "nothing"),
    ):
        assert ask(one) == ask(other)
    assert other.logged_by(made.run_id, "model").model_id in made.models
    for ask in (
        lambda store: store.version(made.name, "9"),
        lambda store: store.aliased(made.name, "nobody"),
        lambda store: store.newest("nobody", None),
        lambda store: store.registered("nobody"),
        lambda store: store.logged("m-none"),
        lambda store: store.artifacts_of("none"),
    ):
        for store in (one, other):
            with pytest.raises(ArtifactNotFound):
                ask(store)


def test_what_is_no_database_of_mlflow_is_named(tmp_path: Path) -> None:
    """A file that is no SQLite, one without MLflow's tables, and one that is not there are three texts."""
    (tmp_path / "text.db").write_text("no database" * 1000)
    with pytest.raises(ArtifactCorrupt, match="is no SQLite database"):
        Database(str(tmp_path / "text.db")).registered("iris")
    with contextlib.closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
    with pytest.raises(ArtifactFailed, match="start `mlflow server"):
        Database(str(tmp_path / "empty.db")).registered("iris")
    with pytest.raises(ArtifactNotFound, match="no such file"):
        Database(str(tmp_path / "none.db")).registered("iris")
