"""`headrace doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click

from headrace import __version__
from headrace.cli import output
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.serving.dialects.base import Survey
    from headrace.serving.spec import ModelSpec
    from headrace.settings import Settings

EXTRAS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "sklearn": ("scikit-learn>=1.3", "joblib>=1.3"),
        "skops": ("skops>=0.10",),
        "xgboost": ("xgboost-cpu>=2.1",),
        "lightgbm": ("lightgbm>=4.3",),
        "catboost": ("catboost>=1.2.5",),
        "onnx": ("onnxruntime>=1.19",),
        "mlflow": ("mlflow>=2.15",),
        "pandas": ("pandas>=2.1",),
        "optimize": ("onnxruntime>=1.19", "onnx>=1.17", "skl2onnx>=1.18", "onnxmltools>=1.13"),
        "grpc-client": ("grpcio>=1.66",),
        "mlserver": ("pydantic>=2.7", "fastapi>=0.110", "pandas>=2.1", "python-multipart>=0.0.9"),
        "trust": ("scipy>=1.14", "scikit-learn>=1.6", "matplotlib>=3.9", "pyarrow>=17"),
        "shap": ("shap>=0.51",),
        "river": ("river>=0.24",),
        "pyod": ("pyod>=3.0",),
        "storage": ("obstore>=0.12",),
        "batch": ("pyarrow>=17", "obstore>=0.12"),
        "kafka": ("confluent-kafka>=2.6",),
        "spark": ("pyspark>=4.0", "pyarrow>=17", "obstore>=0.12"),
        "ray": ("ray>=2.40", "pyarrow>=17", "obstore>=0.12"),
        "tracing": ("opentelemetry-sdk>=1.25", "opentelemetry-exporter-otlp-proto-http>=1.25"),
    }
)
"""The extras of pyproject.toml and what each needs; a test keeps the two equal."""

SERVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sklearn": "scikit-learn models: .joblib, .pkl",
        "skops": "scikit-learn models without pickles: .skops",
        "xgboost": "XGBoost: .ubj, .json, .bst",
        "lightgbm": "LightGBM: .txt",
        "catboost": "CatBoost: .cbm",
        "onnx": "ONNX: .onnx",
        "mlflow": "MLflow model folders",
        "pandas": "models that take a DataFrame",
        "optimize": "faster engines for scikit-learn, LightGBM and XGBoost models",
        "grpc-client": "asking other servers over gRPC",
        "mlserver": "classes written for MLServer",
        "trust": "trust folders: detectors, explanations, plots, payload logs",
        "shap": "Shapley values of tree models",
        "river": "river's drift detectors",
        "pyod": "PyOD's outlier detectors",
        "storage": "models in buckets and behind URLs: s3, gs, az, https, hf, MLflow",
        "batch": "batch jobs over CSV, JSON lines, Parquet and Arrow files",
        "kafka": "Kafka: topics of requests and answers, durable pipelines, events",
        "spark": "batch jobs on Spark",
        "ray": "batch jobs on Ray",
        "tracing": "OpenTelemetry spans",
    }
)
"""What each extra is for."""

_SAME: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {"xgboost-cpu": ("xgboost",), "onnxruntime": ("onnxruntime-gpu",)}
)  # distributions that give the same module


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    about: str
    """The group: `machine`, `extra`, `server` or `model`."""
    name: str
    state: str
    """`ok`; `missing` (not installed, nothing wrong); `warning`; `wrong` (the exit code becomes 1)."""
    detail: str = ""


@click.command(short_help="Say what is installed, what can be served, and what is wrong.")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--config", envvar="HEADRACE_CONFIG", metavar="FILE", help="A server.yaml.", show_envvar=True)
@click.option("--load/--no-load", default=True, show_default=True, help="Also load each PATH, as the server would.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(paths: tuple[str, ...], config: str | None, load: bool, as_json: bool) -> None:
    """Say what is installed, what can be served, and what is wrong.

    With PATHs: which models are found in them, by which runtime and why, and whether each one loads; of folders made
    for MLServer also what of their settings is not honoured. Exit code 1 when something is wrong.

    \b
    Examples:
      headrace doctor
      headrace doctor models/
      headrace doctor model.joblib --no-load
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    findings = [*machine(), *extras(), *server(config, paths)]
    from headrace.cli.serve import modules_importable

    with output.working("looking at the models"), modules_importable(paths):
        findings += [finding for path in paths for finding in model(path, load=load)]
    wrong = any(finding.state == "wrong" for finding in findings)
    if as_json:
        output.write_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        titles = {"machine": "Machine", "extra": "Extras", "server": "Server", "model": "Models"}
        for about, title in titles.items():
            rows = [(each.name, each.state, each.detail) for each in findings if each.about == about]
            if rows:
                output.write_table(["name", "state", "detail"], rows, title=title)
                click.echo()
        click.echo("something is wrong: see the lines marked wrong" if wrong else "nothing is wrong")
    click.get_current_context().exit(1 if wrong else 0)


