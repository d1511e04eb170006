"""Log lines as text for people or JSON for machines, each with the request's id where there is one.

`configure` is called once, by `app.py`, in the server's process; importing Headrace configures nothing. A configuration
of the user's own may name the two forms: `{"()": "headrace.monitoring.logs.JsonLines"}` is one of its formatters.
"""

from __future__ import annotations

import contextvars
import json
import logging
import logging.config
import sys
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from headrace.errors import SettingsError

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("headrace_request_id", default="")
"""The id of the request that the current task answers."""

_KEY: Final = "log.config_file"
_OURS: Final = ("headrace", "mlserver")
"""Loggers whose lines have the level that is set: ours, and the one that runtimes written for MLServer log to. All
others are libraries', written from Python's own level on: warnings."""
_PLAIN: Final = orjson.OPT_NON_STR_KEYS


class TextLines(logging.Formatter):
    """Time, level, logger, message, and the request's id; in a process of a model's own, the model first."""

    def __init__(self, model: str = "") -> None:
        model = f"[{model.replace('%', '%%')}] " if model else ""
        super().__init__(f"%(asctime)s %(levelname)-7s {model}%(name)s  %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line without an exception, which follows it."""
        line = super().formatMessage(record)
        current = getattr(record, "request_id", "") or request_id.get()
        return f"{line}  request_id={current}" if current else line


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever was logged: time, level, logger, message, then what there is of the rest.

    The rest is `model` in a process of a model's own, `request_id`, `exception`, `stack`, and the `fields` of
    `extra={"fields": {...}}`, which cannot take the names of the others.
    """

    def __init__(self, model: str = "") -> None:
        super().__init__()
        self._model = model

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that are not those of the message
            message = f"{record.msg} {record.args!r}"
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if self._model:
            line["model"] = self._model
        current = getattr(record, "request_id", "") or request_id.get()
        if current:
            line["request_id"] = current
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        fields = getattr(record, "fields", {})
        try:
            return orjson.dumps({**fields, **line} if fields else line, default=str, option=_PLAIN).decode()
        except Exception:  # noqa: BLE001 - what users' objects raise when they are shown; the line must not be lost
            return orjson.dumps({_text(key): _simple(value) for key, value in {**fields, **line}.items()}).decode()


def _simple(value: Any) -> str | float | None:
    if value is None or isinstance(value, float) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
        return value
    return _text(value)


def _text(value: Any) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - the same
        text = f"<{type(value).__name__} that cannot be shown>"
    return text.encode("utf-8", "backslashreplace").decode()


def configure(*, style: Literal["auto", "text", "json"] = "auto", level: str = "info", config: str = "") -> None:
    """Send log lines to standard error, or where a configuration of the user's own says.

    Args:
        style: `auto` is text on a terminal and JSON elsewhere.
        level: `debug`, `info`, `warning` or `error`.
        config: In place of both: the path of a JSON file (`.json`) or the JSON object itself, for
            `logging.config.dictConfig`; or the path of another file, for `fileConfig`. Where it says nothing of
            `headrace`, Headrace's lines go where it sends those of `mlserver`, else to its root logger.

    Raises:
        SettingsError: the configuration cannot be read or used; the text names the file and what is wrong.
    """
    if config:
        _configure_by(config)
        return
    handler = logging.StreamHandler(sys.stderr)
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextLines() if text else JsonLines())
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.getLogger().handlers[:] = [handler]  # so that what libraries say has the same form
    logging.captureWarnings(not text)  # the same for Python's warnings, which are readable as text already


def of_worker(model: str, *, style: Literal["auto", "text", "json"], level: str, config: str) -> dict[str, Any]:
    """The same configuration for `logging.config.dictConfig` in a process of a model's own.

    Args:
        model: Whose process; each line names it.
        style: As of `configure`.
        level: As of `configure`.
        config: As of `configure`; a file for `fileConfig` says nothing of other processes, so those use the rest.
    """
    if config and (config.lstrip().startswith("{") or Path(config).suffix == ".json"):
        text = config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")
        return {"version": 1, "disable_existing_loggers": False, **json.loads(text)}
    text_style = style == "text" or (style == "auto" and sys.stderr.isatty())
    form = f"{__name__}.{(TextLines if text_style else JsonLines).__name__}"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": form, "model": model}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level.upper()} for name in _OURS},
    }


def _configure_by(config: str) -> None:
    where = f"{_KEY} {config}"
    ours, theirs = (logging.getLogger(name) for name in _OURS)
    for logger in (ours, theirs):
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    try:
        if config.lstrip().startswith("{"):
            where = f"{_KEY} (JSON text)"
            _configure_by_object(config)
        elif Path(config).suffix == ".json":
            _configure_by_object(Path(config).read_text(encoding="utf-8"))
        else:
            Path(config).read_bytes()  # fileConfig passes over a file that it cannot open
            logging.config.fileConfig(config, disable_existing_loggers=False, encoding="utf-8")
    except OSError as exc:
        raise SettingsError(
            f"{where}: cannot be read: {exc.strerror or exc}; name a file that this user can read"
        ) from exc
    except (
        Exception
    ) as exc:  # the file names classes and arguments of any kind, and logging lets through what they raise
        raise SettingsError(f"{where}: {_reason(exc)}") from exc
    if not ours.handlers and ours.level == logging.NOTSET and (theirs.handlers or theirs.level):
        ours.handlers[:] = theirs.handlers
        ours.setLevel(theirs.level)
        ours.propagate = theirs.propagate


def _configure_by_object(text: str) -> None:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object for logging.config.dictConfig, got {type(found).__name__}")  # noqa: TRY004
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **found})


def _reason(error: Exception) -> str:
    """What is wrong, from logging's error and the one behind it, which says more."""
    if isinstance(error, KeyError):
        return f"section or key {error} is missing"
    reasons = [str(error) or type(error).__name__]
    if error.__cause__ is not None and str(error.__cause__) not in reasons[0]:
        reasons.append(str(error.__cause__))
    return ": ".join(" ".join(reason.split()) for reason in reasons)
