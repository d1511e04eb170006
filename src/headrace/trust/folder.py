"""A `trust/` folder on disk: reading and writing. `app` finds it at load, `trust.fit` publishes it, and everything that
watches or explains a model asks it for what was fitted.

What may be edited by hand: `detectors.json` (thresholds, windows, alerts, guards, a detector left out) and
`explainers.json` (options, budgets, an explainer left out or put first). Their keys are the fields of `trust.spec`.
card.json holds the SHA-256 of every other file, the schema and all arrays, and a file that differs from it is refused:
what was fitted goes together, and half of it is worth nothing. `Folder.digest` is made of these, so it stays when a
threshold is changed, and what was learnt since (windows, snapshots) stays valid. The digests find damage and mistakes;
who can write the folder can write the card: guard the folder as you guard the model.

Nothing in the folder is executed when it is read. Light to import: numpy and msgspec.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from headrace.detectors.base import Detector, State
from headrace.errors import InvalidRequest, LoadFailed
from headrace.explainers.base import Explainer, Reference
from headrace.features import Feature, Features, numeric
from headrace.payload import Array
from headrace.trust import states
from headrace.trust.spec import FORMAT, Card, DetectorSpec, Explainers, ExplainerSpec, On, Schema

CARD: Final = "card.json"
SCHEMA: Final = "schema.json"
REFERENCE: Final = "reference.npz"
DETECTORS: Final = "detectors.json"
EXPLAINERS: Final = "explainers.json"
NAME: Final = "trust"
"""What the folder is called beside a model, and its suffix beside a file: `iris.trust`."""

_VERSION: Final = re.compile(r"v?\d+(\.\d+)*")
_DETECTOR_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_STATELESS: Final = frozenset({"groups", "realised"})
"""Methods with nothing fitted: everything they need stands in the schema and in what they see."""
_T = TypeVar("_T")


def find_folder(path: Path) -> Path | None:
    """The trust folder of a model, or None.

    `STEM.trust` beside a file, `trust/` inside its folder, and of a version (`iris/2/`) also `trust/` in the folder of
    all versions. The first that holds a card.json.

    Args:
        path: The model's file or folder; of a model written in Python, its folder.
    """
    inside = path if path.is_dir() else path.parent
    candidates = [path.parent / f"{path.stem}.{NAME}"] if path.is_file() else []
    candidates.append(inside / NAME)
    if _VERSION.fullmatch(inside.name):
        candidates.append(inside.parent / NAME)
    return next((each for each in candidates if is_folder(each)), None)


def is_folder(path: Path) -> bool:
    """Whether a path looks like a trust folder: it holds a card and a list of detectors."""
    return (path / CARD).is_file() and (path / DETECTORS).is_file()


class Folder:
    """A trust folder that was read and whose files are as they were written. Made by `open_folder`."""

    def __init__(
        self,
        path: Path,
        *,
        card: Card,
        schema: Schema,
        detectors: tuple[DetectorSpec, ...],
        explainers: Explainers,
    ) -> None:
        self.path, self.card, self.schema = path, card, schema
        self.detectors, self.explainers = detectors, explainers
        self.digest: str = _digest_of(card)
        """SHA-256 of what was fitted: the same folder, wherever it is copied and whatever threshold was set in it."""

    def __repr__(self) -> str:
        return f"<Folder {self.path}, {len(self.detectors)} detectors, digest {self.digest[:12]}>"

    def reference(self) -> Reference:
        """The sample of the training data that is kept."""
        return self._rows("")

    def held_out(self) -> Reference:
        """Rows that no detector was fitted on, and that thresholds of what depends on answers were chosen by. Where
        rows were given that the model was not trained on, these.
        """
        return self._rows("held_")

    def outputs(self) -> Array | None:
        """What the model said of the rows of `reference`: `[n, k]` FP64; None: it was not asked."""
        return self._floats("outputs")

    def held_outputs(self) -> Array | None:
        """What the model said of the rows of `held_out`; where these are of its training data, and `card.answers` is
        `out-of-fold`, what clones of it said that were fitted without them.
        """
        return self._floats("held_outputs")

    def spec(self, name: str) -> DetectorSpec:
        """What the folder says of one detector.

        Raises:
            InvalidRequest: there is none of that name; lists those there are.
        """
        for each in self.detectors:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.detectors) or "none"
        raise InvalidRequest(f"{self.path}: there is no detector '{name}'; there are {known}")

    def state(self, name: str) -> State:
        """What was fitted of one detector; of those that have nothing to fit (`groups`, `realised`), an empty one.

        Raises:
            LoadFailed: its file is missing, damaged, or not the one that was written.
            InvalidRequest: there is no such detector.
        """
        spec = self.spec(name)
        if not has_state(spec):
            return State()
        return states.load(self._read(f"{name}.npz"), where=str(self.path / f"{name}.npz"))

    def detector(self, name: str) -> Detector:
        """A fitted detector, as it was when the folder was written. Of kinds outlier, drift and adversarial; of the
        others, `state` is all there is.

        Raises:
            LoadFailed: its file is missing, damaged, or not of its method.
            InvalidRequest: there is no such detector, or its method is not known.
        """
        from headrace.detectors.registry import find

        spec = self.spec(name)
        if spec.kind in {"performance", "bias"}:
            raise InvalidRequest(
                f"{self.path}: detector '{name}' is of kind {spec.kind}, which has no class to restore"
            )
        kind = find(spec.method)
        try:
            return kind.restore(self.state(name), self.features(spec.on))
        except InvalidRequest as error:
            raise LoadFailed(f"{self.path}: detector '{name}' cannot be restored: {error}") from error

    def features(self, on: On) -> Features:
        """The columns of what a detector is fed (`rows.fed` makes them)."""
        return features_of(self.schema, on)

    def explainer(self, name: str = "", *, artifact: Any = None, **parameters: Any) -> Explainer:
        """An explainer, made from the reference. Empty name: the first one.

        Args:
            name: As in explainers.json.
            artifact: The model itself, for methods that look into it.
            parameters: Of `make`, over those of explainers.json.

        Raises:
            InvalidRequest: there is no such explainer; lists those there are. Or the reference lacks what it needs.
        """
        from headrace.explainers.registry import find

        spec = self.explainer_spec(name)
        reference = self.reference()
        if artifact is not None:
            reference = msgspec.structs.replace(reference, artifact=artifact)
        try:
            return find(spec.method).make(reference, seed=spec.seed, **{**spec.parameters, **parameters})
        except TypeError as error:
            raise InvalidRequest(f"explainer '{spec.name}' ({spec.method}): {error}") from error

    def explainer_spec(self, name: str = "") -> ExplainerSpec:
        """What the folder says of one explainer; raises as `explainer`."""
        known = self.explainers.explainers
        for each in known:
            if name in {"", each.name}:
                return each
        told = ", ".join(each.name for each in known) or "none"
        raise InvalidRequest(f"{self.path}: there is no explainer '{name}'; there are {told}")

    def _read(self, name: str) -> bytes:
        return _read_checked(self.path, name, self.card)

    @functools.cached_property
    def _arrays(self) -> Mapping[str, Array]:
        return states.load_arrays(self._read(REFERENCE), where=str(self.path / REFERENCE))

    def _floats(self, key: str) -> Array | None:
        array = self._arrays.get(key)
        return None if array is None else array.astype(np.float64)

    def _rows(self, prefix: str) -> Reference:
        arrays = self._arrays
        try:
            if self.schema.data == "text":
                x = _texts(arrays[f"{prefix}x"], arrays[f"{prefix}x_ends"])
            else:
                x = arrays[f"{prefix}x"].astype(np.float64)
        except KeyError as error:
            raise LoadFailed(f"{self.path / REFERENCE}: it holds no array {error}") from error
        y = arrays.get(f"{prefix}y")
        if y is not None:
            y = y.astype(np.int64 if self.schema.task == "classification" else np.float64)
        return Reference(features=self.schema.features, x=x, y=y, classes=tuple(map(str, self.schema.classes)))


def open_folder(path: Path) -> Folder:
    """Read a trust folder and check every digest. Blocks for as long as reading its files takes (milliseconds).

    Raises:
        LoadFailed: there is none, it is of a later format, or a file is missing, unreadable, wrong (names the key) or
            not the one that was written.
    """
    card = _card(path)
    for name in card.files:
        _read_checked(path, name, card)
    schema = _decoded(_read_checked(path, SCHEMA, card), Schema, path / SCHEMA)
    detectors = _decoded(_bytes(path / DETECTORS), tuple[DetectorSpec, ...], path / DETECTORS)
    explainers = _decoded(_bytes(path / EXPLAINERS), Explainers, path / EXPLAINERS)
    _check_detectors(path, card, schema, detectors)
    names = [each.name for each in explainers.explainers]
    if len(set(names)) < len(names):
        raise LoadFailed(f"{path / EXPLAINERS}: two explainers have one name; names are {', '.join(names)}")
    return Folder(path, card=card, schema=schema, detectors=detectors, explainers=explainers)


def write_folder(
    path: Path,
    *,
    card: Card,
    schema: Schema,
    detectors: Sequence[tuple[DetectorSpec, State | None]],
    explainers: Explainers,
    reference: Reference,
    held_out: Reference,
    outputs: Array | None = None,
    held_outputs: Array | None = None,
) -> Folder:
    """Write a trust folder beside where it shall be and put it there when it is whole, in place of one that is there.

    Args:
        path: Where; what is there must be a trust folder, an empty folder, or nothing.
        card: Its `files` are filled in.
        schema: What the model takes and says.
        detectors: With what was fitted; None: nothing.
        explainers: The file explainers.json.
        reference: The sample that is kept; its features are the schema's.
        held_out: Rows that thresholds were chosen on.
        outputs: What the model said of `reference.x`, `[n, k]`.
        held_outputs: What it said of `held_out.x`.

    Raises:
        LoadFailed: something else is at `path`, or it cannot be written.
    """
    if path.exists() and not is_folder(path) and (not path.is_dir() or any(path.iterdir())):
        raise LoadFailed(f"{path}: there is something else here; a trust folder is written only over a trust folder")
    arrays = {**_row_arrays("", reference, outputs), **_row_arrays("held_", held_out, held_outputs)}
    files = {SCHEMA: _encoded(schema), REFERENCE: states.dump_arrays(arrays)}
    for spec, state in detectors:
        if state is not None:
            files[f"{spec.name}.npz"] = states.dump(state)
    card = msgspec.structs.replace(card, files={name: _sha256(data) for name, data in sorted(files.items())})
    files[DETECTORS] = _encoded([_editable(spec) for spec, _ in detectors])
    files[EXPLAINERS] = _encoded(_editable(explainers))
    files[CARD] = _encoded(card)
    _check_detectors(path, card, schema, tuple(spec for spec, _ in detectors))
    mark = secrets.token_hex(4)
    fresh, old = (path.parent / f".{path.name}.{kind}-{mark}" for kind in ("new", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        if path.exists():
            os.replace(path, old)  # noqa: PTH105 - of folders; pathlib's is the same call
        os.replace(fresh, path)  # noqa: PTH105
    except OSError as error:
        if old.exists() and not path.exists():
            os.replace(old, path)  # noqa: PTH105
        raise LoadFailed(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for left in (fresh, old):
            if left.exists():
                shutil.rmtree(left)
    return open_folder(path)


def has_state(spec: DetectorSpec) -> bool:
    """Whether a detector has a file of what was fitted."""
    return spec.method not in _STATELESS


def features_of(schema: Schema, on: On) -> Features:
    """The columns of what a detector is fed."""
    if on == "inputs":
        return schema.features
    if on == "outputs":
        if schema.task == "classification":
            return numeric(tuple(str(each) for each in schema.classes))
        return numeric(
            tuple(f"output{at}" for at in range(schema.output.width)) if schema.output.width > 1 else ("output",)
        )
    if on == "predictions" and schema.task == "classification":
        return Features(columns=(Feature(name="prediction", kind="category", categories=schema.classes),))
    return numeric(({"uncertainty": "uncertainty", "predictions": "prediction", "errors": "error"}.get(on, "outlier"),))


# -- reading --


def _card(path: Path) -> Card:
    if not path.is_dir():
        raise LoadFailed(f"{path}: there is no trust folder here; write one by `headrace trust fit`")
    data = _bytes(path / CARD)
    told = _decoded(data, dict[str, Any], path / CARD).get("format", FORMAT)
    if not isinstance(told, int) or told > FORMAT:
        raise LoadFailed(
            f"{path}: it is of format {told}, and this version of headrace reads up to {FORMAT}; upgrade headrace, or "
            "write the folder again by `headrace trust fit` of this version"
        )
    return _decoded(data, Card, path / CARD)


def _check_detectors(path: Path, card: Card, schema: Schema, detectors: tuple[DetectorSpec, ...]) -> None:
    seen: set[str] = set()
    for each in detectors:
        if not _DETECTOR_NAME.fullmatch(each.name) or f"{each.name}.npz" == REFERENCE:
            raise LoadFailed(
                f"{path / DETECTORS}: {each.name!r} cannot be a detector's name: letters, digits, '.', '_' and '-'"
            )
        if each.name in seen:
            raise LoadFailed(f"{path / DETECTORS}: two detectors are named '{each.name}'")
        seen.add(each.name)
        if has_state(each) and f"{each.name}.npz" not in card.files:
            raise LoadFailed(
                f"{path / DETECTORS}: detector '{each.name}' was never fitted: {CARD} knows no {each.name}.npz. "
                "A detector is renamed or added by `headrace trust fit`"
            )
        if each.kind == "bias" and not schema.bias:
            raise LoadFailed(
                f"{path / DETECTORS}: detector '{each.name}' needs protected attributes, and {SCHEMA} has none"
            )


def _read_checked(path: Path, name: str, card: Card) -> bytes:
    expected = card.files.get(name)
    if expected is None or Path(name).name != name:
        raise LoadFailed(f"{path}: {CARD} has no digest of {name}; copy the folder again, or fit it again")
    data = _bytes(path / name)
    if _sha256(data) != expected:
        raise LoadFailed(
            f"{path / name}: it is not the file that was written (its SHA-256 differs from the one in {CARD}): "
            "damaged, edited, or of another folder. Copy the whole folder again, or fit it again; by hand, only "
            f"{DETECTORS} and {EXPLAINERS} may be changed"
        )
    return data


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LoadFailed(f"{path}: cannot be read: {error.strerror or error}") from error


def _decoded(data: bytes, kind: type[_T], path: Path) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise LoadFailed(f"{path}: {error}") from error


def _texts(data: Array, ends: Array) -> Array:
    whole, start = data.tobytes(), 0
    texts: Array = np.empty(len(ends), np.object_)
    for at, end in enumerate(ends.tolist()):
        texts[at] = whole[start:end].decode()
        start = end
    return texts


# -- writing --


def _row_arrays(prefix: str, rows: Reference, outputs: Array | None) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    if rows.x.dtype == object:
        encoded = [str(each).encode() for each in rows.x.tolist()]
        arrays[f"{prefix}x"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{prefix}x_ends"] = np.cumsum([len(each) for each in encoded], dtype=np.int64)
    else:
        arrays[f"{prefix}x"] = smallest(rows.x)
    if rows.y is not None:
        arrays[f"{prefix}y"] = smallest(rows.y)
    if outputs is not None:
        arrays[f"{prefix}outputs"] = smallest(outputs)
    return arrays


def smallest(array: Array) -> Array:
    """The same values in the least bytes that hold them exactly."""
    floats = (np.float32,) if array.dtype.kind == "f" else ()
    for dtype in (np.uint8, np.int16, np.int32, *floats):
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = array.astype(dtype)
        if narrow.itemsize < array.itemsize and np.array_equal(narrow, array, equal_nan=narrow.dtype.kind == "f"):
            return narrow
    return array


def _editable(value: Any) -> Any:
    """A struct as JSON that shows every key, also those at their default: it is there to be edited."""
    if isinstance(value, msgspec.Struct):
        return {name: _editable(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {name: _editable(each) for name, each in value.items()}
    return [_editable(each) for each in value] if isinstance(value, tuple | list) else value


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    except (TypeError, msgspec.MsgspecError) as error:
        raise LoadFailed(f"the trust folder cannot be written: {error}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(card: Card) -> str:
    return _sha256("".join(f"{name}\0{digest}\n" for name, digest in sorted(card.files.items())).encode())
