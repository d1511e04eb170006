"""A process that answers each message with itself: what tests of consumer groups end by force."""

from __future__ import annotations

import asyncio
import json
import sys

from headrace.brokers.base import Outgoing
from headrace.brokers.counts import PumpCounts
from headrace.brokers.pump import Pump
from headrace.brokers.settings import KafkaSettings


async def main(given):
    async def handle(record):
        await asyncio.sleep(0)
        return [Outgoing(given["output"], record.value, record.key)]

    settings = KafkaSettings(**{name: tuple(v) if isinstance(v, list) else v for name, v in given["settings"].items()})
    pump = Pump(settings, topics=[given["input"]], group=given["group"], handle=handle, counts=PumpCounts())
    await pump.start()
    while not pump.assignment:
        await asyncio.sleep(0.01)
    sys.stdout.write("reading\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await pump.stop(10)


asyncio.run(main(json.loads(sys.argv[1])))
