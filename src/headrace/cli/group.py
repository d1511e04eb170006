"""The `headrace` command itself: its table of subcommands, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import click

from headrace import __version__
from headrace.cli.lazy import LazyGroup
from headrace.errors import (
    Conflict,
    HeadraceError,
    InvalidResources,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    SettingsError,
    Temporary,
    Unreachable,
)

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "serve": "Serve models over REST and gRPC.",
        "predict": "Ask a served model for answers.",
        "explain": "Ask a served model why it answers what it answers.",
        "infer": "Ask a served model for a whole file of requests.",
        "batch": "Ask a model for whole files, in folders or buckets.",
        "compare": "Replay requests against two versions, and say what differs.",
        "models": "List the models of a running server.",
        "load": "Load or reload a model of a running server.",
        "unload": "Take a model of a running server out of service.",
        "apply": "Make models, pipelines and experiments be what files say.",
        "plan": "Show what an apply would change, and nothing more.",
        "diff": "Show the lines in which files and server differ.",
        "get": "List resources.",
        "describe": "Show all that is known of a resource.",
        "wait": "Wait until resources are ready.",
        "delete": "Take resources away.",
        "history": "List the states that a resource was in.",
        "rollback": "Make a resource be what it was.",
        "events": "List what happened to resources.",
        "graph": "Draw a pipeline or an experiment.",
        "tap": "Show what passes through a pipeline, as it passes.",
        "fetch": "Bring a model from a store or a registry to this machine.",
        "prefetch": "Load a model into memory before it is asked for.",
        "evict": "Take a model out of memory until it is asked for.",
        "schema": "Print the JSON Schema of resources.",
        "audit": "Check the audit log of queries.",
        "trust": "Fit and look at what watches and explains a model.",
        "payloads": "Show logged payloads, and make training data of them.",
        "doctor": "Say what is installed, what can be served, and what is wrong.",
        "init": "Write the skeleton of a model in Python, ready to serve.",
        "settings": "Show every setting, its value, and where the value came from.",
        "mlserver": "Start, build and ask what was made for MLServer.",
        "convert": "Print manifests made for other systems as our resources.",
        "completions": "Print the completion script of a shell.",
    }
)
"""Name to summary, in the order of the help; the command of that name is `command` in the module of that name."""

EXIT_CODES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "done",
        1: "failed; the message says why. Of plan and diff: there are changes",
        2: "wrong usage or a wrong setting",
        3: "no server could be reached",
        4: "the model is not ready, is unknown, or cannot be loaded",
        5: "the server is overloaded or too slow; try again",
        6: "resources are refused, or in conflict with others",
        130: "interrupted",
    }
)
"""What the process's exit status says."""


def exit_code(error: HeadraceError) -> int:
    """The exit status for an error that reached the command line."""
    if isinstance(error, SettingsError):
        return 2
    if isinstance(error, Unreachable):
        return 3
    if isinstance(error, ModelNotReady | ModelNotFound | LoadFailed):
        return 4
    if isinstance(error, InvalidResources | Conflict):
        return 6
    return 5 if isinstance(error, Temporary) else 1


class Headrace(LazyGroup):
    """The command `headrace`: exit codes, and errors as one line each."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The exit codes, at the end of the help."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in EXIT_CODES.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; every error of ours becomes one line and an exit code."""
        run = super().main
        if not standalone_mode:
            return run(args, prog_name or "headrace", complete_var, standalone_mode=False, **extra)
        try:
            code = run(args, prog_name or "headrace", complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()  # a group that was called alone: its help, as it is
            code = 2
        except click.UsageError as exc:
            place = exc.ctx.command_path if exc.ctx else "headrace"
            fail(f"{exc.format_message().rstrip('.')}; see `{place} --help`")
            code = 2
        except click.ClickException as exc:
            fail(exc.format_message())
            code = exc.exit_code
        except click.Abort:
            code = 130
        except InvalidResources as exc:
            fail_with(exc.faults)
            code = exit_code(exc)
        except HeadraceError as exc:
            fail(str(exc))
            code = exit_code(exc)
        sys.exit(code if isinstance(code, int) else 0)


def fail(message: str) -> None:
    """One line on standard error, red on a terminal."""
    line = " ".join(message.split())
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    click.echo((click.style("error:", fg="red", bold=True) if coloured else "error:") + f" {line}", err=True)


@contextlib.contextmanager
def differences() -> Iterator[None]:
    """For commands whose exit code 1 says that there are differences, as `diff` and `kubectl diff` have it: what would
    end with 1 for another reason ends with 6.
    """
    try:
        yield
    except HeadraceError as exc:
        if exit_code(exc) != 1:
            raise
        fail(str(exc))
        raise click.exceptions.Exit(6) from exc


def fail_with(faults: Sequence[str]) -> None:
    """Every fault on a line of its own, on standard error."""
    if len(faults) == 1:
        fail(faults[0])
        return
    fail(f"{len(faults)} faults; nothing of it was applied")
    for fault in faults:
        click.echo(f"  {' '.join(fault.split())}", err=True)


@click.group(
    cls=Headrace,
    commands=COMMANDS,
    modules="headrace.cli.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="headrace", message="%(prog)s %(version)s")
def headrace() -> None:
    """Serve, chain, explain and watch machine-learning models.

    \b
    Examples:
      headrace serve model.joblib            serve one model on port 8080
      headrace serve models/                 serve every model of a folder
      headrace predict iris --data rows.csv  ask it
      headrace apply -f models.yaml          declare models, pipelines, experiments
      headrace doctor                        say what this machine can serve
    """  # noqa: D301 - \b is click's mark for lines to be left as they are


def main() -> None:
    """The `headrace` command: the entry point of the package."""
    headrace()
