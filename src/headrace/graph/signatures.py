"""What is known of the tensors at every place of a pipeline from its steps' signatures. `check` compares it with what
steps expect, `run` tells callers of it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from headrace.graph import spec
from headrace.graph.compile import REQUEST, Node, Plan, Slot, compile_pipeline
from headrace.payload import Signature, TensorSpec

Known = dict[str, TensorSpec] | None
"""Tensors by name; None: nothing is known of them, not even which there are."""


class Places:
    """The tensors at each port of a plan, as far as signatures tell.

    Args:
        plan: The pipeline's.
        signatures: By step.
    """

    def __init__(self, plan: Plan, signatures: Mapping[str, Signature | None]) -> None:
        self._plan = plan
        self._signatures = signatures
        self._givers = {port: node for node in plan.nodes if node.kind != "output" for port in node.ports}
        self._looking: set[int] = set()

    def at(self, port: int) -> Known:
        """What leaves by a port."""
        node = self._givers.get(port)
        if node is None or port in self._looking:
            return None
        if node.kind == "model" and port == node.outputs_port:
            signature = self._signatures.get(node.name)
            return outputs(signature, wanted(self._plan, node, signature))
        if node.kind == "combine" and port == node.outputs_port:
            return None
        self._looking.add(port)
        try:
            return self.into(node)
        finally:
            self._looking.discard(port)

    def through(self, slot: Slot) -> Known:
        """What enters by a slot, by the names that the taker knows."""
        known = self.at(slot.port)
        if known is None:
            return None
        kept = {name: each for name, each in known.items() if not slot.tensors or name in slot.tensors}
        return {
            new: msgspec.structs.replace(each, name=new) for name, each in kept.items() for new in [renamed(slot, name)]
        }

    def into(self, node: Node) -> Known:
        """What a node gets, all its inputs together."""
        merged: dict[str, TensorSpec] = {}
        for slot in node.slots[: node.inputs]:
            known = self.through(slot)
            if known is None:
                return None
            merged |= known
        return merged

    def of_request(self, slot: Slot) -> bool:
        """Whether what enters by a slot is the request as it came: at once, or through routers that pass it on."""
        if slot.port == REQUEST:
            return True
        node = self._givers[slot.port]
        if node.kind != "route" or node.cycle >= 0 or len(node.slots) != 1 or not node.slots[0].plain:
            return False
        return self.of_request(node.slots[0])


def outputs(signature: Signature | None, asked: tuple[str, ...] = ()) -> Known:
    """What a step gives when it is asked for these, or for nothing; None where its signature does not say."""
    if signature is None or not signature.outputs:
        return None
    names = asked or signature.default_outputs
    return {each.name: each for each in signature.outputs if not names or each.name in names}


def wanted(plan: Plan, node: Node, signature: Signature | None) -> tuple[str, ...]:
    """The outputs that a step must be asked for, as somebody takes one of them that it does not give unasked; empty:
    what it gives unasked will do.
    """
    if signature is None or not signature.default_outputs or node.kind != "model":
        return ()
    slots = [plan.nodes[taker].slots[number] for taker, number in plan.deliveries[node.outputs_port]]
    named = {tensor for slot in slots for tensor in (*slot.tensors, *slot.renames)}
    if named <= set(signature.default_outputs):
        return ()
    if not all(slot.tensors for slot in slots):
        named |= set(signature.default_outputs)
    return tuple([each.name for each in signature.outputs if each.name in named])


def renamed(slot: Slot, name: str) -> str:
    """A tensor's name beyond a slot."""
    new = slot.renames.get(name)
    return new if new is not None else f"{slot.prefix}.{name}" if slot.prefix else name


def pipeline_signature(name: str, pipeline: spec.Pipeline, signatures: Mapping[str, Signature | None]) -> Signature:
    """What a pipeline takes and gives, as far as its steps' signatures tell.

    Args:
        name: The pipeline's.
        pipeline: Without faults.
        signatures: By step; None where a step's is not known.
    """
    plan = compile_pipeline(name, pipeline)
    places = Places(plan, signatures)
    inputs: dict[str, TensorSpec] = {}
    for node in plan.nodes[:-1]:
        signature = signatures.get(node.name)
        if node.kind != "model" or signature is None:
            continue
        for taken in _taken(node, signature, places):
            inputs.setdefault(taken.name, taken)
    given: dict[str, TensorSpec] = {}
    if plan.answers:
        for slot in plan.nodes[-1].slots:
            for each in (places.through(slot) or {}).values():
                given.setdefault(each.name, each)
    known = [signature for signature in signatures.values() if signature is not None]
    return Signature(
        platform="pipeline",
        inputs=tuple(inputs.values()),
        outputs=tuple(given.values()),
        strict=False,
        batchable=len(known) == len(signatures) and all(each.batchable for each in known),
        content_type=_content_type(plan, signatures),
    )


def _taken(node: Node, signature: Signature, places: Places) -> list[TensorSpec]:
    """The tensors of the request that a step takes, by the names that the request knows them by."""
    by_name = {each.name: each for each in signature.inputs}
    lone = signature.inputs[0] if len(signature.inputs) == 1 and not signature.strict else None
    elsewhere: set[str] = set()
    for slot in node.slots[: node.inputs]:
        if not places.of_request(slot):
            known = places.through(slot)
            elsewhere |= set(known) if known is not None else {renamed(slot, each) for each in slot.tensors}
    taken = []
    for slot in node.slots[: node.inputs]:
        if not places.of_request(slot):
            continue
        back = {new: old for old, new in slot.renames.items()}
        if slot.tensors:
            wanted = {each: by_name.get(renamed(slot, each), lone) for each in sorted(slot.tensors)}
        else:
            wanted = {back.get(each.name, each.name): each for each in signature.inputs if each.name not in elsewhere}
        optional = node.join != "inner" and node.inputs > 1
        taken += [
            msgspec.structs.replace(each, name=name, optional=each.optional or optional)
            for name, each in wanted.items()
            if each is not None
        ]
    return taken


def _content_type(plan: Plan, signatures: Mapping[str, Signature | None]) -> str:
    """The request-level codec, where the steps that take the request agree on one."""
    kinds = {
        signature.content_type
        for node in plan.nodes[:-1]
        if node.of_request and (signature := signatures.get(node.name)) is not None
    }
    return kinds.pop() if len(kinds) == 1 else ""
