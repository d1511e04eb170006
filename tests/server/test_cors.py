"""What browsers are told of cross-origin requests.

Matrix: preflights that are allowed and each way to be refused; simple requests; origins by name, by pattern, all;
credentials; exposed headers; requests without an origin.
"""

from __future__ import annotations

import pytest

from headrace.errors import SettingsError
from headrace.server.cors import Cors, CorsSettings
from headrace.server.http import HttpReply, HttpRequest

PAGE = "https://console.example.org"


async def handler(request):
    return HttpReply(b"{}", headers=((b"x-mine", b"1"),))


async def ask(method="GET", origin=PAGE, preflight="", wanted="", **settings):
    settings = {"allow_origins": (PAGE,), **settings}
    headers = {"origin": origin} if origin else {}
    if preflight:
        headers["access-control-request-method"] = preflight
    if wanted:
        headers["access-control-request-headers"] = wanted
    request = HttpRequest(method.encode(), b"/v2", headers, b"", 0.0)
    reply = await Cors(handler, CorsSettings(**settings))(request)
    return reply, {name.decode(): value.decode() for name, value in reply.headers}


async def test_an_allowed_preflight_lists_what_is_allowed():
    """A browser learns methods, headers and for how long it may remember them."""
    reply, headers = await ask("OPTIONS", preflight="POST", wanted="X-A, content-type", allow_headers=("x-a",))
    assert (reply.status, reply.body, reply.content_type) == (200, b"OK", b"text/plain; charset=utf-8")
    assert headers == {
        "access-control-allow-methods": "GET, POST",
        "access-control-max-age": "600",
        "access-control-allow-headers": "Accept, Accept-Language, Content-Language, Content-Type, x-a",
        "access-control-allow-origin": PAGE,
        "vary": "Origin",
    }


@pytest.mark.parametrize(
    ("origin", "method", "wanted", "text"),
    [
        pytest.param(PAGE, "POST", "", b"Disallowed CORS method", id="method"),
        pytest.param("http://b.com", "GET", "", b"Disallowed CORS origin", id="origin"),
        pytest.param(PAGE, "GET", "x-b", b"Disallowed CORS headers", id="header"),
        pytest.param("http://b.com", "POST", "x-b", b"Disallowed CORS origin, method, headers", id="everything"),
    ],
)
async def test_a_refused_preflight_says_what_for(origin, method, wanted, text):
    """400 with a text, as Starlette answers; the origin is echoed only where it is allowed."""
    reply, headers = await ask("OPTIONS", origin, method, wanted, allow_methods=("GET",))
    assert (reply.status, reply.body) == (400, text)
    assert ("access-control-allow-origin" in headers) is (origin == PAGE)


async def test_any_header_is_allowed_by_a_star():
    """The headers that were asked for are allowed as they are, and caches are told."""
    reply, headers = await ask("OPTIONS", preflight="GET", wanted="x-b, x-c", allow_headers=("*",))
    assert (reply.status, headers["access-control-allow-headers"]) == (200, "x-b, x-c")
    assert ("vary", "Access-Control-Request-Headers") in [(a.decode(), b.decode()) for a, b in reply.headers]


async def test_any_method_is_allowed_by_a_star():
    """A star among the methods allows each of them by name."""
    reply, headers = await ask("OPTIONS", preflight="DELETE", allow_methods=("*",))
    assert (reply.status, "DELETE" in headers["access-control-allow-methods"]) == (200, True)


async def test_an_allowed_page_may_read_its_reply():
    """A simple request is answered with its origin and the headers that are exposed, beside the reply's own."""
    reply, headers = await ask(expose_headers=("ce-id", "x-mine"))
    assert (reply.status, reply.body) == (200, b"{}")
    assert headers == {
        "x-mine": "1",
        "access-control-allow-origin": PAGE,
        "vary": "Origin",
        "access-control-expose-headers": "ce-id, x-mine",
    }


@pytest.mark.parametrize("origin", ["http://b.com", ""], ids=["another page", "no page"])
async def test_others_are_answered_without_permission(origin):
    """The reply goes out, for only browsers ask; a cache keeps it apart from those to allowed pages."""
    _, headers = await ask(origin=origin)
    assert headers == {"x-mine": "1", "vary": "Origin"}


async def test_all_origins_are_allowed_by_a_star():
    """A star allows every page and needs no telling apart in caches."""
    _, headers = await ask(origin="http://b.com", allow_origins=("*",))
    assert (headers["access-control-allow-origin"], "vary" in headers) == ("*", False)
    assert (await ask(origin="", allow_origins=("*",)))[1] == {"x-mine": "1"}


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://a.example.org", True), ("https://a.example.org.evil.com", False), ("xhttps://a.example.org", False)],
)
async def test_a_pattern_is_matched_by_whole_origins(origin, allowed):
    """An origin that only contains what matches is another origin."""
    settings = {"allow_origins": (), "allow_origin_regex": r"https://\w+\.example\.org"}
    _, headers = await ask(origin=origin, **settings)
    assert ("access-control-allow-origin" in headers) is allowed


async def test_credentials_are_allowed_by_origin():
    """Cookies may come from named origins, on preflight and request alike."""
    _, preflight = await ask("OPTIONS", preflight="GET", allow_credentials=True)
    _, simple = await ask(allow_credentials=True)
    for headers in (preflight, simple):
        assert headers["access-control-allow-credentials"] == "true"
        assert headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "settings",
    [{"allow_origins": ("*",), "allow_credentials": True}, {"allow_origin_regex": "("}],
    ids=["credentials for all", "no pattern"],
)
def test_rules_that_cannot_hold_are_refused(settings):
    """Credentials for every page, and a pattern that is none, are settings errors that name their keys."""
    with pytest.raises(SettingsError, match=r"http\.cors_"):
        Cors(handler, CorsSettings(**settings))


async def test_a_plain_options_request_is_the_handlers():
    """OPTIONS without a preflight's header asks the server, not about the rules."""
    assert (await ask("OPTIONS"))[0].body == b"{}"


def test_the_rules_are_off_without_origins():
    """The wrapper says when it is not needed."""
    assert not CorsSettings().enabled
    assert CorsSettings(allow_origin_regex="x").enabled
