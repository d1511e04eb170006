"""Repositories of the hub. There is no hub here: a real HTTP server answers as the hub's documentation and the client
`huggingface_hub` have it (paths, statuses, headers, redirects of LFS files to another host, pages), from a folder.
`huggingface_hub` 2.4 itself took a copy of a repository from it when it was written. What is left out: its store of chunks (Xet), which the hub hands out through the same URLs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from headrace.artifacts import credentials, hf
from headrace.artifacts.base import Pinned
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, ArtifactDenied, ArtifactNotFound, ArtifactUnreachable, SettingsError
from headrace.testing.brokers import free_port

_TOKEN = "hf_tests-token-0123456789"
_OLD, _NEW = "a" * 40, "b" * 40
_SMALL, _LARGE = b'{"model_type": "tree"}', bytes(range(256)) * 8192


class _Hub:
    """A hub with one repository, and the host of its large files.

    `commits` maps a commit to its files, `branches` a branch to its commit. `asked` lists what came.
    """

    page = 3

    def __init__(self) -> None:
        new = {"config.json": _SMALL, "onnx/model a.onnx": _LARGE, "onnx/x.txt": b"x", "a.txt": b"a", "b.txt": b"b"}
        self.commits = {_OLD: {"config.json": b"old"}, _NEW: new}
        self.branches = {"main": _NEW, "v1": _OLD, "refs/pr/1": _OLD}
        self.repo = "org/tiny-model"
        self.prefix = ""
        self.private = self.gated = False
        self.broken: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.host, self.store = self._serve(self._answer), self._serve(self._hand_out)
        self.url = f"http://127.0.0.1:{self.host.server_port}"

    def _serve(self, answer: Any) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            do_HEAD = do_GET  # noqa: N815 - http.server has it so

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def close(self) -> None:
        for server in (self.host, self.store):
            server.shutdown()
            server.server_close()

    def _answer(self, to: BaseHTTPRequestHandler) -> None:
        path, query = unquote(urlsplit(to.path).path), parse_qs(urlsplit(to.path).query)
        raw = urlsplit(to.path).path
        headers = {name.lower(): value for name, value in to.headers.items()}
        self.asked.append(("hub", to.path, headers))
        may = headers.get("authorization") == f"Bearer {_TOKEN}"
        api, tree = f"/api/models/{self.prefix}{self.repo}", f"/api/models/{self.prefix}{self.repo}/tree/"
        resolve = f"/{self.prefix}{self.repo}/resolve/"
        if "authorization" in headers and not may:
            said = "Invalid credentials in Authorization header"
            return _send(to, 401, {"error": said}, {"X-Error-Message": said})
        if not raw.startswith((f"{api}/", resolve)) or (self.private and not may):
            return _send(to, 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if raw.startswith(f"{api}/revision/"):
            revision = unquote(raw.removeprefix(f"{api}/revision/"))
            if "/" in raw.removeprefix(f"{api}/revision/") or revision not in {**self.branches, **self.commits}:
                said = f"Invalid rev id: {revision}"
                return _send(to, 404, {"error": said}, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": said})
            sha = self.branches.get(revision, revision)
            files = [{"rfilename": name} for name in self.commits[sha]]
            return _send(to, 200, {"id": self.repo, "modelId": self.repo, "sha": sha, "siblings": files})
        if raw.startswith(tree):
            sha, _, folder = path.removeprefix(tree).partition("/")
            return self._tree(to, self.commits[self.branches.get(sha, sha)], folder, query, raw)
        sha, _, name = path.removeprefix(resolve).partition("/")
        sha = self.branches.get(sha, sha)
        if self.gated:
            return _send(to, 403, {"error": "gated"}, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if name not in self.commits[sha]:
            return _send(to, 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = self.commits[sha][name]
        more = {"X-Repo-Commit": sha}
        if len(content) > 1000:
            digest = hashlib.sha256(content).hexdigest()
            where = f"http://127.0.0.1:{self.store.server_port}/{sha}/{raw.rpartition('/')[2]}?X-Signature=sesame"
            more |= {"Location": where, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            return _send(to, 302, b"Found. Redirecting", more)
        return _send(to, 200, self.broken.get(name, content), {"ETag": f'"{_blob(content)}"', **more})

    def _tree(self, to: Any, files: dict[str, bytes], folder: str, query: dict[str, list[str]], raw: str) -> None:
        inside = {name: content for name, content in files.items() if not folder or name.startswith(f"{folder}/")}
        if not inside:
            return _send(to, 404, {"error": "not there"}, {"X-Error-Code": "EntryNotFound"})
        listed: list[dict[str, Any]] = []
        folders: set[str] = set()
        for name, content in sorted(inside.items()):
            below = name.removeprefix(f"{folder}/" if folder else "")
            if "/" in below:
                parent = name[: len(name) - len(below)] + below.partition("/")[0]
                if parent not in folders:
                    folders.add(parent)
                    listed.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": parent})
                if query.get("recursive", ["false"])[0].lower() != "true":
                    continue
            entry = {"type": "file", "oid": _blob(content), "size": len(content), "path": name}
            if len(content) > 1000:
                digest = hashlib.sha256(content).hexdigest()
                entry |= {"lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}
            listed.append(entry)
        at = int(query.get("cursor", ["0"])[0])
        more = {}
        if at + self.page < len(listed):
            asked = "&".join(f"{key}={value[0]}" for key, value in query.items() if key != "cursor")
            more = {"Link": f'<{self.url}{raw}?{asked}&cursor={at + self.page}>; rel="next"'}
        return _send(to, 200, listed[at : at + self.page], more)

    def _hand_out(self, to: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in to.headers.items()}
        self.asked.append(("store", to.path, headers))
        content = next(content for content in self.commits[_NEW].values() if len(content) > 1000)
        start, end = 0, len(content)
        if "range" in headers:
            first, _, last = headers["range"].removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else end
            told = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            return _send(to, 206, content[start:end], {"ETag": '"of the store"', **told})
        return _send(to, 200, content, {"ETag": '"of the store"'})


def _send(to: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    to.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
        to.send_header(name, value)
    to.end_headers()
    if to.command != "HEAD":
        to.wfile.write(data)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[_Hub]:
    """The hub, with the usual variables set to it, and nobody's token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    hub = _Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with contextlib.closing(hub):
        yield hub


