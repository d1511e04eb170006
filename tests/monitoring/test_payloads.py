"""The payload log. Matrix: Parquet, JSON lines, CloudEvents x modes; redaction, sampling, bounds; kills, a full disk."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.monitoring.receivers import receiver

from headrace.errors import SettingsError
from headrace.features import Feature, Features
from headrace.monitoring import payload_files, payload_rows
from headrace.monitoring.exchange import Exchange, columns_of, is_sampled
from headrace.monitoring.payload_files import Folder, folder_name
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.redaction import ALWAYS, REDACTED, Redaction
from headrace.monitoring.settings import PayloadSettings
from headrace.payload import Tensor
from headrace.protocols import cloudevents
from headrace.trust.spec import Input, Schema

NAMES = ("age", "income")


def texts(*elements):
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def exchange(number=0, *, rows=2, **other):
    x = np.arange(rows * 2, dtype=np.float64).reshape(rows, 2) + number
    known = {
        "id": f"r{number}",
        "model": "iris",
        "version": "1",
        "time": 1000.0 + number,
        "seconds": 0.5,
        "inputs": (Tensor("x", "FP64", x),),
        "outputs": (Tensor("y", "INT64", np.arange(rows)), Tensor("p", "FP32", np.full((rows, 3), 0.5, np.float32))),
        "columns": {"": NAMES},
        "headers": {"authorization": "Bearer secret", "x-team": "blue"},
        "parameters": {"who": "me", "headers": {"Cookie": "secret"}},
    }
    return Exchange(**{**known, **other})


def logged(folder, exchanges, **settings):
    """What a log has after these, as rows, and its counts."""
    log = PayloadLog(PayloadSettings(**{"mode": "all", "sink": str(folder), **settings}))
    log.open()
    log.take(exchanges)
    log.close()
    return rows_of(folder), log.counts()


def rows_of(folder):
    return [
        row
        for file in payload_files.find(folder)
        if not file.is_labels
        for batch in payload_files.read(file.path)
        for row in batch.to_pylist()
    ]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows(tmp_path, form):
    """A request of n rows is n rows with its columns by name, answers beside them, and all files are finished."""
    rows, counts = logged(tmp_path, [exchange(0), exchange(1, rows=3)], format=form)
    assert counts == {"sent": 2, "dropped": 0, "failed": 0}
    assert [(row["request_id"], row["row"]) for row in rows] == [("r0", 0), ("r0", 1), ("r1", 0), ("r1", 1), ("r1", 2)]
    assert [row["input.age"] for row in rows] == [0, 2, 1, 3, 5]
    assert [row["output.y"] for row in rows] == [0, 1, 0, 1, 2]
    assert rows[0]["output.p"] == [0.5, 0.5, 0.5]
    assert rows[0]["time"].timestamp() == 1000.0
    assert (rows[0]["model"], rows[0]["version"], rows[0]["seconds"]) == ("iris", "1", 0.5)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {f".{form}"}


def test_the_folder_is_a_data_set(tmp_path):
    """Other programs read the folder as one set of Parquet files, whatever the names of models and labels beside."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path)))
    log.open()
    log.take([exchange(at, model=model) for at, model in enumerate(["a/b", "..", "_labels", ".x"])])
    log.label("r1", [1])
    log.close()
    table = pq.read_table(tmp_path)
    assert sorted(set(table["model"].to_pylist())) == ["..", ".x", "_labels", "a/b"]
    assert len([file for file in payload_files.find(tmp_path) if file.is_labels]) == 1


@example("", "\0")
@example("\0", "\x000")
@given(st.text(max_size=10), st.text(max_size=10))
def test_folder_names_are_one_folder_each(one, other):
    """No name of a model leaves its folder, hides it, or is another's."""
    name = folder_name(one)
    assert name not in {"", ".", ".."}
    assert "/" not in name
    assert name[0] not in "._"
    assert (one == other) == (name == folder_name(other))


@pytest.mark.parametrize(
    ("mode", "sides"), [("all", {"input", "output"}), ("request", {"input"}), ("response", {"output"})]
)
def test_modes(tmp_path, mode, sides):
    """What is logged of each request is its inputs, its answer, or both."""
    rows, _ = logged(tmp_path, [exchange()], mode=mode)
    assert {name.partition(".")[0] for name in rows[0] if "." in name} == sides


