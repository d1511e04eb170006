"""`headrace trust fit`: from training data and a model that answers to a trust folder. The command line and
`headrace.fit_trust` call it.

read -> what the model takes and says -> three disjoint parts of the rows -> ask the model -> fit each detector on the
first part, choose its threshold on the second, measure it on the third -> make each explainer once -> publish.

What depends on the model's answers needs rows that the model does not know: it is right and sure of those that it was
trained on, and every window of others would differ from them. Such rows are given (`unseen`), or what the model would
say of them is estimated by clones (`trust.folds`), or the card warns. See
`trust.parts`.

The same data, model and options give the same folder, but for the time on its card; and but for `trust.folds` where the
time that it may take decides.
"""

from __future__ import annotations

import datetime as dt
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from headrace import __version__
from headrace.detectors import registry as detectors_
from headrace.detectors.base import Adversarial, Detector, DriftOnline, DriftTest, Outlier, State
from headrace.errors import InvalidRequest, MissingExtra
from headrace.explainers import registry as explainers_
from headrace.explainers.base import Reference
from headrace.payload import EMPTY, Array, RequestedOutput
from headrace.trust import calibrate, schema
from headrace.trust import table as tables
from headrace.trust.folder import Folder, features_of, write_folder
from headrace.trust.parts import LEAST_ROWS, Asking, Part, Parts, Progress
from headrace.trust.parts import Model as Model  # noqa: PLC0414 - a part of `fit`'s own signature
from headrace.trust.rows import Rows
from headrace.trust.schema import Hints
from headrace.trust.spec import Card, DetectorSpec, Explainers, ExplainerSpec, Guard, On, Schema, Window

