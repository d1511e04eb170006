"""The process in which explanations are made: `serving.explain` starts it, and asks it for one at a time.

It reads the trust folder, keeps what it made of it, and asks the model through its parent. So an explainer can hold no
request up, and a crash, a leak or a hang of one costs nobody else anything. Messages (`headrace.child`):

    parent says                                    child says
    explain  run, key, folder, explainer, inputs,
             rows, options, seconds, max_rows, ...
                                                   of         run, rows: so many explanations will come
                                                   ask        run, inputs, outputs: what does the model say
    answer   run, outputs, seconds
    refused  run, late, text                       explained  run, one explanation
    stop     run: give the best there is now       done       run
    forget   key                                   failed     run, kind (a class of `errors`), text
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import os
import queue
import threading
import time
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import orjson

import headrace
from headrace.child import Channel, Message
from headrace.errors import HeadraceError, InvalidRequest, MissingExtra, RuntimeFailed
from headrace.explainers.base import Ask, BudgetSpent, Explainer, Explanation, Reference
from headrace.explainers.registry import find
from headrace.payload import Array, Tensor
from headrace.protocols.explain import MOST_ROWS
from headrace.serving.build import RuntimeSpec, build
from headrace.trust.folder import Folder, open_folder
from headrace.trust.rows import Rows
from headrace.trust.spec import ExplainerSpec

log = logging.getLogger(__name__)

_FOLDERS_KEPT: Final = 8
_EXPLAINERS_KEPT: Final = 16  # of one folder
_CHUNK_SECONDS: Final = 0.003  # what one question may take of the model, and of who else waits for it
_CHUNK_ROWS: Final = (64, 4096)  # least and most of one question
_NICE: Final = 5
_OWN: Final = frozenset({"self", "cls", "ask", "x", "reference", "seed"})


class ModelRefused(HeadraceError):
    """The model gave no answer; the parent knows the error."""


class _Subject:
    """One model of which explanations are made."""

    def __init__(self, folder: Folder, artifact: RuntimeSpec | None) -> None:
        self.folder, self.rows = folder, Rows(folder.schema)
        self._artifact = artifact
        self._reference: Reference | None = None
        self._model: Any = None
        self._made: OrderedDict[bytes, Explainer] = OrderedDict()

    def explainer(self, spec: ExplainerSpec, given: Mapping[str, Any]) -> tuple[Explainer, dict[str, Any], bytes]:
        """The explainer, the options for its `explain`, and what all of it was set to, as JSON.

        Raises:
            InvalidRequest: an option that it does not have, or of the wrong kind; the reference lacks what it needs.
        """
        kind = find(spec.method)
        of_make, of_explain = _options(kind.make), _options(kind.explain)
        for name in given:
            if name not in of_make and name not in of_explain:
                known = sorted({*of_make, *of_explain})
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known) or 'none'}"
                raise InvalidRequest(f"explainer '{spec.name}' ({spec.method}) has no option '{name}'{hint}")
        making = {**spec.parameters, **{name: given[name] for name in given if name in of_make}}
        asking = {**spec.options, **{name: given[name] for name in given if name in of_explain}}
        making = {name: _converted(name, value, of_make) for name, value in making.items()}
        asking = {name: _converted(name, value, of_explain) for name, value in asking.items()}
        key = orjson.dumps([spec.method, spec.seed, making], default=_plain, option=_JSON)
        made = self._made.pop(key, None)
        if made is None:
            try:
                made = kind.make(self._referenced(kind), seed=spec.seed, **making)
            except TypeError as error:
                raise InvalidRequest(f"explainer '{spec.name}' ({spec.method}): {error}") from error
        self._made[key] = made
        if len(self._made) > _EXPLAINERS_KEPT:
            self._made.popitem(last=False)
        params = orjson.dumps({"seed": spec.seed, **making, **asking}, default=_plain, option=_JSON)
        return made, asking, params

    def _referenced(self, kind: type[Explainer]) -> Reference:
        if self._reference is None:
            self._reference = self.folder.reference()
        if not kind.NEEDS_MODEL:
            return self._reference
        if self._model is None:
            self._model = _load(self._artifact, kind.METHOD)
        return msgspec.structs.replace(self._reference, artifact=self._model)


def _load(artifact: RuntimeSpec | None, method: str) -> Any:
    """The model itself, by the runtime that serves it, and under the load policy that holds for it there."""
    other = "; ask for a method that only asks the model, such as permutation-shap or anchor-tabular"
    if artifact is None:
        raise InvalidRequest(
            f"{method} looks into the model itself, which is not in a file that could be read again{other}"
        )
    if artifact.environment:
        raise InvalidRequest(
            f"{method} looks into the model itself, which has an environment of its own, {artifact.environment}{other}"
        )
    runtime, _ = build(msgspec.structs.replace(artifact, optimize="off"))
    return getattr(runtime, "model", runtime)


class _Run:
    """One explanation under way, as the reading thread sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.stopped = threading.Event()
        self.answers: queue.SimpleQueue[Message] = queue.SimpleQueue()


