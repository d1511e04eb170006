"""`headrace get`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from headrace.cli import kinds, output, remote

if TYPE_CHECKING:
    from headrace.client.control import ControlClient, Resource

_Cell = Callable[["Resource"], str]
STYLES: Final = MappingProxyType({"True": "green", "False": "red", "Unknown": "yellow"})


@click.command(short_help="List resources.")
@click.argument("targets", nargs=-1, metavar="[KIND [NAME] | KIND/NAME]", shell_complete=kinds.complete)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "wide", "yaml", "json", "name"]),
    default="table",
    show_default=True,
    help="`wide`: a table with more columns; `yaml`: manifests, to be kept or applied again; `name`: KIND/NAME.",
)
@click.option("--json", "as_json", is_flag=True, help="As -o json.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and show what changes.")
@remote.control_options
def command(targets: tuple[str, ...], form: str, as_json: bool, watch: bool, client: ControlClient) -> None:
    """List resources.

    All of them, those of a kind, or one. KIND may be a plural or a short name (models, mlm, pipelines, mlp,
    experiments, mlx, servers, mls, rollouts), or the kind of a manifest made for others (isvc, sdep, ...), which means
    what was made of such manifests.

    \b
    Examples:
      headrace get
      headrace get models
      headrace get pipeline chain -o yaml
      headrace get rollouts --watch
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    kind, name = kinds.maybe_of(targets)
    form = "json" if as_json else form
    version = client.snapshot()[1] if watch else 0
    found = kinds.find(client, kind, name)
    if watch and form in {"json", "yaml", "name"}:
        _write_documents(found, form)
    elif form == "json":
        output.write_json(_plain(found[0]) if name and len(found) == 1 else {"items": [_plain(each) for each in found]})
    elif form in {"yaml", "name"}:
        _write_documents(found, form)
    elif found or not watch:
        write(found, wide=form == "wide")
    while watch:
        watched = client.watch(version)
        version = watched.resource_version
        newer = [each for each in watched.resources if _is_asked(each, kind, name)]
        if form in {"json", "yaml", "name"}:
            _write_documents(newer, form)
        else:
            for each in newer:
                click.echo("  ".join(filter(None, [each.title, *row(each, wide=form == "wide")[1:]])))
        for gone_kind, gone_name in watched.deleted:
            if gone_kind == (kind or gone_kind) and gone_name == (name or gone_name):
                click.echo(f"{gone_kind.lower()}/{gone_name} deleted", err=form != "table")


def _is_asked(resource: Resource, kind: str, name: str) -> bool:
    its = (resource.origin.rpartition(" ")[2] if kind in kinds.FOREIGN else resource.kind) if kind else ""
    return its == kind and resource.metadata.name == (name or resource.metadata.name)


def _plain(resource: Resource) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(resource, str_keys=True)
    return found


def _write_documents(resources: Iterable[Resource], form: str) -> None:
    import msgspec

    for each in resources:
        if form == "name":
            click.echo(each.title)
        elif form == "json":
            click.echo(msgspec.json.encode(each).decode())
        else:
            click.echo("---")
            output.write_yaml(_plain(each))


# -- tables --


def write(resources: Sequence[Resource], *, wide: bool = False) -> None:
    """A table for each kind, in the order in which kinds are applied."""
    if not resources:
        click.echo("no resources")
    first = True
    for kind in dict.fromkeys([*kinds.NAMES, *(each.kind for each in resources)]):
        rows = [row(each, wide=wide) for each in resources if each.kind == kind]
        if not rows:
            continue
        if not first and not output.on_terminal():
            click.echo("")
        first = False
        output.write_table(heads(kind, wide=wide), rows, styles=STYLES)


def heads(kind: str, *, wide: bool = False) -> list[str]:
    """The heads of the columns of a kind's table."""
    return [kind.upper(), "READY", *_COLUMNS.get(kind, {}), *(_WIDE if wide else ()), "AGE", "REASON"]


