"""A pipeline's spec as a plan: numbered nodes, ports and slots, everything a request needs looked up beforehand.
`run` compiles once, `flow` reads it for each request. Pure.

Messages leave a node by a *port* (what it was asked, what it answered, one port for each branch of a router) and enter
another by a *slot*, which keeps the tensors wanted there and renames them. Port 0 is what the pipeline was asked; the
last node is the pipeline's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from headrace.errors import InvalidRequest
from headrace.graph import order, references, spec
from headrace.graph.references import Reference
from headrace.payload import EMPTY, Tensor

Message = tuple[Tensor, ...]
Kind = Literal["model", "combine", "route", "output"]
JoinKind = Literal["inner", "outer", "any", "last"]

REQUEST: Final = 0
"""The port by which the pipeline's own inputs come."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of messages into a node."""

    port: int
    reference: str
    """As written; of several that share the stream, the first."""
    tensors: frozenset[str] = frozenset()
    """Those that are kept; empty: all."""
    renames: Mapping[str, str] = EMPTY
    """The giver's name to the taker's."""
    prefix: str = ""
    """Put before the names that `renames` leaves alone."""
    cyclic: bool = False
    """It comes from a cycle: a message without the wanted tensors says nothing of the next."""
    around: bool = False
    """It comes from the node's own cycle, so again and again, and running uses it up."""
    latest: bool = False
    """The latest message counts until the node runs; else the first is the one."""
    forgets: bool = False
    """A message without the wanted tensors takes the place of one that had them."""

    @property
    def plain(self) -> bool:
        """It takes every message as it is."""
        return not (self.tensors or self.renames or self.prefix)

    def pick(self, message: Message) -> Message | None:
        """The wanted tensors by their new names, in order; None when there is none of them."""
        if not self.tensors and not self.renames and not self.prefix:
            return message
        kept = [tensor for tensor in message if tensor.name in self.tensors] if self.tensors else message
        if self.tensors and not kept:
            return None
        return tuple([self._renamed(tensor) for tensor in kept])

    def _renamed(self, tensor: Tensor) -> Tensor:
        name = self.renames.get(tensor.name)
        if name is None:
            if not self.prefix:
                return tensor
            name = f"{self.prefix}.{tensor.name}"
        return Tensor(name, tensor.datatype, tensor.data, tensor.parameters, tensor.nested)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One step, or the output."""

    index: int
    name: str
    kind: Kind
    slots: tuple[Slot, ...]
    """Inputs, then triggers."""
    inputs: int
    """How many of the slots are inputs."""
    join: JoinKind
    triggers_join: spec.Join = "inner"
    window_seconds: float = spec.JOIN_WINDOW_MS / 1000
    aside: bool = False
    """The answer does not depend on it: it runs off the caller's path."""
    cycle: int = -1
    """Which of the plan's cycles it is on; -1: none."""
    inputs_port: int = 0
    outputs_port: int = 0
    branch_ports: Mapping[str, int] = EMPTY
    direct: bool = False
    """It has one slot, off any cycle, and takes the message as it is: a wanted one is all it needs to run."""
    of_request: bool = False
    """All its tensors are the request's own, so the request's parameters describe them."""
    repeats: bool = False
    """Several of its tensors may have one name."""

    @property
    def ports(self) -> tuple[int, ...]:
        """All by which messages may leave it."""
        return (self.inputs_port, self.outputs_port, *self.branch_ports.values())


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that lie on cycles together."""

    nodes: tuple[int, ...]
    entries: int
    """Slots through which messages come in from outside."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one request needs to flow through a pipeline."""

    name: str
    nodes: tuple[Node, ...]
    """The steps in their order, and last the output."""
    deliveries: tuple[tuple[tuple[int, int], ...], ...]
    """By port: node and slot of everybody who takes from it."""
    cycles: tuple[Cycle, ...] = ()
    max_visits: int = 1
    """How often one step on a cycle may run for one request."""
    answers: bool = True
    """False: there is no output, so nothing comes back but the fact that all is done."""
    chain: tuple[int, ...] = ()
    """The steps in order when each takes all it takes from the one before, and nothing else is to be decided."""
    has_aside: bool = False


