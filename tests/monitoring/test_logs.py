"""Log lines, read back from a real stream."""

from __future__ import annotations

import io
import json
import logging

import pytest

from headrace.monitoring import logs


@pytest.fixture
def logger():
    """Our logger, given back as it was."""
    root = logging.getLogger("headrace")
    before = root.handlers[:], root.level, root.propagate
    yield root
    root.handlers[:], root.level, root.propagate = before


def lines(logger, style, write):
    logs.configure(style=style, level="info")
    stream = io.StringIO()
    logger.handlers[0].setStream(stream)
    write(logging.getLogger("headrace.somewhere"))
    return stream.getvalue()


def test_a_json_line_is_json_with_the_requests_id(logger):
    """Quotes and newlines in a message, an exception and the request's id all survive as JSON."""

    def write(log):
        token = logs.request_id.set("r-1")
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            log.exception('it said "no"\nand left', extra={"fields": {"model": "m"}})
        logs.request_id.reset(token)

    line = json.loads(lines(logger, "json", write))
    assert line["message"] == 'it said "no"\nand left'
    assert (line["request_id"], line["model"], line["level"]) == ("r-1", "m", "error")
    assert "ZeroDivisionError" in line["exception"]


def test_a_text_line_names_the_request_only_when_there_is_one(logger):
    """Text lines end in the request's id while a request is being answered, and are bare otherwise."""

    def write(log):
        log.info("bare")
        token = logs.request_id.set("r-2")
        log.info("dressed")
        logs.request_id.reset(token)

    bare, dressed = lines(logger, "text", write).splitlines()
    assert bare.endswith("bare")
    assert dressed.endswith("dressed  request_id=r-2")


def test_lines_below_the_level_are_not_written(logger):
    """Level info hides debug lines."""
    assert lines(logger, "text", lambda log: log.debug("hidden")) == ""
