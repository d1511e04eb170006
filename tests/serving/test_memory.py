"""memory: the growth of loads, alone and side by side, what is known of a model before its load, and when to sweep.

The meter looks at numbers that the test sets; one test looks at this process, and one at another.
"""

import ctypes
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.serving import memory
from headrace.serving.memory import Grown, Meter, Size, Sizes, Sweeper, known, look, of_processes
from headrace.serving.spec import ModelSpec

MIB = 1 << 20


class Process:
    """A process of a size that the test says."""

    def __init__(self):
        self.resident, self.allocated, self.modules = 1000, 500, 10
        self.meter = Meter(lambda: Grown(self.resident, self.allocated, self.modules))

    def grow(self, resident, allocated=0):
        self.resident += resident
        self.allocated += allocated


@pytest.mark.parametrize(("resident", "allocated", "size"), [(30, 10, 30), (10, 30, 30), (-5, 7, 7), (-5, -7, 0)])
def test_a_load_alone_takes_the_larger_growth(resident, allocated, size):
    """A load that is alone takes what the process grew by, in pages or in what malloc gave, never less than nothing."""
    process = Process()
    process.grow(77, 77)  # before it
    reading = process.meter.begin(1)
    process.grow(resident, allocated)
    assert process.meter.end(reading) == Size(size)


def test_loads_side_by_side_share_by_their_files_while_they_overlap():
    """Growth while two load is shared by the size of their files, growth while one loads is its own; both are unsure."""
    process = Process()
    small = process.meter.begin(100)
    process.grow(10)
    large = process.meter.begin(300)
    process.grow(40)
    first = process.meter.end(small)
    process.grow(5)
    second = process.meter.end(large)
    assert (first, second) == (Size(20, sure=False), Size(35, sure=False))


def test_a_load_after_another_is_sure():
    """A load that begins when the one before has ended is measured by itself."""
    process = Process()
    first = process.meter.begin(1)
    process.grow(10)
    assert process.meter.end(first) == Size(10)
    second = process.meter.begin(1)
    process.grow(20)
    assert process.meter.end(second) == Size(20)


@pytest.mark.parametrize("when", ["around", "before", "during", "after"])
def test_what_leaves_meanwhile_is_nobodys(when):
    """What changes while something else leaves counts for no load, and makes those it met unsure, however they overlap."""
    process = Process()
    meter = process.meter
    if when == "around":
        with meter.apart():
            process.grow(-100)
            reading = meter.begin(1)
            process.grow(-100)
            size = meter.end(reading)
    elif when == "before":
        with meter.apart():
            reading = meter.begin(1)
            process.grow(-100)
        process.grow(10)
        size = meter.end(reading)
    elif when == "during":
        reading = meter.begin(1)
        process.grow(4)
        with meter.apart():
            process.grow(-100)
        process.grow(6)
        size = meter.end(reading)
    else:
        reading = meter.begin(1)
        process.grow(10)
        with meter.apart():
            process.grow(-100)
            size = meter.end(reading)
    assert size == Size(0 if when == "around" else 10, sure=False)


def test_imports_during_a_load_make_it_unsure():
    """A load that imported modules is unsure, since they stay when it leaves."""
    process = Process()
    reading = process.meter.begin(1)
    process.grow(500, 50)
    process.modules += 1
    size = process.meter.end(reading)
    assert not size.sure
    assert size.bytes in {50, 500}  # malloc's part, where malloc tells


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 1000)), min_size=1, max_size=8))
def test_shares_add_up_to_the_growth(loads):
    """Whatever overlaps, what all loads together take is what the process grew by."""
    process = Process()
    readings = []
    for weight, growth in loads:
        readings.append(process.meter.begin(weight))
        process.grow(growth)
    total = sum(process.meter.end(reading).bytes for reading in readings)
    grown = sum(growth for _, growth in loads)
    assert grown - len(loads) <= total <= grown


