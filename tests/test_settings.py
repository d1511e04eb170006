"""The settings loader. Matrix: source (file, environment, flag) x kind of value (number, size, duration, choice, bool)."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import settings
from headrace.errors import SettingsError
from headrace.settings import Settings


def load(file="", environ=None, flags=None):
    return settings.load(Settings(), file, environ or {}, flags or {})


def test_nothing_said():
    """With no source, the defaults hold and each row says so."""
    loaded = load()
    assert loaded == Settings()
    assert {row.origin for row in settings.effective(loaded)} == {"default"}


def test_precedence():
    """A flag beats the environment, which beats the file, which beats the default."""
    file = "http: {port: 1, max_connections: 7}\ngrpc: {port: 2}\nmetrics: {port: 3}"
    environ = {"HEADRACE_HTTP_PORT": "11", "HEADRACE_GRPC_PORT": "12"}
    loaded = load(file, environ, {"http.port": 21, "metrics.port": None})
    assert (loaded.http.port, loaded.grpc.port, loaded.metrics.port) == (21, 12, 3)
    assert loaded.http.max_connections == 7
    origins = {row.key: row.origin for row in settings.effective(loaded)}
    assert origins["http.port"] == "flag"
    assert origins["grpc.port"] == "environment HEADRACE_GRPC_PORT"
    assert origins["metrics.port"] == "file server.yaml"
    assert origins["log.level"] == "default"


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("http.max_body_bytes", "128MiB", 128 << 20),
        ("http.max_body_bytes", "5 MB", 5_000_000),
        ("http.max_body_bytes", "1024", 1024),
        ("http.idle_timeout_seconds", "500ms", 0.5),
        ("http.idle_timeout_seconds", "2m", 120.0),
        ("tracing.sample_ratio", "0.25", 0.25),
        ("tracing.sample_ratio", "1e-3", 0.001),
        ("log.access", "yes", True),
        ("log.access", "OFF", False),
        ("log.level", "debug", "debug"),
        ("models.cache_dir", "here", "here"),
    ],
)
def test_values(key, text, expected):
    """The environment's text becomes a value of the field's own kind, units included."""
    section, _, name = key.partition(".")
    value = getattr(getattr(load(environ={settings.variable(key): text}), section), name)
    assert value == expected
    assert type(value) is type(expected)


def test_yaml_off_is_a_choice():
    """A bare `off` in YAML, which YAML reads as false, still means the choice `off`."""
    assert load("models: {optimize: off}").models.optimize == "off"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("http.port", "http"),
        ("http.port", "70000"),
        ("http.port", "-1"),
        ("http.port", "80.5"),
        ("http.port", ""),
        ("http.port", "80MiB"),
        ("http.max_body_bytes", "10 parsecs"),
        ("http.idle_timeout_seconds", "nan"),
        ("http.idle_timeout_seconds", "-3s"),
        ("tracing.sample_ratio", "1.5"),
        ("log.access", "maybe"),
        ("log.level", "loud"),
    ],
)
def test_wrong_values(key, text):
    """A value of the wrong kind, unit or range is refused by an error that names the variable and the value."""
    with pytest.raises(SettingsError) as caught:
        load(environ={settings.variable(key): text})
    assert settings.variable(key) in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("htp: {port: 1}", "server.yaml: unknown key 'htp'; did you mean 'http'?"),
        ("http: {prot: 1}", "server.yaml: section 'http': unknown key 'prot'; did you mean 'port'?"),
        ("http: {port: 1, port: 2}", "'port' is given twice"),
        ("http: 8080", "section 'http' expected fields by name"),
        ("[1, 2]", "expected sections"),
        ("http: {port", "not valid YAML"),
        ("http: {port: true}", "http.port: expected a whole number from 0 to 65535, got True"),
        ("http: {host: 1}", "http.host: expected text, got 1"),
        ("http: {port: .inf}", "http.port"),
    ],
)
def test_wrong_files(file, expected):
    """A wrong file is refused by an error that says where and what was expected."""
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert expected in str(caught.value)


def test_unknown_variable():
    """A mistyped HEADRACE_ variable is an error that names the nearest known one."""
    with pytest.raises(SettingsError, match="did you mean 'HEADRACE_HTTP_PORT'"):
        load(environ={"HEADRACE_HTP_PORT": "1"})


def test_unknown_flag():
    """A flag mapped to no setting is an error."""
    with pytest.raises(SettingsError, match=r"http\.prt"):
        load(flags={"http.prt": 1})


def test_kubernetes_service_links():
    """The variables that Kubernetes makes for a Service named headrace or headrace-http are not taken for settings."""
    links = {
        "HEADRACE_SERVICE_HOST": "10.0.0.1",
        "HEADRACE_SERVICE_PORT": "8080",
        "HEADRACE_SERVICE_PORT_REST": "8080",
        "HEADRACE_PORT": "tcp://10.0.0.1:8080",
        "HEADRACE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HEADRACE_PORT_8080_TCP_PROTO": "tcp",
        "HEADRACE_PORT_8080_TCP_PORT": "8080",
        "HEADRACE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "HEADRACE_HTTP_PORT": "tcp://10.0.0.2:80",
        "HEADRACE_HTTP_SERVICE_PORT": "80",
    }
    assert load(environ=links) == Settings()


def test_others_variables():
    """Variables of other programs, and those the command line reads itself, are no settings."""
    assert load(environ={"PATH": "/bin", "HEADRACE_CONFIG": "x.yaml", "HEADRACE_URL": "http://h"}) == Settings()


@pytest.mark.parametrize("given_", ["tls_key", "tls_certificate"])
def test_half_of_tls(given_):
    """A certificate without a key, or a key without a certificate, is an error that names the missing one."""
    missing = {"tls_key": "tls_certificate", "tls_certificate": "tls_key"}[given_]
    with pytest.raises(SettingsError, match=f"http.{missing} is missing"):
        load(flags={f"http.{given_}": "some.pem"})


def test_one_port_twice():
    """Two listeners on one port are refused at once; on 0, or with one of them off, they are not."""
    with pytest.raises(SettingsError, match=r"http\.port and grpc\.port are both 8081"):
        load(flags={"http.port": 8081})
    load(flags={"http.port": 8081, "grpc.enabled": False})
    load(flags={"http.port": 0, "grpc.port": 0, "metrics.port": 0})


@pytest.mark.parametrize("section", settings.SECTIONS.values(), ids=lambda section: section.__name__)
def test_each_field_is_documented(section):
    """Every field has a docstring that ends a sentence."""
    notes = settings.documentation(section)
    assert set(notes) == {each.name for each in dataclasses.fields(section)}
    assert all(note.endswith(".") for note in notes.values())


def test_sections_are_the_fields():
    """Every section of the reference is a field of Settings, in the same order, and nothing is left out."""
    names = [each.name for each in dataclasses.fields(Settings) if each.name != "origins"]
    assert names == list(settings.SECTIONS)


def test_reference_names_every_key():
    """The reference has a heading, a variable and a default for every key."""
    text = settings.reference()
    for key in settings.known_keys():
        assert f"### {key}\n" in text
        assert settings.variable(key) in text
    assert max(text.count(f"### {key}\n") for key in settings.known_keys()) == 1


def test_example_of_the_reference_loads():
    """The server.yaml shown in the reference is one that loads."""
    example = settings.reference().partition("```yaml\n")[2].partition("```")[0]
    loaded = load(example)
    assert loaded.http.max_body_bytes == 256 << 20
    assert loaded.models.startup_policy == "degrade"


@given(st.integers(0, 65535), st.sampled_from(["file", "environ", "flag"]))
def test_every_road_gives_the_same(port, road):
    """The same value gives the same settings, whether by file, environment or flag."""
    loaded = {
        "file": lambda: load(f"http: {{port: {port}}}\ngrpc: {{enabled: no}}\nmetrics: {{enabled: no}}"),
        "environ": lambda: load(
            environ={"HEADRACE_HTTP_PORT": str(port), "HEADRACE_GRPC_ENABLED": "0", "HEADRACE_METRICS_ENABLED": "0"}
        ),
        "flag": lambda: load(flags={"http.port": port, "grpc.enabled": False, "metrics.enabled": False}),
    }[road]()
    assert loaded.http.port == port


def test_load_is_pure(monkeypatch, tmp_path):
    """The loader sees only what it is given: neither the process's environment nor a file in the current folder."""
    monkeypatch.setenv("HEADRACE_HTTP_PORT", "wrong")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server.yaml").write_text("http: {port: wrong}")
    assert load() == Settings()


def test_secrets_are_shown_to_nobody():
    """A token that is set shows as set, with where it came from, and not as what it is."""
    loaded = settings.load(settings.Settings(), "", {"HEADRACE_CONTROL_TOKEN": "hunter2"}, {})
    (row,) = [row for row in settings.effective(loaded) if row.key == "control.token"]
    assert row.origin == "environment HEADRACE_CONTROL_TOKEN"
    assert "hunter2" not in str(settings.effective(loaded))
    assert "set" in row.value
