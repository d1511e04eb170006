"""The control API over real sockets: who may ask, which paths there are, and what they answer."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading

import numpy as np
import pytest

from headrace import errors
from headrace.client.control import ControlClient
from headrace.control.parse import File
from headrace.payload import Tensor
from headrace.server.control import check_host

TWO = """
apiVersion: headrace.io/v1
kind: Model
metadata: {name: scale}
spec: {uri: scale.onnx}
---
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: chain}
spec:
  steps: [{name: scale}]
  output: {steps: [scale]}
"""
SERVER = "{apiVersion: headrace.io/v1, kind: Server, metadata: {name: here}, spec: {memoryBytes: 1000000}}"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def folder(tmp_path):
    """Where the artifact lies that the manifest speaks of."""
    place = tmp_path / "models"
    place.mkdir()
    (place / "scale.onnx").write_bytes(b"an artifact")
    return place


@pytest.fixture
def client(control_server):
    with ControlClient(control_server.url, timeout_seconds=20, user="anna") as made:
        yield made


def two(folder, text=TWO):
    return [File(name="two.yaml", text=text, base=str(folder))]


def ask(server, method, path, body=None, headers=JSON):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


# -- who may ask --


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"Authorization": "Bearer sécret".encode().decode("latin-1")}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"Authorization": "bearer secret", "Origin": "https://console.example"}, 200),
        ({"Authorization": "Bearer secret", "Host": "models.example:8083"}, 200),
    ],
    ids=["none", "wrong", "another kind", "not ASCII", "right", "a page that has it", "another host"],
)
def test_with_a_token_it_is_asked_for(locked_server, headers, status):
    """With a token set, who shows it is answered, wherever from, and nobody else."""
    assert ask(locked_server, "GET", "/v1/resources", headers=headers)[0] == status


def test_a_token_of_any_letters(control_server_with):
    """A token may be of letters that are not ASCII; one that no header can carry is told before anything is sent."""
    server = control_server_with("schlüssel-ключ")
    with ControlClient(server.url, token="schlüssel-ключ") as client:
        assert client.get() == ()
    with pytest.raises(errors.SettingsError, match="token"):
        ControlClient(server.url, token="a\nb")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8083"}, 200),
        ({"Host": "[::1]:8083"}, 200),
        ({"Host": "127.0.0.9"}, 200),
        ({"Host": "evil.example:8083"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:8083"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
    ids=str,
)
def test_without_a_token_web_pages_are_kept_out(control_server, headers, status):
    """Without a token only this machine's own names are answered, and no web page."""
    assert ask(control_server, "GET", "/v1/resources", headers=headers)[0] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("path", ["/v1/apply", "/v1/delete", "/v1/models/m/evict"])
def test_what_a_page_may_send_unasked_changes_nothing(control_server, path, kind):
    """A content type that a page may send without asking first is refused by every path that changes something."""
    status, answer = ask(control_server, "POST", path, b'{"files": []}', {"Content-Type": kind} if kind else {})
    assert status == 400
    assert "application/json" in answer["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_no_token(host):
    """On this machine's own addresses the API may listen without a token."""
    check_host(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "models.example"])
def test_other_machines_need_a_token(host):
    """Where other machines reach it, it listens with a token only."""
    check_host(host, "secret")
    with pytest.raises(errors.SettingsError, match="token"):
        check_host(host, "")


# -- which paths there are --


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/nothing", 404, "no path /v1/nothing"),
        ("GET", "/v1/resources/Modle", 404, "did you mean Model?"),
        ("GET", "/v1/resources/Model/iris", 404, "iris"),
        ("PUT", "/v1/apply", 405, "POST"),
        ("POST", "/v1/resources/Model/iris", 405, "GET, DELETE"),
        ("POST", "/v1/apply", 400, "files"),
        ("GET", "/v1/watch?after=x", 400, "after: expected a whole number"),
        ("GET", "/v1/watch?timeout=nan", 400, "timeout: expected seconds"),
        ("GET", "/v1/pictures/chain?format=png", 400, "text or mermaid"),
        ("GET", "/v1/taps/nobody", 404, "nobody"),
        ("GET", "/v1/taps/chain?reference=nowhere", 404, "scale.outputs"),
        ("DELETE", "/v1/resources/Model/iris?force=perhaps", 400, "force: expected true or false"),
    ],
)
def test_what_is_not_there_or_wrong(control_server, method, path, status, text):
    """Each wrong path, method or parameter has its status, and a text that names what would be right."""
    got, answer = ask(control_server, method, path, b"{}" if method != "GET" else None)
    assert got == status
    assert text in answer["error"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"files": [{"text": 1}]}', b'{"files": [], "dryrun": true}', b"[" * 100_000, b"\xff"]
)
def test_bodies_of_anything(control_server, body):
    """A body that is not what the path takes is refused with a sentence, however wrong it is."""
    assert ask(control_server, "POST", "/v1/apply", body)[0] == 400


