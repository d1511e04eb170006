"""repository: start-up policies, load, reload, unload, hot reload, close.

Models are text files that begin with `MODEL`; the loader is the constructor's own argument, and its engines keep the
contract of `Loaded`: they answer what stands in the file, end what is in flight when closed, and refuse afterwards. The
last test does it with the real engine and a real scikit-learn model. Time is virtual: `Clock` holds every pause until it
is told to go on.

Left out: worker processes that die (the engine's tests), what discovery finds (its own).
"""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from headrace.errors import (
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    NotSupported,
    SettingsError,
    UnknownFormat,
)
from headrace.payload import InferenceRequest, InferenceResponse, Signature, Tensor
from headrace.runtimes import RUNTIMES
from headrace.runtimes.base import Recognition
from headrace.runtimes.recognise import recognise as recognise_content
from headrace.serving import discovery
from headrace.serving.batching import Batching
from headrace.serving.build import RuntimeSpec
from headrace.serving.engine import load_engine
from headrace.serving.models import Models
from headrace.serving.repository import Repository
from headrace.serving.spec import ModelSpec


def recognise(path):
    if not path.is_file() or not path.read_text().startswith("MODEL"):
        raise UnknownFormat(f"{path}: no runtime recognises this")
    return "text", Recognition("begins with MODEL")


class Text:
    """An engine that answers with its text after a few turns of the loop."""

    placement = "inline"
    infer_stream = None
    declared: ClassVar = {}
    routes = ()
    visit = None
    explain = None
    warnings = ()

    def __init__(self, spec, text, turns=2):
        self.spec, self.text, self.turns = spec, text, turns
        self.signature = Signature(platform=text)
        self.in_flight = 0
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def infer(self, request):
        if self.closed:
            raise ModelNotReady(f"{self.text} was unloaded")
        self.in_flight += 1
        self._idle.clear()
        try:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            await self.gate.wait()
            if self.closed:
                raise ModelNotReady(f"{self.text} was closed over a request in flight")
            return InferenceResponse(model_name=request.model_name, outputs=(), id=self.text)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def close(self, drain_seconds):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        self.closed = True


class Real:
    """The real engine as the repository takes it."""

    def __init__(self, engine):
        self.engine = engine
        self.signature, self.placement, self.infer = engine.signature, engine.placement, engine.infer
        self.infer_stream = engine.infer_stream if engine.streams else None
        self.routes, self.visit, self.warnings, self.declared = (), None, (), {}
        self.explain = None

    async def close(self, drain_seconds):
        await self.engine.close(drain_seconds)


class Loader:
    """Loads Text engines; a file with BROKEN in it fails, one with CRASH breaks, and a held name waits."""

    def __init__(self):
        self.engines = []
        self.calls = []
        self.running = self.most = 0
        self.holds = {}
        self.began = asyncio.Event()

    def hold(self, name):
        self.holds[name] = asyncio.Event()
        return self.holds[name]

    async def __call__(self, spec):
        self.calls.append((spec.name, spec.version))
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.set()
        try:
            text = spec.model if spec.model is not None else Path(spec.path or f"{spec.folder}/models.py").read_text()
            await asyncio.sleep(0)
            if spec.name in self.holds:
                await self.holds[spec.name].wait()
            if "BROKEN" in text:
                raise LoadFailed(f"{spec.describe()} is broken")
            if "CRASH" in text:
                raise ZeroDivisionError("crash")
            engine = Text(spec, text.removeprefix("MODEL").strip())
            self.engines.append(engine)
            return engine
        finally:
            self.running -= 1

    @property
    def open(self):
        return [engine.text for engine in self.engines if not engine.closed]


class Clock:
    """Pauses that end when the test says so."""

    def __init__(self):
        self._pauses = asyncio.Queue()

    async def sleep(self, seconds):
        if seconds <= 0:
            return
        over = asyncio.get_running_loop().create_future()
        self._pauses.put_nowait((seconds, over))
        await over

    async def pause(self):
        """The next pause, once somebody makes it: its length, and what ends it."""
        return await asyncio.wait_for(self._pauses.get(), 60)