def test_off(tmp_path):
    """A log that is off takes nothing and writes nothing."""
    rows, counts = logged(tmp_path / "x", [exchange()], mode="off")
    assert rows == []
    assert counts == {"sent": 0, "dropped": 0, "failed": 0}
    assert not (tmp_path / "x").exists()


CASES = {
    "scalar": (Tensor("x", "FP64", np.array(3.0)), {"input.x": 3.0}),
    "no-rows": (Tensor("x", "FP64", np.zeros((0, 3))), {"input.x": []}),
    "column": (Tensor("x", "BOOL", np.array([[True]])), {"input.x": True}),
    "image": (Tensor("x", "UINT8", np.ones((1, 2, 2), np.uint8)), {"input.x": [[1, 1], [1, 1]]}),
    "text": (Tensor("x", "BYTES", texts(b"h\xc3\xa9")), {"input.x": "hé"}),
    "bytes": (Tensor("x", "BYTES", texts(b"\xff")), {"input.x": b"\xff"}),
    "objects": (Tensor("x", "BYTES", texts({"a": [1]})), {"input.x": '{"a":[1]}'}),
    "half": (Tensor("x", "FP16", np.array([1.5], np.float16)), {"input.x": 1.5}),
    "bfloat": (Tensor("x", "BF16", np.array([0x3FC0], np.uint16)), {"input.x": 1.5}),
    "big": (Tensor("x", "UINT64", np.array([2**64 - 1], np.uint64)), {"input.x": 2**64 - 1}),
    "named": (
        Tensor("x", "FP32", np.array([[1.0, 2.0]], np.float32), {"names": '["a", "b"]'}),
        {"input.a": 1.0, "input.b": 2.0},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tensors(tmp_path, case):
    """Each kind of tensor stands in the log as values that other programs read."""
    tensor, expected = CASES[case]
    rows, _ = logged(tmp_path, [exchange(inputs=(tensor,), outputs=(), columns={})])
    assert {name: value for name, value in rows[0].items() if name.startswith("input.")} == expected


def test_tensors_of_unlike_rows(tmp_path):
    """Where tensors do not agree on rows, a request is one row of whole tensors; other shapes do not disturb it."""
    unlike = exchange(inputs=(Tensor("x", "INT64", np.array([1, 2])),), outputs=(Tensor("y", "INT64", np.array([7])),))
    longer = exchange(1, inputs=(Tensor("x", "INT64", np.array([1, 2, 3])),), outputs=unlike.outputs)
    rows, counts = logged(tmp_path, [unlike, longer])
    assert [(row["input.x"], row["output.y"]) for row in rows] == [([1, 2], [7]), ([1, 2, 3], [7])]
    assert counts["sent"] == 2


def test_columns_of_several_tensors(tmp_path):
    """One tensor a column, and columns of the same name in two tensors, all stand beside one another."""
    inputs = (
        Tensor("age", "FP64", np.array([1.0])),
        Tensor("more", "FP64", np.array([[2.0, 3.0]])),
    )
    rows, _ = logged(tmp_path, [exchange(inputs=inputs, outputs=(), columns={"more": NAMES})])
    assert {name: value for name, value in rows[0].items() if name.startswith("input")} == {
        "input.age": 1.0,
        "input.more.age": 2.0,
        "input.income": 3.0,
    }


def test_columns_of_a_schema():
    """The schema of a trust folder gives the columns of each tensor that carries several."""
    features = Features(columns=tuple(Feature(name=name) for name in ("a", "b", "c")))
    schema = Schema(
        features=features,
        inputs=(Input(name="x", datatype="FP64", columns=(2, 0)), Input(name="y", datatype="FP64", columns=(1,))),
    )
    assert columns_of(schema) == {"x": ("c", "a")}


# -- redaction --


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_redaction(tmp_path, form):
    """Redacted names are nowhere in what is written; secrets in headers are not though nobody named them."""
    secret = exchange(
        inputs=(
            Tensor("x", "FP64", np.array([[31337.0, 5.0]])),
            Tensor("note", "BYTES", texts(b"31337")),
            Tensor("document", "BYTES", texts(b'{"deep": {"SSN": "31337"}, "kept": 1}')),
        ),
        outputs=(Tensor("score", "FP64", np.array([31337.0])),),
        columns={"x": NAMES},
        parameters={"token": "31337", "deep": {"token": "31337", "Authorization": "31337"}},
        headers={"authorization": "31337", "x-user": "31337", "x-team": "blue"},
    )
    (row,), _ = logged(tmp_path, [secret], format=form, redact=("AGE", "note", "ssn", "score", "token", "X-User"))
    assert "31337" not in json.dumps(row, default=str)
    assert (row["input.age"], row["input.income"], row["input.note"]) == (REDACTED, 5.0, REDACTED)
    assert json.loads(row["input.document"]) == {"deep": {"SSN": REDACTED}, "kept": 1}
    assert json.loads(row["headers"]) == {"authorization": REDACTED, "x-user": REDACTED, "x-team": "blue"}


plain_names = st.text().filter(lambda name: name.lower() not in ALWAYS)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(plain_names, inner)
    )
)
def test_redaction_of_nothing(value):
    """Where no name is redacted, JSON values without headers that are always secret stay as they are."""
    assert Redaction(()).value({"x": value}) == {"x": value}


