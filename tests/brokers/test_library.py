"""What is said where the broker's library is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys
from importlib.abc import MetaPathFinder


class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "confluent_kafka":
            raise ModuleNotFoundError(f"No module named {name!r}", name="confluent_kafka")


sys.meta_path.insert(0, Blocked())
"""
WAYS = {
    "server": """
import asyncio
from headrace.app import App
from headrace.brokers.settings import KafkaSettings
asyncio.run(App._listen_to_kafka(object(), KafkaSettings()))
""",
    "sink": """
from headrace.monitoring.sinks.registry import open_sink
open_sink("kafka://b:1/t", setting="payloads.path")
""",
    "watch": """
import threading
from headrace.brokers.settings import KafkaSettings
from headrace.lifecycle.watch.sources import KafkaSource
KafkaSource(KafkaSettings(), topics=["t"], group="g").read(print, threading.Event(), once=True)
""",
    "pipeline": """
from headrace.local import durable
durable._library("producer")
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_who_needs_the_library_says_what_to_install(way):
    """Without confluent-kafka each way to Kafka ends with MissingExtra and the command that installs it."""
    done = subprocess.run([sys.executable, "-c", BLOCKED + WAYS[way]], capture_output=True, text=True, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("headrace.errors.MissingExtra: ")
    assert last.endswith("run: pip install 'headrace[kafka]'")
