"""How commands write numbers, ages and documents."""

import datetime as dt

import pytest
import yaml

from headrace.cli import output


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (122924, "120 KiB"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes(count, text):
    """Bytes are written with three digits and the unit that a person would choose."""
    assert output.size_of(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (200_000, "2d"), (-5, "0s")],
)
def test_ages(seconds, text):
    """An age is written in one unit; what is ahead of our clock is now."""
    assert output.age_of(dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds, milliseconds=1)) == text


def test_an_age_that_is_not_known():
    """An unknown age is empty."""
    assert output.age_of(None) == ""


def test_yaml_keeps_order_and_texts():
    """A document keeps the order of its members, writes texts of several lines as blocks, and reads as it was."""
    shared = {"a": 1}
    value = {"z": shared, "b": "one\ntwo\n", "c": "yes", "d": [shared, None, 1.5]}
    text = output.yaml_of(value)
    assert yaml.safe_load(text) == value
    assert list(yaml.safe_load(text)) == ["z", "b", "c", "d"]
    assert "b: |" in text
    assert "&" not in text
