"""The dialect of MLServer: settings.json and `MLSERVER_` variables to our settings.

Matrix: every field x what it becomes or why not; file x environment x `.env`; what any such folder gets; each result goes
through our own settings loader, so that a key or a value it would refuse cannot pass.
"""

import json
from pathlib import Path

import pytest

from headrace import settings
from headrace.errors import SettingsError
from headrace.serving.dialects import mlserver, mlserver_server
from headrace.serving.dialects.base import Dialect


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder `top` to fill; the working directory is an empty one beside it."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "top").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "top"


def told(root, content, environ=None):
    """Our settings for a settings.json, by key; and the warnings without the place."""
    (root / "settings.json").write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    values, warnings = mlserver.server_settings(root, environ or {})
    settings.load(settings.Settings(), "", {}, {}, foreign=values)
    return {key: value for key, (value, _) in values.items()}, [text.partition(": ")[2] for text in warnings]


ALWAYS = {
    "server.name": "mlserver",
    "models.startup_policy": "degrade",
    "metrics.aliases": "mlserver",
    "http.compress_min_bytes": 500,
    "http.request_timeout_seconds": 600.0,
    "models.predict_timeout_seconds": 600.0,
    "kafka.input_topics": ("mlserver-input",),
    "kafka.output_topic": "mlserver-output",
    "kafka.request_timeout_seconds": 600.0,
}

FIELDS = {
    "debug": (True, {"log.level": "debug", "log.access": True}),
    "no-debug": (False, {"log.access": False}),
    "parallel_workers": (4, {}),
    "parallel_workers_timeout": (9, {"models.drain_seconds": 9}),
    "load_models_at_startup": (False, {"models.load_at_start": False}),
    "server_name": ("mine", {"server.name": "mine"}),
    "server_version": ("7", {"server.version": "7"}),
    "extensions": (["a", "b"], {"server.extensions": ["a", "b"]}),
    "host": ("0.0.0.0", {"http.host": "0.0.0.0"}),
    "http_port": ("9000", {"http.port": 9000}),
    "grpc_port": (9001, {"grpc.port": 9001}),
    "metrics_port": (9002, {"metrics.port": 9002}),
    "root_path": ("/models", {"http.root_path": "/models"}),
    "grpc_max_message_length": (1000, {"grpc.max_message_bytes": 1000}),
    "no-grpc_max_message_length": (None, {}),
    "metrics_endpoint": ("/m", {"metrics.path": "/m"}),
    "no-metrics_endpoint": (None, {"metrics.enabled": False}),
    "metrics_rest_server_prefix": ("rest", {"metrics.rest_prefix": "rest"}),
    "use_structured_logging": (True, {"log.format": "json"}),
    "no-use_structured_logging": (False, {"log.format": "text"}),
    "logging_settings": ({"version": 1}, {"log.config_file": '{"version": 1}'}),
    "no-logging_settings": (None, {}),
    "tracing_server": ("http://otel:4317", {"tracing.otlp_endpoint": "http://otel:4317", "tracing.protocol": "grpc"}),
    "no-tracing_server": (None, {}),
    "gzip_enabled": (False, {"http.compress": False}),
    "cache_enabled": (True, {}),
    "cache_size": (3, {}),
    "cors_settings": (
        {"allow_origins": ["*"], "allow_methods": ["POST"], "expose_headers": ["x"], "max_age": 5},
        {
            "http.cors_allow_origins": ["*"],
            "http.cors_allow_methods": ["POST"],
            "http.cors_expose_headers": ["x"],
            "http.cors_max_age_seconds": 5,
        },
    ),
    "all-cors_settings": (
        {"allow_origin_regex": "a.*", "allow_credentials": True, "allow_headers": ["y"], "allow_origins": []},
        {
            "http.cors_allow_origin_regex": "a.*",
            "http.cors_allow_credentials": True,
            "http.cors_allow_headers": ["y"],
            "http.cors_allow_origins": [],
        },
    ),
    "no-cors_settings": (None, {}),
    "model_repository_root": (".", {}),
    "model_repository_implementation": ("mine.Repository", {}),
    "model_repository_implementation_args": ({"a": 1}, {}),
    "kafka_enabled": (True, {"kafka.enabled": True}),
    "kafka_servers": ("one:9092,two:9092", {"kafka.brokers": "one:9092,two:9092"}),
    "kafka_topic_input": ("in", {"kafka.input_topics": ("in",)}),
    "kafka_topic_output": ("out", {"kafka.output_topic": "out"}),
}

