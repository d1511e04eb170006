"""How commands show what changes: one line each (`apply`), field by field (`plan`), line by line (`diff`)."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from headrace.cli import output

if TYPE_CHECKING:
    from headrace.client.control import Action, Change, Changes, ControlClient

_COLOURS: Final = MappingProxyType({"created": "green", "configured": "yellow", "deleted": "red"})
_SIGNS: Final = MappingProxyType({"created": "+", "configured": "~", "deleted": "-"})
_FAILED: Final = ("Failed", "RolledBack")
"""What the reasons of failures end with; other reasons speak of what is on its way."""
_LONGEST_VALUE: Final = 70
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


def write(changes: Changes, *, suffix: str = "") -> None:
    """`model/iris created`, a line for each resource, and what of its manifest has no effect."""
    for each in changes.changes:
        output.write_line(f"{each.title} {each.action}{suffix}", _COLOURS.get(each.action, ""))
        for note in each.notes:
            click.echo(f"  note: {note}")


def write_json(changes: Changes) -> None:
    """The changes as the API has them."""
    import msgspec

    output.write_json(msgspec.to_builtins(changes, str_keys=True))


def wait_for(client: ControlClient, changes: Changes, *, condition: str, timeout: float) -> None:
    """Wait until what was created or changed, or stands unchanged, has a condition; stops early where it cannot.

    Raises:
        ModelNotReady: the time is up, or a resource has failed; the text says why.
    """
    wanted = [(each.kind, each.name) for each in changes.changes if each.action != "deleted"]
    wait(client, wanted, condition=condition, status="True", timeout=timeout, give_up=True)


def wait(
    client: ControlClient,
    wanted: Sequence[tuple[str, str]],
    *,
    condition: str,
    status: str,
    timeout: float,
    give_up: bool = False,
) -> None:
    """Wait, show who is still missing on a terminal, and say a line for each that got there.

    Args:
        client: Asks the server.
        wanted: Kind and name of each.
        condition: A condition's type.
        status: What it is to be.
        timeout: Seconds.
        give_up: Whether a failure ends the wait.

    Raises:
        ModelNotReady: the time is up, or a resource has failed; the text says why.
    """
    from headrace.client.control import Resource, is_met
    from headrace.errors import ModelNotReady

    said: set[tuple[str, str]] = set()
    total = len(wanted)
    broken = False

    def failed(resource: Resource | None) -> bool:
        has = resource.condition(condition) if resource is not None else None
        return give_up and has is not None and has.status == "False" and has.reason.endswith(_FAILED)

    with output.progress(f"waiting for {condition} of {total}") as tell:

        def seen(found: Mapping[tuple[str, str], Resource | None]) -> None:
            nonlocal broken
            broken = any(failed(each) for each in found.values())  # the others may wait for that one
            missing = []
            for key, resource in found.items():
                if resource is not None and is_met(resource, condition, status):
                    if key not in said:
                        said.add(key)
                        output.write_line(f"{resource.title} {_condition(condition, status)}", "green")
                else:
                    has = resource.condition(condition) if resource is not None else None
                    missing.append(f"{key[0].lower()}/{key[1]}" + (f" ({has.reason})" if has and has.reason else ""))
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            waiting = f"; waiting for {', '.join(missing[:3])}{more}" if missing else ""
            tell(f"{total - len(missing)} of {total} {condition}{waiting}")

        ended = client.wait(
            wanted,
            condition=condition,
            status=status,
            timeout_seconds=timeout,
            until=lambda _: broken,
            seen=seen,
        )
    wrong = []
    for resource in ended.values():
        has = resource.condition(condition)
        if failed(resource) and has is not None:
            wrong.append(f"{resource.title} is not {condition}: {': '.join(filter(None, (has.reason, has.message)))}")
    if wrong:
        raise ModelNotReady("; ".join(wrong))


def wait_gone(client: ControlClient, wanted: Sequence[tuple[str, str]], *, timeout: float) -> None:
    """Wait until resources are no more.

    Raises:
        ModelNotReady: the time is up.
    """
    import time

    from headrace.errors import ModelNotReady

    deadline = time.monotonic() + timeout
    while True:
        resources, version = client.snapshot()
        there = [each.title for each in resources if (each.kind, each.metadata.name) in wanted]
        left = deadline - time.monotonic()
        if not there:
            return
        if left <= 0:
            raise ModelNotReady(f"after {timeout:g} s there is still {', '.join(there)}")
        client.watch(version, timeout_seconds=left)


def _condition(condition: str, status: str) -> str:
    if condition == "Ready" and status == "True":
        return "is ready"
    return f"has {condition}" if status == "True" else f"has {condition}={status}"


def write_plan(planned: Changes) -> None:
    """What would change, field by field, and what the server would do for it."""
    counted = Counter(each.action for each in planned.changes)
    same = counted["unchanged"]
    if not planned.differ:
        click.echo(f"No changes: {same} resources are as the files say." if same != 1 else "No changes to 1 resource.")
        for each in planned.changes:
            if each.notes:
                click.echo(f"\n  {each.title}")
                _write_notes(each)
        return
    changed = [each for each in planned.changes if each.action != "unchanged"]
    if changed:
        click.echo("An apply would make these changes:\n")
        for each in changed:
            _write_change(each)
    if planned.actions:
        click.echo("The server would then:\n")
        for line in _action_lines(planned.actions):
            click.echo(f"  {line}")
        click.echo("")
    parts = [f"{counted['created']} to create", f"{counted['configured']} to change"]
    parts += [f"{counted['deleted']} to delete"] if counted["deleted"] else []
    parts += [f"{same} unchanged"] if same else []
    click.echo(f"Plan: {', '.join(parts)}. Nothing has been changed.")


def _write_change(change: Change) -> None:
    updates = change.action == "configured"
    head = f"  {_SIGNS.get(change.action, ' ')} {change.title} is {change.action}" + (
        f": generation {change.generation}" if updates else ""
    )
    output.write_line(head, _COLOURS.get(change.action, ""))
    if updates:
        fields = list(field_changes(_spec(change.before), _spec(change.after)))
        width = max((len(path) for _, path, _ in fields), default=0)
        for mark, path, text in fields:
            output.write_line(
                f"      {mark} {path.ljust(width)}  {text}", {"+": "green", "-": "red"}.get(mark, "yellow")
            )
    elif change.after is not None and change.after.get("spec"):
        for line in output.yaml_of(change.after["spec"]).splitlines():
            output.write_line(f"      {line}", "green")
    _write_notes(change)
    click.echo("")


def _write_notes(change: Change) -> None:
    for note in change.notes:
        click.echo(f"      note: {note}")


def _spec(document: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if document is None:
        return _NONE
    labels = {
        f"metadata.{name}": document.get("metadata", {}).get(name, {})
        for name in ("labels", "annotations")
        if document.get("metadata", {}).get(name)
    }
    return {**labels, **document.get("spec", {})}


def field_changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two values differ: a sign (`+`, `-`, `~`), the path of the field, and what it was and is.

    Lists of named things (steps, candidates) are compared by name.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            inner = f"{path}.{name}" if path else str(name)
            if name not in after:
                yield "-", inner, _value(before[name])
            elif name not in before:
                yield "+", inner, _value(after[name])
            else:
                yield from field_changes(before[name], after[name], inner)
    elif _named(before) and _named(after):
        yield from field_changes(
            {f"[{each['name']}]": each for each in before}, {f"[{each['name']}]": each for each in after}, path
        )
    elif before != after:
        yield "~", path.replace(".[", "["), f"{_value(before)} -> {_value(after)}"


def _named(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, Mapping) and "name" in each for each in value)
        and len({each["name"] for each in value}) == len(value)
    )


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and value and value.isprintable() else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _action_lines(actions: Sequence[Action]) -> Iterator[str]:
    """Stage by stage; what is of one stage goes side by side."""
    stages = sorted({each.stage for each in actions})
    for number, stage in enumerate(stages, 1):
        for each in actions:
            if each.stage != stage:
                continue
            verb = "remove" if each.verb == "remove" else {"model": "load"}.get(each.unit, "set up")
            revision = f" revision {each.revision}" if each.revision else ""
            reason = f" ({each.reason})" if each.reason else ""
            yield f"{number}. {verb} {each.unit} {each.name}{revision}{reason}"


def write_diff(changes: Changes) -> None:
    """The lines in which manifests differ, as `diff -u` has them."""
    for line in diff_lines(changes):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        output.write_line(line, "" if line.startswith(("+++", "---")) else colour)


def diff_lines(changes: Changes) -> Iterator[str]:
    """A unified diff of each resource that changes: what the server holds, and what the files say."""
    for each in changes.changes:
        if each.action == "unchanged":
            continue
        yield from difflib.unified_diff(
            _lines(each.before),
            _lines(each.after),
            f"{each.title} (server)",
            f"{each.title} (files)",
            lineterm="",
        )


def _lines(document: Mapping[str, Any] | None) -> list[str]:
    if document is None:
        return []
    return output.yaml_of(declared(document)).splitlines()


def declared(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a document a person declares: not what the server writes."""
    metadata = {
        name: value
        for name, value in document.get("metadata", {}).items()
        if name in {"name", "labels", "annotations"} or (name == "namespace" and value != "default")
    }
    return {
        "apiVersion": document.get("apiVersion", ""),
        "kind": document.get("kind", ""),
        "metadata": metadata,
        "spec": document.get("spec", {}),
    }
