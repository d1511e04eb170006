"""What every dialect of manifests works with: tables of fields, and a reader that checks a document against one.

A dialect writes a table for each kind: every field that kind has, with where it goes here or why it does not. The
reader walks the document once: an unknown field or a wrong kind of value is a fault, a field that is refused or without
effect becomes a note, and what is left is for the dialect to turn into resources. `rows` of the tables makes the page
of the docs, so that what is said there is what is done. Called by the dialects; pure.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from headrace.control.resources import Metadata, Resource, Spec
from headrace.errors import InvalidResources
from headrace.payload import EMPTY

Document = Mapping[str, Any]
"""A manifest, as YAML or JSON gives it."""
Converter = Callable[[Document, str, str], list[Resource]]
"""Document, place (as messages name it) and base folder to our resources; raises InvalidResources."""
Form = Literal["text", "whole", "number", "flag", "quantity", "any", "object", "list", "map"]

FORM: Final = "headrace.io/form"
"""The annotation that says whose answers a pipeline's clients expect: `seldon_v1`, `inference_graph`."""
MADE_FROM: Final = "headrace.io/made-from"
"""The annotation that says of which foreign resource ours was made, `GROUP/KIND/NAME`: one of theirs may become several
of ours, and one that a later form of it no longer gives is no longer wanted."""
CLASS: Final = "headrace.io/class."
"""The annotation `headrace.io/class.CONTAINER: file.py:Class`: the code that a container's image holds."""


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a foreign kind."""

    form: Form
    to: str = ""
    """Where it goes, for the docs."""
    note: str = ""
    """`without effect: ...` or `refused: ...`; empty: it is honoured."""
    fields: Mapping[str, Field] = EMPTY
    """Of an object."""
    of: Field | None = None
    """Of the values of a list or map."""
    choices: tuple[str, ...] = ()
    secret: bool = False
    """Its value is not repeated."""
    called: str = ""
    """What the docs call fields of which there are many alike: `FRAMEWORK`."""


def text(to: str, *choices: str) -> Field:
    """Text, honoured."""
    return Field(form="text", to=to, choices=choices)


def whole(to: str) -> Field:
    """A whole number, honoured."""
    return Field(form="whole", to=to)


def number(to: str) -> Field:
    """A number, honoured."""
    return Field(form="number", to=to)


def flag(to: str) -> Field:
    """True or false, honoured."""
    return Field(form="flag", to=to)


def quantity(to: str) -> Field:
    """A quantity as Kubernetes writes it, honoured."""
    return Field(form="quantity", to=to)


def anything(to: str) -> Field:
    """Any value, honoured."""
    return Field(form="any", to=to)


def several(of: Field, to: str = "") -> Field:
    """A list of such values."""
    return Field(form="list", of=of, to=to)


def mapped(of: Field, to: str = "") -> Field:
    """Such values by name."""
    return Field(form="map", of=of, to=to)


def group(fields: Mapping[str, Field], to: str = "") -> Field:
    """An object with these fields."""
    return Field(form="object", fields=fields, to=to)


def idle(reason: str, form: Form = "any", *, secret: bool = False, fields: Mapping[str, Field] | None = None) -> Field:
    """A field without effect here.

    With `fields` it is an object whose fields are checked; they share the reason.
    """
    return Field(
        form="object" if fields else form, note=f"without effect: {reason}", secret=secret, fields=fields or {}
    )


def refused(reason: str, form: Form = "any", *, fields: Mapping[str, Field] | None = None) -> Field:
    """A field whose meaning this server does not have."""
    return Field(form="object" if fields else form, note=f"refused: {reason}", fields=fields or {})


def plain(*names: str, form: Form = "any") -> dict[str, Field]:
    """Fields of an object that is noted as a whole: known, and not looked into."""
    return {name: Field(form=form) for name in names}


CLUSTER: Final = "a cluster writes and reads it"
METADATA: Final = group(
    {
        "name": text("`metadata.name`"),
        "namespace": text("`metadata.namespace`"),
        "labels": mapped(text("`metadata.labels`")),
        "annotations": mapped(text("`metadata.annotations`")),
        **{
            name: idle(CLUSTER)
            for name in (
                "creationTimestamp",
                "deletionGracePeriodSeconds",
                "deletionTimestamp",
                "finalizers",
                "generateName",
                "generation",
                "managedFields",
                "ownerReferences",
                "resourceVersion",
                "selfLink",
                "uid",
            )
        },
    }
)


def document(spec: Mapping[str, Field]) -> Field:
    """A whole document, its spec having these fields."""
    return group(
        {
            "apiVersion": text("says which dialect this is"),
            "kind": text("says which resource this is"),
            "metadata": METADATA,
            "spec": group(spec),
            "status": idle(CLUSTER),
        }
    )


class Reader:
    """A document on its way: its content without what is null, and the faults and notes found so far."""

    def __init__(self, content: Document, table: Field, *, where: str, base: str) -> None:
        self.where = where
        self.base = base
        self.api_version = str(content.get("apiVersion", ""))
        self.kind = str(content.get("kind", ""))
        metadata = content.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        self.name: str = name if isinstance(name, str) else ""
        self.faults: list[str] = []
        self.notes: list[str] = []
        self._malformed = False
        self._table = table
        self._content = content

    def read(self) -> dict[str, Any]:
        """The document, checked: every value there has the form that the table says.

        Raises:
            InvalidResources: a value has another, or there is no name. Unknown fields wait for `finish`.
        """
        found: dict[str, Any] = self._walk(self._content, self._table, "") or {}
        if not self.name:
            self.fault("metadata.name", "expected a name, came none")
            self._malformed = True
        if self._malformed:
            raise InvalidResources(self.faults)
        found.setdefault("spec", {})
        return found

    def fault(self, path: str, problem: str) -> None:
        """Something that cannot be."""
        named = f"{self.kind} '{self.name}'" if self.name else self.kind
        self.faults.append(f"{self.where}: {named}: {path}: {problem}")

    def note(self, path: str, reason: str, value: Any = None) -> None:
        """A field that is refused or without effect here, with its value where that is short."""
        note = f"{path}: {_shown(value)}{reason}"
        if note not in self.notes:
            self.notes.append(note)

    def resource(
        self,
        kind: str,
        name: str,
        spec: Spec,
        *,
        metadata: Mapping[str, Any],
        annotations: Mapping[str, str] | None = None,
        main: bool = False,
    ) -> Resource:
        """One of the resources that the document becomes.

        Args:
            kind: Ours.
            name: Its name.
            spec: Its spec.
            metadata: The document's: namespace, labels and annotations are taken over.
            annotations: More of them.
            main: It has the notes; of each document exactly one resource does.
        """
        origin = {MADE_FROM: f"{self.api_version.partition('/')[0]}/{self.kind}/{self.name}"}
        return Resource(
            kind=kind,
            metadata=Metadata(
                name=name,
                namespace=metadata.get("namespace", "default"),
                labels=metadata.get("labels") or EMPTY,
                annotations={**metadata.get("annotations", {}), **(annotations or {}), **origin},
            ),
            spec=_sparse(spec),
            origin=f"{self.where}: {self.api_version} {self.kind}",
            base=self.base,
            notes=tuple(self.notes) if main else (),
        )

    def finish(self) -> None:
        """Raise what was found wrong.

        Raises:
            InvalidResources: all of it.
        """
        if self.faults:
            raise InvalidResources(self.faults)

    def _walk(self, value: Any, field: Field, path: str) -> Any:
        if field.note:
            if value is not None:
                self._check(value, field, path)
                self.note(path, field.note, None if field.secret else value)
            return None
        return self._check(value, field, path)

    def _check(self, value: Any, field: Field, path: str) -> Any:
        if value is None:
            return None
        if not _FORMS[field.form][1](value):
            self._wrong(path, _FORMS[field.form][0], value)
            return None
        if field.form in {"whole", "number"} and value < 0:
            self._wrong(path, "0 or more", value)
        if field.choices and value not in field.choices:
            self._wrong(path, f"one of {', '.join(field.choices)}", value)
        if field.form == "object":
            kept = {}
            for name, each in value.items():
                place = f"{path}.{name}" if path else str(name)
                if name not in field.fields:
                    if field.fields:
                        self._unknown(path, str(name), field.fields)
                    continue
                read = self._walk(each, field.fields[name], place)
                if read is not None:
                    kept[name] = read
            return kept
        if field.form == "list" and field.of is not None:
            items = [self._walk(each, field.of, f"{path}[{index}]") for index, each in enumerate(value)]
            return [each for each in items if each is not None]
        if field.form == "map" and field.of is not None:
            read_ = {}
            for name, each in value.items():
                if not isinstance(name, str):
                    self._wrong(path, "names in text", name)
                    continue
                read_[name] = self._walk(each, field.of, f"{path}.{name}")
            return {name: each for name, each in read_.items() if each is not None}
        if field.form == "quantity":
            try:
                amount(value)
            except ValueError:
                self._wrong(path, "a quantity such as 512Mi", value)
        return value

    def _wrong(self, path: str, expected: str, value: Any) -> None:
        self.fault(path or "the document", f"expected {expected}, came {_came(value)}")
        self._malformed = True

    def _unknown(self, path: str, name: str, known: Mapping[str, Field]) -> None:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known fields are {', '.join(sorted(known))}"
        self.fault(path or "the document", f"unknown field '{name}'; {hint}")


def _sparse(value: Any) -> Any:
    """The value with the type's own default in each field that equals it: what is rendered leaves these out."""
    if isinstance(value, tuple):
        return tuple(_sparse(each) for each in value)
    if not isinstance(value, msgspec.Struct):
        return value
    said = {}
    for name, default in _defaults(type(value)).items():
        given = getattr(value, name)
        said[name] = default if given == default else _sparse(given)
    return type(value)(**said)