class House:
    """A repository over a folder."""

    def __init__(self, root, **options):
        self.root = root
        self.models, self.loader, self.clock = Models(), Loader(), Clock()
        self.options = {"grace_seconds": 0, "drain_seconds": 5, "paths": [str(root)], **options}
        self.repository = Repository(
            models=self.models,
            load_engine=self.loader,
            recognise=recognise,
            sleep=self.clock.sleep,
            **self.options,
        )

    def write(self, files):
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}")
            fresh.write_text(text)
            fresh.replace(path)  # a new inode: a change, however fast the clock of the disk ticks
        return self

    def remove(self, name):
        path = self.root / name
        path.unlink()
        if path.parent != self.root and not list(path.parent.iterdir()):
            path.parent.rmdir()

    async def start(self):
        found = discovery.survey(self.options["paths"], recognise=recognise)
        await self.repository.start(found.specs, found.problems)
        return self

    async def ask(self, name, version=""):
        request = InferenceRequest(model_name=name, inputs=(), model_version=version)
        return (await self.models.route(name, version).infer(request)).id

    @property
    def index(self):
        return {
            f"{row.name}/{row.version}".rstrip("/"): (row.state.value, row.reason)
            for row in sorted(self.models, key=lambda row: (row.name, row.version))
        }

    async def until(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def make(tmp_path):
    houses = []

    def build(files=None, **options):
        house = House(tmp_path, **options).write({"zz.pkl": "MODEL zz", **(files or {})})
        houses.append(house)
        return house

    yield build
    for house in houses:
        for hold in house.loader.holds.values():
            hold.set()
        for engine in house.loader.engines:
            engine.gate.set()
        async with asyncio.timeout(60):
            await house.repository.close()
        assert house.loader.open == []
        assert not house.repository._tasks


# -- start --


async def test_start_loads_everything(make):
    """After start every version is READY and answers, the newest by default."""
    house = await make({"a.pkl": "MODEL a", "b/9/m": "MODEL b9", "b/10/m": "MODEL b10"}).start()
    assert house.index == dict.fromkeys(("a", "b/9", "b/10", "zz"), ("READY", ""))
    assert house.models.is_ready()
    assert [await house.ask("a"), await house.ask("b"), await house.ask("b", "9")] == ["a", "b10", "b9"]
    served = house.models.route("a")
    assert (served.placement, served.signature.platform) == ("inline", "a")


async def test_loads_run_side_by_side_up_to_the_bound(make):
    """No more loads run at once than the bound says, and that many do."""
    house = make({f"m{i}.pkl": "MODEL" for i in range(6)}, max_parallel_loads=3)
    holds = [house.loader.hold(f"m{i}") for i in range(6)]
    start = asyncio.create_task(house.start())
    await house.until(lambda: house.loader.running == 3)
    for hold in holds:
        hold.set()
    await start
    assert house.loader.most == 3


async def test_fail_raises_the_first_failure_and_leaves_nothing_running(make):
    """Under `fail` the failure is raised once no load runs any more; loads still under way are cancelled."""
    house = make({"a.pkl": "MODEL BROKEN"}, max_parallel_loads=9)
    house.loader.hold("zz")
    with pytest.raises(LoadFailed, match="model 'a' is broken"):
        await house.start()
    assert house.loader.running == 0
    assert house.index == {
        "a": ("UNAVAILABLE", "model 'a' is broken"),
        "zz": ("UNAVAILABLE", "the load was cancelled"),
    }
    assert not house.models.is_ready()


async def test_fail_raises_what_discovery_found(make):
    """Under `fail` a model that discovery cannot make out ends the start before anything is loaded."""
    house = make({"a.pkl": "?"})
    with pytest.raises(UnknownFormat, match=r"a\.pkl"):
        await house.start()
    assert house.loader.calls == []


async def test_degrade_serves_the_others(make):
    """Under `degrade` what loads serves, what does not is in the index with its reason and holds up no readiness."""
    house = await make(
        {"a.pkl": "MODEL BROKEN", "b.pkl": "?", "c.pkl": "MODEL CRASH"}, startup_policy="degrade"
    ).start()
    index = house.index
    assert index["zz"] == ("READY", "")
    assert index["a"] == ("UNAVAILABLE", "model 'a' is broken")
    assert index["c"] == ("UNAVAILABLE", "model 'c': ZeroDivisionError: crash")
    assert index["b"][0] == "UNAVAILABLE"
    assert "no runtime recognises" in index["b"][1]
    assert await house.ask("zz") == "zz"
    assert house.models.is_ready()
    with pytest.raises(ModelNotReady, match="model 'a' is broken"):
        await house.ask("a")


async def test_retry_backs_off_until_it_loads(make):
    """Under `retry` a failed model is tried again after 1, 2, 4, ... 60 seconds, and serves as soon as it can."""
    house = await make({"a.pkl": "MODEL BROKEN"}, startup_policy="retry").start()
    pauses = []
    for attempt in range(2, 11):
        seconds, over = await house.clock.pause()
        pauses.append(seconds)
        assert house.index["a"] == ("UNAVAILABLE", f"model 'a' is broken; attempt {attempt} in {seconds:g} s")
        if attempt == 10:
            house.write({"a.pkl": "MODEL a"})
        over.set_result(None)
    await house.until(house.models.is_ready)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert await house.ask("a") == "a"
    await house.until(lambda: not house.repository._tasks)


async def test_retry_covers_what_discovery_could_not_make_out(make):
    """Under `retry` a file that was no model at start serves once it is one."""
    house = await make({"a.pkl": "?"}, startup_policy="retry").start()
    _, over = await house.clock.pause()
    house.write({"a.pkl": "MODEL a"})
    over.set_result(None)
    await house.until(house.models.is_ready)
    assert await house.ask("a") == "a"


async def test_retry_ends_when_the_model_is_unloaded(make):
    """A model that nobody wants any more is not tried again."""
    house = await make({"a.pkl": "MODEL BROKEN"}, startup_policy="retry").start()
    _, over = await house.clock.pause()
    await house.repository.unload("a")
    over.set_result(None)
    await house.until(lambda: not house.repository._tasks)
    assert house.loader.calls.count(("a", "")) == 1
    assert house.index["a"] == ("UNAVAILABLE", "unloaded")
    assert house.models.is_ready()


# -- load and unload --


async def test_not_one_request_fails_over_fifty_hot_swaps(make):
    """Requests that never stop are all answered while their model is replaced fifty times, each by the old or the new."""
    house = await make({"a.pkl": "MODEL 0"}).start()
    answers, stop = [], asyncio.Event()

    async def hammer():
        while not stop.is_set():
            served = house.models.route("a")
            await asyncio.sleep(0)  # whatever the server does between routing and asking
            answers.append((await served.infer(InferenceRequest(model_name="a", inputs=()))).id)

    hammers = [asyncio.create_task(hammer()) for _ in range(8)]
    for number in range(1, 51):
        house.write({"a.pkl": f"MODEL {number}"})
        if number % 2:
            await house.repository.load("a")
        else:
            assert await house.repository.reload_changed() == [("a", "")]
        assert await house.ask("a") == str(number)
        seen = len(answers)
        await house.until(lambda seen=seen: len(answers) > seen + 8)
    stop.set()
    await asyncio.gather(*hammers)
    assert {int(answer) for answer in answers} <= set(range(51))
    assert answers[-1] == "50"
    await house.until(lambda: sorted(house.loader.open) == ["50", "zz"])


async def test_the_old_engine_serves_until_the_new_one_is_warm(make):
    """While the new engine loads, the old one answers and the state stays READY; its requests in flight end on it."""
    house = await make({"a.pkl": "MODEL old"}).start()
    (old,) = [engine for engine in house.loader.engines if engine.text == "old"]
    hold = house.loader.hold("a")
    house.write({"a.pkl": "MODEL new"})
    load = asyncio.create_task(house.repository.load("a"))
    await house.until(lambda: house.loader.running)
    old.gate.clear()
    in_flight = asyncio.create_task(house.ask("a"))
    await house.until(lambda: old.in_flight)
    assert house.index["a"] == ("READY", "")
    hold.set()
    await load
    assert await house.ask("a") == "new"
    assert not old.closed
    old.gate.set()
    assert await in_flight == "old"
    await house.until(lambda: old.closed)


async def test_a_request_that_never_ends_does_not_hold_an_engine_for_ever(make):
    """An engine that leaves is closed after the drain time, whatever is in flight."""
    house = await make({"a.pkl": "MODEL a"}, drain_seconds=0.01).start()
    (engine,) = [engine for engine in house.loader.engines if engine.text == "a"]
    engine.gate.clear()
    in_flight = asyncio.create_task(house.ask("a"))
    await house.until(lambda: engine.in_flight)
    await house.repository.unload("a")
    assert engine.closed
    engine.gate.set()
    with pytest.raises(ModelNotReady, match="closed over a request in flight"):
        await in_flight


async def test_a_replaced_engine_waits_for_requests_on_their_way(make):
    """A replaced engine stays open for the grace time, for requests that were routed to it and have not reached it."""
    house = await make({"a.pkl": "MODEL a"}, grace_seconds=0.5).start()
    infer = house.models.route("a").infer
    await house.repository.load("a")
    seconds, over = await house.clock.pause()
    assert seconds == 0.5
    assert (await infer(InferenceRequest(model_name="a", inputs=()))).id == "a"
    over.set_result(None)
    await house.until(lambda: len(house.loader.open) == 2)
    house.repository._grace_seconds = 0  # nobody ends the pauses of close


async def test_a_failed_reload_keeps_the_old_one(make):
    """When the new files do not load, the old engine serves on, and the index says why; the next good load clears it."""
    house = await make({"a.pkl": "MODEL a"}).start()
    house.write({"a.pkl": "MODEL BROKEN"})
    with pytest.raises(LoadFailed, match="is broken"):
        await house.repository.load("a")
    assert house.index["a"] == ("READY", "reload failed: model 'a' is broken")
    assert await house.ask("a") == "a"
    house.write({"a.pkl": "no more"})
    with pytest.raises(UnknownFormat):
        await house.repository.load("a")
    assert house.index["a"][1].startswith("reload failed: ")
    assert await house.ask("a") == "a"
    house.write({"a.pkl": "MODEL c"})
    await house.repository.load("a")
    assert house.index["a"] == ("READY", "")
    assert await house.ask("a") == "c"


async def test_unload_takes_all_versions_away(make):
    """An unloaded model is UNAVAILABLE with the reason `unloaded`, its engines are closed, the server stays ready."""
    house = await make({"a/1/m": "MODEL a1", "a/2/m": "MODEL a2"}).start()
    await house.repository.unload("a")
    assert house.index == {
        "a/1": ("UNAVAILABLE", "unloaded"),
        "a/2": ("UNAVAILABLE", "unloaded"),
        "zz": ("READY", ""),
    }
    assert house.loader.open == ["zz"]
    assert house.models.is_ready()
    assert house.models.find("a", "1").signature is None
    with pytest.raises(ModelNotReady, match="unloaded"):
        house.models.route("a")
    await house.repository.unload("a", unload_dependents=True)  # once more: succeeds
    await house.repository.load("a")
    assert await house.ask("a") == "a2"
    assert house.models.find("a", "1").wanted


async def test_unknown_models(make):
    """Loading and unloading what nobody ever heard of is ModelNotFound."""
    house = await make().start()
    with pytest.raises(ModelNotFound, match="'nope'"):
        await house.repository.unload("nope")
    with pytest.raises(ModelNotFound, match="'nope'"):
        await house.repository.load("nope")


async def test_load_finds_what_was_not_there_at_start(make):
    """A model put there since is loaded by name; a failing one is told and does not make the server unready."""
    house = await make().start()
    house.write({"a/1/m": "MODEL a1", "b.pkl": "MODEL BROKEN"})
    await house.repository.load("a")
    assert await house.ask("a", "1") == "a1"
    with pytest.raises(LoadFailed):
        await house.repository.load("b")
    assert house.index["b"] == ("UNAVAILABLE", "model 'b' is broken")
    assert house.models.is_ready()


async def test_unload_while_loading(make):
    """An unload asked for during a load comes after it: the model ends unloaded, and no engine stays."""
    house = await make({"a.pkl": "MODEL a"}).start()
    hold = house.loader.hold("a")
    load = asyncio.create_task(house.repository.load("a"))
    await house.until(lambda: house.loader.running)
    unload = asyncio.create_task(house.repository.unload("a"))
    await asyncio.sleep(0)
    assert not unload.done()
    hold.set()
    await asyncio.gather(load, unload)
    assert house.index["a"] == ("UNAVAILABLE", "unloaded")
    assert house.loader.open == ["zz"]


async def test_loads_of_one_name_come_one_after_the_other(make):
    """Ten loads of the same model at once never run side by side, and each replaces the engine."""
    house = await make({"a.pkl": "MODEL a"}, max_parallel_loads=9).start()
    house.loader.most = 0
    await asyncio.gather(*(house.repository.load("a") for _ in range(10)))
    assert house.loader.most == 1
    assert house.loader.calls.count(("a", "")) == 11
    await house.until(lambda: len(house.loader.open) == 2)


async def test_a_caller_who_leaves_does_not_stop_the_load(make):
    """A load goes on to its end when whoever asked for it is cancelled."""
    house = await make({"a.pkl": "MODEL a"}).start()
    house.write({"a.pkl": "MODEL b"})
    hold = house.loader.hold("a")
    load = asyncio.create_task(house.repository.load("a"))
    await house.until(lambda: house.loader.running)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    hold.set()
    await house.until(lambda: not house.repository._tasks)
    assert await house.ask("a") == "b"


async def test_config_holds_until_the_next_load(make):
    """A load's config overrides the file's settings, over hot reloads too, until a load without one."""
    house = await make({"a.pkl": "MODEL a"}).start()
    await house.repository.load("a", {"config": '{"max_batch_size": 4, "placement": "thread"}'})
    assert house.loader.engines[-1].spec.batching == Batching(max_batch_size=4)
    assert await house.repository.reload_changed() == []
    house.write({"a.pkl": "MODEL b"})
    assert await house.repository.reload_changed() == [("a", "")]
    assert house.loader.engines[-1].spec.placement == "thread"
    await house.repository.load("a")
    assert house.loader.engines[-1].spec.placement == "auto"


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"config": "{", "x": 1}, InvalidRequest, "unknown parameter 'x'"),
        ({"config": "{"}, InvalidRequest, "not JSON"),
        ({"config": 3}, InvalidRequest, "expected JSON text"),
        ({"config": "{}", "file:1/model.onnx": "aGk="}, NotSupported, "'file:1/model.onnx': models are not uploaded"),
        ({"config": '{"load_policy": "trusted"}'}, InvalidRequest, "decides which code runs"),
    ],
)
async def test_what_a_load_refuses(make, parameters, error, words):
    """A load with an upload, an unknown parameter or a wrong config is refused before anything is loaded."""
    house = await make({"a.pkl": "MODEL a"}).start()
    calls = len(house.loader.calls)
    with pytest.raises(error, match=words):
        await house.repository.load("a", parameters)
    assert len(house.loader.calls) == calls


