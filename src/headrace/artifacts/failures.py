"""What stores, sockets and files raise, as one of our four causes. Each module of the room that reads or writes uses
it; texts are made of what is known to hold no secret.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
from collections.abc import Collection, Iterator
from typing import Final

from headrace.artifacts.secrets import scrub
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactDenied,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    HeadraceError,
)

_CODE: Final = re.compile(r"<Code>([A-Za-z0-9_.-]{1,64})</Code>|\"(?:error|code)\":\s*\"([A-Za-z0-9_. -]{1,64})\"")
_STATUS: Final = re.compile(r"status code: (\d{3})|\bstatus: (\d{3})\b")
_QUERY: Final = re.compile(r"\?[^\s\"'<>]*")
_DENIED: Final = ("PermissionDeniedError", "UnauthenticatedError")
_BROKEN: Final = re.compile(
    r"error sending request|error decoding response|timed? ?out|connection (?:closed|reset|refused)|dns error|"
    r"incomplete message|body error|request or response body|broken pipe|unexpected eof|IncompleteBody|"
    r"Content-Length Header|Received redirect",
    re.IGNORECASE,
)
_NO_CREDENTIALS: Final = re.compile(
    r"169\.254\.169\.254|metadata\.google|missing credentials|no credentials|credential|metadata/identity",
    re.IGNORECASE,
)
_HEALS: Final = frozenset({408, 425, 429})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EEXIST})


def failure(
    error: BaseException, *, uri: str, doing: str = "reading", origin: str = "", secrets: Collection[str] = ()
) -> ArtifactFailed:
    """The error of ours for one that came from a store, a socket or a file.

    Args:
        error: What came.
        uri: As it may be shown.
        doing: What was tried: `reading`, `writing`, `listing`.
        origin: Where the credentials came from, for those who are refused.
        secrets: Values that must not stand in the text.
    """
    if isinstance(error, ArtifactFailed):
        return error
    if isinstance(error, OSError) and (local := _of_disk(error, uri, doing)) is not None:
        return local
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1] or found[2]) if found else 0
    code = next((one or other for one, other in _CODE.findall(text)), "")
    return of_status(
        _status_of(error, status, text), uri=uri, doing=doing, origin=origin, said=code or _said(error, text, secrets)
    )


def _of_disk(error: OSError, uri: str, doing: str) -> ArtifactFailed | None:
    """What only a disk of this machine says; None: it may be of a store."""
    if error.errno in _FULL:
        return ArtifactFailed(f"{uri}: the disk takes no more ({os.strerror(error.errno)}): make room, and try again")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return ArtifactDenied(f"{uri}: {doing} was refused ({error.strerror}): this user may not do it here")
    if doing == "writing" and error.errno in _NO_FOLDER:
        return ArtifactFailed(f"{uri}: cannot be written, its folder cannot be made ({error.strerror})")
    return None


def of_status(status: int, *, uri: str, doing: str = "reading", origin: str = "", said: str = "") -> ArtifactFailed:
    """The error for an HTTP status; 0: there was none.

    Args:
        status: 599 stands for a connection that could not be made or broke off.
        uri: As it may be shown.
        doing: What was tried.
        origin: Where the credentials came from.
        said: What the store calls it, without any secret.
    """
    told = f" ({said})" if said else ""
    if status in {404, 410}:
        return ArtifactNotFound(f"{uri}: nothing is there{told}; check the uri, letter by letter")
    if status in {401, 403, 407}:
        by = f"the credentials of {origin} may not do this" if origin else "it wants credentials, and there are none"
        return ArtifactDenied(f"{uri}: {doing} was refused{told}: {by}")
    if status in {412, 416}:
        return ArtifactCorrupt(f"{uri}: changed while it was read{told}; read it again when it is written")
    if status == 599:
        return ArtifactUnreachable(f"{uri}: the store cannot be reached, or broke off{told}; check its address")
    if status >= 500 or status in _HEALS:
        return ArtifactUnreachable(f"{uri}: the store answers {status}{told}; it may heal")
    answer = f"the store answers {status}" if status else "the store failed"
    return ArtifactFailed(f"{uri}: {doing}: {answer}{told}")


def pause_seconds(tried: int) -> float:
    """How long to wait before a further try: twice as long each time, by chance between half and all of it."""
    return min(10.0, 0.1 * 2.0 ** min(tried, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _status_of(error: BaseException, status: int, text: str) -> int:
    """An HTTP status that means the same."""
    name = type(error).__name__
    if _NO_CREDENTIALS.search(text) and (status == 0 or "169.254.169.254" in text or "metadata" in text):
        return 401
    if status:
        return status
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return 404
    if name in _DENIED:
        return 403
    if name == "PreconditionError":
        return 412
    if isinstance(error, ConnectionError | TimeoutError) or _BROKEN.search(text):
        return 599
    return 0


def _said(error: BaseException, text: str, secrets: Collection[str]) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.errno != errno.ENOENT else ""
    if type(error).__name__ in _DENIED or isinstance(error, FileNotFoundError):
        return ""
    first = text.partition("Debug source")[0].partition("\n")[0]
    first = first.rpartition(" - ")[2] if " - " in first else first
    return scrub(_QUERY.sub("", first), secrets).strip().rstrip(".")[:200]


@contextlib.contextmanager
def told(uri: str, doing: str = "reading", *, origin: str = "", secrets: Collection[str] = ()) -> Iterator[None]:
    """What the body raises that is not ours becomes ours. The cause is chained unless a secret stands in it.

    Raises:
        ArtifactFailed: one of its causes.
    """
    try:
        yield
    except HeadraceError:
        raise
    except Exception as exc:
        if not _foreign(exc):
            raise
        made = failure(exc, uri=uri, doing=doing, origin=origin, secrets=secrets)
        text = str(exc)
        hidden = "?" in text or any(secret in text for secret in secrets if secret)
        raise made from (None if hidden else exc)


def _foreign(error: Exception) -> bool:
    """Whether it is of a store or the system; what is not is a mistake of ours, and stays one."""
    return isinstance(error, OSError) or type(error).__module__.startswith("obstore")
