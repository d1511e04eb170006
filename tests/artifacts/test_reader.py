"""An object as a file, over ranges that are given by chunks of any size and break off now and then."""

from __future__ import annotations

import io
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.artifacts.reader import open_reader
from headrace.errors import ArtifactCorrupt, ArtifactUnreachable

DATA = random.Random(5).randbytes(3 << 20)


class Ranges:
    """Ranges of `DATA` in chunks; what is asked for is noted."""

    def __init__(self, *, chunk=1 << 20, breaks=()):
        self.asked, self.chunk, self.breaks = [], chunk, list(breaks)

    def __call__(self, *, start, end):
        self.asked.append((start, end))
        cut = self.breaks.pop(0) if self.breaks else None
        for at in itertools.count(start, self.chunk):
            if cut is not None and at - start >= cut:
                raise ArtifactUnreachable("broke off")
            if at >= end:
                return
            yield DATA[at : min(end, at + self.chunk)]


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 700_000)),
    st.tuples(st.just("seek"), st.integers(0, len(DATA) + 10)),
)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(STEPS, max_size=8), chunk=st.sampled_from([1000, 70_000, 1 << 20]))
def test_it_reads_like_bytes_in_memory(steps, chunk):
    """Whatever is read and sought in any order is what a file in memory gives."""
    file, same = open_reader("x", len(DATA), Ranges(chunk=chunk), retries=0), io.BytesIO(DATA)
    for what, number in steps:
        assert getattr(file, what)(number) == getattr(same, what)(number)
        assert file.tell() == same.tell()


def test_what_breaks_off_goes_on_where_bytes_ended():
    """After a range that broke off the next one begins behind the last byte that came, and nothing comes twice."""
    ranges = Ranges(chunk=100_000, breaks=[None, 500_000, 0])
    with open_reader("x", len(DATA), ranges, retries=2) as file:
        pieces = [file.read(200_000) for _ in range(16)]
    assert b"".join(pieces) == DATA
    assert [start for start, _ in ranges.asked] == [0, 262_144, 762_144, 762_144]


def test_it_is_given_up_after_so_many_tries_and_can_be_read_again():
    """The failure is raised when further tries are used up; another read asks anew."""
    ranges = Ranges(breaks=[0, 0])
    with open_reader("x", len(DATA), ranges, retries=1) as file:
        with pytest.raises(ArtifactUnreachable):
            file.read(10)
        assert file.read(10) == DATA[:10]
    assert len(ranges.asked) == 3


def test_another_object_is_not_asked_for_again():
    """What cannot heal is raised at once."""

    def replaced(*, start, end):
        asked.append((start, end))
        raise ArtifactCorrupt("changed")
        yield b""

    asked = []
    with open_reader("x", 10, replaced, retries=5) as file, pytest.raises(ArtifactCorrupt):
        file.read()
    assert asked == [(0, 10)]


def test_a_range_that_ends_early_is_no_end():
    """A store that sends less than it was asked for, and says nothing, gives an error and no short file."""
    with (
        open_reader(
            "x", 100, lambda *, start, end: iter([DATA[start : end - 1]] if start < 99 else []), retries=0
        ) as file,
        pytest.raises(ArtifactUnreachable, match="byte 99 of 100"),
    ):
        file.read()


def test_all_of_it_is_one_request():
    """Reading the whole, and reading straight on, do not ask buffer by buffer."""
    whole, straight = Ranges(), Ranges()
    assert open_reader("x", len(DATA), whole, retries=0).read() == DATA
    assert whole.asked == [(0, len(DATA))]
    with open_reader("x", len(DATA), straight, retries=0) as file:
        while file.read(100_000):
            pass
    assert len(straight.asked) == 2
