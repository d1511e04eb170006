"""What every runtime keeps: inherit `RuntimeConformance` in a pytest class, say how to save a model and what to ask it.

    class TestOnnx(RuntimeConformance):
        name = "onnx"

        def save(self, folder):
            ...  # write a model, return its path

        def inputs(self):
            return {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}  # at least three rows that differ

        def wrong_width(self):
            return {"x": np.zeros((3, 5), np.float32)}

The model is saved and loaded once per test class; every test gives the same runtime its own inputs.

What is left to the runtime: a request of no rows answers no rows, or is an InvalidRequest (scikit-learn refuses them);
nothing else. A request whose values are not what the model takes is an InvalidRequest, never a foreign exception.
"""

from __future__ import annotations

import abc
import gc
import pickle
import subprocess
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pytest

from headrace import runtimes
from headrace.errors import InvalidRequest
from headrace.payload import Array, Signature, TensorSpec, datatype_of
from headrace.runtimes.base import Recognition, Runtime, Source

FRAMEWORKS: Final = frozenset(
    {
        "sklearn",
        "joblib",
        "skops",
        "xgboost",
        "lightgbm",
        "catboost",
        "onnxruntime",
        "onnx",
        "mlflow",
        "pandas",
        "torch",
    }
)
"""What `import headrace.runtimes.<name>` leaves alone."""

JUNK: Final[Mapping[str, bytes]] = {
    "empty": b"",
    "prose": b"Not a model: a shopping list.\n- bread\n- milk\n",
    "json": b'{"name": "nothing", "values": [1, 2, 3]}',
    "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "zeros": bytes(256),
    "zip": b"PK\x03\x04" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "short pickle": b"\x80\x05",
    "harmless pickle": pickle.dumps(OrderedDict(a=1), protocol=4),
}
"""Contents that no runtime claims."""

FOREIGN: Final[Mapping[str, bytes]] = {
    "onnx": bytes.fromhex("0809120474657374") + b"\x3a\x08\x0a\x00\x12\x04main" + b"\x42\x02\x10\x11",
    "xgboost": b'{"learner":{"attributes":{},"gradient_booster":{"name":"gbtree"}},"version":[3,2,0]}',
    "lightgbm": b"tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=1\n",
    "catboost": b"CBM1" + bytes(64),
    "sklearn": b"\x80\x03csklearn.linear_model._base\nLinearRegression\n)\x81.",
}
"""By runtime: the first bytes of a model of its kind. Every other runtime leaves it alone."""


