"""What every backend keeps: inherit `BackendConformance` in a pytest class, say how to make one and what it can serve.

    class TestMemory(BackendConformance):
        async def make(self, folder):
            return MemoryBackend()

        def model(self, folder):
            return Model(uri="a")  # something that loads

        def broken(self, folder):
            return Model(uri="nothing/there")  # something that cannot be loaded

Each test gets a backend of its own. `close` is called after it.
"""

from __future__ import annotations

import abc
from pathlib import Path

import pytest

from headrace.control import plan
from headrace.control.backends.base import Action, Backend, ModelUnit, Observed, Share, SplitUnit, Unit, UnitKey, key_of
from headrace.control.resources import Metadata, Model, Resource, Status
from headrace.errors import HeadraceError
from headrace.graph.spec import Pipeline, Step


async def seen(backend: Backend) -> dict[UnitKey, Observed]:
    """What a backend says is there, by key."""
    return {each.key: each for each in await backend.observe()}


async def put(backend: Backend, unit: Unit) -> None:
    """Set a unit."""
    await backend.carry_out(Action(verb="set", key=key_of(unit), unit=unit))


async def take(backend: Backend, key: UnitKey) -> None:
    """Remove a unit."""
    await backend.carry_out(Action(verb="remove", key=key))


def model_unit(spec: Model, folder: Path, *, name: str = "m", revision: int = 1) -> ModelUnit:
    """A revision of a model, as the planner makes it."""
    resource = Resource(
        kind="Model", metadata=Metadata(name=name), spec=spec, base=str(folder), status=Status(revision=revision)
    )
    (unit,) = plan.units([resource])
    assert isinstance(unit, ModelUnit)
    return unit


def pipeline_unit(folder: Path, *steps: str, name: str = "p", generation: int = 1) -> Unit:
    """A chain of models."""
    chain = tuple(Step(name=step, inputs=steps[at - 1 : at] if at else ()) for at, step in enumerate(steps))
    resource = Resource(
        kind="Pipeline",
        metadata=Metadata(name=name, generation=generation),
        spec=Pipeline(steps=chain),
        base=str(folder),
    )
    (unit,) = plan.units([resource])
    return unit


class BackendConformance(abc.ABC):
    """The role `control.backends.base.Backend`."""

    @abc.abstractmethod
    async def make(self, folder: Path) -> Backend:
        """A backend that holds nothing."""

    @abc.abstractmethod
    def model(self, folder: Path) -> Model:
        """A model that it can load; called again, an equal one."""

    @abc.abstractmethod
    def broken(self, folder: Path) -> Model:
        """A model that it cannot load."""

    async def close(self, backend: Backend) -> None:
        """Give back what the backend holds."""

    @pytest.mark.asyncio
    async def test_nothing_is_there_at_first(self, tmp_path: Path) -> None:
        """A backend that was told nothing observes nothing."""
        backend = await self.make(tmp_path)
        assert await seen(backend) == {}
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_a_model_is_ready_when_carry_out_returns(self, tmp_path: Path) -> None:
        """A set model is observed ready, with the digest of its unit."""
        backend = await self.make(tmp_path)
        unit = model_unit(self.model(tmp_path), tmp_path)
        await put(backend, unit)
        there = (await seen(backend))[key_of(unit)]
        assert (there.state, there.digest) == ("ready", unit.digest)
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_a_second_plan_is_empty(self, tmp_path: Path) -> None:
        """After a plan for models, a pipeline and a split was carried out, the plan for the same is empty."""
        backend = await self.make(tmp_path)
        model = self.model(tmp_path)
        units: list[Unit] = [
            model_unit(model, tmp_path, name="a"),
            model_unit(model, tmp_path, name="b"),
            pipeline_unit(tmp_path, "a", "b"),
            SplitUnit(name="s", digest="1", shares=(Share(name="a"), Share(name="b")), diverts="a"),
        ]
        for action in plan.plan(units, await backend.observe()):
            await backend.carry_out(action)
        assert plan.plan(units, await backend.observe()) == []
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_setting_again_changes_nothing(self, tmp_path: Path) -> None:
        """Setting the same unit twice leaves one, ready."""
        backend = await self.make(tmp_path)
        unit = model_unit(self.model(tmp_path), tmp_path)
        await put(backend, unit)
        await put(backend, unit)
        assert {key: each.state for key, each in (await seen(backend)).items()} == {key_of(unit): "ready"}
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_revisions_stand_side_by_side(self, tmp_path: Path) -> None:
        """Two revisions of a model are there at once, and each goes alone."""
        backend = await self.make(tmp_path)
        one, two = (model_unit(self.model(tmp_path), tmp_path, revision=number) for number in (1, 2))
        await put(backend, one)
        await put(backend, two)
        assert set(await seen(backend)) == {key_of(one), key_of(two)}
        await take(backend, key_of(one))
        assert {key: each.state for key, each in (await seen(backend)).items()} == {key_of(two): "ready"}
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_what_cannot_be_loaded_is_said(self, tmp_path: Path) -> None:
        """A model that cannot be loaded raises one of our errors, and is not observed ready."""
        backend = await self.make(tmp_path)
        unit = model_unit(self.broken(tmp_path), tmp_path)
        with pytest.raises(HeadraceError):
            await put(backend, unit)
        there = (await seen(backend)).get(key_of(unit))
        assert there is None or there.state == "failed"
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_a_failed_change_leaves_what_was_there(self, tmp_path: Path) -> None:
        """Where a changed unit cannot be set, the one before is still ready, with its own digest."""
        backend = await self.make(tmp_path)
        good, bad = model_unit(self.model(tmp_path), tmp_path), model_unit(self.broken(tmp_path), tmp_path)
        await put(backend, good)
        with pytest.raises(HeadraceError):
            await put(backend, bad)
        there = (await seen(backend))[key_of(good)]
        assert (there.state, there.digest) == ("ready", good.digest)
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_removing_takes_away(self, tmp_path: Path) -> None:
        """What was removed is not observed, and removing what is not there is no error."""
        backend = await self.make(tmp_path)
        model, pipeline = model_unit(self.model(tmp_path), tmp_path, name="a"), pipeline_unit(tmp_path, "a")
        split = SplitUnit(name="s", digest="1", shares=(Share(name="a"),), diverts="a")
        units = [model, pipeline, split]
        for unit in units:
            await put(backend, unit)
        for unit in reversed(units):
            await take(backend, key_of(unit))
            await take(backend, key_of(unit))
        assert await seen(backend) == {}
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_weights_change_in_place(self, tmp_path: Path) -> None:
        """A split with other weights is observed with the new digest, and counts by candidate."""
        backend = await self.make(tmp_path)
        model = self.model(tmp_path)
        for name in ("a", "b"):
            await put(backend, model_unit(model, tmp_path, name=name))
        split = SplitUnit(name="s", digest="1", shares=(Share(name="a"), Share(name="b")))
        await put(backend, split)
        moved = SplitUnit(name="s", digest="2", shares=(Share(name="a", weight=3.0), Share(name="b")))
        await put(backend, moved)
        assert (await seen(backend))[key_of(split)].digest == "2"
        assert set(backend.counts("s")) <= {"a", "b"}
        await self.close(backend)

    @pytest.mark.asyncio
    async def test_counts_of_nothing(self, tmp_path: Path) -> None:
        """A split that is not there has no counts, and an unknown metric is None."""
        backend = await self.make(tmp_path)
        assert dict(backend.counts("nobody")) == {}
        assert backend.metric("no_such_metric", "m", "1") is None
        await self.close(backend)
