"""What is unmet, and what is done about it.

Matrix: wanted (auto, build, off, a path) x origin (hand, MLflow) x unmet (nothing, versions, missing) x trusted.
"""

import platform
import sys
from importlib import metadata
from pathlib import Path

import pytest

from headrace.environments import requirements
from headrace.environments.plan import plan
from headrace.environments.requirements import Requirements
from headrace.environments.unmet import Unmet, unmet

MISSING = Unmet(name="fancy", kind="missing", wanted="==1")
OTHER = Unmet(name="numpy", kind="version", wanted="==1.20", found="2.0")


def read(text: str, name: str = "requirements.txt") -> Requirements:
    return requirements.read(Path("/m") / name, read_text=lambda _: text)


@pytest.mark.parametrize(
    ("wanted", "origin", "found", "trusted", "kind", "fallback"),
    [
        ("auto", "hand", (), True, "own", False),
        ("auto", "hand", (OTHER,), True, "build", True),
        ("auto", "hand", (MISSING, OTHER), True, "build", False),
        ("auto", "mlflow", (OTHER,), True, "own", False),
        ("auto", "mlflow", (MISSING,), True, "build", False),
        ("auto", "hand", (OTHER,), False, "own", False),
        ("auto", "hand", (MISSING,), False, "refuse", False),
        ("build", "hand", (), True, "build", False),
        ("build", "mlflow", (OTHER,), True, "build", False),
        ("build", "hand", (), False, "own", False),
        ("off", "hand", (MISSING,), True, "own", False),
        ("off", "hand", (MISSING,), False, "own", False),
        ("/envs/a", "hand", (), True, "folder", False),
        ("/envs/a.tar.gz", "hand", (), True, "tarball", False),
        ("/envs/a.zip", "hand", (), False, "refuse", False),
    ],
)
def test_plan(wanted, origin, found, trusted, kind, fallback):
    """Each combination leads to one plan, and own packages stand in only where nothing is missing."""
    asked = Requirements(source="/m/requirements.txt", origin=origin)
    decided = plan(wanted=wanted, requirements=asked, unmet=found, trusted=trusted)
    assert (decided.kind, decided.fallback) == (kind, fallback)
    if kind == "own" and found:  # nothing unmet goes unsaid
        assert all(str(each) in decided.warnings[0] for each in found)


def test_mlflow_warning():
    """The warning for MLflow's other versions names them and the setting that gives the model its own."""
    decided = plan(wanted="auto", requirements=Requirements(source="r", origin="mlflow"), unmet=(OTHER,), trusted=True)
    assert "numpy==1.20 (2.0 here)" in decided.warnings[0]
    assert "`environment: build`" in decided.warnings[0]


def test_many_unmet_are_counted():
    """A message names eight packages and counts the rest."""
    many = [Unmet(name=f"p{number}", kind="missing", wanted="") for number in range(11)]
    reason = plan(wanted="auto", requirements=Requirements(source="r"), unmet=many, trusted=True).reason
    assert "p7 (not installed) and 3 more" in reason


@pytest.mark.parametrize("wanted", ["auto", "build", "off"])
def test_without_a_file(wanted):
    """A model that asks for nothing runs by the server's own packages."""
    assert plan(wanted=wanted, requirements=None, unmet=(), trusted=False).kind == "own"


def test_unmet_kinds():
    """A package that is not installed is missing, one of another version is not, one that fits is neither."""
    version = metadata.version("numpy")
    found = unmet(read(f"numpy=={version}\nNumPy<1\nno-such-package-here>=2\n"))
    assert [(each.name, each.kind, each.found) for each in found] == [
        ("NumPy", "version", version),
        ("no-such-package-here", "missing", ""),
    ]


def test_unmet_markers():
    """A package whose marker does not hold here is not asked for."""
    assert unmet(read("no-such-package-here ; python_version < '3'\n")) == ()
    assert len(unmet(read("no-such-package-here ; python_version > '3'\n"))) == 1


def test_unmet_extras(tmp_path, yard, monkeypatch):
    """An extra is met when what it asks for is installed too."""
    import zipfile

    with zipfile.ZipFile(
        yard.wheel("tinyextra", "1.0", requires=("numpy<1 ; extra == 'old'", "numpy ; extra == 'new'", "absent"))
    ) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert unmet(read("tinyextra[new]\n")) == ()
    assert [each.name for each in unmet(read("tinyextra[old]\n"))] == ["numpy"]


def test_unmet_python_and_conda():
    """Another Python, and conda packages by their names, are unmet as well; what we provide ourselves never is."""
    other = f"3.{sys.version_info[1] + 1}"
    found = unmet(
        read(f"dependencies:\n- python={other}\n- numpy<1\n- numpy\n- no-such-thing\n- mlserver=1.3\n", "conda.yaml")
    )
    assert [(each.name, each.kind) for each in found] == [
        ("python", "version"),
        ("numpy", "version"),
        ("no-such-thing", "missing"),
    ]
    assert found[0].found == platform.python_version()


def test_provided():
    """MLServer and its official runtimes are not missing: their work is done here."""
    assert unmet(read("mlserver==1.3.5\nmlserver_sklearn>=1\nheadrace\n")) == ()


def test_unmet_urls():
    """A wheel's url is met by its version; another url by a record of the same origin only."""
    version = metadata.version("numpy")
    assert unmet(read(f"numpy @ https://host/numpy-{version}-py3-none-any.whl\n")) == ()
    assert [each.kind for each in unmet(read("numpy @ https://u:p@host/numpy.zip\n"))] == ["version"]
    assert unmet(read("numpy @ https://u:p@host/numpy.zip\n"))[0].wanted == "https://****@host/numpy.zip"
