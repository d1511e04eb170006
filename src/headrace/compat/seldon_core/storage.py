"""Where components find the files of their model."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit


class Storage:
    """Model files by URI, as far as they lie on this machine."""

    @staticmethod
    def download(uri: str, out_dir: str | None = None) -> str:  # noqa: ARG004 - the signature that is known
        """The local path of a `file://` URI or a path; nothing is copied.

        Raises:
            RuntimeError: the URI is not of this machine, or there is nothing.
        """
        parts = urlsplit(uri)
        if parts.scheme not in {"", "file"}:
            raise RuntimeError(f"Headrace fetches a model before it loads; give the component a local path, not {uri}")
        path = unquote(parts.path) if parts.scheme else uri
        if not Path(path).exists():
            raise RuntimeError(f"Local path {uri} does not exist.")
        return path
