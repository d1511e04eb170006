"""What a model says it needs: `requirements.txt`, `conda.yaml`, `python_env.yaml`, parsed into one value.

First step of the walk; `prepare` calls it. Files are read through the function `Read`, and nothing is looked up.

Which file counts when several lie in one folder: `python_env.yaml` (with the requirements it names), else
`requirements.txt`, else `conda.yaml`, `conda.yml`, `environment.yml`, `environment.yaml`. The first is MLflow's own
account of a model and names the second; a conda file is the widest of them, and only conda can do all of what it says.

Formats: https://pip.pypa.io/en/stable/reference/requirements-file-format/,
https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-environments.html (conda), and `mlflow.utils.
environment` (`python_env.yaml`).
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from headrace.environments.files import MLFLOW
from headrace.errors import SettingsError

Read = Callable[[Path], str]
"""The text of a file. Raises OSError."""

_MLMODEL: Final = "MLmodel"
_DEPTH: Final = 16
"""Files that include files: more is a circle that no person wrote on purpose."""

_OPTIONS: Final = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
    "--no-binary": "--no-binary",
    "--only-binary": "--only-binary",
    "--trusted-host": "--trusted-host",
}
_FLAGS: Final = frozenset({"--no-index", "--pre", "--prefer-binary", "--require-hashes"})
_IGNORED: Final = frozenset({"--use-feature"})
"""Changes how pip works, not what is installed."""
_NESTED: Final = {"-r": "-r", "--requirement": "-r", "-c": "-c", "--constraint": "-c"}
_URL: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(//|[^:])")
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_CONDA: Final = re.compile(r"^(?:[^\s:]+::)?([A-Za-z0-9_.\-]+)\s*(.*)$")
_CREDENTIALS: Final = re.compile(r"://[^/@\s]+@")


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution asked for, as PEP 508 says it."""

    text: str
    """`name[extra]>=1; marker` or `name @ url`; a local file's url is absolute."""
    name: str
    hashes: tuple[str, ...] = ()
    """`sha256:...`: one of these, or it is not installed."""
    digest: str = ""
    """SHA-256 of the file, when it is a local one: two files of the same name are two packages."""

    @property
    def requirement(self) -> Requirement:
        """The text, parsed."""
        return Requirement(self.text)


class CondaPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A package asked for by conda's own rules."""

    text: str
    name: str
    specifier: str = ""
    """Its version in the terms of PEP 440; empty: any, or nothing that PEP 440 can say."""


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says it needs."""

    source: str
    """The file, absolute."""
    origin: Literal["hand", "mlflow"] = "hand"
    """Written by a person, who means it, or by MLflow, which records what happened to be installed."""
    python: str | None = None
    """A version (`3.11.7`) or a range (`>=3.10,<3.13`); None: any."""
    packages: tuple[Package, ...] = ()
    build_packages: tuple[Package, ...] = ()
    """Installed as well, but no reason to build: MLflow's `build_dependencies`."""
    constraints: tuple[Package, ...] = ()
    """Versions for packages if something asks for them."""
    options: tuple[tuple[str, str], ...] = ()
    """Of pip, in the order written, long names: `("--index-url", "https://...")`, `("--no-index", "")`."""
    conda_packages: tuple[CondaPackage, ...] = ()
    """Without python and pip."""
    channels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the file says that is not done."""
    files: tuple[str, ...] = ()
    """Every file that was read, absolute: when one changes, so may the rest."""


def mask(text: str) -> str:
    """The text with the credentials of its urls replaced: what may be logged."""
    return _CREDENTIALS.sub("://****@", text)


def read_file(path: Path) -> str:
    """A `Read` from disk."""
    return path.read_text(encoding="utf-8-sig")


def read(path: Path, *, read_text: Read = read_file) -> Requirements:
    """What a file beside a model asks for.

    Args:
        path: One of `FILES`; of another name, `.yaml` and `.yml` are conda's and everything else is pip's.
        read_text: Where texts of files come from.

    Raises:
        SettingsError: it, or a file it includes, cannot be read or understood; names file and line.
    """
    path = path.absolute()
    reader = _Reader(read_text)
    if path.name == MLFLOW:
        found = _python_env(path, reader)
    elif path.suffix in {".yaml", ".yml"}:
        found = _conda(path, reader)
    else:
        reader.requirements_file(path, where="", constraint=False, above=())
        found = Requirements(source=str(path))
    origin: Literal["hand", "mlflow"] = "hand"
    if path.name == MLFLOW or (path.parent / _MLMODEL).is_file():
        origin = "mlflow"
    return msgspec.structs.replace(
        found,
        origin=origin,
        packages=tuple(reader.packages),
        constraints=tuple(reader.constraints),
        options=tuple(reader.options),
        files=tuple(reader.files),
    )


def digest(requirements: Requirements) -> str:
    """SHA-256 of what is asked for, whatever file and layout ask for it."""
    said = (
        requirements.python or "",
        [(each.text, each.hashes, each.digest) for each in requirements.packages],
        [(each.text, each.hashes, each.digest) for each in requirements.build_packages],
        [(each.text, each.hashes, each.digest) for each in requirements.constraints],
        [(name, mask(value)) for name, value in requirements.options],
        [each.text for each in requirements.conda_packages],
        requirements.channels,
    )
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def render(requirements: Requirements) -> tuple[str, str]:
    """As the texts of two files for pip: requirements with options, and constraints.

    They may hold credentials, as the file that was read does.
    """
    options = [f"{name} {value}".rstrip() for name, value in requirements.options if name in _RENDERED]
    packages = (*requirements.packages, *requirements.build_packages)
    return (
        "\n".join([*options, *map(_line, packages), ""]),
        "\n".join([*map(_line, requirements.constraints), ""]),
    )


_RENDERED: Final = frozenset(
    {"--index-url", "--extra-index-url", "--find-links", "--no-index", "--no-binary", "--only-binary"}
)
"""What pip and uv both take inside a file; the rest are arguments, by each one's own names (`build`)."""


def _line(package: Package) -> str:
    return " ".join([package.text, *(f"--hash={each}" for each in package.hashes)])