async def test_a_model_in_memory_is_loaded_again(make):
    """A model given as an object, with no path, can be unloaded and loaded again, and is never gone."""
    house = make(paths=[])
    await house.repository.start([ModelSpec(name="mine", model="MODEL mine")])
    assert await house.repository.reload_changed() == []
    await house.repository.unload("mine")
    await house.repository.load("mine")
    assert await house.ask("mine") == "mine"


# -- hot reload --


async def test_a_new_version_becomes_the_default(make):
    """A new version folder is loaded and answers by default; taken away again, the one before does."""
    house = await make({"a/1/m": "MODEL a1"}).start()
    house.write({"a/2/m": "MODEL a2"})
    assert await house.repository.reload_changed() == [("a", "2")]
    assert (await house.ask("a"), await house.ask("a", "1")) == ("a2", "a1")
    house.remove("a/2/m")
    assert await house.repository.reload_changed() == [("a", "2")]
    assert await house.ask("a") == "a1"
    assert "a/2" not in house.index
    with pytest.raises(ModelNotFound, match="version '2'"):
        house.models.route("a", "2")
    await house.until(lambda: sorted(house.loader.open) == ["a1", "zz"])


@pytest.mark.parametrize(
    "files",
    [
        {"a.pkl": "MODEL a"},
        {"a.headrace.yaml": "replicas: 2"},
        {"b.pkl": "MODEL b"},
        {"b.pkl": "?"},
        {"c/1/m": "MODEL BROKEN"},
    ],
    ids=["same-bytes-new-file", "yaml", "model", "no-model", "broken-version"],
)
async def test_a_second_look_finds_nothing_to_do(make, files):
    """After a look has acted on a change, or failed to, the next one touches nothing."""
    house = await make({"a.pkl": "MODEL a"}).start()
    assert await house.repository.reload_changed() == []
    house.write(files)
    await house.repository.reload_changed()
    calls, index = len(house.loader.calls), house.index
    assert await house.repository.reload_changed() == []
    assert (len(house.loader.calls), house.index) == (calls, index)


