"""Environments built from files beside models: real ones, of wheels made here, by pip and by uv.

Matrix: uv, pip, conda (a program of ours in its place: none is installed where tests run) x success, failure, cancel,
timeout, two at once, killed half-way. Left out: downloads of another Python, and packages that are compiled.
"""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tomllib
from pathlib import Path

import pytest

from headrace.environments import build, kept, requirements
from headrace.environments.prepare import Environments, Prepared, describe
from headrace.environments.process import Ended, Shell, Stopped
from headrace.environments.progress import console
from headrace.errors import LoadFailed, SettingsError

ROOT = Path(__file__).parents[2]

SLOW_SETUP = """
import os, pathlib, time
pathlib.Path({mark!r}).write_text(str(os.getpid()))
time.sleep(60)
"""


def slow_package(top: Path) -> Path:
    """A package whose build says that it runs, and then takes a minute."""
    import tarfile

    mark = top / "building"
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slowone"\nversion = "1.0"\n',
        "backend.py": SLOW_SETUP.format(mark=str(mark)),
    }
    (top / "wheels").mkdir(exist_ok=True)
    with tarfile.open(top / "wheels" / "slowone-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"slowone-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return mark


async def appears(path: Path) -> None:
    async with asyncio.timeout(30):
        while not (path.exists() and path.read_text()):
            await asyncio.sleep(0.02)


async def gone(pid: int) -> None:
    """Until a process has ended (a zombie of another parent's has)."""
    async with asyncio.timeout(60):
        while (status := Path(f"/proc/{pid}/stat")).exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z":
            await asyncio.sleep(0.02)


# -- building --


def test_builds(yard, installer):
    """A package that is missing here is there in the environment that was built, and the record says what was done."""
    yard.wheel("tinyone", "1.5")
    phases = []
    prepared = yard.prepare(yard.model("tinyone==1.5  # the one"), progress=phases.append)
    assert yard.says(prepared, "import tinyone; print(tinyone.VERSION)") == "1.5"
    record = json.loads((Path(prepared.folder) / "environment.json").read_text())
    assert record["packages"]["tinyone"] == "1.5"
    assert record["builder"] == {"uv": "uv", "pip": "venv"}[installer]
    assert record["source"] == str(yard.top / "model" / "requirements.txt")
    assert [each for each in phases if not each.startswith(" ")][-1].startswith("model 'churn': building")
    assert yard.left() == [Path(prepared.folder).name]


def test_built_once(yard, pip_only):
    """The same content asked for by another model is the same environment, with no installer run; another is not."""
    yard.wheel("tinyone", "1.0")
    yard.wheel("tinyone", "2.0")
    first = yard.prepare(yard.model("tinyone==1.0"))
    phases = []
    again = yard.prepare(yard.model("# another", "tinyone==1.0", folder="other"), progress=phases.append)
    assert again == first
    assert phases == []
    other = yard.prepare(yard.model("tinyone==2.0", folder="third"))
    assert other.folder != first.folder


def test_pulls_dependencies_and_constraints(yard, installer):
    """What a package needs comes along, in the version that a constraint allows."""
    yard.wheel("tinybase", "1.0")
    yard.wheel("tinybase", "2.0")
    yard.wheel("tinytop", "1.0", requires=("tinybase",))
    place = yard.model("-c limits.txt", "tinytop")
    (place / "limits.txt").write_text("tinybase<2\n")
    assert yard.says(yard.prepare(place), "import tinybase; print(tinybase.VERSION)") == "1.0"


def test_hashes(yard, installer):
    """A package is installed when its hash is the one asked for, and the environment refused when it is not."""
    import hashlib

    right = hashlib.sha256(yard.wheel("tinyone", "1.0").read_bytes()).hexdigest()
    prepared = yard.prepare(yard.model(f"tinyone==1.0 --hash=sha256:{right}"))
    assert yard.says(prepared, "import tinyone; print(tinyone.VERSION)") == "1.0"
    with pytest.raises(LoadFailed, match="does not have the hash that was asked for"):
        yard.prepare(yard.model(f"tinyone==1.0 --hash=sha256:{'0' * 64}", folder="other"))


def test_local_wheel_and_mlflow(yard, installer):
    """MLflow's python_env.yaml with a wheel by its path is built for a package that is missing."""
    wheel = yard.wheel("tinyone", "1.0")
    place = yard.model("--no-index", f"./../wheels/{wheel.name}")
    (place / "MLmodel").touch()
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (place / "python_env.yaml").write_text(
        f"python: {minor}.0\nbuild_dependencies: [pip]\ndependencies: [-r requirements.txt]\n"
    )
    assert yard.says(yard.prepare(place), "import tinyone; print(tinyone.VERSION)") == "1.0"


def test_conda_without_conda(yard, pip_only):
    """A conda file with conda's own packages, and no conda, says what to install or to write."""
    with pytest.raises(
        LoadFailed, match=r"asks conda for no-such-blas=1.*install micromamba, or write a requirements\.txt"
    ):
        yard.prepare(yard.model("dependencies:", "- no-such-blas=1", name="conda.yaml"))
    assert yard.left() == []


def test_conda_pip_section_only(yard, installer):
    """A conda file of python, pip and a pip section needs no conda."""
    yard.wheel("tinyone", "1.0")
    lines = [
        "dependencies:",
        "- python",
        "- pip",
        "- pip:",
        "  - --no-index",
        "  - --find-links ../wheels",
        "  - tinyone",
    ]
    assert yard.says(yard.prepare(yard.model(*lines, name="conda.yaml")), "import tinyone; print(1)") == "1"


def test_conda(yard, monkeypatch, tmp_path):
    """With micromamba on PATH the file itself is handed to it, and the environment it makes is used."""
    bare = tmp_path / "path"
    bare.mkdir()
    tool = bare / "micromamba"
    tool.write_text(
        f"#!{sys.executable}\nimport sys, venv\nif sys.argv[1] == '--version': sys.exit(0)\n"
        "assert sys.argv[1:4] == ['create', '--yes', '--prefix'] and sys.argv[5] == '--file', sys.argv\n"
        "venv.create(sys.argv[4]); open(sys.argv[4] + '/asked', 'w').write(open(sys.argv[6]).read())\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(bare))
    place = yard.model("dependencies:", "- no-such-blas=1", name="conda.yaml")
    prepared = yard.prepare(place)
    assert (Path(prepared.folder) / "asked").read_text() == (place / "conda.yaml").read_text()
    assert json.loads((Path(prepared.folder) / "environment.json").read_text())["builder"] == "micromamba"


def test_other_python_without_uv(yard, pip_only):
    """Another Python that is nowhere on PATH is named, with what would find it."""
    other = f"3.{sys.version_info[1] + 2}"
    with pytest.raises(
        LoadFailed, match=rf"Python {re.escape(other)}.*no python{re.escape(other)} is on PATH.*install uv"
    ):
        yard.prepare(yard.model(f"python: '{other}'", "dependencies: [no-such-package]", name="python_env.yaml"))


def test_old_python(yard, pip_only):
    """A Python older than Headrace's own is refused when something is missing, and done without when nothing is."""
    with pytest.raises(LoadFailed, match=r"does not run on Python 3\.7\.16, but on 3\.11 and newer"):
        yard.prepare(yard.model("python: 3.7.16", "dependencies: [no-such-package]", name="python_env.yaml"))
    prepared = yard.prepare(yard.model("dependencies: [python=3.7]", name="conda.yaml", folder="other"))
    assert prepared.folder == ""
    assert "does not run on Python 3.7" in prepared.warnings[0]


# -- failing --


def test_no_distribution(yard, installer):
    """A package that is not to be had is named with the platform, the log and its last lines; nothing else is left."""
    yard.wheel("tinyone", "1.0")
    with pytest.raises(
        LoadFailed, match=r"no matching distribution for tinyone\S* on \S+ / Python 3\.\d+; the log is "
    ) as caught:
        yard.prepare(yard.model("tinyone==9"))
    log = re.search(r"the log is (\S+\.log)", str(caught.value))
    assert log
    assert "tinyone" in Path(log[1]).read_text()
    assert yard.left() == []


def test_wrong_platform(yard, installer):
    """A wheel for another platform only is no distribution for this one."""
    yard.wheel("tinyone", "1.0", tag="cp311-cp311-win_amd64")
    with pytest.raises(LoadFailed, match="no matching distribution for tinyone"):
        yard.prepare(yard.model("tinyone"))


def test_versions_only_fall_back(yard, pip_only):
    """A build that fails when only versions differ leaves the server's own packages, and says why."""
    prepared = yard.prepare(yard.model("numpy<1"))
    assert prepared.folder == ""
    assert "no environment could be built" in prepared.warnings[0]
    assert "no matching distribution for numpy<1" in prepared.warnings[0]


def test_credentials_are_masked(yard, installer):
    """A password in an index's url is in no message and no log."""
    place = yard.top / "model"
    place.mkdir()
    (place / "requirements.txt").write_text("--index-url http://user:hunter2@127.0.0.1:9/simple\ntinyone\n")
    said = []
    with pytest.raises(LoadFailed) as caught:
        yard.prepare(place, progress=said.append, timeout_seconds=1)
    logs = [each.read_text() for each in (yard.cache / "environments").glob("*.log")]
    assert logs
    assert not any("hunter2" in text for text in [str(caught.value), *said, *logs])


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_ended_early(yard, pip_only, how):
    """Cancelled, or past its time, a build ends with all that it started, and leaves nothing half-made."""
    mark = slow_package(yard.top)
    cancel = threading.Event()
    seconds = 60.0 if how == "cancel" else 4.0
    task = asyncio.create_task(
        asyncio.to_thread(yard.prepare, yard.model("slowone"), timeout_seconds=seconds, cancel=cancel)
    )
    if how == "cancel":
        await appears(mark)
        cancel.set()
    with pytest.raises(LoadFailed, match="it was cancelled" if how == "cancel" else "it took longer than 4 s"):
        await task
    if mark.exists():  # a slow machine may not have come so far in its time
        await gone(int(mark.read_text()))
    assert yard.left() == []


# -- several processes --

ANOTHER = """
import faulthandler, logging, sys
faulthandler.dump_traceback_later(40, exit=True)  # says where, should it hang
from pathlib import Path
from headrace.environments.prepare import Environments
logging.basicConfig(level="INFO")
found = Environments().prepare(Path(sys.argv[1]), "auto", cache=Path(sys.argv[2]), trusted=True, describe="model 'm'")
print(found.folder)
"""


def another(yard, place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(place), str(yard.cache)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes(yard, pip_only):
    """Two processes that want the same environment at once get the same one, built by one of them."""
    yard.wheel("tinyone", "1.0")
    place = yard.model("tinyone")
    both = [another(yard, place) for _ in range(2)]
    said = [each.communicate(timeout=50) for each in both]
    folders = {out.strip() for out, _ in said}
    assert len(folders) == 1, said
    assert (Path(folders.pop()) / "bin" / "python").exists()
    assert sum("installing 1 package" in err for _, err in said) == 1


async def test_killed_half_way(yard, pip_only):
    """After kill -9 in the middle, the next to ask clears up and builds."""
    mark = slow_package(yard.top)
    place = yard.model("slowone")
    killed = another(yard, place)
    try:
        await appears(mark)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
    os.kill(int(mark.read_text()), signal.SIGKILL)  # the minute that nobody waits for
    left = yard.left()
    assert left
    assert kept.record(kept.folder(yard.cache, next(each for each in left if not each.startswith(".")))) is None
    yard.wheel("slowone", "1.0")  # to be had without building, and so preferred
    prepared = await asyncio.to_thread(yard.prepare, place)
    assert yard.says(prepared, "import slowone; print(slowone.VERSION)") == "1.0"
    assert yard.left() == [Path(prepared.folder).name]


def test_broken_interpreter_is_built_again(yard, pip_only):
    """An environment whose interpreter is gone, as after an upgrade of Python, is built anew."""
    yard.wheel("tinyone", "1.0")
    place = yard.model("tinyone")
    folder = Path(yard.prepare(place).folder)
    (folder / "bin" / "python").unlink()
    assert Path(yard.prepare(place).folder) == folder
    assert os.access(folder / "bin" / "python", os.X_OK)


# -- the memory, and what is said --


def test_memory(yard, pip_only, monkeypatch):
    """Files that have not changed are not read again; one that changes, comes or goes is."""
    place = yard.model("numpy")
    environments = Environments()
    reads = []
    read = requirements.read_file
    monkeypatch.setattr(requirements, "read_file", lambda path: reads.append(path.name) or read(path))

    def ask() -> Prepared:
        return environments.prepare(place, "auto", cache=yard.cache, trusted=True, describe="m")

    assert ask() == ask() == Prepared("")
    assert reads == ["requirements.txt"]
    (place / "requirements.txt").write_text("numpy\n# longer\n")
    ask()
    (place / "MLmodel").touch()
    ask()
    assert len(reads) == 3
    (place / "requirements.txt").unlink()
    assert ask() == Prepared("")
    assert len(reads) == 3


def test_memory_sees_an_environment_go(yard, pip_only):
    """An environment that somebody deleted is built again by a server that remembers it."""
    import shutil

    yard.wheel("tinyone", "1.0")
    place, environments = yard.model("tinyone"), Environments()
    folder = environments.prepare(place, "auto", cache=yard.cache, trusted=True, describe="m").folder
    shutil.rmtree(folder)
    assert environments.prepare(place, "auto", cache=yard.cache, trusted=True, describe="m").folder == folder
    assert (Path(folder) / "bin" / "python").exists()


def test_nothing_asked_for(yard):
    """A model without a file, or without a folder, runs by the server's own packages, and nothing is written."""
    place = yard.top / "model"
    place.mkdir()
    assert yard.prepare(place) == yard.prepare(None) == yard.prepare(place, "build") == Prepared("")
    assert not yard.cache.exists()
    assert describe(place, cache=yard.cache).lines() == ()


def test_untrusted(yard):
    """For a model that is not trusted nothing is built, no other interpreter runs, and no file elsewhere is read."""
    with pytest.raises(LoadFailed, match="no environment is built for a model that the load policy does not trust"):
        yard.prepare(yard.model("no-such-package"), trusted=False)
    with pytest.raises(LoadFailed, match="was not used: the load policy does not trust this model"):
        yard.prepare(yard.model("numpy"), sys.prefix, trusted=False)
    (yard.top / "secret").write_text("hunter2:x:0:0\n")
    with pytest.raises(SettingsError, match=r"lies outside of the model's folder") as caught:
        yard.prepare(yard.model("-r ../secret"), trusted=False)
    assert "hunter2" not in str(caught.value)
    prepared = yard.prepare(yard.model("numpy<1"), trusted=False)
    assert prepared.folder == ""
    assert "numpy<1" in prepared.warnings[0]
    assert not yard.cache.exists()


def test_off(yard):
    """`off` builds nothing whatever is missing, says what is, and takes even a file that cannot be read."""
    assert "no-such-package (not installed)" in yard.prepare(yard.model("no-such-package"), "off").warnings[0]
    assert "an editable install" in yard.prepare(yard.model("-e .", folder="other"), "off").warnings[0]
    with pytest.raises(SettingsError, match="an editable install"):
        yard.prepare(yard.top / "other")


def test_describe(yard, pip_only):
    """A description says what is needed, what is unmet and what would happen, before and after it did."""
    yard.wheel("tinyone", "1.0")
    place = yard.model("tinyone==1.0")
    said = describe(place, cache=yard.cache).lines()
    assert said[0].startswith("needs: 1 package (")
    assert said[1] == "unmet: tinyone==1.0 (not installed)"
    assert "not yet built" in said[2]
    folder = yard.prepare(place).folder
    assert f"built: {folder}" in describe(place, cache=yard.cache).lines()[2]
    assert describe(yard.model("-e .", folder="other"), cache=yard.cache).lines()[0].endswith("the server's own")


def test_console_in_a_pipe():
    """In a pipe there is a line for each phase and none for its details."""
    stream = io.StringIO()
    with console(stream) as progress:
        progress("building")
        progress("  Collecting numpy")
        progress("done")
    assert stream.getvalue() == "building\ndone\n"


# -- what runs inside --


def test_needs():
    """What is installed for another Python is what Headrace's distribution declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(build.NEEDS) == project["dependencies"]
    assert list(build.MLSERVER_NEEDS) == project["optional-dependencies"]["mlserver"]


def test_needs_only_under_another_python(yard):
    """The server's own Python borrows what it needs; another has it installed, with MLServer's for its custom runtimes."""
    asked = requirements.read(yard.model("tinyone") / "requirements.txt")
    (mine, other, *_) = build.targets(None)
    assert (mine.is_ours, other.is_ours) == (True, False)
    assert build.needs(asked, mine) == ()
    assert build.needs(asked, other) == build.NEEDS
    (yard.top / "model" / "model-settings.json").touch()
    assert build.needs(asked, other) == (*build.NEEDS, *build.MLSERVER_NEEDS)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("ERROR: No matching distribution found for a==1", "no matching distribution for a==1 on HERE"),
        (
            "  \xd7 No solution found:\n  ╰─▶ Because only a<=1.0\n      is available and you\n      require a>1, no.",
            "No solution found:",
        ),
        ("cause: Because there is no version of a==9 and you require", "no matching distribution for a==9 on HERE"),
        ("Because b was not\n      found in the package registry", "no matching distribution for b on HERE"),
        ("ERROR: Failed building wheel for slow", "slow could not be compiled on HERE"),
        (
            "ERROR: Cannot install a and b because these package versions have conflicting dependencies.",
            "a and b contradict each other",
        ),
        ("OSError: [Errno 28] No space left on device", "no space is left on the disk"),
        ("nothing that is known", ""),
    ],
)
def test_explain(text, cause):
    """What an installer said becomes a cause in a person's words, or none."""
    import sysconfig

    said = build.explain(text.splitlines(), minor="3.11")
    assert said.startswith(cause.replace("HERE", f"{sysconfig.get_platform()} / Python 3.11"))
    assert bool(said) is bool(cause)


# -- processes --


def shell(tmp_path: Path, log: io.StringIO, said: list[str], **options: object) -> Shell:
    event = threading.Event()
    given = {"timeout_seconds": 20.0, "cancel": event, **options}
    return Shell(log=log, folder=tmp_path, progress=said.append, **given)


def test_shell(tmp_path):
    """Output goes to the log and to progress, masked; an end with a code is an error that has the last lines."""
    log, said = io.StringIO(), []
    code = "print('at https://u:p@host/x'); print('two', end=''); raise SystemExit(3)"
    with pytest.raises(Ended, match="ended with code 3") as caught:
        shell(tmp_path, log, said).run([sys.executable, "-c", code])
    assert caught.value.lines == ("at https://****@host/x", "two")
    assert said == ["  at https://****@host/x", "  two"]
    assert "https://****@host/x\ntwo\n" in log.getvalue()


def test_shell_variables(tmp_path, monkeypatch):
    """Variables that would lead an installer elsewhere do not reach it."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    code = "import os; print(os.environ.get('PYTHONPATH'), os.environ.get('PIP_TARGET'), os.environ['PIP_USER'])"
    assert shell(tmp_path, io.StringIO(), []).run([sys.executable, "-c", code]) == ["None None 0"]


def test_shell_does_not_wait_for_a_grandchild(tmp_path):
    """A command's end is its end, though something it started holds the pipe open; that is ended too."""
    code = textwrap.dedent("""
        import subprocess, sys
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
    """)
    started = time.monotonic()
    (pid,) = shell(tmp_path, io.StringIO(), []).run([sys.executable, "-c", code])
    assert time.monotonic() - started < 15
    asyncio.run(gone(int(pid)))


def test_shell_times_out_without_output(tmp_path):
    """A command that closed its output and stays is ended at its time."""
    code = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    with pytest.raises(Stopped, match=r"longer than 0\.5 s"):
        shell(tmp_path, io.StringIO(), [], timeout_seconds=0.5).run([sys.executable, "-c", code])


def test_no_such_program(tmp_path):
    """A program that is not there is an error that names it."""
    with pytest.raises(Ended, match="/no/such could not be started"):
        shell(tmp_path, io.StringIO(), []).run(["/no/such"])
