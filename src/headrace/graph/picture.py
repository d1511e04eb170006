"""A pipeline as a picture: text for a terminal, Mermaid for pages. `headrace graph` shows it. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

from headrace.errors import InvalidRequest
from headrace.graph import references, spec
from headrace.graph.references import Reference

_OPEN: Final[Mapping[str, tuple[str, str]]] = {
    "model": ("[", "]"),
    "pipeline": ("[[", "]]"),
    "combine": ("{{", "}}"),
    "route": ("{", "}"),
    "end": ("([", "])"),
}
"""Shapes of Mermaid's nodes."""


def text(name: str, pipeline: spec.Pipeline) -> str:
    """The pipeline on a terminal: one block for each step, indented by how far it is from the request.

    References that cannot be followed are shown as they are written.
    """
    lines = [f"pipeline {name}" + _limits(pipeline)]
    if pipeline.input is not None:
        lines += _external_lines(pipeline.input)
    lines.append(f"○ {name}.inputs")
    depths = _depths(name, pipeline)
    for step in sorted(pipeline.steps, key=lambda step: depths[step.name]):
        indent = "│  " * depths[step.name]
        lines.append(f"{indent}├─ {_bullet(step)} {step.name}  ({_what(step)})")
        lines += [f"{indent}│      {line}" for line in _step_lines(name, step)]
    output = pipeline.output
    if output is None:
        lines.append("● no output" if len(pipeline.steps) != 1 else f"● output  ← {pipeline.steps[0].name}")
        return "\n".join(lines) + "\n"
    join = f"  ({_join(output.steps_join, output.join_window_ms)})" if len(output.steps) > 1 else ""
    lines.append(f"● output{join}" + (", named by step" if output.by_step else ""))
    lines += [f"     ← {_taken(name, reference, output.tensor_map)}" for reference in output.steps]
    return "\n".join(lines) + "\n"


def mermaid(name: str, pipeline: spec.Pipeline) -> str:
    """The pipeline as a Mermaid flowchart (https://mermaid.js.org/syntax/flowchart.html).

    Dotted arrows are triggers and what nobody waits for.
    """
    numbers = {step.name: f"s{index}" for index, step in enumerate(pipeline.steps)}
    arrow = functools.partial(_arrow, name, pipeline, numbers)
    lines = ["flowchart LR", f"  request{_shape('end', f'{name}.inputs')}"]
    for step in pipeline.steps:
        words = [step.name, _what(step)]
        if len(step.inputs) > 1 and step.combine is None:
            words.append(_join(step.inputs_join_type, step.join_window_ms))
        if step.when:
            words.append(f"when {step.when}")
        lines.append(f"  {numbers[step.name]}{_shape(_kind(step), *words)}")
    for step in pipeline.steps:
        dotted = step.mirror
        taker, renames = numbers[step.name], step.tensor_map
        lines += [arrow(reference, taker, renames, dotted=dotted) for reference in step.inputs or (name,)]
        lines += [arrow(reference, taker, {}, dotted=True) for reference in step.triggers]
    output = pipeline.output
    taken = output.steps if output is not None else tuple([step.name for step in pipeline.steps[:1]])
    if output is not None or len(pipeline.steps) == 1:
        join = [output.steps_join] if output is not None and len(taken) > 1 else []
        lines.append(f"  output{_shape('end', 'output', *join)}")
        renames = output.tensor_map if output is not None else {}
        lines += [arrow(reference, "output", renames, dotted=False) for reference in taken]
    if pipeline.input is not None:
        for index, reference in enumerate(pipeline.input.external_inputs):
            lines += [f"  x{index}{_shape('end', reference)}", f"  x{index} --> request"]
        for index, reference in enumerate(pipeline.input.external_triggers):
            lines += [f"  t{index}{_shape('end', reference)}", f"  t{index} -.->|trigger| request"]
    return "\n".join(lines) + "\n"


# -- words --


def _kind(step: spec.Step) -> str:
    if step.combine is not None:
        return "combine"
    if step.route is not None:
        return "route"
    return "pipeline" if step.pipeline else "model"


def _bullet(step: spec.Step) -> str:
    return {"combine": "⬡", "route": "◇", "pipeline": "▣", "model": "■"}[_kind(step)]


def _what(step: spec.Step) -> str:
    """What a step is, in a few words."""
    version = f" version {step.version}" if step.version else ""
    if step.combine is not None:
        return f"combines: {step.combine.type}"
    if step.route is not None:
        return f"routes: {step.route.type}"
    if step.pipeline:
        return f"pipeline {step.pipeline}{version}"
    if step.python:
        return f"python {step.python}"
    return f"model {step.model or step.name}{version}" + (f" at {step.url}" if step.url else "")


def _limits(pipeline: spec.Pipeline) -> str:
    limits = []
    if pipeline.timeout_ms:
        limits.append(f"within {pipeline.timeout_ms} ms")
    if pipeline.allow_cycles:
        limits.append(f"cycles, each step again {pipeline.max_step_revisits} times at most")
    return f"  ({'; '.join(limits)})" if limits else ""


def _join(join: str, window_ms: int | None) -> str:
    return f"{join} join" + (f" within {window_ms} ms" if window_ms is not None else "")


