"""Models written in Python: where the class comes from, what annotations mean, how answers are named, what is refused."""

import asyncio
import sys
import textwrap
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from headrace.errors import InvalidRequest, LoadFailed, NotSupported, SettingsError, UnsafeArtifact
from headrace.runtimes.base import Source
from headrace.runtimes.python import PythonRuntime
from headrace.testing.runtimes import RuntimeConformance

pandas = pytest.importorskip("pandas")

SCALER = """
from __future__ import annotations
import numpy as np
import numpy.typing as npt
from typing import TypedDict

class Answer(TypedDict):
    scaled: npt.NDArray[np.float32]
    name: list[bytes]

class Model:
    batchable = True

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = np.float32(factor)

    def load(self):
        self.ready = True

    def predict(self, x: npt.NDArray[np.float32]) -> Answer:
        return {"scaled": x.sum(axis=1) * self.factor, "name": [b"row %d" % row for row in x[:, 0]]}
"""


def write(folder, text, name="model.py"):
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


def loaded(source):
    runtime = PythonRuntime(source)
    return runtime, runtime.load()


def serve(model, **parameters):
    return loaded(Source(model=model, parameters=parameters))


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    return array


class TestFile(RuntimeConformance):
    name = "python"
    any_suffix = False
    nan = ""

    def save(self, folder):
        return write(folder, SCALER)

    def inputs(self):
        return {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


class TestFolder(TestFile):
    any_suffix = True

    def save(self, folder):
        write(folder, SCALER)
        write(folder, "class NotThis: ...", "training.py")
        return folder


# -- where the class comes from --


def test_a_class_is_found_by_file_and_name(tmp_path):
    """A reference of a file and a class loads that class, whatever else the file holds."""
    file = write(tmp_path, "class A:\n    def predict(self, x): return x\nclass B(A):\n    pass\n")
    _, signature = loaded(Source(reference=f"{file}:A"))
    assert signature.properties["class"] == "model:A"


def test_a_module_is_found_in_the_working_folder(tmp_path, monkeypatch):
    """module:Class is looked for in the working folder first."""
    write(tmp_path, SCALER, "a_module_of_mine.py")
    monkeypatch.chdir(tmp_path)
    runtime, _ = loaded(Source(reference="a_module_of_mine:Model"))
    assert runtime.predict({"x": np.ones((1, 2), np.float32)}, ("scaled",))["scaled"].tolist() == [4.0]


def test_a_package_is_found_in_the_folder(tmp_path):
    """package.module:Class is looked for in the model's folder, and the module imports its neighbours."""
    package = tmp_path / "a_package_of_mine"
    package.mkdir()
    write(package, "", "__init__.py")
    write(package, "FACTOR = 3", "numbers_.py")
    write(
        package,
        "from .numbers_ import FACTOR\nclass M:\n    def predict(self, x: int) -> int: return x * FACTOR",
        "m.py",
    )
    runtime, _ = loaded(Source(path=tmp_path, reference="a_package_of_mine.m:M"))
    assert runtime.predict({"x": np.array([2])})["output-0"].tolist() == [6]


def test_two_folders_with_modules_of_one_name_do_not_meet(tmp_path):
    """Two models whose folders both hold model.py and weights.py each get their own, whatever was imported before."""
    before = dict(sys.modules), list(sys.path)
    runtimes = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, f"VALUE = {number}", "weights_of_a_model.py")
        write(
            folder,
            """
            import weights_of_a_model

            class Model:
                def load(self):
                    import weights_of_a_model as again
                    self.again = again.VALUE

                def predict(self) -> list[int]:
                    return [weights_of_a_model.VALUE, self.again]
            """,
        )
        runtimes.append(loaded(Source(path=folder))[0])
    assert [runtime.predict({})["output-0"].tolist() for runtime in runtimes] == [[1, 1], [2, 2]]
    for runtime in runtimes:
        runtime.unload()
    assert sys.path == before[1]
    sys.modules.pop("weights_of_a_model", None)


