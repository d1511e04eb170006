"""`headrace serve`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from headrace import settings
from headrace.artifacts.uri import is_local
from headrace.cli import manifests, output
from headrace.cli.settings import read_config

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.control.parse import File
    from headrace.local.copies import Copies
    from headrace.payload import TensorSpec
    from headrace.serving.models import Served

F = TypeVar("F", bound=Callable[..., Any])

FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "host": "http.host",
        "port": "http.port",
        "grpc-port": "grpc.port",
        "metrics-port": "metrics.port",
        "startup-policy": "models.startup_policy",
        "watch": "models.watch_seconds",
        "load-policy": "models.load_policy",
        "optimize": "models.optimize",
        "placement": "models.placement",
        "replicas": "models.replicas",
        "cache-dir": "models.cache_dir",
        "drain": "models.drain_seconds",
        "request-timeout": "http.request_timeout_seconds",
        "max-body": "http.max_body_bytes",
        "tls-certificate": "http.tls_certificate",
        "tls-key": "http.tls_key",
        "metrics-aliases": "metrics.aliases",
        "log-format": "log.format",
        "log-level": "log.level",
        "otlp-endpoint": "tracing.otlp_endpoint",
        "compat": "compat.answers",
        "control-port": "control.port",
        "state": "control.state",
        "follow": "artifacts.follow_seconds",
        "credentials": "artifacts.credentials",
        "kafka-brokers": "kafka.brokers",
    }
)
"""Flag to the setting it sets. Values are parsed by the settings loader, so every road takes the same forms."""

_EXAMPLES: Final = MappingProxyType(
    {"BOOL": True, "BYTES": "text", "FP16": 0.5, "BF16": 0.5, "FP32": 0.5, "FP64": 0.5}
)  # a value to paste, by datatype; whole numbers otherwise
_MOST_VALUES: Final = 64


def _setting_options(function: F) -> F:
    defaults = settings.Settings()
    for flag, key in reversed(list(FLAGS.items())):
        section, _, name = key.partition(".")
        note = settings.documentation(settings.SECTIONS[section])[name]
        shown = settings.shown(key, getattr(getattr(defaults, section), name))
        function = click.option(
            f"--{flag}",
            metavar=settings.metavar(key),
            default=None,
            help=note if shown == '""' else f"{note}  [default: {shown}]",
        )(function)
    return function


@click.command(short_help="Serve models over REST and gRPC.")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@manifests.file_option(
    required=False,
    name="manifest_paths",
    text="A file of manifests, a folder of them with all below it, or - for standard input, to apply at the start.",
)
@click.option("--name", help="What the model is called in urls. For one PATH; default: from the file or folder.")
@click.option("--runtime", help="The runtime for every PATH, where its content does not decide or decides wrong.")
@_setting_options
@click.option("--access-log/--no-access-log", default=None, help="Log a line for every request.")
@click.option("--grpc/--no-grpc", default=None, help="Listen for gRPC.  [default: grpc]")
@click.option("--metrics/--no-metrics", default=None, help="Listen for metrics scrapes.  [default: metrics]")
@click.option("--kafka/--no-kafka", default=None, help="Answer requests that come by Kafka.")
@click.option(
    "--control/--no-control",
    default=None,
    help="Take resources: `headrace apply` and its like ask here.  "
    "[default: with -f, --control-port, --state, or without PATH]",
)
@click.option("--config", envvar="HEADRACE_CONFIG", metavar="FILE", help="A server.yaml.", show_envvar=True)
@click.option(
    "--set", "others", multiple=True, metavar="KEY=VALUE", help="Any other setting: --set grpc.max_message_bytes=1GiB"
)
def command(
    paths: tuple[str, ...],
    *,
    manifest_paths: tuple[str, ...],
    name: str | None,
    runtime: str | None,
    access_log: bool | None,
    grpc: bool | None,
    metrics: bool | None,
    kafka: bool | None,
    control: bool | None,
    config: str | None,
    others: tuple[str, ...],
    **flags: str | None,
) -> None:
    """Serve models over REST and gRPC.

    PATH is a model file, a folder with a model, a folder of models, a class of your own (module:Class), or the uri of
    any of these in a store or registry: s3://, gs://, az://, https://, hf://, models:/NAME@ALIAS, runs:/. What a file
    holds is recognised by its content; a headrace.yaml beside it overrides anything. A folder made for MLServer
    (settings.json, model-settings.json) is served as it is.

    With -f, what manifests declare is served too: models, pipelines, experiments. Without any PATH the server waits for
    them: apply some by `headrace apply`. What was applied is kept in the --state file, and is there again at the next
    start.

    Stops on Ctrl-C or SIGTERM: requests in flight end first.

    \b
    Examples:
      headrace serve model.joblib
      headrace serve models/ --watch 5s --startup-policy degrade
      headrace serve fraud.onnx churn.ubj --port 9000 --grpc-port 9001
      headrace serve mypackage.model:Ranker --name ranker --placement process
      headrace serve s3://models/churn models:/iris@champion --follow 30s
      headrace serve -f deployment/
      headrace serve --state production.db
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    values: dict[str, Any] = {key: flags[flag.replace("-", "_")] for flag, key in FLAGS.items()}
    values |= {"log.access": access_log, "grpc.enabled": grpc, "metrics.enabled": metrics, "kafka.enabled": kafka}
    if control is False and (manifest_paths or not paths):
        what = "-f needs the control loop" if manifest_paths else "without PATH there is nothing to serve"
        raise click.UsageError(f"{what}, and --no-control turns it off", click.get_current_context())
    asked = control is None and any(flags[flag] is not None for flag in ("control_port", "state"))
    values["control.enabled"] = True if manifest_paths or not paths or asked else control
    for other in others:
        key, equals, value = other.partition("=")
        if not equals:
            raise click.UsageError(f"--set expected KEY=VALUE, got {other!r}", click.get_current_context())
        values[key] = value
    overrides = {"runtime": runtime} if runtime else {}
    resources = manifests.read(manifest_paths)
    code = run(paths, values, config=config, overrides=overrides, name=name, resources=resources)
    click.get_current_context().exit(code)


