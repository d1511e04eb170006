"""A server that speaks Azure's Blob service as far as objects need it, after its reference (versioning 2021-12-02): put,
blocks, ranges, conditions, flat listing in pages; requests are signed by SharedKey, or bear a signature.
"""

from __future__ import annotations

import base64
import email.utils
import hmac
import http.server
import itertools
import os
import re
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

import pytest

_SIGNED = ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"]
_SIGNED += ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"]
_PAGE = 3


class Azure(http.server.ThreadingHTTPServer):
    """Blobs of one account. `refused` counts requests that nobody signed."""

    daemon_threads = True
    account, key, sas = "tests", base64.b64encode(b"key of tests").decode(), "sv=2021&sig=signature-of-tests"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.blobs, self.blocks, self.refused = {}, {}, 0
        self.turn, self.numbers = threading.Lock(), itertools.count(1)

    def container(self):
        """A new container, by name."""
        return f"c-{next(self.numbers)}"

    def variables(self):
        """The usual ones that let clients in."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCESS_KEY": self.key,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, query = self.path.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        with self.server.turn:
            if not self.is_signed(path):
                self.server.refused += 1
                self.answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
                return
            _, container, *rest = urllib.parse.unquote(path).split("/", 2)
            name = (container, rest[0] if rest else "")
            {"PUT": self.put, "POST": self.batch}.get(self.command, self.get)(name, body)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - their own names

    def is_signed(self, path):
        """See "Authorize with Shared Key": the signature over verb, headers and resource."""
        if "sig" in self.query:
            return dict(urllib.parse.parse_qsl(self.server.sas)).items() <= self.query.items()
        values = [self.headers.get(name, "") for name in _SIGNED]
        values[2] = values[2] if values[2] != "0" else ""
        own = sorted((name.lower(), value.strip()) for name, value in self.headers.items())
        lines = [self.command, *values, *(f"{name}:{value}" for name, value in own if name.startswith("x-ms-"))]
        asked = [f"{name.lower()}:{value}" for name, value in sorted(self.query.items())]
        text = "\n".join([*lines, "\n".join([f"/{self.server.account}{path}", *asked])])
        digest = hmac.digest(base64.b64decode(self.server.key), text.encode(), "sha256")
        return self.headers.get("authorization") == f"SharedKey tests:{base64.b64encode(digest).decode()}"

    def put(self, name, body):
        if self.query.get("comp") == "block":
            self.server.blocks[name, self.query["blockid"]] = body
            self.answer(201)
            return
        there = self.server.blobs.get(name)
        wanted = self.headers.get("if-match", "")
        if (self.headers.get("if-none-match") == "*" and there) or (wanted and (not there or there[1] != wanted)):
            self.answer(409 if not wanted else 412, b"<Error><Code>BlobAlreadyExists</Code></Error>")
            return
        if self.query.get("comp") == "blocklist":
            body = b"".join(self.server.blocks.pop((name, each.text)) for each in ET.fromstring(body))
        etag = f'"0x{next(self.server.numbers):X}"'
        self.server.blobs[name] = (body, etag)
        self.answer(201, headers={"etag": etag})

    def batch(self, _, body):
        """See "Blob Batch": deletions, each answered in a part of its own."""
        answers = []
        for number, each in enumerate(re.findall(rb"\r\nDELETE (\S+) ", body)):
            _, container, path = urllib.parse.unquote(each.decode()).split("/", 2)
            told = "202 Accepted" if self.server.blobs.pop((container, path), None) else "404 BlobNotFound"
            head = f"Content-Type: application/http\r\nContent-ID: {number}"
            answers.append(f"--batch\r\n{head}\r\n\r\nHTTP/1.1 {told}\r\nContent-Length: 0\r\n\r\n\r\n")
        text = "".join([*answers, "--batch--\r\n"])
        self.answer(202, text.encode(), {"content-type": "multipart/mixed; boundary=batch"})

    def get(self, name, _):
        if self.query.get("comp") == "list":
            self.list(name[0])
            return
        if name not in self.server.blobs:
            self.answer(404, b"<Error><Code>BlobNotFound</Code></Error>")
            return
        body, etag = self.server.blobs[name]
        headers, status = {"etag": etag}, 200
        if asked := self.headers.get("range") or self.headers.get("x-ms-range"):
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last) + 1 if last else len(body), len(body))
            headers["content-range"] = f"bytes {first}-{end - 1}/{len(body)}"
            body, status = body[int(first) : end], 206
        self.answer(status, body, headers)

    def list(self, container):
        prefix, marker = self.query.get("prefix", ""), self.query.get("marker", "")
        found = sorted(
            path for at, path in self.server.blobs if at == container and path.startswith(prefix) and path >= marker
        )
        rows = "".join(
            f"<Blob><Name>{escape(path)}</Name><Properties><Last-Modified>{email.utils.formatdate(usegmt=True)}"
            f"</Last-Modified><Etag>{etag[1:-1]}</Etag><Content-Length>{len(body)}</Content-Length>"
            f"<Content-Type>x/y</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for path in found[:_PAGE]
            for body, etag in [self.server.blobs[container, path]]
        )
        following = escape(found[_PAGE]) if len(found) > _PAGE else ""
        text = f"<EnumerationResults><Blobs>{rows}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
        self.answer(200, text.encode())

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in {"last-modified": email.utils.formatdate(usegmt=True), **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="session")
def azure_server():
    server = Azure()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def azure(azure_server, monkeypatch):
    """The server, with the usual variables set to it."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in azure_server.variables().items():
        monkeypatch.setenv(name, value)
    return azure_server
