"""What MLflow keeps in writing: registered models, their versions and aliases, logged models, runs. It is asked of a
tracking server, or read from the SQLite file or the folder that MLflow writes without one. `artifacts.mlflow` asks;
MLflow itself is not imported. Read from MLflow 3.17 (REST API 2.0; `store/model_registry`, `store/tracking`).
"""

from __future__ import annotations

import configparser
import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote

import msgspec
import yaml

from headrace.artifacts.rest import Answer, Rest, basic, tls_context
from headrace.artifacts.secrets import Secret
from headrace.errors import ArtifactCorrupt, ArtifactFailed, ArtifactNotFound, ArtifactUnreachable, SettingsError

API: Final = "/api/2.0/mlflow"
_STAGES: Final = ("None", "Staging", "Production", "Archived")
_DELETED: Final = "Deleted_Internal"
"""The stage of versions that were deleted and left in writing."""
_REMEDY: Final = (
    "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, or ~/.mlflow/credentials"
)
_DATABRICKS: Final = frozenset({"databricks", "databricks-uc", "uc"})
"""Words that MLflow takes for an address."""
_YES: Final = frozenset({"1", "true", "yes"})
_MOST_PAGES: Final = 1000


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a registered model."""

    name: str
    number: str
    source: str
    """Where it was registered from: a uri, `models:/m-ID` among them."""
    created: int = 0
    """Milliseconds since the epoch. The number of a deleted version may be given again; this may not."""
    run_id: str = ""
    status: str = "READY"
    stage: str = "None"


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """A logged model (MLflow 3)."""

    model_id: str
    location: str
    """Uri of its folder."""
    status: str = "READY"
    """`PENDING`, `READY`, `FAILED`."""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """What a registered model has, for messages."""

    newest: str = ""
    """Its highest version; empty: it has none."""
    aliases: Mapping[str, str] = MappingProxyType({})
    """To version."""


class Store(Protocol):
    """Who knows the models and runs. Methods block, and may be called from several threads.

    What is not there raises ArtifactNotFound; other causes of ArtifactFailed are as of a Source.
    """

    name: str
    """For messages."""

    def version(self, name: str, number: str) -> Version:
        """A version by number."""

    def aliased(self, name: str, alias: str) -> Version:
        """The version that an alias names."""

    def newest(self, name: str, stage: str | None) -> Version:
        """The highest version, of a stage or of all."""

    def location(self, version: Version) -> str:
        """The uri of a version's folder."""

    def registered(self, name: str) -> Registered:
        """What a registered model has."""

    def logged(self, model_id: str) -> Logged:
        """A logged model."""

    def logged_by(self, run_id: str, name: str) -> Logged | None:
        """The logged model of a run with this name; None: the run logged none under it."""

    def artifacts_of(self, run_id: str) -> str:
        """The uri of a run's folder of artifacts."""

    def close(self) -> None:
        """Let go of connections."""


def open_store(address: str, *, environ: Mapping[str, str], timeout_seconds: float, setting: str) -> Store:
    """The store at an address.

    Args:
        address: As MLflow takes it: `http(s)://`, `sqlite:///FILE`, `file:` or a folder.
        environ: Holds MLflow's variables of credentials and TLS.
        timeout_seconds: Of connections.
        setting: The variable the address came from, for messages.

    Raises:
        SettingsError: it is of another kind.
    """
    scheme = address.partition(":")[0].lower() if ":" in address else ""
    if scheme in {"http", "https"}:
        return Server(server_at(address, environ=environ, timeout_seconds=timeout_seconds))
    if scheme == "sqlite":
        return Database(unquote(address.partition(":///")[2].partition("?")[0]))
    if scheme == "file":
        path = address[len("file:") :]
        return Folder(unquote(path.removeprefix("//localhost") if path.startswith("//l") else _slashes(path)))
    if not scheme and address not in _DATABRICKS:
        return Folder(address)
    # the address of a database may hold a password: only its scheme is shown
    if scheme.startswith(("postgresql", "mysql", "mssql")):
        raise SettingsError(
            f"{setting}: a {scheme} database is read by MLflow's own server; start `mlflow server "
            f"--backend-store-uri ...` and set {setting} to its http(s) address"
        )
    raise SettingsError(
        f"{setting}: expected http(s)://HOST, sqlite:///FILE or a folder of MLflow's, got {(scheme or address)!r}; "
        "models of Databricks and of Unity Catalog are not read: copy them to a store, or serve them from a folder"
    )


