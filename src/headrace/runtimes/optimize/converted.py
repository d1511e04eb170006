"""Models that no engine of our own covers, through skl2onnx. Called by `candidates`.

In float64 where that is exact, else in float32; numpy steps in front stay in float64, so that a scaler is not rounded
before the trees behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headrace.payload import DTYPES
from headrace.runtimes.optimize import conversion, session, survey
from headrace.runtimes.optimize.candidate import Candidate, Prepared, Subject, back, chain, front_missing
from headrace.runtimes.optimize.convert import Output, Task
from headrace.runtimes.optimize.engine import Engine, Refused
from headrace.runtimes.optimize.gate import EXACT, SINGLE
from headrace.runtimes.optimize.steps import NumpyStep


class Converted(Candidate):
    """A scikit-learn estimator in the graph of its converter.

    Args:
        subject: The model.
        front: Numpy steps that stay outside the graph.
        last: What is converted.
        double: In float64; else in float32.
        unless: Tried only where the engine of that name did not pass.
    """

    def __init__(
        self, subject: Subject, front: Sequence[NumpyStep], last: Any, *, double: bool, unless: str = ""
    ) -> None:
        self.name = f"onnx {'float64' if double else 'float32'}"
        self.unless = unless
        self._subject = subject
        self._front = front
        self._last = last
        self._double = double

    def prepare(self) -> Prepared:
        """As the role says; takes a second or more, in another process."""
        if not session.available():
            raise Refused("onnxruntime is not installed; headrace[optimize] brings it")
        survey.refuse_known(self._last)
        width = int(self._last.n_features_in_)
        ground = survey.terrain(self._last, width)
        if not self._double and (reason := survey.too_fine(ground)):
            raise Refused(reason)
        missing = ground.missing and front_missing(self._front)
        ground = msgspec.structs.replace(ground, missing=missing, back=back(self._front))
        artefact = conversion.convert(self._last, Task(width=width, double=self._double, outputs=self._outputs()))
        return Prepared(
            terrain=ground,
            tolerance=EXACT if self._double else SINGLE,
            rows=20_000 if any(values.size for values in ground.edges) else 10_000,
            takes="missing" if missing else "finite",
            artefact=artefact,
        )

    def engine(self, artefact: bytes, takes: str) -> Engine:
        """As the role says."""
        classes = getattr(self._last, "classes_", None)
        labels = None if classes is None else self._subject.labels(classes)
        return chain(self._front, takes, session.OnnxEngine(artefact, name=self.name, labels=labels))

    def _outputs(self) -> tuple[Output, ...]:
        numbered = hasattr(self._last, "classes_")
        known = self._subject.specs
        return tuple(
            Output(
                name=name,
                dtype="int64" if name == "predict" and numbered else np.dtype(DTYPES[spec.datatype]).name,
                flat=len(spec.shape) == 1,
            )
            for name, spec in known.items()
            if name in {"predict", "predict_proba", "transform"}
        )
