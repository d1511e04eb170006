"""What happened to resources, for people: `headrace describe` shows it. Pure; `store` keeps events, `reconciler` and
`service` make them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from headrace.control.resources import Condition

KEPT: Final = 20_000
"""Of all resources together; the oldest leave."""
KEPT_EACH: Final = 1000
"""Of one resource."""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that happened to a resource, once or several times in a row."""

    kind: str
    name: str
    type: Literal["Normal", "Warning"] = "Normal"
    reason: str
    """One word in CamelCase, for programs."""
    message: str = ""
    """For people."""
    at: float = 0.0
    """When, the last time: seconds since the epoch."""
    first: float = 0.0
    """When, the first time."""
    count: int = 1
    """How often in a row."""
    id: int = 0
    """Rises with time; written by the store."""

    @property
    def key(self) -> tuple[str, str]:
        """Kind and name of the resource."""
        return self.kind, self.name


def merged(last: Event | None, new: Event) -> Event:
    """The new event, or the last one counted once more, where the same thing happened again."""
    if last is None or (last.key, last.type, last.reason, last.message) != (new.key, new.type, new.reason, new.message):
        return msgspec.structs.replace(new, first=new.at)
    return msgspec.structs.replace(last, at=new.at, count=last.count + 1)


def of_transitions(
    kind: str, name: str, before: Sequence[Condition], after: Iterable[Condition], *, at: float
) -> Iterator[Event]:
    """An event for each condition that became another; what was not known before and is not yet true is no news."""
    known = {each.type: each for each in before}
    for condition in after:
        old = known.get(condition.type)
        if old is not None and (old.status, old.reason, old.message) == (
            condition.status,
            condition.reason,
            condition.message,
        ):
            continue
        if kind == "Rollout" and condition.type != "Ready":
            continue  # its steps are events already
        if condition.type != "Ready" and condition.status == "True" and (old is None or old.status != "True"):
            continue  # the others only say why it is not ready
        if old is not None and old.status == condition.status == "True":
            continue
        yield Event(
            kind=kind,
            name=name,
            type="Warning" if condition.reason.endswith(("Failed", "RolledBack")) else "Normal",
            reason=condition.reason,
            message=condition.message,
            at=at,
        )
