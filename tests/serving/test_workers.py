"""Worker processes, real ones: crashes, kills, hangs, restarts, big tensors, streams under way, orphans.

What a worker has in common with the other lanes is in test_engine and test_batching, by their `placement` parameter.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import uvloop

from headrace.errors import LoadFailed, ModelNotReady, RuntimeFailed, SettingsError, WorkerDied
from headrace.payload import InferenceRequest, Tensor
from headrace.serving import workers
from headrace.serving.batching import Batching
from headrace.serving.build import RuntimeSpec
from headrace.serving.engine import load_engine

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def spec(kind, **parameters):
    return RuntimeSpec(name="m", runtime=f"small_runtimes:{kind}", reference="x:y", parameters=parameters)


def request(first=1.0, rows=1, **options):
    x = np.zeros((rows, 4), np.float32)
    x[:, 0] = first
    return InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", x),), **options)


def pid_of(response):
    return int(response.outputs[1].data[0])


def alive(pid):
    """Whether the process runs: a zombie, or one that another process now has the number of, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Ear:
    """Hears restarts, and waits for states."""

    def __init__(self):
        self.restarts = []
        self.states = []
        self.changed = asyncio.Event()

    def executed(self, **_):
        pass

    def failed(self, **_):
        pass

    def queued(self, depth):
        pass

    def logged(self, values):
        self.values = values

    def restarted(self, reason):
        self.restarts.append(reason)

    def on_state(self, ready, reason):
        self.states.append((ready, reason))
        self.changed.set()

    async def until(self, ready):
        async with asyncio.timeout(60):
            while not self.states or self.states[-1][0] is not ready:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def load():
    engines = []

    async def make(kind="Crashing", *, parameters=None, **options):
        ear = Ear()
        options = {"placement": "process", "observer": ear, "on_state": ear.on_state, **options}
        engine = await load_engine(spec(kind, **(parameters or {})), **options)
        engines.append(engine)
        return engine, ear

    yield make
    pids = [worker.pid for engine in engines if engine._pool is not None for worker in engine._pool.workers]
    for engine in engines:
        await engine.close(1)
    assert not [pid for pid in pids if pid and alive(pid)]


@pytest.mark.parametrize(
    ("trigger", "cause"),
    [(-1.0, "exited with code 7"), (-np.inf, "was ended by signal SIGKILL")],
    ids=["os._exit", "SIGKILL"],
)
async def test_a_crash_fails_its_requests_and_is_repaired(load, trigger, cause):
    """A crash in predict fails what is in flight at once, names the cause, shows in readiness, and ends in a new process."""
    engine, ear = await load()
    before = pid_of(await engine.infer(request()))
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=rf"model 'm': worker process {before} {cause} with this request in flight"):
        await engine.infer(request(trigger))
    assert time.monotonic() - began < 20  # not the time that a hung predict has
    await ear.until(ready=False)
    with pytest.raises(ModelNotReady, match=cause):
        await engine.infer(request())
    await ear.until(ready=True)
    after = pid_of(await engine.infer(request()))
    assert after != before
    assert not alive(before)
    assert ear.restarts == [f"worker process {before} {cause}"]
    assert [ready for ready, _ in ear.states] == [False, True]