def row(resource: Resource, *, wide: bool = False) -> list[str]:
    """A resource's cells."""
    ready = resource.condition()
    why = ""
    if ready is None:
        why = "not looked at yet"
    elif ready.status != "True":
        why = ": ".join(filter(None, (ready.reason, ready.message)))
    cells = [cell(resource) for cell in _COLUMNS.get(resource.kind, {}).values()]
    more = [cell(resource) for cell in _WIDE.values()] if wide else []
    age = output.age_of(resource.metadata.creation_timestamp)
    return [resource.metadata.name, ready.status if ready else "Unknown", *cells, *more, age, why]


def _spec(name: str, default: str = "") -> _Cell:
    return lambda resource: str(resource.spec.get(name, default))


def _detail(*path: str) -> _Cell:
    def cell(resource: Resource) -> str:
        value: Any = resource.status.details
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return "" if value is None else str(value)

    return cell


def _revision(resource: Resource) -> str:
    status = resource.status
    if status.ready_revision in {0, status.revision}:
        return str(status.revision or "")
    return f"{status.ready_revision} -> {status.revision}"


def _steps(resource: Resource) -> str:
    return ", ".join(str(step.get("name", "")) for step in resource.spec.get("steps", ()))


def _candidates(resource: Resource) -> str:
    found = resource.spec.get("candidates", ())
    whole = sum(float(each.get("weight", 1)) for each in found) or 1.0
    return ", ".join(f"{each.get('name', '')} {float(each.get('weight', 1)) / whole:.3g}" for each in found)


def _mirror(resource: Resource) -> str:
    mirror = resource.spec.get("mirror")
    return f"{mirror.get('name', '')} {mirror.get('percent', 100):g}%" if mirror else ""


def _progress(resource: Resource) -> str:
    progress = resource.status.details.get("progress")
    if not isinstance(progress, Mapping):
        return ""
    weight = progress.get("weight")
    return " ".join(filter(None, (str(progress.get("state", "")), f"{weight:g}%" if weight is not None else "")))


def _memory(resource: Resource) -> str:
    """What a model takes, measured; whether it takes it now."""
    details = resource.status.details
    size = _size(str(details.get("memoryBytes", "")))
    if details.get("inMemory") is False:
        return f"none ({size} when asked)" if size else "none"
    return size


def _size(value: str) -> str:
    return output.size_of(int(value)) if value.isdecimal() and value != "0" else ""


_COLUMNS: Final[Mapping[str, Mapping[str, _Cell]]] = MappingProxyType(
    {
        "Model": {
            "REVISION": _revision,
            "URI": lambda resource: str(resource.spec.get("uri") or resource.spec.get("reference", "")),
            "RUNTIME": lambda resource: str(resource.status.details.get("runtime") or resource.spec.get("runtime", "")),
        },
        "Pipeline": {"STEPS": _steps},
        "Experiment": {"DEFAULT": _spec("default"), "CANDIDATES": _candidates, "MIRROR": _mirror},
        "Server": {
            "URL": _spec("url", "this process"),
            "MEMORY": lambda resource: _size(str(resource.spec.get("memoryBytes", ""))),
        },
        "Rollout": {"STABLE": _spec("stable"), "CANDIDATE": _spec("candidate"), "STATE": _progress},
    }
)
"""The columns of a kind's table, beside name, readiness, age and reason."""

_WIDE: Final[Mapping[str, _Cell]] = MappingProxyType(
    {
        "GENERATION": lambda resource: str(resource.metadata.generation or ""),
        "MEMORY": _memory,
        "PLACEMENT": _detail("placement"),
        "ENGINE": _detail("engine"),
        "MADE OF": lambda resource: resource.origin,
        "NOTES": lambda resource: str(len(resource.status.notes) or ""),
    }
)
"""What `-o wide` adds."""
