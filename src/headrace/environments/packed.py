"""Unpacks an environment that conda-pack or venv-pack made, or anybody's archive of one. `prepare` calls it.

Kept by the digest of the archive. Members that would land outside the folder are refused; a link out of it is refused
too, but for `bin/python*` itself: the interpreter of a virtual environment is a link to the one it was made of.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Final

from headrace.environments import build, kept
from headrace.environments.kept import Made
from headrace.environments.process import Ended, Shell
from headrace.environments.progress import Progress, ignore
from headrace.errors import LoadFailed

_PYTHON: Final = re.compile(r"(?:^|/)bin/python[\d.]*$")


def unpack(
    archive: Path,
    *,
    cache: Path,
    describe: str,
    progress: Progress = ignore,
    timeout_seconds: float = build.TIMEOUT_SECONDS,
    cancel: threading.Event | None = None,
) -> Path:
    """The folder of a packed environment, unpacked now unless it is there. Blocks.

    Args:
        archive: `.tar.gz`, `.tgz`, another `.tar.*` or `.zip`.
        cache: Folder of all that is kept.
        describe: Whose it is, for messages: `model 'churn'`.
        progress: Told of each phase.
        timeout_seconds: Longest that it may take.
        cancel: Set by another thread to have this end soon.

    Raises:
        LoadFailed: there is no such file, it is no archive, it leads out of it, or its interpreter does not run.
    """
    doing = f"{describe}: unpacking the environment {archive}"
    try:
        with archive.open("rb") as file:
            key = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as exc:
        raise LoadFailed(f"{doing}: {exc.strerror or exc}") from exc

    def make(place: Path, desk: Path, shell: Shell) -> Made:
        inside = desk / "unpacked"
        inside.mkdir()
        try:
            if archive.name.endswith(".zip"):
                _unzip(archive, inside, shell)
            else:
                _untar(archive, inside, shell)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError) as exc:
            raise Ended(f"{type(exc).__name__}: {exc}") from exc
        _root(inside).rename(place)
        if (script := place / "bin" / "conda-unpack").is_file():
            progress(f"{doing}: writing its new place into it (conda-unpack)")
            shell.run([place / "bin" / "python", script])
        return build.made("unpacked", place, shell)

    return kept.keep(
        cache,
        key,
        make,
        source=str(archive),
        doing=doing,
        explain=lambda _: "",
        progress=progress,
        timeout_seconds=timeout_seconds,
        cancel=cancel or threading.Event(),
    )


def _root(inside: Path) -> Path:
    """Where the environment begins: the archive's top, or the one folder in it."""
    below = [each for each in inside.iterdir() if each.is_dir()]
    places: list[Path] = [inside, *(below if len(below) == 1 else ())]
    for each in places:
        if os.path.lexists(each / "bin" / "python"):
            return each
    raise Ended("it has no bin/python: it is not a packed environment (conda-pack and venv-pack make one)")


def _untar(archive: Path, inside: Path, shell: Shell) -> None:
    def checked(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        shell.check()
        if member.issym() and _PYTHON.search(member.name) and Path(member.linkname).is_absolute():
            # Checked in all else as a plain file of that name would be.
            plain = copy.copy(member)
            plain.type, plain.linkname = tarfile.REGTYPE, ""
            tarfile.data_filter(plain, path)
            return member
        return tarfile.data_filter(member, path)

    if not hasattr(tarfile, "data_filter"):  # 3.11 before 3.11.4
        raise Ended("this Python cannot unpack safely; use 3.11.4 or newer")
    with tarfile.open(archive) as opened:
        opened.extractall(inside, filter=checked)  # noqa: S202 - the filter checks


def _unzip(archive: Path, inside: Path, shell: Shell) -> None:
    """As `extractall`, which would lose modes and links."""
    top = inside.resolve()
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            shell.check()
            path = inside / member.filename
            if not path.resolve().is_relative_to(top):
                raise Ended(f"its member {member.filename!r} leads out of it")
            mode = member.external_attr >> 16
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISLNK(mode):
                target = opened.read(member).decode()
                leads_out = not (path.parent / target).resolve().is_relative_to(top)
                is_python = _PYTHON.search(member.filename) and Path(target).is_absolute()
                if leads_out and not is_python:
                    raise Ended(f"its link {member.filename!r} leads out of it, to {target!r}")
                path.symlink_to(target)
                continue
            with opened.open(member) as source, path.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if mode:
                path.chmod(stat.S_IMODE(mode) & 0o755 | stat.S_IRUSR | stat.S_IWUSR)
