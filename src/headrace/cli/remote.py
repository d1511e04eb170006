"""The options that every command which asks a running server has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from headrace.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def server_options(function: F) -> F:
    """`--url`, `--timeout` and `--header`."""
    for option in (
        click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Sent with every request."),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="How long the server may take to answer.",
        ),
        click.option(
            "--url",
            envvar="HEADRACE_URL",
            default="http://localhost:8080",
            show_default=True,
            show_envvar=True,
            help="The server's address.",
        ),
    ):
        function = option(function)
    return function


def connect(url: str, timeout: float, headers: tuple[str, ...]) -> Client:
    """The client for these options. Nothing is sent yet."""
    from headrace.client import Client

    return Client(url, timeout_seconds=timeout, headers=header_pairs(headers, option="--header"))


def header_pairs(headers: tuple[str, ...], *, option: str) -> dict[str, str]:
    """Headers by name, from what was given for an option."""
    pairs = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"{option} expected NAME:VALUE, got {header!r}", click.get_current_context())
        pairs[name.strip()] = value.strip()
    return pairs
