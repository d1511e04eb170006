"""One watched model version: its rows, the windows they are cut into, the detectors that see them, the truth that
arrives later. `watcher` feeds it, in one thread.

    take    parts of exchanges -> rows -> row detectors -> windows -> tests -> outcomes
    label   the truth of one request -> rows whose truth is known -> windows -> performance, bias, errors

Nothing here has a clock, a socket or a file; asking the model is a function that is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

from headrace.detectors.base import State
from headrace.errors import HeadraceError, InvalidRequest
from headrace.features import UNSEEN
from headrace.monitoring import facts, tap, verdicts
from headrace.monitoring.alerts import Transition
from headrace.monitoring.judges import FactsJudge, Judge, OnlineJudge, RowJudge, TestJudge, values_of
from headrace.monitoring.verdicts import Record, Subject
from headrace.monitoring.window import Columns, Full, Windows, count, cut, joined, kept, unkept
from headrace.payload import Array, RequestedOutput, Tensor
from headrace.trust.folder import Folder
from headrace.trust.rows import Rows
from headrace.trust.spec import DetectorSpec, Window

Ask = Callable[[tuple[Tensor, ...], tuple[RequestedOutput, ...]], tuple[Tensor, ...]]
"""Ask the model for outputs, below the tap; raises what it raises, and when it takes too long."""

CHUNK: Final = 4096
"""Rows that detectors of rows see at once."""
ASKED: Final = 1024
"""Rows that the model is asked for at once."""
ROWS_TOLD: Final = 32
"""Requests with odd rows that are told one by one, of one message."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, and what it means."""

    record: Record
    spec: DetectorSpec
    transition: Transition | None = None
    """What it changed of the detector's alerts."""
    window: Full | None = None
    """Its rows; None: it speaks of one request."""


class _Lane:
    """Windows of one size, and who sees them."""

    def __init__(self, window: Window) -> None:
        self.windows = Windows(window)
        self.judges: list[Judge] = []
        self.learners: list[FactsJudge] = []
        """Who only learn from it, and tell elsewhere."""
        self.last: Full | None = None


