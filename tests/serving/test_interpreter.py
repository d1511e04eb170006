"""Models in environments of their own: a real virtual environment, and the ones in which no worker can live.

Left out: Pythons of other versions, which a test cannot count on; what is said of them is tested by `judge`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

from headrace.errors import LoadFailed, SettingsError, WorkerDied
from headrace.payload import InferenceRequest, Tensor
from headrace.serving import interpreter
from headrace.serving.build import RuntimeSpec
from headrace.serving.engine import load_engine
from headrace.serving.interpreter import Found, environ_of, judge, shared_folders


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment without pip, in which one small library is installed."""
    folder = tmp_path_factory.mktemp("environments") / "own"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "settled_in.py").write_text("")
    return folder


@pytest.fixture(autouse=True)
def _path(monkeypatch, tmp_path):
    """The server sees the runtimes, and a library of the name that the environment has too."""
    (tmp_path / "settled_in.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])


def spec(environment, kind="Environed"):
    return RuntimeSpec(name="m", runtime=f"small_runtimes:{kind}", reference="x:y", environment=str(environment))


X = InferenceRequest(model_name="m", inputs=(Tensor("x", "FP32", np.zeros((1, 4), np.float32)),))


async def told(engine):
    return [each.decode() for each in (await engine.infer(X)).outputs[0].data]


async def test_a_model_lives_in_its_environment(environment):
    """Its Python and its packages come first, the server's numpy stands in for the one it lacks, and it is activated."""
    engine = await load_engine(spec(environment))
    try:
        assert engine.placement == "process"
        assert engine.choice.reason == "it has an environment of its own"
        prefix, library, numpy, activated, python_path, _ = await told(engine)
        assert prefix == activated == str(environment)
        assert library.startswith(str(environment))
        assert numpy == np.__file__
        assert python_path == ""
    finally:
        await engine.close(1)


async def test_a_whole_model_lives_there_too(environment):
    """An async runtime that takes whole requests answers from its environment."""
    engine = await load_engine(spec(environment, "Whole"), placement="process")
    try:
        response = await engine.infer(InferenceRequest(model_name="m", inputs=X.inputs, id="1"))
        assert response.id == "1"
        assert response.parameters["pid"] != os.getpid()
    finally:
        await engine.close(1)


async def test_an_environments_folder_may_be_relative(environment, monkeypatch):
    """A folder relative to where the server was started becomes absolute for the model's process."""
    monkeypatch.chdir(environment.parent)
    found = await interpreter.of_environment("m", Path(environment.name))
    assert found.command[0] == str(environment / "bin" / "python")
    assert found.environ["VIRTUAL_ENV"] == str(environment)


async def test_a_worker_is_started_again_in_its_environment(environment):
    """After a kill the model is back where it was."""
    back = asyncio.Event()
    engine = await load_engine(spec(environment), on_state=lambda ready, _: back.set() if ready else None)
    try:
        before = await told(engine)
        os.kill(int(before[-1]), 9)
        with pytest.raises(WorkerDied):
            await told(engine)
        await asyncio.wait_for(back.wait(), 60)
        after = await told(engine)
        assert after[:-1] == before[:-1]
        assert after[-1] != before[-1]
    finally:
        await engine.close(1)


@pytest.mark.parametrize("placement", ["inline", "thread"])
async def test_an_environment_asks_for_a_process(environment, placement):
    """A placement in the server's own process is refused for a model with an environment."""
    with pytest.raises(SettingsError, match=f"placement '{placement}' is in the server's own process"):
        await load_engine(spec(environment), placement=placement)


async def test_an_object_in_memory_has_no_environment(environment):
    """A model that no other process can load cannot have one."""
    with pytest.raises(SettingsError, match="object in memory"):
        await load_engine(spec(environment), model=object())


async def test_an_environment_of_another_python_must_bring_what_a_worker_needs(environment, monkeypatch):
    """Where compiled modules are not alike the server's packages stay out, and what is missing is named."""
    real = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "cpython-27-vax" if name == "SOABI" else real(name))
    message = (
        rf"model 'm': environment {environment} \(Python {sys.version.split()[0]}\) lacks '\w+', which a worker process "
        rf"needs, and the server's packages are for Python .*; run: {environment}/bin/python -m pip install 'numpy>="
    )
    with pytest.raises(LoadFailed, match=message):
        await load_engine(spec(environment))


