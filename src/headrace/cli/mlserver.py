"""`headrace mlserver`: the commands of MLServer, with their arguments and environment variables, done by Headrace."""

from __future__ import annotations

import dataclasses
import importlib.resources
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from headrace import __version__
from headrace.errors import MissingExtra, SettingsError

F = TypeVar("F", bound=Callable[..., Any])

_SPOKEN = "1.7.1"
"""The release whose folders, settings and answers are understood."""


@click.group(short_help="Start, build and ask what was made for MLServer.")
@click.version_option(_SPOKEN, prog_name="mlserver", message=f"%(prog)s, version %(version)s (headrace {__version__})")
def command() -> None:
    """Start, build and ask what was made for MLServer.

    Where a script says mlserver, write headrace mlserver: the arguments are the same. Folders, settings files,
    MLSERVER_ variables and runtimes stay as they are.

    \b
    Examples:
      headrace mlserver start ./models
      headrace mlserver infer -u localhost:8080 -m iris -i requests.jsonl -o answers.jsonl
      headrace mlserver build ./models --tag iris:1
    """  # noqa: D301 - \b is click's mark for lines to be left as they are


@command.command("start", short_help="Serve the models of a folder, on every address.")
@click.argument("folder")
def start(folder: str) -> None:
    """Serve the models of a folder, on every address.

    Reads settings.json of the folder and every model-settings.json below, and MLSERVER_ variables for what they leave
    out. REST on 8080, gRPC on 8081 and metrics on 8082 unless these say otherwise. The same as headrace serve, which
    has more options, but for the address: headrace serve answers this machine only.

    \b
    Examples:
      headrace mlserver start ./models
      MLSERVER_HTTP_PORT=9000 headrace mlserver start ./models
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace import settings
    from headrace.cli import serve

    if not Path(folder).is_dir():
        raise SettingsError(f"{folder} is not a folder; expected one with model-settings.json in it or below")
    defaults = settings.Settings()
    defaults = dataclasses.replace(defaults, http=dataclasses.replace(defaults.http, host="0.0.0.0"))  # noqa: S104 - as the original does
    click.get_current_context().exit(serve.run([folder], {}, defaults=defaults))


@command.command("build", short_help="Write the Dockerfile and the build context of a folder's image.")
@click.argument("folder")
@click.option("-t", "--tag", help="What the image is called. Default: the folder's name.")
@click.option("--no-cache", is_flag=True, help="Have docker build every layer again.")
@click.option("--context", metavar="DIR", help="Where to write. Default: the folder's name with -image, beside it.")
def build(folder: str, tag: str | None, no_cache: bool, context: str | None) -> None:
    """Write the Dockerfile and the build context of a folder's image.

    Docker is not run: the command that builds the image is printed. The image serves the folder's models; it has the
    extras that their runtimes need, and what requirements.txt or conda.yaml ask for.

    \b
    Examples:
      headrace mlserver build ./models --tag iris:1
      headrace mlserver build ./models --tag iris:1 --no-cache --context ./image
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    import shlex

    from headrace.cli import image

    place = Path(folder)
    found = image.survey(place)
    whole = place.resolve()
    target = Path(context) if context else whole.parent / f"{whole.name}-image"
    image.write_context(place, target, found)
    _warn(found.warnings)
    words = ["docker", "build", "--rm", *(["--no-cache"] if no_cache else [])]
    words += ["--tag", tag or f"{whole.name.lower() or 'models'}:latest", str(target)]
    click.echo(f"wrote the Dockerfile and the build context in {target}")
    click.echo("headrace does not run docker yet; build the image with:")
    click.echo(f"  {shlex.join(words)}")


