"""headrace.yaml: what it sets, what it refuses and with which words; config of a repository load.

Left out: what each key does to a served model (the engine's and the runtimes' tests).
"""

import ast
import inspect
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, LoadFailed, SettingsError
from headrace.payload import DTYPES, TensorSpec
from headrace.serving import spec as specs
from headrace.serving.batching import Batching
from headrace.serving.spec import ModelSpec, check_name, parse_config, parse_yaml, render, warm_up_bodies
from headrace.trust.spec import Extraction, OutputPolicy, Trust, Validation

WHOLE = """
name: iris
version: 1.10
runtime: sklearn
path: model.joblib
inputs:
  - {name: x, datatype: FP64, shape: [-1, 4]}
  - {name: y, datatype: BYTES, shape: [-1], content_type: str, optional: yes, labels: [a, b]}
batching: {max_batch_size: 8, max_wait_seconds: 1}
placement: process
replicas: 2
predict_timeout_seconds: 1.5
warm_up:
  - first.json
  - inputs: [{name: x, datatype: FP64, shape: [1, 4], data: [1, 2, 3, 4]}]
optimize: off
load_policy: trusted
parameters: {threshold: 0.5, day: 2026-11-21, deep: {list: [1, null, "2", false]}}
trust:
  validation: {mode: reject, tolerance: 0}
  outputs: {default: {decimals: 2}, partner: {top_k: 1, label_only: true}}
  extraction: {actions: [log, block], threshold: 0.8}
  audit: true
"""


