"""The page of a report: one HTML file that needs nothing else, on screen, light or dark, and on paper. `report` fills
it.

Everything that came from outside (names, values, errors) is escaped here, in one place: `text`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

DASH: Final = "\u2013"
"""What stands where there is nothing to say."""

_CSS: Final = """
:root{--bg:#fff;--panel:#f6f8fa;--line:#d8dee4;--ink:#1f2328;--muted:#59636e;--ok:#1a7f37;--warn:#9a6700;--bad:#cf222e;
--info:#0969da}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--panel:#161b22;--line:#30363d;--ink:#e6edf3;--muted:#9198a1;
--ok:#3fb950;--warn:#d29922;--bad:#f85149;--info:#4493f8}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1000px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0;letter-spacing:-.01em}
h2{font-size:18px;margin:0}
h3{font-size:13px;margin:18px 0 6px;color:var(--muted);font-weight:600;text-transform:uppercase;letter-spacing:.04em}
header{display:flex;flex-wrap:wrap;gap:6px 14px;align-items:center}
.sub{color:var(--muted);margin:4px 0 18px}
.badge{font-size:12px;font-weight:600;border-radius:99px;padding:2px 10px;border:1px solid currentColor;
white-space:nowrap}
.ok{color:var(--ok)}.warning,.cooling{color:var(--warn)}.drift,.failed{color:var(--bad)}
.collecting,.starting,.unwatched{color:var(--info)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:0 0 22px}
.card{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.card b{display:block;font-size:20px;font-variant-numeric:tabular-nums;line-height:1.3}
.card span{color:var(--muted);font-size:12.5px}
section{border:1px solid var(--line);border-radius:12px;padding:16px 18px;margin:0 0 16px}
section>header{margin-bottom:2px}
.what{color:var(--muted);font-size:13px;margin:0 0 8px}
.said{margin:8px 0}
svg{max-width:100%;height:auto;display:block}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th{color:var(--muted);font-weight:600;text-align:left}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}
td.t{white-space:normal;min-width:150px;overflow-wrap:break-word}
td.n,th.n{text-align:right}
tr.is td:first-child{color:var(--bad);font-weight:600}
.note{border-left:3px solid var(--warn);padding:4px 12px;margin:8px 0;color:var(--ink);background:var(--panel)}
.error{border-left-color:var(--bad)}
details{margin-top:8px}summary{cursor:pointer;color:var(--muted);font-size:13px}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,monospace;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:12.5px;margin-top:24px}
@media print{:root{--bg:#fff;--panel:#fff;--line:#ccc;--ink:#000;--muted:#444}
main{max-width:none;padding:0}section,.card,tr,svg{break-inside:avoid}details>*{display:block}}
"""


def page(title: str, body: Iterable[str]) -> bytes:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    ).encode()


def text(value: Any) -> str:
    """Anything, as it may stand in the page."""
    return html.escape(str(value), quote=True)


def number(value: Any, digits: int = 4) -> str:
    """A number for people; a dash where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return DASH if value is None or isinstance(value, float) else text(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}g}"


def share(value: Any) -> str:
    """A share as percent."""
    return f"{100 * value:.3g} %" if isinstance(value, int | float) else DASH


def moment(seconds: Any) -> str:
    """Seconds since the epoch as date and time in UTC."""
    if not isinstance(seconds, int | float) or not seconds:
        return DASH
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def badge(state: str) -> str:
    """A state in its colour."""
    return f'<span class="badge {text(state)}">{text(state)}</span>'


def cards(facts: Sequence[tuple[str, str]]) -> str:
    """Large numbers with what they are; both are markup."""
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{n}</b><span>{w}</span></div>' for w, n in facts)
        + "</div>"
    )


def section(name: str, state: str, what: str, body: Iterable[str]) -> str:
    """A box with a heading; `body` is markup."""
    return (
        f"<section><header><h2>{text(name)}</h2>{badge(state) if state else ''}</header>"
        f'<p class="what">{text(what)}</p>{"".join(body)}</section>'
    )


def heading(words: str) -> str:
    """Of a part of a section."""
    return f"<h3>{text(words)}</h3>"


def said(words: str) -> str:
    """A sentence."""
    return f'<p class="said">{text(words)}</p>'


def note(words: str, *, is_error: bool = False) -> str:
    """Something that a reader must not miss."""
    return f'<p class="note{" error" if is_error else ""}">{text(words)}</p>'


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    long: Collection[str] = (),
    marked: Sequence[bool] = (),
) -> str:
    """A table; cells are markup.

    Args:
        names: Of the columns.
        rows: A cell per column.
        numbers: Columns that stand to the right.
        long: Columns that may take several lines.
        marked: Rows that a reader should see first.
    """
    kinds = [" class=n" if name in numbers else " class=t" if name in long else "" for name in names]
    head = "".join(f"<th{kind}>{text(name)}</th>" for name, kind in zip(names, kinds, strict=True))
    lines = []
    for at, row in enumerate(rows):
        mark = " class=is" if at < len(marked) and marked[at] else ""
        cells = "".join(f"<td{kind}>{each}</td>" for each, kind in zip(row, kinds, strict=True))
        lines.append(f"<tr{mark}>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def folded(words: str, body: str) -> str:
    """What is shown when somebody wants to see it; `body` is markup."""
    return f"<details><summary>{text(words)}</summary>{body}</details>"
