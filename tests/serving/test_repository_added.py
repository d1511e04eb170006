"""repository: versions that no path holds (`add`, `remove`), beside those that paths hold, and models that come and go.

Uses the house of `test_repository`: engines that answer what stands in a file, and a loader that may be held.
"""

import asyncio

import msgspec
import pytest
from tests.serving.test_repository import House, make

from headrace.errors import Conflict, LoadFailed, ModelNotFound, ModelNotReady
from headrace.payload import Signature
from headrace.serving.models import Served, State
from headrace.serving.repository import Repository
from headrace.serving.residency import Residency
from headrace.serving.spec import ModelSpec

__all__ = ["make"]  # the fixture


def added(house, name="new", version="1", text="MODEL new", **fields):
    """The spec of a model whose file lies beside the paths."""
    file = house.root.parent / f"{house.root.name}-{name}-{version}"
    fresh = file.with_name(f".{file.name}")
    fresh.write_text(text)
    fresh.replace(file)
    return ModelSpec(name=name, version=version, path=str(file), **fields)


async def test_an_added_version_serves_and_survives_hot_reload(make):
    """What was added serves beside what the paths hold, and a look at the paths leaves it there."""
    house = await make({"a.pkl": "MODEL a"}).start()
    await house.repository.add(added(house))
    assert await house.ask("new") == "new"
    assert house.index["new/1"] == ("READY", "")
    house.write({"b.pkl": "MODEL b"})
    assert await house.repository.reload_changed() == [("b", "")]
    assert [await house.ask("new", "1"), await house.ask("a")] == ["new", "a"]
    assert house.models.is_ready()


async def test_hot_reload_leaves_changed_files_of_added_versions_alone(make):
    """When an added version is loaded again is for whoever added it to say."""
    house = await make().start()
    spec = added(house)
    await house.repository.add(spec)
    added(house, text="MODEL changed")
    assert await house.repository.reload_changed() == []
    assert await house.ask("new") == "new"
    await house.repository.add(spec)
    assert await house.ask("new") == "changed"


async def test_a_look_that_began_before_an_add_does_not_drop_it(make):
    """A hot reload that surveyed the paths before a version was added leaves it there afterwards."""
    house = await make({"a.pkl": "MODEL a"}).start()
    house.loader.hold("zz")
    house.write({"zz.pkl": "MODEL 2"})
    look = asyncio.create_task(house.repository.reload_changed())
    await house.until(lambda: house.loader.running)
    await house.repository.add(added(house))
    house.loader.holds.pop("zz").set()
    await look
    assert await house.ask("new") == "new"


async def test_an_added_version_is_replaced_once_the_new_one_is_warm(make):
    """Adding a version again answers from the old engine until the new one is loaded, then closes the old."""
    house = await make().start()
    await house.repository.add(added(house))
    hold = house.loader.hold("new")
    adding = asyncio.create_task(house.repository.add(added(house, text="MODEL newer")))
    await house.until(lambda: house.loader.running)
    assert await house.ask("new") == "new"
    hold.set()
    await adding
    assert await house.ask("new") == "newer"
    await house.until(lambda: "new" not in house.loader.open)


async def test_revisions_stand_beside_each_other(make):
    """Two revisions of a name serve at once, the newest by default, and removing one leaves the other."""
    house = await make().start()
    for version in ("9", "10"):
        await house.repository.add(added(house, version=version, text=f"MODEL r{version}"))
    assert [await house.ask("new"), await house.ask("new", "9")] == ["r10", "r9"]
    await house.repository.remove("new", "10")
    assert await house.ask("new") == "r9"
    with pytest.raises(ModelNotFound, match="known versions: 9"):
        await house.ask("new", "10")
    assert "r10" not in house.loader.open


async def test_adding_the_same_again_does_nothing(make):
    """A version that serves from unchanged files as its spec says is not loaded again, for files written anew it is."""
    house = await make().start()
    spec = added(house)
    await house.repository.add(spec)
    await house.repository.add(spec)
    assert house.loader.calls.count(("new", "1")) == 1
    await house.repository.add(msgspec.structs.replace(spec, replicas=2))
    assert house.loader.calls.count(("new", "1")) == 2


async def test_a_load_that_fails_leaves_what_served(make):
    """A broken replacement is raised to whoever adds it, and the old engine serves on with the reason in the index."""
    house = await make().start()
    await house.repository.add(added(house))
    with pytest.raises(LoadFailed, match="is broken"):
        await house.repository.add(added(house, text="MODEL BROKEN"))
    assert await house.ask("new") == "new"
    assert house.index["new/1"] == ("READY", "reload failed: model 'new' version '1' is broken")


