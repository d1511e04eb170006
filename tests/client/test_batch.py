"""A file of requests to a file of answers, over real sockets: order, retries, merging, interruption, resumption."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from headrace.client import batch, channel, journal
from headrace.client.batch import Options
from headrace.client.channel import NotConnected
from headrace.errors import InvalidRequest, ModelNotFound, ModelNotReady, SettingsError


def line(value, rows=1, **rest):
    data = [float(value)] * rows
    return json.dumps({"inputs": [{"name": "x", "shape": [rows, 1], "datatype": "FP64", "data": data}], **rest})


@pytest.fixture
def job(tmp_path, server):
    """Runs a batch on the scripted server: (lines, options) to (summary, answers)."""

    def run(lines=None, *, existing="resume", retry_failed=False, url=None, **options):
        source_path, target_path = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        if lines is not None:
            source_path.write_text("".join(f"{each}\n" for each in lines))
        options = Options(**{"model": "m", "workers": 4, "pause_seconds": 0.01, **options})
        source = batch.Source(str(source_path))
        source.open()
        sink = journal.Journal(target_path, existing=existing, retry_failed=retry_failed)
        try:
            sink.open(source.head, model=options.model)
            summary = batch.run(source, sink, channel.target_of(url or server.url), options)
        finally:
            sink.close()
            source.close()
        return summary, read(target_path)

    return run


def read(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def indices(answers):
    return [each["parameters"]["batch_index"] for each in answers]


def values(answers):
    return [each["outputs"][0]["data"] if "outputs" in each else None for each in answers]


def late_first():
    """The first line is answered once the twentieth has been asked."""
    late = threading.Event()

    def script(asked):
        if asked.first == 0:
            late.wait(60)
        elif asked.first == 20:
            late.set()

    return script


def test_order(job, server):
    """Answers stand in the order of the lines, whichever come first."""
    server.script = late_first()
    summary, answers = job([line(n) for n in range(40)])
    assert indices(answers) == list(range(40))
    assert values(answers) == [[2.0 * n] for n in range(40)]
    assert (summary.answered, summary.failed, summary.requests) == (40, 0, 40)
    assert 0 < summary.latency_ms["p50"] <= summary.latency_ms["p99"] <= summary.latency_ms["max"]


def test_unordered(job, server):
    """Unordered, an answer is written before that of an earlier line which takes longer."""
    server.script = late_first()
    _, answers = job([line(n) for n in range(40)], ordered=False)
    assert sorted(indices(answers)) == list(range(40))
    assert indices(answers).index(0) > indices(answers).index(1)


def test_window(job, server):
    """No line further than the window beyond the oldest unanswered one is asked."""
    seen, late = [], threading.Event()

    def script(asked):
        seen.append(asked.first)
        if asked.first == 0:
            late.wait(0.2)

    server.script = script
    _, answers = job([line(n) for n in range(60)], window=10)
    assert indices(answers) == list(range(60))
    assert max(seen[:10]) < 10


def test_ids(job, server):
    """A line's own id is kept; others get a fresh one; the request's headers carry it, in ASCII, and no line break."""
    _, answers = job([line(1, id="mine"), line(2), line(3, id=""), line(4, id="é\r\nx: y")])
    assert answers[0]["id"] == answers[0]["parameters"]["inference_id"] == "mine"
    assert len({each["id"] for each in answers}) == 4
    assert answers[3]["id"] == "é\r\nx: y"
    sent = {asked.request["id"]: asked.headers for asked in server.asked}
    assert sent["mine"]["seldon-puid"] == sent["mine"]["x-request-id"] == "mine"
    assert sent["é\r\nx: y"]["x-request-id"] == "%C3%A9%0D%0Ax: y"
    assert sent["é\r\nx: y"]["x"] is None


def test_request_is_the_line(job, server):
    """What a line says beyond its inputs reaches the server as it is, and each number as it was written."""
    text = '{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP64","data":[1.10]}],"parameters":{"a":{"b":1}},"more":[1.0e3]}'
    job([text])
    (asked,) = server.asked
    assert {**json.loads(text), "id": asked.request["id"]} == asked.request
    assert b"1.10" in asked.body
    assert b"1.0e3" in asked.body


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, "drop"])
def test_retries(job, server, drop, status):
    """What failed for a while is asked again, and answered."""
    tries = Counter()

    def script(asked):
        tries[asked.first] += 1
        if tries[asked.first] < 3:
            return drop if status == "drop" else (status, {"error": "not now"})
        return None

    server.script = script
    summary, answers = job([line(n) for n in range(5)], retries=4)
    assert values(answers) == [[2.0 * n] for n in range(5)]
    assert summary.failed == 0
    assert summary.retries >= 5


def test_retries_end(job, server):
    """A line that never succeeds is written as failed after one try and the retries, and harms no other."""
    server.script = lambda asked: (503, {"error": "not now"}) if asked.first == 1 else None
    summary, answers = job([line(n) for n in range(3)], retries=2)
    assert [each.first for each in server.asked].count(1) == 3
    assert answers[1]["error"] == {"status": "inference error", "code": 503, "msg": "not now"}
    assert answers[1]["parameters"].keys() == {"batch_index", "inference_id"}
    assert (summary.answered, summary.failed, summary.retries) == (2, 1, 2)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 501])
def test_final_statuses(job, server, status):
    """What would fail again is not asked again."""
    server.script = lambda asked: (status, {"error": "no"})
    summary, answers = job([line(1)])
    assert len(server.asked) == 1
    assert answers[0]["error"]["code"] == status
    assert summary.failed == 1


def test_retry_after(job, server):
    """The next try comes no earlier than the server's Retry-After asks."""
    times = []

    def script(asked):
        times.append(time.monotonic())
        return (429, {"error": "busy"}, {"Retry-After": "1"}) if len(times) == 1 else None

    server.script = script
    job([line(1)])
    assert times[1] - times[0] >= 1


