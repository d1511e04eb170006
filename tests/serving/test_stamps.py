"""Stamps: what makes a server look at a model again."""

from __future__ import annotations

import pytest

from headrace.serving.spec import ModelSpec
from headrace.serving.stamps import stamp
from headrace.trust.spec import Trust


@pytest.fixture
def model(tmp_path):
    """A model's file, with a trust folder beside it."""
    (tmp_path / "iris.joblib").write_bytes(b"a model")
    (tmp_path / "iris.trust").mkdir()
    for name in ("card.json", "detectors.json"):
        (tmp_path / "iris.trust" / name).write_text("[]")
    return tmp_path / "iris.joblib"


def test_a_trust_folder_that_changes_is_another_stamp(model):
    """Setting a threshold, and fitting for the first time, make the server load the model again."""
    spec = ModelSpec(name="iris", path=str(model))
    before = stamp(spec)
    assert stamp(spec) == before
    (model.parent / "iris.trust" / "detectors.json").write_text("[{}]")
    changed = stamp(spec)
    assert changed != before
    (model.parent / "iris.trust").rename(model.parent / "other.trust")
    assert stamp(spec) not in (before, changed)


def test_a_trust_folder_elsewhere_is_looked_at(model):
    """The folder that headrace.yaml names counts, and none where trust is off."""
    folder = (model.parent / "iris.trust").rename(model.parent / "kept")
    named = ModelSpec(name="iris", path=str(model), folder=str(model.parent), trust=Trust(path="kept"))
    off = ModelSpec(name="iris", path=str(model), folder=str(model.parent), trust=Trust(path="kept", enabled=False))
    before, before_off = stamp(named), stamp(off)
    (folder / "card.json").write_text("{}")
    assert stamp(named) != before
    assert stamp(off) == before_off
