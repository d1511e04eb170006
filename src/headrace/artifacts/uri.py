"""Uris taken apart, pure: what `objects`, `fetch` and the schemes' sources start from."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from headrace.artifacts.secrets import Secret
from headrace.errors import ArtifactDenied, SettingsError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+._-]+):(?=/)")  # one letter is a drive
_BLOB: Final = re.compile(r"([a-z0-9]{3,24})\.(?:blob|dfs)\.(?:core\.[a-z0-9.]+|storage\.azure\.net)")
_GLOB: Final = re.compile(r"[*?\[]")

SAME: Final[Mapping[str, str]] = MappingProxyType(
    {
        "s3a": "s3",
        "s3n": "s3",
        "gcs": "gs",
        "azure": "az",
        "abfs": "az",
        "abfss": "az",
        "wasb": "az",
        "wasbs": "az",
    }
)
"""Other words for a scheme."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A uri taken apart."""

    scheme: str
    """In lower case, `file` of what has none, one word for each kind of store: `s3` of `s3a://`, `az` of `abfss://` and
    of `https://ACCOUNT.blob.core.windows.net/`."""
    host: str = ""
    """A bucket, a container, a claim, `host:port`; empty where there is none."""
    path: str = ""
    """What follows, without a leading `/`; of a file: its path as it stood."""
    account: str = ""
    """Azure's, where the uri says it."""
    domain: str = ""
    """Azure's, where the uri says it: `blob.core.windows.net`."""
    user: Secret = Secret("")
    """`name:password` where the uri has them."""
    query: Secret = Secret("")
    """What stood after `?` of a URL: signatures are there."""
    shown: str
    """The uri as messages have it: without user and query."""


def scheme_of(uri: str) -> str:
    """`s3` of `s3://...`; empty for a path and for `module:Class`."""
    found = _SCHEME.match(uri)
    if found is not None:
        return found[1].lower()
    return "file" if uri.startswith("file:") else ""


def is_local(uri: str) -> bool:
    """Whether it is a path or a `file:` uri, or no uri at all (`module:Class`)."""
    return scheme_of(uri) in {"", "file"}


def parse(uri: str) -> Place:
    """Take a uri apart.

    Raises:
        SettingsError: a part is missing.
    """
    scheme = scheme_of(uri)
    if scheme in {"", "file"}:
        return Place(scheme="file", path=local_path(uri), shown=uri)
    rest = uri[len(scheme) + 1 :]
    if scheme in {"http", "https"}:
        return _web(scheme, rest)
    host, _, path = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", rest.lstrip("/"))
    kind = SAME.get(scheme, scheme)
    user = query = ""
    if kind != "az" and "@" in host:
        user, _, host = host.rpartition("@")
    if kind == "mlflow-artifacts":
        path, _, query = path.partition("?")
    if kind in {"s3", "gs", "az", "pvc"} and not host:
        whole = {"az": "CONTAINER", "pvc": "CLAIM"}.get(kind, "BUCKET")
        raise SettingsError(f"{uri!r}: a uri of {scheme} is {scheme}://{whole}/PATH")
    account = domain = ""
    if kind == "az" and "@" in host:
        host, _, authority = host.partition("@")
        account, _, domain = authority.partition(".")
        domain = domain.replace("dfs.", "blob.", 1)
    if kind == "az" and scheme in {"wasb", "wasbs"} and not account:
        raise SettingsError(f"{uri!r}: a uri of {scheme} is {scheme}://CONTAINER@ACCOUNT.blob.core.windows.net/PATH")
    return Place(
        scheme=kind,
        host=host,
        path=path,
        account=account,
        domain=domain,
        user=Secret(user),
        query=Secret(query),
        shown=shown(uri),
    )


def _web(scheme: str, rest: str) -> Place:
    parts = urllib.parse.urlsplit(f"{scheme}:{rest}")
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{scheme}://{host}{parts.path}"
    if not host:
        raise SettingsError(f"{shown!r}: a uri of {scheme} is {scheme}://HOST/PATH")
    blob = _BLOB.fullmatch(host.lower())
    if blob is not None and scheme == "https":
        container, _, path = urllib.parse.unquote(parts.path.lstrip("/")).partition("/")
        if not container:
            raise SettingsError(f"{shown!r}: a uri of a blob is https://{host}/CONTAINER/PATH")
        domain = host.lower().partition(".")[2].replace("dfs.", "blob.", 1)
        return Place(
            scheme="az",
            host=container,
            path=path,
            account=blob[1],
            domain=domain,
            query=Secret(parts.query),
            shown=shown,
        )
    return Place(
        scheme=scheme,
        host=host,
        path=parts.path.lstrip("/"),
        user=Secret(user),
        query=Secret(parts.query),
        shown=shown,
    )


