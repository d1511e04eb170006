"""Golden rows: inputs and the answers a model gave when it was packaged, kept beside it and asked again at `load`.

Whoever packages a model writes them, in the environment that trained it; runtimes check them, because a file read by
another version of its library may answer otherwise, in silence.

The file is an `.npz` without pickles: arrays `input:<name>` and `output:<name>` by tensor name, text as unicode.
It is `<model file's stem>.golden.npz` or `golden.npz`, in the model file's folder or, for a folder, inside it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from headrace.errors import HeadraceError, LoadFailed
from headrace.payload import Array

TOLERANCE: Final = 1e-6
"""How far a float may be from its golden one, relative and absolute; anything else is equal or wrong."""


class Check(msgspec.Struct, frozen=True):
    """What came of asking the golden rows."""

    path: Path
    rows: int
    difference: str = ""
    """Where an answer differs from the golden one; empty: none does."""


def write_golden(path: Path, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Write golden rows.

    Args:
        path: For example `model.golden.npz`.
        inputs: Arrays by input name, as `predict` takes them; BYTES as bytes or text.
        outputs: The answers by output name.
    """
    arrays: dict[str, Any] = {f"input:{name}": _plain(value) for name, value in inputs.items()}
    arrays |= {f"output:{name}": _plain(value) for name, value in outputs.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def find_golden(model: Path) -> Path | None:
    """The golden rows of a model file or folder; None: there are none."""
    folder = model if model.is_dir() else model.parent
    for name in (f"{model.stem}.golden.npz", "golden.npz"):
        if (folder / name).is_file():
            return folder / name
    return None


def check_golden(path: Path, predict: Callable[[Mapping[str, Array], Sequence[str]], Mapping[str, Any]]) -> Check:
    """Ask a runtime the golden rows.

    Args:
        path: The golden rows.
        predict: A runtime's `predict`.

    Raises:
        LoadFailed: the file is no file of golden rows.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise LoadFailed(f"{path} holds no golden rows: {error}") from error
    inputs = {name.removeprefix("input:"): _bytes(a) for name, a in arrays.items() if name.startswith("input:")}
    wanted = {name.removeprefix("output:"): _bytes(a) for name, a in arrays.items() if name.startswith("output:")}
    if not inputs or not wanted:
        raise LoadFailed(f"{path} holds no golden rows: expected arrays `input:<name>` and `output:<name>`")
    rows = len(next(iter(inputs.values())))
    try:
        answers = predict(inputs, tuple(wanted))
    except HeadraceError as error:
        return Check(path, rows, f"the model refuses them: {error}")
    except Exception as error:  # noqa: BLE001 - a model broken by its library's version fails in any way
        return Check(path, rows, f"the model fails on them: {type(error).__name__}: {error}")
    for name, golden in wanted.items():
        if found := difference(golden, np.asarray(answers[name])):
            return Check(path, rows, f"output {name!r} {found}")
    return Check(path, rows)


def difference(golden: Array, answer: Array) -> str:
    """Where an answer is not the golden one, beyond `TOLERANCE`; empty: nowhere."""
    if golden.shape != answer.shape:
        return f"has shape {list(answer.shape)}, golden {list(golden.shape)}"
    if golden.dtype.kind == "f" and answer.dtype.kind == "f":
        same = np.isclose(answer, golden, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    else:
        same = np.asarray(golden == answer)
    wrong = int(np.count_nonzero(~same.reshape(len(same), -1).all(axis=1))) if same.ndim else int(not same)
    return f"differs in {wrong} of {len(golden) if golden.ndim else 1} rows" if wrong else ""


def _plain(value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind != "O":
        return array
    text = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    return np.array(text, dtype=np.str_).reshape(array.shape)


def _bytes(array: Array) -> Array:
    """Text as BYTES, as `predict` takes and gives it."""
    if array.dtype.kind != "U":
        return array
    encoded = np.empty(array.size, dtype=np.object_)
    encoded[:] = [str(item).encode() for item in array.ravel()]
    return encoded.reshape(array.shape)
