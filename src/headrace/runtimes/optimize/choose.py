"""A loaded model gets the fastest engine proven to answer the same. Step *load* of the walk; called by the loader.

    candidates -> export -> structure -> gate -> time -> ranges by number of rows -> verdict, stored by content
    -> the sample that the model carries

The loader calls `optimize` in a thread, after `runtime.load()`. Nothing here breaks a load: whatever raises or does not
end in time becomes a refusal with its reason, and the native model serves.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from headrace.errors import InvalidRequest, LoadFailed
from headrace.payload import Array, Signature
from headrace.runtimes.base import UNCHECKED, Runtime
from headrace.runtimes.optimize import cache as store
from headrace.runtimes.optimize import encoders, gate, speed
from headrace.runtimes.optimize import rows as aim
from headrace.runtimes.optimize.cache import EngineVerdict, Verdict
from headrace.runtimes.optimize.candidate import Candidate, Subject, inner_terrain
from headrace.runtimes.optimize.candidates import candidates, split
from headrace.runtimes.optimize.engine import Engine, Labels, OutOfTime, Refused, labels_like
from headrace.runtimes.optimize.switch import Engines, Seat, kind_of
from headrace.runtimes.optimize.table import Columns, Table, ThroughText

NAME: Final = "engine"
"""Properties of the signature that this room writes begin so."""


_ORDINARY: Final = 1e37


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine must show to take a model's place."""

    speedup: float = 1.5
    """Times faster than the native engine, at a number of rows, to answer for it."""
    rows: float = 1.0
    """Share of the usual number of rows to prove it on: 20,000 for trees, 8,000 for linear models."""
    patience: float = 5.0
    """Seconds of aiming rows at one engine after which a quarter of them is enough."""
    timing_seconds: float = 0.03
    """Spent on timing each engine at each batch size."""
    check_seconds: float = 60.0
    """The whole check must end within; else the native model serves."""


