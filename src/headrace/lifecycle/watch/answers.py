"""One object answered by a batch job: what watchers and functions do with each."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import msgspec

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.base import ObjectInfo
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactDenied, Conflict
from headrace.lifecycle.batch import manifest
from headrace.lifecycle.batch.base import Job, Outcome, Predictor
from headrace.lifecycle.batch.file import run_file
from headrace.lifecycle.watch.watch import Stopped


def answer(
    job: Job,
    info: ObjectInfo,
    output: str,
    predictor: Predictor,
    *,
    settings: ArtifactSettings = ArtifactSettings(),
    state: Path | None = None,
    cancel: threading.Event | None = None,
) -> Outcome:
    """Answer an object, unless its output stands already.

    Args:
        job: As of `batch.file.run_file`.
        info: The object.
        output: Uri of the answers. What stands there is written over if it is of this object (as it was before, or by
            another model), or if no manifest says what it is: whoever began it was killed at its end.
        predictor: Stays open.
        settings: Of stores.
        state: Of what is half done, on this machine; None: a try that is killed begins anew.
        cancel: When set, it stops at a block.

    Raises:
        Stopped: it was told to.
        Conflict: the output is that of another object.
        HeadraceError: as of `batch.file.run_file`.
    """

    def once(*, overwrite: bool) -> Outcome:
        return run_file(
            job, info, output, predictor, settings=settings, state=state, cancel=cancel, overwrite=overwrite
        )

    try:
        outcome = once(overwrite=False)
    except (Conflict, ArtifactDenied):  # who may not list a bucket is not told that an object is absent, but refused
        if not _may_go(info, output, settings):
            raise
        outcome = once(overwrite=True)
    if outcome.interrupted:
        raise Stopped
    return outcome


def _may_go(info: ObjectInfo, output: str, settings: ArtifactSettings) -> bool:
    where, path = uri.split(output)
    objects = objects_.open_objects(where, settings=settings)
    try:
        told = manifest.read(objects, path)
    except ArtifactDenied:
        told = None
    finally:
        objects.close()
    return told is None or told.input.uri == info.uri


def digest(job: Job, predictor: Predictor) -> str:
    """Names what is done with every object: what is asked for, and by which model."""
    asked = msgspec.structs.replace(manifest.shown(job), inputs=(), output="", threads=0, batch_rows=0, load_policy="")
    model = predictor.digest or f"{predictor.name} {predictor.version}"
    return hashlib.sha256(msgspec.json.encode((asked, model), order="sorted")).hexdigest()[:16]
