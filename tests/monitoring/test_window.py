"""Windows over rows: nothing lost, nothing doubled, sizes kept, order kept, whatever comes and whenever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest
from headrace.monitoring.window import Windows, count, kept, unkept
from headrace.trust.spec import Window

SPECS = st.builds(
    Window,
    rows=st.integers(1, 40),
    min_rows=st.integers(0, 50),
    seconds=st.sampled_from([0.0, 1.0, 5.0]),
    step=st.integers(0, 50),
)
ARRIVALS = st.lists(st.tuples(st.integers(0, 90), st.floats(0, 4)), max_size=30)


def rows(start, n, now):
    numbers = np.arange(start, start + n)
    return {"x": numbers.astype(float).reshape(-1, 1), "time": np.full(n, now)}


def fed(spec, arrivals, *, restore_at=-1):
    windows, now, at, full = Windows(spec), 100.0, 0, []
    for index, (n, wait) in enumerate(arrivals):
        if index == restore_at:
            windows = Windows.restore(spec, windows.state())
        now += wait
        full += windows.tick(now)
        full += windows.take(rows(at, n, now), now)
        at += n
    return windows, full, at, now


@given(SPECS, ARRIVALS)
def test_each_row_is_in_one_tumbling_window_or_waits_for_one(spec, arrivals):
    """Tumbling windows and what is held are the rows that came, each once and in order."""
    import msgspec

    windows, full, at, _ = fed(msgspec.structs.replace(spec, step=0), arrivals)
    seen = np.concatenate([each.columns["x"].ravel() for each in full] or [np.empty(0)])
    np.testing.assert_array_equal(seen, np.arange(len(seen)))
    assert len(seen) + windows.held == at


@given(SPECS, ARRIVALS)
def test_windows_are_neither_too_small_nor_too_large(spec, arrivals):
    """A window has at least `min_rows` rows (or `rows`, where that is less), and at most `rows`."""
    windows, full, _, _ = fed(spec, arrivals)
    assert all(windows.min_rows <= each.rows <= spec.rows for each in full)
    assert [each.number for each in full] == list(range(1, len(full) + 1))


@given(SPECS, ARRIVALS)
def test_sliding_windows_miss_no_row_and_keep_the_order(spec, arrivals):
    """Each row is in a window of neighbours or in what is held, and windows go forward."""
    windows, full, at, _ = fed(spec, arrivals)
    covered = set()
    ends = [-1.0]
    for each in full:
        x = each.columns["x"].ravel()
        np.testing.assert_array_equal(x, np.arange(x[0], x[0] + len(x)))
        assert x[-1] > ends[-1]
        ends.append(x[-1])
        covered |= set(x)
    assert covered == set(range(int(ends[-1]) + 1))
    assert windows.fresh == at - int(ends[-1]) - 1


@given(SPECS, ARRIVALS, st.integers(0, 29))
def test_a_restart_changes_nothing(spec, arrivals, restore_at):
    """Windows restored from their state are cut where they would have been."""
    _, full, _, _ = fed(spec, arrivals)
    _, again, _, _ = fed(spec, arrivals, restore_at=restore_at)
    assert [each.columns["x"].tolist() for each in full] == [each.columns["x"].tolist() for each in again]
    assert [(each.number, each.start, each.end) for each in full] == [
        (each.number, each.start, each.end) for each in again
    ]


def test_a_large_request_is_split():
    """65 536 rows at once are 65 windows of 1000, and 536 rows go to the next."""
    windows = Windows(Window(rows=1000))
    full = windows.take(rows(0, 65_536, 1.0), 1.0)
    assert [each.rows for each in full] == [1000] * 65
    assert windows.collecting() == (536, 1000)


def test_time_alone_never_makes_a_window_too_small():
    """After `seconds` a window waits for `min_rows`, and is cut as soon as it has them."""
    windows = Windows(Window(rows=100, min_rows=10, seconds=5))
    assert windows.take(rows(0, 9, 0.0), 0.0) == []
    assert windows.tick(60.0) == []
    assert windows.due() is None
    assert windows.take(rows(9, 1, 61.0), 61.0) == []
    (full,) = windows.tick(61.0)
    assert (full.rows, full.start, full.end) == (10, 0.0, 61.0)
    assert windows.collecting() == (0, 100)


def test_sliding_windows_are_cut_after_each_step():
    """With 10 rows and a step of 4 the windows end at the 10th, 14th, 18th row."""
    windows = Windows(Window(rows=10, min_rows=10, step=4))
    full = windows.take(rows(0, 19, 0.0), 0.0)
    assert [each.columns["x"][[0, -1], 0].tolist() for each in full] == [[0, 9], [4, 13], [8, 17]]
    assert windows.collecting() == (1, 4)


@pytest.mark.parametrize("spec", [Window(rows=0), Window(min_rows=-1), Window(step=-1), Window(seconds=float("nan"))])
def test_a_window_that_cannot_be_is_refused(spec):
    """Sizes that make no window are told with their values."""
    with pytest.raises(InvalidRequest, match="a window needs rows of 1 or more"):
        Windows(spec)


def test_the_state_of_larger_windows_is_cut_to_size():
    """Rows gathered for larger windows fill smaller ones, each row once."""
    windows = Windows(Window(rows=100))
    windows.take(rows(0, 75, 0.0), 0.0)
    smaller = Windows.restore(Window(rows=30), windows.state())
    full = smaller.take(rows(75, 20, 1.0), 1.0)
    assert [each.columns["x"][[0, -1], 0].tolist() for each in full] == [[0, 29], [30, 59], [60, 89]]
    assert smaller.collecting() == (5, 30)


@given(st.lists(st.text(max_size=5), max_size=6))
def test_texts_are_kept_without_pickles(texts):
    """Texts come back as they were from arrays of numbers, beside other columns."""
    column = np.empty(len(texts), object)
    column[:] = texts
    arrays = kept({"id": column, "x": np.arange(len(texts))})
    assert all(array.dtype != object for array in arrays.values())
    back = unkept(arrays)
    assert back["id"].tolist() == texts
    assert count(back) == len(texts)