def server_at(address: str, *, environ: Mapping[str, str], timeout_seconds: float, is_trusted: bool = True) -> Rest:
    """A tracking server, asked as MLflow's variables say.

    Args:
        address: Its URL.
        environ: Holds the variables.
        timeout_seconds: Of connections.
        is_trusted: Whether credentials are sent.

    Raises:
        SettingsError: a variable asks for what is not supported, or names no certificate.
    """
    for name in ("MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_AUTH"):
        if environ.get(name, "").lower() not in {"", "0", "false"}:
            raise SettingsError(f"{name}: only user and password, a token, or a client certificate are supported")
    headers: dict[str, Secret] = {}
    if is_trusted:
        user, password = _user(environ)
        if user and password:
            headers["Authorization"] = Secret(basic(user, password))
        elif token := environ.get("MLFLOW_TRACKING_TOKEN", ""):
            headers["Authorization"] = Secret(f"Bearer {token}")
    if workspace := environ.get("MLFLOW_WORKSPACE", ""):
        headers["X-MLFLOW-WORKSPACE"] = Secret(workspace)
    context = None
    if address.lower().startswith("https:"):
        authorities = next(
            (name for name in ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE") if environ.get(name)), ""
        )
        context = tls_context(
            ca_path=environ.get(authorities, ""),
            client_cert_path=environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH", "") if is_trusted else "",
            verify=environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in _YES,
            setting=f"{authorities or 'SSL_CERT_FILE'}, MLFLOW_TRACKING_CLIENT_CERT_PATH",
        )
    return Rest(address, headers=headers, context=context, timeout_seconds=timeout_seconds, remedy=_REMEDY)


def _user(environ: Mapping[str, str]) -> tuple[str, str]:
    user, password = environ.get("MLFLOW_TRACKING_USERNAME", ""), environ.get("MLFLOW_TRACKING_PASSWORD", "")
    path = Path(environ.get("HOME", "")) / ".mlflow" / "credentials"
    if (user and password) or not environ.get("HOME") or not path.is_file():
        return user, password
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path)
        kept: Mapping[str, str] = dict(parser["mlflow"]) if parser.has_section("mlflow") else {}
    except (OSError, configparser.Error, UnicodeDecodeError):
        # the cause would quote a line of the file
        raise SettingsError(f"{path}: expected an INI file with a section [mlflow]") from None
    return user or kept.get("mlflow_tracking_username", ""), password or kept.get("mlflow_tracking_password", "")


class Server:
    """A tracking server, over its REST API.

    Args:
        rest: Asks it.
    """

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        self.name = f"MLflow at {rest.origin}"

    def version(self, name: str, number: str) -> Version:
        """As of Store."""
        found = self._get("model-versions/get", {"name": name, "version": number}, f"version {number} of {name!r}")
        return _version(found.get("model_version"), self.name)

    def aliased(self, name: str, alias: str) -> Version:
        """As of Store."""
        found = self._get("registered-models/alias", {"name": name, "alias": alias}, f"alias {alias!r} of {name!r}")
        return _version(found.get("model_version"), self.name)

    def newest(self, name: str, stage: str | None) -> Version:
        """As of Store."""
        body = {"name": name} | ({"stages": [stage]} if stage else {})
        found = self._get("registered-models/get-latest-versions", body, f"model {name!r}", post=True)
        return _newest([_version(each, self.name) for each in found.get("model_versions", ())], name, stage, self.name)

    def location(self, version: Version) -> str:
        """As of Store."""
        what = f"version {version.number} of {version.name!r}"
        query = {"name": version.name, "version": version.number}
        return str(self._get("model-versions/get-download-uri", query, what).get("artifact_uri", ""))

    def registered(self, name: str) -> Registered:
        """As of Store."""
        found = self._get("registered-models/get", {"name": name}, f"model {name!r}").get("registered_model") or {}
        numbers = [str(each.get("version", "0")) for each in found.get("latest_versions", ())]
        aliases = {str(each["alias"]): str(each["version"]) for each in found.get("aliases", ())}
        return Registered(newest=max(numbers, key=int, default=""), aliases=aliases)

    def logged(self, model_id: str) -> Logged:
        """As of Store."""
        found = self._get(f"logged-models/{quote(model_id, safe='')}", {}, f"logged model {model_id}")
        return _logged(found.get("model"), self.name)

    def logged_by(self, run_id: str, name: str) -> Logged | None:
        """As of Store."""
        run = self._get("runs/get", {"run_id": run_id}, f"run {run_id}").get("run") or {}
        body: dict[str, Any] = {
            "experiment_ids": [str((run.get("info") or {}).get("experiment_id", "0"))],
            "filter": f"name = '{name}'",
        }
        if "'" in name:
            return None  # MLflow lets no logged model have such a name
        for _ in range(_MOST_PAGES):
            answer = self.rest.ask(f"{API}/logged-models/search", body=body)
            if answer.status == 404 and _code_of(answer) != "RESOURCE_DOES_NOT_EXIST":
                return None  # a server older than MLflow 3
            if answer.status != 200:
                raise self.rest.failed(answer, f"logged models of run {run_id}")
            found = answer.json()
            for each in found.get("models", ()):
                if (each.get("info") or {}).get("source_run_id") == run_id:
                    return _logged(each, self.name)
            if not found.get("next_page_token"):
                return None
            body["page_token"] = found["next_page_token"]
        return None

    def artifacts_of(self, run_id: str) -> str:
        """As of Store."""
        run = self._get("runs/get", {"run_id": run_id}, f"run {run_id}").get("run") or {}
        return str((run.get("info") or {}).get("artifact_uri", ""))

    def close(self) -> None:
        """As of Store."""
        self.rest.close()

    def _get(self, path: str, query: Mapping[str, Any], what: str, *, post: bool = False) -> dict[str, Any]:
        url = f"{API}/{path}"
        answer = self.rest.ask(url, body=query) if post else self.rest.ask(url, query=query)
        if answer.status == 200:
            found = answer.json()
            if isinstance(found, dict):
                return found
            raise ArtifactCorrupt(f"{self.name}: expected an object about {what}; is this an MLflow server?")
        code = _code_of(answer)
        if code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            # MLflow answers 400 for an alias that is not there
            raise ArtifactNotFound(f"{self.name} has no {what}") from self.rest.failed(answer)
        if answer.status == 404:
            raise ArtifactNotFound(
                f"{self.name} has no {API}: expected an MLflow server with its REST API; check MLFLOW_TRACKING_URI"
            )
        raise self.rest.failed(answer, what)


