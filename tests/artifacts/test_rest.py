"""HTTP as registries speak it, against real sockets. What `http` uris need of it (ranges, resuming, redirects) is tested
in `test_http`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.artifacts import rest
from headrace.artifacts.secrets import Secret
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactDenied,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    SettingsError,
)

Answer = Callable[[BaseHTTPRequestHandler], tuple[int, bytes, dict[str, str]]]


class _Server:
    """Answers with what a function says.

    Args:
        answer: Status, body and headers of a request.
        tls: How TLS is spoken; None: it is not.
    """

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server.connections += 1
                super().setup()

            def do_GET(self) -> None:
                server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body, headers = answer(self)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_CONNECT = do_GET  # noqa: N815 - http.server has it so

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> Any:
                connection, address = super().get_request()
                return (tls.wrap_socket(connection, server_side=True) if tls else connection), address

            def handle_error(self, *_: Any) -> None:
                """Clients that leave are what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def _served(answer: Answer, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[tuple[_Server, rest.Rest]]:
    with contextlib.closing(_Server(answer, tls)) as server:
        asked = rest.Rest(server.url, timeout_seconds=10.0, **options)
        with contextlib.closing(asked):
            yield server, asked


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (400, ArtifactFailed),
        (401, ArtifactDenied),
        (403, ArtifactDenied),
        (404, ArtifactNotFound),
        (410, ArtifactNotFound),
        (408, ArtifactUnreachable),
        (429, ArtifactUnreachable),
        (500, ArtifactUnreachable),
        (503, ArtifactUnreachable),
    ],
)
def test_a_status_is_a_cause(status: int, cause: type[Exception]) -> None:
    """Every status is one cause, with what the server says of it; only those that may heal are temporary."""
    with _served(lambda _: (status, b'{"message": "so it is"}', {}), remedy="Ask Anna") as (_, asked):
        with pytest.raises(cause, match="so it is") as caught:
            list(asked.read("/file"))
        assert type(caught.value) is cause
        assert ("Ask Anna" in str(caught.value)) == (cause is ArtifactDenied)
        assert asked.ask("/file").status == status


def test_a_connection_is_kept() -> None:
    """Questions that follow each other use one connection, JSON and files, redirects and errors alike."""

    def answer(to: BaseHTTPRequestHandler) -> tuple[int, bytes, dict[str, str]]:
        if to.path == "/moved":
            return 302, b"moved", {"Location": "/file"}
        return (404, b"{}", {}) if to.path == "/none" else (200, b"0123456789", {})

    with _served(answer) as (server, asked):
        for _ in range(3):
            assert asked.ask("/json").body == b"0123456789"
            assert b"".join(asked.read("/moved")) == b"0123456789"
            assert asked.ask("/none").status == 404
            assert asked.head("/file").size == 10
        assert server.connections == 1


def test_a_connection_that_was_closed_while_idle_is_made_anew() -> None:
    """A server that closed a kept connection is asked once more on a new one, and nobody notices."""
    with _served(lambda _: (200, b"{}", {})) as (server, asked):
        assert asked.ask("/").json() == {}
        for idle in asked._idle.values():
            for connection in idle:
                connection.sock.shutdown(2)  # as if the other side had gone
        assert asked.ask("/").json() == {}
        assert server.connections == 2


def test_a_reader_that_leaves_early_leaves_nothing_behind() -> None:
    """Whoever stops in the middle of a file does not leave its rest to the next question."""
    with _served(lambda to: (200, b"x" * (4 << 20) if to.path == "/file" else b'"fine"', {})) as (_, asked):
        chunks = asked.read("/file")
        next(chunks)
        chunks.close()
        assert asked.ask("/json").json() == "fine"


def test_fewer_bytes_than_announced_are_unreachable() -> None:
    """An answer that breaks off, of JSON or of a file, is a cause that heals, never a short file."""
    with _served(lambda _: (200, b"0123", {"Content-Length": "10", "Connection": "close"})) as (_, asked):
        with pytest.raises(ArtifactUnreachable, match=r"broke off|broken off"):
            list(asked.read("/file"))
        with pytest.raises(ArtifactUnreachable, match=r"broke off|broken off"):
            asked.ask("/json")


def test_a_server_that_says_nothing_is_unreachable() -> None:
    """Without a byte for the time that is given, the wait ends, and the text says how long it was."""
    leave = threading.Event()

    def answer(_: BaseHTTPRequestHandler) -> tuple[int, bytes, dict[str, str]]:
        leave.wait(30)
        return 200, b"", {}

    with contextlib.closing(_Server(answer)) as server:
        asked = rest.Rest(server.url, timeout_seconds=0.2)
        with pytest.raises(ArtifactUnreachable, match=r"no byte came for 0\.2 s"):
            asked.ask("/")
        leave.set()
        asked.close()


def test_what_is_no_json_is_corrupt() -> None:
    """A page where JSON was expected is told as such: the address may be of something else."""
    with _served(lambda _: (200, b"<html>", {"Content-Type": "text/html"})) as (_, asked):
        answer = asked.ask("/")
    with pytest.raises(ArtifactCorrupt, match="expected JSON, got 'text/html'"):
        answer.json()