def test_every_key_becomes_its_field():
    """A file with every kind of value gives typed fields, and only those it sets."""
    found = parse_yaml(WHOLE, "headrace.yaml")
    assert found == {
        "name": "iris",
        "version": "1.10",
        "runtime": "sklearn",
        "path": "model.joblib",
        "inputs": (
            TensorSpec(name="x", datatype="FP64", shape=(-1, 4)),
            TensorSpec(name="y", datatype="BYTES", shape=(-1,), content_type="str", optional=True, labels=("a", "b")),
        ),
        "batching": Batching(max_batch_size=8, max_wait_seconds=1.0, max_queue_size=Batching().max_queue_size),
        "placement": "process",
        "replicas": 2,
        "predict_timeout_seconds": 1.5,
        "warm_up": (
            "first.json",
            {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [1, 2, 3, 4]}]},
        ),
        "optimize": "off",
        "load_policy": "trusted",
        "parameters": {"threshold": 0.5, "day": "2026-11-21", "deep": {"list": [1, None, "2", False]}},
        "trust": Trust(
            validation=Validation(mode="reject", tolerance=0.0),
            outputs={"default": OutputPolicy(decimals=2), "partner": OutputPolicy(top_k=1, label_only=True)},
            extraction=Extraction(actions=("log", "block"), threshold=0.8),
            audit=True,
        ),
    }


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "---\n", "~"])
def test_an_empty_file_sets_nothing(text):
    """A file that says nothing overrides nothing."""
    assert parse_yaml(text, "headrace.yaml") == {}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("nmae: x", ["m/headrace.yaml:1", "'nmae'", "did you mean 'name'"], id="unknown"),
        pytest.param(
            "name: x\nbatching:\n  max_batchsize: 3\n",
            ["m/headrace.yaml:3", "key 'batching'", "'max_batchsize'", "did you mean 'max_batch_size'"],
            id="unknown-inside",
        ),
        pytest.param(
            "inputs:\n- {name: x, datatype: FP64, shap: [1]}",
            ["m/headrace.yaml:2", "'inputs[0]'", "'shap'", "did you mean 'shape'"],
            id="unknown-in-a-list",
        ),
        pytest.param("name: a\nname: b", ["headrace.yaml:2", "'name' is given twice"], id="twice"),
        pytest.param("parameters: {a: {b: 1, b: 2}}", ["'parameters.a.b' is given twice"], id="twice-inside"),
        pytest.param("name: 12", ["'name'", "expected text", "came the number '12'"], id="name-number"),
        pytest.param("name: a b", ["'a b'", "cannot stand in a URL"], id="name-space"),
        pytest.param("version: a/b", ["'a/b'", "cannot stand in a URL"], id="version-slash"),
        pytest.param("replicas: 0", ["'replicas'", "whole number of 1 or more", "'0'"], id="zero"),
        pytest.param("replicas: yes", ["'replicas'", "came the boolean 'yes'"], id="boolean-for-number"),
        pytest.param("replicas: 1.5", ["'replicas'", "whole number", "'1.5'"], id="fraction"),
        pytest.param("predict_timeout_seconds: .inf", ["seconds, 0 or more", "'.inf'"], id="infinite"),
        pytest.param("predict_timeout_seconds: -1", ["seconds, 0 or more", "'-1'"], id="negative"),
        pytest.param("placement: gpu", ["one of auto, inline, thread, process", "text 'gpu'"], id="choice"),
        pytest.param(
            "inputs: [{name: x, datatype: FP64, shape: [1], optional: maybe}]",
            ["'inputs[0].optional'", "expected true or false", "'maybe'"],
            id="bad-boolean",
        ),
        pytest.param("inputs: [{name: x, datatype: FP64}]", ["'inputs[0]'", "'shape' is missing"], id="missing"),
        pytest.param("inputs: [{name: x, datatype: FLOAT, shape: []}]", ["one of BOOL", "'FLOAT'"], id="datatype"),
        pytest.param(
            "outputs:\n- {name: x, datatype: FP64, shape: []}\n- {name: x, datatype: FP64, shape: []}",
            ["two tensors are named 'x'"],
            id="same-name",
        ),
        pytest.param("trust: {validation: {mode: maybe}}", ["'trust.validation.mode'", "off, flag"], id="guard"),
        pytest.param("trust: {outputs: {x: {decimal: 1}}}", ["did you mean 'decimals'"], id="output policy"),
        pytest.param("trust: {extraction: {threshold: 2}}", ["a number from 0 to 1", "'2'"], id="a share"),
        pytest.param("batching: 5", ["'batching'", "keys and values", "the number '5'"], id="not-a-mapping"),
        pytest.param("warm_up: [{data: 1}]", ["'warm_up[0]'", "a list of 'inputs'"], id="warm-up"),
        pytest.param("warm_up: a.json", ["'warm_up'", "a list of V2 requests"], id="warm-up-not-a-list"),
        pytest.param("reference: os.system", ["module:Class", "'os.system'"], id="reference"),
        pytest.param("parameters: {a: !!binary aGk=}", ["'parameters.a'", "expected text"], id="binary"),
        pytest.param("parameters: &a {b: *a}", ["contains itself"], id="circle"),
        pytest.param("- a", ["expected keys and values", "a list"], id="list"),
        pytest.param("a: [", ["headrace.yaml:", "not valid YAML"], id="not-yaml"),
        pytest.param("a: !!python/object:os.system {}", ["'a'"], id="python-tag"),
        pytest.param("parameters: {a: " + "[" * 50_000, ["headrace.yaml:1", "nested deeper than 64"], id="deep"),
        pytest.param("1: a", ["a key that is text"], id="key-number"),
    ],
)
def test_what_is_wrong_is_named(text, parts):
    """A wrong file is refused with the file, the line, the key, what was expected and what came."""
    with pytest.raises(SettingsError) as caught:
        parse_yaml(text, "m/headrace.yaml")
    assert str(caught.value).startswith("m/headrace.yaml:")
    for part in parts:
        assert part in str(caught.value)


_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_name = st.from_regex(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,9}", fullmatch=True)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=6
)
_tensors = st.lists(
    st.builds(
        TensorSpec,
        name=_text,
        datatype=st.sampled_from(list(DTYPES)),
        shape=st.lists(st.integers(-1, 2**40), max_size=3).map(tuple),
        content_type=st.just("") | _text,
        optional=st.booleans(),
        labels=st.lists(_text, max_size=2).map(tuple),
    ),
    max_size=3,
    unique_by=lambda tensor: tensor.name,
).map(tuple)
_seconds = st.floats(0, 1e9)
_overrides = st.fixed_dictionaries(
    {},
    optional={
        "name": _name,
        "version": _name,
        "runtime": _text,
        "path": _text,
        "reference": st.just("package.module:Class"),
        "inputs": _tensors,
        "outputs": _tensors,
        "batching": st.builds(
            Batching,
            max_batch_size=st.integers(1, 2**40),
            max_wait_seconds=_seconds,
            max_queue_size=st.integers(1, 2**40),
        ),
        "placement": st.sampled_from(["auto", "inline", "thread", "process"]),
        "replicas": st.integers(1, 99),
        "predict_timeout_seconds": _seconds,
        "warm_up": st.lists(
            _text | st.fixed_dictionaries({"inputs": st.lists(_json, max_size=2)}, optional={"id": _text}), max_size=2
        ).map(tuple),
        "optimize": st.sampled_from(["auto", "require", "off"]),
        "load_policy": st.sampled_from(["auto", "restricted", "trusted"]),
        "parameters": st.dictionaries(_text, _json, max_size=3),
        "trust": st.builds(
            Trust,
            enabled=st.booleans(),
            path=_text,
            validation=st.none()
            | st.builds(Validation, mode=st.sampled_from(["off", "flag", "reject"]), tolerance=st.floats(0, 9)),
            outputs=st.dictionaries(
                _text,
                st.builds(
                    OutputPolicy,
                    decimals=st.integers(0, 9),
                    top_k=st.integers(1, 9),
                    label_only=st.booleans(),
                ),
                max_size=2,
            ),
            extraction=st.none()
            | st.builds(
                Extraction,
                actions=st.lists(st.sampled_from(["log", "round", "throttle"]), max_size=2).map(tuple),
                window=st.integers(20, 999),
                threshold=st.floats(0, 1),
            ),
            audit=st.booleans(),
        ),
    },
)


