"""A comparison as one HTML page: no script, nothing fetched, plots drawn as SVG. `headrace compare --html` writes it.

Pure: a report in, text out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from headrace.client.compare import Example, Latency, Report
from headrace.client.differences import EDGES, OutputReport

_WIDTH: Final = 560
_HEIGHT: Final = 220
_LEFT: Final = 44
_BOTTOM: Final = 32
_TOP: Final = 10
_CLASSES_SHOWN: Final = 12
_BINS: Final = 48

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #667085; --line: #d5dae1; --back: #fff; --panel: #f6f7f9;
  --a: #2f6fde; --b: #d9730d; --bad: #b42318; --good: #157f3c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a2b3; --line: #344054; --back: #12161c;
  --panel: #1b212a; --a: #6ea0ff; --b: #f5a65b; --bad: #ff8a80; --good: #6fce8f; } }
body { margin: 2rem auto; max-width: 1180px; padding: 0 1rem; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.soft { color: var(--soft); } .a { color: var(--a); } .b { color: var(--b); }
.good { color: var(--good); } .bad { color: var(--bad); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 560px)); gap: 1rem; }
figure { margin: 0; background: var(--panel); border-radius: 8px; padding: .8rem; }
figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; } td.n, th.n { text-align: right;
  font-variant-numeric: tabular-nums; }
code { font: 12px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.big { font-size: 2.2rem; font-weight: 650; }
"""


def render(report: Report) -> str:
    """The page."""
    title = f"{report.a} and {report.b}"
    parts = [
        f"<h1>Comparison of <span class=a>{_t(report.a)}</span> and <span class=b>{_t(report.b)}</span></h1>",
        _summary(report),
        _latencies(report),
        *(_output(each) for each in report.outputs),
        _failures(report),
        _examples(report.examples),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_t(title)}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, parts)) + "\n"
        "</body></html>\n"
    )


# -- sections --


def _summary(report: Report) -> str:
    low, high = report.agreement_interval
    mood = "good" if report.compared and report.agreed == report.compared else "bad"
    rows = [
        ("requests asked", f"{report.requests:,}"),
        ("rows of both answers", f"{report.rows:,}, of which {report.rows_differing:,} differ"),
        ("only A failed", f"{report.failed_a:,}"),
        ("only B failed", f"{report.failed_b:,}"),
        ("both failed, not counted", f"{report.failed_both:,}"),
        ("lines that are no request", f"{report.refused:,}"),
        ("tolerance of numbers", f"{report.tolerance.atol:g} + {report.tolerance.rtol:g} of the greater"),
    ]
    share = f"{100 * report.agreement:.4g} %" if report.compared else "nothing compared"
    return (
        f'<p><span class="big {mood}">{share}</span> of {report.compared:,} requests are answered alike '
        f"<span class=soft>(95 % interval {100 * low:.4g} to {100 * high:.4g} %)</span></p>"
        + _table(["", ""], [[_t(name), _t(value)] for name, value in rows], numbers=())
    )


def _latencies(report: Report) -> str:
    heads = ["", "mean ms", "p50", "p90", "p95", "p99", "max"]

    def row(label: str, kind: str, latency: Latency) -> list[str]:
        values = (latency.mean, latency.p50, latency.p90, latency.p95, latency.p99, latency.max)
        return [f"<span class={kind}>{_t(label)}</span>", *(f"{value:.3g}" for value in values)]

    sides = ((report.a, "a", report.latency_a), (report.b, "b", report.latency_b))
    rows = [row(label, kind, latency) for label, kind, latency in sides if latency is not None]
    if not rows:
        return ""
    table = _table(heads, rows, numbers=range(1, 7))
    said = ""
    if report.ratio is not None:
        middle, low, high = report.ratio
        said = (
            f"<p>B takes {middle:.3g} times as long as A: median of pairs, 95 % interval {low:.3g} to {high:.3g}.</p>"
        )
    a, b = np.asarray(report.milliseconds_a), np.asarray(report.milliseconds_b)
    return (
        f"<h2>Latency</h2>{table}{said}<div class=plots>"
        f"{_figure('Share of requests answered within a time (ms)', _cumulative(a, b))}"
        f"{_figure('Requests by time (ms)', _histograms(a, b))}</div>"
    )


