"""Who is told. Matrix: webhook, command, events x a receiver that is there, down, slow, failing, recovering, redirecting;
kills at any moment. Receivers are real servers; what is left out: TLS with a certificate that somebody trusts.
"""

import hashlib
import hmac
import json
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.monitoring.receivers import receiver

from headrace.errors import HeadraceError, Overloaded, SettingsError, Temporary
from headrace.monitoring import outbox
from headrace.monitoring.actions import Actions, event_of
from headrace.monitoring.commands import Command
from headrace.monitoring.outbox import Item, Outbox
from headrace.monitoring.settings import TrustSettings
from headrace.monitoring.sinks.base import Options
from headrace.monitoring.sinks.http import Http
from headrace.monitoring.sinks.registry import open_sink
from headrace.protocols import cloudevents

ALERT = {
    "model": "iris",
    "version": "1",
    "detector": "drift",
    "window": "w7",
    "features": [{"name": "x", "distance": 0.5}],
}


@pytest.fixture
def opened(tmp_path):
    """Makes Actions with the state in a folder of the test's, and closes them."""
    made = []

    def make(**settings):
        actions = Actions(TrustSettings(state=str(tmp_path / "state"), **settings))
        actions.open()
        made.append(actions)
        return actions

    yield make
    for actions in made:
        actions.close(0)


def test_webhook(opened):
    """An alert arrives as signed JSON with its idempotency key, and the same alert told again does not."""
    with receiver() as hook:
        actions = opened(webhook=f"{hook.url}/hook?x=1", webhook_secret="s3cret")
        key = actions.alert(ALERT)
        assert actions.settle(20)
        assert actions.alert(ALERT) == key
        assert actions.settle(20)
        ((headers, body),) = hook.received
    assert headers["idempotency-key"] == key
    assert headers["content-type"] == "application/json"
    assert headers["headrace-signature"] == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    told = json.loads(body)
    assert told["key"] == key
    assert told["features"] == ALERT["features"]
    assert actions.counts()["webhook"] == {"sent": 1, "failed": 0, "dropped": 0, "retried": 0, "waiting": 0}


def test_a_receiver_that_fails_then_recovers(opened):
    """500 and 503 are tried again until the receiver takes the alert, which it gets once."""
    with receiver() as hook:
        hook.answers += [(500, {}), (503, {"retry-after": "0"})]
        actions = opened(webhook=hook.url)
        actions.alert(ALERT)
        hook.wait(1)
        assert actions.settle(20)
    assert actions.counts()["webhook"] == {"sent": 1, "failed": 0, "dropped": 0, "retried": 2, "waiting": 0}


def test_a_receiver_that_is_down_then_there(opened):
    """An alert for which nobody listened arrives once somebody does."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        actions = opened(webhook=f"http://127.0.0.1:{port}")
        actions.alert(ALERT)
        until = time.monotonic() + 20
        while not actions.counts()["webhook"]["retried"]:
            assert time.monotonic() < until
            time.sleep(0.01)
    with receiver(port) as hook:
        hook.wait(1)


@pytest.mark.parametrize("status", [400, 401, 302, 307])
def test_a_receiver_that_refuses(opened, status):
    """A refusal is final, and a redirect is not followed: the alert is counted as failed, and sent nowhere else."""
    with receiver() as hook, receiver() as other:
        hook.answers.append((status, {"location": other.url}))
        actions = opened(webhook=hook.url)
        actions.alert(ALERT)
        assert actions.settle(20)
        assert (hook.seen, other.seen) == (1, 0)
    assert actions.counts()["webhook"]["failed"] == 1


def test_a_slow_receiver_holds_up_nobody(opened):
    """While a receiver has answered nothing, more alerts are taken, and other receivers are told of all of them."""
    with receiver() as slow, receiver() as fast:
        slow.delay.clear()
        actions = opened(webhook=slow.url, events=fast.url)
        for window in range(20):
            actions.alert({**ALERT, "window": str(window)})
        fast.wait(20)
        assert not slow.received
        slow.delay.set()
        slow.wait(20)


def test_environment_proxies_are_not_used(opened, monkeypatch):
    """A proxy that the environment names sees nothing."""
    with receiver() as hook, receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        opened(webhook=hook.url).alert(ALERT)
        hook.wait(1)
        assert proxy.seen == 0


def test_a_dripping_receiver():
    """A receiver that sends its answer a byte at a time is given up after the time that there is for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                try:
                    while not stop.wait(0.05):
                        connection.sendall(b"H")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        sink = Http(f"http://127.0.0.1:{server.getsockname()[1]}", setting="x", options=Options(timeout_seconds=0.4))
        begun = time.monotonic()
        with pytest.raises(Temporary):
            sink.post(b"{}", {})
        assert time.monotonic() - begun < 5
        stop.set()
        thread.join(60)


