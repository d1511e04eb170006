"""The dialect of MLServer: model-settings.json and `MLSERVER_MODEL_` variables to specs.

What a value becomes, what fills it in and what is refused was seen on MLServer 1.7.1; the cases say so where we differ.
Matrix: values of each field x their kinds; file x environment x `.env`; official, own and foreign classes; uris;
versions; names; what is warned of. Artifacts are recognised by a first line `MODEL kind`, through the argument meant for
that. Left out: loading (the runtimes' tests), settings.json (test_mlserver_server).
"""

import json
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace.errors import LoadFailed, SettingsError, UnknownFormat
from headrace.runtimes.base import Recognition
from headrace.serving.batching import Batching
from headrace.serving.dialects import mlserver
from headrace.serving.spec import Cache

SKLEARN = "mlserver_sklearn.SKLearnModel"
FILE = "model-settings.json"
DATATYPES = "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BYTES"


def recognise(path):
    words = path.read_bytes()[:100].split() if path.is_file() else []
    if words[:1] != [b"MODEL"]:
        raise UnknownFormat(f"{path}: no runtime recognises this")
    return words[1].decode(), Recognition(f"a file of {words[1].decode()}")


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def survey(root, environ=None, defaults=None, overrides=None):
    return mlserver.survey(
        root, environ=environ or {}, recognise=recognise, defaults=defaults or {}, overrides=overrides or {}
    )


def one(root, environ=None, **options):
    """The one spec of a folder in which nothing is wrong."""
    found = survey(root, environ, **options)
    assert [str(problem.error) for problem in found.problems] == []
    (spec,) = found.specs
    return spec


def wrong(root, environ=None):
    """What is wrong with the one model of a folder."""
    found = survey(root, environ)
    assert found.specs == ()
    (problem,) = found.problems
    return problem


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder `top` to fill; the working directory is an empty one beside it."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "top").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "top"


# -- realistic folders --


def test_sklearn(root):
    """The scikit-learn example: its class becomes our runtime, its file the path, its parameters ours."""
    write(
        root,
        {
            "model-settings.json": {
                "name": "mnist-svm",
                "implementation": SKLEARN,
                "parameters": {
                    "uri": "./mnist-svm.joblib",
                    "version": "v0.1.0",
                    "extra": {"predict_fn": "predict_proba"},
                },
            },
            "mnist-svm.joblib": "MODEL sklearn",
        },
    )
    spec = one(root)
    assert (spec.name, spec.version, spec.runtime) == ("mnist-svm", "v0.1.0", "sklearn")
    assert spec.path == str(root / "mnist-svm.joblib")
    assert spec.folder == str(root)
    assert dict(spec.parameters) == {"default_outputs": "predict_proba"}
    assert (spec.dialect, spec.placement, spec.replicas, spec.warnings) == ("mlserver", "auto", 1, ())
    assert spec.evidence == f"implementation {SKLEARN}"
    assert spec.watched == (str(root / FILE), str(root / "mnist-svm.joblib"))


RUNTIMES = {
    "sklearn-joblib": (SKLEARN, "model.joblib", "sklearn"),
    "sklearn-pickle": ("mlserver_sklearn.sklearn.SKLearnModel", "model.pickle", "sklearn"),
    "sklearn-pkl": ("mlserver_sklearn:SKLearnModel", "model.pkl", "sklearn"),
    "xgboost-bst": ("mlserver_xgboost.XGBoostModel", "model.bst", "xgboost"),
    "xgboost-json": ("mlserver_xgboost.xgboost.XGBoostModel", "model.json", "xgboost"),
    "xgboost-ubj": ("mlserver_xgboost.XGBoostModel", "model.ubj", "xgboost"),
    "lightgbm": ("mlserver_lightgbm.LightGBMModel", "model.bst", "lightgbm"),
    "catboost-cbm": ("mlserver_catboost.CatboostModel", "model.cbm", "catboost"),
    "catboost-bin": ("mlserver_catboost.catboost.CatboostModel", "model.bin", "catboost"),
}


@pytest.mark.parametrize(("implementation", "file", "runtime"), RUNTIMES.values(), ids=RUNTIMES)
def test_well_known_file(root, implementation, file, runtime):
    """Each official runtime finds its well-known file in a folder, whatever else lies there."""
    write(root, {"m/model-settings.json": {"implementation": implementation}, f"m/{file}": "x", "m/other.bin2": "x"})
    spec = one(root)
    assert (spec.name, spec.runtime, spec.path) == ("m", runtime, str(root / "m" / file))


def test_first_well_known_file(root):
    """Of several well-known files the first of the runtime's list counts."""
    write(root, {FILE: {"implementation": SKLEARN}, "model.pkl": "x", "model.pickle": "x"})
    assert one(root).path == str(root / "model.pickle")


