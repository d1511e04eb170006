"""The look for faster engines while models serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from headrace.runtimes.base import UNCHECKED
from headrace.serving.ahead import Lookout
from headrace.serving.build import RuntimeSpec, build
from headrace.serving.digest import digest


@pytest.fixture
def forest(tmp_path):
    path = tmp_path / "forest.joblib"
    joblib.dump(RandomForestClassifier(50, random_state=0).fit(*load_wine(return_X_y=True)), path)
    return RuntimeSpec(
        name="forest", runtime="sklearn", path=str(path), optimize="auto",
        cache=str(tmp_path / "cache"), digest=digest(path),
    )  # fmt: skip


def stored(spec):
    return build(
        RuntimeSpec(**{field: getattr(spec, field) for field in spec.__struct_fields__} | {"optimize": "stored"})
    )


async def test_a_child_finds_the_engine_that_the_next_load_takes(forest):
    """What is not checked yet serves as it is and says so; once the child has looked, a load takes the engine."""
    assert stored(forest)[1].properties["engine.check"] == UNCHECKED
    found = asyncio.Queue()

    async def tell(name, version):
        found.put_nowait((name, version))

    lookout = Lookout(tell)
    lookout.add(forest)
    lookout.add(forest)
    assert await asyncio.wait_for(found.get(), 100) == ("forest", "")
    await lookout.close()
    assert found.empty(), "one artifact is checked and told once"
    properties = stored(forest)[1].properties
    assert properties["engine.check"].endswith("checked earlier, same model and versions")
    assert "onnx" in properties["engine"]


async def test_a_model_that_cannot_be_checked_is_left_as_it_is(forest, tmp_path, caplog):
    """A child that fails is told in the log, with its reason, and nobody is told that there is something to load."""
    (tmp_path / "forest.joblib").write_bytes(b"gone wrong since")
    told = []
    lookout = Lookout(lambda *which: told.append(which))
    lookout.add(forest)
    async with asyncio.timeout(120):
        while "the look for a faster engine failed" not in caplog.text:
            await asyncio.sleep(0.05)
    await lookout.close()
    assert told == []
    assert "forest.joblib" in caplog.text


async def test_closing_ends_the_child(forest):
    """A server that stops while a child looks does not wait for it, and leaves none behind."""
    lookout = Lookout(lambda *which: None)
    before = children()
    lookout.add(forest)
    async with asyncio.timeout(60):
        while not (looking := children() - before):
            await asyncio.sleep(0.01)
    await lookout.close()
    assert not looking & children()
    assert stored(forest)[1].properties["engine.check"] == UNCHECKED, "the child was let go on to its end"


def children():
    """The processes that this one has started."""
    return {pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()}
