"""`headrace trust report`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from headrace.cli import remote
from headrace.errors import InvalidRequest


@click.command(short_help="Write what the detectors of a served model say as a page with pictures.")
@click.argument("model")
@click.option("--version", "version", default="", metavar="VERSION", help="Of the model; empty: the default one.")
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=None,
    metavar="FILE",
    help="Where; - is standard output. Default: MODEL-trust.html.",
)
@remote.server_options
def command(model: str, *, version: str, path: Path | None, url: str, timeout: float, headers: tuple[str, ...]) -> None:
    """Write what the detectors of a served model say as a page with pictures.

    The page is one file that needs nothing else: windows over time, features that moved beside the reference, odd rows,
    performance and bias with intervals, and where the reference comes from.

    \b
    Examples:
      headrace trust report iris -o report.html
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    with remote.connect(url, timeout, headers) as client:
        page = client.trust_report(model, version=version)
    if path is None:
        path = Path(f"{model.replace('/', '_')}{'-' + version.replace('/', '_') if version else ''}-trust.html")
    if str(path) == "-":
        sys.stdout.buffer.write(page)
        return
    try:
        path.write_bytes(page)
    except OSError as exc:
        raise InvalidRequest(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    click.echo(f"wrote {path}", err=True)
