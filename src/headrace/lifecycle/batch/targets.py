"""Which files a job is about, and where the answers of each go: what jobs, engines and sketches ask first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.base import ObjectInfo
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactNotFound, InvalidRequest
from headrace.lifecycle.batch import manifest
from headrace.lifecycle.batch.base import Format, Job
from headrace.lifecycle.batch.formats import names
from headrace.lifecycle.batch.formats.names import Compression


class Target(msgspec.Struct, frozen=True):
    """A file, and where its answers go."""

    info: ObjectInfo
    output: str


def targets(job: Job, *, settings: ArtifactSettings = ArtifactSettings()) -> list[Target]:
    """The files of a job, and where the answers of each go.

    Of folders and globs, files whose name begins with `.` or `_` are left out, and what jobs have written: rejects,
    manifests, all that is below the output.

    Raises:
        InvalidRequest: two files would have one output, or there is no input.
        ArtifactNotFound: an input is not there.
        ArtifactFailed: one of its other causes.
    """
    found: list[Target] = []
    folder = job.output.endswith("/") or len(job.inputs) > 1 or _is_folder(job.output)
    for name in job.inputs:
        infos = objects_.expand(name, settings=settings)
        _, path = uri.split(name)
        lone = len(infos) == 1 and infos[0].path == path
        base = uri.static_part(path) if uri.is_glob(path) else path
        for info in infos:
            if lone and not folder:
                found.append(Target(info, job.output))
                continue
            relative = (
                info.path.removeprefix(base.rstrip("/")).lstrip("/") if not lone else info.path.rpartition("/")[2]
            )
            if not lone and (_is_left_out(relative) or _is_below(info.uri, job.output)):
                continue
            relative = relative or info.path.rpartition("/")[2]
            found.append(Target(info, f"{job.output.rstrip('/')}/{_output_name(relative, job)}"))
        if not any(target.info in infos for target in found):
            raise ArtifactNotFound(f"{uri.shown(name)}: no file of rows is there, of {len(infos)} files")
    if not found:
        raise InvalidRequest("the job names no input: expected a file, a glob, a folder or a prefix")
    counts = Counter(target.output for target in found)
    twice, count = counts.most_common(1)[0]
    if count > 1:
        raise InvalidRequest(
            f"{count} inputs have one output, {uri.shown(twice)}: give them a job each, or name the folder above them"
        )
    return found


def _is_folder(output: str) -> bool:
    return uri.is_local(output) and Path(uri.local_path(output)).is_dir()


def _is_left_out(path: str) -> bool:
    parts = path.split("/")
    return any(part.startswith((".", "_")) for part in parts) or path.endswith((manifest.SUFFIX, manifest.REJECTS))


def _is_below(name: str, output: str) -> bool:
    if uri.is_local(name) != uri.is_local(output):
        return False
    if uri.is_local(name):
        return Path(uri.local_path(name)).resolve().is_relative_to(Path(uri.local_path(output)).resolve())
    return uri.shown(name).startswith(uri.shown(output).rstrip("/") + "/")


def _output_name(path: str, job: Job) -> str:
    if job.output_format == "auto":
        return path if names.format_of(path)[0] else f"{path}.answers"
    return names.stem_of(path) + names.SUFFIX_OF[job.output_format]


def output_format(job: Job, output: str, input_kind: Format) -> tuple[Format, Compression]:
    """Of an output: what the job says, else its suffix, else as the input."""
    kind, compression = names.format_of(output)
    if job.output_format != "auto":
        return job.output_format, compression
    return kind or input_kind, compression
