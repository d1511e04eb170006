"""Which models there are: paths of `headrace serve` to model specs. The repository asks at start and whenever it looks
again; the command line asks to say what would be served.

What may lie where (`survey` has the rules):

    iris.joblib                     one model, `iris`
    iris/model.joblib               one model, `iris`: a folder with exactly one model in it, an MLflow folder,
                                    or a folder whose headrace.yaml says where the model is
    iris/1/model.onnx, iris/2/...   one model, `iris`, in versions: folders named by numbers, also v2 or 1.10
    models/                         a folder of any of the above, one level deep
    package.module:Class            a model written in Python, `Class`; also path/to/file.py:Class
    iris/trust/, iris.trust/        no model: what `headrace trust fit` wrote about one
    somebody else's folder          whatever its dialect says (`dialects`: MLServer's folders)

Judged by content, through `runtimes.recognise`; nothing is imported or executed. Links are followed.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.errors import HeadraceError, LoadFailed, SettingsError, UnknownFormat
from headrace.payload import EMPTY
from headrace.runtimes.base import Recognition
from headrace.serving import dialects
from headrace.serving.dialects.base import Dialect, Problem, Recognise, Survey
from headrace.serving.models import readable
from headrace.serving.spec import FILE, REFERENCE, ModelSpec, Overrides, check_name, read_yaml
from headrace.trust.folder import is_folder

__all__ = ["Problem", "Recognise", "Survey", "discover", "survey"]


def discover(
    paths: Sequence[str],
    *,
    defaults: Overrides = EMPTY,
    overrides: Overrides = EMPTY,
    recognise: Recognise | None = None,
) -> list[ModelSpec]:
    """The models at these paths, if there is nothing wrong with any.

    Args:
        paths: As for `survey`.
        defaults: As for `survey`.
        overrides: As for `survey`.
        recognise: As for `survey`.

    Raises:
        UnknownFormat: there is no model where one should be; lists what was found.
        SettingsError: a headrace.yaml is wrong, a name cannot stand in a URL, or two places hold the same version.
        LoadFailed: something cannot be read.
    """
    found = survey(paths, defaults=defaults, overrides=overrides, recognise=recognise)
    for problem in found.problems:
        raise problem.error
    return list(found.specs)


def survey(
    paths: Sequence[str],
    *,
    defaults: Overrides = EMPTY,
    overrides: Overrides = EMPTY,
    recognise: Recognise | None = None,
    environ: Mapping[str, str] | None = None,
) -> Survey:
    """Look at everything at these paths. Blocks for as long as reading the heads of the files takes.

    Rules, the first that fits:

    * A folder that speaks a dialect, at the top only, holds the models that its dialect finds and no others. Folders
      and files in it that hold recognised models and belong to none of those are told in `warnings`. Where the dialect
      finds nothing, the rules below hold.
    * A folder is one model when its headrace.yaml names a `path` or `reference`, or a runtime recognises the folder.
    * It is one model in versions when all of its folders are named like versions and no model file lies beside them.
    * It is one model when exactly one file in it is a model and no folder in it holds any.
    * Else each model file is a model and each folder in it is one. A folder in which nothing is recognised is a
      problem, unless all that it holds is ignored; so is a file that only calls itself a model.

    Ignored: names that begin with `.` or `_`, `trust/` and `golden.npz` (what travels with a model), headrace.yaml
    itself, README, LICENSE and requirements files, conda.yaml and python_env.yaml. A Python file counts as a model only
    where no other model lies.

    Args:
        paths: Files, folders, or references.
        defaults: Fields that hold where a model's own headrace.yaml is silent (the server's settings).
        overrides: Fields that hold whatever a headrace.yaml says (flags of the command line).
        recognise: Who recognises; default: `runtimes.recognise.recognise`.
        environ: Environment variables, which dialects look at; default: the process's.
    """
    if recognise is None:
        from headrace.runtimes.recognise import recognise as of_content

        recognise = of_content
    look = _Look(recognise, defaults, overrides, os.environ if environ is None else environ)
    for path in paths:
        look.at(path)
    return look.result()


_IGNORED: Final = frozenset({"trust", "golden.npz", FILE, "conda.yaml", "python_env.yaml"})
_IGNORED_STEMS: Final = re.compile(r"(readme|license|licence|notice|requirements)(\b|_).*", re.IGNORECASE | re.DOTALL)
_VERSION: Final = re.compile(r"[vV]?\d+(\.\d+)*")
_MODEL_SUFFIXES: Final = frozenset({".joblib", ".pkl", ".pickle", ".skops", ".onnx", ".ubj", ".bst", ".cbm"})
_FILE_REFERENCE: Final = re.compile(r"(?P<file>.+\.py):(?P<attribute>[^\W\d]\w*)")
_LISTED: Final = 10


class _Folder(msgspec.Struct, frozen=True):
    """A folder's candidates, by name."""

    path: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...]