def test_mlflow(root):
    """An MLflow model is its folder."""
    write(
        root,
        {
            "wine/model-settings.json": {
                "implementation": "mlserver_mlflow.MLflowRuntime",
                "parameters": {"uri": "./artifacts/model"},
            },
            "wine/artifacts/model/MLmodel": "flavors: {}",
        },
    )
    spec = one(root)
    assert (spec.name, spec.runtime, spec.path) == ("wine", "mlflow", str(root / "wine/artifacts/model"))


def test_repository_with_versions(root):
    """Several files of one name are its versions, at any depth, in Triton's layout or not."""
    files = {
        f"sum/{version}/model-settings.json": {
            "name": "sum",
            "implementation": "models.Sum",
            "parameters": {"version": version},
        }
        for version in ("1", "2", "10")
    }
    write(root, files | {"deep/down/here/model-settings.json": {"implementation": "models.Other"}})
    found = survey(root)
    assert found.problems == ()
    names = {(spec.name, spec.version) for spec in found.specs}
    assert names == {("sum", "1"), ("sum", "2"), ("sum", "10"), ("here", "")}


def test_custom(root):
    """Somebody's own class goes to the runtime `mlserver` with the settings as MLServer would have them."""
    settings = {
        "implementation": "models.MyModel",
        "max_batch_size": "5",
        "parameters": {"content_type": "np", "threshold": 3, "extra": {"a": [1]}},
    }
    write(
        root, {"mine/model-settings.json": settings, "mine/models.py": "class MyModel: ...", "mine/pkg/__init__.py": ""}
    )
    spec = one(root)
    assert (spec.runtime, spec.reference, spec.path) == ("mlserver", "models.MyModel", "")
    assert (spec.placement, spec.replicas, spec.batching) == ("process", 1, None)
    assert spec.parameters == {
        "settings": {
            "implementation": "models.MyModel",
            "name": "mine",
            "max_batch_size": 5,
            "parameters": {
                "uri": str(root / "mine"),
                "content_type": "np",
                "threshold": 3,
                "extra": {"a": [1]},
            },
        },
        "source": str(root / "mine" / FILE),
        "search_path": [str(root / "mine"), str(root), str(Path.cwd())],
        "package": "auto",
    }
    assert {Path(each).relative_to(root).as_posix() for each in spec.watched} == {
        "mine/model-settings.json",
        "mine/models.py",
        "mine/pkg/__init__.py",
    }
    assert spec.warnings == ()


def test_two_looks_find_the_same(root):
    """Looking again at files that did not change finds equal specs, whatever they hold; each change makes another."""
    text = (
        '{"implementation": "m.M", "parameters": {"uri": "w.bin", "extra": {"a": NaN, "b": [-Infinity, {"c": NaN}]}}}'
    )
    write(root, {"a/model-settings.json": text, "a/w.bin": "weights"})
    spec = one(root)
    assert one(root) == spec
    assert str(root / "a/w.bin") in spec.watched
    write(root, {"a/new.py": ""})
    assert one(root) != spec


def test_environment_alone(root):
    """A folder without settings files and `MLSERVER_MODEL_` variables is one model, made of these."""
    write(root, {"iris/model.joblib": "x"})
    environ = {
        "MLSERVER_MODEL_NAME": "iris",
        "MLSERVER_MODEL_IMPLEMENTATION": SKLEARN,
        "MLSERVER_MODEL_URI": str(root / "iris"),
        "MLSERVER_MODEL_VERSION": "3",
    }
    assert mlserver.speaks(root, environ)
    spec = one(root, environ)
    assert (spec.name, spec.version, spec.path) == ("iris", "3", str(root / "iris/model.joblib"))
    assert one(root, {"MLSERVER_MODEL_IMPLEMENTATION": "models.M"}).name == "top"  # MLServer: no name at all


def test_environment_fills_in(root):
    """The environment sets what the file does not, a `.env` file what neither does; the file stands above both."""
    write(root, {"a/model-settings.json": {"implementation": "m.M", "parameters": {"version": "v1"}}})
    environ = {"mlserver_model_platform": "p", "MLSERVER_MODEL_VERSION": "v3", "MLSERVER_MODEL_URI": "./x"}
    Path(".env").write_text("MLSERVER_MODEL_URI=./dot\nMLSERVER_MODEL_MAX_BATCH_SIZE=7\nMLSERVER_MODEL_FOO=1\nBAR=2\n")
    spec = one(root, environ)
    assert spec.version == "v1"
    assert spec.declared["platform"] == "p"
    assert spec.parameters["settings"] == {
        "implementation": "m.M",
        "name": "a",
        "platform": "p",
        "max_batch_size": 7,
        "parameters": {"uri": "./x", "version": "v1", "foo": "1"},  # MLServer also has BAR in it, from .env
    }