NOTHING: Final = "none"
"""In place of a method: none at all."""
_SEEN_ROWS: Final = 200
"""Asked for, to see what the outputs are."""
_ASKED: Final = re.compile(r"(?P<method>[A-Za-z0-9_-]+)(?::(?P<on>[a-z]+))?(?:,(?P<parameters>.*))?")
_PARAMETER: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)")
_ONS: Final[tuple[On, ...]] = ("inputs", "outputs", "uncertainty", "predictions", "outliers", "errors")
_MODEL_SHAP: Final = ("tree-shap", "linear-shap")
_T = TypeVar("_T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may choose."""

    hints: Hints = Hints()
    labels: str = ""
    """The column of the data that holds the labels."""
    detectors: tuple[str, ...] = ()
    """`METHOD[:ON][,name=value...]`, as `mmd:outputs,alpha=0.01`; empty: those that fit the data; `none`: none."""
    explainers: tuple[str, ...] = ()
    """`METHOD[,name=value...]`; empty: those that fit the data; `none`: none."""
    false_positive_rate: float = 0.01
    """Of detectors of rows: which share of usual rows may be called odd."""
    alpha: float = 0.05
    """Of tests for drift: how often a window that has not drifted may be called drifted."""
    seed: int = 0
    reference_rows: int = 10_000
    """The most that are kept and fitted on."""
    held_out_rows: int = 5_000
    """The most that thresholds are chosen on, and the most that rates are measured on."""
    fold_seconds: float = 60.0
    """The most that clones of the model may take, which say what it would of its training data had it not seen it.
    0: none are made."""
    window: Window = Window()
    """Of each detector."""
    guards: Mapping[str, Guard] = EMPTY
    """By detector of rows: whether it also looks before the model answers."""
    detector_models: Mapping[str, str] = EMPTY
    """By detector: the name of a model that answers with its verdicts."""
    explainer_model: str = ""
    """The name of a model that answers with explanations; empty: none."""


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A method that is to be fitted."""

    method: str
    on: On | None = None
    parameters: Mapping[str, Any] = EMPTY
    by_name: bool = False
    """A person asked for it: what goes wrong is an error, not a note."""


class _Refusal(Exception):
    """A detector that is left out, with the reason; never leaves this module."""


def fit(
    path: Path,
    data: Any,
    labels: Any = None,
    *,
    model: Model,
    unseen: Any = None,
    unseen_labels: Any = None,
    options: Options | None = None,
    progress: Progress | None = None,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Folder:
    """Fit what watches and explains a model, and write it as a trust folder.

    Args:
        path: Where the folder shall be.
        data: Training data: whatever `table.of` takes.
        labels: `[n]`; None: the column that the options name, or those that came with the data, or none.
        model: Asked for what it says of the rows.
        unseen: Rows that the model was not trained on, in any of the forms of `data`; None: there are none.
        unseen_labels: `[m]`, as `labels`.
        options: What to fit and how; None: the defaults.
        progress: Told of each step.
        now: The time, for the card.

    Raises:
        InvalidRequest: the data cannot be read or does not fit the model, there are too few rows, or a method that was
            asked for by name cannot be fitted.
        MissingExtra: a library is not installed.
        LoadFailed: the folder cannot be written.
    """
    options = options or Options()
    tell = progress or _tell_nobody
    tell("reading the data", 0, 1)
    table, given = _labelled(tables.of(data), labels, options)
    seen = schema.taken(table, model.signature, options.hints)
    if len(seen.x) < LEAST_ROWS:
        raise InvalidRequest(f"{table.source}: {len(seen.x)} rows came; at least {LEAST_ROWS} are needed")
    known, y = _known(seen, model, given, options)
    most = (options.reference_rows, options.held_out_rows, options.held_out_rows)
    asking = Asking(model, known, most=most, seed=options.seed, tell=tell)
    chosen = asking.chosen(len(seen.x), y)
    own = asking.parts(seen.x, y, chosen)
    warnings = [*seen.warnings, *_about_data(known, y, len(own[1].x), options)]
    unknown = None
    if unseen is not None:
        unknown = _labelled(tables.of(unseen), unseen_labels, options, may_lack=True)
        answered = asking.unseen(*unknown, among=seen.x)
    else:
        answered = asking.estimated(own, chosen, table, seen.x, y, seconds=options.fold_seconds)
    warnings += answered.warnings

    fitting = _Fitting(
        known=known,
        own=own,
        answered=answered.parts,
        predict=asking.predict,
        options=options,
        tell=tell,
    )
    fitted = _with_wishes(fitting.detectors(warnings), options, warnings)
    kept_rows = _reference(known, own[0])
    explained = _explainers(known, msgspec.structs.replace(kept_rows, artifact=model.artifact), options, warnings, tell)
    tell("writing the folder", 1, 1)
    card = Card(
        headrace=__version__,
        fitted_at=now().isoformat(timespec="seconds"),
        data=table.source,
        data_digest=table.digest(),
        rows=len(seen.x),
        held_out_rows=len(own[1].x) + len(own[2].x),
        model_digest=model.digest,
        answers=answered.kind,
        answers_told=answered.told,
        unseen=unknown[0].source if unknown else "",
        unseen_rows=len(unknown[0]) if unknown else 0,
        unseen_digest=unknown[0].digest() if unknown else "",
        warnings=tuple(warnings),
    )
    return write_folder(
        path,
        card=card,
        schema=known,
        detectors=fitted,
        explainers=Explainers(explainers=explained, model=options.explainer_model),
        reference=kept_rows,
        held_out=_reference(known, answered.parts[1]),
        outputs=own[0].answers,
        held_outputs=answered.parts[1].answers,
    )


def window_of(given: Mapping[str, Any]) -> Window:
    """When tests are made, of what a person says of it: the fields of `Window`.

    Raises:
        InvalidRequest: an unknown field, no number, or one that makes no window; names it.
    """
    known = {field.name: field.default for field in msgspec.structs.fields(Window)}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise InvalidRequest(f"a window has no '{name}'; {hint}")
    try:
        found = msgspec.convert(dict(given), Window, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"window: {error}") from error
    if "rows" in given and "min_rows" not in given:
        found = msgspec.structs.replace(found, min_rows=min(found.min_rows, found.rows))
    for name, least, most in (
        ("rows", 1, math.inf),
        ("min_rows", 1, found.rows),
        ("step", 0, found.rows),
        ("seconds", 0, 1e9),
    ):
        value = getattr(found, name)
        if not least <= value <= most:
            limit = f"from {least} to {most:g}" if math.isfinite(most) else f"of at least {least}"
            raise InvalidRequest(f"window: expected {name} {limit}, got {value:g}")
    return found


# -- the steps --


def _labelled(
    table: tables.Table, labels: Any, options: Options, *, may_lack: bool = False
) -> tuple[tables.Table, Array | None]:
    """The rows, and their labels apart."""
    if options.labels and not (may_lack and (labels is not None or options.labels not in table.columns)):
        if options.labels not in table.columns:
            near = difflib.get_close_matches(options.labels, table.columns, n=1)
            hint = (
                f"did you mean '{near[0]}'?" if near else f"there are {', '.join(list(table.columns)[:20]) or 'none'}"
            )
            raise InvalidRequest(f"{table.source}: there is no column '{options.labels}' of labels; {hint}")
        found: Array | None = table.columns[options.labels]
        table = table.without(options.labels)
    elif labels is not None:
        one = tables.of({"labels": np.asarray(labels).reshape(-1)})
        found = one.columns["labels"]
    else:
        found = table.labels
    if found is not None and len(found) != len(table):
        raise InvalidRequest(f"{len(found)} labels came for {len(table)} rows")
    if found is not None and found.dtype == object:
        absent = [row for row, each in enumerate(found.tolist()) if each is None]
        if absent:
            raise InvalidRequest(f"labels, row {absent[0]}: there is none; leave out rows without a label")
    return table, found


def _known(seen: schema.Taken, model: Model, labels: Array | None, options: Options) -> tuple[Schema, Array | None]:
    """What the model takes and says, from its answers to some rows."""
    draft = Schema(data=seen.data, features=seen.features, inputs=seen.inputs)
    some = np.sort(np.random.default_rng(options.seed).permutation(len(seen.x))[:_SEEN_ROWS])
    wanted = tuple(RequestedOutput(each.name) for each in model.signature.outputs)
    outputs = model.ask(Rows(draft).tensors(seen.x[some]), wanted)
    known, y = schema.said(seen, outputs, model.signature, labels, options.hints)
    return known, y


def _about_data(known: Schema, y: Array | None, held_out: int, options: Options) -> list[str]:
    notes = []
    finest = calibrate.finest(held_out)
    if finest > options.false_positive_rate:
        notes.append(
            f"{held_out} rows chose the thresholds of row detectors: none is finer than a false-positive rate of "
            f"{finest:.3g}, and {options.false_positive_rate:.3g} was asked for; more data makes it so"
        )
    if y is None:
        notes.append("there are no labels: nothing that needs them was fitted (name them by --labels)")
    if known.task == "classification" and not known.output.probabilities:
        notes.append("the model gives no probabilities: its classes stand for them as 0 and 1")
    return notes


def _with_wishes(
    fitted: list[tuple[DetectorSpec, State | None]], options: Options, warnings: Sequence[str]
) -> list[tuple[DetectorSpec, State | None]]:
    """With the guards and the names of models that were asked for.

    Raises:
        InvalidRequest: a detector that was named was not fitted, or cannot do that.
    """
    by_name = {spec.name: spec for spec, _ in fitted}
    for name in (*options.guards, *options.detector_models):
        if name not in by_name:
            why = next((each for each in warnings if each.startswith(f"{name} was ")), "")
            raise InvalidRequest(
                f"there is no detector '{name}': {why or 'there are ' + (', '.join(by_name) or 'none')}"
            )
    for name in options.guards:
        if by_name[name].kind not in {"outlier", "adversarial"} or by_name[name].on != "inputs":
            raise InvalidRequest(
                f"detector '{name}' ({by_name[name].kind}, of {by_name[name].on}) cannot be a guard: guards look at "
                "single rows of inputs before the model answers"
            )
    for name in options.detector_models:
        if by_name[name].kind not in {"outlier", "drift"}:
            raise InvalidRequest(
                f"detector '{name}' cannot be a model of its own: {by_name[name].kind} works beside its model"
            )
    return [
        (
            msgspec.structs.replace(
                spec, guard=options.guards.get(spec.name, "off"), model=options.detector_models.get(spec.name, "")
            ),
            state,
        )
        for spec, state in fitted
    ]


def _reference(known: Schema, part: Part) -> Reference:
    return Reference(features=known.features, x=part.x, y=part.y, classes=tuple(map(str, known.classes)))


def _tell_nobody(step: str, done: int, of: int) -> None:
    pass


# -- detectors --


class _Fitting:
    """Fits the detectors of one folder."""

    def __init__(
        self,
        *,
        known: Schema,
        own: Parts,
        answered: Parts,
        predict: Callable[[Array], Array],
        options: Options,
        tell: Progress,
    ) -> None:
        self._known, self._options, self._tell = known, options, tell
        self._own, self._answered = own, answered
        self._predict = predict
        self._flags: dict[str, Array] = {}
        """By outlier detector: whether rows that chose nothing passed its threshold."""

    def detectors(self, warnings: list[str]) -> list[tuple[DetectorSpec, State | None]]:
        """All that were asked for, or that fit the data, but those that cannot be or must not."""
        asked = self._options.detectors
        wanted = _asked(asked, has_on=True) if asked else _default_detectors(self._known, self._answered[0])
        fitted: list[tuple[DetectorSpec, State | None]] = []
        for at, each in enumerate(wanted):
            self._tell(f"fitting {each.method}", at, len(wanted))
            try:
                found = self._one(each, {spec.name for spec, _ in fitted})
            except _Refusal as refusal:
                warnings.append(str(refusal))
                continue
            except InvalidRequest as error:
                if each.by_name:
                    raise InvalidRequest(f"detector {each.method}: {error}") from error
                warnings.append(f"{each.method} was left out: {error}")
                continue
            except MissingExtra as error:
                if each.by_name:
                    raise
                warnings.append(f"{each.method} was left out: {error}")
                continue
            fitted.append(found)
        return fitted

    def _one(self, wanted: _Wanted, taken: set[str]) -> tuple[DetectorSpec, State | None]:
        if wanted.method in {"cbpe", "realised"}:
            return self._performance(wanted, taken)
        if wanted.method == "groups":
            if not self._known.bias:
                raise InvalidRequest("no protected attributes were named")
            return self._spec(wanted, "bias", "predictions", taken), None
        kind = detectors_.find(wanted.method)
        usual: On = "outliers" if wanted.method == "outlier-rate" else "inputs"
        on = wanted.on or usual
        if on == "inputs" and self._known.data == "text":
            raise InvalidRequest("texts have no columns to look at; detectors of texts look at outputs")
        if issubclass(kind, Outlier | Adversarial):
            return self._of_rows(kind, wanted, on, taken)
        if issubclass(kind, DriftTest):
            return self._of_samples(kind, wanted, on, taken)
        if issubclass(kind, DriftOnline):
            return self._of_streams(kind, wanted, on, taken)
        raise InvalidRequest(f"{wanted.method} is of no kind that is fitted")

    def _of_rows(
        self, kind: type[Outlier | Adversarial], wanted: _Wanted, on: On, taken: set[str]
    ) -> tuple[DetectorSpec, State | None]:
        features = features_of(self._known, on)
        options = self._options
        score: Callable[[Any, Array], Array]
        if issubclass(kind, Adversarial):
            if on != "inputs":
                raise InvalidRequest(f"it looks at inputs, not at {on}")
            # Its parts learn of rows; what is usual of the change of answers, rows tell that the model does not know.
            before, held_out, fresh = self._answered
            tuned = [held_out] if self._own[1].x is held_out.x else [before, held_out]
            detector: Detector = _made(
                kind.fit, self._own[0].x, features, self._predict, seed=options.seed, **wanted.parameters
            )
            score = self._adversarial_score
        else:
            before, held_out, fresh = self._parts(on)
            tuned = [held_out]
            x = self._fed(before, on)
            detector = _made(kind.fit, x, features, seed=options.seed, **wanted.parameters)
            score = _outlier_score
        state = detector.state()
        # A copy is scored: one that learns from what it sees is kept as it was fitted.
        copy = kind.restore(state, features) if kind.ONLINE else detector
        held = np.concatenate([score(copy, self._fed(part, on)) for part in tuned])
        found = score(copy, self._fed(fresh, on))
        threshold = calibrate.threshold(held, options.false_positive_rate)
        above = found > threshold
        rate = calibrate.interval(int(above.sum()), len(above))
        spec = self._spec(wanted, kind.KIND, on, taken)
        if calibrate.is_too_many(rate.count, rate.of, held_out=len(held), rate=options.false_positive_rate):
            raise _Refusal(
                f"{spec.name} was refused: {rate.count} of {rate.of} usual rows pass its threshold "
                f"({rate.value:.2%}, between {rate.low:.2%} and {rate.high:.2%}), and "
                f"{options.false_positive_rate:.2%} was asked for. The rows are not alike: are they in an order, or is "
                "the same row there many times?"
            )
        if issubclass(kind, Outlier):
            self._flags[spec.name] = above
        measured = self._measured(msgspec.structs.replace(spec, threshold=threshold, online=kind.ONLINE), rate)
        return measured, state

    def _of_samples(
        self, kind: type[DriftTest], wanted: _Wanted, on: On, taken: set[str]
    ) -> tuple[DetectorSpec, State | None]:
        alpha = float(wanted.parameters.get("alpha", self._options.alpha))
        parameters = {**wanted.parameters, "alpha": alpha}
        of = ""
        if on == "outliers":
            of = str(wanted.parameters.get("of", next(iter(self._flags), "")))
            if of not in self._flags:
                raise InvalidRequest(
                    f"it counts the rows that an outlier detector flags; '{of or 'none'}' was not fitted before it"
                )
            # The threshold was chosen on the held-out rows: their flags say what was asked for, the fresh ones what is.
            x, rest = self._flags[of].astype(np.float64).reshape(-1, 1), np.empty((0, 1))
            parameters = {name: value for name, value in parameters.items() if name != "of"}
        else:
            reference, *others = self._parts(on)
            x = self._fed(reference, on)
            rest = np.concatenate([self._fed(part, on) for part in others])
        features = features_of(self._known, on)
        detector = _made(kind.fit, x, features, seed=self._options.seed, **parameters)
        spec = self._spec(wanted, "drift", on, taken)
        spec = msgspec.structs.replace(spec, parameters={**parameters, "of": of} if of else parameters)
        windows = _windows(len(rest), seed=self._options.seed, in_order=self._known.data == "series")
        count = sum(detector.test(rest[window]).is_drift for window in windows)
        rate = calibrate.interval(count, len(windows))
        if calibrate.is_more_often(count, len(windows), rate=alpha):
            raise _Refusal(
                f"{spec.name} was refused: it calls {count} of {len(windows)} windows of usual rows drift, at a level "
                f"of {alpha:.2%}. The rows are not alike: are they in an order, or is the same row there many times?"
            )
        return self._measured(spec, rate), detector.state()

    def _of_streams(
        self, kind: type[DriftOnline], wanted: _Wanted, on: On, taken: set[str]
    ) -> tuple[DetectorSpec, State | None]:
        features = features_of(self._known, on)
        reference, *others = self._parts(on)
        detector = _made(kind.fit, self._fed(reference, on), features, seed=self._options.seed, **wanted.parameters)
        state = detector.state()
        rest = np.concatenate([self._fed(part, on) for part in others])
        alarms = len(kind.restore(state, features).step(rest).at)
        spec = msgspec.structs.replace(self._spec(wanted, "drift", on, taken), online=True)
        return self._measured(spec, calibrate.interval(alarms, len(rest))), state

    def _performance(self, wanted: _Wanted, taken: set[str]) -> tuple[DetectorSpec, State | None]:
        on: On = "outputs" if wanted.method == "cbpe" else "predictions"
        spec = self._spec(wanted, "performance", on, taken)
        if wanted.method == "realised":
            return spec, None
        if self._known.task != "classification" or not self._known.output.probabilities:
            raise InvalidRequest("performance without labels is estimated from probabilities, and the model gives none")
        labels = [part.y for part in self._answered if part.y is not None]
        if not labels:
            raise InvalidRequest("it needs labels, once: to calibrate the model's probabilities")
        from headrace.detectors.performance import Cbpe

        # On all rows: they are calibrated, nothing is measured, and no detector's fit bears on the model's answers.
        answers = np.concatenate([part.answers for part in self._answered])
        state = Cbpe.fit(answers, np.concatenate(labels), seed=self._options.seed, **wanted.parameters).state()
        return spec, state

    def _parts(self, on: On) -> Parts:
        """The rows that a detector on these is fitted to."""
        return self._own if on in {"inputs", "outliers"} else self._answered

    def _fed(self, part: Part, on: On) -> Array:
        x = part.fed(on)
        if x is None:
            raise InvalidRequest(
                f"there is nothing to feed it: '{on}' needs {'labels' if on == 'errors' else 'numbers'}"
            )
        return x

    def _adversarial_score(self, detector: Any, x: Array) -> Array:
        scores: Array = detector.score(x, self._predict).instance
        return scores

    def _spec(self, wanted: _Wanted, kind: Any, on: On, taken: set[str]) -> DetectorSpec:
        name = wanted.method if wanted.on in {None, "inputs"} else f"{wanted.method}-{on}"
        count = 2
        while name in taken:
            name, count = f"{name.rstrip('0123456789').rstrip('-')}-{count}", count + 1
        return DetectorSpec(
            name=name,
            method=wanted.method,
            kind=kind,
            on=on,
            parameters=wanted.parameters,
            seed=self._options.seed,
            window=self._options.window,
        )

    def _measured(self, spec: DetectorSpec, rate: calibrate.Rate) -> DetectorSpec:
        if not rate.of:
            return spec
        return msgspec.structs.replace(
            spec, false_positive_rate=rate.value, false_positive_interval=(rate.low, rate.high)
        )


def _outlier_score(detector: Any, x: Array) -> Array:
    scores: Array = detector.score(x).instance
    return scores


def _windows(rows: int, *, seed: int, in_order: bool) -> list[Array]:
    """Disjoint windows to measure a test on: about 20, of 50 to 1,000 rows; fewer where there are fewer rows.

    Of rows that are no series, whatever order they came in: a file is often sorted by something.
    """
    size = min(max(rows // 20, 50), 1000)
    order = np.arange(rows) if in_order else np.random.default_rng(seed).permutation(rows)
    return [order[start : start + size] for start in range(0, rows - size + 1, size)]


def _default_detectors(known: Schema, reference: Part) -> tuple[_Wanted, ...]:
    """What fits the data."""
    found: list[_Wanted] = []

    def add(method: str, on: On | None = None, **parameters: Any) -> None:
        if method in {"cbpe", "realised", "groups"} or method in detectors_.METHODS:
            found.append(_Wanted(method=method, on=on, parameters=parameters))

    has_probabilities = known.task == "classification" and bool(known.output.probabilities)
    if known.data == "tabular":
        add("isolation-forest")
        add("mahalanobis")
        add("tabular")
    elif known.data == "image":
        add("pca")
    elif known.data == "series":
        add("spectral-residual")
        add("seasonal")
    if known.data in {"tabular", "image"} and known.features.numeric and has_probabilities:
        add("adversarial-union")
    if known.data == "image":
        add("mmd", "outputs")
    add("ks", "outputs")
    if has_probabilities:
        add("ks", "uncertainty")
    if known.data != "text":
        add("outlier-rate")
    if has_probabilities and reference.y is not None:
        add("cbpe")
    add("realised")
    if known.bias:
        add("groups")
    return tuple(found)


# -- explainers --


def _explainers(
    known: Schema, reference: Reference, options: Options, warnings: list[str], tell: Progress
) -> tuple[ExplainerSpec, ...]:
    """Those asked for, or that fit the data and the model; each is made once, to know that it can be."""
    asked = options.explainers
    wanted = _asked(asked, has_on=False) if asked else _default_explainers(known, reference)
    found: dict[str, ExplainerSpec] = {}
    for at, each in enumerate(wanted):
        tell(f"making {each.method}", at, len(wanted))
        if each.method == "permutation-shap" and not each.by_name and any(name in found for name in _MODEL_SHAP):
            continue  # the model itself tells the same exactly, and at once
        try:
            _check_explainer(each, known, reference, options.seed)
        except (InvalidRequest, MissingExtra) as error:
            if each.by_name:
                raise type(error)(f"explainer {each.method}: {error}") from error
            if each.method not in _MODEL_SHAP:
                warnings.append(f"explainer {each.method} was left out: {error}")
            continue
        name, count = each.method, 2
        while name in found:
            name, count = f"{each.method}-{count}", count + 1
        found[name] = ExplainerSpec(name=name, method=each.method, parameters=each.parameters, seed=options.seed)
    return tuple(found.values())


def _check_explainer(wanted: _Wanted, known: Schema, reference: Reference, seed: int) -> None:
    """Make an explainer, to know that it can be."""
    kind = explainers_.find(wanted.method)
    if _explained(known) not in kind.DATA:
        raise InvalidRequest(f"it explains {', '.join(kind.DATA)}, not {known.data}")
    _made(kind.make, reference, seed=seed, **wanted.parameters)


def _explained(known: Schema) -> str:
    """What an explainer takes the rows for: a window of a series is a row like any other."""
    return "tabular" if known.data == "series" else known.data


def _default_explainers(known: Schema, reference: Reference) -> tuple[_Wanted, ...]:
    names: list[str] = []
    is_classifier = known.task == "classification"
    if known.data == "text":
        names += ["anchor-text", "lime"]
    elif known.data == "image":
        names += ["anchor-image", "contrastive", "counterfactual"]
    else:
        # The model itself sees categories in a form of its own, where these see the positions of ours.
        looks_in = reference.artifact is not None and not known.features.categorical
        shap = [*(_MODEL_SHAP if looks_in else ()), "permutation-shap"]
        names += ["anchor-tabular", *shap] if is_classifier else shap
        names += ["kernel-shap", "lime", "counterfactual"]
        names += ["contrastive"] if is_classifier else []
        names += ["trust-score"] if is_classifier and reference.y is not None else []
        names += ["ale", "partial-dependence"]
        names += ["permutation-importance"] if reference.y is not None else []
    kinds = [(name, explainers_.find(name)) for name in names if name in explainers_.METHODS]
    return tuple(_Wanted(method=name) for name, kind in kinds if _explained(known) in kind.DATA)


# -- methods as a person writes them --


def _asked(texts: Sequence[str], *, has_on: bool) -> tuple[_Wanted, ...]:
    return () if tuple(texts) == (NOTHING,) else tuple(_parsed(text, has_on=has_on) for text in texts)


def _parsed(text: str, *, has_on: bool) -> _Wanted:
    """`mmd:outputs,alpha=0.01` as a method.

    Raises:
        InvalidRequest: it is not of that form, or names something that detectors are not fed.
    """
    match = _ASKED.fullmatch(text.strip())
    if match is None:
        form = "METHOD[:ON][,name=value...]" if has_on else "METHOD[,name=value...]"
        raise InvalidRequest(f"{text!r} is no method; expected {form}")
    on = next((each for each in _ONS if each == match["on"]), None)
    if match["on"] and (on is None or not has_on):
        raise InvalidRequest(
            f"{text!r}: expected one of {', '.join(_ONS)} after ':'" if has_on else f"{text!r}: explainers take no ':'"
        )
    return _Wanted(method=match["method"], on=on, parameters=_parameters(text, match["parameters"] or ""), by_name=True)


def _parameters(text: str, given: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for part in filter(None, given.split(",")):
        match = _PARAMETER.fullmatch(part.strip())
        if match is None:
            raise InvalidRequest(f"{text!r}: {part!r} is no parameter; expected name=value")
        try:
            parameters[match["name"]] = msgspec.json.decode(match["value"])
        except msgspec.MsgspecError:
            parameters[match["name"]] = match["value"]
    return parameters


def _made(make: Callable[..., _T], *args: Any, **parameters: Any) -> _T:
    """Call `fit` or `make`; a parameter that it does not have is the caller's error.

    Raises:
        InvalidRequest: names the parameters that there are.
    """
    import inspect

    known = [name for name, each in inspect.signature(make).parameters.items() if each.kind is each.KEYWORD_ONLY]
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise InvalidRequest(f"there is no parameter '{name}'; {hint}")
    return make(*args, **parameters)