def run(
    paths: Sequence[str],
    values: Mapping[str, Any],
    *,
    config: str | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    name: str | None = None,
    defaults: settings.Settings | None = None,
    resources: Sequence[File] = (),
) -> int:
    """Serve what lies at the paths until SIGINT or SIGTERM, as `headrace serve` does. Blocks.

    A folder made for another server brings its own settings: they hold over the defaults, and under the settings file,
    the environment and the flags.

    Args:
        paths: As for `discovery.survey`.
        values: Settings by key, as flags give them; None: not given.
        config: A server.yaml.
        overrides: Fields of every model over what its own files say.
        name: What the one model is called.
        defaults: What holds where nobody says otherwise.
        resources: Manifests to apply at the start.

    Returns:
        The exit code.

    Raises:
        SettingsError: a setting is wrong.
        LoadFailed: a model cannot be served, under the start-up policy `fail`.
    """
    told = functools.partial(
        settings.load,
        defaults or settings.Settings(),
        read_config(config),
        os.environ,
        values,
        file_name=config or "",
    )
    with contextlib.ExitStack() as stack:
        copies: Copies | None = None
        if not all(map(is_local, paths)):
            from headrace.cli import downloads
            from headrace.local.copies import Copies

            copies = stack.enter_context(contextlib.closing(Copies(told().artifacts)))
            with downloads.shown() as report:
                paths = copies.open(paths, report)
        foreign, warnings = foreign_settings(paths)
        loaded = told(foreign=foreign)
        return _run(
            loaded, paths, foreign, warnings, overrides=overrides, name=name, resources=resources, copies=copies
        )


