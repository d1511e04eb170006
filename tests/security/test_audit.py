"""The audit log: a chain that shows what was changed, and goes on after a kill."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, Overloaded, SettingsError
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.security.audit import START, Audit, Entry, audited, digest_of, verify


def entry(number):
    return Entry(
        time=float(number), caller="c", role="r", model="m", version="1", id=str(number), inputs="i", outputs="o",
        status="ok",
    )  # fmt: skip


@pytest.fixture
def log(tmp_path):
    audit = Audit(tmp_path / "audit.jsonl")
    audit.open()
    yield audit
    audit.close()


def written(audit, count):
    for number in range(count):
        audit.add(entry(number))
    audit.close()
    return audit.path


def test_what_is_written_holds(log):
    """A log that nobody touched holds, with as many lines as were added."""
    checked = verify(written(log, 50))
    assert (checked.lines, checked.first_bad) == (50, None)
    assert checked.last == orjson.loads(log.path.read_bytes().splitlines()[-1])["hash"]


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_any_change_is_found(tmp_path_factory, data):
    """A byte changed, a line left out, doubled or moved is found at the line where it is."""
    audit = Audit(tmp_path_factory.mktemp("audit") / "a.jsonl")
    audit.open()
    lines = written(audit, 8).read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, 6))
    match data.draw(st.sampled_from(["change", "leave out", "double", "move"])):
        case "change":
            lines[at] = lines[at].replace(b'"caller":"c"', b'"caller":"x"')
            bad = at + 1
        case "leave out":
            del lines[at]
            bad = at + 1
        case "double":
            lines.insert(at, lines[at])
            bad = at + 2
        case _:
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
            bad = at + 1
    audit.path.write_bytes(b"".join(lines))
    assert verify(audit.path).first_bad == bad


def test_the_chain_goes_on_after_a_restart(log):
    """A second server of the same file goes on with its chain."""
    written(log, 3)
    again = Audit(log.path)
    again.open()
    assert verify(written(again, 4)).lines == 7


def test_a_line_that_a_kill_cut_is_removed(log):
    """What was written in part was never answered for; the rest holds and goes on."""
    path = written(log, 3)
    path.write_bytes(path.read_bytes() + b'{"time":1')
    again = Audit(path)
    again.open()
    assert verify(written(again, 1)).lines == 4


def test_one_log_has_one_writer(log):
    """A second writer at the same time is refused: it would fork the chain."""
    with pytest.raises(SettingsError, match="cannot go on with it"):
        Audit(log.path).open()


def test_a_file_that_is_no_log_is_refused(tmp_path):
    """A file of somebody else's is not appended to."""
    (tmp_path / "a").write_text("hello\n")
    with pytest.raises(SettingsError, match="cannot go on with it"):
        Audit(tmp_path / "a").open()
    assert verify(tmp_path / "a").problem == "it is no line of an audit log"
    with pytest.raises(InvalidRequest, match="cannot be read"):
        verify(tmp_path / "b")


def test_an_empty_log_holds(log):
    """No lines hold, and the chain's start is the last hash."""
    log.close()
    assert verify(log.path).last == START


def test_nothing_is_answered_that_cannot_be_written(tmp_path):
    """On a full disk queries are refused, not answered unaudited."""
    code = (
        "import sys, time, signal, resource, logging\n"
        "logging.disable()\n"
        "from pathlib import Path\n"
        "from headrace.errors import Overloaded\n"
        "from headrace.security.audit import Audit, Entry\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "audit = Audit(Path(sys.argv[1])); audit.open()\n"
        "one = Entry(time=1.0, caller='c', role='r', model='m', version='', id='', inputs='', outputs='', status='ok')\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        audit.add(one)\n"
        "    except Overloaded as error:\n"
        "        print(error); break\n"
        "    time.sleep(0.001)\n"
        "audit.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, timeout=40, check=True
    )
    assert "cannot be written (File too large), so nothing is answered" in done.stdout


def test_the_digest_tells_tensors_apart():
    """Name, shape, each value and its want count; bytes and text of the same letters are the same."""
    one = Tensor("x", "FP64", np.array([1.0, 2.0]))
    others = [
        Tensor("y", "FP64", np.array([1.0, 2.0])),
        Tensor("x", "FP64", np.array([[1.0, 2.0]])),
        Tensor("x", "FP64", np.array([1.0, 2.5])),
        Tensor("x", "BYTES", np.array([b"1", b"2"], object)),
        Tensor("x", "BYTES", np.array([b"12", b""], object)),
        Tensor("x", "BYTES", np.array([b"12", None], object)),
        Tensor("x", "BYTES", np.array([b"12", b"None"], object)),
    ]
    digests = {digest_of([each]) for each in [one, *others]}
    assert len(digests) == 8
    assert digest_of([Tensor("x", "BYTES", np.array(["a"], object))]) == digest_of(
        [Tensor("x", "BYTES", np.array([b"a"], object))]
    )


async def test_answers_and_errors_are_both_written(log):
    """A query that is answered has both digests, one that fails its error; the caller gets what the model gave."""

    async def infer(request):
        if request.id == "bad":
            raise InvalidRequest("no")
        return InferenceResponse(model_name="m", outputs=request.inputs)

    infer = audited(infer, log, model="m", version="3", caller=lambda request: ("shop", "partner"))
    tensors = (Tensor("x", "FP64", np.ones(2)),)
    answered = await infer(InferenceRequest(model_name="m", inputs=tensors, id="good"))
    assert answered.outputs == tensors
    with pytest.raises(InvalidRequest):
        await infer(InferenceRequest(model_name="m", inputs=tensors, id="bad"))
    log.close()
    good, bad = (orjson.loads(line) for line in log.path.read_bytes().splitlines())
    assert (good["caller"], good["role"], good["version"], good["status"]) == ("shop", "partner", "3", "ok")
    assert good["inputs"] == good["outputs"] == digest_of(tensors)
    assert (bad["status"], bad["outputs"], bad["id"]) == ("InvalidRequest", "", "bad")


async def test_an_answer_that_cannot_be_audited_is_not_given(tmp_path):
    """When the queue is full, the caller gets an error in place of the answer."""
    audit = Audit(tmp_path / "a")  # not open: nobody writes

    async def infer(request):
        return InferenceResponse(model_name="m", outputs=())

    infer = audited(infer, audit, model="m", version="", caller=lambda request: ("c", "r"))
    for _ in range(10_000):
        audit.add(entry(1))
    with pytest.raises(Overloaded, match="audit log is behind"):
        await infer(InferenceRequest(model_name="m", inputs=()))