def test_this_process_grows_by_what_it_takes():
    """An array of 64 MiB is seen in this process while it is there."""
    meter = Meter()
    reading = meter.begin(1)
    array = np.ones(64 * MIB // 8)
    size = meter.end(reading)
    assert 63 * MIB <= size.bytes <= 80 * MIB
    del array
    assert look().resident > 0


def test_the_c_library_may_not_tell(monkeypatch):
    """Where malloc tells nothing of itself, and there is no /proc, the resident set alone is measured."""
    memory._glibc.cache_clear()

    def without(name):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", without)
    try:
        assert look().allocated == 0
        memory.trim()
    finally:
        memory._glibc.cache_clear()


def test_another_process_is_measured_by_itself():
    """A process is as large as what it holds; one that is gone, and none, are nothing."""
    code = "data = b'x' * (48 << 20); print('there', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        size = of_processes([child.pid])
        child.communicate(b"\n")
    assert 48 * MIB <= size <= 80 * MIB
    assert of_processes([child.pid]) == 0
    assert of_processes([]) == 0


# -- what is known before --


def test_a_size_is_measured_else_declared_else_that_of_the_files(tmp_path):
    """Before its first load a model takes what is declared, or its files' size; after it, what was measured."""
    file = tmp_path / "model.bin"
    file.write_bytes(b"x" * 1234)
    spec = ModelSpec(name="m", path=str(file))
    declared = ModelSpec(name="m", path=str(file), memory_bytes=5000)
    sizes = Sizes()
    assert sizes.expected(known(spec), spec) == Size(1234, measured=False, sure=False)
    assert sizes.expected(known(declared), declared) == Size(5000, measured=False)
    sizes.remember(known(spec), Size(7777))
    assert sizes.expected(known(declared), declared) == Size(7777)
    other = ModelSpec(name="another", path=str(file))
    assert sizes.expected(known(other), other) == Size(7777)
    file.write_bytes(b"x" * 4321)
    assert sizes.expected(known(spec), spec).bytes == 4321
    absent = ModelSpec(name="m", path=str(tmp_path / "absent"))
    assert sizes.expected(known(absent), absent).bytes == 0


def test_where_a_model_runs_is_part_of_its_size(tmp_path):
    """The same files in a process of its own, or twice, are another size; code of its own is, too."""
    file = tmp_path / "model.bin"
    file.write_bytes(b"x")
    specs = [
        ModelSpec(name="m", path=str(file)),
        ModelSpec(name="m", path=str(file), placement="process"),
        ModelSpec(name="m", path=str(file), replicas=2),
        ModelSpec(name="m", reference="code:Model"),
        ModelSpec(name="n", reference="code:Model"),
    ]
    assert len({known(spec).key for spec in specs}) == 5


def test_a_sure_size_is_not_replaced_by_an_unsure_one(tmp_path):
    """What was measured alone stays until it is measured alone again."""
    file = tmp_path / "model.bin"
    file.write_bytes(b"x")
    spec = ModelSpec(name="m", path=str(file))
    sizes, model = Sizes(), known(spec)
    assert sizes.remember(model, Size(5, sure=False)) == Size(5, sure=False)
    assert sizes.remember(model, Size(10)) == Size(10)
    assert sizes.remember(model, Size(99, sure=False)) == Size(10)
    assert sizes.remember(model, Size(11)) == Size(11)
    assert sizes.expected(model, spec) == Size(11)


def test_sizes_are_kept_for_so_many_models(monkeypatch, tmp_path):
    """The oldest measured sizes are forgotten beyond SIZES_KEPT."""
    monkeypatch.setattr(memory, "SIZES_KEPT", 3)
    sizes = Sizes()
    specs = [ModelSpec(name=f"m{number}", reference="code:Model") for number in range(5)]
    for spec in specs:
        sizes.remember(known(spec), Size(7))
    assert [sizes.expected(known(spec), spec).bytes for spec in specs] == [0, 0, 7, 7, 7]


# -- sweeping --


async def test_sweeps_are_a_small_share_of_the_time():
    """After a sweep of a second the next one is due when 20 have passed; before the first, at once."""
    now = [100.0]
    done = []

    def collect():
        done.append(now[0])
        now[0] += 1.0

    sweeper = Sweeper(collect, clock=lambda: now[0])
    assert sweeper.pause() == 0
    await sweeper.sweep()
    assert sweeper.pause() == pytest.approx(20.0)
    now[0] += 15.0
    assert sweeper.pause() == pytest.approx(5.0)
    now[0] += 15.0
    assert sweeper.pause() == 0
    assert done == [100.0]