def _output(output: OutputReport) -> str:
    kinds = " and ".join(output.datatypes)
    text = f"{output.differing:,} of {output.elements:,} elements differ"
    if output.unlike:
        text += f"; in {output.unlike:,} requests the shapes differ, or only one has it"
    parts = [f"<h2>Output <code>{_t(output.name)}</code> <span class=soft>{_t(kinds)}</span></h2><p>{text}.</p>"]
    plots = []
    numeric = output.numeric
    classes = output.confusion is not None and bool(output.confusion)
    if numeric is not None and not classes:
        quantiles = ", ".join(f"{name} {value:.3g}" for name, value in numeric.quantiles.items())
        parts.append(
            f"<p>Differences without sign: {quantiles}, largest {numeric.largest:.3g}"
            + (f" (line {numeric.largest_line})" if numeric.largest_line >= 0 else "")
            + f", largest relative {numeric.largest_relative:.3g}.</p>"
        )
        if any(output.histogram):
            plots.append(_figure("Elements by difference", _differences(output.histogram)))
    if classes:
        parts.append(_confusion(output.confusion or ()))
    return "".join(parts) + (f"<div class=plots>{''.join(plots)}</div>" if plots else "")


def _confusion(pairs: Sequence[tuple[str, str, int]]) -> str:
    totals: dict[str, int] = {}
    for a, b, count in pairs:
        for name in {a, b}:
            totals[name] = totals.get(name, 0) + count
    names = sorted(totals, key=lambda name: -totals[name])[:_CLASSES_SHOWN]
    names.sort(key=_natural)
    counts = {(a, b): count for a, b, count in pairs}
    rows = []
    for a in names:
        cells = []
        for b in names:
            count = counts.get((a, b), 0)
            kind = "soft" if not count else "good" if a == b else "bad"
            cells.append(f"<span class={kind}>{count:,}</span>")
        rows.append([f"<span class=a>{_t(a)}</span>", *cells])
    heads = ["A (rows), B (columns)", *names]
    left = len(totals) - len(names)
    more = f"<p class=soft>{left:,} rarer values are not shown.</p>" if left else ""
    return _table(heads, rows, numbers=range(1, len(heads))) + more


def _failures(report: Report) -> str:
    rows = [
        [
            f"<span class={each.side.lower()}>{each.side}</span>",
            f"{each.count:,}",
            str(each.line),
            f"<code>{_t(each.message)}</code>",
        ]
        for each in report.failures
    ]
    rows += [["line", "", "", f"<code>{_t(text)}</code>"] for text in report.refusals]
    return (
        "<h2>Failures</h2>" + _table(["side", "times", "first line", "message"], rows, numbers=(1, 2)) if rows else ""
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    rows = []
    for each in examples:
        found = [
            f"<span class={side.lower()}>{side} failed:</span> <code>{_t(text)}</code>"
            for side, text in (("A", each.error_a), ("B", each.error_b))
            if text
        ]
        for output in each.outputs:
            values = "".join(
                f"<br><code>[{at}] <span class=a>{_t(_short(a))}</span> &rarr; "
                f"<span class=b>{_t(_short(b))}</span></code>"
                for at, a, b in output.elements
            )
            found.append(f"<b>{_t(output.name)}</b>: {_t(output.what)}{values}")
        rows.append([str(each.line), _t(each.id), "<br>".join(found), f"<code>{_t(each.request)}</code>"])
    return "<h2>Examples, the worst first</h2>" + _table(["line", "id", "what differs", "inputs"], rows, numbers=())


# -- plots --


def _cumulative(a: Any, b: Any) -> str:
    low, high = _span(a, b)
    frame = _frame(low, high, [0, 0.25, 0.5, 0.75, 1], lambda share: f"{100 * share:g} %")
    lines = []
    for kind, values in (("a", np.sort(a)), ("b", np.sort(b))):
        if not values.size:
            continue  # recorded
        keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), 300)).astype(int))
        points = [f"{_x(values[at], low, high):.1f},{_y((at + 1) / len(values)):.1f}" for at in keep]
        lines.append(f'<polyline fill="none" stroke="var(--{kind})" stroke-width="2" points="{" ".join(points)}"/>')
    return _svg(frame + "".join(lines))


