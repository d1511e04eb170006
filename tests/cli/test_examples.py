"""What the documents and the help texts show: every command parses, every program runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import headrace
from headrace.cli import group

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = str(Path(headrace.__file__).parents[1])


def commands(text):
    """The `headrace ...` commands in a text, as words; comments, pipes and redirections cut off."""
    for line in text.splitlines():
        found = re.search(r"(?:^|[ (|])headrace (?P<rest>[a-z].*)", line)
        if found is None or line.lstrip().startswith("#"):
            continue
        words = shlex.split(re.split(r"\s{2,}|\s#", found["rest"])[0].rstrip(')"'), comments=True)
        ends = [at for at, word in enumerate(words) if word in {">", "|", "\\"}]
        yield words[: ends[0]] if ends else words


def parse(words):
    """Parse as the command would, without doing anything."""
    root = click.Context(group.headrace, info_name="headrace")
    command = group.headrace.get_command(root, words[0])
    assert command is not None, words
    command.make_context(words[0], words[1:], parent=root)


@pytest.mark.parametrize("name", group.COMMANDS)
def test_help_examples_parse(name):
    """Every example in a command's help is one that the command takes."""
    command = group.headrace.get_command(click.Context(group.headrace), name)
    found = list(commands(command.help.partition("Examples:")[2]))
    assert found
    for words in found:
        parse(words)


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_quickstart_commands_parse():
    """Every command of the quick start is one that the command line takes."""
    found = [words for block in blocks("quickstart.md", "sh") for words in commands(block)]
    assert {words[0] for words in found} >= {"serve", "predict", "models", "init"}
    for words in found:
        parse(words)


def test_quickstart_programs_run(tmp_path):
    """The programs of the quick start run as they stand, one after the other in one folder."""
    environ = {**os.environ, "PYTHONPATH": SOURCE, "HEADRACE_MODELS_OPTIMIZE": "off"}  # tested elsewhere, and long
    programs = blocks("quickstart.md", "python")
    assert len(programs) == 2
    for program in programs:
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=55
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "wine.joblib").exists()
    assert re.search(r"^http://127\.0\.0\.1:\d+\n\[0 0 0\]$", result.stdout, re.MULTILINE), result.stdout