def test_a_neighbour_can_be_imported_late(tmp_path):
    """A module beside the model is found when predict imports it."""
    write(tmp_path, "VALUE = 5", "late_neighbour_of_a_model.py")
    write(
        tmp_path,
        """
        class Model:
            def predict(self) -> int:
                import late_neighbour_of_a_model
                return late_neighbour_of_a_model.VALUE
        """,
    )
    runtime, _ = loaded(Source(path=tmp_path))
    assert runtime.predict({})["output-0"].tolist() == [5]
    runtime.unload()


def test_recognition_runs_nothing(tmp_path):
    """A file is recognised by its text: what it would do when imported does not happen."""
    file = write(tmp_path, "raise SystemExit\nclass Base:\n    async def predict(self): ...\nclass Mine(Base): ...\n")
    assert "Mine in model.py" in PythonRuntime.recognise(file).evidence
    assert PythonRuntime.recognise(write(tmp_path, "class Mine:\n    def fit(self): ...\n", "x.py")) is None
    assert PythonRuntime.recognise(write(tmp_path, "class (", "y.py")) is None


def test_several_classes_ask_for_a_name(tmp_path):
    """A file of two models loads neither, and says how to name one."""
    file = write(tmp_path, "class A:\n    def predict(self): ...\nclass B:\n    def predict(self): ...\n")
    with pytest.raises(LoadFailed, match=r"A, B.*reference: model:Class"):
        loaded(Source(path=file))


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("1 / 0", "model:Model", r"model\.py cannot be imported: ZeroDivisionError"),
        ("class Model: ...", "model:Model", r"expected a class with a method `predict`"),
        ("class Other:\n    def predict(self): ...", "model:Model", r"no 'Model'; its classes are: Other"),
        ("", "no_such_module_anywhere:Model", r"'no_such_module_anywhere' cannot be imported"),
        ("class Model:\n    async def load(self): ...\n    def predict(self): ...", "model:Model", "load is async"),
        ("class Model:\n    def predict(self, x: complex): ...", "model:Model", r"x: complex, which no tensor carries"),
        ("class Model:\n    def predict(self, x, /): ...", "model:Model", "cannot be positional"),
        (
            "class Model:\n    def predict(self): ...\n    async def predict_stream(self): yield",
            "model:Model",
            "make both async or neither",
        ),
        ("class Model:\n    batchable = True\n    def predict(self, x: str): ...", "model:Model", "x holds one value"),
    ],
    ids=[
        "import error", "no predict", "no class", "no module", "async load", "annotation", "positional", "mixed", "rows",
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_served_says_why(tmp_path, text, reference, message):
    """What is wrong with the class stands in the error of its load."""
    write(tmp_path, text)
    with pytest.raises(LoadFailed, match=message):
        loaded(Source(path=tmp_path, reference=reference))


def test_code_from_a_stranger_is_not_run(tmp_path):
    """Under an allow-list, which says that the artifact is not trusted, no Python is run."""
    write(tmp_path, "raise SystemExit")
    with pytest.raises(UnsafeArtifact, match="load_policy: trusted"):
        loaded(Source(path=tmp_path, reference="model:Model", allowed_globals=()))


# -- construction --


class Adder:
    def __init__(self, *, plus: int, times: int = 1) -> None:
        self.plus, self.times = plus, times

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x * self.times + self.plus


def test_parameters_reach_the_constructor():
    """Parameters of headrace.yaml are the constructor's keyword arguments."""
    runtime, _ = serve(Adder, plus=3)
    assert runtime.predict({"x": np.array([1, 2])})["output-0"].tolist() == [4, 5]


def test_an_unknown_parameter_names_the_nearest():
    """A parameter that the constructor does not take is an error that names the one meant."""
    with pytest.raises(SettingsError, match=r"'plu'; did you mean 'plus'"):
        serve(Adder, plu=3)


def test_a_missing_parameter_is_named():
    """A parameter without a default that nobody gave is an error that names it."""
    with pytest.raises(SettingsError, match="needs plus"):
        serve(Adder, times=3)


def test_the_life_of_a_model(tmp_path):
    """Load and unload of the class are called once each, and an error in load passes through."""
    events = []

    class Model:
        def load(self):
            events.append("load")

        def predict(self):
            events.append("predict")

        def unload(self):
            events.append("unload")

    runtime, _ = serve(Model)
    runtime.predict({})
    runtime.unload()
    assert events == ["load", "predict", "unload"]


# -- inputs --


class Documented:
    def predict(
        self,
        rows: npt.NDArray[np.float32],
        anything: np.ndarray,
        word: str,
        words: list[str],
        blob: bytes,
        blobs: list[bytes],
        options: dict,
        documents: list[dict],
        share: float = 0.5,
        count: int | None = None,
        flag: bool = False,
        numbers: list[int] = (),
        parameters: dict | None = None,
    ):
        self.seen = locals()
        return {}


DOCUMENTED = {
    "rows": np.ones((2, 3)),
    "anything": np.array([[1]], np.uint8),
    "word": texts("é"),
    "words": texts("a", "b"),
    "blob": np.array([b"\xff"], object),
    "blobs": np.array([b"\x00", b"\x01"], object),
    "options": texts('{"deep": [1, null]}'),
    "documents": texts("{}", '{"a": 1}'),
}


def test_annotations_make_the_signature():
    """Each parameter is an input with the datatype, shape and content type of its annotation; defaults make it optional."""
    _, signature = serve(Documented)
    assert [(spec.name, spec.datatype, spec.shape, spec.content_type, spec.optional) for spec in signature.inputs] == [
        ("rows", "FP32", (-1,), "", False),
        ("anything", "FP64", (-1,), "", False),
        ("word", "BYTES", (1,), "str", False),
        ("words", "BYTES", (-1,), "str", False),
        ("blob", "BYTES", (1,), "", False),
        ("blobs", "BYTES", (-1,), "", False),
        ("options", "BYTES", (1,), "json", False),
        ("documents", "BYTES", (-1,), "json", False),
        ("share", "FP64", (1,), "", True),
        ("count", "INT64", (1,), "", True),
        ("flag", "BOOL", (1,), "", True),
        ("numbers", "INT64", (-1,), "", True),
    ]
    assert not signature.batchable


def test_tensors_become_what_the_annotations_say():
    """Arrays arrive in the annotated dtype; text, bytes, documents and numbers arrive as Python's own."""
    model = Documented()
    runtime, _ = serve(model)
    given = {"share": np.array([1]), "count": np.array([[3.0]]), "flag": np.array([True]), "numbers": np.arange(2)}
    runtime.predict(DOCUMENTED | given, (), {"k": 1})
    seen = model.seen
    assert seen["rows"].dtype == np.float32
    assert seen["anything"] is DOCUMENTED["anything"]
    assert (seen["word"], seen["words"], seen["blob"], seen["blobs"]) == ("é", ["a", "b"], b"\xff", [b"\x00", b"\x01"])
    assert (seen["options"], seen["documents"]) == ({"deep": [1, None]}, [{}, {"a": 1}])
    assert (seen["share"], seen["count"], seen["flag"], seen["numbers"]) == (1.0, 3, True, [0, 1])
    assert isinstance(seen["share"], float)
    assert seen["parameters"] == {"k": 1}


def test_values_that_a_codec_made_are_taken_too():
    """Text and documents that the engine has decoded already arrive the same."""
    model = Documented()
    runtime, _ = serve(model)
    runtime.predict(DOCUMENTED | {"word": ["é"], "words": ["a", "b"], "options": [{"a": 1}], "documents": [{}]})
    assert (model.seen["word"], model.seen["words"], model.seen["options"]) == ("é", ["a", "b"], {"a": 1})
    assert model.seen["share"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word": None}, r"missing input 'word': the model takes rows, .*, share \(optional\)"),
        ({"wrd": texts("a")}, r"unknown input 'wrd': the model takes rows, "),
        ({"rows": texts("a")}, r"'rows' is BYTES; expected FP32"),
        ({"word": texts("a", "b")}, r"'word' has 2 values; expected one"),
        ({"word": np.array([b"\xff"], object)}, r"'word' is no UTF-8"),
        ({"word": np.array([1])}, r"'word' holds int; expected text"),
        ({"options": texts("{")}, r"'options' is no JSON"),
        ({"options": texts("[]")}, r"'options' holds list; expected a JSON object"),
        ({"count": np.array([1.5])}, r"'count' holds float; expected a whole number"),
        ({"flag": np.array([1])}, r"'flag' holds int; expected true or false"),
        ({"share": texts("1")}, r"'share' holds bytes; expected a number"),
    ],
    ids=[
        "missing", "unknown", "text for array", "two for one", "not text", "number for text", "not JSON", "list for object",
        "fraction", "number for flag", "text for number",
    ],
)  # fmt: skip
def test_an_input_that_does_not_fit_is_refused(change, message):
    """Input against the annotations is the caller's error, and names the input, what was expected and what came."""
    runtime, _ = serve(Documented)
    inputs = {name: value for name, value in (DOCUMENTED | change).items() if value is not None}
    with pytest.raises(InvalidRequest, match=message):
        runtime.predict(inputs)


