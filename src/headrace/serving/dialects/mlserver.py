"""The dialect of MLServer 1.x: every folder with a `model-settings.json` in it or below it.

    settings.json                   the server (`mlserver_server`)
    iris/model-settings.json        one version of one model; the artifact lies beside it or where `parameters.uri` says
    any/depth/model-settings.json   another; the same `name` with another `parameters.version` is another version
    (none at all)                   one model from `MLSERVER_MODEL_` variables alone
    (a repository class)            what it lists (`mlserver_repository`)

Only folders with a model-settings.json are models, as there; discovery tells of recognised ones that stand beside
without. A headrace.yaml beside a model-settings.json says what MLServer has no word for, and stands above it.

Classes of MLServer's own runtimes become our runtimes. Any other class is somebody's own and goes to the runtime
`mlserver`, which gives it the settings as MLServer would have read them. Read and judged here: no model is imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from headrace.compat import alibi
from headrace.errors import HeadraceError, LoadFailed, SettingsError, UnknownFormat
from headrace.payload import EMPTY
from headrace.serving.batching import Batching
from headrace.serving.dialects import environment as variables
from headrace.serving.dialects import fields, mlserver_repository, mlserver_server
from headrace.serving.dialects.base import Foreign, Problem, Recognise, Survey
from headrace.serving.dialects.environment import Environment
from headrace.serving.dialects.fields import Document, Field, Value
from headrace.serving.dialects.mlserver_server import Server
from headrace.serving.dialects.positions import Position
from headrace.serving.spec import Cache, ModelSpec, Overrides, read_yaml
from headrace.trust.folder import find_folder, is_folder, open_folder

FILE: Final = "model-settings.json"
PREFIX: Final = "MLSERVER_MODEL_"
_REPOSITORY: Final = f"{mlserver_server.PREFIX}model_repository_implementation"
_ARGUMENTS: Final = "model_repository_implementation_args"
MAX_FOLDERS: Final = 20_000
"""How many folders are looked into. A tree with more is not a folder of models."""

_DATATYPES: Final = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
_TENSOR: Final = fields.members(
    {
        "name": fields.text,
        "datatype": fields.one_of(*_DATATYPES, "FP16", "FP32", "FP64", "BYTES"),
        "shape": fields.items(fields.whole, "whole numbers"),
    },
    {
        "parameters": fields.optional(
            fields.members({}, {"content_type": fields.optional(fields.text)}, keep_unknown=True)
        )
    },
)

FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "implementation": Field(fields.text),
        "name": Field(fields.text),
        "platform": Field(fields.text),
        "versions": Field(fields.items(fields.text, "texts"), is_json=True),
        "inputs": Field(fields.items(_TENSOR, "tensors"), is_json=True),
        "outputs": Field(fields.items(_TENSOR, "tensors"), is_json=True),
        "parallel_workers": Field(fields.optional(fields.whole)),
        "warm_workers": Field(fields.flag),
        "max_batch_size": Field(fields.whole),
        "max_batch_time": Field(fields.finite),
        "cache_enabled": Field(fields.flag),
        "parameters": Field(fields.optional(fields.mapping), is_json=True),
    }
)
"""Every field of model-settings.json."""

PARAMETERS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "uri": Field(fields.optional(fields.text)),
        "version": Field(fields.optional(fields.text)),
        "environment_path": Field(fields.optional(fields.text)),
        "environment_tarball": Field(fields.optional(fields.text)),
        "inference_pool_gid": Field(fields.optional(fields.text)),
        "autogenerate_inference_pool_gid": Field(fields.flag),
        "format": Field(fields.optional(fields.text)),
        "content_type": Field(fields.optional(fields.text)),
        "extra": Field(fields.optional(fields.mapping), is_json=True),
    }
)
"""Every field of `parameters`; other keys are kept there for the model to read."""


class Official(msgspec.Struct, frozen=True):
    """One of MLServer's own runtimes that we have an equal of."""

    runtime: str
    files: tuple[str, ...] = ()
    """What it looks for in a folder, in this order."""
    extra: Mapping[str, str] = EMPTY
    """Keys of `parameters.extra` that it reads, to our runtime's parameters."""