def _external_lines(outside: spec.Input) -> list[str]:
    lines = [f"  ⇠ {reference}" for reference in outside.external_inputs]
    if len(outside.external_inputs) > 1:
        lines.append(f"    ({_join(outside.join_type, outside.join_window_ms)})")
    lines += [f"  ⇠ only after {reference}" for reference in outside.external_triggers]
    if len(outside.external_triggers) > 1:
        lines.append(f"    ({outside.triggers_join_type} join)")
    return lines


def _step_lines(name: str, step: spec.Step) -> list[str]:
    """What there is to say of a step beside its name."""
    lines = [f"← {_taken(name, reference, step.tensor_map)}" for reference in step.inputs or (f"{name}.inputs",)]
    if len(step.inputs) > 1 and step.combine is None:
        lines.append(f"  ({_join(step.inputs_join_type, step.join_window_ms)})")
    if step.triggers:
        join = f"  ({step.triggers_join_type} join)" if len(step.triggers) > 1 else ""
        lines.append(f"only after {', '.join(step.triggers)}{join}")
    if step.when:
        lines.append(f"when {step.when}")
    if step.route is not None:
        lines += [f"→ {branch.name}{_chance(branch, step.route)}" for branch in step.route.branches]
    if step.combine is not None and step.combine.weights:
        lines.append("weights " + ", ".join([f"{key} {weight:g}" for key, weight in step.combine.weights.items()]))
    if step.batch is not None and step.batch.size:
        lines.append(f"batches of {step.batch.size} rows")
    if step.mirror:
        lines.append("mirror: nobody waits for it")
    if step.dependency == "soft":
        lines.append("soft: its failure counts as no answer")
    if step.timeout_ms:
        lines.append(f"within {step.timeout_ms} ms")
    return lines


def _chance(branch: spec.Branch, route: spec.Route) -> str:
    if route.type == "conditions":
        return f" when {branch.when}" if branch.when else " otherwise"
    total = sum([each.weight for each in route.branches])
    return f" {100 * branch.weight / total:.3g} %" if route.type == "weights" and total > 0 else ""


def _taken(name: str, reference: str, tensor_map: Mapping[str, str]) -> str:
    """A reference with the names that its tensors get."""
    if reference in tensor_map:
        return f"{reference} as {tensor_map[reference]}"
    parsed = _parsed(name, reference)
    if parsed is None or parsed.tensor:
        return reference
    renames = []
    for key, new in tensor_map.items():
        mapped = _parsed(name, key)
        if mapped is not None and mapped.port == parsed.port:
            renames.append(f"{mapped.tensor} as {new}")
    return f"{reference} ({', '.join(renames)})" if renames else reference


def _parsed(name: str, reference: str) -> Reference | None:
    """None: it cannot be followed, and is shown as it is."""
    try:
        return references.parse(reference, pipeline=name)
    except InvalidRequest:
        return None


def _depths(name: str, pipeline: spec.Pipeline) -> dict[str, int]:
    """How many steps lie before each, on the longest way that does not go round."""
    givers = {
        step.name: [
            parsed.step
            for reference in (*step.inputs, *step.triggers)
            if (parsed := _parsed(name, reference)) is not None and parsed.step
        ]
        for step in pipeline.steps
    }
    depths = dict.fromkeys(givers, 0)
    for _ in givers:  # longest ways have no more steps than there are; on cycles the order of the steps decides
        for position, step in enumerate(pipeline.steps):
            earlier = {each.name for each in pipeline.steps[:position]} if pipeline.allow_cycles else set(givers)
            known = [depths[each] + 1 for each in givers[step.name] if each in depths and each in earlier]
            depths[step.name] = min(max(known, default=0), len(givers))
    return depths


# -- Mermaid --


def _shape(kind: str, *words: str) -> str:
    before, after = _OPEN[kind]
    return f'{before}"{"<br/>".join([_escaped(word) for word in words])}"{after}'


def _arrow(  # noqa: PLR0917 - the first three are bound once
    name: str,
    pipeline: spec.Pipeline,
    numbers: Mapping[str, str],
    reference: str,
    taker: str,
    tensor_map: Mapping[str, str],
    *,
    dotted: bool,
) -> str:
    parsed = _parsed(name, reference)
    giver = "request" if parsed is None else numbers.get(parsed.step, "request")
    words = []
    if parsed is not None:
        if parsed.step and parsed.side == "inputs":
            words.append("inputs")
        if parsed.side == "branches":
            words.append(_branch(pipeline, parsed))
        if parsed.tensor:
            words.append(parsed.tensor)
    if reference in tensor_map:
        words.append(f"as {tensor_map[reference]}")
    line = "-.->" if dotted else "-->"
    label = f'|"{_escaped(" ".join(words))}"|' if words else ""
    return f"  {giver} {line}{label} {taker}"


def _branch(pipeline: spec.Pipeline, reference: Reference) -> str:
    for step in pipeline.steps:
        if step.name == reference.step and step.route is not None:
            for branch in step.route.branches:
                if branch.name == reference.branch:
                    return branch.name + _chance(branch, step.route)
    return reference.branch


def _escaped(word: str) -> str:
    """Text that Mermaid takes as text."""
    return word.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
