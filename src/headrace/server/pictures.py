"""Resources as pictures, text or Mermaid. The control API and `headrace graph` call it; `graph.picture` draws pipelines.

Mermaid: https://mermaid.js.org/syntax/flowchart.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from headrace.control.resources import Experiment, Resource, Rollout
from headrace.graph import picture
from headrace.graph.spec import Pipeline

Form = Literal["text", "mermaid"]
KINDS: Final = ("Pipeline", "Experiment", "Rollout")
"""The kinds that have a picture."""

_Edge = tuple[str, str, bool]
"""What stands at the line, what it leads to, and whether only copies go there."""


def draw(resource: Resource, form: Form) -> str:
    """The picture of a resource of one of `KINDS`; several lines, the last one ended."""
    name, spec = resource.metadata.name, resource.spec
    if isinstance(spec, Pipeline):
        return picture.mermaid(name, spec) if form == "mermaid" else picture.text(name, spec)
    edges: list[_Edge]
    if isinstance(spec, Experiment):
        whole = sum(each.weight for each in spec.candidates) or 1.0
        edges = [(f"{100 * each.weight / whole:.3g}%", each.name, False) for each in spec.candidates]
        if spec.mirror is not None:
            edges.append((f"mirror {spec.mirror.percent:g}%", spec.mirror.name, True))
        title = f"experiment {name}" + (f", answers for {spec.default}" if spec.default else "")
    elif isinstance(spec, Rollout):
        steps = " -> ".join([*(f"{each.weight:g}%" for each in spec.steps), "100%"])
        edges = [("the rest", spec.stable, False), (steps, spec.candidate, False)]
        if spec.mirror_percent:
            edges.append((f"mirror {spec.mirror_percent:g}%", spec.candidate, True))
        title = f"rollout {name}, answers for {spec.endpoint or spec.stable}"
    else:
        raise TypeError(f"{resource.describe()} has no picture")
    return _mermaid(title, edges) if form == "mermaid" else _text(title, edges)


def _text(title: str, edges: Sequence[_Edge]) -> str:
    width = max((len(label) for label, _, _ in edges), default=0)
    lines = [title]
    for at, (label, target, copies) in enumerate(edges):
        corner = "└" if at == len(edges) - 1 else "├"
        lines.append(f"{corner}{'┄' if copies else '─'} {label.ljust(width)}  {target}")
    return "\n".join(lines) + "\n"


def _mermaid(title: str, edges: Sequence[_Edge]) -> str:
    names = list(dict.fromkeys(target for _, target, _ in edges))
    lines = ["flowchart LR", f"  from([{_quoted(title)}])"]
    lines += [f"  n{at}[{_quoted(name)}]" for at, name in enumerate(names)]
    for label, target, copies in edges:
        lines.append(f"  from {'-.->' if copies else '-->'}|{_quoted(label)}| n{names.index(target)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("&", "#amp;").replace('"', "#quot;") + '"'