def machine() -> Iterator[Finding]:
    """Headrace, Python and the processor."""
    yield Finding(about="machine", name="headrace", state="ok", detail=__version__)
    python = f"{platform.python_version()} at {sys.executable}"
    yield Finding(about="machine", name="python", state="ok" if sys.version_info >= (3, 11) else "wrong", detail=python)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(about="machine", name="platform", state="ok", detail=f"{platform.platform()}, {cores} cores")


def extras() -> Iterator[Finding]:
    """Each extra: the installed versions, or how to install it."""
    for extra, requirements in EXTRAS.items():
        versions, old, absent = [], [], []
        for requirement in requirements:
            name, _, least = requirement.partition(">=")
            installed = _version(name)
            if installed is None:
                absent.append(name)
            elif _release(installed) < _release(least):
                old.append(f"{name} {installed} is older than {least}")
            else:
                versions.append(f"{name} {installed}")
        how = f"{SERVES[extra]}; pip install 'headrace[{extra}]'"
        if old:
            yield Finding(about="extra", name=extra, state="wrong", detail=f"{', '.join(old)}; {how}")
        elif absent:
            yield Finding(about="extra", name=extra, state="missing", detail=how)
        else:
            yield Finding(about="extra", name=extra, state="ok", detail=f"{SERVES[extra]} ({', '.join(versions)})")


def server(config: str | None, paths: Sequence[str] = ()) -> Iterator[Finding]:
    """Settings, ports and the cache folder, as a server of these paths would have them."""
    from headrace import settings as settings_
    from headrace.cli.serve import foreign_settings
    from headrace.cli.settings import read_config

    try:
        foreign, _ = foreign_settings(paths)
        loaded = settings_.load(
            settings_.Settings(),
            read_config(config),
            os.environ,
            {},
            file_name=config or "server.yaml",
            foreign=foreign,
        )
    except HeadraceError as exc:
        yield Finding(about="server", name="settings", state="wrong", detail=str(exc))
        return
    yield Finding(
        about="server", name="settings", state="ok", detail=f"{len(loaded.origins)} changed from the defaults"
    )
    yield from _ports(loaded)
    yield _cache(loaded.models.cache_path)


def model(path: str, *, load: bool) -> Iterator[Finding]:
    """The models at a path: the runtime of each and why, what of its settings is not honoured, and whether it loads."""
    from headrace.cli.serve import foreign_settings
    from headrace.serving import discovery

    try:
        changed, warnings = foreign_settings([path])
    except HeadraceError as exc:
        yield Finding(about="model", name=path, state="wrong", detail=_line(exc))
        return
    found = discovery.survey([path])
    if any(spec.dialect for spec in found.specs):
        keys = ", ".join(sorted(changed))
        yield Finding(about="model", name=path, state="ok", detail=f"made for MLServer; what it sets here: {keys}")
    for text in (*warnings, *found.warnings):
        yield Finding(about="model", name=path, state="warning", detail=text)
    for problem in found.problems:
        name = path if _is_alone(found) else _shown(problem.name, problem.version)
        yield Finding(about="model", name=name, state="wrong", detail=_line(problem.error))
    for spec in found.specs:
        yield from _model(spec, load=load)