@given(_overrides)
def test_what_is_rendered_is_parsed_back(overrides):
    """parse_yaml is the inverse of render for every set of fields."""
    assert parse_yaml(render(overrides), "headrace.yaml") == overrides


def test_each_key_is_a_documented_field():
    """Every key of headrace.yaml is a field of ModelSpec with a docstring that states a default."""
    (definition,) = ast.parse(inspect.getsource(ModelSpec)).body
    notes = {
        field.target.id: note.value.value
        for field, note in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr)
    }
    assert set(notes) == {field.name for field in msgspec.structs.fields(ModelSpec)}
    for key in specs.KEYS:
        assert "Default: " in " ".join(notes[key].split())


@pytest.mark.parametrize("name", ["iris", "IRIS_2", "a.b-c~d", "7", "_x"])
def test_url_safe_names_stay(name):
    """A name of unreserved characters is taken as it is."""
    assert check_name(name, where="here") == name


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a b", "a/b", "ä", "a%20b", "x" * 129, "a\n"])
def test_other_names_are_refused(name):
    """A name that a URL path segment cannot hold as it is is refused."""
    with pytest.raises(SettingsError, match="cannot stand in a URL"):
        check_name(name, where="here")


def test_a_caller_may_tune_a_model():
    """A repository load's config takes the same keys as the file, and Triton's max_batch_size."""
    config = {"max_batch_size": 16, "placement": "thread", "warm_up": [{"inputs": []}]}
    assert parse_config(json.dumps(config)) == {
        "batching": Batching(max_batch_size=16),
        "placement": "thread",
        "warm_up": ({"inputs": []},),
    }
    assert parse_config('{"max_batch_size": 0}') == {"batching": Batching(max_batch_size=1)}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"load_policy": "trusted"}', "'load_policy' decides which code runs"),
        ('{"reference": "os:system"}', "'reference' decides which code runs"),
        ('{"runtime": "os:system"}', "'runtime' decides which code runs"),
        ('{"warm_up": ["/etc/passwd"]}', "no file names"),
        ('{"placment": "auto"}', "did you mean 'placement'"),
        ('{"replicas": "many"}', "expected a whole number"),
        ('{"batching": {}, "max_batch_size": 2}', "say the same"),
        ('{"max_batch_size": -1}', "whole number of 1 or more"),
        ("[]", "expected a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"warm_up": ' + "[" * 200 + "]" * 200 + "}", "nested deeper"),
        ('{"warm_up": [{"inputs": ["\\ud800"]}]}', "config"),
    ],
)
def test_a_caller_may_not_choose_code(config, words):
    """A repository load's config is refused as the caller's mistake when it picks code or is wrong."""
    with pytest.raises(InvalidRequest, match=words):
        parse_config(config)


def test_warm_up_requests_are_bodies(tmp_path):
    """Samples and sample files both become V2 JSON bodies, in order."""
    (tmp_path / "a.json").write_text('{"inputs": [1]}')
    spec = ModelSpec(name="m", folder=str(tmp_path), warm_up=("a.json", {"inputs": [2]}))
    assert [json.loads(body) for body in warm_up_bodies(spec)] == [{"inputs": [1]}, {"inputs": [2]}]


def test_a_missing_warm_up_file_fails_the_load(tmp_path):
    """A warm-up file that is not there is a LoadFailed that names model and file."""
    with pytest.raises(LoadFailed, match=r"model 'm'.*'gone.json'"):
        warm_up_bodies(ModelSpec(name="m", folder=str(tmp_path), warm_up=("gone.json",)))
