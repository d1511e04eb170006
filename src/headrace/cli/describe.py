"""`headrace describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from headrace.cli import events, kinds, output, remote
from headrace.cli.get import STYLES

if TYPE_CHECKING:
    from headrace.client.control import ControlClient, Event, Resource

_OF_PROGRESS: Final = ("state", "step", "weight", "since", "reason", "message", "evidence")


@click.command(short_help="Show all that is known of a resource.")
@click.argument("targets", nargs=-1, required=True, metavar="KIND [NAME] | KIND/NAME", shell_complete=kinds.complete)
@click.option("--json", "as_json", is_flag=True, help="For programs: the resource, and its events.")
@remote.control_options
def command(targets: tuple[str, ...], as_json: bool, client: ControlClient) -> None:
    """Show all that is known of a resource.

    What is declared, what became of it and why, what of its manifest has no effect, and what happened to it.

    \b
    Examples:
      headrace describe model iris
      headrace describe rollout/iris-2
      headrace describe isvc iris
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    kind, name = kinds.maybe_of(targets)
    found = kinds.find(client, kind, name)
    told = [(each, client.events(each.kind, each.metadata.name)[::-1]) for each in found]
    if as_json:
        import msgspec

        output.write_json(
            [
                {**msgspec.to_builtins(each, str_keys=True), "events": msgspec.to_builtins(happened, str_keys=True)}
                for each, happened in told
            ]
        )
        return
    if not told:
        click.echo("no resources")
    for at, (resource, happened) in enumerate(told):
        if at:
            click.echo("")
        _write(resource, happened)


def _write(resource: Resource, happened: tuple[Event, ...]) -> None:
    import msgspec

    metadata, status = resource.metadata, resource.status
    output.write_line(f"{resource.kind} {metadata.name}", "cyan")
    observed = "" if status.observed_generation == metadata.generation else f" (seen: {status.observed_generation})"
    revision = str(status.revision or "")
    if status.ready_revision and status.ready_revision != status.revision:
        revision += f" (served: {status.ready_revision})"
    created = metadata.creation_timestamp
    facts = {
        "namespace": "" if metadata.namespace == "default" else metadata.namespace,
        "created": f"{created:%Y-%m-%d %H:%M:%S %Z} ({output.age_of(created)} ago)" if created else "",
        "generation": f"{metadata.generation or ''}{observed}",
        "revision": revision,
        "made of": resource.origin,
        "folder": resource.base,
        "labels": ", ".join(f"{name}={value}" for name, value in metadata.labels.items()),
        "annotations": ", ".join(f"{name}={value}" for name, value in metadata.annotations.items()),
    }
    for name, value in facts.items():
        if value:
            click.echo(f"  {name + ':':<13}{value}")
    _section("Spec", resource.spec)
    if status.conditions:
        _title("Conditions")
        output.write_table(
            ["CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"],
            [
                [each.type, each.status, output.age_of(each.last_transition_time), each.reason, each.message]
                for each in status.conditions
            ],
            styles=STYLES,
        )
    if status.notes:
        _title("Notes")
        for note in status.notes:
            click.echo(f"  - {note}")
    if status.details:
        _section("Details", _for_people(msgspec.to_builtins(status.details, str_keys=True)))
    if happened:
        _title("Events")
        events.write(happened, whose=False)


def _for_people(details: dict[str, Any]) -> dict[str, Any]:
    """Without what a rollout only keeps for itself, and the events, which are listed below. --json has it all."""
    progress = details.get("progress")
    if not isinstance(progress, dict):
        return details
    return details | {"progress": {name: each for name, each in progress.items() if name in _OF_PROGRESS}}


def _title(text: str) -> None:
    click.echo("")
    output.write_line(text, "cyan")


def _section(title: str, value: Any) -> None:
    _title(title)
    for line in output.yaml_of(value).splitlines():
        click.echo(f"  {line}")
