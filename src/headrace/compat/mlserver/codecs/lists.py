"""Lists of text and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, List, Type, Union

ListElement = Union[bytes, str]
ListPayload = Union[ListElement, List[ListElement]]


def is_list_of(payload: Any, instance_type: Type[Any]) -> bool:
    """Whether it is a list of nothing but these."""
    return isinstance(payload, list) and all(isinstance(element, instance_type) for element in payload)


def as_list(payload: ListPayload) -> Iterator[ListElement]:
    """The elements of a list; anything else is its own only element."""
    if isinstance(payload, list):
        yield from payload
    else:
        yield payload