# -- what is chosen, and how much --


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_sampling_is_by_id_and_grows(request_id, one, other):
    """Whether a request is logged depends on its id alone; who is in a share is in every larger one."""
    low, high = sorted((one, other))
    assert is_sampled(request_id, low) <= is_sampled(request_id, high)
    assert is_sampled(request_id, 1.0)
    assert not is_sampled(request_id, 0.0)


def test_sampled_share():
    """Of ids that differ in a counter only, the share asked for is logged, within five standard deviations."""
    count = sum(is_sampled(f"prefix-{at}", 0.2) for at in range(10_000))
    assert abs(count - 2000) < 5 * (10_000 * 0.2 * 0.8) ** 0.5


def test_labels_of_unsampled_requests(tmp_path):
    """Labels are kept for the requests that are in the log, and for no others."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), sample=0.5))
    log.open()
    log.take(exchange(at) for at in range(100))
    for at in range(100):
        log.label(f"r{at}", [1, 0])
    log.close()
    ids = {row["request_id"] for row in rows_of(tmp_path)}
    (file,) = [file for file in payload_files.find(tmp_path) if file.is_labels]
    labelled = {line["request_id"] for lines in payload_files.read_labels(file.path) for line in lines}
    assert labelled == ids
    assert 0 < len(ids) < 100


def test_a_large_request(tmp_path):
    """Of a request beyond the size only shapes are written, truncated is true, and its small answer is whole."""
    large = exchange(rows=100)
    rows, _ = logged(tmp_path, [large], max_payload_bytes=1500)
    assert all(row["truncated"] for row in rows)
    assert json.loads(rows[0]["shapes"]) == {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [100, 2]}],
        "outputs": [
            {"name": "y", "datatype": "INT64", "shape": [100]},
            {"name": "p", "datatype": "FP32", "shape": [100, 3]},
        ],
    }
    rows, _ = logged(tmp_path / "b", [exchange(inputs=large.inputs)], max_payload_bytes=1500)
    assert [row["output.y"] for row in rows] == [0, 1]
    assert "input.age" not in rows[0]


def test_parts_of_a_stream(tmp_path):
    """What is known to be only a part of an answer says so."""
    rows, _ = logged(tmp_path, [exchange(is_partial=True)])
    assert all(row["truncated"] and row["shapes"] is None for row in rows)


def test_a_request_that_failed(tmp_path):
    """A request without an answer is logged with its error."""
    rows, _ = logged(tmp_path, [exchange(outputs=(), error="RuntimeFailed")])
    assert [row["error"] for row in rows] == ["RuntimeFailed"] * 2


def test_what_waits_is_bounded(tmp_path):
    """What comes while too much waits is dropped and counted; all else is written."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), max_waiting_bytes=20_000, flush_seconds=3600))
    log.take(exchange(at) for at in range(100))  # nobody writes yet
    log.open()
    log.close()
    counts = log.counts()
    assert counts["dropped"] > 0
    assert counts["sent"] + counts["dropped"] == 100
    assert len(rows_of(tmp_path)) == 2 * counts["sent"]
    log.take([exchange()])
    assert log.counts()["dropped"] == counts["dropped"] + 1


