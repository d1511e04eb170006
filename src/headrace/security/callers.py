"""Who calls: a key that a caller shows, to a name and a role. `server.authentication` asks, and so do guards.

The file of keys holds their SHA-256, not the keys, so reading it gives nobody access. A key is looked up by its digest:
how long that takes says nothing of the keys there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import yaml

from headrace.errors import SettingsError, Unauthenticated
from headrace.payload import Infer, InferenceRequest, InferenceResponse

DEFAULT_ROLE: Final = "default"
_KEPT: Final = 1024
_SCHEME: Final = "bearer "


NAME: Final = "headrace-caller"
"""The header in which a request that came in says who sent it; what the caller itself wrote there is not believed."""
ROLE: Final = "headrace-role"
"""The header with the caller's role."""


class Caller(msgspec.Struct, frozen=True):
    """Somebody who asks."""

    name: str
    role: str = DEFAULT_ROLE


ANONYMOUS: Final = Caller("anonymous")


class Callers:
    """Everybody who has a key.

    Args:
        by_digest: SHA-256 of a key, in hexadecimal, to whose it is. Empty: nobody has one, and keys are not looked at,
            since what stands in their place is for somebody in front of this server.
        require: Whether a caller without a key is refused.
    """

    def __init__(self, by_digest: Mapping[str, Caller], *, require: bool = False) -> None:
        self._by_digest, self.require = dict(by_digest), require
        self._seen: dict[str, Caller] = {}

    @classmethod
    def read(cls, path: Path, *, require: bool = False) -> Self:
        """From a file: YAML, `NAME: {role: ROLE, sha256: DIGEST}`.

        Raises:
            SettingsError: it cannot be read, or an entry is wrong; the text names the entry, and never a digest.
        """
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise SettingsError(f"security.keys_file {path}: cannot be read: {_cause(exc)}") from exc
        if not isinstance(document, dict) or not document:
            raise SettingsError(f"security.keys_file {path}: expected NAME: {{role: ROLE, sha256: DIGEST}}, one a line")
        found: dict[str, Caller] = {}
        for name, entry in document.items():
            digest = _digest(path, name, entry)
            if digest in found:
                raise SettingsError(
                    f"security.keys_file {path}: '{name}' has the key of '{found[digest].name}'; give each its own"
                )
            found[digest] = Caller(str(name), str(entry.get("role", DEFAULT_ROLE)))
        return cls(found, require=require)

    def who(self, headers: Mapping[str, str]) -> Caller:
        """Whose request this is.

        Args:
            headers: Lower-cased names.

        Raises:
            Unauthenticated: it shows a key that nobody has, or none where one is needed.
        """
        if not self._by_digest:
            return ANONYMOUS
        shown = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        if not shown:
            if self.require:
                raise Unauthenticated("a key is needed: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
            return ANONYMOUS
        caller = self._seen.get(shown)
        if caller is None:
            caller = self._by_digest.get(hashlib.sha256(shown.encode()).hexdigest())
            if caller is None:
                raise Unauthenticated("the key that was sent is not known")
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen[shown] = caller
        return caller


def _bearer(value: str) -> str:
    return value[len(_SCHEME) :].strip() if value[: len(_SCHEME)].lower() == _SCHEME else ""


def _digest(path: Path, name: Any, entry: Any) -> str:
    place = f"security.keys_file {path}: '{name}'"
    if not isinstance(entry, dict) or set(entry) - {"role", "sha256"}:
        raise SettingsError(f"{place}: expected {{role: ROLE, sha256: DIGEST}}")
    digest = str(entry.get("sha256", "")).lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise SettingsError(f"{place}: sha256 must be the 64 hexadecimal digits of the key's SHA-256")
    return digest


def _cause(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    mark = getattr(error, "problem_mark", None)
    return f"not valid YAML, line {mark.line + 1}" if mark is not None else "not text in UTF-8, or not valid YAML"


def identified(infer: Infer, callers: Callers) -> Infer:
    """The same `Infer`; requests say in their headers who sent them, for all that stands behind.

    Args:
        infer: The model with its guards.
        callers: Who has a key.
    """

    async def answer(request: InferenceRequest) -> InferenceResponse:
        caller = callers.who(request.headers)
        headers = {**request.headers, NAME: caller.name, ROLE: caller.role}
        return await infer(msgspec.structs.replace(request, headers=headers))

    return answer


def who(request: InferenceRequest) -> tuple[str, str]:
    """Name and role of who sent a request, as `identified` wrote them."""
    headers = request.headers
    return headers.get(NAME, ANONYMOUS.name), headers.get(ROLE, ANONYMOUS.role)
