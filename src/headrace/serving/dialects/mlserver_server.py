"""MLServer's `settings.json` and `MLSERVER_` variables: read, and turned into our settings. `mlserver` calls both.

What the file sets stands over the environment, and the environment over a `.env` file in the working directory, as
there. The table of what each field becomes is `_SETTINGS`; those without an equal of ours are in `_NOT_HONOURED`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from headrace.errors import SettingsError
from headrace.payload import EMPTY
from headrace.serving.dialects import fields
from headrace.serving.dialects.base import Foreign
from headrace.serving.dialects.environment import Environment
from headrace.serving.dialects.fields import Document, Field, Value

FILE: Final = "settings.json"
PREFIX: Final = "MLSERVER_"
COMPRESS_MIN_BYTES: Final = 500
"""From here on MLServer compresses an answer."""

PATIENCE_SECONDS: Final = 600.0
"""Of a request that brings no deadline. MLServer waits for ever, and its users have models that take minutes."""


def _logging(value: Any) -> Any:
    if value is None or isinstance(value, str | dict):
        return value
    raise fields.Mismatch("a path or an object", value)


_CORS_FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "allow_origins": Field(fields.items(fields.text, "texts")),
        "allow_origin_regex": Field(fields.optional(fields.text)),
        "allow_credentials": Field(fields.flag),
        "allow_methods": Field(fields.items(fields.text, "texts")),
        "allow_headers": Field(fields.items(fields.text, "texts")),
        "expose_headers": Field(fields.items(fields.text, "texts")),
        "max_age": Field(fields.whole),
    }
)
_CORS: Final = fields.members({}, {name: each.kind for name, each in _CORS_FIELDS.items()}, keep_unknown=True)
_CORS_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {**{name: f"cors_{name}" for name in _CORS_FIELDS}, "max_age": "cors_max_age_seconds"}
)

FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "debug": Field(fields.flag),
        "parallel_workers": Field(fields.whole),
        "parallel_workers_timeout": Field(fields.whole),
        "environments_dir": Field(fields.text),
        "model_repository_implementation": Field(fields.optional(fields.text)),
        "model_repository_root": Field(fields.text),
        "model_repository_implementation_args": Field(fields.mapping, is_json=True),
        "load_models_at_startup": Field(fields.flag),
        "server_name": Field(fields.text),
        "server_version": Field(fields.text),
        "extensions": Field(fields.items(fields.text, "texts"), is_json=True),
        "host": Field(fields.text),
        "http_port": Field(fields.whole),
        "root_path": Field(fields.text),
        "grpc_port": Field(fields.whole),
        "grpc_max_message_length": Field(fields.optional(fields.whole)),
        "cors_settings": Field(fields.optional(_CORS), is_json=True),
        "metrics_endpoint": Field(fields.optional(fields.text)),
        "metrics_port": Field(fields.whole),
        "metrics_rest_server_prefix": Field(fields.text),
        "metrics_dir": Field(fields.text),
        "use_structured_logging": Field(fields.flag),
        "logging_settings": Field(_logging, is_json=True),
        "kafka_enabled": Field(fields.flag),
        "kafka_servers": Field(fields.text),
        "kafka_topic_input": Field(fields.text),
        "kafka_topic_output": Field(fields.text),
        "tracing_server": Field(fields.optional(fields.text)),
        "cache_enabled": Field(fields.flag),
        "cache_size": Field(fields.whole),
        "gzip_enabled": Field(fields.flag),
    }
)
"""Every field of settings.json."""


class Server(msgspec.Struct, frozen=True):
    """What a folder and the environment say of the server."""

    document: Document
    values: Mapping[str, Value]

    def get(self, name: str, default: Any) -> Any:
        """A field's value."""
        found = self.values.get(name)
        return default if found is None else found.value

    def origin(self, name: str) -> str:
        """Who set a field, as `headrace settings` shows it."""
        return self.values[name].origin or self.document.where((name,))


def read(folder: Path, environment: Environment) -> Server:
    """What settings.json and the environment set. Blocks.

    Raises:
        SettingsError: the file is not JSON, or a value is of the wrong kind; names file, line and key.
    """
    file = folder / FILE
    document = fields.load(file) if file.is_file() else Document(str(file), EMPTY)
    return Server(document, fields.read(document, document.content, FIELDS, environment=environment, prefix=PREFIX))


def is_of_mlserver(folder: Path) -> bool:
    """Whether a folder's settings.json sets something that MLServer knows, or would if it could be read."""
    file = folder / FILE
    if not file.is_file():
        return False
    try:
        content = fields.load(file).content
    except SettingsError:
        return False
    return bool(content.keys() & FIELDS.keys())


