"""CloudEvents and webhooks over HTTP. Standard library: no proxy of the environment, no redirect, TLS verified."""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import http.client
import io
import math
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from headrace.errors import HeadraceError, Overloaded, SettingsError, Temporary
from headrace.monitoring.sinks.base import Options
from headrace.protocols import cloudevents

SIGNATURE: Final = "headrace-signature"
"""Header: `sha256=` and the HMAC-SHA256 of the body, in hexadecimal digits. In binary mode it does not cover the
attributes of an event, which are headers; in structured mode it covers all."""
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOST_ANSWER: Final = 64 << 10
_IDLE_KEPT: Final = 4
_LONGEST_RETRY_AFTER: Final = 3600.0


def signature(secret: str, body: bytes) -> str:
    """What the header says; receivers compute the same of what they got."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def open_http(address: str, *, setting: str, options: Options) -> Http:
    """As `registry.SINKS` has it."""
    return Http(address, setting=setting, options=options)


class Http:
    """One address that is posted to.

    Args:
        address: `http://...` or `https://...`.
        setting: The key that holds it, for messages. The address itself may be a secret and is never shown whole.
        options: Signature, mode, time.

    Raises:
        SettingsError: the address is none.
    """

    def __init__(self, address: str, *, setting: str, options: Options) -> None:
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as exc:
            raise SettingsError(f"{setting}: expected an address like https://host/path: {exc}") from exc
        if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
            raise SettingsError(f"{setting}: expected an address like https://host/path")
        if parts.username or parts.password:
            raise SettingsError(f"{setting}: an address with a user or password is not used; sign with webhook_secret")
        if not address.isascii() or any(character <= " " or character == "\x7f" for character in address):
            raise SettingsError(f"{setting}: the address has characters that no URL has; write them as %XX")
        self._host, self._port = parts.hostname, port
        self._tls = ssl.create_default_context() if parts.scheme.lower() == "https" else None
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._options = options
        self._idle: deque[_Connection] = deque()
        self._is_closed = False
        self.name = f"{parts.scheme.lower()}://{parts.hostname}" + (f":{port}" if port else "")
        """For messages: without the path, which may hold a token."""

    def __repr__(self) -> str:
        return f"Http({self.name}, {len(self._idle)} idle)"

    def send(self, event: cloudevents.Event) -> None:
        """As of Sink."""
        if self._options.mode == "structured":
            self.post(cloudevents.structured(event), {"content-type": cloudevents.STRUCTURED})
        else:
            headers, body = cloudevents.binary(event)
            self.post(body, headers)

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """POST, and return when the answer is a 2xx.

        Raises:
            Temporary: nobody answered, or with a status that says later; `Overloaded` where it says when.
            HeadraceError: another status. A redirect is one: it is not followed.
        """
        sent = {"user-agent": "headrace", **headers}
        if self._options.secret:
            sent[SIGNATURE] = signature(self._options.secret, body)
        try:
            status, answer = self._exchange(body, sent)
        except (OSError, http.client.HTTPException) as exc:
            raise Temporary(f"{self.name}: {type(exc).__name__}: {exc}") from exc
        if 200 <= status < 300:
            return
        if status in _AGAIN:
            wait = _retry_after(answer.get("retry-after", ""))
            raise Overloaded(f"{self.name} answered {status}", retry_after_seconds=wait)
        what = "a redirect is not followed; set the address that it leads to" if 300 <= status < 400 else "not retried"
        raise HeadraceError(f"{self.name} answered {status}: {what}")

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, http.client.HTTPMessage]:
        kept = self._take()
        if kept is not None:
            try:
                return self._on(kept, body, headers)
            except (OSError, http.client.HTTPException):
                pass  # the other side let go of it meanwhile: a new connection says whether it is there
        return self._on(self._connect(), body, headers)

    def _on(
        self, connection: _Connection, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage]:
        try:
            connection.request("POST", self._target, body, dict(headers))
            response = connection.getresponse()
            answer = response.read(_MOST_ANSWER + 1)
        except BaseException:
            connection.close()
            raise
        if self._is_closed or response.will_close or len(answer) > _MOST_ANSWER or len(self._idle) >= _IDLE_KEPT:
            connection.close()
        else:
            self._idle.append(connection)
        return response.status, response.headers

    def _take(self) -> _Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self) -> _Connection:
        kind = _Connection if self._tls is None else _TlsConnection
        extra: dict[str, Any] = {} if self._tls is None else {"context": self._tls}
        return kind(self._host, self._port, timeout=self._options.timeout_seconds, **extra)

    def close(self) -> None:
        """As of Sink. What is on its way ends by itself."""
        self._is_closed = True
        while (connection := self._take()) is not None:
            connection.close()


class _Within(io.RawIOBase):
    """What arrives on a socket, all of it within a time: a receiver that sends a byte now and then holds nobody up."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__()
        self._connection, self._until = connection, time.monotonic() + seconds
        self._seconds = seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer within {self._seconds:g} s")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._seconds)


class _Readable:
    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Within(self._connection, self._seconds))


class _Response(http.client.HTTPResponse):
    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        readable: Any = _Readable(sock, sock.gettimeout() or 10.0)
        super().__init__(readable, debuglevel, method, url)


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(http.client.HTTPSConnection, _Connection):
    response_class = _Response


def _retry_after(text: str) -> float:
    """Seconds, or a date, as RFC 9110, section 10.2.3 has them; 0: it says nothing."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, IndexError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0