def test_timeout(job, server):
    """A try that takes longer than the time-out is given up, and the line asked again on another connection."""
    release = threading.Event()
    server.script = lambda asked: release.wait(60) and None if len(server.asked) == 1 else None
    summary, answers = job([line(1)], timeout_seconds=0.1, workers=1)
    release.set()
    assert values(answers) == [[2.0]]
    assert summary.retries == 1


def test_lines_that_are_no_requests(job, server):
    """A line that is no request is written as failed without asking; an empty one has no answer, but a number."""
    _, answers = job(["nonsense", "", line(2), '{"inputs": "x"}', "[1]", '{"id": "me", "inputs": 3}', line(6, id=7)])
    assert indices(answers) == [0, 2, 3, 4, 5, 6]
    assert [each.get("error", {}).get("status") for each in answers] == ["preprocessing error", None] + [
        "preprocessing error"
    ] * 4
    assert answers[4]["parameters"]["inference_id"] == "me"
    assert len(server.asked) == 1


@pytest.mark.parametrize("text", ["", "\n\n"], ids=["nothing", "empty lines"])
def test_empty_input(job, server, tmp_path, text):
    """An input without a line is answered by an output without a line, whether there is a server or not."""
    (tmp_path / "in.jsonl").write_text(text)
    summary, answers = job(url="http://127.0.0.1:1")
    assert answers == []
    assert summary.answered == summary.failed == 0


def test_last_line_without_an_end(job, tmp_path):
    """A last line that does not end is asked like any other."""
    (tmp_path / "in.jsonl").write_text(f"{line(1)}\n{line(2)}")
    assert values(job()[1]) == [[2.0], [4.0]]


def test_one_request_over_several_lines(job, tmp_path):
    """A file that is one JSON object, indented, is one request."""
    (tmp_path / "in.jsonl").write_text(json.dumps(json.loads(line(3)), indent=2))
    assert values(job()[1]) == [[6.0]]


