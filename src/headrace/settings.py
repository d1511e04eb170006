"""The server's settings: what they are, and how file, environment and flags become one value. `cli` calls it.

`load` is pure: it reads no file and no environment itself. Precedence, highest first: flags, environment
(`HEADRACE_HTTP_PORT`: section and field), file (`--config server.yaml`), defaults. A key nobody knows is an error that
names the nearest known one, and where each value came from is kept for `headrace settings`.

A model's own settings stand in `headrace.yaml` beside the model (`serving.spec`), not here; `models` below holds what a
model takes when its own file is silent.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from headrace.artifacts.settings import ArtifactSettings
from headrace.brokers.settings import KafkaSettings
from headrace.errors import SettingsError, unknown_key
from headrace.monitoring.settings import EventSettings, PayloadSettings, TrustSettings
from headrace.security.load_policy import Setting as LoadPolicy
from headrace.security.settings import SecuritySettings

_PORT: Final = {"at_least": 0, "at_most": 65535}
_POSITIVE: Final = {"at_least": 1}
_NOT_NEGATIVE: Final = {"at_least": 0}


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """REST: V2, V1, health, OpenAPI; limits on what one connection may ask."""

    host: str = "127.0.0.1"
    """The address that REST, gRPC and metrics listen on. The default answers this machine only; set `0.0.0.0` in a
    container, or wherever other machines should reach the models."""
    port: int = field(default=8080, metadata=_PORT)
    """The TCP port of REST. 0 takes a free one and prints it."""
    max_body_bytes: int = field(default=64 << 20, metadata=_POSITIVE)
    """The largest request body, after decompression. A larger one is answered 413. Raise it for images or large
    batches."""
    max_header_bytes: int = field(default=64 << 10, metadata=_POSITIVE)
    """The largest request line and headers together. A larger one is answered 431."""
    max_connections: int = field(default=10_000, metadata=_POSITIVE)
    """How many connections may be open at once. One more is answered 503 and closed."""
    header_timeout_seconds: float = field(default=10.0, metadata=_NOT_NEGATIVE)
    """How long a client may take to send a request's headers. Raise it for clients on very slow links."""
    idle_timeout_seconds: float = field(default=75.0, metadata=_NOT_NEGATIVE)
    """How long a connection may stand open with nothing asked. Keep it above the idle time of a proxy in front."""
    request_timeout_seconds: float = field(default=60.0, metadata=_NOT_NEGATIVE)
    """The deadline of a request that brings none of its own, REST or gRPC. After it the answer is 504."""
    root_path: str = ""
    """What a proxy in front puts before every path and passes on: `/models`. Stripped where it is there."""
    invocations_model: str = ""
    """Whom `/invocations` asks where a request names no model. Empty: the only model, or the only one of MLflow's."""
    compress: bool = True
    """Whether answers are compressed for callers that accept it. Streams of events never are."""
    compress_min_bytes: int = field(default=4096, metadata=_NOT_NEGATIVE)
    """Answers from this size on are compressed. Lower it for slow links, at a cost per request."""
    cors_allow_origins: tuple[str, ...] = ()
    """Web origins whose pages may call: `https://console.example.org`, or `*` for all. None: browsers refuse all but
    the server's own pages."""
    cors_allow_origin_regex: str = ""
    """A regular expression that a whole origin may match instead."""
    cors_allow_methods: tuple[str, ...] = ("GET", "POST")
    """Methods that such pages may use; `*` for all."""
    cors_allow_headers: tuple[str, ...] = ("content-type",)
    """Request headers that such pages may send; `*` for all."""
    cors_expose_headers: tuple[str, ...] = ()
    """Response headers that such pages may read."""
    cors_allow_credentials: bool = False
    """Whether such pages may send cookies and authorization; not together with the origin `*`."""
    cors_max_age_seconds: float = field(default=600.0, metadata=_NOT_NEGATIVE)
    """How long a browser may remember the answer to its preflight."""
    tls_certificate: str = ""
    """A PEM file with the certificate chain. Set it together with `tls_key` to speak HTTPS. Empty: plain HTTP."""
    tls_key: str = ""
    """A PEM file with the certificate's private key. Empty: plain HTTP."""