def test_a_frame_takes_every_input_as_a_column():
    """A DataFrame parameter gets what the request's codec made, or one column for each input."""

    class Model:
        def predict(self, table: pandas.DataFrame) -> pandas.DataFrame:
            return table.assign(size=table["size"] * 2)

    runtime, signature = serve(Model)
    assert signature.content_type == "pd"
    expected = {"size": [2.0, 4.0], "colour": [b"red", b"blue"]}
    columns = {"size": np.array([1.0, 2.0]), "colour": texts("red", "blue")}
    frame = pandas.DataFrame({"size": [1.0, 2.0], "colour": ["red", "blue"]})
    for inputs in (columns, {"": frame}):
        assert {name: value.tolist() for name, value in runtime.predict(inputs).items()} == expected
    with pytest.raises(InvalidRequest, match="make no table"):
        runtime.predict(columns | {"size": np.zeros(3)})


def test_any_names_where_the_class_takes_any():
    """A class with **inputs gets every input by its name."""

    class Model:
        def predict(self, **inputs):
            return inputs

    runtime, _ = serve(Model)
    assert set(runtime.predict({"a": np.zeros(1), "b": np.zeros(1)})) == {"a", "b"}


def test_annotations_that_cannot_be_found_are_left_out(tmp_path):
    """An annotation that names something not imported costs the types, not the model, and a warning says so."""
    write(
        tmp_path,
        "from __future__ import annotations\nclass Model:\n    def predict(self, x: Unknown): return x",
    )
    runtime, signature = loaded(Source(path=tmp_path))
    assert "Unknown" in signature.warnings[0]
    assert runtime.predict({"x": np.ones(1)})["output-0"].tolist() == [1.0]


