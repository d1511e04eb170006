"""Cli: what a person types. One file per command; each runs here (`app`) or asks a running server (`client`).

A command's module is imported when the command is called, so `headrace --help` stays light. May import: everything.
"""

from headrace.cli.group import main

__all__ = ["main"]