def test_an_untrusted_certificate(certificate):
    """A receiver whose certificate nobody vouches for is sent nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with receiver() as hook:
        hook.server.socket = context.wrap_socket(hook.server.socket, server_side=True)
        sink = Http(f"https://localhost:{hook.port}", setting="x", options=Options(timeout_seconds=5))
        with pytest.raises(Temporary, match="CERTIFICATE_VERIFY_FAILED"):
            sink.post(b"{}", {})
        assert hook.seen == 0


# -- events --


def test_verdicts_as_events(opened):
    """A window's verdict arrives in binary mode with Seldon's type, a fresh id and the span of its requests."""
    with receiver() as sink:
        actions = opened(events=sink.url)
        window = {"kind": "drift", "model": "iris", "version": "1", "detector": "ks", "window": "w1", "is_drift": 1}
        actions.verdict({**window, "members": {"first": "r1", "last": "r9", "count": 9}})
        actions.verdict({**window, "kind": "outlier", "window": "", "request_id": "r5\r\nx: y"})
        found = [cloudevents.parse(*each) for each in sink.wait(2)]
    drift, outlier = sorted(found, key=lambda each: each.type)
    assert drift.type == "io.seldon.serving.inference.drift"
    assert drift.id not in {"r1", "r9", ""}
    assert {name: drift.extensions[name] for name in ("firstrequestid", "lastrequestid", "requestcount")} == {
        "firstrequestid": "r1",
        "lastrequestid": "r9",
        "requestcount": "9",
    }
    assert json.loads(drift.data)["is_drift"] == 1
    assert outlier.type == "io.seldon.serving.inference.outlier"
    assert outlier.id == "r5��x: y"


def test_ids_of_events():
    """A window judged again is the same event; another window, detector or kind is another one."""
    base = {"kind": "drift", "model": "m", "version": "1", "detector": "d", "window": "w"}

    def identity(**other):
        event = event_of({**base, **other}, dialect="seldon")
        return event.source, event.id

    assert identity() == identity()
    others = [identity(window="x"), identity(detector="e"), identity(kind="alert"), identity(version="2"), identity()]
    assert len(set(others)) == 5
    row = {"request_id": "r", "window": ""}
    assert identity(**row)[1] == identity(**row, detector="e")[1] == "r"
    assert identity(**row)[0] != identity(**row, detector="e")[0]


def test_structured_kserve_events(opened):
    """In structured mode with KServe's words, the signature covers the whole event."""
    with receiver() as sink:
        actions = opened(events=sink.url, event_types="kserve", event_mode="structured", webhook_secret="s")
        actions.verdict({"kind": "performance", "model": "m", "version": "1", "detector": "cbpe", "window": "w"})
        ((headers, body),) = sink.wait(1)
    event = cloudevents.parse(headers, body)
    assert event.type == "org.kubeflow.serving.feedback.metrics"
    assert event.extensions["component"] == "predictor"
    assert headers["headrace-signature"] == "sha256=" + hmac.new(b"s", body, hashlib.sha256).hexdigest()


