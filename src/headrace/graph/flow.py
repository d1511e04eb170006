"""One request's way through a plan: which step can run now, which never will, and what the answer is. Pure; `run` asks
it what to do and tells it what came of that.

A slot is empty, holds a message, or is *barren*: nothing can come there any more. A step whose join cannot be met is
dead, and so are its own ports, at once: whoever waits for it learns so without waiting for a window.

On cycles nothing is final while anything on the cycle runs or can still come in. Each arrival may run a step again;
what came around the cycle is used up by that, what came from outside stays. When a cycle is quiet, outer joins on it
that hold something run with that; when there are none, it is over, and its ports are barren. A step off the cycle that
takes from it runs once, with the first message that has what it wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from headrace.errors import HeadraceError, InvalidRequest, RuntimeFailed
from headrace.graph.compile import REQUEST, Message, Node, Plan
from headrace.payload import Tensor


class _Mark(Enum):
    BARREN = "nothing can come"
    SPENT = "it came, and an `any` join has passed it on"


_BARREN: Final = _Mark.BARREN
_SPENT: Final = _Mark.SPENT
_Held = Message | _Mark | None

Given = Message | Mapping[str, Message]
"""What a step gets: a combiner its messages by reference, others one message."""


class Flow:
    """The state of one request. Each method is told of one event; afterwards `ready` and `aside` list who can run.

    Attributes:
        ready: Steps to run now, with what they get; the caller takes them out.
        aside: The same for steps that the answer does not depend on.
        settled: Whether it is known what the answer is.
        answer: The answer's tensors once settled; None when none can be given.
    """

    __slots__ = (
        "_busy",
        "_cycles_open",
        "_dying",
        "_fresh",
        "_held",
        "_on_path",
        "_over",
        "_partial",
        "_plan",
        "_visits",
        "_waiting",
        "answer",
        "aside",
        "ready",
        "reasons",
        "settled",
        "stopped",
    )

    def __init__(self, plan: Plan) -> None:
        self.ready: list[tuple[int, Given]] = []
        self.aside: list[tuple[int, Given]] = []
        self.settled = False
        self.answer: Message | None = None
        self.stopped: Message | None = None
        """What a router got that chose no branch."""
        self.reasons: list[Reason] = []
        self._plan = plan
        self._held: list[list[_Held]] = [[None] * len(node.slots) for node in plan.nodes]
        self._waiting = [True] * len(plan.nodes)
        self._on_path = True
        self._dying: list[int] = []
        self._partial: dict[int, float | None] = {}
        self._cycles_open = [cycle.entries for cycle in plan.cycles]
        self._busy = [0] * len(plan.cycles)
        self._over = [False] * len(plan.cycles)
        self._visits: dict[int, int] = {}
        self._fresh: set[int] = set()

    # -- events --

    def begin(self, message: Message) -> None:
        """The request came."""
        self._emit(REQUEST, message)
        self._bury()

    def asked(self, index: int, message: Message) -> None:
        """A step runs, with this."""
        port = self._plan.nodes[index].inputs_port
        if self._plan.deliveries[port]:
            self._emit(port, message)
            self._bury()

    def answered(self, index: int, message: Message) -> None:
        """A step gave this."""
        node = self._plan.nodes[index]
        self._left(node)
        self._emit(node.outputs_port, message)
        self._bury()

    def chose(self, index: int, message: Message, branches: Sequence[str]) -> None:
        """A router chose these branches for this; none: its input is what it answers."""
        node = self._plan.nodes[index]
        self._left(node)
        taken = {node.branch_ports[branch] for branch in branches}
        if not branches:
            taken.add(node.outputs_port)
            if not node.aside:
                self.stopped = message
        for port in taken:
            self._emit(port, message)
        if node.cycle < 0:
            for port in (node.outputs_port, *node.branch_ports.values()):
                if port not in taken:
                    self.reasons.append(Reason(self._plan, index, port=port))
                    self._dying.append(port)
        self._bury()

    def gave_nothing(self, index: int, *, why: str, error: HeadraceError | None = None, asked: bool = True) -> None:
        """A step did not answer, and nobody minds: its condition does not hold, or its failure is soft.

        Args:
            index: The step.
            why: For the error when no answer comes of this; ends a sentence that begins with the step.
            error: What it failed with.
            asked: False: what it takes has not passed its condition, so nobody saw it either.
        """
        node = self._plan.nodes[index]
        self.reasons.append(Reason(self._plan, index, why=why, error=error))
        self._left(node)
        if node.cycle < 0:
            self._dying.extend(node.ports if not asked else node.ports[1:])
        self._bury()

    def next_window(self, now: float) -> float | None:
        """When the first of the joins that have come in part gives up, on the caller's clock; None: none has."""
        first = None
        for index, began in list(self._partial.items()):
            if not self._waiting[index]:
                del self._partial[index]
                continue
            since = self._partial[index] = now if began is None else began
            until = since + self._plan.nodes[index].window_seconds
            first = until if first is None else min(first, until)
        return first

    def expire(self, now: float) -> None:
        """Let the joins whose window has passed go on with what came (outer), or give up (inner)."""
        for index, since in list(self._partial.items()):
            node = self._plan.nodes[index]
            if since is None or since + node.window_seconds > now or not self._waiting[index]:
                continue
            del self._partial[index]
            held = self._held[index]
            came = [_message(each) for each in held[: node.inputs]]
            if node.join in {"outer", "last"} and any(each is not None for each in came):
                if node.join == "last":
                    came = [each if number == _last(came) else None for number, each in enumerate(came)]
                if self._triggered(node, held):
                    self._fire(node, came)
                    continue
            missing = [node.slots[number].reference for number, each in enumerate(held) if not isinstance(each, tuple)]
            window = f"{node.window_seconds * 1000:.0f} ms"
            self.reasons.append(
                Reason(self._plan, index, why=f"got nothing from {', '.join(missing)} within {window}", blamed=True)
            )
            self._kill(node)
        self._bury()

    def turn_aside(self) -> None:
        """From now on only what the answer does not depend on is run: the rest is over, whatever it has come to."""
        self._on_path = False
        self.ready, self.aside = self.aside, []
        for node in self._plan.nodes:
            if not node.aside and node.kind != "output":
                self._waiting[node.index] = False
                self._dying.extend(node.ports)
                if node.cycle >= 0:
                    self._over[node.cycle] = True
        self._bury()

    # -- messages --

    def _emit(self, port: int, message: Message) -> None:
        touched: list[int] = []
        nodes = self._plan.nodes
        for index, number in self._plan.deliveries[port]:
            if not self._waiting[index]:
                continue
            node = nodes[index]
            slot = node.slots[number]
            held = self._held[index]
            if node.direct:
                came = slot.pick(message)
                if came is not None:
                    self._fire(node, (came,))
                    continue
            if not slot.latest and held[number] is not None:
                continue
            came = slot.pick(message)
            if came is not None:
                self._set(index, number, came)
            else:
                self.reasons.append(Reason(self._plan, index, slot=number, found=message))
                if slot.forgets:
                    held[number] = None
                if slot.cyclic:
                    continue  # the next one may have them
                self._set(index, number, _BARREN)
            if not touched or touched[-1] != index:
                touched.append(index)
        for index in touched:
            self._look(self._plan.nodes[index])

    def _set(self, index: int, number: int, value: Message | _Mark) -> None:
        node = self._plan.nodes[index]
        held = self._held[index]
        if node.cycle >= 0:
            if not node.slots[number].around and held[number] is None:
                self._cycles_open[node.cycle] -= 1
            if value is not _BARREN:
                self._fresh.add(index)
        held[number] = value

    def _look(self, node: Node) -> None:
        """Run a step that can run, end one that never will."""
        if node.cycle >= 0:
            self._look_around(node)
            return
        if not self._waiting[node.index]:
            return
        held = self._held[node.index]
        inputs = held[: node.inputs]
        came = _joined(node.join, inputs)
        triggers = held[node.inputs :]
        if came is _BARREN or (triggers and _joined(node.triggers_join, triggers) is _BARREN):
            self._kill(node)
        elif came is not None and not isinstance(came, _Mark) and self._triggered(node, held):
            self._fire(node, came)
        elif len(held) > 1 and any(isinstance(each, tuple) for each in held):
            self._partial.setdefault(node.index, None)

    def _look_around(self, node: Node) -> None:
        """The same on a cycle, where a step may run again and only `_finish` ends one."""
        held = self._held[node.index]
        while node.index in self._fresh and self._waiting[node.index] and self._triggered(node, held):
            if node.join == "any":
                came = _joined("any", held[: node.inputs])
                if came is None or isinstance(came, _Mark):
                    return
            elif all(isinstance(each, tuple) for each in held[: node.inputs]):
                came = [_message(each) for each in held[: node.inputs]]
            else:
                return
            self._fire(node, came)

    def _triggered(self, node: Node, held: Sequence[_Held]) -> bool:
        triggers = held[node.inputs :]
        if not triggers:
            return True
        if node.triggers_join == "inner":
            return all(isinstance(each, tuple) for each in triggers)
        if node.triggers_join == "any" or node.cycle >= 0:
            return any(isinstance(each, tuple) for each in triggers)
        return None not in triggers and any(isinstance(each, tuple) for each in triggers)

    # -- steps --

    def _fire(self, node: Node, came: Sequence[Message | None]) -> None:
        index = node.index
        if node.direct and came[0] is not None:
            given: Given = came[0]
        else:
            try:
                given = self._given(node, came)
            except RuntimeFailed:
                if not node.aside:
                    raise
                self._kill(node)
                return
        if node.kind == "output":
            assert isinstance(given, tuple)
            self._waiting[index] = False
            self.settled, self.answer = True, given
            return
        if node.cycle < 0:
            self._waiting[index] = False
        else:
            self._use_up(node, came)
            visits = self._visits[index] = self._visits.get(index, 0) + 1
            if visits > self._plan.max_visits:
                if node.aside:
                    return
                raise RuntimeFailed(
                    f"pipeline '{self._plan.name}' step '{node.name}': "
                    f"Max step revisits ({self._plan.max_visits - 1}) exceeded"
                )
            self._busy[node.cycle] += 1
        if node.aside == self._on_path:
            if self._on_path:
                self.aside.append((index, given))
            return
        self.ready.append((index, given))

    def _use_up(self, node: Node, came: Sequence[Message | None]) -> None:
        held = self._held[node.index]
        for number, slot in enumerate(node.slots):
            if node.join == "any" and number < node.inputs:
                if came[number] is not None:
                    held[number] = None if slot.around else _SPENT
            elif slot.around and held[number] is not _BARREN:
                held[number] = None
        if node.join != "any" or not any(isinstance(each, tuple) for each in held[: node.inputs]):
            self._fresh.discard(node.index)

    def _given(self, node: Node, came: Sequence[Message | None]) -> Given:
        if node.kind == "combine":
            return {node.slots[number].reference: each for number, each in enumerate(came) if each is not None}
        messages = [(number, each) for number, each in enumerate(came) if each is not None]
        if len(messages) == 1:
            return messages[0][1]
        if node.repeats:
            return tuple([tensor for _, message in messages for tensor in message])
        merged: dict[str, Tensor] = {}
        givers: dict[str, int] = {}
        for number, message in messages:
            for tensor in message:
                if tensor.name in merged:
                    raise RuntimeFailed(
                        f"pipeline '{self._plan.name}' {_place(node)} gets two tensors named '{tensor.name}', from "
                        f"{node.slots[givers[tensor.name]].reference} and {node.slots[number].reference}; "
                        f"rename one with tensorMap, or name the tensors that are wanted"
                    )
                merged[tensor.name] = tensor
                givers[tensor.name] = number
        return tuple(merged.values())

    def _left(self, node: Node) -> None:
        """A step has run."""
        if node.cycle >= 0:
            self._busy[node.cycle] -= 1

    def _kill(self, node: Node) -> None:
        self._waiting[node.index] = False
        if node.kind == "output":
            self.settled = True
            return
        self._dying.extend(node.ports)

    def _bury(self) -> None:
        """Tell everybody who waits for a dead step, and whoever waits for those, and see which cycles are over."""
        while True:
            while self._dying:
                port = self._dying.pop()
                for index, number in self._plan.deliveries[port]:
                    if self._held[index][number] is None:
                        self._set(index, number, _BARREN)
                        self._look(self._plan.nodes[index])
            for number, cycle in enumerate(self._plan.cycles):
                if self._over[number] or self._cycles_open[number] or self._busy[number]:
                    continue
                for index in cycle.nodes:
                    self._fire_outer(self._plan.nodes[index])
                if not self._busy[number]:
                    self._finish(number)
            if not self._dying:
                return

    def _fire_outer(self, node: Node) -> None:
        held = self._held[node.index]
        if node.join == "outer" and node.index in self._fresh and self._triggered(node, held):
            came = [_message(each) for each in held[: node.inputs]]
            if any(each is not None for each in came):
                self._fire(node, came)

    def _finish(self, number: int) -> None:
        """A cycle is over."""
        self._over[number] = True
        for index in self._plan.cycles[number].nodes:
            self._waiting[index] = False
            self._dying.extend(self._plan.nodes[index].ports)

    # -- why there is no answer --

    def lacking(self, index: int, found: Message) -> HeadraceError:
        """The failure of a chain whose node `index` finds none of the tensors it takes."""
        self.reasons.append(Reason(self._plan, index, slot=0, found=found))
        return self.failure()

    def failure(self) -> HeadraceError:
        """Why no answer can be given, once it is settled that none can.

        InvalidRequest where it lies in what the request says (tensors it lacks, conditions it does not meet);
        RuntimeFailed where a step gave no wanted tensor, failed, or came too late.
        """
        reasons = list(dict.fromkeys(reason.text() for reason in self.reasons))
        text = (
            f"pipeline '{self._plan.name}' has no answer to this request: {'; '.join(reasons) or 'no step could run'}"
        )
        for reason in self.reasons:
            if reason.error is not None:
                failed = RuntimeFailed(text)
                failed.__cause__ = reason.error
                return failed
        if any(reason.model_is_to_blame for reason in self.reasons):
            return RuntimeFailed(text)
        return InvalidRequest(text)


