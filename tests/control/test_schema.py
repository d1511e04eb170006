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
    assert fields["predictTimeoutSeconds"] == {"type": "number", "minimum": 0, "default": 60.0}
    assert [each["type"] for each in fields["memoryBytes"]["anyOf"]] == ["integer", "string"]


def test_one_schema_for_all_kinds():
    """The combined schema has one alternative for each kind."""
    made = schema.schema()
    assert [each["properties"]["kind"]["const"] for each in made["oneOf"]] == list(KINDS)


def test_every_limit_is_of_a_field():
    """No limit, and no list of words, is of a field that no longer is."""
    for struct, field in [*schema.LIMITS, *schema.CHOICES]:
        assert field in struct.__struct_fields__
