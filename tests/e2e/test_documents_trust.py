"""The page about trust, walked from an empty folder over real processes: its files are written as they stand there, its
commands are run by a shell, and what they print is what the page says they print, but for the numbers.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.detectors import performance
from headrace.detectors import registry as detectors
from headrace.explainers import registry as explainers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trust.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\w+\.py)\n")
NAMED = re.compile(r"`([\w.]+\.yaml)`:\s*\Z")
NUMBER = re.compile(r"\b[0-9a-f]{12,}\b|[-+]?\d[\d.,]*(?:e[-+]?\d+)?")
PATIENCE = 30
"""Seconds until what a command prints must be as the page says: what watches a model is another process."""
QUIET = {"HEADRACE_MODELS_OPTIMIZE": "off", "OMP_NUM_THREADS": "1"}
"""Fewer processors are asked for than there are: others test here, too."""


def steps():
    """What the page says to do, in order: files to write, and commands with what they print."""
    page = PAGE.read_text()
    for found in BLOCK.finditer(page):
        kind, text = found.groups()
        name = FILE.match(text) or NAMED.search(page[: found.start()])
        if kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                yield "run", command, shown
        elif kind in {"python", "yaml"} and name:
            yield "write", name[1], text


def shape(line):
    """A line without what differs from run to run: numbers, digests, the width of columns."""
    return " ".join(NUMBER.sub("#", line).split())


def is_shown(shown, printed):
    """Whether lines were printed in the order of the page; `...` stands for any, at the end of a line for its rest."""
    lines = [shape(line) for line in printed.splitlines() if line.strip()]
    at, gap = 0, False
    for wanted in (shape(line) for line in shown.splitlines() if line.strip()):
        if wanted == "...":
            gap = True
            continue
        start, rest, _ = wanted.partition("...")
        for position in range(at, len(lines) if gap else min(at + 1, len(lines))):
            if lines[position].startswith(start) if rest else lines[position] == wanted:
                at, gap = position + 1, False
                break
        else:
            return False
    return gap or at == len(lines)


@pytest.fixture
def shell(tmp_path):
    """Runs a line in the folder; `headrace` and `python` are those under test."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("headrace", [sys.executable, "-m", "headrace"]), ("python", [sys.executable])):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (programs / name).chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def run(line, **environment):
        merged = {**os.environ, **QUIET, "PATH": path, "COLUMNS": "200", **environment}
        return subprocess.run(
            ["bash", "-c", line], cwd=folder, env=merged, capture_output=True, text=True, timeout=120, check=False
        )

    run.folder, run.path = folder, path
    return run


@pytest.mark.timeout(300)
def test_the_walk_through_trust(shell, serve, monkeypatch):
    """Fit, serve, look, see the drift, the alert, the report, the explanations, tell the truth, train again, validate."""
    server = None
    for kind, what, text in steps():
        if kind == "write":
            (shell.folder / what).write_text(text)
        elif what.startswith("headrace serve"):
            monkeypatch.chdir(shell.folder)
            server = serve(*shlex.split(what)[2:], environment={**QUIET, "PATH": shell.path})
        else:
            environment = {} if server is None else {"HEADRACE_URL": server.url}
            line = what if server is None else what.replace("localhost:8080", server.url.removeprefix("http://"))
            end = time.monotonic() + PATIENCE
            while True:
                done = shell(line, **environment)
                if done.returncode == 0 and is_shown(text, done.stdout + done.stderr):
                    break
                is_late = time.monotonic() > end or "Traceback" in done.stderr
                assert not is_late, f"$ {what}\n{done.stdout}{done.stderr}\nThe page says:\n{text}"
                time.sleep(0.5)
    assert (shell.folder / "why.svg").read_text().lstrip().startswith("<")
    assert b"income" in (shell.folder / "report.html").read_bytes()


PAGES = {"detectors": detectors.METHODS, "explanations": explainers.METHODS}


@pytest.mark.parametrize("page", PAGES)
def test_every_method_is_told(page):
    """A method of the registry has a row or a paragraph of its own on the page about its kind, written by a person."""
    text = (ROOT / "docs" / f"{page}.md").read_text().partition("<!-- generated")[0]
    assert [name for name in PAGES[page] if not re.search(rf"^(\| |.*\*\*)`{name}`", text, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_is_told_is_taken(page):
    """The tables of options have all keyword arguments of all methods, and no other."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    told = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \| `[^`]*` \| \S", text, re.MULTILINE)
    if page == "detectors":
        kinds = {**{name: [detectors.find(name).fit] for name in detectors.METHODS}, "cbpe": [performance.Cbpe.fit]}
    else:
        kinds = {name: [explainers.find(name).explain, explainers.find(name).make] for name in explainers.METHODS}
    taken = [
        (name, each.name)
        for name, functions in kinds.items()
        for function in functions
        for each in inspect.signature(function).parameters.values()
        if each.kind is each.KEYWORD_ONLY and each.name != "seed"
    ]
    assert sorted(told) == sorted(taken)
