"""Commands that the documents show are commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from headrace.cli.group import headrace as group

ROOT = Path(__file__).parents[2]
GENERATED = "cli.md"  # usage lines, from the commands themselves
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != GENERATED)]
RUN = re.compile(r"^\$ (headrace [a-z].*)$", re.MULTILINE)
IN_TABLE = re.compile(r"\| `(headrace [a-z][^`]*)`")


def shown():
    for page in PAGES:
        text = page.read_text()
        for found in RUN.findall(text) + (IN_TABLE.findall(text) if page.name == "README.md" else []):
            words = shlex.split(found, comments=True)
            if "|" not in words:
                yield pytest.param(words[1:], id=f"{page.name}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("words", list(shown()))
def test_a_command_in_the_documents_parses(words):
    """What a page tells to run has the arguments and options that the command takes."""
    parent = click.Context(group, info_name="headrace")
    command: click.Command | None = group
    while isinstance(command, click.Group) and words:
        name, *words = words
        command = command.get_command(parent, name)
        assert command is not None, name
    if words:
        command.make_context("headrace", [word for word in words if word != "..."], parent=parent)
