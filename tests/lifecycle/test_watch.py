"""Objects that come into folders and buckets, each answered once: by one watcher, by several, after kills and changes.

What answers here copies the object in capitals; jobs of models are in the tests of the command and of the function.
"""

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.errors import ArtifactCorrupt, ArtifactDenied, ArtifactUnreachable, InvalidRequest, SettingsError
from headrace.lifecycle.batch.base import Outcome
from headrace.lifecycle.watch import places
from headrace.lifecycle.watch import watch as watch_
from headrace.lifecycle.watch.claims import Busy, Claim, Claims, Held
from headrace.lifecycle.watch.ledger import Ledger
from headrace.lifecycle.watch.watch import Options, Stopped, Watch

WAIT_SECONDS = 60


class Copier:
    """Answers by copying in capitals, and counts; `before` is called first with the name and the try's number."""

    def __init__(self, before=None):
        self.asked = Counter()
        self.before = before
        self.mutex = threading.Lock()

    def __call__(self, info, output, cancel):
        name = info.path.rpartition("/")[2]
        with self.mutex:
            self.asked[name] += 1
            tried = self.asked[name]
        if self.before is not None:
            self.before(name, tried, cancel)
        where, path = uri.split(info.uri)
        data = objects_.open_objects(where).read(path)
        where, path = uri.split(output)
        objects_.open_objects(where).put(path, data.upper())
        return Outcome(rows=1, answered=1, files=1, outputs=(output,))


def options(source, target, **more):
    given = {"first_pause_seconds": 0.01, "settle_seconds": 0.0, "poll_seconds": 0.1, "concurrency": 2}
    return Options(inputs=(str(source),), output=str(target), **(given | more))


def watch_once(ledger, answer, given, **more):
    return Watch(given, ledger=ledger, answer=answer, job="job", **more).run(once=True)


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tmp_path / "out"


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def running():
    """Runs a watcher in a thread until the test ends; its tally is in `tallies` by then."""
    begun = []

    def run(watch, *, once=False):
        thread = threading.Thread(target=lambda: begun[-1][2].append(watch.run(once=once)))
        begun.append((watch, thread, []))
        thread.start()
        return begun[-1]

    yield run
    for watch, thread, _ in begun:
        watch.stop()
        watch.stop()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def until(condition, what):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def states(ledger):
    return {row.key: row.state for row in ledger.rows()}


def outputs(folder):
    return {path.name: path.read_text() for path in Path(folder).rglob("*.csv")}


def event(bucket, key, etag=""):
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": etag}},
    }
    return json.dumps({"Records": [record]})


def test_once_each(folders, ledger):
    """What is there is answered once; a second run finds nothing to do, and a new file alone is answered then."""
    source, target = folders
    for name in "abc":
        (source / f"{name}.csv").write_text(name)
    (source / "notes.txt").write_text("no rows")
    (source / ".hidden.csv").write_text("no")
    answer = Copier()
    assert watch_once(ledger, answer, options(source, target)).done == 3
    (source / "d.csv").write_text("d")
    assert watch_once(ledger, answer, options(source, target)).done == 1
    assert answer.asked == {"a.csv": 1, "b.csv": 1, "c.csv": 1, "d.csv": 1}
    assert outputs(target) == {f"{name}.csv": name.upper() for name in "abcd"}


def test_lost_ledger(folders, tmp_path):
    """With the ledger gone, what is done is known from the claims beside the output, and is not answered again."""
    source, target = folders
    (source / "a.csv").write_text("a")
    answer = Copier()
    for name in ("one.db", "two.db"):
        with Ledger(tmp_path / name) as ledger:
            tally = watch_once(ledger, answer, options(source, target))
            assert states(ledger) == {"a.csv": "done"}
            assert ledger.rows()[0].outcome.rows == 1
    assert (tally.done, tally.elsewhere, answer.asked["a.csv"]) == (0, 1, 1)


def test_another_job(folders, tmp_path):
    """A claim of another model or of other options is not ours: with a new ledger, all is answered anew."""
    source, target = folders
    (source / "a.csv").write_text("a")
    answer = Copier()
    for job in ("one", "two"):
        with Ledger(tmp_path / f"{job}.db") as ledger:
            tally = Watch(options(source, target), ledger=ledger, answer=answer, job=job).run(once=True)
            assert tally.done == 1
    assert answer.asked["a.csv"] == 2


