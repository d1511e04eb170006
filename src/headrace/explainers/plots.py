"""An explanation as a picture: `draw` picks the plot by what the data holds. Called where explanations are served;
matplotlib is imported here only, and no state of its own (pyplot, rcParams) is touched.

The same explanation gives the same bytes: no date is written, and ids in SVG are numbered as they come. Colours are
those of Okabe & Ito (2008), which people with any kind of colour vision tell apart; no plot needs the colour alone.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from headrace.errors import InvalidRequest
from headrace.explainers.base import Explanation
from headrace.features import Features
from headrace.payload import Array

Format = Literal["svg", "png"]
_RAISES: Final = "#D55E00"
_LOWERS: Final = "#0072B2"
_NEUTRAL: Final = "#666666"
_LIGHT: Final = "#DDDDDD"
_LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS: Final = "os^Dv"
_DASHES: Final = ("-", "--", "-.", ":")
_DIVERGING: Final = LinearSegmentedColormap.from_list("lowers-raises", [_LOWERS, "#F7F7F7", _RAISES])
_HALO: Final = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
_NORMAL: Final = 1.959963984540054
_BARS: Final = 12
"""Bars of one plot, at most; what is left is one bar of its own."""
_CURVES: Final = 6
_WIDTH: Final = 8.0
_NAME: Final = 34
"""Characters of a label, at most."""
_SVG_ID: Final = re.compile(r'(?<=["#])([A-Za-z]+(?:\d+_\d+_)?)([0-9a-f]{10})(?=["\)])')


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """What is drawn, and where."""

    figure: Figure
    explanation: Explanation
    features: Features


_Drawer = Callable[[_Canvas], None]


def draw(explanation: Explanation, features: Features, *, format: Format = "svg") -> bytes:  # noqa: A002 - its name
    """The picture of one explanation, in the bytes of an SVG or PNG file.

    Args:
        explanation: Of any method; where its data is not known here, its text is drawn.
        features: The columns it speaks of.
        format: `svg` or `png` (100 dots per inch).

    Raises:
        InvalidRequest: the format is none of these.
    """
    if format not in {"svg", "png"}:
        raise InvalidRequest(f"a plot is 'svg' or 'png', not '{format}'")
    figure = Figure(figsize=(_WIDTH, 4.5), dpi=100, facecolor="white")
    _drawer(explanation)(_Canvas(figure, explanation, features))
    return _saved(figure, format)


def _saved(figure: Figure, format: Format) -> bytes:  # noqa: A002 - as of draw
    stream = io.BytesIO()
    if format == "png":
        figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
        return stream.getvalue()
    figure.savefig(stream, format="svg", dpi=100, metadata={"Date": None, "Creator": None})
    seen: dict[str, int] = {}
    numbered = _SVG_ID.sub(
        lambda found: f"{found[1]}-{seen.setdefault(found[2], len(seen))}", stream.getvalue().decode()
    )
    return numbered.encode()


def _drawer(explanation: Explanation) -> _Drawer:
    """Which plot shows such data."""
    data = explanation.data
    for is_such, drawer in (
        (_has(data, "shap_values"), _shapley),
        (_has(data, "attributions"), _gradients),
        (_has(data, "weights"), _surrogate),
        ("anchor" in data and "segments" in data, _anchor_image),
        ("anchor" in data, _anchor),
        ("cf" in data, _counterfactual),
        ("PN" in data or "PP" in data, _contrastive),
        (_has(data, "ale_values"), _ale),
        (_has(data, "pd_values"), _dependence),
        (_has(data, "importance"), _importance),
        (_has(data, "score") and "distances" in data, _trust),
    ):
        if is_such:
            return drawer
    return _words


def _has(data: Mapping[str, Any], name: str) -> bool:
    return name in data and data[name] is not None and len(data[name]) > 0


# -- text --


def _plain(text: object, width: int = 0) -> str:
    """Text as it is drawn: no mathematics, only characters that the font has, shortened to a width."""
    shown = " ".join(str(text).split())
    if width and len(shown) > width:
        shown = f"{shown[: width - 1]}…"
    if not shown.isascii():
        has = _characters()
        shown = "".join(each if ord(each) in has else "?" for each in shown)
    return shown.replace("$", r"\$")


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def _titled(canvas: _Canvas, title: str, under: str = "") -> None:
    """A title at the left, over all panels, and a line under it."""
    lines = textwrap.wrap(_plain(title), 84) + ([_plain(under)] if under else [])
    canvas.figure.suptitle("\n".join(lines), fontsize=11, x=0.02, ha="left", linespacing=1.4)
    _footed(canvas)


def _footed(canvas: _Canvas) -> None:
    """What a person should know beside the picture."""
    if canvas.explanation.warnings:
        note = "\n".join(textwrap.wrap(_plain("Note: " + "; ".join(canvas.explanation.warnings)), 110)[:2])
        canvas.figure.supxlabel(note, fontsize=8, color=_NEUTRAL, x=0.02, ha="left")
    canvas.figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)


def _bare(axes: Axes, *sides: str) -> None:
    axes.spines[list(sides or ("top", "right"))].set_visible(False)


def _ranked(names: Sequence[str], values: Array) -> tuple[list[str], Array, int]:
    """The largest first; what does not fit becomes one entry at the end, and how many it stands for."""
    order = np.argsort(-np.abs(values), kind="stable")
    order = order[np.abs(values[order]) > 0] if np.any(values) else order[:_BARS]
    if len(order) <= _BARS:
        return [names[at] for at in order], values[order], 0
    kept, rest = order[: _BARS - 1], order[_BARS - 1 :]
    return [names[at] for at in kept] + [f"{len(rest)} others"], np.append(values[kept], values[rest].sum()), len(rest)


def _sized(canvas: _Canvas, count: int, *, least: float = 2.4, each: float = 0.34, more: float = 1.5) -> Axes:
    canvas.figure.set_size_inches(_WIDTH, max(least, more + each * count))
    return canvas.figure.subplots()


def _label(space: str) -> str:
    return {"prediction": "answer of the model"}.get(space, space)


def _of(name: str, space: str) -> str:
    """What is explained: the probability of 'benign'."""
    return "the answer" if name == "output" else f"the {space} of '{name}'"


# -- one row --


def _shapley(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    effects = [np.asarray(each, np.float64).reshape(-1) for each in data["shap_values"]]
    raw = data.get("raw", {})
    prediction = np.asarray(raw.get("prediction", [0])).reshape(-1)
    chosen = int(prediction[0]) if len(effects) > 1 and prediction.dtype.kind in "iu" else 0
    chosen = min(max(chosen, 0), len(effects) - 1)
    base = float(np.asarray(data["expected_value"]).reshape(-1)[chosen])
    space = str(data.get("output_space", "prediction"))
    names = data.get("output_names") or [f"output {at}" for at in range(len(effects))]
    values = np.asarray(raw["instances"], np.float64).reshape(-1) if "instances" in raw else None
    title = f"What makes {_of(str(names[chosen]), space)}"
    if _is_image(canvas.features):
        errors = None
        _heat(canvas, effects[chosen], values, title, f"effect on the {_label(space)}")
        return
    errors = data.get("standard_errors")
    _waterfall(
        canvas,
        _told(canvas.features, values),
        effects[chosen],
        base,
        title=title,
        unit=_label(space),
        start="average",
        errors=None if errors is None else np.asarray(errors[chosen], np.float64).reshape(-1),
    )


def _gradients(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    effects = np.asarray(data["attributions"][0], np.float64).reshape(-1)
    values = np.asarray(data["X"][0], np.float64).reshape(-1)
    target = int(np.asarray(data["target"]).reshape(-1)[0])
    space = str(data.get("output_space", "prediction"))
    names = data.get("output_names") or []
    title = f"What makes {_of(str(names[target]) if target < len(names) else 'output', space)}"
    if _is_image(canvas.features):
        _heat(canvas, effects, values, title, f"attribution ({_label(space)})")
        return
    start = float(np.asarray(data["baseline_predictions"]).reshape(-1)[target])
    _waterfall(
        canvas,
        _told(canvas.features, values),
        effects,
        start,
        title=title,
        unit=_label(space),
        start="baseline",
    )


def _told(features: Features, values: Array | None) -> list[str]:
    if values is None:
        return [_plain(name, _NAME) for name in features.names]
    return [
        f"{_plain(column.name, _NAME)} = {_plain(column.text(float(value)), 14)}"
        for column, value in zip(features.columns, values, strict=True)
    ]


def _waterfall(
    canvas: _Canvas,
    names: Sequence[str],
    effects: Array,
    base: float,
    *,
    title: str,
    unit: str,
    start: str,
    errors: Array | None = None,
) -> None:
    """Bars, the largest on top, each from where the last one ended: from the base at the top to the answer below."""
    labels, values, rest = _ranked(names, effects)
    axes = _sized(canvas, len(labels) + 1)
    ends = base + np.cumsum(values)
    starts = ends - values
    places = np.arange(len(labels))
    colours = [_RAISES if value >= 0 else _LOWERS for value in values]
    axes.barh(places, values, left=starts, color=colours, height=0.62, zorder=3)
    for at in places[:-1]:
        axes.plot([ends[at]] * 2, [at, at + 1], color=_NEUTRAL, linewidth=0.7, zorder=2)
    whiskers = np.zeros(len(labels))
    if errors is not None:
        order = np.argsort(-np.abs(effects), kind="stable")[: len(labels) - bool(rest)]
        whiskers[: len(order)] = _NORMAL * errors[order]
        axes.errorbar(ends, places, xerr=whiskers, fmt="none", ecolor="black", elinewidth=0.9, zorder=4)
    total = float(ends[-1]) if len(ends) else base
    every = np.concatenate([[base], ends])
    low, high = float(every.min()), float(every.max())
    span = (high - low) or 1.0
    for at, value in enumerate(values):
        edge = max(starts[at], ends[at]) + whiskers[at] + 0.012 * span
        axes.text(edge, at, f"{value:+.3g}", va="center", fontsize=8.5, bbox=_HALO, zorder=5)
    for value, style in ((base, ":"), (total, "--")):
        axes.axvline(value, color=_NEUTRAL, linestyle=style, linewidth=1.1, zorder=1)
    axes.set_yticks(places, labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(low - 0.06 * span, high + 0.14 * span)
    axes.set_xlabel(f"{unit}   (orange bars raise it, blue bars lower it)", fontsize=9)
    axes.grid(axis="x", color=_LIGHT, linewidth=0.6, zorder=0)
    _bare(axes)
    spread = "; whiskers: 95 % interval" if errors is not None else ""
    _titled(canvas, title, f"{start} {base:.4g} (dotted), this row {total:.4g} (dashed){spread}")


def _surrogate(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    target = int(data.get("target", 0))
    weights = np.asarray(data["weights"][target], np.float64).reshape(-1)
    names = data.get("output_names") or ["output"]
    space = str(data.get("output_space", "prediction"))
    fit = float(np.asarray(data["score"]).reshape(-1)[target])
    title = f"What goes with {_of(str(names[target]), space)} near this row (linear model, R² {fit:.2f})"
    if "segments" in data:
        patches = np.asarray(data["segments"])
        image = np.asarray(data["image"], np.float64)
        _picture(canvas, image, weights[patches], title, f"weight of the patch ({_label(space)})")
        return
    labels, values, _ = _ranked([_plain(each, _NAME + 12) for each in data["feature_names"]], weights)
    unit = "" if data.get("unit") != "standard deviation" else " per standard deviation"
    _bars(canvas, labels, values, title, f"weight: change of the {_label(space)}{unit}")


def _bars(canvas: _Canvas, labels: Sequence[str], values: Array, title: str, unit: str) -> None:
    axes = _sized(canvas, len(labels))
    places = np.arange(len(labels))
    axes.barh(places, values, color=[_RAISES if value >= 0 else _LOWERS for value in values], height=0.62, zorder=3)
    low, high = min(values.min(initial=0), 0.0), max(values.max(initial=0), 0.0)
    span = (high - low) or 1.0
    for at, value in enumerate(values):
        offset = 0.012 * span if value >= 0 else -0.012 * span
        side = "left" if value >= 0 else "right"
        axes.text(value + offset, at, f"{value:+.3g}", va="center", ha=side, fontsize=8.5, bbox=_HALO)
    axes.axvline(0, color=_NEUTRAL, linewidth=0.9)
    axes.set_xlim(low - (0.16 * span if low < 0 else 0.02 * span), high + 0.16 * span)
    axes.set_yticks(places, labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(f"{unit}   (orange raises it, blue lowers it)", fontsize=9)
    axes.grid(axis="x", color=_LIGHT, linewidth=0.6, zorder=0)
    _bare(axes)
    _titled(canvas, title)


# -- images --


def _is_image(features: Features) -> bool:
    return len(features.shape) in {2, 3} and min(features.shape[:2]) >= 1 and max(features.shape) >= 4


def _last(values: Array) -> Array:
    """An image as `[h, w]` or `[h, w, c]`."""
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    return np.moveaxis(values, 0, 2) if values.ndim == 3 and values.shape[2] > 4 >= values.shape[0] else values


def _seen(image: Array) -> Array:
    """An image as it is shown: grey or three colours, from 0 to 1."""
    image = np.nan_to_num(_last(np.asarray(image, np.float64)))
    span = float(image.max() - image.min())
    image = (image - image.min()) / (span or 1.0)
    if image.ndim == 3:
        image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    return image


def _heat(
    canvas: _Canvas,
    effects: Array,
    values: Array | None,
    title: str,
    unit: str,
) -> None:
    shaped = _last(effects.reshape(canvas.features.shape))
    shaped = shaped.sum(axis=2) if shaped.ndim == 3 else shaped
    image = None if values is None else values.reshape(canvas.features.shape)
    _picture(canvas, image, shaped, title, unit)


def _picture(canvas: _Canvas, image: Array | None, effects: Array, title: str, unit: str, *, note: str = "") -> None:
    """The image, and beside it what each of its pixels does."""
    canvas.figure.set_size_inches(_WIDTH, 4.4)
    *panels, scale = canvas.figure.subplots(1, 3, width_ratios=[1, 1, 0.05])
    if image is None:
        panels[0].set_visible(False)
    else:
        panels[0].imshow(_seen(image), cmap="gray", interpolation="nearest")
        panels[0].set_xlabel("what the model was shown", fontsize=9)
    limit = float(np.abs(effects).max()) or 1.0
    shown = panels[-1].imshow(effects, cmap=_DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    panels[-1].set_xlabel(note or "orange raises it, blue lowers it", fontsize=9)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    bar = canvas.figure.colorbar(shown, cax=scale)
    bar.set_label(_plain(unit), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    _titled(canvas, title)


def _anchor_image(canvas: _Canvas) -> None:
    data, raw = canvas.explanation.data, canvas.explanation.data.get("raw", {})
    image = _seen(np.asarray(raw.get("instance", data["anchor"]), np.float64))
    patches = np.asarray(data["segments"])
    kept = np.isin(patches, np.asarray(raw.get("feature", []), np.int64))
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    faded = np.where(kept[..., None], image, 0.25 * image + 0.62)
    canvas.figure.set_size_inches(_WIDTH, 4.6)
    panels = canvas.figure.subplots(1, 2)
    panels[0].imshow(image, interpolation="nearest")
    panels[0].set_xlabel("what the model was shown", fontsize=9)
    panels[1].imshow(faded, interpolation="nearest")
    if kept.any() and not kept.all():
        down, across = (
            np.linspace(0, kept.shape[0] - 1, 8 * kept.shape[0]),
            np.linspace(0, kept.shape[1] - 1, 8 * kept.shape[1]),
        )
        fine = kept[np.ix_(down.round().astype(int), across.round().astype(int))].astype(float)
        panels[1].contour(across, down, fine, levels=[0.5], colors=[_RAISES], linewidths=1.6)
    panels[1].set_xlabel(f"the anchor: {int(kept.sum())} of {kept.size} pixels that must stay", fontsize=9)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    _titled(canvas, f"Anchor: {_measures(data)}")


# -- rules and rows --


def _measures(data: Mapping[str, Any]) -> str:
    known = {name: _number(data.get(name)) for name in ("precision", "coverage")}
    return ", ".join(f"{name} {value:.1%}" for name, value in known.items() if value is not None) or "none was found"


def _anchor(canvas: _Canvas) -> None:
    """The rule in words, and what it is worth: precision with its interval against the threshold, and coverage."""
    data = canvas.explanation.data
    words = [str(each) for each in np.asarray(data["anchor"], object).reshape(-1)]
    if "words" in data.get("raw", {}):
        words = [f"the text has '{word}'" for word in words]
    lines = [f"{'IF' if at == 0 else 'AND'}  {_plain(word, 78)}" for at, word in enumerate(words)] or ["(no condition)"]
    canvas.figure.set_size_inches(_WIDTH, 2.9 + 0.3 * len(lines))
    above, below = canvas.figure.subplots(2, 1, height_ratios=[0.5 + 0.3 * len(lines), 1.5])
    above.axis("off")
    for at, line in enumerate(lines):
        place = 1 - (at + 0.5) / len(lines)
        head, _, rest = line.partition("  ")
        above.text(0.0, place, head if rest else "", fontsize=10, color=_NEUTRAL, va="center", weight="bold")
        above.text(0.08, place, rest or line, fontsize=11, va="center")
    values = [_number(data.get(name)) for name in ("precision", "coverage")]
    below.barh([0, 1], [value or 0 for value in values], color=[_LOWERS, "#56B4E9"], height=0.5, zorder=3)
    interval = data.get("precision_interval")
    if interval is not None and values[0] is not None:
        low, high = (float(each) for each in interval)
        below.errorbar(
            values[0],
            0,
            xerr=[[max(values[0] - low, 0)], [max(high - values[0], 0)]],
            fmt="none",
            ecolor="black",
            capsize=4,
            zorder=4,
        )
    for at, value in enumerate(values):
        text = "not known" if value is None else f"{value:.1%}"
        below.text(1.02, at, text, va="center", fontsize=9.5, transform=below.get_yaxis_transform())
    threshold = _number(data.get("threshold"))
    if threshold is not None:
        below.plot([threshold] * 2, [-0.4, 0.4], color=_RAISES, linestyle="--", linewidth=1.6, zorder=5)
        below.text(
            threshold, -0.48, f"asked for: {threshold:.0%}", color=_RAISES, ha="center", va="bottom", fontsize=8.5
        )
    below.set_yticks([0, 1], ["precision", "coverage"], fontsize=9.5)
    below.set_ylim(1.5, -0.9)
    below.set_xlim(0, 1)
    below.set_xticks(np.linspace(0, 1, 6), [f"{each:.0%}" for each in np.linspace(0, 1, 6)], fontsize=8.5)
    below.set_xlabel(
        "precision: rows under the rule that get the same answer; coverage: rows under the rule", fontsize=9
    )
    below.grid(axis="x", color=_LIGHT, linewidth=0.6, zorder=0)
    _bare(below)
    said = canvas.explanation.text.partition(")")[0] + ")"
    met = said if data.get("met_threshold", True) else f"{said}; no anchor holds, the nearest to one:"
    _titled(canvas, met)


def _number(value: Any) -> float | None:
    return None if value is None or not np.size(value) else float(np.asarray(value, np.float64).reshape(-1)[0])


def _counterfactual(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    found = data["cf"]
    if found is None or not len(canvas.features):
        _words(canvas)
        return
    before = np.asarray(data["instance"], np.float64).reshape(-1)
    after = np.asarray(found["X"] if isinstance(found, Mapping) else found, np.float64).reshape(-1)
    if _is_image(canvas.features):
        change = _last((after - before).reshape(canvas.features.shape))
        change = change.sum(axis=2) if change.ndim == 3 else change
        _picture(
            canvas,
            before.reshape(canvas.features.shape),
            change,
            "What would change the answer",
            "change of the pixel",
            note="orange: brighter, blue: darker",
        )
        return
    head = "What would change the answer" if data.get("success", True) else "The nearest attempt (the answer stays)"
    _table(canvas, head, ("column", "now", "would have to be"), _changed(canvas.features, before, after))


def _changed(features: Features, before: Array, after: Array) -> list[tuple[str, str, str]]:
    moved = (before != after) & ~(np.isnan(before) & np.isnan(after))
    return [
        (column.name, column.text(float(before[at])), column.text(float(after[at])))
        for at, column in enumerate(features.columns)
        if moved[at]
    ]


def _contrastive(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    x = np.asarray(data["X"], np.float64).reshape(-1)
    if not len(canvas.features) or (data.get("PN") is None and data.get("PP") is None):
        _words(canvas)
        return
    cells: list[tuple[str, str, str]] = []
    for key, word in (("PN", "if it were"), ("PP", "enough with")):
        if data.get(key) is None:
            continue
        other = np.asarray(data[key], np.float64).reshape(-1)
        named = set(data.get(f"{key}_features") or [])
        at_all = [at for at, name in enumerate(canvas.features.names) if name in named]
        for at in at_all:
            column = canvas.features.columns[at]
            to = f"{word} {column.text(float(other[at]))}"
            cells.append((column.name, column.text(float(x[at])), to))
        if not at_all:
            cells.append(("(no column)", "", word if key == "PN" else "nothing: the base is answered alike"))
    head = "What must be absent (if it were ..., the answer changes) and what is enough for the answer"
    _table(canvas, head, ("column", "now", "contrast"), cells)


def _table(
    canvas: _Canvas,
    head: str,
    titles: tuple[str, str, str],
    cells: Sequence[tuple[str, str, str]],
) -> None:
    shown, left = cells[:20], max(len(cells) - 20, 0)
    said = textwrap.wrap(_plain(canvas.explanation.text), 96)[:4]
    height = 1.2 + 0.3 * (len(shown) + bool(left)) + 0.22 * len(said)
    axes = _sized(canvas, 0, least=height, more=height)
    axes.axis("off")
    lines = [titles, *shown, *([(f"and {left} more", "", "")] if left else [])]
    places = np.linspace(1, 0, len(lines) + 1)[:-1] - 0.5 / len(lines)
    for place, (name, now, then) in zip(places, lines, strict=True):
        is_head = (name, now, then) == titles
        weight = "bold" if is_head else "normal"
        axes.text(0.01, place, _plain(name, 40), fontsize=10, va="center", weight=weight)
        axes.text(0.47, place, _plain(now, 20), fontsize=10, va="center", weight=weight, color="black")
        colour = "black" if is_head else _RAISES
        axes.text(0.72, place, _plain(then, 34), fontsize=10, va="center", weight=weight, color=colour)
        axes.axhline(place - 0.5 / len(lines), color=_NEUTRAL if is_head else _LIGHT, linewidth=1.0 if is_head else 0.6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _titled(canvas, head)
    note = [
        *said,
        *(
            textwrap.wrap(_plain("Note: " + "; ".join(canvas.explanation.warnings)), 110)
            if canvas.explanation.warnings
            else []
        ),
    ]
    canvas.figure.supxlabel("\n".join(note[:6]), fontsize=8.5, color=_NEUTRAL, x=0.02, ha="left")


# -- the model as a whole --


def _ale(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    curves = [np.asarray(each, np.float64).T for each in data["ale_values"]]
    _curves(
        canvas,
        curves,
        sizes=[float(np.ptp(each, axis=1).max()) for each in curves],
        unit=f"effect on the {_label(str(data.get('output_space', 'prediction')))}",
        title="Accumulated local effects: how the answer moves with each column",
    )


def _dependence(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    curves = [np.asarray(each, np.float64) for each in data["pd_values"]]
    single = [np.asarray(each, np.float64) for each in data.get("ice_values", [])]
    _curves(
        canvas,
        curves,
        sizes=[float(np.ptp(each, axis=1).max()) for each in curves],
        unit=_label(str(data.get("output_space", "prediction"))),
        title="Partial dependence: the average answer as each column is set",
        single=single if len(curves[0]) == 1 or len(data.get("target_names", [])) == 2 else [],
    )


def _curves(
    canvas: _Canvas,
    curves: Sequence[Array],
    *,
    sizes: Sequence[float],
    unit: str,
    title: str,
    single: Sequence[Array] = (),
) -> None:
    """One panel per column, those that move the answer most; one line per output (of two classes, the second)."""
    data = canvas.explanation.data
    order = np.argsort(np.negative(sizes), kind="stable")[:_CURVES]
    across = min(3, len(order))
    down = -(-len(order) // across)
    canvas.figure.set_size_inches(_WIDTH, 1.2 + 2.2 * down)
    panels = np.atleast_1d(canvas.figure.subplots(down, across, sharey=True, squeeze=True)).reshape(-1)
    targets = [_plain(each, 20) for each in data.get("target_names", [])] or ["output"]
    outputs = [1] if len(targets) == 2 and len(curves[0]) == 2 else list(range(min(len(curves[0]), len(_LINES))))
    labels = data.get("feature_labels") or [[] for _ in curves]
    for axes, at in zip(panels, order, strict=False):
        places = np.asarray(data["feature_values"][at], np.float64)
        is_category = bool(labels[at])
        x = np.arange(len(places)) if is_category else places
        if len(single) and single[at].shape[1]:
            lines = [np.column_stack([x, line]) for line in single[at][outputs[0]][:40]]
            axes.add_collection(LineCollection(lines, colors=_LIGHT, linewidths=0.6, zorder=1))
        for nth, output in enumerate(outputs):
            axes.plot(
                x,
                curves[at][output],
                color=_LINES[nth],
                linestyle="none" if is_category else _DASHES[nth % len(_DASHES)],
                marker=_MARKS[nth % len(_MARKS)] if is_category or len(x) == 1 else None,
                linewidth=1.8,
                zorder=3,
                label=targets[output] if output < len(targets) else f"output {output}",
            )
        if is_category:
            axes.set_xlim(-0.5, len(x) - 0.5)
            axes.set_xticks(x, [_plain(each, 10) for each in labels[at]], rotation=30 if len(x) > 3 else 0)
        else:
            deciles = np.asarray(data.get("feature_deciles", [[]] * len(curves))[at], np.float64)
            axes.plot(deciles, np.zeros(len(deciles)), "|", color="black", ms=7, transform=axes.get_xaxis_transform())
            axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel(_plain(data["feature_names"][at], 28), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color=_LIGHT, linewidth=0.6, zorder=0)
        _bare(axes)
    for axes in panels[len(order) :]:
        axes.set_visible(False)
    canvas.figure.supylabel(_plain(unit), fontsize=9)
    rest = f" ({len(order)} of {len(curves)} columns)" if len(curves) > len(order) else ""
    shown = f"; class '{targets[1]}'" if outputs == [1] else ""
    if len(outputs) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        columns = min(len(names), 4)
        canvas.figure.legend(handles, names, loc="outside lower right", ncols=columns, fontsize=8.5, frameon=False)
    _titled(canvas, f"{title}{shown}{rest}")


def _importance(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    means = np.asarray(data["importance"], np.float64)
    low, high = np.asarray(data["low"], np.float64), np.asarray(data["high"], np.float64)
    order = np.argsort(-means, kind="stable")[: _BARS + 8]
    axes = _sized(canvas, len(order))
    places = np.arange(len(order))
    axes.barh(places, means[order], color=_LOWERS, height=0.62, zorder=3)
    errors = [means[order] - low[order], high[order] - means[order]]
    axes.errorbar(means[order], places, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=3, zorder=4)
    axes.axvline(0, color=_NEUTRAL, linewidth=0.9)
    axes.set_yticks(places, [_plain(data["feature_names"][at], _NAME) for at in order], fontsize=9)
    axes.set_ylim(len(order) - 0.4, -0.6)
    unit = {"error": "error rate", "log-loss": "log-loss", "squared": "squared error", "absolute": "absolute error"}
    metric = unit.get(str(data["metric_names"][0]), str(data["metric_names"][0]))
    axes.set_xlabel(f"growth of the {metric} when the column is shuffled (95 % interval)", fontsize=9)
    axes.grid(axis="x", color=_LIGHT, linewidth=0.6, zorder=0)
    _bare(axes)
    rest = f", {len(order)} of {len(means)} columns" if len(means) > len(order) else ""
    title = f"What the model needs ({metric} as it is: {float(data['base_loss']):.3g}{rest})"
    _titled(canvas, title)


def _trust(canvas: _Canvas) -> None:
    data = canvas.explanation.data
    names = list(data["distances"])
    distances = np.array([float(data["distances"][name]) for name in names])
    answered = str(data["prediction_name"])
    order = np.argsort(distances, kind="stable")[:_BARS]
    axes = _sized(canvas, len(order))
    places = np.arange(len(order))
    colours = [_LOWERS if names[at] == answered else _LIGHT for at in order]
    axes.barh(places, distances[order], color=colours, edgecolor=_NEUTRAL, linewidth=0.6, height=0.62, zorder=3)
    span = float(distances[order].max()) or 1.0
    for place, at in enumerate(order):
        mark = "  the answer" if names[at] == answered else ""
        axes.text(distances[at] + 0.012 * span, place, f"{distances[at]:.3g}{mark}", va="center", fontsize=9)
    axes.set_xlim(0, 1.25 * span)
    axes.set_yticks(places, [_plain(names[at], _NAME) for at in order], fontsize=9)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlabel("distance to the class's rows in the reference (standard deviations)", fontsize=9)
    axes.grid(axis="x", color=_LIGHT, linewidth=0.6, zorder=0)
    _bare(axes)
    score = float(np.asarray(data["score"]).reshape(-1)[0])
    verdict = "nearer to the answer than to any other class" if score > 1 else "nearer to another class"
    _titled(canvas, f"Trust score {score:.3g}: {verdict}")


def _words(canvas: _Canvas) -> None:
    lines = textwrap.wrap(_plain(canvas.explanation.text), 84)[:30]
    axes = _sized(canvas, len(lines), least=1.6, each=0.24, more=1.1)
    axes.axis("off")
    axes.text(0, 1, "\n".join(lines), fontsize=10.5, va="top", ha="left", linespacing=1.5)
    _titled(canvas, canvas.explanation.method)