class _Reader:
    """Gathers what pip's files and sections say. Lives for one `read`."""

    def __init__(self, read_text: Read) -> None:
        self._read_text = read_text
        self.packages: list[Package] = []
        self.constraints: list[Package] = []
        self.options: list[tuple[str, str]] = []
        self.files: list[str] = []

    def text_of(self, path: Path, *, where: str) -> str:
        """A file's text; it counts as read.

        Args:
            path: Absolute.
            where: `FILE:LINE` that names it; empty for the first.
        """
        try:
            text = self._read_text(path)
        except OSError as exc:
            named = f"{where} names it" if where else "it lies beside a model"
            raise SettingsError(f"{path}: cannot be read ({exc.strerror or exc}); {named}") from exc
        except UnicodeDecodeError as exc:
            raise SettingsError(f"{path}: is not text in UTF-8: {exc}") from exc
        self.files.append(str(path))
        return text

    def requirements_file(self, path: Path, *, where: str, constraint: bool, above: tuple[Path, ...]) -> None:
        """Everything in a file of pip's, and in those it includes."""
        path = path.absolute()
        if path in above or len(above) >= _DEPTH:
            raise SettingsError(f"{where}: includes {path}, which includes it again")
        for number, line in _logical_lines(self.text_of(path, where=where)):
            self.line(line, where=f"{path}:{number}", folder=path.parent, constraint=constraint, above=(*above, path))

    def line(self, line: str, *, where: str, folder: Path, constraint: bool, above: tuple[Path, ...]) -> None:
        """One logical line: an option or a package."""
        if not line.startswith("-"):
            package = _package(line, where=where, folder=folder, read_bytes=Path.read_bytes)
            (self.constraints if constraint else self.packages).append(package)
            return
        try:
            words = shlex.split(line)
        except ValueError as exc:
            raise SettingsError(f"{where}: {mask(line)!r}: {exc}") from exc
        while words:
            words = self._option(words, where=where, folder=folder, constraint=constraint, above=above)

    def _option(
        self, words: Sequence[str], *, where: str, folder: Path, constraint: bool, above: tuple[Path, ...]
    ) -> list[str]:
        """Take one option from the front of words; the rest."""
        name, given, value = words[0].partition("=")
        rest = list(words[1:])
        if not name.startswith("--") and len(name) > 2:  # -rfile
            name, given, value = name[:2], "=", words[0][2:].removeprefix("=")
        if name in _FLAGS:
            self.options.append((name, ""))
            return rest
        if name in {"-e", "--editable"}:
            raise SettingsError(
                f"{where}: {' '.join(words)!r}: an editable install cannot be kept by content; build a wheel of it "
                "(`pip wheel --no-deps FOLDER`) and name the wheel, or set `environment: off` to use the server's own"
            )
        if name not in _OPTIONS and name not in _NESTED and name not in _IGNORED:
            known = ", ".join(sorted({*_OPTIONS, *_NESTED, *_FLAGS, *_IGNORED}))
            raise SettingsError(f"{where}: unknown option {name!r}; known are {known}")
        if not given:
            if not rest:
                raise SettingsError(f"{where}: option {name!r} wants a value")
            value = rest.pop(0)
        if name in _NESTED:
            if _URL.match(value):
                raise SettingsError(f"{where}: {mask(value)!r}: a file from a url changes unseen; copy it beside this")
            is_constraint = constraint or _NESTED[name] == "-c"
            self.requirements_file(folder / value, where=where, constraint=is_constraint, above=above)
        elif name in _OPTIONS:
            long = _OPTIONS[name]
            if long == "--find-links" and not _URL.match(value):
                value = str((folder / value).resolve())  # the same from whatever folder it is named
            if long == "--index-url":  # the last one counts, as in pip
                self.options = [each for each in self.options if each[0] != long]
            if (long, value) not in self.options:
                self.options.append((long, value))
        return rest