def test_several_machines(s3, tmp_path, running):
    """Watchers that share a bucket and nothing else answer each object once between them."""
    bucket = s3.bucket()
    client = s3.client()
    names = [f"{at:02}.csv" for at in range(24)]
    for name in names:
        client.put_object(Bucket=bucket, Key=f"in/{name}", Body=name.encode())
    answer = Copier()
    given = options(f"s3://{bucket}/in/", f"s3://{bucket}/out", lease_seconds=60.0)
    with Ledger(tmp_path / "1.db") as one, Ledger(tmp_path / "2.db") as two:
        done = [running(Watch(given, ledger=each, answer=answer, job="job"), once=True) for each in (one, two)]
        for _, thread, _ in done:
            thread.join(WAIT_SECONDS)
        tallies = [tally for _, _, found in done for tally in found]
    assert answer.asked == dict.fromkeys(names, 1)
    assert sum(tally.done for tally in tallies) == len(names)
    listed = client.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]
    assert sorted(each["Key"][4:] for each in listed if each["Key"].endswith(".csv")) == names


def test_events(s3, ledger, running):
    """Events alone are enough: each makes the watcher look, once, and keys with odd letters are found."""
    bucket = s3.bucket()
    key = "in/a b+ü%[1].csv"
    etag = s3.client().put_object(Bucket=bucket, Key=key, Body=b"a")["ETag"].strip('"')
    answer = Copier()
    watch = Watch(
        options(f"s3://{bucket}/in/", f"s3://{bucket}/out/", poll_seconds=0), ledger=ledger, answer=answer, job="job"
    )
    running(watch)
    quoted = "in/a+b%2B%C3%BC%25%5B1%5D.csv"
    assert watch.offer(event(bucket, quoted, etag), source="sqs").fresh == 1
    assert watch.offer(event(bucket, quoted, etag), source="webhook").known == 1
    assert watch.offer(event("another", quoted, etag), source="sqs").ignored == 1
    assert watch.offer(event(bucket, "in/notes.txt", etag), source="sqs").ignored == 1
    until(lambda: set(states(ledger).values()) == {"done"}, "an event was not heeded")
    watch.offer(event(bucket, quoted), source="kafka")  # without an etag: it is looked at, and known
    watch.offer(event(bucket, "in/absent.csv", "0"), source="sqs")
    until(lambda: states(ledger) == {key: "done", "in/absent.csv": "gone"}, states(ledger))
    assert answer.asked == {key[3:]: 1}
    assert s3.client().get_object(Bucket=bucket, Key="out/a b+ü%[1].csv")["Body"].read() == b"A"


def test_malformed_events(folders, ledger):
    """A message that nobody understands is kept as a dead letter with its cause, and the rest of it is heeded."""
    source, target = folders
    watch = Watch(options(source, target), ledger=ledger, answer=Copier(), job="job")
    assert watch.offer(b"{", source="webhook").malformed
    good = json.loads(event("b", "k.csv"))["Records"][0]
    heard = watch.offer(json.dumps({"Records": [good, {"s3": {}}]}), source="sqs")
    assert (heard.ignored, len(heard.malformed)) == (1, 1)
    assert [letter.source for letter in ledger.letters()] == ["sqs", "webhook"]


def test_changed_while_read(folders, ledger):
    """An object that is replaced while it is read is no failure: what replaced it is answered, later."""
    source, target = folders
    (source / "a.csv").write_text("half")

    def before(name, tried, cancel):
        if tried == 1:
            (source / name).write_text("half and half")
            raise ArtifactCorrupt(f"{name} changed while it was read")

    answer = Copier(before)
    tally = watch_once(ledger, answer, options(source, target))
    assert outputs(target) == {"a.csv": "HALF AND HALF"}
    assert (tally.done, tally.failed, tally.dead) == (1, 0, 0)
    assert Counter(row.state for row in ledger.rows()) == {"superseded": 1, "done": 1}


def test_half_written(folders, ledger):
    """A file of a folder that was written a moment ago is left alone until it was not for a while."""
    source, target = folders
    (source / "a.csv").write_text("a")
    future = time.time() + 3600
    os.utime(source / "a.csv", (future, future))
    watch = Watch(options(source, target, settle_seconds=60.0), ledger=ledger, answer=Copier(), job="job")
    assert watch.poll() == (0, 1)
    os.utime(source / "a.csv", (1, 1))
    assert watch.poll() == (1, 0)


def test_replaced(folders, ledger):
    """A file that is written again is answered again, over its output; one that is back as it was, too."""
    source, target = folders
    file = source / "a.csv"
    answer = Copier()
    for text in ("one", "two", "one"):
        kept = file.with_name("a.new")
        kept.write_text(text)
        kept.replace(file)
        watch_once(ledger, answer, options(source, target))
        assert outputs(target) == {"a.csv": text.upper()}
    assert answer.asked["a.csv"] == 3


