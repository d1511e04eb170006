"""What may be set about stores; `headrace.settings` gathers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_POSITIVE: Final = {"at_least": 1}
_NOT_NEGATIVE: Final = {"at_least": 0}


@dataclass(frozen=True, kw_only=True)
class ArtifactSettings:
    """Models that are in a bucket, in a registry or behind a URL. Credentials come from the usual variables and files,
    or from `credentials`; they are shown to nobody.
    """

    cache_dir: str = "~/.cache/headrace/artifacts"
    """Where copies are kept, by digest, for all models and servers of this user."""
    max_bytes: int = field(default=64 << 30, metadata=_POSITIVE)
    """The largest model that is fetched. A larger one is refused before its bytes come, where the store says its
    size."""
    max_cache_bytes: int = field(default=0, metadata=_NOT_NEGATIVE)
    """The least recently used copies are removed beyond it, those in use excepted. 0: no bound."""
    parallel: int = field(default=8, metadata=_POSITIVE)
    """Files, or parts of a large one, that come at the same time."""
    retries: int = field(default=5, metadata=_NOT_NEGATIVE)
    """Further tries of what may heal: an unreachable or overloaded store, a connection that broke off."""
    timeout_seconds: float = field(default=30.0, metadata=_POSITIVE)
    """To connect, and without a byte coming."""
    credentials: str = ""
    """A file or folder of credentials by store: an rclone configuration, Seldon's rclone secrets (YAML or JSON), a
    mounted KServe `storage-config` secret, or a mounted secret of one variable a file. Empty: variables and the usual
    files only."""
    allow_patterns: tuple[str, ...] = ()
    """Of the files of a folder only those are fetched whose path fits one of these: `*.onnx`. Empty: all."""
    ignore_patterns: tuple[str, ...] = ()
    """Files whose path fits one of these are not fetched."""
    volumes: str = "/mnt/pvc"
    """The folder in which `pvc://CLAIM/PATH` finds CLAIM."""
    follow_seconds: float = field(default=0.0, metadata=_NOT_NEGATIVE)
    """How often `models:/NAME@ALIAS`, `s3://.../latest` and the like are looked at again. When one stands for something
    else, that is loaded, warmed and swapped in; what cannot be loaded is not, and is said. 0: never."""