@dataclass(frozen=True, kw_only=True)
class GrpcSettings:
    """The V2 gRPC service, health and reflection."""

    enabled: bool = True
    """Whether to listen for gRPC at all."""
    port: int = field(default=8081, metadata=_PORT)
    """The TCP port of gRPC. 0 takes a free one and prints it."""
    max_message_bytes: int = field(default=64 << 20, metadata=_POSITIVE)
    """The largest message, both ways. A larger one is refused with RESOURCE_EXHAUSTED; clients have their own limit too
    (4 MiB by default)."""


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Prometheus metrics, on a port of their own so that they can be kept from callers."""

    enabled: bool = True
    """Whether to count and to listen for scrapes."""
    port: int = field(default=8082, metadata=_PORT)
    """The TCP port of `/metrics`. 0 takes a free one and prints it."""
    path: str = "/metrics"
    """The path that is scraped."""
    aliases: Literal["none", "mlserver", "kserve", "seldon", "all"] = "none"
    """Also expose the same counts under another server's metric names, so that its dashboards keep working."""
    rest_prefix: str = "rest_server"
    """What the names of MLServer's REST metrics begin with, among the aliases."""


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What the server writes to standard error."""

    format: Literal["auto", "text", "json"] = "auto"
    """`text` for people, `json` for machines: one object a line. `auto` is text on a terminal and JSON elsewhere."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is written."""
    config_file: str = ""
    """A logging configuration in Python's own forms, in place of `format` and `level`: JSON for `dictConfig`, anything
    else for `fileConfig`. Set it to send logs elsewhere or to give loggers levels of their own."""
    access: bool = False
    """Whether to write one line per REST request: method, path, status, duration, request id. It costs some speed."""


