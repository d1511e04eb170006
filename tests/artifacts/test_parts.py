"""Parts of a large file: in any order, from several threads, and with a process that ended between them."""

from __future__ import annotations

import hashlib
import os
import random
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.artifacts.parts import PART, Parts

SIZE = 3 * PART + 5
"""Four parts; the last has five bytes."""


def write(parts, part):
    """A part whose ends are its number."""
    start, end = parts.span(part)
    handle = os.open(parts.file, os.O_WRONLY)
    for at in (start, end - 1):
        os.pwrite(handle, bytes([part + 1]), at)
    os.close(handle)
    parts.came(part)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)), before=st.integers(0, 4), resume=st.booleans())
def test_parts_in_any_order_are_the_file(tmp_path_factory, order, before, resume):
    """Whatever came before an end of the process and after it, the digest is that of the file, one caller is told that
    all is there, and parts that were there are not missing unless other bytes may be in the store.
    """
    file = tmp_path_factory.mktemp("parts") / "large"
    first = Parts(file, SIZE)
    first.open(resume=True)
    for part in order[:before]:
        write(first, part)
    then = Parts(file, SIZE)
    then.open(resume=resume)
    missing = then.missing()
    assert missing == sorted(order[before:] if resume else order)
    told = [] if missing else [then.finished(lambda: None)]
    for part in random.Random(before).sample(missing, len(missing)):
        write(then, part)
        told.append(then.finished(lambda: None))
    assert told.count(True) == 1
    assert told[-1]
    assert then.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    then.close()
    assert list(file.parent.iterdir()) == [file]


def test_one_of_several_threads_is_told(tmp_path):
    """Threads that finish parts at the same time hash each byte once, and one of them is told that all is there."""
    parts = Parts(tmp_path / "large", SIZE)
    parts.open(resume=False)
    told, ready = [], threading.Barrier(4)

    def run(part):
        ready.wait(60)
        write(parts, part)
        told.append(parts.finished(lambda: None))

    threads = [threading.Thread(target=run, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False, False, False, True]
    assert parts.sha256 == hashlib.sha256((tmp_path / "large").read_bytes()).hexdigest()
