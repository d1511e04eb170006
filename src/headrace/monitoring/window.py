"""Windows: which rows a test is made on, and when. `stream` holds one for each kind that its detectors ask for.

Rows count, not requests: a request of 64 thousand rows fills many windows, and what is too much for one goes to the
next. Nothing here has a clock; the caller says what time it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

import msgspec
import numpy as np

from headrace.detectors.base import State
from headrace.errors import InvalidRequest
from headrace.payload import Array
from headrace.trust.spec import Window

Columns = Mapping[str, Array]
"""Arrays by name whose axis 0 counts the same rows."""

_BLOB: Final = "."
_NEVER: Final = float("inf")


class Full(msgspec.Struct, frozen=True, kw_only=True):
    """A window that is to be tested."""

    columns: Columns
    number: int
    """From 1, of this kind of window of this model version; survives restarts."""
    start: float
    """When the first of its rows came, seconds since the epoch."""
    end: float
    """When the last of them came."""

    @property
    def rows(self) -> int:
        """How many."""
        return count(self.columns)


class Windows:
    """Gathers rows, and cuts them into windows.

    Tumbling windows (`step` 0) follow one another: each row is in exactly one. A sliding one holds the last `rows`
    rows, and is cut after each `step` rows once there are so many. With `seconds`, one with fewer rows, but `min_rows`
    at least, is cut when so much time has passed since its first new row.

    Args:
        spec: Rows, seconds, least rows and step. `min_rows` above `rows` means `rows`; so does `step`.
    """

    def __init__(self, spec: Window) -> None:
        if spec.rows < 1 or spec.min_rows < 0 or spec.step < 0 or not 0 <= spec.seconds < _NEVER:
            raise InvalidRequest(
                f"a window needs rows of 1 or more, and min_rows, step and seconds that are not negative; got "
                f"rows={spec.rows}, min_rows={spec.min_rows}, step={spec.step}, seconds={spec.seconds}"
            )
        self.rows, self.seconds = spec.rows, spec.seconds
        self.min_rows = min(max(spec.min_rows, 1), spec.rows)
        self.step = min(spec.step, spec.rows)
        self.number = 0
        """Windows cut so far."""
        self._held: list[Columns] = []
        self._count = 0
        self._fresh = 0  # rows that no window has had yet
        self._since = 0.0  # when the first of them came

    def __repr__(self) -> str:
        return f"<Windows rows={self.rows} held={self._count} fresh={self._fresh} cut={self.number}>"

    @property
    def held(self) -> int:
        """Rows that are kept."""
        return self._count

    @property
    def fresh(self) -> int:
        """Rows that no window has had yet."""
        return self._fresh

    def collecting(self) -> tuple[int, int]:
        """Rows towards the next window, and how many it needs before rows alone make it one."""
        return (self._fresh, self.step) if self.step and self._count >= self.rows else (self._count, self.rows)

    def due(self) -> float | None:
        """When the next window is cut if nothing more comes, seconds since the epoch; None: not without rows."""
        if not self.seconds or not self._fresh or self._count < self.min_rows:
            return None
        return self._since + self.seconds

    def take(self, columns: Columns, now: float) -> list[Full]:
        """Take rows that came now, and cut the windows that they fill.

        Args:
            columns: As of all calls: the same names, and `time` among them, `[n]` FP64, when each row came.
            now: Seconds since the epoch.
        """
        full = self.tick(now)
        self._cut_all(full)
        n = count(columns)
        at = 0
        while at < n:
            end = min(n, at + self._room())
            self._add(columns if (at, end) == (0, n) else cut(columns, at, end), now)
            at = end
            self._cut_all(full)
        return full

    def _cut_all(self, full: list[Full]) -> None:
        while self._count and self._room() <= 0:
            full.append(self._cut())

    def tick(self, now: float) -> list[Full]:
        """Cut the window whose time has come, if it has."""
        due = self.due()
        return [self._cut()] if due is not None and now >= due else []

    def _room(self) -> int:
        """Rows that may come before a window must be cut."""
        if self.step and self._count >= self.rows:
            return max(self.step - self._fresh, 0)
        return self.rows - self._count

    def _add(self, columns: Columns, now: float) -> None:
        if not self._fresh:
            self._since = now
        self._held.append(columns)
        added = count(columns)
        self._count += added
        self._fresh += added

    def _cut(self) -> Full:
        whole = joined(self._held)
        total = self._count
        if self.step:
            whole = cut(whole, max(0, total - self.rows), total)
            self._held = [whole]
            self._count = count(whole)
            self._fresh = 0
        else:
            self._held = [cut(whole, self.rows, total)] if total > self.rows else []
            self._count = self._fresh = max(0, total - self.rows)
            whole = cut(whole, 0, self.rows)
        self.number += 1
        times = whole["time"]
        return Full(columns=whole, number=self.number, start=float(times[0]), end=float(times[-1]))

    def state(self) -> State:
        """What `restore` goes on from."""
        parameters = {"number": self.number, "fresh": self._fresh, "since": self._since}
        return State(parameters=parameters, arrays=kept(joined(self._held)) if self._held else {})

    @classmethod
    def restore(cls, spec: Window, state: State) -> Self:
        """The windows that had this state. Where they had other sizes, what is too much for one is cut at the next
        `take`.
        """
        windows = cls(spec)
        windows.number = int(state.parameters["number"])
        windows._since = float(state.parameters["since"])
        columns = unkept(state.arrays)
        if columns:
            windows._held = [columns]
            windows._count = count(columns)
            windows._fresh = min(int(state.parameters["fresh"]), windows._count)
        return windows


def count(columns: Columns) -> int:
    """Rows."""
    for array in columns.values():
        return len(array)
    return 0


def cut(columns: Columns, start: int, end: int) -> Columns:
    """Rows from start to end, as views."""
    return {name: array[start:end] for name, array in columns.items()}


def joined(parts: list[Columns]) -> Columns:
    """Rows one after the other, of the columns that all parts have."""
    if len(parts) < 2:
        return parts[0] if parts else {}
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def kept(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays that a file without pickles can hold: texts become the bytes of all and the length of each."""
    arrays: dict[str, Array] = {}
    for name, array in columns.items():
        if array.dtype != np.object_:
            arrays[name] = array
            continue
        encoded = [str(each).encode(errors="surrogatepass") for each in array.ravel()]
        arrays[f"{name}{_BLOB}bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}{_BLOB}lengths"] = np.array([len(each) for each in encoded], np.int64).reshape(array.shape)
    return arrays


def unkept(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse of `kept`."""
    columns: dict[str, Array] = {}
    for name, array in arrays.items():
        stem, _, what = name.rpartition(_BLOB)
        if what == "bytes" and f"{stem}{_BLOB}lengths" in arrays:
            lengths = arrays[f"{stem}{_BLOB}lengths"]
            blob, ends = array.tobytes(), np.cumsum(lengths.ravel())
            texts: Array = np.empty(len(ends), np.object_)
            starts = ends - lengths.ravel()
            texts[:] = [blob[a:b].decode(errors="surrogatepass") for a, b in zip(starts, ends, strict=True)]
            columns[stem] = texts.reshape(lengths.shape)
        elif not (what == "lengths" and f"{stem}{_BLOB}bytes" in arrays):
            columns[name] = array
    return columns