async def test_a_broken_new_version_takes_nothing_down(make):
    """A new version that does not load is in the index with its reason; the old one serves and the server is ready."""
    house = await make({"a/1/m": "MODEL a1"}).start()
    house.write({"a/2/m": "MODEL BROKEN", "a/3/m": "?"})
    await house.repository.reload_changed()
    assert house.index["a/2"] == ("UNAVAILABLE", "model 'a' version '2' is broken")
    assert house.index["a/3"][0] == "UNAVAILABLE"
    assert await house.ask("a") == "a1"
    assert house.models.is_ready()
    house.write({"a/2/m": "MODEL a2", "a/3/m": "MODEL a3"})
    assert await house.repository.reload_changed() == [("a", "2"), ("a", "3")]
    assert await house.ask("a") == "a3"


async def test_the_last_that_serves_stays_while_its_successor_does_not_load(make):
    """A version whose files are gone serves on until another one of its model is READY."""
    house = await make({"a/1/m": "MODEL a1"}).start()
    house.write({"a/2/m": "MODEL BROKEN"})
    house.remove("a/1/m")
    for _ in range(2):
        await house.repository.reload_changed()
        assert await house.ask("a") == "a1"
        assert "its files are gone" in house.index["a/1"][1]
    house.write({"a/2/m": "MODEL a2"})
    assert await house.repository.reload_changed() == [("a", "2"), ("a", "1")]
    assert list(house.index) == ["a/2", "zz"]


