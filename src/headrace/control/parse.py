"""Manifests to resources, and resources to documents: the first step of an apply. Pure; `service` calls it.

Ours are read here, field by field along the types of `resources`; those made for other systems go to `manifests`.
Every fault of every file is collected before any is raised:

    FILE:LINE: Model 'iris': spec.urii: unknown field 'urii'; did you mean 'uri'?
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import msgspec.inspect as kinds
import yaml

from headrace.control import manifests, schema
from headrace.control.resources import API_VERSION, KINDS, Metadata, Resource
from headrace.errors import HeadraceError, InvalidResources
from headrace.payload import EMPTY

MAX_DEPTH: Final = 64
FREE_NODES: Final = 50_000
"""Values that files may stand for beside four for each letter: with aliases, a few lines may stand for billions."""

_CLUSTER: Final = frozenset(
    {"v1", "apps", "autoscaling", "batch", "extensions", "policy", "getambassador.io", "keda.sh", "cert-manager.io"}
)
_CLUSTER_GROUPS: Final = (".k8s.io", ".istio.io", ".knative.dev", ".coreos.com")
"""Whose documents stand beside those that are for us (secrets, namespaces, gateways), and have no effect."""

Key = tuple[str, str]
"""Kind and name."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest as it was sent."""

    name: str
    """As messages name it."""
    text: str
    """YAML, any number of documents, or JSON."""
    base: str = ""
    """The folder that relative paths in it start from, absolute."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """A resource and where it was found."""

    resource: Resource
    file: str
    lines: Mapping[str, int]
    """Path of a field (`spec.steps[0].inputs`; empty: the document) to its line, from 1; of foreign documents, that of
    the document only."""

    def where(self, path: str = "") -> str:
        """`FILE:LINE` of a field, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.file}:{self.lines.get(path, 1)}"


