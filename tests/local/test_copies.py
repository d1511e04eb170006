"""Copies of what a server serves from stores: which of them the cache keeps, and which it may remove."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import msgspec
import pytest
from sklearn.linear_model import LinearRegression

import headrace
from headrace.artifacts import cache
from headrace.artifacts.settings import ArtifactSettings
from headrace.control.resources import Metadata, Model, Resource
from headrace.errors import ArtifactUnreachable
from headrace.local import copies as copies_
from headrace.local.copies import Copies, Follower
from headrace.serving.models import State


class Rows:
    """A repository that serves whatever a link leads to, unless it is told not to."""

    def __init__(self):
        self.row = type("Row", (), {"name": "m", "state": State.READY, "reason": ""})()
        self.refuses = b"\0"

    async def reload_changed(self):
        damaged = self.refuses in self.link.path.read_bytes()
        places = f"{self.link.path}, {self.link.path.resolve()}"
        self.row.reason = f"reload failed: {places}: damaged" if damaged else ""

    def at(self, path):
        return [self.row]


class Declared:
    """A control plane whose store is away at the first looks."""

    def __init__(self, uri):
        self.away, self.resolved = 2, asyncio.Queue()
        self.model = Resource(kind="Model", metadata=Metadata(name="m"), spec=Model(uri=uri, follow_seconds=60))

    def get(self, kind, name=""):
        self.away -= 1
        if self.away >= 0:
            raise RuntimeError("the store is away")
        return [self.model]

    async def watch(self, after):
        return await asyncio.Event().wait()

    async def resolve(self, name, resolved):
        self.resolved.put_nowait((name, resolved))


@pytest.fixture
def web():
    """A file on a server; its bytes can be set."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.answers -= 1
            if self.server.answers < 0:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("etag", f'"{self.server.content.hex()}"')
            self.send_header("content-length", str(len(self.server.content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(self.server.content)

        do_HEAD = do_GET  # noqa: N815 - its own name

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.answers = b"v0", 1 << 30
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.uri = f"http://127.0.0.1:{server.server_address[1]}/model.bin"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def held(folder):
    """Copies of a cache that this process keeps."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(each.readlink().name)
    return [tree for tree in folder.glob("*/trees/*") if f"{tree.name}.use" in found]


@pytest.fixture
def followed(web, tmp_path):
    """A uri that is served, its link, and who follows it."""
    copies = Copies(ArtifactSettings(cache_dir=str(tmp_path), retries=0))
    copies.open([web.uri])
    (link,) = copies.links
    repository = Rows()
    repository.link = link
    yield link, Follower(copies, repository, None)
    copies.close()


async def test_a_uri_that_moves_keeps_one_copy(web, tmp_path):
    """However often a uri moves, to what can be served and to what cannot, only the copy that is served is held: the
    cache removes the others, and no file stays open.
    """
    copies = Copies(ArtifactSettings(cache_dir=str(tmp_path), follow_seconds=1, max_cache_bytes=1))
    copies.open([web.uri])
    repository = Rows()
    (link,) = (repository.link,) = copies.links
    follower = Follower(copies, repository, None)
    for number in range(1, 9):
        web.content = f"v{number}".encode() + (b"\0" if number % 3 == 0 else b"")
        assert await follower.look(link) == (number % 3 != 0)
        assert len(held(tmp_path)) == 1
    assert link.path.read_bytes() == b"v8"
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    cache.prune(copies.settings)
    assert [path.read_bytes() for path in tmp_path.glob("*/trees/*/model.bin")] == [b"v8"]
    copies.close()
    assert held(tmp_path) == []


async def test_a_store_that_breaks_off_changes_nothing(web, followed):
    """A uri that was seen to move, and cannot be fetched then, stays what it was, and the next look takes it."""
    link, follower = followed
    before = link.fetched
    for answers in (1, 2):  # enough to be asked what is there, and not to send it
        web.content, web.answers = b"v1", answers
        assert not await follower.look(link)
        assert link.fetched is before
        assert link.path.read_bytes() == b"v0"
    web.answers = 1 << 30
    assert await follower.look(link)
    assert link.path.read_bytes() == b"v1"


async def test_following_goes_on_when_what_is_declared_cannot_be_told(web, tmp_path, caplog, monkeypatch):
    """Where the resources cannot be told, it is logged, and what they declare is followed once they can."""
    monkeypatch.setattr(copies_, "_AGAIN_SECONDS", 0.001)
    copies, control = Copies(ArtifactSettings(cache_dir=str(tmp_path))), Declared(web.uri)
    following = asyncio.create_task(Follower(copies, Rows(), control).run())
    async with asyncio.timeout(60):
        name, resolved = await control.resolved.get()
    following.cancel()
    await asyncio.wait({following})
    assert (name, resolved.uri) == ("m", web.uri)
    assert caplog.text.count("what is to be followed cannot be told") == 2
    copies.close()


@pytest.mark.parametrize("answers", [0, 1, 1 << 30], ids=["not asked", "not fetched", "not served"])
async def test_what_is_told_has_no_secret_and_no_path(web, tmp_path, caplog, answers):
    """Whatever becomes of a uri that moved, logs and the row say its name: no password, signature or path of here."""
    copies = Copies(ArtifactSettings(cache_dir=str(tmp_path), retries=0))
    copies.open([web.uri.replace("//", "//me:secret-of-tests@") + "?sig=secret-of-tests"])
    repository = Rows()
    (repository.link,) = copies.links
    told = []
    follower = Follower(copies, repository, None, rolled_back=lambda *each: told.extend(each))
    web.content, web.answers = b"\0", answers
    assert not await follower.look(repository.link)
    copies.close()
    said = f"{caplog.text} {repository.row.reason} {told}"
    assert web.uri in said
    assert "secret-of-tests" not in said
    assert str(tmp_path) not in f"{repository.row.reason} {told}"


def test_bytes_that_are_named_are_not_those_of_before(web, tmp_path):
    """While a store is away, the last copy stands in for a uri, and never for what the uri stood for at another time."""
    copies = Copies(ArtifactSettings(cache_dir=str(tmp_path), retries=0))
    first = copies.fetch(web.uri)
    web.answers = 0
    assert copies.path_of(web.uri) == copies.path_of(web.uri, first.pinned) == Path(first.path)
    with pytest.raises(ArtifactUnreachable):
        copies.path_of(web.uri, msgspec.structs.replace(first.pinned, token="another"))
    copies.close()


def test_links_of_a_killed_process_go_with_the_next_start(web, tmp_path):
    """What a server led to its copies by is in the cache, stays while the server runs, and goes after kill -9."""
    program = (
        "import sys; from headrace.artifacts.settings import ArtifactSettings; from headrace.local.copies import Copies\n"
        "copies = Copies(ArtifactSettings(cache_dir=sys.argv[1])); print(copies.open([sys.argv[2]])[0], flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path), web.uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            theirs = Path(process.stdout.readline().strip())
            Copies(ArtifactSettings(cache_dir=str(tmp_path))).open([web.uri])
            assert theirs.read_bytes() == b"v0"
            assert theirs.is_relative_to(tmp_path)
        finally:
            process.kill()
    last = Copies(ArtifactSettings(cache_dir=str(tmp_path)))
    (path,) = last.open([web.uri])
    assert not theirs.parents[1].exists()
    assert Path(path).read_bytes() == b"v0"
    last.close()
    assert not Path(path).parents[1].exists()


def test_a_server_in_a_notebook_leaves_nothing(web, tmp_path):
    """After `stop` no thread of the server is left, and its copy may leave the cache."""
    pickled = io.BytesIO()
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0]), pickled)
    web.content, web.uri = pickled.getvalue(), web.uri.replace("model.bin", "scale.joblib")
    before = set(threading.enumerate())
    server = headrace.serve(web.uri, settings={"artifacts.cache_dir": str(tmp_path), "models.optimize": "off"})
    assert server.client.predict([[3.0]], model="scale").tolist() == pytest.approx([6.0])
    assert len(held(tmp_path)) == 1
    server.stop()
    assert held(tmp_path) == []
    assert {
        thread.name for thread in set(threading.enumerate()) - before if "process_request" not in thread.name
    } == set()


def test_a_copy_that_is_asked_for_by_name_stays(web, tmp_path):
    """A copy that a resource was given stays when a link to the same bytes moves on."""
    copies = Copies(ArtifactSettings(cache_dir=str(tmp_path)))
    path = copies.path_of(web.uri)
    copies.open([web.uri])
    copies.links.clear()
    copies.let_go(str(path))
    assert len(held(tmp_path)) == 1
    copies.close()
    assert held(tmp_path) == []