def _open(uri: str) -> hf.Hub:
    return hf.open_hub(uri, settings=ArtifactSettings(timeout_seconds=60), credentials=credentials.load())


def _pin(uri: str) -> Pinned:
    with contextlib.closing(_open(uri)) as source:
        return source.pin()


def _bytes(uri: str) -> dict[str, bytes]:
    with contextlib.closing(_open(uri)) as source:
        return {entry.path: b"".join(bytes(chunk) for chunk in source.read(entry)) for entry in source.entries()}


@pytest.mark.parametrize(
    ("uri", "repo"),
    [
        ("hf://org/repo", hf.Repo(name="org/repo")),
        ("hf://org/repo/", hf.Repo(name="org/repo")),
        ("hf://org/repo:abc", hf.Repo(name="org/repo", revision="abc")),
        ("hf://org/repo@v1.0/a/b.bin", hf.Repo(name="org/repo", revision="v1.0", path="a/b.bin")),
        ("hf://org/repo/a@b", hf.Repo(name="org/repo", path="a@b")),
        ("hf://org/repo@refs/pr/1/a", hf.Repo(name="org/repo", revision="refs/pr/1", path="a")),
        ("hf://org/repo@refs%2Fpr%2F1", hf.Repo(name="org/repo", revision="refs/pr/1")),
        ("hf://datasets/org/repo@v1/a.csv", hf.Repo(kind="datasets", name="org/repo", revision="v1", path="a.csv")),
    ],
)
def test_a_uri_is_taken_apart(uri: str, repo: hf.Repo) -> None:
    """Revisions follow `@` or `:`, paths what comes after; a uri made of the parts has the same parts."""
    assert hf.repo_of(uri) == repo
    assert hf.repo_of(repo.uri(repo.revision)) == repo


@pytest.mark.parametrize("uri", ["hf://", "hf://org", "hf://org/", "hf://../x", "hf://org/repo@", "hf://org/re po"])
def test_a_uri_of_no_repository_is_refused(uri: str) -> None:
    """A uri without organisation and repository is refused before the hub is asked."""
    with pytest.raises(SettingsError, match=r"hf://ORG/REPO|names no revision"):
        hf.repo_of(uri)


def test_a_repository_is_read_whole(hub: _Hub) -> None:
    """All files come, from all pages of the list, those of LFS from where the hub redirects to."""
    assert _bytes("hf://org/tiny-model") == hub.commits[_NEW]
    assert len([1 for where, path, _ in hub.asked if where == "hub" and "/tree/" in path]) == 2


def test_digests_and_sizes_are_told(hub: _Hub) -> None:
    """A file of LFS has its SHA-256, every file its size, and what tells it from another."""
    with contextlib.closing(_open("hf://org/tiny-model")) as source:
        found = {entry.path: entry for entry in source.entries()}
    assert found["onnx/model a.onnx"].sha256 == hashlib.sha256(_LARGE).hexdigest()
    assert found["onnx/model a.onnx"].size == len(_LARGE)
    assert (found["config.json"].sha256, found["config.json"].size) == ("", len(_SMALL))
    assert found["config.json"].etag == _blob(_SMALL)


@pytest.mark.parametrize("uri", ["hf://org/tiny-model@v1", "hf://org/tiny-model:v1", "hf://org/tiny-model@refs/pr/1"])
def test_a_revision_is_read(hub: _Hub, uri: str) -> None:
    """A branch, a tag or a pull request has the files of its commit."""
    assert _bytes(uri) == {"config.json": b"old"}