def test_environment_json_is_merged(root):
    """Objects of the environment are JSON, and are merged under those of the file, as deep as they go."""
    write(root, {"a/model-settings.json": {"implementation": "m.M", "parameters": {"extra": {"b": {"c": 1}}}}})
    environ = {"MLSERVER_MODEL_PARAMETERS": '{"uri": "./p", "extra": {"b": {"c": 2, "d": 3}}}'}
    parameters = one(root, environ).parameters["settings"]["parameters"]
    assert parameters == {"uri": "./p", "extra": {"b": {"c": 1, "d": 3}}}
    spec = one(root, {"MLSERVER_MODEL_EXTRA": '{"z": 1}'})
    assert spec.parameters["settings"]["parameters"]["extra"] == {"z": 1, "b": {"c": 1}}


# -- values, as MLServer 1.7.1 takes them --

TAKEN = {
    "text-of-number": ("max_batch_size", "10", 10),
    "number-of-text-with-spaces": ("max_batch_size", " 10 ", 10),
    "underscores": ("max_batch_size", "1_000", 1000),
    "whole-float": ("max_batch_size", 10.0, 10),
    "whole-float-text": ("max_batch_size", "10.0", 10),
    "true-is-1": ("max_batch_size", True, 1),
    "float-text": ("max_batch_time", "0.5", 0.5),
    "true-is-1.0": ("max_batch_time", True, 1.0),
    "yes": ("cache_enabled", "yes", True),
    "one": ("cache_enabled", 1, True),
    "t": ("cache_enabled", "t", True),
    "one-point": ("cache_enabled", 1.0, True),
    "OFF": ("cache_enabled", "OFF", False),
    "workers": ("parallel_workers", "0", 0),
    "no-workers": ("parallel_workers", None, None),
    "tensors": (
        "inputs",
        [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [-1, "4"],
                "more": 1,
                "parameters": {"content_type": "np", "a": 1},
            }
        ],
        [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "parameters": {"content_type": "np", "a": 1}}],
    ),
}

REFUSED = {
    "number-for-text": ("name", 5, "key 'name': expected text in quotes, came the number 5"),
    "null-for-text": ("platform", None, "key 'platform': expected text in quotes, came null"),
    "half": ("max_batch_size", 10.5, "key 'max_batch_size': expected a whole number, came the number 10.5"),
    "hex": ("max_batch_size", "0x1", "key 'max_batch_size': expected a whole number, came the text '0x1'"),
    "null-for-number": ("max_batch_size", None, "key 'max_batch_size': expected a whole number, came null"),
    "two": ("cache_enabled", 2, "key 'cache_enabled': expected true or false, came the number 2"),
    "spaced-true": ("cache_enabled", " true", "key 'cache_enabled': expected true or false, came the text ' true'"),
    "endless": ("max_batch_time", "inf", "key 'max_batch_time': expected a finite number, came the text 'inf'"),  # ours
    "text-for-list": ("versions", "a", "key 'versions': expected a list of texts, came the text 'a'"),
    "number-in-list": ("versions", ["a", 1], "key 'versions[1]': expected text in quotes, came the number 1"),
    "half-a-tensor": ("inputs", [{"name": "x"}], "key 'inputs[0]': expected an object with 'datatype', came an object"),
    "small-letters": (
        "outputs",
        [{"name": "x", "datatype": "fp32", "shape": [1]}],
        f"key 'outputs[0].datatype': expected one of {DATATYPES}, came the text 'fp32'",
    ),
    "text-for-object": ("parameters", "x", "key 'parameters': expected an object, came the text 'x'"),
    "uri": ("parameters", {"uri": 5}, "key 'parameters.uri': expected text in quotes, came the number 5"),
    "extra": ("parameters", {"extra": "x"}, "key 'parameters.extra': expected an object, came the text 'x'"),
    "gid": (
        "parameters",
        {"autogenerate_inference_pool_gid": "maybe"},
        "key 'parameters.autogenerate_inference_pool_gid': expected true or false, came the text 'maybe'",
    ),
}


@pytest.mark.parametrize(("key", "value", "expected"), TAKEN.values(), ids=TAKEN)
def test_value_is_taken(root, key, value, expected):
    """A value that MLServer takes is taken, as what it takes it for."""
    write(root, {"a/model-settings.json": {"implementation": "m.M", key: value}})
    found = one(root).parameters["settings"][key]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("key", "value", "message"), REFUSED.values(), ids=REFUSED)
