"""`mlflow deployments ... -t headrace`: MLflow's own commands and client, with a running Headrace server as target.

MLflow finds this module by the entry point `mlflow.deployments` and calls `run_local`, `target_help` and the methods of
`HeadraceDeploymentClient`, which ask the server's control API; a deployment is a resource of the kind Model. See
https://mlflow.org/docs/latest/plugins.html#deployment-plugins.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

import msgspec
import yaml
from mlflow.deployments import PredictionsResponse
from mlflow.deployments.base import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    NOT_IMPLEMENTED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from headrace.client.control import DEFAULT_URL, ControlClient, Resource
from headrace.client.http import Client
from headrace.errors import (
    Conflict,
    HeadraceError,
    InvalidRequest,
    InvalidResources,
    ModelNotReady,
    NotFound,
    NotSupported,
    SettingsError,
    Temporary,
    Throttled,
)

TARGET: Final = "headrace"
_KIND: Final = "Model"
_API_VERSION: Final = "headrace.io/v1"
_SERVING_PORT: Final = 8080
_FAILED: Final = ("Failed", "RolledBack")
"""Ends of the reasons of a model that will not get ready by itself."""
_FORMS: Final = frozenset({"dataframe_split", "dataframe_records", "instances", "inputs"})
_CODES: Final[tuple[tuple[type[HeadraceError], int], ...]] = (
    (NotFound, RESOURCE_DOES_NOT_EXIST),
    (Conflict, RESOURCE_CONFLICT),
    (Throttled, REQUEST_LIMIT_EXCEEDED),
    (Temporary, TEMPORARILY_UNAVAILABLE),
    (NotSupported, NOT_IMPLEMENTED),
    (InvalidResources, INVALID_PARAMETER_VALUE),
    (SettingsError, INVALID_PARAMETER_VALUE),
    (InvalidRequest, INVALID_PARAMETER_VALUE),
)
"""The first class that an error is of says its code of MLflow's."""

_HELP: Final = """\
Deploys to a running Headrace server (`headrace serve`); a deployment is a model that it serves.

Target: `headrace` is the server on this machine. `headrace:http://HOST:8083` is the one whose control API is there; its
models answer on port 8080 of the same host, or where `?url=http://HOST:PORT` says.
HEADRACE_CONTROL_URL and HEADRACE_URL say the same for `headrace` alone. HEADRACE_CONTROL_TOKEN is shown to the control
API, and HEADRACE_API_KEY to a server whose models are asked with keys.

Model uri: a folder (of the server's machine), or what the server fetches itself: models:/NAME/VERSION,
models:/NAME@ALIAS, runs:/RUN/PATH, s3://..., with the server's credentials and its MLFLOW_TRACKING_URI.

Config (-C KEY=VALUE):
  timeout=SECONDS     how long to wait until the model answers; default 300
  download=FOLDER     fetch the model here by MLflow into this folder, which the server must see, and deploy that
  anything else       a field of the spec of a Model: replicas=2, environment=build, batching.maxBatchSize=32,
                      followSeconds=30, canaryTrafficPercent=10, parameters.batchable=true; `headrace get schema model`

Flavor: python_function or none; the server finds the fastest way to answer by itself.

Examples:
  mlflow deployments create -t headrace --name iris -m models:/iris@champion
  mlflow deployments update -t headrace --name iris -m models:/iris/4 -C canaryTrafficPercent=10
  mlflow deployments predict -t headrace --name iris -I rows.json
  mlflow deployments delete -t headrace --name iris
"""


class _Manifest(msgspec.Struct, frozen=True):
    """A manifest as the control client takes it."""

    name: str
    text: str
    base: str


class Target(msgspec.Struct, frozen=True):
    """Where the server is."""

    control_url: str
    url: str
    """Where its models answer."""