NOT_HONOURED = {
    "model_repository_root": ("/elsewhere", "the folder on the command line is where models are looked for"),
    "environments_dir": ("/envs", "environments are kept under models.cache_dir"),
    "metrics_dir": ("/metrics", "metrics need no files here, with worker processes either"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_field(root, case):
    """A field becomes the settings of ours that mean the same, in values that our loader takes, with no warning."""
    value, expected = FIELDS[case]
    values, warnings = told(root, {case.removeprefix("no-").removeprefix("all-"): value})
    assert values == ALWAYS | expected
    assert warnings == []


@pytest.mark.parametrize("name", NOT_HONOURED)
def test_not_honoured(root, name):
    """A field that has no equal here is told with its place and the reason, and changes nothing."""
    value, reason = NOT_HONOURED[name]
    values, warnings = told(root, {name: value})
    assert values == ALWAYS
    assert warnings == [f"'{name}' is not honoured: {reason}"]


def test_every_field_has_a_case():
    """Each field of the table stands in a case above."""
    cases = {case.removeprefix("no-").removeprefix("all-") for case in [*FIELDS, *NOT_HONOURED]}
    assert mlserver_server.FIELDS.keys() == cases


def test_origins(root):
    """Each value says where it is from: the line of the file, the variable, or the folder as such."""
    (root / "settings.json").write_text('{\n"http_port": 9000}')
    Path(".env").write_text("MLSERVER_METRICS_PORT=9003\n")
    environ = {"MLSERVER_HTTP_PORT": "1", "MLSERVER_GRPC_PORT": "9001"}
    values, warnings = mlserver.server_settings(root, environ)
    assert warnings == ()
    assert values["http.port"] == (9000, f"{root / 'settings.json'}:2")
    assert values["grpc.port"] == (9001, "environment MLSERVER_GRPC_PORT")
    assert values["metrics.port"] == (9003, ".env file, MLSERVER_METRICS_PORT")
    assert values["server.name"] == ("mlserver", f"MLServer folder {root}")


def test_our_roads_stand_above(root):
    """Flags, our own environment and our own file stand over settings.json, and it over our defaults."""
    (root / "settings.json").write_text('{"http_port": 9000, "grpc_port": 9001, "metrics_port": 9002, "host": "::"}')
    values, _ = mlserver.server_settings(root, {})
    environ = {"HEADRACE_GRPC_PORT": "1"}
    loaded = settings.load(settings.Settings(), "http: {host: a}", environ, {"metrics.port": 2}, foreign=values)
    assert (loaded.http.port, loaded.grpc.port, loaded.metrics.port, loaded.http.host) == (9000, 1, 2, "a")


def test_without_a_file(root):
    """A folder without settings.json gets what any MLServer folder gets, and what the environment sets."""
    values, warnings = mlserver.server_settings(root, {"MLSERVER_EXTENSIONS": '["x"]', "MLSERVER_DEBUG": "no"})
    found = {key: value for key, (value, _) in values.items()}
    assert found == ALWAYS | {"server.extensions": ["x"], "log.access": False}
    assert warnings == ()


def test_logging_file(root):
    """A path of a logging configuration is found beside settings.json, else left for the working directory."""
    (root / "log.ini").write_text("")
    assert told(root, {"logging_settings": "log.ini"})[0]["log.config_file"] == str(root / "log.ini")
    assert told(root, {"logging_settings": "other.ini"})[0]["log.config_file"] == "other.ini"


def test_unknown_keys(root):
    """A key that MLServer would ignore is told with its line and the nearest known one, inside cors_settings too."""
    text = '{"htp_port": 1,\n"cors_settings": {\n"allow_orgins": ["*"]}}'
    _, warnings = told(root, text)
    assert warnings == [
        "key 'htp_port' is not known; did you mean 'http_port'?",
        "key 'cors_settings.allow_orgins' is not known; did you mean 'allow_origins'?",
    ]
    warnings = mlserver.server_settings(root, {})[1]
    assert [text.partition(": ")[0] for text in warnings] == [f"{root / 'settings.json'}:{line}" for line in (1, 3)]


WRONG = {
    "port": ({"http_port": "many"}, "key 'http_port': expected a whole number, came the text 'many'"),
    "null": ({"root_path": None}, "key 'root_path': expected text in quotes, came null"),
    "origins": (
        {"cors_settings": {"allow_origins": "*"}},
        "key 'cors_settings.allow_origins': expected a list of texts, came the text '*'",
    ),
    "logging": ({"logging_settings": 5}, "key 'logging_settings': expected a path or an object, came the number 5"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_wrong_value(root, content, message):
    """A value of the wrong kind is an error by file, line and key."""
    with pytest.raises(SettingsError) as caught:
        told(root, content)
    assert str(caught.value).startswith(f"{root / 'settings.json'}:")
    assert str(caught.value).endswith(message)


def test_role():
    """The module is a dialect: it has the functions of the role."""
    functions = [name for name in vars(Dialect) if not name.startswith("_")]
    assert functions == ["speaks", "survey", "server_settings"]
    assert all(callable(getattr(mlserver, name)) for name in functions)