@command.command("dockerfile", short_help="Write the Dockerfile of a folder's image into the folder.")
@click.argument("folder")
@click.option("-i", "--include-dockerignore", is_flag=True, help="Write Dockerfile.dockerignore too.")
def dockerfile(folder: str, include_dockerignore: bool) -> None:
    """Write the Dockerfile of a folder's image into the folder.

    \b
    Examples:
      headrace mlserver dockerfile ./models
      headrace mlserver dockerfile ./models --include-dockerignore
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.cli import image

    place = Path(folder)
    found = image.survey(place)
    files = {"Dockerfile": image.dockerfile(found)}
    if include_dockerignore:
        files["Dockerfile.dockerignore"] = image.IGNORED
    try:
        for name, text in files.items():
            (place / name).write_text(text, "utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot write to {place}: {exc.strerror or exc}") from exc
    _warn(found.warnings)
    click.echo(f"wrote {', '.join(str(place / name) for name in files)}")


@command.command("init", short_help="Write the skeleton of an MLServer folder with a runtime of your own.")
@click.argument("folder", default=".", metavar="[DIR]")
@click.option("-t", "--template", metavar="URL", help="A cookiecutter template, in place of the skeleton built in.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
def init(folder: str, template: str | None, force: bool) -> None:
    """Write the skeleton of an MLServer folder with a runtime of your own.

    A runtime whose predict takes and returns arrays, its model-settings.json, a settings.json, a request to try. A
    template is handed to cookiecutter, which must be installed.

    \b
    Examples:
      headrace mlserver init my-model
      headrace mlserver init --template gh:someone/template
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if template:
        click.get_current_context().exit(_cut(template, folder))
    from headrace.cli.init import name_of
    from headrace.serving.spec import check_name

    place = Path(folder)
    name = name_of(place)
    check_name(name, where="headrace mlserver init")
    files = skeleton(name)
    there = [each for each in files if (place / each).exists()]
    if there and not force:
        raise SettingsError(f"{place}: {', '.join(there)} are there already; choose another folder, or --force")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (place / file).write_text(text, "utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot write to {place}: {exc.strerror or exc}") from exc
    click.echo(f"wrote {', '.join(files)} in {place.resolve()}\n")
    click.echo("Next:")
    if place.resolve() != Path.cwd():
        click.echo(f"  cd {folder}")
    click.echo("  headrace mlserver start .")
    click.echo(f"  headrace mlserver infer -m {name} -i requests.jsonl -o answers.jsonl    # in another terminal")


def skeleton(name: str) -> dict[str, str]:
    """The files of the skeleton, by name, for a model of that name."""
    folder = importlib.resources.files("headrace.cli").joinpath("skeleton_mlserver")
    found = sorted(folder.iterdir(), key=lambda each: each.name)
    return {each.name.removesuffix(".txt"): each.read_text("utf-8").replace("{name}", name) for each in found}


def _variable(name: str, *flags: str, **rest: Any) -> Callable[[F], F]:
    """An option that MLSERVER_INFER_name sets too."""
    return click.option(*flags, envvar=f"MLSERVER_INFER_{name}", show_envvar=True, **rest)


