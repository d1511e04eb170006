"""Whether a pipeline can be: all its faults at once, as sentences. `control.check` calls it at apply, before anything
is stored. Pure.

Where Seldon Core v2 refuses the same, the sentence begins with its words.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from headrace.errors import InvalidRequest
from headrace.graph import conditions, order, references, spec
from headrace.graph.compile import Node, Plan, Slot, compile_pipeline
from headrace.graph.references import Reference
from headrace.graph.signatures import Known, Places, renamed
from headrace.payload import EMPTY, Signature, TensorSpec

Knows = Callable[[str, str], bool]
"""Whether there is such a thing: (`model` or `pipeline`, its name)."""
Hint = Callable[[str, str], str]
"""What helps who wrote such a name where there is none; empty: nothing does."""


def faults(
    name: str,
    pipeline: spec.Pipeline,
    *,
    signatures: Mapping[str, Signature] = EMPTY,
    known: Knows | None = None,
    near: Hint | None = None,
) -> list[str]:
    """Everything that is wrong with a pipeline; empty: nothing is.

    Args:
        name: The pipeline's.
        pipeline: As written.
        signatures: By step, of those that are known; tensors are followed as far as these tell.
        known: Says what models and pipelines there are; None: not looked at.
        near: What to add to a sentence about one that there is not, such as the nearest name.
    """
    if not pipeline.steps:
        return [*_name_faults(name), f"pipeline {name} has no steps defined"]
    found = [
        *_name_faults(name),
        *_step_name_faults(name, pipeline),
        *_kind_faults(name, pipeline, known, near),
        *_number_faults(name, pipeline),
        *_reference_faults(name, pipeline),
        *_output_faults(name, pipeline),
        *_external_faults(name, pipeline),
        *_condition_faults(name, pipeline),
        *_topic_faults(name, pipeline),
    ]
    if found:
        return found
    plan = compile_pipeline(name, pipeline)
    found = [*_cycle_faults(plan, pipeline), *_dead_faults(plan), *_mirror_faults(plan, pipeline)]
    return found or [*_collision_faults(plan, signatures), *_tensor_faults(plan, signatures)]


def flow_faults(name: str, pipeline: spec.Pipeline, signatures: Mapping[str, Signature]) -> list[str]:
    """Tensors that cannot flow through a pipeline that has no other faults, as far as its steps' signatures tell."""
    return list(_tensor_faults(compile_pipeline(name, pipeline), signatures))


