"""`headrace init`."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

import click

from headrace.errors import SettingsError


@click.command(short_help="Write the skeleton of a model in Python, ready to serve.")
@click.argument("folder", default=".", metavar="[DIR]")
@click.option("--name", help="What the model is called in urls. Default: the folder's name.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def command(folder: str, name: str | None, force: bool) -> None:
    """Write the skeleton of a model in Python, ready to serve.

    A documented class, its headrace.yaml, a request to try, tests that pass, and a README that says how to go on.

    \b
    Examples:
      headrace init my-model
      headrace init . --name ranker
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    place = Path(folder)
    name = name or name_of(place)
    files = skeleton(name)
    there = [each for each in files if (place / each).exists()]
    if there and not force:
        raise SettingsError(f"{place}: {', '.join(there)} are there already; choose another folder, or --force")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (place / file).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot write to {place}: {exc.strerror or exc}") from exc
    click.echo(f"wrote {', '.join(files)} in {place.resolve()}\n")
    click.echo("Next:")
    if place.resolve() != Path.cwd():
        click.echo(f"  cd {folder}")
    click.echo("  python -m pytest")
    click.echo("  headrace serve .")
    click.echo(f"  headrace predict {name} --data request.json    # in another terminal")


def skeleton(name: str) -> dict[str, str]:
    """The files of the skeleton, by name, for a model of that name.

    Raises:
        SettingsError: the name cannot stand in a URL.
    """
    from headrace.serving.spec import check_name

    check_name(name, where="headrace init")
    folder = importlib.resources.files("headrace.cli").joinpath("skeleton")
    found = sorted(folder.iterdir(), key=lambda each: each.name)
    return {each.name.removesuffix(".txt"): each.read_text("utf-8").replace("{name}", name) for each in found}


def name_of(place: Path) -> str:
    """What the model of a folder is called: the folder's name, in a form that a URL can hold."""
    return re.sub(r"[^A-Za-z0-9._~-]+", "-", place.resolve().name).strip("-.") or "model"