def test_long_lines(job):
    """Lines longer than what is read at once are asked whole."""
    _, answers = job([line(n, rows=60_000) for n in range(3)])
    assert [set(each) for each in values(answers)] == [{0.0}, {2.0}, {4.0}]
    assert all(len(each) == 60_000 for each in values(answers))


def test_answer_forms(job, server):
    """An answer in chunks, one that ends with the connection, and one over several lines are one line each."""

    def script(asked):
        body = {"model_name": "m", "outputs": [], "parameters": {"kept": 1}}
        if asked.first == 0:
            return 200, body, {"Transfer-Encoding": "chunked"}
        if asked.first == 1:
            return 200, body, {"Connection": "close"}
        return 200, json.dumps(body, indent=2).encode()

    server.script = script
    _, answers = job([line(n) for n in range(3)], workers=1)
    assert [each["parameters"]["kept"] for each in answers] == [1, 1, 1]
    assert indices(answers) == [0, 1, 2]


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"outputs": 3}', b'{"error": "x"}'])
def test_answers_that_are_none(job, server, body):
    """A 200 that is no V2 response fails its line, and says so."""
    server.script = lambda asked: (200, body)
    _, (answer,) = job([line(1)])
    assert "not a V2 inference response" in answer["error"]["msg"]


def test_interval(job, server):
    """A worker's requests begin no closer together than the interval."""
    began = time.monotonic()
    job([line(n) for n in range(4)], workers=1, interval_seconds=0.1, jitter_seconds=0.01)
    assert time.monotonic() - began >= 0.3


def test_headers_and_connections(job, server):
    """Headers are sent with every request, over no more connections than there are workers."""
    job([line(n) for n in range(20)], headers={"Authorization": "token"}, workers=2)
    assert {each.headers["Authorization"] for each in server.asked} == {"token"}
    assert server.connections <= 2


def test_header_that_would_break_out(job, server):
    """A header with a line break is refused before anything is sent."""
    with pytest.raises(InvalidRequest, match="on one line"):
        job([line(1)], headers={"a": "b\r\nc: d"})
    assert server.asked == []


# -- merging --


def test_merged(job, server):
    """Lines of one form go together, up to the size, and each gets its own rows, id and number."""
    summary, answers = job([line(n, rows=n % 3 + 1, id=f"i{n}") for n in range(20)], batch_size=8)
    assert summary.requests < 8
    assert values(answers) == [[2.0 * n] * (n % 3 + 1) for n in range(20)]
    assert [each["outputs"][0]["shape"] for each in answers] == [[n % 3 + 1, 1] for n in range(20)]
    assert [each["id"] for each in answers] == [f"i{n}" for n in range(20)]
    assert {each["parameters"]["inference_id"] for each in answers} == {each.request["id"] for each in server.asked}


def test_merged_only_with_their_like(job, server):
    """A line of other parameters, shape or datatype is not merged with its neighbours."""
    other = json.loads(line(9))
    other["inputs"][0] |= {"shape": [1, 2], "data": [9.0, 9.0]}
    summary, _ = job(
        [line(1), line(2), line(3, parameters={"a": 1}), json.dumps(other), line(4), line(5)], batch_size=6
    )
    assert [len(each.request["inputs"][0]["data"]) for each in sorted(server.asked, key=lambda each: each.first)] == [
        2,
        1,
        2,
        2,
    ]
    assert summary.requests == 4


def test_one_bad_line_harms_no_other(job, server):
    """When a merged request is refused, each of its lines is asked alone, and only the bad one fails."""
    server.script = lambda asked: (400, {"error": "bad"}) if 3.0 in asked.request["inputs"][0]["data"] else None
    _, answers = job([line(n) for n in range(6)], batch_size=6)
    assert values(answers) == [[0.0], [2.0], [4.0], None, [8.0], [10.0]]


def test_rows_that_do_not_fit(job, server):
    """A model whose answer has other rows than were asked is asked line by line, and the summary says so."""
    server.script = lambda asked: (
        200,
        {
            "outputs": [
                {"name": "s", "shape": [1], "datatype": "FP64", "data": [sum(asked.request["inputs"][0]["data"])]}
            ]
        },
    )
    summary, answers = job([line(n) for n in range(6)], batch_size=3)
    assert values(answers) == [[float(n)] for n in range(6)]
    assert summary.notes


