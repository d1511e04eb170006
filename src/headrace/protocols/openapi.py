"""The OpenAPI document and its page, built from the routes and the signatures. The HTTP server calls both.

The page needs nothing from outside: it works without the internet.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from headrace import payload
from headrace.payload import DTYPES, Signature, TensorSpec
from headrace.protocols.routes import ROUTES, SCORING, Route

_MOST_EXAMPLE_ELEMENTS: Final = 4096
_OWN: Final = "the models' own"
_MADE: Final = ("pipeline", "experiment")
"""What is made of models; their names here are `NAME.KIND`."""
_PAGE: Final = Path(__file__).with_name("openapi.html")

Schema = dict[str, Any]


def document(
    models: Sequence[tuple[str, Signature | None]],
    *,
    base: str = "",
    own: Sequence[tuple[str, payload.Route]] = (),
    scoring: bool = False,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these models.

    Args:
        models: Names (of pipelines and experiments `NAME.pipeline`, `NAME.experiment`) with what is known of them;
            requests to those with inputs get examples that can be sent as they are.
        base: The URL before every path; empty: where the document came from.
        own: Routes of the models' own, each with its model's name.
        scoring: Whether the paths of the container contract are answered.
    """
    routes = (*ROUTES, *SCORING) if scoring else ROUTES
    names = list(dict.fromkeys(name for name, _ in models))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, _of_kind(route, models))
    for name, theirs in own:
        operations = paths.setdefault("/" + re.sub(r"{(\w+):\w+}", r"{\1}", theirs.path.lstrip("/")), {})
        operations.setdefault(theirs.method.lower(), _own_operation(name, theirs))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace" if len(names) != 1 else f"Headrace: {names[0]}",
            "version": "2",
            "description": "Open Inference Protocol (V2) with its extensions, V1, and Seldon Core v1. "
            'Errors are `{"error": "..."}`; those of Seldon Core v1 and of graphs of KServe have their own forms.',
        },
        "servers": [{"url": base or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys((*(route.tag for route in routes), *(_OWN for _ in own)))],
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _of_kind(route: Route, models: Sequence[tuple[str, Signature | None]]) -> Sequence[tuple[str, Signature | None]]:
    """Those that a path can be asked for, by the name that stands in it."""
    for kind in _MADE:
        if f"{{{kind}}}" in route.path:
            return [(name.removesuffix(f".{kind}"), known) for name, known in models if name.endswith(f".{kind}")]
    return [(name, known) for name, known in models if name.rpartition(".")[2] not in _MADE] or models


def _operation(route: Route, models: Sequence[tuple[str, Signature | None]]) -> dict[str, Any]:
    variables = re.findall(r"{(\w+)}", route.path)
    operation: dict[str, Any] = {
        "tags": [route.tag],
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()} {route.path}").strip("_"),
    }
    if variables:
        names = list(dict.fromkeys(name for name, _ in models))
        operation["parameters"] = [_path_parameter(variable, names) for variable in variables]
    if route.request:
        content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{route.request}"}}
        examples = _examples(route, models)
        if examples:
            content["examples"] = examples
        # Repository requests may come without a body; inference may not.
        operation["requestBody"] = {
            "required": route.request not in {"IndexRequest", "LoadRequest", "UnloadRequest"},
            "content": {"application/json": content},
        }
    answer: dict[str, Any] = {}
    if route.response:
        answer = {"schema": {"$ref": f"#/components/schemas/{route.response}"}}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": {route.media: answer}}}
    for code in route.errors:
        responses[str(code)] = {
            "description": HTTPStatus(code).phrase,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{route.error}"}}},
        }
    operation["responses"] = responses
    return operation


def _own_operation(name: str, route: payload.Route) -> dict[str, Any]:
    """A route of a model's own: what it takes and answers, only the model knows."""
    operation: dict[str, Any] = {
        "tags": [_OWN],
        "summary": f"{route.name} of model {name}",
        "description": f"Also at `/v2/models/{name}/routes/{route.path.lstrip('/')}`, where no other model's can be.",
        "operationId": re.sub(r"\W+", "_", f"{name} {route.method.lower()} {route.path}").strip("_"),
        "parameters": [_path_parameter(each, []) for each in re.findall(r"{(\w+)(?::\w+)?}", route.path)],
        "responses": {"200": {"description": "OK", "content": {"*/*": {}}}},
    }
    if route.method.upper() not in {"GET", "HEAD", "DELETE"}:
        operation["requestBody"] = {"required": False, "content": {"*/*": {}}}
    return operation