@dataclass(frozen=True, kw_only=True)
class TracingSettings:
    """OpenTelemetry spans for parse, queue, predict and render. Needs the `tracing` extra."""

    otlp_endpoint: str = ""
    """Where spans are sent: `http://localhost:4318`. Empty: no spans."""
    protocol: Literal["http", "grpc"] = "http"
    """How: OTLP over HTTP, or over gRPC without TLS (which needs `opentelemetry-exporter-otlp-proto-grpc`)."""
    sample_ratio: float = field(default=1.0, metadata={"at_least": 0, "at_most": 1})
    """The share of requests traced when the caller's trace context does not decide, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ModelDefaults:
    """What a model takes when its own headrace.yaml is silent, and how models are loaded, watched and stopped."""

    startup_policy: Literal["fail", "degrade", "retry"] = "fail"
    """When a model cannot be loaded at start: `fail` ends the server with an error; `degrade` serves the others, is
    ready without the failed one and says so in the index; `retry` serves the others too, tries the failed one again
    with growing pauses, and is ready once it is loaded."""
    watch_seconds: float = field(default=0.0, metadata=_NOT_NEGATIVE)
    """How often to look for new, changed and removed models. 0: never."""
    load_policy: LoadPolicy = "auto"
    """What a pickle may name while it is loaded. `auto` trusts files that only this user can write and that were on
    this machine all along; `restricted` allows known library names only; `trusted` allows anything, which runs
    any code the file holds."""
    optimize: Literal["auto", "require", "off"] = "auto"
    """Whether a model gets a faster engine, proven equal. `auto`: looked for while it already serves, and kept for
    the next start; `require`: at load, which fails when there is none."""
    placement: Literal["auto", "inline", "thread", "process"] = "auto"
    """Where predict runs. `auto` measures at load; `process` survives models that crash or hang."""
    replicas: int = field(default=1, metadata=_POSITIVE)
    """Copies of each model placed in processes."""
    predict_timeout_seconds: float = field(default=60.0, metadata=_NOT_NEGATIVE)
    """How long one predict in a process may run before the process counts as hung and is started again."""
    max_parallel_loads: int = field(default=2, metadata=_POSITIVE)
    """How many models load at once. Raise it for many small models on a machine with many cores."""
    drain_seconds: float = field(default=30.0, metadata=_NOT_NEGATIVE)
    """How long requests in flight may take to end at shutdown, and on a version that is being replaced."""
    load_at_start: bool = True
    """Whether models are loaded at start. Otherwise each waits for a repository load."""
    environment: Literal["auto", "build", "off"] = "auto"
    """The packages a model runs with. `auto`: the server's own where they satisfy the requirements file beside the
    model, else an environment built from that file, once; `build`: always one built; `off`: the server's own."""
    memory_bytes: int = field(default=0, metadata=_NOT_NEGATIVE)
    """What all models together may take of memory, by what they are measured to take. When a load passes it, the least
    recently used ones leave, and come back with the next request for them. 0: no bound."""
    uri_mirrors: tuple[str, ...] = ()
    """`PREFIX=FOLDER`: a model's uri that begins with the prefix is looked for below the folder, so that a manifest
    that names a bucket works from a copy of it: `gs://seldon-models=mirror/seldon-models`."""
    cache_dir: str = "~/.cache/headrace"
    """Where faster engines with the verdicts on them, and environments built for models, are kept. In a container,
    mount a volume here to start faster."""

    @property
    def cache_path(self) -> Path:
        """`cache_dir` with the home folder filled in."""
        return Path(self.cache_dir).expanduser()


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What the server says of itself."""

    name: str = "headrace"
    """In server metadata, in spans, and in the CloudEvents headers of models that answer with them."""
    version: str = ""
    """In server metadata. Empty: Headrace's own."""
    extensions: tuple[str, ...] = ()
    """Protocol extensions that server metadata names beside those that are built in."""


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """Resources: models, pipelines, experiments and rollouts that are declared, and the API that takes declarations."""

    enabled: bool = False
    """Whether resources are served. `headrace serve -f` and `headrace serve` without any path turn it on."""
    host: str = "127.0.0.1"
    """The address that the control API listens on, whatever `http.host` is: who reaches it decides what this server
    runs. Beyond this machine it needs a `token`."""
    port: int = field(default=8083, metadata=_PORT)
    """The port of the control API; 0: a free one."""
    token: str = ""
    """What callers of the control API must send as `Authorization: Bearer TOKEN`. Empty: nothing, on this machine
    only."""
    state: str = ".headrace/state.db"
    """The file that holds the resources and their history (SQLite), below the current folder. It survives the server,
    and is for one server at a time."""