def test_retried_then_dead(folders, ledger):
    """An object that fails is tried again as often as was said, then is dead with the last cause; others go on."""
    source, target = folders
    for name in ("a", "b", "c"):
        (source / f"{name}.csv").write_text(name)

    def before(name, tried, cancel):
        if name == "a.csv":
            raise ArtifactDenied(f"no, for the {tried}. time")
        if name == "b.csv" and tried < 3:
            raise RuntimeError("a defect")

    answer = Copier(before)
    tally = watch_once(ledger, answer, options(source, target, retries=2))
    assert answer.asked == {"a.csv": 3, "b.csv": 3, "c.csv": 1}
    assert (tally.done, tally.dead) == (2, 1)
    (dead,) = ledger.rows("dead")
    assert (dead.key, dead.error, dead.attempts) == ("a.csv", "no, for the 3. time", 3)


def test_hopeless(folders, ledger):
    """What can never be answered is dead at once: its columns do not fit the model."""
    source, target = folders
    (source / "a.csv").write_text("a")

    def before(name, tried, cancel):
        raise InvalidRequest("no column x")

    answer = Copier(before)
    assert watch_once(ledger, answer, options(source, target)).dead == 1
    assert answer.asked["a.csv"] == 1


def test_store_away(folders, ledger, running):
    """While a store is away nothing dies of it, however often it is tried."""
    source, target = folders
    (source / "a.csv").write_text("a")

    def before(name, tried, cancel):
        if tried < 6:
            raise ArtifactUnreachable("away")

    answer = Copier(before)
    running(Watch(options(source, target, retries=1), ledger=ledger, answer=answer, job="job"))
    until(lambda: states(ledger) == {"a.csv": "done"}, "it was given up")
    assert answer.asked["a.csv"] == 6


class Away(Watch):
    """A watcher whose store is away for its first looks."""

    def __init__(self, *args, away, **options):
        super().__init__(*args, **options)
        self.away = list(away)

    def check(self):
        if self.away:
            raise ArtifactUnreachable(self.away.pop(0))
        super().check()


def test_store_away_at_the_start(folders, ledger, running, caplog):
    """A watcher that is begun again waits for a store that is away, and says why only when that changes."""
    source, target = folders
    ledger.begin()
    (source / "a.csv").write_text("a")
    given = options(source, target, first_pause_seconds=0.001)
    running(Away(given, ledger=ledger, answer=Copier(), job="job", away=["refused", "refused", "too slow", "refused"]))
    until(lambda: states(ledger) == {"a.csv": "done"}, "it waited for ever")
    said = [each.getMessage().partition(";")[0] for each in caplog.records if "it is asked again" in each.getMessage()]
    assert said == ["refused", "too slow", "refused"]


def test_stop_while_the_store_is_away(folders, ledger, running, monkeypatch):
    """However long a watcher waits for its store by now, it stops when it is told to."""
    monkeypatch.setattr(watch_, "_LONGEST_AWAY_SECONDS", 3600)
    ledger.begin()
    given = options(*folders, first_pause_seconds=3600)
    watch, _, _ = running(Away(given, ledger=ledger, answer=Copier(), job="job", away=["refused"] * 9))
    until(lambda: len(watch.away) == 8, "it did not look")  # the fixture stops it, and waits for its end


def test_store_away_once(folders, ledger):
    """A run that is to end ends although a store is away, and says what is left."""
    source, target = folders
    (source / "a.csv").write_text("a")

    def before(name, tried, cancel):
        raise ArtifactUnreachable("away")

    tally = watch_once(ledger, Copier(before), options(source, target, retries=1))
    assert (tally.done, tally.dead, tally.left) == (0, 0, 1)
    assert states(ledger) == {"a.csv": "failed"}


def test_stop_drains(folders, ledger, running):
    """Told to stop, a watcher ends what it is answering and begins nothing more."""
    source, target = folders
    for name in ("a", "b"):
        (source / f"{name}.csv").write_text(name)
    begun, go = threading.Event(), threading.Event()

    def before(name, tried, cancel):
        begun.set()
        assert go.wait(WAIT_SECONDS)

    watch = Watch(options(source, target, concurrency=1), ledger=ledger, answer=Copier(before), job="job")
    _, thread, tallies = running(watch)
    assert begun.wait(WAIT_SECONDS)
    watch.stop()
    go.set()
    thread.join(WAIT_SECONDS)
    assert tallies[0].done == 1
    assert sorted(states(ledger).values()) == ["done", "pending"]