def test_value_is_refused(root, key, value, message):
    """A value that MLServer refuses is refused, by file, line and key, and the model keeps its name."""
    text = json.dumps({"implementation": "m.M", "name": "n", key: value}, indent=1)
    write(root, {"a/model-settings.json": text})
    problem = wrong(root)
    assert isinstance(problem.error, SettingsError)
    place, _, told = str(problem.error).partition(": ")
    assert told == message
    file, _, line = place.rpartition(":")
    assert file == str(root / "a" / FILE)
    last = message.partition("'")[2].partition("'")[0].rpartition(".")[2].partition("[")[0]
    assert f'"{last}"' in text.split("\n")[int(line) - 1] or "[" in message
    assert problem.name == ("a" if key == "name" else "n")


def test_wrong_variable(root):
    """A variable of the wrong kind is told by its name, with the file it stands in if it is of one."""
    write(root, {"a/model-settings.json": {"implementation": "m.M"}})
    told = str(wrong(root, {"MLSERVER_MODEL_MAX_BATCH_SIZE": "many"}).error)
    assert told == "environment MLSERVER_MODEL_MAX_BATCH_SIZE: expected a whole number, came the text 'many'"
    told = str(wrong(root, {"MLSERVER_MODEL_PARAMETERS": "x"}).error)
    assert told == "environment MLSERVER_MODEL_PARAMETERS: expected JSON (an object), came the text 'x'"
    Path(".env").write_text("MLSERVER_MODEL_CACHE_ENABLED=maybe")
    assert str(wrong(root).error).startswith(".env file, MLSERVER_MODEL_CACHE_ENABLED: expected true or false")


