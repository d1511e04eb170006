"""What a field of a resource may hold, and the JSON Schema that says so to editors. Pure.

`parse` checks by `LIMITS`; the control API and the docs publish `schema`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import msgspec.inspect as kinds

from headrace.control import resources
from headrace.control.resources import API_VERSION, KINDS
from headrace.graph import spec as graph
from headrace.payload import DTYPES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
"""What a resource may be called; pipelines without dots."""
RESERVED: Final = (".model", ".pipeline", ".experiment")
"""What no name ends with: callers write it behind a name to say which kind they mean."""
QUANTITY: Final = r"\d+(\.\d+)?\s?([kKMGTPE]i?)?B?"
"""Bytes as Kubernetes and headrace.yaml write them: `200Mi`, `1.5G`, `64MiB`."""

Limit = tuple[float | None, float | None]

LIMITS: Final[Mapping[tuple[type, str], Limit]] = MappingProxyType(
    {
        (resources.Batching, "max_batch_size"): (1, None),
        (resources.Batching, "max_wait_seconds"): (0, None),
        (resources.Batching, "max_queue_size"): (1, None),
        (resources.Cache, "max_entries"): (1, None),
        (resources.Cache, "max_bytes"): (1, None),
        (resources.Cache, "ttl_seconds"): (0, None),
        (resources.Model, "replicas"): (1, None),
        (resources.Model, "min_replicas"): (0, None),
        (resources.Model, "max_replicas"): (0, None),
        (resources.Model, "predict_timeout_seconds"): (0, None),
        (resources.Model, "timeout_seconds"): (0, None),
        (resources.Model, "memory_bytes"): (0, None),
        (resources.Model, "idle_seconds"): (0, None),
        (resources.Model, "canary_traffic_percent"): (0, 100),
        (resources.Candidate, "weight"): (0, None),
        (resources.Mirror, "percent"): (0, 100),
        (resources.Server, "memory_bytes"): (0, None),
        (resources.Server, "overcommit_percent"): (0, None),
        (resources.Server, "replicas"): (0, None),
        (resources.RolloutStep, "weight"): (0, 100),
        (resources.RolloutStep, "pause_seconds"): (0, None),
        (resources.Judge, "error_rate"): (1e-6, 0.5),
        (resources.Judge, "min_requests"): (1, None),
        (resources.Judge, "max_error_rate_increase"): (0, 1),
        (resources.Judge, "latency_percentile"): (1, 100),
        (resources.Judge, "max_latency_ratio"): (0, None),
        (resources.Judge, "min_agreement"): (0, 1),
        (resources.Judge, "timeout_seconds"): (0, None),
        (resources.Rollout, "mirror_percent"): (0, 100),
        (graph.Batch, "size"): (0, None),
        (graph.Batch, "window_ms"): (0, None),
        (graph.Branch, "weight"): (0, None),
        (graph.Route, "epsilon"): (0, 1),
        (graph.Step, "join_window_ms"): (0, None),
        (graph.Step, "timeout_ms"): (0, None),
        (graph.Input, "join_window_ms"): (0, None),
        (graph.Output, "join_window_ms"): (0, None),
        (graph.Pipeline, "max_step_revisits"): (0, None),
        (graph.Pipeline, "timeout_ms"): (0, None),
        (graph.Pipeline, "partitions"): (0, None),
        (graph.Pipeline, "result_seconds"): (0, None),
    }
)
"""Least and greatest value of the fields that are numbers, both included; None: no end on that side."""

CHOICES: Final[Mapping[tuple[type, str], tuple[str, ...]]] = MappingProxyType(
    {(resources.TensorSpec, "datatype"): tuple(DTYPES)}
)
"""Fields of text that are one of a few words."""


def is_quantity(field: str) -> bool:
    """Whether a field holds bytes, and so may be written as a quantity."""
    return field.endswith("_bytes")


def limit_of(low: float | None, high: float | None) -> str:
    """The limit as a message says it."""
    if high is None:
        return f"{low:g} or more"
    return f"{low:g} to {high:g}"


def schema(kind: str = "") -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind's documents, with the fields' docstrings; empty: of all kinds.

    Raises:
        KeyError: there is no such kind.
    """
    components: dict[str, Any] = {}
    wanted = [kind] if kind else list(KINDS)
    documents = {each: _document(each, _schema_of(_type(KINDS[each]), components)) for each in wanted}
    top: dict[str, Any] = {"$schema": DIALECT}
    if kind:
        return top | documents[kind] | {"$defs": components}
    return top | {"title": "A resource of Headrace", "oneOf": list(documents.values()), "$defs": components}


def _document(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = {
        "type": "object",
        "description": "Whose spec it is.",
        "properties": {
            "name": {
                "type": "string",
                "pattern": f"^{NAME.replace('.-', '-') if kind == 'Pipeline' else NAME}$",
                "description": "What callers ask for. It cannot end with "
                + ", ".join(f"'{each}'" for each in RESERVED)
                + ".",
            },
            "namespace": {"type": "string", "default": "default"},
            "labels": texts,
            "annotations": texts,
        },
        "required": ["name"],
    }
    return {
        "title": kind,
        "description": _line(KINDS[kind].__doc__),
        "type": "object",
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind},
            "metadata": metadata,
            "spec": spec,
            "status": {"type": "object", "description": "Written by the server; what a manifest says here is ignored."},
        },
        "required": ["apiVersion", "kind", "metadata"] + (["spec"] if requires_spec(kind) else []),
    }