async def test_a_new_version_that_fails_is_told_and_can_be_added_again(make):
    """A first load that fails stands in the index, holds up no readiness, and the next add may do better."""
    house = await make().start()
    with pytest.raises(LoadFailed, match="is broken"):
        await house.repository.add(added(house, text="MODEL BROKEN"))
    assert house.index["new/1"] == ("UNAVAILABLE", "model 'new' version '1' is broken")
    assert house.models.is_ready()
    assert await house.repository.reload_changed() == []
    await house.repository.add(added(house))
    assert await house.ask("new") == "new"


async def test_a_cancelled_add_leaves_nothing(make):
    """Whoever leaves while a version loads leaves no row and no engine; of one that served before, the old serves on."""
    house = await make().start()
    hold = house.loader.hold("new")
    adding = asyncio.create_task(house.repository.add(added(house)))
    await house.until(lambda: house.loader.running)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert "new/1" not in house.index
    assert house.loader.running == 0
    hold.set()
    await house.repository.add(added(house))
    house.loader.hold("new")
    again = asyncio.create_task(house.repository.add(added(house, text="MODEL newer")))
    await house.until(lambda: house.loader.running)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    assert await house.ask("new") == "new"
    assert house.index["new/1"] == ("READY", "")


async def test_remove_lets_requests_end_and_forgets(make):
    """Removing waits for requests in flight, then there is no such version; what is not there is removed already."""
    house = await make().start()
    await house.repository.add(added(house))
    engine = house.loader.engines[-1]
    engine.gate.clear()
    asked = asyncio.create_task(house.ask("new"))
    await house.until(lambda: engine.in_flight)
    removing = asyncio.create_task(house.repository.remove("new", "1"))
    await house.until(lambda: house.index["new/1"][0] == "UNLOADING")
    engine.gate.set()
    assert await asked == "new"
    await removing
    assert "new/1" not in house.index
    await house.repository.remove("new", "1")
    assert await house.repository.reload_changed() == []
    with pytest.raises(ModelNotFound):
        await house.repository.load("new")


async def test_remove_waits_for_a_load_under_way(make):
    """A version that is removed while it loads is gone afterwards, with its engine."""
    house = await make().start()
    hold = house.loader.hold("new")
    adding = asyncio.create_task(house.repository.add(added(house)))
    await house.until(lambda: house.loader.running)
    removing = asyncio.create_task(house.repository.remove("new", "1"))
    await asyncio.sleep(0)
    hold.set()
    await asyncio.gather(adding, removing)
    assert "new/1" not in house.index
    assert "new" not in house.loader.open


async def test_what_paths_hold_is_not_added_or_removed(make):
    """A version that is found at a path is neither replaced by an add nor taken away by a remove."""
    house = await make({"a.pkl": "MODEL a"}).start()
    with pytest.raises(Conflict, match="model 'a' is found at a path"):
        await house.repository.add(added(house, name="a", version=""))
    with pytest.raises(Conflict, match="model 'a' is found at a path"):
        await house.repository.remove("a", "")
    assert await house.ask("a") == "a"


async def test_a_file_that_appears_under_an_added_name_changes_nothing(make):
    """An added version holds over a file of its name that comes to a path later."""
    house = await make().start()
    await house.repository.add(added(house, version=""))
    house.write({"new.pkl": "MODEL from the path"})
    await house.repository.reload_changed()
    assert await house.ask("new") == "new"


async def test_the_repository_extension_reaches_added_versions(make):
    """An added model is unloaded and loaded by its name like any other."""
    house = await make().start()
    await house.repository.add(added(house))
    await house.repository.unload("new")
    assert house.index["new/1"] == ("UNAVAILABLE", "unloaded")
    added(house, text="MODEL changed")
    await house.repository.load("new")
    assert await house.ask("new") == "changed"


async def test_adding_an_unloaded_version_serves_it_again(make):
    """A version unloaded by request is loaded when it is added again."""
    house = await make().start()
    spec = added(house)
    await house.repository.add(spec)
    await house.repository.unload("new")
    await house.repository.add(spec)
    assert await house.ask("new") == "new"


async def test_adds_run_side_by_side_up_to_the_bound(make):
    """Added versions are loaded no more at once than the bound says."""
    house = await make(max_parallel_loads=2).start()
    names = [f"m{number}" for number in range(6)]
    holds = [house.loader.hold(name) for name in names]
    adds = [asyncio.create_task(house.repository.add(added(house, name=name))) for name in names]
    await house.until(lambda: house.loader.running == 2)
    for hold in holds:
        hold.set()
    await asyncio.gather(*adds)
    assert house.loader.most == 2


