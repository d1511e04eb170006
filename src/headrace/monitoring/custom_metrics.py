"""What a model's own code measures (`mlserver.log(confidence=0.9)`), as histograms. One `CustomMetrics` per version.

Names come from users' code and appear in what Prometheus scrapes, so they are checked, and their number is bounded.
"""

from __future__ import annotations

import logging
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from headrace.monitoring.families import DEFAULT

log = logging.getLogger(__name__)

NAMES_KEPT: Final = 200
"""Different names that one version of a model may use."""
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class Values(msgspec.Struct, gc=False):
    """A histogram of whatever numbers the model gave, in Prometheus's default buckets, as MLServer counts them."""

    description: str
    counts: list[int]
    total: float = 0.0


class CustomMetrics:
    """The custom metrics of one version.

    Args:
        model: For warnings.
        taken: Whether a name is one of the server's own.
    """

    def __init__(self, model: str, taken: Callable[[str], bool]) -> None:
        self._model, self._taken = model, taken
        self._values: dict[str, Values] = {}
        self._warned: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, Values]]:
        return iter(self._values.items())

    def add(self, values: Sequence[tuple[str, str, float]]) -> None:
        """Count values: metric name, description, value. One that cannot be counted is left out, with one warning."""
        for name, description, value in values:
            found = self._values.get(name) or self._admit(name, description)
            if found is None:
                continue
            if not math.isfinite(value):  # one of these would make the sum useless for good
                self._warn(name, f"a value of {value} is left out; log finite numbers")
                continue
            found.counts[bisect_left(DEFAULT, value)] += 1
            found.total += value

    def _admit(self, name: str, description: str) -> Values | None:
        if not _NAME.fullmatch(name):
            self._warn(
                name, "it is left out: a Prometheus name has letters, digits, '_' and ':' and begins with no digit"
            )
        elif self._taken(name):
            self._warn(name, "it is left out: the server has a metric of that name; choose another")
        elif len(self._values) >= NAMES_KEPT:
            self._warn("", f"names beyond {NAMES_KEPT} are left out; put what varies into the value, not into the name")
        else:
            found = self._values[name] = Values(description, [0] * (len(DEFAULT) + 1))
            return found
        return None

    def _warn(self, name: str, text: str) -> None:
        if name in self._warned or len(self._warned) > NAMES_KEPT:
            return
        self._warned.add(name)
        log.warning("model '%s': custom metric%s: %s", self._model, f" {name!r}" if name else "s", text)
