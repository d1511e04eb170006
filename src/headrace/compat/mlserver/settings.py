"""Settings of the server and of a model: explicit values, then the environment, then `.env`, then the defaults."""

from __future__ import annotations

import importlib
import json
import os
import sys
import types
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Dict, List, Optional, Type, Union, cast, get_args, get_origin

import pydantic
from pydantic import AliasChoices, ConfigDict, Field, ImportString, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from .types import MetadataTensor
from .version import __version__

ENV_FILE_SETTINGS = ".env"
ENV_PREFIX_SETTINGS = "MLSERVER_"
ENV_PREFIX_MODEL_SETTINGS = "MLSERVER_MODEL_"

DEFAULT_PARALLEL_WORKERS = 1
DEFAULT_ENVIRONMENTS_DIR = os.path.join(os.getcwd(), ".envs")
DEFAULT_METRICS_DIR = os.path.join(os.getcwd(), ".metrics")


class BaseSettings(pydantic.BaseModel):
    """Settings that are completed from the environment."""

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, validate_default=True, protected_namespaces=()
    )

    _env_prefix: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        super().__init__(**_merge(_from_environment(type(self)), values))

    def dict(
        self, by_alias: bool = True, exclude_unset: bool = True, exclude_none: bool = True, **kwargs: Any
    ) -> Dict[str, Any]:
        """What was set, under the names of the settings files."""
        return self.model_dump(by_alias=by_alias, exclude_unset=exclude_unset, exclude_none=exclude_none, **kwargs)

    def json(self, by_alias: bool = True, exclude_unset: bool = True, exclude_none: bool = True, **kwargs: Any) -> str:
        """What was set, as JSON."""
        return self.model_dump_json(by_alias=by_alias, exclude_unset=exclude_unset, exclude_none=exclude_none, **kwargs)


def _from_environment(kind: Type[BaseSettings]) -> Dict[str, Any]:
    """Values by field, or by first alias, that the environment holds."""
    variables = {name.lower(): value for name, value in {**_dotenv(), **os.environ}.items()}
    found: Dict[str, Any] = {}
    for field, info in kind.model_fields.items():
        alias = info.validation_alias
        key = str(alias.choices[0]) if isinstance(alias, AliasChoices) else field
        raw = variables.get((kind._env_prefix + key).lower())
        if raw is not None:
            found[key] = _parsed(raw, info.annotation, name=(kind._env_prefix + key).upper())
    return found


def _dotenv() -> Dict[str, str]:
    """Variables of `.env` in the working folder."""
    try:
        with open(ENV_FILE_SETTINGS, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    variables: Dict[str, str] = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = value.split(" #", 1)[0].rstrip()
        variables[name.strip()] = value
    return variables


def _parsed(raw: str, annotation: Any, *, name: str) -> Any:
    """A variable as its field takes it: lists and objects are JSON."""
    options = get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)
    structured = [option for option in options if _is_structured(option)]
    if not structured:
        return raw
    try:
        return json.loads(raw)
    except ValueError:
        if str in options:
            return raw
        raise ValueError(f"environment variable {name} must hold JSON") from None


def _is_structured(annotation: Any) -> bool:
    plain = get_origin(annotation) or annotation
    return isinstance(plain, type) and issubclass(plain, (list, dict, pydantic.BaseModel))


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> Dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


class CORSSettings(BaseSettings):
    """Which other sites may call the server."""

    model_config = ConfigDict(extra="ignore")
    _env_prefix: ClassVar[str] = ENV_PREFIX_SETTINGS

    allow_origins: Optional[List[str]] = []
    allow_origin_regex: Optional[str] = None
    allow_credentials: Optional[bool] = False
    allow_methods: Optional[List[str]] = ["GET"]
    allow_headers: Optional[List[str]] = []
    expose_headers: Optional[List[str]] = []
    max_age: Optional[int] = 600


class Settings(BaseSettings):
    """Settings of the server."""

    model_config = ConfigDict(extra="ignore")
    _env_prefix: ClassVar[str] = ENV_PREFIX_SETTINGS

    debug: bool = True
    parallel_workers: int = DEFAULT_PARALLEL_WORKERS
    parallel_workers_timeout: int = 5
    environments_dir: str = DEFAULT_ENVIRONMENTS_DIR
    model_repository_implementation: Optional[ImportString[Any]] = None
    model_repository_root: str = "."
    model_repository_implementation_args: dict = {}  # type: ignore[type-arg]  # the original has it so
    load_models_at_startup: bool = True
    server_name: str = "mlserver"
    server_version: str = __version__
    extensions: List[str] = []
    host: str = "0.0.0.0"  # noqa: S104 - the default that foreign settings have
    http_port: int = 8080
    root_path: str = ""
    grpc_port: int = 8081
    grpc_max_message_length: Optional[int] = None
    cors_settings: Optional[CORSSettings] = None
    metrics_endpoint: Optional[str] = "/metrics"
    metrics_port: int = 8082
    metrics_rest_server_prefix: str = "rest_server"
    metrics_dir: str = DEFAULT_METRICS_DIR
    use_structured_logging: bool = False
    logging_settings: Optional[Union[str, Dict[Any, Any]]] = None
    kafka_enabled: bool = False
    kafka_servers: str = "localhost:9092"
    kafka_topic_input: str = "mlserver-input"
    kafka_topic_output: str = "mlserver-output"
    tracing_server: Optional[str] = None
    cache_enabled: bool = False
    cache_size: int = 100
    gzip_enabled: bool = True

    _custom_rest_server_settings: Optional[Dict[str, Any]] = None
    _custom_metrics_server_settings: Optional[Dict[str, Any]] = None
    _custom_grpc_server_settings: Optional[Dict[str, Any]] = None


