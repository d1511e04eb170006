"""Environment variables as pydantic's settings read them: the process's own, and below them a `.env` file in the
working directory. The dialects of servers built on it call this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

FILE: Final = ".env"
_LINE: Final = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][\w.-]*)[ \t]*=[ \t]*
    (?:'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^\r\n]*?))
    [ \t]*(?:(?:(?<=[ \t'"=])\#)[^\r\n]*)?\r?$""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "b": "\b"}
_VARIABLE: Final = re.compile(r"\$\{(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?\}")


class Variable(msgspec.Struct, frozen=True):
    """One variable that is set."""

    text: str
    origin: str
    """`environment MLSERVER_HTTP_PORT`, or the same of the `.env` file."""


class Environment(msgspec.Struct, frozen=True):
    """Variables by name; names are the same in capitals and small letters."""

    variables: Mapping[str, Variable]
    of_file: Mapping[str, str]
    """What the `.env` file alone sets, by name in small letters."""

    def get(self, name: str) -> Variable | None:
        """The variable; None: it is not set."""
        return self.variables.get(name.lower())


def read(environ: Mapping[str, str], folder: Path) -> Environment:
    """The variables that hold: those of the process over those of the file.

    Args:
        environ: The process's.
        folder: Where the `.env` file may be; one that cannot be read sets nothing.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    of_file = {name.lower(): (name, value) for name, value in parse(text, environ)}
    found = {key: Variable(value, f"{FILE} file, {name}") for key, (name, value) in of_file.items()}
    found |= {name.lower(): Variable(value, f"environment {name}") for name, value in environ.items()}
    return Environment(found, {key: value for key, (_, value) in of_file.items()})


def parse(text: str, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name and value of each line of a `.env` file; pure. A line that sets nothing is passed over.

    Args:
        text: The file's content.
        environ: What `${NAME}` and `${NAME:-default}` may stand for, beside the lines above.
    """
    known = dict(environ)
    for match in _LINE.finditer(text):
        if match["single"] is not None:
            value = re.sub(r"\\([\\'])", r"\1", match["single"])
        else:
            raw = match["bare"] if match["double"] is None else _ESCAPE.sub(_unescaped, match["double"])
            value = _VARIABLE.sub(lambda found: known.get(found["name"], found["default"] or ""), raw)
        known.setdefault(match["name"], value)
        yield match["name"], value


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[1])