def test_events_to_a_file(opened, tmp_path):
    """Verdicts and alerts stand in a file, one structured event a line."""
    path = tmp_path / "deep" / "events.jsonl"
    actions = opened(events=str(path))
    actions.verdict({"kind": "drift", "model": "m", "window": "w"})
    actions.alert(ALERT)
    assert actions.settle(20)
    types = sorted(cloudevents.parse_structured(line).type for line in path.read_bytes().splitlines())
    assert types == ["io.seldon.serving.inference.alert", "io.seldon.serving.inference.drift"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"events": "gopher://host/topic"}, r"trust\.events.*gopher.*http.*https.*kafka.*file"),
        ({"events": "kafka://broker"}, r"trust\.events.*kafka://BROKER:PORT/TOPIC"),
        ({"events": "kafka://broker/a/b"}, r"trust\.events.*kafka://BROKER:PORT/TOPIC"),
        ({"events": "kafka://user:hunter2@broker/topic"}, r"trust\.events.*kafka\.username"),
        ({"webhook": "kafka://broker/topic"}, r"trust\.webhook.*http"),
        ({"webhook": "http://"}, r"trust\.webhook"),
        ({"webhook": "http://h:x/"}, r"trust\.webhook"),
        ({"webhook": "http://user:hunter2@h/"}, r"trust\.webhook"),
        ({"webhook": "http://h/a b"}, r"trust\.webhook"),
        ({"command": "no-such-program-here x"}, r"trust\.command.*no-such-program-here"),
        ({"command": "sh 'open"}, r"trust\.command"),
        ({"events": "file://elsewhere/path"}, r"trust\.events"),
    ],
    ids=[
        "scheme",
        "no-topic",
        "two-topics",
        "kafka-password",
        "kafka-hook",
        "no-host",
        "port",
        "password",
        "space",
        "program",
        "quotes",
        "file-host",
    ],
)
def test_addresses_that_cannot_be_used(settings, said):
    """What nobody could be told by is refused at the start, by its setting, without a secret in the text."""
    with pytest.raises(SettingsError, match=said) as refused:
        Actions(TrustSettings(**settings))
    assert "hunter2" not in str(refused.value)


# -- commands --


def script(tmp_path, text):
    path = tmp_path / "program.py"
    path.write_text(text)
    return f"{sys.executable} {path} '$HOME; a b'"


def test_command(opened, tmp_path, caplog):
    """A command gets its arguments without a shell and the alert on standard input; its output is logged."""
    line = script(tmp_path, "import sys, json; print(sys.argv[1:], json.load(sys.stdin)['model'])")
    actions = opened(command=line)
    with caplog.at_level(logging.INFO, "headrace.monitoring.commands"):
        actions.alert(ALERT)
        assert actions.settle(20)
    assert "['$HOME; a b'] iris" in caplog.text
    assert actions.counts()["command"]["sent"] == 1
    assert actions.counts()["command"]["exit_0"] == 1


def test_command_that_fails(opened, tmp_path):
    """An exit code is counted, and means failure; 75 means another try."""
    flag = tmp_path / "flag"
    line = script(
        tmp_path,
        f"import sys, pathlib; p = pathlib.Path({str(flag)!r})\nif p.exists(): sys.exit(3)\np.touch(); sys.exit(75)",
    )
    actions = opened(command=line)
    actions.alert(ALERT)
    assert actions.settle(20)
    counts = actions.counts()["command"]
    assert (counts["failed"], counts["retried"], counts["exit_3"], counts["exit_75"]) == (1, 1, 1, 1)


def test_command_has_usual_signals(tmp_path):
    """A command can be ended by SIGTERM though the process that runs it ignores that."""
    line = script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        command = Command(line, setting="x")
        with pytest.raises(HeadraceError, match="-15"):
            command.run(b"{}")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_command_that_is_no_program(tmp_path):
    """A file that nobody can run fails the alert, and the log says why."""
    path = tmp_path / "x"
    path.write_bytes(b"\x00")
    path.chmod(0o700)
    with pytest.raises(HeadraceError, match="exit code 1"):
        Command(str(path), setting="x").run(b"{}")


def test_command_that_hangs(tmp_path):
    """A command that takes too long is killed, and the processes that it started are, too."""
    pid = tmp_path / "pid"
    line = script(
        tmp_path,
        f"import subprocess, pathlib\np = subprocess.Popen(['sleep', '60'])\npathlib.Path({str(pid)!r}).write_text(str(p.pid))\np.wait()",
    )
    command = Command(line, setting="x", seconds=1.5)
    with pytest.raises(HeadraceError, match="took longer"):
        command.run(b"{}")
    assert command.exit_codes == {-signal.SIGKILL: 1}
    deadline = time.monotonic() + 20
    while not is_dead(pid.read_text()):  # a kill is on its way when the command ends
        assert time.monotonic() < deadline