class Reason:
    """One thing that kept a step from running. Turned into words only when no answer came of it."""

    __slots__ = ("_blamed", "_found", "_index", "_plan", "_port", "_slot", "_why", "error")

    def __init__(
        self,
        plan: Plan,
        index: int,
        *,
        slot: int = -1,
        port: int = -1,
        found: Message = (),
        why: str = "",
        error: HeadraceError | None = None,
        blamed: bool = False,
    ) -> None:
        self.error, self._blamed = error, blamed
        self._plan, self._index, self._slot, self._port, self._found, self._why = plan, index, slot, port, found, why

    @property
    def model_is_to_blame(self) -> bool:
        """It lies in what a step did, not in what the request says."""
        if self._slot >= 0:
            return self._plan.nodes[self._index].slots[self._slot].port != REQUEST
        return self._blamed

    def text(self) -> str:
        """The reason as a clause."""
        node = self._plan.nodes[self._index]
        if self._port >= 0:
            branch = next((name for name, port in node.branch_ports.items() if port == self._port), "")
            return (
                f"router '{node.name}' did not choose branch '{branch}'" if branch else f"router '{node.name}' went on"
            )
        if self._slot < 0:
            return f"{_place(node)} {self._why}"
        slot = node.slots[self._slot]
        giver = next((each.name for each in self._plan.nodes if slot.port in each.ports and each.kind != "output"), "")
        wanted = ", ".join(sorted(slot.tensors))
        found = ", ".join([tensor.name for tensor in self._found]) or "none"
        return f"{_place(node)} takes tensor {wanted} of " + (
            f"step '{giver}', which gave {found}" if slot.port != REQUEST else f"the request, which has {found}"
        )


def _place(node: Node) -> str:
    return "output" if node.kind == "output" else f"step '{node.name}'"


def _message(held: _Held) -> Message | None:
    return held if isinstance(held, tuple) else None


def _last(came: Sequence[Message | None]) -> int:
    return max([number for number, each in enumerate(came) if each is not None])


def _joined(join: str, held: Sequence[_Held]) -> list[Message | None] | _Mark | None:
    """The messages that a join lets pass, each in its place; None: not yet; barren: never."""
    if len(held) == 1:
        (only,) = held
        return [only] if isinstance(only, tuple) else only
    if join == "inner":
        if _BARREN in held:
            return _BARREN
        return None if None in held else [_message(each) for each in held]
    if join == "any":
        for number, each in enumerate(held):
            if isinstance(each, tuple):
                return [each if place == number else None for place in range(len(held))]
    elif join == "last":
        for number in range(len(held) - 1, -1, -1):
            each = held[number]
            if isinstance(each, tuple):
                return [each if place == number else None for place in range(len(held))]
            if each is None:
                return None
        return _BARREN
    elif None not in held and any(isinstance(each, tuple) for each in held):
        return [_message(each) for each in held]
    return None if None in held else _BARREN
