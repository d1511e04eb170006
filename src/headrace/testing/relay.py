"""A relay before a Kafka broker that answers fetches at once when there is nothing to fetch: it lets those wait a
little, as brokers do. Clients ask again without a pause: an idle one and such a broker would take most of a core.
`testing.brokers` runs it as a program: relay.py PORT BEHIND.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
from typing import Final

_FETCH: Final = 1
_WAIT_SECONDS: Final = 0.01
_SMALL_BYTES: Final = 1000
"""A fetch with so few bytes is answered after the wait: it may be empty."""
_LARGEST_BYTES: Final = 64 << 10
"""Of an answer that may name the broker's address."""
_HOST: Final = b"127.0.0.1"


class Relay:
    """One connection to the broker for each of ours.

    Args:
        port: Ours; it is given for the broker's wherever the broker says where it is.
        behind: The broker's.
    """

    def __init__(self, port: int, behind: int) -> None:
        self._port, self._behind = port, behind
        ours, theirs = (_HOST + struct.pack(">i", number) for number in (port, behind))
        self._ours, self._theirs = ours, theirs

    async def serve(self) -> None:
        """Take connections until cancelled."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, limit=1 << 20)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fetches: set[bytes] = set()
        with contextlib.suppress(OSError):  # one of the two ended: the other is closed below
            behind, to_broker = await asyncio.open_connection("127.0.0.1", self._behind, limit=1 << 20)
            ways = {
                asyncio.create_task(self._ask(reader, to_broker, fetches)),
                asyncio.create_task(self._answer(behind, writer, fetches)),
            }
            _, other = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for each in other:
                each.cancel()
            to_broker.close()
        writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fetches: set[bytes]) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the connection ended
            while True:
                size = await reader.readexactly(4)
                frame = await reader.readexactly(int.from_bytes(size))
                if int.from_bytes(frame[:2]) == _FETCH:
                    fetches.add(frame[4:8])
                writer.write(size + frame)
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fetches: set[bytes]) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the connection ended
            while True:
                size = await reader.readexactly(4)
                frame = await reader.readexactly(int.from_bytes(size))
                if frame[:4] in fetches:
                    fetches.discard(frame[:4])
                    if len(frame) < _SMALL_BYTES:
                        await asyncio.sleep(_WAIT_SECONDS)
                elif len(frame) < _LARGEST_BYTES:
                    frame = frame.replace(self._theirs, self._ours)
                writer.write(size + frame)
                await writer.drain()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # of a terminal, with the tests
        asyncio.run(Relay(int(sys.argv[1]), int(sys.argv[2])).serve())