def feeding_faults(pipelines: Mapping[str, spec.Pipeline]) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong between pipelines: references to others that are not there, and ways round without an end.

    Args:
        pipelines: All that there are, by name, each without faults of its own.

    Returns:
        For each fault, the pipelines that it is of, and the sentence.
    """
    found: list[tuple[tuple[str, ...], str]] = []
    names = sorted(pipelines)
    numbers = {name: number for number, name in enumerate(names)}
    successors: list[list[int]] = [[] for _ in names]
    for number, name in enumerate(names):
        pipeline = pipelines[name]
        for step in pipeline.steps:
            asked = step.pipeline or step.model
            if asked in pipelines and asked != name:  # asking itself is a fault of its own
                successors[number].append(numbers[asked])
        outside = pipeline.input or spec.Input()
        for text in (*outside.external_inputs, *outside.external_triggers):
            reference = references.parse_external(text)
            other = pipelines.get(reference.pipeline)
            if other is None:
                near = _near(reference.pipeline, names)
                missing = f"pipeline '{reference.pipeline}', which does not exist{near}"
                found.append(((name,), f"pipeline {name} input {text} is of {missing}"))
                continue
            steps = [step.name for step in other.steps]
            if reference.step and reference.step not in steps:
                near = _near(reference.step, steps)
                missing = f"step '{reference.step}', which does not exist{near}"
                found.append(((name,), f"pipeline {name} input {text} is of {missing}"))
            successors[numbers[reference.pipeline]].append(number)
    for cycle in order.cycles(successors):
        members = tuple(names[number] for number in cycle)
        around = " -> ".join([*members, members[0]])
        found.append((members, f"pipelines ask or feed each other in a cycle without a bound: {around}"))
    return found


# -- names and kinds --


def _name_faults(name: str) -> Iterator[str]:
    if not references.valid_name(name):
        yield (
            f"pipeline {name} does not have a valid name - it must be alphanmumeric and cannot contain dots (.); "
            f"'-' and '_' may be in it too"
        )


def _step_name_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    seen: set[str] = set()
    for step in pipeline.steps:
        if not references.valid_name(step.name):
            yield (
                f"pipeline {name} step {step.name!r} does not have a valid name; "
                f"expected letters, digits, '-' and '_', and no dots"
            )
        if step.name in seen:
            yield f"pipeline {name} has repeated step {step.name}"
        if step.name == name:
            yield (
                f"pipeline {name} must not have a step name with the same name as pipeline name; call the step "
                f"something else and say what it asks with `model`"
            )
        seen.add(step.name)


def _kind_faults(name: str, pipeline: spec.Pipeline, known: Knows | None, near: Hint | None) -> Iterator[str]:
    for step in pipeline.steps:
        where = f"pipeline {name} step {step.name}"
        said = [
            word
            for word, is_said in (
                ("model", bool(step.model)),
                ("pipeline", bool(step.pipeline)),
                ("python", bool(step.python)),
                ("combine", step.combine is not None),
                ("route", step.route is not None),
            )
            if is_said
        ]
        if len(said) > 1:
            yield f"{where} says {' and '.join(said)}; a step is one of them"
        if step.url and set(said) - {"model"}:
            yield f"{where} says url and {said[0]}; another server is asked for a model, not for that"
        if step.url and not step.url.startswith(("http://", "https://", "grpc://", "grpcs://")):
            yield f"{where} has url {step.url!r}; expected http://HOST:PORT or grpc://HOST:PORT"
        if step.pipeline == name:
            yield f"{where} asks the pipeline that it is a step of; such a cycle has no bound"
        if step.version and (step.combine is not None or step.route is not None or step.python):
            yield f"{where} has version '{step.version}', which only models and pipelines have"
        if step.route is not None:
            yield from _route_faults(where, step.route)
        if step.combine is not None:
            yield from _combine_faults(where, step)
        if step.batch is not None and step.batch.size and (step.combine is not None or step.route is not None):
            yield f"{where} has batch, which only steps that ask something have"
        if known is None or step.url or step.python or step.combine is not None or step.route is not None:
            continue
        kind, asked = ("pipeline", step.pipeline) if step.pipeline else ("model", step.model or step.name)
        if not known(kind, asked):
            hint = near(kind, asked) if near is not None else ""
            yield f"{where} asks {kind} '{asked}', which does not exist{hint}"


def _route_faults(where: str, route: spec.Route) -> Iterator[str]:
    names = [branch.name for branch in route.branches]
    if not names:
        yield f"{where} routes, but has no branches; expected one or more"
    for branch in names:
        if not references.valid_name(branch):
            yield f"{where} has a branch {branch!r}; expected letters, digits, '-' and '_', and no dots"
    for branch in sorted({each for each in names if names.count(each) > 1}):
        yield f"{where} has two branches named '{branch}'"
    for each in route.branches:
        if each.weight < 0:
            yield f"{where} branch '{each.name}' has weight {each.weight:g}; expected 0 or more"
        if each.when and route.type != "conditions":
            yield f"{where} branch '{each.name}' has a condition, but the router is of type {route.type}"
    if route.type == "weights" and names and not any(branch.weight > 0 for branch in route.branches):
        yield f"{where} has branches that all weigh 0; expected one that weighs more"
    if route.type == "epsilonGreedy":
        if not 0 <= route.epsilon <= 1:
            yield f"{where} has epsilon {route.epsilon:g}; expected 0 to 1"
        if route.best_branch and route.best_branch not in names:
            yield f"{where} has bestBranch '{route.best_branch}'; its branches are {', '.join(names)}"
    if route.type == "custom" and not route.reference:
        yield f"{where} has a custom router without a reference; expected `module:name` or `file.py:name`"


def _combine_faults(where: str, step: spec.Step) -> Iterator[str]:
    combine = step.combine
    assert combine is not None
    if not step.inputs:
        yield f"{where} combines, but has no inputs; expected the steps whose answers it combines"
    for key, weight in combine.weights.items():
        if key not in step.inputs:
            yield f"{where} has a weight for '{key}', which is none of its inputs{_near(key, step.inputs)}"
        if weight < 0:
            yield f"{where} has weight {weight:g} for '{key}'; expected 0 or more"
    weights = [combine.weights.get(each, 1.0) for each in step.inputs]
    if combine.type in {"weightedMean", "vote"} and weights and not any(weight > 0 for weight in weights):
        yield f"{where} has inputs that all weigh 0; expected one that weighs more"
    f = combine.parameters.get("f", 0 if combine.type in {"median", "vote"} else 1)
    least = {"krum": 3, "multi-krum": 3, "trimmed-mean": 1, "median": 1, "vote": 1}.get(combine.type, 0)
    if least and type(f) is int and len(step.inputs) < 2 * f + least:
        yield f"{where}: {combine.type} with f = {f} needs {2 * f + least} inputs; it has {len(step.inputs)}"
    if combine.type == "custom" and not combine.reference:
        yield f"{where} has a custom combiner without a reference; expected `module:name` or `file.py:name`"


def _number_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    numbers: list[tuple[str, str, int | None]] = [
        (f"pipeline {name}", "maxStepRevisits", pipeline.max_step_revisits),
        (f"pipeline {name}", "timeoutMs", pipeline.timeout_ms),
        (f"pipeline {name}", "partitions", pipeline.partitions),
        (f"pipeline {name}", "resultSeconds", pipeline.result_seconds),
    ]
    if pipeline.output is not None:
        numbers.append((f"pipeline {name} output", "joinWindowMs", pipeline.output.join_window_ms))
    if pipeline.input is not None:
        numbers.append((f"pipeline {name} input", "joinWindowMs", pipeline.input.join_window_ms))
    for step in pipeline.steps:
        where = f"pipeline {name} step {step.name}"
        numbers += [(where, "joinWindowMs", step.join_window_ms), (where, "timeoutMs", step.timeout_ms)]
        if step.batch is not None:
            numbers += [(where, "batch.size", step.batch.size), (where, "batch.windowMs", step.batch.window_ms)]
    for where, field, number in numbers:
        if number is not None and number < 0:
            yield f"{where} has {field} {number}; expected 0 or more"


# -- references --


def _reference_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    for step in pipeline.steps:
        where = f"pipeline {name} step {step.name}"
        taken: list[Reference] = []
        for what, texts in (("input", step.inputs), ("trigger", step.triggers)):
            for text in texts:
                if not text.strip():
                    yield f"{where} has an empty {what}"
                    continue
                try:
                    reference = references.parse(text, pipeline=name)
                except InvalidRequest as exc:
                    yield f"pipeline step {what} invalid {where} {what} step {text}. {exc}"
                    continue
                fault = _unknown(pipeline, reference)
                if fault:
                    yield f"{where} has {what} {text} for {fault}"
                elif what == "input":
                    taken.append(reference)
        for each in sorted({each for each in step.inputs if step.inputs.count(each) > 1}):
            yield f"{where} has input {each} twice"
        for each in step.triggers:
            if each in step.inputs:
                yield f"pipeline {name} : inputs and triggers must differ, but found {each} in both"
        if not step.inputs:
            taken.append(Reference(step="", side="inputs"))
        yield from _tensor_map_faults(name, pipeline, where, step.tensor_map, taken)


def _tensor_map_faults(
    name: str, pipeline: spec.Pipeline, where: str, tensor_map: Mapping[str, str], taken: Sequence[Reference]
) -> Iterator[str]:
    """A key must name one tensor of a stream that is taken, and no two of one stream become one."""
    new_names: dict[tuple[tuple[str, str, str], str], str] = {}
    for key, new in tensor_map.items():
        try:
            reference = references.parse(key, pipeline=name)
        except InvalidRequest as exc:
            yield f"{where} tensorMap key '{key}' is invalid: {exc}"
            continue
        if not new:
            yield f"{where} tensorMap gives '{key}' an empty name"
        if not reference.tensor:
            yield f"{where} tensorMap key '{key}' names no tensor; expected e.g. {key}.TENSOR"
            continue
        fault = _unknown(pipeline, reference)
        streams = [each for each in taken if each.port == reference.port]
        if fault:
            yield f"{where} tensorMap key '{key}' is for {fault}"
        elif not streams:
            yield f"{where} tensorMap key '{key}' names nothing: it takes nothing from there"
        elif all(each.tensor not in {"", reference.tensor} for each in streams):
            tensors = ", ".join(sorted(each.tensor for each in streams))
            near = _near(reference.tensor, [each.tensor for each in streams])
            yield f"{where} tensorMap key '{key}' names nothing: of that it takes only {tensors}{near}"
        elif (reference.port, new) in new_names:
            yield f"{where} tensorMap gives both '{new_names[reference.port, new]}' and '{key}' the name '{new}'"
        new_names.setdefault((reference.port, new), key)


def _unknown(pipeline: spec.Pipeline, reference: Reference) -> str:
    """What is not there of what a reference names, as the end of a sentence; empty: all is."""
    if not reference.step:
        return ""
    step = next((each for each in pipeline.steps if each.name == reference.step), None)
    if step is None:
        return f"step that does not exist{_near(reference.step, [each.name for each in pipeline.steps])}"
    if reference.side != "branches":
        return ""
    if step.route is None:
        return f"branch '{reference.branch}' of step {step.name}, which is no router"
    branches = [branch.name for branch in step.route.branches]
    if reference.branch in branches:
        return ""
    return f"branch '{reference.branch}' that does not exist; step {step.name} has {', '.join(branches)}" + _near(
        reference.branch, branches
    )


def _output_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    output = pipeline.output
    fed = pipeline.input is not None and pipeline.input.external_inputs
    if output is None:
        if len(pipeline.steps) > 1 and not fed:
            yield f"multi step pipeline {name} must specify output"
        return
    if not output.steps:
        yield f"pipeline {name} must have a non empty output"
    taken: list[Reference] = []
    for text in output.steps:
        try:
            reference = references.parse(text, pipeline=name)
        except InvalidRequest as exc:
            yield f"pipeline {name} output specifier {text} invalid: {exc}"
            continue
        fault = _unknown(pipeline, reference)
        if not fault:
            taken.append(reference)
        elif reference.side == "branches" and "branch" in fault:
            yield f"pipeline {name} output {text} is for {fault}"
        else:
            near = _near(reference.step, [each.name for each in pipeline.steps])
            yield f"pipeline {name} output step {reference.step} not found{near}"
    for each in sorted({each for each in output.steps if output.steps.count(each) > 1}):
        yield f"pipeline {name} output has {each} twice"
    yield from _tensor_map_faults(name, pipeline, f"pipeline {name} output", output.tensor_map, taken)


def _external_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    outside = pipeline.input
    if outside is None:
        return
    for text in (*outside.external_inputs, *outside.external_triggers):
        try:
            reference = references.parse_external(text)
        except InvalidRequest as exc:
            yield f"pipeline {name} input {text} is invalid. {exc}"
            continue
        if reference.pipeline == name:
            yield f"pipeline {name} input {text} is invalid. A pipeline cannot be fed by itself"
    for text in outside.external_triggers:
        if text in outside.external_inputs:
            yield f"pipeline {name} : inputs and triggers must differ, but found {text} in both"
    if outside.external_triggers and not outside.external_inputs:
        yield f"pipeline {name} input has externalTriggers, but no externalInputs for them to let pass"
    for key in outside.tensor_map:
        try:
            reference = references.parse_external(key)
        except InvalidRequest as exc:
            yield f"pipeline {name} input tensorMap key '{key}' is invalid: {exc}"
            continue
        whole = key.removesuffix(f".{reference.tensor}") if reference.tensor else key
        if not reference.tensor:
            yield f"pipeline {name} input tensorMap key '{key}' names no tensor"
        elif key not in outside.external_inputs and whole not in outside.external_inputs:
            yield f"pipeline {name} input tensorMap key '{key}' names nothing that externalInputs takes"


def _condition_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    for step in pipeline.steps:
        written = [(f"pipeline {name} step {step.name}", step.when)]
        if step.route is not None:
            written += [
                (f"pipeline {name} step {step.name} branch '{branch.name}'", branch.when)
                for branch in step.route.branches
            ]
        for where, text in written:
            if not text:
                continue
            try:
                conditions.condition(text)
            except InvalidRequest as exc:
                yield f"{where} has a condition that cannot be understood: {exc}"


def _topic_faults(name: str, pipeline: spec.Pipeline) -> Iterator[str]:
    if pipeline.durability != "kafka":
        for field, said in (("topics", pipeline.topics != "none"), ("partitions", pipeline.partitions > 0)):
            if said:
                yield f"pipeline {name} has {field}, but no topics; expected durability: kafka beside it"
    if isinstance(pipeline.topics, str):
        return
    known = [f"{step.name}.{side}" for step in pipeline.steps for side in ("inputs", "outputs")]
    for text in pipeline.topics:
        if text not in known:
            yield (
                f"pipeline {name} topics has '{text}', which nothing is written of; expected STEP.inputs or "
                f"STEP.outputs of a step that there is{_near(text, known)}"
            )
    for each in sorted({each for each in pipeline.topics if pipeline.topics.count(each) > 1}):
        yield f"pipeline {name} topics has {each} twice"


# -- the shape of the graph --


def _cycle_faults(plan: Plan, pipeline: spec.Pipeline) -> Iterator[str]:
    for cycle in plan.cycles:
        around = " -> ".join([plan.nodes[index].name for index in (*cycle.nodes, cycle.nodes[0])])
        if not pipeline.allow_cycles:
            yield f"pipeline {plan.name} has a cycle: {around}; allowCycles is false"
        elif pipeline.max_step_revisits < 1:
            yield (
                f"pipeline {plan.name} has a cycle without a bound: {around}; "
                f"expected maxStepRevisits of 1 or more, found {pipeline.max_step_revisits}"
            )


def _dead_faults(plan: Plan) -> Iterator[str]:
    """Steps that can never run: nothing that they must have ever comes."""
    givers = {port: node.index for node in plan.nodes if node.kind != "output" for port in node.ports}
    alive: set[int] = set()
    grown = True
    while grown:
        grown = False
        for node in plan.nodes:
            if node.index not in alive and _comes_alive(node, givers, alive):
                alive.add(node.index)
                grown = True
    for node in plan.nodes:
        if node.index in alive:
            continue
        missing = [slot.reference for slot in node.slots if givers.get(slot.port, -1) not in {*alive, -1}]
        what = "output" if node.kind == "output" else f"step {node.name}"
        yield (
            f"pipeline {plan.name} {what} can never run: what it takes ({', '.join(missing)}) comes from no source; "
            f"expected a way from {plan.name}.inputs (a cycle is entered by inputsJoinType any)"
        )


def _comes_alive(node: Node, givers: Mapping[int, int], alive: Collection[int]) -> bool:
    def comes(slots: Sequence[Slot], *, every: bool) -> bool:
        each = [givers.get(slot.port, -1) in {*alive, -1} for slot in slots]
        return all(each) if every else any(each)

    inputs, triggers = node.slots[: node.inputs], node.slots[node.inputs :]
    return comes(inputs, every=node.join == "inner") and (
        not triggers or comes(triggers, every=node.triggers_join == "inner")
    )


def _mirror_faults(plan: Plan, pipeline: spec.Pipeline) -> Iterator[str]:
    successors: list[list[int]] = [[] for _ in plan.nodes]
    for node in plan.nodes[:-1]:
        successors[node.index] = sorted({taker for port in node.ports for taker, _ in plan.deliveries[port]})
    output = len(plan.nodes) - 1
    for step, node in zip(pipeline.steps, plan.nodes, strict=False):
        if step.mirror and output in order.reached(successors, [node.index]) and plan.answers:
            yield (
                f"pipeline {plan.name} step {step.name} is a mirror, for which nobody waits, but the output depends on "
                f"what it answers"
            )


# -- tensors --


def _collision_faults(plan: Plan, signatures: Mapping[str, Signature]) -> Iterator[str]:
    """Two tensors of one name in one message."""
    places = Places(plan, signatures)
    for node in plan.nodes:
        merges = node.kind != "combine" and node.join not in {"any", "last"} and not node.repeats
        if not merges or node.inputs < 2 or not plan.answers:
            continue
        givers: dict[str, str] = {}
        for slot in node.slots[: node.inputs]:
            known = places.through(slot)
            names = set(known) if known is not None else {renamed(slot, each) for each in slot.tensors}
            for each in sorted(names):
                if each in givers:
                    remedy = "tensorMap or byStep" if node.kind == "output" else "tensorMap"
                    what = "output" if node.kind == "output" else f"step {node.name}"
                    yield (
                        f"pipeline {plan.name} {what} has two tensors named '{each}', from {givers[each]} and "
                        f"{slot.reference}; expected names that differ: rename one with {remedy}"
                    )
                givers.setdefault(each, slot.reference)


def _tensor_faults(plan: Plan, signatures: Mapping[str, Signature]) -> Iterator[str]:
    """Tensors that cannot flow, as far as signatures tell."""
    places = Places(plan, signatures)
    for node in plan.nodes:
        what = "output" if node.kind == "output" else f"step {node.name}"
        where = f"pipeline {plan.name} {what}"
        yield from _absent(node, where, places, signatures, plan)
        signature = signatures.get(node.name) if node.kind == "model" else None
        if signature is None or not signature.inputs:
            continue
        entering = [places.through(slot) for slot in node.slots[: node.inputs]]
        if node.join == "any" and len(entering) > 1:
            for slot, known in zip(node.slots, entering, strict=False):
                if known is not None:
                    yield from _misfits(f"{where} input {slot.reference}", known, signature, complete=True)
            continue
        merged = {each: spec_ for known in entering if known is not None for each, spec_ in known.items()}
        complete = node.join == "inner" and None not in entering
        yield from _misfits(where, merged, signature, complete=complete)


def _absent(node: Node, where: str, places: Places, signatures: Mapping[str, Signature], plan: Plan) -> Iterator[str]:
    """Tensors that are named, but that nobody gives."""
    for slot in node.slots:
        known = _all_at(slot.port, places, signatures, plan)
        if known is None:
            continue
        for each in sorted({*slot.tensors, *slot.renames} - set(known)):
            step = slot.reference.split(".")[0]
            yield (
                f"{where} takes tensor '{each}' of {step}, which gives {', '.join(known) or 'none'}{_near(each, known)}"
            )


def _all_at(port: int, places: Places, signatures: Mapping[str, Signature], plan: Plan) -> Known:
    """What leaves by a port, with the outputs that a step gives only when it is asked for them."""
    for node in plan.nodes:
        if node.kind == "model" and node.outputs_port == port:
            signature = signatures.get(node.name)
            return {each.name: each for each in signature.outputs} if signature and signature.outputs else None
    return places.at(port)


def _misfits(where: str, entering: Mapping[str, TensorSpec], signature: Signature, *, complete: bool) -> Iterator[str]:
    """What a step would not take.

    Args:
        where: The step, for sentences.
        entering: What comes, as far as it is known.
        signature: What the step expects.
        complete: That is all that comes.
    """
    expected = {each.name: each for each in signature.inputs}
    if len(expected) == 1 and len(entering) == 1:  # whatever its name, it is the one that is meant
        (lone,), (found,) = expected.values(), entering.values()
        yield from _misfit(where, found, lone, strict=signature.strict)
        return
    if not signature.strict and len(expected) == 1 and not set(entering) & set(expected):
        return
    for name, found in entering.items():
        if name in expected:
            yield from _misfit(where, found, expected[name], strict=signature.strict)
        elif signature.strict:
            yield (
                f"{where} gets tensor '{name}', which it does not take; expected {', '.join(expected)}"
                f"{_near(name, expected)}; rename it with tensorMap"
            )
    if complete and signature.strict:
        for name, each in expected.items():
            if name not in entering and not each.optional:
                found_names = ", ".join(entering) or "none"
                yield f"{where} expects tensor '{name}' ({_described(each)}), but gets only {found_names}"


def _misfit(where: str, found: TensorSpec, expected: TensorSpec, *, strict: bool) -> Iterator[str]:
    datatype = (
        found.datatype == expected.datatype if strict else (found.datatype == "BYTES") == (expected.datatype == "BYTES")
    )
    if datatype and _fits(found.shape, expected.shape, strict=strict):
        return
    yield f"{where} tensor '{found.name}': expected {_described(expected)}, found {_described(found)}"


def _fits(found: Sequence[int], expected: Sequence[int], *, strict: bool) -> bool:
    """Whether a shape may be another: -1 is any length. An empty shape is one that nobody stated."""
    if not found or not expected:
        return True
    if not strict and len(found) != len(expected):
        longer, shorter = (found, expected) if len(found) > len(expected) else (expected, found)
        if len(longer) != len(shorter) + 1 or longer[-1] not in {1, -1}:
            return False
        return _fits(longer[:-1], shorter, strict=True)
    return len(found) == len(expected) and all(
        -1 in {one, other} or one == other for one, other in zip(found, expected, strict=True)
    )


def _described(each: TensorSpec) -> str:
    return f"{each.datatype} [{','.join(map(str, each.shape))}]" if each.shape else each.datatype


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near and near[0] != name else ""
