"""Cross-origin requests (the Fetch standard, section 3.2): which web pages may call, told to the browsers that ask.

`app.py` wraps the REST surface in `Cors` when origins are set; otherwise it costs nothing. A preflight is answered
here; what it is refused for is answered with 400 and a text, as Starlette and so MLServer do it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from headrace.errors import SettingsError
from headrace.server.http import TEXT, Handler, HttpReply, HttpRequest

_SAFE: Final = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
"""Request headers that need no permission; browsers ask for it where their values are unusual."""
METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""What `*` stands for among methods: with credentials, browsers take it as a name."""

Headers = tuple[tuple[bytes, bytes], ...]


class CorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What pages of other origins may do: the `http.cors_*` settings."""

    allow_origins: tuple[str, ...] = ()
    """Origins, or `*` for all."""
    allow_origin_regex: str = ""
    """What a whole origin may match instead; empty: nothing."""
    allow_methods: tuple[str, ...] = ("GET", "POST")
    """`*` for all."""
    allow_headers: tuple[str, ...] = ("content-type",)
    """Request headers; `*` for all."""
    expose_headers: tuple[str, ...] = ()
    """Response headers that pages may read."""
    allow_credentials: bool = False
    max_age_seconds: float = 600.0

    @property
    def enabled(self) -> bool:
        """Whether any origin may call at all."""
        return bool(self.allow_origins or self.allow_origin_regex)


class Cors:
    """A handler behind the rules of cross-origin requests.

    Args:
        handler: Answers what is allowed, and what is not cross-origin.
        settings: The rules.

    Raises:
        SettingsError: the regular expression is none, or credentials are allowed to all origins by `*`.
    """

    def __init__(self, handler: Handler, settings: CorsSettings) -> None:
        self._handler = handler
        if settings.allow_credentials and "*" in settings.allow_origins:
            raise SettingsError(
                "http.cors_allow_credentials is set and http.cors_allow_origins holds '*': any web page could act as "
                "whoever visits it; name the origins, or match them by http.cors_allow_origin_regex"
            )
        try:
            self._pattern = re.compile(settings.allow_origin_regex) if settings.allow_origin_regex else None
        except re.error as exc:
            raise SettingsError(
                f"http.cors_allow_origin_regex {settings.allow_origin_regex!r} is no regular expression: {exc}"
            ) from exc
        self._origins = frozenset(settings.allow_origins)
        self._any = "*" in self._origins
        named = [each.upper() for each in settings.allow_methods]
        self._methods = METHODS if "*" in named else tuple(dict.fromkeys(named))
        self._any_header = "*" in settings.allow_headers
        shown = sorted({each.lower(): each for each in (*_SAFE, *settings.allow_headers) if each != "*"}.items())
        self._names = {lower for lower, _ in shown}
        credentials: Headers = ((b"access-control-allow-credentials", b"true"),) if settings.allow_credentials else ()
        self._preflight: Headers = (
            (b"access-control-allow-methods", ", ".join(self._methods).encode("latin-1")),
            (b"access-control-max-age", b"%d" % settings.max_age_seconds),
            *credentials,
        )
        self._headers = ", ".join(name for _, name in shown).encode("latin-1")
        exposed = ", ".join(settings.expose_headers).encode("latin-1")
        self._simple: Headers = (
            *credentials,
            *(((b"access-control-expose-headers", exposed),) if exposed else ()),
        )

    async def __call__(self, request: HttpRequest) -> HttpReply:
        """Answer one request; a browser learns from the reply's headers whether its page may read it."""
        origin = request.headers.get("origin")
        if origin is not None and request.method == b"OPTIONS" and "access-control-request-method" in request.headers:
            return self._answer_preflight(origin, request)
        reply = await self._handler(request)
        if origin is not None and self._allows(origin):
            reply.headers = (*reply.headers, *self._origin(origin), *self._simple)
        elif not self._any:
            reply.headers = (*reply.headers, _VARY)  # a cache must not give this reply to a page of an allowed origin
        return reply

    def _allows(self, origin: str) -> bool:
        return (
            self._any
            or origin in self._origins
            or (self._pattern is not None and self._pattern.fullmatch(origin) is not None)
        )

    def _origin(self, origin: str) -> Headers:
        if self._any:
            return _ALL
        return ((b"access-control-allow-origin", origin.encode("latin-1")), _VARY)

    def _answer_preflight(self, origin: str, request: HttpRequest) -> HttpReply:
        asked = request.headers.get("access-control-request-headers", "")
        names = [name.strip() for name in asked.split(",") if name.strip()]
        faults = []
        if not self._allows(origin):
            faults.append("origin")
        if request.headers["access-control-request-method"] not in self._methods:
            faults.append("method")
        if not self._any_header and not self._names.issuperset(name.lower() for name in names):
            faults.append("headers")
        headers = self._preflight
        if self._any_header and asked:
            headers = (*headers, (b"access-control-allow-headers", asked.encode("latin-1")), _VARY_HEADERS)
        else:
            headers = (*headers, (b"access-control-allow-headers", self._headers))
        if "origin" not in faults:
            headers = (*headers, *self._origin(origin))
        elif not self._any:
            headers = (*headers, _VARY)
        if faults:
            return HttpReply(b"Disallowed CORS " + ", ".join(faults).encode(), 400, TEXT, headers)
        return HttpReply(b"OK", 200, TEXT, headers)


_VARY: Final = (b"vary", b"Origin")
_VARY_HEADERS: Final = (b"vary", b"Access-Control-Request-Headers")
_ALL: Final[Headers] = ((b"access-control-allow-origin", b"*"),)
