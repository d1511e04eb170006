"""The REST protocols' table from errors to HTTP statuses, and what an error's reply says. The HTTP server calls it,
in the one place where errors become replies.

Where peers differ, the reason for the choice stands beside the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson

from headrace.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelError,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    NotSupported,
    Overloaded,
    Refused,
    RuntimeFailed,
    SettingsError,
    Temporary,
    Throttled,
    TooLarge,
    Unauthenticated,
    UnsupportedEncoding,
    WorkerDied,
)

HTTP_STATUS: Final[Mapping[type[Exception], int]] = MappingProxyType(
    {
        InvalidRequest: 400,
        # RFC 9110, 15.5.16, names this status and the reply's Accept-Encoding for a content coding nobody here speaks.
        # Triton says 501, which caches and gateways read as "no method of this server".
        UnsupportedEncoding: 415,
        TooLarge: 413,
        Refused: 422,
        Unauthenticated: 401,
        Forbidden: 403,
        Conflict: 409,
        NotFound: 404,
        ModelNotFound: 404,
        NotSupported: 501,
        RuntimeFailed: 500,
        LoadFailed: 500,  # as Triton: the request was right, the artifact is not
        SettingsError: 400,  # at run time, only a load request brings settings
        Temporary: 503,
        ModelNotReady: 503,
        Overloaded: 503,
        Throttled: 429,
        DeadlineExceeded: 504,
        WorkerDied: 503,
    }
)
"""Error class to HTTP status; look up with `http_status`."""


def http_status(error: BaseException) -> int:
    """The status of an error: its own where the model chose it, else that of the nearest class along its MRO; 500 for
    what is not ours.
    """
    if isinstance(error, ModelError):
        return error.status if 400 <= error.status <= 599 else 500
    for kind in type(error).__mro__:
        code = HTTP_STATUS.get(kind)
        if code is not None:
            return code
    return 500


def public_text(error: BaseException) -> str:
    """What the caller may read of an error: our own texts whole, of anything else its type and nothing it says."""
    if isinstance(error, HeadraceError):
        return str(error)
    return f"internal error: {type(error).__name__}"


def error_body(text: str) -> bytes:
    """The body that V1 and V2 share: `{"error": text}`."""
    try:
        return orjson.dumps({"error": text})
    except TypeError:  # half of a surrogate pair, from a file name or a header
        return orjson.dumps({"error": text.encode(errors="replace").decode()})