class Database:
    """The SQLite file of MLflow, read only.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.name = f"sqlite:///{path}"

    def version(self, name: str, number: str) -> Version:
        """As of Store."""
        return self._versions(name, "version = ?", (int(number),), f"version {number} of {name!r}")[0]

    def aliased(self, name: str, alias: str) -> Version:
        """As of Store."""
        where = "version IN (SELECT a.version FROM registered_model_aliases a WHERE a.name = m.name AND a.alias = ?)"
        return self._versions(name, where, (alias,), f"alias {alias!r} of {name!r}")[0]

    def newest(self, name: str, stage: str | None) -> Version:
        """As of Store."""
        return _newest(self._versions(name, "1 = 1", (), f"model {name!r}"), name, stage, self.name)

    def location(self, version: Version) -> str:
        """As of Store."""
        sql = "SELECT COALESCE(NULLIF(storage_location, ''), source) FROM model_versions WHERE name = ? AND version = ?"
        return str(self._one(sql, (version.name, int(version.number)), f"version {version.number}")[0])

    def registered(self, name: str) -> Registered:
        """As of Store."""
        self._one("SELECT name FROM registered_models WHERE name = ?", (name,), f"model {name!r}")
        newest = self._rows("SELECT MAX(version) FROM model_versions WHERE name = ?", (name,))[0][0]
        aliases = self._rows("SELECT alias, version FROM registered_model_aliases WHERE name = ?", (name,))
        return Registered(
            newest="" if newest is None else str(newest), aliases={str(alias): str(number) for alias, number in aliases}
        )

    def logged(self, model_id: str) -> Logged:
        """As of Store."""
        sql = "SELECT artifact_location, status FROM logged_models WHERE model_id = ? AND lifecycle_stage = 'active'"
        location, status = self._one(sql, (model_id,), f"logged model {model_id}")
        return Logged(model_id=model_id, location=str(location), status=_LOGGED_STATUS.get(status, "READY"))

    def logged_by(self, run_id: str, name: str) -> Logged | None:
        """As of Store."""
        sql = (
            "SELECT model_id, artifact_location, status FROM logged_models WHERE source_run_id = ? AND name = ? "
            "AND lifecycle_stage = 'active' ORDER BY creation_timestamp_ms DESC LIMIT 1"
        )
        rows = self._rows(sql, (run_id, name))
        if not rows:
            return None
        model_id, location, status = rows[0]
        return Logged(model_id=str(model_id), location=str(location), status=_LOGGED_STATUS.get(status, "READY"))

    def artifacts_of(self, run_id: str) -> str:
        """As of Store."""
        return str(self._one("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,), f"run {run_id}")[0])

    def close(self) -> None:
        """As of Store."""

    def _versions(self, name: str, where: str, values: tuple[Any, ...], what: str) -> list[Version]:
        sql = (
            "SELECT m.version, m.source, m.creation_time, m.run_id, m.status, m.current_stage FROM model_versions m "  # noqa: S608 - `where` is ours
            f"WHERE m.name = ? AND COALESCE(m.current_stage, '') != '{_DELETED}' AND {where}"
        )
        found = [
            Version(
                name=name,
                number=str(number),
                source=source or "",
                created=created or 0,
                run_id=run_id or "",
                status=status or "READY",
                stage=stage or "None",
            )
            for number, source, created, run_id, status, stage in self._rows(sql, (name, *values))
        ]
        if not found:
            raise ArtifactNotFound(f"{self.name} has no {what}")
        return found

    def _one(self, sql: str, values: tuple[Any, ...], what: str) -> Sequence[Any]:
        rows = self._rows(sql, values)
        if not rows:
            raise ArtifactNotFound(f"{self.name} has no {what}")
        return rows[0]

    def _rows(self, sql: str, values: tuple[Any, ...]) -> list[Sequence[Any]]:
        if not Path(self._path).is_file():
            raise ArtifactNotFound(f"{self.name}: there is no such file; check MLFLOW_TRACKING_URI")
        address = f"file:{quote(os.path.abspath(self._path))}?mode=ro"  # noqa: PTH100 - links stay as they are
        try:
            with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
                return list(connection.execute(sql, values))
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc) or "busy" in str(exc):
                raise ArtifactUnreachable(f"{self.name}: is being written: {exc}") from exc
            raise ArtifactFailed(
                f"{self.name}: cannot be read as MLflow's database ({exc}); start `mlflow server --backend-store-uri "
                f"{self.name}` and set MLFLOW_TRACKING_URI to its http address"
            ) from exc
        except sqlite3.DatabaseError as exc:
            raise ArtifactCorrupt(f"{self.name}: is no SQLite database: {exc}") from exc


_LOGGED_STATUS: Final[Mapping[int, str]] = MappingProxyType({1: "PENDING", 2: "READY", 3: "FAILED"})
"""Of MLflow's `LoggedModelStatus`, as its database has it."""


