"""The walk from "what a model says it needs" to the folder whose `bin/python` runs it. `app.py` calls it before a load,
in a thread; `headrace doctor` asks `describe` what it would do.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from headrace.environments import build as building
from headrace.environments import kept, packed, requirements
from headrace.environments.files import FILES, find
from headrace.environments.plan import Plan, plan
from headrace.environments.progress import Progress
from headrace.environments.requirements import Read, Requirements
from headrace.environments.unmet import Unmet, unmet
from headrace.errors import LoadFailed, SettingsError

_log = logging.getLogger(__name__)

_WORDS: Final = frozenset({"auto", "build", "off"})

Stamp = tuple[tuple[str, int, int], ...]
"""Path, time of change in nanoseconds and size of each file that an answer rests on; -1 for what is not there."""


class Prepared(msgspec.Struct, frozen=True):
    """Where a model runs."""

    folder: str
    """Of the environment, absolute; empty: the server's own."""
    warnings: tuple[str, ...] = ()
    """What a person should know although the model is served."""


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a model needs and what would be done about it."""

    source: str = ""
    """The file that says so; empty: there is none."""
    python: str = ""
    packages: int = 0
    """Packages it names, conda's included."""
    unmet: tuple[Unmet, ...] = ()
    plan: Plan
    folder: str = ""
    """Of the environment that `plan` leads to, when it is there already."""
    problem: str = ""
    """Why the file cannot be read; the rest says nothing then."""

    def lines(self) -> tuple[str, ...]:
        """For a person; empty when nothing is asked for and nothing would be done."""
        if self.problem:
            return (self.problem,)
        if not self.source and self.plan.kind == "own":
            return ()
        said = []
        if self.source:
            python = f", Python {self.python}" if self.python else ""
            plural = "" if self.packages == 1 else "s"
            said.append(f"needs: {self.packages} package{plural}{python} ({self.source})")
            said += [f"unmet: {each}" for each in self.unmet]
        done = {
            "own": "runs by the server's own packages",
            "build": "gets an environment of its own"
            + (f", built: {self.folder}" if self.folder else ", not yet built"),
            "folder": "runs in the environment it names",
            "tarball": "runs in the packed environment it names"
            + (f", unpacked: {self.folder}" if self.folder else ", not yet unpacked"),
            "refuse": "cannot be loaded",
        }[self.plan.kind]
        said.append(f"environment: {done}: {self.plan.reason}")
        return (*said, *(f"warning: {each}" for each in self.plan.warnings))


