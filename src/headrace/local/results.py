"""What durable pipelines answered lately, by the id of the request. `durable` fills it from the topic of outputs, so
that it is the same on every replica, and after a restart.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from headrace.local.records import Answer

KEPT: Final = 10_000
"""Answers of a pipeline; the oldest give way."""
KEPT_BYTES: Final = 64 << 20
"""Their bodies."""


class Results:
    """Answers of one pipeline.

    Args:
        seconds: How long each is kept, from when it was written.
        records: How many at most.
        size: How many bytes at most; a single one may be larger.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        seconds: float,
        *,
        records: int = KEPT,
        size: int = KEPT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.seconds = seconds
        self._records, self._limit, self._clock = records, size, clock
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._answers)

    def put(self, answer: Answer) -> None:
        """Keep an answer. One of the same id gives way, unless it is a result and this is none."""
        before = self._answers.get(answer.id)
        if before is not None:
            if answer.failed and not before.failed and answer.digest == before.digest:
                return
            self._drop(answer.id)
        self._answers[answer.id] = answer
        self._size += answer.size
        while len(self._answers) > self._records or (self._size > self._limit and len(self._answers) > 1):
            self._drop(next(iter(self._answers)))
        oldest = next(iter(self._answers.values()))
        while self._expired(oldest) and len(self._answers) > 1:
            self._drop(oldest.id)
            oldest = next(iter(self._answers.values()))

    def get(self, request_id: str) -> Answer | None:
        """The answer to a request; None: there is none, or it is too old."""
        found = self._answers.get(request_id)
        if found is None or not self._expired(found):
            return found
        self._drop(request_id)
        return None

    def _expired(self, answer: Answer) -> bool:
        return answer.record.timestamp < self._clock() - self.seconds

    def _drop(self, request_id: str) -> None:
        self._size -= self._answers.pop(request_id).size
