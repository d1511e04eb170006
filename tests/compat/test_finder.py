"""The import finder: whose `mlserver` is imported, and what is said of the parts that are not offered.

Each case runs in an interpreter of its own, because imports cannot be taken back.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"


def ran(code, *paths):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *map(str, paths)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def original(tmp_path):
    """A folder with a package that stands for the original."""
    package = tmp_path / "mlserver"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'original'\n")
    return tmp_path


def test_nothing_at_import():
    """Importing headrace.compat installs no finder, so `mlserver` is not found."""
    code = """
import headrace.compat
try:
    import mlserver
except ModuleNotFoundError as error:
    print(error)
"""
    assert ran(code) == "No module named 'mlserver'"


def test_own_name():
    """What is provided lives under the name mlserver, down to the modules of its classes."""
    code = """
from headrace import compat
compat.provide(always=False)
print(compat.provided())
import mlserver, mlserver.types
print(compat.provided(), mlserver.__name__, mlserver.__version__, mlserver.types.InferenceRequest.__module__)
"""
    assert ran(code).splitlines() == ["False", "True mlserver 1.7.1 mlserver.types.dataplane"]


@pytest.mark.parametrize(("always", "version"), [(False, "original"), (True, "1.7.1")], ids=["auto", "always"])
def test_original_installed(original, always, version):
    """The installed original wins, unless ours is asked for."""
    code = f"""
from headrace import compat
compat.provide(always={always})
import mlserver
print(mlserver.__version__, compat.provided())
"""
    assert ran(code, original) == f"{version} {always}"


def test_part_of_the_original(original):
    """Of a module that the installed original lacks, Python itself speaks, not we."""
    code = """
from headrace import compat
compat.provide(always=False)
try:
    import mlserver.parallel
except ModuleNotFoundError as error:
    print(error)
"""
    assert ran(code, original) == "No module named 'mlserver.parallel'"


def test_provide_twice():
    """Providing again replaces the finder; removing it leaves none."""
    code = """
import sys
from headrace import compat
before = list(sys.meta_path)
compat.provide(always=True)
compat.provide(always=False)
print(len(sys.meta_path) - len(before))
compat.remove()
print(sys.meta_path == before)
"""
    assert ran(code).splitlines() == ["1", "True"]


def test_light():
    """Importing mlserver imports neither pandas nor the web framework nor the metrics library."""
    code = """
import sys
from headrace import compat
compat.provide(always=True)
import mlserver
print(sorted({"pandas", "fastapi", "starlette", "prometheus_client", "pydantic_settings"} & sys.modules.keys()))
"""
    assert ran(code) == "[]"


NOT_OFFERED = {
    "import mlserver.parallel": "mlserver.parallel",
    "from mlserver.grpc import converters": "mlserver.grpc",
    "from mlserver.rest.app import create_app": "mlserver.rest.app",
    "from mlserver.handlers import DataPlane": "mlserver.handlers.DataPlane",
    "from mlserver.metrics import MetricsServer": "mlserver.metrics.MetricsServer",
    "from mlserver.rest import RESTServer": "mlserver.rest.RESTServer",
    "from mlserver import cli": "mlserver.cli",
}


@pytest.mark.parametrize("statement", NOT_OFFERED)
def test_not_offered(statement):
    """A part that is not offered is an ImportError that names it, us, and the way out."""
    with pytest.raises(ImportError) as caught:
        exec(statement, {})
    text = str(caught.value)
    assert f"does not offer {NOT_OFFERED[statement]}" in text
    assert text.startswith("Headrace stands in for mlserver")
    assert "pip install mlserver" in text


def test_unknown_names():
    """A name that the original lacks too is an ordinary error."""
    import mlserver
    import mlserver.handlers

    assert not hasattr(mlserver, "nope")
    with pytest.raises(ImportError, match="cannot import name 'Nope'"):
        exec("from mlserver.handlers import Nope", {})


def test_submodules_come_along():
    """After `import mlserver`, its modules are there without an import of their own, as with the original."""
    code = """
from headrace import compat
compat.provide(always=True)
import mlserver
print(mlserver.codecs.NumpyCodec.ContentType, mlserver.repository.ModelRepository.__name__, mlserver.utils.__name__)
"""
    assert ran(code) == "np ModelRepository mlserver.utils"


def test_server():
    """Making an MLServer says how the server is started here."""
    from mlserver import MLServer, Settings

    from headrace.errors import NotSupported

    with pytest.raises(NotSupported, match="run `headrace serve FOLDER` instead"):
        MLServer(Settings())