def read(files: Sequence[File]) -> list[Resource]:
    """The resources that the files declare, in their order.

    Raises:
        InvalidResources: one sentence for each fault: file and line, resource, field, expected and found.
    """
    return [each.resource for each in documents(files)]


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What files hold, and what is wrong with them."""

    reads: tuple[Read, ...]
    """The resources that can be read."""
    faults: tuple[str, ...] = ()
    spoiled: frozenset[str] | None = frozenset()
    """The names of those that cannot, as far as they have one; None: there may be any."""


def documents(files: Sequence[File]) -> list[Read]:
    """As `read`, with the place of each resource.

    Raises:
        InvalidResources: as of `read`.
    """
    found = survey(files)
    if found.faults:
        raise InvalidResources(found.faults)
    return list(found.reads)


def survey(files: Sequence[File]) -> Survey:
    """The same with its faults, so that what can be read is checked nevertheless."""
    reader = _Reader(sum(len(file.text) for file in files))
    found: list[Read] = []
    for file in files:
        for node in reader.compose(file):
            found += reader.document(node, file)
    places: dict[Key, Read] = {}
    for each in found:
        first = places.setdefault(each.resource.key, each)
        if first is not each:
            reader.faults.append(
                f"{each.where()}: {each.resource.describe()}: declared twice; the other is at {first.where()}"
            )
    if not reader.faults and not found:
        reader.faults += [f"{note}. There is nothing else to apply" for _, note in reader.beside]
    spoiled = None if None in reader.spoiled else frozenset(each for each in reader.spoiled if each is not None)
    return Survey(reads=tuple(_noted(found, reader.beside)), faults=tuple(reader.faults), spoiled=spoiled)


def _noted(found: list[Read], beside: Sequence[tuple[str, str]]) -> list[Read]:
    """With what stood beside them and is not for us, at the first resource of its file."""
    for file, note in beside if found else ():
        at = next((number for number, each in enumerate(found) if each.file == file), 0)
        resource = found[at].resource
        noted = msgspec.structs.replace(resource, notes=(*resource.notes, note))
        found[at] = msgspec.structs.replace(found[at], resource=noted)
    return found


def render(resource: Resource) -> dict[str, Any]:
    """The resource as a document; `read` of it gives the same declaration."""
    document: dict[str, Any] = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": plain(resource.metadata),
        "spec": plain(resource.spec),
    }
    if status := plain(resource.status):
        document["status"] = status
    for name in ("origin", "base", "notes"):
        if value := plain(getattr(resource, name)):
            document[name] = value
    return document


def plain(value: Any) -> Any:
    """A struct as dicts, lists and scalars; fields at their default are left out."""
    return msgspec.to_builtins(value, enc_hook=encodable, str_keys=True)


def encodable(value: Any) -> Any:
    """For msgspec's `enc_hook`: what it does not know itself.

    Raises:
        NotImplementedError: this does not know it either.
    """
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"a {type(value).__name__} has no form in JSON")


def name_fault(kind: str, name: str) -> str:
    """Why a resource cannot be called so; empty: it can."""
    if kind == "Pipeline" and (not re.fullmatch(schema.NAME, name) or "." in name):
        return (  # Seldon Core's words first
            f"pipeline {name} does not have a valid name - it must be alphanmumeric and cannot contain dots (.); "
            "expected up to 128 letters, digits, '-' and '_', the first a letter or digit"
        )
    if not re.fullmatch(schema.NAME, name):
        expected = "up to 128 letters, digits, '-', '_' and '.', the first a letter, digit or '_'"
        return f"expected a name of {expected}, found {name!r}"
    for suffix in schema.RESERVED:
        if name.endswith(suffix):
            return f"a name cannot end with {suffix!r}, by which callers say what kind they mean; found {name!r}"
    return ""


# -- text -> nodes --

_TAG: Final = "tag:yaml.org,2002:"
_WORDS: Final[Mapping[str, str]] = {
    f"{_TAG}str": "text",
    f"{_TAG}int": "the number",
    f"{_TAG}float": "the number",
    f"{_TAG}bool": "the boolean",
    f"{_TAG}timestamp": "the date",
}
_MERGE: Final = f"{_TAG}merge"
_NULL: Final = f"{_TAG}null"
_NUMBERS: Final = frozenset({f"{_TAG}int", f"{_TAG}float"})
_BOOL: Final = f"{_TAG}bool"
_PLAIN: Final = frozenset({*_WORDS, _NULL, f"{_TAG}map", f"{_TAG}seq"})

_AS_WRITTEN: Final = frozenset({"version", "artifact_version", "environment", "runtime"})
"""Fields of text whose word stands as it is written: version 1.10 is not 1.1, and `off` is not false."""
_SERVERS: Final = frozenset(
    {
        "uid",
        "generation",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "selfLink",
        "ownerReferences",
        "finalizers",
    }
)
"""Metadata that `headrace get` or kubectl print and that nobody declares: passed over."""
_RESOURCE: Final = ("apiVersion", "kind", "metadata", "spec", "status", "origin", "base", "notes")

_WRONG: Final = object()
"""In place of a value that could not be read; its fault is written."""


def _came(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == _NULL:
        return "nothing"
    shown = node.value if len(node.value) <= 80 else node.value[:77] + "..."
    return f"{_WORDS.get(node.tag, 'the value')} {shown!r}"


def _problem(error: yaml.YAMLError) -> tuple[int, str]:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error)
    return (mark.line + 1 if mark is not None else 1), " ".join(str(text).split())


class _TooDeep(yaml.YAMLError):
    def __init__(self, mark: Any) -> None:
        self.problem_mark = mark
        self.problem = f"nested deeper than {MAX_DEPTH} levels"
        super().__init__(self.problem)


def _compose(text: str) -> list[yaml.Node]:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):  # counted first: compose recurses in C, with no limit
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooDeep(event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return list(yaml.compose_all(text, Loader=yaml.CSafeLoader))


class _Place(msgspec.Struct, frozen=True):
    """Where in a document the reader is."""

    file: str
    owner: str
    """`Model 'iris'`; empty where that is not known yet."""
    lines: dict[str, int]
    path: str = ""

    def of(self, name: str) -> _Place:
        return _Place(self.file, self.owner, self.lines, f"{self.path}.{name}" if self.path else name)

    def at(self, index: int) -> _Place:
        return _Place(self.file, self.owner, self.lines, f"{self.path}[{index}]")


class _Reader:
    """Reads documents, collects faults."""

    def __init__(self, letters: int) -> None:
        self.faults: list[str] = []
        self.spoiled: set[str | None] = set()
        """Names of documents with faults; None for one whose name is not known."""
        self.beside: list[tuple[str, str]] = []
        """File, and a note on a document that is for the cluster alone."""
        self._nodes = 0
        self._most = FREE_NODES + 4 * letters

    def compose(self, file: File) -> list[yaml.Node]:
        """The documents of a file as nodes; empty ones left out."""
        try:
            return [node for node in _compose(file.text) if node.tag != _NULL or not isinstance(node, yaml.ScalarNode)]
        except (yaml.YAMLError, ValueError) as error:
            if nodes := self._compose_json(file):
                return nodes
            line, problem = _problem(error) if isinstance(error, yaml.YAMLError) else (1, str(error))
            self.faults.append(f"{file.name}:{line}: not valid YAML: {problem}")
            self.spoiled.add(None)
            return []

    def _compose_json(self, file: File) -> list[yaml.Node]:
        # JSON that YAML 1.1 does not take, such as a pair of surrogates.
        if not file.text.lstrip().startswith(("{", "[")):
            return []
        try:
            return _compose(yaml.dump(json.loads(file.text), Dumper=yaml.CSafeDumper, sort_keys=False))
        except (ValueError, RecursionError, yaml.YAMLError):
            return []

    def fault(self, node: yaml.Node, place: _Place, text: str) -> Any:
        owner = f"{place.owner}: " if place.owner else ""
        path = f"{place.path}: " if place.path else ""
        self.faults.append(f"{place.file}:{node.start_mark.line + 1}: {owner}{path}{text}")
        return _WRONG

    def expected(self, node: yaml.Node, place: _Place, what: str) -> Any:
        return self.fault(node, place, f"expected {what}, found {_came(node)}")

    def unknown(self, key: yaml.Node, place: _Place, name: str, known: Sequence[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known fields are {', '.join(sorted(known))}"
        self.fault(key, place.of(name), f"unknown field {name!r}{hint}")

    # -- documents --

    def document(self, node: yaml.Node, file: File) -> Iterator[Read]:
        """The resources of one document."""
        place = _Place(file.name, "", {})
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from self.document(item, file)
            return
        if not isinstance(node, yaml.MappingNode):
            self.expected(node, place, "a resource, with 'apiVersion', 'kind', 'metadata' and 'spec'")
            self.spoiled.add(None)
            return
        members = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        version, kind = (_word(members.get(each)) for each in ("apiVersion", "kind"))
        if kind.endswith("List") and isinstance(items := members.get("items"), yaml.SequenceNode):
            for item in items.value:
                yield from self.document(item, file)
            return
        before = len(self.faults)
        if version == API_VERSION:
            yield from self._ours(node, kind, file)
        else:
            yield from self._foreign(node, members, version, kind, file)
        if len(self.faults) > before:
            self.spoiled.add((_name_of(members["metadata"]) if "metadata" in members else "") or None)

    def _foreign(
        self, node: yaml.Node, members: Mapping[str, yaml.Node], version: str, kind: str, file: File
    ) -> Iterator[Read]:
        place = _Place(file.name, "", {})
        line = node.start_mark.line + 1
        group = version.rpartition("/")[0] or version
        if (group, kind) not in manifests.KINDS:
            if kind and (group in _CLUSTER or group.endswith(_CLUSTER_GROUPS)):
                name = _name_of(members["metadata"]) if "metadata" in members else ""
                what = f"{kind} '{name}'" if name else kind
                self.beside.append((file.name, f"{file.name}:{line}: {what}: without effect: there is no cluster here"))
            else:
                self.fault(node, place, _nobody(version, kind))
            return
        before = len(self.faults)
        content = self._anything(node, place, 0)
        if len(self.faults) > before:
            return
        try:
            found = manifests.convert(content, where=f"{file.name}:{line}", base=file.base)
        except InvalidResources as error:
            self.faults += error.faults
            return
        except HeadraceError as error:
            self.faults.append(f"{file.name}:{line}: {error}")
            return
        for each in found:
            if why := name_fault(each.kind, each.metadata.name):
                self.faults.append(f"{file.name}:{line}: {each.describe()}: {why}")
            else:
                yield Read(resource=each, file=file.name, lines={"": line})

    def _ours(self, node: yaml.MappingNode, kind: str, file: File) -> Iterator[Read]:
        lines: dict[str, int] = {"": node.start_mark.line + 1}
        place = _Place(file.name, "", lines)
        before = len(self.faults)
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; {API_VERSION} has {', '.join(KINDS)}"
            self.fault(node, place, f"unknown kind {kind!r}{hint}")
            return
        entries = {name: (key, value) for name, key, value in self._entries(node, place)}
        name = _name_of(entries["metadata"][1]) if "metadata" in entries else ""
        place = _Place(file.name, f"{kind} '{name}'" if name else kind, lines)
        for each, (key, _) in entries.items():
            if each not in _RESOURCE:
                self.unknown(key, place, each, _RESOURCE[:4])
        metadata = self._metadata(node, entries, place)
        if name and (why := name_fault(kind, name)):
            self.fault(entries["metadata"][1], place.of("metadata.name"), why)
        spec: Any = _WRONG
        if "spec" in entries and entries["spec"][1].tag != _NULL:
            spec = self.value(entries["spec"][1], _type(KINDS[kind]), place.of("spec"), 1)
        elif schema.requires_spec(kind):
            self.fault(node, place, "'spec' is missing")
        else:
            spec = KINDS[kind]()
        if len(self.faults) > before or metadata is _WRONG or spec is _WRONG:
            return
        base = _word(entries["base"][1]) if "base" in entries else ""
        yield Read(
            resource=Resource(kind=kind, metadata=metadata, spec=spec, base=base or file.base),
            file=file.name,
            lines=lines,
        )

    def _metadata(self, node: yaml.Node, entries: Mapping[str, tuple[yaml.Node, yaml.Node]], place: _Place) -> Any:
        if "metadata" not in entries:
            return self.fault(node, place, "'metadata' with a 'name' is missing")
        found = entries["metadata"][1]
        if isinstance(found, yaml.MappingNode):
            kept = [pair for pair in found.value if _word(pair[0]) not in _SERVERS]
            found = yaml.MappingNode(found.tag, kept, found.start_mark, found.end_mark)
        return self.value(found, _metadata_type(), place.of("metadata"), 1)

    # -- nodes -> values, along msgspec's own description of the types --

    def value(self, node: yaml.Node, kind: kinds.Type, place: _Place, depth: int, field: str = "") -> Any:
        """What a node says, as a value of a type; `_WRONG` after writing why it cannot be."""
        self._nodes += 1
        if self._nodes > self._most or depth > MAX_DEPTH:
            return self._too_much(node, place)
        place.lines[place.path] = node.start_mark.line + 1
        match kind:
            case kinds.StructType():
                return self._struct(node, kind, place, depth)
            case kinds.VarTupleType():
                return self._items(node, kind, place, depth, field)
            case kinds.DictType():
                return self._mapping(node, kind, place, depth)
            case kinds.UnionType():  # with None, or of a word and a list
                if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
                    return None
                inner = [each for each in kind.types if not isinstance(each, kinds.NoneType)]
                is_list = isinstance(node, yaml.SequenceNode)
                chosen = [each for each in inner if isinstance(each, kinds.VarTupleType) == is_list] or inner
                return self.value(node, chosen[0], place, depth, field)
            case kinds.LiteralType():
                # The word as written: YAML reads a bare `off` as false.
                if isinstance(node, yaml.ScalarNode) and node.value in kind.values:
                    return node.value
                return self._choice(node, place, [str(each) for each in kind.values])
            case kinds.StrType():
                return self._text(node, place, field)
            case kinds.BoolType():
                if isinstance(node, yaml.ScalarNode) and node.tag == _BOOL:
                    return node.value.lower() in {"true", "yes", "on"}
                return self.expected(node, place, "true or false")
            case kinds.IntType() | kinds.FloatType():
                return self._number(node, kind, place, field)
            case _:
                return self._anything(node, place, depth)

    def _struct(self, node: yaml.Node, kind: kinds.StructType, place: _Place, depth: int) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self.expected(node, place, "fields by name")
        fields = _fields(kind.cls)
        values: dict[str, Any] = {}
        wrong = False
        given = set()
        for name, key, value in self._entries(node, place):
            if name not in fields:
                self.unknown(key, place, name, list(fields))
                wrong = True
                continue
            field = fields[name]
            given.add(name)
            inside = place.of(name)
            if isinstance(value, yaml.ScalarNode) and value.tag == _NULL and not field.required:
                continue  # `field:` with nothing behind it is as if it were not there, as in Kubernetes
            found = self.value(value, field.type, inside, depth + 1, field.name)
            if found is not _WRONG:
                found = self._limited(value, found, kind.cls, field.name, inside)
            wrong = wrong or found is _WRONG
            values[field.name] = found
        for name, field in fields.items():
            if field.required and name not in given:
                self.fault(node, place, f"{name!r} is missing")
                wrong = True
        return _WRONG if wrong else kind.cls(**values)

    def _limited(self, node: yaml.Node, value: Any, struct: type, field: str, place: _Place) -> Any:
        if (limit := schema.LIMITS.get((struct, field))) is not None and value is not None:
            low, high = limit
            if (low is not None and value < low) or (high is not None and value > high):
                return self.expected(node, place, schema.limit_of(low, high))
        if (choices := schema.CHOICES.get((struct, field))) is not None and value not in choices:
            return self._choice(node, place, choices)
        return value

    def _choice(self, node: yaml.Node, place: _Place, choices: Sequence[str]) -> Any:
        near = difflib.get_close_matches(str(node.value), choices, n=1) if isinstance(node, yaml.ScalarNode) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return self.fault(node, place, f"expected one of {', '.join(choices)}, found {_came(node)}{hint}")

    def _items(self, node: yaml.Node, kind: kinds.VarTupleType, place: _Place, depth: int, field: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            return self.expected(node, place, "a list")
        found = tuple(
            self.value(item, kind.item_type, place.at(index), depth + 1, field) for index, item in enumerate(node.value)
        )
        return _WRONG if any(each is _WRONG for each in found) else found

    def _mapping(self, node: yaml.Node, kind: kinds.DictType, place: _Place, depth: int) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self.expected(node, place, "values by name")
        found = {
            name: self.value(value, kind.value_type, place.of(name), depth + 1)
            for name, _, value in self._entries(node, place)
        }
        return _WRONG if any(each is _WRONG for each in found.values()) else (found or EMPTY)

    def _text(self, node: yaml.Node, place: _Place, field: str) -> Any:
        if isinstance(node, yaml.ScalarNode):
            if node.tag == f"{_TAG}str":
                return node.value
            if field in _AS_WRITTEN and node.tag != _NULL:
                return node.value
        return self.expected(node, place, "text (in quotes, if it looks like something else)")

    def _number(self, node: yaml.Node, kind: kinds.IntType | kinds.FloatType, place: _Place, field: str) -> Any:
        whole = isinstance(kind, kinds.IntType)
        quantity = whole and schema.is_quantity(field)
        expected = "bytes, such as 200Mi or a whole number" if quantity else ("a whole number" if whole else "a number")
        if not isinstance(node, yaml.ScalarNode):
            return self.expected(node, place, expected)
        if quantity and node.tag == f"{_TAG}str":
            found = _bytes(node.value)
            return self.expected(node, place, expected) if found is None else found
        value = _scalar(node) if node.tag in _NUMBERS else None
        if value is None or (whole and value != int(value) if _finite(value) else True):
            return self.expected(node, place, expected)
        return int(value) if whole else float(value)

    def _anything(self, node: yaml.Node, place: _Place, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > self._most or depth > MAX_DEPTH:
            return self._too_much(node, place)
        if node.tag not in _PLAIN:
            return self.fault(node, place, f"expected plain values, found one tagged {node.tag!r}")
        if isinstance(node, yaml.MappingNode):
            return {
                name: self._anything(value, place.of(name), depth + 1) for name, _, value in self._entries(node, place)
            }
        if isinstance(node, yaml.SequenceNode):
            return [self._anything(item, place.at(index), depth + 1) for index, item in enumerate(node.value)]
        if node.tag == f"{_TAG}timestamp":  # JSON has none, so nothing that is passed on takes one
            return node.value
        value = _scalar(node)
        if value is None and node.tag != _NULL:
            return self.expected(node, place, "text, a number or a boolean")
        return value

    def _entries(
        self, node: yaml.MappingNode, place: _Place, depth: int = 0
    ) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        seen: set[str] = set()
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _WORDS:
                self.expected(key, place, "a key that is text")
                continue
            if key.value in seen:
                self.fault(key, place.of(key.value), "given twice")
                continue
            seen.add(key.value)
            yield key.value, key, value
        for each in merged:  # `<<: *defaults`: what is written in the mapping itself holds over it
            if not isinstance(each, yaml.MappingNode) or depth > MAX_DEPTH:
                self.expected(each, place.of("<<"), "a mapping to merge")
                continue
            for name, key, value in self._entries(each, place, depth + 1):
                if name not in seen:
                    seen.add(name)
                    yield name, key, value

    def _too_much(self, node: yaml.Node, place: _Place) -> Any:
        if self._nodes > self._most + 1:
            return _WRONG  # it has been said
        self._nodes = self._most + 1
        return self.fault(
            node, place, f"nested deeper than {MAX_DEPTH} levels, or more than {self._most} values in all"
        )


def _nobody(version: str, kind: str) -> str:
    if not version or not kind:
        missing = " and ".join(each for each, there in (("'apiVersion'", version), ("'kind'", kind)) if not there)
        verb = "are" if " and " in missing else "is"
        return f"{missing} {verb} missing; expected for example apiVersion: {API_VERSION}, kind: Model"
    if version.partition("/")[0] == API_VERSION.partition("/")[0]:
        return f"expected apiVersion: {API_VERSION}, found {version!r}"
    known = [f"{API_VERSION} ({', '.join(KINDS)})"]
    groups: dict[str, list[str]] = {}
    for group, each in manifests.KINDS:
        groups.setdefault(group, []).append(each)
    known += [f"{group} ({', '.join(sorted(each))})" for group, each in sorted(groups.items()) if group]
    return f"nobody here knows apiVersion {version!r}, kind {kind!r}; known are {', '.join(known)}"


def _word(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag != _NULL else ""


def _name_of(node: yaml.Node) -> str:
    if not isinstance(node, yaml.MappingNode):
        return ""
    return next((_word(value) for key, value in node.value if _word(key) == "name"), "")


def _scalar(node: yaml.Node) -> Any:
    if node.tag == f"{_TAG}str":
        return node.value
    try:
        return yaml.CSafeLoader("").construct_object(node)
    except (ValueError, LookupError, yaml.YAMLError):  # `!!int many`
        return None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_UNITS: Final = "kMGTPE"
_QUANTITY: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s?(?:(?P<unit>[kKMGTPE])(?P<binary>i?))?B?")


def _bytes(text: str) -> int | None:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        return None
    power = _UNITS.index(match["unit"].replace("K", "k")) + 1 if match["unit"] else 0
    return round(float(match["number"]) * float((1024 if match["binary"] else 1000) ** power))


@functools.cache
def _type(struct: type) -> kinds.Type:
    return kinds.type_info(struct)


def _metadata_type() -> kinds.Type:
    return _type(Metadata)


@functools.cache
def _fields(struct: type) -> dict[str, kinds.Field]:
    described = _type(struct)
    fields = {each.encode_name: each for each in described.fields} if isinstance(described, kinds.StructType) else {}
    return {name: each for name, each in fields.items() if not (struct is Metadata and name in _SERVERS)}