def target_help() -> str:
    """What `mlflow deployments help -t headrace` shows."""
    return _HELP


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Serve a model on this machine until Ctrl-C: `headrace serve`, each member of the config being a flag of it.

    Raises:
        MlflowException: the server ended with an error, which it has told.
    """
    _check_flavor(flavor)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in (config or {}).items()]
    command = [sys.executable, "-m", "headrace", "serve", "--name", name, *flags, "--", model_uri]
    ended = subprocess.run(command, check=False)  # noqa: S603 - the interpreter's own, without a shell
    if ended.returncode:
        raise MlflowException(f"headrace serve ended with exit code {ended.returncode}", INTERNAL_ERROR)


def parse_target(uri: str, environment: Mapping[str, str]) -> Target:
    """What a target uri names: `headrace`, `headrace:http://host:8083`, `headrace://host:8083?url=http://host:8080`.

    `headrace:/http://host:8083` is the second, in MLflow's way of writing a target.

    Raises:
        MlflowException: it names no server.
    """
    rest = uri.removeprefix(TARGET).removeprefix(":")
    rest = f"http:{rest}" if rest.startswith("//") else rest.removeprefix("/")
    parts = urlsplit(rest)
    query = parse_qs(parts.query)
    names_none = parts._replace(query="").geturl() == ""
    if set(query) - {"url"} or not (names_none or (parts.hostname and parts.scheme in {"http", "https"})):
        raise MlflowException(
            f"target {uri!r} names no server; expected headrace or headrace:http://HOST:8083?url=http://HOST:8080",
            INVALID_PARAMETER_VALUE,
        )
    if names_none:
        control = environment.get("HEADRACE_CONTROL_URL") or DEFAULT_URL
        serving = environment.get("HEADRACE_URL", "")
    else:
        control = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        serving = ""
    host = urlsplit(control).hostname or "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    serving = query.get("url", [serving])[0] or f"http://{host}:{_SERVING_PORT}"
    return Target(control, serving)


def spec_of(model_uri: str, config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a Model.

    Args:
        model_uri: As MLflow was given it; empty: as before.
        config: Fields of the spec; a dot leads into a part. Texts are read as YAML: `2` is a number.
        before: The spec as it stands.

    Raises:
        MlflowException: a field is said to be inside of something that is no part.
    """
    spec: dict[str, Any] = json.loads(msgspec.json.encode(before))
    if model_uri:
        is_path = ":" not in model_uri or Path(model_uri).exists()
        spec["uri"] = str(Path(model_uri).absolute()) if is_path else model_uri
    for key, value in config.items():
        names = key.split(".")
        if names[0] != "parameters":  # the runtime's own, by its own names
            names = list(map(_camel, names))
        *outer, last = names
        part = spec
        for name in outer:
            part = part.setdefault(name, {})
            if not isinstance(part, dict):
                raise MlflowException(f"config {key!r}: {name} has no parts", INVALID_PARAMETER_VALUE)
        part[last] = _read(key, value)
    return spec


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _read(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise MlflowException(f"config {key!r} is no YAML value", INVALID_PARAMETER_VALUE) from exc


def _check_flavor(flavor: str | None) -> None:
    if flavor not in {None, "", "python_function"}:
        raise MlflowException(
            f"flavor {flavor!r} is not deployed by itself: leave it out, or say python_function",
            INVALID_PARAMETER_VALUE,
        )


@contextlib.contextmanager
def _as_mlflows() -> Iterator[None]:
    """Errors of ours as MLflow's, whose callers know no others."""
    try:
        yield
    except HeadraceError as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL_ERROR)
        raise MlflowException(str(error), code) from error


