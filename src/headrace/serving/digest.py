"""The load step's fingerprint: one name for the bytes of a model. The load step keys faster engines by it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from headrace.errors import LoadFailed
from headrace.trust.folder import is_folder


def digest(path: str | Path) -> str:
    """SHA-256 of a model's bytes, as 64 hexadecimal letters. Reads in pieces; blocks, so call it in a thread.

    A file's is that of its bytes, what `sha256sum` prints. A folder's covers the relative name and the bytes of each
    file below it, in the order of names. Hidden files, `__pycache__`, a trust folder and empty folders do not count;
    links are followed.

    Raises:
        LoadFailed: there is nothing at `path`, or a file cannot be read.
    """
    root = Path(path)
    try:
        if root.is_dir():
            whole = hashlib.sha256(b"folder\0")
            for relative, file in files(root):
                whole.update(relative.encode("utf-8", "surrogateescape") + b"\0" + _of_file(file))
            return whole.hexdigest()
        return _of_file(root).hex()
    except OSError as error:
        raise LoadFailed(f"{path}: cannot be read: {error.strerror or error}") from error


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder as (relative name with `/`, path), in the order of names.

    Without hidden ones, without `__pycache__`, which loading a model may write, and without a trust folder, which is
    about the model and not of it.

    Links are followed; a link to a folder that it stands in is not, so the walk ends.

    Raises:
        OSError: a folder cannot be read.
    """
    yield from _below(root, "", (os.path.realpath(root),))


def _below(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as scan:
        shown = (entry for entry in scan if not entry.name.startswith(".") and entry.name != "__pycache__")
        entries = sorted(shown, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in above and not is_folder(Path(entry.path)):
                yield from _below(Path(entry.path), f"{prefix}{entry.name}/", (*above, real))
        elif entry.is_file():
            yield f"{prefix}{entry.name}", Path(entry.path)


def _of_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