def test_a_body_that_is_too_large(control_server):
    """A body over the limit is refused before it is read."""
    with socket.create_connection(("127.0.0.1", control_server.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/apply HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")
        assert b" 413 " in connection.recv(4096)


# -- what they do --


def test_apply_get_delete(control_server, client, folder):
    """What is applied is there, is carried out, and goes again; a second apply changes nothing."""
    applied = client.apply(two(folder))
    assert [(each.title, each.action) for each in applied.changes] == [
        ("model/scale", "created"),
        ("pipeline/chain", "created"),
    ]
    client.wait([("Model", "scale"), ("Pipeline", "chain")], timeout_seconds=20)
    assert {key[:2] for key in control_server.backend.units} == {("model", "scale"), ("pipeline", "chain")}
    assert [each.title for each in client.get()] == ["model/scale", "pipeline/chain"]
    (model,) = client.get("Model", "scale")
    assert (model.api_version, model.spec["uri"], model.base) == ("headrace.io/v1", "scale.onnx", str(folder))
    assert not client.apply(two(folder)).differ
    with pytest.raises(errors.Conflict, match="chain"):
        client.delete("Model", "scale")
    assert [each.action for each in client.delete("Pipeline", "chain").changes] == ["deleted"]
    client.delete("Model", "scale")
    with pytest.raises(errors.NotFound):
        client.get("Model", "scale")


def test_several_go_together_or_not_at_all(client, folder):
    """Resources that need each other go in one step; where one is not there, none goes."""
    client.apply(two(folder))
    with pytest.raises(errors.NotFound):
        client.delete_all([("Model", "scale"), ("Pipeline", "chain"), ("Model", "nobody")])
    assert len(client.get()) == 2
    client.delete_all([("Model", "scale"), ("Pipeline", "chain")])
    assert client.get() == ()


def test_a_dry_run_changes_nothing(client, folder):
    """A dry run says what would be done, and does it not."""
    assert client.apply(two(folder), dry_run=True).differ
    assert client.get() == ()


def test_faults_come_all_at_once(client, folder):
    """What is wrong comes as one sentence each, with the file, and nothing is applied."""
    wrong = TWO.replace("uri: scale.onnx", "urii: scale.onnx").replace(
        "output: {steps: [scale]}", "output: {steps: [x]}"
    )
    with pytest.raises(errors.InvalidResources) as raised:
        client.apply(two(folder, wrong))
    assert all("two.yaml:" in fault for fault in raised.value.faults)
    assert any("uri" in fault for fault in raised.value.faults)
    assert client.get() == ()


def test_yaml_as_it_is(control_server, folder):
    """A manifest may be the body itself, with its name and folder in the query, as curl sends it."""
    path = f"/v1/apply?base={folder}&name=x.yaml"
    status, answer = ask(control_server, "POST", path, TWO.encode(), {"Content-Type": "application/yaml"})
    assert (status, len(answer["changes"])) == (200, 2)


def test_plan_and_diff_look_only(client, folder):
    """A plan has the manifests before and after and the actions, a diff has no actions, and neither changes anything."""
    client.apply(two(folder))
    client.wait([("Model", "scale"), ("Pipeline", "chain")], timeout_seconds=20)
    (folder / "new.onnx").write_bytes(b"another")
    changed = two(folder, TWO.replace("scale.onnx", "new.onnx"))
    planned = client.plan(changed)
    model = planned.changes[0]
    assert (model.action, model.generation) == ("configured", 2)
    assert (model.before["spec"]["uri"], model.after["spec"]["uri"]) == ("scale.onnx", "new.onnx")
    assert ("set", "model", "scale", 2) in {
        (each.verb, each.unit, each.name, each.revision) for each in planned.actions
    }
    assert client.diff(changed).changes == planned.changes
    assert client.get("Model", "scale")[0].metadata.generation == 1
    assert not client.plan(two(folder)).differ


def test_history_and_rollback(client, folder):
    """Every state is kept with who made it, and can be gone back to."""
    (folder / "new.onnx").write_bytes(b"another")
    client.apply(two(folder))
    client.apply(two(folder, TWO.replace("scale.onnx", "new.onnx")))
    assert [(each.generation, each.who, each.action) for each in client.history("Model", "scale")] == [
        (2, "anna", "configured"),
        (1, "anna", "created"),
    ]
    client.rollback("Model", "scale")
    (model,) = client.get("Model", "scale")
    assert (model.spec["uri"], model.metadata.generation) == ("scale.onnx", 3)
    assert client.history("Model", "scale")[0].who == "anna (rollback)"


def test_events(client, folder):
    """What happened is told, newest first, of all or of one."""
    client.apply(two(folder))
    client.wait([("Model", "scale")], timeout_seconds=20)
    assert {each.name for each in client.events()} == {"scale", "chain"}
    assert client.events("Model", "scale")[-1].reason == "Created"
    assert client.events("Model", "nobody") == ()


def test_a_watch_waits_for_a_change(client, control_server, folder):
    """A watch answers as soon as something changes, with what changed; and with nothing when the time is up."""
    client.apply(two(folder))
    control_server.run(control_server.control.settled())
    version = client.snapshot()[1]
    assert client.watch(version, timeout_seconds=0).resources == ()
    found = []
    watching = threading.Thread(target=lambda: found.append(client.watch(version, timeout_seconds=20)))
    watching.start()
    with ControlClient(control_server.url) as other:
        other.delete("Pipeline", "chain")
    watching.join(60)
    assert found[0].deleted == (("Pipeline", "chain"),)
    assert found[0].resource_version > version


def test_a_watch_of_nothing_waits(client):
    """A server that holds nothing lets a watcher wait, and does not answer at once again and again."""
    assert client.watch(0, timeout_seconds=0.05).resources == ()
    found = []
    watching = threading.Thread(target=lambda: found.append(client.watch(0, timeout_seconds=20)), daemon=True)
    watching.start()
    watching.join(0.3)
    assert not found
    with ControlClient(client.url) as other:
        other.apply([File(name="s.yaml", text=SERVER)])
    watching.join(60)
    assert found


def test_closing_ends_watches_and_taps(control_server, client, folder):
    """When the server stops, who watches or taps is told at once, so that it need not wait for them."""
    ended = []
    client.apply(two(folder))
    control_server.run(control_server.control.settled())
    version = client.snapshot()[1]

    def watch():
        with pytest.raises(errors.Temporary), ControlClient(control_server.url) as own:
            own.watch(version, timeout_seconds=20)
        ended.append("watch")

    def tap():
        with ControlClient(control_server.url) as own:
            ended.append(f"tap of {len(list(own.tap('chain')))}")

    threads = [threading.Thread(target=each) for each in (watch, tap)]
    for each in threads:
        each.start()

    async def both_wait():
        while not control_server.local.taps.live or sum(each.busy for each in control_server.server._connections) < 2:
            await asyncio.sleep(0.01)

    control_server.run(both_wait())
    control_server.loop.call_soon_threadsafe(control_server.api.close)
    for each in threads:
        each.join(60)
    assert sorted(ended) == ["tap of 0", "watch"]


def test_schemas(client):
    """There is a schema of each kind, and one of all."""
    assert "steps" in json.dumps(client.schema("pipeline"))
    assert {"Model", "Rollout"} <= set(client.schema()["$defs"])


def test_pictures_prefetch_evict(client, control_server):
    """What is asked of the process itself reaches it."""
    assert client.picture("chain", form="mermaid") == "mermaid of chain\n"
    client.prefetch("scale")
    assert control_server.local.resident == {"scale"}
    client.evict("scale")
    assert control_server.local.resident == set()


def test_a_tap_shows_what_passes(client, control_server):
    """What passes the place is shown as it passes: text, numbers, and of what is large its shape alone."""
    passed = (
        Tensor("x", "FP32", np.array([[1.5, 2.0]], np.float32)),
        Tensor("t", "BYTES", np.array([b"a"], object)),
        Tensor("large", "FP64", np.zeros(5000)),
        Tensor("raw", "BYTES", np.array([b"\xff"], object)),
    )

    async def offer():
        while not control_server.local.taps.live:
            await asyncio.sleep(0.01)
        for number in range(3):
            control_server.local.taps.offer(f"r{number}", "scale.outputs", passed)

    offering = asyncio.run_coroutine_threadsafe(offer(), control_server.loop)
    found = list(client.tap("chain", reference="scale.outputs", count=2))
    offering.result(10)
    assert [(each.id, each.reference) for each in found] == [("r0", "scale.outputs"), ("r1", "scale.outputs")]
    shown = [(each.name, each.datatype, each.shape, each.data) for each in found[0].tensors]
    assert shown == [
        ("x", "FP32", (1, 2), [1.5, 2.0]),
        ("t", "BYTES", (1,), ["a"]),
        ("large", "FP64", (5000,), None),
        ("raw", "BYTES", (1,), None),
    ]
    assert not control_server.local.taps.live  # nobody listens any more