MALFORMED = {
    "cut": ('{"name": "x",\n', ":2: not valid JSON at column 1: expecting property name"),
    "comma": ('{"name": "x"\n "implementation": 1}', ":2: not valid JSON at column 2: expecting ',' delimiter"),
    "empty": ("", ":1: not valid JSON at column 1: expecting value"),
    "list": ("[]", ": expected a JSON object, came a list"),
    "deep": ("[" * 100_000, ": not usable JSON"),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed(root, text, message):
    """A file that is not a JSON object is told by file, line and column; the others are found."""
    write(root, {"a/model-settings.json": text, "b/model-settings.json": {"implementation": "m.M"}})
    found = survey(root)
    assert [spec.name for spec in found.specs] == ["b"]
    (problem,) = found.problems
    assert problem.name == "a"
    assert problem.place == str(root / "a" / FILE)
    assert str(problem.error).startswith(f"{root / 'a' / FILE}{message}")


def test_not_utf8(root):
    """A file that is not UTF-8 is told by the line and the byte; a byte order mark is no harm."""
    write(root, {"a/x": ""})
    (root / "a" / FILE).write_bytes(b'{\n"name": "\xff"}')
    assert str(wrong(root).error) == f"{root / 'a' / FILE}:2: expected text in UTF-8, came byte 0xff"
    (root / "a" / FILE).write_bytes(b'\xef\xbb\xbf{"implementation": "m.M"}')
    assert one(root).name == "a"


# -- warnings --


def test_unknown_keys(root):
    """A key that MLServer would ignore is told with its line and the nearest known one; the model is served."""
    text = '{"implementation": "m.M",\n"max_batchsize": 5,\n"zzz": 1,\n"parameters": {"inference_pool_id": "x", "mine": 1}}'
    write(root, {"a/model-settings.json": text})
    spec = one(root)
    file = root / "a" / FILE
    assert spec.warnings == (
        f"{file}:2: key 'max_batchsize' is not known; did you mean 'max_batch_size'?",
        f"{file}:3: key 'zzz' is not known",
        f"{file}:4: key 'parameters.inference_pool_id' is kept for the model to read; did you mean 'inference_pool_gid'?",
    )
    assert spec.parameters["settings"]["parameters"]["mine"] == 1


def test_what_an_official_runtime_does_not_read(root):
    """Extras, formats and parameters that nothing reads are told, since an official class leaves no one to read them."""
    settings = {
        "implementation": SKLEARN,
        "warm_workers": True,
        "parallel_workers": 2,
        "parameters": {"format": "x", "version_": "2", "extra": {"predict_fn": "transform", "other": 1}},
    }
    write(root, {"a/model-settings.json": json.dumps(settings, indent=1), "a/model.pkl": "x"})
    told = [warning.partition(": ")[2] for warning in one(root).warnings]
    assert told == [
        "key 'parallel_workers' only counts where it is 0: 'parallel_workers' of settings.json holds",
        "key 'warm_workers' has no effect, as in MLServer, where it is deprecated",
        f"key 'parameters.extra.other' is not read by {SKLEARN}",
        f"key 'parameters.format' is not read by {SKLEARN}",
        f"key 'parameters.version_' is not read by {SKLEARN}; did you mean 'version'?",
    ]


def test_content_types_that_our_runtimes_do_not_take_over(root):
    """A default content type that changes what an official class reads is told; one that does not is not."""
    tensor = {"name": "x", "datatype": "BYTES", "shape": [-1]}
    inputs = [{**tensor, "parameters": {"content_type": each}} for each in ("np", "base64")]
    settings = {"implementation": SKLEARN, "inputs": inputs, "parameters": {"content_type": "datetime"}}
    write(root, {FILE: json.dumps(settings, indent=1), "model.pkl": "x"})
    for warning, key, kind in zip(
        one(root).warnings,
        ("parameters.content_type", "inputs[1].parameters.content_type"),
        ("datetime", "base64"),
        strict=True,
    ):
        assert f": key '{key}': '{kind}' is not taken for requests that say none" in warning
        line = int(warning.removeprefix(f"{root / FILE}:").partition(":")[0])
        assert kind in (root / FILE).read_text().split("\n")[line - 1]
    write(root, {FILE: {"implementation": SKLEARN, "inputs": inputs[:1], "parameters": {"content_type": "pd"}}})
    assert one(root).warnings == ()


# -- what the fields become --


def test_batching(root):
    """Batching is on when both its size and its time say so, as in MLServer."""
    for size, time, expected in [
        (8, 0.25, Batching(max_batch_size=8, max_wait_seconds=0.25)),
        (8, 0, None),
        (1, 0.5, None),
        (0, 0.5, None),
    ]:
        write(root, {FILE: {"implementation": "m.M", "max_batch_size": size, "max_batch_time": time}})
        assert one(root).batching == expected


def test_cache(root):
    """Answers are kept when the server and the model both say so, as many as the server says."""
    write(root, {FILE: {"implementation": "m.M", "cache_enabled": True}})
    assert one(root).cache is None
    write(root, {"settings.json": {"cache_enabled": True, "cache_size": 7}})
    assert one(root).cache == Cache(max_entries=7)
    assert one(root, {"MLSERVER_CACHE_SIZE": "9"}).cache == Cache(max_entries=7)
    write(root, {FILE: {"implementation": "m.M"}})
    assert one(root).cache is None
    assert one(root, {"MLSERVER_MODEL_CACHE_ENABLED": "true"}).cache == Cache(max_entries=7)


PLACES = {
    "default": ({}, {}, ("process", 1)),
    "several": ({"parallel_workers": 3}, {}, ("process", 3)),
    "none": ({"parallel_workers": 0}, {}, ("inline", 1)),
    "model-says-no": ({"parallel_workers": 3}, {"parallel_workers": 0}, ("inline", 1)),
    "pool": ({"parallel_workers": 0}, {"parameters": {"inference_pool_gid": "x"}}, ("process", 1)),
    "own-pool": ({}, {"parameters": {"autogenerate_inference_pool_gid": True}}, ("process", 1)),
    "environment": ({"parallel_workers": 0}, {"parameters": {"environment_path": "./env"}}, ("process", 1)),
}


@pytest.mark.parametrize(("server", "model", "expected"), PLACES.values(), ids=PLACES)
def test_placement(root, server, model, expected):
    """Workers of the server and pools of the model say where somebody's own class runs."""
    write(root, {"settings.json": server, "a/model-settings.json": {"implementation": "m.M", **model}})
    spec = one(root)
    assert (spec.placement, spec.replicas) == expected


def test_placement_of_official(root):
    """An official class runs where measuring says; a pool of its own means processes."""
    write(root, {"settings.json": {"parallel_workers": 0}, FILE: {"implementation": SKLEARN}, "model.pkl": "x"})
    assert one(root).placement == "auto"
    write(root, {FILE: {"implementation": SKLEARN, "parameters": {"inference_pool_gid": "a"}}})
    assert one(root).placement == "process"


def test_our_words_stand_above(root):
    """What is said in our own words stands above: for all models over the server's settings, for one over its file."""
    write(root, {"a/model-settings.json": {"implementation": "m.M"}})
    assert one(root, defaults={"placement": "thread", "replicas": 2}).placement == "thread"
    assert one(root, defaults={"load_at_start": False}).load_at_start is False
    write(root, {"a/headrace.yaml": "placement: inline\npredict_timeout_seconds: 5\n"})
    spec = one(root, defaults={"placement": "thread"}, overrides={"name": "b"})
    assert (spec.name, spec.placement, spec.predict_timeout_seconds) == ("b", "inline", 5.0)
    write(root, {"a/model-settings.json": {"implementation": "m.M", "parallel_workers": 0}, "a/headrace.yaml": ""})
    assert one(root, defaults={"placement": "thread"}).placement == "inline"


@pytest.mark.parametrize("key", ["environment_tarball", "environment_path"])
def test_environment_of_its_own(root, key):
    """A model's environment is found relative to its settings file."""
    write(root, {"a/model-settings.json": {"implementation": "m.M", "parameters": {key: "../envs/e"}}})
    assert os.path.normpath(one(root).environment) == str(root / "envs" / "e")


def test_load_at_start(root):
    """Where models are not to be loaded at start, each waits."""
    write(root, {"settings.json": {"load_models_at_startup": False}, FILE: {"implementation": "m.M"}})
    assert one(root).load_at_start is False


def test_declared(root):
    """What the file declares is kept in the members of V2 metadata; what is empty or null is not there."""
    write(
        root,
        {
            FILE: {
                "implementation": "m.M",
                "platform": "plat",
                "versions": ["a/1"],
                "inputs": [
                    {"name": "x", "datatype": "FP32", "shape": [-1], "parameters": {"content_type": None, "a": 1}}
                ],
                "outputs": [],
                "parameters": {"content_type": "np", "format": "z", "other": 3},
            }
        },
    )
    assert one(root).declared == {
        "platform": "plat",
        "versions": ["a/1"],
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1], "parameters": {"a": 1}}],
        "parameters": {"content_type": "np"},
    }


