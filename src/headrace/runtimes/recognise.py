"""Which runtime a model belongs to, by its content: the loader asks when headrace.yaml names none.

Every runtime looks; the surest one wins. When none does, the error shows what was found and what would help, and where
two are equally sure it names both. Nothing is executed, and no framework is imported.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from headrace.errors import UnknownFormat
from headrace.runtimes import RUNTIMES, find, pickles
from headrace.runtimes.base import Recognition, Runtime

_SHOWN: Final = 8
"""How many entries of a folder, or globals of a pickle, an error shows."""

_HINTS: Final[Mapping[str, str]] = {
    "torch": "export it by torch.onnx.export and serve the .onnx file, or write a Python class (`runtime: python`)",
    "tensorflow": "convert it by tf2onnx and serve the .onnx file, or write a Python class (`runtime: python`)",
    "keras": "convert it by tf2onnx and serve the .onnx file, or write a Python class (`runtime: python`)",
    "sklearn": "save the fitted estimator itself rather than a container of it",
    "": "name its runtime by `runtime:` in a headrace.yaml beside it, or write a Python class (`runtime: python`)",
}


def recognise(path: Path, table: Mapping[str, str] = RUNTIMES) -> tuple[str, Recognition]:
    """The name of the runtime that claims a file or folder, and its evidence.

    Args:
        path: A file or folder.
        table: The runtimes to ask, by name.

    Raises:
        UnknownFormat: none claims it, or two are equally sure; the text says what was found.
    """
    if not path.exists():
        raise UnknownFormat(f"{path} does not exist")
    return _surest(str(path), table, lambda runtime: runtime.recognise(path), lambda: _found(path))


def recognise_object(model: Any, table: Mapping[str, str] = RUNTIMES) -> tuple[str, Recognition]:
    """The name of the runtime that claims an object in memory, and its evidence.

    Raises:
        UnknownFormat: none claims it, or two are equally sure; the text names its class.
    """
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    return _surest(
        f"the object of class {kind}",
        table,
        lambda runtime: runtime.recognise_object(model),
        lambda: f"an instance of {kind}; {_hint(kind.partition('.')[0])}",
    )


def _surest(
    what: str,
    table: Mapping[str, str],
    ask: Callable[[type[Runtime]], Recognition | None],
    found: Callable[[], str],
) -> tuple[str, Recognition]:
    claims = [(name, claim) for name in table if (claim := ask(find(name, table))) is not None]
    if not claims:
        raise UnknownFormat(f"no runtime recognises {what}: {found()}")
    claims.sort(key=lambda claim: claim[1].confidence, reverse=True)
    best = [claim for claim in claims if claim[1].confidence == claims[0][1].confidence]
    if len(best) > 1:
        told = " and ".join(f"{name} ({claim.evidence})" for name, claim in best)
        raise UnknownFormat(f"{what} is claimed by {told}; name one by `runtime:` in a headrace.yaml beside the model")
    return best[0]


def _found(path: Path) -> str:
    """What is there, for a person."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return f"a folder of {len(names)} entries ({shown or 'empty'}); {_hint('')}"
    size = path.stat().st_size
    if not size:
        return "the file is empty; save or copy it again"
    with path.open("rb") as file:
        head = file.read(16)
    suffix = f"suffix {path.suffix}" if path.suffix else "no suffix"
    if _is_torch_archive(path):
        return f"an archive of PyTorch, {size} bytes, {suffix}; {_hint('torch')}"
    contents = pickles.inspect(path)
    if not contents.globals and contents.complete:
        return f"a pickle of plain values, {size} bytes, {suffix}; save the fitted model itself"
    if not contents.globals:
        return f"a file of {size} bytes, {suffix}, that begins with {_readable(head)}; {_hint('')}"
    named = sorted(contents.globals)
    shown = ", ".join(named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
    tops = {name.partition(".")[0] for name in named}
    hint = next((_hint(top) for top in ("torch", "tensorflow", "keras", "sklearn") if top in tops), _hint(""))
    root = f" of {contents.root}" if contents.root else ""
    if not contents.complete and hint == _hint("sklearn"):
        hint = "it cannot be read to its end, as when it is cut off or damaged: copy or save it again"
    return f"a pickle{root}, {size} bytes, {suffix}, that names {shown}; {hint}"


def _is_torch_archive(path: Path) -> bool:
    """What torch.save and torch.jit.save write: a zip archive of a folder with a pickle and a version."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        return False
    return {"data.pkl", "version"} <= entries


def _hint(top: str) -> str:
    return _HINTS.get(top, _HINTS[""])


def _readable(head: bytes) -> str:
    """The first bytes as text where they are text, and as hex where they are not."""
    if not head:
        return "nothing"
    return repr(head.decode()) if head.isascii() and head.decode().isprintable() else head.hex(" ")
