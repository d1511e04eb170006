"""A detector of a trust folder as a model of its own: a step of a pipeline, or what a client asks by itself.

`path` is the folder, the parameter `detector` the name of one of its detectors; or `kind`, `outlier` or `drift`, means
the first that is of it. It must be named by `runtime: detector` in a headrace.yaml: a trust folder lies beside a model,
and is none.

What it is fed comes as the detector's `on` says: the model's inputs; the model's outputs (their tensors by their
names); or the flags of rows, one tensor `[n]`. Outputs, in the words of alibi-detect:

- outlier: `is_outlier [n]`, `instance_score [n]`, `threshold [1]`; on request `feature_score [n, f]`;
- drift between samples, the rows of a request being the sample: `is_drift [1]`, `distance [k]`, `p_val [k]`,
  `threshold [1]`, `effect [k]`, `drifted [k]`, `distance_threshold [1]` where there is one;
- drift online: `is_drift [1]`, `test_stat [1]`, `threshold [1]`, `time [1]`. Requests follow one another, and what was
  learnt lasts until the model is unloaded: give it one replica.

Flags are INT64, 0 or 1. The answer's parameters say method, seed and digest of the folder; headers
`x-headrace-detector-type` and `-method`, and `x-seldon-alibi-type` and `-method`, repeat the first. Of a request's
headers `alibi-detect-return-instance-score`, `alibi-detect-return-feature-score` and `alibi-detect-outlier-type:
feature` are understood.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from headrace.detectors.base import Detector, DriftOnline, DriftTest, Outlier
from headrace.errors import InvalidRequest, LoadFailed, MissingExtra
from headrace.payload import EMPTY, Array, InferenceRequest, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.runtimes.base import Recognition, Runtime, Source, check_parameters
from headrace.trust.folder import Folder, open_folder
from headrace.trust.rows import Rows, fed
from headrace.trust.spec import DetectorSpec

PARAMETERS: Final = ("detector", "kind")
_FLAGS: Final = "flags"
"""The input of a detector that is fed flags."""
_NAMED_MOST: Final = 100
"""Columns that an answer names."""


class DetectorRuntime(Runtime):
    """One detector. Requests are answered one after the other, in a thread of its own."""

    extra: ClassVar[str] = "trust"
    whole: ClassVar[bool] = True
    is_async = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._answerer: _Answerer | None = None

    @classmethod
    def recognise(cls, path: Any) -> Recognition | None:  # noqa: ARG003 - see the module's first lines
        """Nothing: a trust folder is a model only where somebody says so."""
        return None

    def load(self) -> Signature:
        """Read the folder and restore the detector.

        Raises:
            LoadFailed: there is no folder, it is damaged, or the detector is of a kind that does not stand alone.
            SettingsError: a parameter is not known.
            MissingExtra: a library is not installed.
        """
        check_parameters(self.source.parameters, PARAMETERS, runtime="detector")
        if self.source.path is None:
            raise LoadFailed("runtime 'detector' needs a path: the trust folder")
        folder = open_folder(self.source.path)
        name, kind = (str(self.source.parameters.get(each, "")) for each in PARAMETERS)
        name = name or next((each.name for each in folder.detectors if each.kind == kind), "")
        if not name:
            known = ", ".join(f"{each.name} ({each.kind})" for each in folder.detectors) or "none"
            raise LoadFailed(f"{folder.path}: say which of its detectors by `parameters: {{detector: NAME}}`: {known}")
        try:
            spec = folder.spec(name)
            if spec.kind in {"adversarial", "performance", "bias"}:
                raise LoadFailed(
                    f"{folder.path}: detector '{name}' is of kind {spec.kind}, which works beside its model "
                    "and not as a model of its own; outlier and drift detectors do"
                )
            detector = folder.detector(name)
        except InvalidRequest as error:
            raise LoadFailed(str(error)) from error
        except ModuleNotFoundError as error:
            raise MissingExtra(f"detector '{name}' needs {error.name}; run: pip install 'headrace[trust]'") from error
        self._answerer = _Answerer(folder, spec, detector)
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="headrace-detector")
        return self._answerer.signature()

    def predict(self, inputs: Any, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Any:
        """Never called: whole requests come to `answer`."""
        raise NotImplementedError

    async def answer(self, request: InferenceRequest) -> InferenceResponse:
        """The verdict on the rows of a request.

        Raises:
            InvalidRequest: the rows are not what the detector takes, or an output does not exist.
        """
        if self._thread is None or self._answerer is None:
            raise LoadFailed("answer was called before load, or after unload")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answerer.answer, request)

    def unload(self) -> None:
        """End the thread and let the detector go."""
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._answerer = None


class _Answerer:
    """A restored detector and how requests to it are read and answered. Used by one thread."""

    def __init__(self, folder: Folder, spec: DetectorSpec, detector: Detector) -> None:
        self._spec, self._detector = spec, detector
        self._rows = Rows(folder.schema)
        self._schema = folder.schema
        self._width = len(folder.features(spec.on))
        self._parameters = {
            "detector": spec.name,
            "detector_type": spec.kind,
            "method": spec.method,
            "data_type": folder.schema.data,
            "online": detector.ONLINE,
            "seed": spec.seed,
            "version": folder.card.headrace,
            "artifact_digest": folder.digest,
        }
        if spec.false_positive_rate is not None:
            self._parameters["false_positive_rate"] = spec.false_positive_rate
        self._headers = {
            "x-headrace-detector-type": spec.kind,
            "x-headrace-detector-method": spec.method,
            "x-seldon-alibi-type": spec.kind,
            "x-seldon-alibi-method": type(detector).__name__,
        }

    def signature(self) -> Signature:
        outputs = self._outputs()
        defaults = tuple(each.name for each in outputs if each.name != "feature_score")
        return Signature(
            platform="headrace_detector",
            inputs=self._inputs(),
            outputs=outputs,
            default_outputs=defaults,
            strict=False,
            batchable=False,
            properties={"detector": self._spec.name, "method": self._spec.method, "kind": self._spec.kind},
        )

    def _inputs(self) -> tuple[TensorSpec, ...]:
        schema, on = self._schema, self._spec.on
        if on in {"outliers", "errors"}:
            return (TensorSpec(name=_FLAGS, datatype="INT64", shape=(-1,)),)
        if on == "predictions" or (on == "outputs" and not schema.output.probabilities):
            return (
                TensorSpec(name=schema.output.labels or schema.output.probabilities, datatype="FP64", shape=(-1, -1)),
            )
        if on != "inputs":
            return (TensorSpec(name=schema.output.probabilities, datatype="FP64", shape=(-1, len(schema.classes))),)
        found = []
        for each in schema.inputs:
            one = len(each.columns) == 1 and len(schema.inputs) > 1
            is_image = len(schema.inputs) == 1 and schema.features.shape and not each.flat
            shape = () if one else schema.features.shape if is_image else (len(each.columns),)
            found.append(TensorSpec(name=each.name or "input-0", datatype=each.datatype, shape=(-1, *shape)))
        return tuple(found)

    def _outputs(self) -> tuple[TensorSpec, ...]:
        if isinstance(self._detector, Outlier):
            named = [("is_outlier", "INT64", -1), ("instance_score", "FP64", -1), ("threshold", "FP64", 1)]
            feature = TensorSpec(name="feature_score", datatype="FP64", shape=(-1, self._width))
            return (*_specs(named), feature)
        if isinstance(self._detector, DriftOnline):
            return _specs(
                [("is_drift", "INT64", 1), ("test_stat", "FP64", 1), ("threshold", "FP64", 1), ("time", "INT64", 1)]
            )
        named = [("is_drift", "INT64", 1), ("distance", "FP64", -1), ("p_val", "FP64", -1), ("threshold", "FP64", 1)]
        return _specs([*named, ("effect", "FP64", -1), ("drifted", "INT64", -1), ("distance_threshold", "FP64", -1)])

    def answer(self, request: InferenceRequest) -> InferenceResponse:
        x = self._fed(request.inputs)
        parameters = dict(self._parameters)
        found = self._verdict(x, request, parameters)
        wanted = [each.name for each in request.outputs] or [name for name in found if name != "feature_score"]
        if request.outputs and (unknown := [name for name in wanted if name not in found]):
            raise InvalidRequest(f"output '{unknown[0]}' is none of this detector's: {', '.join(found)}")
        if not request.outputs:
            wanted = self._by_headers(wanted, found, request.headers)
        tensors = tuple(
            Tensor(name, "INT64" if found[name].dtype.kind in "bi" else "FP64", _plain(found[name])) for name in wanted
        )
        return InferenceResponse(
            model_name=request.model_name,
            model_version=request.model_version,
            id=request.id,
            outputs=tensors,
            parameters=parameters,
            headers=self._headers,
        )

    def _fed(self, inputs: Sequence[Tensor]) -> Array:
        on = self._spec.on
        if on == "inputs":
            return self._rows.matrix(inputs)
        if on in {"outliers", "errors"}:
            if len(inputs) != 1 or inputs[0].data.dtype == object:
                raise InvalidRequest(f"expected one tensor '{_FLAGS}' of 0 and 1, a row each")
            flags: Array = inputs[0].data.astype(np.float64).reshape(-1, 1)
            return flags
        answers = self._rows.answers(inputs)
        if answers is None and len(inputs) == 1 and on != "predictions":  # one tensor is meant, whatever it is called
            renamed = Tensor(self._inputs()[0].name, inputs[0].datatype, inputs[0].data)
            answers = self._rows.answers([renamed])
        predictions = self._rows.predictions(inputs) if on == "predictions" else None
        x = fed(on, x=np.empty((0, 0)), answers=answers, predictions=predictions)
        if x is None:
            came = ", ".join(each.name for each in inputs) or "none"
            raise InvalidRequest(f"this detector looks at {on}: expected '{self._inputs()[0].name}', got {came}")
        return x

    def _verdict(self, x: Array, request: InferenceRequest, parameters: dict[str, Any]) -> dict[str, Array]:
        """Outputs by name."""
        detector = self._detector
        if isinstance(detector, Outlier):
            threshold = self._spec.threshold if self._spec.threshold is not None else np.inf
            scores = detector.score(x) if len(x) else None
            instance = scores.instance if scores is not None else np.empty(0)
            found = {
                "is_outlier": instance > threshold,
                "instance_score": instance,
                "threshold": np.array([threshold]),
            }
            if scores is not None and scores.feature is not None:
                found["feature_score"] = scores.feature
                if request.headers.get("alibi-detect-outlier-type") == "feature":
                    found["is_outlier"] = scores.feature > threshold
            return found
        if isinstance(detector, DriftOnline):
            step = detector.step(x)
            parameters["rows"] = len(x)
            return {
                "is_drift": np.array([step.is_drift]),
                "test_stat": np.array([step.statistic]),
                "threshold": np.array([step.threshold]),
                "time": np.array([step.time], np.int64),
            }
        assert isinstance(detector, DriftTest)
        drift = detector.test(x)
        parameters |= {"window_rows": drift.rows, "effect_name": drift.effect_name}
        if len(drift.tested) <= _NAMED_MOST:  # of an image they are its pixels, in order
            parameters["tested"] = ",".join(drift.tested)
        found = {"is_drift": np.array([drift.is_drift]), "distance": drift.statistic}
        if drift.p_value is not None:
            found["p_val"] = drift.p_value
        found |= {"threshold": np.array([drift.threshold]), "effect": drift.effect, "drifted": drift.drifted}
        if drift.distance_threshold is not None:
            found["distance_threshold"] = np.array([drift.distance_threshold])
        return found

    @staticmethod
    def _by_headers(wanted: list[str], found: Mapping[str, Array], headers: Mapping[str, str]) -> list[str]:
        """The default outputs, more or fewer as the request's headers say."""
        if headers.get("alibi-detect-return-instance-score", "").lower() == "false":
            wanted = [name for name in wanted if name != "instance_score"]
        if headers.get("alibi-detect-return-feature-score", "").lower() == "true" and "feature_score" in found:
            wanted = [*wanted, "feature_score"]
        return wanted


def _specs(named: Sequence[tuple[str, str, int]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, datatype=datatype, shape=(size,)) for name, datatype, size in named)


def _plain(array: Array) -> Array:
    return np.ascontiguousarray(array, np.int64 if array.dtype.kind in "bi" else np.float64)
