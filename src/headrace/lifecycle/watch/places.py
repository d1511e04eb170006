"""Which objects are watched, and how the output of each is named. Pure; `watch` and `aws_lambda` use it.

Outputs are named by their inputs, never by a moment or a number: who answers an object a second time writes over what
the first wrote, with the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

import msgspec

from headrace.artifacts import uri
from headrace.errors import SettingsError
from headrace.lifecycle.batch.base import Format
from headrace.lifecycle.batch.formats import names

OWN: Final = "_headrace"
"""The folder of the output that holds claims. Readers of folders leave alone what begins with `_`."""
_FIELDS: Final = ("path", "folder", "stem", "suffix", "etag")
_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")
_STORES: Final = frozenset({"s3", "gs", "az"})


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """One of the inputs: what is below a bucket's prefix or a folder, and fits."""

    uri: str
    """Of the folder or prefix, without a glob; of a folder: its path."""
    bucket: str
    """`s3://uploads`, as events have it; of a folder: `file://` and its path."""
    prefix: str
    """What keys begin with: empty, or with `/` at its end."""
    glob: str
    """What paths below it must fit; empty: anything that is in a format we read."""

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.bucket.startswith("file://")

    def path(self, bucket: str, key: str) -> str:
        """The path below it of an object; empty: it is not one of those."""
        if not key.startswith(self.prefix) or not self._is_bucket(bucket):
            return ""
        path = key.removeprefix(self.prefix)
        return path if self.fits(path) else ""

    def fits(self, path: str) -> bool:
        """Whether an object below it is one to be answered."""
        parts = path.split("/")
        if not parts[-1] or parts[0] == OWN or any(part in {"..", ""} for part in parts):
            return False
        if self.glob:
            return uri.pattern(self.glob).fullmatch(path) is not None
        return parts[-1][0] not in "._" and names.format_of(path)[0] is not None

    def _is_bucket(self, bucket: str) -> bool:
        if bucket == self.bucket:
            return True
        # A store of a name of its own (rclone's remotes) tells of its buckets as what it is compatible with.
        kind, _, name = bucket.partition("://")
        own, _, own_name = self.bucket.partition("://")
        return name == own_name and own not in {*_STORES, "file"} and kind in _STORES


def watched(name: str, output: str) -> Watched:
    """An input, understood.

    Args:
        name: `s3://bucket/prefix/`, a folder, or one of these with a glob below it.
        output: Where is written.

    Raises:
        SettingsError: it cannot be watched, or what is written would be read again.
    """
    where, glob = uri.split(name)
    if glob and not uri.is_glob(glob):  # what is watched is a folder, with a `/` at its end or without
        where, glob = uri.join(where, glob), ""
    place = uri.parse(where)
    if place.scheme in {"http", "https"}:
        raise SettingsError(f"{place.shown}: a web server cannot be watched; watch a folder or a bucket (s3, gs, az)")
    if place.scheme == "file":
        folder = Path(place.path).absolute()
        found = Watched(uri=str(folder), bucket=f"file://{folder}", prefix="", glob=glob)
    else:
        prefix = f"{place.path.strip('/')}/" if place.path.strip("/") else ""
        found = Watched(uri=where, bucket=f"{place.scheme}://{place.host}", prefix=prefix, glob=glob)
    _apart(found, name, output)
    return found


def _apart(found: Watched, name: str, output: str) -> None:
    """An output that is itself watched would be answered, and its output too, without end."""
    if below(output).startswith(below(found.uri)):
        raise SettingsError(
            f"the output {uri.shown(output)} is within the input {uri.shown(name)}: what is written there would be "
            "read again, without end. Choose another bucket, or give both a prefix of their own"
        )


def below(name: str) -> str:
    """What the names of all objects below a bucket, prefix or folder begin with, as events have them."""
    place = uri.parse(name)
    if place.scheme == "file":
        whole = f"file://{Path(place.path).absolute()}"
    else:
        whole = f"{place.scheme}://{place.host}/{place.path.strip('/')}"
    return f"{whole.rstrip('/')}/"


def checked_name(template: str) -> str:
    """A template of outputs' names, as it is.

    Raises:
        SettingsError: it has a field that is not known, or gives all objects one name.
    """
    found = _FIELD.findall(template)
    for field in found:
        if field not in _FIELDS:
            known = ", ".join(f"{{{each}}}" for each in _FIELDS)
            raise SettingsError(f"the name {template!r} has {{{field}}}; known are {known}")
    if not {"path", "stem"} & set(found) or template.startswith("/") or ".." in template.split("/"):
        raise SettingsError(
            f"the name {template!r} must have {{path}} or {{stem}}, so that every object has an output of its own, and "
            "stay below the output: {path}, {folder}/{stem}.{etag}{suffix}"
        )
    return template


def output_path(template: str, path: str, etag: str, output_format: Format | Literal["auto"] = "auto") -> str:
    """Where the output of an object is, below the output's uri.

    Args:
        template: As `checked_name` lets pass. `{path}` is all of the object's path; `{folder}`, `{stem}` and `{suffix}`
            (`.csv.gz`) are its parts.
        path: Of the object, below its input.
        etag: Of the object.
        output_format: `auto`: as the object's own; another changes the suffix.
    """
    folder, _, name = path.rpartition("/")
    stem = names.stem_of(name)
    suffix = name.removeprefix(stem)
    if output_format != "auto" and names.format_of(name)[0] != output_format:
        suffix = f".{output_format}"
    fields = {
        "path": f"{folder}/{stem}{suffix}" if folder else f"{stem}{suffix}",
        "folder": folder,
        "stem": stem,
        "suffix": suffix,
        "etag": _UNSAFE.sub("", etag),
    }
    return _FIELD.sub(lambda found: fields[found[1]], template).lstrip("/")