class HeadraceDeploymentClient(BaseDeploymentClient):
    """Deployments on a Headrace server. Calls block until it is done; errors are `MlflowException`.

    Example:
        >>> from mlflow.deployments import get_deploy_client  # doctest: +SKIP
        >>> client = get_deploy_client("headrace:http://127.0.0.1:8083")  # doctest: +SKIP
        >>> client.create_deployment("iris", "models:/iris@champion")["name"]  # doctest: +SKIP
        'iris'

    Args:
        target_uri: As of `parse_target`.
    """

    def __init__(self, target_uri: str = TARGET) -> None:
        super().__init__(target_uri)  # type: ignore[no-untyped-call]  # MLflow's has no types
        self.target = parse_target(target_uri, os.environ)

    # -- to change --

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a model, and wait until it answers. What cannot be loaded is taken away again.

        Args:
            name: What it is called, in paths too.
            model_uri: Where it is; see `target_help`.
            flavor: `python_function` or none.
            config: See `target_help`.
            endpoint: None: there is only the server.

        Raises:
            MlflowException: there is one of this name, the spec is refused, or the model cannot be loaded.
        """
        _check_flavor(flavor)
        _check_endpoint(endpoint)
        with _as_mlflows(), self._control() as control:
            if _found(control, name) is not None:
                raise MlflowException(
                    f"there is a deployment {name!r} on {control.url}; update or delete it", RESOURCE_ALREADY_EXISTS
                )
            try:
                resource = self._apply(control, name, model_uri, dict(config or {}), {})
            except ModelNotReady:
                with contextlib.suppress(NotFound):
                    control.delete(_KIND, name)
                raise
        return {**_described(resource), "flavor": flavor or "python_function"}

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model, or the same otherwise, under the name; the old one answers until the new one is ready,
        and goes on where the new one cannot be loaded. Arguments and errors as of `create_deployment`.
        """
        _check_flavor(flavor)
        _check_endpoint(endpoint)
        with _as_mlflows(), self._control() as control:
            before = _existing(control, name)
            resource = self._apply(control, name, model_uri or "", dict(config or {}), before.spec)
        return {**_described(resource), "flavor": flavor or "python_function"}

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Serve it no more. One that is not there is no error.

        Args:
            name: Of the deployment.
            config: `force=true`: although pipelines or experiments need it.
            endpoint: None.

        Raises:
            MlflowException: others need it.
        """
        _check_endpoint(endpoint)
        options = dict(config or {})
        force = bool(_read("force", options.pop("force", False)))
        if options:
            raise MlflowException(f"unknown config {', '.join(options)}: expected force", INVALID_PARAMETER_VALUE)
        with _as_mlflows(), self._control() as control, contextlib.suppress(NotFound):
            control.delete(_KIND, name, force=force)

    # -- to look --

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All models that are declared on the server."""
        _check_endpoint(endpoint)
        with _as_mlflows(), self._control() as control:
            return [_described(each) for each in control.get(_KIND)]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """What a deployment is, and what became of it.

        Raises:
            MlflowException: there is none of the name.
        """
        _check_endpoint(endpoint)
        with _as_mlflows(), self._control() as control:
            return _described(_existing(control, name))

    # -- to ask --

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Ask the model.

        Args:
            deployment_name: Which.
            inputs: A DataFrame, an array, a list, arrays by name, or a body of the scoring protocol.
            endpoint: None.

        Raises:
            MlflowException: the inputs are refused, or the model fails.
        """
        _check_endpoint(endpoint)
        name = _named(deployment_name)
        with _as_mlflows(), self._serving() as client:
            return PredictionsResponse(json.loads(client.invoke(body_of(inputs), model=name)))

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Why the model answers what it answers to each row, by its own explainer or one that suits it.

        Raises:
            MlflowException: it has none, or the rows are refused.
        """
        _check_endpoint(endpoint)
        name = _named(deployment_name)
        with _as_mlflows(), self._serving() as client:
            values = {str(column): df[column].to_numpy() for column in df.columns} if hasattr(df, "columns") else df
            return [json.loads(msgspec.json.encode(each)) for each in client.explain(values, model=name)]

    # -- steps --

    def _control(self) -> ControlClient:
        return ControlClient(self.target.control_url, token=os.environ.get("HEADRACE_CONTROL_TOKEN", ""), user="mlflow")

    def _serving(self) -> Client:
        key = os.environ.get("HEADRACE_API_KEY", "")
        return Client(self.target.url, headers={"Authorization": f"Bearer {key}"} if key else {})

    def _apply(
        self, control: ControlClient, name: str, model_uri: str, config: dict[str, Any], before: Mapping[str, Any]
    ) -> Resource:
        timeout = _read("timeout", config.pop("timeout", 300.0))
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or timeout <= 0:
            raise MlflowException(f"config timeout is {timeout!r}; expected seconds", INVALID_PARAMETER_VALUE)
        folder = config.pop("download", "")
        if folder and model_uri:
            model_uri = _download(model_uri, Path(str(folder)).absolute())
        document = {
            "apiVersion": _API_VERSION,
            "kind": _KIND,
            "metadata": {"name": name},
            "spec": spec_of(model_uri, config, before),
        }
        control.apply([_Manifest(f"mlflow deployment {name}", json.dumps(document), str(Path.cwd()))])
        key = (_KIND, name)
        resource = control.wait([key], timeout_seconds=timeout, until=_has_failed)[key]
        if _has_failed(resource):
            ready = resource.condition()
            raise ModelNotReady(f"deployment '{name}' is not ready: {ready.message or ready.reason if ready else ''}")
        return resource


