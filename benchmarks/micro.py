"""Costs in process, without a socket: one step of the walk at a time.

Usage: benchmarks/.work/headrace/bin/python benchmarks/micro.py

Each figure is the best of several repeats, in microseconds: what the step costs when nothing disturbs it. Requests are
not merged here, so that a step ends where it began; merging waits for the end of the loop's turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import uvloop

from headrace.app import App
from headrace.protocols import v2_rest
from headrace.server.http import HttpRequest, _Connection
from headrace.serving import discovery
from headrace.serving.batching import Batching
from headrace.settings import GrpcSettings, HttpSettings, MetricsSettings, Settings

WORK = Path(__file__).parent / ".work"
HEAD = (
    b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


class Pipe:
    """A transport that keeps nothing."""

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...


def show(name: str, step: Callable[[], object], number: int = 5000) -> None:
    print(f"{name:34} {min(timeit.repeat(step, number=number, repeat=15)) / number * 1e6:7.2f}")


def finish(coroutine) -> object:
    with contextlib.suppress(StopIteration):
        coroutine.send(None)
    return None


async def main() -> None:
    body = (WORK / "bodies" / "iris.json").read_bytes()
    settings = Settings(http=HttpSettings(port=0), grpc=GrpcSettings(port=0), metrics=MetricsSettings(port=0))
    app = App(
        settings,
        discovery.discover([str(WORK / "models" / "iris")], overrides={"batching": Batching(max_batch_size=1)}),
    )
    await app.start()
    served = app.models.route("iris")
    request = v2_rest.parse(body, model_name="iris", deadline=time.monotonic() + 3600)
    response = await served.infer(request)
    rest = app._http.handler
    asked = HttpRequest(
        b"POST", b"/v2/models/iris/infer", {"content-type": "application/json"}, body, time.monotonic() + 3600
    )
    connection = _Connection(app._http)
    connection.connection_made(Pipe())
    wire = HEAD % len(body) + body
    engine = served.infer
    show("route", lambda: app.models.route("iris"))
    show("parse", lambda: v2_rest.parse(body, model_name="iris", deadline=1.0))
    show("infer: decode, predict, encode", lambda: finish(engine(request)))
    show("render", lambda: v2_rest.render(request, response))
    show("the REST handler, all of these", lambda: finish(rest(asked)))
    show("bytes in, bytes out", lambda: connection.data_received(wire))
    connection.connection_lost(None)
    await app.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
