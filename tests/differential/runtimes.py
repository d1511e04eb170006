"""Asks MLServer's official runtimes and ours the same questions of the same folder, and compares.

Usage: `python tests/differential/runtimes.py [--reference PYTHON] [--only REGEX]`, where PYTHON is the interpreter of an
environment with mlserver and its runtimes for scikit-learn, XGBoost, LightGBM, CatBoost and MLflow, of the versions of
these libraries that are installed here: the models are written by it. Differences are declared in
`runtimes_corpus.py`, or fail the run; so does a declaration that nothing meets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runtimes_corpus import MEANT, QUESTIONS

import run

HERE = Path(__file__).parent
SECONDS = 60


def numbers_rounded(table):
    """Answers with numbers as both servers can have them: the last digits depend on which code of a library is taken."""
    return {place: rounded(value) if place.endswith(".data") else value for place, value in table.items()}


def rounded(value):
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


@contextlib.contextmanager
def started(command, port, log):
    """A server that is there once its own metadata are; models are loaded by questions."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        deadline = time.monotonic() + SECONDS
        while run.ask(port, "GET", "/v2/health/live").status != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not answer:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)


def write_settings(models, port):
    """settings.json beside the models: nothing is loaded until it is asked for."""
    settings = {
        "debug": False, "parallel_workers": 0, "host": "127.0.0.1", "http_port": port, "grpc_port": run.free_port(),
        "metrics_port": run.free_port(), "load_models_at_startup": False,
    }  # fmt: skip
    (models / "settings.json").write_text(json.dumps(settings))


def compare(questions, ports):
    """Question, answers, lines in which they differ."""
    for question in questions:
        sent = (question.method, question.path, question.body, question.headers)
        ours, theirs = (run.ask(port, *sent) for port in ports)
        asked = question.body.decode()
        lines = run.differences(*(numbers_rounded(run.facts(answer, asked)) for answer in (ours, theirs)))
        yield question, ours, theirs, lines


def reason_of(question, line):
    """The declaration that covers a difference, if any."""
    for index, meant in enumerate(MEANT):
        if re.fullmatch(meant.questions, question) and re.fullmatch(meant.differences, line):
            return index
    return None


def main():
    parser = argparse.ArgumentParser(description="Compares our runtimes with the official ones of MLServer.")
    parser.add_argument("--reference", default=run.ROOT / ".venv-mlserver-runtimes/bin/python", type=Path)
    parser.add_argument("--only", default="", metavar="REGEX", help="questions whose name matches, and all of loading")
    parser.add_argument("--quiet", action="store_true", help="print what is not declared alone")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the servers said")
    options = parser.parse_args()
    questions = [each for each in QUESTIONS if each.name.endswith(": load") or re.search(options.only, each.name)]
    undeclared, same, met = 0, 0, set()
    with tempfile.TemporaryDirectory(prefix="headrace-runtimes-") as name, contextlib.ExitStack() as stack:
        folders, ports = [Path(name, "ours"), Path(name, "theirs")], [run.free_port(), run.free_port()]
        folders[0].mkdir()
        training = [options.reference, HERE / "runtimes_models.py", folders[0]]
        subprocess.run(training, check=True, cwd=name, capture_output=True)
        shutil.copytree(*folders)
        for folder, port in zip(folders, ports, strict=True):
            write_settings(folder, port)
        commands = [
            [sys.executable, "-m", "headrace", "serve", folders[0]],
            [options.reference.parent / "mlserver", "start", folders[1]],
        ]
        for command, port, folder in zip(commands, ports, folders, strict=True):
            stack.enter_context(started(list(map(str, command)), port, folder.parent / f"{folder.name}.log"))
        for question, ours, theirs, lines in compare(questions, ports):
            reasons = [reason_of(question.name, line) for line in lines]
            met.update(reasons)
            same += not lines
            new = sum(reason is None for reason in reasons)
            undeclared += new
            if lines and (new or not options.quiet):
                print(f"{'DIFFERENT' if new else 'meant':9} {question.name} ({ours.status} / {theirs.status})")
                for line, reason in zip(lines, reasons, strict=True):
                    print(f"    {'NEW  ' if reason is None else 'meant'} {line}")
                if new:
                    print(f"    ours   {ours.body[:500]!r}\n    theirs {theirs.body[:500]!r}")
        if options.logs:
            for folder in folders:
                shutil.copy(folder.parent / f"{folder.name}.log", options.logs)
    stale = [] if options.only else [each for index, each in enumerate(MEANT) if index not in met]
    for meant in stale:
        print(f"STALE     {meant.questions}: {meant.differences}")
    print(f"{len(questions)} questions, {same} the same: {undeclared} undeclared differences, {len(stale)} stale")
    return 1 if undeclared or stale else 0


if __name__ == "__main__":
    sys.exit(main())
