"""ONNX Runtime sessions as engines. Called by `candidates`; the only module of this room that imports onnxruntime."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.engine import F32, F64, Engine, Labels, Refused


def available() -> bool:
    """Whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def open_session(artefact: bytes) -> Any:
    """A session with one thread and no arena: on small models extra threads only spin, and arenas only grow.

    Raises:
        Refused: if ONNX Runtime does not take the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's classes of errors share no base but this one
        raise Refused(f"ONNX Runtime does not load the graph: {str(error)[:200]}") from error


class OnnxEngine(Engine):
    """A graph of one input, (n, width), whose outputs are named as the runtime's; classes come as numbers."""

    releases_lock = True

    def __init__(
        self,
        artefact: bytes,
        *,
        name: str,
        labels: Labels | None = None,
        casts: Mapping[str, np.dtype[Any]] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._session = open_session(artefact)
        self._run = self._session.run
        (rows,) = self._session.get_inputs()
        self._input = rows.name
        self._dtype = _DTYPES[rows.type]
        self.outputs = frozenset(output.name for output in self._session.get_outputs())
        self._labels = labels
        self._casts: dict[str, np.dtype[Any]] = dict(casts)

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph for the outputs asked for, and no others."""
        if rows.dtype != self._dtype:
            rows = rows.astype(self._dtype)
        result = dict(zip(outputs, self._run(outputs, {self._input: rows}), strict=True))
        if self._labels is not None and "predict" in result:
            result["predict"] = self._labels.table.take(result["predict"])
        for name, dtype in self._casts.items():
            if name in result:
                result[name] = result[name].astype(dtype)
        return result


_DTYPES: dict[str, np.dtype[Any]] = {"tensor(double)": F64, "tensor(float)": F32}
