"""A split as a person looks at it: who gets what share of the requests. `headrace graph` shows it."""

from __future__ import annotations

from headrace.control.backends.base import Share, SplitUnit


def split(unit: SplitUnit, form: str) -> str:
    """A split as `text` or as a `mermaid` flowchart."""
    total = sum(share.weight for share in unit.shares) or 1.0
    rows = [(_of(share), f"{100 * share.weight / total:.3g} %") for share in unit.shares]
    if unit.mirror is not None:
        rows.append((_of(unit.mirror), f"copies of {unit.mirror.weight:.3g} %"))
    if form == "mermaid":
        lines = ["flowchart LR", f'  request(["{unit.diverts or unit.name}"])']
        for number, (name, share) in enumerate(rows):
            arrow = "-.->" if share.startswith("copies") else "-->"
            lines.append(f'  request {arrow}|"{share}"| c{number}["{name}"]')
        return "\n".join(lines) + "\n"
    lines = [f"{unit.name}" + (f"   answers for {unit.diverts}" if unit.diverts else "")]
    width = max(len(name) for name, _ in rows)
    for number, (name, share) in enumerate(rows):
        lines.append(f"{'└' if number == len(rows) - 1 else '├'}─ {name:{width}}  {share}")
    return "\n".join(lines) + "\n"


def _of(share: Share) -> str:
    return f"{share.name} revision {share.version}" if share.version else share.name