@command.command("infer", short_help="Ask a V2 server for a whole file of requests.")
@_variable("URL", "-u", "--url", default="localhost:8080", show_default=True, help="The server's host and port.")
@_variable("MODEL_NAME", "-m", "--model-name", required=True, metavar="NAME", help="The model to ask.")
@_variable("INPUT_DATA_PATH", "-i", "--input-data-path", required=True, metavar="FILE", help="Requests, one a line.")
@_variable("OUTPUT_DATA_PATH", "-o", "--output-data-path", required=True, metavar="FILE", help="For the answers.")
@_variable(
    "WORKERS",
    "-w",
    "--workers",
    type=click.IntRange(1, 1024),
    default=10,
    show_default=True,
    help="Requests in flight.",
)
@_variable(
    "RETRIES", "-r", "--retries", type=click.IntRange(min=0), default=3, show_default=True, help="Tries of one request."
)
@_variable(
    "BATCH_SIZE",
    "-s",
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Send up to so many lines as one request.",
)
@_variable("BINARY_DATA", "-b", "--binary-data", is_flag=True, help="Send tensors as bytes.")
@_variable("VERBOSE", "-v", "--verbose", is_flag=True, help="Say what is asked, and how.")
@_variable("EXTRA_VERBOSE", "-vv", "--extra-verbose", is_flag=True, help="Say which lines fail, and why, as well.")
@_variable(
    "TRANSPORT",
    "-t",
    "--transport",
    type=click.Choice(["rest", "grpc"]),
    default="rest",
    show_default=True,
    help="Only rest is spoken, as in the original.",
)
@_variable(
    "REQUEST_HEADERS",
    "-H",
    "--request-headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Sent with every request. Repeatable; a space between them in the variable.",
)
@_variable(
    "CONNECTION_TIMEOUT",
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may take to answer.",
)
@_variable(
    "BATCH_INTERVAL",
    "--batch-interval",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="The least time between two requests of one worker.",
)
@_variable(
    "BATCH_JITTER",
    "--batch-jitter",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="The most that is added to the interval, at random.",
)
@_variable("USE_SSL", "--use-ssl", is_flag=True, help="Speak TLS.")
@_variable("INSECURE", "--insecure", is_flag=True, help="Do not check the server's certificate.")
@click.option("--resume", is_flag=True, help="Go on with the output of a job that was interrupted.")
@click.option("--retry-failed", is_flag=True, help="As --resume, and ask again the lines that failed.")
def infer(
    *,
    url: str,
    model_name: str,
    input_data_path: str,
    output_data_path: str,
    workers: int,
    retries: int,
    batch_size: int,
    binary_data: bool,
    verbose: bool,
    extra_verbose: bool,
    transport: str,
    request_headers: tuple[str, ...],
    timeout: float,
    batch_interval: float,
    batch_jitter: float,
    use_ssl: bool,
    insecure: bool,
    resume: bool,
    retry_failed: bool,
) -> None:
    """Ask a V2 server for a whole file of requests.

    Each line of the input is a V2 inference request in JSON, each line of the output its answer, in the same order. An
    output that is there is replaced unless --resume is given. Ends with 1 when a line failed.

    \b
    Examples:
      headrace mlserver infer -u localhost:8080 -m iris -i requests.jsonl -o answers.jsonl
      headrace mlserver infer -m iris -i requests.jsonl -o answers.jsonl -w 4 -s 32 -H 'Authorization: token'
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.cli import remote
    from headrace.cli.infer import perform, secured
    from headrace.client.batch import Options

    if transport == "grpc":
        raise click.UsageError("only the transport 'rest' is spoken", click.get_current_context())
    options = Options(
        model=model_name,
        workers=workers,
        batch_size=batch_size,
        retries=max(retries - 1, 0),  # the original counts the first try
        timeout_seconds=timeout,
        interval_seconds=batch_interval,
        jitter_seconds=batch_jitter,
        binary=binary_data,
        headers=remote.header_pairs(request_headers, option="--request-headers"),
    )
    if verbose or extra_verbose:
        shown: dict[str, object] = {
            "url": url,
            "model": model_name,
            "input": input_data_path,
            "output": output_data_path,
        }
        shown |= {"workers": workers, "retries": retries, "batch size": batch_size, "timeout": f"{timeout:g} s"}
        shown |= {"interval": f"{batch_interval:g} s", "jitter": f"{batch_jitter:g} s"}
        shown |= {"headers": ", ".join(options.headers) or "none"}
        for name, value in shown.items():
            click.echo(f"{name}: {value}", err=True)
    code = perform(
        input_data_path,
        output_data_path,
        url=secured(url, use_ssl=use_ssl),
        insecure=insecure,
        options=options,
        existing="trust" if resume or retry_failed else "replace",
        retry_failed=retry_failed,
        say_failed=extra_verbose,
    )
    click.get_current_context().exit(code)


def _cut(template: str, folder: str) -> int:
    program = shutil.which("cookiecutter")
    if program is None:
        raise MissingExtra(
            "a template needs cookiecutter: pip install cookiecutter; without --template a skeleton is built in"
        )
    command = [program, template, "--output-dir", folder]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - the user's own template


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