# -- outputs --

ANSWERS = {
    "array": (lambda: np.ones((2, 2)), {"output-0": np.ones((2, 2))}),
    "tuple": (lambda: (np.ones(1), np.zeros(1)), {"output-0": np.ones(1), "output-1": np.zeros(1)}),
    "dict": (lambda: {"a": np.ones(1), "b": [1, 2]}, {"a": np.ones(1), "b": np.array([1, 2])}),
    "number": (lambda: 1.5, {"output-0": np.array([1.5])}),
    "numpy number": (lambda: np.float32(1.5), {"output-0": np.array([1.5], np.float32)}),
    "flag": (lambda: True, {"output-0": np.array([True])}),
    "bytes": (lambda: b"\xff", {"output-0": np.array([b"\xff"], object)}),
    "text array": (lambda: np.array(["é"]), {"output-0": texts("é")}),
    "frame": (
        lambda: pandas.DataFrame({"n": [1, 2], "t": ["x", "y"]}),
        {"n": np.array([1, 2]), "t": texts("x", "y")},
    ),
    "series": (lambda: pandas.Series([1.0, 2.0]), {"output-0": np.array([1.0, 2.0])}),
}


@pytest.mark.parametrize("case", sorted(ANSWERS))
def test_answers_become_outputs_by_name(case):
    """Whatever the class returns comes out as arrays by name."""
    make, expected = ANSWERS[case]

    class Model:
        def predict(self):
            return make()

    answer = serve(Model)[0].predict({})
    assert list(answer) == list(expected)
    for name, value in expected.items():
        assert answer[name].dtype == value.dtype
        assert answer[name].shape == value.shape
        assert answer[name].tolist() == value.tolist()