class Passed(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that the gate let through."""

    verdict: EngineVerdict
    engine: Engine
    artefact: bytes
    proof: gate.Proof
    rows: Array
    """Some of the rows it was proven on, to time it with."""


def optimize(
    runtime: Runtime,
    signature: Signature,
    *,
    mode: Literal["auto", "stored", "require", "off"],
    digest: str,
    cache: Path,
    accept: Acceptance = Acceptance(),
) -> tuple[Runtime, Signature]:
    """Give a loaded model faster engines, where they are proven to answer the same.

    Args:
        runtime: Loaded; its native object is its attribute `model`.
        signature: What `runtime.load` returned.
        mode: `auto`: where possible; `stored`: where it is known already that one can, else the signature's property
            `engine.check` is `base.UNCHECKED`; `require`: or fail; `off`: leave the model as it is.
        digest: sha256 of the model's bytes; empty: unknown, so the verdict is not stored.
        cache: Folder of stored verdicts, made when needed.
        accept: What to ask of an engine.

    Returns:
        A runtime that holds all engines, or the one that came, and the signature with properties that say which
        engine answers for how many rows, what was proven, or why the native engine serves alone.

    Raises:
        LoadFailed: in mode `require`, with the reason of the refusal.
    """
    if mode == "off":
        return runtime, _told(signature, {NAME: f"{signature.platform} (optimize: off)"})
    started = time.monotonic()
    case = Case(runtime, signature, accept)
    name = store.key(
        digest, model=type(runtime).__name__, outputs=case.outputs, settings=msgspec.structs.astuple(accept)
    )
    stored = store.read(cache, name) if digest else None
    verdict, engines, origin = Verdict(refusal="not checked"), dict[str, Engine](), "checked now"
    if stored is not None:
        verdict, origin = stored[0], "checked earlier, same model and versions"
        try:
            engines = case.rebuilt(*stored)
        except Exception as error:  # noqa: BLE001 - a stored engine that does not come back is checked anew
            stored, origin = None, f"checked anew, as the stored engine did not load: {_reason(error)}"
    if stored is None and mode == "stored":
        return runtime, _told(signature, {NAME: signature.platform, f"{NAME}.check": UNCHECKED})
    if stored is None:
        try:
            verdict, engines, files = _bounded(case.decide, accept.check_seconds)
        except Exception as error:  # noqa: BLE001 - whatever a check does, the model must still load
            verdict, engines, files = Verdict(refusal=_reason(error)), {}, {}
            case.hurried = case.hurried or isinstance(error, OutOfTime)
        if digest and not case.hurried:
            try:
                store.write(cache, name, verdict, files)
            except OSError as error:
                origin += f", not stored: {error.strerror}"
    spent = f"{time.monotonic() - started:.2f} s, {origin}"
    if not verdict.refusal:
        faster = _told(signature, {**verdict.properties, f"{NAME}.check": spent})
        served = case.switch(verdict, engines, faster)
        difference = case.difference(served)
        if not difference:
            return served, faster
        for engine in engines.values():
            engine.close()
        verdict = Verdict(refusal=f"the sample that the model carries is answered otherwise: {difference}")
    if mode == "require":
        raise LoadFailed(
            f"optimize: require, but the model gets no faster engine: {verdict.refusal}. "
            "Set optimize to auto to serve it as it is"
        )
    told = {NAME: signature.platform, f"{NAME}.refused": verdict.refusal, f"{NAME}.check": spent}
    return runtime, _told(signature, {**told, **verdict.properties})


def _told(signature: Signature, properties: Mapping[str, str]) -> Signature:
    return msgspec.structs.replace(signature, properties={**signature.properties, **properties})


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, Refused) else f"{type(error).__name__}: {text[:300]}"


def _bounded(work: Callable[[float], Any], seconds: float) -> Any:
    """Run `work(deadline)`, which watches the deadline itself; leave it behind if it hangs in foreign code.

    A thread cannot be ended from outside; one that hangs is a daemon and dies with the process.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work(time.monotonic() + seconds)
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            outcome["error"] = error

    thread = threading.Thread(target=run, name="headrace-optimize", daemon=True)
    thread.start()
    thread.join(seconds + 2.0)
    if thread.is_alive():
        raise OutOfTime(f"the check hung; it was left behind after {seconds:g} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


class Case:
    """One model before the gate."""

    def __init__(self, runtime: Runtime, signature: Signature, accept: Acceptance) -> None:
        self.runtime = runtime
        self.signature = signature
        self.accept = accept
        self.outputs = tuple(spec.name for spec in signature.outputs)
        self.hurried = False
        """Something ran out of time: the verdict holds for now only."""
        self._default = signature.default_outputs or self.outputs
        self._model = getattr(runtime, "model", getattr(runtime, "_model", None))
        self._columns = tuple(spec.name for spec in signature.inputs) if len(signature.inputs) > 1 else ()
        self._table: Table | None = None
        self._width = 0
        self._names: tuple[str, ...] = ()

    def native(self, rows: Array, outputs: Sequence[str]) -> Mapping[str, Array]:
        """The model as its own library answers."""
        answer: Mapping[str, Array] = self.runtime.predict(self._inputs(rows), outputs)
        return answer

    def _inputs(self, rows: Array) -> dict[str, Array]:
        inputs = self.signature.inputs
        if self._table is not None:
            return self._table.decode(rows)
        if len(inputs) == 1:
            return {inputs[0].name: rows}
        return {spec.name: rows[:, at].reshape([-1, *(1 for _ in spec.shape[1:])]) for at, spec in enumerate(inputs)}

    def width(self) -> int:
        """Columns of a row.

        Raises:
            Refused: if the model takes something other than rows of numbers.
        """
        inputs = self.signature.inputs
        text = [at for at, spec in enumerate(inputs) if spec.datatype == "BYTES"]
        if any(spec.labels for spec in inputs):
            raise Refused("the model takes categories by value")
        if self._model is None:
            raise Refused(f"{type(self.runtime).__name__} holds no model that could be read")
        if text and self._table is None:
            if any(len(spec.shape) != 1 for spec in inputs):
                raise Refused("the model takes text and numbers in one tensor")
            if not type(self._model).__module__.startswith("sklearn."):
                raise Refused(f"{type(self._model).__name__} takes text by itself")
            self._table = encoders.read_table(self._model, [spec.name for spec in inputs], text)
        if len(inputs) > 1 or text:
            return len(inputs)
        width = inputs[0].shape[-1] if inputs and len(inputs[0].shape) == 2 else -1
        if width < 1:
            raise Refused("the model does not say how many columns it takes")
        return width

    def _subject(self) -> Subject:
        width = self.width()
        known: list[Array] = []

        def labels(classes: Any) -> Labels | None:
            if "predict" not in self.outputs:
                return None
            if not known:
                known.append(self._plain_labels())
            return labels_like(None if classes is None else np.asarray(classes), known[0])

        own = getattr(self._model, "feature_names_in_", None)
        self._width, self._names = width, tuple(map(str, range(width) if own is None else own))
        return Subject(
            model=self._model,
            width=width,
            names=self._names,
            table=self._table,
            specs={spec.name: spec for spec in self.signature.outputs},
            missing=float(getattr(self.runtime, "missing", float("nan"))),
            labels=labels,
        )

    def _plain_labels(self) -> Array:
        """Two labels, as the native model gives them."""
        try:
            return self.native(np.zeros((2, self._width)), ("predict",))["predict"]
        except InvalidRequest:  # categories that it does not know
            return self.native(self._samples(2), ("predict",))["predict"]

    def _samples(self, count: int) -> Array:
        """Rows that the model takes, though its encoders may refuse most; whole numbers where they do not."""
        rng = np.random.default_rng(2)
        front, _ = split(self._model, self._table, self._names)
        if front and front[0].coded:
            inner = inner_terrain(front, self._width)
            return aim.make(inner, count, rng)
        ordinary = rng.uniform(-9, 9, size=(count, self._width))
        return aim.whole(ordinary, rng).astype(np.float64)

    def rebuilt(self, verdict: Verdict, files: Mapping[str, bytes]) -> dict[str, Engine]:
        """The engines of a stored verdict."""
        if verdict.refusal:
            return {}
        known = {candidate.name: candidate for candidate in candidates(self._subject())}
        return {one.name: known[one.name].engine(files.get(one.name, b""), one.takes) for one in verdict.engines}

    def decide(self, deadline: float) -> tuple[Verdict, dict[str, Engine], dict[str, bytes]]:
        """Check every candidate, and say who answers for how many rows."""
        passed: list[Passed] = []
        refusals: dict[str, str] = {}
        for candidate in candidates(self._subject()):
            if candidate.unless in {one.verdict.name for one in passed}:
                continue
            try:
                passed.append(self._check(candidate, deadline))
            except Exception as error:  # noqa: BLE001 - one candidate's failure leaves the others their chance
                refusals[candidate.name] = _reason(error)
                self.hurried = self.hurried or isinstance(error, OutOfTime)
        told = {f"{NAME}.refused.{name}": reason for name, reason in refusals.items()}
        if not passed:
            return Verdict(refusal="; ".join(f"{name}: {reason}" for name, reason in refusals.items())), {}, {}
        times, found = self._timed(passed)
        seated = {name for _, name in found if name != speed.NATIVE}
        told |= {f"{NAME}.speed": speed.table(times, self.signature.platform)}
        if not seated:
            return Verdict(refusal=f"no engine is {self.accept.speedup:g} times faster", properties=told), {}, {}
        kept = [one for one in passed if one.verdict.name in seated]
        for one in passed:
            if one not in kept:
                one.engine.close()
        told |= {
            NAME: speed.text(found, self.signature.platform),
            **{f"{NAME}.parity.{one.verdict.name}": _parity(one.proof) for one in kept},
        }
        verdict = Verdict(engines=tuple(one.verdict for one in kept), ranges=found, properties=told)
        return verdict, {one.verdict.name: one.engine for one in kept}, {one.verdict.name: one.artefact for one in kept}

    def _check(self, candidate: Candidate, deadline: float) -> Passed:
        prepared = candidate.prepare()
        if prepared.differences:
            raise Refused(f"the exported model is not the model: {'; '.join(prepared.differences)}")
        engine = candidate.engine(prepared.artefact, prepared.takes)
        answered = tuple(name for name in self.outputs if name in engine.outputs)
        if not set(self._default) <= set(answered):
            raise Refused(f"it does not answer {', '.join(sorted(set(self._default) - set(answered)))}")
        count = max(1, int(prepared.rows * self.accept.rows))
        proof = gate.examine(
            self.native,
            engine if self._table is None else ThroughText(self._table, engine),
            prepared.terrain,
            outputs=answered,
            tolerance=prepared.tolerance,
            count=count,
            deadline=deadline,
            patience=self.accept.patience,
        )
        rows = aim.make(prepared.terrain, 3000, np.random.default_rng(1))
        verdict = EngineVerdict(
            name=candidate.name, datatypes=proof.datatypes, outputs=answered, takes=prepared.takes, artefact=""
        )
        return Passed(verdict=verdict, engine=engine, artefact=prepared.artefact, proof=proof, rows=rows)

    def _timed(
        self, passed: Sequence[Passed]
    ) -> tuple[dict[str, dict[int, float]], tuple[tuple[int | None, str], ...]]:
        default = self._default
        rows = passed[-1].rows
        rows = rows[(np.abs(rows) < _ORDINARY).all(axis=1)]  # none that an engine hands back
        if len(rows) < speed.POINTS[-1]:
            rows = np.where(np.abs(passed[-1].rows) < _ORDINARY, passed[-1].rows, 0.0)
        spent = self.accept.timing_seconds
        table = self._table
        cut = rows if table is None else Columns(table, rows)
        native = self.native if table is None else self.runtime.predict
        times = {speed.NATIVE: speed.measure(lambda part: native(part, default), cut, seconds=spent)}
        for one in passed:
            call: Callable[[Any], Any] = functools.partial(one.engine.answer, outputs=default)
            if table is not None:
                call = functools.partial(_through, table, call)
            times[one.verdict.name] = speed.measure(call, cut, most=one.engine.most_rows, seconds=spent)
        return times, speed.ranges(times, speedup=self.accept.speedup)

    def switch(self, verdict: Verdict, engines: Mapping[str, Engine], signature: Signature) -> Engines:
        """The runtime that holds the engines."""
        known = {one.name: one for one in verdict.engines}
        seats = [
            Seat(most=float("inf") if most is None else most, engine=None)
            if name == speed.NATIVE
            else Seat(
                most=float("inf") if most is None else most,
                engine=engines[name],
                datatypes=frozenset(np.dtype(kind) for kind in known[name].datatypes),
                outputs=frozenset(known[name].outputs),
            )
            for most, name in verdict.ranges
        ]
        kind, width = kind_of(self.runtime, seats), self._width

        def held(*, mixed: bool) -> Engines:
            return kind(
                self.runtime,
                signature,
                seats=seats,
                width=width,
                columns=self._columns,
                mixed=mixed,
                table=self._table,
            )

        served = held(mixed=True)
        return served if not self._columns or self._mixes(served) else held(mixed=False)

    def difference(self, served: Engines) -> str:
        """How the sample that the artifact carries is answered otherwise than natively; empty: not, or there is none.

        Asked at each load, of stored engines too: nobody made these rows up.
        """
        try:
            sample = self.runtime.sample()
            if sample is None:
                return ""
            want, have = self.runtime.predict(sample, self._default), served.predict(sample, self._default)
            return gate.compare(want, have, gate.SINGLE).refusal(gate.SINGLE)
        except Exception as error:  # noqa: BLE001 - as in `optimize`: the native model serves
            return _reason(error)

    def _mixes(self, served: Engines) -> bool:
        """Whether whole numbers in every other column, as INT64 beside FP64, are answered as natively."""
        inputs, numbers = self._inputs(self._samples(64)), 0
        for name, column in inputs.items():
            if column.dtype == np.float64 and (numbers := numbers + 1) % 2:
                inputs[name] = column.astype(np.int64)
        try:
            have, want = served.predict(inputs, self._default), self.runtime.predict(inputs, self._default)
        except Exception:  # noqa: BLE001 - a model that takes no such rows gets none side by side
            return False
        return not gate.compare(want, have, gate.EXACT).refusal(gate.EXACT)


def _through(table: Table, answer: Callable[[Array], Any], inputs: Mapping[str, Array]) -> Any:
    rows = table.encode(inputs)
    return None if rows is None else answer(rows)


def _parity(proof: gate.Proof) -> str:
    return "; ".join((proof.figures.text(), f"datatypes {', '.join(proof.datatypes)}", *proof.remarks))
