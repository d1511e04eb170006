"""What waits on disk. Matrix: puts, ends, kills and restarts in any order x files of one and of many items; a full
folder, a half-written record, a damaged one, a folder that another process has, one that cannot be. Left out: power
cuts, which may take the newest items.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.monitoring.receivers import receiver

from headrace.errors import SettingsError, Temporary
from headrace.monitoring.backlog import Backlog
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.outbox import Item, Outbox
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings
from headrace.protocols import cloudevents


def opened(folder, most_bytes=100_000):
    backlog = Backlog(folder, most_bytes=most_bytes, setting="test.spool")
    return backlog, backlog.open()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.binary(max_size=300)),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("restart"), st.booleans()),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS, file_bytes=st.sampled_from([50, 1000, 100_000]))
def test_what_waits(tmp_path_factory, steps, file_bytes):
    """Whatever is put, ended, closed or killed: what waits after a restart is what did not end, in order."""
    folder = tmp_path_factory.mktemp("backlog")
    backlog, places = opened(folder, 8 * file_bytes + 100_000)
    backlog._file_bytes = file_bytes
    waiting = []
    for at, (step, value) in enumerate(steps):
        if step == "put":
            waiting.append((backlog.put(value, float(at)), value))
        elif step == "end" and waiting:
            place, _ = waiting.pop(value % len(waiting))
            backlog.end(place)
        elif step == "restart":
            if value:
                backlog.close()
            else:  # as a kill: nothing but the lock is let go
                os.close(backlog._lock)
            backlog, places = opened(folder, 8 * file_bytes + 100_000)
            backlog._file_bytes = file_bytes
            assert [backlog.read(place) for place in places] == [body for _, body in waiting]
            waiting = [(place, body) for place, (_, body) in zip(places, waiting, strict=True)]
    for place, body in waiting:
        assert backlog.read(place) == body
        backlog.end(place)
    backlog.close()
    assert not list(folder.glob("0/*.log"))
    assert not list(folder.glob("0/*.end"))


def test_a_full_folder(tmp_path):
    """What finds no room is not taken, and the files never hold more than their bound; room comes back."""
    backlog, _ = opened(tmp_path, 8000)
    places = []
    while (place := backlog.put(b"x" * 100, 1.0)) is not None:
        places.append(place)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.log")) <= 8000
    assert len(places) == 8000 // 116
    for place in places:
        backlog.end(place)
    assert backlog.put(b"x" * 100, 1.0) is not None
    backlog.close()


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_end(tmp_path, damage):
    """A record that is half there, or not as it was written, is cut off; those before it wait, and others can follow."""
    backlog, _ = opened(tmp_path)
    backlog.put(b"first", 1.0)
    backlog.put(b"second", 2.0)
    os.close(backlog._lock)
    (path,) = tmp_path.glob("0/*.log")
    data = path.read_bytes()
    path.write_bytes(data[:-3] if damage == "cut" else data[:-3] + b"???")
    backlog, places = opened(tmp_path)
    assert [backlog.read(place) for place in places] == [b"first"]
    backlog.put(b"third", 3.0)
    os.close(backlog._lock)
    backlog, places = opened(tmp_path)
    assert [backlog.read(place) for place in places] == [b"first", b"third"]
    backlog.close()


def test_two_processes_and_what_a_dead_one_left(tmp_path):
    """Two that share a folder have one each; what both left is taken over by the next."""
    one, _ = opened(tmp_path)
    two, places = opened(tmp_path)
    assert places == []
    one.put(b"of one", 1.0)
    two.put(b"of two", 2.0)
    ended = two.put(b"sent", 3.0)
    two.end(ended)
    for each in (one, two):
        os.close(each._lock)
    three, places = opened(tmp_path)
    assert [three.read(place) for place in places] == [b"of one", b"of two"]
    three.close()


def test_a_folder_that_cannot_be(tmp_path):
    """A folder that is a file is refused, by its setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"test\.spool: .*file cannot be used"):
        opened(tmp_path / "file")


def boxed(folder, deliver, **options):
    chosen = {"most_items": 1000, "most_bytes": 1000, "deadline_seconds": 60, "first_delay": 0.01, **options}
    return Outbox("test", deliver, backlog=Backlog(folder, most_bytes=100_000, setting="test.spool"), **chosen)