def is_dead(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- the outbox --


def boxed(deliver, **options):
    return Outbox(
        "test",
        deliver,
        **{"most_items": 10, "most_bytes": 1000, "deadline_seconds": 60, "first_delay": 0.01, **options},
    )


def test_bounds():
    """Beyond its items or bytes an outbox drops and counts; what it took is sent."""
    sent = []
    box = boxed(lambda item: sent.append(item.key))
    assert [box.put(Item(key=f"k{at}", body=b"x" * 300)) for at in range(4)] == [True, True, True, False]
    assert [box.put(Item(key=f"s{at}", body=b"")) for at in range(8)] == [True] * 7 + [False]
    box.open()
    assert box.settle(20)
    box.close(1)
    assert len(sent) == 10
    assert (box.counts.sent, box.counts.dropped) == (10, 2)


def test_deadline():
    """What cannot be sent is given up at its deadline and counted as failed."""

    def never(item):
        raise Temporary("down")

    box = boxed(never, deadline_seconds=0.2)
    box.open()
    box.put(Item(key="k", body=b""))
    assert box.settle(20)
    box.close(1)
    assert (box.counts.failed, box.counts.sent) == (1, 0)
    assert box.counts.retried >= 1


def test_one_that_always_fails_holds_up_no_other():
    """While one item fails again and again, others arrive."""
    sent = threading.Event()

    def deliver(item):
        if item.key == "poison":
            raise Temporary("500")
        sent.set()

    box = boxed(deliver)
    box.open()
    box.put(Item(key="poison", body=b""))
    box.put(Item(key="fine", body=b""))
    assert sent.wait(60)
    box.close(0)
    assert box.counts.dropped == 1


def test_a_sink_that_breaks_fails_one_item():
    """An error that nobody expected fails its item, is logged, and the next items are sent."""

    def deliver(item):
        if item.key == "odd":
            raise ZeroDivisionError
        if item.key == "when":
            raise Overloaded("later", retry_after_seconds=1e9)

    box = boxed(deliver)
    box.open()
    for key in ("odd", "when", "fine"):
        box.put(Item(key=key, body=b""))
    assert box.settle(20)
    box.close(1)
    assert (box.counts.sent, box.counts.failed) == (1, 2)


def test_a_receiver_that_refuses_all_is_told_of_once(caplog):
    """A thousand refusals are a few lines in the log, not a thousand."""

    def refuse(item):
        raise HeadraceError("403")

    box = boxed(refuse, most_items=1000)
    for at in range(1000):
        box.put(Item(key=str(at), body=b""))
    box.open()
    assert box.settle(20)
    box.close(1)
    assert box.counts.failed == 1000
    assert 1 <= len(caplog.records) < 30


@given(st.integers(1, 100), st.floats(0, 1))
def test_delays_grow_and_are_bounded(attempts, share):
    """Each delay is between half and all of a bound that doubles up to the longest."""
    most = min(0.5 * 2 ** (attempts - 1), 60)
    assert most / 2 <= outbox.delay(attempts, share=share) <= most


def test_what_was_not_sent_waits_for_the_next_process(tmp_path):
    """What could not be sent before the end is sent by the next outbox of the folder, once, and the oldest first."""

    def down(item):
        raise Temporary("down")

    first = boxed(down, spool=tmp_path / "spool")
    first.open()
    for key in "abc":
        first.put(Item(key=key, body=key.encode()))
    first.close(0)
    sent = []
    second = boxed(lambda item: sent.append((item.key, item.body)), spool=tmp_path / "spool")
    second.open()
    assert second.settle(20)
    second.put(Item(key="b", body=b"again"))
    second.close(1)
    assert sent == [("a", b"a"), ("b", b"b"), ("c", b"c")]
    third = boxed(lambda item: sent.append(item.key), spool=tmp_path / "spool")
    third.open()
    third.put(Item(key="c", body=b"again"))
    third.close(1)
    assert len(sent) == 3


def test_two_processes_with_one_folder(tmp_path):
    """Two outboxes with one folder share nothing, and what the second left, a later first takes over."""
    sent = []
    first = boxed(lambda item: sent.append(item.key), spool=tmp_path)
    second = boxed(lambda item: (_ for _ in ()).throw(Temporary("down")), spool=tmp_path)
    first.open()
    second.open()
    second.put(Item(key="left", body=b""))
    second.close(0)
    first.close(0)
    assert sent == []
    third = boxed(lambda item: sent.append(item.key), spool=tmp_path)
    third.open()
    assert third.settle(20)
    third.close(1)
    assert sent == ["left"]


def test_spool_files_that_are_none(tmp_path):
    """A file in the spool that is no item is put aside, half a one is removed, and others are sent."""
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "x.json").write_text("{")
    (tmp_path / "0" / "y.part").write_text("{")
    box = boxed(lambda item: None, spool=tmp_path)
    box.open()
    box.close(1)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["lock", "x.unreadable"]


