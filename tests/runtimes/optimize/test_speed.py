"""Who answers for how many rows, decided from times alone."""

import numpy as np

from headrace.runtimes.optimize import speed

FLAT = dict.fromkeys(speed.POINTS, 100e-6)


def test_a_faster_engine_takes_every_number_of_rows():
    """An engine that wins at every point has no limit."""
    assert speed.ranges({"": FLAT, "fast": dict.fromkeys(speed.POINTS, 5e-6)}, speedup=1.5) == ((None, "fast"),)


def test_an_engine_that_is_not_fast_enough_gets_no_seat():
    """1.4 times is not 1.5 times."""
    assert speed.ranges({"": FLAT, "near": dict.fromkeys(speed.POINTS, 72e-6)}, speedup=1.5) == ((None, ""),)


def test_the_crossover_lies_where_the_advantage_ends():
    """An engine that grows by the row gives way to a native one that does not, at 1.5 times and not later."""
    growing = {point: 6e-6 + point * 3e-6 for point in speed.POINTS}
    found = speed.ranges({"": FLAT, "trees": growing}, speedup=1.5)
    assert found == ((20, "trees"), (None, ""))


def test_an_engine_for_one_row_answers_one_row():
    """An engine that was timed at one row only never gets two."""
    found = speed.ranges({"": FLAT, "single": {1: 1e-6}, "other": dict.fromkeys(speed.POINTS, 9e-6)}, speedup=1.5)
    assert found == ((1, "single"), (None, "other"))


def test_the_fastest_of_several_is_chosen():
    """Where two engines beat the native one, the faster answers."""
    one = {point: point * 1e-6 for point in speed.POINTS}
    other = {point: 10e-6 + point * 0.5e-6 for point in speed.POINTS}
    found = speed.ranges({"": dict.fromkeys(speed.POINTS, 0.001), "one": one, "other": other}, speedup=1.5)
    assert found == ((20, "one"), (None, "other"))


def test_ranges_read_as_a_sentence():
    """Metadata says in words who answers."""
    text = speed.text(((1, "single"), (20, "trees"), (None, "")), "sklearn")
    assert text == "1 row: single; 2 to 20 rows: trees; 21 rows and more: sklearn"


def test_measuring_walks_through_different_rows():
    """Consecutive calls of one size get different rows."""
    seen = []
    times = speed.measure(lambda part: seen.append(part[0, 0]), np.arange(600.0).reshape(300, 2), seconds=0.001)
    assert set(times) == set(speed.POINTS)
    assert len(set(seen)) > 10
