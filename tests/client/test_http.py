"""The client against a plain HTTP server that says what a V2 server may say: statuses, closed connections, nonsense."""

import contextlib
import datetime as dt
import http.server
import json
import socket
import ssl
import threading

import numpy as np
import pytest

from headrace import errors
from headrace.client import Client, IndexEntry, Unreachable

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "sklearn",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    "properties": {"engine": "onnx"},
}


class Peer(http.server.ThreadingHTTPServer):
    """Answers from a table of (method, path) to (status, headers, body), and remembers what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {("GET", "/v2/models/m"): (200, {}, METADATA)}
        self.asked = []
        self.connections = 0
        self.close_after_each = False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        self.server.connections += 1
        super().setup()

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        answer = self.server.answers.get((self.command, self.path), (404, {}, {"error": f"no {self.path}"}))
        if callable(answer):
            answer = answer(body)
        status, headers, content = answer
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if self.server.close_after_each:  # without saying so, as a server that restarts does
            self.close_connection = True

    do_GET = do_POST = answer  # noqa: N815 - the names that the base class calls

    def log_message(self, *args):
        pass


@pytest.fixture
def peer():
    """A running peer."""
    with Peer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(peer):
    with Client(peer.url, timeout_seconds=10) as made:
        yield made


def answers(*outputs):
    return 200, {}, {"model_name": "m", "outputs": list(outputs)}


def output(name="y", data=(1.0,), datatype="FP32"):
    return {"name": name, "shape": [len(data)], "datatype": datatype, "data": list(data)}


def test_single_output_is_an_array(peer, client):
    """One output is answered as its array, in its datatype."""
    peer.answers["POST", "/v2/models/m/infer"] = answers(output(data=[1.5, 2.5]))
    y = client.predict([[1, 2], [3, 4]], model="m")
    np.testing.assert_array_equal(y, np.array([1.5, 2.5], np.float32))
    assert y.dtype == np.float32


def test_several_outputs_are_named(peer, client):
    """Several outputs, or one asked for by `named`, are answered by name."""
    peer.answers["POST", "/v2/models/m/infer"] = answers(output("a"), output("b"))
    assert set(client.predict([[1, 2]], model="m")) == {"a", "b"}
    peer.answers["POST", "/v2/models/m/infer"] = answers(output("a"))
    assert set(client.predict([[1, 2]], model="m", named=True)) == {"a"}


def test_what_is_sent(peer):
    """Tensors go as bytes after a JSON head, with version, outputs, parameters and the client's headers."""
    peer.answers["GET", "/v2/models/m/versions/3"] = 200, {}, METADATA
    peer.answers["POST", "/v2/models/m/versions/3/infer"] = answers(output())
    with Client(peer.url, headers={"Authorization": "Bearer t"}) as client:
        client.predict([[1, 2]], model="m", version="3", outputs=["y"], parameters={"depth": 2})
    _, _, headers, body = peer.asked[-1]
    length = int(headers["Inference-Header-Content-Length"])
    head = json.loads(body[:length])
    assert headers["Authorization"] == "Bearer t"
    assert headers["Content-Type"] == "application/octet-stream"
    assert head["inputs"] == [
        {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
    ]
    assert head["outputs"] == [{"name": "y"}]
    assert head["parameters"] == {"depth": 2, "binary_data_output": True}
    assert body[length:] == np.array([1, 2], "<f4").tobytes()


def test_json_only(peer):
    """With binary=False the body is JSON alone, for servers that know nothing else."""
    peer.answers["POST", "/v2/models/m/infer"] = answers(output())
    with Client(peer.url, binary=False) as client:
        client.predict([[1, 2]], model="m")
    _, _, headers, body = peer.asked[-1]
    assert "Inference-Header-Content-Length" not in headers
    assert json.loads(body)["inputs"][0]["data"] == [1, 2]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (400, {}, errors.InvalidRequest),
        (404, {}, errors.ModelNotFound),
        (413, {}, errors.TooLarge),
        (422, {}, errors.InvalidRequest),
        (429, {"Retry-After": "7"}, errors.Overloaded),
        (500, {}, errors.RuntimeFailed),
        (501, {}, errors.NotSupported),
        (502, {}, Unreachable),
        (503, {}, errors.ModelNotReady),
        (503, {"Retry-After": "7"}, errors.Overloaded),
        (504, {}, errors.DeadlineExceeded),
        (418, {}, errors.InvalidRequest),
        (599, {}, errors.RuntimeFailed),
    ],
)
def test_statuses_become_errors(peer, client, status, headers, expected):
    """Each status becomes its class of ours, with the server's own text."""
    peer.answers["POST", "/v2/models/m/infer"] = status, headers, {"error": "because of this"}
    with pytest.raises(expected, match=r"^because of this$") as caught:
        client.predict([[1, 2]], model="m")
    assert type(caught.value) is expected
    if isinstance(caught.value, errors.Overloaded):
        assert caught.value.retry_after_seconds == 7


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b'"text"', b'{"detail": "text"}'])
def test_errors_of_others(peer, client, body):
    """An error that is not in the protocol's form still has a text."""
    peer.answers["POST", "/v2/models/m/infer"] = 500, {}, body
    with pytest.raises(errors.RuntimeFailed, match=r"\w"):
        client.predict([[1, 2]], model="m")


