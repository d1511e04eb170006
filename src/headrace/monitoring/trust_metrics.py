"""What detectors say, as metrics. `watch.Watch` attaches each watched version; `Metrics.trust` is the one of a server.

The number of series is bounded: of a detector with many features, those with the largest effect are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from headrace.monitoring.families import Family

FEATURES_SHOWN: Final = 50
"""Features of one detector, each with a series of its own; of more, those that differ most now."""
FACTS_SHOWN: Final = 200
"""Values of performance or bias of one detector."""
STATES: Final = ("collecting", "ok", "warning", "drift", "cooling", "failed")

_MODEL: Final = ("model", "version")
_DETECTOR: Final = (*_MODEL, "detector")
_FEATURE: Final = (*_DETECTOR, "feature")

NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        "headrace_drift_is_drift": ("gauge", "1: the last window drifted; by feature, that it did", _FEATURE),
        "headrace_drift_distance": ("gauge", "Statistic of the last window; larger is further off", _FEATURE),
        "headrace_drift_p_value": ("gauge", "Of the last window, before any correction", _FEATURE),
        "headrace_drift_threshold": ("gauge", "What a p-value must be below, or else a distance above", _DETECTOR),
        "headrace_drift_windows_total": ("counter", "Windows that were tested, by verdict", (*_DETECTOR, "drift")),
        "headrace_drift_alarms_total": ("counter", "Alarms of detectors that are fed row by row", _DETECTOR),
        "headrace_outlier_rows_total": ("counter", "Rows that were scored, by verdict", (*_DETECTOR, "outlier")),
        "headrace_outlier_score": ("gauge", "Of the last row", _DETECTOR),
        "headrace_outlier_score_mean": ("gauge", "Of the last rows", _DETECTOR),
        "headrace_outlier_threshold": ("gauge", "A score above it is odd", _DETECTOR),
        "headrace_outlier_rate": ("gauge", "Share of odd rows in the last window", _DETECTOR),
        "headrace_performance_value": (
            "gauge",
            "Of the last window; interval: value, low or high",
            (*_DETECTOR, "metric", "interval"),
        ),
        "headrace_bias_value": (
            "gauge",
            "Of the last window; interval: value, low or high",
            (*_DETECTOR, "attribute", "metric", "interval"),
        ),
        "headrace_detector_alert": ("gauge", "1 for the state that the detector is in", (*_DETECTOR, "state")),
        "headrace_detector_errors_total": ("counter", "Calls of a detector that raised", _DETECTOR),
        "headrace_detector_seconds_total": ("counter", "Time spent in a detector", _DETECTOR),
        "headrace_detector_skipped_rows_total": (
            "counter",
            "Rows that a slow detector was not given, because others waited",
            _DETECTOR,
        ),
        "headrace_detector_rows_total": ("counter", "Rows that detectors were given", _MODEL),
        "headrace_detector_dropped_rows_total": (
            "counter",
            "Rows that no detector was given: too many waited, or the watching process ended",
            _MODEL,
        ),
        "headrace_detector_unreadable_rows_total": (
            "counter",
            "Rows that cannot be read as the trust folder says",
            _MODEL,
        ),
        "headrace_detector_lag_rows": ("gauge", "Rows that wait for detectors", _MODEL),
        "headrace_labelled_rows_total": ("counter", "Rows whose truth was told later", _MODEL),
        "headrace_watcher_restarts_total": ("counter", "Times that the process that watches models died", ()),
        "headrace_payload_log_total": ("counter", "Exchanges by what the payload log did with them", ("outcome",)),
        "headrace_trust_messages_total": (
            "counter",
            "Events, webhooks and commands, by what became of them",
            ("channel", "outcome"),
        ),
    }
)
"""Name to kind, meaning and labels. `feature` is `instance` where a detector speaks of the whole."""

_SELDON: Final = ("model_name", "model_version", "detector")
SELDON_NAMES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = MappingProxyType(
    {
        "seldon_metric_drift_counter": ("gauge", "Windows that drifted", _SELDON),
        "seldon_metric_drift_is_drift": ("gauge", "Whether the last window drifted", (*_SELDON, "index")),
        "seldon_metric_drift_distance": ("gauge", "Statistic of the last window", (*_SELDON, "index")),
        "seldon_metric_drift_p_val": ("gauge", "Of the last window", (*_SELDON, "index")),
        "seldon_metric_drift_threshold": ("gauge", "What a p-value must be below", (*_SELDON, "index")),
        "seldon_metric_outlier_is_outlier": ("gauge", "Rows that were outliers", _SELDON),
        "seldon_metric_outlier_instance_score": ("gauge", "Of the last row", _SELDON),
        "seldon_model_drift": ("gauge", "Whether the last window drifted", _SELDON),
    }
)
"""What Seldon's detector servers call the same. Their counters are gauges here: the text form wants a counter's name
to end in `_total`, and theirs do not."""

Key = tuple[str, str]


class TrustMetrics:
    """Reads what is known of watched models, when somebody asks.

    Args:
        seldon_names: Also show it under Seldon's names.
    """

    def __init__(self, *, seldon_names: bool = False) -> None:
        self.counts: Mapping[str, Any] = {}
        """Of the payload log and of what is sent, as the watcher told last."""
        self._seldon_names = seldon_names
        self._sources: dict[Key, Callable[[], Mapping[str, Any]]] = {}

    def attach(self, model: str, version: str, source: Callable[[], Mapping[str, Any]]) -> None:
        """Show a version.

        Args:
            model: Its name.
            version: Empty for a model without versions.
            source: Gives its status (`Watch.status`) as it was told last.
        """
        self._sources[model, version] = source

    def detach(self, model: str, version: str) -> None:
        """Show it no more."""
        self._sources.pop((model, version), None)

    def fill(self, families: Mapping[str, Family]) -> None:
        """Put the samples into the families of NAMES."""
        restarts = 0
        for (model, version), source in self._sources.items():
            status = source()
            restarts = max(restarts, status.get("watcher", {}).get("restarts", 0))
            _fill(families, {"model": model, "version": version}, status)
        if self._sources:
            families["headrace_watcher_restarts_total"].value({}, restarts)
        for outcome, count in self.counts.get("payloads", {}).items():
            families["headrace_payload_log_total"].value({"outcome": outcome}, count)
        for channel, counts in self.counts.get("actions", {}).items():
            for outcome, count in counts.items():
                if outcome != "waiting":
                    labels = {"channel": channel, "outcome": outcome}
                    families["headrace_trust_messages_total"].value(labels, count)

    def seldon(self) -> Iterator[Family]:
        """The same under Seldon's names, where that is asked for."""
        if not self._seldon_names:
            return
        families = {name: Family(name, kind, text) for name, (kind, text, _) in SELDON_NAMES.items()}
        for (model, version), source in self._sources.items():
            for told in source().get("detectors", ()):
                if told.get("state") != "failed":
                    labels = {"model_name": model, "model_version": version, "detector": told["name"]}
                    _fill_seldon(families, labels, told)
        yield from families.values()