async def test_a_model_whose_files_are_gone_is_forgotten(make):
    """A model removed from the folder leaves the index, loaded or not, and its engine is closed."""
    house = await make({"a.pkl": "MODEL a", "b.pkl": "MODEL b", "c.pkl": "MODEL c"}).start()
    await house.repository.unload("b")
    house.remove("a.pkl")
    house.remove("b.pkl")
    assert sorted(await house.repository.reload_changed()) == [("a", ""), ("b", "")]
    assert list(house.index) == ["c", "zz"]
    assert sorted(house.loader.open) == ["c", "zz"]


async def test_a_place_that_cannot_be_read_takes_nothing_away(make, tmp_path):
    """When a whole path disappears (a mount that hangs), its models serve on."""
    root = tmp_path / "mount"
    house = make(paths=[str(root), str(tmp_path / "zz.pkl")])
    house.write({"mount/a.pkl": "MODEL a", "mount/b/1/m": "MODEL b1"})
    await house.start()
    root.rename(tmp_path / "elsewhere")
    await house.repository.reload_changed()
    assert (await house.ask("a"), await house.ask("b")) == ("a", "b1")
    (tmp_path / "elsewhere").rename(root)
    await house.repository.reload_changed()
    assert house.index["a"] == ("READY", "")
    assert "mount" not in house.index


