"""A model's own code: turns, late imports, and what is left behind.

That folders with modules of one name do not meet is tested where models are made of them (test_python, test_mlserver).
"""

import asyncio
import importlib
import sys
import threading

import pytest

from headrace.errors import LoadFailed
from headrace.runtimes.own_code import OwnCode


@pytest.fixture(autouse=True)
def process():
    """Nothing of the process is left changed."""
    before = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield
    assert (sys.path, sys.meta_path) == before[:2]
    assert not {each for each in set(sys.modules) - before[2] if each.startswith("own_")}


def folder_of(place, packaged=(), **modules):
    """A folder of modules, by name; those of packages in a dict, by path."""
    place.mkdir()
    for name, code in {**dict(packaged), **modules}.items():
        file = place / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
    return place


def codes(*folders, **options):
    return [OwnCode(each, fresh=True, **options) for each in folders]


def test_a_folder_waits_for_another_with_the_same_names_only(tmp_path):
    """While one folder has its turn, one with a module of the same name waits, and one without goes on."""
    same = [folder_of(tmp_path / name, own_a=f"NAME = {name!r}") for name in ("one", "two")]
    first, second = codes(*same)
    (other,) = codes(folder_of(tmp_path / "other", own_b="NAME = 'other'"))
    found = []

    def load(code, name):
        with code.importable():
            found.append(code.module(name).NAME)

    waiting = threading.Thread(target=load, args=(second, "own_a"))
    passing = threading.Thread(target=load, args=(other, "own_b"))
    with first.importable():
        waiting.start()
        passing.start()
        passing.join(60)
        assert found == ["other"]
        assert first.module("own_a").NAME == "one"
    waiting.join(60)
    assert found == ["other", "two"]
    for code in (first, second, other):
        code.forget()


def test_a_thread_of_the_model_may_import_while_it_loads(tmp_path):
    """A turn is the folder's, not a thread's: a thread that load waits for imports neighbours without waiting."""
    (code,) = codes(
        folder_of(
            tmp_path / "m",
            own_helper="VALUE = 3",
            own_main="""
import threading

def load():
    found = []
    def work():
        import own_helper
        found.append(own_helper.VALUE)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    return found
""",
        )
    )
    with code.importable():
        assert code.module("own_main").load() == [3]
    code.forget()


def test_an_installed_package_beats_a_bare_folder_of_its_name(tmp_path):
    """A folder without __init__.py that is named like an installed package does not displace it."""
    (code,) = codes(folder_of(tmp_path / "m", {"msgspec/model": "X = 1", "own_plain/inner": "X = 2"}))
    before = importlib.import_module("msgspec")
    with code.importable():
        assert importlib.import_module("msgspec") is before
        assert importlib.import_module("own_plain.inner").X == 2
    code.forget()


def test_an_own_module_hides_an_imported_one_while_the_folder_has_its_turn(tmp_path, monkeypatch):
    """A module that was imported from elsewhere steps aside, and is back afterwards."""
    elsewhere = folder_of(tmp_path / "elsewhere", own_same="X = 'elsewhere'")
    monkeypatch.syspath_prepend(str(elsewhere))
    module = importlib.import_module("own_same")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(elsewhere)])
    (code,) = codes(folder_of(tmp_path / "m", own_same="X = 'mine'"))
    try:
        with code.importable():
            assert importlib.import_module("own_same").X == "mine"
        assert sys.modules["own_same"] is module
        code.forget()
        assert sys.modules["own_same"] is module
    finally:
        del sys.modules["own_same"]
        monkeypatch.undo()


@pytest.mark.parametrize(
    "statement",
    [
        "import own_p.deep as m",
        "from own_p import deep as m",
        "from own_p.deep import X; import own_p; m = own_p.deep",
        "from own_p import *; m = deep",
        "m = __import__('own_p.deep', fromlist=['X'])",
    ],
)
def test_every_form_of_a_late_import_finds_the_neighbour(statement, tmp_path):
    """Inside functions, long after the load, each form of import finds the model's own of two packages."""
    folders = [
        folder_of(
            tmp_path / name,
            {"own_p/__init__": "__all__ = ['deep']", "own_p/deep": f"X = {name!r}"},
            own_m=f"def late():\n    scope = {{'__builtins__': __builtins__}}\n    exec({statement!r}, scope)\n"
            "    return scope['m'].X",
        )
        for name in ("one", "two")
    ]
    both = codes(*folders)
    modules = []
    for code in both:
        with code.importable():
            modules.append(code.module("own_m"))
    for _ in range(2):
        assert [module.late() for module in modules] == ["one", "two"]
    for code in both:
        code.forget()


def test_a_relative_import_in_a_function_finds_the_neighbour(tmp_path):
    """`from . import x` inside a function of a package finds the package's own of two."""
    folders = [
        folder_of(
            tmp_path / name,
            {
                "own_p/__init__": "",
                "own_p/late": f"X = {name!r}",
                "own_p/m": "def late():\n    from . import late\n    from .late import X\n    return late.X + X",
            },
        )
        for name in ("one", "two")
    ]
    both = codes(*folders)
    modules = []
    for code in both:
        with code.importable():
            modules.append(code.module("own_p.m"))
    assert [module.late() for module in modules] == ["oneone", "twotwo"]
    for code in both:
        code.forget()


def test_a_failed_import_gives_the_turn_back(tmp_path):
    """After an import that raised, the path is as before and another folder with the same names loads."""
    broken, fine = codes(
        folder_of(tmp_path / "one", own_a="import own_b", own_b="1 / 0"),
        folder_of(tmp_path / "two", own_a="import own_b", own_b=""),
    )
    with pytest.raises(LoadFailed, match="module 'own_a' cannot be imported: ZeroDivisionError"), broken.importable():
        broken.module("own_a")
    with fine.importable():
        fine.module("own_a")
    broken.forget()
    fine.forget()


async def test_steps_of_a_coroutine_take_turns(tmp_path):
    """Coroutines of two folders that wait for one another both end, each step with its own modules importable."""
    both = codes(
        folder_of(tmp_path / "one", own_a="X = 'one'", own_late="X = 'one'"),
        folder_of(tmp_path / "two", own_a="X = 'two'", own_late="X = 'two'"),
    )
    events = [asyncio.Event(), asyncio.Event()]

    async def load(number):
        found = [importlib.import_module("own_a").X]
        events[number].set()
        await events[1 - number].wait()
        found.append(importlib.import_module("own_late").X)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0)
        except TimeoutError:
            found.append(importlib.import_module("own_a").X)
        return found

    found = await asyncio.wait_for(asyncio.gather(*(code.run(load(each)) for each, code in enumerate(both))), 60)
    assert found == [["one"] * 3, ["two"] * 3]
    for code in both:
        code.forget()


async def test_a_cancelled_coroutine_ends_and_its_finally_runs(tmp_path):
    """Cancelling `run` reaches the coroutine, whose clean-up runs with its modules importable."""
    (code,) = codes(folder_of(tmp_path / "m", own_a="X = 1"))
    began, cleaned = asyncio.Event(), []

    async def load():
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            cleaned.append(importlib.import_module("own_a").X)

    task = asyncio.create_task(code.run(load()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [1]
    code.forget()


async def test_what_a_coroutine_raises_is_raised(tmp_path):
    """An exception out of the coroutine is `run`'s."""
    (code,) = codes(folder_of(tmp_path / "m", own_a="X = 1"))

    async def load():
        await asyncio.sleep(0)
        raise KeyError("k")

    with pytest.raises(KeyError, match="k"):
        await code.run(load())
    code.forget()
