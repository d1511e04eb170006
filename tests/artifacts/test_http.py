"""Files behind URLs, from a real server: with and without ranges, that breaks off, lies, redirects, refuses; and a
process killed in the middle of a download, counting bytes that the server sent.
"""

from __future__ import annotations

import dataclasses
import http.server
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace.artifacts import fetch, objects
from headrace.artifacts.credentials import load
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactDenied,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    SettingsError,
)

DATA = random.Random(7).randbytes(3_000_001)
LARGE = random.Random(8).randbytes((50 << 20) + 5)


@dataclasses.dataclass
class Page:
    """What stands at a path, and how it is sent."""

    body: bytes = b""
    etag: str = '"1"'
    ranges: bool = True
    status: int = 200
    headers: dict = dataclasses.field(default_factory=dict)
    break_after: list = dataclasses.field(default_factory=list)
    """Bytes after which each of the next answers breaks off; 0: before its head."""
    failures: list = dataclasses.field(default_factory=list)
    """Statuses of the next answers."""
    announce: int = -1
    """A wrong length."""
    hold_after: int = -1
    """Bytes after which an answer waits for `release`."""
    hold_from: int = -1
    """Where ranges begin that wait for `release`."""
    needs: tuple = ()
    """A header and its value, without which 401."""


class WebServer:
    """Pages by path. `sent` counts bytes of bodies, `asked` has `(path, range)`."""

    def __init__(self):
        self.pages = {}
        self.asked = []
        self.sent = 0
        self.release = threading.Event()
        self.held = threading.Event()
        self._counting = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                outer.answer(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler):
        path = handler.path.partition("?")[0]
        asked = handler.headers.get("range", "")
        with self._counting:
            self.asked.append((handler.path, asked))
        page = self.pages.get(path)
        if page is None:
            return self.empty(handler, 404)
        if page.failures:
            return self.empty(handler, page.failures.pop(0))
        if page.needs and handler.headers.get(page.needs[0]) != page.needs[1]:
            return self.empty(handler, 401)
        if page.status in {301, 302, 307}:
            return self.empty(handler, page.status, page.headers)
        body, status, extra = page.body, page.status, {}
        if asked and page.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(body), len(body))
            if start >= len(body):
                return self.empty(handler, 416, {"content-range": f"bytes */{len(body)}"})
            extra["content-range"] = f"bytes {start}-{end - 1}/{len(body)}"
            body, status = body[start:end], 206
        probe = asked == "bytes=0-0" and status == 206
        cut = page.break_after.pop(0) if page.break_after and not probe else -1
        if cut == 0:
            handler.close_connection = True
            return None
        handler.send_response(status)
        for name, value in {"etag": page.etag, **extra, **page.headers}.items():
            if value:
                handler.send_header(name, value)
        handler.send_header("content-length", str(page.announce if page.announce >= 0 else len(body)))
        handler.end_headers()
        hold = page.hold_after if not probe else -1
        if (
            page.hold_from >= 0
            and status == 206
            and int(extra["content-range"][6:].partition("-")[0]) >= page.hold_from
        ):
            hold = 0
        for at in range(0, len(body), 65536):
            if 0 <= cut <= at:
                handler.close_connection = True
                break
            if 0 <= hold <= at:
                self.held.set()
                self.release.wait(60)
            piece = body[at : at + 65536]
            handler.wfile.write(piece)
            with self._counting:
                self.sent += len(piece)
        if page.announce >= 0:
            handler.close_connection = True
        return None

    def empty(self, handler, status, headers=None):
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("content-length", "0")
        handler.end_headers()


@pytest.fixture
def web():
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def settings(tmp_path):
    return ArtifactSettings(cache_dir=str(tmp_path / "cache"), retries=2, timeout_seconds=10, parallel=4)


def bytes_of(fetched):
    return Path(fetched.path).read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_comes_whole_and_once(web, settings, ranges):
    """A URL is a file of its last part, from servers with and without ranges, and is asked for its bytes once."""
    web.pages["/models/iris%20a.onnx"] = Page(DATA, ranges=ranges)
    url = f"{web.url}/models/iris%20a.onnx"
    first = fetch.fetch(url, settings=settings)
    assert bytes_of(first) == DATA
    assert Path(first.path).name == "iris-a.onnx"
    sent = web.sent
    assert fetch.fetch(url, settings=settings).downloaded_bytes == 0
    assert web.sent - sent <= (1 if ranges else len(DATA))


@pytest.mark.parametrize("ranges", [True, False])
def test_what_breaks_off_is_continued(web, settings, ranges):
    """Connections that break off in the middle, and before the answer, cost further tries and no byte."""
    web.pages["/m"] = Page(DATA, ranges=ranges, break_after=[1_000_000, 0, 1_900_000] if ranges else [1_000_000])
    assert bytes_of(fetch.fetch(f"{web.url}/m", settings=settings)) == DATA