class ModelParameters(BaseSettings):
    """`parameters` of a model's settings; any name is allowed."""

    model_config = ConfigDict(extra="allow")
    _env_prefix: ClassVar[str] = ENV_PREFIX_MODEL_SETTINGS

    uri: Optional[str] = None
    version: Optional[str] = None
    environment_path: Optional[str] = None
    environment_tarball: Optional[str] = None
    inference_pool_gid: Optional[str] = None
    autogenerate_inference_pool_gid: bool = False
    format: Optional[str] = None
    content_type: Optional[str] = None
    extra: Optional[dict] = {}  # type: ignore[type-arg]  # the original has it so

    @model_validator(mode="after")
    def set_inference_pool_gid(self) -> Self:
        """A pool of its own, where that is asked for."""
        if self.autogenerate_inference_pool_gid and self.inference_pool_gid is None:
            self.inference_pool_gid = str(uuid.uuid4())
        return self


class ModelSettings(BaseSettings):
    """Settings of a model: the content of a model-settings.json."""

    model_config = ConfigDict(extra="ignore")
    _env_prefix: ClassVar[str] = ENV_PREFIX_MODEL_SETTINGS

    implementation_: str = Field(
        validation_alias=AliasChoices("implementation", "MLSERVER_MODEL_IMPLEMENTATION"),
        serialization_alias="implementation",
    )
    name: str = ""
    platform: str = ""
    versions: List[str] = []
    inputs: List[MetadataTensor] = []
    outputs: List[MetadataTensor] = []
    parallel_workers: Optional[int] = Field(
        None, deprecated=True, description="Use the `parallel_workers` field the server wide settings instead."
    )
    warm_workers: bool = Field(
        False, deprecated=True, description="Inference workers will now always be `warmed up` at start time."
    )
    max_batch_size: int = 0
    max_batch_time: float = 0.0
    parameters: Optional[ModelParameters] = None
    cache_enabled: bool = False

    _source: Optional[str] = None
    """Path of the file these settings came from; relative uris start at its folder."""
    _class: Any = None
    """The class that `implementation_` names, where somebody has imported it already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        named = kwargs.get("implementation")
        if isinstance(named, type):
            kwargs["implementation"] = _get_import_path(named)
        super().__init__(*args, **kwargs)
        if isinstance(named, type):
            self._class = named

    @classmethod
    def parse_file(cls, path: str) -> ModelSettings:  # type: ignore[override]  # the original has it so
        """Read a model-settings.json."""
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        settings = cls.model_validate(values)
        settings._source = str(path)
        return settings

    @classmethod
    def model_validate(cls, obj: Any, **kwargs: Any) -> ModelSettings:
        """Settings of a mapping; what it lacks comes from the environment."""
        if isinstance(obj, cls):
            return obj
        values = dict(obj)
        source = values.pop("_source", None)
        settings = cls(**values)
        if source is not None:
            settings._source = str(source)
        return settings

    @classmethod
    def parse_obj(cls, obj: Any) -> ModelSettings:
        """As `model_validate`."""
        return cls.model_validate(obj)

    @property
    def implementation(self) -> Any:
        """The class of the model, imported with the folder of the settings first.

        Raises:
            PydanticCustomError: where the path leads nowhere.
        """
        if self._class is not None and _get_import_path(self._class) == self.implementation_:
            return self._class
        if not self._source:
            return _import(self.implementation_)
        with _extra_sys_path(os.path.dirname(os.path.abspath(self._source))):
            _reload_module(self.implementation_)
            return _import(self.implementation_)

    @implementation.setter
    def implementation(self, value: Any) -> None:
        self.implementation_ = _get_import_path(value)
        self._class = value

    @property
    def version(self) -> Optional[str]:
        """The version of the model; None: it has none."""
        return self.parameters.version if self.parameters is not None else None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "implementation":
            object.__setattr__(self, name, value)  # a property, which pydantic would take for a field
            return
        super().__setattr__(name, value)


def _get_import_path(klass: Type[Any]) -> str:
    return f"{klass.__module__}.{klass.__name__}"


@contextmanager
def _extra_sys_path(extra_path: str) -> Iterator[None]:
    sys.path.insert(0, extra_path)
    try:
        yield
    finally:
        sys.path.remove(extra_path)


def _reload_module(import_path: str) -> None:
    """Read the module again, where it is imported: a neighbour's folder may have one of the same name."""
    module = sys.modules.get(import_path.rpartition(".")[0])
    if module is not None and module.__name__.split(".")[0] != "mlserver":
        importlib.reload(module)


def _import(path: str) -> Any:
    """The object that a dotted path names."""
    module, _, name = path.rpartition(".")
    try:
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if not module or error.name not in {path, module} or error.name == module:
                raise
        found = importlib.import_module(module)
    except ImportError as error:
        raise PydanticCustomError("import_error", "Invalid python path: {error}", {"error": str(error)}) from error
    try:
        return cast("Any", getattr(found, name))
    except AttributeError as error:
        reason = f"No module named '{path}'"
        raise PydanticCustomError("import_error", "Invalid python path: {error}", {"error": reason}) from error