# -- going on --


def test_resumed(job, server, tmp_path):
    """Lines that the output has are not asked again; a last line written in part is."""
    job([line(n) for n in range(30)])
    path = tmp_path / "out.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:10]) + lines[10][:-20])
    server.asked.clear()
    summary, answers = job()
    assert sorted(each.first for each in server.asked) == [float(n) for n in range(10, 30)]
    assert indices(answers) == list(range(30))
    assert (summary.skipped, summary.answered) == (10, 20)
    server.asked.clear()
    assert job()[0].answered == 0
    assert server.asked == []


def test_retry_failed(job, server):
    """Failures are asked again when that is wished, and only then; their answers take their places."""
    server.script = lambda asked: (400, {"error": "bad"}) if asked.first % 3 == 0 else None
    job([line(n) for n in range(10)])
    assert job()[0].failed_before == 4
    server.asked.clear()
    server.script = lambda asked: None
    summary, answers = job(retry_failed=True)
    assert sorted(each.first for each in server.asked) == [0.0, 3.0, 6.0, 9.0]
    assert (summary.answered, summary.skipped, summary.failed_before) == (4, 6, 0)
    assert values(answers) == [[2.0 * n] for n in range(10)]


def test_unordered_put_in_order(job, server, tmp_path):
    """An output written as answers came is in order once an ordered run has ended."""
    job([line(n) for n in range(30)])
    path = tmp_path / "out.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[20:] + lines[5:15:2] + lines[6:15:2]))
    _, answers = job()
    assert indices(answers) == list(range(30))


def test_other_input_or_model(job, tmp_path):
    """An output of another input, or of another model, is refused; begun again, it is replaced."""
    job([line(n) for n in range(3)])
    with pytest.raises(SettingsError, match="another input"):
        job([line(n) for n in range(5, 8)])
    job([line(n) for n in range(3)] + [line(9)])  # the same input, grown
    with pytest.raises(SettingsError, match="answers of model 'm'"):
        job(model="other")
    _, answers = job([line(5)], existing="replace")
    assert values(answers) == [[10.0]]


def test_no_server_at_all(job, tmp_path):
    """Where no server can be reached, the error says so after the retries."""
    with pytest.raises(NotConnected, match="is it running"):
        job([line(1)], url="http://127.0.0.1:1", retries=1)


@pytest.mark.parametrize(("status", "error"), [(404, ModelNotFound), (503, ModelNotReady), (401, InvalidRequest)])
def test_model_that_is_not_there(job, server, status, error):
    """A model that the server has not, or not ready, or not for us, ends the batch before a line is asked."""
    server.ready = lambda: status
    with pytest.raises(error, match="the script says so"):
        job([line(1)], retries=1)
    assert server.asked == []


def test_ready_in_time(job, server):
    """A model that becomes ready while the batch asks for it is asked."""
    states = iter([503, 400, 200])
    server.ready = lambda: next(states)
    assert values(job([line(1)])[1]) == [[2.0]]


def test_server_goes_away(job, server, tmp_path):
    """When the server goes away for good, the batch ends; what was answered is kept, and the rest asked later."""

    def script(asked):
        if asked.first == 5:
            server.server.socket.shutdown(socket.SHUT_RDWR)  # refuses from now on
            return 503, {"error": "leaving"}, {"Connection": "close"}
        return None

    server.script = script
    with pytest.raises(NotConnected):
        job([line(n) for n in range(20)], workers=1, retries=1)
    assert indices(read(tmp_path / "out.jsonl")) == list(range(5))


