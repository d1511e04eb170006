"""What is known of every object, and what became of it."""

import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace.errors import SettingsError, Temporary
from headrace.lifecycle.batch.base import Outcome
from headrace.lifecycle.watch.events import Malformed, ObjectCreated
from headrace.lifecycle.watch.ledger import Ledger

NOW = 1_000.0


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


def created(key="a.csv", etag="1", **more):
    return ObjectCreated(bucket="s3://in", key=key, etag=etag, **more)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger(tmp_path / "ledger.db", clock=clock) as opened:
        yield opened


def test_kept_across_restarts(tmp_path):
    """What was heard, done and not understood is there when the file is opened again."""
    outcome = Outcome(rows=3, answered=2, rejected=1)
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.add([created("a.csv", size=7, event_id="e"), created("b.csv")], source="sqs") == 2
        ledger.settle(ledger.take(), "done", outcome=outcome, output="s3://out/a.csv")
        ledger.letter(Malformed(reason="expected JSON", text="{"), source="webhook")
    with Ledger(tmp_path / "l.db") as ledger:
        (done,) = ledger.rows("done")
        assert (done.uri, done.key, done.size, done.event_id, done.source) == (
            "s3://in/a.csv",
            "a.csv",
            7,
            "e",
            "sqs",
        )
        assert (done.outcome, done.output) == (outcome, "s3://out/a.csv")
        assert [row.uri for row in ledger.rows("pending")] == ["s3://in/b.csv"]
        assert [(each.source, each.reason, each.text) for each in ledger.letters()] == [
            ("webhook", "expected JSON", "{")
        ]


def test_same_object_is_one(ledger):
    """However often and by whomever an object is told of, it is taken once."""
    assert ledger.add([created(), created()], source="poll") == 1
    assert ledger.add([created()], source="sqs") == 0
    row = ledger.take()
    assert ledger.add([created()], source="sqs") == 0
    ledger.settle(row, "done")
    assert ledger.add([created()], source="poll") == 0
    assert ledger.take() is None


def test_back_again(ledger):
    """An object that is back as it was, after it was another, is answered again; an old event of it alone changes
    nothing that is done.
    """
    for etag in ("1", "2"):
        ledger.add([created(etag=etag)], source="poll")
        ledger.settle(ledger.take(), "done")
    assert ledger.add([created(etag="2")], source="poll") == 0
    assert ledger.add([created(etag="1")], source="poll") == 1
    assert ledger.take().etag == "1"


def test_one_at_a_time(ledger):
    """Of one uri never two etags are being answered."""
    ledger.add([created(etag="1"), created(etag="2")], source="poll")
    first = ledger.take()
    assert ledger.take() is None
    ledger.settle(first, "done")
    assert ledger.take().etag == "2"


def test_back_off(ledger, clock):
    """An object that failed is left alone for as long as was said, and others are taken meanwhile."""
    ledger.add([created("a"), created("b")], source="poll")
    ledger.settle(ledger.take(), "failed", error="no", attempts=1, after_seconds=10)
    assert ledger.take().key == "b"
    assert ledger.take() is None
    assert ledger.wait_seconds() == 10
    clock.now += 10
    again = ledger.take()
    assert (again.key, again.attempts, again.error) == ("a", 1, "no")


def test_revive(ledger):
    """What is dead stays dead when it is told of, and gets another try when somebody asks for it."""
    ledger.add([created()], source="poll")
    ledger.settle(ledger.take(), "dead", error="no", attempts=6)
    assert ledger.add([created()], source="sqs") == 0
    assert ledger.take() is None
    assert ledger.revive() == 1
    assert ledger.take().attempts == 0


def test_identify(ledger):
    """What is found under a uri decides: an event without an etag gets it, one of a replaced object is superseded, and
    what is done already is not taken twice.
    """
    ledger.add([created(etag="")], source="kafka")
    taken = ledger.identify(ledger.take(), "1", 5)
    assert (taken.etag, taken.size) == ("1", 5)
    ledger.settle(taken, "done")
    ledger.add([created(etag="")], source="kafka")
    assert ledger.identify(ledger.take(), "1", 5) is None
    ledger.add([created(etag="0")], source="sqs")
    other = ledger.identify(ledger.take(), "2", 6)
    assert other.etag == "2"
    assert {row.etag: row.state for row in ledger.rows()} == {"0": "superseded", "1": "done", "2": "running"}


