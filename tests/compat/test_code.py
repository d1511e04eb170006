"""People's own code: where it is found, whose neighbours it gets, and where its calls run."""

import asyncio
import contextvars
import textwrap
import threading
import time

import pytest

from headrace.compat import code
from headrace.compat.code import Call, load
from headrace.errors import InvalidRequest, LoadFailed, ModelError, Overloaded, RuntimeFailed, UnsafeArtifact
from headrace.runtimes.own_code import OwnCode


def write(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text))


def found(reference, base, **parameters):
    return load(reference, base=str(base), parameters=parameters, code=OwnCode)


# -- loading --


@pytest.mark.parametrize("reference", ["part.py:f", "part:f", "package.inner:Holder.f"])
def test_references(tmp_path, reference):
    """`file.py:name`, `module:name` and a name within a name are found in the base folder."""
    write(tmp_path, "part.py", "def f(): return 1")
    write(tmp_path / "package", "__init__.py", "")
    write(tmp_path / "package", "inner.py", "class Holder:\n    @staticmethod\n    def f(): return 1")
    own = found(reference, tmp_path)
    assert own.found() == 1
    own.close()


def test_two_folders_of_one_name_do_not_meet(tmp_path):
    """Two folders that both hold part.py and near.py each get their own, now and in imports inside functions."""
    owns = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        write(folder, "near_of_steps.py", f"VALUE = {number}")
        write(
            folder,
            "part.py",
            """
            import near_of_steps
            def f():
                import near_of_steps as again
                return near_of_steps.VALUE, again.VALUE
            """,
        )
        owns.append(found("part.py:f", folder))
    assert [own.found() for own in owns] == [(1, 1), (2, 2)]
    for own in owns:
        own.close()


def test_a_class_is_constructed_loaded_and_unloaded(tmp_path):
    """A class gets its parameters, then `load`; closing calls `unload`."""
    text = """
        class C:
            def __init__(self, log): self.log = log
            def load(self): self.log.append("load")
            def unload(self): self.log.append("unload")
    """
    write(tmp_path, "part.py", text)
    log = []
    own = found("part.py:C", tmp_path, log=log)
    assert log == ["load"]
    own.close()
    assert log == ["load", "unload"]


@pytest.mark.parametrize("reference", ["", "part", "part.py", ":f", "part.py:", "part.py:g", "other.py:f", "other:f"])
def test_references_to_nothing(tmp_path, reference):
    """A reference without a name, or to what is not there, is LoadFailed."""
    write(tmp_path, "part.py", "def f(): return 1")
    with pytest.raises(LoadFailed):
        found(reference, tmp_path)


def test_a_load_that_is_async(tmp_path):
    """A class whose load nobody would await is refused."""
    write(tmp_path, "part.py", "class C:\n    async def load(self): pass")
    with pytest.raises(LoadFailed, match="async"):
        found("part.py:C", tmp_path)


@pytest.mark.parametrize("options", [{"code": OwnCode, "allowed": ("sklearn.*",)}, {"code": None}])
def test_nobody_is_trusted(tmp_path, options):
    """Where the load policy trusts nobody, or nothing runs code, the file is not even imported."""
    write(tmp_path, "part.py", "raise SystemExit")
    with pytest.raises(UnsafeArtifact, match=r"part\.py:f"):
        load("part.py:f", base=str(tmp_path), parameters={}, **options)


# -- calls --


def where():
    return threading.current_thread() is threading.main_thread()


async def test_a_plain_function_runs_in_a_thread_until_it_is_quick():
    """The first calls of a plain function leave the loop free; once enough were quick it runs on the loop."""
    call = Call(where, name="f")
    assert not any([await call() for _ in range(code.TRIALS)])
    while not await call():  # a busy machine may make a few of them slow
        pass


async def test_a_slow_function_stays_in_its_thread():
    """A function that takes longer than a hand-over costs never runs on the loop."""

    def slow():
        time.sleep(2 * code.QUICK_SECONDS)
        return where()

    call = Call(slow, name="f")
    assert not any([await call() for _ in range(2 * code.TRIALS)])


async def test_a_quick_function_that_gets_slow_leaves_the_loop():
    """A function that has become slow runs in its thread again."""
    pause = [0.0]

    def sometimes():
        time.sleep(pause[0])
        return where()

    call = Call(sometimes, name="f")
    while not await call():
        pass
    pause[0] = 2 * code.SLOW_SECONDS
    await call()
    assert not await call()


@pytest.mark.parametrize(("says", "expected"), [(True, True), (False, False)])
async def test_what_the_code_says_of_itself(says, expected):
    """`inline` on a function or class decides at once where it runs, and stays."""

    class Owner:
        inline = says

        def f(self):
            return where()

    owner = Owner()
    call = Call(owner.f, name="f", owner=owner)
    assert [await call() for _ in range(2 * code.TRIALS)] == [expected] * (2 * code.TRIALS)


async def test_one_call_at_a_time():
    """A plain function is never in two calls at once, unless it says `concurrent`."""
    busy, most = [0], [0]

    def f():
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.002)
        busy[0] -= 1

    call = Call(f, name="f")
    await asyncio.gather(*[call() for _ in range(5)])
    assert most == [1]


async def test_concurrent_calls():
    """A function that says `concurrent` is in as many calls as come: each waits for the other here."""
    barrier = threading.Barrier(2, timeout=60)

    def f():
        return barrier.wait()

    f.concurrent = True
    call = Call(f, name="f")
    assert sorted(await asyncio.gather(call(), call())) == [0, 1]


async def test_coroutines_are_awaited_on_the_loop():
    """A coroutine function runs on the loop, and so does one hidden behind a plain function."""

    async def f(x):
        await asyncio.sleep(0)
        return where(), x

    assert await Call(f, name="f")(3) == (True, 3)
    assert await Call(lambda x: f(x), name="f")(4) == (True, 4)  # noqa: PLW0108 - a plain function is the point


async def test_context_goes_along():
    """What the request's context holds is there in the thread."""
    trace = contextvars.ContextVar("trace")
    trace.set("7")
    assert await Call(lambda: trace.get(), name="f")() == "7"  # noqa: PLW0108 - as above


async def test_too_many_wait(monkeypatch):
    """A bounded number of calls waits for the thread; one more is Overloaded."""
    monkeypatch.setattr(code, "_WAITING", 1)
    gate = threading.Event()
    call = Call(lambda: gate.wait(60), name="f")
    first = asyncio.create_task(call())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await call()
    gate.set()
    assert await first is True


async def test_errors():
    """Our errors pass as they are, one with an HTTP status keeps it, any other is RuntimeFailed with its name."""

    def f(error):
        raise error

    class Refused(Exception):
        status_code = 451

    call = Call(f, name="mine.py:f")
    with pytest.raises(InvalidRequest, match=r"^theirs$"):
        await call(InvalidRequest("theirs"))
    with pytest.raises(ModelError) as raised:
        await call(Refused("by law"))
    assert raised.value.status == 451
    with pytest.raises(RuntimeFailed, match=r"mine.py:f: KeyError: 'k'") as raised:
        await call(KeyError("k"))
    assert isinstance(raised.value.__cause__, KeyError)