class Environments:
    """Environments by model, with a memory: one whose files have not changed since costs a few calls of `stat`.

    One for a server; its methods may be called from several threads.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, bool], tuple[Stamp, Prepared]] = {}

    def prepare(
        self,
        place: Path | None,
        wanted: str,
        *,
        cache: Path,
        trusted: bool,
        describe: str,
        progress: Progress | None = None,
        timeout_seconds: float = building.TIMEOUT_SECONDS,
        cancel: threading.Event | None = None,
    ) -> Prepared:
        """The environment for a model, built or unpacked now if need be. Blocks, for minutes the first time.

        A model whose files have not changed since is answered from memory; what failed is tried again.

        Args:
            place: The model's folder, or its file; None: it has none (a reference).
            wanted: `auto`, `build`, `off`, or the path of an environment, relative to the model's folder: a folder with
                `bin/python`, or a packed one (`plan.ARCHIVES`).
            cache: Folder of all that is kept.
            trusted: Whether the load policy trusts the model: nothing is built and no other interpreter runs otherwise.
            describe: Whose it is, for messages: `model 'churn'`.
            progress: Told of each phase; default: the log.
            timeout_seconds: Longest that building or unpacking may take.
            cancel: Set by another thread to have this end soon, with LoadFailed.

        Raises:
            LoadFailed: what it needs is not here, and cannot be had; says why.
            SettingsError: the file of requirements cannot be understood; names file and line.
        """
        asked = (str(place), wanted, str(cache), trusted)
        known = self._known.get(asked)
        if known is not None and _stamp(tuple(path for path, _, _ in known[0])) == known[0]:
            return known[1]
        before = _stamp(_candidates(place, wanted))
        prepared, files = _prepare(
            place,
            wanted,
            cache=cache,
            trusted=trusted,
            describe=describe,
            progress=progress or _log.info,
            timeout_seconds=timeout_seconds,
            cancel=cancel,
        )
        if prepared.folder:
            files = (*files, str(Path(prepared.folder) / "bin" / "python"))
        # Stamps of what was there before it was read: a change meanwhile is a change.
        seen = {path for path, _, _ in before}
        self._known[asked] = ((*before, *_stamp(tuple(each for each in files if each not in seen))), prepared)
        return prepared


def describe(place: Path | None, wanted: str = "auto", *, cache: Path, trusted: bool = True) -> Description:
    """What `prepare` would do, without doing it. Raises nothing that a file beside the model is to blame for."""
    try:
        read = _read(_folder(place), wanted, trusted=trusted)
    except SettingsError as exc:
        return Description(plan=Plan(kind="refuse", reason=str(exc)), problem=str(exc))
    found = unmet(read) if read is not None else ()
    decided = plan(wanted=wanted, requirements=read, unmet=found, trusted=trusted)
    folder = ""
    if decided.kind == "build" and read is not None:
        made = kept.folder(cache, building.key(read))
        folder = str(made) if kept.record(made) is not None else ""
    elif decided.kind == "folder":
        folder = str(_given(place, wanted))
    return Description(
        source=read.source if read is not None else "",
        python=(read.python or "") if read is not None else "",
        packages=len(read.packages) + len(read.conda_packages) if read is not None else 0,
        unmet=found,
        plan=decided,
        folder=folder,
    )


def _prepare(
    place: Path | None,
    wanted: str,
    *,
    cache: Path,
    trusted: bool,
    describe: str,
    progress: Progress,
    timeout_seconds: float,
    cancel: threading.Event | None,
) -> tuple[Prepared, tuple[str, ...]]:
    """What to do with the model, and the files that it rests on."""
    try:
        read = _read(_folder(place), wanted, trusted=trusted)
    except SettingsError as exc:
        if wanted != "off":
            raise
        return Prepared("", (f"{exc}; not followed anyway, as `environment: off` says",)), ()
    decided = plan(wanted=wanted, requirements=read, unmet=unmet(read) if read is not None else (), trusted=trusted)
    files = read.files if read is not None else ()
    if decided.kind == "refuse":
        raise LoadFailed(f"{describe}: {decided.reason}")
    if decided.kind == "folder":
        return Prepared(str(_checked(_given(place, wanted), describe)), decided.warnings), files
    if decided.kind == "tarball":
        archive = _given(place, wanted)
        folder = packed.unpack(
            archive, cache=cache, describe=describe, progress=progress, timeout_seconds=timeout_seconds, cancel=cancel
        )
        return Prepared(str(folder), decided.warnings), (*files, str(archive))
    if decided.kind == "own" or read is None:
        return Prepared("", decided.warnings), files
    try:
        folder = building.build(
            read, cache=cache, describe=describe, progress=progress, timeout_seconds=timeout_seconds, cancel=cancel
        )
    except LoadFailed as exc:
        if not decided.fallback or (cancel is not None and cancel.is_set()):
            raise
        warning = f"{decided.reason}; served by the packages that are here, since no environment could be built: {exc}"
        return Prepared("", (*decided.warnings, warning)), files
    return Prepared(str(folder), decided.warnings), files


def _folder(place: Path | None) -> Path | None:
    return place if place is None or place.is_dir() else place.parent


def _read(folder: Path | None, wanted: str, *, trusted: bool) -> Requirements | None:
    """What lies beside the model; nothing when an environment is named."""
    if folder is None or wanted not in _WORDS:
        return None
    file = find(folder)
    if file is None:
        return None
    return requirements.read(file, read_text=requirements.read_file if trusted else _within(folder))


def _within(folder: Path) -> Read:
    """Reads below a folder only: errors quote lines, and a model from afar may not have any file quoted."""
    top = folder.resolve()

    def read(path: Path) -> str:
        if not path.resolve().is_relative_to(top):
            raise SettingsError(
                f"{path}: lies outside of the model's folder, and the load policy does not trust this model; copy it "
                "beside the model, or set `load_policy: trusted`"
            )
        return requirements.read_file(path)

    return read


def _given(place: Path | None, wanted: str) -> Path:
    """The environment that a path names: relative to the model's folder, to the current one for a model without."""
    path = Path(wanted).expanduser()
    return ((_folder(place) or Path.cwd()) / path).absolute()


def _checked(folder: Path, describe: str) -> Path:
    if not folder.is_dir():
        raise LoadFailed(
            f"{describe}: environment {folder}: no such folder; expected one with bin/python, or an archive"
        )
    if not os.access(folder / "bin" / "python", os.X_OK):
        raise LoadFailed(
            f"{describe}: environment {folder}: has no bin/python that can be run; expected a virtual or conda one"
        )
    return folder


def _candidates(place: Path | None, wanted: str) -> tuple[str, ...]:
    """Files that change the answer by coming or going."""
    folder = _folder(place)
    if folder is None or wanted not in _WORDS:
        return ()
    return tuple(str(folder / name) for name in (*FILES, "MLmodel"))


def _stamp(paths: tuple[str, ...]) -> Stamp:
    return tuple(_stamps(paths))


def _stamps(paths: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - at each load, for seven files
        except OSError:
            yield path, -1, -1
        else:
            yield path, status.st_mtime_ns, status.st_size
