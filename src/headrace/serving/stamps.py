"""Whether the files of a model changed: hot reload asks by comparing stamps, residency knows a model's size by them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from headrace.serving import digest
from headrace.serving.spec import ModelSpec
from headrace.trust.folder import find_folder

Stamp = tuple[tuple[str, int, int, int], ...]
"""Of each file: name, modification time in nanoseconds, size, inode (a mounted volume changes behind its links)."""


def stamps(specs: Iterable[ModelSpec]) -> dict[tuple[str, str], tuple[ModelSpec, Stamp]]:
    """The stamp of each version, by name and version. Blocks."""
    return {(spec.name, spec.version): (spec, stamp(spec)) for spec in specs}


def stamp(spec: ModelSpec) -> Stamp:
    """Of the files that a model consists of, and of what travels with it. Blocks."""
    places = []
    if spec.path:
        places.append(Path(spec.path))
    file, _, _ = spec.reference.rpartition(":")
    if file.endswith(".py"):
        places += Path(file).parent.glob("*.py")  # also the modules that it imports from beside it
    places += [Path(sample) for sample in spec.warm_up if isinstance(sample, str)]
    places += map(Path, spec.watched)
    trust = _trust_folder(spec)
    if trust is not None:
        places.append(trust)  # fitted again, or a threshold of it was set
    found = []
    for place in places:
        for name, file_path in digest.files(place) if place.is_dir() else [(str(place), place)]:
            try:
                status = file_path.stat()
            except OSError:
                found.append((name, 0, -1, 0))  # gone between the look and now: unlike any file
            else:
                found.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _trust_folder(spec: ModelSpec) -> Path | None:
    if spec.trust is not None and not spec.trust.enabled:
        return None
    if spec.trust is not None and spec.trust.path:
        return Path(spec.folder, spec.trust.path)
    return find_folder(Path(spec.path)) if spec.path else None
