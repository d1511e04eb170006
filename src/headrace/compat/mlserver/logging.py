"""The logger that model code writes to: a standard one, named `mlserver`."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
from logging import StreamHandler
from pathlib import Path
from typing import Any, Dict, Optional, Union

from .context import model_name_var, model_version_var
from .settings import Settings

LoggerName = "mlserver"
_STREAM_HANDLER_NAME = "stdout_stream_handler"

logger = logging.getLogger(LoggerName)


def get_logger() -> logging.Logger:
    """The logger."""
    return logger


class ModelLoggerFormatter(logging.Formatter):
    """Lines that name the model at work."""

    def __init__(self, settings: Optional[Settings]) -> None:
        super().__init__("%(asctime)s [%(name)s]%(model)s %(levelname)s - %(message)s")
        self.use_structured_logging = settings is not None and settings.use_structured_logging

    def format(self, record: logging.LogRecord) -> str:
        """A line of text, or a line of JSON where structured logging is on."""
        name = model_name_var.get("")
        version = model_version_var.get("")
        if not self.use_structured_logging:
            record.model = f"[{name}:{version}]" if name and version else f"[{name}]" if name else ""
            return super().format(record)
        line: Dict[str, Any] = {
            "time": self.formatTime(record),
            "name": record.name,
            "level": record.levelname,
            "message": record.getMessage(),
        }
        if name:
            line["model_name"] = name
        if version:
            line["model_version"] = version
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def apply_logging_file(logging_settings: Union[str, Dict[str, Any]]) -> None:
    """Configure logging by a mapping, a JSON file of one, or a file as of `logging.config.fileConfig`."""
    if isinstance(logging_settings, dict):
        logging.config.dictConfig(logging_settings)
    elif os.path.isfile(logging_settings) and Path(logging_settings).suffix == ".json":
        logging.config.dictConfig(json.loads(Path(logging_settings).read_text(encoding="utf-8")))
    else:
        logging.config.fileConfig(fname=logging_settings, disable_existing_loggers=False)


def configure_logger(settings: Optional[Settings] = None) -> logging.Logger:
    """Let the logger write to standard output. The server configures its own; this is for programs that ask."""
    handler = next((handler for handler in logger.handlers if handler.name == _STREAM_HANDLER_NAME), None)
    if handler is None:
        handler = StreamHandler(sys.stdout)
        handler.set_name(_STREAM_HANDLER_NAME)
        logger.addHandler(handler)
    handler.setFormatter(ModelLoggerFormatter(settings))
    logger.setLevel(logging.DEBUG if settings is not None and settings.debug else logging.INFO)
    if settings is not None and settings.logging_settings:
        apply_logging_file(settings.logging_settings)
    return logger
