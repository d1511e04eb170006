"""Build: finding the runtime, the errors of a load, and the overrides of headrace.yaml."""

from __future__ import annotations

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


def test_headrace_yaml_has_the_last_word_on_the_signature():
    """Inputs and outputs that a person wrote take the place of the model's own, and defaults that vanish are dropped."""
    x = TensorSpec(name="other", datatype="FP64", shape=(-1, 2))
    _, signature = build(spec("small_runtimes:TwoOutputs", inputs=(x,)))
    assert signature.inputs == (x,)
    assert [each.name for each in signature.outputs] == ["y", "double"]
