"""Data taps: what a pipeline's steps are asked and answer, shown to whoever listens, off the caller's path. `run`
offers messages while somebody listens; `external` and the control API subscribe.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from headrace.errors import NotFound
from headrace.payload import Tensor

Listener = Callable[[str, str, tuple[Tensor, ...]], None]
"""Gets the request's id, the reference (`step.outputs`, `inputs`, ...) and the tensors. Quick, and does not raise."""

_TURN: Final = 64  # messages handed out before the loop turns
_log = logging.getLogger(__name__)


class Taps:
    """The taps of one pipeline. For one event loop.

    Args:
        name: The pipeline's, for messages.
        references: Everything that can be listened to.
        depth: Messages that may wait to be handed out; more are dropped, and counted.
    """

    def __init__(self, name: str, references: Collection[str], *, depth: int = 1024) -> None:
        self.live = False
        """Whether anybody listens; the pipeline offers nothing while nobody does."""
        self.dropped = 0
        """Messages that nobody was shown because too many waited."""
        self._name = name
        self._references = frozenset(references)
        self._depth = depth
        self._listeners: dict[str, list[Listener]] = {}
        self._witness: Listener | None = None
        self._witnessed: frozenset[str] = frozenset()
        self._waiting: deque[tuple[str, str, tuple[Tensor, ...]]] = deque()
        self._handle: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return f"<Taps {self._name} {sorted(self._listeners)} waiting={len(self._waiting)} dropped={self.dropped}>"

    def subscribe(self, reference: str, listener: Listener) -> None:
        """Show a listener every message of `STEP.inputs`, `STEP.outputs`, `inputs` or `outputs` from now on.

        Raises:
            NotFound: there is no such step.
        """
        if reference not in self._references:
            known = ", ".join(sorted(self._references))
            raise NotFound(f"pipeline '{self._name}' has nothing to tap at '{reference}'; there is {known}")
        self._listeners.setdefault(reference, []).append(listener)
        self.live = True

    def unsubscribe(self, reference: str, listener: Listener) -> None:
        """Show it no more; what waits for it is not shown either. One that does not listen is no mistake."""
        listeners = self._listeners.get(reference, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(reference, None)
        self.live = bool(self._listeners or self._witnessed)

    def witness(self, references: Collection[str], listener: Listener) -> None:
        """Show a listener every message of these references before the step goes on. There is one, to whom nothing is
        dropped, until the last request has left.
        """
        self._witness, self._witnessed = listener, frozenset(references)
        self.live = True

    def offer(self, request_id: str, reference: str, tensors: tuple[Tensor, ...]) -> None:
        """Queue a message for those who listen to it; never waits."""
        if self._witness is not None and reference in self._witnessed:
            self._witness(request_id, reference, tensors)
        if reference not in self._listeners:
            return
        if len(self._waiting) >= self._depth:
            self.dropped += 1
            return
        self._waiting.append((request_id, reference, tensors))
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._hand_out)

    def close(self) -> None:
        """Nobody is shown anything any more, but the witness."""
        self._listeners.clear()
        self._waiting.clear()
        self.live = bool(self._witnessed)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _hand_out(self) -> None:
        self._handle = None
        for _ in range(min(_TURN, len(self._waiting))):
            request_id, reference, tensors = self._waiting.popleft()
            for listener in tuple(self._listeners.get(reference, ())):
                try:
                    listener(request_id, reference, tensors)
                except Exception:  # noqa: BLE001 - one listener must not silence the others
                    _log.exception("pipeline '%s': a listener at '%s' failed", self._name, reference)
        if self._waiting and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._hand_out)