def translate(server: Server, folder: Path) -> tuple[Foreign, tuple[str, ...]]:
    """Our settings for what an MLServer folder says, and what is not honoured; pure.

    Also what holds for any such folder: a model that fails does not keep the others from being served, answers are
    compressed from 500 bytes on, requests may take long (MLServer knows no deadline), and metrics have the names that
    MLServer's dashboards ask for.

    Args:
        server: What was read.
        folder: Where relative paths begin.

    Raises:
        SettingsError: a value of the right kind that makes no sense.
    """
    of_folder = f"MLServer folder {folder}"
    found: dict[str, tuple[Any, str]] = {
        "server.name": ("mlserver", of_folder),
        "models.startup_policy": ("degrade", of_folder),
        "metrics.aliases": ("mlserver", of_folder),
        "http.compress_min_bytes": (COMPRESS_MIN_BYTES, of_folder),
        "http.request_timeout_seconds": (PATIENCE_SECONDS, of_folder),
        "models.predict_timeout_seconds": (PATIENCE_SECONDS, of_folder),
        "kafka.input_topics": (("mlserver-input",), of_folder),
        "kafka.output_topic": ("mlserver-output", of_folder),
        "kafka.request_timeout_seconds": (PATIENCE_SECONDS, of_folder),
    }
    warnings = fields.unknown(server.document.content, FIELDS, server.document)
    for name, value in server.values.items():
        origin = server.origin(name)
        if name in _SETTINGS:
            found |= {key: (each, origin) for key, each in _SETTINGS[name](value.value).items()}
        if name in _NOT_HONOURED and (reason := _NOT_HONOURED[name](value.value)):
            warnings.append(f"{origin}: {name!r} is not honoured: {reason}")
    if cors := server.get("cors_settings", None):
        origin = server.origin("cors_settings")
        found |= {f"http.{key}": (cors[name], origin) for name, key in _CORS_KEYS.items() if name in cors}
        warnings += fields.unknown(cors, _CORS_FIELDS, server.document, ("cors_settings",))
    if "logging_settings" in server.values:
        logging = _log_config(server.get("logging_settings", None), folder)
        if logging:
            found["log.config_file"] = (logging, server.origin("logging_settings"))
    return MappingProxyType(found), tuple(warnings)


def _key(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: value}


def _unless_null(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {} if value is None else {name: value}


def _metrics(path: str | None) -> Mapping[str, Any]:
    if path is None:
        return {"metrics.enabled": False}
    return {"metrics.path": path if path.startswith("/") else f"/{path}"}


def _debug(is_on: bool) -> Mapping[str, Any]:
    return {"log.level": "debug", "log.access": True} if is_on else {"log.access": False}


def _tracing(server: str | None) -> Mapping[str, Any]:
    return {"tracing.otlp_endpoint": server, "tracing.protocol": "grpc"} if server else {}


def _log_config(value: Any, folder: Path) -> str:
    """A path, or the JSON text of a configuration that stands in the settings themselves."""
    if not value:
        return ""
    if isinstance(value, dict):
        return json.dumps(value)
    beside = folder / value
    return str(beside) if beside.exists() else str(value)


_SETTINGS: Final[Mapping[str, Callable[[Any], Mapping[str, Any]]]] = MappingProxyType(
    {
        "debug": _debug,
        "parallel_workers_timeout": _key("models.drain_seconds"),
        "load_models_at_startup": _key("models.load_at_start"),
        "server_name": _key("server.name"),
        "server_version": _key("server.version"),
        "extensions": _key("server.extensions"),
        "host": _key("http.host"),
        "http_port": _key("http.port"),
        "root_path": _key("http.root_path"),
        "grpc_port": _key("grpc.port"),
        "grpc_max_message_length": _unless_null("grpc.max_message_bytes"),
        "metrics_endpoint": _metrics,
        "metrics_port": _key("metrics.port"),
        "metrics_rest_server_prefix": _key("metrics.rest_prefix"),
        "use_structured_logging": lambda is_on: {"log.format": "json" if is_on else "text"},
        "kafka_enabled": _key("kafka.enabled"),
        "kafka_servers": _key("kafka.brokers"),
        "kafka_topic_input": lambda topic: {"kafka.input_topics": (topic,)},
        "kafka_topic_output": _key("kafka.output_topic"),
        "tracing_server": _tracing,
        "gzip_enabled": _key("http.compress"),
    }
)
"""What a field becomes. The others are in `_NOT_HONOURED`, or are read by `mlserver` (workers, cache, repository), or
have a rule of their own in `translate`."""

_NOT_HONOURED: Final[Mapping[str, Callable[[Any], str]]] = MappingProxyType(
    {
        "model_repository_root": lambda root: (
            "" if root in {"", ".", "./"} else "the folder on the command line is where models are looked for"
        ),
        "environments_dir": lambda _: "environments are kept under models.cache_dir",
        "metrics_dir": lambda _: "metrics need no files here, with worker processes either",
    }
)
"""Why a field's value has no effect; empty: it wants nothing that we do not do."""
