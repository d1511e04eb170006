"""Runs the converter in a child process. Called by `converted`, at load, and only when no verdict is stored."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import threading
from typing import Any, Final

import msgspec

from headrace.runtimes.optimize.convert import Task
from headrace.runtimes.optimize.engine import OutOfTime, Refused

SECONDS: Final = 30.0
"""A conversion that takes longer is refused; the study found none that did and was worth it."""
START_SECONDS: Final = 15.0
"""For the child to import the converter."""
GROWTH: Final = 4
"""An artefact may be this many times as large as the model, or a mebibyte."""

_TURN: Final = threading.Semaphore(1)
"""One child at a time: each takes 190 MiB and more."""


def available() -> bool:
    """Whether the converter is installed."""
    return importlib.util.find_spec("skl2onnx") is not None


def convert(model: Any, task: Task) -> bytes:
    """Convert an estimator in a child process.

    Raises:
        Refused: with the reason: not installed, not picklable, not convertible, too slow, too large.
    """
    if not available():
        raise Refused("skl2onnx is not installed; headrace[optimize] brings it")
    try:
        pickled = pickle.dumps(model, protocol=5)
    except Exception as error:  # whatever a user's class raises when it is pickled
        raise Refused(f"the model does not reach a child process: {error}") from error
    with _TURN:
        artefact = _run(pickled, task)
    if len(artefact) > max(1 << 20, GROWTH * len(pickled)):
        raise Refused(f"the converted model is {len(artefact):,} bytes, the model itself {len(pickled):,}")
    return artefact


def _run(pickled: bytes, task: Task) -> bytes:
    command = [sys.executable, "-m", "headrace.runtimes.optimize.convert", msgspec.json.encode(task).decode()]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, our own module
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            input=pickled,
            capture_output=True,
            timeout=SECONDS + START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OutOfTime(f"the conversion did not end within {SECONDS + START_SECONDS:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise Refused(f"skl2onnx: {lines[-1][:300] if lines else f'exit code {done.returncode}'}")
    return done.stdout