OFFICIAL: Final[Mapping[tuple[str, str], Official]] = MappingProxyType(
    {
        ("mlserver_sklearn", "SKLearnModel"): Official(
            "sklearn", ("model.joblib", "model.pickle", "model.pkl"), {"predict_fn": "default_outputs"}
        ),
        ("mlserver_xgboost", "XGBoostModel"): Official("xgboost", ("model.bst", "model.json", "model.ubj")),
        ("mlserver_lightgbm", "LightGBMModel"): Official("lightgbm", ("model.bst",)),
        ("mlserver_catboost", "CatboostModel"): Official("catboost", ("model.cbm", "model.bin")),
        ("mlserver_mlflow", "MLflowRuntime"): Official("mlflow"),
    }
)
"""Package and class, wherever in the package the path says that the class is, to our runtime."""

ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mlserver_huggingface": "Hugging Face pipelines",
        "mlserver_mllib": "Spark MLlib models",
    }
)
"""Packages of MLServer's own runtimes that have no equal of ours yet, and what they serve. Where one is installed, it
is run as anybody's own class."""

TRUST: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("mlserver_alibi_explain", "AlibiExplainRuntime"): "explainer",
        ("mlserver_alibi_detect", "AlibiDetectRuntime"): "detector",
    }
)
"""Package and class to a runtime of ours that does the same from a trust folder. Where the package is installed, its
own class is run instead, as anybody's."""
_INFER_URI: Final = re.compile(r".*/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?/infer/?")


# -- what the dialect is asked --


def speaks(folder: Path, environ: Mapping[str, str]) -> bool:
    """Whether there is a model-settings.json, a settings.json of MLServer's, or a model in the environment alone."""
    if next(settings_files(folder), None) is not None or mlserver_server.is_of_mlserver(folder):
        return True
    environment = _read_environment(environ)
    return any(environment.get(name) is not None for name in (f"{PREFIX}implementation", _REPOSITORY))


def server_settings(folder: Path, environ: Mapping[str, str]) -> tuple[Foreign, tuple[str, ...]]:
    """Our settings for what settings.json and the `MLSERVER_` variables say, with who said it, and what of it is not
    honoured. As `base.Dialect.server_settings`.
    """
    return mlserver_server.translate(mlserver_server.read(folder, _read_environment(environ)), folder)


def survey(
    folder: Path,
    *,
    environ: Mapping[str, str],
    recognise: Recognise,
    defaults: Overrides,
    overrides: Overrides,
) -> Survey:
    """The models of an MLServer folder, in the order of their files. As `base.Dialect.survey`."""
    environment = _read_environment(environ)
    try:
        server = mlserver_server.read(folder, environment)
    except SettingsError as error:
        return Survey(problems=(Problem(name=folder.name, place=str(folder), error=error),))
    look = _Look(
        folder,
        server=server,
        environment=environment,
        recognise=recognise,
        defaults=defaults,
        overrides=overrides,
    )
    repository = server.get("model_repository_implementation", None)
    if repository and repository not in mlserver_repository.DEFAULT:
        try:
            found = mlserver_repository.listed(repository, server.get(_ARGUMENTS, {}), folder)
        except LoadFailed as error:
            return Survey(problems=(Problem(name=folder.name, place=str(folder), error=error),))
        for place, document in found:
            look.at(place, document)
        return Survey(specs=tuple(look.specs.values()), problems=tuple(look.problems))
    files = sorted(settings_files(folder))
    for file in files:
        look.at(file)
    if not files and environment.get(f"{PREFIX}implementation") is not None:
        look.at(None)
    return Survey(specs=tuple(look.specs.values()), problems=tuple(look.problems))


def settings_files(folder: Path) -> Iterator[Path]:
    """Every model-settings.json in a folder and below it, the nearest first.

    Hidden folders, environments and `__pycache__` are passed over. Links are followed, but not back into a folder that
    they stand in. At most `MAX_FOLDERS` folders are looked into.
    """
    level: list[tuple[str, tuple[str, ...]]] = [(str(folder), (os.path.realpath(folder),))]
    left = MAX_FOLDERS
    while level:
        below: list[tuple[str, tuple[str, ...]]] = []
        for place, above in level:
            left -= 1
            if left < 0:
                return
            try:
                with os.scandir(place) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError:  # what cannot be looked into holds no model for us, as for MLServer
                continue
            names = {entry.name for entry in entries}
            if place != str(folder) and ("pyvenv.cfg" in names or "conda-meta" in names):
                continue
            for entry in entries:
                if entry.name == FILE and entry.is_file():
                    yield Path(entry.path)
                elif not entry.name.startswith(".") and entry.name != "__pycache__" and entry.is_dir():
                    real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
                    if real not in above:
                        below.append((entry.path, (*above, real)))
        level = below


