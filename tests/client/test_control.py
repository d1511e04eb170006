"""The client of the control API against a plain HTTP server that says what such a server may say; against the real one
it is tested with the server.
"""

import http.server
import json
import threading

import msgspec
import pytest

from headrace import errors
from headrace.client import Unreachable
from headrace.client.control import ControlClient, Resource, is_met


class File(msgspec.Struct):
    name: str
    text: str
    base: str


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), json.loads(body or b"null")))
        status, content = self.server.answers.pop(0)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names that the base class calls

    def log_message(self, *args):
        pass


@pytest.fixture
def peer():
    """A running peer: `answers` are given in their order, `asked` is what came."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.answers, server.asked = [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(peer):
    with ControlClient(f"http://127.0.0.1:{peer.server_address[1]}", token="secret", timeout_seconds=10) as made:
        yield made


def resource(name="iris", ready="True", generation=1, observed=1, kind="Model", **rest):
    conditions = [{"type": "Ready", "status": ready, "reason": "Because", "message": "it is so"}]
    status = {"observedGeneration": observed, "conditions": conditions}
    return {"kind": kind, "metadata": {"name": name, "generation": generation}, "status": status, **rest}


def test_what_is_sent(peer, client):
    """An apply sends each file's name, text and folder, with the token, and says whether it is for real."""
    peer.answers += [(200, {"changes": []}), (200, {"changes": []})]
    client.apply([File("m.yaml", "kind: Model", "/there")], dry_run=True)
    client.apply([File("m.yaml", "kind: Model", "/there")])
    (method, path, headers, body), (_, _, _, second) = peer.asked
    assert (method, path) == ("POST", "/v1/apply")
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"
    assert body == {"files": [{"name": "m.yaml", "text": "kind: Model", "base": "/there"}], "dryRun": True}
    assert second["dryRun"] is False


def test_names_are_quoted(peer, client):
    """A name of any characters stays one part of the path."""
    peer.answers.append((200, {"resources": []}))
    client.get("Model", "a/b c?")
    assert peer.asked[0][1] == "/v1/resources/Model/a%2Fb%20c%3F"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.SettingsError),
        (403, errors.SettingsError),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.TooLarge),
        (500, errors.RuntimeFailed),
        (503, errors.Temporary),
        (504, errors.DeadlineExceeded),
    ],
)
def test_statuses_become_errors(peer, client, status, kind):
    """Each status is one of our errors, with the server's own text."""
    peer.answers.append((status, {"error": "because of this"}))
    with pytest.raises(kind, match="because of this"):
        client.get("Model", "iris")


def test_faults_come_one_by_one(peer, client):
    """What is wrong with resources comes as it was found: a sentence each."""
    peer.answers.append((400, {"error": "a\nb", "faults": ["a", "b"]}))
    with pytest.raises(errors.InvalidResources) as raised:
        client.apply([])
    assert raised.value.faults == ("a", "b")


@pytest.mark.parametrize("answer", [(200, b"<html>"), (404, {"error": "no such path"})], ids=["page", "another port"])
def test_an_answer_of_something_else(peer, client, answer):
    """What is no control API, such as the server's own REST port, is told as that."""
    peer.answers.append(answer)
    with pytest.raises(Unreachable, match="not a control API"):
        client.get()


def test_nobody_there(unused_url):
    """Where nobody listens, the text says how to start somebody."""
    with pytest.raises(Unreachable, match="headrace serve"):
        ControlClient(unused_url).get()


def test_a_wait_ends_when_all_are(peer, client):
    """A wait looks once, then follows changes; it ends when the last one has the condition."""
    peer.answers += [
        (200, {"resources": [resource("a"), resource("b", "Unknown")], "resourceVersion": 4}),
        (200, {"resources": [resource("c")], "resourceVersion": 5}),
        (200, {"resources": [resource("b")], "resourceVersion": 6}),
    ]
    seen = []
    found = client.wait([("Model", "a"), ("Model", "b")], seen=lambda each: seen.append(each["Model", "b"]))
    assert set(found) == {("Model", "a"), ("Model", "b")}
    assert [each.condition().status for each in seen] == ["Unknown", "True"]
    assert [path.partition("&")[0] for _, path, _, _ in peer.asked[1:]] == ["/v1/watch?after=4", "/v1/watch?after=5"]


def test_a_wait_goes_on_with_all_there_is(peer, client):
    """Where nobody knows any more what changed, what is not among all there is counts as gone."""
    peer.answers += [
        (200, {"resources": [resource("a", "False"), resource("b")], "resourceVersion": 40}),
        (200, {"resources": [resource("a")], "resourceVersion": 3, "complete": True}),
        (200, {"resources": [resource("b")], "resourceVersion": 4}),
    ]
    seen = []
    client.wait([("Model", "a"), ("Model", "b")], seen=lambda each: seen.append(each["Model", "b"] is not None))
    assert seen == [True, False, True]


def test_a_wait_that_takes_too_long(peer, client):
    """When the time is up, the text names what is missing, with its reason."""
    answer = {"resources": [resource("b", "False")], "resourceVersion": 4}
    peer.answers += [(200, answer)]
    with pytest.raises(
        errors.ModelNotReady, match=r"model/a is not there; model/b has Ready=False \(Because: it is so\)"
    ):
        client.wait([("Model", "a"), ("Model", "b")], timeout_seconds=0)


def test_a_condition_of_an_older_generation_does_not_count():
    """A resource that was ready before it was changed is not taken for ready."""
    made = msgspec.convert(resource(generation=2, observed=1), Resource)
    assert not is_met(made, "Ready", "True")
    assert is_met(msgspec.convert(resource(generation=2, observed=2), Resource), "ready", "true")


def test_a_connection_that_was_closed_meanwhile(peer, client):
    """A kept connection that the server closed is replaced, and nobody notices."""
    peer.answers += [(200, {"resources": []})] * 2
    client.get()
    client._connection.sock.close()
    client._connection.sock = None  # as http.client leaves it after an answer that closes
    assert client.get() == ()


def test_a_listener_that_takes_no_bodies(peer, client):
    """What finds a small apply too large, as a metrics listener does, is said not to be a control API."""
    peer.answers += [(413, {"error": "the request's body is over 1 bytes"})]
    with pytest.raises(Unreachable, match="not a control API"):
        client.apply([File("m.yaml", "kind: Model", "/there")])