def test_a_request_that_cannot_be_written(tmp_path):
    """Values that no file can hold fail alone: the requests beside them are written."""

    class Odd:
        pass

    odd = exchange(1, inputs=(Tensor("x", "BYTES", texts(Odd())),), outputs=())
    rows, counts = logged(tmp_path, [exchange(0), odd, exchange(2)])
    assert {row["request_id"] for row in rows} == {"r0", "r2"}
    assert (counts["sent"], counts["failed"]) == (2, 1)


def test_an_event_that_cannot_be_made():
    """Values that no JSON can hold fail alone when events are sent, too."""
    odd = exchange(1, inputs=(Tensor("x", "BYTES", texts(object())),), outputs=())
    events, counts = sent([odd, exchange(2)], 2)
    assert {event.id for event in events} == {"r2"}
    assert (counts["sent"], counts["failed"]) == (2, 1)


# -- files --


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_files_rotate(tmp_path, form):
    """A file ends at its size; every one is whole, and together they have every row."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), format=form, max_file_bytes=5000))
    log.open()
    for at in range(50):
        log.take([exchange(at)])
        log.flush()
    finished = len(list(tmp_path.rglob(f"*.{form}")))
    log.close()
    assert finished > 5
    assert [row["request_id"] for row in rows_of(tmp_path)[::2]] == [f"r{at}" for at in range(50)]


def test_the_oldest_files_are_removed(tmp_path):
    """The folder stays within its bound, and what is left is the newest."""
    bound = 100_000
    log = PayloadLog(
        PayloadSettings(mode="all", sink=str(tmp_path), format="jsonl", max_file_bytes=5000, max_total_bytes=bound)
    )
    log.open()
    for at in range(0, 1000, 10):
        log.take(exchange(each) for each in range(at, at + 10))
        log.flush()
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= bound
    ids = [row["request_id"] for row in rows_of(tmp_path)[::2]]
    assert ids == [f"r{at}" for at in range(1000 - len(ids), 1000)]
    assert 0 < len(ids) < 1000


def test_old_files_are_finished(tmp_path):
    """A file is finished at its age, so that other programs see it, however little is in it."""
    clock = [0.0]
    folder = Folder(tmp_path, kind="parquet", most_file_bytes=1 << 20, most_bytes=1 << 30, clock=lambda: clock[0])
    folder.open()
    (rows,) = payload_rows.batches([exchange()], mode="all", redaction=Redaction(()), max_bytes=1 << 20)
    folder.write("m", "1", rows[3])
    folder.tick()
    assert not list(tmp_path.rglob("*.parquet"))
    clock[0] = payload_files.FINISH_SECONDS
    folder.tick()
    (path,) = tmp_path.rglob("*.parquet")
    assert pq.read_table(path).num_rows == 2


def test_many_layouts_at_once(tmp_path):
    """More kinds of requests than files may be open are all written."""
    count = payload_files.MOST_OPEN + 5
    rows, counts = logged(tmp_path, [exchange(at, model=f"m{at}") for at in range(count)])
    assert (len(rows), counts["sent"]) == (2 * count, count)


def test_what_is_being_written_is_read(tmp_path):
    """After a flush, readers of ours see what is not yet in a finished file; others see no half file."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path)))
    log.open()
    log.take([exchange(0)])
    log.label("r0", [1, 0])
    log.flush()
    try:
        assert len(rows_of(tmp_path)) == 2
        assert not list(tmp_path.rglob("*.parquet"))
        assert payload_files.recover(tmp_path) == 0  # it has an owner
    finally:
        log.close()
    assert len(rows_of(tmp_path)) == 2


