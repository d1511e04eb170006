"""Repositories of the Hugging Face hub: `hf://ORG/REPO`, `hf://ORG/REPO@REVISION/PATH` and KServe's `hf://ORG/REPO:REV`,
as `artifacts.registry` opens them. The hub is HF_ENDPOINT, or huggingface.co.

A revision is asked for its commit once for each source, and the files are those of that commit. Files of LFS say their
SHA-256; of the others the hub says git's digest, and what comes is checked against it.

Sources:
    huggingface.co/docs/hub/api (`/api/models/REPO/revision/REV`, `/api/models/REPO/tree/REV`), and huggingface_hub's
    `resolve` URLs, `X-Error-Code` header, token files and `HfFileSystem` paths.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from headrace.artifacts.base import Entry, Pinned
from headrace.artifacts.credentials import Credentials, Variables
from headrace.artifacts.rest import Answer, Rest, tls_context
from headrace.artifacts.secrets import Secret
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, ArtifactDenied, ArtifactFailed, ArtifactNotFound, SettingsError

ENDPOINT: Final = "https://huggingface.co"
_KINDS: Final[Mapping[str, str]] = MappingProxyType({"datasets": "datasets", "spaces": "spaces"})
"""First word of a uri that is no organisation, as the hub's URLs have it; what has none is a model."""
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REF: Final = re.compile(r"(refs/(?:convert|pr)/[^/@:]+)(?:/|$)")
_SHA: Final = re.compile(r"[0-9a-f]{40}")
_NEXT: Final = re.compile(r'<([^>]+)>\s*;[^,]*rel="?next"?')
_MOST_FILES: Final = 100_000
_MOST_PAGES: Final = 1000
_NO_REVISION: Final = "RevisionNotFound"
_REMEDY: Final = "Set HF_TOKEN to a token that may read it, and accept its terms on its page if it is gated"


class Repo(msgspec.Struct, frozen=True, kw_only=True):
    """A uri of the hub taken apart."""

    kind: str = "models"
    name: str
    """`ORG/REPO`."""
    revision: str = "main"
    path: str = ""
    """A folder or file of it; empty: all."""

    def uri(self, revision: str) -> str:
        """Of the same at a revision."""
        kind = "" if self.kind == "models" else f"{self.kind}/"
        return f"hf://{kind}{self.name}@{revision.replace('/', '%2F')}" + (f"/{self.path}" if self.path else "")


def repo_of(uri: str) -> Repo:
    """Take a uri apart.

    Raises:
        SettingsError: it names no repository.
    """
    rest = uri.partition("://")[2].strip("/")
    kind, _, more = rest.partition("/")
    if kind in _KINDS:
        kind, rest = _KINDS[kind], more
    else:
        kind = "models"
    organisation, _, more = rest.partition("/")
    cut = next((at for at, letter in enumerate(more) if letter in "@:/"), len(more))
    name, more = more[:cut], more[cut:]
    if not _PART.fullmatch(organisation) or not _PART.fullmatch(name):
        raise SettingsError(f"{uri!r}: expected hf://ORG/REPO, hf://ORG/REPO@REVISION or hf://ORG/REPO@REVISION/PATH")
    revision = "main"
    if more[:1] in {"@", ":"}:
        ref = _REF.match(more[1:])
        revision, _, path = (ref[1], "/", more[1 + ref.end() :]) if ref is not None else more[1:].partition("/")
        if not revision:
            raise SettingsError(f"{uri!r}: names no revision after {more[0]!r}; leave that out for the newest one")
    else:
        path = more
    return Repo(kind=kind, name=f"{organisation}/{name}", revision=unquote(revision), path=path.strip("/"))


def open_hub(uri: str, *, settings: ArtifactSettings, credentials: Credentials) -> Hub:
    """The source of an `hf:` uri, as of `registry.SCHEMES`."""
    variables = credentials.of(uri.partition(":")[0], "hf")
    token = _token(variables, credentials.home())
    bundle = next((name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if variables.get(name)), "")
    rest = Rest(
        variables.first("HF_ENDPOINT") or ENDPOINT,
        headers={"Authorization": Secret(f"Bearer {token.reveal()}")} if token else {},
        context=tls_context(ca_path=variables[bundle], setting=bundle) if bundle else None,
        timeout_seconds=settings.timeout_seconds,
        remedy=_REMEDY,
    )
    return Hub(repo_of(uri), rest=rest, has_token=bool(token))


