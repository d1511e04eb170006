"""What is declared, on disk."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from headrace.control import events as happenings
from headrace.control import plan
from headrace.control import store as stores
from headrace.control.events import Event
from headrace.control.resources import Condition, Metadata, Model, Resolved, Resource, Server, Status
from headrace.control.store import Store
from headrace.errors import NotFound, SettingsError, Temporary
from headrace.graph.spec import Combine, Pipeline, Step


def model(name="a", base="/b", notes=(), labels=None, **spec):
    return Resource(
        kind="Model",
        metadata=Metadata(name=name, labels=labels or {}),
        spec=Model(**({"uri": "u"} | spec)),
        base=base,
        notes=notes,
    )


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "state.db") as opened:
        yield opened


def reopened(store):
    store.close()
    store.open()
    return store


def actions(changes):
    return [(each.name, each.action, each.generation, each.revision) for each in changes]


def test_what_was_applied_is_there_after_a_restart(store):
    """Specs of every shape, labels, base and notes read the same from a file that was closed."""
    pipeline = Resource(kind="Pipeline", metadata=Metadata(name="p"), spec=Pipeline(steps=(Step(name="a"),)))
    given = [model(parameters={"k": [1, None, "x"]}, notes=("n",), labels={"team": "t"}), pipeline]
    store.apply(given)
    before = store.all()
    assert reopened(store).all() == before
    assert before[0].spec == given[0].spec
    assert (before[0].base, before[0].notes, before[0].status.notes) == ("/b", ("n",), ("n",))
    assert before[1].spec == given[1].spec


def test_what_a_uri_stood_for_goes_with_that_uri(store):
    """It is kept by a declaration that leaves it out, and lost by one of another uri that was made of what stood here;
    what a declaration says of its own uri holds.
    """
    old, new = Resolved(uri="s3://b/1", token="1"), Resolved(uri="s3://b/2", token="2")
    store.apply([model(uri="s3://b/latest", resolved=old)])
    store.apply([model(uri="s3://b/latest", idle_seconds=5)])
    assert store.get("Model", "a").spec.resolved == old
    store.apply([model(uri="s3://c/latest", resolved=old)])
    assert store.get("Model", "a").spec.resolved is None
    store.apply([model(uri="s3://b/latest", resolved=new)])
    assert store.get("Model", "a").spec.resolved == new


def test_generation_counts_specs_and_revision_what_is_loaded(store):
    """The same again changes nothing; idle time makes a generation, a uri a revision too, a label neither."""
    assert actions(store.apply([model()])) == [("a", "created", 1, 1)]
    assert actions(store.apply([model()])) == [("a", "unchanged", 1, 1)]
    assert actions(store.apply([model(idle_seconds=5)])) == [("a", "configured", 2, 1)]
    assert actions(store.apply([model(idle_seconds=5, uri="v")])) == [("a", "configured", 3, 2)]
    assert actions(store.apply([model(idle_seconds=5, uri="v", labels={"k": "v"})])) == [("a", "configured", 3, 2)]
    assert actions(store.apply([model(uri="v", base="/c")])) == [("a", "configured", 4, 3)]
    assert {number: each.spec.uri for number, each in store.revisions["a"].items()} == {1: "u", 2: "v", 3: "v"}
    assert reopened(store).revisions["a"][1].spec.idle_seconds == 5


def test_a_folder_counts_only_for_who_looks_beside_the_manifest(store):
    """The same manifest from another folder reloads no model that lies at an address, and keeps where it was from."""
    for uri in ("gs://bucket/iris", "/models/iris"):
        store.apply([model(uri=uri)])
        (change,) = store.apply([model(uri=uri, base="/c")])
        assert (change.action, store.get("Model", "a").base) == ("unchanged", "/b")
    pipeline = Pipeline(steps=(Step(name="s", model="a"),))
    own = Pipeline(steps=(Step(name="s", combine=Combine(type="custom", reference="code.py:f")),))
    assert [plan.looks_beside(each) for each in (pipeline, own, Model(reference="m:C"), Model(uri="iris"))] == [
        False,
        True,
        True,
        True,
    ]


def test_an_apply_is_all_or_nothing(store):
    """Where one of several cannot be written, none is, in memory and on disk."""
    store.apply([model("a")])
    bad = msgspec.structs.replace(model("c"), base=object())
    with pytest.raises(Exception, match="type"):
        store.apply([model("a", uri="v"), model("b"), bad])
    assert [each.spec.uri for each in store.all()] == ["u"]
    assert [each.spec.uri for each in reopened(store).all()] == ["u"]
    assert actions(store.apply([model("a", uri="w")])) == [("a", "configured", 2, 2)]


def test_a_status_that_is_written_between_deciding_and_writing_is_kept(store):
    """What the reconciler writes while an apply is being checked is not undone by that apply."""
    store.apply([model("a"), model("b")])
    prepared = store.prepare([model("a", uri="v")])
    for name in "ab":
        each = store.get("Model", name)
        store.write_statuses({each.key: (each.metadata.uid, Status(ready_revision=1))})
    version = store.resource_version
    store.apply((), prepared=prepared)
    for _ in range(2):
        statuses = [each.status for each in store.all()]
        assert [(each.revision, each.ready_revision) for each in statuses] == [(2, 1), (1, 1)]
        reopened(store)
    assert store.get("Model", "a").metadata.resource_version == version + 1


def test_history_and_rollback_material(store):
    """Each generation is kept with who, when and what, newest first, and can be declared again."""
    for uri in "uvw":
        store.apply([model(uri=uri)], who=f"by {uri}")
    past = store.history("Model", "a")
    assert [(each.generation, each.revision, each.who, each.resource.spec.uri) for each in past] == [
        (3, 3, "by w", "w"),
        (2, 2, "by v", "v"),
        (1, 1, "by u", "u"),
    ]
    assert store.past("Model", "a").spec.uri == "v"
    assert store.past("Model", "a", 1).spec.uri == "u"
    with pytest.raises(NotFound, match="generation 9 is not kept; kept are: 3, 2, 1"):
        store.past("Model", "a", 9)
    with pytest.raises(NotFound, match="never was"):
        store.history("Model", "nobody")


def test_what_was_deleted_can_come_back_and_counts_on(store):
    """A deleted resource keeps its history; one of its name goes on counting, so that no number means two things."""
    store.apply([model()])
    assert actions(store.delete([("Model", "a")])) == [("a", "deleted", 1, 1)]
    with pytest.raises(NotFound):
        store.get("Model", "a")
    assert store.past("Model", "a").spec.uri == "u"
    assert actions(reopened(store).apply([model()])) == [("a", "created", 3, 2)]
    assert [each.action for each in store.history("Model", "a")] == ["created", "deleted", "created"]


def test_history_is_bounded(store):
    """No more than so many generations of one resource are kept, and of revisions only what may be needed."""
    for number in range(stores.HISTORY_KEPT + 7):
        store.apply([model(uri=f"u{number}")])
    assert len(store.history("Model", "a")) == stores.HISTORY_KEPT
    a = store.get("Model", "a")
    status = msgspec.structs.replace(a.status, ready_revision=2)
    store.write_statuses({a.key: (a.metadata.uid, status)})
    assert len(store.revisions["a"]) == stores.HISTORY_KEPT + 1
    assert 2 in reopened(store).revisions["a"]


def test_statuses_survive_and_do_not_touch_the_declaration(store):
    """A status is kept, but for revision and notes, which are the declaration's; a stale one is not written."""
    store.apply([model(notes=("n",))])
    a = store.get("Model", "a")
    ready = Condition(type="Ready", status="True", reason="Loaded")
    store.write_statuses({a.key: (a.metadata.uid, Status(conditions=(ready,), ready_revision=1, revision=99))})
    status = reopened(store).get("Model", "a").status
    assert (status.conditions, status.ready_revision, status.revision, status.notes) == ((ready,), 1, 1, ("n",))
    store.write_statuses({a.key: ("another uid", Status()), ("Model", "gone"): ("x", Status())})
    assert store.get("Model", "a").status == status


