"""Processes of the server's own: messages there and back, over a real socket, and the end of either side."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace import child

ECHO = """
import time
from headrace.child import Channel

channel = Channel.of_arguments()
for message in channel:
    if message.get("hang"):
        time.sleep(600)
    channel.send(message)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A program that sends back what it gets."""
    (tmp_path / "echo_child.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    return "echo_child"


class Got:
    """Messages as they come."""

    def __init__(self):
        self.queue = asyncio.Queue()

    def __call__(self, message):
        self.queue.put_nowait(message)

    async def one(self):
        return await asyncio.wait_for(self.queue.get(), 30)


@given(
    arrays.arrays(
        arrays.scalar_dtypes().filter(lambda dtype: dtype.kind in "biuf" and dtype.isnative),
        arrays.array_shapes(min_dims=0),
    )
)
def test_an_array_crosses_as_it_is(array):
    """Dtype, shape and every byte of an array of numbers are the same on the other side."""
    (back,) = child.unpack(child.pack({"x": array})[4:]).values()
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(st.lists(st.binary(max_size=4) | st.text(max_size=4), max_size=4))
def test_bytes_and_text_cross_in_an_array(items):
    """An array of objects keeps bytes bytes and text text."""
    array = np.empty(len(items), object)
    array[:] = items
    assert child.unpack(child.pack({"x": array})[4:])["x"].tolist() == items


def test_what_cannot_cross_is_told():
    """A value that is no JSON, bytes or array is named."""
    with pytest.raises(NotImplementedError, match="a message cannot carry object"):
        child.pack({"x": object()})


async def test_messages_come_back_in_order(echo):
    """A child gets each message whole and in order, large ones too."""
    got = Got()
    link = await child.Link.open(echo, got)
    large = np.arange(300_000, dtype=np.float64)
    for number in range(20):
        assert link.send({"number": number, "x": large[: number * 10_000]})
    for number in range(20):
        message = await got.one()
        assert message["number"] == number
        assert np.array_equal(message["x"], large[: number * 10_000])
    await link.close()
    assert await link.ended == "exited with code 0"
    assert not link.send({"late": True})


def test_the_servers_own_loop_has_children_too(echo):
    """On uvloop, whose transports are not asyncio's, messages come back as on asyncio's loop."""

    async def exchange():
        got = Got()
        link = await child.Link.open(echo, got)
        link.send({"number": 1})
        message = await got.one()
        await link.close()
        return message, await link.ended

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(exchange()) == ({"number": 1}, "exited with code 0")


async def test_a_child_that_is_killed_is_told_of(echo):
    """The end of the process is known with its cause, whatever it was doing."""
    got = Got()
    link = await child.Link.open(echo, got)
    link.send({"number": 1})
    await got.one()
    os.kill(link.pid, signal.SIGKILL)
    assert await asyncio.wait_for(link.ended, 30) == "was ended by signal SIGKILL"


async def test_a_child_that_hangs_is_ended(echo):
    """Closing waits no longer than its grace for a child that does not read."""
    link = await child.Link.open(echo, Got())
    link.send({"hang": True})
    await link.close(grace_seconds=0.2)
    assert await link.ended == "was ended by signal SIGKILL"


async def test_more_than_a_child_can_read_is_refused(echo):
    """While a child is far behind, messages are refused, not kept."""
    link = await child.Link.open(echo, Got())
    link.send({"hang": True})
    sent = 0
    while link.send({"x": bytes(4 << 20)}):
        sent += 1
        assert sent < 40
    assert link.is_full
    await link.close(grace_seconds=0.1)


async def test_a_child_ends_with_its_parent(echo, tmp_path):
    """A parent that is killed takes its child along."""
    code = (
        "import asyncio, sys, json\n"
        "from headrace.child import Link\n"
        "async def main():\n"
        "    link = await Link.open('echo_child', lambda message: print(json.dumps({'pid': link.pid}), flush=True))\n"
        "    link.send({'hello': 1})\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join(sys.path)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    pid = json.loads(await parent.stdout.readline())["pid"]
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(60):
        while _is_alive(pid):
            await asyncio.sleep(0.02)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_must_not_be_missed_waits_for_a_child_that_is_behind(echo):
    """A message that waits comes, in its place, when a child that was too far behind for others goes on."""
    got = Got()
    link = await child.Link.open(echo, got)
    link.send({"number": -1})
    await got.one()
    os.kill(link.pid, signal.SIGSTOP)
    sent = 0
    while link.send({"number": sent, "x": bytes(8 << 20)}):
        sent += 1
    assert link.send({"number": sent}, waits=True)
    os.kill(link.pid, signal.SIGCONT)
    assert [(await got.one())["number"] for _ in range(sent + 1)] == list(range(sent + 1))
    await link.close()


async def test_nothing_is_sent_to_a_child_that_is_being_ended(echo):
    """While a child finishes, a message to it is refused, not an error."""
    link = await child.Link.open(echo, Got())
    link.send({"hang": True})
    closing = asyncio.create_task(link.close(grace_seconds=0.2))
    await asyncio.sleep(0)
    assert not link.is_open
    assert not link.send({"number": 1}, waits=True)
    await closing