def test_connections_are_kept(peer, client):
    """Many calls, errors among them, use one connection."""
    for _ in range(5):
        client.metadata("m")
        with pytest.raises(errors.ModelNotFound):
            client.metadata("nobody")
    assert peer.connections == 1


def test_closed_connection_is_replaced(peer, client):
    """A kept connection that the server closed meanwhile costs a new connection, not an error."""
    peer.close_after_each = True
    for _ in range(3):
        assert client.metadata("m").name == "m"
    assert peer.connections == 3


def test_threads_share_a_client(peer, client):
    """Eight threads that share a client each get their own answers."""

    def echo(body):
        return answers(output(data=np.frombuffer(body[-8:], "<f4").tolist()))

    peer.answers["POST", "/v2/models/m/infer"] = echo
    wrong = []

    def ask(number):
        for turn in range(20):
            row = [float(number), float(turn)]
            if client.predict([row], model="m").tolist() != row:
                wrong.append((number, turn))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert peer.connections <= 8


def test_nobody_there():
    """A port that nobody listens on is Unreachable, with the address and a hint."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match=f"cannot reach a server at {url}.*is it running"):
            Client(url).models()


def test_an_unknown_certificate_says_how_to_trust_it(tmp_path):
    """A server whose certificate nobody vouches for is Unreachable, and the text names what makes it trusted."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    _self_signed(key, certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Unreachable, match=f"do not trust the server at {url}.*SSL_CERT_FILE"):
            Client(url).models()
        thread.join()


def _self_signed(key_path, certificate_path):
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1))
    pem = serialization.Encoding.PEM
    certificate_path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    key_path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def test_another_protocol_is_told():
    """A port that speaks something else, as gRPC's does, is Unreachable without its bytes in the text."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):  # a socket closed with bytes unread resets, and what it sent is lost
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match=r"does not speak HTTP/1\.1, as the gRPC port does not"):
            Client(f"http://127.0.0.1:{listening.getsockname()[1]}").models()
        thread.join()


def test_no_answer_in_time(peer):
    """A server that stays silent is DeadlineExceeded after the client's own timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.05)
        with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.05 seconds"):
            client.models()


def test_answer_that_breaks_off():
    """A connection that breaks in the middle of an answer is Unreachable, not half an array."""
    with socket.create_server(("127.0.0.1", 0)) as half:

        def answer():
            connection, _ = half.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable):
            Client(f"127.0.0.1:{half.getsockname()[1]}", timeout_seconds=5).models()
        thread.join()