def _run(
    loaded: settings.Settings,
    paths: Sequence[str],
    foreign: Mapping[str, tuple[Any, str]],
    warnings: Sequence[str],
    *,
    overrides: Mapping[str, Any],
    name: str | None,
    resources: Sequence[File],
    copies: Copies | None,
) -> int:
    """What `run` does once all is on this machine."""
    from headrace import app
    from headrace.serving import discovery

    for_models = said_of_models(loaded, foreign)
    found = discovery.survey(paths, defaults=for_models, overrides=overrides)
    if name is not None:
        _check_name(name, {spec.name for spec in found.specs})
        overrides = {**overrides, "name": name}
        found = discovery.survey(paths, defaults=for_models, overrides=overrides)
    if found.problems and loaded.models.startup_policy == "fail":
        raise found.problems[0].error
    for text in dict.fromkeys([*warnings, *found.warnings, *(each for spec in found.specs for each in spec.warnings)]):
        click.echo(f"warning: {text}", err=True)
    specs = found.specs
    if specs and output.on_terminal():
        several = f"{len(specs)} models" if len(specs) != 1 else "1 model"
        click.echo(f"loading {several}; engines that were checked before are taken from the cache", err=True)
    with modules_importable(paths):
        return app.run(
            loaded,
            specs,
            paths=paths,
            defaults=for_models,
            overrides=overrides,
            problems=found.problems,
            started=lambda running: announce(running, loaded),
            resources=resources,
            copies=copies,
        )


@contextlib.contextmanager
def modules_importable(paths: Sequence[str]) -> Iterator[None]:
    """While it holds, pickles find the modules that lie at the top of a folder made for another server, and beside it
    those of the working directory: MLServer puts both on the import path. Here they come last, so they hide nothing.

    Args:
        paths: As for `run`. Folders of our own kind are passed over, and so is one that holds no module: its models'
            folders must not pass for packages.
    """
    from headrace.serving import dialects

    added: list[str] = []
    for path in paths:
        folder = Path(path).expanduser().absolute()
        if folder.is_dir() and dialects.of(folder, os.environ) is not None:
            added += [
                str(each) for each in (folder, Path.cwd()) if any(each.glob("*.py")) or any(each.glob("*/__init__.py"))
            ]
    sys.path.extend(added)
    try:
        yield
    finally:
        for entry in added:
            if entry in sys.path:
                del sys.path[len(sys.path) - 1 - sys.path[::-1].index(entry)]


def foreign_settings(paths: Sequence[str]) -> tuple[dict[str, tuple[Any, str]], list[str]]:
    """The settings that folders made for other servers bring, for `settings.load`, and what of them is not honoured.

    Of two folders that say different things, the first counts, and the warnings tell.

    Raises:
        SettingsError: a settings file is wrong.
    """
    from headrace.serving import dialects

    found: dict[str, tuple[Any, str]] = {}
    warnings: list[str] = []
    for path in paths:
        folder = Path(path).expanduser().absolute()
        dialect = dialects.of(folder, os.environ) if folder.is_dir() else None
        if dialect is None:
            continue
        values, told = dialect.server_settings(folder, os.environ)
        warnings += told
        for key, (value, origin) in values.items():
            first, where = found.setdefault(key, (value, origin))
            if first != value:
                warnings.append(f"{origin}: {key} {value!r} is not honoured: {where} says {first!r}, and stands first")
    return found, warnings


