"""Real Kafka brokers for tests: pytest loads this file as a plug-in.

`kafka` is a broker started from a package, or the cluster that `HEADRACE_TEST_KAFKA` names (bootstrap servers): tests
must hold on both, so each makes topics and groups of its own names (`topic`), and none counts on a stand-in's quirks.
`mock_kafka` is librdkafka's own mock cluster: a real TCP port, without transactions and administration, but with
KIP-848 and cooperative rebalancing.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_START_SECONDS = 120.0
_RANDOM = random.SystemRandom()  # which no seed of a test makes repeat itself


class Broker:
    """A broker in a process of its own, behind a relay: `start`, `kill` and `start` again on the same port and files.

    Args:
        folder: For its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port, self._behind = free_port(), free_port()

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def unrelayed(self) -> str:
        """The same past the relay, which takes a part of a core where much is sent: for measurements."""
        return f"127.0.0.1:{self._behind}"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        import noida_db

        binary = Path(noida_db.__file__).with_name("noida-db")
        binary.chmod(0o755)
        self._folder.mkdir(parents=True, exist_ok=True)
        behind = str(self._behind)
        server = [
            str(binary),
            "start",
            "--only",
            "kafka",
            "--kafka-port",
            behind,
            "--data-dir",
            str(self._folder / "d"),
        ]
        relay = [sys.executable, "-I", "-S", str(Path(__file__).with_name("relay.py")), str(self.port), behind]
        with (self._folder / "log").open("ab") as log:
            for command, port in ((server, self._behind), (relay, self.port)):
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
                self._processes.append(process)
                wait_for_port(port, process=process)

    def stop(self) -> None:
        """End it as whoever runs it would. What it took is there at the next start, which a crash does not promise."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would. The stand-in then forgets what it took in the last second or two."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        for process in self._processes:  # the broker first: what it answers as it ends is heard
            process.send_signal(how)
            process.wait(_START_SECONDS)
        self._processes.clear()


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to whoever connects: while nobody listens yet,
    or no more, a client that tries again and again would else take it itself one day.
    """
    while True:
        port = _RANDOM.randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_for_port(
    port: int, seconds: float = _START_SECONDS, *, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Return once something takes connections there.

    Args:
        port: Of this machine.
        seconds: It may take.
        process: Whose port it is; None: nobody's that can be looked at.

    Raises:
        TimeoutError: nothing did, or the process has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process is not None and process.poll() is not None:
                raise TimeoutError(f"{process.args!r} ended with {process.returncode}") from None
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on port {port} after {seconds:g} s") from None
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a broker that has everything: transactions, administration, lag."""
    given = os.environ.get("HEADRACE_TEST_KAFKA", "")
    if given:
        yield given
        return
    pytest.importorskip("noida_db")
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    try:
        yield broker.bootstrap
    finally:
        broker.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker of the test's own, started, to kill and start again. Never a cluster that somebody gave."""
    pytest.importorskip("noida_db")
    own = Broker(tmp_path / "broker")
    own.start()
    try:
        yield own
    finally:
        own.kill()


@pytest.fixture
def mock_kafka() -> Iterator[str]:
    """Bootstrap servers of librdkafka's mock cluster: topics are made when they are first used, with 4 partitions."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    holder: Any = confluent_kafka.Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1})
    brokers = holder.list_topics(timeout=60).brokers.values()
    yield ",".join(f"{each.host}:{each.port}" for each in brokers)
    del holder


@pytest.fixture
def topic() -> str:
    """A name that no other test has: for topics, and their prefixes, and groups."""
    return f"t-{uuid.uuid4().hex[:12]}"