class _Look:
    """One survey under way."""

    def __init__(
        self, recognise: Recognise, defaults: Overrides, overrides: Overrides, environ: Mapping[str, str]
    ) -> None:
        self._recognise = recognise
        self._defaults = defaults
        self._overrides = overrides
        self._environ = environ
        self._warnings: list[str] = []
        self._specs: dict[tuple[str, str], ModelSpec] = {}
        self._problems: list[Problem] = []
        self._known: dict[Path, tuple[str, Recognition] | HeadraceError] = {}

    def result(self) -> Survey:
        specs, problems = tuple(self._specs.values()), tuple(self._problems)
        return Survey(specs=specs, problems=problems, warnings=tuple(self._warnings))

    def at(self, path: str) -> None:
        """One path of the command line."""
        place = _absolute(Path(path).expanduser())
        in_file = _FILE_REFERENCE.fullmatch(path)
        if place.is_dir():
            dialect = dialects.of(place, self._environ)
            if dialect is None or not self._of_dialect(dialect, place):
                self._guard(place.name, "", place, lambda: self._top(_list(place), self._read(place)))
        elif place.is_file():
            self._guard(place.stem, "", place, lambda: self._add(self._file(place, self._beside(place))))
        elif in_file is not None and Path(in_file["file"]).expanduser().is_file():
            file, name = _absolute(Path(in_file["file"]).expanduser()), in_file["attribute"]
            self._guard(
                name,
                "",
                file,
                lambda: self._add(self._python(f"{file}:{name}", file.parent, name, "", self._overrides)),
            )
        elif (named := REFERENCE.fullmatch(path)) is not None:
            name = named["attribute"]
            self._guard(
                name, "", Path(path), lambda: self._add(self._python(path, Path.cwd(), name, "", self._overrides))
            )
        else:
            nothing = SettingsError(
                f"{path}: there is nothing here; expected a model file, a folder of models, or module:Class of a model "
                f"written in Python"
            )
            self._problems.append(Problem(name=place.stem, place=str(place), error=nothing))

    # -- somebody else's rules --

    def _of_dialect(self, dialect: Dialect, folder: Path) -> bool:
        """Whether the dialect finds anything in a folder."""
        found = dialect.survey(
            folder,
            environ=self._environ,
            recognise=self._runtime_or_raise,
            defaults=self._defaults,
            overrides=self._overrides,
        )
        self._problems += found.problems
        self._warnings += found.warnings
        for spec in found.specs:
            self._guard(spec.name, spec.version, Path(spec.folder), functools.partial(self._add, spec))
        if found.specs or found.problems:
            self._guard(folder.name, "", folder, lambda: self._tell_of_others(folder, found))
        return bool(found.specs or found.problems)

    def _tell_of_others(self, folder: Path, found: Survey) -> None:
        used = [Path(each) for spec in found.specs for each in (spec.path, spec.folder) if each]
        used += [Path(problem.place) for problem in found.problems]
        listed = _list(folder)
        others = [file for file in listed.files if file.suffix.lower() in _MODEL_SUFFIXES and file not in used]
        others += [
            each
            for each in listed.folders
            if not any(place.is_relative_to(each) for place in used) and self._holds_any(_list(each))
        ]
        if others and folder not in used:  # what lies beside the settings of the one model belongs to it
            self._warnings.append(
                f"{folder}: not served, since only folders with settings are models here: {_names(others)}. To serve "
                f"them too, name them on the command line"
            )

    # -- the rules --

    def _top(self, folder: _Folder, overrides: Overrides) -> None:
        if self._is_one(folder, overrides) or self._is_versioned(folder):
            self._named(folder, overrides)
            return
        files = self._models(folder)
        files += [file for file in folder.files if file.suffix.lower() in _MODEL_SUFFIXES and file not in files]
        # The last are no models, though they call themselves so: left out in silence, they would be missed too late.
        inner = [_list(each) for each in folder.folders]
        holding = [each for each in inner if self._holds_any(each)]
        if len(files) <= 1 and not holding:
            self._named(folder, overrides)
            return
        if overrides.keys() - self._overrides.keys():
            raise SettingsError(
                f"{folder.path / FILE}: it speaks for one model, and this folder holds several: "
                f"{_names([*files, *(each.path for each in holding)])}. Put it beside the one it is meant for, name "
                f"one by 'path', or call it STEM.{FILE} after the file it is meant for"
            )
        for file in files:
            self._guard(file.stem, "", file, functools.partial(self._file_of_many, file))
        for each in inner:
            if each.files or each.folders or (each.path / FILE).is_file():
                self._guard(each.path.name, "", each.path, functools.partial(self._folder_of_many, each))

    def _file_of_many(self, file: Path) -> None:
        self._add(self._file(file, self._read(file.parent, file.stem)))

    def _folder_of_many(self, folder: _Folder) -> None:
        self._named(folder, self._read(folder.path))

    def _named(self, folder: _Folder, overrides: Overrides) -> None:
        """A folder that is one model, in versions or not."""
        name = overrides.get("name", folder.path.name)
        if self._is_one(folder, overrides) or not self._is_versioned(folder):
            version = overrides.get("version", "")
            self._guard(name, version, folder.path, lambda: self._add(self._one(folder, name, "", overrides)))
            return
        for place in sorted(folder.folders, key=lambda each: readable(each.name)):
            self._guard(name, place.name, place, functools.partial(self._version_of, _list(place), name, overrides))

    def _version_of(self, folder: _Folder, name: str, above: Overrides) -> None:
        if folder.files or folder.folders or (folder.path / FILE).is_file():  # an empty one is about to be filled
            overrides = {**above, **self._read(folder.path)}
            self._add(self._one(folder, name, folder.path.name, overrides))

    def _is_one(self, folder: _Folder, overrides: Overrides) -> bool:
        return "path" in overrides or "reference" in overrides or self._is_recognised(folder.path)

    def _is_versioned(self, folder: _Folder) -> bool:
        if not folder.folders or not all(_VERSION.fullmatch(each.name) for each in folder.folders):
            return False
        if models := self._models(folder):
            raise SettingsError(
                f"{folder.path}: it holds version folders ({_names(folder.folders)}) and beside them model files "
                f"({_names(models)}); move each file into a version folder"
            )
        return True

    def _holds_any(self, folder: _Folder, depth: int = 1) -> bool:
        if (folder.path / FILE).is_file() or self._is_recognised(folder.path) or self._models(folder):
            return True
        if any(each.suffix.lower() in _MODEL_SUFFIXES for each in folder.files):
            return True
        return depth > 0 and any(self._holds_any(_list(each), depth - 1) for each in folder.folders)

    # -- one model --

    def _file(self, file: Path, overrides: Overrides) -> ModelSpec:
        return self._spec(file, file.stem, "", overrides)

    def _one(self, folder: _Folder, name: str, version: str, overrides: Overrides) -> ModelSpec:
        """The one model that a folder holds."""
        if "reference" in overrides:
            return self._python(overrides["reference"], folder.path, name, version, overrides)
        if "path" in overrides:
            place = folder.path / overrides["path"]
            if not place.exists():
                raise SettingsError(f"{place}: there is nothing here, and 'path' in {FILE} says that the model is")
            return self._spec(place, name, version, overrides)
        if self._is_recognised(folder.path):
            return self._spec(folder.path, name, version, overrides)
        models = self._models(folder)
        if len(models) > 1:
            raise SettingsError(
                f"{folder.path}: it should hold one model, and several files are: {_names(models)}. "
                f"Say which by 'path' in {folder.path / FILE}, or move the others"
            )
        if models:
            return self._spec(models[0], name, version, overrides)
        if "runtime" in overrides:  # somebody knows better than recognition
            return self._spec(folder.files[0] if len(folder.files) == 1 else folder.path, name, version, overrides)
        if len(folder.files) == 1 and not folder.folders:
            return self._spec(folder.files[0], name, version, overrides)  # its UnknownFormat says more than a listing
        raise UnknownFormat(f"{folder.path}: no model is recognised here; found {_listing(folder)}")

    def _spec(self, path: Path, name: str, version: str, overrides: Overrides) -> ModelSpec:
        path = _absolute(path)
        found: dict[str, Any] = {"name": name, "version": version, **self._defaults, **overrides}
        if not found.get("runtime"):
            found["runtime"], recognition = self._runtime_or_raise(path)
            found["evidence"] = recognition.evidence
        else:
            found["evidence"] = f"named by {FILE} or a flag"
        return _checked({**found, "path": str(path), "folder": str(path.parent)}, path)

    def _python(self, reference: str, folder: Path, name: str, version: str, overrides: Overrides) -> ModelSpec:
        found = {"name": name, "version": version, "runtime": "python", "evidence": "module:Class", **self._defaults}
        return _checked({**found, **overrides, "reference": reference, "folder": str(folder)}, Path(reference))

    def _beside(self, file: Path) -> Overrides:
        """What is said of a file that was named itself: by a headrace.yaml of its own, else by the folder's."""
        if (file.parent / f"{file.stem}.{FILE}").is_file():
            return self._read(file.parent, file.stem)
        overrides = self._read(file.parent)
        if "reference" in overrides or file.parent / overrides.get("path", file.name) != file:
            return self._overrides
        return overrides

    def _read(self, folder: Path, stem: str = "") -> dict[str, Any]:
        """What holds for a model over what is found: its headrace.yaml, and above that what all models are told."""
        return {**read_yaml(folder, stem), **self._overrides}

    # -- what is a model --

    def _runtime_or_raise(self, path: Path) -> tuple[str, Recognition]:
        known = self._known.get(path)
        if known is None:
            try:
                known = self._recognise(path)
            except HeadraceError as error:
                known = error
            except OSError as error:
                known = _unread(path, error)
            self._known[path] = known
        if isinstance(known, HeadraceError):
            raise known.with_traceback(None)  # it is raised for each question, and would grow with each
        return known

    def _is_recognised(self, path: Path) -> bool:
        """Also when two runtimes claim it, or it cannot be read: a model, whose problem is told when it is made."""
        try:
            self._runtime_or_raise(path)
        except UnknownFormat:
            return False
        except HeadraceError:
            return True
        return True

    def _models(self, folder: _Folder) -> list[Path]:
        found = [file for file in folder.files if file.suffix != ".py" and self._is_recognised(file)]
        return found or [file for file in folder.files if file.suffix == ".py" and self._is_recognised(file)]

    # -- the outcome --

    def _guard(self, name: str, version: str, place: Path, find: Callable[[], None]) -> None:
        """Find models; what is wrong with one is no other's problem."""
        try:
            find()
        except HeadraceError as error:
            self._problems.append(Problem(name=name, version=version, place=str(place), error=error))
        except OSError as error:
            unread = _unread(place, error)
            self._problems.append(Problem(name=name, version=version, place=str(place), error=unread))

    def _add(self, spec: ModelSpec) -> None:
        first = self._specs.setdefault((spec.name, spec.version), spec)
        if first is not spec:
            raise SettingsError(
                f"{spec.describe()} is at two places: {first.path or first.reference} and "
                f"{spec.path or spec.reference}. Give one another 'name' or 'version' in its {FILE}"
            )