def test_parts_that_break_off_are_continued_where_they_were(web, settings):
    """Of a large file several parts come at once; one that breaks off goes on from its last byte."""
    web.pages["/m"] = Page(LARGE, break_after=[5_000_000, 7_000_000, 100_000])
    fetched = fetch.fetch(f"{web.url}/m", settings=settings)
    assert bytes_of(fetched) == LARGE
    assert web.sent < len(LARGE) + (4 << 20)
    assert len({asked for _, asked in web.asked}) >= 5


def test_overload_heals_and_refusal_does_not(web, settings):
    """503 and 429 are asked again, 401, 403 and 404 never."""
    web.pages["/m"] = Page(DATA, failures=[503, 429])
    assert bytes_of(fetch.fetch(f"{web.url}/m", settings=settings)) == DATA
    for status, error in ((401, ArtifactDenied), (403, ArtifactDenied), (404, ArtifactNotFound)):
        web.pages["/n"] = Page(DATA, failures=[status] * 10)
        web.asked.clear()
        with pytest.raises(error, match=str(status)):
            fetch.fetch(f"{web.url}/n", settings=settings)
        assert len(web.asked) == 1
    web.pages["/o"] = Page(DATA, failures=[500] * 50)
    web.asked.clear()
    with pytest.raises(ArtifactUnreachable, match="500"):
        fetch.fetch(f"{web.url}/o", settings=settings)
    assert len(web.asked) == settings.retries + 1


def test_a_wrong_length_is_no_model(web, settings):
    """A server that announces more than it sends gives no model, however often it is asked."""
    web.pages["/m"] = Page(b"1" * 1000, ranges=False, announce=2000, etag="")
    with pytest.raises(ArtifactFailed, match="broke off after 1000 of 2000"):
        fetch.fetch(f"{web.url}/m", settings=settings)
    assert not list((Path(settings.cache_dir) / "1" / "trees").iterdir())


def test_redirects_are_followed_and_secrets_stay(web, settings):
    """A redirect is followed; user, password and query of the URL are sent, and stand in no error."""
    import base64

    web.pages["/m"] = Page(status=302, headers={"location": f"{web.url}/there"})
    web.pages["/there"] = Page(DATA)
    assert bytes_of(fetch.fetch(f"{web.url}/m", settings=settings)) == DATA
    basic = base64.b64encode(b"me:pass-of-tests").decode()
    web.pages["/p"] = Page(DATA, needs=("authorization", f"Basic {basic}"))
    url = web.url.replace("//", "//me:pass-of-tests@")
    fetched = fetch.fetch(f"{url}/p?sig=signature-of-tests", settings=settings)
    assert bytes_of(fetched) == DATA
    assert ("/p?sig=signature-of-tests", "") in {(path, "") for path, _ in web.asked}
    assert "of-tests" not in repr(fetched)
    for path, error in (("q", ArtifactNotFound), ("p", ArtifactDenied)):
        wrong = web.url.replace("//", "//you:pass-of-tests@")
        with pytest.raises(error) as caught:
            fetch.fetch(f"{wrong}/{path}?sig=signature-of-tests", settings=settings)
        assert "of-tests" not in f"{caught.value} {caught.value.__cause__} {basic in str(caught.value)}"
    for file in Path(settings.cache_dir).rglob("manifest"):
        assert b"of-tests" not in file.read_bytes()


def test_headers_of_a_host(web, settings):
    """KServe's variable of headers for a host is sent to that host; one that is no JSON object is said by name."""
    web.pages["/m"] = Page(DATA, needs=("x-key", "key-of-tests"))
    known = load(environ={"127.0.0.1-headers": '{"x-key": "key-of-tests"}'})
    assert bytes_of(fetch.fetch(f"{web.url}/m", settings=settings, credentials=known)) == DATA
    with pytest.raises(ArtifactDenied, match=r"127\.0\.0\.1-headers"):
        fetch.fetch(f"{web.url}/m", settings=settings, credentials=load(environ={}))
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1-headers") as caught:
        fetch.pin(f"{web.url}/m", settings=settings, credentials=load(environ={"127.0.0.1-headers": '{"key-of-tests'}))
    assert "key-of-tests" not in str(caught.value)


def test_a_replaced_file_is_said_and_another_one_is_fetched(web, settings):
    """A file that is replaced between two parts is an error; afterwards the new one is fetched, whole."""
    web.pages["/m"] = Page(LARGE, hold_after=4 << 20)
    failed = []
    in_turn = dataclasses.replace(settings, parallel=1)  # so that a part is asked for after the file was replaced

    def one():
        try:
            fetch.fetch(f"{web.url}/m", settings=in_turn)
        except ArtifactFailed as exc:
            failed.append(exc)

    thread = threading.Thread(target=one)
    thread.start()
    assert web.held.wait(30)
    new = LARGE[::-1]
    web.pages["/m"] = Page(new, etag='"2"')
    web.release.set()
    thread.join(60)
    assert [type(exc) for exc in failed] == [ArtifactCorrupt]
    assert bytes_of(fetch.fetch(f"{web.url}/m", settings=settings)) == new


