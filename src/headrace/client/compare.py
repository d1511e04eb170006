"""Recorded requests to two versions at once: read -> ask A and B in turn -> add up what differs. `headrace compare`
calls `run`.

Each request goes to both, one right after the other, and every second one to B first: what the machine does meanwhile
hits both alike, so that their latencies can be compared pair by pair.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import numpy as np

from headrace.client import lines, recorded, tensors
from headrace.client.channel import Channel, Target, header_lines, target_of
from headrace.client.differences import (
    OutputDifference,
    OutputReport,
    PairDifference,
    Tally,
    Tolerance,
    median_interval,
    wilson,
)
from headrace.client.http import error_text, model_path
from headrace.client.lines import Line
from headrace.client.recorded import Recorded
from headrace.errors import HeadraceError, InvalidRequest, ModelNotFound, ModelNotReady
from headrace.payload import InferenceResponse

_PATH: Final = re.compile(r"(?P<prefix>.*)/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?/?")
RECORDED: Final = "recorded"
_EXCERPT: Final = 300
_FAILURES_KEPT: Final = 20
_REFUSED_KEPT: Final = 5


class Side(msgspec.Struct, frozen=True):
    """One of the two that are asked."""

    label: str
    """As it was given."""
    target: Target | None
    """None: the answers that the log has."""
    path: str
    """The route of the model or version, without `/infer`."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to compare."""

    tolerance: Tolerance = Tolerance()
    outputs: tuple[str, ...] = ()
    """Those that are compared; empty: all that either answers."""
    concurrency: int = 1
    """Pairs in flight. More than 1 is faster, and says less of latency."""
    limit: int = 0
    """Requests at most; 0: all."""
    examples: int = 10
    """Differences that are kept, the worst and earliest."""
    timeout_seconds: float = 60.0
    headers: Mapping[str, str] = MappingProxyType({})


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of the pairs that both answered, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one side that ended with the same error."""

    side: str
    """`A` or `B`."""
    message: str
    count: int
    line: int
    """The first of them."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the two answer differently."""

    line: int
    id: str
    request: str
    """How its inputs begin."""
    outputs: tuple[OutputDifference, ...] = ()
    error_a: str = ""
    error_b: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the replay found. A request on which one side fails is one on which they do not agree; one on which both
    fail is not counted.
    """

    a: str
    b: str
    requests: int
    """Asked."""
    compared: int
    agreed: int
    agreement: float
    """`agreed` / `compared`; 0 where nothing was compared."""
    agreement_interval: tuple[float, float]
    """At 95 % confidence (Wilson), for traffic like this."""
    rows: int
    rows_differing: int
    failed_a: int
    """Requests that only A failed on."""
    failed_b: int
    failed_both: int
    refused: int
    """Lines that are no request."""
    refusals: tuple[str, ...]
    """Why, for the first few."""
    seconds: float
    latency_a: Latency | None
    """None: nothing was answered, or it was recorded."""
    latency_b: Latency | None
    ratio: tuple[float, float, float] | None
    """Median of B's time over A's, pair by pair, and its interval at 95 % confidence."""
    outputs: tuple[OutputReport, ...]
    failures: tuple[Failures, ...]
    examples: tuple[Example, ...]
    tolerance: Tolerance
    milliseconds_a: tuple[float, ...] = ()
    """Of each pair that both answered; for plots."""
    milliseconds_b: tuple[float, ...] = ()


def side_of(text: str, *, url: str) -> Side:
    """What is asked: `NAME`, `NAME@VERSION`, `NAME.pipeline`, or `http://host:port/v2/models/NAME[/versions/VERSION]`.

    `recorded` asks nobody: it stands for the answers that the log has.

    Args:
        text: One of these.
        url: The server of names without one.

    Raises:
        InvalidRequest: it is none of these.
    """
    if text == RECORDED:
        return Side(text, None, "")
    if "://" in text:
        place, _, query = text.partition("?")
        scheme, _, rest = place.partition("://")
        host, slash, path = rest.partition("/")
        found = _PATH.fullmatch(f"{slash}{path}")
        if query or found is None:
            raise InvalidRequest(f"expected http://host:port/v2/models/NAME[/versions/VERSION], got {text!r}")
        target = target_of(f"{scheme}://{host}{found['prefix']}")
        return Side(text, target, model_path(unquote(found["name"]), unquote(found["version"] or "")))
    name, at, version = text.partition("@")
    if not name or (at and not version):
        raise InvalidRequest(f"expected NAME, NAME@VERSION or the URL of a model, got {text!r}")
    return Side(text, target_of(url), model_path(name, version))


def run(
    source: AsyncIterator[tuple[int, bytes]] | Iterable[bytes],
    a: Side,
    b: Side,
    options: Options,
    *,
    report: Callable[[int, int], None] | None = None,
) -> Report:
    """Ask both every request of the source, and say what differs.

    Args:
        source: Lines of a log (`batch.Source.lines`), or texts that are one request each.
        a: What is there.
        b: What is compared with it.
        options: How.
        report: Called after each request with the number of requests, and of those they do not agree on.

    Raises:
        ModelNotFound: a server does not have one of them.
        ModelNotReady: one of them cannot be asked now.
        Unreachable: no server answers, at the start.
        InvalidRequest: the source cannot be read.
    """
    import uvloop

    replay = _Replay(source, (a, b), options, report)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(replay.run())


class _Answer(msgspec.Struct, frozen=True):
    seconds: float | None
    """None: it was recorded."""
    response: InferenceResponse | None = None
    error: str = ""


class _Replay:
    def __init__(
        self,
        source: AsyncIterator[tuple[int, bytes]] | Iterable[bytes],
        sides: tuple[Side, Side],
        options: Options,
        report: Callable[[int, int], None] | None,
    ) -> None:
        self._source = source if isinstance(source, AsyncIterator) else _numbered(source)
        self._sides, self._options, self._report = sides, options, report
        self._reading = asyncio.Lock()
        self._headers = header_lines({"Content-Type": "application/json", **options.headers})
        self._tally = Tally(options.tolerance, options.outputs)
        self._asked = self._both = self._agreed = self._refused = self._rows = self._rows_differing = 0
        self._failed: Counter[tuple[bool, bool]] = Counter()
        self._refusals: list[str] = []
        self._failures: dict[tuple[str, str], Failures] = {}
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._examples: list[tuple[float, int, Example]] = []

    async def run(self) -> Report:
        begun = time.perf_counter()
        workers = max(1, self._options.concurrency)
        channels = [
            [
                None if side.target is None else Channel(side.target, timeout_seconds=self._options.timeout_seconds)
                for side in self._sides
            ]
            for _ in range(workers)
        ]
        try:
            for side, channel in zip(self._sides, channels[0], strict=True):
                await _greet(side, channel)
            async with asyncio.TaskGroup() as group:
                for each in channels:
                    group.create_task(self._work(each))
        except* HeadraceError as errors:  # one is enough to say
            raise errors.exceptions[0] from None
        finally:
            for channel in (one for pair in channels for one in pair if one is not None):
                channel.close()
        return self._summary(time.perf_counter() - begun)

    async def _work(self, channels: Sequence[Channel | None]) -> None:
        if self._options.concurrency > 1:  # connecting is no part of a latency
            for side, channel in zip(self._sides, channels, strict=True):
                await _greet(side, channel)
        while (found := await self._next()) is not None:
            number, exchange = found
            body = lines.render(exchange.request)
            first = number % 2
            one = await self._ask(first, channels[first], body, exchange.answer)
            two = await self._ask(1 - first, channels[1 - first], body, exchange.answer)
            self._settle(exchange.request, *((two, one) if first else (one, two)))

    async def _next(self) -> tuple[int, Recorded] | None:
        """The next request and its number among them; None at the end."""
        async with self._reading:
            while not self._options.limit or self._asked < self._options.limit:
                try:
                    index, text = await anext(self._source)
                except StopAsyncIteration:
                    return None
                try:
                    found = recorded.parse(index, text)
                except InvalidRequest as exc:
                    self._refused += 1
                    if len(self._refusals) < _REFUSED_KEPT:
                        self._refusals.append(str(exc))
                    continue
                if found is not None:
                    self._asked += 1
                    return self._asked - 1, found
            return None

    async def _ask(self, which: int, channel: Channel | None, body: bytes, answered: bytes) -> _Answer:
        if channel is None:
            return _recorded(answered)
        begun = time.perf_counter()
        try:
            answer = await channel.post(f"{self._sides[which].path}/infer", [body], self._headers)
            seconds = time.perf_counter() - begun
            if answer.status >= 400:
                return _Answer(seconds, error=f"{answer.status}: {error_text(answer.body)}")
            length = answer.headers.get("inference-header-content-length")
            response = tensors.parse(bytearray(answer.body), None if length is None else int(length))
        except HeadraceError as exc:  # a time-out, a broken connection, an answer that is none: one side's failure
            return _Answer(time.perf_counter() - begun, error=str(exc))
        return _Answer(seconds, response)

    def _settle(self, line: Line, a: _Answer, b: _Answer) -> None:
        """Note what both answered to one request."""
        for side, answer in (("A", a), ("B", b)):
            if answer.error:
                self._count_failure(side, answer.error, line.index)
        difference = PairDifference(outputs=(), rows=0, rows_differing=0)
        if a.response is not None and b.response is not None:
            self._both += 1
            for seconds, answer in zip(self._seconds, (a, b), strict=True):
                if answer.seconds is not None:
                    seconds.append(answer.seconds)
            difference = self._tally.add(line.index, a.response, b.response)
            self._rows += difference.rows
            self._rows_differing += difference.rows_differing
            self._agreed += not difference.outputs
        else:
            self._failed[a.response is None, b.response is None] += 1
        if difference.outputs or (a.response is None) != (b.response is None):
            self._keep(line, difference, a, b)
        if self._report is not None:
            self._report(self._asked, self._asked - self._agreed - self._failed[True, True])

    def _count_failure(self, side: str, message: str, index: int) -> None:
        known = self._failures.get((side, message))
        if known is not None:
            self._failures[side, message] = msgspec.structs.replace(known, count=known.count + 1)
        elif len(self._failures) < _FAILURES_KEPT:
            self._failures[side, message] = Failures(side=side, message=message, count=1, line=index)

    def _keep(self, line: Line, difference: PairDifference, a: _Answer, b: _Answer) -> None:
        """Keep it as an example if it is among the worst; of equals, the earlier."""
        weight = max((output.weight for output in difference.outputs), default=math.inf)
        if not self._options.examples:
            return
        key = (weight, -line.index)
        if len(self._examples) >= self._options.examples and key <= self._examples[0][:2]:
            return
        example = Example(
            line=line.index,
            id=line.id if "id" in line.fields else "",
            request=_excerpt(bytes(line.fields["inputs"])),
            outputs=difference.outputs,
            error_a=a.error,
            error_b=b.error,
        )
        heapq.heappush(self._examples, (*key, example))
        if len(self._examples) > self._options.examples:
            heapq.heappop(self._examples)

    def _summary(self, seconds: float) -> Report:
        both = self._failed[True, True]
        compared = sum(self._failed.values()) - both + self._both
        of_a, of_b = ([1000 * each for each in values] for values in self._seconds)
        worst_first = sorted(self._examples, key=lambda each: (-each[0], -each[1]))
        ratios = [y / x for x, y in zip(of_a, of_b, strict=False) if x > 0]  # one side may be recorded
        return Report(
            a=self._sides[0].label,
            b=self._sides[1].label,
            requests=self._asked,
            compared=compared,
            agreed=self._agreed,
            agreement=self._agreed / compared if compared else 0.0,
            agreement_interval=wilson(self._agreed, compared),
            rows=self._rows,
            rows_differing=self._rows_differing,
            failed_a=self._failed[True, False],
            failed_b=self._failed[False, True],
            failed_both=both,
            refused=self._refused,
            refusals=tuple(self._refusals),
            seconds=seconds,
            latency_a=_latency(of_a),
            latency_b=_latency(of_b),
            ratio=median_interval(ratios) if ratios else None,
            outputs=self._tally.report(),
            failures=tuple(self._failures.values()),
            examples=tuple(example for _, _, example in worst_first),
            tolerance=self._options.tolerance,
            milliseconds_a=tuple(of_a),
            milliseconds_b=tuple(of_b),
        )


def _recorded(answer: bytes) -> _Answer:
    if not answer:
        return _Answer(None, error="the line has no answer")
    try:
        return _Answer(None, tensors.parse(bytearray(answer), None))
    except HeadraceError as exc:
        return _Answer(None, error=str(exc).replace("the server's answer", "the recorded answer"))


async def _greet(side: Side, channel: Channel | None) -> None:
    """Connect, and find out that it is there."""
    if channel is None:
        return
    answer = await channel.get(f"{side.path}/ready")
    if answer.status == 404:
        raise ModelNotFound(f"{side.label}: {error_text(answer.body)}")
    if answer.status >= 400:
        raise ModelNotReady(f"{side.label}: {error_text(answer.body) or 'it is not ready'}")


async def _numbered(texts: Iterable[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    for index, text in enumerate(texts):
        yield index, text


def _latency(milliseconds: list[float]) -> Latency | None:
    if not milliseconds:
        return None
    p50, p90, p95, p99 = map(float, np.percentile(milliseconds, (50, 90, 95, 99)))
    return Latency(mean=float(np.mean(milliseconds)), p50=p50, p90=p90, p95=p95, p99=p99, max=max(milliseconds))


def _excerpt(text: Any) -> str:
    shown = bytes(text[: _EXCERPT + 1]).decode("utf-8", "replace")
    return shown if len(text) <= _EXCERPT else f"{shown[: _EXCERPT - 3]}..."