def shown(uri: str) -> str:
    """A uri as messages may have it: nothing of a user, of a password, of a signature."""
    found = _SCHEME.match(uri)
    if found is None:
        return uri
    head, slashes, rest = uri.partition("//")
    if not slashes:
        return uri
    authority, slash, path = rest.partition("/")
    if scheme_of(uri) in {"http", "https"} or ":" in authority.rpartition("@")[0]:
        authority = authority.rpartition("@")[2]
    if scheme_of(uri) in {"http", "https", "mlflow-artifacts"}:
        path = path.partition("?")[0].partition("#")[0]
        authority = authority.partition("?")[0]
    return f"{head}//{authority}{slash}{path}"


def local_path(uri: str) -> str:
    """The path of a path or `file:` uri: `file:///a%20b` is `/a b`.

    Raises:
        SettingsError: it is on another host.
    """
    if not uri.startswith("file:"):
        return os.path.expanduser(uri)  # noqa: PTH111 - `Path` would drop a trailing slash, which says: a folder
    rest = uri[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in {"", "localhost"}:
            raise SettingsError(f"{uri!r}: files are of this machine: file:///PATH")
        rest = slash + path
    return urllib.parse.unquote(rest)


def split(uri: str) -> tuple[str, str]:
    """A uri of objects and the name or glob of one below it: `s3://b/a/x.csv` is `s3://b/a` and `x.csv`; what ends with
    `/` names no object. The globs of `s3://b/a/*/x.csv` stand in the second part.
    """
    scheme = scheme_of(uri)
    if scheme in {"http", "https"} and parse(uri).scheme != "az":
        return uri, ""
    root, path = _root(uri)
    found = _GLOB.search(path)
    if found is None and (uri.endswith("/") or not path):
        return uri, ""
    cut = path.rfind("/", 0, found.start() if found is not None else len(path))
    head, tail = (path[:cut], path[cut + 1 :]) if cut >= 0 else ("", path)
    if not root and cut == 0:
        head = "/"
    return (root + head if root or head else "."), tail


def _root(uri: str) -> tuple[str, str]:
    """`s3://bucket/` and what follows; of a path: nothing, and all of it."""
    if is_local(uri):
        return "", local_path(uri)
    head, slashes, rest = uri.partition("//")
    if not slashes:
        head, slashes, rest = uri.partition(":/")
    host, _, path = rest.partition("/")
    return f"{head}{slashes}{host}/", path


def join(uri: str, path: str) -> str:
    """The uri of something below a uri."""
    if not path:
        return uri
    return f"{uri}{path}" if uri.endswith("/") else f"{uri}/{path}"


def is_glob(path: str) -> bool:
    """Whether it has one of `*?[`."""
    return _GLOB.search(path) is not None


def static_part(glob: str) -> str:
    """The folders of a glob before its first wildcard, without a trailing `/`."""
    found = _GLOB.search(glob)
    if found is None:
        return glob
    return glob[: max(0, glob.rfind("/", 0, found.start()))]


def pattern(glob: str) -> re.Pattern[str]:
    """Of paths that fit a glob: `*`, `?` and `[...]` stay within a folder, `**` crosses folders."""
    out, at = [], 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at):
            out.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at):
            out.append(".*")
            at += 2
        elif char == "*":
            out.append("[^/]*")
            at += 1
        elif char == "?":
            out.append("[^/]")
            at += 1
        elif char == "[" and (end := glob.find("]", at + 2)) > 0:
            inner = glob[at + 1 : end].replace("\\", "\\\\")
            out.append(f"[^{inner[1:]}]" if inner[0] in "!^" else f"[{inner}]")
            at = end + 1
        else:
            out.append(re.escape(char))
            at += 1
    return re.compile("".join(out), re.DOTALL)


def checked(uri: str, path: str) -> str:
    """A path below a uri, as it is.

    Raises:
        ArtifactDenied: it would lead out.
    """
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ArtifactDenied(f"{shown(uri)}: {path!r} leads out of it")
    return path
