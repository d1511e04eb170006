"""`headrace batch watch`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hmac
import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.batch_jobs import job_of, job_options, open_predictor, server_options, signals

if TYPE_CHECKING:
    from headrace.lifecycle.batch.base import Job, Outcome, Predictor
    from headrace.lifecycle.watch.ledger import Ledger, Row, State
    from headrace.lifecycle.watch.watch import Heard, Offer, Source, Tally
    from headrace.server.http import HttpReply, HttpRequest
    from headrace.settings import Settings

log = logging.getLogger(__name__)

_MOST_BODY_BYTES = 1 << 20
_STOP_SECONDS = 5.0
_AGAIN_SECONDS = 2.0


@click.command(name="watch", short_help="Answer files as they come into a bucket or folder.")
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option("--model", default="", metavar="MODEL", help="Path or uri of the model; with --url, its name there.")
@click.option("--output", "-o", "target", default="", metavar="URI", help="Bucket, prefix or folder of the answers.")
@server_options
@click.option("--sqs", "queues", multiple=True, metavar="URL", help="A queue that the bucket tells.")
@click.option("--webhook", default="", metavar="[HOST:]PORT", help="Listen for events here.")
@click.option(
    "--webhook-token-file",
    "token_file",
    type=click.File(),
    default=None,
    metavar="FILE",
    help="What senders must send as a bearer token.",
)
@click.option("--kafka", "topics", multiple=True, metavar="TOPIC", help="A topic of events; brokers are settings.")
@click.option("--kafka-group", default="headrace-batch-watch", show_default=True, help="The consumer group.")
@click.option(
    "--poll",
    "poll_seconds",
    type=click.FloatRange(0),
    default=None,
    metavar="SECONDS",
    help="How often to list the inputs; 0: never. [default: 30, with events 600]",
)
@click.option("--once", is_flag=True, help="Answer what is there, and leave.")
@click.option(
    "--start",
    type=click.Choice(["earliest", "latest"]),
    default="earliest",
    show_default=True,
    help="With a new ledger: begin with what is there, or with what comes.",
)
@click.option(
    "--ledger",
    "ledger_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(".headrace/batch-watch.db"),
    show_default=True,
    metavar="FILE",
    help="What is done, on this machine.",
)
@click.option("--list", "listing", is_flag=True, help="Show the ledger, and do nothing.")
@click.option("--retry-dead", is_flag=True, help="Give objects that are dead another try.")
@click.option("--name", default="{path}", show_default=True, help="Of outputs: {path} {folder} {stem} {suffix} {etag}.")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Objects at a time.")
@click.option("--retries", type=click.IntRange(0), default=5, show_default=True, help="Of an object that fails.")
@click.option("--no-claims", is_flag=True, help="Heed no watchers on other machines.")
@click.option(
    "--lease",
    "lease_seconds",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="After which others take over from a machine that went away.",
)
@click.option(
    "--drain",
    "drain_seconds",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="What is being answered may take to end at a SIGTERM.",
)
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each object.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Answer files as they come into a bucket or folder, each exactly once.

    Listing the inputs is enough, and needs nothing; events (webhook, SQS, Kafka) make it quick. What is done stands in
    a ledger, so it may be killed and begun again, and several may watch the same. Bad rows go to a file of their own.

    \b
    Examples:
      headrace batch watch s3://in/ --model churn.onnx --output s3://out/
      headrace batch watch s3://in/2026/ --model s3://models/churn -o s3://out/ --sqs https://sqs.eu-west-1.amazonaws.com/1/q
      headrace batch watch uploads/ --model churn.onnx -o answers/ --once
      headrace batch watch --list
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from headrace.lifecycle.watch.ledger import Ledger

    ledger = Ledger(given["ledger_path"])
    if given["listing"]:
        ledger.open(reading=True)
        try:
            _show(ledger, as_json=given["as_json"])
        finally:
            ledger.close()
        return
    for name, shown in (("inputs", "INPUT"), ("model", "--model"), ("target", "--output")):
        if not given[name]:
            raise click.UsageError(f"missing {shown}")
    if given["once"] and given["webhook"]:
        raise click.UsageError("--once ends when all is done, and a --webhook waits for more: give one of them")
    tally, interrupted = _watch(given, ledger)
    if given["as_json"]:
        _line({"tally": tally})
    else:
        _tell_tally(tally)
    ctx.exit(130 if interrupted else 1 if given["once"] and (tally.dead or tally.left) else 0)


def _watch(given: Mapping[str, Any], ledger: Ledger) -> tuple[Tally, bool]:
    """The tally, and whether somebody pressed ctrl-c."""
    import functools
    import os

    from headrace import settings as settings_
    from headrace.artifacts import objects
    from headrace.cli.remote import header_pairs
    from headrace.lifecycle.watch import answers, places
    from headrace.lifecycle.watch.watch import Options, Watch

    settings = settings_.load(settings_.Settings(), "", os.environ, {})
    job = job_of(given, output=given["target"], url=given["url"], version=given["model_version"])
    for each in given["inputs"]:
        objects.open_objects(places.watched(each, given["target"]).uri, settings=settings.artifacts).close()
    objects.open_objects(given["target"], settings=settings.artifacts).close()  # now, not when the model is loaded
    places.checked_name(given["name"])
    headers = header_pairs(given["headers"], option="--header")
    sources = _sources(given, settings)
    poll_seconds = given["poll_seconds"]
    if poll_seconds is None:
        poll_seconds = 600.0 if sources else 30.0
    options = Options(
        inputs=given["inputs"],
        output=given["target"],
        name=given["name"],
        output_format=job.output_format,
        start=given["start"],
        concurrency=given["concurrency"],
        retries=given["retries"],
        poll_seconds=poll_seconds,
        claims=not given["no_claims"],
        lease_seconds=given["lease_seconds"],
        drain_seconds=given["drain_seconds"],
    )
    state = ledger.path.with_name(f"{ledger.path.name}.work")
    with contextlib.ExitStack() as stack:
        stack.enter_context(ledger)
        predictor = _predictor(stack, job, headers, given, patient=ledger.has_begun() and not given["once"])
        if given["retry_dead"]:
            ledger.revive()
        watch = Watch(
            options,
            ledger=ledger,
            answer=lambda info, target, cancel: answers.answer(
                job, info, target, predictor, settings=settings.artifacts, state=state, cancel=cancel
            ),
            job=answers.digest(job, predictor),
            settings=settings.artifacts,
            sources=sources,
            report=functools.partial(_report, as_json=given["as_json"]),
        )
        if not given["as_json"]:
            also = "".join(f", {source.name}" for source in sources)
            click.echo(f"watching {', '.join(options.inputs)} (poll every {poll_seconds:g} s{also})", err=True)
        seen: list[int] = []

        def heed(number: int) -> None:
            seen.append(number)
            watch.stop()

        with signals(heed):
            return watch.run(once=given["once"]), signal.SIGINT in seen


def _predictor(
    stack: contextlib.ExitStack, job: Job, headers: Mapping[str, str], given: Mapping[str, Any], *, patient: bool
) -> Predictor:
    """Who answers. A watcher that is begun again (`patient`) waits for a store or server that is away."""
    import time

    from headrace.errors import Temporary

    while True:
        try:
            predictor = open_predictor(job, headers=headers, timeout_seconds=given["timeout"])
            return stack.enter_context(contextlib.closing(predictor))
        except Temporary as error:
            if not patient:
                raise
            click.echo(f"{error}; it is asked again in {_AGAIN_SECONDS:g} s", err=True)
            time.sleep(_AGAIN_SECONDS)


def _sources(given: Mapping[str, Any], settings: Settings) -> list[Source]:
    from headrace.lifecycle.watch.sources import KafkaSource, SqsSource, open_queue

    found: list[Source] = [SqsSource(open_queue(url, settings.artifacts)) for url in given["queues"]]
    if given["topics"]:
        found.append(KafkaSource(settings.kafka, topics=given["topics"], group=given["kafka_group"]))
    if given["webhook"]:
        host, _, port = given["webhook"].rpartition(":")
        if not port.isdigit():
            raise click.UsageError(f"--webhook is [HOST:]PORT, and not {given['webhook']!r}")
        if host.strip("[]") not in {"", "127.0.0.1", "localhost", "::1"} and not given["token_file"]:
            raise click.UsageError(
                f"--webhook {given['webhook']} can be reached from other machines: give a "
                "--webhook-token-file, or listen on 127.0.0.1"
            )
        token = given["token_file"].read().strip() if given["token_file"] else ""
        if given["token_file"] and not token:
            raise click.UsageError("--webhook-token-file is empty")
        found.append(WebhookSource(host.strip("[]") or "127.0.0.1", int(port), token=token))
    return found


class WebhookSource:
    """A listener for events, in a thread of its own: `lifecycle.watch.watch.Source`.

    Args:
        host: To listen on.
        port: 0: a free one.
        token: Senders must have it; empty: anyone may send.
        told: Called with the port once it listens.
    """

    name = "webhook"

    def __init__(self, host: str, port: int, *, token: str = "", told: Any = None) -> None:
        self._host, self._port, self._token, self._told = host, port, token, told

    def __repr__(self) -> str:
        return f"<WebhookSource {self._host}:{self._port}>"

    def read(self, offer: Offer, stop: threading.Event, *, once: bool) -> None:
        """Take events until told to stop.

        Raises:
            SettingsError: the address is taken or not ours.
        """
        asyncio.run(self._serve(offer, stop))

    async def _serve(self, offer: Offer, stop: threading.Event) -> None:
        from headrace.errors import SettingsError
        from headrace.server.http import HttpLimits, HttpServer

        loop = asyncio.get_running_loop()

        async def handle(request: HttpRequest) -> HttpReply:
            return await self._answer(request, offer)

        server = HttpServer(handle, limits=HttpLimits(max_body_bytes=_MOST_BODY_BYTES, max_connections=256))
        try:
            port = await server.start(self._host, self._port)
        except OSError as exc:
            raise SettingsError(f"--webhook: cannot listen on {self._host}:{self._port}: {exc.strerror}") from exc
        click.echo(f"webhook: http://{self._host}:{port}/", err=True)
        if self._told is not None:
            self._told(port)
        try:
            await loop.run_in_executor(None, stop.wait)
        finally:
            await server.stop(_STOP_SECONDS)

    async def _answer(self, request: HttpRequest, offer: Offer) -> HttpReply:
        import msgspec

        from headrace.errors import Temporary
        from headrace.server.http import HttpReply, error_body

        if request.method in {b"GET", b"HEAD"}:
            return HttpReply(b'{"ready":true}')
        if self._token and not hmac.compare_digest(_token_of(request.headers), self._token.encode()):
            challenge = ((b"www-authenticate", b'Bearer, Basic realm="headrace"'),)
            text = "expected `Authorization: Bearer TOKEN`, or Basic with the token as the password"
            return HttpReply(error_body(text), 401, headers=challenge)
        if request.method != b"POST":
            return HttpReply(error_body("expected POST with an event"), 405, headers=((b"allow", b"POST"),))

        def keep() -> Heard:
            return offer(request.body, request.headers, source=self.name)

        try:
            heard = await asyncio.get_running_loop().run_in_executor(None, keep)
        except Temporary as exc:
            return HttpReply(error_body(str(exc)), 503, headers=((b"retry-after", b"5"),))
        if heard.confirm:
            log.warning("SNS asks whether it may send events here; if it may, open %s", heard.confirm)
        if heard.malformed and not (heard.fresh or heard.known or heard.ignored):
            return HttpReply(error_body("; ".join(heard.malformed)), 400)
        counts = {"fresh": heard.fresh, "known": heard.known, "ignored": heard.ignored}
        return HttpReply(msgspec.json.encode(counts | {"malformed": len(heard.malformed)}))


def _token_of(headers: Mapping[str, str]) -> bytes:
    """What a sender has: MinIO and SeaweedFS send bearer tokens, SNS can only send the password of its url."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return value.strip().encode() if kind.lower() == "bearer" else b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except ValueError:
        return b""


