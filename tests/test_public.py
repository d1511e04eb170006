"""The public surface: what the package promises, and what importing it costs."""

import subprocess
import sys

import pytest

import headrace
from headrace import client


def test_names():
    """The package promises exactly these names, and each is there."""
    assert headrace.__all__ == ["Server", "__version__", "fit_trust", "serve"]
    assert all(getattr(headrace, name) is not None for name in headrace.__all__)


def test_unknown_name():
    """A name that is not there is an AttributeError that lists those that are."""
    with pytest.raises(AttributeError, match="it has Server, __version__, fit_trust, serve"):
        _ = headrace.serv


def test_client_names():
    """The client's package promises exactly these names."""
    assert client.__all__ == ["Client", "IndexEntry", "ModelMetadata", "Unreachable"]


HEAVY = {
    "numpy",
    "uvloop",
    "grpc",
    "sklearn",
    "onnxruntime",
    "xgboost",
    "lightgbm",
    "pandas",
    "rich",
    "click",
    "asyncio",
}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import headrace", set()),
        ("import headrace.errors", set()),
        ("import headrace.cli", {"click"}),
        ("import headrace.client", {"numpy"}),
        ("import headrace; headrace.serve", {"numpy", "asyncio"}),
    ],
)
def test_imports(statement, allowed):
    """Importing costs no framework, no server and no other library than is named here."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert HEAVY & set(result.stdout.split()) <= allowed
