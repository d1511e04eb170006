"""What of a model's requirements the running environment does not meet. Second step of the walk; `prepare` calls it.

Looks at what is installed here (`importlib.metadata`), and imports none of it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Final, Literal

import msgspec
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from headrace.environments.requirements import Package, Requirements, mask, python_accepts

PROVIDED: Final = frozenset(
    {
        "headrace",
        "mlserver",
        "mlserver-sklearn",
        "mlserver-xgboost",
        "mlserver-lightgbm",
        "mlserver-catboost",
        "mlserver-mlflow",
    }
)
"""Met without being installed: this server does in their place what they do (`compat`, `runtimes`)."""

PYTHON: Final = "python"


class Unmet(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is asked for and not here."""

    name: str
    kind: Literal["missing", "version"]
    """Not installed at all, or in another version; Python itself is always here."""
    wanted: str
    """A specifier (`==1.3.2`) or a url; empty: any version."""
    found: str = ""
    """The version that is here; empty when missing."""

    def __str__(self) -> str:
        wanted = self.wanted if self.wanted[:1] in "<>=!~" else f" {self.wanted}"
        return f"{self.name}{wanted.rstrip()} ({f'{self.found} here' if self.found else 'not installed'})"


def unmet(requirements: Requirements) -> tuple[Unmet, ...]:
    """Everything that is asked for and not met here, in the order asked.

    A conda package counts as met when a distribution of its name is here in its version: for most packages that serve
    a model the names are the same in both worlds.
    """
    found = []
    running = platform.python_version()
    if not python_accepts(requirements.python, running):
        found.append(Unmet(name=PYTHON, kind="version", wanted=requirements.python or "", found=running))
    environment = {key: str(value) for key, value in default_environment().items()}
    for package in requirements.packages:
        found += _unmet_package(package, environment)
    for conda in requirements.conda_packages:
        if canonicalize_name(conda.name) in PROVIDED:
            continue
        version = _installed(conda.name)
        if version is None:
            found.append(Unmet(name=conda.name, kind="missing", wanted=conda.specifier))
        elif not _contains(conda.specifier, version):
            found.append(Unmet(name=conda.name, kind="version", wanted=conda.specifier, found=version))
    return tuple(dict.fromkeys(found))


def _unmet_package(package: Package, environment: Mapping[str, str]) -> Iterator[Unmet]:
    requirement = package.requirement
    if requirement.marker is not None and not requirement.marker.evaluate({**environment, "extra": ""}):
        return
    if canonicalize_name(requirement.name) in PROVIDED:
        return
    yield from _check(requirement, environment, frozenset())


def _check(requirement: Requirement, environment: Mapping[str, str], seen: frozenset[str]) -> Iterator[Unmet]:
    """A requirement whose marker holds, and what the extras it names ask for in turn."""
    version = _installed(requirement.name)
    if version is None:
        yield Unmet(name=requirement.name, kind="missing", wanted=_wanted(requirement))
        return
    if not _same(requirement, version):
        yield Unmet(name=requirement.name, kind="version", wanted=_wanted(requirement), found=version)
    for extra in sorted(requirement.extras):
        key = f"{canonicalize_name(requirement.name)}[{canonicalize_name(extra)}]"
        if key in seen:
            continue
        for each in metadata.requires(requirement.name) or ():
            try:
                needed = Requirement(each)
            except InvalidRequirement:  # an old package's own fault, of which no installer made anything either
                continue
            if needed.marker is None or not needed.marker.evaluate({**environment, "extra": extra}):
                continue
            if not needed.marker.evaluate({**environment, "extra": ""}):  # asked for by the extra, not anyway
                yield from _check(needed, environment, seen | {key})


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name) or None
    except metadata.PackageNotFoundError:
        return None


def _wanted(requirement: Requirement) -> str:
    return mask(requirement.url) if requirement.url else str(requirement.specifier)


def _contains(specifier: str, version: str) -> bool:
    try:
        return not specifier or SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _same(requirement: Requirement, version: str) -> bool:
    """Whether the installed version is the one asked for; of a url, the one its wheel or its record names."""
    if requirement.url is None:
        return _contains(str(requirement.specifier), version)
    try:
        name = requirement.url.split("#", 1)[0].rsplit("/", 1)[-1].replace("%2B", "+")
        return str(parse_wheel_filename(name)[1]) == str(Version(version))
    except (InvalidWheelFilename, InvalidVersion):
        pass
    recorded = metadata.distribution(requirement.name).read_text("direct_url.json")
    if not recorded:
        return False
    origin = msgspec.json.decode(recorded, type=_Origin)
    wanted = requirement.url.split("#", 1)[0]
    revision = origin.vcs_info.requested_revision
    vcs = f"{origin.vcs_info.vcs}+" if origin.vcs_info.vcs else ""
    return wanted == f"{vcs}{origin.url}" + (f"@{revision}" if revision else "")


class _VcsInfo(msgspec.Struct):
    vcs: str = ""
    requested_revision: str = ""


class _Origin(msgspec.Struct):
    """`direct_url.json`, https://packaging.python.org/en/latest/specifications/direct-url/."""

    url: str = ""
    vcs_info: _VcsInfo = msgspec.field(default_factory=_VcsInfo)