class Maker:
    """Makes one explanation after the other. `run` ends with the parent's last word."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._work: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._current: _Run | None = None
        self._lock = threading.Lock()
        self._subjects: OrderedDict[int, _Subject] = OrderedDict()
        self._chunk = _CHUNK_ROWS[0]

    def run(self) -> None:
        """Work until the parent ends."""
        threading.Thread(target=self._read, name="messages", daemon=True).start()
        while (message := self._work.get()) is not None:
            if message["kind"] == "forget":
                self._subjects.pop(message["key"], None)
                continue
            number = message["run"]
            with self._lock:
                self._current = run = _Run(number)
            try:
                self._explain(message, run)
            except HeadraceError as error:
                self._channel.send({"kind": "failed", "run": number, "error": type(error).__name__, "text": str(error)})
            except ModuleNotFoundError as error:
                text = (
                    f"this explanation needs {error.name}, which is not installed; run: pip install 'headrace[trust]'"
                )
                self._channel.send({"kind": "failed", "run": number, "error": MissingExtra.__name__, "text": text})
            except Exception as error:  # of a method's code: it costs this explanation alone
                log.exception("an explanation failed")
                text = f"explainer '{message['explainer']['method']}' failed: {type(error).__name__}: {error}"
                self._channel.send({"kind": "failed", "run": number, "error": RuntimeFailed.__name__, "text": text})
            else:
                self._channel.send({"kind": "done", "run": number})

    def _read(self) -> None:
        for message in self._channel:
            kind = message["kind"]
            if kind in {"explain", "forget"}:
                self._work.put(message)
                continue
            with self._lock:
                run = self._current
            if run is None or run.number != message["run"]:
                continue
            if kind == "stop":
                run.stopped.set()
            else:
                run.answers.put(message)
        with self._lock:
            if self._current is not None:
                self._current.stopped.set()
                self._current.answers.put({"kind": "refused", "late": True, "text": "the server stops"})
        self._work.put(None)

    # -- one run --

    def _explain(self, message: Message, run: _Run) -> None:
        latest = time.monotonic() + message["whole_seconds"]
        subject = self._subject(message)
        spec = msgspec.convert(dict(message["explainer"]), ExplainerSpec)
        explainer, options, params = subject.explainer(spec, message["options"])
        x = subject.rows.matrix([_tensor(each) for each in message["inputs"]])
        if explainer.IS_GLOBAL:
            chosen: list[tuple[int, Array]] = [(-1, x)]
        else:
            chosen = [(at, x[at] if x.dtype != object else np.asarray(x[at], object)) for at in _rows(message, len(x))]
        if message["format"] in {"svg", "png"} and len(chosen) != 1:
            raise InvalidRequest(
                f"a picture is of one row, the request has {len(chosen)}; name one by the parameter 'rows'"
            )
        self._channel.send({"kind": "of", "run": run.number, "rows": len(chosen)})
        deadline = min(latest, time.monotonic() + message["seconds"])
        for done, (at, row) in enumerate(chosen):
            now = time.monotonic()
            until = now + max(0.0, deadline - now) / (len(chosen) - done)  # what one leaves over is for the others
            ask = Ask(
                self._model(subject, run),
                max_rows=message["max_rows"],
                deadline=until,
                clock=lambda: math.inf if run.stopped.is_set() else time.monotonic(),
            )
            try:
                explanation = explainer.explain(ask, row, **options)
            except BudgetSpent as error:
                explanation = Explanation(
                    method=spec.method, data={}, text=f"There is no explanation yet: {error}.", complete=False
                )
            self._channel.send(
                {
                    "kind": "explained",
                    "run": run.number,
                    "row": at,
                    "meta": _meta(explainer, params),
                    "data": orjson.dumps(dict(explanation.data), default=_plain, option=_JSON),
                    "text": explanation.text,
                    "complete": explanation.complete,
                    "warnings": list(explanation.warnings),
                    "model_rows": ask.rows,
                    "seconds": time.monotonic() - now,
                    "image": _image(explanation, subject.folder, message["format"]),
                }
            )
            if run.stopped.is_set():
                return

    def _subject(self, message: Message) -> _Subject:
        key = message["key"]
        subject = self._subjects.pop(key, None)
        if subject is None:
            artifact = message["artifact"]
            subject = _Subject(
                open_folder(Path(message["folder"])),
                msgspec.json.decode(artifact, type=RuntimeSpec) if artifact else None,
            )
        self._subjects[key] = subject
        if len(self._subjects) > _FOLDERS_KEPT:
            self._subjects.popitem(last=False)
        return subject

    def _model(self, subject: _Subject, run: _Run) -> Callable[[Array], Array]:
        """The model as explainers call it: rows go out in parts of a few milliseconds, so that others' requests find
        their turn between them.
        """
        rows = subject.rows
        wanted = [{"name": each.name, "parameters": dict(each.parameters)} for each in rows.requested()]

        def predict(x: Array) -> Array:
            parts: list[Array] = []
            at = 0
            while at < len(x) or not parts:
                part = x[at : at + self._chunk]
                at += len(part)
                if run.stopped.is_set():
                    raise BudgetSpent("it was stopped")
                self._channel.send(
                    {
                        "kind": "ask",
                        "run": run.number,
                        "inputs": _plain_tensors(rows.tensors(part)),
                        "outputs": wanted,
                        "rows": len(part),
                    }
                )
                message = run.answers.get()
                if message["kind"] == "refused":
                    if message["late"]:
                        raise BudgetSpent("the time is spent")
                    raise ModelRefused(message["text"])
                answers = rows.answers([_tensor(each) for each in message["outputs"]])
                if answers is None:
                    raise RuntimeFailed(
                        "the model's answer has neither probabilities nor numbers that could be explained; "
                        "see `output` in the trust folder's schema.json"
                    )
                if len(answers) != len(part):
                    raise RuntimeFailed(f"the model answered {len(answers)} rows to {len(part)}")
                parts.append(answers)
                self._learn(message["seconds"], len(part))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return predict

    def _learn(self, seconds: float, rows: int) -> None:
        """Ask for more at once while that is quick, for less where it is not."""
        least, most = _CHUNK_ROWS
        if seconds < _CHUNK_SECONDS / 2 and rows == self._chunk:
            self._chunk = min(most, 2 * self._chunk)
        elif seconds > _CHUNK_SECONDS * 2:
            self._chunk = max(least, self._chunk // 2)


def _rows(message: Message, count: int) -> Sequence[int]:
    rows = message["rows"]
    if rows is None:
        if count > MOST_ROWS:
            raise InvalidRequest(
                f"one request may have {MOST_ROWS} rows explained, this one has {count}; name some by 'rows'"
            )
        return range(count)
    for each in rows:
        if each >= count:
            raise InvalidRequest(f"parameter 'rows' names row {each}; the request has {count}, from 0")
    return list(rows)


def _image(explanation: Explanation, folder: Folder, form: str) -> bytes:
    if form not in {"svg", "png"} or not explanation.data:
        return b""
    from headrace.explainers.plots import draw

    return draw(explanation, folder.schema.features, format="svg" if form == "svg" else "png")


def _meta(explainer: Explainer, params: bytes) -> bytes:
    return orjson.dumps(
        {
            "name": explainer.METHOD,
            "type": ["whitebox" if explainer.NEEDS_MODEL else "blackbox"],
            "explanations": ["global" if explainer.IS_GLOBAL else "local"],
            "params": orjson.Fragment(params),
            "version": headrace.__version__,
        }
    )


def _options(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The keyword-only parameters of a method's function, with their types."""
    names = [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY and each.name not in _OWN
    ]
    hints = typing.get_type_hints(function) if names else {}
    return {name: hints.get(name, Any) for name in names}


def _converted(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    """An option in the type that the method declares for it."""
    try:
        return msgspec.convert(value, known.get(name, Any))
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"option '{name}': {error}") from error
    except TypeError:  # a type that JSON has no word for: the method itself says what is wrong
        return value


_JSON: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS  # NaN and infinities become null


def _plain(value: Any) -> Any:
    """What orjson cannot write by itself."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).tolist() if value.dtype == object else value.astype(np.float64).tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, set | frozenset):
        return sorted(value)
    msg = f"{type(value).__name__} has no JSON form"
    raise TypeError(msg)


def _plain_tensors(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [{"name": each.name, "datatype": each.datatype, "data": each.data} for each in tensors]


def _tensor(message: Mapping[str, Any]) -> Tensor:
    return Tensor(message["name"], message["datatype"], message["data"], message.get("parameters") or {})


def main() -> None:
    """The program. It stands back behind the server's own work, which somebody waits for in microseconds."""
    os.nice(_NICE)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    Maker(Channel.of_arguments()).run()


if __name__ == "__main__":
    main()