def _fill(families: Mapping[str, Family], labels: dict[str, str], status: Mapping[str, Any]) -> None:
    for name, key in (
        ("headrace_detector_rows_total", "rows"),
        ("headrace_detector_dropped_rows_total", "dropped_rows"),
        ("headrace_detector_unreadable_rows_total", "unreadable_rows"),
        ("headrace_detector_lag_rows", "lag_rows"),
        ("headrace_labelled_rows_total", "labelled_rows"),
    ):
        families[name].value(labels, status.get(key, 0))
    for told in status.get("detectors", ()):
        own = {**labels, "detector": told["name"]}
        families["headrace_detector_errors_total"].value(own, told.get("errors", 0))
        for state in STATES:
            families["headrace_detector_alert"].value({**own, "state": state}, float(told["state"] == state))
        if told["state"] == "failed":
            continue
        families["headrace_detector_seconds_total"].value(own, told["seconds"])
        families["headrace_detector_skipped_rows_total"].value(own, told["skipped_rows"])
        for drifted, count in (
            ("true", told["drift_windows"]),
            ("false", told["windows"] - told["drift_windows"]),
        ):
            families["headrace_drift_windows_total"].value({**own, "drift": drifted}, count)
        if "alarms" in told:
            families["headrace_drift_alarms_total"].value(own, told["alarms"])
        if "flagged_rows" in told:
            _fill_rows(families, own, told)
        latest = told.get("latest")
        if latest is None:
            continue
        data = latest["data"]
        if told["kind"] == "drift":
            _fill_drift(families, own, data)
        for name, key in (("headrace_performance_value", "metrics"), ("headrace_bias_value", "groups")):
            for more, value in list(_facts(data.get(key)))[:FACTS_SHOWN]:
                families[name].value({**own, **more}, value)


