"""What the topics of durable pipelines are called, and what stands in the keys and headers of their records.
`local.durable` writes and reads them; bodies are those of `v2_rest` and `v2_grpc`.

Two namings. Ours is by pipeline, so that no two write to one topic by accident:

    headrace.NAMESPACE.pipeline.NAME.inputs | .outputs | .errors
    headrace.NAMESPACE.pipeline.NAME.step.STEP.inputs | .outputs

Its records have the request's id for a key and V2 JSON for a body. Seldon Core v2's is by model, for all pipelines that
use it, with bodies of V2 protobuf and keys of three parts:

    seldon.NAMESPACE.pipeline.NAME.inputs | .outputs
    seldon.NAMESPACE.model.MODEL.inputs | .outputs
    seldon.NAMESPACE.errors.errors

The headers `pipeline`, `x-pipeline-version`, `x-request-id`, `seldon-infer-type` and `seldon-pipeline-errors` are
Seldon's and stand in both. Source: Seldon Core v2.10, "Pipelines" and "Kafka" of its documentation.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

Naming = Literal["headrace", "seldon"]
Headers = tuple[tuple[str, bytes], ...]

PIPELINE: Final = "pipeline"
VERSION: Final = "x-pipeline-version"
REQUEST_ID: Final = "x-request-id"
INFER_TYPE: Final = "seldon-infer-type"
FAILED_STEP: Final = "seldon-pipeline-errors"
"""On answers that are errors: the step that failed; where none did, the pipeline."""
ERROR: Final = "headrace-error"
"""On answers that are errors: the error's class."""
STATUS: Final = "headrace-error-status"
"""The status that a model's own code ended the request with."""
DIGEST: Final = "headrace-digest"
"""Of the request's body, on it and on its answer: a request that is sent again under its id is known by it."""
CONTENT_TYPE: Final = "content-type"
HEADER_LENGTH: Final = "inference-header-content-length"
"""As over HTTP: the body is JSON up to there, and then tensors."""
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
TEXT: Final = "text/plain"

_OWN: Final = frozenset(
    (PIPELINE, VERSION, REQUEST_ID, INFER_TYPE, FAILED_STEP, ERROR, STATUS, DIGEST, CONTENT_TYPE, HEADER_LENGTH)
)
_PASSED: Final = ("x-", "traceparent", "tracestate", "baggage", "headrace-", "seldon-")
_SECRET: Final = ("key", "token", "secret", "password", "auth", "cookie", "credential", "signature")
"""In the name of a header that says who a caller is: it is nothing to keep in a topic."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """Names of topics.

    Each part is one of Kafka's: letters, digits, `.`, `_` and `-`; those of pipelines and steps are so by their check.
    """

    naming: Naming = "headrace"
    prefix: str = ""
    """Empty: the naming's own word."""
    namespace: str = "default"

    @property
    def base(self) -> str:
        """What all of them begin with."""
        return f"{self.prefix or self.naming}.{self.namespace}"

    def inputs(self, pipeline: str) -> str:
        """Where requests to a pipeline wait."""
        return f"{self.base}.pipeline.{pipeline}.inputs"

    def outputs(self, pipeline: str) -> str:
        """Where its answers go, errors too."""
        return f"{self.base}.pipeline.{pipeline}.outputs"

    def errors(self, pipeline: str) -> str:
        """Where requests go that it could not answer."""
        return f"{self.base}.errors.errors" if self.naming == "seldon" else f"{self.base}.pipeline.{pipeline}.errors"

    def step(self, pipeline: str, step: str, side: str, *, model: str = "") -> str:
        """What a step is asked (`inputs`) or answers (`outputs`).

        Args:
            pipeline: Whose step.
            step: Its name.
            side: `inputs` or `outputs`.
            model: The model that it asks, which Seldon's naming calls the topic by.
        """
        if self.naming == "seldon":
            return f"{self.base}.model.{model or step}.{side}"
        return f"{self.base}.pipeline.{pipeline}.step.{step}.{side}"

    def group(self, pipeline: str) -> str:
        """The consumer group whose members share a pipeline's requests."""
        return f"{self.base}.pipeline.{pipeline}"

    def key(self, pipeline: str, request_id: str, *, partitions: int = 1) -> bytes:
        """Of the records of a request, for who gives none of its own."""
        if self.naming == "seldon":
            shard = zlib.crc32(request_id.encode()) % max(partitions, 1)
            return f"{shard}.{pipeline}.{request_id}".encode()
        return request_id.encode()

    def id_of(self, pipeline: str, key: bytes | None, request_id: str, *, place: str) -> str:
        """The id of the request that a record carries.

        Args:
            pipeline: Whose request.
            key: The record's.
            request_id: Its header `x-request-id`.
            place: What names the record where neither tells: always the same for the same record. A key alone is no id
                of ours: it may be a customer's, with many requests to be answered in order.
        """
        if request_id:
            return request_id
        if self.naming == "seldon" and key:
            text = key.decode("utf-8", "replace")
            before, found, after = text.partition(f"{pipeline}.")
            if found and after and (not before or before.endswith(".")):
                return after
        return place


def digest(body: bytes) -> str:
    """Of a request's body, in 16 hexadecimal digits."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def headers(named: Mapping[str, str], passed: Iterable[tuple[str, str]] = ()) -> Headers:
    """A record's headers.

    Args:
        named: Those of this module; empty ones are left out.
        passed: The request's own, of which those go along that concern more than one server and hold no secret.
    """
    own = [(name, value.encode()) for name, value in named.items() if value]
    return (*own, *[(name, value.encode()) for name, value in passed if _goes_along(name)])


@functools.lru_cache(1024)
def _goes_along(name: str) -> bool:
    return name not in _OWN and name.startswith(_PASSED) and not any(each in name for each in _SECRET)


def texts(given: Headers) -> dict[str, str]:
    """A record's headers as a request has them: names lower-cased; of one given twice, the first."""
    found: dict[str, str] = {}
    for name, value in given:
        found.setdefault(name.lower(), value.decode("utf-8", "replace"))
    return found