async def test_add_and_remove_without_paths_and_after_close(make):
    """A repository over nothing takes additions; a closed one takes nothing."""
    house = make(paths=[])
    await house.repository.start([])
    await house.repository.add(added(house))
    assert await house.ask("new") == "new"
    await house.repository.close()
    with pytest.raises(ModelNotReady, match="stopping"):
        await house.repository.add(added(house))
    with pytest.raises(ModelNotReady, match="stopping"):
        await house.repository.remove("new", "1")


async def test_pipelines_in_the_table_are_none_of_its_business(make):
    """A pipeline of the table is neither dropped by hot reload nor unloaded, also one with a model's name."""
    house = await make({"a.pkl": "MODEL a", "b.pkl": "MODEL b"}).start()
    for name in ("a", "p"):
        served = Served(name=name, kind="pipeline", wanted=False)
        served.infer = house.models.route("a").infer
        house.models.put(served)
        house.models.changed(served, State.READY)
    (house.root / "a.pkl").unlink()
    assert await house.repository.reload_changed() == [("a", "")]
    assert [house.models.route(f"{name}.pipeline").state for name in ("a", "p")] == [State.READY] * 2
    with pytest.raises(ModelNotFound):
        await house.repository.unload("p")
    assert house.models.route("p").state is State.READY


# -- with models that come and go --


class Inn(House):
    """A repository over a residency."""

    def __init__(self, root, **options):
        super().__init__(root, **options)
        self.residency = Residency(self.loader, changed=self.refresh)
        self.repository = Repository(
            models=self.models,
            load_engine=self.residency.load_engine,
            tune=self.residency.tune,
            sleep=self.clock.sleep,
            grace_seconds=0.0,
        )

    def refresh(self, spec, loaded, failed):
        self.repository.refresh(spec, loaded, failed)


@pytest.fixture
async def inn(tmp_path):
    inn = Inn(tmp_path)
    await inn.repository.start([])
    yield inn
    await inn.repository.close()
    await inn.residency.close()
    assert inn.loader.open == []


async def test_on_demand_is_ready_unloaded_and_told_after_its_load(inn):
    """A model on demand is READY without a signature, waits for nothing but a request, and then says what it is."""
    await inn.repository.add(added(inn, on_demand=True))
    served = inn.models.route("new")
    assert (served.signature, inn.loader.calls) == (None, [])
    assert inn.models.is_ready()
    assert await inn.ask("new") == "new"
    assert (served.signature, served.placement) == (Signature(platform="new"), "inline")
    assert served.infer_stream is None


async def test_a_broken_model_on_demand_says_so_in_the_index(inn):
    """A load on demand that fails leaves the version READY with the reason, which goes with the next that works."""
    await inn.repository.add(added(inn, text="MODEL BROKEN", on_demand=True))
    with pytest.raises(LoadFailed, match="is broken"):
        await inn.ask("new")
    assert inn.index["new/1"] == (
        "READY",
        "its last load failed; the next request tries again: model 'new' version '1' is broken",
    )
    added(inn)
    await inn.residency.prefetch("new")
    assert inn.index["new/1"] == ("READY", "")


async def test_residency_settings_change_without_a_load(inn):
    """Adding a version with other `idle_seconds` takes them over; one that passed through is loaded for them."""
    spec = added(inn, on_demand=True)
    await inn.repository.add(spec)
    await inn.ask("new")
    await inn.repository.add(msgspec.structs.replace(spec, idle_seconds=0.001))
    await inn.until(lambda: not inn.loader.open)
    assert inn.loader.calls == [("new", "1")]
    plain = added(inn, name="plain")
    await inn.repository.add(plain)
    await inn.repository.add(msgspec.structs.replace(plain, memory_bytes=5))
    assert inn.loader.calls.count(("plain", "1")) == 1
    await inn.repository.add(msgspec.structs.replace(plain, idle_seconds=5))
    assert inn.loader.calls.count(("plain", "1")) == 2


async def test_a_model_whose_worker_died_comes_back_after_it_left(inn):
    """A version that its engine had made UNAVAILABLE is READY again once that engine has left memory."""
    await inn.repository.add(added(inn, idle_seconds=60.0))
    served = inn.models.find("new")
    inn.models.changed(served, State.UNAVAILABLE, "worker process died")
    await inn.residency.evict("new")
    assert inn.index["new/1"] == ("READY", "")
    assert await inn.ask("new") == "new"


async def test_an_absent_model_is_removed_and_replaced(inn):
    """A version out of memory is replaced, and removed, without being loaded for it."""
    spec = added(inn, on_demand=True)
    await inn.repository.add(spec)
    await inn.repository.add(msgspec.structs.replace(spec, replicas=2))
    await inn.repository.remove("new", "1")
    assert inn.loader.calls == []
    assert len(inn.residency.usage()) == 0
