"""Environments that are given: a folder, or an archive of one.

Matrix: tar and zip x a virtual environment, one in a folder of its own, conda-pack's script x members that lead out.
"""

import io
import stat
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from headrace.environments.prepare import Environments, describe
from headrace.errors import LoadFailed


@pytest.fixture
def made(tmp_path):
    """A virtual environment with one package in it."""
    place = tmp_path / "made"
    venv.create(place)
    site = next((place / "lib").glob("python*")) / "site-packages"
    (site / "tinyone.py").write_text("VERSION = '7'\n")
    return place


def pack(made: Path, archive: Path, *, top: str = "") -> Path:
    """As venv-pack does it: links kept, the one to the interpreter included."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for path in sorted(made.rglob("*")):
                name = top + str(path.relative_to(made))
                if path.is_symlink():
                    member = zipfile.ZipInfo(name)
                    member.external_attr = (stat.S_IFLNK | 0o777) << 16
                    out.writestr(member, str(path.readlink()))
                else:
                    out.write(path, name)
    else:
        with tarfile.open(archive, "w:gz") as out:
            out.add(made, arcname=top.rstrip("/") or ".")
    return archive


@pytest.mark.parametrize("name", ["env.tar.gz", "env.tgz", "env.zip"])
@pytest.mark.parametrize("top", ["", "inside/"], ids=["flat", "in-a-folder"])
def test_packed(yard, made, name, top):
    """A packed environment is unpacked once, and its interpreter finds what is in it."""
    archive = pack(made, yard.top / name, top=top)
    prepared = yard.prepare(None, str(archive))
    assert yard.says(prepared, "import tinyone; print(tinyone.VERSION)") == "7"
    phases = []
    assert yard.prepare(None, str(archive), progress=phases.append) == prepared
    assert phases == []
    assert yard.left() == [Path(prepared.folder).name]


def test_relative_to_the_model(yard, made):
    """A path is relative to the model's folder, and requirements beside the model are not looked at."""
    place = yard.model("no-such-package")
    pack(made, place / "env.tar.gz")
    assert yard.says(yard.prepare(place, "env.tar.gz"), "import tinyone; print(1)") == "1"
    assert yard.prepare(place, "../made").folder == str(place / "../made")
    assert describe(place, "../made", cache=yard.cache).plan.kind == "folder"


def test_another_archive_is_another_environment(yard, made):
    """An archive that changed is unpacked anew, even by a server that remembers the old one."""
    archive, environments = pack(made, yard.top / "env.tar.gz"), Environments()
    first = environments.prepare(None, str(archive), cache=yard.cache, trusted=True, describe="m")
    next(made.rglob("tinyone.py")).write_text("VERSION = 'eight'\n")
    pack(made, archive)
    second = environments.prepare(None, str(archive), cache=yard.cache, trusted=True, describe="m")
    assert yard.says(first, "import tinyone; print(tinyone.VERSION)") == "7"
    assert yard.says(second, "import tinyone; print(tinyone.VERSION)") == "eight"


def test_conda_unpack(yard, made):
    """conda-pack's script is run by the environment's interpreter, in the environment's final place."""
    (made / "bin" / "conda-unpack").write_text("import sys; open(sys.prefix + '/unpacked', 'w').write(sys.prefix)\n")
    folder = Path(yard.prepare(None, str(pack(made, yard.top / "env.tar.gz"))).folder)
    assert (folder / "unpacked").read_text() == str(folder)


def test_conda_unpack_that_fails(yard, made):
    """A script that fails is an error with its last lines, and nothing is left to be taken for whole."""
    (made / "bin" / "conda-unpack").write_text("raise SystemExit('prefix too long')\n")
    with pytest.raises(LoadFailed, match=r"ended with code 1.*prefix too long"):
        yard.prepare(None, str(pack(made, yard.top / "env.tar.gz")))
    assert yard.left() == []


def member(name: str, *, link: str = "", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = (kind, link) if link else (tarfile.REGTYPE, "")
    return made


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([member("../evil")], id="parent"),
        pytest.param([member("lib", link="/", kind=tarfile.SYMTYPE)], id="absolute-link"),
        pytest.param([member("lib", link="../..", kind=tarfile.SYMTYPE)], id="link-to-parent"),
        pytest.param([member("lib", link="../evil", kind=tarfile.LNKTYPE)], id="hard-link"),
        pytest.param(
            [member("bin/python", link="{top}", kind=tarfile.SYMTYPE), member("bin/python/evil")], id="through-python"
        ),
    ],
)
def test_tar_that_leads_out(yard, members):
    """A member that would be written outside of the environment, or a link that leads out of it, is refused."""
    archive = yard.top / "env.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for each in members:
            each.linkname = each.linkname.format(top=yard.top)
            out.addfile(each, io.BytesIO())
    with pytest.raises(LoadFailed, match=r"unpacking the environment .*(outside|absolute|leads out|link)"):
        yard.prepare(None, str(archive))
    assert not list(yard.top.rglob("evil"))
    assert yard.left() == []


@pytest.mark.parametrize(
    ("name", "link"),
    [("../evil", ""), ("/evil", ""), ("lib", "/etc"), ("lib", "../.."), ("bin/python/evil", "")],
)
def test_zip_that_leads_out(yard, name, link):
    """The same of a zip."""
    archive = yard.top / "env.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for each, target in (("bin/python", str(yard.top)), (name, link)):
            info = zipfile.ZipInfo(each)
            if target:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            out.writestr(info, target)
    with pytest.raises(LoadFailed, match="leads out of it"):
        yard.prepare(None, str(archive))
    assert not list(yard.top.rglob("evil"))
    assert yard.left() == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("nowhere", "nowhere: no such folder; expected one with bin/python, or an archive"),
        (".", "has no bin/python that can be run"),
        ("nowhere.tar.gz", "No such file"),
        ("broken.tar.gz", "ReadError"),
        ("broken.zip", "BadZipFile"),
        ("empty.tgz", "it has no bin/python: it is not a packed environment"),
    ],
)
def test_not_an_environment(yard, wanted, said):
    """What is no environment, or no archive of one, is an error that says what was expected."""
    place = yard.model("numpy")
    for name in ("broken.tar.gz", "broken.zip"):
        (place / name).write_bytes(b"nothing of the kind")
    with tarfile.open(place / "empty.tgz", "w:gz") as out:
        out.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(LoadFailed, match=f"model 'churn': .*{said}"):
        yard.prepare(place, wanted)


def test_interpreter_that_does_not_run(yard):
    """An archive whose interpreter is a link to one that this machine lacks is refused when it is unpacked."""
    archive = yard.top / "env.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        out.addfile(member("bin/python", link="/no/such/python3.11", kind=tarfile.SYMTYPE))
    with pytest.raises(LoadFailed, match="could not be started"):
        yard.prepare(None, str(archive))