@functools.cache
def _defaults(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(struct)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_FORMS: Final[Mapping[Form, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "text": ("text", lambda value: isinstance(value, str)),
        "whole": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
        "number": ("a number", _is_number),
        "flag": ("true or false", lambda value: isinstance(value, bool)),
        "quantity": (
            "a quantity such as 512Mi",
            lambda value: isinstance(value, str | int | float) and not isinstance(value, bool),
        ),
        "any": ("a value", lambda _: True),
        "object": ("an object", lambda value: isinstance(value, Mapping)),
        "map": ("an object", lambda value: isinstance(value, Mapping)),
        "list": ("a list", lambda value: isinstance(value, Sequence) and not isinstance(value, str | bytes)),
    }
)


def _came(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, Mapping | list | tuple):
        return ""
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"{shown}: " if len(shown) <= 80 and "\n" not in shown else ""


_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d{1,3})|(m|k|[KMGTPE]i?)?)")
_SCALE: Final[Mapping[str, Fraction]] = MappingProxyType(
    {"": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(1000)}
    | {letter: Fraction(1000) ** power for power, letter in enumerate("MGTPE", 2)}
    | {f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", 1)}
)


def amount(value: str | float) -> int:
    """A quantity of Kubernetes (`1Gi`, `500M`, `1e9`) as a whole number, rounded up.

    Raises:
        ValueError: it is none, or is negative.
    """
    match = _QUANTITY.fullmatch(str(value).strip())
    if match is None or str(value).strip().startswith("-"):
        raise ValueError(value)
    exact = Fraction(match[1] + (match[2] or "")) * _SCALE[match[3] or ""]
    return -int(-exact // 1)


def class_of(annotations: Mapping[str, str], *names: str) -> str:
    """The code that annotations give for the first of these containers or components; empty: none."""
    return next((annotations[CLASS + name] for name in names if annotations.get(CLASS + name)), "")


# -- the page of the docs --


class Row(msgspec.Struct, frozen=True):
    """What becomes of one field of one kind."""

    kind: str
    path: str
    result: str
    """Where it goes, or `without effect: ...`, `refused: ...`."""


def rows(kind: str, table: Field, path: str = "") -> Iterator[Row]:
    """What becomes of each field of a kind; what is noted as a whole is one row."""
    alike: dict[int, list[str]] = {}
    for name, field in table.fields.items():
        alike.setdefault(id(field) if field.fields else id(name), []).append(name)
    for names in alike.values():
        field = table.fields[names[0]]
        place = ".".join([*([path] if path else []), field.called or "|".join(names)])
        inner = field
        while inner.form in {"list", "map"} and inner.of is not None and not inner.note:
            place += "[]" if inner.form == "list" else ".*"
            inner = inner.of
        if inner.note:
            yield Row(kind, place, inner.note)
        elif inner.form == "object" and inner.fields and not inner.to:
            yield from rows(kind, inner, place)
        else:
            yield Row(kind, place, inner.to or field.to)


def table(found: Sequence[Row], sets: Mapping[str, Collection[str]]) -> str:
    """The rows in Markdown: by kind what becomes of fields, then what is refused or without effect, by reason.

    Args:
        found: The rows.
        sets: What fields are called that are named together, where all of them are.
    """
    lines: list[str] = []
    for kind in dict.fromkeys(row.kind for row in found):
        of_kind = [row for row in found if row.kind == kind]
        kept = [row for row in of_kind if not _noted(row)]
        lines += [f"### {kind}", "", "| field | becomes |", "|---|---|"]
        lines += [f"| `{row.path.replace('|', ', ')}` | {row.result} |" for row in kept]
        for word in ("without effect", "refused"):
            reasons: dict[str, list[str]] = {}
            for row in of_kind:
                if row.result.startswith(f"{word}: "):
                    reasons.setdefault(row.result.removeprefix(f"{word}: "), []).append(row.path)
            if reasons:
                lines += ["", f"{word.capitalize()}:", ""]
            lines += [f"- {reason}: {', '.join(_folded(paths, sets))}" for reason, paths in reasons.items()]
        lines.append("")
    return "\n".join(lines)


def _noted(row: Row) -> bool:
    return row.result.startswith(("without effect: ", "refused: "))


def _folded(paths: Sequence[str], sets: Mapping[str, Collection[str]]) -> list[str]:
    """Paths with those of one parent together: `spec.x.{a, b}`, and the set of them that has a name by that."""
    parents: dict[str, list[str]] = {}
    for path in paths:
        parent, _, name = path.replace("|", ", ").rpartition(".")
        parents.setdefault(parent, []).append(name)
    folded = []
    for parent, given in parents.items():
        names = given
        for title, members in sets.items():
            if set(members) <= set(names):
                names = [each for each in names if each not in members]
                folded.append(f"{title} in `{parent}`")
        if names:
            shown = names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"
            folded.append(f"`{parent}{'.' if parent else ''}{shown}`")
    return folded
