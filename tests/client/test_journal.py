"""The output of a batch: what it has is known, what is not whole is dropped, and it comes into order."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client import journal
from headrace.client.journal import Journal, Ranges, Record
from headrace.errors import SettingsError


def text(index, *, failed=False):
    rest = {"error": {"status": "x", "msg": "y"}} if failed else {"outputs": []}
    return json.dumps({"parameters": {"batch_index": index, "inference_id": str(index)}, **rest}) + "\n"


def indices(path):
    return [json.loads(each)["parameters"]["batch_index"] for each in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl"


def opened(path, **options):
    sink = Journal(path, **options)
    sink.open(b"head", model="m")
    return sink


@given(st.lists(st.integers(0, 40)))
def test_ranges(numbers):
    """Ranges hold what a set holds, and say whether a number is new."""
    ranges, expected = Ranges(), set()
    for number in numbers:
        assert ranges.add(number) is (number not in expected)
        expected.add(number)
    assert {number for number in range(-1, 50) if number in ranges} == expected
    assert len(ranges) == len(expected)
    assert ranges.end == max(expected, default=-1) + 1


def test_ranges_of_a_whole_output_are_one():
    """Numbers without a gap are one range, in whatever order they came."""
    numbers = list(range(1000))
    random.Random(1).shuffle(numbers)
    ranges = Ranges()
    for number in numbers:
        ranges.add(number)
    assert repr(ranges) == "Ranges([(0, 1000)])"


@pytest.mark.parametrize("count", [0, 1, 5, 500])
def test_put_in_order(path, count):
    """Any order of lines comes into the input's order, with no line lost."""
    numbers = list(range(count))
    random.Random(2).shuffle(numbers)
    sink = opened(path)
    for number in numbers:
        sink.write(text(number).encode())
    sink.put_in_order()
    sink.close()
    assert indices(path) == list(range(count))
    assert sorted(each.name for each in path.parent.iterdir()) == ["out.jsonl", "out.jsonl.headrace"]


def test_torn_line(path):
    """A last line without an end is dropped, and all before is kept."""
    opened(path).close()
    path.write_text(text(0) + text(1) + text(2)[:-1])
    sink = opened(path)
    sink.close()
    assert sink.torn
    assert indices(path) == [0, 1]
    assert 2 not in sink.answered


def test_failures(path):
    """Failures count as answered, unless they are to be asked again: then they leave the output."""
    opened(path).close()
    path.write_text(text(0) + text(1, failed=True) + text(2))
    sink = opened(path)
    sink.close()
    assert (len(sink.answered), sink.failed) == (3, 1)
    sink = opened(path, retry_failed=True)
    sink.close()
    assert (len(sink.answered), sink.failed) == (2, 0)
    assert indices(path) == [0, 2]


@pytest.mark.parametrize("content", ["hello\n", "{}\n", '{"parameters": {}}\n', text(1) + text(1)])
def test_files_that_are_no_outputs(path, content):
    """A file that no batch has written is refused, and stays as it is."""
    opened(path).close()
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"out.jsonl, line"):
        opened(path)
    assert path.read_text() == content


def test_no_record(path):
    """An output without a record is refused, unless it is trusted, or replaced."""
    path.write_text(text(0))
    with pytest.raises(SettingsError, match="no record of its input"):
        opened(path)
    assert [each.name for each in path.parent.iterdir()] == ["out.jsonl"]
    sink = opened(path, existing="trust")
    sink.close()
    assert 0 in sink.answered
    opened(path).close()
    opened(path, existing="replace").close()
    assert path.read_text() == ""


def test_record_of_an_output_that_is_gone(path):
    """A record whose output is gone keeps nobody from beginning."""
    opened(path).close()
    path.unlink()
    sink = Journal(path)
    sink.open(b"another", model="other")
    sink.close()
    path.write_text(text(0))
    with pytest.raises(SettingsError, match="another input"):
        opened(path)


def test_record_that_is_none(path):
    """A record that cannot be read is refused by name."""
    path.write_text(text(0))
    path.with_name("out.jsonl.headrace").write_text("nonsense")
    with pytest.raises(SettingsError, match=r"out.jsonl.headrace is not the record"):
        opened(path)


def test_grown_input():
    """A record fits an input that has grown since, and no other."""
    record = Record.of(b"abc", model="m")
    assert record.fits(b"abc")
    assert record.fits(b"abcd")
    assert not record.fits(b"ab")
    assert not record.fits(b"abd")


def test_output_that_cannot_be_written(tmp_path):
    """An output in a folder that is not there is an error that names it."""
    with pytest.raises(SettingsError, match="cannot write the output"):
        opened(tmp_path / "none" / "out.jsonl")


def test_withdrawn(path):
    """An output that got nothing is removed with its record; one that has something stays."""
    sink = opened(path)
    assert sink.withdraw() is False
    sink.close()
    assert list(path.parent.iterdir()) == []
    sink = opened(path)
    sink.write(text(0).encode())
    assert sink.withdraw() is True
    sink.close()
    assert path.exists()


def test_suffix(path):
    """The record stands beside the output, under its whole name."""
    assert Journal(path).record_path.name == "out.jsonl" + journal.SUFFIX