def test_a_label_is_on_disk_before_it_is_acknowledged(tmp_path):
    """After `flush_labels` a label is in a file, though exchanges still wait for their time."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), flush_seconds=3600))
    log.open()
    log.take([exchange(0)])
    log.label("r0", [1, 0])
    log.flush_labels()
    try:
        (file,) = payload_files.find(tmp_path)
        assert [line["request_id"] for lines in payload_files.read_labels(file.path) for line in lines] == ["r0"]
        assert log.waiting == 1
    finally:
        log.close()
    assert log.counts() == {"sent": 2, "dropped": 0, "failed": 0}


KILLED = """
import sys
sys.path.insert(0, ".")
import numpy as np
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings
from headrace.payload import Tensor
log = PayloadLog(PayloadSettings(mode="all", sink=sys.argv[1], format=sys.argv[2], flush_seconds=3600, max_file_bytes=20000))
log.open()
at = 0
while True:
    for _ in range(7):
        log.take([Exchange(id=f"r{at}", model="m", time=float(at), inputs=(Tensor("x", "INT64", np.array([at])),))])
        at += 1
    log.label(f"r{at - 1}", [at])
    log.flush()
    print(at, flush=True)
"""


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_kill_in_the_middle_of_writing(tmp_path, form):
    """After kill -9 all that was flushed is there, once and in order, and the next log finishes the files."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), form], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        for _ in range(60):
            line = process.stdout.readline()
        process.kill()
        flushed = max([int(line), *(int(each) for each in process.stdout if each.endswith("\n"))])
    before = [row["input.x"] for row in rows_of(tmp_path)]
    PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), format=form)).open()
    after = [row["input.x"] for row in rows_of(tmp_path)]
    assert before == after == list(range(len(after)))
    assert len(after) >= flushed
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".parquet", ".jsonl"}


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("cut", [1, 7, 100, 500])
def test_a_part_that_was_cut_off(tmp_path, form, cut):
    """Of a part that lost its end, what was whole is recovered; a part with nothing whole is removed."""
    folder = Folder(tmp_path, kind=form, most_file_bytes=1 << 20, most_bytes=1 << 30)
    folder.open()
    for at in range(5):
        (rows,) = payload_rows.batches([exchange(at)], mode="all", redaction=Redaction(()), max_bytes=1 << 20)
        folder.write("m", "1", rows[3])
    (part,) = folder._parts.values()
    part.abandon()
    with part.path.open("r+b") as file:
        file.truncate(part.size - cut)
    assert payload_files.recover(tmp_path) == 1
    rows = rows_of(tmp_path)
    assert [row["request_id"] for row in rows] == [f"r{at}" for at in range(5) for _ in range(2)][: len(rows)]
    assert 6 <= len(rows) < 10
    empty = tmp_path / "m" / "1" / f"x.{form}.part"
    empty.write_bytes(b"\x00\x01")
    payload_files.recover(tmp_path)
    assert not empty.exists()
    assert len(rows_of(tmp_path)) == len(rows)


FULL = """
import resource, signal, sys
sys.path.insert(0, ".")
import numpy as np
from headrace.monitoring.exchange import Exchange
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings
from headrace.payload import Tensor
log = PayloadLog(PayloadSettings(mode="all", sink=sys.argv[1], format=sys.argv[2], flush_seconds=3600))
log.open()
def take(first, count):
    log.take([Exchange(id=f"r{at}", model="m", inputs=(Tensor("x", "INT64", np.array([at])),)) for at in range(first, first + count)])
    log.flush()
import pyarrow.parquet
take(0, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
take(10, 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
take(2000, 10)
log.close()
print(log.counts())
"""


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("limit", [10, 6000, 60_000])
def test_a_full_disk(tmp_path, form, limit):
    """What the disk does not take is counted as failed, harms nothing that was written, and leaves no file behind; later
    rows are written.
    """
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), form, str(limit)], capture_output=True, text=True, timeout=50
    )
    assert done.stdout == "{'sent': 20, 'dropped': 0, 'failed': 1000}\n", done.stderr
    assert all(path.stat().st_size and path.suffix != ".new" for path in tmp_path.rglob("*.*"))
    PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), format=form)).open()
    assert sorted(row["input.x"] for row in rows_of(tmp_path)) == [*range(10), *range(2000, 2010)]


def test_a_folder_that_cannot_be(tmp_path):
    """A sink that is no folder is refused at the start, by its setting."""
    (tmp_path / "file").write_text("")
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path / "file")))
    with pytest.raises(SettingsError, match=r"payloads\.sink"):
        log.open()
    with pytest.raises(SettingsError, match=r"payloads\.sink.*gopher.*http.*kafka"):
        PayloadLog(PayloadSettings(mode="all", sink="gopher://host/topic"))


