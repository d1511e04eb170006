"""What follows a verdict: events, alerts, rows to train on; and what follows an exchange: the payload log. `watcher`
owns one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from headrace.brokers.settings import KafkaSettings
from headrace.errors import HeadraceError
from headrace.monitoring import retrain, snapshots, tap
from headrace.monitoring.actions import Actions
from headrace.monitoring.exchange import Exchange, columns_of
from headrace.monitoring.payloads import PayloadLog
from headrace.monitoring.settings import PayloadSettings, TrustSettings
from headrace.monitoring.stream import Outcome, Stream
from headrace.payload import Array, Tensor

CLOSING_SECONDS: Final = 1.0
_TOP: Final = 10

log = logging.getLogger(__name__)


class Followers:
    """Told of everything that happens.

    Args:
        trust: Of alerts and events.
        payloads: Of the payload log.
        server: How the source of events is called.
        kafka: How brokers are reached, where events go to a topic.

    One that cannot be set up (an address that is none, a library that is missing) is left out and told: nobody's
    verdicts are lost for it.
    """

    def __init__(
        self,
        trust: TrustSettings,
        payloads: PayloadSettings,
        *,
        server: str,
        kafka: KafkaSettings = KafkaSettings(),
    ) -> None:
        self._trust = trust
        self._alerts = self._exchanges = 0
        self._retrain_errors = 0
        self.problems: list[str] = []
        """What could not be set up, and why."""
        self._actions: Actions | None = None
        self._log: PayloadLog | None = None
        try:
            actions = Actions(trust, kafka=kafka)
            actions.open()
            self._actions = actions
        except (HeadraceError, OSError) as error:
            self._problem("alerts and events", error)
        if payloads.mode != "off":
            try:
                payload_log = PayloadLog(payloads, server or "headrace", kafka=kafka)
                payload_log.open()
                self._log = payload_log
            except (HeadraceError, OSError) as error:
                self._problem("the payload log", error)

    def _problem(self, what: str, error: Exception) -> None:
        self.problems.append(f"{what}: {error}")
        log.error("%s cannot be used: %s", what, error)

    def follow(self, outcome: Outcome, stream: Stream) -> None:
        """Send a verdict, and an alert where it is one."""
        if self._actions is not None:
            self._actions.verdict(outcome.record)
        transition = outcome.transition
        if transition is None or not transition.is_alert:
            return
        self._alerts += 1
        record = outcome.record
        alert: dict[str, Any] = {
            "key": transition.key,
            "model": record["model"],
            "version": record["version"],
            "detector": record["detector"],
            "window": record["window"],
            "windows": list(transition.windows),
            "members": record["members"],
            "time": record["time"],
            "reason": reason_of(record),
            "features": features_of(record),
            "verdict": {"meta": record["meta"], "data": record["data"]},
        }
        try:
            path = self._write_rows(outcome, stream, alert)
            if path is not None:
                alert["retrain"] = str(path)
        except (HeadraceError, OSError, ImportError, ValueError) as error:  # the alert is told without rows, then
            self._retrain_errors += 1
            log.warning("rows of an alert of model '%s' cannot be written: %s", record["model"], error)
        if self._actions is not None:
            self._actions.alert(alert)

    def _write_rows(self, outcome: Outcome, stream: Stream, alert: Mapping[str, Any]) -> Path | None:
        if outcome.window is None:
            return None
        columns = outcome.window.columns
        schema = stream.folder.schema
        truth = columns.get("label")
        labels: list[Any] | None = None if truth is None else _labels(truth, schema.classes)
        prediction = columns.get("prediction")
        where = snapshots.path_of(Path(self._trust.state), stream.subject.model, stream.subject.version)
        return retrain.write(
            where.with_name(f"{where.stem}-retrain"),
            schema,
            columns["x"],
            record=alert,
            predictions=prediction,
            labels=labels,
            request_ids=columns["id"].tolist(),
            quarantined=columns.get("flagged"),
            callers=columns["caller"].tolist(),
        )

    def log(self, model: str, version: str, parts: Sequence[Mapping[str, Any]], stream: Stream | None) -> None:
        """Hand exchanges to the payload log."""
        if self._log is None:
            return
        self._exchanges += sum(len(part["rows"]) for part in parts)
        known = columns_of(stream.folder.schema) if stream is not None else {}
        flagged = stream.flagged_requests if stream is not None else frozenset()
        for part in parts:
            self._log.take(_exchanges(model, version, part, known, flagged))

    def label(self, model: str, version: str, request_id: str, labels: Sequence[Any]) -> bool:
        """Hand the truth to the payload log; whether there is one."""
        if self._log is None:
            return False
        self._log.label(request_id, labels, model=model, version=version)
        self._log.flush_labels()  # who is told that a label was taken tells nobody else
        return True

    def flush(self) -> None:
        """Nothing waits longer than the state does: what the log has is written when the state is."""
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """Finish, within a moment."""
        if self._log is not None:
            self._log.close(CLOSING_SECONDS)
        if self._actions is not None:
            self._actions.close(CLOSING_SECONDS)

    def counts(self) -> dict[str, Any]:
        """For metrics and status."""
        return {
            "actions": self._actions.counts() if self._actions is not None else {},
            "payloads": self._log.counts() if self._log is not None else {},
            "exchanges": self._exchanges - (self._log.waiting if self._log is not None else 0),
            "alerts": self._alerts,
            "retrain_errors": self._retrain_errors,
            "problems": self.problems,
        }


def reason_of(record: Mapping[str, Any]) -> str:
    """Why there is an alert, as one sentence."""
    data, detector = record["data"], record["detector"]
    if record["kind"] in {"outlier", "adversarial"}:
        return (
            f"{data['count']} of {data['rows']} rows are odd to '{detector}' ({data['rate']:.1%}, where "
            f"{data['baseline_rate']:.1%} is usual)"
        )
    if record["kind"] == "drift":
        names = [str(each["name"]) for each in features_of(record)[:3] if each["drifted"]]
        told = f": {', '.join(names)}" if names and names != ["instance"] else ""
        return f"what '{detector}' watches differs from the reference{told}"
    return str(data.get("reason") or f"'{detector}' is worse than it may be")


def features_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The features of a verdict on drift, the largest difference first; of others, none."""
    data = record["data"]
    names = data.get("features")
    if record["kind"] != "drift" or names is None:
        return []
    p_values = data.get("p_val") or [None] * len(names)
    drifted = data.get("drifted") or [data["is_drift"]] * len(names)
    effects = data.get("effect") or data["distance"]
    found = [
        {"name": name, "distance": distance, "p_val": p_value, "effect": effect, "drifted": bool(is_drifted)}
        for name, distance, p_value, effect, is_drifted in zip(
            names, data["distance"], p_values, effects, drifted, strict=True
        )
    ]
    return sorted(found, key=lambda each: (not each["drifted"], -abs(each["effect"] or 0.0)))


