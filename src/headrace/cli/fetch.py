"""`headrace fetch`."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli import downloads, output
from headrace.cli.settings import read_config
from headrace.errors import SettingsError

if TYPE_CHECKING:
    from headrace.artifacts.base import Fetched
    from headrace.artifacts.settings import ArtifactSettings


@click.command(short_help="Bring a model from a store or a registry to this machine.")
@click.argument("uri", required=False, default="")
@click.argument("dest", required=False, type=click.Path(path_type=Path))
@click.option("--pin", is_flag=True, help="Only say what the uri stands for now: bring nothing.")
@click.option("--prune", is_flag=True, help="Remove the copies used longest ago, down to artifacts.max_cache_bytes.")
@click.option("--config", envvar="HEADRACE_CONFIG", metavar="FILE", help="A server.yaml.", show_envvar=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(*, uri: str, dest: Path | None, pin: bool, prune: bool, config: str | None, as_json: bool) -> None:
    """Bring a model from a store or a registry to this machine.

    URI is s3://, gs://, az://, abfss://, https://, hf://, models:/, runs:/, mlflow-artifacts:/ or pvc://. Its copy goes
    to the cache, where `headrace serve URI` finds it, and to DEST if given. A download that was broken off is
    continued. Credentials are those of the usual variables and files, and of artifacts.credentials.

    \b
    Examples:
      headrace fetch s3://bucket/models/iris
      headrace fetch models:/iris@champion ./iris
      headrace fetch models:/iris@champion --pin
      headrace fetch --prune
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if not uri and not prune:
        raise click.UsageError("a uri is needed, or --prune")
    settings = _settings(config)
    if uri and pin:
        _pin(uri, settings, as_json)
    elif uri:
        _fetch(uri, dest, settings, as_json)
    if prune:
        _prune(settings, as_json)


def _settings(config: str | None) -> ArtifactSettings:
    from headrace import settings

    text = read_config(config)
    return settings.load(settings.Settings(), text, os.environ, {}, file_name=config or "").artifacts


def _pin(uri: str, settings: ArtifactSettings, as_json: bool) -> None:
    from headrace.artifacts import fetch
    from headrace.artifacts.uri import shown

    with output.working(f"asking for {shown(uri)}"):
        pinned = fetch.pin(uri, settings=settings)
    if as_json:
        output.write_json(pinned)
        return
    click.echo(f"{pinned.uri}  {pinned.token}" + (f"  version {pinned.version}" if pinned.version else ""))


def _fetch(uri: str, dest: Path | None, settings: ArtifactSettings, as_json: bool) -> None:
    from headrace.artifacts import cache, fetch
    from headrace.artifacts.uri import shown

    if dest is not None and dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise click.UsageError(f"{dest} is there already: name a path that is not, or an empty folder")
    cancel = threading.Event()
    with downloads.shown() as report:
        try:
            fetched = fetch.fetch(uri, settings=settings, report=functools.partial(report, shown(uri)), cancel=cancel)
        except BaseException:
            cancel.set()
            raise
    if dest is not None:
        hold = cache.Cache(settings).hold(fetched.path)
        try:
            _copy(Path(fetched.path), dest)
        finally:
            if hold is not None:
                hold.close()
    _say(fetched, dest, as_json)


def _say(fetched: Fetched, dest: Path | None, as_json: bool) -> None:
    path = str(dest) if dest is not None else fetched.path
    if as_json:
        output.write_json(
            {
                "path": path,
                "uri": fetched.pinned.uri,
                "token": fetched.pinned.token,
                "version": fetched.pinned.version,
                "files": fetched.files,
                "bytes": fetched.bytes,
                "downloaded_bytes": fetched.downloaded_bytes,
                "reused_bytes": max(0, fetched.bytes - fetched.downloaded_bytes),
            }
        )
        return
    click.echo(path)
    files = "1 file" if fetched.files == 1 else f"{fetched.files} files"
    came = (
        f"{output.size_of(fetched.downloaded_bytes)} downloaded" if fetched.downloaded_bytes else "all of it was here"
    )
    click.echo(f"{files}, {output.size_of(fetched.bytes)}, {came}", err=True)


def _prune(settings: ArtifactSettings, as_json: bool) -> None:
    from headrace.artifacts import cache

    pruned = cache.prune(settings)
    if as_json:
        output.write_json(pruned)
        return
    freed, kept = output.size_of(pruned.freed_bytes), output.size_of(pruned.kept_bytes)
    bound = "" if settings.max_cache_bytes else "; artifacts.max_cache_bytes sets no bound, so only leftovers went"
    copies = "1 copy" if pruned.copies == 1 else f"{pruned.copies} copies"
    click.echo(f"removed {copies}, {freed}; {kept} are kept in {settings.cache_dir}{bound}")


def _copy(source: Path, dest: Path) -> None:
    """Give a copy of its own to somebody who may write to it; there whole, or not at all."""
    target = dest.resolve()
    beside = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(source, beside, symlinks=True, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, beside)
        beside.replace(target)  # an empty folder is replaced by a folder
    except OSError as exc:
        raise SettingsError(f"{dest} cannot be written: {exc.strerror or exc}") from exc
