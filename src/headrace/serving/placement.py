"""Where a model's predict should run: on the loop, in a thread or in a worker process. Measured at warm-up, decided by
`choose`, which is pure; the engine and the worker process call both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np

from headrace.errors import LoadFailed, SettingsError
from headrace.payload import DTYPES, EMPTY, Array, InferenceRequest, Signature, Tensor
from headrace.runtimes.base import Runtime
from headrace.serving.decoding import UNCOUNTED, Call
from headrace.serving.execution import Execution, Outcome

Placement = Literal["inline", "thread", "process"]

INLINE_SECONDS: Final = 0.0005
"""Up to here the loop itself is the best place: a thread costs two hand-overs (20 to 60 us), and half a millisecond
more on a reply is within what the loop's own turns vary by under load."""
INLINE_LOCKED_SECONDS: Final = 0.002
"""Up to here a model that holds the interpreter lock also stays on the loop: from a thread it would stop the loop for
just as long, since the loop needs the lock to turn, and add the hand-overs and the lock's switch time (5 ms)."""
PROCESS_SECONDS: Final = 0.02
"""From here on a model that holds the lock is worth a process of its own, though that costs its memory once more: in a
thread it leaves the loop one turn each switch interval, and health checks and other models would wait in line."""
DIRECT_SECONDS: Final = 0.00005
"""Up to here predict is cheaper than gathering neighbours for it (about 5 us a request, and a turn of the loop)."""

_LEAST_RUNS: Final = 5
_MOST_RUNS: Final = 50
_QUICK_SECONDS: Final = 0.01  # enough to have measured, for a model of microseconds
_RUNS_SECONDS: Final = 0.25  # no further run once these have passed
_TICK_SECONDS: Final = 0.0002


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What warm-up found out about a model."""

    predict_seconds: float | None = None
    """The shortest of a few single-row predicts; None: there was no sample that the model takes."""
    releases_lock: bool = False
    """Declared by the runtime, or seen: another thread ran while it predicted."""
    is_async: bool = False
    streams: bool = False
    movable: bool = True
    """Another process can load it too: it has a path or a reference."""
    environment: str = ""
    """Folder of an environment of its own, whose Python is another process's; empty: none."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Where predict runs, and why, for metadata and `headrace models`."""

    placement: Placement
    reason: str
    merges: bool = True
    """Whether requests are worth merging there."""


def choose(measured: Measurement, wanted: str = "auto", *, model: str = "") -> Choice:
    """Decide a placement.

    Args:
        measured: What warm-up found.
        wanted: `auto`, or what a person set.
        model: Named in messages.

    Raises:
        SettingsError: the wish cannot be met; says why and what can be.
    """
    seconds = measured.predict_seconds
    took = "predict could not be measured" if seconds is None else f"predict took {seconds * 1000:.3g} ms"
    merges = seconds is None or seconds > DIRECT_SECONDS
    if wanted not in ("auto", "inline", "thread", "process"):
        raise SettingsError(f"model '{model}': placement {wanted!r}; expected auto, inline, thread or process")
    if measured.environment and wanted in ("inline", "thread"):
        raise SettingsError(
            f"model '{model}': placement {wanted!r} is in the server's own process, but the model has an environment "
            f"({measured.environment}), whose Python needs a process of its own; choose 'process' or 'auto'"
        )
    if wanted == "process" or measured.environment:
        if not measured.movable:
            raise SettingsError(
                f"model '{model}': placement 'process' needs a file or a module:Class that another process can load; "
                f"this model is an object in memory: save it first, or choose 'thread'"
            )
        reason = "set" if wanted == "process" else "it has an environment of its own"
        return Choice(placement="process", reason=reason, merges=not measured.is_async)
    if measured.is_async:
        if wanted == "thread":
            raise SettingsError(
                f"model '{model}': placement 'thread' is for synchronous models; an async predict runs 'inline', on "
                f"the event loop, or in a 'process'"
            )
        return Choice(placement="inline", reason="predict is async", merges=False)
    if measured.streams and wanted == "inline":
        raise SettingsError(
            f"model '{model}': a synchronous stream cannot run 'inline', the loop would stand still between its parts; "
            f"choose 'thread' or 'process', or make predict_stream async"
        )
    if wanted == "inline":
        return Choice(placement="inline", reason="set", merges=merges)
    if wanted == "thread":
        return Choice(placement="thread", reason="set")
    if measured.streams:
        return Choice(placement="thread", reason="it streams, one part at a time")
    if seconds is None:
        return Choice(placement="thread", reason=took)
    if seconds < INLINE_SECONDS:
        return Choice(placement="inline", reason=took, merges=merges)
    if measured.releases_lock:
        return Choice(placement="thread", reason=f"{took} and releases the interpreter lock")
    if seconds < INLINE_LOCKED_SECONDS:
        return Choice(placement="inline", reason=f"{took} and holds the interpreter lock", merges=merges)
    if seconds >= PROCESS_SECONDS and measured.movable:
        return Choice(placement="process", reason=f"{took} and holds the interpreter lock")
    return Choice(placement="thread", reason=f"{took} and holds the interpreter lock")