def test_every_change_has_a_version_of_its_own(store):
    """`since` tells what changed and what was deleted after a version, statuses too; before the start it cannot."""
    store.apply([model("a"), model("b")])
    version = store.resource_version
    store.apply([model("b", uri="v")])
    store.delete([("Model", "a")])
    changed, deleted = store.since(version)
    assert ([each.metadata.name for each in changed], deleted) == (["b"], [("Model", "a")])
    version = store.resource_version
    b = store.get("Model", "b")
    store.write_statuses({b.key: (b.metadata.uid, Status(ready_revision=2))})
    assert [each.metadata.name for each in store.since(version)[0]] == ["b"]
    assert store.resource_version == version + 1
    assert reopened(store).since(version) is None
    assert store.since(store.resource_version) == ([], [])


def test_events_are_kept_merged_and_bounded(store, monkeypatch):
    """What happens again is counted, events are found by resource, and the oldest leave."""

    def again(n, name="a"):
        return Event(kind="Model", name=name, reason="Loaded", message=str(n), at=float(n))

    store.record([again(1), again(1), again(2), again(3, "b")])
    assert [(each.name, each.message, each.count) for each in store.events()] == [("b", "3", 1), ("a", "2", 1), ("a", "1", 2)]  # fmt: skip
    assert [each.message for each in reopened(store).events("Model", "a", limit=1)] == ["2"]
    monkeypatch.setattr(happenings, "KEPT", 100)
    monkeypatch.setattr(happenings, "KEPT_EACH", 50)
    store.record(again(n) for n in range(300))
    assert len(store.events(limit=10_000)) <= 50 + 64
    assert store.events()[0].message == "299"


def test_a_second_server_is_told_who_holds_the_file(store):
    """A file that is open is refused, with the process that has it; closed, it opens."""
    with pytest.raises(SettingsError, match=rf"held by process {os.getpid()}"):
        Store(store.path).open()
    store.close()
    with Store(store.path):
        pass
    store.open()