def _token(variables: Variables, home: Path) -> Secret:
    """Who we are to the hub: a variable, or the file that `hf auth login` writes; empty: nobody."""
    token = variables.first("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    if not token:
        cache = Path(variables.first("XDG_CACHE_HOME") or home / ".cache")
        place = Path(variables.first("HF_HOME") or cache / "huggingface") / "token"
        path = Path(variables.first("HF_TOKEN_PATH") or place).expanduser()
        try:
            token = path.read_text()
        except FileNotFoundError:
            return Secret("")
        except (OSError, UnicodeDecodeError) as exc:
            raise ArtifactDenied(f"{path}: the token of the hub cannot be read: {type(exc).__name__}") from exc
    token = "".join(token.split())  # people paste it with a line feed, which no header may have
    if not token.isascii():
        raise SettingsError("HF_TOKEN: expected a token like hf_..., got other letters")
    return Secret(token)


class Hub:
    """Files of a repository at a revision: a `Source`, with parts.

    Args:
        repo: Which.
        rest: Asks the hub.
        has_token: Whether we say who we are, for messages.
    """

    ranges = True

    def __init__(self, repo: Repo, *, rest: Rest, has_token: bool) -> None:
        self._repo, self._rest, self._has_token = repo, rest, has_token
        self._shown = repo.uri(repo.revision)
        self._commit = repo.revision if _SHA.fullmatch(repo.revision) else ""
        self._digests: dict[str, str] = {}
        self._is_file = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Hub({self._shown!r}, {self._rest.origin})"

    def pin(self) -> Pinned:
        """As of Source: a commit, which names the same bytes for ever."""
        commit = self._asked()
        return Pinned(uri=self._repo.uri(commit), token=commit, version=commit[:8])

    def entries(self) -> Sequence[Entry]:
        """As of Source."""
        commit = self._asked()
        found = list(self._tree(commit, self._repo.path))
        if not found and self._repo.path:
            folder, _, name = self._repo.path.rpartition("/")
            found = [
                msgspec.structs.replace(entry, path=name)
                for entry in self._tree(commit, folder, recursive=False)
                if entry.path == name
            ]
            self._is_file = bool(found)
        if not found:
            raise ArtifactNotFound(f"{self._shown}: there are no files at commit {commit[:8]}")
        return found

    def read(self, entry: Entry, *, start: int = 0) -> Iterator[bytes | memoryview]:
        """As of Source."""
        digest = self._digests.get(entry.path, "")
        chunks = self.read_range(entry, start=start, end=-1)
        return _checked(chunks, entry, digest, self._shown) if digest and not start else chunks

    def read_range(self, entry: Entry, *, start: int, end: int) -> Iterator[bytes | memoryview]:
        """As of Ranged."""
        path = self._repo.path if self._is_file or not self._repo.path else f"{self._repo.path}/{entry.path}"
        kind = "" if self._repo.kind == "models" else f"{self._repo.kind}/"
        url = f"/{kind}{self._repo.name}/resolve/{self._asked()}/{quote(path or entry.path)}"
        # no etag: redirects lead to stores with etags of their own, and the commit names the bytes already
        return self._rest.read(url, start=start, end=end, size=entry.size)

    def close(self) -> None:
        """As of Source."""
        self._rest.close()

    def _asked(self) -> str:
        """The commit that the revision is."""
        with self._lock:
            if not self._commit:
                revision = quote(self._repo.revision, safe="")
                found = self._get(f"/api/{self._repo.kind}/{self._repo.name}/revision/{revision}").json()
                commit = str(found.get("sha", "")) if isinstance(found, dict) else ""
                if not _SHA.fullmatch(commit):
                    raise ArtifactCorrupt(f"{self._shown}: expected a commit; is {self._rest.origin} a hub?")
                self._commit = commit
            return self._commit

    def _tree(self, commit: str, path: str, *, recursive: bool = True) -> Iterator[Entry]:
        """Files below a path; none where it is a file or is not there."""
        url = f"/api/{self._repo.kind}/{self._repo.name}/tree/{commit}" + (f"/{quote(path)}" if path else "")
        url += "?recursive=true" if recursive else ""
        count = 0
        for _ in range(_MOST_PAGES):
            answer = self._rest.ask(url)
            if answer.status == 404 and answer.headers.get("x-error-code", "") == "EntryNotFound":
                return
            if answer.status != 200:
                raise self._failed(answer)
            listed = answer.json()
            if not isinstance(listed, list):
                raise ArtifactCorrupt(f"{self._shown}: expected a list of files; is {self._rest.origin} a hub?")
            for each in listed:
                if each.get("type") == "file":
                    yield self._entry(each, path)
            count += len(listed)
            following = _NEXT.search(answer.headers.get("link", ""))
            if following is None:
                return
            if count > _MOST_FILES:
                break
            url = following[1]
        raise ArtifactCorrupt(f"{self._shown}: has more than {_MOST_FILES} files; name a folder of it")

    def _entry(self, each: Mapping[str, Any], folder: str) -> Entry:
        name = str(each.get("path", "")).removeprefix(f"{folder}/" if folder else "")
        if not name or name.startswith("/") or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise ArtifactCorrupt(f"{self._shown}: {name!r} is no path of a file")
        lfs = each.get("lfs") or {}
        sha256 = str(lfs.get("oid", "")).removeprefix("sha256:")
        digest = str(each.get("oid", ""))
        if not sha256 and _SHA.fullmatch(digest):
            self._digests[name] = digest
        return Entry(path=name, size=int(lfs.get("size", each.get("size", -1))), etag=sha256 or digest, sha256=sha256)

    def _get(self, url: str) -> Answer:
        answer = self._rest.ask(url)
        if answer.status != 200:
            raise self._failed(answer)
        return answer

    def _failed(self, answer: Answer) -> ArtifactFailed:
        """The hub says 401 of what is not there, to those it does not know."""
        code = answer.headers.get("x-error-code", "")
        if code == _NO_REVISION:
            return ArtifactNotFound(f"{self._shown}: the repository has no revision {self._repo.revision!r}")
        if code == "GatedRepo":
            return ArtifactDenied(f"{self._shown}: the repository is gated. {_REMEDY}")
        if code == "RepoNotFound" or (answer.status == 401 and not self._has_token):
            rest = "" if self._has_token else ", or it is private and there is no token: set HF_TOKEN"
            return ArtifactNotFound(f"{self._shown}: {self._rest.origin} has no such repository{rest}")
        return self._rest.failed(answer, self._shown)


def _checked(
    chunks: Iterator[bytes | memoryview], entry: Entry, digest: str, shown: str
) -> Iterator[bytes | memoryview]:
    """What comes, once it is all there compared with git's digest of it."""
    if entry.size < 0:
        yield from chunks
        return
    sha1 = hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)
    for chunk in chunks:
        sha1.update(chunk)
        yield chunk
    if sha1.hexdigest() != digest:
        raise ArtifactCorrupt(f"{shown}: {entry.path} is not what the hub announced: its digest differs")