async def test_a_kill_from_outside_fails_what_is_in_flight(load):
    """A worker killed while it predicts, as the kernel does when memory is short, fails its request promptly."""
    engine, ear = await load("Sleeping", parameters={"seconds": 0.0})
    engine2, ear2 = await load(parameters={})
    task = asyncio.ensure_future(engine2.infer(request(np.inf)))  # sleeps for a minute
    await asyncio.sleep(0.1)
    os.kill(engine2._pool.workers[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await asyncio.wait_for(task, 30)
    await ear2.until(ready=True)
    assert (await engine.infer(request())).outputs
    assert ear.restarts == []


async def test_a_hang_is_ended(load):
    """A predict that is silent for predict_timeout_seconds ends its process, names the setting, and is repaired."""
    engine, ear = await load(predict_timeout_seconds=0.6)
    pid = engine._pool.workers[0].pid
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=r"gave no answer for 0.6 s \(predict_timeout_seconds\) and was ended"):
        await engine.infer(request(np.inf))
    assert 0.55 < time.monotonic() - began < 10
    assert not alive(pid)
    await ear.until(ready=True)
    assert (await engine.infer(request())).outputs


async def test_a_slow_model_is_no_hang(load):
    """Many predicts that together take longer than the limit, each shorter, do not end the process."""
    engine, ear = await load(
        "Sleeping", parameters={"seconds": 0.08}, predict_timeout_seconds=0.5, batching=Batching(max_batch_size=1)
    )
    await asyncio.gather(*(engine.infer(request()) for _ in range(10)))
    assert ear.restarts == []


async def test_the_other_replicas_carry_on(load):
    """When one of two replicas dies, the model stays ready and the other answers."""
    engine, ear = await load(replicas=2, batching=Batching(max_batch_size=1))
    pids = {worker.pid for worker in engine._pool.workers}
    assert len(pids) == 2
    with pytest.raises(WorkerDied):
        await engine.infer(request(-1))
    answers = await asyncio.gather(*(engine.infer(request()) for _ in range(10)))
    assert len({pid_of(each) for each in answers} & pids) == 1
    async with asyncio.timeout(60):
        while any(not worker.pid for worker in engine._pool.workers):
            await asyncio.sleep(0.01)
    assert ear.states == []
    assert len(ear.restarts) == 1


async def test_a_restart_that_fails_is_tried_again(load, tmp_path):
    """A worker that cannot load after a crash is tried with pauses until it can, and says why meanwhile."""
    flag = tmp_path / "refuse"
    engine, ear = await load(parameters={"refuse_while": str(flag)})
    flag.touch()
    with pytest.raises(WorkerDied):
        await engine.infer(request(-1))
    async with asyncio.timeout(60):
        while not ear.states or "did not come back: told to refuse" not in ear.states[-1][1]:
            ear.changed.clear()
            await ear.changed.wait()
    flag.unlink()
    await ear.until(ready=True)
    assert (await engine.infer(request())).outputs


async def test_closing_ends_a_worker_that_is_being_restarted(load, tmp_path):
    """Close while a replica is down and tried again leaves no task and no process."""
    flag = tmp_path / "refuse"
    engine, ear = await load(parameters={"refuse_while": str(flag)})
    flag.touch()
    with pytest.raises(WorkerDied):
        await engine.infer(request(-1))
    await ear.until(ready=False)
    await engine.close(1)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def test_pauses_grow_and_are_bounded():
    """The pause doubles from a tenth of a second to half a minute, and chance halves it at most."""
    assert [workers.backoff(n, 1.0) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert workers.backoff(10_000, 1.0) == 30
    assert workers.backoff(3, 0.0) == 0.4


def test_how_a_process_ended_is_told_in_words():
    """Exit codes and signals, also one without a name."""
    assert workers.ending(3) == "exited with code 3"
    assert workers.ending(-9) == "was ended by signal SIGKILL"
    assert workers.ending(-99) == "was ended by signal 99"


async def test_a_load_that_fails_in_the_process_says_why():
    """LoadFailed crosses with its text; a process that ends while it loads is a LoadFailed too; none is left."""
    with pytest.raises(LoadFailed, match=r"^told to refuse$"):
        await load_engine(spec("Crashing", refuse_while="/"), placement="process", replicas=2)
    with pytest.raises(LoadFailed, match=r"worker process \d+ exited with code 9 while it loaded the model"):
        await load_engine(spec("Crashing", crash_at_load=True), placement="process")
    with pytest.raises(SettingsError):
        await load_engine(RuntimeSpec(name="m", runtime="no-such", reference="a:b"), placement="process")


async def test_an_object_in_memory_stays_here():
    """A model that no other process can load is refused for placement process."""
    with pytest.raises(SettingsError, match="object in memory"):
        await load_engine(spec("Linear"), model=object(), placement="process")


@pytest.mark.parametrize("megabytes", [0.01, 0.5, 3, 20])
async def test_tensors_of_any_size_cross(load, megabytes):
    """Small tensors by the socket and large ones by shared memory come back as they went, several at once."""
    engine, _ = await load("Echo", batching=Batching(max_batch_size=1))
    rows = int(megabytes * (1 << 20)) // 4000
    rng = np.random.default_rng(1)
    sent = [rng.random((rows + i, 1000), np.float32) for i in range(3)]
    answers = await asyncio.gather(
        *(engine.infer(InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", x),))) for x in sent)
    )
    kept = [answer.outputs[0].data for answer in answers]
    again = await engine.infer(InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", sent[0] * 2),)))
    for x, y in zip(sent, kept, strict=True):  # after another call: an answer is not overwritten by the next
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(again.outputs[0].data, sent[0] * 2)


async def test_two_hundred_mixed_requests(load):
    """200 concurrent requests of mixed widths and row counts over two workers each get their own rows."""
    engine, _ = await load("Echo", replicas=2, batching=Batching(max_batch_size=32))

    async def ask(i):
        x = np.full((i % 5 + 1, i % 3 + 1), i, np.float32)
        response = await engine.infer(InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", x),), id=str(i)))
        assert response.id == str(i)
        np.testing.assert_array_equal(response.outputs[0].data, x)

    await asyncio.gather(*(ask(i) for i in range(200)))


async def test_a_cancelled_request_does_not_disturb_its_batch(load):
    """A request cancelled while its batch is in the process leaves its neighbours their answers."""
    engine, _ = await load("Sleeping", parameters={"seconds": 0.5}, batching=Batching(max_wait_seconds=0.02))
    tasks = [asyncio.ensure_future(engine.infer(request(i))) for i in range(4)]
    await asyncio.sleep(0.1)
    tasks[1].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each.outputs[0].data.tolist() for i, each in enumerate(answers) if i != 1] == [[0.0], [2.0], [3.0]]
    assert isinstance(answers[1], asyncio.CancelledError)


async def test_a_crash_ends_a_stream(load):
    """The reader of a stream whose worker is killed gets the parts it had, then WorkerDied."""
    engine, _ = await load("Streaming")
    stream = engine.infer_stream(
        InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", np.array([[1e6, 0, 0.001, 0]], np.float32)),))
    )
    assert (await anext(stream)).outputs[0].data.tolist() == [0]
    os.kill(engine._pool.workers[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        async for _ in stream:
            pass


async def test_a_stream_waits_for_its_reader(load, tmp_path):
    """A reader that stops reading holds the model after a window of parts, and that is no hang."""
    note = tmp_path / "note"
    engine, ear = await load("Streaming", parameters={"note": str(note)}, predict_timeout_seconds=0.3)
    stream = engine.infer_stream(
        InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", np.array([[1e6, 0, 0, 0]], np.float32)),))
    )
    await anext(stream)
    await asyncio.sleep(0.8)
    await stream.aclose()
    async with asyncio.timeout(60):
        while not note.exists():
            await asyncio.sleep(0.005)
    assert int(note.read_text()) <= 12
    assert ear.restarts == []


async def test_a_worker_ignores_interrupts_and_terms(load):
    """SIGINT and SIGTERM, sent to a whole group at shutdown, do not end a worker that the server still drains."""
    engine, ear = await load()
    pid = pid_of(await engine.infer(request()))
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert pid_of(await engine.infer(request())) == pid
    assert ear.restarts == []


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "deep in predict"])
def test_no_orphan_is_left(tmp_path, busy):
    """When the server is killed its workers end too, even one that holds its lock and reads no socket."""
    pid_file = tmp_path / "pid"
    program = f"""
        import asyncio, sys
        sys.path.insert(0, {HERE!r})
        import numpy as np
        from headrace.payload import InferenceRequest, Tensor
        from headrace.serving.build import RuntimeSpec
        from headrace.serving.engine import load_engine

        async def main():
            spec = RuntimeSpec(name="m", runtime="small_runtimes:Busy", reference="x:y",
                               parameters={{"pid_file": {str(pid_file)!r}}})
            engine = await load_engine(spec, placement="process")
            print(engine._pool.workers[0].pid, flush=True)
            x = np.full((1, 4), {float(busy)}, np.float32)
            await engine.infer(InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", x),)))
            await asyncio.sleep(60)

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        worker = int(server.stdout.readline())
        until = time.monotonic() + 20
        while busy and not pid_file.exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert alive(worker)
        server.kill()
        server.wait()
    until = time.monotonic() + 10
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(worker)


async def test_descriptors_do_not_leak(load):
    """Crashes and restarts of a worker leave as many open descriptors as before."""
    engine, ear = await load()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with pytest.raises(WorkerDied):
            await engine.infer(request(-1))
        await ear.until(ready=False)
        await ear.until(ready=True)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_the_runtime_fails_alike_in_a_process(load):
    """What breaks the contract there is told here with the same words."""
    engine, _ = await load("Odd", parameters={"answer": "not-a-dict"})
    with pytest.raises(RuntimeFailed, match="expected outputs by name, got list"):
        await engine.infer(request())


def test_the_same_on_uvloop():
    """On the loop that serves in production: answers, a large one, a stream left early, a crash and its repair."""

    async def walk():
        ear = Ear()
        engine = await load_engine(spec("Crashing"), placement="process", on_state=ear.on_state)
        answers = await asyncio.gather(*(engine.infer(request(i)) for i in range(50)))
        assert [each.outputs[0].data.tolist() for each in answers] == [[float(i)] for i in range(50)]
        large = await engine.infer(request(3, rows=100_000))
        assert large.outputs[0].data.shape == (100_000,)
        with pytest.raises(WorkerDied, match="exited with code 7"):
            await engine.infer(request(-1))
        await ear.until(ready=True)
        assert (await engine.infer(request())).outputs
        await engine.close()

        engine = await load_engine(spec("Streaming"), placement="process")
        x = np.array([[1000, 0, 0, 0]], np.float32)
        stream = engine.infer_stream(InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", x),)))
        assert [(await anext(stream)).outputs[0].data.tolist() for _ in range(20)] == [[i] for i in range(20)]
        await stream.aclose()
        assert (await engine.infer(request(5))).outputs[0].data.tolist() == [5]
        await engine.close()

    uvloop.run(asyncio.wait_for(walk(), 30))


SPAWNING = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


def square(x):
    return x * x


class Spawning(MLModel):
    async def load(self):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            self.found = list(pool.map(square, [1, 2, 3]))
        return True

    async def predict(self, payload):
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", np.array(self.found))])
"""


async def test_processes_that_a_models_code_spawns_can_import_it(tmp_path):
    """Code written for MLServer finds `mlserver` in the processes that it spawns itself, too."""
    (tmp_path / "spawning.py").write_text(SPAWNING)
    source = tmp_path / "model-settings.json"
    settings = {"name": "m", "implementation": "spawning.Spawning"}
    spawning = RuntimeSpec(
        name="m",
        runtime="mlserver",
        reference="spawning.Spawning",
        parameters={"settings": settings, "source": str(source)},
    )
    engine = await load_engine(spawning, placement="process")
    try:
        answer = await engine.infer(InferenceRequest(model_name="m", inputs=()))
        assert answer.outputs[0].data.ravel().tolist() == [1, 4, 9]
    finally:
        await engine.close(1)