KILLED = """
import sys, threading
from headrace.monitoring.actions import Actions
from headrace.monitoring.settings import TrustSettings
actions = Actions(TrustSettings(state=sys.argv[1], webhook=sys.argv[2]))
actions.open()
for window in range(1000):
    key = actions.alert({"model": "m", "version": "1", "detector": "d", "window": str(window)})
    print(key, flush=True)
threading.Event().wait(60)
"""


def test_a_kill_loses_no_accepted_alert(tmp_path):
    """After kill -9 while alerts come and go, the next process delivers every alert that was accepted and had not
    arrived; the keys that the receiver sees are exactly those that were accepted.
    """
    with receiver() as hook:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), hook.url], stdout=subprocess.PIPE, env=os.environ, text=True
        )
        with process:
            accepted = {process.stdout.readline().strip() for _ in range(30)}
            hook.wait(5)
            process.kill()
            accepted |= {line.strip() for line in process.stdout if line.endswith("\n")}
        actions = Actions(TrustSettings(state=str(tmp_path), webhook=hook.url))
        actions.open()
        assert actions.settle(40)
        actions.close(1)
        keys = [headers["idempotency-key"] for headers, _ in hook.received]
    assert accepted <= set(keys)
    assert len(set(keys)) <= len(accepted) + 1  # one may have been accepted and not yet said so
    assert len(keys) - len(set(keys)) <= 1  # the one on its way at the kill may come twice, with the same key


def test_spool_on_a_full_disk(tmp_path):
    """Where the disk takes no more, an alert is sent all the same."""
    program = """
import resource, sys
from headrace.monitoring.actions import Actions
from headrace.monitoring.settings import TrustSettings
actions = Actions(TrustSettings(state=sys.argv[1], webhook=sys.argv[2]))
actions.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
actions.alert({"model": "m"})
assert actions.settle(20)
print(actions.counts()["webhook"]["sent"])
"""
    with receiver() as hook:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), hook.url], capture_output=True, text=True, timeout=50
        )
        assert done.stdout == "1\n", done.stderr
        assert len(hook.received) == 1


def test_file_sink_on_a_full_disk(tmp_path):
    """A line that does not fit is taken back whole, and the sink asks for another try."""
    program = """
import resource, sys
from headrace.errors import Temporary
from headrace.monitoring.sinks.registry import open_sink
from headrace.protocols import cloudevents
sink = open_sink(sys.argv[1], setting="x")
event = cloudevents.event({"x": "y" * 100}, type="t", source="/s")
sink.send(event)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    sink.send(event)
except Temporary:
    print("later")
"""
    path = tmp_path / "events.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=50)
    assert done.stdout == "later\n", done.stderr
    (line,) = path.read_bytes().splitlines()
    assert cloudevents.parse_structured(line).type == "t"


def test_file_sink_begins_anew(tmp_path):
    """At its largest the file becomes NAME.1, and no event is lost between them."""
    from headrace.monitoring.sinks.file import File

    events = [cloudevents.event({"x": "y"}, type="t", source="/s", id=str(at)) for at in range(5)]
    sink = File(tmp_path / "e", largest_bytes=3 * len(cloudevents.structured(events[0])))
    for event in events:
        sink.send(event)
    lines = (tmp_path / "e.1").read_bytes() + (tmp_path / "e").read_bytes()
    assert [cloudevents.parse_structured(line).id for line in lines.splitlines()] == list("01234")


def test_sinks_speak_by_scheme(tmp_path):
    """A path and file:// name the same kind of sink."""
    event = cloudevents.event({}, type="t", source="/s")
    for address in (str(tmp_path / "a"), f"file://{tmp_path}/a"):
        open_sink(address, setting="x").send(event)
    assert len((tmp_path / "a").read_bytes().splitlines()) == 2