# -- uris --

URIS = {
    "beside": ("./m.joblib", "a/m.joblib"),
    "bare": ("m.joblib", "a/m.joblib"),
    "above": ("../other/model.pkl", "other/model.pkl"),
    "folder": ("sub", "a/sub/model.pkl"),
    "file-scheme": ("file:m.joblib", "a/m.joblib"),
    "FILE-scheme": ("FILE:./m.joblib", "a/m.joblib"),
    "spaces": ("file:sp ace.joblib", "a/sp ace.joblib"),
    "empty": ("", "a/model.pickle"),
}


@pytest.fixture
def artifacts(root):
    """A folder with artifacts at the places that uris may name."""
    names = ["a/m.joblib", "a/sp ace.joblib", "a/model.pickle", "a/sub/model.pkl", "other/model.pkl", "a/none/x.txt"]
    return write(root, dict.fromkeys(names, "MODEL sklearn"))


@pytest.mark.parametrize(("uri", "expected"), URIS.values(), ids=URIS)
def test_uri(artifacts, uri, expected):
    """A uri is relative to the settings file; a folder gives its well-known file."""
    write(artifacts, {"a/model-settings.json": {"implementation": SKLEARN, "parameters": {"uri": uri}}})
    assert one(artifacts).path == str(artifacts / expected)


def test_absolute_uri(artifacts):
    """An absolute path, with or without scheme, is taken as it is."""
    for prefix in ("", "file:", "file://"):
        uri = f"{prefix}{artifacts}/a/m.joblib"
        write(artifacts, {"a/model-settings.json": {"implementation": SKLEARN, "parameters": {"uri": uri}}})
        assert one(artifacts).path == str(artifacts / "a/m.joblib")


def test_uri_to_nothing(artifacts):
    """A uri where nothing is gives MLServer's words, and what was looked for where a folder holds no such file."""
    write(artifacts, {"a/model-settings.json": {"implementation": SKLEARN, "parameters": {"uri": "nothing"}}})
    problem = wrong(artifacts)
    assert isinstance(problem.error, LoadFailed)
    nothing = artifacts / "a/nothing"
    assert str(problem.error) == f"Invalid URI specified for model a ({nothing}): there is nothing here"
    write(artifacts, {"a/model-settings.json": {"implementation": SKLEARN, "parameters": {"uri": "none"}}})
    assert str(wrong(artifacts).error) == (
        f"Invalid URI specified for model a ({artifacts / 'a/none'}): looked for model.joblib, model.pickle, model.pkl; "
        "found x.txt"
    )


def test_other_name(root):
    """A folder whose one model has a name of its own is no error, though MLServer looks for well-known names only."""
    write(root, {FILE: {"implementation": SKLEARN}, "iris.joblib": "MODEL sklearn", "x.onnx": "MODEL onnx"})
    assert one(root).path == str(root / "iris.joblib")


def test_remote_uri(root):
    """Storage elsewhere is refused for an official class, and left to somebody's own class."""
    write(root, {FILE: {"implementation": SKLEARN, "parameters": {"uri": "s3://bucket/m"}}})
    assert "'s3://bucket/m' is in storage elsewhere (s3:)" in str(wrong(root).error)
    write(root, {FILE: {"implementation": "m.M", "parameters": {"uri": "s3://bucket/m"}}})
    assert one(root).parameters["settings"]["parameters"]["uri"] == "s3://bucket/m"


# -- classes --


