"""What a retraining needs when an alert says that the world has moved: the rows of the window that gave it, and why.
The watcher's process writes it; a webhook, command or event carries its path.

    FOLDER/KEY.parquet   the columns of the schema; `prediction`; `label` where known; `request_id`; `caller`;
                         `quarantined`
    FOLDER/KEY.json      the record: reason, windows, features by distance, the digest of the Parquet file, the model's
                         version, the idempotency key, shares of the callers

Rows that a detector flagged stay in the file, marked, so that whoever trains decides. No caller may have more than a
share of it: who sends most would else teach the next model.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from headrace.errors import InvalidRequest
from headrace.features import Feature
from headrace.monitoring.alerts import idempotency_key
from headrace.payload import Array
from headrace.protocols.cloudevents import json_of, rfc3339
from headrace.trust.spec import Schema

if TYPE_CHECKING:
    import pyarrow as pa

MOST_SHARE: Final = 0.2
"""Of one caller among the rows, where callers are known and there are enough of them."""
_RESERVED: Final = ("prediction", "label", "request_id", "caller", "quarantined")


def capped(callers: Sequence[str], *, most_share: float, seed: int) -> Array:
    """Which rows stay so that no caller has more than a share of them: positions, in order.

    The largest number of rows for each caller is taken that keeps the share; of who has more, rows are drawn at random.
    With fewer callers than the share allows for (two callers cannot have a fifth each), equal shares are the bound.
    Callers that are not known count as one, unless nobody is: then all rows stay.

    Args:
        callers: By row; empty: not known.
        most_share: From 0 to 1.
        seed: Of the draw.
    """
    names, owner, counts = np.unique(np.asarray(callers, dtype=str), return_inverse=True, return_counts=True)
    if not len(callers) or (len(names) == 1 and not names[0]):
        return np.arange(len(callers))
    share = max(most_share, 1 / len(names))
    low, high = 1, int(counts.max())
    while low < high:  # rows allowed to each: what the share leaves of their sum grows slower than they do
        middle = (low + high + 1) // 2
        if middle <= share * np.minimum(counts, middle).sum() + 1e-9:
            low = middle
        else:
            high = middle - 1
    order = np.random.default_rng(seed).permutation(len(callers))
    by_owner = order[np.argsort(owner[order], kind="stable")]
    rank = np.arange(len(callers)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_owner[rank < low])


def write(
    folder: Path,
    schema: Schema,
    x: Array,
    *,
    record: Mapping[str, Any],
    predictions: Array | None = None,
    labels: Sequence[Any] | None = None,
    request_ids: Sequence[str] = (),
    quarantined: Array | None = None,
    callers: Sequence[str] = (),
    most_share: float = MOST_SHARE,
) -> Path:
    """Write the rows, then the record beside them.

    Args:
        folder: It is made.
        schema: Of the model; names of the columns, values of categories.
        x: Rows `[n, f]` of float64 as `features` has them; of text, `[n]` objects.
        record: JSON values: `model`, `version`, `detector`, `windows` (ids), `reason`, `features` ({name: distance},
            or a list that is ranked already), `key`, and whatever else is known.
        predictions: `[n]`: positions of classes as float64, or numbers.
        labels: By row; None: not known.
        request_ids: By row.
        quarantined: `[n]` booleans: flagged by an outlier or adversarial detector.
        callers: By row; empty texts: not known.
        most_share: Of one caller.

    Returns:
        The path of the record. One that is there already, of the same key, is left as it is.

    Raises:
        InvalidRequest: lengths differ.
        OSError: it cannot be written; then neither file is there.
    """
    rows = len(x)
    for name, given in (
        ("predictions", predictions),
        ("labels", labels),
        ("request_ids", request_ids),
        ("quarantined", quarantined),
        ("callers", callers),
    ):
        if given is not None and len(given) not in {0, rows}:
            raise InvalidRequest(f"{name}: expected {rows}, one for each row, got {len(given)}")
    windows = [str(window) for window in record.get("windows", ())]
    model, version, detector = (str(record.get(name, "")) for name in ("model", "version", "detector"))
    key = str(record.get("key") or "") or idempotency_key(model, version, detector, windows[-1] if windows else "")
    place = folder / f"{_file_name(key)}.json"
    if place.exists():
        return place
    seed = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
    kept = capped(callers, most_share=most_share, seed=seed).tolist() if len(callers) else list(range(rows))
    columns = _columns(schema, np.asarray(x)[kept])
    if predictions is not None and len(predictions):
        columns["prediction"] = _classes(np.asarray(predictions)[kept], schema)
    if labels is not None and len(labels):
        columns["label"] = mixed([labels[at] for at in kept])
    if len(request_ids):
        columns["request_id"] = mixed([request_ids[at] for at in kept])
    if len(callers):
        columns["caller"] = mixed([callers[at] or None for at in kept])
    is_flagged = np.zeros(rows, bool) if quarantined is None or not len(quarantined) else np.asarray(quarantined, bool)
    columns["quarantined"] = mixed(is_flagged[kept].tolist())
    folder.mkdir(parents=True, exist_ok=True)
    data = place.with_suffix(".parquet")
    digest = _write_table(data, columns)
    known = [] if labels is None or not len(labels) else [labels[at] for at in kept if labels[at] is not None]
    described = {
        **record,
        "key": key,
        "windows": windows,
        "features": ranked(record.get("features", ())),
        "written_at": rfc3339(time.time()),
        "data": data.name,
        "data_digest": f"sha256:{digest}",
        "rows": len(kept),
        "rows_left_out": rows - len(kept),
        "labelled_rows": len(known),
        "quarantined_rows": int(is_flagged[kept].sum()),
        "callers": _shares([callers[at] for at in kept]) if len(callers) else {},
    }
    try:
        _write_bytes(place, json_of(described))
    except OSError:
        data.unlink(missing_ok=True)
        raise
    return place


def ranked(features: Any) -> list[dict[str, Any]]:
    """Features and their distances, the largest first; those without a number last. A list stays in its order: whoever
    tested knows which distances compare.
    """
    if not isinstance(features, Mapping):
        return [dict(each) for each in features]
    pairs = [{"name": name, "distance": distance} for name, distance in features.items()]

    def order(each: Mapping[str, Any]) -> float:
        distance = each.get("distance")
        is_number = isinstance(distance, int | float) and math.isfinite(distance)
        return -float(distance) if is_number and distance is not None else math.inf

    return sorted(pairs, key=order)


def _shares(callers: Sequence[str]) -> dict[str, float]:
    names, counts = np.unique(np.asarray(callers, dtype=str), return_counts=True)
    return {str(name): round(float(count) / len(callers), 6) for name, count in zip(names, counts, strict=True)}


def _columns(schema: Schema, x: Array) -> dict[str, pa.Array]:
    if x.ndim == 1:
        return {"text": mixed([str(each, errors="replace") if isinstance(each, bytes) else str(each) for each in x])}
    known = schema.features.columns if len(schema.features) == x.shape[1] else ()
    columns: dict[str, pa.Array] = {}
    for at in range(x.shape[1]):
        feature = known[at] if known else Feature(name=f"x{at}")
        name = f"input.{feature.name}" if feature.name in _RESERVED else feature.name
        columns[name] = _values(x[:, at], feature)
    return columns


def _values(values: Array, feature: Feature) -> pa.Array:
    """Numbers as the feature's own values; what is missing, and categories that nobody had seen, are null."""
    import pyarrow as pa

    missing = np.isnan(values)
    if feature.is_category:
        categories = mixed(list(feature.categories))
        unknown = missing | (values < 0) | (values >= len(feature.categories))
        return categories.take(pa.array(np.where(unknown, 0, values).astype(np.int64), mask=unknown))
    if feature.integer and bool(np.all(missing | ((values == np.trunc(values)) & (np.abs(values) < 2.0**53)))):
        return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    return pa.array(values, mask=missing)


def _classes(predictions: Array, schema: Schema) -> pa.Array:
    if schema.task != "classification" or not schema.classes:
        import pyarrow as pa

        return pa.array(predictions)
    feature = Feature(name="prediction", kind="category", categories=schema.classes)
    return _values(predictions.astype(np.float64), feature)


def mixed(values: Sequence[Any]) -> pa.Array:
    """Values as one column: whole numbers, numbers or booleans where all are, else text (lists as JSON)."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if value is None or isinstance(value, str) else json_of(value).decode() for value in values]
    return pa.array(texts, pa.string())


def _write_table(path: Path, columns: Mapping[str, pa.Array]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink, compression="zstd")
    data = sink.getvalue()
    _write_bytes(path, memoryview(data))
    return hashlib.sha256(data).hexdigest()


def _write_bytes(path: Path, data: bytes | memoryview) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _file_name(key: str) -> str:
    # a key of somebody's own may be any text
    return key if key.isalnum() and key.isascii() else hashlib.sha256(key.encode()).hexdigest()[:32]