def _path_parameter(name: str, models: list[str]) -> dict[str, Any]:
    schema: Schema = {"type": "string"}
    if name in {"model", *_MADE} and models:
        schema["examples"] = models
    return {"name": name, "in": "path", "required": True, "schema": schema}


# -- examples --


def _examples(route: Route, models: Sequence[tuple[str, Signature | None]]) -> dict[str, Any]:
    examples: dict[str, Any] = {}
    if route.request not in {"InferenceRequest", "ExplainRequest", "PredictRequest"}:
        return examples
    make = example_instances if route.request == "PredictRequest" else example_request
    for name, signature in models:
        value = make(signature) if signature is not None else None
        if value is not None:
            examples.setdefault(name, {"summary": f"model {name}", "value": value})
    return examples


def example_request(signature: Signature) -> dict[str, Any] | None:
    """A V2 request that the model takes, of one row; None where JSON cannot carry it or it would be very long."""
    inputs = []
    for spec in signature.inputs:
        shape = _example_shape(spec)
        if spec.optional:
            continue
        if spec.datatype in {"FP16", "BF16"} or math.prod(shape) > _MOST_EXAMPLE_ELEMENTS:
            return None
        inputs.append(
            {
                "name": spec.name,
                "shape": list(shape),
                "datatype": spec.datatype,
                "data": [_example_value(spec)] * math.prod(shape),
            }
        )
    return {"inputs": inputs} if inputs else None


def example_instances(signature: Signature) -> dict[str, Any] | None:
    """The same as a V1 request."""
    request = example_request(signature)
    if request is None:
        return None
    rows = {each["name"]: _nested(each["data"], each["shape"][1:]) for each in request["inputs"]}
    if len(rows) == 1:
        return {"instances": list(rows.values())}
    return {"instances": [rows]}


def _example_shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if size < 0 else size for size in spec.shape)


_TEXTS: Final[Mapping[str, str]] = {
    "datetime": "2024-01-31T12:00:00",
    "base64": "aGVhZHJhY2U=",
    "json": '{"key": "value"}',
}


def _example_value(spec: TensorSpec) -> Any:
    if spec.datatype == "BYTES":
        return _TEXTS.get(spec.content_type, "text")
    if spec.datatype == "BOOL":
        return True
    return 0.5 if DTYPES[spec.datatype].kind == "f" else 1


