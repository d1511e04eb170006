"""What is kept of answers, within which bounds; and what errors become in records."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.brokers.base import Record
from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    ModelError,
    Overloaded,
    RuntimeFailed,
    WorkerDied,
)
from headrace.local.records import Answer, Records
from headrace.local.results import Results
from headrace.protocols.pipeline_topics import Names


def answer(identity, *, at=0.0, size=0, failed=False, digest="d"):
    record = Record("t", 0, 0, None, b"." * size, (), at)
    return Answer(id=identity, digest=digest, failed=failed, record=record)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@given(
    puts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000), st.booleans()), max_size=60),
    records=st.integers(1, 8),
    limit=st.integers(600, 8000),
)
def test_results_stay_within_their_bounds(puts, records, limit):
    """However many answers of whatever size come, no more are kept than may be, the newest always is, and the sum of
    their sizes is what is counted.
    """
    results = Results(60.0, records=records, size=limit, clock=Clock())
    for number, size, failed in puts:
        made = answer(str(number), size=size, failed=failed)
        results.put(made)
        kept = [found for each in range(10) if (found := results.get(str(each))) is not None]
        assert len(results) == len(kept) <= records
        assert sum(each.size for each in kept) <= limit or len(kept) == 1
        assert results.get(str(number)) is not None


def test_results_are_forgotten_with_time():
    """An answer can be had until it is as old as results may be, counted from when it was written."""
    clock = Clock()
    results = Results(60.0, clock=clock)
    results.put(answer("a", at=0.0))
    clock.now = 59.0
    assert results.get("a") is not None
    clock.now = 61.0
    assert results.get("a") is None
    assert len(results) == 0


def test_an_error_does_not_take_the_place_of_the_result():
    """Of the same request answered well and then not, the result is kept; of another one under its id, the newest."""
    results = Results(60.0, clock=Clock())
    results.put(answer("a"))
    results.put(answer("a", failed=True))
    assert not results.get("a").failed
    results.put(answer("a", failed=True, digest="other"))
    assert results.get("a").failed
    results.put(answer("a"))
    assert not results.get("a").failed


@pytest.mark.parametrize("naming", ["headrace", "seldon"])
@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("an input : with a colon"),
        RuntimeFailed("pipeline 'p' step 's': it raised"),
        ModelError("a teapot", status=418),
        Overloaded("the queue is full"),
        WorkerDied("its process ended"),
        DeadlineExceeded("too late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_itself_after_its_topic(naming, error):
    """Class, text and status of an error are those that were raised, in both namings."""
    records = Records(Names(naming=naming), "p")
    asked = Record("in", 1, 7, b"k", b"{}", (("x-request-id", b"r"), ("x-tenant", b"t")))
    told, kept = records.failure(asked, error, version="3")
    came = records.answer_of(Record(told.topic, 0, 0, told.key, told.value, told.headers))
    assert (came.id, came.failed, told.key, kept.value) == ("r", True, b"k", b"{}")
    with pytest.raises(HeadraceError) as caught:
        records.response(came)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "status", 0) == getattr(error, "status", 0)
    assert ("x-tenant", b"t") in told.headers


def test_what_an_error_of_somebody_elses_code_says_stays_here():
    """An exception that is not ours is told by its type only, since its text may hold what nobody should read."""
    records = Records(Names(), "p")
    asked = Record("in", 0, 0, None, b"{}", (("x-request-id", b"r"),))
    for each in records.failure(asked, KeyError("a secret"), version=""):
        assert b"a secret" not in msgspec.json.encode([each.value or b"", [value for _, value in each.headers]])
        assert all(b"a secret" not in value for _, value in each.headers)
