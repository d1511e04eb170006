"""Files of manifests: what `-f` names, read here and sent with the folder that their relative paths start from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from headrace.control.parse import File

F = TypeVar("F", bound=Callable[..., Any])

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
MLSERVER: Final = "model-settings.json"
_LARGEST_BYTES: Final = 8 << 20
"""Of a file that was found in a folder rather than named: models lie there too, and some are JSON."""
_KIND: Final = re.compile(r"""(?:^|[{,])\s*["']?kind["']?\s*:""", re.MULTILINE)
_NOT_EMPTY: Final = re.compile(r"^(?!\s*(#.*|---\s*(#.*)?|\.\.\.)?$).+", re.MULTILINE)
"""A line that is more than a comment or a mark between documents."""
_VERSION: Final = re.compile(r"""["']?apiVersion["']?\s*:""")


def file_option(
    *,
    required: bool = True,
    name: str = "paths",
    text: str = "A file of manifests, a folder of them with all below it, or - for standard input.",
) -> Callable[[F], F]:
    """`-f`, any number of times."""
    return click.option(
        "-f", "--file", name, multiple=True, required=required, metavar="FILE|DIR|-", help=f"{text} May be given again."
    )


def read(paths: Sequence[str]) -> list[File]:
    """The manifests at the paths, in order.

    In a folder these are the YAML and JSON files that hold a manifest (they say `apiVersion` and `kind`), and those of
    MLServer, `model-settings.json`; what else lies there is passed over. A file that is named is taken whatever it
    holds.

    Raises:
        UsageError: a path is not there, cannot be read, or nothing but comments stands in all of them.
    """
    from headrace.control.parse import File

    found: list[File] = []
    for path in paths:
        if path == "-":
            text = sys.stdin.read()
            found.append(File(name="standard input", text=text, base=str(Path.cwd())))
            continue
        place = Path(path).expanduser()
        if place.is_dir():
            there = list(_in_folder(place))
            if not there:
                raise _usage(
                    f"-f {path}: no manifest in this folder; expected {', '.join(sorted(SUFFIXES))} with apiVersion "
                    f"and kind, or {MLSERVER}"
                )
            found += there
        else:
            found.append(_file(place, _text(place)))
    if found and not any(_NOT_EMPTY.search(each.text) for each in found):
        names = ", ".join(each.name for each in found)
        raise _usage(f"-f: there is no manifest in {names}; expected apiVersion and kind")
    return list({(each.base, Path(each.name).name): each for each in found}.values())  # a file named twice counts once


def declared(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Kind and name of what the manifests at the paths declare.

    Raises:
        InvalidResources: they cannot be read.
    """
    from headrace.control.parse import read as resources_of

    return [resource.key for resource in resources_of(read(paths))] if paths else []


def _in_folder(folder: Path) -> Iterator[File]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() not in SUFFIXES or name.startswith(".") or path.stat().st_size > _LARGEST_BYTES:
                continue
            text = _text(path)
            if name == MLSERVER or (_KIND.search(text) and _VERSION.search(text)):
                yield _file(path, text)


def _file(path: Path, text: str) -> File:
    from headrace.control.parse import File

    return File(name=str(path), text=text, base=str(path.absolute().parent))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _usage(f"-f {path}: there is no such file or folder") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise _usage(f"-f {path}: cannot be read: {exc}") from exc


def _usage(text: str) -> click.UsageError:
    return click.UsageError(text, click.get_current_context(silent=True))