async def test_what_lies_at_a_path_is_not_guessed_by_its_name(make, tmp_path):
    """The rows of a path are those of what lies below it, broken or not, and never those of a namesake elsewhere."""
    paths = [str(tmp_path / "one/iris"), str(tmp_path / "two/other")]
    house = await make({"one/iris/iris.pkl": "MODEL iris"}, paths=paths, startup_policy="degrade").start()

    def names(place):
        return [row.name for row in house.repository.at(tmp_path / place)]

    assert names("one") == names("one/iris/iris.pkl") == ["iris"]
    assert names("two") == names("two/other") == ["other"]  # nothing is there, which its row says
    assert names("three") == names("two/iris") == []
    house.write({"two/other": "MODEL now"})
    await house.repository.reload_changed()
    assert names("two") == ["other"]
    assert house.index["other"] == ("READY", "")


async def test_an_unloaded_model_stays_so(make):
    """Hot reload does not bring back what was unloaded by request, even when its files change."""
    house = await make({"a.pkl": "MODEL a"}).start()
    await house.repository.unload("a")
    house.write({"a.pkl": "MODEL b"})
    assert await house.repository.reload_changed() == []
    assert house.index["a"] == ("UNAVAILABLE", "unloaded")


async def test_the_watch_waits_for_files_to_settle(make):
    """The watch looks every so many seconds, and loads a change when two looks in a row see the same files."""
    house = await make({"a.pkl": "MODEL a"}, watch_seconds=7).start()
    house.write({"a.pkl": "MODEL half"})
    for text in ("MODEL most", "MODEL whole", None, None):
        seconds, over = await house.clock.pause()
        assert seconds == 7
        assert house.loader.calls.count(("a", "")) == 1
        over.set_result(None)
        if text is not None:
            looks = house.repository._last_look
            await house.until(lambda looks=looks: house.repository._last_look is not looks)
            house.write({"a.pkl": text})
    await house.clock.pause()
    assert house.loader.calls.count(("a", "")) == 2
    assert await house.ask("a") == "whole"


async def test_a_mount_that_swaps_its_link_is_a_change(make, tmp_path):
    """New files behind the same links, of the same size and age, are loaded."""
    store = tmp_path / "store"
    for name, text in (("..1", "MODEL a"), ("..2", "MODEL b")):
        (store / name).mkdir(parents=True)
        (store / name / "a.pkl").write_text(text)
        os.utime(store / name / "a.pkl", (1, 1))
    (store / "..data").symlink_to("..1")
    (store / "a.pkl").symlink_to("..data/a.pkl")
    house = make(paths=[str(store / "a.pkl")])
    await house.start()
    (store / "..new").symlink_to("..2")
    (store / "..new").rename(store / "..data")
    assert await house.repository.reload_changed() == [("a", "")]
    assert await house.ask("a") == "b"


