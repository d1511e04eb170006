"""discovery: which models lie at a path.

Matrix: a file, a folder as one model, versions, a folder of models, references, mounted volumes; x what is ignored, what
is refused, what headrace.yaml says. Files are recognised by a first line `MODEL kind`, through the argument meant for
that; the real recognition has its own tests, and one here.
"""

import pytest

from headrace.errors import HeadraceError, LoadFailed, SettingsError, UnknownFormat
from headrace.runtimes.base import Recognition
from headrace.serving import discovery
from headrace.serving.batching import Batching


def recognise(path):
    """A file that begins with `MODEL kind`, or a folder that holds a file MLmodel."""
    if path.is_dir():
        if (path / "MLmodel").is_file():
            return "mlflow", Recognition("file MLmodel")
        raise UnknownFormat(f"{path}: no runtime recognises this folder")
    words = path.read_bytes()[:100].split()
    if words[:1] == [b"TIE"]:
        raise LoadFailed(f"{path}: both a and b recognise this file; set 'runtime'")
    if words[:1] != [b"MODEL"]:
        raise UnknownFormat(f"{path}: no runtime recognises this file of {path.stat().st_size} bytes")
    return words[1].decode(), Recognition("first line")


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def survey(*paths, **options):
    return discovery.survey([str(path) for path in paths], recognise=recognise, **options)


def found(root, *paths, **options):
    """What is found as (name, version, runtime, relative path)."""
    specs = discovery.discover([str(path) for path in paths or [root]], recognise=recognise, **options)
    return [(spec.name, spec.version, spec.runtime, spec.path.removeprefix(f"{root}/")) for spec in specs]