@dataclass(frozen=True, kw_only=True)
class CompatSettings:
    """What keeps things working that were made for another server."""

    answers: Literal["none", "mlserver"] = "none"
    """Whose answers are given where ours are better than theirs: `mlserver` is that server bug for bug, as the
    migration page lists. Set it only for clients that depend on one of those."""
    mlserver_package: Literal["auto", "provided"] = "auto"
    """What models import as `mlserver`: `auto` is the installed package, or ours where there is none; `provided` is
    always ours."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one server, and where each came from."""

    http: HttpSettings = HttpSettings()
    grpc: GrpcSettings = GrpcSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    models: ModelDefaults = ModelDefaults()
    server: ServerSettings = ServerSettings()
    control: ControlSettings = ControlSettings()
    compat: CompatSettings = CompatSettings()
    trust: TrustSettings = field(default_factory=TrustSettings)
    payloads: PayloadSettings = field(default_factory=PayloadSettings)
    events: EventSettings = field(default_factory=EventSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    artifacts: ArtifactSettings = field(default_factory=ArtifactSettings)
    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Origin of each key that is not at its default: `file server.yaml`, `environment HEADRACE_HTTP_PORT`, `flag`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of `headrace settings`: a key, its value, and who set it."""

    key: str
    value: Any
    origin: str


SECTIONS: Final[Mapping[str, type]] = types.MappingProxyType(
    {
        "http": HttpSettings,
        "grpc": GrpcSettings,
        "metrics": MetricsSettings,
        "log": LogSettings,
        "tracing": TracingSettings,
        "models": ModelDefaults,
        "server": ServerSettings,
        "control": ControlSettings,
        "compat": CompatSettings,
        "trust": TrustSettings,
        "payloads": PayloadSettings,
        "events": EventSettings,
        "security": SecuritySettings,
        "artifacts": ArtifactSettings,
        "kafka": KafkaSettings,
    }
)
"""Section name to its dataclass, in the order of the reference."""

SECRETS: Final = frozenset({"control.token", "trust.webhook_secret", "kafka.password", "kafka.options"})
"""Keys whose values are shown to nobody."""

PREFIX: Final = "HEADRACE_"
_OTHER_VARIABLES: Final = frozenset({"HEADRACE_CONFIG", "HEADRACE_URL", "HEADRACE_CONTROL_URL"})  # of the command line
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_URL: Final = re.compile(r"^(tcp|udp|sctp)://")

# A value as a file, the environment or a flag may write it.
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_BYTE_UNITS: Final[Mapping[str, int]] = types.MappingProxyType(
    {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    | {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
)
_TIME_UNITS: Final[Mapping[str, float]] = types.MappingProxyType(
    {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
)
_QUANTITY: Final = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([A-Za-z]*)\s*$")


def load(
    defaults: Settings,
    file_text: str,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    *,
    file_name: str = "server.yaml",
    foreign: Mapping[str, tuple[Any, str]] = types.MappingProxyType({}),
) -> Settings:
    """The settings that result from all sources.

    Args:
        defaults: What holds where nobody says otherwise.
        file_text: YAML: sections of fields, as in the reference; empty for no file.
        environ: Environment variables; only those that begin with `HEADRACE_` are read.
        flags: `section.field` to a value; None means that the flag was not given.
        file_name: How messages name the file.
        foreign: `section.field` to a value and its origin, from another server's settings (`settings.json`); they hold
            over the defaults and under everything else.

    Raises:
        SettingsError: an unknown key or variable, or a value of the wrong kind or outside its range.
    """
    found: dict[str, tuple[Any, str]] = {}  # key -> value and origin; later sources overwrite
    for key, (value, origin) in foreign.items():
        found[key] = (_parse(key, value, f"{origin}: {key}"), origin)
    for key, value in _from_file(file_text, file_name):
        found[key] = (_parse(key, value, f"{file_name}: {key}"), f"file {file_name}")
    for key, variable, text in _from_environment(environ):
        found[key] = (_parse(key, text, f"environment variable {variable}"), f"environment {variable}")
    for key, value in flags.items():
        if key not in known_keys():
            raise unknown_key(key, known_keys(), where="flags")
        if value is not None:
            found[key] = (_parse(key, value, f"flag for {key}"), "flag")

    settings = defaults
    for name in SECTIONS:
        changes = {key.partition(".")[2]: value for key, (value, _) in found.items() if key.startswith(f"{name}.")}
        settings = dataclasses.replace(settings, **{name: dataclasses.replace(getattr(settings, name), **changes)})
    origins = {**defaults.origins, **{key: origin for key, (_, origin) in found.items()}}
    settings = dataclasses.replace(settings, origins=origins)
    _check(settings)
    return settings


@functools.cache
def known_keys() -> Mapping[str, tuple[Any, Mapping[str, float]]]:
    """Every key as `section.field`, to its type and its range."""
    known: dict[str, tuple[Any, Mapping[str, float]]] = {}
    for name, section in SECTIONS.items():
        hints = typing.get_type_hints(section)
        for each in dataclasses.fields(section):
            known[f"{name}.{each.name}"] = (hints[each.name], each.metadata)
    return types.MappingProxyType(known)


def variable(key: str) -> str:
    """The environment variable of a key: `http.port` is set by `HEADRACE_HTTP_PORT`."""
    return PREFIX + key.replace(".", "_").upper()


def effective(settings: Settings) -> list[Setting]:
    """Every key with its value and origin, in the order of the reference."""
    rows = []
    for key in known_keys():
        section, _, name = key.partition(".")
        value = getattr(getattr(settings, section), name)
        if key in SECRETS and value:
            value = "(set; not shown)"
        rows.append(Setting(key=key, value=value, origin=settings.origins.get(key, "default")))
    return rows


def documentation(section: type) -> dict[str, str]:
    """The docstring under each field of a settings dataclass, one line each, by field name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(section)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, follower in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            found[statement.target.id] = " ".join(str(follower.value.value).split())
    return found


def reference() -> str:
    """The settings reference in Markdown, rendered from the dataclasses above."""
    lines = [
        "# Settings",
        "",
        "<!-- Generated from src/headrace/settings.py by scripts/docs; edit the docstrings there. -->",
        "",
        "A server's settings come from these places. The first that speaks wins:",
        "",
        "1. flags of `headrace serve`",
        "2. environment variables: `HEADRACE_`, the section, the field (`HEADRACE_HTTP_PORT=9000`)",
        "3. a file given by `--config server.yaml` or `HEADRACE_CONFIG`",
        "4. the `settings.json` of an MLServer folder, and the `MLSERVER_` variables (the migration page)",
        "5. the defaults below",
        "",
        "```yaml",
        "# server.yaml",
        "http:",
        "  port: 9000",
        "  max_body_bytes: 256MiB",
        "models:",
        "  startup_policy: degrade",
        "  watch_seconds: 5",
        "```",
        "",
        "Sizes take `KiB`, `MiB`, `GiB` (or `kB`, `MB`, `GB`), durations take `ms`, `s`, `m`, `h`; a bare number is",
        "bytes or seconds. An unknown key is an error that names the nearest known one. `headrace settings` shows each",
        "value and where it came from. What belongs to one model stands in the `headrace.yaml` beside that model.",
    ]
    for name, section in SECTIONS.items():
        notes = documentation(section)
        lines += ["", f"## {name}", "", inspect.cleandoc(section.__doc__ or "")]
        for each in dataclasses.fields(section):
            key = f"{name}.{each.name}"
            lines += [
                "",
                f"### {key}",
                "",
                f"{_kind(key)}; default `{shown(key, each.default)}`; `{variable(key)}`",
                "",
                notes[each.name],
            ]
    return "\n".join(lines) + "\n"


# -- the sources --


def _from_file(text: str, file_name: str) -> Iterator[tuple[str, Any]]:
    try:
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader that also refuses repeated keys
    except yaml.YAMLError as exc:
        raise SettingsError(f"{file_name} is not valid YAML: {' '.join(str(exc).split())}") from exc
    if content is None:
        return
    if not isinstance(content, dict):
        raise SettingsError(f"{file_name}: expected sections such as 'http:', got {type(content).__name__}")
    for section, fields in content.items():
        if section not in SECTIONS:
            raise unknown_key(str(section), SECTIONS, where=file_name)
        if fields is None:
            continue
        if not isinstance(fields, dict):
            raise SettingsError(f"{file_name}: section '{section}' expected fields by name, got {fields!r}")
        names = {each.name for each in dataclasses.fields(SECTIONS[section])}
        for name, value in fields.items():
            if name not in names:
                raise unknown_key(str(name), names, where=f"{file_name}: section '{section}'")
            yield f"{section}.{name}", value


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the plain loader would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    by_variable = {variable(key): key for key in known_keys()}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name in _OTHER_VARIABLES or _is_service_link(name, text):
            continue
        if name not in by_variable:
            raise unknown_key(name, by_variable, where="environment")
        yield by_variable[name], name, text


def _is_service_link(name: str, text: str) -> bool:
    # Kubernetes gives every pod variables for each Service: one named `headrace` makes HEADRACE_PORT=tcp://...,
    # one named `headrace-http` even makes HEADRACE_HTTP_PORT. They are nobody's settings.
    return bool(_SERVICE_LINK.search(name) or _SERVICE_URL.match(text))


# -- one value --


def _parse(key: str, value: Any, where: str) -> Any:
    kind, limits = known_keys()[key]
    if typing.get_origin(kind) is Literal:
        return _parse_choice(value, typing.get_args(kind), where)
    if kind is bool:
        return _parse_bool(value, where)
    if kind is str:
        if not isinstance(value, str):
            raise SettingsError(f"{where}: expected text, got {value!r}")
        return value
    if kind == tuple[str, ...]:
        return _parse_texts(value, where)
    number = _parse_number(key, value, where)
    low, high = limits.get("at_least", float("-inf")), limits.get("at_most", float("inf"))
    if not low <= number <= high:
        raise SettingsError(f"{where}: expected {_kind(key)}, got {value!r}")
    return int(number) if kind is int else float(number)


def _parse_bool(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise SettingsError(f"{where}: expected true or false, got {value!r}")


def _parse_texts(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts; in the environment and in flags, texts between commas."""
    items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise SettingsError(f"{where}: expected a list of texts, got {value!r}")
    return tuple(items)


def _parse_choice(value: Any, choices: tuple[str, ...], where: str) -> str:
    if isinstance(value, bool):  # YAML reads a bare `off` as false
        value = "on" if value else "off"
    if value in choices:
        return str(value)
    raise SettingsError(f"{where}: expected one of {', '.join(choices)}, got {value!r}")


def _parse_number(key: str, value: Any, where: str) -> float:
    wrong = SettingsError(f"{where}: expected {_kind(key)}, got {value!r}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    match = _QUANTITY.match(str(value))
    units = _BYTE_UNITS if key.endswith("_bytes") else _TIME_UNITS if key.endswith("_seconds") else {"": 1}
    if match is None or match[2].lower() not in units:
        raise wrong
    number = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(number) or (known_keys()[key][0] is int and not number.is_integer()):
        raise wrong
    return number


def _check(settings: Settings) -> None:
    http = settings.http
    if bool(http.tls_certificate) != bool(http.tls_key):
        missing = "http.tls_key" if http.tls_certificate else "http.tls_certificate"
        raise SettingsError(f"{missing} is missing: set http.tls_certificate and http.tls_key together, or neither")
    listeners = [("http.port", http.port)]
    listeners += [("grpc.port", settings.grpc.port)] if settings.grpc.enabled else []
    listeners += [("metrics.port", settings.metrics.port)] if settings.metrics.enabled else []
    listeners += [("control.port", settings.control.port)] if settings.control.enabled else []
    taken: dict[int, str] = {}
    for key, port in listeners:
        if port and port in taken:
            raise SettingsError(
                f"{taken[port]} and {key} are both {port}; each listener needs its own port, or 0 for a free one"
            )
        taken[port] = key


# -- for readers --


def metavar(key: str) -> str:
    """What a flag for the key takes, as a help text shows it: `NUMBER`, `SIZE`, `fail|degrade|retry`."""
    kind, _ = known_keys()[key]
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    if key.endswith("_bytes"):
        return "SIZE"
    if key.endswith("_seconds"):
        return "DURATION"
    return "LIST" if kind == tuple[str, ...] else {bool: "BOOL", str: "TEXT"}.get(kind, "NUMBER")


def _kind(key: str) -> str:
    kind, limits = known_keys()[key]
    if typing.get_origin(kind) is Literal:
        return " | ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if kind is bool:
        return "true or false"
    if kind == tuple[str, ...]:
        return "a list of texts"
    if kind is str:
        return "text"
    name = "a whole number" if kind is int else "a number"
    if key.endswith("_bytes"):
        name = "a number of bytes"
    elif key.endswith("_seconds"):
        name = "a number of seconds"
    low, high = limits.get("at_least"), limits.get("at_most")
    if low is not None and high is not None:
        return f"{name} from {low} to {high}"
    return f"{name}, {low} or more" if low is not None else name


def shown(key: str, value: Any) -> str:
    """A value as a person writes it: `64MiB`, `10s`, `true`."""
    if isinstance(value, bool):
        return str(value).lower()
    if key.endswith("_bytes"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % size == 0:
                return f"{value // size}{unit}"
    if key.endswith("_seconds"):
        return f"{value:g}s"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value) if value != "" else '""'