def body_of(inputs: Any) -> bytes:
    """Inputs as a body of the scoring protocol.

    Raises:
        MlflowException: they are nothing that it carries.
    """
    from mlflow.utils.proto_json_utils import NumpyEncoder

    if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
        split = inputs.to_dict(orient="split")
        document: Any = {"dataframe_split": {"columns": split["columns"], "data": split["data"]}}
    elif isinstance(inputs, Mapping) and _FORMS & set(inputs):
        document = inputs
    elif inputs is None:
        raise MlflowException("there are no inputs; give a DataFrame, an array or a list", INVALID_PARAMETER_VALUE)
    else:
        document = {"inputs": inputs}
    try:
        # NaN is no JSON; the scoring protocol has null for it
        return msgspec.json.encode(json.loads(json.dumps(document, cls=NumpyEncoder)))
    except (TypeError, ValueError) as exc:
        raise MlflowException(f"the inputs are nothing that JSON carries: {exc}", INVALID_PARAMETER_VALUE) from exc


def _download(model_uri: str, folder: Path) -> str:
    import mlflow.artifacts

    folder.mkdir(parents=True, exist_ok=True)
    return str(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=str(folder)))


def _has_failed(resource: Resource) -> bool:
    ready = resource.condition()
    return ready is not None and ready.status == "False" and ready.reason.endswith(_FAILED)


def _found(control: ControlClient, name: str) -> Resource | None:
    try:
        return control.get(_KIND, name)[0]
    except NotFound:
        return None


def _existing(control: ControlClient, name: str) -> Resource:
    found = _found(control, name)
    if found is None:
        raise NotFound(f"there is no deployment '{name}' on {control.url}")
    return found


def _described(resource: Resource) -> dict[str, Any]:
    ready = resource.condition()
    return {
        "name": resource.metadata.name,
        "model_uri": resource.spec.get("uri", ""),
        "ready": ready is not None and ready.status == "True",
        "status": "" if ready is None else ready.reason,
        "message": "" if ready is None else ready.message,
        "revision": resource.status.revision,
        "ready_revision": resource.status.ready_revision,
        "spec": json.loads(msgspec.json.encode(resource.spec)),
    }


def _named(name: str | None) -> str:
    if not name:
        raise MlflowException("name the deployment that is asked", INVALID_PARAMETER_VALUE)
    return name


def _check_endpoint(endpoint: str | None) -> None:
    if endpoint:
        raise MlflowException(
            f"endpoint {endpoint!r}: a Headrace server has no endpoints of MLflow's; name a deployment",
            INVALID_PARAMETER_VALUE,
        )
