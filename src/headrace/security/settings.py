"""What may be set about callers and what is kept of their queries; `headrace.settings` gathers it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SecuritySettings:
    """Who calls, and the audit log."""

    keys_file: str = ""
    """A YAML file of callers: `NAME: {role: ROLE, sha256: DIGEST}`, the digest being that of the caller's key. A caller
    shows the key as `Authorization: Bearer KEY` or `x-api-key: KEY`. Empty: everybody is `anonymous`, of the role
    `default`."""
    require_key: bool = False
    """Whether callers without a known key are answered 401. Health stays open."""
    audit_log: str = ".headrace/audit.jsonl"
    """Where the queries of models with `trust: {audit: true}` are written, hash-chained."""
