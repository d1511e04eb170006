"""A batch job on this machine: each of its files by `file`. The command `batch run` calls it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from headrace.artifacts import uri
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, InvalidRequest
from headrace.lifecycle.batch.base import Failure, Job, Outcome, Predictor
from headrace.lifecycle.batch.file import Report, TooManyRejects, run_file
from headrace.lifecycle.batch.targets import Target, targets

_SMALL_BYTES: Final = 1 << 20
"""A file of no more costs what opening and publishing cost, which is waiting for disks and stores."""
_BESIDE: Final = 8
"""Such files at a time."""


def run(
    job: Job,
    *,
    open_predictor: Callable[[Job], Predictor],
    settings: ArtifactSettings = ArtifactSettings(),
    state: Path | None = None,
    report: Report | None = None,
    cancel: threading.Event | None = None,
    overwrite: bool = False,
    seal_seconds: float = 1.0,
) -> Outcome:
    """Do a job: each of its files, large ones one after the other, small ones side by side. Of several files, one that
    cannot be read, or whose columns do not fit, holds up no other, unless bad rows end the job, too (`Job.on_error`).

    Args:
        job: What is to be done.
        open_predictor: Loads the model, once; it is closed here.
        settings: Of stores.
        state: Folder of what is half done, on this machine; None: a job that is killed begins anew.
        report: Told how far it is.
        cancel: When set, the job stops at a block, and is to be gone on with.
        overwrite: Begin anew, whatever stands at the output.
        seal_seconds: As of `log.Log`.

    Raises:
        InvalidRequest: columns do not fit the model, no row can be answered, or too many cannot.
        Conflict: the output is there and is another job's.
        ArtifactFailed: what is read or written; said before the first row is asked where it can be.
        RuntimeFailed: the model's fault, not the rows'.
        Temporary: the server did not come back.
    """
    found = targets(job, settings=settings)
    total = sum(max(0, target.info.size) for target in found)
    done = Outcome()
    predictor = open_predictor(job)

    def one(target: Target, *, limit: int = 0, heed: Report | None = None) -> Outcome:
        return run_file(
            job,
            target.info,
            target.output,
            predictor,
            settings=settings,
            state=state,
            report=heed,
            cancel=cancel,
            overwrite=overwrite,
            limit=limit,
            seal_seconds=seal_seconds,
        )

    with contextlib.ExitStack() as stack:
        stack.callback(predictor.close)
        pool = ThreadPoolExecutor(_BESIDE, thread_name_prefix="headrace-batch-file")
        stack.callback(pool.shutdown, cancel_futures=True)
        beside = {target.output: pool.submit(one, target) for target in _small(job, found)}
        for target in found:
            before = done

            def heed(now: Outcome, _: int, before: Outcome = before) -> None:
                if report is not None:
                    report(before + now, total)

            limit = max(0, job.limit - done.rows)
            if job.limit and not limit:
                break
            try:
                if target.output in beside:
                    now = beside[target.output].result()
                    heed(now, total)
                else:
                    now = one(target, limit=limit, heed=heed)
            except (InvalidRequest, ArtifactCorrupt) as error:
                if len(found) == 1 or job.on_error == "fail" or isinstance(error, TooManyRejects):
                    raise
                now = Outcome(failures=(Failure(file=uri.shown(target.info.uri), reason=str(error)),))
                if len(done.failures) + 1 == len(found):  # then it is not the files that are odd
                    raise
            done += now
            if now.interrupted:
                break
    return done


def _small(job: Job, found: Sequence[Target]) -> list[Target]:
    """Files that are done beside others: none where the order of rows decides, which of them are asked."""
    if len(found) == 1 or job.limit or job.on_error == "fail":
        return []
    return [target for target in found if 0 <= target.info.size <= _SMALL_BYTES]