def test_text_stays_text_for_its_codec():
    """Text is declared with the content type str, and is answered as a list of str."""

    class Model:
        def predict(self, word: str) -> str:
            return word.upper()

    runtime, signature = serve(Model)
    (spec,) = signature.outputs
    assert (spec.name, spec.datatype, spec.shape, spec.content_type) == ("output-0", "BYTES", (1,), "str")
    assert runtime.predict({"word": texts("a")}) == {"output-0": ["A"]}


def test_an_output_nobody_has_is_refused_though_nothing_was_declared():
    """Asking for an output that the answer lacks is the caller's error."""

    class Model:
        def predict(self):
            return {"a": np.ones(1)}

    runtime, _ = serve(Model)
    with pytest.raises(InvalidRequest, match=r"'b'.*expected a"):
        runtime.predict({}, ("b",))


def test_an_exception_of_the_class_passes_through():
    """What the class raises is not wrapped: the engine decides what it means."""

    class Model:
        def predict(self):
            raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        serve(Model)[0].predict({})


# -- waiting and streaming --


async def test_an_async_predict_is_awaited():
    """A class whose predict is async gives an awaitable, and is declared so."""

    class Model:
        async def predict(self, x: np.ndarray) -> np.ndarray:
            await asyncio.sleep(0)
            return x + 1

    runtime, _ = serve(Model)
    assert runtime.is_async
    assert (await runtime.predict({"x": np.zeros(1)}))["output-0"].tolist() == [1.0]


def test_a_generator_streams():
    """A predict_stream that yields gives parts by name, and closing early closes it."""
    closed = []

    class Model:
        def predict_stream(self, word: str):
            try:
                for letter in word:
                    yield {"letter": [letter]}
            finally:
                closed.append(True)

    runtime, _ = serve(Model)
    assert (runtime.streams, runtime.is_async) == (True, False)
    assert [part["letter"] for part in runtime.predict_stream({"word": texts("abc")})] == [["a"], ["b"], ["c"]]
    parts = runtime.predict_stream({"word": texts("abc")})
    next(parts)
    parts.close()
    assert len(closed) == 2
    with pytest.raises(NotSupported):
        runtime.predict({"word": texts("a")})


async def test_an_async_generator_streams():
    """An async predict_stream gives an async iterator of parts by name."""

    class Model:
        async def predict(self, n: int) -> int:
            return n

        async def predict_stream(self, n: int):
            for number in range(n):
                yield number

    runtime, _ = serve(Model)
    assert (runtime.streams, runtime.is_async) == (True, True)
    parts = [part["output-0"].tolist() async for part in runtime.predict_stream({"n": np.array([2])})]
    assert parts == [[0], [1]]


def test_an_object_with_a_predict_is_claimed_faintly():
    """Any object with a predict is claimed, less surely than a framework's runtime claims its own."""
    assert 0 < PythonRuntime.recognise_object(Adder(plus=1)).confidence < 0.5
    assert PythonRuntime.recognise_object(Adder) is not None
    assert PythonRuntime.recognise_object(Path) is None