class RuntimeConformance(abc.ABC):
    """Inherit, and answer `save` and `inputs`; the tests are inherited."""

    name: ClassVar[str]
    """The runtime's name in `runtimes.RUNTIMES`."""
    any_suffix: ClassVar[bool] = True
    """The content alone tells what the file is. False only where the format leaves no choice."""
    nan: ClassVar[str] = ""
    """`accepted` or `refused`: what the model does with a NaN among its numbers; empty: it takes no floats."""
    rows_tolerance: ClassVar[float] = 1e-6
    """How far a row's answer may be from the same row's answer in a batch, relative (BLAS sums in another order)."""

    @abc.abstractmethod
    def save(self, folder: Path) -> Path:
        """Write a model into `folder` with the framework itself, and return its path: a file or a folder."""

    @abc.abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Inputs that the model answers: at least three rows, not all equal."""

    def wrong_width(self) -> dict[str, Any] | None:
        """Inputs that the model refuses for their number of columns; None: it takes any."""
        return None

    def source(self, artifact: Path) -> Source:
        """How the artifact is loaded."""
        return Source(path=artifact)

    # -- what the tests share --

    @property
    def runtime_class(self) -> type[Runtime]:
        """The class under test, found as the loader finds it."""
        return runtimes.find(self.name)

    @pytest.fixture(name="artifact", scope="class")
    @classmethod
    def _artifact(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls().save(tmp_path_factory.mktemp("artifact"))

    @pytest.fixture(name="loaded", scope="class")
    @classmethod
    def _loaded(cls, artifact: Path) -> Iterator[tuple[Runtime, Signature]]:
        runtime = cls().runtime_class(cls().source(artifact))
        signature = runtime.load()
        yield runtime, signature
        runtime.unload()

    # -- recognition --

    def test_recognises_its_own_artifact(self, artifact: Path) -> None:
        """A saved model is claimed, with evidence a person can read and a confidence in (0, 1]."""
        recognition = self.runtime_class.recognise(artifact)
        assert isinstance(recognition, Recognition)
        assert recognition.evidence
        assert 0 < recognition.confidence <= 1

    def test_recognises_its_own_artifact_by_content(self, artifact: Path, tmp_path: Path) -> None:
        """A saved model is claimed when its name says nothing."""
        if not self.any_suffix:
            pytest.skip("the format has no content to tell it by")
        renamed = tmp_path / "x.bin"
        renamed.symlink_to(artifact)
        assert self.runtime_class.recognise(renamed) is not None

    @pytest.mark.parametrize("kind", sorted(JUNK))
    def test_leaves_junk_alone(self, kind: str, tmp_path: Path) -> None:
        """A file that is no model is not claimed, and does not raise."""
        path = tmp_path / "x.bin"
        path.write_bytes(JUNK[kind])
        assert self.runtime_class.recognise(path) is None

    def test_leaves_a_folder_of_junk_alone(self, tmp_path: Path) -> None:
        """A folder of files that are no models is not claimed, and does not raise."""
        for kind, content in JUNK.items():
            (tmp_path / kind).write_bytes(content)
        assert self.runtime_class.recognise(tmp_path) is None

    @pytest.mark.parametrize("kind", sorted(FOREIGN))
    def test_leaves_other_frameworks_alone(self, kind: str, tmp_path: Path) -> None:
        """Another framework's model is not claimed."""
        path = tmp_path / "x.bin"
        path.write_bytes(FOREIGN[kind])
        recognition = self.runtime_class.recognise(path)
        assert recognition is None or kind == self.name

    def test_leaves_a_missing_path_alone(self, tmp_path: Path) -> None:
        """A path that is not there is not claimed, and does not raise."""
        assert self.runtime_class.recognise(tmp_path / "absent") is None

    @pytest.mark.parametrize("model", [None, 1, "text", object(), {}], ids=lambda model: type(model).__name__)
    def test_leaves_other_objects_alone(self, model: object) -> None:
        """An object that is no model is not claimed."""
        assert self.runtime_class.recognise_object(model) is None

    def test_its_module_imports_no_framework(self) -> None:
        """Importing the runtime's module leaves every framework unimported."""
        module = self.runtime_class.__module__
        program = f"import sys, {module}; print(*sorted({set(FRAMEWORKS)!r} & set(sys.modules)))"
        done = subprocess.run(  # noqa: S603 - this interpreter, our own text
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            timeout=50,
            env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
        )
        assert done.stdout.strip() == ""

    # -- what it says of itself --

    def test_declares_a_whole_signature(self, loaded: tuple[Runtime, Signature]) -> None:
        """A loaded model says its platform, inputs, outputs and libraries, no name twice, defaults among outputs."""
        _, signature = loaded
        assert signature.platform
        assert signature.inputs
        assert signature.outputs
        assert all(name and version for name, version in signature.libraries.items())
        assert signature.libraries or not self.runtime_class.extra
        for specs in (signature.inputs, signature.outputs):
            assert len({spec.name for spec in specs}) == len(specs)
        assert set(signature.default_outputs) <= {spec.name for spec in signature.outputs}
        if signature.batchable:
            assert all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))

    # -- answers --

    def test_answers_the_default_outputs(self, loaded: tuple[Runtime, Signature]) -> None:
        """With no output named, exactly the default ones come back."""
        runtime, signature = loaded
        assert set(runtime.predict(self.inputs())) == set(_defaults(signature))

    def test_answers_each_output_alone(self, loaded: tuple[Runtime, Signature]) -> None:
        """Any one output can be asked for, and comes back alone."""
        runtime, signature = loaded
        for spec in signature.outputs:
            assert list(runtime.predict(self.inputs(), (spec.name,))) == [spec.name]

    def test_answers_every_output_at_once(self, loaded: tuple[Runtime, Signature]) -> None:
        """All outputs can be asked for together, and equal those asked for alone."""
        runtime, signature = loaded
        names = tuple(spec.name for spec in signature.outputs)
        together = runtime.predict(self.inputs(), names)
        assert set(together) == set(names)
        for name in names:
            assert_same(together[name], runtime.predict(self.inputs(), (name,))[name], tolerance=self.rows_tolerance)

    def test_answers_what_it_declared(self, loaded: tuple[Runtime, Signature]) -> None:
        """Each output has the datatype and the dimensions that the signature says."""
        runtime, signature = loaded
        for spec in signature.outputs:
            _check_spec(spec, runtime.predict(self.inputs(), (spec.name,))[spec.name])

    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_answers_as_many_rows_as_came(self, loaded: tuple[Runtime, Signature], count: int) -> None:
        """A batchable model answers one row per row."""
        runtime, signature = loaded
        if not signature.batchable:
            pytest.skip("the model says that its rows are not independent")
        inputs = self.inputs()
        rows = np.arange(count) % len(next(iter(inputs.values())))
        taken = {name: take(value, rows) for name, value in inputs.items()}
        for spec in signature.outputs:
            answer = runtime.predict(taken, (spec.name,))[spec.name]
            assert len(answer) == count
            _check_spec(spec, answer)

    def test_answers_no_rows_with_no_rows(self, loaded: tuple[Runtime, Signature]) -> None:
        """A request of no rows answers no rows as declared, or is the caller's error."""
        runtime, signature = loaded
        if not signature.batchable:
            pytest.skip("the model says that its rows are not independent")
        none = {name: take(value, np.arange(0)) for name, value in self.inputs().items()}
        for spec in signature.outputs:
            try:
                answer = runtime.predict(none, (spec.name,))[spec.name]
            except InvalidRequest:
                continue
            assert len(answer) == 0
            _check_spec(spec, answer)

    def test_a_batch_is_its_rows(self, loaded: tuple[Runtime, Signature]) -> None:
        """The answer to a batch is the answers to its rows, in order."""
        runtime, signature = loaded
        if not signature.batchable:
            pytest.skip("the model says that its rows are not independent")
        inputs = self.inputs()
        count = len(next(iter(inputs.values())))
        for spec in signature.outputs:
            together = runtime.predict(inputs, (spec.name,))[spec.name]
            for row in range(count):
                one = {name: take(value, np.arange(row, row + 1)) for name, value in inputs.items()}
                alone = runtime.predict(one, (spec.name,))[spec.name]
                assert_same(together[row : row + 1], alone, tolerance=self.rows_tolerance)

    def test_leaves_inputs_as_they_came(self, loaded: tuple[Runtime, Signature]) -> None:
        """Inputs that cannot be written to are answered, and stay as they were."""
        runtime, signature = loaded
        inputs, before = self.inputs(), self.inputs()
        for value in inputs.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        runtime.predict(inputs, tuple(spec.name for spec in signature.outputs))
        for name, value in before.items():
            assert_same(inputs[name], value, tolerance=0)

    def test_answers_the_same_twice(self, loaded: tuple[Runtime, Signature]) -> None:
        """An answer stays as it was given when the next one is computed, and the next one is the same."""
        runtime, _ = loaded
        first = runtime.predict(self.inputs())
        kept = {name: np.array(value, copy=True) for name, value in first.items()}
        second = runtime.predict(self.inputs())
        for name, value in kept.items():
            assert_same(first[name], value, tolerance=0)
            assert_same(second[name], value, tolerance=self.rows_tolerance)

    # -- refusals --

    def test_refuses_a_wrong_width(self, loaded: tuple[Runtime, Signature]) -> None:
        """Input with another number of columns is the caller's error, and the next request is answered."""
        wrong = self.wrong_width()
        if wrong is None:
            pytest.skip("the model takes any width")
        runtime, _ = loaded
        with pytest.raises(InvalidRequest):
            runtime.predict(wrong)
        runtime.predict(self.inputs())

    def test_refuses_an_output_nobody_declared(self, loaded: tuple[Runtime, Signature]) -> None:
        """Asking for an output that is not there is the caller's error, and its text names it."""
        runtime, _ = loaded
        with pytest.raises(InvalidRequest, match="no-such-output"):
            runtime.predict(self.inputs(), ("no-such-output",))

    def test_keeps_the_models_policy_for_nan(self, loaded: tuple[Runtime, Signature]) -> None:
        """NaN is answered by a model that takes it and is the caller's error where the model refuses it."""
        runtime, signature = loaded
        spoilt = {name: _with_nan(value) for name, value in self.inputs().items()}
        if not self.nan:
            pytest.skip("the model takes no floats")
        if self.nan == "refused":
            with pytest.raises(InvalidRequest):
                runtime.predict(spoilt)
            return
        for name, value in runtime.predict(spoilt).items():
            if signature.batchable:
                assert len(value) == len(next(iter(spoilt.values()))), name

    # -- the end --

    def test_unload_gives_the_model_back(self, artifact: Path) -> None:
        """After unload nothing keeps the model in memory, though the runtime itself is still referred to."""
        runtime = self.runtime_class(self.source(artifact))
        runtime.load()
        runtime.predict(self.inputs())
        held = {name: ref for name, value in vars(runtime).items() if (ref := _weak(value)) is not None}
        runtime.unload()
        gc.collect()
        assert sorted(name for name, ref in held.items() if ref() is not None) == []


