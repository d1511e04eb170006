"""The JSON Schemas for editors."""

import json

import pytest

from headrace.control import schema
from headrace.control.resources import KINDS
from headrace.control.schema import DIALECT


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_leads_somewhere(kind):
    """A schema says its dialect and kind, refers only to what it defines, and is JSON."""
    made = schema.schema(kind)
    assert made["$schema"] == DIALECT
    assert made["properties"]["kind"] == {"const": kind}
    text = json.dumps(made)
    used = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert used == set(made["$defs"])


def test_fields_carry_docstrings_limits_and_choices():
    """A field has its docstring, its least and greatest value, its words, and its default."""
    fields = schema.schema("Model")["$defs"]["Model"]["properties"]
    assert fields["uri"]["description"].startswith("A file or folder")
    assert fields["placement"]["enum"] == ["auto", "inline", "process", "thread"]
    assert fields["canaryTrafficPercent"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 100}
    seconds = fields["predictTimeoutSeconds"]
    assert (seconds["type"], seconds["minimum"], seconds["default"]) == ("number", 0, 60.0)
    assert [each["type"] for each in fields["memoryBytes"]["anyOf"]] == ["integer", "string"]


def test_one_schema_for_all_kinds():
    """The combined schema has one alternative for each kind."""
    made = schema.schema()
    assert [each["properties"]["kind"]["const"] for each in made["oneOf"]] == list(KINDS)


def test_every_limit_is_of_a_field():
    """No limit, and no list of words, is of a field that no longer is."""
    for struct, field in [*schema.LIMITS, *schema.CHOICES]:
        assert field in struct.__struct_fields__


def test_every_field_says_what_it_is():
    """Each field of each kind has a docstring, as editors and the page of fields show them."""
    untold = [
        f"{name}.{field}"
        for name, component in schema.schema()["$defs"].items()
        for field, entry in component["properties"].items()
        if not entry.get("description")
    ]
    assert untold == []


def test_the_page_of_fields_has_them_all():
    """The page has a heading for each struct, and a row with type and default for each field."""
    page = schema.reference()
    for name, component in schema.schema()["$defs"].items():
        assert f"## {name}\n" in page
        assert all(f"| `{field}` |" in page for field in component["properties"])
    assert "| `stable` | text | required |" in page
    assert "| `canaryTrafficPercent` | whole number, 0 to 100 |" in page
    assert "| `mirror` | [Mirror](#mirror) |" in page
