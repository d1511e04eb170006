"""A fitted detector's state as the bytes of one file, and back. `trust.folder` keeps them, `monitoring` snapshots them.

The file is a numpy archive (npz, a zip of arrays) without objects: the arrays by their names, and the parameters as the
UTF-8 bytes of their JSON under a name of its own. The same state gives the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from headrace.detectors.base import State
from headrace.errors import LoadFailed
from headrace.payload import Array

PARAMETERS: Final = "parameters.json"
"""The array of bytes that holds a state's parameters."""

_LARGEST_BYTES: Final = 1 << 30
"""Of all arrays of a file together, once unpacked: a small zip can claim to hold anything."""


def dump(state: State) -> bytes:
    """The file of a state.

    Raises:
        LoadFailed: an array holds objects, or a parameter is no JSON value.
    """
    try:
        parameters = msgspec.json.encode(state.parameters, order="deterministic")
    except (TypeError, msgspec.MsgspecError) as error:
        raise LoadFailed(f"a detector's parameters cannot be kept: {error}; expected JSON values") from error
    return dump_arrays({**state.arrays, PARAMETERS: np.frombuffer(parameters, np.uint8)})


def load(data: bytes, *, where: str) -> State:
    """The state that a file holds.

    Args:
        data: The file.
        where: How an error names it.

    Raises:
        LoadFailed: it is no such file, is damaged, or holds objects.
    """
    arrays = load_arrays(data, where=where)
    held = arrays.pop(PARAMETERS, None)
    if held is None:
        raise LoadFailed(f"{where}: it holds no {PARAMETERS}, so it is no fitted detector")
    try:
        parameters = msgspec.json.decode(held.tobytes())
    except msgspec.MsgspecError as error:
        raise LoadFailed(f"{where}: its {PARAMETERS} is damaged: {error}") from error
    if not isinstance(parameters, dict):
        raise LoadFailed(f"{where}: its {PARAMETERS} is a {type(parameters).__name__}; expected an object")
    return State(parameters=parameters, arrays=arrays)


def dump_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Arrays by name as one compressed file.

    Raises:
        LoadFailed: one holds objects.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise LoadFailed(f"array {name!r} holds objects; only numbers and booleans are kept")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy")  # of one fixed time, so that equal arrays give equal bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as written:
                np.lib.format.write_array(written, np.asarray(arrays[name], order="C"), allow_pickle=False)
    return file.getvalue()


def load_arrays(data: bytes, *, where: str) -> dict[str, Array]:
    """The arrays of such a file.

    Raises:
        LoadFailed: it is no such file, is damaged, or holds objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _LARGEST_BYTES:
                raise LoadFailed(f"{where}: it would take {size} bytes of memory; at most {_LARGEST_BYTES} are read")
            arrays: dict[str, Array] = {}
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    arrays[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
            return arrays
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise LoadFailed(f"{where}: it cannot be read as arrays of numbers: {error}") from error