def test_more_than_memory_takes(tmp_path):
    """With a backlog, what waits is bounded by the disk: bodies of many times the memory's bound wait and are sent."""
    sent = []
    box = boxed(tmp_path, lambda item: sent.append(item.body))
    bodies = [b"%03d" % at * 100 for at in range(200)]
    assert all(box.put(Item(key="", body=body)) for body in bodies)
    box.open()
    assert box.settle(20)
    box.close(1)
    assert sent == bodies
    assert (box.counts.sent, box.counts.dropped) == (200, 0)


def test_many_at_once(tmp_path):
    """Of items that are sent together, those that fail for now are sent again, those that fail for good are not, and
    each is counted.
    """
    tries = []

    def deliver_many(items):
        tries.append([item.body for item in items])
        fail = {b"later": Temporary("later"), b"never": SettingsError("never")}
        return [fail.get(item.body) if len(tries) == 1 or item.body == b"never" else None for item in items]

    def deliver(item):
        (error,) = deliver_many([item])
        if error is not None:
            raise error

    box = boxed(tmp_path, deliver, deliver_many=deliver_many, most_at_once=10)
    for body in (b"now", b"later", b"never"):
        box.put(Item(key="", body=body))
    box.open()
    assert box.settle(20)
    box.close(1)
    assert tries == [[b"now", b"later", b"never"], [b"later"]]
    assert (box.counts.sent, box.counts.failed, box.counts.retried) == (2, 1, 1)
    assert not list(tmp_path.rglob("*.log"))


def test_what_the_disk_does_not_give_back(tmp_path):
    """An item whose bytes are gone has failed: nobody waits for it, and the next server does not meet it."""
    sent = []
    box = boxed(tmp_path, lambda item: sent.append(item.body))
    assert box.put(Item(key="", body=b"x" * 100))
    (log,) = tmp_path.rglob("*.log")
    os.truncate(log, 50)
    box.open()
    assert box.settle(20)
    assert (box.counts.sent, box.counts.failed, sent) == (0, 1, [])
    box.close(1)
    assert not list(tmp_path.rglob("*.log"))


def test_a_full_disk_is_counted(tmp_path):
    """What the spool has no room for is dropped and counted; what it took arrives once somebody listens."""
    down = [True]
    sent = []

    def deliver(item):
        if down[0]:
            raise Temporary("down")
        sent.append(item.body)

    box = Outbox(
        "test",
        deliver,
        most_items=1000,
        most_bytes=1000,
        deadline_seconds=60,
        first_delay=0.01,
        backlog=Backlog(tmp_path, most_bytes=8000, setting="test.spool"),
    )
    box.open()
    taken = [box.put(Item(key="", body=b"x" * 1000)) for _ in range(20)]
    assert sum(taken) == 8000 // 1016
    assert box.counts.dropped == 20 - sum(taken)
    down[0] = False
    assert box.settle(20)
    box.close(1)
    assert len(sent) == sum(taken)


KILLED = """
import sys, threading
import numpy as np
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings
from headrace.payload import Tensor
log = PayloadLog(PayloadSettings(mode="request", sink=sys.argv[1], spool=sys.argv[2], flush_seconds=3600))
log.open()
for at in range(10**6):
    log.take([Exchange(id=f"r{at}", model="iris", version="1", time=1.0, seconds=0.1,
                       inputs=(Tensor("x", "FP64", np.zeros(2)),), outputs=())])
    log.flush()
    print(at, flush=True)
"""


def test_payload_events_survive_a_kill(tmp_path):
    """Payload events that were taken while nobody listened, by a process that was killed, are all sent by the next."""
    with receiver() as sink:
        port = sink.port
    spool = str(tmp_path / "spool")
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, f"http://127.0.0.1:{port}", spool], stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in killed.stdout:
        lines.append(int(line))
        if len(lines) == 300:
            killed.send_signal(signal.SIGKILL)
            break
    lines += [int(line) for line in killed.stdout if line.strip().isdecimal()]
    killed.wait(60)
    killed.stdout.close()
    with receiver(port) as sink:
        log = PayloadLog(PayloadSettings(mode="request", sink=sink.url, spool=spool, event_mode="structured"))
        log.open()
        log.take([Exchange(id="last", model="iris", version="1", time=time.time(), seconds=0, inputs=(), outputs=())])
        log.flush()
        found = sink.wait(len(lines) + 1, timeout=50)
        log.close()
    ids = [cloudevents.parse(*each).id for each in found]
    assert {f"r{at}" for at in lines} | {"last"} <= set(ids)
    assert all(headers["content-type"].startswith("application/cloudevents+json") for headers, _ in found)
    assert not list((tmp_path / "spool").rglob("*.log"))
