"""Which sinks there are, by the scheme of their address. `monitoring.actions` and `monitoring.payloads` open them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from headrace.brokers.base import library
from headrace.errors import SettingsError
from headrace.monitoring.sinks.base import Options, Sink

SINKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "http": "headrace.monitoring.sinks.http:open_http",
        "https": "headrace.monitoring.sinks.http:open_http",
        "kafka": "headrace.monitoring.sinks.kafka:open_kafka",
        "file": "headrace.monitoring.sinks.file:open_file",
    }
)
"""Scheme to `module:function`, which takes the address, the setting's key for messages, and options."""


def scheme_of(address: str) -> str:
    """`http` of `http://...`; `file` of what has none."""
    scheme, colon, _ = address.partition("://")
    return scheme.lower() if colon else "file"


def open_sink(address: str, *, setting: str, options: Options = Options()) -> Sink:
    """The sink at an address.

    Args:
        address: From the settings; never from a request.
        setting: The key that holds it, for messages.
        options: How events are sent.

    Raises:
        SettingsError: there is no such sink, or the address is none.
        MissingExtra: its library is not installed.
    """
    scheme = scheme_of(address)
    if scheme not in SINKS:
        there = ", ".join(f"{each}://..." for each in SINKS)
        raise SettingsError(f"{setting}: no sink speaks {scheme}://; there are {there}, and the path of a file")
    module, _, function = SINKS[scheme].partition(":")
    make: Callable[..., Sink] = getattr(library(module, needed_by=f"{scheme}:// sinks"), function)
    return make(address, setting=setting, options=options)