def _labels(truth: Array, classes: Sequence[Any]) -> list[Any]:
    if not classes:
        return [None if np.isnan(each) else each for each in truth.tolist()]
    return [classes[int(each)] if each >= 0 else None for each in np.nan_to_num(truth, nan=-1.0).tolist()]


def _exchanges(
    model: str,
    version: str,
    part: Mapping[str, Any],
    columns: Mapping[str, tuple[str, ...]],
    flagged: frozenset[str],
) -> list[Exchange]:
    """One exchange per request, their tensors views of the part's arrays."""
    rows: list[int] = part["rows"]
    inputs, outputs = tap.tensors_of(part["inputs"]), tap.tensors_of(part["outputs"])
    callers = part.get("callers", [""] * len(rows))
    found, start = [], 0
    for at, n in enumerate(rows):
        found.append(
            Exchange(
                id=part["ids"][at],
                model=model,
                version=version,
                time=part["times"][at],
                seconds=part["seconds"][at],
                inputs=_cut(inputs, start, n, len(rows)),
                outputs=_cut(outputs, start, n, len(rows)),
                parameters=part["parameters"][at],
                headers=part["headers"][at],
                caller=callers[at],
                protocol=part["protocols"][at],
                quarantined=part["ids"][at] in flagged,
                columns=columns,
            )
        )
        start += n
    return found


def _cut(tensors: Sequence[Tensor], start: int, rows: int, requests: int) -> tuple[Tensor, ...]:
    if requests == 1:
        return tuple(tensors)
    return tuple(Tensor(each.name, each.datatype, each.data[start : start + rows], each.parameters) for each in tensors)