def find_class(reference: str, search_path: Sequence[str]) -> str:
    """Why a class cannot be found by its dotted path; empty: it is there. Reads files, imports nothing.

    Args:
        reference: As `implementation` says it.
        search_path: Folders that are looked through before the installed packages.
    """
    module, _, name = _dotted(reference).rpartition(".")
    if not module:
        return f"implementation {reference!r} is no dotted path of a class; expected module.Class"
    places: list[str] | None = [*search_path]
    spec = None
    for end in range(1, module.count(".") + 2):
        part = ".".join(module.split(".")[:end])
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None and end == 1:
            spec = importlib.machinery.PathFinder.find_spec(part)
        if spec is None:
            return f"there is no module {part!r} in {', '.join(search_path)} or among the installed packages"
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        return f"{spec.origin}{line} cannot be read: {error.msg if isinstance(error, SyntaxError) else error}"
    names = {each for node in ast.walk(tree) for each in _bound(node)}
    if name in names or "*" in names:
        return ""
    near = difflib.get_close_matches(name, names, n=1)
    return f"{spec.origin} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id


# -- one model --


class _Look:
    """One survey under way."""

    def __init__(
        self,
        root: Path,
        *,
        server: Server,
        environment: Environment,
        recognise: Recognise,
        defaults: Overrides,
        overrides: Overrides,
    ) -> None:
        self._root = root
        self._server = server
        self._environment = environment
        self._recognise = recognise
        self._defaults = defaults
        self._overrides = overrides
        self._files: dict[tuple[str, str], str] = {}
        self.specs: dict[tuple[str, str], ModelSpec] = {}
        self.problems: list[Problem] = []

    def at(self, file: Path | None, document: Document | None = None) -> None:
        """The model of a settings file, or of what was read already; neither: the one in the environment alone."""
        folder = self._root if file is None else file.parent
        place = str(file or (document.file if document else folder))
        name, version = folder.name, ""
        try:
            if document is None:
                document = Document("environment", EMPTY) if file is None else fields.load(file)
            name, version = _called(document, folder)
            told = _read(document, self._environment)
            model = _Model(self._root, folder, file=file, document=document, told=told, server=self._server)
            name, version = model.name, model.version
            spec = self._finish(model)
            name, version = spec.name, spec.version
            first = self._files.setdefault((name, version), place)
            if first != place:
                raise SettingsError(
                    f"{spec.describe()} is in two files: {first} and {place}; MLServer would serve one of them. "
                    f"Give one another 'name', or another 'version' in its 'parameters'"
                )
        except HeadraceError as error:
            self.problems.append(Problem(name=name, version=version, place=place, error=error))
        except OSError as error:
            unread = LoadFailed(f"{error.filename or place}: cannot be read: {error.strerror or error}")
            unread.__cause__ = error
            self.problems.append(Problem(name=name, version=version, place=place, error=unread))
        else:
            self.specs[name, version] = spec

    def _finish(self, model: _Model) -> ModelSpec:
        own = read_yaml(model.folder)
        if "path" in own:
            own["path"] = str(model.folder / own["path"])
        above = {**own, **self._overrides}
        found = {
            **model.placed(),
            **self._defaults,
            **model.common(),
            **(
                above
                if above.keys() & {"path", "reference"} and above.get("runtime")
                else model.loaded(self._recognise)
            ),
            **above,
        }
        warnings = (*found.pop("warnings", ()), *model.warnings)
        spec = ModelSpec(**found, warnings=warnings)
        check_name(spec.name, model.document.where(("name",)))
        if spec.version:
            check_name(spec.version, model.document.where(("parameters", "version")), what="parameters.version")
        return spec


def check_name(name: str, where: str, *, what: str = "name") -> None:
    """Refuse what no request could ask for. MLServer takes any name; ours may be any that one part of a path can hold.

    Raises:
        SettingsError: it is empty, has a slash or a letter that cannot be seen, or is very long.
    """
    if not name or "/" in name or name in {".", ".."} or not name.isprintable() or len(name) > 128:
        raise SettingsError(
            f"{where}: key {what!r}: {name!r} cannot stand in a url; expected up to 128 letters without '/'"
        )


