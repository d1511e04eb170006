"""What a file's name says of its format, and what an output's name is; pure. `registry`, jobs and watchers ask."""

from __future__ import annotations

from typing import Final, Literal

from headrace.lifecycle.batch.base import Format

Compression = Literal["", "gz", "zst", "bz2"]

_SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
SUFFIX_OF: Final[dict[Format, str]] = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "arrow": ".arrow"}
_COMPRESSED: Final[dict[str, Compression]] = {".gz": "gz", ".zst": "zst", ".zstd": "zst", ".bz2": "bz2"}


def format_of(name: str) -> tuple[Format | None, Compression]:
    """What a name's suffixes say; None: nothing."""
    low = name.lower()
    compression: Compression = ""
    for suffix, kind in _COMPRESSED.items():
        if low.endswith(suffix):
            low, compression = low.removesuffix(suffix), kind
            break
    found = next((each for suffix, each in _SUFFIXES.items() if low.endswith(suffix)), None)
    return found, compression


def stem_of(name: str) -> str:
    """The name without the suffixes of its format and compression."""
    for endings in (_COMPRESSED, _SUFFIXES):
        ending = next((each for each in endings if name.lower().endswith(each)), "")
        name = name[: len(name) - len(ending)]
    return name