def command(url, folder, *rest):
    words = ["infer", "m", "-i", str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl"), "--url", url, *rest]
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("workers", [1, 8])
def test_killed(job, server, tmp_path, workers):
    """After kill -9 in the middle, the same command gives one line for each line, in order; none written is asked again."""
    (tmp_path / "in.jsonl").write_text("".join(f"{line(n)}\n" for n in range(200)))
    reached, hold = threading.Event(), threading.Event()

    def script(asked):
        if asked.first > 100:
            reached.set()
            hold.wait(60)

    server.script = script
    process = command(server.url, tmp_path, "--workers", str(workers))
    assert reached.wait(30)
    process.kill()
    process.communicate()
    hold.set()
    written = len(read(tmp_path / "out.jsonl"))
    assert written == 101 if workers == 1 else written <= 101
    server.asked.clear()
    _, answers = job()
    assert indices(answers) == list(range(200))
    assert values(answers) == [[2.0 * n] for n in range(200)]
    assert sorted(each.first for each in server.asked if each.first < written) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(job, server, tmp_path, number):
    """An interrupt lets what is in flight end, writes it, says how to go on, and ends with 130."""
    (tmp_path / "in.jsonl").write_text("".join(f"{line(n)}\n" for n in range(200)))
    reached, hold = threading.Event(), threading.Event()

    def script(asked):
        if asked.first == 50:
            reached.set()
            hold.wait(60)

    server.script = script
    process = command(server.url, tmp_path, "--workers", "1")
    assert reached.wait(30)
    process.send_signal(number)
    threading.Timer(1.0, hold.set).start()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert indices(read(tmp_path / "out.jsonl")) == list(range(51))
    assert indices(job()[1]) == list(range(200))


def test_two_at_once(job, server, tmp_path):
    """An output that another process is writing is refused."""
    sink = journal.Journal(tmp_path / "out.jsonl")
    sink.open(b"x", model="m")
    try:
        with pytest.raises(SettingsError, match="another process"):
            job([line(1)])
    finally:
        sink.close()


def test_pipes(server, tmp_path):
    """Standard input to standard output: each line is asked as it comes, and its answer comes before the next is given."""
    words = [sys.executable, "-m", "headrace", "infer", "m", "-i", "-", "-o", "-", "--url", server.url]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for n in range(3):
            process.stdin.write(line(n) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["outputs"][0]["data"] == [2.0 * n]
        process.stdin.close()
        assert process.wait(30) == 0
        assert "answered 3 lines" in process.stderr.read()


# -- decisions --


def test_pauses():
    """A pause doubles with each try up to 30 s, has jitter, and is never shorter than the server asks, up to 10 min."""
    assert [batch.pause_seconds(0.5, tries, 0, chance=1) for tries in (1, 2, 3, 20)] == [0.5, 1, 2, 30]
    assert batch.pause_seconds(0.5, 1, 0, chance=0) == 0.25
    assert batch.pause_seconds(0.5, 1, 7, chance=0) == 7
    assert batch.pause_seconds(0.5, 1, 1e9, chance=0) == 600


def test_retry_after_forms():
    """Retry-After is seconds or a date; anything else asks for nothing."""
    assert batch.retry_after_seconds("12", now=0) == 12
    assert batch.retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", now=10) == 50
    assert batch.retry_after_seconds("Thu, 01 Jan 1970 00:01:00 GMT", now=100) == 0
    assert [batch.retry_after_seconds(text, now=0) for text in ("", "soon", "1x")] == [0, 0, 0]


def test_target():
    """Host, port, path and scheme come from the URL; what is none is refused."""
    target = channel.target_of("example.org/gate/")
    assert (target.host, target.port, target.path, target.tls) == ("example.org", 80, "/gate", None)
    secure = channel.target_of("https://[::1]:8443", tls=ssl.create_default_context())
    assert (secure.host, secure.port, secure.authority) == ("::1", 8443, "[::1]:8443")
    for wrong in ("ftp://x", "http://", "http://x:port"):
        with pytest.raises(InvalidRequest):
            channel.target_of(wrong)


def test_input_that_is_not_there(tmp_path):
    """An input that cannot be read is named."""
    with pytest.raises(InvalidRequest, match=r"nothing.jsonl: No such file"):
        batch.Source(str(tmp_path / "nothing.jsonl")).open()
