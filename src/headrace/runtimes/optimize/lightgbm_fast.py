"""LightGBM's own answer for one row, without its Python layer: the same bits in microseconds. Called by `candidates`.

`LGBM_BoosterPredictForMatSingleRowFast` (LightGBM's C API) keeps all settings in a prepared handle. The interpreter
lock is free meanwhile, so each thread has its own buffers and handle.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.engine import Engine, Labels, Refused

_NORMAL: Final = 0
_FLOAT64: Final = 1


class _Prepared:
    """Handle and buffers of one thread."""

    def __init__(self, booster: Any, width: int, answers: int, library: Any) -> None:
        self.row = np.zeros(width, dtype=np.float64)
        self.result = np.zeros(answers, dtype=np.float64)
        self.handle = ctypes.c_void_p()
        rounds = booster.best_iteration if booster.best_iteration and booster.best_iteration > 0 else -1
        code = library.LGBM_BoosterPredictForMatSingleRowFastInit(
            booster._handle,  # noqa: SLF001 - LightGBM gives its C handle no public name
            ctypes.c_int(_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(rounds),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(width),
            ctypes.c_char_p(b"num_threads=1"),
            ctypes.byref(self.handle),
        )
        if code != 0:
            raise Refused(f"LightGBM prepares no single-row call: code {code}")
        self._count = ctypes.c_int64(answers)
        self.arguments = (
            self.handle,
            ctypes.c_void_p(self.row.ctypes.data),
            ctypes.byref(self._count),
            ctypes.c_void_p(self.result.ctypes.data),
        )


class LightgbmRow(Engine):
    """Batches of one row."""

    name = "LightGBM single-row call"
    releases_lock = True
    most_rows = 1

    def __init__(self, booster: Any, labels: Labels | None) -> None:
        from lightgbm import basic

        self._library: Any = vars(basic)["_LIB"]  # LightGBM gives its C library no public name
        self._call = self._library.LGBM_BoosterPredictForMatSingleRowFast
        self._booster = booster
        self._labels = labels
        self._width = int(booster.num_feature())
        self._answers = int(booster.num_model_per_iteration())
        self.outputs = frozenset({"predict"} if labels is None else {"predict", "predict_proba"})
        self._own = threading.local()
        self._all: list[_Prepared] = []
        self._prepare()

    def _prepare(self) -> _Prepared:
        prepared = _Prepared(self._booster, self._width, self._answers, self._library)
        self._own.prepared = prepared
        self._all.append(prepared)
        return prepared

    def answer(self, rows: Array, outputs: Sequence[str]) -> dict[str, Array] | None:
        """One row to LightGBM; None for any other number of rows."""
        if len(rows) != 1:
            return None
        prepared: _Prepared = getattr(self._own, "prepared", None) or self._prepare()
        prepared.row[:] = rows[0]
        if self._call(*prepared.arguments) != 0:
            return None
        score = prepared.result
        if self._labels is None:
            return dict.fromkeys(outputs, score.reshape(1, -1).copy() if self._answers > 1 else score.copy())
        if self._answers == 1:
            score = np.array([1.0 - score[0], score[0]])
        return {
            name: score.reshape(1, -1).copy() if name == "predict_proba" else self._labels.table.take([score.argmax()])
            for name in outputs
        }

    def close(self) -> None:
        """Free the prepared handles."""
        while self._all:
            self._library.LGBM_FastConfigFree(self._all.pop().handle)