def test_stop_twice(folders, ledger, running):
    """Told twice, it stops at once, and what it was answering is pending and can be claimed at once."""
    source, target = folders
    (source / "a.csv").write_text("a")
    begun = threading.Event()

    def before(name, tried, cancel):
        begun.set()
        if tried == 1:
            assert cancel.wait(WAIT_SECONDS)
            raise Stopped

    answer = Copier(before)
    watch = Watch(options(source, target), ledger=ledger, answer=answer, job="job")
    _, thread, _ = running(watch)
    assert begun.wait(WAIT_SECONDS)
    watch.stop()
    watch.stop()
    thread.join(WAIT_SECONDS)
    assert states(ledger) == {"a.csv": "pending"}
    assert watch_once(ledger, answer, options(source, target)).done == 1


def test_lost_claim(folders, ledger, running):
    """Whose claim was taken over stops at once, and does not say that it is done."""
    source, target = folders
    (source / "a.csv").write_text("a")
    begun, stopped = threading.Event(), threading.Event()

    def before(name, tried, cancel):
        begun.set()
        assert cancel.wait(WAIT_SECONDS)
        stopped.set()
        raise Stopped

    running(Watch(options(source, target, lease_seconds=0.4), ledger=ledger, answer=Copier(before), job="job"))
    assert begun.wait(WAIT_SECONDS)
    (claim,) = (target / "_headrace" / "claims").glob("*.json")
    taken = json.loads(claim.read_text()) | {"owner": "another", "beat": 1000}
    objects_.open_objects(str(target)).put(f"_headrace/claims/{claim.name}", json.dumps(taken).encode())
    assert stopped.wait(WAIT_SECONDS)
    until(lambda: states(ledger) == {"a.csv": "pending"}, states(ledger))
    assert outputs(target) == {}


def test_start_latest(folders, ledger):
    """A watcher that begins with what comes leaves alone what is there, also when it begins again."""
    source, target = folders
    (source / "old.csv").write_text("old")
    answer = Copier()
    given = options(source, target, start="latest")
    assert watch_once(ledger, answer, given).done == 0
    (source / "new.csv").write_text("new")
    assert watch_once(ledger, answer, given).done == 1
    assert answer.asked == {"new.csv": 1}


def test_not_writable(folders, ledger):
    """An output that cannot be written is told before anything is read."""
    source, target = folders
    (source / "a.csv").write_text("a")
    target.write_text("a file, where a folder is wanted")
    answer = Copier()
    with pytest.raises(Exception, match="out"):
        watch_once(ledger, answer, options(source, target))
    assert not answer.asked


# -- claims --


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    if request.param == "file":
        return objects_.open_objects(str(tmp_path / "claims"))
    server = request.getfixturevalue("s3")
    return objects_.open_objects(f"s3://{server.bucket()}/out")


def claims(store, owner, clock, job="job"):
    return Claims(store, owner=owner, job=job, lease_seconds=60.0, clock=clock)


def test_claims(store):
    """One watcher has an object until its claim stood still for a lease as others saw it; who is late is told so."""
    clock = Clock()
    one, two = claims(store, "one", clock), claims(store, "two", clock)
    held = one.take("s3://in/a", "1")
    assert isinstance(held, Held)
    assert isinstance(two.take("s3://in/a", "1"), Busy)
    clock.now = 59.0
    held = one.renew(held)
    assert isinstance(two.take("s3://in/a", "1"), Busy)
    clock.now = 61.0
    assert isinstance(two.take("s3://in/a", "1"), Busy)
    clock.now = 120.0
    taken = two.take("s3://in/a", "1")
    assert isinstance(taken, Held)
    assert one.renew(held) is None
    one.settle(held, output="x", outcome=Outcome(rows=1))
    two.settle(taken, output="y", outcome=Outcome(rows=2))
    done = one.take("s3://in/a", "1")
    assert isinstance(done, Claim)
    assert (done.owner, done.output, done.outcome.rows) == ("two", "y", 2)
    assert isinstance(one.take("s3://in/a", "2"), Held)


def test_claims_of_the_gone(store):
    """The claim of a watcher that is known to be gone, or that let go of it, is taken over without waiting."""
    one, two = claims(store, "one", Clock()), claims(store, "two", Clock())
    one.take("s3://in/a", "1")
    held = two.take("s3://in/a", "1", gone={"one"})
    assert isinstance(held, Held)
    two.settle(held)
    assert isinstance(one.take("s3://in/a", "1"), Held)