class Stream:
    """Watches one version of a model.

    Args:
        model: Its name.
        version: Empty for a model without versions.
        folder: Its trust folder.
        ask: The model.
        most_rows: Rows that wait for the truth about them; of more the oldest are forgotten.
    """

    def __init__(self, model: str, version: str, folder: Folder, *, ask: Ask, most_rows: int) -> None:
        self.folder = folder
        self.subject = Subject(model=model, version=version, digest=folder.digest, data=folder.schema.data)
        self.rows = 0
        """Rows that detectors were given."""
        self.unreadable = 0
        """Rows that could not be read as the schema says."""
        self.unreadable_error = ""
        self.labelled = 0
        """Rows whose truth came."""
        self.untold = 0
        """Requests with odd rows that no event was made of, because one message had too many."""
        self.since = 0.0
        """When the first row came, seconds since the epoch; 0: none did."""
        self.flagged_requests: frozenset[str] = frozenset()
        """Of the rows that came last, the ids of requests with odd ones."""
        self.ask_errors = 0
        """Times that the model could not be asked."""
        self._ask, self._most_rows = ask, most_rows
        self._reader = Rows(folder.schema)
        self._width = len(folder.features("outputs"))
        self._judges: list[Judge] = []
        self._rowers: list[RowJudge] = []
        self._steppers: list[OnlineJudge] = []
        self._lanes: dict[tuple[bool, Window], _Lane] = {}
        self._failed: dict[str, str] = {}
        self._recent: deque[Columns] = deque()  # rows that came last
        self._recent_rows = 0
        self._begun = 0  # pieces that left `_recent`
        self._waiting: dict[str, tuple[int, int, int]] = {}  # by request without truth: its piece, from row, to row
        for spec in folder.detectors:
            self._add(spec)

    def __repr__(self) -> str:
        return f"<Stream {self.subject.model} {self.subject.version} rows={self.rows} judges={len(self._judges)}>"

    def _add(self, spec: DetectorSpec) -> None:
        try:
            judge = self._judge(spec)
            lane = self._lanes.get((judge.is_labelled, spec.window)) or _Lane(spec.window)
        except Exception as error:  # noqa: BLE001 - one that cannot be made leaves the others alone
            self._failed[spec.name] = f"{type(error).__name__}: {error}"
            return
        self._lanes[judge.is_labelled, spec.window] = lane
        lane.judges.append(judge)
        self._judges.append(judge)
        if isinstance(judge, FactsJudge) and spec.kind == "bias":
            key = (True, spec.window)
            self._lanes[key] = self._lanes.get(key) or _Lane(spec.window)
            self._lanes[key].learners.append(judge)
        if isinstance(judge, RowJudge):
            self._rowers.append(judge)
        if isinstance(judge, OnlineJudge):
            self._steppers.append(judge)

    def _judge(self, spec: DetectorSpec) -> Judge:
        if spec.kind in {"outlier", "adversarial"}:
            return RowJudge(self.subject, spec, self.folder, self._predict)
        if spec.kind == "drift":
            kind = OnlineJudge if spec.online else TestJudge
            return kind(self.subject, spec, self.folder)
        return FactsJudge(self.subject, spec, facts.measure_of(self.folder, spec))

    # -- what happens --

    def take(self, parts: Sequence[Mapping[str, Any]], *, pressed: bool = False) -> list[Outcome]:
        """Take exchanges.

        Args:
            parts: As of `tap.merged`.
            pressed: Whether others wait, so that slow detectors must rest.
        """
        outcomes: list[Outcome] = []
        flagged: set[str] = set()
        for columns in self._read(parts):
            self.rows += count(columns)
            self.since = self.since or float(columns["time"][0])
            seen = self._scored(columns, outcomes, pressed)
            self._step(seen, outcomes, pressed, labelled=False)
            self._wait_for_truth(seen)
            self._fill_windows(seen, outcomes, pressed, labelled=False)
            if seen["flagged"].any():
                flagged.update(seen["id"][seen["flagged"]].tolist())
        self.flagged_requests = frozenset(flagged)
        return outcomes

    def label(self, request_id: str, labels: Sequence[Any]) -> tuple[bool, list[Outcome]]:
        """Take the truth about the rows of one request, once.

        Args:
            request_id: Its id, as the caller gave it or the answer had it.
            labels: One per row, as the model's classes are written, or numbers; None: of this row it is not known.

        Returns:
            Whether the request is known, and its truth was not.

        Raises:
            InvalidRequest: another number of labels than rows, or one that is no class.
        """
        request_id = request_id[: tap.MOST_ID]
        found = self._waiting.get(request_id)
        if found is None:
            return False, []
        piece, start, end = found
        waiting = cut(self._recent[piece - self._begun], start, end)
        rows = end - start
        if len(labels) != rows:
            raise InvalidRequest(f"request '{request_id}' has {rows} rows, and {len(labels)} labels came")
        known = np.array([each is not None for each in labels], np.bool_)
        truth: Array = np.full(rows, np.nan)
        if known.any():
            truth[known] = self._reader.positions([each for each in labels if each is not None])
        if self.folder.schema.task == "classification" and (truth == UNSEEN).any():
            classes = ", ".join(str(each) for each in self.folder.schema.classes)
            raise InvalidRequest(f"a label of request '{request_id}' is none of the model's classes: {classes}")
        del self._waiting[request_id]
        chosen = {name: array[known] for name, array in waiting.items()} | {"label": truth[known]}
        if not known.any():
            return True, []
        self.labelled += int(known.sum())
        outcomes: list[Outcome] = []
        columns = self._with_errors(self._filled(chosen, self._wants_labelled()))
        self._step(columns, outcomes, False, labelled=True)
        self._fill_windows(columns, outcomes, False, labelled=True)
        return True, outcomes

    def tick(self, now: float) -> list[Outcome]:
        """Test windows whose time has come."""
        outcomes: list[Outcome] = []
        for lane in self._lanes.values():
            for full in lane.windows.tick(now):
                self._test(lane, full, outcomes, pressed=False)
        return outcomes

    def due(self) -> float | None:
        """When `tick` has something to do, seconds since the epoch; None: not before more rows come."""
        return min((due for lane in self._lanes.values() if (due := lane.windows.due()) is not None), default=None)

    # -- rows --

    def _read(self, parts: Sequence[Mapping[str, Any]]) -> Iterator[Columns]:
        """Rows in the order of their requests, in pieces that detectors can see at once."""
        read = []
        for part in parts:
            try:
                read.append(self._columns(part))
            except HeadraceError as error:
                self.unreadable += sum(part["rows"])
                self.unreadable_error = str(error)
        if not read:
            return
        whole = joined(read)
        if len(read) > 1:
            order = np.argsort(whole["at"], kind="stable")
            whole = {name: array[order] for name, array in whole.items()}
        whole = {name: array for name, array in whole.items() if name != "at"}
        for start in range(0, count(whole), CHUNK):
            yield cut(whole, start, start + CHUNK)

    def _columns(self, part: Mapping[str, Any]) -> Columns:
        reader = self._reader
        rows, ids = part["rows"], [each[: tap.MOST_ID] for each in part["ids"]]
        x = reader.matrix(tap.tensors_of(part["inputs"]))
        outputs = tap.tensors_of(part["outputs"])
        n = len(x)
        if sum(rows) != n:
            if len(rows) != 1:
                raise InvalidRequest(f"requests of {sum(rows)} rows are {n} rows by the schema")
            rows = [n]  # of one request, the schema says what a row is
        answers = _of_rows(reader.answers(outputs), n, self._width)
        try:
            predictions = reader.predictions(outputs)
        except InvalidRequest:  # the caller asked for other outputs; the model is asked when a window needs them
            predictions = np.full(n, np.nan)
        callers = part.get("callers", [""] * len(rows))
        return {
            "x": x,
            "answers": answers,
            "prediction": predictions if len(predictions) == n else np.full(n, np.nan),
            "time": np.repeat(np.array(part["times"], np.float64), rows),
            "id": np.repeat(_texts(ids), rows),
            "caller": np.repeat(_texts(callers), rows),
            "at": np.repeat(np.array(part.get("at", range(len(rows)))), rows),
        }

    def _scored(self, columns: Columns, outcomes: list[Outcome], pressed: bool) -> Columns:
        """With a column of scores per detector of rows, and the rows that were odd to any."""
        n = count(columns)
        seen = dict(columns)
        flagged: Array = np.zeros(n, np.bool_)
        outlier: Array | None = None
        told = ROWS_TOLD
        for judge in self._rowers:
            values = values_of(judge.spec, self._filled(columns, frozenset({judge.spec.on})))
            scores = None
            if values is not None and len(values) == n:
                scores = judge.attempt(n, partial(judge.score, values, columns), pressed=pressed)
            if scores is None:
                scores = np.full(n, np.nan)
            seen[f"score:{judge.spec.name}"] = scores
            with np.errstate(invalid="ignore"):
                odd = scores > judge.threshold
            flagged |= odd
            if judge.spec.kind == "outlier":
                seen[f"outlier:{judge.spec.name}"] = odd
                outlier = odd if outlier is None else outlier
            rows = self._rows_told(judge, columns, scores, odd, most=told)
            told -= len(rows)
            outcomes += rows
        seen["flagged"] = flagged
        if outlier is not None:
            seen["outlier"] = outlier
        return seen

    def _rows_told(self, judge: RowJudge, columns: Columns, scores: Array, odd: Array, *, most: int) -> list[Outcome]:
        """A verdict for each request with odd rows, of so many at most."""
        if not odd.any():
            return []
        ids = columns["id"]
        requests = list(dict.fromkeys(ids[odd].tolist()))
        self.untold += max(0, len(requests) - most)
        outcomes = []
        for identity in requests[:most]:
            own = ids == identity
            time = float(columns["time"][own][-1])
            record = verdicts.of_rows(self.subject, judge.spec, scores[own], identity=identity, time=time)
            outcomes.append(Outcome(record=record, spec=judge.spec))
        return outcomes

    def _step(self, columns: Columns, outcomes: list[Outcome], pressed: bool, *, labelled: bool) -> None:
        for judge in self._steppers:
            if judge.is_labelled != labelled:
                continue
            known = self._filled(columns, frozenset({judge.spec.on}))
            values = values_of(judge.spec, known)
            if values is None:
                continue
            record = judge.attempt(len(values), partial(judge.step, values, known), pressed=pressed)
            if record is not None:
                times = known["time"]
                full = Full(columns=known, number=judge.alarms, start=float(times[0]), end=float(times[-1]))
                outcomes.append(Outcome(record=record, spec=judge.spec, transition=judge.told(record), window=full))

    def _wait_for_truth(self, columns: Columns) -> None:
        """Keep rows by their request, until somebody says what is true of them. Of two with one id, the last."""
        ids = columns["id"]
        piece = self._begun + len(self._recent)
        for identity, start, end in _runs(ids):
            self._waiting[identity] = (piece, start, end)
        self._recent.append(columns)
        self._recent_rows += len(ids)
        while self._recent_rows > self._most_rows and len(self._recent) > 1:
            oldest = self._recent.popleft()
            self._recent_rows -= count(oldest)
            for identity, _, _ in _runs(oldest["id"]):
                if self._waiting.get(identity, (-1,))[0] == self._begun:
                    del self._waiting[identity]
            self._begun += 1

    def _fill_windows(self, columns: Columns, outcomes: list[Outcome], pressed: bool, *, labelled: bool) -> None:
        now = float(columns["time"].max())
        for (is_labelled, _), lane in self._lanes.items():
            if is_labelled == labelled:
                for full in lane.windows.take(columns, now):
                    self._test(lane, full, outcomes, pressed=pressed)

    def _test(self, lane: _Lane, full: Full, outcomes: list[Outcome], *, pressed: bool) -> None:
        wanted = frozenset(judge.spec.on for judge in lane.judges if judge.needs_answers)
        if lane.learners or any(judge.spec.kind in {"performance", "bias"} for judge in lane.judges):
            wanted |= {"outputs", "predictions"}
        full = msgspec.structs.replace(full, columns=self._filled(full.columns, wanted))
        lane.last = full
        for learner in lane.learners:
            learner.attempt(full.rows, partial(learner.learn, full), pressed=pressed)
        for judge in lane.judges:
            record = judge.attempt(full.rows, partial(judge.window, full), pressed=pressed)
            if record is not None:
                outcomes.append(Outcome(record=record, spec=judge.spec, transition=judge.told(record), window=full))

    # -- what the model says --

    def _wants_labelled(self) -> frozenset[str]:
        is_wanted = any(is_labelled for is_labelled, _ in self._lanes)
        return frozenset({"outputs", "predictions"}) if is_wanted else frozenset()

    def _filled(self, columns: Columns, wanted: frozenset[str]) -> Columns:
        """With what the model says of rows whose callers did not ask for it, where that is wanted. Rows of which it
        cannot be known are left out of it.
        """
        missing: Array = np.zeros(count(columns), np.bool_)
        if wanted & {"outputs", "uncertainty"}:
            missing |= np.isnan(columns["answers"]).all(axis=1)
        if wanted & {"predictions"}:
            missing |= np.isnan(columns["prediction"])
        if not missing.any():
            return columns
        try:
            answers, predictions = self._asked(columns["x"][missing])
        except HeadraceError:
            self.ask_errors += 1
            known = ~missing
            return {name: array[known] for name, array in columns.items()} if known.any() else _without(columns)
        whole, decided = columns["answers"].copy(), columns["prediction"].copy()
        whole[missing], decided[missing] = answers, predictions
        return {**columns, "answers": whole, "prediction": decided}

    def _asked(self, x: Array) -> tuple[Array, Array]:
        """What the model says of rows: `[n, k]`, and `[n]`."""
        parts, decided = [], []
        for start in range(0, len(x), ASKED):
            piece = x[start : start + ASKED]
            outputs = self._ask(self._reader.tensors(piece), self._reader.requested())
            parts.append(_of_rows(self._reader.answers(outputs), len(piece), self._width))
            decided.append(self._reader.predictions(outputs))
        return np.concatenate(parts), np.concatenate(decided)

    def _predict(self, x: Array) -> Array:
        """As of `detectors.base.Predict`."""
        return self._asked(x)[0]

    def _with_errors(self, columns: Columns) -> Columns:
        if "label" not in columns:
            return columns
        truth, said = columns["label"], columns["prediction"]
        if self.folder.schema.task == "classification":
            return {**columns, "error": (truth != said).astype(np.float64)}
        return {**columns, "error": np.abs(truth - said)}

    # -- what is told of it --

    @property
    def busy(self) -> tuple[str, float] | None:
        """The detector that works now, and since when on `time.monotonic`. May be asked by any thread."""
        for judge in self._judges:
            since = judge.busy_since
            if since is not None:
                return judge.spec.name, since
        return None

    def status(self) -> dict[str, Any]:
        """For people, metrics and programs: JSON values."""
        lanes = {id(judge): lane for lane in self._lanes.values() for judge in lane.judges}
        detectors = []
        for judge in self._judges:
            rows, needed = lanes[id(judge)].windows.collecting()
            told = judge.status()
            told["state"] = "collecting" if not judge.windows else judge.alerts.current
            windows = lanes[id(judge)].windows
            told["collecting"] = {"status": "collecting", "rows": rows, "needed": needed}
            if windows.seconds and windows.min_rows < needed:  # with less traffic, so many are enough after so long
                told["collecting"] |= {"least": windows.min_rows, "seconds": windows.seconds}
            detectors.append(told)
        detectors += [
            {"name": name, "state": "failed", "error": error, "errors": 1} for name, error in self._failed.items()
        ]
        return {
            "model": self.subject.model,
            "version": self.subject.version,
            "artifact_digest": self.subject.digest,
            "state": worst_of(each["state"] for each in detectors),
            "since": self.since,
            "rows": self.rows,
            "labelled_rows": self.labelled,
            "unreadable_rows": self.unreadable,
            "unreadable_error": self.unreadable_error,
            "awaiting_labels": len(self._waiting),
            "ask_errors": self.ask_errors,
            "detectors": detectors,
        }

    def shown(self) -> dict[str, Any]:
        """What the report draws: values that nobody changes any more, by detector."""
        found: dict[str, Any] = {}
        for lane in self._lanes.values():
            for judge in lane.judges:
                about: dict[str, Any] = {"history": list(judge.history), "window": lane.last}
                if isinstance(judge, RowJudge):
                    about |= {"scores": np.array(judge.recent), "worst": list(judge.worst)}
                found[judge.spec.name] = about
        return found

    # -- what survives --

    def state(self) -> State:
        """What `restore` goes on from."""
        arrays: dict[str, Array] = {}
        parameters: dict[str, Any] = {
            "rows": self.rows,
            "labelled": self.labelled,
            "since": self.since,
            "unreadable": self.unreadable,
            "judges": {},
            "lanes": {},
        }
        for judge in self._judges:
            _put(parameters["judges"], arrays, "judge", judge.spec.name, judge.state())
        for (labelled, window), lane in self._lanes.items():
            _put(parameters["lanes"], arrays, "lane", _lane_name(labelled, window), lane.windows.state())
        if self._recent:
            whole = joined(list(self._recent))
            alive: Array = np.zeros(count(whole), np.bool_)
            starts = np.cumsum([0, *map(count, self._recent)])
            for piece, start, end in self._waiting.values():
                first = starts[piece - self._begun]
                alive[first + start : first + end] = True
            arrays |= {f"waiting/{name}": each for name, each in kept({n: a[alive] for n, a in whole.items()}).items()}
        return State(parameters=parameters, arrays=arrays)

    def restore(self, state: State) -> None:
        """Go on from a state of the same folder. Detectors and windows that it does not know start anew.

        Raises:
            HeadraceError, LookupError, TypeError, ValueError: it is damaged; make a new stream then.
        """
        told = state.parameters
        self.rows, self.labelled = int(told["rows"]), int(told["labelled"])
        self.since, self.unreadable = float(told["since"]), int(told["unreadable"])
        for judge in self._judges:
            found = _get(told["judges"], state.arrays, "judge", judge.spec.name)
            if found is not None:
                judge.restore(found)
        for (labelled, window), lane in self._lanes.items():
            found = _get(told["lanes"], state.arrays, "lane", _lane_name(labelled, window))
            if found is not None:
                lane.windows = Windows.restore(window, found)
        waiting = unkept(
            {name.removeprefix("waiting/"): each for name, each in state.arrays.items() if name.startswith("waiting/")}
        )
        if count(waiting):
            self._wait_for_truth(waiting)


