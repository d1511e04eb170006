"""The pictures of a report, as SVG that stands in the page: one function per question. `report` calls them.

Matplotlib figures without pyplot, text as text, and colours that follow the page, light or dark: what a figure draws in
INK becomes the page's own text colour.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from headrace.features import Feature
from headrace.payload import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#010203"
MUTED: Final = "#7d8590"
REFERENCE: Final = "#8b949e"
WINDOW: Final = "#2f7de1"
ALARM: Final = "#e5534b"
GOOD: Final = "#2da44e"
WIDTH: Final = 9.4
"""Inches; what the page has room for."""
BARS: Final = 14
"""Features of one bar chart."""
CATEGORIES: Final = 12
_LEAST_P: Final = 1e-16
_DAY: Final = 86_400.0
_STYLE: Final[Mapping[str, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": False,
    "figure.constrained_layout.use": True,
}


def _style() -> Any:
    import matplotlib as mpl

    style: Any = _STYLE
    return mpl.rc_context(style)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _svg(figure: Figure, title: str) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    head, rest = text.split(">", 1)
    import html

    label = html.escape(title, quote=True)
    return f'{head} role="img" aria-label="{label}"><title>{label}</title>{rest}'


def _time_axis(axes: Axes, times: Sequence[float]) -> Array:
    """Seconds since the epoch as the axis counts, in days; and the axis shows dates."""
    from matplotlib import dates

    kinds: Any = dates  # its constructors have no types
    locator = kinds.AutoDateLocator(minticks=2, maxticks=7, tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(kinds.ConciseDateFormatter(locator, tz=UTC))
    moments = np.array(times, np.float64) / _DAY
    if moments.min() == moments.max():
        axes.set_xlim(float(moments[0]) - 60 / _DAY, float(moments[0]) + 60 / _DAY)
    return moments


def timeline(title: str, history: Sequence[Mapping[str, Any]]) -> str:
    """Windows over time: the least p-value (or the largest statistic) of each beside its threshold."""
    with _style():
        figure = _figure(WIDTH, 2.3)
        axes = figure.subplots()
        moments = _time_axis(axes, [each["time"] for each in history])
        data = [each["data"] for each in history]
        drifted = [bool(each.get("is_drift")) for each in data]
        colours = [ALARM if each else WINDOW for each in drifted]
        if "rate" in data[-1]:
            values = [100 * each["rate"] for each in data]
            bounds = [100 * each["baseline_rate"] for each in data]
            axes.set_ylabel("odd rows, %")
            label, low = "expected share", True
        elif any(each.get("p_val") for each in data):
            values = [max(_least(each.get("p_val")), _LEAST_P) for each in data]
            bounds = [_number(each.get("threshold")) for each in data]
            axes.set_yscale("log")
            axes.set_ylabel("least p-value")
            label, low = "threshold (drift below it)", False
        else:
            values = [_largest(each.get("distance")) for each in data]
            bounds = [_number(each.get("threshold")) for each in data]
            axes.set_ylabel("statistic")
            label, low = "threshold (drift above it)", True
        axes.plot(moments, values, color=MUTED, linewidth=0.8, zorder=1)
        axes.step(moments, bounds, where="mid", color=ALARM, linewidth=1.0, linestyle=(0, (4, 3)), label=label)
        if len(moments) == 1:
            axes.axhline(bounds[0], color=ALARM, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.scatter(moments, values, c=colours, s=22, zorder=2)
        if low and np.isfinite(values).any():
            axes.set_ylim(bottom=min(0.0, float(np.nanmin(values))))
        axes.scatter([], [], c=WINDOW, s=22, label="window")
        axes.scatter([], [], c=ALARM, s=22, label="window with drift")
        figure.legend(loc="outside upper right", ncols=3)
        return _svg(figure, title)


def effects(title: str, names: Sequence[str], sizes: Sequence[float], drifted: Sequence[bool], scale: str) -> str:
    """How much each feature differs, the largest first."""
    with _style():
        shown = list(range(min(len(names), BARS)))
        figure = _figure(WIDTH, 0.55 + 0.24 * len(shown))
        axes = figure.subplots()
        colours = [ALARM if drifted[at] else REFERENCE for at in shown]
        axes.barh(shown, [sizes[at] for at in shown], color=colours, height=0.68)
        axes.set_yticks(shown, [_short(names[at]) for at in shown])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlabel(scale.replace("_", " "))
        return _svg(figure, title)


def distributions(
    title: str, features: Sequence[Feature], reference: Sequence[Array], window: Sequence[Array], notes: Sequence[str]
) -> str:
    """Reference beside window, one small picture per feature."""
    with _style():
        columns = min(3, len(features))
        rows = math.ceil(len(features) / columns)
        figure = _figure(WIDTH * columns / 3, 0.35 + 1.75 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.ravel()[len(features) :]:
            axes.set_axis_off()
        for axes, feature, before, now, note in zip(grid.ravel(), features, reference, window, notes, strict=False):
            draw = _categories if feature.is_category else _density
            draw(axes, feature, before, now)
            axes.set_title(_short(feature.name, 26) + (f"  {note}" if note else ""))
            axes.set_yticks([])
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
        return _svg(figure, title)


def _density(axes: Axes, _feature: Feature, before: Array, now: Array) -> None:
    before, now = before[np.isfinite(before)], now[np.isfinite(now)]
    both = np.concatenate([before, now])
    if not len(both):
        axes.text(0.5, 0.5, "all missing", transform=axes.transAxes, ha="center")
        return
    low, high = np.quantile(both, [0.002, 0.998])
    if high <= low:
        low, high = float(both.min()) - 0.5, float(both.max()) + 0.5
    bins = np.linspace(low, high, 31)
    for values, colour, name in ((before, REFERENCE, "reference"), (now, WINDOW, "window")):
        counts, _ = np.histogram(values, bins)
        heights = counts / max(len(values), 1)
        axes.stairs(heights, bins, fill=True, color=colour, alpha=0.35, label=name)
        axes.stairs(heights, bins, color=colour, linewidth=1.1)
    axes.locator_params(axis="x", nbins=4)


def _categories(axes: Axes, feature: Feature, before: Array, now: Array) -> None:
    positions = np.arange(-1, len(feature.categories))
    shares = [
        np.array([float(np.mean(each == at)) if len(each) else 0.0 for at in positions]) for each in (before, now)
    ]
    order = np.argsort(-np.maximum(*shares), kind="stable")[:CATEGORIES]
    order = order[np.maximum(*shares)[order] > 0]
    at = np.arange(len(order))
    for offset, share, colour, name in ((-0.2, shares[0], REFERENCE, "reference"), (0.2, shares[1], WINDOW, "window")):
        axes.bar(at + offset, share[order], width=0.38, color=colour, label=name, alpha=0.85)
    names = [_short(feature.text(float(positions[each])), 10) for each in order]
    axes.set_xticks(at, names, rotation=30 if len(order) > 4 else 0, ha="right" if len(order) > 4 else "center")


def scores(title: str, recent: Array, reference: Array | None, threshold: float) -> str:
    """How odd the last rows were, beside rows of the reference, and the threshold."""
    with _style():
        figure = _figure(WIDTH, 2.1)
        axes = figure.subplots()
        recent = recent[np.isfinite(recent)]
        known = [each for each in (recent, reference) if each is not None and len(each)]
        both = np.concatenate([*known, [threshold]])
        low, high = float(both.min()), float(np.quantile(both, 0.995))
        high = max(high, threshold + 0.1 * (threshold - low))
        if high <= low:
            high = low + 1.0
        bins = np.linspace(low, high, 61)
        for values, colour, name in ((reference, REFERENCE, "held-out reference"), (recent, WINDOW, "last rows")):
            if values is not None and len(values):
                counts, _ = np.histogram(np.minimum(values, high), bins)
                axes.stairs(counts / len(values), bins, fill=True, color=colour, alpha=0.45, label=name)
                axes.stairs(counts / len(values), bins, color=colour, linewidth=0.9)
        axes.axvline(threshold, color=ALARM, linewidth=1.1, linestyle=(0, (4, 3)), label="threshold")
        axes.set_xlabel("score; what is above the last tick stands at it")
        axes.set_ylabel("share of rows")
        figure.legend(loc="outside upper right", ncols=3)
        return _svg(figure, title)


def measures(title: str, times: Sequence[float], series: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> str:
    """Measures over time with their intervals."""
    with _style():
        figure = _figure(WIDTH, 2.5)
        axes = figure.subplots()
        moments = _time_axis(axes, times)
        for at, (name, told) in enumerate(series.items()):
            value, low, high = (
                np.array([_number(each.get(key)) if each is not None else math.nan for each in told])
                for key in ("value", "low", "high")
            )
            colour = f"C{at % 10}"
            axes.plot(moments, value, color=colour, linewidth=1.3, marker="o", markersize=3.5, label=name)
            known = np.isfinite(low) & np.isfinite(high)
            if known.sum() > 1:
                axes.fill_between(moments[known], low[known], high[known], color=colour, alpha=0.16, linewidth=0)
            elif known.any():
                axes.vlines(moments[known], low[known], high[known], color=colour, alpha=0.5)
        figure.legend(loc="outside upper right", ncols=min(5, max(1, len(series))))
        return _svg(figure, title)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _least(values: Any) -> float:
    known = [each for each in values or () if each is not None]
    return min(known, default=math.nan)


def _largest(values: Any) -> float:
    known = [each for each in values or () if each is not None]
    return max(known, default=math.nan)


def _short(name: str, most: int = 30) -> str:
    text = name.replace("$", r"\$")
    return text if len(text) <= most else text[: most - 1] + "…"