def requires_spec(kind: str) -> bool:
    """Whether documents of a kind say nothing without a spec."""
    return any(each.required for each in msgspec.structs.fields(KINDS[kind])) or kind in {"Model", "Pipeline"}


def _type(struct: type) -> kinds.Type:
    return kinds.type_info(struct)


def _schema_of(kind: kinds.Type, components: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; structs are written into `components` and referred to."""
    match kind:
        case kinds.StructType(cls=cls):
            if cls.__name__ not in components:
                components[cls.__name__] = {}
                components[cls.__name__] = _component(kind, components)
            return {"$ref": f"#/$defs/{cls.__name__}"}
        case kinds.VarTupleType(item_type=item):
            return {"type": "array", "items": _schema_of(item, components)}
        case kinds.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _schema_of(value, components)}
        case kinds.UnionType(types=types):
            return {"anyOf": [_schema_of(each, components) for each in types]}
        case kinds.LiteralType(values=values):
            return {"enum": list(values)}
        case _:
            return dict(_SCALARS.get(type(kind), {}))


_SCALARS: Final[Mapping[type, Mapping[str, str]]] = MappingProxyType(
    {
        kinds.StrType: {"type": "string"},
        kinds.BoolType: {"type": "boolean"},
        kinds.IntType: {"type": "integer"},
        kinds.FloatType: {"type": "number"},
        kinds.NoneType: {"type": "null"},
    }
)


def _component(kind: kinds.StructType, components: dict[str, Any]) -> dict[str, Any]:
    notes = documentation(kind.cls)
    properties = {}
    for field in kind.fields:
        entry = _field(kind.cls, field, components)
        if field.name in notes:
            entry["description"] = notes[field.name]
        properties[field.encode_name] = entry
    return {
        "title": kind.cls.__name__,
        "description": _line(kind.cls.__doc__),
        "type": "object",
        "properties": properties,
        "required": [field.encode_name for field in kind.fields if field.required],
        "additionalProperties": False,
    }


def _field(struct: type, field: kinds.Field, components: dict[str, Any]) -> dict[str, Any]:
    entry = _schema_of(field.type, components)
    low, high = LIMITS.get((struct, field.name), (None, None))
    limits = {name: end for name, end in (("minimum", low), ("maximum", high)) if end is not None}
    for each in [entry, *entry.get("anyOf", ())]:
        if each.get("type") in {"integer", "number"}:
            each.update(limits)
    if choices := CHOICES.get((struct, field.name)):
        entry["enum"] = list(choices)
    if is_quantity(field.name):
        entry = {"anyOf": [entry, {"type": "string", "pattern": f"^({QUANTITY})$"}]}
    if not field.required and isinstance(field.default, str | int | float | bool):
        entry["default"] = field.default
    return entry


def documentation(struct: type) -> dict[str, str]:
    """The docstring under each field of a struct, one line each, by field name."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found = {}
    for statement, follower in itertools.pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            found[statement.target.id] = _line(str(follower.value.value))
    return found


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def reference() -> str:
    """The page of all fields of all kinds, in Markdown (`docs/resource-fields.md`), from the schema."""
    lines = [
        "# Fields of resources",
        "",
        "<!-- Generated from src/headrace/control/resources.py and src/headrace/graph/spec.py by scripts/docs; edit",
        "the docstrings there. -->",
        "",
        f"What the `spec` of each kind of `{API_VERSION}` may say. An unknown field is refused with the nearest name.",
        "`headrace schema --all` prints the same for editors. Bytes may be written as quantities: `200Mi`, `1.5G`.",
    ]
    told: set[str] = set()
    for kind in KINDS:
        components = schema(kind)["$defs"]
        lines += ["", f"## {kind}", "", components[kind]["description"]]
        for name in [kind, *(each for each in components if each != kind)]:
            if name in told:
                continue
            told.add(name)
            component = components[name]
            if name != kind:
                lines += ["", f"### {name}", "", component["description"]]
            lines += ["", "| field | type | default | |", "|---|---|---|---|"]
            required = component["required"]
            for field, entry in component["properties"].items():
                default = "required" if field in required else _default_of(entry)
                note = entry.get("description", "").replace("|", "\\|")
                lines.append(f"| `{field}` | {_type_of(entry)} | {default} | {note} |")
    return "\n".join(lines) + "\n"


def _default_of(entry: Mapping[str, Any]) -> str:
    default = entry.get("default", "")
    if default == "":
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type_of(entry: Mapping[str, Any]) -> str:
    """A schema in words."""
    match entry:
        case {"$ref": where}:
            name = str(where).rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"enum": choices}:
            return ", ".join(f"`{each}`" for each in choices)
        case {"anyOf": [{"type": "integer"}, {"type": "string"}]}:
            return "bytes"
        case {"anyOf": several}:
            return " or ".join(_type_of(each) for each in several if each.get("type") != "null")
        case {"type": "array", "items": item}:
            return f"list of {_type_of(item) or 'values'}"
        case {"type": "object", "additionalProperties": value}:
            return f"map to {_type_of(value) or 'values'}"
        case {"type": kind}:
            word = {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(kind, str(kind))
            low, high = entry.get("minimum"), entry.get("maximum")
            return word if low is None else f"{word}, {limit_of(low, high)}"
        case _:
            return ""