# -- pip's format --


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with a backslash at their end joined, comments and blanks left out; each with the number of its first."""
    joined, first = "", 0
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        first = first if joined else number
        # A comment ends a line before its backslash is seen, and never continues (pip's order).
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            joined += raw[:-1].rstrip() + " "
            continue
        line = _COMMENT.sub("", joined + raw).strip()
        joined = ""
        if line:
            yield first, line


def _package(line: str, *, where: str, folder: Path, read_bytes: Callable[[Path], bytes]) -> Package:
    """A line that asks for a package: PEP 508, a url, or a path of an archive; with `--hash` after it."""
    # Per-requirement options stand at the end; a `--` inside a requirement is not possible.
    text, *options = re.split(r"\s+(?=--[a-z])", line)
    hashes = []
    for option in options:
        name, _, value = option.replace(" ", "=", 1).partition("=")
        if name == "--hash":
            hashes.append(value.strip())
        elif name not in {"--config-settings", "--global-option", "--install-option"}:
            raise SettingsError(f"{where}: unknown option {name!r} of a package; known are --hash, --config-settings")
        else:
            raise SettingsError(f"{where}: {name} is not supported; build a wheel of {text!r} and name the wheel")
    if _is_place(text):
        text = _named(text, where=where, folder=folder)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as exc:
        cause = str(exc).splitlines()[0]
        raise SettingsError(
            f"{where}: {mask(text)!r} is not a requirement ({mask(cause)}); expected something like 'numpy>=1.26'"
        ) from exc
    content = ""
    if requirement.url is not None and requirement.url.startswith("file:"):
        file = Path(unquote(urlsplit(requirement.url).path))
        if not file.is_file():
            raise SettingsError(f"{where}: {file} is not a file; expected a wheel or an archive of source")
        content = hashlib.sha256(read_bytes(file)).hexdigest()
    return Package(text=text, name=requirement.name, hashes=tuple(hashes), digest=content)


def _is_place(text: str) -> bool:
    """Whether it is a url or a path without a name before it."""
    head = text.split(";", maxsplit=1)[0].strip()
    if "@" in head and re.match(r"^[A-Za-z0-9._-]+\s*(\[[^\]]*\])?\s*@", head) and not _URL.match(head):
        return False
    archive = head.endswith((".whl", ".tar.gz", ".zip"))
    return bool(_URL.match(head)) or head.startswith((".", "/", "~")) or archive


def _named(text: str, *, where: str, folder: Path) -> str:
    """`NAME @ URL` for a url or path."""
    place, _, marker = text.partition(";")
    place = place.strip()
    extras = ""
    if place.endswith("]") and "[" in place:
        place, _, extras = place.rpartition("[")
        extras = "[" + extras
    if _URL.match(place):
        url = place
    else:
        file = (folder / Path(place).expanduser()).resolve()
        if file.is_dir():
            raise SettingsError(
                f"{where}: {file} is a folder, which cannot be kept by content; build a wheel of it "
                "(`pip wheel --no-deps FOLDER`) and name the wheel, or set `environment: off`"
            )
        url = file.as_uri()
    parts = urlsplit(url)
    egg = re.search(r"(?:^|&)egg=([A-Za-z0-9._-]+)", parts.fragment)
    name = egg[1] if egg else _name_of(unquote(parts.path.rsplit("/", 1)[-1]))
    if not name:
        raise SettingsError(f"{where}: {mask(place)!r} does not say which package it is; write 'NAME @ {mask(url)}'")
    return f"{name}{extras} @ {url}" + (f" ; {marker.strip()}" if marker.strip() else "")


def _name_of(filename: str) -> str:
    """The package in an archive by the archive's name, or empty."""
    try:
        if filename.endswith(".whl"):
            return str(parse_wheel_filename(filename)[0])
        return str(parse_sdist_filename(filename)[0])
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return ""


# -- YAML --


def _compose(text: str, path: Path) -> yaml.MappingNode:
    """The file's tree with texts as they stand: a Python of 3.10 is not the number 3.1."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = f":{exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise SettingsError(f"{path}{line}: is not YAML: {exc.problem or exc}") from exc
    except yaml.YAMLError as exc:
        raise SettingsError(f"{path}: is not YAML: {exc}") from exc
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{path}: expected keys and values, got {_kind(node)}")
    return node


def _kind(node: yaml.Node | None) -> str:
    """What a node is, for a message."""
    if isinstance(node, yaml.MappingNode):
        return "keys and values"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node is None else "a text"


def _keys(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _items(node: yaml.Node | None, path: Path, key: str) -> list[yaml.Node]:
    """The members of a list; none when it is empty or not there."""
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in {"", "null", "~"}):
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise SettingsError(f"{_at(path, node)}: {key!r}: expected a list, got {_kind(node)}")
    return list(node.value)


def _scalar(node: yaml.Node, path: Path, key: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise SettingsError(f"{_at(path, node)}: {key!r}: expected a text, got {_kind(node)}")
    return str(node.value).strip()


def _python_env(path: Path, reader: _Reader) -> Requirements:
    """MLflow's `python_env.yaml`: `python`, `build_dependencies`, `dependencies`."""
    keys = _keys(_compose(reader.text_of(path, where=""), path))
    python = None
    if (said := keys.get("python")) is not None and (text := _scalar(said, path, "python")):
        python = _python(text, where=_at(path, said))
    for each in _items(keys.get("dependencies"), path, "dependencies"):
        reader.line(
            _scalar(each, path, "dependencies"),
            where=_at(path, each),
            folder=path.parent,
            constraint=False,
            above=(path,),
        )
    build = []
    for each in _items(keys.get("build_dependencies"), path, "build_dependencies"):
        package = _package(
            _scalar(each, path, "build_dependencies"),
            where=_at(path, each),
            folder=path.parent,
            read_bytes=Path.read_bytes,
        )
        if package.name.lower() != "pip":  # whoever builds the environment has its own
            build.append(package)
    return Requirements(source=str(path), python=python, build_packages=tuple(build))


