"""Copies of what a server serves from stores: which of them the cache keeps, and which it may remove."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
from pathlib import Path

import pytest

from headrace.artifacts import cache
from headrace.artifacts.settings import ArtifactSettings
from headrace.local.copies import Copies, Follower
from headrace.serving.models import State


class Rows:
    """A repository that serves whatever a link leads to, unless it is told not to."""

    def __init__(self):
        self.row = type("Row", (), {"name": "m", "state": State.READY, "reason": ""})()
        self.refuses = b"\0"

    async def reload_changed(self):
        damaged = self.refuses in self.link.path.read_bytes()
        self.row.reason = "reload failed: damaged" if damaged else ""

    def at(self, path):
        return [self.row]


@pytest.fixture
def web():
    """A file on a server; its bytes can be set."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
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
    server.content = b"v0"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.uri = f"http://127.0.0.1:{server.server_address[1]}/model.bin"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def held(folder):
    """Files of a cache that this process has open for as long as it uses a copy."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(each.readlink())
    return [path for path in found if path.suffix == ".use" and path.is_relative_to(folder)]


async def test_a_uri_that_moves_keeps_one_copy(web, tmp_path):
    """However often a uri moves, to what can be served and to what cannot, only the copy that is served is held: the
    cache removes the others, and no file stays open.
    """
    copies = Copies(ArtifactSettings(cache_dir=str(tmp_path), follow_seconds=1, max_cache_bytes=1))
    copies.open([web.uri])
    (link,) = copies.links
    repository = Rows()
    repository.link = link
    follower = Follower(copies, repository, None)
    for number in range(1, 9):
        web.content = f"v{number}".encode() + (b"\0" if number % 3 == 0 else b"")
        assert await follower.look(link) == (number % 3 != 0)
        assert len(held(tmp_path)) == 1
    assert link.path.read_bytes() == b"v8"
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    cache.prune(copies.settings)
    assert [path.read_bytes() for path in Path(tmp_path).rglob("model.bin")] == [b"v8"]
    copies.close()
    assert held(tmp_path) == []


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