def test_class_without_equal(root):
    """An official class that has no equal here says what is missing; where its package is there, it is run."""
    write(root, {FILE: {"implementation": "mlserver_huggingface.HuggingFaceRuntime"}})
    told = str(wrong(root).error)
    assert "serves Hugging Face pipelines" in told
    assert "package mlserver-huggingface is not installed" in told
    write(root, {"mlserver_huggingface/__init__.py": ""})
    assert one(root).reference == "mlserver_huggingface.HuggingFaceRuntime"


def test_no_implementation(root):
    """Without a class, a model that is recognised is served with a warning; where none is, the key is named."""
    write(root, {"a/model-settings.json": {"name": "x"}, "a/model.onnx": "MODEL onnx"})
    spec = one(root)
    assert (spec.runtime, spec.path) == ("onnx", str(root / "a/model.onnx"))
    assert "key 'implementation' is missing" in spec.warnings[0]
    (root / "a/model.onnx").unlink()
    problem = wrong(root)
    assert problem.name == "x"
    assert str(problem.error).startswith(f"{root / 'a' / FILE}: key 'implementation' is missing")


def test_find_class(root):
    """A class is found in a file or package of the folder or among what is installed; what is not there is named."""
    write(
        root,
        {
            "models.py": "from x import Imported\nclass Mine: ...\nMade = make()\nif True:\n    class Inner: ...\n",
            "pkg/__init__.py": "",
            "pkg/deep.py": "class Deep: ...",
            "broken.py": "class (",
        },
    )
    for there in ("models.Mine", "models.Imported", "models.Made", "models:Inner", "pkg.deep.Deep", "json.JSONDecoder"):
        assert mlserver.find_class(there, [str(root)]) == ""
    told = mlserver.find_class("models.Mime", [str(root)])
    assert told == f"{root / 'models.py'} has no 'Mime'; did you mean 'Mine'?"
    assert "there is no module 'nobody_has_this'" in mlserver.find_class("nobody_has_this.M", [str(root)])
    assert "there is no module 'pkg.no'" in mlserver.find_class("pkg.no.M", [str(root)])
    assert f"{root / 'broken.py'}:1 cannot be read" in mlserver.find_class("broken.M", [str(root)])
    assert "expected module.Class" in mlserver.find_class("Mine", [str(root)])


# -- names, versions, discovery --


@pytest.mark.parametrize("name", ["iris model", "größe", "a:b", "UPPER_1"])
def test_any_name(root, name):
    """A name that MLServer takes and one part of a url can hold is taken."""
    write(root, {FILE: {"implementation": "m.M", "name": name}})
    assert one(root).name == name


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "x" * 129])
def test_impossible_name(root, name):
    """A name that no request could ask for is refused, by file and line."""
    write(root, {FILE: {"implementation": "m.M", "name": name}})
    assert str(wrong(root).error).startswith(f"{root / FILE}:1: key 'name': {name!r} cannot stand in a url")


def test_same_name_and_version(root):
    """Two files of one name and version are a problem that names both; the first is served."""
    settings = {"implementation": "m.M", "name": "x", "parameters": {"version": "1"}}
    write(root, {"a/model-settings.json": settings, "b/model-settings.json": settings})
    found = survey(root)
    assert [spec.folder for spec in found.specs] == [str(root / "a")]
    (problem,) = found.problems
    assert (problem.name, problem.version) == ("x", "1")
    assert str(root / "a" / FILE) in str(problem.error)
    assert str(root / "b" / FILE) in str(problem.error)


def test_walk(root):
    """Hidden folders, environments and caches are passed over; links are followed, but not in circles."""
    settings = {"implementation": "m.M"}
    names = ["a", "a/b/c", ".hidden", "venv/lib", "conda/x", "__pycache__", "named-venv"]
    write(root, {f"{name}/model-settings.json": settings for name in names})
    write(root, {"venv/pyvenv.cfg": "", "conda/conda-meta/history": ""})
    (root / "a" / "loop").symlink_to(root)
    (root / "link").symlink_to(root / "a" / "b")
    found = [file.parent.relative_to(root).as_posix() for file in mlserver.settings_files(root)]
    assert sorted(found) == ["a", "a/b/c", "link/c", "named-venv"]


def test_walk_is_bounded(root, monkeypatch):
    """No more folders are looked into than the bound says, the nearest first."""
    write(root, {f"{number}/x/model-settings.json": {} for number in range(20)} | {"0/model-settings.json": {}})
    monkeypatch.setattr(mlserver, "MAX_FOLDERS", 15)
    assert [file.parent.name for file in mlserver.settings_files(root)] == ["0"]


