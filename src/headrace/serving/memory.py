"""What a model takes of memory, measured: `residency` asks before and after each load, and after each that leaves.

- A model that predicts in processes of its own takes their proportional set size (`Pss` of /proc/PID/smaps_rollup):
  their private pages, and their part of those they share. It is the whole process: interpreter, libraries and model.
- One that predicts here takes what this process grew by during its load and warm-up: the larger of the growth of the
  resident set (/proc/self/statm), which misses what went into memory that was free before, and of the bytes that
  malloc has given out (glibc's mallinfo2), which misses what is mapped without it. Loads that overlap share the growth
  of the time they have in common in proportion to the size of their files; such a size is marked unsure, and so is one
  whose load imported modules, of which only malloc's share counts: they stay when the model leaves. A later load that
  is alone corrects both.

Not counted: memory of devices; what a model takes on later (caches of its own, the answers that `cache` keeps, buffers
of larger batches than warm-up had); pages of a mapped file that were not touched yet. Requests of other models during
a load count as its growth, so a size is good to some MiB. Where there is no /proc, the resident set is the highest so
far (`getrusage`), which only tells of growth beyond it.

What leaves is given back to the system by a sweep soon after, so while many come and leave the process is larger than
its models, by what malloc keeps meanwhile.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from headrace.serving.spec import ModelSpec
from headrace.serving.stamps import Stamp, stamp

SIZES_KEPT: Final = 20_000
"""Models whose measured size is remembered after they were unloaded."""


class Size(msgspec.Struct, frozen=True):
    """What a model takes, in bytes."""

    bytes: int
    measured: bool = True
    """False: declared, or the size of its files."""
    sure: bool = True
    """False: measured while something else grew as well."""


# -- this process and others --


class Grown(msgspec.Struct, frozen=True):
    """This process at one moment."""

    resident: int
    allocated: int
    """By malloc; 0 where it does not tell."""
    modules: int


def look() -> Grown:
    """This process, now; takes some microseconds."""
    return Grown(_resident(), _allocated(), len(sys.modules))


def _resident() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a third of the time of Path's
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024


_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


class _Glibc(Protocol):
    def mallinfo2(self) -> _MallInfo: ...

    def malloc_trim(self, pad: int) -> int: ...


@functools.cache
def _glibc() -> _Glibc | None:
    """The C library, where it is glibc 2.33 or later."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _MallInfo
        library.mallinfo2.argtypes = ()
        library.malloc_trim.restype = ctypes.c_int
        library.malloc_trim.argtypes = (ctypes.c_size_t,)
    except (OSError, AttributeError, TypeError):
        return None
    return library


def _allocated() -> int:
    library = _glibc()
    if library is None:
        return 0
    info = library.mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)  # in arenas, and mapped one by one


def of_processes(pids: Sequence[int]) -> int:
    """The proportional set size of these processes together; nothing of those that are gone. Blocks for some ms."""
    return sum(_of_process(pid) for pid in pids)


def _of_process(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


# -- the growth of a load --


class Reading:
    """One load that is under way."""

    def __init__(self, weight: int, modules: int) -> None:
        self.weight = max(1, weight)
        self.modules = modules
        self.resident = self.allocated = 0.0
        self.alone = True


class Meter:
    """Shares the growth of this process among the loads that are under way.

    Args:
        look: Tells how large this process is.
    """

    def __init__(self, look: Callable[[], Grown] = look) -> None:
        self._look = look
        self._under_way: list[Reading] = []
        self._apart = 0
        self._last = Grown(0, 0, 0)

    def begin(self, weight: int) -> Reading:
        """A load begins.

        Args:
            weight: The size of its files, in bytes: what it gets of growth that it shares.
        """
        now = self._settle()
        reading = Reading(weight, now.modules)
        self._under_way.append(reading)
        if len(self._under_way) > 1 or self._apart:
            for each in self._under_way:
                each.alone = False
        return reading

    def end(self, reading: Reading) -> Size:
        """The load has ended: what it takes."""
        now = self._settle()
        self._under_way.remove(reading)
        imported = now.modules > reading.modules
        grown = max(0.0, reading.allocated) if imported and _glibc() else max(0.0, reading.resident, reading.allocated)
        return Size(int(grown), sure=reading.alone and not imported)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Something else is done that makes this process smaller: what changes meanwhile is nobody's growth."""
        self._settle()
        self._apart += 1
        for reading in self._under_way:
            reading.alone = False
        try:
            yield
        finally:
            self._settle()
            self._apart -= 1

    def _settle(self) -> Grown:
        """Share what was grown since the last time."""
        now, last = self._look(), self._last
        readings = self._under_way if not self._apart else ()
        whole = sum(reading.weight for reading in readings)
        for reading in readings:
            part = reading.weight / whole
            reading.resident += part * (now.resident - last.resident)
            reading.allocated += part * (now.allocated - last.allocated)
        self._last = now
        return now


# -- what is known of a model before it is loaded --


class Known(msgspec.Struct, frozen=True):
    """A model's files as its size depends on them."""

    key: tuple[Stamp, str, str, str, int]
    file_bytes: int


def known(spec: ModelSpec) -> Known:
    """What to remember a model's size by: the stamps of its files, and where it would run. Blocks.

    Stamps rather than a digest: reading a large model once more to plan its load would take as long as the load.
    """
    try:
        files = stamp(spec)
    except OSError:  # the load will say it better
        files = ()
    what = (
        spec.reference if spec.path else f"{spec.reference} as {spec.name} {spec.version}"
    )  # code takes what it takes
    key = (files, spec.runtime, what, spec.placement, spec.replicas)
    return Known(key, sum(max(0, size) for _, _, size, _ in files))


class Sizes:
    """Measured sizes, of models that may have left since."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[Stamp, str, str, str, int], Size] = {}

    def expected(self, model: Known, spec: ModelSpec) -> Size:
        """What the next load of it will take: as measured, else as declared, else what its files take."""
        size = self._sizes.get(model.key)
        if size is not None:
            return size
        return Size(spec.memory_bytes or model.file_bytes, measured=False, sure=spec.memory_bytes > 0)

    def remember(self, model: Known, size: Size) -> Size:
        """Keep what was measured, and give what holds: an unsure size does not replace a sure one."""
        before = self._sizes.pop(model.key, None)
        kept = before if before is not None and before.sure and not size.sure else size
        self._sizes[model.key] = kept
        while len(self._sizes) > SIZES_KEPT:
            del self._sizes[next(iter(self._sizes))]
        return kept


# -- giving back --

SWEEP_SHARE: Final = 0.05
"""Of the time, at most, that goes into looking for garbage."""


def trim() -> None:
    """Give what malloc keeps for later back to the system, where it can. Blocks, without the interpreter's lock."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


class Sweeper:
    """Gives back what closed engines left: objects in cycles, and what malloc keeps of them.

    Looking for cycles stops everything else for as long as there are objects to walk (those that `gc.freeze` set aside
    are not walked), so the next time is put off until it is a small share of the time.

    Args:
        collect: Looks for cycles.
        share: Of the time, at most.
        clock: Seconds.
    """

    def __init__(
        self,
        collect: Callable[[], object] = gc.collect,
        *,
        share: float = SWEEP_SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._collect, self._share, self._clock = collect, share, clock
        self._not_before = 0.0

    def pause(self) -> float:
        """Seconds until the next sweep may be."""
        return max(0.0, self._not_before - self._clock())

    async def sweep(self) -> None:
        """Do it now."""
        began = self._clock()
        self._collect()
        await asyncio.to_thread(trim)
        ended = self._clock()
        self._not_before = ended + (ended - began) / self._share
