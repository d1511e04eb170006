"""The command-line reference in Markdown, from the commands themselves. `scripts/docs` calls it."""

from __future__ import annotations

import inspect
import re

import click

from headrace.cli.group import COMMANDS, EXIT_CODES, headrace

_EXAMPLES = re.compile(r"\n*\x08\nExamples:\n(?P<lines>(?:  .*\n?)+)")


def reference() -> str:
    """docs/cli.md: every command with its usage, options, defaults and examples."""
    context = click.Context(headrace, info_name="headrace")
    lines = [
        "# Command line",
        "",
        "<!-- Generated from src/headrace/cli by scripts/docs; edit the commands there. -->",
        "",
        "`headrace COMMAND --help` shows the same on a terminal. `python -m headrace` is the same as `headrace`.",
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`headrace {name}`](#headrace-{name}) | {summary} |" for name, summary in COMMANDS.items()),
        "",
        "A mistake is one line on standard error that begins with `error:`. The exit code says what kind of mistake:",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {text} |" for code, text in EXIT_CODES.items()),
    ]
    for name in COMMANDS:
        command = headrace.get_command(context, name)
        if command is not None:
            lines += ["", *_section(name, command, context)]
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, command: click.Command, parent: click.Context) -> list[str]:
    context = click.Context(command, info_name=name, parent=parent)
    text = inspect.cleandoc(command.help or "")
    found = _EXAMPLES.search(text)
    body = _EXAMPLES.sub("", text).strip().replace("\x08\n", "")
    lines = [f"{'##' if parent.parent is None else '###'} {context.command_path}", "", body, "", "```console"]
    lines += [f"$ {context.command_path} {' '.join(command.collect_usage_pieces(context))}", "```"]
    if found:
        lines += ["", "```sh", *(line[2:] for line in found["lines"].rstrip().splitlines()), "```"]
    rows = [_option(each, context) for each in command.params if isinstance(each, click.Option)]
    if rows:
        lines += ["", "| option | default | what it does |", "|---|---|---|", *rows]
    if isinstance(command, click.Group):
        for part in list(command.commands) or command.list_commands(context):  # a lazy group has none until asked
            under = command.get_command(context, part)
            if under is not None:
                lines += ["", *_section(part, under, context)]
    return lines


def _option(option: click.Option, context: click.Context) -> str:
    flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
    metavar = "" if option.is_flag else f" {option.make_metavar(context)}"
    variable = f" (`{option.envvar}`)" if isinstance(option.envvar, str) else ""
    text, _, default = (option.help or "").replace("|", "\\|").partition("  [default: ")
    default = default.removesuffix("]")
    if option.show_default and not option.is_flag and isinstance(option.default, str | int | float):
        default = str(option.default)
    default = f"`{default}`" if default else ""
    return f"| {flags}{metavar.replace('|', chr(92) + '|')} | {default} | {text}{variable} |"