# -- what is shown --


def _report(row: Row, state: State, error: str, outcome: Outcome | None, *, as_json: bool) -> None:
    if as_json:
        _line({"uri": row.uri, "etag": row.etag, "state": state, "error": error, "outcome": outcome})
        return
    line = f"{state:<10} {row.uri}"
    if outcome is not None:
        line += f"  {_rows(outcome)}"
    output.write_line(
        f"{line}  {error}" if error else line, {"done": "green", "dead": "red", "failed": "red"}.get(state, "")
    )


def _line(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.encode(value).decode())


def _tell_tally(tally: Tally) -> None:
    parts = [f"{tally.done} done ({tally.rows} rows, {tally.rejected} rejected)"]
    for count, text in (
        (tally.elsewhere, "done by others"),
        (tally.gone, "gone"),
        (tally.dead, "dead"),
        (tally.left, "left for later"),
    ):
        if count:
            parts.append(f"{count} {text}")
    click.echo(", ".join(parts), err=True)


def _rows(outcome: Outcome) -> str:
    return f"{outcome.answered} rows" + (f", {outcome.rejected} rejected" if outcome.rejected else "")


def _show(ledger: Ledger, *, as_json: bool) -> None:
    counts, rows, letters = ledger.counts(), ledger.rows(), ledger.letters()
    if as_json:
        output.write_json({"counts": dict(counts), "objects": rows, "dead_letters": letters})
        return
    table = [
        (
            row.uri,
            row.state,
            str(row.attempts or ""),
            _rows(row.outcome) if row.outcome is not None else "",
            dt.datetime.fromtimestamp(row.updated, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S"),
            row.error,
        )
        for row in rows
    ]
    styles = MappingProxyType({"done": "green", "dead": "red", "failed": "yellow", "running": "cyan"})
    output.write_table(["OBJECT", "STATE", "FAILED", "ROWS", "SINCE (UTC)", "ERROR"], table, styles=styles)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no object"
    click.echo(told + (f"; {len(letters)} messages that nobody understood" if letters else ""))
    for letter in letters[:5]:
        click.echo(f"  {letter.source}: {letter.reason}")