def _fill_rows(families: Mapping[str, Family], labels: dict[str, str], told: Mapping[str, Any]) -> None:
    flagged = told["flagged_rows"]
    for odd, count in (("true", flagged), ("false", told["rows"] - flagged)):
        families["headrace_outlier_rows_total"].value({**labels, "outlier": odd}, count)
    latest = told.get("latest")
    for name, value in (
        ("headrace_outlier_score", told["score_last"]),
        ("headrace_outlier_score_mean", told["score_mean"]),
        ("headrace_outlier_threshold", told["threshold"]),
        ("headrace_outlier_rate", latest["data"].get("rate") if latest else None),
    ):
        if value is not None:
            families[name].value(labels, value)


def _fill_drift(families: Mapping[str, Family], labels: dict[str, str], data: Mapping[str, Any]) -> None:
    whole = {**labels, "feature": "instance"}
    families["headrace_drift_is_drift"].value(whole, float(data["is_drift"]))
    if data["threshold"] is not None:
        families["headrace_drift_threshold"].value(labels, data["threshold"])
    names, p_values = data["features"], data.get("p_val")
    for at in shown(data):
        own = {**labels, "feature": str(names[at])}
        if names[at] != "instance" and "drifted" in data:
            families["headrace_drift_is_drift"].value(own, float(data["drifted"][at]))
        for name, values in (("headrace_drift_distance", data["distance"]), ("headrace_drift_p_value", p_values)):
            if values is not None and values[at] is not None:
                families[name].value(own, values[at])


def shown(data: Mapping[str, Any], most: int = FEATURES_SHOWN) -> list[int]:
    """Positions of the features of a verdict on drift that differ most, the first first."""
    names = data["features"]
    effect = data.get("effect") or data["distance"]
    sizes = [0.0 if each is None else abs(each) for each in effect]
    order = sorted(range(len(names)), key=lambda at: -sizes[at])
    return order[:most]


def _facts(found: Any) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and numbers: of `{metric: {value, low, high}}`, or of lists of such with an `attribute`."""
    if isinstance(found, Sequence) and not isinstance(found, str):
        for each in found:
            own = {"attribute": str(each.get("attribute", ""))}
            for labels, value in _facts(each.get("metrics")):
                yield {**own, **labels}, value
    elif isinstance(found, Mapping):
        for metric, told in found.items():
            values = told if isinstance(told, Mapping) else {"value": told}
            for interval in ("value", "low", "high"):
                found_value = values.get(interval)
                if isinstance(found_value, int | float):
                    yield {"metric": str(metric), "interval": interval}, float(found_value)


def _fill_seldon(families: Mapping[str, Family], labels: dict[str, str], told: Mapping[str, Any]) -> None:
    latest = told.get("latest")
    if "flagged_rows" in told:
        families["seldon_metric_outlier_is_outlier"].value(labels, told["flagged_rows"])
        if told["score_last"] is not None:
            families["seldon_metric_outlier_instance_score"].value(labels, told["score_last"])
    if told["kind"] != "drift" or latest is None:
        return
    data = latest["data"]
    families["seldon_metric_drift_counter"].value(labels, told["drift_windows"])
    families["seldon_model_drift"].value(labels, float(data["is_drift"]))
    drifted = data.get("drifted") or [data["is_drift"]] * len(data["features"])
    for at in shown(data):
        own = {**labels, "index": str(at)}
        families["seldon_metric_drift_is_drift"].value(own, float(drifted[at]))
        for name, values in (("distance", data["distance"]), ("p_val", data.get("p_val"))):
            if values is not None and values[at] is not None:
                families[f"seldon_metric_drift_{name}"].value(own, values[at])
        if data["threshold"] is not None:
            families["seldon_metric_drift_threshold"].value(own, data["threshold"])
