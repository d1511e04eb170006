"""Build: finding the runtime, the errors of a load, and the overrides of headrace.yaml."""

from __future__ import annotations

import joblib
import numpy as np
import pytest

from headrace.errors import LoadFailed, SettingsError
from headrace.payload import TensorSpec
from headrace.serving.build import RuntimeSpec, build


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])


def spec(runtime, **options):
    return RuntimeSpec(name="m", runtime=runtime, reference="x:y", **options)


def test_a_runtime_of_somebodys_own_is_loaded_by_reference():
    """`module:Class` of a Runtime is found, gets its source, and is loaded."""
    runtime, signature = build(spec("small_runtimes:Linear", parameters={"bias": 2}, allowed_globals=("a.b",)))
    assert runtime.source.parameters == {"bias": 2}
    assert runtime.source.allowed_globals == ("a.b",)
    assert signature.platform == "test"


def test_an_object_in_memory_reaches_the_runtime():
    """The model itself is handed over, not its description."""
    model = object()
    runtime, _ = build(RuntimeSpec(name="m", runtime="small_runtimes:Linear"), model=model)
    assert runtime.source.model is model
    assert runtime.source.path is None


@pytest.mark.parametrize(
    ("runtime", "error", "message"),
    [
        ("onx", SettingsError, "did you mean 'onnx'"),
        ("small_runtimes:Missing", LoadFailed, "cannot be imported"),
        ("small_runtimes:time", LoadFailed, "is not a headrace.runtimes.base.Runtime"),
        ("small_runtimes:Broken", LoadFailed, "model 'm': runtime 'small_runtimes:Broken': KeyError: 'no such layer'"),
    ],
)
def test_what_cannot_be_built_says_why(runtime, error, message):
    """A wrong name, a wrong class and a failing load are each told apart."""
    with pytest.raises(error, match=message):
        build(spec(runtime))


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """A small forest of scikit-learn, saved, and rows to ask it."""
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_iris(return_X_y=True)
    path = tmp_path_factory.mktemp("forest") / "model.joblib"
    joblib.dump(RandomForestClassifier(n_estimators=5, max_depth=3, random_state=0).fit(x, y), path)
    return path, x[::7]


def test_a_faster_engine_is_asked_for_and_answers_alike(forest, tmp_path):
    """With `auto` a forest gets another engine, told in the properties and kept in the cache; its labels are the same."""
    path, x = forest
    native, plain = build(RuntimeSpec(name="m", runtime="sklearn", path=str(path)))
    assert "engine.refused" not in plain.properties
    fast = RuntimeSpec(
        name="m", runtime="sklearn", path=str(path), optimize="auto", cache=str(tmp_path), digest="d" * 64
    )
    runtime, signature = build(fast)
    assert type(runtime) is not type(native), signature.properties
    assert list(tmp_path.iterdir())
    (name,) = (each.name for each in signature.inputs)
    for output, value in native.predict({name: x}).items():
        np.testing.assert_allclose(runtime.predict({name: x})[output], value, rtol=1e-6)


def test_headrace_yaml_has_the_last_word_on_the_signature():
    """Inputs and outputs that a person wrote take the place of the model's own, and defaults that vanish are dropped."""
    x = TensorSpec(name="other", datatype="FP64", shape=(-1, 2))
    _, signature = build(spec("small_runtimes:TwoOutputs", inputs=(x,)))
    assert signature.inputs == (x,)
    assert [each.name for each in signature.outputs] == ["y", "double"]