CASES = {
    "folder-with-one-file": ({"top/iris/model.joblib": "MODEL a"}, [("iris", "", "a", "iris/model.joblib")]),
    "mlflow": ({"top/iris/MLmodel": "x", "top/iris/model.pkl": "MODEL a"}, [("iris", "", "mlflow", "iris")]),
    "files-and-folders": (
        {"top/b.onnx": "MODEL b", "top/a.joblib": "MODEL a", "top/c/model.ubj": "MODEL c", "top/notes.txt": "hello"},
        [("a", "", "a", "a.joblib"), ("b", "", "b", "b.onnx"), ("c", "", "c", "c/model.ubj")],
    ),
    "versions": (
        {"top/iris/10/m.onnx": "MODEL a", "top/iris/9/m.onnx": "MODEL a", "top/wine/v2/m": "MODEL b"},
        [
            ("iris", "9", "a", "iris/9/m.onnx"),
            ("iris", "10", "a", "iris/10/m.onnx"),
            ("wine", "v2", "b", "wine/v2/m"),
        ],
    ),
    "mlflow-versions": (
        {"top/m/1/MLmodel": "x", "top/m/1.2/MLmodel": "x"},
        [("m", "1", "mlflow", "m/1"), ("m", "1.2", "mlflow", "m/1.2")],
    ),
    "companions": (
        {
            "top/iris/model.joblib": "MODEL a",
            "top/iris/golden.npz": "MODEL a",
            "top/iris/trust/explainer.pkl": "MODEL a",
            "top/iris/README.md": "MODEL a",
            "top/iris/requirements.txt": "MODEL a",
            "top/iris/.hidden.joblib": "MODEL a",
            "top/iris/_old.joblib": "MODEL a",
            "top/iris/train.csv": "1,2",
            "top/iris/helper.py": "MODEL python",
            "top/.git/x.joblib": "MODEL a",
            "top/docs/README.md": "words",
        },
        [("iris", "", "a", "iris/model.joblib")],
    ),
    "python-alone": ({"top/own/model.py": "MODEL python"}, [("own", "", "python", "own/model.py")]),
    "yaml-names": (
        {"top/iris/model.joblib": "MODEL a", "top/iris/headrace.yaml": "{name: flower, version: 3}"},
        [("flower", "3", "a", "iris/model.joblib")],
    ),
    "yaml-path": (
        {"top/iris/a.pkl": "MODEL a", "top/iris/b.pkl": "MODEL b", "top/iris/headrace.yaml": "path: b.pkl"},
        [("iris", "", "b", "iris/b.pkl")],
    ),
    "yaml-runtime": (
        {"top/iris/odd.bin": "?", "top/iris/headrace.yaml": "runtime: own"},
        [("iris", "", "own", "iris/odd.bin")],
    ),
    "yaml-of-one-file": (
        {"top/a.pkl": "MODEL a", "top/b.pkl": "MODEL b", "top/b.headrace.yaml": "{name: bee}"},
        [("a", "", "a", "a.pkl"), ("bee", "", "b", "b.pkl")],
    ),
    "yaml-over-versions": (
        {
            "top/m/headrace.yaml": "name: n",
            "top/m/1/x.pkl": "MODEL a",
            "top/m/2/x.pkl": "MODEL a",
            "top/m/2/headrace.yaml": "version: two",
        },
        [("n", "1", "a", "m/1/x.pkl"), ("n", "two", "a", "m/2/x.pkl")],
    ),
    "empty-version-about-to-be-filled": (
        {"top/m/1/x.pkl": "MODEL a", "top/m/2/.partial": ""},
        [("m", "1", "a", "m/1/x.pkl")],
    ),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_a_folder_of_models(tmp_path, files, expected):
    """Each layout within a folder of models gives these models, in this order."""
    top = write(tmp_path, {**files, "top/zz/model.bin": "MODEL z"}) / "top"
    assert found(top) == [*expected, ("zz", "", "z", "zz/model.bin")]


@pytest.mark.parametrize(
    "layout",
    ["folder-with-one-file", "mlflow", "companions", "python-alone", "yaml-names", "yaml-path", "yaml-runtime"],
)
def test_a_model_folder_itself(tmp_path, layout):
    """A folder that is one model within a folder of models is the same model when it is named itself."""
    files, expected = CASES[layout]
    top = write(tmp_path, files) / "top"
    (inner,) = {name.split("/")[1] for name in files if name.split("/")[1] not in {".git", "docs"}}
    assert found(top, top / inner) == expected


@pytest.mark.parametrize("layout", ["versions", "mlflow-versions", "yaml-over-versions"])
def test_a_folder_of_versions_itself(tmp_path, layout):
    """A folder of versions is one model in versions when it is named itself."""
    files, expected = CASES[layout]
    top = write(tmp_path, files) / "top"
    inner = sorted({name.split("/")[1] for name in files})
    assert found(top, *[top / name for name in inner]) == expected


def test_a_file_itself(tmp_path):
    """A file is a model named by its stem, with what its own headrace.yaml or the folder's says of it."""
    write(
        tmp_path,
        {"a.x.pkl": "MODEL a", "b.pkl": "MODEL b", "c.pkl": "MODEL c", "headrace.yaml": "{name: sea, path: c.pkl}"},
    )
    write(tmp_path, {"b.headrace.yaml": "version: 7"})
    paths = [tmp_path / name for name in ("a.x.pkl", "b.pkl", "c.pkl")]
    assert found(tmp_path, *paths) == [
        ("a.x", "", "a", "a.x.pkl"),
        ("b", "7", "b", "b.pkl"),
        ("sea", "", "c", "c.pkl"),
    ]


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    """A relative path gives specs that hold wherever the process goes afterwards."""
    write(tmp_path, {"iris/model.pkl": "MODEL a"})
    monkeypatch.chdir(tmp_path / "iris")
    (spec,) = discovery.discover(["."], recognise=recognise)
    assert (spec.name, spec.path, spec.folder) == ("iris", str(tmp_path / "iris/model.pkl"), str(tmp_path / "iris"))


def test_a_python_class(tmp_path, monkeypatch):
    """module:Class and file.py:Class are models named by the class."""
    write(tmp_path, {"model.py": "class Iris: ..."})
    monkeypatch.chdir(tmp_path)
    first, second = discovery.discover(["package.model:Wine", "./model.py:Iris"], recognise=recognise)
    assert (first.name, first.reference, first.runtime, first.path) == ("Wine", "package.model:Wine", "python", "")
    assert (second.name, second.reference) == ("Iris", f"{tmp_path}/model.py:Iris")


def test_a_reference_in_yaml_finds_the_module_beside_it(tmp_path):
    """A reference to a module beside headrace.yaml is bound to that file; another stays as it is."""
    write(tmp_path, {"top/own/model.py": "class A: ...", "top/own/headrace.yaml": "reference: model:A"})
    write(tmp_path, {"top/other/headrace.yaml": "reference: package.model:B"})
    other, own = discovery.discover([str(tmp_path / "top")], recognise=recognise)
    assert (own.name, own.reference) == ("own", f"{tmp_path}/top/own/model.py:A")
    assert (other.name, other.reference) == ("other", "package.model:B")


def test_defaults_hold_where_the_file_is_silent(tmp_path):
    """The server's settings apply to a model unless its headrace.yaml says otherwise."""
    write(
        tmp_path,
        {
            "top/a.pkl": "MODEL a",
            "top/b.pkl": "MODEL b",
            "top/b.headrace.yaml": "placement: inline\nbatching: {max_batch_size: 2}\nwarm_up: [x.json]",
        },
    )
    a, b = discovery.discover(
        [str(tmp_path / "top")], recognise=recognise, defaults={"placement": "process", "replicas": 3}
    )
    assert (a.placement, a.replicas, a.batching) == ("process", 3, None)
    assert (b.placement, b.replicas, b.batching) == ("inline", 3, Batching(max_batch_size=2))
    assert b.warm_up == (f"{tmp_path}/top/x.json",)


def test_overrides_hold_over_the_file(tmp_path):
    """What all models are told (flags) wins over headrace.yaml, for versions, references and files that nobody knows."""
    write(tmp_path, {"m/headrace.yaml": "name: n", "m/1/x.pkl": "MODEL a", "m/2/x.pkl": "MODEL a", "odd/x.bin": "?"})
    assert [row[:2] for row in found(tmp_path, tmp_path / "m", overrides={"name": "k"})] == [("k", "1"), ("k", "2")]
    assert found(tmp_path, "p.q:R", overrides={"name": "k"})[0][0] == "k"
    for path in ("odd", "odd/x.bin"):
        assert found(tmp_path, tmp_path / path, overrides={"runtime": "own"})[0][2:] == ("own", "odd/x.bin")


def test_a_mounted_volume(tmp_path):
    """Models behind the links of a mounted volume are found under the names that the mount shows, once."""
    write(
        tmp_path,
        {"mount/..2026/iris.pkl": "MODEL a", "mount/..2026/wine.pkl": "MODEL b", "store/deep/m.pkl": "MODEL c"},
    )
    mount = tmp_path / "mount"
    (mount / "..data").symlink_to("..2026")
    for name in ("iris.pkl", "wine.pkl"):
        (mount / name).symlink_to(f"..data/{name}")
    (mount / "linked").symlink_to(tmp_path / "store" / "deep")
    assert found(mount) == [
        ("iris", "", "a", "iris.pkl"),
        ("wine", "", "b", "wine.pkl"),
        ("linked", "", "c", "linked/m.pkl"),
    ]


REFUSED = {
    "nothing-there": ({}, "gone", SettingsError, ["gone", "there is nothing here", "module:Class"]),
    "empty-folder": ({"top/.x": ""}, "top", UnknownFormat, ["top", "nothing that could be a model"]),
    "unrecognised-folder": (
        {"top/train.csv": "1", "top/data/x.bin": "2"},
        "top",
        UnknownFormat,
        ["no model is recognised here", "data/, train.csv"],
    ),
    "unrecognised-file": ({"top/x.bin": "12"}, "top/x.bin", UnknownFormat, ["x.bin", "2 bytes"]),
    "one-unrecognised-file": ({"top/x.bin": "12"}, "top", UnknownFormat, ["x.bin", "2 bytes"]),
    "calls-itself-a-model": ({"top/a.pkl": "MODEL a", "top/b.onnx": "?"}, "top", UnknownFormat, ["b.onnx"]),
    "folder-among-models": (
        {"top/a.pkl": "MODEL a", "top/b.pkl": "MODEL b", "top/c/weights.h5": "?", "top/c/arch.txt": "?"},
        "top",
        UnknownFormat,
        ["top/c", "arch.txt, weights.h5"],
    ),
    "too-deep": ({"top/a/b/c/m.pkl": "MODEL a"}, "top", UnknownFormat, ["no model is recognised", "found a/"]),
    "tie": ({"top/a.pkl": "TIE"}, "top", LoadFailed, ["both a and b", "set 'runtime'"]),
    "several-in-a-model-folder": (
        {"top/z.pkl": "MODEL z", "top/iris/a.pkl": "MODEL a", "top/iris/b.pkl": "MODEL b"},
        "top",
        SettingsError,
        ["top/iris", "should hold one model", "a.pkl, b.pkl", "'path'"],
    ),
    "versions-beside-files": (
        {"top/m/1/x.pkl": "MODEL a", "top/m/y.pkl": "MODEL a"},
        "top",
        SettingsError,
        ["top/m", "version folders (1)", "(y.pkl)"],
    ),
    "yaml-over-several": (
        {"top/a.pkl": "MODEL a", "top/b.pkl": "MODEL b", "top/headrace.yaml": "replicas: 2"},
        "top",
        SettingsError,
        ["top/headrace.yaml", "speaks for one model", "a.pkl, b.pkl", "STEM.headrace.yaml"],
    ),
    "yaml-path-gone": (
        {"top/a.pkl": "MODEL a", "top/headrace.yaml": "path: b.pkl"},
        "top",
        SettingsError,
        ["top/b.pkl", "nothing here", "'path'"],
    ),
    "yaml-wrong": (
        {"top/a.pkl": "MODEL a", "top/headrace.yaml": "replica: 2"},
        "top",
        SettingsError,
        ["top/headrace.yaml:1", "did you mean 'replicas'"],
    ),
    "name": (
        {"top/my model.pkl": "MODEL a"},
        "top/my model.pkl",
        SettingsError,
        ["'my model'", "cannot stand in a URL", "headrace.yaml"],
    ),
    "same-version-twice": (
        {"top/a.pkl": "MODEL a", "top/a.onnx": "MODEL b"},
        "top",
        SettingsError,
        ["model 'a' is at two places", "top/a.onnx and ", "top/a.pkl"],
    ),
    "broken-link": ({"top/b.pkl": "MODEL b"}, "top", LoadFailed, ["a.pkl", "cannot be read"]),
}


@pytest.mark.parametrize(("files", "path", "error", "parts"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path, files, path, error, parts):
    """What cannot be served is refused with what was found, where, and what would help."""
    write(tmp_path, files)
    if parts[0] == "a.pkl" and error is LoadFailed:
        (tmp_path / "top/a.pkl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(error) as caught:
        discovery.discover([str(tmp_path / path)], recognise=recognise)
    for part in parts:
        assert part in str(caught.value)


def test_one_bad_model_leaves_the_others(tmp_path):
    """A survey gives the good models and, by name and version, what is wrong with the bad ones."""
    write(
        tmp_path,
        {
            "top/a.pkl": "MODEL a",
            "top/b/x.bin": "?",
            "top/c/1/m.pkl": "MODEL c",
            "top/c/2/m.pkl": "?",
            "top/d/headrace.yaml": "name: dee\npath: gone.pkl",
        },
    )
    (tmp_path / "top/e.pkl").symlink_to(tmp_path / "nowhere")
    seen = survey(tmp_path / "top")
    assert [(spec.name, spec.version) for spec in seen.specs] == [("a", ""), ("c", "1")]
    assert [(each.name, each.version) for each in seen.problems] == [("e", ""), ("b", ""), ("c", "2"), ("dee", "")]
    assert all(isinstance(each.error, HeadraceError) for each in seen.problems)


def test_two_paths_with_the_same_model_are_refused(tmp_path):
    """The same name at two paths is an error that names both; the same name in two versions is not."""
    write(tmp_path, {"x/m/1/a.pkl": "MODEL a", "y/m/2/a.pkl": "MODEL a", "z/m/1/a.pkl": "MODEL a"})
    assert [spec.version for spec in survey(tmp_path / "x/m", tmp_path / "y/m").specs] == ["1", "2"]
    with pytest.raises(SettingsError, match=r"version '1' is at two places: .*x/m/1/a.pkl and .*z/m/1/a.pkl"):
        found(tmp_path, tmp_path / "x/m", tmp_path / "z/m")


SETTINGS = '{"implementation": "mlserver_sklearn.SKLearnModel"}'


def test_a_folder_of_another_server(tmp_path):
    """A folder with model-settings.json anywhere below holds what its dialect finds; recognised neighbours without
    settings are not served, and are told.
    """
    write(
        tmp_path,
        {
            "top/a/model-settings.json": SETTINGS,
            "top/a/model.pkl": "MODEL sklearn",
            "top/b/model.onnx": "MODEL onnx",
            "top/c.joblib": "MODEL sklearn",
            "top/data/rows.csv": "1,2",
            "top/shared/model.pkl": "MODEL sklearn",
            "top/d/model-settings.json": '{"implementation": "mlserver_sklearn.SKLearnModel",'
            '"parameters": {"uri": "../shared"}}',
        },
    )
    found = survey(tmp_path / "top", environ={})
    assert found.problems == ()
    assert [(spec.name, spec.dialect) for spec in found.specs] == [("a", "mlserver"), ("d", "mlserver")]
    (warning,) = found.warnings
    assert warning.startswith(f"{tmp_path / 'top'}: not served, since only folders with settings are models here: ")
    assert "c.joblib, b." in warning


def test_what_lies_beside_the_settings_of_one_model_is_its_own(tmp_path):
    """A folder that is one model of another server may hold other files and folders: nothing is told of them."""
    files = {"top/model-settings.json": SETTINGS, "top/model.pkl": "MODEL x", "top/old/model.pkl": "MODEL x"}
    write(tmp_path, files)
    assert survey(tmp_path / "top", environ={}).warnings == ()


def test_dialects_are_asked_at_the_top_only(tmp_path):
    """Two folders of two servers on one command line each have their own rules; a name in both is a problem."""
    write(
        tmp_path,
        {
            "theirs/a/model-settings.json": SETTINGS,
            "theirs/a/model.pkl": "MODEL sklearn",
            "ours/a.onnx": "MODEL onnx",
            "ours/b.onnx": "MODEL onnx",
        },
    )
    found = survey(tmp_path / "theirs", tmp_path / "ours", environ={})
    assert [(spec.name, spec.dialect) for spec in found.specs] == [("a", "mlserver"), ("b", "")]
    (problem,) = found.problems
    assert "is at two places" in str(problem.error)


def test_settings_of_a_server_without_models(tmp_path):
    """A folder that has MLServer's settings.json and none of its models is read by our own rules."""
    write(tmp_path, {"top/settings.json": '{"http_port": 9000}', "top/a/model.onnx": "MODEL onnx"})
    found = survey(tmp_path / "top", environ={})
    assert [(spec.name, spec.runtime, spec.dialect) for spec in found.specs] == [("a", "onnx", "")]


def test_a_model_in_the_environment(tmp_path):
    """`MLSERVER_MODEL_` variables make a folder without settings one model of MLServer's."""
    write(tmp_path, {"top/model.pkl": "MODEL sklearn"})
    environ = {"MLSERVER_MODEL_NAME": "iris", "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_sklearn.SKLearnModel"}
    found = survey(tmp_path / "top", environ=environ)
    assert [(spec.name, spec.path) for spec in found.specs] == [("iris", str(tmp_path / "top/model.pkl"))]
    assert [spec.name for spec in survey(tmp_path / "top", environ={}).specs] == ["top"]
