"""What is never written: values by the names of inputs, columns, outputs, parameters and headers. `payload_rows` and
`payload_events` ask it.

Names are compared without regard to case. Secrets that stand in headers are redacted whether they are named or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

REDACTED: Final = "[REDACTED]"
ALWAYS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "x-auth-token"}
)
"""Headers, wherever they stand: callers also send them as a parameter `headers`."""


class Redaction:
    """The names whose values are not written.

    Args:
        names: From the settings.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.casefold() for name in names)

    def hides(self, name: str) -> bool:
        """Whether a value of this name is."""
        return name.casefold() in self._names

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers as they may be written."""
        return {
            name: REDACTED if name.lower() in ALWAYS or self.hides(name) else value for name, value in headers.items()
        }

    def parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as they may be written, at any depth."""
        return {
            name: REDACTED if name.lower() in ALWAYS or self.hides(name) else self.value(value)
            for name, value in parameters.items()
        }

    def value(self, value: Any) -> Any:
        """A JSON value, whose members' names count at any depth."""
        if isinstance(value, Mapping):
            return self.parameters(value)
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value

    def element(self, element: Any) -> Any:
        """An element of a BYTES tensor: where it is a JSON object or list, its members' names count."""
        if not self._names:
            return element
        if isinstance(element, Mapping | list):
            return self.value(element)
        if isinstance(element, str | bytes) and element[:1] in {"{", "[", b"{", b"["}:
            try:
                known = orjson.loads(element)
            except ValueError:
                return element
            shown = self.value(known)
            if shown != known:
                text = orjson.dumps(shown)
                return text if isinstance(element, bytes) else text.decode()
        return element
