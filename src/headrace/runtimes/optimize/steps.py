"""scikit-learn's simple transformers in numpy: the same operations without the checks. Called by `candidates`.

The operations mirror each `transform`, so answers are equal to the last bit in float64 and in float32; the gate proves
it per datatype. A step also knows its way back, so that rows can be aimed at what follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize.engine import F64, Refused


class NumpyStep(msgspec.Struct, frozen=True, kw_only=True):
    """One transformer."""

    run: Callable[[Array], Array]
    """(n, in) to (n, out)."""
    back: Callable[[Array], Array]
    """(n, out) to some (n, in) that `run` maps close to it."""
    low: Array | None = None
    """Where known, the least usual value per column before the step, from what was seen in training."""
    high: Array | None = None
    missing: bool = False
    """NaN may come in."""
    fills: bool = False
    """And is replaced."""
    coded: bool = False
    """Some columns hold categories, so rows are aimed from behind the step."""
    closed: bool = False
    """Unknown categories are refused: they leave the step as infinite."""


def step_of(transformer: Any) -> NumpyStep | None:
    """The numpy form of a fitted transformer, or None where there is none.

    Raises:
        Refused: for a known transformer with a setting that has no numpy form here.
    """
    kind = type(transformer)
    if not kind.__module__.startswith("sklearn."):
        return None
    make = _STEPS.get(kind.__name__)
    if make is not None:
        return make(transformer)
    if kind.__module__.startswith("sklearn.feature_selection.") and hasattr(transformer, "get_support"):
        return _selection(transformer)
    return None


def missing_number(number: float) -> NumpyStep:
    """A number that XGBoost was told to take as missing, which it compares in float32, becomes NaN."""
    narrow = np.float32(number)

    def run(rows: Array) -> Array:
        holes = rows.astype(np.float32) == narrow
        if not holes.any():
            return rows
        return np.where(holes, rows.dtype.type("nan"), rows)

    def back(rows: Array) -> Array:
        rows = rows.copy()
        other = rows[::2]  # the others keep NaN, which is missing too
        other[np.isnan(other)] = number
        return rows

    return NumpyStep(run=run, back=back, missing=True)


def _standard(scaler: Any) -> NumpyStep:
    mean = scaler.mean_ if scaler.with_mean else None
    scale = scaler.scale_ if scaler.with_std else None
    means = {dtype: None if mean is None else mean.astype(dtype) for dtype in _FLOATS}
    scales = {dtype: None if scale is None else scale.astype(dtype) for dtype in _FLOATS}

    def run(rows: Array) -> Array:
        mean, scale = means[rows.dtype], scales[rows.dtype]
        if mean is not None:
            rows = rows - mean
            if scale is not None:
                rows /= scale
            return rows
        return rows / scale if scale is not None else rows

    return _affine(run, offset=mean, factor=scale, centre=scaler.mean_, spread=scaler.scale_)


def _robust(scaler: Any) -> NumpyStep:
    centre = scaler.center_ if scaler.with_centering else None
    scale = scaler.scale_ if scaler.with_scaling else None

    def run(rows: Array) -> Array:
        rows = rows.copy()  # in place, as float32 rows are rounded after each operation
        if centre is not None:
            rows -= centre
        if scale is not None:
            rows /= scale
        return rows

    return _affine(run, offset=centre, factor=scale, centre=centre, spread=scale)


def _min_max(scaler: Any) -> NumpyStep:
    clip = scaler.feature_range if scaler.clip else None

    def run(rows: Array) -> Array:
        rows = rows.copy()
        rows *= scaler.scale_
        rows += scaler.min_
        if clip is not None:
            np.clip(rows, rows.dtype.type(clip[0]), rows.dtype.type(clip[1]), out=rows)
        return rows

    return NumpyStep(
        run=run,
        back=lambda rows: (rows - scaler.min_) / scaler.scale_,
        low=scaler.data_min_,
        high=scaler.data_max_,
        missing=True,
    )


def _max_abs(scaler: Any) -> NumpyStep:
    if getattr(scaler, "clip", False):
        raise Refused("MaxAbsScaler(clip=True) has no numpy form here")

    def run(rows: Array) -> Array:
        rows = rows.copy()
        rows /= scaler.scale_
        return rows

    return NumpyStep(
        run=run,
        back=lambda rows: rows * scaler.scale_,
        low=-scaler.max_abs_,
        high=scaler.max_abs_,
        missing=True,
    )


def _imputer(imputer: Any) -> NumpyStep:
    fill = np.asarray(imputer.statistics_)
    plain = isinstance(imputer.missing_values, float) and np.isnan(imputer.missing_values)
    if not plain or imputer.add_indicator or fill.dtype.kind != "f" or bool(np.isnan(fill).any()):
        raise Refused("SimpleImputer is converted only where NaN is missing, without indicator and empty columns")

    def run(rows: Array) -> Array:
        holes = np.isnan(rows)
        if not holes.any():
            return rows
        rows = rows.copy()
        rows[holes] = np.broadcast_to(fill, rows.shape)[holes]
        return rows

    return NumpyStep(run=run, back=lambda rows: rows, missing=True, fills=True)


def _pca(pca: Any) -> NumpyStep:
    components = pca.components_.T
    shift = np.reshape(pca.mean_, (1, -1)) @ components
    scale = None
    if pca.whiten:
        scale = np.sqrt(pca.explained_variance_)
        scale = np.maximum(scale, np.finfo(scale.dtype).eps)

    def run(rows: Array) -> Array:
        rows = rows @ components
        rows -= shift
        if scale is not None:
            rows /= scale
        return rows

    return NumpyStep(
        run=run,
        back=lambda rows: (rows if scale is None else rows * scale) @ pca.components_ + pca.mean_,
        low=pca.mean_ - 3 * (1 + np.abs(pca.mean_)),
        high=pca.mean_ + 3 * (1 + np.abs(pca.mean_)),
    )


def _truncated_svd(svd: Any) -> NumpyStep:
    components = svd.components_.T
    return NumpyStep(run=lambda rows: rows @ components, back=lambda rows: rows @ svd.components_)


def _selection(selector: Any) -> NumpyStep:
    chosen = np.flatnonzero(selector.get_support())
    if chosen.size == 0:
        raise Refused(f"{type(selector).__name__} selects no column")
    width = int(selector.n_features_in_)

    def back(rows: Array) -> Array:
        whole = np.zeros((len(rows), width))
        whole[:, chosen] = rows
        return whole

    return NumpyStep(run=lambda rows: rows[:, chosen], back=back)


def _affine(
    run: Callable[[Array], Array], *, offset: Array | None, factor: Array | None, centre: Any, spread: Any
) -> NumpyStep:
    def back(rows: Array) -> Array:
        if factor is not None:
            rows = rows * factor
        return rows if offset is None else rows + offset

    known = centre is not None and spread is not None
    return NumpyStep(
        run=run,
        back=back,
        low=centre - 4 * spread if known else None,
        high=centre + 4 * spread if known else None,
        missing=True,
    )


_FLOATS = (F64, np.dtype(np.float32))
_STEPS: dict[str, Callable[[Any], NumpyStep]] = {
    "StandardScaler": _standard,
    "RobustScaler": _robust,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "SimpleImputer": _imputer,
    "PCA": _pca,
    "TruncatedSVD": _truncated_svd,
}