def test_redirects_that_do_not_end_are_corrupt() -> None:
    """A server that redirects for ever is left."""
    with (
        _served(lambda to: (302, b"", {"Location": to.path + "x"})) as (_, asked),
        pytest.raises(ArtifactCorrupt, match="redirects more than 8 times"),
    ):
        asked.ask("/")


def test_no_text_has_a_secret() -> None:
    """Neither user nor password of an address, nor headers, queries, or what a server repeats of them, are shown."""
    secret = "hunter" + "22"  # tracebacks have lines of this file

    def answer(_: BaseHTTPRequestHandler) -> tuple[int, bytes, dict[str, str]]:
        return 403, f'{{"message": "http://anna:{secret}@host/path?sig={secret}#{secret} is refused"}}'.encode(), {}

    with contextlib.closing(_Server(answer)) as server:
        address = server.url.replace("://", f"://anna:{secret}@")
        asked = rest.Rest(f"{address}/base", headers={"X-Key": Secret(secret)})
        with pytest.raises(ArtifactDenied, match="http://host/path is refused") as caught:
            list(asked.read(f"/file?token={secret}"))
        assert secret not in "".join(traceback.format_exception(caught.value)) + repr(asked)
        assert server.seen[0][1]["authorization"] == rest.basic("anna", secret)
        assert server.seen[0][1]["x-key"] == secret
        asked.close()


@pytest.mark.parametrize("url", ["", "host", "ftp://host", "http://", "http://host:port", "http://[::1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """An address that is no http(s) URL is refused before anybody is asked, and is not repeated."""
    with pytest.raises(SettingsError, match="expected a URL like https://host:port/path"):
        rest.Rest(url)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody else vouches for, in one file."""
    x509 = pytest.importorskip("cryptography.x509")
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form)
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return path


def _tls(pem: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


def test_certificates_are_looked_at(pem: Path) -> None:
    """A server is trusted by the authorities that are given, or when nobody is to look; otherwise it is denied."""
    trusting = rest.tls_context(ca_path=str(pem), setting="CERT")
    careless = rest.tls_context(verify=False, setting="CERT")
    for context in (trusting, careless):
        with _served(lambda _: (200, b"{}", {}), _tls(pem), context=context) as (_, asked):
            assert asked.ask("/").status == 200
    with _served(lambda _: (200, b"{}", {}), _tls(pem), remedy="Name its authority in CERT") as (server, asked):
        with pytest.raises(ArtifactDenied, match=r"certificate is not trusted: .* Name its authority in CERT"):
            asked.ask("/")
        assert not server.seen


def test_a_certificate_of_ours_is_shown(pem: Path) -> None:
    """A server that wants to see a certificate is shown the one of the client."""
    wants = _tls(pem)
    wants.verify_mode = ssl.CERT_REQUIRED
    wants.load_verify_locations(pem)
    ours = rest.tls_context(ca_path=str(pem), client_cert_path=str(pem), setting="CERT")
    with _served(lambda _: (200, b"{}", {}), wants, context=ours) as (_, asked):
        assert asked.ask("/").status == 200


@pytest.mark.parametrize("name", ["none.pem", "text.pem"])
def test_a_certificate_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """A file of certificates that is missing, or is none, is an error that names the setting."""
    (tmp_path / "text.pem").write_text("no certificate")
    for option in ("ca_path", "client_cert_path"):
        with pytest.raises(SettingsError, match="MY_CERT: the certificate cannot be read"):
            rest.tls_context(**{option: str(tmp_path / name)}, setting="MY_CERT")


def test_no_redirect_leaves_tls(pem: Path) -> None:
    """A redirect from https to http is not followed: what was asked in secret would be asked in the open."""
    with contextlib.closing(_Server(lambda _: (200, b"", {}))) as plain:
        context = rest.tls_context(ca_path=str(pem), setting="CERT")
        with (
            _served(lambda _: (302, b"", {"Location": plain.url}), _tls(pem), context=context) as (_, asked),
            pytest.raises(ArtifactDenied, match="redirects from https to http"),
        ):
            asked.ask("/")
        assert not plain.seen


def test_a_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual variables name a proxy: plain requests name the whole URL to it, TLS asks it for a tunnel."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with _served(lambda to: (403, b"no", {}) if to.command == "CONNECT" else (200, b"{}", {})) as (proxy, _):
        secret = "hunter" + "22"
        address = proxy.url.replace("://", f"://anna:{secret}@")
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("https_proxy", address)
        with contextlib.closing(rest.Rest("http://hub.invalid/base")) as asked:
            assert asked.ask("/x").status == 200
        with (
            contextlib.closing(rest.Rest("https://hub.invalid")) as asked,
            pytest.raises(ArtifactUnreachable) as caught,
        ):
            asked.ask("/x")
        assert "403" in str(caught.value)
        assert secret not in "".join(traceback.format_exception(caught.value))
        assert [path for path, _ in proxy.seen] == ["http://hub.invalid/base/x", "hub.invalid:443"]
        assert {headers["proxy-authorization"] for _, headers in proxy.seen} == {rest.basic("anna", secret)}
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with contextlib.closing(rest.Rest(proxy.url)) as asked:
            assert asked.ask("/direct").status == 200
        assert proxy.seen[-1][0] == "/direct"
