"""What a field of a resource may hold, and the JSON Schema that says so to editors. Pure.

`parse` checks by `LIMITS`; the control API and the docs publish `schema`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

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
    kinds = [kind] if kind else list(KINDS)
    specs, components = msgspec.json.schema_components([KINDS[each] for each in kinds], ref_template="#/$defs/{name}")
    _annotate(components)
    documents = {each: _document(each, spec) for each, spec in zip(kinds, specs, strict=True)}
    top: dict[str, Any] = {"$schema": DIALECT}
    if kind:
        return top | documents[kind] | {"$defs": components}
    return top | {
        "title": "A resource of Headrace",
        "oneOf": list(documents.values()),
        "$defs": components,
    }


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


def _annotate(components: dict[str, Any]) -> None:
    """Write what msgspec cannot know into the schemas of the structs: docstrings of fields, limits, quantities."""
    for cls in _structs():
        component = components.get(cls.__name__)
        if component is None:
            continue
        component["description"] = _line(cls.__doc__)
        notes = documentation(cls)
        for field in msgspec.structs.fields(cls):
            entry = component["properties"][field.encode_name]
            low, high = LIMITS.get((cls, field.name), (None, None))
            for number in [entry, *entry.get("anyOf", ())]:
                if number.get("type") in {"integer", "number"}:
                    number |= {} if low is None else {"minimum": low}
                    number |= {} if high is None else {"maximum": high}
            if choices := CHOICES.get((cls, field.name)):
                entry["enum"] = list(choices)
            if is_quantity(field.name):
                default = {key: entry.pop(key) for key in ("default",) if key in entry}
                text = {"type": "string", "pattern": f"^{QUANTITY}$"}
                entry = component["properties"][field.encode_name] = default | {"anyOf": [dict(entry), text]}
            if field.name in notes:
                entry["description"] = notes[field.name]


def _structs() -> list[type]:
    return [
        each
        for module in (resources, graph)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__module__ == module.__name__
    ]


def documentation(struct: type) -> dict[str, str]:
    """The docstring under each field of a struct, one line each, by field name."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    found = {}
    for statement, follower in zip(body, body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            found[statement.target.id] = _line(str(follower.value.value))
    return found


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