@pytest.mark.parametrize("harm", ["text", "cut", "overwritten", "foreign", "newer", "folder"])
def test_a_file_that_cannot_be_used_is_said(tmp_path, harm):
    """Whatever is wrong with the file, the error names it and what to do, and the lock is let go."""
    path = tmp_path / "state.db"
    with Store(path) as store:
        store.apply([model(f"m{n}", parameters={"k": "x" * 500}) for n in range(200)])
    content = path.read_bytes()
    match harm:
        case "text":
            path.write_text("not a database, but some text that is long enough" * 100)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "overwritten":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + os.urandom(8192) + content[middle + 8192 :])
        case "foreign" | "newer":
            if harm == "foreign":
                path.unlink()
            database = sqlite3.connect(path)
            database.execute("CREATE TABLE other (x)" if harm == "foreign" else "PRAGMA user_version=99")
            database.commit()
            database.close()
        case "folder":
            path.unlink()
            path.mkdir()
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"state\.db"):
            Store(path).open()


def test_five_thousand_at_once(store):
    """5,000 resources are applied in one go, and each costs no more than each of 100 does."""
    took = {}
    for count in (100, 5000):
        began = time.thread_time()
        store.apply([model(f"m{count}-{n}") for n in range(count)])
        took[count] = time.thread_time() - began
    assert took[5000] / 5000 < 5 * took[100] / 100
    assert len(reopened(store).all()) == 5100


def test_server_kind_and_order(store):
    """`all` gives kinds in the order of KINDS, then names."""
    store.apply([Resource(kind="Server", metadata=Metadata(name="s"), spec=Server()), model("b"), model("a")])
    assert [each.metadata.name for each in store.all()] == ["a", "b", "s"]
    assert [each.metadata.name for each in store.all("Server")] == ["s"]


APPLYING = textwrap.dedent(
    """
    import sys
    from headrace.control.resources import Metadata, Model, Resource
    from headrace.control.store import Store

    store = Store(sys.argv[1])
    store.open()
    number = int(sys.argv[2])
    print("open", flush=True)
    while True:
        number += 1
        names = [f"m{at}" for at in range(number % 7 + 1)]
        store.apply([
            Resource(kind="Model", metadata=Metadata(name=name), spec=Model(uri=str(number))) for name in ["all", *names]
        ])
        print(number, flush=True)
    """
)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path):
    """Killed at random points again and again, the file has every apply that was acknowledged, and none by half."""
    path, script = tmp_path / "state.db", tmp_path / "applying.py"
    script.write_text(APPLYING)
    chance, reached = random.Random(4), 0
    source = str(Path(stores.__file__).parents[2])
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, str(script), str(path), str(reached)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source},
        )
        with process:
            assert process.stdout.readline() == "open\n"
            wanted = chance.randrange(1, 12)
            lines = [process.stdout.readline() for _ in range(wanted)]
            time.sleep(chance.random() / 200)  # anywhere within the next apply
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        acknowledged = max(int(line) for line in lines if line.endswith("\n"))
        with Store(path) as store:
            reached = int(store.get("Model", "all").spec.uri)
            assert reached in {acknowledged, acknowledged + 1}
            # All that went together is there together.
            for at in range(reached % 7 + 1):
                assert store.get("Model", f"m{at}").spec.uri == str(reached)
            assert store.history("Model", "all")[0].resource.spec.uri == str(reached)
            assert store.get("Model", "all").metadata.generation == reached


def test_what_routers_learnt_is_there_again(tmp_path):
    """The last states that were kept are read by the next who opens the file; those of other pipelines are gone."""
    with Store(tmp_path / "state.db") as store:
        store.keep_learnt({"old": {"r": {"a": 1}}})
        store.keep_learnt({"p": {"router": {"type": "thompsonSampling", "branches": {"a": {"trials": 2.0}}}}})
    with Store(tmp_path / "state.db") as store:
        assert store.learnt() == {"p": {"router": {"type": "thompsonSampling", "branches": {"a": {"trials": 2.0}}}}}


def test_a_file_of_the_version_before_is_taken_over(tmp_path):
    """A state file without the newest table gets it and keeps what it holds."""
    with Store(tmp_path / "state.db") as store:
        version = store.resource_version
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("DROP TABLE learnt")
        database.execute("PRAGMA user_version=1")
    with Store(tmp_path / "state.db") as store:
        assert (store.learnt(), store.resource_version) == ({}, version)


def test_a_disk_that_is_full_is_said_and_nothing_is_kept(tmp_path):
    """An apply that does not fit on the disk is refused with the file's name; what was there stays, and the next fits."""
    store = Store(tmp_path / "state.db")
    store.open()
    store.apply([model("small")])
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count={pages}")
    many = [model(f"m{number}") for number in range(500)]
    with pytest.raises(Temporary, match=r"state\.db cannot be written: database or disk is full"):
        store.apply(many)
    assert [each.metadata.name for each in store.all()] == ["small"]
    store._database.execute("PRAGMA max_page_count=100000")
    store.apply(many)
    assert len(store.all()) == 501
    store.close()