# -- close --


def mlserver(name, version="", **others):
    """A model-settings.json."""
    parameters = {"version": version, "uri": "./model.pkl"}
    implementation = others.pop("implementation", "mlserver_sklearn.SKLearnModel")
    return json.dumps({"name": name, "implementation": implementation, "parameters": parameters, **others})


async def test_settings_of_another_server_are_read_again(make):
    """A load by name reads model-settings.json again; versions whose files disappeared are unloaded."""
    files = {f"{v}/model-settings.json": mlserver("a", v) for v in "12"} | {
        f"{v}/model.pkl": "MODEL " + v for v in "12"
    }
    house = await make(files).start()
    assert await house.ask("a") == "2"
    house.write({"2/model-settings.json": mlserver("a", "3", platform="x")})
    await house.repository.load("a")
    assert house.index == {"a/1": ("READY", ""), "a/3": ("READY", "")}
    assert house.models.find("a", "3").declared == {"platform": "x"}
    assert house.models.find("a", "3").dialect == "mlserver"
    house.remove("2/model-settings.json")
    await house.repository.load("a")
    assert house.index == {"a/1": ("READY", "")}
    assert house.loader.open == ["1"]


@pytest.mark.parametrize(
    "text", ['{"name": "a",', '{"name": "a", "implementation": 5}', '{"name": "other", "name": 5}']
)
async def test_malformed_settings_keep_the_old_one_serving(make, text):
    """A settings file that cannot be read any more leaves its model serving, with the reason, whatever the folder's
    name; a load of it fails with file and line, and once the file is right again the reason is gone.
    """
    house = await make({"x/model-settings.json": mlserver("a", "1"), "x/model.pkl": "MODEL old"}).start()
    house.write({"x/model-settings.json": text})
    with pytest.raises(SettingsError, match=r"x/model-settings\.json:1: "):
        await house.repository.load("a")
    await house.repository.reload_changed()
    assert await house.ask("a", "1") == "old"
    ((state, reason),) = house.index.values()
    assert state == "READY"
    assert "reload failed: " in reason
    house.write({"x/model-settings.json": mlserver("a", "1"), "x/model.pkl": "MODEL new"})
    assert await house.repository.reload_changed() == [("a", "1")]
    assert house.index == {"a/1": ("READY", "")}
    assert await house.ask("a") == "new"


async def test_malformed_server_settings_take_nothing_down(make):
    """While a folder's settings.json cannot be read its models serve on, and the folder says why."""
    house = await make({"x/model-settings.json": mlserver("a"), "x/model.pkl": "MODEL old"}).start()
    house.write({"settings.json": "{"})
    await house.repository.reload_changed()
    assert await house.ask("a") == "old"
    assert "not valid JSON" in house.index[house.root.name][1]
    house.write({"settings.json": "{}"})
    await house.repository.reload_changed()
    assert house.index == {"a": ("READY", "")}


async def test_hot_reload_sees_settings_and_code(make):
    """A change of model-settings.json, of a Python file of the model or of its artifact is a change of the model."""
    settings = mlserver("a", implementation="models.M")
    house = await make({"x/model-settings.json": settings, "x/models.py": "MODEL 1", "x/model.pkl": "MODEL"}).start()
    assert await house.repository.reload_changed() == []
    for change in ({"x/models.py": "MODEL 2"}, {"x/more.py": ""}, {"x/model-settings.json": settings + " "}):
        house.write(change)
        assert await house.repository.reload_changed() == [("a", "")]
        assert await house.repository.reload_changed() == []
    assert await house.ask("a") == "2"
    house.write({"x/log.txt": "written by the model itself"})
    assert await house.repository.reload_changed() == []


async def test_models_that_wait_for_a_load(make):
    """Where models are not loaded at start, neither start nor hot reload loads one; a repository load does, and from
    then on its changes are followed.
    """
    files = {"settings.json": '{"load_models_at_startup": false}'}
    files |= {f"{name}/{file}": text for name in "ab" for file, text in (("model.pkl", "MODEL 1"),)}
    files |= {f"{name}/model-settings.json": mlserver(name) for name in "ab"}
    house = await make(files, startup_policy="degrade").start()
    assert await house.repository.reload_changed() == []
    assert house.models.is_ready()
    assert {state for state, _ in house.index.values()} == {"UNAVAILABLE"}
    assert "repository load starts it" in house.index["a"][1]
    await house.repository.load("a")
    house.write({"a/model.pkl": "MODEL 2", "b/model.pkl": "MODEL 2"})
    assert await house.repository.reload_changed() == [("a", "")]
    assert await house.ask("a") == "2"
    assert house.index["b"][0] == "UNAVAILABLE"


