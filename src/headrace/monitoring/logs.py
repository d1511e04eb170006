"""Log lines as text for people or JSON for machines, each with the request's id where there is one.

`configure` is called once, by `app.py`, in the server's process; importing Headrace configures nothing.
"""

from __future__ import annotations

import contextvars
import logging
import sys
from typing import Literal

import orjson

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("headrace_request_id", default="")
"""The id of the request that the current task answers."""


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        current = getattr(record, "request_id", "") or request_id.get()
        return f"{line}  request_id={current}" if current else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = getattr(record, "request_id", "") or request_id.get()
        if current:
            line["request_id"] = current
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        line.update(getattr(record, "fields", {}))
        return orjson.dumps(line, default=str).decode()


def configure(*, style: Literal["auto", "text", "json"] = "auto", level: str = "info") -> None:
    """Send Headrace's log lines to standard error.

    Args:
        style: `auto` is text on a terminal and JSON elsewhere.
        level: `debug`, `info`, `warning` or `error`.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Text() if text else _Json())
    root = logging.getLogger("headrace")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
