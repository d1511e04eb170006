"""The options that every command which asks a running server has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.client.control import ControlClient

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


def control_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--control-url`, `--token` and `--request-timeout`; the function gets them as its `client`."""

    @functools.wraps(function)
    def with_client(*, control_url: str, token: str, request_timeout: float, **rest: Any) -> Any:
        with control(control_url, token, request_timeout) as client:
            return function(client=client, **rest)

    for option in (
        click.option(
            "--request-timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=60.0,
            show_default=True,
            metavar="SECONDS",
            help="How long the server may take for one answer.",
        ),
        click.option(
            "--token",
            envvar="HEADRACE_CONTROL_TOKEN",
            default="",
            show_envvar=True,
            help="What the control API wants to see (the setting control.token).",
        ),
        click.option(
            "--control-url",
            envvar="HEADRACE_CONTROL_URL",
            default="http://127.0.0.1:8083",
            show_default=True,
            show_envvar=True,
            help="The address of the server's control API.",
        ),
    ):
        option(with_client)
    return with_client


def wait_options(function: F) -> F:
    """`--wait` and `--timeout`."""
    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=300.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait with --wait.",
        ),
        click.option(
            "--wait",
            "condition",
            is_flag=False,
            flag_value="Ready",
            default="",
            metavar="[CONDITION]",
            help="Wait until what was changed is Ready, or has another condition: --wait=Judged.",
        ),
    ):
        function = option(function)
    return function


def control(control_url: str, token: str, request_timeout: float) -> ControlClient:
    """The client of the control API for these options. Nothing is sent yet."""
    import getpass

    from headrace.client.control import ControlClient

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = ""
    return ControlClient(control_url, token=token, timeout_seconds=request_timeout, user=user)


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