def said_of_models(loaded: settings.Settings, foreign: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    """What somebody set for all models in our own words: it stands over what a foreign folder says of all of them."""
    said: dict[str, Any] = {}
    for field in ("placement", "replicas"):
        key = f"models.{field}"
        origin = loaded.origins.get(key, "")
        if origin and origin != foreign.get(key, (None, ""))[1]:
            said[field] = getattr(loaded.models, field)
    if "models.load_at_start" in loaded.origins:
        said["load_at_start"] = loaded.models.load_at_start
    return said


def _check_name(name: str, found: set[str]) -> None:
    from headrace.serving.spec import check_name

    if len(found) > 1:
        text = f"--name is for one model, and {len(found)} were found"
        raise click.UsageError(text, click.get_current_context())
    check_name(name, where="--name")


def announce(running: App, loaded: settings.Settings) -> None:
    """Say what is served and where, with a request to paste."""
    from headrace.client.control import DEFAULT_URL

    served = sorted(running.models, key=lambda each: (each.name, each.version))
    models = [each for each in served if each.kind == "model"]
    endpoints = [each for each in served if each.kind != "model"]
    scheme = "https" if loaded.http.tls_certificate else "http"
    host = {"0.0.0.0": "localhost", "127.0.0.1": "localhost", "::": "localhost"}.get(loaded.http.host, loaded.http.host)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    base = f"{scheme}://{host}:{running.http_port}"
    if models:
        output.write_table(
            ["model", "version", "state", "platform", "engine", "placement", "inputs", "reason"],
            [_row(each) for each in models],
        )
    if endpoints:
        output.write_table(
            ["name", "kind", "state", "ask", "reason"],
            [[each.name, each.kind, each.state.value, _place(base, each), each.reason] for each in endpoints],
        )
    for resource, why in running.unready():
        click.echo(f"{resource} is not ready: {why}", err=True)
    click.echo(f"REST     {base}   docs: {base}/docs")
    if loaded.grpc.enabled:
        click.echo(f"gRPC     {host}:{running.grpc_port}")
    if loaded.metrics.enabled:
        click.echo(f"metrics  http://{host}:{running.metrics_port}/metrics")
    if loaded.kafka.enabled:
        kafka = loaded.kafka
        click.echo(f"Kafka    {kafka.brokers}   {', '.join(kafka.input_topics)} -> {kafka.output_topic}")
    if running.control_port is not None:
        control = f"http://{loaded.control.host}:{running.control_port}"
        option = "" if control == DEFAULT_URL else f" --control-url {control}"
        click.echo(f"control  {control}   headrace apply -f FILE{option}")
        if not served:
            click.echo(f"\nno models yet; declare some: headrace apply -f FILE{option}")
    for each in [*endpoints, *models]:
        paste = request_to_paste(base, each)
        if paste:
            click.echo(f"\n{paste}")
            break


def _place(base: str, served: Served) -> str:
    """Where it is asked."""
    return (
        f"{base}/v2/pipelines/{served.name}/infer"
        if served.kind == "pipeline"
        else f"{base}/v2/models/{served.key}/infer"
    )


def request_to_paste(base: str, served: Served) -> str:
    """A curl command that the model answers, from what it declares of its inputs; empty when that is not enough."""
    import json

    inputs = [each for each in served.signature.inputs if not each.optional] if served.signature else []
    if not inputs or any(each.datatype in {"FP16", "BF16"} for each in inputs):
        return ""
    tensors: list[dict[str, Any]] = []
    for spec in inputs:
        shape = _example_shape(spec)
        count = 1
        for size in shape:
            count *= size
        if count > _MOST_VALUES:
            return ""
        value = _EXAMPLES.get(spec.datatype, 1)
        tensors.append({"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [value] * count})
    return f"curl {_place(base, served)} -d '{json.dumps({'inputs': tensors})}'"


def _example_shape(spec: TensorSpec) -> list[int]:
    return [1 if size < 0 else size for size in spec.shape]


def _row(served: Served) -> list[str]:
    signature = served.signature
    inputs = ", ".join(output.shape_of(e.name, e.datatype, e.shape) for e in signature.inputs) if signature else ""
    return [
        served.name,
        served.version,
        served.state.value,
        signature.platform if signature else "",
        output.engine_of(signature.properties) if signature else "",
        served.placement,
        inputs,
        served.reason,
    ]