class _Told(msgspec.Struct, frozen=True):
    """The fields of one model as file and environment set them."""

    values: Mapping[str, Value]
    parameters: Mapping[str, Value]
    others: Mapping[str, Any]
    """Of `parameters`, what MLServer does not know; the model may."""


def _read(document: Document, environment: Environment) -> _Told:
    values = fields.read(document, document.content, FIELDS, environment=environment, prefix=PREFIX)
    given = values["parameters"].value if "parameters" in values else None
    content: Mapping[str, Any] = given or {}
    at = ("parameters",)
    parameters = fields.read(document, content, PARAMETERS, at=at, environment=environment, prefix=PREFIX)
    of_file = environment.of_file.items()
    others = {
        name.removeprefix(PREFIX.lower()): text
        for name, text in of_file
        if name.startswith(PREFIX.lower()) and name.removeprefix(PREFIX.lower()) not in {*FIELDS, *PARAMETERS}
    }
    others |= {name: value for name, value in content.items() if name not in PARAMETERS}
    return _Told(values, parameters, others)


class _Model:
    """One model version in MLServer's words, to be said in ours."""

    def __init__(
        self, root: Path, folder: Path, *, file: Path | None, document: Document, told: _Told, server: Server
    ) -> None:
        self.folder = folder
        self.document = document
        self.warnings: list[str] = []
        self._root = root
        self._file = file
        self._told = told
        self._server = server
        self.name: str = self._get("name") or folder.name
        self.version: str = self._parameter("version") or ""

    def _get(self, name: str, default: Any = None) -> Any:
        found = self._told.values.get(name)
        return default if found is None else found.value

    def _parameter(self, name: str, default: Any = None) -> Any:
        found = self._told.parameters.get(name)
        return default if found is None else found.value

    def _where(self, *position: str) -> str:
        name = position[-1]
        known = self._told.values if len(position) == 1 else self._told.parameters
        origin = known[name].origin if name in known else ""
        return origin or self.document.where(position)

    def _warn(self, text: str, *position: str) -> None:
        self.warnings.append(f"{self._where(*position)}: key {fields.dotted(position)!r} {text}")

    # -- what does not depend on the runtime --

    def placed(self) -> dict[str, Any]:
        """Where it would run by what the server's settings say of all models."""
        workers = max(self._server.get("parallel_workers", 1), 0)
        is_own = self._official() is None
        found: dict[str, Any] = {"load_at_start": self._server.get("load_models_at_startup", True)}
        if is_own:
            found["placement"] = "process" if workers else "inline"
        if workers > 1:
            found["replicas"] = workers
        return found

    def common(self) -> dict[str, Any]:
        """What is said of this model, whatever its runtime."""
        self.warnings += fields.unknown(self.document.content, FIELDS, self.document)
        found: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "dialect": "mlserver",
            "folder": str(self.folder),
            "declared": self._declared(),
            "watched": tuple(map(str, self._watched())),
        }
        if (size := self._get("max_batch_size", 0)) > 1 and (wait := self._get("max_batch_time", 0.0)) > 0:
            found["batching"] = Batching(max_batch_size=size, max_wait_seconds=wait)
        if self._get("cache_enabled") and self._server.get("cache_enabled", False):
            entries = self._server.get("cache_size", 100)
            found["cache"] = Cache(max_entries=entries) if entries > 0 else None
        workers = self._get("parallel_workers")
        if workers is not None and workers <= 0:
            found |= {"placement": "inline", "replicas": 1} if self._official() is None else {"replicas": 1}
        elif workers is not None:
            self._warn(
                f"only counts where it is 0: 'parallel_workers' of {mlserver_server.FILE} holds", "parallel_workers"
            )
        if "warm_workers" in self._told.values:
            self._warn("has no effect, as in MLServer, where it is deprecated", "warm_workers")
        if self._parameter("inference_pool_gid") or self._parameter("autogenerate_inference_pool_gid"):
            found["placement"] = "process"  # each model has processes of its own here
        if environment := self._environment():
            found |= {"environment": environment, "placement": "process"}
        return found

    def _watched(self) -> list[Path]:
        """What a change of means another model. Not the whole folder: a model may write into its own."""
        found = [self._file] if self._file is not None else []
        found += _code(self.folder)
        artifact = _absolute(self.folder / _path_of(self._parameter("uri") or ""))
        if artifact.is_file() and artifact not in found:
            found.append(artifact)
        return found

    def _declared(self) -> dict[str, Any]:
        found = {name: self._get(name) for name in ("platform", "versions", "inputs", "outputs")}
        content_type = self._parameter("content_type")
        if content_type:
            found["parameters"] = {"content_type": content_type}
        return {name: value for name, value in found.items() if value}

    def _environment(self) -> str:
        for name in ("environment_tarball", "environment_path"):
            if place := self._parameter(name):
                if name == "environment_tarball" and self._parameter("environment_path"):
                    self._warn("is not looked at, since 'environment_tarball' is set", "parameters", "environment_path")
                return str(self.folder / _path_of(place))
        return ""

    # -- what depends on it --

    def _official(self) -> Official | None:
        implementation = self._get("implementation", "")
        package, _, rest = _dotted(implementation).partition(".")
        return OFFICIAL.get((package, rest.rpartition(".")[2]))

    def loaded(self, recognise: Recognise) -> dict[str, Any]:
        """What loads it, and from where."""
        implementation = self._get("implementation", "")
        if not implementation:
            return self._recognised(recognise)
        official = self._official()
        if official is None:
            trusted = self._trusted(implementation)
            return trusted if trusted is not None else self._custom(implementation)
        path = self._artifact(official, recognise)
        parameters = {}
        for key, value in (self._parameter("extra") or {}).items():
            if key in official.extra:
                parameters[official.extra[key]] = value
            else:
                where = self.document.where(("parameters", "extra", key))
                self.warnings.append(f"{where}: key 'parameters.extra.{key}' is not read by {implementation}")
        if self._parameter("format"):
            self._warn(f"is not read by {implementation}", "parameters", "format")
        for key in self._told.others:
            self._warn(f"is not read by {implementation}{_near(key, PARAMETERS)}", "parameters", key)
        self._tell_content_types(official)
        return {
            "runtime": official.runtime,
            "path": str(path),
            "parameters": parameters,
            "evidence": f"implementation {implementation}",
        }

    def _tell_content_types(self, official: Official) -> None:
        """Of defaults of content types that our runtime does not take over: its signature says how it reads."""
        given: list[tuple[Position, Any]] = [(("parameters", "content_type"), self._parameter("content_type"))]
        for index, tensor in enumerate(self._get("inputs", ())):
            content_type = tensor.get("parameters", {}).get("content_type")
            given.append((("inputs", index, "parameters", "content_type"), content_type))
        for position, content_type in given:
            if content_type and content_type not in _READ_ALIKE:
                key = f"{self.document.where(position)}: key {fields.dotted(position)!r}"
                self.warnings.append(
                    f"{key}: {content_type!r} is not taken for requests that say none: the runtime {official.runtime} "
                    f"reads inputs as its signature says"
                )

    def _trusted(self, implementation: str) -> dict[str, Any] | None:
        """An explainer or detector, as ours does it; None: it is none of theirs, or theirs is installed."""
        package, _, rest = _dotted(implementation).partition(".")
        runtime = TRUST.get((package, rest.rpartition(".")[2]))
        if runtime is None or _is_there(package, [str(self.folder), str(self._root)]):
            return None
        extra = dict(self._parameter("extra") or {})
        found = self._explainer(extra) if runtime == "explainer" else self._detector(extra)
        for key in extra:
            where = self.document.where(("parameters", "extra", key))
            file = "explainers.json" if runtime == "explainer" else "detectors.json"
            self.warnings.append(f"{where}: key 'parameters.extra.{key}' has no effect; see {file} of the trust folder")
        return {"runtime": runtime, "evidence": f"implementation {implementation}", **found}

    def _explainer(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Whom it explains and how; what it understands is taken out of `extra`."""
        infer_uri, kind = str(extra.pop("infer_uri", "")), str(extra.pop("explainer_type", ""))
        match = _INFER_URI.fullmatch(infer_uri)
        if match is None:
            raise LoadFailed(
                f"{self._where('parameters', 'extra')}: key 'parameters.extra.infer_uri' names the model that is "
                f"explained: expected .../v2/models/MODEL/infer, got {infer_uri!r}"
            )
        method = alibi.explainer(kind)
        if kind and not method:
            raise LoadFailed(
                f"{self._where('parameters', 'extra')}: explainer_type {kind!r} has no method here; "
                f"{alibi.unknown(kind, alibi.EXPLAINERS)}"
            )
        wanted = {"model": match["model"], "version": match["version"] or "", "method": method}
        parameters: dict[str, Any] = {name: value for name, value in wanted.items() if value}
        if options := extra.pop("explain_parameters", None):
            parameters["options"] = options
        place = self._trust_folder(f"our method for it is '{method}'" if method else "")
        return {"path": place, "parameters": parameters}

    def _detector(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Which detector of which trust folder; what it understands is taken out of `extra`."""
        kind = str(extra.pop("detector_type", ""))
        method = alibi.detector(kind)
        place = self._trust_folder(f"our method for it is '{method}'" if method else "")
        if not place:
            raise LoadFailed(
                f"{self._where('parameters', 'uri')}: key 'parameters.uri' must be a trust folder, which "
                "`headrace trust fit` writes beside a model; it holds the detectors"
            )
        parameters = {"detector": extra.pop("detector")} if "detector" in extra else {}
        if not parameters:
            parameters["detector"] = self._only_detector(Path(place), method)
        return {"path": place, "parameters": parameters}

    def _only_detector(self, folder: Path, method: str) -> str:
        """The detector of a folder that must be meant: the one of the method, or the only one."""
        detectors = open_folder(folder).detectors
        meant = [each.name for each in detectors if each.method == method] or [each.name for each in detectors]
        if len(meant) != 1:
            raise LoadFailed(
                f"{self._where('parameters', 'extra')}: say which detector of {folder} by 'parameters.extra.detector': "
                f"{', '.join(meant) or 'it has none'}"
            )
        return meant[0]

    def _trust_folder(self, ours: str) -> str:
        """The trust folder that `uri` names; empty: it names none. What alibi saved is refused."""
        place = _absolute(self.folder / _path_of(self._parameter("uri") or ""))
        if is_folder(place):
            return str(place)
        if (found := find_folder(place)) is not None:
            return str(found)
        if not self._parameter("uri") and not any((place / each).exists() for each in alibi.SAVED):
            return ""
        raise LoadFailed(
            f"{self._where('parameters', 'uri')}: {place} is no trust folder; what alibi saved is pickled code, which "
            f"is never read here. Write one by `headrace trust fit` from the training data, and name it, or leave "
            f"'parameters.uri' out{'; ' if ours else ''}{ours}"
        )

    def _custom(self, implementation: str) -> dict[str, Any]:
        reference = _dotted(implementation)
        package = reference.partition(".")[0]
        search_path = [*dict.fromkeys(map(str, (self.folder, self._root, Path.cwd())))]
        if (what := ELSEWHERE.get(package)) and not _is_there(package, search_path):
            distribution = package.replace("_", "-")
            raise LoadFailed(
                f"{self._where('implementation')}: {implementation} serves {what}, for which there is no runtime here "
                f"yet, and the package {distribution} is not installed; with it installed, its own class is run"
            )
        for key in self._told.others:
            if near := _near(key, PARAMETERS):
                self._warn(f"is kept for the model to read{near}", "parameters", key)
        return {
            "runtime": "mlserver",
            "reference": reference,
            "parameters": {
                "settings": self._settings(),
                "source": str(self._file or ""),
                "search_path": search_path,
                "package": "auto",
            },
            "evidence": f"implementation {implementation}",
        }

    def _settings(self) -> dict[str, Any]:
        """The settings as MLServer would have them: with the environment, with names and folders filled in."""
        found = {name: each.value for name, each in self._told.values.items()}
        parameters = {name: each.value for name, each in self._told.parameters.items()}
        if self._file is not None and not parameters.get("uri"):
            parameters["uri"] = str(self.folder)
        return {**found, "name": self.name, "parameters": {**self._told.others, **parameters}}

    def _recognised(self, recognise: Recognise) -> dict[str, Any]:
        try:
            path = self._artifact(Official(""), recognise)
            runtime, recognition = recognise(path)
        except (UnknownFormat, LoadFailed) as error:
            nearby = "".join(f". {warning}" for warning in self.warnings)  # a key that is almost the one
            raise SettingsError(
                f"{self.document.file}: key 'implementation' is missing, and no model is recognised: {error}{nearby}"
            ) from error
        self.warnings.append(
            f"{self.document.file}: key 'implementation' is missing, which MLServer requires; served by the runtime "
            f"{runtime}, since the model is {recognition.evidence}"
        )
        return {"runtime": runtime, "path": str(path), "evidence": recognition.evidence}

    def _artifact(self, official: Official, recognise: Recognise) -> Path:
        """The file or folder that the model is loaded from."""
        uri = self._parameter("uri") or ""
        scheme = _SCHEME.match(uri)
        if scheme is not None and scheme[1].lower() != "file":
            raise LoadFailed(
                f"{self._where('parameters', 'uri')}: key 'parameters.uri': {uri!r} is in storage elsewhere "
                f"({scheme[1]}:), and MLServer's files name places of this machine: bring it here by `headrace fetch "
                f"URI FOLDER` and set its place, or serve the folder that has the settings from there"
            )
        base = self.folder if self._file is not None or not uri else Path.cwd()
        place = _absolute(base / _path_of(uri))
        if not place.exists():
            raise LoadFailed(f"Invalid URI specified for model {self.name} ({place}): there is nothing here")
        if official.runtime == "mlflow" or not place.is_dir():
            return place
        for name in official.files:
            if (place / name).exists():
                return place / name
        claimed, others = _claimed(place, recognise, official.runtime)
        if len(claimed) == 1:
            return claimed[0]
        if not official.runtime and not claimed:
            recognise(place)  # a folder that is a model; else its error says what was found
            return place
        expected = f"looked for {', '.join(official.files)}" if official.files else "looked for one model"
        shown = ", ".join(each.name for each in (claimed or others)[:10]) or "no file"
        raise LoadFailed(f"Invalid URI specified for model {self.name} ({place}): {expected}; found {shown}")


_READ_ALIKE: Final = frozenset({"np", "pd", "str"})
"""Content types that our runtimes need not be told of: tensors, columns by name, and texts are read as such anyway."""

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


def _claimed(folder: Path, recognise: Recognise, runtime: str) -> tuple[list[Path], list[Path]]:
    """The files of a folder that the runtime claims (any runtime, for an empty name), and all of its files."""
    files = sorted(each for each in folder.iterdir() if each.is_file() and not each.name.startswith("."))
    claimed = []
    for file in files:
        if file.suffix in {".py", ".json", ".txt", ".md", ".yaml", ".yml", ".csv"}:
            continue
        try:
            found, _ = recognise(file)
        except HeadraceError:
            continue
        if found == runtime or not runtime:
            claimed.append(file)
    return claimed, [file for file in files if file.name != FILE]


def _called(document: Document, folder: Path) -> tuple[str, str]:
    """Name and version of a file that may be wrong everywhere else."""
    parameters = document.content.get("parameters")
    name = document.content.get("name")
    version = parameters.get("version") if isinstance(parameters, dict) else None
    return (
        name if isinstance(name, str) and name else folder.name,
        version if isinstance(version, str) else "",
    )


def _code(folder: Path) -> list[Path]:
    """The Python files of a model: those in its folder, and those of packages in it that are no models themselves."""
    found = []
    for place in [folder, *sorted(each for each in folder.iterdir() if (each / "__init__.py").is_file())]:
        if place == folder or not (place / FILE).is_file():
            found += sorted(each for each in place.glob("*.py") if each.is_file())
    return found


def _dotted(implementation: str) -> str:
    return implementation.replace(":", ".")


def _path_of(uri: str) -> str:
    """The path of a `file:` uri; any other text is a path as it is."""
    scheme = _SCHEME.match(uri)
    return urlsplit(uri).path if scheme is not None and scheme[1].lower() == "file" else uri


def _near(key: str, known: Mapping[str, Field]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_there(package: str, search_path: Sequence[str]) -> bool:
    finder = importlib.machinery.PathFinder
    return (finder.find_spec(package, [*search_path]) or finder.find_spec(package)) is not None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay links


def _read_environment(environ: Mapping[str, str]) -> Environment:
    return variables.read(environ, Path.cwd())
