"""A queue of Amazon SQS that a bucket tells of its objects: long polls, and deletes of what is in the ledger.

Its JSON protocol over the standard library; the watcher reads it in a thread.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import datetime as dt
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from headrace.errors import ArtifactDenied, ArtifactFailed, ArtifactNotFound, ArtifactUnreachable, SettingsError
from headrace.lifecycle.watch import sigv4
from headrace.lifecycle.watch.sigv4 import Keys

_MOST_MESSAGES: Final = 10
_GRACE_SECONDS: Final = 15.0
_REGION_OF_HOST: Final = re.compile(
    r"(?:^|\.)sqs(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d)\.|^([a-z]{2}(?:-[a-z]+)+-\d)\.queue\."
)
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_ABSENT: Final = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress"})


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was received, and comes again unless it is deleted."""

    id: str
    receipt: str
    """To delete it with."""
    body: str


class Queue:
    """One queue.

    Args:
        url: `https://sqs.eu-west-1.amazonaws.com/123456789012/uploads`.
        region: Of the queue, where its url does not say.
        keys: Who asks; called before each request, since keys of sessions change.
        clock: UTC.

    Raises:
        SettingsError: the url is none of a queue, or the region cannot be told from it.
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Callable[[], Keys],
        region: str = "",
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path in {"", "/"}:
            raise SettingsError(
                f"expected the url of a queue, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, got "
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            )
        found = _REGION_OF_HOST.search(parts.netloc)
        self.region = (found[1] or found[2]) if found else region
        if not self.region:
            raise SettingsError(f"{url}: the region cannot be told from the queue's url; set AWS_REGION")
        self.url = url
        self._endpoint = f"{parts.scheme}://{parts.netloc}/"
        self._keys, self._clock = keys, clock

    def __repr__(self) -> str:
        return f"<Queue {self.url}>"

    def receive(self, *, wait_seconds: int = 20) -> Sequence[Message]:
        """Up to ten messages; none after that long without one.

        Raises:
            ArtifactFailed: one of its causes.
        """
        answer = self._ask(
            "ReceiveMessage",
            {"QueueUrl": self.url, "MaxNumberOfMessages": _MOST_MESSAGES, "WaitTimeSeconds": wait_seconds},
            wait_seconds + _GRACE_SECONDS,
        )
        return [
            Message(id=each["MessageId"], receipt=each["ReceiptHandle"], body=each["Body"])
            for each in answer.get("Messages") or ()
        ]

    def delete(self, messages: Sequence[Message]) -> None:
        """Let them never come again. One that cannot be deleted comes again, and is known by then.

        Raises:
            ArtifactFailed: one of its causes.
        """
        if messages:
            entries = [{"Id": str(at), "ReceiptHandle": each.receipt} for at, each in enumerate(messages)]
            self._ask("DeleteMessageBatch", {"QueueUrl": self.url, "Entries": entries}, _GRACE_SECONDS)

    def _ask(self, action: str, fields: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        body = msgspec.json.encode(fields)
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{action}"}
        sent = sigv4.signed(
            "POST",
            self._endpoint,
            body,
            headers,
            region=self.region,
            service="sqs",
            keys=self._keys(),
            now=self._clock(),
        )
        request = urllib.request.Request(self._endpoint, body, dict(sent))  # noqa: S310 - http and https: see above
        try:
            with urllib.request.urlopen(request, timeout=timeout_seconds) as response:  # noqa: S310 - as above
                found = msgspec.json.decode(response.read(), type=dict[str, Any])
        except urllib.error.HTTPError as exc:
            with exc:
                raise self._refused(action, exc.code, exc.read(1 << 16)) from None
        except (OSError, http.client.HTTPException) as exc:
            raise ArtifactUnreachable(f"{self.url}: the queue cannot be reached: {type(exc).__name__}") from exc
        except msgspec.DecodeError as exc:
            raise ArtifactFailed(f"{self.url}: expected JSON of SQS; is this the url of a queue?") from exc
        return found

    def _refused(self, action: str, status: int, body: bytes) -> ArtifactFailed:
        code = _code(body)
        text = f"{self.url}: {action} was refused: {status} {code}".rstrip()
        if code in _ABSENT or (status == 404 and not code):
            return ArtifactNotFound(f"{text}: there is no such queue; check its url and region")
        if code in _DENIED or status in {401, 403}:
            return ArtifactDenied(
                f"{text}: check the AWS credentials; they need sqs:ReceiveMessage and sqs:DeleteMessage on the queue"
            )
        if status >= 500 or status == 429 or "Throttl" in code:
            return ArtifactUnreachable(f"{text}; trying again may help")
        return ArtifactFailed(text)


def _code(body: bytes) -> str:
    """`QueueDoesNotExist` of `{"__type": "com.amazonaws.sqs#QueueDoesNotExist", ...}`; empty: it says none."""
    try:
        kind = str(msgspec.json.decode(body, type=dict[str, Any]).get("__type", ""))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    found = _CODE.fullmatch(kind.rpartition("#")[2])
    return found[0] if found else ""