def script(folder, text, mode=0o755):
    """A file in the place of an environment's Python."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_bytes(text)
    python.chmod(mode)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda folder: None, "there is no .*/bin/python; expected the folder of a virtual or conda environment"),
        (
            lambda folder: ((folder / "bin").mkdir(), (folder / "bin" / "python").symlink_to("/no/such/python")),
            "leads to /no/such/python, which is not there: the environment was made on another machine",
        ),
        (
            lambda folder: script(folder, b"\x7fELF\x02\x01\x01" + bytes(99)),
            r"cannot be run here \(Exec format error\)",
        ),
        (
            lambda folder: script(folder, b"#!/no/such/loader\n"),
            r"cannot be run here \(No such file or directory\): the environment was made for another platform",
        ),
        (lambda folder: script(folder, b"", 0o644), r"cannot be run here \(Permission denied\)"),
        (
            lambda folder: script(folder, b"#!/bin/sh\necho libpython9.so: cannot open >&2\nexit 127\n"),
            r"does not work here \(exit code 127\): libpython9.so: cannot open; build the environment again",
        ),
        (lambda folder: script(folder, b"#!/bin/sh\nexit 0\n"), r"\(exit code 0\): it said nothing"),
    ],
    ids=["nothing", "dangling link", "another machine's", "no loader", "not executable", "no library", "silent"],
)
async def test_an_environment_that_does_not_work_says_why(tmp_path, made, message):
    """Each way in which an environment cannot run here is a LoadFailed that names it."""
    folder = tmp_path / "environment"
    folder.mkdir()
    made(folder)
    with pytest.raises(LoadFailed, match=message) as caught:
        await load_engine(spec(folder))
    assert str(folder) in str(caught.value)


def found(version="3.11.4", soabi="a", **options):
    return Found(version=version, soabi=soabi, search_path=(), **options)


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (found(), None),
        (found("3.13.0", "b"), None),
        (found("3.8.1", "b", cause="SyntaxError"), "environment /e (Python 3.8.1) is too old: a worker process needs"),
        (found("3.12.0", "b", missing="msgspec", cause="x"), "lacks 'msgspec', which a worker process needs, and the"),
        (found(missing="orjson", cause="x"), "lacks 'orjson', which a worker process needs; run: /e/bin/python -m pip"),
        (found(cause="ImportError: numpy is broken"), "cannot run a worker process (ImportError: numpy is broken)"),
    ],
    ids=["alike", "another that has all", "too old", "another that lacks", "alike that lacks", "broken"],
)
def test_what_an_environment_is_told(seen, problem):
    """What stands in the way is named with what to do; nothing is said where nothing does."""
    text = judge(seen, "a", "/e")
    assert (problem in text) if problem else text == ""


def test_the_standard_library_is_not_shared():
    """Of the server's path, each Python has its own standard library; packages and code are told apart."""
    code, packages = shared_folders(["/code", *sys.path, "/x/lib/python3/dist-packages"])
    assert code[0] == "/code"
    assert packages[-1] == "/x/lib/python3/dist-packages"
    assert any((Path(each) / "numpy").is_dir() for each in packages)
    assert not [each for each in code + packages if (Path(each) / "asyncio" / "base_events.py").exists()]
    assert not [each for each in code + packages if each.endswith("lib-dynload")]


@pytest.mark.parametrize(("mark", "name"), [("pyvenv", "VIRTUAL_ENV"), ("conda-meta", "CONDA_PREFIX")])
def test_the_process_is_as_if_activated(tmp_path, mark, name):
    """Programs of the environment come first, its variable is set, those of other Pythons are gone."""
    (tmp_path / mark).mkdir()
    before = {"PATH": "/bin", "HOME": "/h", "PYTHONPATH": "/p", "PYTHONHOME": "/p", "VIRTUAL_ENV": "/v"}
    assert environ_of(tmp_path, before) == {"PATH": f"{tmp_path}/bin:/bin", "HOME": "/h", name: str(tmp_path)}


def test_what_a_worker_needs_is_said_once():
    """The libraries that an environment is told to install are those of the project's own requirements."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert all(f'"{each}"' in project.read_text() for each in interpreter.NEEDED)