def test_a_size_limit_holds_where_no_size_is_announced(settings):
    """A source that does not say how much it has is stopped at the limit."""
    from headrace.artifacts.base import Entry, Pinned

    class Endless:
        def pin(self):
            return Pinned(uri="x", token="1")

        def entries(self):
            return [Entry(path="m")]

        def read(self, entry, *, start=0):
            while True:
                yield b"1" * 1000

    small = dataclasses.replace(settings, max_bytes=50_000)
    with pytest.raises(ArtifactFailed, match=r"artifacts\.max_bytes"):
        fetch._Fetch("s3://b/x", Endless(), small, None, threading.Event()).run(None)


@pytest.mark.parametrize("ranges", [True, False], ids=["in parts", "straight"])
def test_a_killed_download_is_continued(web, settings, ranges):
    """After kill -9 in the middle, what had come is not asked for again, and the file is the right one."""
    web.pages["/m"] = Page(LARGE, hold_after=4 << 20) if ranges else Page(LARGE, hold_after=30 << 20)
    page = web.pages["/m"]
    page.ranges = True
    program = (
        "import sys; from headrace.artifacts import fetch, http; from headrace.artifacts.settings import ArtifactSettings\n"
        "if sys.argv[3] == 'False': http.WebFile.ranges = False\n"
        "fetch.fetch(sys.argv[1], settings=ArtifactSettings(cache_dir=sys.argv[2], parallel=2))"
    )
    command = [sys.executable, "-c", program, f"{web.url}/m", settings.cache_dir, str(ranges)]
    partial = Path(settings.cache_dir) / "1" / "partial"
    with subprocess.Popen(command) as process:
        try:
            assert web.held.wait(30)
            if not ranges:  # it has read what was sent once the file has nearly as much
                while sum(file.stat().st_size for file in partial.iterdir()) < 20 << 20:
                    assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
    assert not list((Path(settings.cache_dir) / "1" / "trees").iterdir())
    web.release.set()
    page.hold_after = -1
    web.asked.clear()
    if ranges:  # two parts were half there; the next run goes on in them, or has them anew, and no other one twice
        fetched = fetch.fetch(f"{web.url}/m", settings=settings)
        assert bytes_of(fetched) == LARGE
        return
    from headrace.artifacts import http

    before = web.sent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.WebFile, "ranges", False)
        fetched = fetch.fetch(f"{web.url}/m", settings=settings)
    assert bytes_of(fetched) == LARGE
    assert fetched.downloaded_bytes <= len(LARGE) - (20 << 20)
    assert web.sent - before <= len(LARGE) - (20 << 20) + 65536


def test_parts_that_were_there_are_not_asked_again(web, settings):
    """After kill -9, parts of a large file that were whole are not asked for by the next run."""
    page = web.pages["/m"] = Page(LARGE, hold_from=32 << 20)
    program = (
        "import sys; from headrace.artifacts import fetch; from headrace.artifacts.settings import ArtifactSettings\n"
        "fetch.fetch(sys.argv[1], settings=ArtifactSettings(cache_dir=sys.argv[2], parallel=1))"
    )
    with subprocess.Popen([sys.executable, "-c", program, f"{web.url}/m", settings.cache_dir]) as process:
        try:
            assert web.held.wait(60)  # the parts before it are whole
        finally:
            process.kill()
    page.hold_from = -1
    web.release.set()
    fetched = fetch.fetch(f"{web.url}/m", settings=settings)
    assert bytes_of(fetched) == LARGE
    assert fetched.downloaded_bytes <= len(LARGE) - (32 << 20)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_url_as_objects(web, ranges):
    """A URL is one object of an empty path: read from anywhere, by lines, and never written."""
    web.pages["/rows.csv"] = Page(DATA, ranges=ranges)
    [info] = objects.expand(f"{web.url}/rows.csv")
    assert (info.path, info.size) == ("", len(DATA))
    store = objects.open_objects(info.uri)
    with store.open("") as file:
        file.seek(1_000_000)
        assert file.read(10) == DATA[1_000_000:1_000_010]
        file.seek(0)
        assert file.read() == DATA
    assert store.read("") == DATA
    with pytest.raises(ArtifactFailed, match="read only"):
        store.put("", b"")
    with pytest.raises(ArtifactNotFound, match="nothing is below it"):
        store.head("x")
    store.close()


def test_a_url_that_cannot_be_reached(settings):
    """A server that is not there is unreachable, by name."""
    with pytest.raises(ArtifactUnreachable, match=r"127\.0\.0\.1:1"):
        fetch.fetch("http://127.0.0.1:1/m", settings=settings)


def test_an_archive_behind_a_url(web, settings, tmp_path):
    """An archive behind a URL is unpacked, by the name that its server gives it too."""
    import tarfile

    (tmp_path / "f").write_bytes(b"1")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(tmp_path / "f", "model/f")
    body = (tmp_path / "a.tgz").read_bytes()
    web.pages["/download"] = Page(body, headers={"content-disposition": 'attachment; filename="iris.tgz"'})
    fetched = fetch.fetch(f"{web.url}/download?id=3", settings=settings)
    assert Path(fetched.path).name == "iris"
    assert (Path(fetched.path) / "model" / "f").read_bytes() == b"1"
    assert [file.name for file in Path(fetched.path).iterdir()] == ["model"]
