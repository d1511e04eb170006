"""Stored verdicts: whole or not at all, and only under the very things they depend on."""

import msgspec
import pytest

from headrace.runtimes.optimize import cache
from headrace.runtimes.optimize.cache import EngineVerdict, Verdict

VERDICT = Verdict(
    engines=(EngineVerdict(name="trees", datatypes=("float64",), outputs=("predict",), takes="finite"),),
    ranges=((20, "trees"), (None, "")),
    properties={"engine": "some"},
)


def test_a_verdict_comes_back_with_its_files(tmp_path):
    """What was written is read, file included."""
    written = cache.write(tmp_path, "key", VERDICT, {"trees": b"graph"})
    assert cache.read(tmp_path, "key") == (written, {"trees": b"graph"})


def test_a_refusal_is_stored(tmp_path):
    """A refused model is not examined again."""
    refusal = Verdict(refusal="slower")
    cache.write(tmp_path, "key", refusal, {})
    assert cache.read(tmp_path, "key") == (refusal, {})


def test_a_changed_file_is_no_verdict(tmp_path):
    """A file with other bytes than were proven is not served."""
    cache.write(tmp_path, "key", VERDICT, {"trees": b"graph"})
    (tmp_path / "key" / "0.onnx").write_bytes(b"other")
    assert cache.read(tmp_path, "key") is None


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_broken_verdict_is_replaced(tmp_path, damage):
    """A folder that cannot be read gives way to the next check's."""
    cache.write(tmp_path, "key", VERDICT, {"trees": b"graph"})
    path = tmp_path / "key" / "verdict.json"
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:20])
    assert cache.read(tmp_path, "key") is None
    cache.write(tmp_path, "key", VERDICT, {"trees": b"graph"})
    assert cache.read(tmp_path, "key") is not None


def test_the_first_of_two_writers_stays_and_nothing_else_is_left(tmp_path):
    """Two processes that check the same model leave one folder, and no temporary one."""
    cache.write(tmp_path, "key", VERDICT, {"trees": b"graph"})
    cache.write(tmp_path, "key", msgspec.structs.replace(VERDICT, properties={}), {"trees": b"graph"})
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert cache.read(tmp_path, "key")[0].properties == {"engine": "some"}


def test_every_part_of_a_key_counts(monkeypatch):
    """Other bytes, runtime, outputs, settings, or a new version of a library are another key."""
    plain = {"model": "SklearnRuntime", "outputs": ("predict",), "settings": (1.5,)}
    keys = {
        cache.key("digest", **plain),
        cache.key("other", **plain),
        cache.key("digest", **{**plain, "model": "XgboostRuntime"}),
        cache.key("digest", **{**plain, "outputs": ("predict", "predict_proba")}),
        cache.key("digest", **{**plain, "settings": (2.0,)}),
    }
    monkeypatch.setattr(cache, "_version", lambda name: "99" if name == "onnxruntime" else "")
    keys.add(cache.key("digest", **plain))
    assert len(keys) == 6
    assert cache.key("digest", **plain) in keys