def test_speaks(root):
    """A folder speaks the dialect by a settings file of a model or of the server, or by a class in the environment."""
    assert not mlserver.speaks(root, {})
    write(root, {"settings.json": {"editor.fontSize": 12}})
    assert not mlserver.speaks(root, {"MLSERVER_MODEL_NAME": "x"})
    assert mlserver.speaks(root, {"mlserver_model_implementation": "m.M"})
    write(root, {"settings.json": {"http_port": 9000}})
    assert mlserver.speaks(root, {})
    (root / "settings.json").unlink()
    write(root, {"a/b/model-settings.json": ""})
    assert mlserver.speaks(root, {})


def test_broken_settings_of_the_server(root):
    """With a server's settings file that cannot be read no model is found, and the folder says why."""
    write(root, {"settings.json": "{", FILE: {"implementation": "m.M"}})
    problem = wrong(root)
    assert problem.place == str(root)
    assert "settings.json:1: not valid JSON" in str(problem.error)


def test_a_misspelt_implementation_is_named_where_it_is_missed(tmp_path):
    """The error about the missing key says where a key stands that is almost it."""
    root = write(tmp_path, {f"a/{FILE}": '{\n "implementatoin": "models.M"\n}'})
    told = str(wrong(root).error)
    assert "key 'implementation' is missing" in told
    assert f"{FILE}:2: key 'implementatoin' is not known; did you mean 'implementation'?" in told


# -- explainers and detectors --

EXPLAIN, DETECT = "mlserver_alibi_explain.AlibiExplainRuntime", "mlserver_alibi_detect.AlibiDetectRuntime"
trust_folders = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "trust_folders.py")))


def explains(**extra):
    return {"implementation": EXPLAIN, "parameters": {"extra": extra}}


def test_an_explainer_explains_the_model_of_its_infer_uri(root):
    """What MLServer's explainer is told becomes ours: whom, by which method, with which options."""
    uri = "http://localhost:8080/v2/models/income/versions/2/infer"
    extra = {"infer_uri": uri, "explainer_type": "anchor_tabular", "explain_parameters": {"threshold": 0.9}}
    write(root, {FILE: explains(**extra, init_parameters={"seed": 1})})
    spec = one(root)
    assert (spec.runtime, spec.path) == ("explainer", "")
    assert spec.parameters == {
        "model": "income", "version": "2", "method": "anchor-tabular", "options": {"threshold": 0.9}
    }  # fmt: skip
    assert any("init_parameters" in warning and "explainers.json" in warning for warning in spec.warnings)


def test_an_explainer_may_have_a_trust_folder_of_its_own(root):
    """A uri that is one of our folders is where it explains from."""
    folder = trust_folders.write(root / "data")
    settings = explains(infer_uri="/v2/models/income/infer")
    settings["parameters"]["uri"] = "./data"
    write(root, {FILE: settings})
    assert one(root).path == str(folder)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"explainer_type": "anchor_text"}, "infer_uri"),
        ({"infer_uri": "/v2/models/m/infer", "explainer_type": "anchor_tabla"}, "nearest of ours is 'anchor-tabular'"),
    ],
    ids=["nobody to explain", "an unknown method"],
)
def test_an_explainer_that_is_none(root, extra, expected):
    """What has no equal here is refused, with the nearest there is."""
    write(root, {FILE: explains(**extra)})
    assert expected in str(wrong(root).error)


@pytest.mark.parametrize(
    ("settings", "saved", "method"),
    [
        (explains(infer_uri="/v2/models/m/infer", explainer_type="kernel_shap"), "meta.dill", "'kernel-shap'"),
        (
            {"implementation": DETECT, "parameters": {"extra": {"detector_type": "alibi_detect.cd.MMDDrift"}}},
            "config.toml",
            "'mmd'",
        ),
    ],
    ids=["explainer", "detector"],
)
def test_what_alibi_saved_is_refused(root, settings, saved, method):
    """A folder of pickled code is refused with the name of our method and the command that makes a trust folder."""
    write(root, {FILE: settings, saved: "x"})
    error = str(wrong(root).error)
    assert method in error
    assert "headrace trust fit" in error


def test_a_detector_is_one_of_a_trust_folder(root):
    """A detector without a trust folder is refused; a folder without detectors says that it has none."""
    write(root, {FILE: {"implementation": DETECT}})
    assert "headrace trust fit" in str(wrong(root).error)
    folder = trust_folders.write(root / "data")
    write(root, {FILE: {"implementation": DETECT, "parameters": {"uri": "data"}}})
    assert "it has none" in str(wrong(root).error)
    write(root, {FILE: {"implementation": DETECT, "parameters": {"uri": "data", "extra": {"detector": "odd"}}}})
    spec = one(root)
    assert (spec.runtime, spec.path, spec.parameters) == ("detector", str(folder), {"detector": "odd"})
