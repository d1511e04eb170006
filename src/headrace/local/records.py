"""Requests and answers of a durable pipeline as records of its topics, and back. `durable` calls it; opens nothing.

In our naming bodies are V2 JSON, and V2's binary form for tensors that JSON cannot carry as they are: BF16, BYTES that
are no text, infinite numbers. In Seldon's they are V2 protobuf. Either is read in both: `content-type` says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from google.protobuf.message import DecodeError

from headrace import errors
from headrace.brokers.base import Outgoing, Record
from headrace.errors import HeadraceError, InvalidRequest, ModelError, RuntimeFailed
from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.protocols import pipeline_topics as topics
from headrace.protocols import status, v2_grpc, v2_rest
from headrace.protocols.pipeline_topics import Names

_PROTOCOL: Final = "headrace-protocol"
_ERRORS: Final[Mapping[str, type[HeadraceError]]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, HeadraceError)
}
_INFER_TYPES: Final = {"v2_grpc": "grpc"}
_NOTHING: Final = InferenceRequest(model_name="", inputs=())


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request, as a record brought it."""

    id: str
    digest: str
    request: InferenceRequest
    """Its id is that of the record, its headers are the record's."""
    own_id: str = ""
    """The id that its body has; the answer has it too."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, as a record brought it; its body is read when somebody wants it."""

    id: str
    digest: str
    failed: bool
    record: Record

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about."""
        return len(self.record.value or b"") + 512


class Records:
    """Of one pipeline.

    Args:
        names: Of its topics.
        pipeline: Its name.
        partitions: Of its topics, for Seldon's keys.
    """

    def __init__(self, names: Names, pipeline: str, *, partitions: int = 1) -> None:
        self.names, self.pipeline = names, pipeline
        self._partitions = partitions
        self._protobuf = names.naming == "seldon"

    # -- what a front does --

    def request(self, request: InferenceRequest, request_id: str, *, version: str = "") -> tuple[Outgoing, str]:
        """A request as a record of the inputs, and its body's digest.

        Raises:
            InvalidRequest, RuntimeFailed: no body can carry it.
        """
        body, described = self._request_body(msgspec.structs.replace(request, model_name=self.pipeline))
        digest = topics.digest(body)
        named = {
            topics.PIPELINE: self.pipeline,
            topics.VERSION: version,
            topics.REQUEST_ID: request_id,
            topics.INFER_TYPE: _INFER_TYPES.get(request.protocol, "rest"),
            topics.DIGEST: digest,
            _PROTOCOL: request.protocol if request.protocol not in {"", v2_rest.PROTOCOL} else "",
            **described,
        }
        passed = [item for item in request.headers.items() if item[0] != _PROTOCOL]
        return (
            Outgoing(
                self.names.inputs(self.pipeline),
                body,
                self.names.key(self.pipeline, request_id, partitions=self._partitions),
                topics.headers(named, passed),
            ),
            digest,
        )

    def answer_of(self, record: Record) -> Answer:
        """What a record of the outputs is about."""
        headers = topics.texts(record.headers)
        failed = topics.ERROR in headers or topics.FAILED_STEP in headers
        given = headers.get(topics.REQUEST_ID, "")
        return Answer(id=given or self._id(record), digest=headers.get(topics.DIGEST, ""), failed=failed, record=record)

    def response(self, answer: Answer) -> InferenceResponse:
        """What was answered.

        Raises:
            HeadraceError: what the pipeline raised, or the record holds no answer.
        """
        record = answer.record
        headers = topics.texts(record.headers)
        body = record.value or b""
        if answer.failed:
            raise _error_of(headers, body)
        try:
            if self._is_protobuf(headers):
                response = v2_grpc.parse_response(v2_grpc.ModelInferResponse.FromString(body))
            else:
                response = v2_rest.parse_response(body, header_length=_header_length(headers))
        except (HeadraceError, DecodeError) as exc:
            raise RuntimeFailed(f"{_place(record)} holds no answer of pipeline '{self.pipeline}': {exc}") from exc
        routing = {name: headers[name] for name in ("x-seldon-route", "headrace-routing") if name in headers}
        return msgspec.structs.replace(response, headers=routing) if routing else response

    # -- what a replica does --

    def asked(self, record: Record, *, deadline: float) -> Asked:
        """The request that a record of the inputs carries.

        Raises:
            InvalidRequest: it carries none.
            NotSupported: it cannot be carried this way.
        """
        headers = topics.texts(record.headers)
        request_id = self._id(record)
        body = record.value or b""
        if self._is_protobuf(headers):
            try:
                message = v2_grpc.ModelInferRequest.FromString(body)
            except DecodeError as exc:
                raise InvalidRequest(f"{_place(record)} holds no V2 protobuf request: {exc}") from exc
            request = v2_grpc.parse(message, headers=headers, deadline=deadline)
        else:
            request = v2_rest.parse(
                body,
                model_name=self.pipeline,
                header_length=_header_length(headers),
                headers=headers,
                deadline=deadline,
            )
        return Asked(
            id=request_id,
            digest=self.digest_of(record),
            own_id=request.id,
            request=msgspec.structs.replace(
                request,
                model_name=self.pipeline,
                id=request_id,
                headers={**headers, topics.REQUEST_ID: request_id},
                protocol=headers.get(_PROTOCOL, request.protocol),
            ),
        )

    def id_of(self, record: Record) -> str:
        """The id of the request that a record is about."""
        return self._id(record)

    def digest_of(self, record: Record) -> str:
        """Of the request that a record carries."""
        return record.header(topics.DIGEST) or topics.digest(record.value or b"")

    def answer(self, record: Record, asked: Asked, response: InferenceResponse, *, version: str) -> Outgoing:
        """The answer to a record.

        Raises:
            HeadraceError: no body can carry it.
        """
        body, described = self._response_body(
            msgspec.structs.replace(response, id=asked.own_id or asked.id, headers={}), asked.request
        )
        named = {**self._named(record, version), **described}
        return Outgoing(
            self.names.outputs(self.pipeline),
            body,
            record.key,
            topics.headers(named, [*response.headers.items(), *_left(asked.request.headers, response.headers)]),
        )

    def failure(self, record: Record, error: Exception, *, version: str) -> list[Outgoing]:
        """The answer to a record that cannot be answered, and the record itself for the topic of errors."""
        text = status.public_text(error)
        step = _step_of(text) or self.pipeline
        named = {
            **self._named(record, version),
            topics.FAILED_STEP: step,
            topics.ERROR: type(error).__name__ if isinstance(error, HeadraceError) else RuntimeFailed.__name__,
            topics.STATUS: str(error.status) if isinstance(error, ModelError) else "",
            topics.CONTENT_TYPE: topics.TEXT if self._protobuf else topics.JSON,
        }
        body = f"{step} : {text}".encode() if self._protobuf else status.error_body(text)
        passed = list(topics.texts(record.headers).items())
        cause = ("headrace-error-message", text[:2000].encode())
        kept = [item for item in record.headers if item[0].lower() not in {topics.ERROR, cause[0]}]
        return [
            Outgoing(self.names.outputs(self.pipeline), body, record.key, topics.headers(named, passed)),
            Outgoing(
                self.names.errors(self.pipeline),
                record.value,
                record.key,
                (*kept, (topics.ERROR, named[topics.ERROR].encode()), cause, (topics.FAILED_STEP, step.encode())),
            ),
        ]

    def step(
        self, record: Record, asked: Asked, *, step: str, side: str, model: str, version: str, tensors: Sequence[Tensor]
    ) -> Outgoing:
        """What a step was asked or answered.

        Raises:
            HeadraceError: no body can carry it.
        """
        named = self._named(record, version)
        if side == "inputs":
            asks = InferenceRequest(model_name=model or step, inputs=tuple(tensors), id=asked.id)
            body, described = self._request_body(asks)
        else:
            told = InferenceResponse(model_name=model or step, outputs=tuple(tensors), id=asked.id)
            body, described = self._response_body(told, asked.request)
        return Outgoing(
            self.names.step(self.pipeline, step, side, model=model),
            body,
            record.key,
            topics.headers({**named, **described, topics.DIGEST: ""}, asked.request.headers.items()),
        )

    # -- bodies --

    def _request_body(self, request: InferenceRequest) -> tuple[bytes, dict[str, str]]:
        if self._protobuf:
            message = v2_grpc.render_request(request)
            return message.SerializeToString(), {topics.CONTENT_TYPE: topics.PROTOBUF}
        binary = not _in_json(request.inputs)
        return _described(v2_rest.render_request(request, binary=binary))

    def _response_body(self, response: InferenceResponse, request: InferenceRequest) -> tuple[bytes, dict[str, str]]:
        if self._protobuf:
            message = v2_grpc.render(_NOTHING, response, raw=True)
            return message.SerializeToString(), {topics.CONTENT_TYPE: topics.PROTOBUF}
        asks = _NOTHING
        if not _in_json(response.outputs):
            asks = msgspec.structs.replace(asks, parameters={"binary_data_output": True})
        return _described(v2_rest.render(asks, response))

    def _named(self, record: Record, version: str) -> dict[str, str]:
        return {
            topics.PIPELINE: self.pipeline,
            topics.VERSION: version,
            topics.REQUEST_ID: self._id(record),
            topics.INFER_TYPE: record.header(topics.INFER_TYPE),
            topics.DIGEST: self.digest_of(record),
        }

    def _id(self, record: Record) -> str:
        place = f"{record.topic}-{record.partition}-{record.offset}"
        return self.names.id_of(self.pipeline, record.key, record.header(topics.REQUEST_ID), place=place)

    def _is_protobuf(self, headers: Mapping[str, str]) -> bool:
        kind = headers.get(topics.CONTENT_TYPE, "")
        return "protobuf" in kind if kind else self._protobuf


def _described(rendered: v2_rest.Rendered) -> tuple[bytes, dict[str, str]]:
    described = {topics.CONTENT_TYPE: rendered.content_type.decode()}
    if rendered.header_length is not None:
        described[topics.HEADER_LENGTH] = str(rendered.header_length)
    return rendered.body, described


def _in_json(tensors: Sequence[Tensor]) -> bool:
    """Whether JSON carries all of them as they are."""
    for each in tensors:
        data = each.data
        if each.datatype == "BF16":
            return False
        if data.dtype.kind == "f" and bool(np.isinf(data).any()):
            return False
        if each.datatype == "BYTES":
            try:
                for value in data.ravel().tolist():
                    if isinstance(value, bytes):
                        value.decode()
            except UnicodeDecodeError:
                return False
    return True


def _header_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get(topics.HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdecimal():
        raise InvalidRequest(f"header {topics.HEADER_LENGTH} must be a number of bytes, got: {text!r}")
    return int(text)


def _left(given: Mapping[str, str], over: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in given.items() if name not in over and name != _PROTOCOL]


def _error_of(headers: Mapping[str, str], body: bytes) -> HeadraceError:
    """An error as it was raised where the request was answered."""
    text = body.decode("utf-8", "replace")
    try:
        document = msgspec.json.decode(body)
        text = document["error"] if isinstance(document, dict) and isinstance(document.get("error"), str) else text
    except msgspec.DecodeError:
        step, colon, rest = text.partition(" : ")
        text = rest if colon and step == headers.get(topics.FAILED_STEP) and topics.ERROR in headers else text
    kind = _ERRORS.get(headers.get(topics.ERROR, InvalidRequest.__name__), RuntimeFailed)
    if kind is ModelError:
        code = headers.get(topics.STATUS, "")
        return ModelError(text, status=int(code) if code.isdecimal() else 500)
    return kind(text)


def _step_of(text: str) -> str:
    """The step that a pipeline's error begins with; empty: none."""
    _, found, rest = text.partition("' step '")
    return rest.partition("'")[0] if found and text.startswith("pipeline '") else ""


def _place(record: Record) -> str:
    return f"message {record.topic}[{record.partition}]@{record.offset}"