def take(value: Any, rows: Array) -> Any:
    """The given rows of an array, a DataFrame or a list."""
    if hasattr(value, "iloc"):
        return value.iloc[rows]
    if isinstance(value, np.ndarray):
        return value[rows]
    return [value[row] for row in rows]


def assert_same(left: Any, right: Any, *, tolerance: float) -> None:
    """Equal in dtype, shape and values; floats within `tolerance`, relative and absolute, and NaN equals NaN."""
    if hasattr(left, "iloc"):
        assert left.equals(right)
        return
    left, right = np.asarray(left), np.asarray(right)
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    if left.dtype.kind in "fc":
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)
    else:
        assert left.tolist() == right.tolist()


def _defaults(signature: Signature) -> tuple[str, ...]:
    return signature.default_outputs or tuple(spec.name for spec in signature.outputs)


def _check_spec(spec: TensorSpec, value: Any) -> None:
    if spec.content_type:  # the codec of that name carries it: not an array
        return
    assert isinstance(value, np.ndarray), f"{spec.name} is a {type(value).__name__}, not an array"
    assert datatype_of(value) == spec.datatype or (spec.datatype == "BF16" and value.dtype == np.uint16)
    assert value.ndim == len(spec.shape), f"{spec.name} has shape {value.shape}, declared {spec.shape}"
    for came, declared in zip(value.shape, spec.shape, strict=True):
        assert declared in {-1, came}, f"{spec.name} has shape {value.shape}, declared {spec.shape}"
    if spec.datatype == "BYTES":
        assert value.dtype == np.dtype(object)
        assert all(isinstance(item, bytes) for item in value.ravel()), f"{spec.name} holds something other than bytes"


def _with_nan(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
        spoilt = value.copy()
        spoilt.reshape(-1)[0] = np.nan
        return spoilt
    return value


def _weak(value: Any) -> weakref.ref[Any] | None:
    """A weak reference to something that unload should have let go; None for what may live on."""
    if isinstance(value, (Source, Path, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
        return None
    try:
        return weakref.ref(value)
    except TypeError:
        return None
