"""AWS Signature Version 4 of one request: what `sqs` sends. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from headrace.artifacts.secrets import Secret


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. Its repr shows nothing of it."""

    access_key: Secret
    secret_key: Secret
    token: Secret = Secret("")
    """Of a session; empty: the keys are lasting ones."""


def signed(
    method: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    region: str,
    service: str,
    keys: Keys,
    now: dt.datetime,
) -> Mapping[str, str]:
    """The headers of a request, with those that sign it.

    Args:
        method: `POST`.
        url: Quoted as it will be sent.
        body: All of it.
        headers: What is sent besides; all of it is signed, and so is the host.
        region: Of the service.
        service: Its name in signatures: `sqs`.
        keys: Who asks.
        now: In UTC.
    """
    parts = urlsplit(url)
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    sent = {**headers, "X-Amz-Date": moment}
    if keys.token:
        sent["X-Amz-Security-Token"] = keys.token.reveal()
    canonical = {"host": parts.netloc} | {name.lower(): " ".join(value.split()) for name, value in sent.items()}
    names = ";".join(sorted(canonical))
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parse_qsl(parts.query, True)
    )
    request = "\n".join(
        (
            method,
            quote(parts.path or "/", safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            *(f"{name}:{canonical[name]}" for name in sorted(canonical)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    told = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret_key.reveal()}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, told.encode(), "sha256").hex()
    sent["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key.reveal()}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return sent