def _nested(flat: list[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return flat[0]
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nested(flat[index * step : (index + 1) * step], shape[1:]) for index in range(shape[0])]


# -- schemas --


def _object(properties: Mapping[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties)}
    if required:
        schema["required"] = list(required)
    return schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_STRING: Final[Schema] = {"type": "string"}
_INTEGER: Final[Schema] = {"type": "integer"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_DATATYPE: Final[Schema] = {"type": "string", "enum": list(DTYPES)}
_SHAPE: Final[Schema] = _list(_INTEGER)
_DATA: Final[Schema] = {
    "type": "array",
    "items": {},
    "description": "Flat, row-major, or nested as the shape is. null is NaN. BYTES are strings.",
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Any": {},
    "Error": _object({"error": _STRING}, required=["error"]),
    "Parameters": {
        "type": "object",
        "additionalProperties": {},
        "description": "Strings, numbers and booleans by name.",
    },
    "InputTensor": _object(
        {"name": _STRING, "shape": _SHAPE, "datatype": _DATATYPE, "parameters": _ref("Parameters"), "data": _DATA},
        required=["name", "shape", "datatype"],
    ),
    "RequestedOutput": _object({"name": _STRING, "parameters": _ref("Parameters")}, required=["name"]),
    "InferenceRequest": _object(
        {
            "id": _STRING,
            "parameters": _ref("Parameters"),
            "inputs": _list(_ref("InputTensor")),
            "outputs": _list(_ref("RequestedOutput")),
        },
        required=["inputs"],
    ),
    "OutputTensor": _object(
        {"name": _STRING, "shape": _SHAPE, "datatype": _DATATYPE, "parameters": _ref("Parameters"), "data": _DATA},
        required=["name", "shape", "datatype"],
    ),
    "InferenceResponse": _object(
        {
            "model_name": _STRING,
            "model_version": _STRING,
            "id": _STRING,
            "parameters": _ref("Parameters"),
            "outputs": _list(_ref("OutputTensor")),
        },
        required=["model_name", "outputs"],
    ),
    "PredictRequest": {
        "type": "object",
        "properties": {
            "instances": {"type": "array", "items": {}, "description": "One element a row."},
            "inputs": {"description": "One tensor, or tensors by name: the column form."},
            "signature_name": _STRING,
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    },
    "Invocation": {
        "type": "object",
        "properties": {
            "dataframe_split": {"type": "object", "description": "`columns` and `data`, a list of rows."},
            "dataframe_records": {"type": "array", "items": {"type": "object"}, "description": "One object a row."},
            "instances": {"type": "array", "items": {}, "description": "One element a row."},
            "inputs": {"description": "One tensor, or tensors by name."},
            "params": {"type": "object", "description": "The model's own parameters."},
        },
        "oneOf": [{"required": [form]} for form in ("dataframe_split", "dataframe_records", "instances", "inputs")],
    },
    "PredictResponse": _object({"predictions": {"type": "array", "items": {}}, "outputs": {}}),
    "ExplainRequest": _object(
        {
            "id": _STRING,
            "parameters": _object(
                {
                    "explainer": {"type": "string", "description": "One of the model's, or any method."},
                    "explain_parameters": {"type": "object", "description": "Options of the method."},
                    "deadline_ms": {"type": "number", "description": "The best by then is the answer."},
                    "max_rows": {"type": "integer", "description": "Of the model, for one explained row."},
                    "rows": {**_list(_INTEGER), "description": "Which rows, from 0; all where it is absent."},
                    "format": {"type": "string", "enum": ["machine", "text", "svg", "png"]},
                    "mode": {"type": "string", "enum": ["sync", "job"]},
                }
            ),
            "inputs": _list(_ref("InputTensor")),
        },
        required=["inputs"],
    ),
    "Explanation": _object(
        {
            "meta": {"type": "object", "description": "name, type, explanations, params, version."},
            "data": {"type": "object", "description": "The method's own."},
            "text": _STRING,
            "complete": {"type": "boolean", "description": "False: the budget was spent first."},
            "row": _INTEGER,
            "model_rows": _INTEGER,
            "seconds": {"type": "number"},
            "warnings": _list(_STRING),
        },
        required=["meta", "data", "text", "complete"],
    ),
    "Explanations": _object(
        {
            "model_name": _STRING,
            "model_version": _STRING,
            "explainer": _STRING,
            "method": _STRING,
            "explanations": _list(_ref("Explanation")),
        },
        required=["model_name", "explanations"],
    ),
    "ExplanationsV1": _object(
        {"explanations": _list(_ref("Explanation")), "meta": {"type": "object"}, "data": {"type": "object"}},
        required=["explanations"],
    ),
    "ExplainJob": _object(
        {
            "id": _STRING,
            "state": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
            "location": _STRING,
            "progress": _object({"explained": _INTEGER, "of": _INTEGER, "model_rows": _INTEGER}),
            "seconds": {"type": "number"},
            "error": _STRING,
            "result": _ref("Explanations"),
        },
        required=["id", "state", "location", "progress"],
    ),
    "TensorMetadata": _object(
        {"name": _STRING, "datatype": _DATATYPE, "shape": _SHAPE, "parameters": _ref("Parameters")},
        required=["name", "datatype", "shape"],
    ),
    "ModelMetadata": _object(
        {
            "name": _STRING,
            "versions": _list(_STRING),
            "platform": _STRING,
            "inputs": _list(_ref("TensorMetadata")),
            "outputs": _list(_ref("TensorMetadata")),
            "parameters": _ref("Parameters"),
            "properties": {"type": "object", "additionalProperties": _STRING},
        },
        required=["name", "platform", "inputs", "outputs"],
    ),
    "ModelReady": _object({"name": _STRING, "ready": _BOOLEAN}, required=["name", "ready"]),
    "ModelConfig": _object(
        {
            "name": _STRING,
            "platform": _STRING,
            "backend": _STRING,
            "max_batch_size": _INTEGER,
            "input": _list({"type": "object"}),
            "output": _list({"type": "object"}),
        },
        required=["name"],
    ),
    "Statistics": _object({"model_stats": _list({"type": "object"})}, required=["model_stats"]),
    "Models": _object({"models": _list(_STRING)}, required=["models"]),
    "Pipelines": _object({"pipelines": _list(_STRING)}, required=["pipelines"]),
    "Experiments": _object({"experiments": _list(_STRING)}, required=["experiments"]),
    "Feedback": _object(
        {
            "reward": {"type": "number"},
            "id": {"type": "string", "description": "Of the request, while the pipeline remembers it."},
            "routing": {
                "type": "object",
                "additionalProperties": _STRING,
                "description": "Router to the branch it chose, as the answer's header headrace-routing had it.",
            },
            "request": _ref("InferenceRequest"),
            "truth": {"description": "What was true of the rows of the request of that id: a label or number each."},
            "labels": {"description": "Another name of truth."},
        },
    ),
    "Labels": _object(
        {
            "id": {"type": "string", "description": "Of the request, as its answer had it."},
            "labels": {"type": "array", "items": {}, "description": "What was true of each row; null: not known."},
            "truth": {"description": "Another name of labels."},
            "reward": {"type": "number", "description": "For routers that learn."},
            "feedback": {"type": "array", "items": {"type": "object"}, "description": "Several of these at once."},
        },
    ),
    "LabelsTaken": _object(
        {"model_name": _STRING, "taken": _INTEGER, "joined": {"type": "integer", "description": "Requests known."}},
    ),
    "FeedbackTaken": _object({"name": _STRING, "taken": _BOOLEAN}, required=["name", "taken"]),
    "SeldonMessage": {
        "type": "object",
        "properties": {
            "status": _object({"status": {}, "info": _STRING, "code": _INTEGER, "reason": _STRING}),
            "meta": _object(
                {
                    "puid": _STRING,
                    "tags": {"type": "object"},
                    "routing": {"type": "object"},
                    "requestPath": {"type": "object"},
                }
            ),
            "data": _object(
                {
                    "names": _list(_STRING),
                    "ndarray": _list({}),
                    "tensor": _object({"shape": _list(_INTEGER), "values": _list({"type": "number"})}),
                    "tftensor": {"type": "object"},
                }
            ),
            "strData": _STRING,
            "binData": {"type": "string", "contentEncoding": "base64"},
            "jsonData": {},
        },
        "description": "A request has exactly one of data, strData, binData and jsonData; data exactly one array.",
    },
    "SeldonFeedback": _object(
        {
            "request": _ref("SeldonMessage"),
            "response": _ref("SeldonMessage"),
            "reward": {"type": "number"},
            "truth": _ref("SeldonMessage"),
        }
    ),
    "IndexRequest": _object({"ready": _BOOLEAN}),
    "Index": _list(
        _object(
            {
                "name": _STRING,
                "version": _STRING,
                "state": {"type": "string", "enum": ["UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"]},
                "reason": _STRING,
            },
            required=["name", "state", "reason"],
        )
    ),
    "LoadRequest": _object({"parameters": _ref("Parameters")}),
    "UnloadRequest": _object({"parameters": _object({"unload_dependents": _BOOLEAN})}),
    "ServerMetadata": _object(
        {"name": _STRING, "version": _STRING, "extensions": _list(_STRING)}, required=["name", "version"]
    ),
    "Live": _object({"live": _BOOLEAN}, required=["live"]),
    "Ready": _object({"ready": _BOOLEAN}, required=["ready"]),
    "Alive": _object({"status": _STRING}, required=["status"]),
}
"""What bodies look like, by the names that the routes use."""


# -- the page --


def page(title: str, document_url: str) -> bytes:
    """An HTML page that lists the operations of a document and sends requests to them.

    Args:
        title: Shown at the top.
        document_url: Where the page finds its document; a path of the same server.
    """
    template = _PAGE.read_text(encoding="utf-8")
    url = orjson.dumps(quote(document_url, safe="/:%?&=.-_~")).decode()
    return template.replace("{{title}}", html.escape(title)).replace("{{document_url}}", url).encode()