async def test_close_ends_everything(make):
    """Close cancels loads under way, lets requests in flight end, and refuses what comes later; twice is once."""
    house = await make({"a.pkl": "MODEL a"}).start()
    (engine,) = [engine for engine in house.loader.engines if engine.text == "a"]
    engine.gate.clear()
    in_flight = asyncio.create_task(house.ask("a"))
    await house.until(lambda: engine.in_flight)
    house.loader.hold("zz")
    load = asyncio.create_task(house.repository.load("zz"))
    await house.until(lambda: house.loader.running)
    close = asyncio.create_task(house.repository.close())
    with pytest.raises(ModelNotReady, match="stopping"):
        await load
    assert not close.done()
    engine.gate.set()
    assert await in_flight == "a"
    await close
    await house.repository.close()
    assert house.loader.open == []
    assert house.index["a"] == ("UNAVAILABLE", "the server is stopping")
    with pytest.raises(ModelNotReady, match="stopping"):
        await house.repository.load("a")


async def test_a_start_that_is_cancelled_leaves_nothing_running(make):
    """Cancelling start cancels its loads and waits for them."""
    house = make({"a.pkl": "MODEL a"})
    house.loader.hold("zz")
    start = asyncio.create_task(house.start())
    await house.until(lambda: house.loader.running)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert house.loader.running == 0
    assert house.index["zz"] == ("UNAVAILABLE", "the load was cancelled")


async def test_a_wrong_setting_is_told_like_any_failure(make):
    """A headrace.yaml that goes wrong while the model serves leaves it serving, with file and line in the index."""
    house = await make({"a.pkl": "MODEL a"}).start()
    house.write({"a.headrace.yaml": "replica: 2"})
    await house.repository.reload_changed()
    state, reason = house.index["a"]
    assert state == "READY"
    assert "a.headrace.yaml:1" in reason
    assert "did you mean 'replicas'" in reason
    with pytest.raises(SettingsError):
        await house.repository.load("a")
    (house.root / "a.headrace.yaml").unlink()
    await house.repository.reload_changed()
    assert house.index["a"] == ("READY", "")


# -- the real thing --


async def test_a_real_model_is_replaced_under_load(tmp_path):
    """A scikit-learn model found, loaded by the real engine and hammered is replaced ten times without a failed request."""
    joblib = pytest.importorskip("joblib")
    dummy = pytest.importorskip("sklearn.dummy")
    rows = np.zeros((4, 2))

    def save(value):
        fresh = tmp_path / ".fresh"
        joblib.dump(dummy.DummyRegressor(strategy="constant", constant=value).fit(rows, np.zeros(4)), fresh)
        fresh.replace(tmp_path / "iris" / "model.joblib")

    async def load(spec):
        runtime_spec = RuntimeSpec(name=spec.name, version=spec.version, runtime=spec.runtime, path=spec.path)
        return Real(await load_engine(runtime_spec, placement="thread"))

    def of_content(path):
        return recognise_content(path, {name: RUNTIMES[name] for name in ("sklearn", "onnx")})

    (tmp_path / "iris").mkdir()
    save(0.0)
    models, paths = Models(), [str(tmp_path)]
    repository = Repository(models=models, load_engine=load, paths=paths, recognise=of_content)
    await repository.start(discovery.discover(paths, recognise=of_content))
    answers, stop = [], asyncio.Event()

    async def hammer():
        request = InferenceRequest(model_name="iris", inputs=(Tensor("x", "FP64", rows),))
        while not stop.is_set():
            response = await models.route("iris").infer(request)
            answers.append(float(response.outputs[0].data.ravel()[0]))

    hammers = [asyncio.create_task(hammer()) for _ in range(4)]
    try:
        for number in range(1, 11):
            save(float(number))
            assert await repository.reload_changed() == [("iris", "")]
            seen = len(answers)
            async with asyncio.timeout(60):
                while len(answers) < seen + 8:
                    await asyncio.sleep(0.001)
            assert answers[-1] == number
    finally:
        stop.set()
        await asyncio.gather(*hammers)
        await repository.close()
    with pytest.raises(ModelNotReady):
        models.route("iris")