def test_claims_at_once(store):
    """Of many that claim at the same moment, one gets it."""
    found = []
    watchers = [claims(store, f"w{at}", Clock()) for at in range(6)]
    threads = [
        threading.Thread(target=lambda each=each: found.append(each.take("s3://in/a", "1"))) for each in watchers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(type(each) for each in found) == {Held: 1, Busy: 5}


def test_foreign_claim(store):
    """What stands in a claim's place and is none does not keep the object from being answered."""
    one = claims(store, "one", Clock())
    held = one.take("s3://in/a", "1")
    (info,) = list(store.list("_headrace"))
    store.put(info.path, b"not a claim")
    assert one.renew(held) is None
    assert isinstance(one.take("s3://in/a", "1"), Held)


# -- what is watched, and how outputs are named --


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("s3://b/", "s3://b/out/"),
        ("s3://b", "s3://b"),
        ("s3://b/in/", "s3://b/in/out"),
        ("s3://b/in/*.csv", "s3://b/in/out"),
        ("in", "in/out"),
        ("in/*.csv", "in"),
        ("/", "/srv/out"),
    ],
)
def test_output_within_input(source, target):
    """An output that would be read again is refused before anything is done."""
    with pytest.raises(SettingsError, match="without end"):
        places.watched(source, target)


@pytest.mark.parametrize(
    ("source", "target"),
    [("s3://b/in/", "s3://b/in-out/"), ("s3://b/in", "gs://b/in/"), ("in", "out"), ("in", "in-out"), ("in", "s3://in")],
)
def test_output_beside_input(source, target):
    """An output beside the input, or elsewhere, is as good as any."""
    assert places.watched(source, target)


def test_not_watchable():
    """A web server has no listing, and is refused with what can be watched."""
    with pytest.raises(SettingsError, match="cannot be watched"):
        places.watched("https://example.org/in/", "out")


@pytest.mark.parametrize(
    ("source", "bucket", "key", "path"),
    [
        ("s3://b/in/", "s3://b", "in/x/a.csv", "x/a.csv"),
        ("s3://b/in", "s3://b", "in/a.parquet", "a.parquet"),
        ("s3a://b/in", "s3://b", "in/a.csv.gz", "a.csv.gz"),
        ("s3://b/in", "s3://b", "inside/a.csv", ""),
        ("s3://b/in", "gs://b", "in/a.csv", ""),
        ("s3://b/in", "s3://c", "in/a.csv", ""),
        ("s3://b/in/", "s3://b", "in/a.txt", ""),
        ("s3://b/in/", "s3://b", "in/_a.csv", ""),
        ("s3://b/in/", "s3://b", "in/", ""),
        ("s3://b/in/", "s3://b", "in/../a.csv", ""),
        ("s3://b/in/*.txt", "s3://b", "in/a.txt", "a.txt"),
        ("s3://b/in/*.txt", "s3://b", "in/x/a.txt", ""),
        ("s3://b/in/**/*.csv", "s3://b", "in/x/y/a.csv", "x/y/a.csv"),
        ("mine://b/in/", "s3://b", "in/a.csv", "a.csv"),
    ],
)
def test_watched(source, bucket, key, path):
    """An object is one of those that are watched by bucket, prefix and glob; without a glob, by its format."""
    assert places.watched(source, "s3://elsewhere/").path(bucket, key) == path


@pytest.mark.parametrize(
    ("template", "path", "format_", "expected"),
    [
        ("{path}", "x/a.csv", "auto", "x/a.csv"),
        ("{path}", "x/a.csv.gz", "parquet", "x/a.parquet"),
        ("{path}", "a.csv", "csv", "a.csv"),
        ("{folder}/{stem}.{etag}{suffix}", "x/a.csv.gz", "auto", "x/a.e-1.csv.gz"),
        ("{folder}/{stem}{suffix}", "a.csv", "auto", "a.csv"),
        ("scores/{path}", "a.csv", "auto", "scores/a.csv"),
    ],
)
def test_names(template, path, format_, expected):
    """An output is named by its object alone, and by what was asked for."""
    assert places.output_path(places.checked_name(template), path, '"e-1"', format_) == expected


@pytest.mark.parametrize("template", ["out.csv", "{key}", "/{path}", "../{path}", "{etag}.csv"])
def test_bad_names(template):
    """A name that all outputs would share, that leads out, or whose fields nobody knows is refused."""
    with pytest.raises(SettingsError):
        places.checked_name(template)