def compile_pipeline(name: str, pipeline: spec.Pipeline) -> Plan:
    """The plan of a pipeline that `check.faults` found nothing in.

    Raises:
        InvalidRequest: a reference cannot be followed.
    """
    steps = pipeline.steps
    ports = _ports(pipeline)
    output_slots = _output_slots(name, pipeline, ports)
    output = len(steps)

    drafts = [_slots(name, step, ports) for step in steps] + [(output_slots, ())]
    givers = _givers(ports)
    successors = _successors(drafts, givers)
    components = order.cycles(successors)
    cycle_of = {node: number for number, component in enumerate(components) for node in component}
    heard = order.reached(order.reversed_edges(successors), [output]) if output_slots else set(range(output + 1))

    nodes = []
    for index, (inputs, triggers) in enumerate(drafts):
        ports_taken = [slot.port for slot in (*inputs, *triggers)]
        slots = tuple(
            [
                _placed(slot, index, givers, cycle_of, paired=ports_taken.count(slot.port) > 1)
                for slot in (*inputs, *triggers)
            ]
        )
        nodes.append(
            _output_node(index, pipeline, slots)
            if index == output
            else _step_node(index, steps[index], slots, len(inputs), ports)
        )
    nodes = [
        msgspec.structs.replace(
            node,
            cycle=cycle_of.get(node.index, -1),
            direct=len(node.slots) == 1 and node.index not in cycle_of and node.kind != "combine",
            aside=node.index != output and (node.index not in heard or steps[node.index].mirror),
        )
        for node in nodes
    ]
    answers = pipeline.output is not None or len(steps) == 1
    return Plan(
        name=name,
        nodes=tuple(nodes),
        deliveries=_deliveries(nodes, 1 + max(ports.values())),
        cycles=tuple([_cycle(component, nodes) for component in components]),
        max_visits=pipeline.max_step_revisits + 1,
        answers=answers,
        chain=_chain(pipeline, nodes) if answers else (),
        has_aside=any(node.aside for node in nodes),
    )


Port = tuple[str, str, str]


def _ports(pipeline: spec.Pipeline) -> dict[Port, int]:
    """Numbers of ports, by step, side and branch."""
    ports: dict[Port, int] = {("", "inputs", ""): REQUEST}
    for step in pipeline.steps:
        ports[step.name, "inputs", ""] = len(ports)
        ports[step.name, "outputs", ""] = len(ports)
    for step in pipeline.steps:
        if step.route is not None:
            for branch in step.route.branches:
                ports[step.name, "branches", branch.name] = len(ports)
    return ports


def _slots(name: str, step: spec.Step, ports: Mapping[Port, int]) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """Of inputs and of triggers. References to one port share a slot, except where a combiner tells them apart."""
    where = f"pipeline '{name}' step '{step.name}'"
    inputs = step.inputs or (name,)
    renames = _renames(name, step.tensor_map, ports, where=where)
    parsed = [(text, _parse(text, name, where)) for text in inputs]
    groups = [[each] for each in parsed] if step.combine is not None else _grouped(parsed)
    return (
        tuple([_slot(group, renames, ports, where) for group in groups]),
        tuple(
            [
                _slot(group, {}, ports, where)
                for group in _grouped([(text, _parse(text, name, where)) for text in step.triggers])
            ]
        ),
    )


def _output_slots(name: str, pipeline: spec.Pipeline, ports: Mapping[Port, int]) -> tuple[Slot, ...]:
    where = f"pipeline '{name}' output"
    output = pipeline.output or spec.Output(steps=tuple([step.name for step in pipeline.steps if not step.mirror]))
    renames = _renames(name, output.tensor_map, ports, where=where)
    groups = _grouped([(text, _parse(text, name, where)) for text in output.steps])
    return tuple(
        [
            _slot(group, renames, ports, where, prefix=(group[0][1].step or name) if output.by_step else "")
            for group in groups
        ]
    )


def _grouped(parsed: Sequence[tuple[str, Reference]]) -> list[list[tuple[str, Reference]]]:
    groups: dict[Port, list[tuple[str, Reference]]] = {}
    for text, reference in parsed:
        groups.setdefault(reference.port, []).append((text, reference))
    return list(groups.values())


def _slot(
    group: Sequence[tuple[str, Reference]],
    renames: Mapping[Port, Mapping[str, str]],
    ports: Mapping[Port, int],
    where: str,
    *,
    prefix: str = "",
) -> Slot:
    text, first = group[0]
    wanted = [reference.tensor for _, reference in group]
    return Slot(
        port=_port(ports, first.port, text, where),
        reference=text,
        tensors=frozenset() if "" in wanted else frozenset(wanted),
        renames=renames.get(first.port, EMPTY),
        prefix=prefix,
    )


def _renames(
    name: str, tensor_map: Mapping[str, str], ports: Mapping[Port, int], *, where: str
) -> dict[Port, dict[str, str]]:
    renames: dict[Port, dict[str, str]] = {}
    for key, new in tensor_map.items():
        reference = _parse(key, name, where)
        _port(ports, reference.port, key, where)
        renames.setdefault(reference.port, {})[reference.tensor] = new
    return renames


