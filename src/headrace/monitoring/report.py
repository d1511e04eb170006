"""The report of a watched model version: what its detectors saw, with pictures. The thread of `watcher` that draws
calls `render`; it works on values that nobody changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from headrace import __version__
from headrace.detectors.base import Outlier
from headrace.errors import HeadraceError
from headrace.features import Features
from headrace.monitoring import report_page as html
from headrace.monitoring import report_plots as plots
from headrace.monitoring.follow import features_of, reason_of
from headrace.monitoring.judges import values_of
from headrace.monitoring.window import Full
from headrace.payload import Array
from headrace.trust.folder import Folder
from headrace.trust.rows import fed
from headrace.trust.spec import DetectorSpec

PICTURED: Final = 6
"""Features whose distributions are drawn."""
LISTED: Final = 25
"""Rows of a table."""
DRAWN_ROWS: Final = 5000
_SCORED_ROWS: Final = 1000
_VALUES: Final = 8


def render(folder: Folder, status: Mapping[str, Any], shown: Mapping[str, Any]) -> bytes:
    """One self-contained HTML page.

    Args:
        folder: The trust folder.
        status: As of `Watched.status`.
        shown: As of `Stream.shown`.
    """
    model, version = status["model"], status["version"]
    title = f"{model} {version}".strip()
    return html.page(f"Trust report: {title}", _body(folder, status, shown, title))


def _body(folder: Folder, status: Mapping[str, Any], shown: Mapping[str, Any], title: str) -> Iterator[str]:
    detectors = status.get("detectors", [])
    yield f"<header><h1>{html.text(title)}</h1>{html.badge(status['state'])}</header>"
    yield f'<p class="sub">Trust report of {html.moment(time.time())}. {html.text(_sentence(detectors))}</p>'
    yield html.cards(
        [
            ("rows watched", html.number(status.get("rows"))),
            ("since", html.text(html.moment(status.get("since"))[5:16])),
            ("rows with known truth", html.number(status.get("labelled_rows"))),
            ("detectors", html.number(len(detectors))),
            ("rows dropped", html.number(status.get("dropped_rows"))),
        ]
    )
    if status.get("error"):
        yield html.note(status["error"], is_error=True)
    if status.get("unreadable_rows"):
        yield html.note(
            f"{status['unreadable_rows']} rows could not be read as the trust folder says: {status['unreadable_error']}"
        )
    if status.get("snapshot_refusal"):
        yield html.note(status["snapshot_refusal"])
    yield from _overview(detectors)
    yield from _alerts(shown)
    order = ("drift", "outlier", "adversarial", "performance", "bias")
    ranked = sorted(detectors, key=lambda each: order.index(each["kind"]) if each.get("kind") in order else len(order))
    for told in ranked:
        yield _detector(folder, told, shown.get(told["name"], {}))
    yield _card(folder)
    yield (
        f"<footer>headrace {html.text(__version__)}. Windows are numbered from the first that this model version had; "
        "times are UTC. A p-value says how surprising a window is if nothing changed; the effect says how large the "
        "change is.</footer>"
    )


def _sentence(detectors: Sequence[Mapping[str, Any]]) -> str:
    by_state: dict[str, list[str]] = {}
    for each in detectors:
        by_state.setdefault(each["state"], []).append(each["name"])
    words = {
        "drift": "alarmed",
        "cooling": "alarmed lately",
        "warning": "saw a first window out of line",
        "failed": "failed",
        "collecting": "still collecting rows",
        "ok": "in order",
    }
    told = [f"{', '.join(by_state[state])}: {text}" for state, text in words.items() if state in by_state]
    return "; ".join(told) + "." if told else "Nothing watches this model."


def _overview(detectors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = []
    for told in detectors:
        latest = told.get("latest")
        collecting = told.get("collecting", {})
        rows.append(
            [
                html.text(told["name"]),
                html.badge(told["state"]),
                html.text(f"{told.get('method', '')} on {told.get('on', '')}"),
                html.number(told.get("windows")),
                html.number(told.get("drift_windows")),
                f"{html.number(collecting.get('rows'))} / {html.number(collecting.get('needed'))}",
                html.text(html.moment(latest["time"])[:19] if latest else html.DASH),
                html.number(told.get("errors")),
            ]
        )
    if rows:
        names = ("detector", "state", "method", "windows", "with drift", "next window", "last window", "errors")
        yield (
            "<section><header><h2>Overview</h2></header>"
            + html.table(names, rows, numbers=names[3:6] + names[7:])
            + "</section>"
        )


def _alerts(shown: Mapping[str, Any]) -> Iterator[str]:
    found = [record for about in shown.values() for record in about["history"] if record["data"].get("is_drift")]
    found.sort(key=lambda record: -record["time"])
    if not found:
        return
    rows = [
        [
            html.text(html.moment(record["time"])),
            html.text(record["detector"]),
            html.text(reason_of(record)),
            html.number(record["meta"]["window"]["rows"]),
            f"<code>{html.text(record['window'])}</code>",
        ]
        for record in found[:LISTED]
    ]
    names = ("when", "detector", "what", "rows", "window")
    yield (
        f"<section><header><h2>Windows out of line</h2></header><p class=what>The last {len(rows)} of {len(found)} "
        f"that are remembered.</p>{html.table(names, rows, numbers={'rows'}, long={'what'})}</section>"
    )


def _detector(folder: Folder, told: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    name, state = told["name"], told["state"]
    if "kind" not in told:
        return html.section(name, state, "It could not be set up.", [html.note(told["error"], is_error=True)])
    spec = folder.spec(name)
    body: list[str] = []
    if told["error"]:
        body.append(html.note(f"{told['errors']} calls failed; the last: {told['error']}", is_error=True))
    if told["skipped_rows"]:
        body.append(html.note(f"{told['skipped_rows']} rows were not given to it: it is slow, and others waited."))
    history = about.get("history", [])
    if not history:
        collecting = told["collecting"]
        body.append(html.said(f"Collecting: {collecting['rows']} of {collecting['needed']} rows for the first window."))
    if spec.kind == "drift":
        body += _drift(folder, spec, history, about.get("window"))
    elif spec.kind in {"outlier", "adversarial"}:
        body += _rows(folder, spec, told, about)
    elif history:
        body += _measures(spec, history)
    if history:
        body.append(_windows(history))
    window = spec.window
    rate = "not measured" if spec.false_positive_rate is None else f"{spec.false_positive_rate:.2%}"
    what = (
        f"{spec.kind}, {spec.method} on {spec.on}; windows of {window.rows} rows"
        + (f" or {window.seconds:g} s" if window.seconds else "")
        + (f", every {window.step} rows" if window.step else "")
        + f", at least {window.min_rows}; measured false-positive rate {rate}; seed {spec.seed}"
    )
    return html.section(name, state, what, body)


def _drift(
    folder: Folder, spec: DetectorSpec, history: Sequence[Mapping[str, Any]], window: Full | None
) -> Iterator[str]:
    if not history:
        return
    latest = history[-1]
    data = latest["data"]
    if data["is_drift"]:
        yield html.said(f"The last window is drift: {reason_of(latest)}.")
    yield html.heading("windows over time")
    yield plots.timeline(f"{spec.name}: windows over time", history)
    ranked = features_of(latest)
    if len(ranked) > 1:
        yield html.heading("what differs most in the last window")
        sizes = [abs(each["effect"] or 0.0) for each in ranked]
        order = sorted(range(len(ranked)), key=lambda at: -sizes[at])
        yield plots.effects(
            f"{spec.name}: effect by feature",
            [ranked[at]["name"] for at in order],
            [sizes[at] for at in order],
            [ranked[at]["drifted"] for at in order],
            data.get("effect_name", "statistic"),
        )
    if window is not None:
        yield from _distributions(folder, spec, window, ranked)
    if len(ranked) > 1:
        rows = [
            [
                html.text(each["name"]),
                html.number(each["distance"]),
                html.number(each["p_val"], 3),
                html.number(each["effect"]),
                "drift" if each["drifted"] else html.DASH,
            ]
            for each in ranked[:LISTED]
        ]
        names = ("feature", "distance", "p-value", data.get("effect_name", "effect").replace("_", " "), "verdict")
        listed = html.table(names, rows, numbers=names[1:4], marked=[each["drifted"] for each in ranked[:LISTED]])
        yield html.folded(f"Numbers of the last window ({len(rows)} of {len(ranked)} features)", listed)


def _distributions(
    folder: Folder, spec: DetectorSpec, window: Full, ranked: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    features = folder.features(spec.on)
    before, now = _reference(folder, spec), values_of(spec, window.columns)
    if before is None or now is None or not len(features) or not len(before) or not len(now):
        return
    if folder.schema.data in {"image", "series"} and spec.on == "inputs":
        return
    names = {name: at for at, name in enumerate(features.names)}
    chosen = [names[each["name"]] for each in ranked if each["name"] in names][:PICTURED]
    chosen = chosen or _furthest(features, before, now)
    p_values = {each["name"]: each["p_val"] for each in ranked}
    notes = [
        f"p {p_values[features.names[at]]:.2g}" if p_values.get(features.names[at]) is not None else "" for at in chosen
    ]
    yield html.heading("reference and last window")
    yield plots.distributions(
        f"{spec.name}: reference and last window",
        [features.columns[at] for at in chosen],
        [before[:DRAWN_ROWS, at] for at in chosen],
        [now[:DRAWN_ROWS, at] for at in chosen],
        notes,
    )


def _furthest(features: Features, before: Array, now: Array) -> list[int]:
    """Of a test that speaks of the whole: the features whose means moved most, in standard deviations."""
    with np.errstate(invalid="ignore"):
        known = [
            (each[np.isfinite(each)], other[np.isfinite(other)]) for each, other in zip(before.T, now.T, strict=True)
        ]
    moved = [abs(float(b.mean() - a.mean())) / (float(a.std()) or 1.0) if len(a) and len(b) else 0.0 for a, b in known]
    return sorted(range(len(features)), key=lambda at: -moved[at])[:PICTURED]


def _reference(folder: Folder, spec: DetectorSpec) -> Array | None:
    if spec.on not in {"inputs", "outputs", "uncertainty", "predictions"}:
        return None
    # Of the model's answers, those that the detector was fitted to: to rows that it was not trained on, where known.
    is_own = spec.on == "inputs" or folder.card.answers == "own"
    rows, answers = (folder.reference(), folder.outputs()) if is_own else (folder.held_out(), folder.held_outputs())
    predictions = None
    if answers is not None:
        is_class = folder.schema.task == "classification"
        predictions = answers.argmax(axis=1).astype(np.float64) if is_class else answers[:, 0]
    return fed(spec.on, x=rows.x, answers=answers, predictions=predictions)


def _rows(folder: Folder, spec: DetectorSpec, told: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    recent: Array = about.get("scores", np.empty(0))
    if told["rows"]:
        yield html.said(
            f"{told['flagged_rows']:,} of {told['rows']:,} rows were odd ({told['rate']:.2%}); "
            f"a row is odd above {spec.threshold:.6g}."
        )
    if len(recent) and spec.threshold is not None:
        yield html.heading(f"scores of the last {len(recent):,} rows")
        yield plots.scores(f"{spec.name}: scores", recent, _reference_scores(folder, spec), spec.threshold)
    history = about.get("history", [])
    if history:
        yield html.heading("share of odd rows by window")
        yield plots.timeline(f"{spec.name}: share of odd rows by window", history)
    worst = about.get("worst", [])
    if worst:
        yield html.heading("oddest rows of the last day")
        yield _worst(folder, worst)


def _worst(folder: Folder, worst: Sequence[Mapping[str, Any]]) -> str:
    columns = folder.schema.features.columns
    rows = []
    for each in worst[:LISTED]:
        values = each["row"]
        ranked = list(range(len(values)))
        if each["features"] is not None and len(each["features"]) == len(values):
            odd = each["features"]
            ranked = np.argsort(-np.nan_to_num(np.array(odd, np.float64), nan=-np.inf), kind="stable").tolist()
        shown = [
            f"{columns[at].name} {columns[at].text(values[at])}" if at < len(columns) else str(values[at])[:80]
            for at in ranked[:_VALUES]
        ]
        more = f" and {len(values) - _VALUES} more" if len(values) > _VALUES else ""
        rows.append(
            [
                f"<code>{html.text(each['id'])}</code>",
                html.number(each["score"]),
                html.text(html.moment(each["time"])[:19]),
                html.text(_decided(folder, each["prediction"])),
                html.text(", ".join(shown) + more),
            ]
        )
    names = ("request", "score", "when", "answer", "values, the oddest first")
    return html.table(names, rows, numbers={"score"}, long=names[-1:])


def _decided(folder: Folder, prediction: float) -> str:
    classes = folder.schema.classes
    if not np.isfinite(prediction):
        return html.DASH
    if folder.schema.task == "classification":
        return str(classes[int(prediction)]) if 0 <= prediction < len(classes) else "none of its classes"
    return f"{prediction:.6g}"


def _reference_scores(folder: Folder, spec: DetectorSpec) -> Array | None:
    """Of rows that the threshold was chosen on."""
    if spec.kind != "outlier" or spec.on != "inputs":
        return None
    try:
        detector = folder.detector(spec.name)
        held_out = folder.held_out().x[:_SCORED_ROWS]
    except HeadraceError:
        return None
    if not isinstance(detector, Outlier) or not len(held_out):
        return None
    scores = detector.score(held_out).instance
    return scores[np.isfinite(scores)]


def _measures(spec: DetectorSpec, history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    latest = history[-1]["data"]
    if latest.get("reason"):
        yield html.said(str(latest["reason"]))
    for group in latest.get("groups", ()):
        rows = group["rows"]
        told = "" if group["status"] == "measured" else "; too few to judge"
        yield html.said(
            f"{group['rule']} is privileged ({rows['privileged']} rows, {rows['unprivileged']} others), "
            f"{group['favourable']} is favourable{told}."
        )
    times = [record["time"] for record in history]
    for label, found in _series(history):
        drawn = {name: told for name, told in found.items() if any(_is_told(each) for each in told)}
        if drawn:
            yield html.heading(label or "measures by window, with intervals")
            shown = dict(list(drawn.items())[:_VALUES])
            yield plots.measures(f"{spec.name}: {label or 'measures'}", times, shown)
            rows = [
                [
                    html.text(name),
                    *(html.number((told[-1] or {}).get(key)) for key in ("value", "low", "high")),
                ]
                for name, told in drawn.items()
            ]
            names = ("of the last window", "value", "low", "high")
            listed = html.table(names, rows, numbers=names[1:])
            yield html.folded("Numbers of the last window", listed)


def _is_told(each: Mapping[str, Any] | None) -> bool:
    return each is not None and isinstance(each.get("value"), int | float)


def _series(
    history: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, dict[str, list[Mapping[str, Any] | None]]]]:
    """By protected attribute (of performance: one without a name), each measure over the windows."""
    parts: list[dict[str, Mapping[str, Any]]] = []
    for record in history:
        data = record["data"]
        if "groups" in data:
            parts.append({str(each.get("attribute", "")): each.get("metrics", {}) for each in data["groups"]})
        else:
            parts.append({"": data.get("metrics", {})})
    for label in dict.fromkeys(name for part in parts for name in part):
        names = dict.fromkeys(name for part in parts for name in part.get(label, {}))
        yield label, {name: [_measure(part.get(label, {}).get(name)) for part in parts] for name in names}


def _measure(told: Any) -> Mapping[str, Any] | None:
    if told is None or isinstance(told, Mapping):
        return told
    return {"value": told}


def _windows(history: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"<code>{html.text(record['window'])}</code>",
            html.text(html.moment(record["meta"]["window"]["start"])[:19]),
            html.text(html.moment(record["meta"]["window"]["end"])[:19]),
            html.number(record["meta"]["window"]["rows"]),
            html.number(record["members"]["count"]),
            f"<code>{html.text(record['members']['first'])}</code>",
            f"<code>{html.text(record['members']['last'])}</code>",
            html.number(bool(record["data"].get("is_drift"))),
        ]
        for record in reversed(history[-LISTED:])
    ]
    names = ("window", "from", "to", "rows", "requests", "first", "last", "drift")
    marked = [bool(record["data"].get("is_drift")) for record in reversed(history[-LISTED:])]
    return html.folded(f"The last {len(rows)} windows", html.table(names, rows, numbers=names[3:5], marked=marked))


def _card(folder: Folder) -> str:
    card = folder.card
    facts = [
        ("data", card.data),
        ("rows, and held out", f"{card.rows:,}, {card.held_out_rows:,}"),
        ("fitted", f"{card.fitted_at} by headrace {card.headrace}"),
        ("digest of the data", card.data_digest),
        ("digest of the model", card.model_digest or html.DASH),
        ("digest of the folder", folder.digest),
        ("task", f"{folder.schema.task} of {folder.schema.data} data, {len(folder.schema.features)} features"),
        ("classes", ", ".join(str(each) for each in folder.schema.classes[:20]) or html.DASH),
    ]
    rows = [[html.text(name), f"<code>{html.text(value)}</code>"] for name, value in facts]
    measured = [
        [html.text(spec.name), html.number(spec.threshold, 6), html.share(spec.false_positive_rate)]
        for spec in folder.detectors
    ]
    body = [html.table(("what", "value"), rows, long={"value"}), *(html.note(each) for each in card.warnings)]
    if measured:
        body += [
            html.heading("thresholds, and false-positive rates as measured on rows kept apart"),
            html.table(
                ("detector", "threshold", "false positives"), measured, numbers=("threshold", "false positives")
            ),
        ]
    return html.section("Where the reference comes from", "", "The card of the trust folder.", body)