def samples(runtime: Runtime, signature: Signature) -> list[dict[str, Array]]:
    """Inputs to warm up with, when nobody gave any: what the artifact carries, else one row of zeros by signature."""
    own = runtime.sample()
    if own is not None:
        return [{name: np.asarray(value) for name, value in own.items()}]
    needed = [each for each in signature.inputs if not each.optional]
    if not needed:
        return []
    arrays: dict[str, Array] = {}
    for spec in needed:
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        if spec.datatype == "BYTES":
            arrays[spec.name] = np.full(shape, b"", np.object_)
        else:
            arrays[spec.name] = np.zeros(shape, DTYPES[spec.datatype])
    return [arrays]


def call_of(arrays: dict[str, Array], signature: Signature) -> Call:
    """A call for these inputs, counted in rows where the model counts them."""
    rows = UNCOUNTED
    if signature.batchable:
        rows = next((array.shape[0] for array in arrays.values() if array.shape), UNCOUNTED)
    return Call(arrays, (), EMPTY, rows)


async def warm_up_async(execution: Execution, given: Sequence[Sequence[Tensor]]) -> None:
    """Have an async model answer these, so that the first caller meets a warm one. Nothing of it is measured.

    Raises:
        LoadFailed: the model fails on one of them.
    """
    for tensors in given:
        if execution.runtime.whole:
            call = Call({}, request=InferenceRequest(model_name=execution.model, inputs=tuple(tensors)))
        else:
            call = call_of({each.name: each.data for each in tensors}, execution.signature)
        _check(execution, await execution.attempting(call))


def _check(execution: Execution, outcome: Outcome) -> None:
    if outcome.error is not None:
        raise LoadFailed(
            f"model '{execution.model}' fails on its own warm-up sample: {outcome.error}"
        ) from outcome.error


def warm_up(execution: Execution, given: Sequence[Sequence[Tensor]] = (), *, movable: bool = True) -> Measurement:
    """Predict a few times, so that the first caller meets a warm model, and measure it. Blocks.

    A made-up sample that the model refuses is no fault of the model: it is then not measured.

    Raises:
        LoadFailed: the model fails on a sample that somebody gave.
    """
    runtime, signature = execution.runtime, execution.signature
    for tensors in given:
        _check(execution, execution.attempt(call_of({each.name: each.data for each in tensors}, signature)))
    sample = {each.name: each.data for each in given[0]} if given else next(iter(samples(runtime, signature)), None)
    seconds = None
    releases = runtime.releases_lock
    if sample is not None:
        if signature.batchable:  # one row is what an interactive caller sends, and what the thresholds are about
            sample = {name: array[:1] if array.ndim else array for name, array in sample.items()}
        call = call_of(sample, signature)
        execution.is_trying = not given
        seconds = _predict_seconds(execution, call)
        execution.is_trying = False
        if seconds is not None and seconds >= INLINE_LOCKED_SECONDS and not releases:
            releases = _lets_others_run(execution, call)
    return Measurement(
        predict_seconds=seconds,
        releases_lock=releases,
        is_async=runtime.is_async,
        streams=runtime.streams,
        movable=movable,
    )


def _predict_seconds(execution: Execution, call: Call) -> float | None:
    """The shortest of some predicts: another model that loads meanwhile holds the lock, and only makes them longer."""
    first = execution.attempt(call)  # also the run that pays for whatever is made when first used
    if first.error is not None:
        return None
    shortest = first.predict_ns
    began = time.perf_counter()
    for run in range(_MOST_RUNS):
        spent = time.perf_counter() - began
        if spent > _RUNS_SECONDS or shortest > _RUNS_SECONDS * 1e9 or (run >= _LEAST_RUNS and spent > _QUICK_SECONDS):
            break
        outcome = execution.attempt(call)
        if outcome.error is not None:
            return None
        shortest = min(shortest, outcome.predict_ns)
    return shortest / 1e9


def _lets_others_run(execution: Execution, call: Call) -> bool:
    """Whether another thread ran for more than half of a predict: the longest that it stood still tells."""
    stop = threading.Event()
    still = 0.0

    def tick() -> None:
        nonlocal still
        before = time.perf_counter()
        while not stop.is_set():
            time.sleep(_TICK_SECONDS)
            now = time.perf_counter()
            still += max(0.0, now - before - 5 * _TICK_SECONDS)
            before = now

    ticker = threading.Thread(target=tick, name="headrace-measure", daemon=True)
    ticker.start()
    outcome = execution.attempt(call)
    stop.set()
    ticker.join()
    return outcome.error is None and still < outcome.predict_ns / 1e9 / 2