def test_a_folder_and_a_file_are_read_alone(hub: _Hub) -> None:
    """What follows the repository is read alone: a folder's files, or one file under its own name."""
    assert set(_bytes("hf://org/tiny-model/onnx")) == {"model a.onnx", "x.txt"}
    assert _bytes("hf://org/tiny-model@main/onnx/model a.onnx") == {"model a.onnx": _LARGE}
    assert _bytes(f"hf://org/tiny-model@{_NEW}/a.txt") == {"a.txt": b"a"}


def test_a_part_of_a_file_is_read(hub: _Hub) -> None:
    """Reading that begins in the middle asks the store for the rest only; a part is that part."""
    with contextlib.closing(_open("hf://org/tiny-model/onnx")) as source:
        entry = next(entry for entry in source.entries() if entry.path == "model a.onnx")
        assert b"".join(source.read(entry, start=1000)) == _LARGE[1000:]
        assert b"".join(source.read_range(entry, start=10, end=500)) == _LARGE[10:500]
    assert [headers["range"] for where, _, headers in hub.asked if where == "store"] == ["bytes=1000-", "bytes=10-499"]


def test_a_pin_is_a_commit(hub: _Hub) -> None:
    """A branch is pinned to its commit; when it moves there is another token, and the pinned uri stays what it was."""
    before = _pin("hf://org/tiny-model/onnx")
    assert before.uri == f"hf://org/tiny-model@{_NEW}/onnx"
    assert before.token == _NEW
    hub.branches["main"] = _OLD
    assert _pin("hf://org/tiny-model").token == _OLD
    assert _pin(before.uri) == before


def test_a_branch_that_moves_meanwhile_changes_nothing(hub: _Hub) -> None:
    """The files are those of the commit that the source was told first."""
    with contextlib.closing(_open("hf://org/tiny-model")) as source:
        assert source.pin().token == _NEW
        hub.branches["main"] = _OLD
        assert len(source.entries()) == 5


@pytest.mark.parametrize("how", ["variable", "file", "home"])
def test_a_token_is_for_the_hub_alone(hub: _Hub, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A token of the variable or of the file opens a private repository, and is not sent to where files are kept."""
    hub.private = True
    if how == "variable":
        monkeypatch.setenv("HF_TOKEN", f"{_TOKEN}\n")
    else:
        folder = tmp_path / (".cache/huggingface" if how == "file" else "elsewhere")
        folder.mkdir(parents=True)
        (folder / "token").write_text(f"{_TOKEN}\n")
        if how == "home":
            monkeypatch.setenv("HF_HOME", str(folder))
    assert _bytes("hf://org/tiny-model/onnx")["model a.onnx"] == _LARGE
    assert all(headers.get("authorization") == f"Bearer {_TOKEN}" for where, _, headers in hub.asked if where == "hub")
    assert not [headers for where, _, headers in hub.asked if where == "store" and "authorization" in headers]


def test_what_is_refused_is_told_apart(hub: _Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that is not there, a private one, a gated one, a wrong token, a revision and a path that are not
    there have each their cause and say what to do; no text has the token.
    """
    assert "has no such repository, or it is private" in _of(ArtifactNotFound, "hf://org/other")
    assert "no revision 'nothing'" in _of(ArtifactNotFound, "hf://org/tiny-model@nothing")
    assert "there are no files" in _of(ArtifactNotFound, "hf://org/tiny-model/nothing")
    hub.private = True
    assert "set HF_TOKEN" in _of(ArtifactNotFound, "hf://org/tiny-model")
    monkeypatch.setenv("HF_TOKEN", _TOKEN + "-wrong")
    assert "Invalid credentials" in _of(ArtifactDenied, "hf://org/tiny-model")
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    hub.gated = True
    assert "HF_TOKEN" in _of(ArtifactDenied, "hf://org/tiny-model")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    _of(ArtifactUnreachable, "hf://org/tiny-model")


def _of(kind: type[Exception], uri: str) -> str:
    """What is said when all of a uri is read, and fails for this cause."""
    with pytest.raises(kind) as caught:
        _bytes(uri)
    assert type(caught.value) is kind
    assert _TOKEN not in repr(caught.value)
    return str(caught.value)


def test_other_bytes_than_announced_are_corrupt(hub: _Hub) -> None:
    """A file of the same length with other bytes is not taken for the one that the commit names."""
    hub.broken["config.json"] = _SMALL[:-1] + b"]"
    assert "its digest differs" in _of(ArtifactCorrupt, "hf://org/tiny-model")
    hub.broken["config.json"] = _SMALL + b" "
    assert "was replaced" in _of(ArtifactCorrupt, "hf://org/tiny-model")


def test_a_path_that_leads_out_is_corrupt(hub: _Hub) -> None:
    """A list of files with `..` in a name is not taken."""
    hub.commits[_NEW]["onnx/../../evil"] = b"evil"
    assert "is no path of a file" in _of(ArtifactCorrupt, "hf://org/tiny-model")
