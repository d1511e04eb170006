"""Log lines, read back from a real stream."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import warnings

import pytest

from headrace.errors import SettingsError
from headrace.monitoring import logs


@pytest.fixture(autouse=True)
def logger():
    """Our logger; all that `configure` may touch is given back as it was."""
    loggers = [logging.getLogger(name) for name in ("headrace", "mlserver", "other", None)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield loggers[0]
    for each, handlers, level, propagate in before:
        each.handlers[:], each.level, each.propagate = handlers, level, propagate
    logging.captureWarnings(capture=False)


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


class Unshowable:
    """Raises when it is shown."""

    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("message", "arguments", "fields"),
    [
        pytest.param("%d rows", ("seven",), {}, id="arguments of another kind"),
        pytest.param("%s and %s", ("one",), {}, id="too few arguments"),
        pytest.param("none", ("one",), {}, id="too many arguments"),
        pytest.param("half a pair: \ud800", (), {}, id="text that is no UTF-8"),
        pytest.param(
            "", (), {"big": 1 << 80, "nan": float("nan"), (1, 2): b"bytes", None: object()}, id="strange values"
        ),
        pytest.param("%s", ("fine",), {"it": Unshowable(), "n": 1, "x": None}, id="a value that raises"),
        pytest.param("", (), {"half \ud800": "\udfff"}, id="fields that are no UTF-8"),
        pytest.param("mine", (), {"message": "forged", "level": "none"}, id="fields of the line's own names"),
    ],
)
def test_whatever_is_logged_is_one_line_of_json(logger, message, arguments, fields):
    """A line is one valid JSON object with time, level, logger and message, whatever was given to be logged."""
    text = lines(logger, "json", lambda log: log.warning(message, *arguments, extra={"fields": fields}))
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["level"], line["logger"]) == ("warning", "headrace.somewhere")
    assert isinstance(line["message"], str)
    assert line["message"] != "forged"
    if "n" in fields:
        assert (line["n"], line["x"], line["it"]) == (1, None, "<Unshowable that cannot be shown>")


def test_an_exception_that_cannot_be_shown_is_still_a_line(logger):
    """An error whose own text raises is logged with its traceback, as JSON, with the stack where it was asked for."""

    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no")

    def fail():
        raise Odd

    def write(log):
        try:
            fail()
        except Odd:
            log.exception("it failed", stack_info=True)

    line = json.loads(lines(logger, "json", write))
    assert "Traceback" in line["exception"]
    assert "in write" in line["stack"]


def test_models_and_libraries_write_the_same_form(capsys):
    """Lines of MLServer's logger, a library's warning and Python's own warnings are JSON too."""
    logs.configure(style="json", level="info")
    logging.getLogger("mlserver").info("from a model")
    logging.getLogger("mlserver.parallel").debug("hidden")
    logging.getLogger("other").warning("from a library")
    logging.getLogger("other").info("hidden")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("it is old", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["logger"] for line in found] == ["mlserver", "other", "py.warnings"]
    assert "it is old" in found[2]["message"]


# -- a configuration of the user's own --

JSON_TO_FILE = """{{
  "formatters": {{"lines": {{"()": "headrace.monitoring.logs.JsonLines"}}}},
  "handlers": {{"file": {{"class": "logging.FileHandler", "filename": "{path}", "formatter": "lines", "delay": true}}}},
  "loggers": {{"{name}": {{"handlers": ["file"], "level": "INFO"}}}}
}}"""
INI_TO_FILE = """[loggers]
keys=root,ours
[handlers]
keys=file
[formatters]
keys=plain
[logger_root]
handlers=
[logger_ours]
qualname={name}
handlers=file
level=INFO
[handler_file]
class=FileHandler
args=("{path}",)
formatter=plain
[formatter_plain]
format={{"message": "%(message)s"}}
"""


@pytest.mark.parametrize("name", ["headrace", "mlserver", "root"])
@pytest.mark.parametrize("form", ["json file", "json text", "ini file"])
def test_a_configuration_decides_where_lines_go(tmp_path, form, name, capsys):
    """Lines go where the file says of headrace, else of mlserver, else of the root; level and loggers made before hold."""
    made_before = logging.getLogger("headrace.made.before")
    path = tmp_path / "lines.log"
    text = (INI_TO_FILE if form == "ini file" else JSON_TO_FILE).format(path=path, name=name)
    if name == "root":
        text = text.replace('"loggers": {"root":', '"root":').replace('"INFO"}}\n}', '"INFO"}\n}')
        text = text.replace(
            "handlers=\n[logger_ours]\nqualname=root", "handlers=file\nlevel=INFO\n[logger_ours]\nqualname=x"
        )
    config = text
    if form != "json text":
        file = tmp_path / ("logging.json" if form == "json file" else "logging.conf")
        file.write_text(text)
        config = str(file)
    logs.configure(style="text", level="error", config=config)
    made_before.info("kept")
    made_before.debug("hidden")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["kept"]
    assert capsys.readouterr().err == ""
    for each in (
        logging.getLogger(),
        logging.getLogger("headrace"),
        logging.getLogger("mlserver"),
        logging.getLogger("x"),
    ):
        for handler in each.handlers:
            handler.close()


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("a.json", '{\n"handlers": }', "line 2 column 13"),
        ("b.json", "[]", "expected an object for logging.config.dictConfig, got list"),
        ("c.json", '{"handlers": {"h": {"class": "nope.Nope"}}}', "handler 'h'.*No module named 'nope'"),
        ("d.json", '{"loggers": {"x": {"level": "LOUD"}}}', "logger 'x': Unknown level: 'LOUD'"),
        ("e.conf", "no section", "no section headers"),
        ("f.conf", "[loggers]\nkeys=root\n", "'formatters' is missing"),
        ("g.conf", None, "cannot be read: No such file"),
        ("h.json", None, "cannot be read: No such file"),
    ],
)
def test_a_wrong_configuration_is_named_with_what_is_wrong(tmp_path, file, text, reason):
    """A configuration that cannot be used is a SettingsError that names setting, file and reason."""
    path = tmp_path / file
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=f"(?s)log.config_file .*{file}: .*{reason}"):
        logs.configure(config=str(path))
    if text is not None and text.startswith("{"):
        with pytest.raises(SettingsError, match=rf"log.config_file \(JSON text\): .*{reason}"):
            logs.configure(config=text)


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_models_own_process_writes_the_servers_form(style):
    """What a model logs in a process of its own has the form and level of the server's lines, and names the model."""
    config = logs.of_worker("wine", style=style, level="info", config="")
    program = (
        "import json, logging, logging.config, sys\n"
        "logging.config.dictConfig(json.loads(sys.argv[1]))\n"
        "logging.getLogger('mlserver').info('it \"says\" so')\n"
        "logging.getLogger('mlserver').debug('hidden')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, json.dumps(config)], capture_output=True, text=True)
    (line,) = ran.stderr.splitlines()
    if style == "json":
        assert json.loads(line).items() >= {"model": "wine", "message": 'it "says" so', "logger": "mlserver"}.items()
    else:
        assert re.search(r"INFO +\[wine\] mlserver  it \"says\" so$", line)


def test_a_configuration_of_the_users_own_holds_in_a_models_process(tmp_path):
    """A dictConfig of the user's own, as a file or as text, is what a model's process is configured by."""
    text = json.dumps({"root": {"level": "ERROR"}})
    (tmp_path / "log.json").write_text(text)
    for config in (text, str(tmp_path / "log.json")):
        assert logs.of_worker("m", style="json", level="info", config=config)["root"] == {"level": "ERROR"}