def _histograms(a: Any, b: Any) -> str:
    low, high = _span(a, b)
    edges = np.geomspace(low, high, _BINS + 1)
    edges[0], edges[-1] = 0, np.inf
    both = [np.histogram(values, edges)[0] for values in (a, b)]
    top = max(1, int(max(counts.max() for counts in both)))
    frame = _frame(low, high, [0, 0.5, 1], lambda share: f"{share * top:.4g}")
    bars = []
    wide = (_WIDTH - _LEFT - 8) / _BINS
    for kind, counts in zip("ab", both, strict=True):
        bars += [
            f'<rect x="{_LEFT + at * wide:.1f}" y="{_y(count / top):.1f}" width="{max(wide - 1, 1):.1f}" '
            f'height="{_y(0) - _y(count / top):.1f}" fill="var(--{kind})" fill-opacity="0.5"/>'
            for at, count in enumerate(counts)
            if count
        ]
    return _svg(frame + "".join(bars))


def _differences(histogram: Sequence[int]) -> str:
    counts = np.asarray(histogram)
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1]) + 1
    low = float(EDGES[first])
    high = float(EDGES[min(last, len(EDGES) - 1)]) * (1 if last < len(EDGES) else 10)
    top = int(counts.max())
    frame = _frame(low, high, [0, 0.5, 1], lambda share: f"{share * top:.4g}")
    wide = (_WIDTH - _LEFT - 8) / (last - first)
    bars = [
        f'<rect x="{_LEFT + (at - first) * wide:.1f}" y="{_y(counts[at] / top):.1f}" width="{max(wide - 1, 1):.1f}" '
        f'height="{_y(0) - _y(counts[at] / top):.1f}" fill="var(--b)"/>'
        for at in used
    ]
    return _svg(frame + "".join(bars))


def _frame(low: float, high: float, shares: Sequence[float], label: Any) -> str:
    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{_y(share):.1f}" y2="{_y(share):.1f}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 6}" y="{_y(share) + 4:.1f}" text-anchor="end">{label(share)}</text>'
        for share in shares
    ]
    for value in _ticks(low, high):
        at = _x(value, low, high)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_y(0):.1f}" y2="{_y(0) + 4:.1f}" stroke="var(--soft)"/>'
            f'<text x="{at:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{value:.3g}</text>'
        )
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    return ticks[:: max(1, math.ceil(len(ticks) / 9))] or [low, high]


def _span(a: Any, b: Any) -> tuple[float, float]:
    values = np.concatenate([a, b])
    low, high = max(float(values.min()), 1e-6), float(values.max())
    return low / 1.05, max(high, low * 1.1) * 1.05


def _x(value: float, low: float, high: float) -> float:
    share = math.log(max(value, low) / low) / math.log(high / low)
    return _LEFT + share * (_WIDTH - _LEFT - 8)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _svg(content: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{content}</svg>'


def _figure(caption: str, plot: str) -> str:
    return f"<figure><figcaption>{_t(caption)}</figcaption>{plot}</figure>"


# -- text --


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> str:
    """A table of cells that are HTML already, under heads that are text."""
    kinds = [" class=n" if at in numbers else "" for at in range(len(heads))]
    head = "".join(f"<th{kind}>{_t(text)}</th>" for kind, text in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    first = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return f"<div class=scroll><table>{first}<tbody>{body}</tbody></table></div>"


def _natural(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _t(text: str) -> str:
    return html.escape(text)
