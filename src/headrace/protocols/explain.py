"""What a caller asks of an explainer, and what it answers: parse and render for both REST protocols. `server.trust`
calls it; `serving.explain` takes and gives the values.

`POST /v2/models/{model}/explain` has the body of `infer`; the explainer's own options stand in `parameters`:

    explainer            which of the model's explainers, or any method by its name; absent: the first there is
    explain_parameters   options of the method, an object (or its JSON as a text, for wires that carry no objects)
    deadline_ms          until when; the best explanation by then is the answer, with `"complete": false`
    max_rows             of the model, for one explained row (`max_model_calls` is read, too)
    rows                 which rows of the request, from 0: a list; absent: all
    format               machine (the default), text, svg or png; the header Accept says it, too
    mode                 sync (the default), or job: 202 with the address where the answer will be

V1's `:explain` has `instances`, and the same names in a member `parameters` or beside it. Of one row, its answer also
has that explanation's `meta` and `data` at the top, where clients of KServe's alibi explainer look for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
import orjson

from headrace.errors import DeadlineExceeded, InvalidRequest
from headrace.payload import EMPTY, InferenceRequest
from headrace.protocols.documents import read_json

Format = Literal["machine", "text", "svg", "png"]
MOST_ROWS: Final = 1000
"""Rows that one request may have explained."""

_KEYS: Final = (
    "explainer",
    "explain_parameters",
    "deadline_ms",
    "max_rows",
    "max_model_calls",
    "rows",
    "format",
    "mode",
)
_OF_INFERENCE: Final = frozenset({"content_type", "headers", "binary_data_output", "timeout"})
"""Parameters of an inference request that mean nothing here, and that clients send all the same."""
_MEDIA: Final[Mapping[str, Format]] = {
    "application/json": "machine",
    "application/*": "machine",
    "*/*": "machine",
    "text/plain": "text",
    "text/*": "text",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/*": "svg",
}
MEDIA: Final[Mapping[Format, bytes]] = {
    "machine": b"application/json",
    "text": b"text/plain; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
}
"""Content type of an answer by its format."""


class ExplainRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be explained, and how."""

    inference: InferenceRequest
    """The rows, as the model would be asked for them."""
    explainer: str = ""
    """One of the model's, or a method; empty: the model's first."""
    method: str = ""
    """Where no explainer is named: the model's first of this method, else the method."""
    options: Mapping[str, Any] = EMPTY
    """Of the method's `explain`, over those that the model's folder says."""
    deadline_seconds: float | None = None
    """From now; None: the model's folder says."""
    max_rows: int | None = None
    """Of the model for one explained row; None: the folder says."""
    rows: tuple[int, ...] | None = None
    """Positions; None: all."""
    format: Format = "machine"
    is_job: bool = False


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One explanation, as it leaves the process that made it."""

    row: int
    """Its position in the request; of a global method, -1."""
    meta: bytes
    """JSON: `name`, `type`, `explanations`, `params`, `version`, in alibi's words."""
    data: bytes
    """JSON: the method's own."""
    text: str
    complete: bool
    warnings: tuple[str, ...] = ()
    model_rows: int
    """That the model was asked for."""
    seconds: float
    image: bytes = b""
    """Where one was asked for."""


class ExplainReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one request."""

    model_name: str
    model_version: str
    explainer: str
    """As the folder calls it."""
    method: str
    explanations: tuple[Explained, ...]


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    explained: int
    """Rows of the request that have their explanation."""
    of: int
    """Rows to explain; 0: not known yet."""
    model_rows: int
    """The model was asked for so far."""
    seconds: float
    """Since it was asked for, until now or until it ended."""
    error: str = ""
    """Of a failed one."""
    reply: ExplainReply | None = None
    """Of one that is done."""


# -- parse --


def parse(inference: InferenceRequest, *, accept: str = "", strict: bool = True) -> ExplainRequest:
    """A V2 request (or one of any wire) as what it asks of an explainer.

    Args:
        inference: As parsed for inference.
        accept: The header; decides the format where no parameter does.
        strict: Whether a parameter nobody knows is refused. In a pipeline it may be another step's.

    Raises:
        InvalidRequest: names the parameter, and the nearest known one.
    """
    return _request(inference, inference.parameters, accept, strict=strict)


def parse_v1(inference: InferenceRequest, *, accept: str = "") -> ExplainRequest:
    """A V1 request, as `v1.parse` gave it."""
    given = dict(inference.parameters)
    nested = given.pop("parameters", None) or {}
    if not isinstance(nested, dict):
        raise InvalidRequest(f"parameters must be an object, got: {nested!r}")
    given.pop("id", None)
    return _request(inference, {**given, **nested}, accept, strict=True)


def _request(
    inference: InferenceRequest, parameters: Mapping[str, Any], accept: str, *, strict: bool
) -> ExplainRequest:
    if strict:
        for key in parameters:
            if key not in _KEYS and key not in _OF_INFERENCE:
                near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
                hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(_KEYS)}"
                raise InvalidRequest(f"parameter '{key}' is none of an explanation{hint}")
    mode = _one_of(parameters, "mode", ("sync", "job")) or "sync"
    deadline = _number(parameters, "deadline_ms", whole=False)
    max_rows = _number(parameters, "max_rows", whole=True)
    if max_rows is None:
        max_rows = _number(parameters, "max_model_calls", whole=True)
    return ExplainRequest(
        inference=inference,
        explainer=_text(parameters, "explainer"),
        options=_object(parameters, "explain_parameters"),
        deadline_seconds=None if deadline is None else deadline / 1000,
        max_rows=None if max_rows is None else int(max_rows),
        rows=_rows(parameters),
        format=_format(parameters, accept),
        is_job=mode == "job",
    )


def _text(parameters: Mapping[str, Any], key: str) -> str:
    value = parameters.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"parameter '{key}' must be a text, got: {value!r}")
    return value or ""


def _one_of(parameters: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = _text(parameters, key)
    if value and value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InvalidRequest(f"parameter '{key}' must be one of {', '.join(known)}, got: {value!r}{hint}")
    return value


def _number(parameters: Mapping[str, Any], key: str, *, whole: bool) -> float | None:
    value = parameters.get(key)
    if value is None:
        return None
    wrong = isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e12
    if wrong or (whole and value != int(value)):
        expected = "a whole number from 1" if whole else "a number of milliseconds above 0"
        raise InvalidRequest(f"parameter '{key}' must be {expected}, got: {value!r}")
    return float(value)


def _object(parameters: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parameters.get(key)
    if isinstance(value, str):
        value = read_json(value.encode(), f"parameter '{key}'")
    if value is None:
        return EMPTY
    if not isinstance(value, dict):
        raise InvalidRequest(f"parameter '{key}' must be an object: the options of the method by name; got: {value!r}")
    return value


def _rows(parameters: Mapping[str, Any]) -> tuple[int, ...] | None:
    value = parameters.get("rows")
    if value is None:
        return None
    if isinstance(value, str):
        value = read_json(value.encode(), "parameter 'rows'")
    if type(value) is int:
        value = [value]
    if not isinstance(value, list) or not value or any(type(each) is not int or each < 0 for each in value):
        raise InvalidRequest(f"parameter 'rows' must be a list of positions from 0, got: {value!r}")
    if len(value) > MOST_ROWS:
        raise InvalidRequest(f"parameter 'rows' may name {MOST_ROWS} rows, got {len(value)}")
    return tuple(value)


def _format(parameters: Mapping[str, Any], accept: str) -> Format:
    said = _one_of(parameters, "format", ("machine", "json", *(each for each in MEDIA if each != "machine")))
    if said:
        return "machine" if said == "json" else said  # type: ignore[return-value]  # one of these
    return negotiated(accept)


def negotiated(accept: str) -> Format:
    """The format that an Accept header (RFC 9110, section 12.5.1) prefers; the machine form where it names none of
    ours.
    """
    best: tuple[float, Format] = (0.0, "machine")
    for part in accept.split(",") if accept else ():
        media, *parameters = (each.strip() for each in part.split(";"))
        found = _MEDIA.get(media.lower())
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            continue
        if found is not None and weight > best[0]:
            best = (weight, found)
    return best[1]


# -- render --


def render(reply: ExplainReply) -> bytes:
    """The machine form."""
    return orjson.dumps(_document(reply))


def render_v1(reply: ExplainReply) -> bytes:
    """The machine form for V1; of one row, with its `meta` and `data` at the top as well."""
    document: dict[str, Any] = {"explanations": [_record(each) for each in reply.explanations]}
    if len(reply.explanations) == 1:
        (only,) = reply.explanations
        document |= {"meta": orjson.Fragment(only.meta), "data": orjson.Fragment(only.data)}
    return orjson.dumps(document)


def render_row(explained: Explained) -> bytes:
    """One explanation as alibi writes it: `meta` and `data`; with what else there is to know beside them."""
    return orjson.dumps(_record(explained))


def render_text(reply: ExplainReply) -> bytes:
    """The readable form: each explanation's text, under the number of its row where there are several."""
    parts = []
    for each in reply.explanations:
        lines = [f"Row {each.row}:"] if len(reply.explanations) > 1 and each.row >= 0 else []
        lines.append(each.text)
        if not each.complete:
            lines.append("This is the best there was when the budget was spent.")
        lines += [f"Note: {warning}" for warning in each.warnings]
        parts.append("\n".join(lines))
    return ("\n\n".join(parts) + "\n").encode()


def render_image(reply: ExplainReply) -> bytes:
    """The picture of the one explanation.

    Raises:
        InvalidRequest: there are several, or none was asked for.
        DeadlineExceeded: there is nothing to draw yet.
    """
    if len(reply.explanations) != 1:
        raise InvalidRequest(
            f"a picture is of one row, the request has {len(reply.explanations)}; name one by the parameter 'rows'"
        )
    (only,) = reply.explanations
    if only.image:
        return only.image
    if not only.complete:
        raise DeadlineExceeded(f"there is nothing to draw: {only.text}")
    raise InvalidRequest("no picture was drawn: ask for one by the parameter 'format': svg or png")


def render_job(status: JobStatus, location: str) -> bytes:
    """A job: where it is and how far; the whole answer once it is done."""
    document: dict[str, Any] = {
        "id": status.id,
        "state": status.state,
        "location": location,
        "progress": {"explained": status.explained, "of": status.of, "model_rows": status.model_rows},
        "seconds": round(status.seconds, 3),
    }
    if status.error:
        document["error"] = status.error
    if status.reply is not None:
        document["result"] = _document(status.reply)
    return orjson.dumps(document)


def _document(reply: ExplainReply) -> dict[str, Any]:
    return {
        "model_name": reply.model_name,
        "model_version": reply.model_version,
        "explainer": reply.explainer,
        "method": reply.method,
        "explanations": [_record(each) for each in reply.explanations],
    }


def _record(each: Explained) -> dict[str, Any]:
    record: dict[str, Any] = {
        "meta": orjson.Fragment(each.meta),
        "data": orjson.Fragment(each.data),
        "text": each.text,
        "complete": each.complete,
        "model_rows": each.model_rows,
        "seconds": round(each.seconds, 6),
    }
    if each.row >= 0:
        record["row"] = each.row
    if each.warnings:
        record["warnings"] = list(each.warnings)
    return record