class Folder:
    """The folder that MLflow writes as a file store.

    Args:
        path: Of the folder.
    """

    def __init__(self, path: str) -> None:
        self._root = Path(path)
        self.name = str(self._root)

    def version(self, name: str, number: str) -> Version:
        """As of Store."""
        what = f"version {number} of {name!r}"
        found = self._version(self._meta(self._model(name) / f"version-{number}", what), name, number)
        if found.stage == _DELETED:
            raise ArtifactNotFound(f"{self.name} has no {what}")
        return found

    def aliased(self, name: str, alias: str) -> Version:
        """As of Store."""
        number = self.registered(name).aliases.get(alias)
        if number is None:
            raise ArtifactNotFound(f"{self.name} has no alias {alias!r} of {name!r}")
        return self.version(name, number)

    def newest(self, name: str, stage: str | None) -> Version:
        """As of Store."""
        return _newest([self.version(name, number) for number in self._numbers(name)], name, stage, self.name)

    def location(self, version: Version) -> str:
        """As of Store."""
        what = f"version {version.number} of {version.name!r}"
        meta = self._meta(self._model(version.name) / f"version-{version.number}", what)
        return str(meta.get("storage_location") or meta.get("source") or "")

    def registered(self, name: str) -> Registered:
        """As of Store."""
        self._meta(self._model(name), f"model {name!r}")
        aliases = self._model(name) / "aliases"
        named = {each.name: each.read_text().strip() for each in _listed(aliases) if each.is_file()}
        return Registered(newest=max(self._numbers(name), key=int, default=""), aliases=named)

    def logged(self, model_id: str) -> Logged:
        """As of Store."""
        for experiment in _listed(self._root):
            folder = experiment / "models" / _one_name(model_id)
            if (folder / "meta.yaml").is_file():
                return self._logged(self._meta(folder, f"logged model {model_id}"))
        raise ArtifactNotFound(f"{self.name} has no logged model {model_id}")

    def logged_by(self, run_id: str, name: str) -> Logged | None:
        """As of Store."""
        experiment = self._run(run_id).parent
        for folder in _listed(experiment / "models"):
            meta = self._meta(folder, f"logged model {folder.name}")
            if meta.get("source_run_id") == run_id and meta.get("name") == name:
                return self._logged(meta)
        return None

    def artifacts_of(self, run_id: str) -> str:
        """As of Store."""
        return str(self._meta(self._run(run_id), f"run {run_id}").get("artifact_uri", ""))

    def close(self) -> None:
        """As of Store."""

    def _model(self, name: str) -> Path:
        return self._root / "models" / _one_name(name)

    def _run(self, run_id: str) -> Path:
        for experiment in _listed(self._root):
            if (experiment / _one_name(run_id) / "meta.yaml").is_file():
                return experiment / run_id
        raise ArtifactNotFound(f"{self.name} has no run {run_id}")

    def _numbers(self, name: str) -> list[str]:
        self._meta(self._model(name), f"model {name!r}")
        found = (each.name.removeprefix("version-") for each in _listed(self._model(name)))
        return [number for number in found if number.isdigit() and not self._is_deleted(name, number)]

    def _is_deleted(self, name: str, number: str) -> bool:
        meta = self._meta(self._model(name) / f"version-{number}", f"version {number} of {name!r}")
        return meta.get("current_stage") == _DELETED

    def _version(self, meta: Mapping[str, Any], name: str, number: str) -> Version:
        return Version(
            name=name,
            number=number,
            source=str(meta.get("source") or ""),
            created=int(meta.get("creation_timestamp") or 0),
            run_id=str(meta.get("run_id") or ""),
            status=str(meta.get("status") or "READY"),
            stage=str(meta.get("current_stage") or "None"),
        )

    def _logged(self, meta: Mapping[str, Any]) -> Logged:
        status = meta.get("status")
        return Logged(
            model_id=str(meta.get("model_id", "")),
            location=str(meta.get("artifact_location", "")),
            status=_LOGGED_STATUS.get(status, "READY") if isinstance(status, int) else _bare(status),
        )

    def _meta(self, folder: Path, what: str) -> dict[str, Any]:
        path = folder / "meta.yaml"
        try:
            found = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise ArtifactNotFound(f"{self.name} has no {what}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ArtifactCorrupt(f"{path}: cannot be read as YAML: {exc}") from exc
        if not isinstance(found, dict):
            raise ArtifactCorrupt(f"{path}: expected a mapping")
        return found


def _version(found: Any, store: str) -> Version:
    if not isinstance(found, dict) or "version" not in found:
        raise ArtifactCorrupt(f"{store}: expected a model version; is this an MLflow server?")
    return Version(
        name=str(found.get("name", "")),
        number=str(found["version"]),
        source=str(found.get("source", "")),
        created=int(found.get("creation_timestamp", 0)),
        run_id=str(found.get("run_id", "")),
        status=str(found.get("status", "READY")),
        stage=str(found.get("current_stage", "None")),
    )


def _logged(found: Any, store: str) -> Logged:
    info = found.get("info") if isinstance(found, dict) else None
    if not isinstance(info, dict) or "artifact_uri" not in info:
        raise ArtifactCorrupt(f"{store}: expected a logged model; is this an MLflow server?")
    return Logged(
        model_id=str(info.get("model_id", "")), location=str(info["artifact_uri"]), status=_bare(info.get("status"))
    )


def _bare(status: Any) -> str:
    return str(status or "READY").removeprefix("LOGGED_MODEL_").removesuffix("_REGISTRATION")


def _newest(found: Sequence[Version], name: str, stage: str | None, store: str) -> Version:
    wanted = [each for each in found if stage is None or each.stage.lower() == stage.lower()]
    if not wanted:
        of = f" in stage {stage!r}" if stage else ""
        raise ArtifactNotFound(f"{store} has no version of {name!r}{of}")
    return max(wanted, key=lambda each: int(each.number))


def stage_named(text: str) -> str | None:
    """A stage as MLflow writes it, by any case; None: there is no such stage."""
    return next((stage for stage in _STAGES if stage.lower() == text.lower()), None)


def _code_of(answer: Answer) -> str:
    try:
        found = answer.json()
    except ArtifactCorrupt:
        return ""
    return str(found.get("error_code", "")) if isinstance(found, dict) else ""


def _one_name(name: str) -> str:
    """A name that is a folder's, and leads nowhere else."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise ArtifactNotFound(f"{name!r} is no name of MLflow's")
    return name


def _listed(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir())) if folder.is_dir() else iter(())


def _slashes(path: str) -> str:
    return "/" + path.lstrip("/") if path.startswith("//") else path
