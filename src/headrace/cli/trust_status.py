"""`headrace trust status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from headrace.cli import output, remote

STYLES: Final = {
    "ok": "green",
    "collecting": "cyan",
    "warning": "yellow",
    "cooling": "yellow",
    "drift": "red",
    "failed": "red",
}

_NAMED: Final = 3
"""Columns that drifted most are named."""


@click.command(short_help="Show what the detectors of a served model say.")
@click.argument("model")
@click.option("--version", "version", default="", metavar="VERSION", help="Of the model; empty: the default one.")
@click.option("--json", "as_json", is_flag=True, help="For programs: everything, with the last verdict of each.")
@remote.server_options
def command(model: str, *, version: str, as_json: bool, url: str, timeout: float, headers: tuple[str, ...]) -> None:
    """Show what the detectors of a served model say.

    A detector collects rows until they make a window; then it is ok, warning (some windows are out of line), drift
    (enough are: somebody was told) or cooling (somebody was told lately).

    \b
    Examples:
      headrace trust status iris
      headrace trust status iris --version 2 --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    with remote.connect(url, timeout, headers) as client:
        status = client.trust_status(model, version=version)
    if as_json:
        output.write_json(status)
        return
    named = f"{status['model']} {status['version']}".strip()
    rows = ", ".join(
        f"{status.get(key, 0):,} {words}"
        for key, words in (
            ("rows", "rows watched"),
            ("labelled_rows", "with known truth"),
            ("lag_rows", "waiting"),
            ("dropped_rows", "dropped"),
            ("unreadable_rows", "unreadable"),
        )
        if status.get(key) or key == "rows"
    )
    click.echo(f"{named}: {status['state']}; {rows}")
    busy = status.get("busy")
    if busy:
        click.echo(f"busy: '{busy['detector']}' for {busy['seconds']:.1f} s")
    if not status.get("fresh", True):
        click.echo("the process that watches models does not answer now; this is what it said last")
    click.echo("")
    columns = ("DETECTOR", "STATE", "METHOD", "LOOKS AT", "WINDOWS", "DRIFT", "NEXT WINDOW", "LAST VERDICT")
    output.write_table(columns, [_row(each) for each in status.get("detectors", ())], styles=STYLES)
    for line in dict.fromkeys(
        _waits(each) for each in status.get("detectors", ()) if "least" in each.get("collecting", {})
    ):
        click.echo(line)
    for told in (status, *status.get("detectors", ())):
        if told.get("error"):
            click.echo(f"{told.get('name', named)}: {told['error']}")


def _waits(told: Mapping[str, Any]) -> str:
    """When the next window is tested, for somebody who waits for it."""
    found = told["collecting"]
    return (
        f"a window is tested at {found['needed']:,} rows, or {found['seconds']:g} s after its first row "
        f"if there are {found['least']:,} by then, or as soon as there are"
    )


def _row(told: Mapping[str, Any]) -> tuple[str, ...]:
    if "kind" not in told:
        return (told["name"], told["state"], "", "", "", "", "", "")
    collecting = told["collecting"]
    return (
        told["name"],
        told["state"],
        told["method"],
        told["on"],
        str(told["windows"]),
        str(told["drift_windows"]),
        f"{collecting['rows']}/{collecting['needed']}",
        _verdict(told),
    )


def _verdict(told: Mapping[str, Any]) -> str:
    """The last verdict in a few words."""
    latest = told["latest"]
    if latest is None:
        return ""
    data = latest["data"]
    if "rate" in data:
        return f"{data['count']} of {data['rows']} rows odd"
    if data.get("reason"):
        return str(data["reason"])
    if "metrics" in data:
        shown = [(name, each["value"]) for name, each in data["metrics"].items() if each["value"] is not None]
        return ", ".join(f"{name} {value:.3g}" for name, value in shown[:3])
    if "groups" in data:
        shown = [(each["attribute"], each["metrics"].get("di")) for each in data["groups"]]
        return ", ".join(f"{name} di {di['value']:.3g}" for name, di in shown if di and di["value"] is not None)
    p_values = [each for each in data.get("p_val") or () if each is not None]
    if p_values:
        said = f"least p {min(p_values):.2g}"
        if len(p_values) == 1:
            return said
        tested = zip(data["features"], data["drifted"], data["p_val"], strict=True)
        drifted = sorted((p, name) for name, is_drifted, p in tested if is_drifted)
        names = ": " + ", ".join(name for _, name in drifted[:_NAMED]) if drifted else ""
        more = ", ..." if len(drifted) > _NAMED else ""
        return f"{said}, {len(drifted)} of {len(p_values)} drifted{names}{more}"
    distances = [each for each in data.get("distance") or () if each is not None]
    return f"statistic {max(distances):.3g}" if distances else ""