def _checked(found: Mapping[str, Any], place: Path) -> ModelSpec:
    check_name(found["name"], where=str(place))
    if found["version"]:
        check_name(found["version"], where=str(place), what="version")
    return ModelSpec(**found)


def _unread(place: Path, error: OSError) -> LoadFailed:
    unread = LoadFailed(f"{error.filename or place}: cannot be read: {error.strerror or error}")
    unread.__cause__ = error
    return unread


def _absolute(path: Path) -> Path:
    # Not resolved: a link's own name is the model's, and what a mounted volume's links lead to has a name of its own.
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay links


def _list(folder: Path) -> _Folder:
    with os.scandir(folder) as scan:
        shown = (entry for entry in scan if not _is_ignored(entry.name) and not _is_trust(entry))
        entries = sorted(shown, key=lambda entry: entry.name)
    return _Folder(
        folder,
        tuple(Path(entry.path) for entry in entries if not entry.is_dir()),
        tuple(Path(entry.path) for entry in entries if entry.is_dir()),
    )


def _is_trust(entry: os.DirEntry[str]) -> bool:
    """What `headrace trust fit` wrote beside a model: about a model, and none."""
    return is_folder(Path(entry.path)) if entry.is_dir() else False


def _is_ignored(name: str) -> bool:
    return (
        name.startswith((".", "_"))
        or name in _IGNORED
        or name.endswith(f".{FILE}")
        or _IGNORED_STEMS.fullmatch(name) is not None
    )


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(path.name for path in paths[:_LISTED]) + more


def _listing(folder: _Folder) -> str:
    shown = [*(f"{path.name}/" for path in folder.folders), *(path.name for path in folder.files)]
    if not shown:
        return "nothing that could be a model"
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more
