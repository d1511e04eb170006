"""Items that wait to be sent, on disk up to a bound: many to a file, without waiting for the disk. `outbox` keeps
payload events, verdicts and model events so; alerts, of which there are few, are one synchronised file each (`Spool`).

    FOLDER/0/lock          held by the process that uses it
    FOLDER/0/00000007.log  records: length, checksum, time, body
    FOLDER/0/00000007.end  offsets of those that ended: sent, or given up

What was put survives the process, killed or not; a power cut may take the newest. A file is removed when all of it has
ended, so what is on disk may be more than what waits, and the bound is on what is on disk. After a kill, records whose
end was not written yet are sent again: at least once. Two servers with one folder use `0` and `1`; what a dead one
left, the next that starts takes over.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from headrace.errors import SettingsError
from headrace.monitoring import folders

log = logging.getLogger(__name__)

_HEAD: Final = struct.Struct("<IId")
_END: Final = struct.Struct("<I")
_LARGEST_FILE: Final = 8 << 20


class _File:
    """One pair of files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.ends = os.open(path.with_suffix(".end"), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.records).st_size
        self.waiting = 0

    def scan(self) -> Iterator[tuple[int, float, int]]:
        """Offset, time and length of each record that has not ended; what was half written is cut off."""
        ends = os.pread(self.ends, os.fstat(self.ends).st_size, 0)
        ended = {offset for (offset,) in _END.iter_unpack(ends[: len(ends) - len(ends) % _END.size])}
        offset = 0
        while head := os.pread(self.records, _HEAD.size, offset):
            if len(head) < _HEAD.size:
                break
            length, checksum, time = _HEAD.unpack(head)
            if offset + _HEAD.size + length > self.size:
                break
            if zlib.crc32(os.pread(self.records, length, offset + _HEAD.size)) != checksum:
                break
            if offset not in ended:
                yield offset, time, length
            offset += _HEAD.size + length
        if offset < self.size:
            log.warning("%s: the last %d bytes are no whole item and are cut off", self.path, self.size - offset)
            os.ftruncate(self.records, offset)
            self.size = offset

    def append(self, record: bytes) -> int:
        """Write a record, and give its offset; one that could not be written whole is taken back."""
        offset = self.size
        _write_whole(self.records, record, at=offset)
        self.size += len(record)
        return offset

    def end(self, offset: int) -> None:
        """Write that a record has ended."""
        _write_whole(self.ends, _END.pack(offset), at=os.fstat(self.ends).st_size)

    def close(self) -> None:
        for descriptor in (self.records, self.ends):
            os.close(descriptor)

    def remove(self) -> None:
        # the records first: ends without records are nothing, records without ends would be sent again
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".end").unlink(missing_ok=True)
        self.close()


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where an item is."""

    file: int
    offset: int
    length: int
    """Of its body, in bytes."""
    time: float
    """When it was put: seconds since the epoch."""


class Backlog:
    """The items of one process. Its methods are called under its owner's lock.

    Args:
        folder: For files.
        most_bytes: Of the files; what would be more is not taken.
        setting: The key that holds the folder, for messages.
    """

    def __init__(self, folder: Path, *, most_bytes: int, setting: str) -> None:
        self._root, self._folder, self._setting = folder, folder, setting
        self._most = most_bytes
        self._file_bytes = min(_LARGEST_FILE, most_bytes // 8)
        self._lock = -1
        self._files: dict[int, _File] = {}
        self._current = 0

    def __repr__(self) -> str:
        return f"Backlog({self._root}, {len(self._files)} files, {self.size} of {self._most} bytes)"

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self._files.values())

    def open(self) -> list[Place]:
        """Lock a folder, and give what waits in it, the oldest first.

        Raises:
            SettingsError: the folder cannot be used.
        """
        try:
            self._take_folder()
            return self._take_up()
        except OSError as exc:
            self.close()
            raise SettingsError(f"{self._setting}: {self._root} cannot be used: {exc.strerror or exc}") from exc

    def _take_folder(self) -> None:
        self._folder, self._lock = folders.own(self._root, setting=self._setting)
        self._current = max((int(path.stem) for path in _logs(self._folder)), default=0)
        for path in self._folder.glob("*.end"):
            if not path.with_suffix(".log").exists():  # of a file that is gone, not of the next of its number
                path.unlink()
        for folder in folders.left(self._folder):
            for path in sorted(_logs(folder)):
                self._current += 1
                new = self._folder / f"{self._current:08d}.log"
                with contextlib.suppress(FileNotFoundError):  # the ends first: at worst some are sent again
                    path.with_suffix(".end").replace(new.with_suffix(".end"))
                path.replace(new)

    def _take_up(self) -> list[Place]:
        places = []
        for path in sorted(_logs(self._folder)):
            number = int(path.stem)
            file = self._files[number] = _File(path)
            for offset, time, length in file.scan():
                file.waiting += 1
                places.append(Place(number, offset, length, time))
            if not file.waiting:
                self._files.pop(number).remove()
        self._current += 1
        return sorted(places, key=lambda place: place.time)

    def put(self, body: bytes, time: float) -> Place | None:
        """Write an item; None: there is no room.

        Raises:
            OSError: it cannot be written.
        """
        size = _HEAD.size + len(body)
        if self.size + size > self._most:
            return None
        file = self._files.get(self._current)
        if file is not None and file.size + size > self._file_bytes:
            self._current += 1
            file = None
        if file is None:
            file = self._files[self._current] = _File(self._folder / f"{self._current:08d}.log")
        offset = file.append(_HEAD.pack(len(body), zlib.crc32(body), time) + body)
        file.waiting += 1
        return Place(self._current, offset, len(body), time)

    def read(self, place: Place) -> bytes:
        """The body of an item.

        Raises:
            OSError: the disk does not give it.
        """
        file = self._files[place.file]
        data = os.pread(file.records, place.length, place.offset + _HEAD.size)
        if len(data) != place.length:
            raise OSError(errno.EIO, f"{file.path} is shorter than it was")
        return data

    def end(self, place: Place) -> None:
        """An item was sent, or given up: forget it.

        Raises:
            OSError: the disk does not take that; it may be sent again after a restart.
        """
        file = self._files.get(place.file)
        if file is None:  # closed meanwhile
            return
        file.waiting -= 1
        if file.waiting == 0 and (place.file != self._current or file.size >= self._file_bytes // 2):
            del self._files[place.file]
            if place.file == self._current:
                self._current += 1
            file.remove()
        else:
            file.end(place.offset)

    def close(self) -> None:
        """Let the next process have the folder. Twice is once."""
        for number, file in list(self._files.items()):
            del self._files[number]
            if file.waiting:
                file.close()
            else:
                file.remove()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _write_whole(descriptor: int, data: bytes, *, at: int) -> None:
    try:
        written = os.write(descriptor, data)
    except OSError:
        os.ftruncate(descriptor, at)
        raise
    if written != len(data):
        os.ftruncate(descriptor, at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _logs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.log") if path.stem.isdecimal()]