def _conda(path: Path, reader: _Reader) -> Requirements:
    """Conda's `environment.yml`: `channels`, `dependencies` with a `pip` section."""
    keys = _keys(_compose(reader.text_of(path, where=""), path))
    if "dependencies" not in keys:
        raise SettingsError(f"{path}: has no 'dependencies'; found {', '.join(sorted(keys)) or 'nothing'}")
    python = None
    packages = []
    for node in _items(keys["dependencies"], path, "dependencies"):
        if isinstance(node, yaml.MappingNode):
            for name, section in _keys(node).items():
                if name != "pip":
                    raise SettingsError(f"{_at(path, node)}: unknown section {name!r} of dependencies; known is 'pip'")
                for each in _items(section, path, "pip"):
                    where = _at(path, each)
                    line = _scalar(each, path, "pip")
                    reader.line(line, where=where, folder=path.parent, constraint=False, above=(path,))
            continue
        package = conda_package(_scalar(node, path, "dependencies"), where=_at(path, node))
        if package.name == "python":
            python = _python(package.specifier, where=_at(path, node)) if package.specifier else None
        elif package.name != "pip":
            packages.append(package)
    notes = ("its `variables` are not set: set them for the server",) if "variables" in keys else ()
    return Requirements(
        source=str(path),
        python=python,
        conda_packages=tuple(packages),
        channels=tuple(_scalar(each, path, "channels") for each in _items(keys.get("channels"), path, "channels")),
        notes=notes,
    )


def conda_package(text: str, *, where: str) -> CondaPackage:
    """A package as conda writes it: `channel::name=1.2=build`, `name>=1,<2`, `name 1.2.*`.

    Raises:
        SettingsError: it has no name.
    """
    matched = _CONDA.match(text)
    if matched is None:
        raise SettingsError(f"{where}: {text!r} is not a conda package; expected something like 'numpy=1.26'")
    name, version = matched[1].lower(), matched[2].strip()
    if version.startswith("=") and not version.startswith("=="):
        version = version[1:].split("=", maxsplit=1)[0].strip()  # what follows the second is a build
        version = f"=={version.removesuffix('.*').removesuffix('*')}.*"
    elif version[:1].isdigit():
        version = f"=={version.split()[0]}"
    try:
        return CondaPackage(text=text, name=name, specifier=str(SpecifierSet(version)))
    except InvalidSpecifier:  # conda says more than PEP 440 can (`1.2|1.3`, builds): left to conda
        return CondaPackage(text=text, name=name)


# -- Python's version --


def _python(text: str, *, where: str) -> str:
    """A version or a range, checked. `==3.11.*` is the version 3.11."""
    exact = re.fullmatch(r"={0,2}\s*(\d+(?:\.\d+)*)(?:\.\*)?", text)
    if exact:
        return exact[1]
    try:
        return str(SpecifierSet(text))
    except InvalidSpecifier as exc:
        raise SettingsError(f"{where}: Python {text!r}: expected a version such as '3.11', or '>=3.10,<3.13'") from exc


def python_accepts(python: str | None, version: str) -> bool:
    """Whether an interpreter's version is what was asked for.

    A version asks for its minor: MLflow records the patch that happened to run, and patches are compatible.
    """
    if python is None:
        return True
    if python[0].isdigit():
        asked = python.split(".")[:2]
        return version.split(".")[: len(asked)] == asked
    return SpecifierSet(python).contains(Version(version), prereleases=True)