def _model(spec: ModelSpec, *, load: bool) -> Iterator[Finding]:
    name = _shown(spec.name, spec.version)
    found = f"{spec.runtime}: {spec.evidence}" if spec.evidence else spec.runtime
    yield Finding(about="model", name=name, state="ok", detail=found)
    for text in spec.warnings:
        yield Finding(about="model", name=name, state="warning", detail=text)
    if spec.runtime == "mlserver":
        from headrace.serving.dialects import mlserver

        absent = mlserver.find_class(spec.reference, spec.parameters["search_path"])
        if absent:
            yield Finding(about="model", name=name, state="wrong", detail=absent)
            return
        detail = f"class {spec.reference} is there"
        yield Finding(about="model", name=name, state="ok", detail=detail)
    if load:
        yield from _load(name, spec)


def _is_alone(found: Survey) -> bool:
    """Whether what is wrong is all that there is: then the path names it best."""
    return not found.specs and len(found.problems) == 1


def _shown(name: str, version: str) -> str:
    return f"{name}/{version}" if version else name


def _line(error: HeadraceError) -> str:
    return " ".join(str(error).split())


def _load(name: str, spec: ModelSpec) -> Iterator[Finding]:
    import msgspec

    from headrace import notebook
    from headrace import settings as settings_

    quiet = {"grpc.enabled": False, "metrics.enabled": False, "http.port": 0}
    settings = settings_.load(settings_.Settings(), "", {}, quiet)
    # In our own words and at once: the question is whether it loads.
    plain = msgspec.structs.replace(spec, dialect="", declared={}, warnings=(), load_at_start=True)
    server = notebook.Server(settings, [plain])
    try:
        server.start()
    except HeadraceError as exc:
        yield Finding(about="model", name=name, state="wrong", detail=_line(exc))
        return
    with server:
        metadata = server.client.metadata(spec.name, version=spec.version)
    inputs = ", ".join(output.shape_of(each.name, each.datatype, each.shape) for each in metadata.inputs)
    yield Finding(about="model", name=name, state="ok", detail=f"loads; inputs {inputs or 'undeclared'}")
    if warnings := metadata.properties.get("warnings"):
        yield Finding(about="model", name=name, state="warning", detail=str(warnings))


def _version(distribution: str) -> str | None:
    for name in (distribution, *_SAME.get(distribution, ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _ports(settings: Settings) -> Iterator[Finding]:
    listeners = [("REST", "http.port", settings.http.port)]
    listeners += [("gRPC", "grpc.port", settings.grpc.port)] if settings.grpc.enabled else []
    listeners += [("metrics", "metrics.port", settings.metrics.port)] if settings.metrics.enabled else []
    for title, key, port in listeners:
        host = settings.http.host
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as exc:
                reason = f"{host}:{port}: {exc.strerror}; stop what listens there, or set {key}"
                yield Finding(about="server", name=f"{title} port", state="wrong", detail=reason)
            else:
                yield Finding(about="server", name=f"{title} port", state="ok", detail=f"{host}:{port} is free")


def _cache(path: Path) -> Finding:
    nearest = next(each for each in (path, *path.parents) if each.exists())
    try:
        if nearest == path:
            with tempfile.NamedTemporaryFile(dir=path):
                pass
        elif not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(13, f"{nearest} cannot be written")
    except OSError as exc:
        detail = f"{path}: {exc.strerror or exc}; set models.cache_dir to a folder that can be written"
        return Finding(about="server", name="cache folder", state="wrong", detail=detail)
    return Finding(about="server", name="cache folder", state="ok", detail=str(path))