def _parse(text: str, name: str, where: str) -> Reference:
    try:
        return references.parse(text, pipeline=name)
    except InvalidRequest as exc:
        raise InvalidRequest(f"{where}: {exc}") from exc


def _port(ports: Mapping[Port, int], port: Port, text: str, where: str) -> int:
    if port not in ports:
        raise InvalidRequest(f"{where}: '{text}' names no step or branch that there is")
    return ports[port]


def _givers(ports: Mapping[Port, int]) -> dict[int, int]:
    """Port to the node that it belongs to; -1: the caller."""
    givers = {REQUEST: -1}
    names: dict[str, int] = {}
    for (step, _, _), port in ports.items():
        if step:
            givers[port] = names.setdefault(step, len(names))
    return givers


def _successors(
    drafts: Sequence[tuple[tuple[Slot, ...], tuple[Slot, ...]]], givers: Mapping[int, int]
) -> list[list[int]]:
    successors: list[list[int]] = [[] for _ in drafts]
    for index, (inputs, triggers) in enumerate(drafts):
        for slot in (*inputs, *triggers):
            if givers[slot.port] >= 0:
                successors[givers[slot.port]].append(index)
    return successors


def _placed(slot: Slot, node: int, givers: Mapping[int, int], cycle_of: Mapping[int, int], *, paired: bool) -> Slot:
    """A slot with how it stands to cycles. Slots of one node that share a port change together, with each message."""
    giver = givers[slot.port]
    if giver not in cycle_of:
        return slot
    around = cycle_of.get(node) == cycle_of[giver]
    latest = around or node not in cycle_of
    return msgspec.structs.replace(
        slot, cyclic=True, around=around, latest=latest, forgets=around or (latest and paired)
    )


def _step_node(index: int, step: spec.Step, slots: tuple[Slot, ...], inputs: int, ports: Mapping[Port, int]) -> Node:
    window = spec.JOIN_WINDOW_MS if step.join_window_ms is None else step.join_window_ms
    return Node(
        index=index,
        name=step.name,
        kind="combine" if step.combine is not None else "route" if step.route is not None else "model",
        slots=slots,
        inputs=inputs,
        join=step.inputs_join_type,
        triggers_join=step.triggers_join_type,
        window_seconds=window / 1000,
        inputs_port=ports[step.name, "inputs", ""],
        outputs_port=ports[step.name, "outputs", ""],
        branch_ports={
            branch.name: ports[step.name, "branches", branch.name]
            for branch in (step.route.branches if step.route is not None else ())
        },
        of_request=all(slot.port == REQUEST for slot in slots[:inputs]),
    )


def _output_node(index: int, pipeline: spec.Pipeline, slots: tuple[Slot, ...]) -> Node:
    output = pipeline.output or spec.Output(steps_join="outer" if len(pipeline.steps) > 1 else "inner")
    window = spec.JOIN_WINDOW_MS if output.join_window_ms is None else output.join_window_ms
    return Node(
        index=index,
        name="output",
        kind="output",
        slots=slots,
        inputs=len(slots),
        join=output.steps_join,
        window_seconds=window / 1000,
        repeats=output.repeats,
    )


def _deliveries(nodes: Sequence[Node], ports: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    takers: list[list[tuple[int, int]]] = [[] for _ in range(ports)]
    for node in nodes:
        for number, slot in enumerate(node.slots):
            takers[slot.port].append((node.index, number))
    return tuple([tuple(each) for each in takers])


def _cycle(component: Sequence[int], nodes: Sequence[Node]) -> Cycle:
    return Cycle(
        nodes=tuple(component),
        entries=sum([1 for index in component for slot in nodes[index].slots if not slot.around]),
    )


def _chain(pipeline: spec.Pipeline, nodes: Sequence[Node]) -> tuple[int, ...]:
    """The steps in order, when a loop over them is all there is to do."""
    if pipeline.timeout_ms or any(_decides(step) for step in pipeline.steps):
        return ()
    if any(len(node.slots) != 1 for node in nodes):
        return ()
    taker = {node.slots[0].port: node for node in nodes}
    chain: list[int] = []
    node = taker.get(REQUEST)
    while node is not None and node.kind != "output":
        chain.append(node.index)
        node = taker.get(node.outputs_port)
    return tuple(chain) if node is not None and len(chain) == len(pipeline.steps) == len(taker) - 1 else ()


def _decides(step: spec.Step) -> bool:
    """Whether there is more to the step than asking it and going on."""
    return (
        step.combine is not None
        or step.route is not None
        or bool(step.when)
        or step.mirror
        or step.dependency == "soft"
        or step.timeout_ms > 0
    )