# -- events --


def sent(exchanges, count, labels=(), **settings):
    with receiver() as sink:
        chosen = {"mode": "all", "sink": sink.url, "spool_bytes": 0, **settings}
        log = PayloadLog(PayloadSettings(**chosen), server="/server")
        log.open()
        log.take(exchanges)
        for request_id, values in labels:
            log.label(request_id, values, model="iris", version="1")
        log.flush()
        found = sink.wait(count)
        log.close()
        return [cloudevents.parse(*each) for each in found], log.counts()


def test_events(tmp_path):
    """A request and its answer are two events of KServe's types, whose id is the request's, with V2 bodies as data."""
    events, counts = sent([exchange()], 3, [("r0", [1, 0])])
    by_type = {event.type: event for event in events}
    request = by_type["org.kubeflow.serving.inference.request"]
    response = by_type["org.kubeflow.serving.inference.response"]
    feedback = by_type["org.kubeflow.serving.feedback"]
    assert request.id == response.id == feedback.id == "r0"
    assert request.source == "/server"
    assert request.extensions == {
        "inferenceservicename": "iris",
        "namespace": "default",
        "component": "predictor",
        "endpoint": "1",
    }
    body = json.loads(request.data)
    assert body["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [0, 1, 2, 3]}]
    assert body["parameters"] == {"who": "me", "headers": {"Cookie": REDACTED}}
    assert [each["name"] for each in json.loads(response.data)["outputs"]] == ["y", "p"]
    assert json.loads(feedback.data) == {"id": "r0", "truth": [1, 0]}
    assert counts == {"sent": 3, "dropped": 0, "failed": 0}


def test_redacted_and_truncated_events():
    """In events, too, redacted names are nowhere, a redacted column is null, and what is too large is its shape."""
    secret = exchange(
        inputs=(
            Tensor("x", "FP64", np.array([[31337.0, 5.0]])),
            Tensor("z", "BYTES", texts(b"31337")),
            Tensor("b", "BYTES", texts(b"\xff")),
        ),
        outputs=(Tensor("y", "FP64", np.zeros(1000)),),
        columns={"x": NAMES},
        parameters={},
    )
    events, _ = sent([secret], 2, redact=("age", "z"), max_payload_bytes=1000, event_types="seldon")
    assert all(b"31337" not in event.data for event in events)
    request, response = sorted(events, key=lambda each: each.type)
    assert json.loads(request.data)["inputs"] == [
        {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [None, 5.0]},
        {"name": "z", "datatype": "BYTES", "shape": [1], "data": [REDACTED]},
        {"name": "b", "datatype": "BYTES", "shape": [1], "data": [{"base64": "/w=="}]},
    ]
    answer = json.loads(response.data)
    assert answer["truncated"] is True
    assert answer["outputs"] == [{"name": "y", "datatype": "FP64", "shape": [1000]}]
    assert request.extensions["requestid"] == "r0"
    assert request.id != response.id


def test_events_that_nobody_takes():
    """While a receiver hangs, logging returns at once and is bounded; without a spool, what was not sent is dropped."""
    with receiver() as sink:
        sink.delay.clear()
        log = PayloadLog(PayloadSettings(mode="request", sink=sink.url, max_waiting_bytes=100_000, spool_bytes=0))
        log.open()
        for at in range(1000):
            log.take([exchange(at)])
            log.flush()
        log.close(grace_seconds=0)
        counts = log.counts()
        sink.delay.set()
    assert counts["sent"] == 0
    assert counts["dropped"] == 1000


def test_taking_does_not_wait_for_writing(tmp_path):
    """Exchanges are taken while others are being written."""
    log = PayloadLog(PayloadSettings(mode="all", sink=str(tmp_path), flush_seconds=3600))
    log.open()
    with log._writing:
        flusher = threading.Thread(target=log.flush)
        flusher.start()
        log.take([exchange()])
        assert len(log._waiting) == 1
    flusher.join(60)
    log.close()
    assert log.counts()["sent"] == 1