def test_who_lives_keeps(tmp_path, ledger):
    """What another living watcher is at stays its own; when it closes, or is killed, others take it."""
    ledger.add([created("a"), created("b")], source="poll")
    code = (
        "import sys; from headrace.lifecycle.watch.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1]); ledger.open(); print(ledger.take().key, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(ledger.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "a\n"
        assert ledger.recover() == frozenset()
        assert ledger.take().key == "b"
        other.kill()
        other.wait()
    (gone,) = ledger.recover()
    assert str(other.pid) in gone
    assert ledger.take().key == "a"
    with Ledger(ledger.path) as third:
        third.add([created("c")], source="poll")
        third.take()
    assert ledger.take() is None
    assert len(ledger.recover()) == 1
    assert ledger.take().key == "c"


def test_settled_by_its_owner_only(ledger):
    """A watcher that lost an object to another cannot say what became of it."""
    ledger.add([created()], source="poll")
    row = ledger.take()
    with Ledger(ledger.path) as other:
        other.settle(row, "done")
        assert [each.state for each in other.rows()] == ["running"]


def test_many_threads_and_watchers(tmp_path):
    """Several watchers with several threads take each object exactly once."""
    keys = [f"{at}.csv" for at in range(60)]
    taken, mutex = [], threading.Lock()

    def work(ledger):
        while (row := ledger.take()) is not None:
            with mutex:
                taken.append(row.key)
            ledger.settle(row, "done")

    with Ledger(tmp_path / "l.db") as one, Ledger(tmp_path / "l.db") as two:
        one.add([created(key) for key in keys], source="poll")
        threads = [threading.Thread(target=work, args=(each,)) for each in (one, two, one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == sorted(keys)


def test_letters_are_bounded(ledger, monkeypatch):
    """Messages that nobody understands do not fill the disk: the oldest go."""
    monkeypatch.setattr("headrace.lifecycle.watch.ledger._LETTERS_KEPT", 3)
    for at in range(5):
        ledger.letter(Malformed(reason=str(at), text=""), source="webhook")
    assert [each.reason for each in ledger.letters()] == ["4", "3", "2"]


def test_not_a_ledger(tmp_path):
    """A file that is no ledger is refused by name, with what to do, and stays as it is."""
    text = tmp_path / "text.db"
    text.write_text("this is no database, and it is long enough to be seen as none of them" * 20)
    with pytest.raises(SettingsError, match=r"text\.db cannot be used.*--ledger"):
        Ledger(text).open()
    assert text.read_text().startswith("this is no database")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE x (y)")
    database.close()
    with pytest.raises(SettingsError, match="no ledger"):
        Ledger(other).open()
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(SettingsError, match="newer version"):
        Ledger(newer).open()
    with pytest.raises(SettingsError, match="no ledger at"):
        Ledger(tmp_path / "absent.db").open(reading=True)


def test_closed(ledger):
    """A ledger that was closed says so, and keeps nothing in silence."""
    ledger.close()
    with pytest.raises(Temporary, match="closed"):
        ledger.add([created()], source="poll")


class States(RuleBasedStateMachine):
    """A bucket of two keys that is written to at random, and a watcher that hears of some of it."""

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(f"{self.folder.name}/l.db", clock=Clock())
        self.ledger.open()
        self.bucket, self.output, self.running = {}, {}, []

    def teardown(self):
        self.ledger.close()
        self.folder.cleanup()

    @rule(key=st.sampled_from("ab"), etag=st.sampled_from("12"))
    def write(self, key, etag):
        self.bucket[key] = etag

    @rule(key=st.sampled_from("ab"), etag=st.sampled_from(["", "1", "2"]))
    def tell(self, key, etag):
        self.ledger.add([created(key, etag)], source="sqs")

    @rule()
    def take(self):
        row = self.ledger.take()
        if row is None:
            return
        if row.key not in self.bucket:
            self.ledger.settle(row, "gone")
            return
        row = self.ledger.identify(row, self.bucket[row.key], 1)
        if row is not None:
            self.running.append(row)

    @rule(state=st.sampled_from(["done", "done", "failed"]))
    def settle(self, state):
        if self.running:
            row = self.running.pop()
            if state == "done":
                self.output[row.key] = row.etag
            self.ledger.settle(row, state)

    @rule()
    def drained(self):
        """After a poll and with nothing left to take, every output is that of what is there."""
        while self.running:
            self.settle("done")
        self.ledger.add([created(key, etag) for key, etag in self.bucket.items()], source="poll")
        for _ in range(20):
            self.take()
            self.settle("done")
        assert self.output == self.bucket

    @invariant()
    def one_at_a_time(self):
        keys = [row.key for row in self.running]
        assert len(keys) == len(set(keys))


def test_states():
    """Whatever is written, told, lost and repeated: what a poll leaves done is what is there, one at a time."""
    run_state_machine_as_test(
        States, settings=hypothesis_settings(max_examples=15, stateful_step_count=20, deadline=None)
    )