@pytest.mark.parametrize("url", ["ftp://host", "http://", "unix:///run/x"])
def test_wrong_addresses(url):
    """An address that is no HTTP server's is refused at once."""
    with pytest.raises(errors.InvalidRequest, match="expected a server's address"):
        Client(url)


def test_path_of_an_ingress(peer):
    """An address with a path puts it before every request."""
    peer.answers["GET", "/team/a/v2/health/ready"] = 200, {}, {"ready": True}
    with Client(f"{peer.url}/team/a/") as client:
        assert client.ready()


def test_ready(peer, client):
    """Ready is the server's word: 200 yes, 503 no; an unknown model is an error."""
    peer.answers["GET", "/v2/health/ready"] = 503, {}, {"ready": False}
    peer.answers["GET", "/v2/models/m/ready"] = 200, {}, {"name": "m", "ready": True}
    assert not client.ready()
    assert client.ready("m")
    with pytest.raises(errors.ModelNotFound):
        client.ready("nobody")


def test_index_and_metadata(peer, client):
    """The index and the metadata come as values; what a server leaves out or sends as null is empty."""
    peer.answers["POST", "/v2/repository/index"] = (
        200,
        {},
        [
            {"name": "m", "version": "1", "state": "READY", "reason": ""},
            {"name": "n", "version": None},
        ],
    )
    peer.answers["GET", "/v2/models/n"] = 200, {}, {"name": "n", "versions": None, "platform": ""}
    assert client.models() == [IndexEntry("m", "1", "READY"), IndexEntry("n")]
    assert client.metadata("m").inputs[0].shape == (-1, 2)
    assert client.metadata("m").properties == {"engine": "onnx"}
    assert client.metadata("n").inputs == ()


def test_names_are_quoted(peer, client):
    """A name with a slash or a space cannot reach another path."""
    with contextlib.suppress(errors.ModelNotFound):
        client.metadata("a/b c")
    assert peer.asked[-1][1] == "/v2/models/a%2Fb%20c"


def test_the_only_model(peer, client):
    """Without a name, the only model is meant; with several, the error lists them."""
    peer.answers["POST", "/v2/models/m/infer"] = answers(output())
    peer.answers["POST", "/v2/repository/index"] = 200, {}, [{"name": "m", "version": v} for v in "12"]
    assert client.predict([[1, 2]]).tolist() == [1.0]
    peer.answers["POST", "/v2/repository/index"] = 200, {}, [{"name": "m"}, {"name": "n"}]
    with pytest.raises(errors.InvalidRequest, match="m, n"):
        client.predict([[1, 2]])


def test_model_replaced_by_another(peer, client):
    """A model replaced by one with another input is asked again with the new one's name, not refused for ever."""

    def infer(body):
        if b'"name":"x2"' in body:
            return answers(output())
        return (400, {}, {"error": "unexpected input 'x'"}) if len(peer.asked) > 2 else answers(output())

    peer.answers["POST", "/v2/models/m/infer"] = infer
    client.predict([[1, 2]], model="m")
    peer.answers["GET", "/v2/models/m"] = (
        200,
        {},
        METADATA | {"inputs": [{"name": "x2", "datatype": "FP32", "shape": [-1, 2]}]},
    )
    assert client.predict([[1, 2]], model="m").tolist() == [1.0]


def test_load_and_unload(peer, client):
    """Load and unload ask the repository; a failure to load is LoadFailed with the server's reason."""
    peer.answers["POST", "/v2/repository/models/m/load"] = 200, {}, b""
    peer.answers["POST", "/v2/repository/models/m/unload"] = 200, {}, b""
    client.load("m")
    client.unload("m")
    peer.answers["POST", "/v2/repository/models/m/load"] = 500, {}, {"error": "no runtime recognises it"}
    with pytest.raises(errors.LoadFailed, match="no runtime recognises it"):
        client.load("m")