_WORSE: Final = ("drift", "failed", "warning", "cooling", "ok", "collecting")


def worst_of(states: Iterator[str] | Sequence[str]) -> str:
    """The state that a person should know of first."""
    found = set(states)
    return next((each for each in _WORSE if each in found), "collecting")


def _runs(ids: Array) -> Iterator[tuple[str, int, int]]:
    """Of ids of rows: each that stands in one place, from where to where."""
    if not len(ids):
        return
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    ends = np.append(starts[1:], len(ids))
    yield from zip(ids[starts].tolist(), starts.tolist(), ends.tolist(), strict=True)


def _of_rows(answers: Array | None, n: int, width: int) -> Array:
    if answers is None or answers.shape != (n, width):
        return np.full((n, width), np.nan)
    return answers


def _without(columns: Columns) -> Columns:
    return {name: array for name, array in columns.items() if name not in {"answers", "prediction"}}


def _texts(values: Sequence[str]) -> Array:
    array: Array = np.empty(len(values), np.object_)
    array[:] = list(values)
    return array


def _lane_name(labelled: bool, window: Window) -> str:
    return f"{'labelled' if labelled else 'rows'}-{window.rows}-{window.seconds:g}-{window.min_rows}-{window.step}"


def _put(told: dict[str, Any], arrays: dict[str, Array], kind: str, name: str, state: State) -> None:
    told[name] = dict(state.parameters)
    arrays.update({f"{kind}/{name}/{each}": array for each, array in state.arrays.items()})


def _get(told: Mapping[str, Any], arrays: Mapping[str, Array], kind: str, name: str) -> State | None:
    if name not in told:
        return None
    prefix = f"{kind}/{name}/"
    own = {each[len(prefix) :]: array for each, array in arrays.items() if each.startswith(prefix)}
    return State(parameters=told[name], arrays=own)
