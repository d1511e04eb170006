"""`headrace init`: the skeleton is complete, and works as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import headrace
from headrace.cli import group

FILES = {"README.md", "headrace.yaml", "model.py", "request.json", "requirements.txt", "test_model.py", "weights.json"}


def run(*args):
    return CliRunner().invoke(group.headrace, ["init", *args])


@pytest.fixture
def folder(tmp_path):
    """A fresh skeleton."""
    assert run(str(tmp_path / "my model")).exit_code == 0
    return tmp_path / "my model"


def test_files(folder):
    """Every file is written, with the folder's name in a form that a url can hold."""
    assert {each.name for each in folder.iterdir()} == FILES
    assert "name: my-model\n" in (folder / "headrace.yaml").read_text()
    assert all("{name}" not in each.read_text() for each in folder.iterdir())


def test_its_own_tests_pass(folder):
    """The skeleton's tests, one of which serves it and asks it, pass as they stand."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "."]
    source = str(Path(headrace.__file__).parents[1])  # where a test run finds the package, wherever it runs
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout


def test_nothing_is_overwritten(folder):
    """A file that is there already is kept, and named, unless --force is given."""
    (folder / "model.py").write_text("mine")
    result = run(str(folder))
    assert result.exit_code == 2
    assert "model.py" in result.stderr
    assert (folder / "model.py").read_text() == "mine"
    assert run(str(folder), "--force").exit_code == 0
    assert (folder / "model.py").read_text() != "mine"


def test_name_that_no_url_can_hold(tmp_path):
    """A name that cannot stand in a url is refused before anything is written."""
    result = run(str(tmp_path / "new"), "--name", "a/b")
    assert result.exit_code == 2
    assert "'a/b' cannot stand in a URL" in result.stderr
    assert not (tmp_path / "new").exists()


def test_next_steps(tmp_path):
    """The commands to go on with are printed, with the model's name."""
    result = run(str(tmp_path / "x"), "--name", "ranker")
    assert "headrace serve ." in result.output
    assert "headrace predict ranker --data request.json" in result.output
