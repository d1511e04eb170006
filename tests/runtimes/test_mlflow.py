"""MLflow models against `mlflow.pyfunc` itself.

Signatures: columns, named tensors, one tensor, none; params; datetimes, text, nested values; answers as DataFrame, array,
dict, list. Left out: Spark and the deep learning flavors.
"""

import importlib
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headrace.errors import InvalidRequest, LoadFailed, SettingsError, UnsafeArtifact
from headrace.runtimes.base import Source
from headrace.runtimes.mlflow import MlflowRuntime
from headrace.runtimes.optimize import Acceptance, optimize
from headrace.testing.runtimes import RuntimeConformance

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("mlflow")
    pyfunc = importlib.import_module("mlflow.pyfunc")  # `from mlflow import pyfunc` would import it later, aloud
    flavor = importlib.import_module("mlflow.sklearn")
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import schema
pandas = pytest.importorskip("pandas")

WINE = load_wine(as_frame=True)


def quietly(work, *args, **kwargs):
    with warnings.catch_warnings(record=True):  # MLflow shows some against a filter
        warnings.simplefilter("ignore")
        return work(*args, **kwargs)


def save_wine(folder, **options):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE.data, WINE.target)
    quietly(flavor.save_model, model, str(folder), pip_requirements=[], **options)
    return folder


def save_code(folder, predict, signature=None, **options):
    """A model in Python whose predict is the function."""

    def define():  # MLflow remarks on a predict without type hints
        class Model(pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return predict(model_input, params)

        return Model

    quietly(
        pyfunc.save_model,
        str(folder),
        python_model=quietly(define)(),
        signature=signature,
        pip_requirements=[],
        **options,
    )
    return folder


def columns_of(*columns, outputs=None, params=None):
    found = [schema.ColSpec(kind, name, required=required) for name, kind, required in columns]
    return ModelSignature(inputs=schema.Schema(found), outputs=outputs, params=params)


def loaded(path, **parameters):
    runtime = MlflowRuntime(Source(path=path, parameters=parameters))
    return runtime, runtime.load()


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    return array


class TestColumns(RuntimeConformance):
    name = "mlflow"
    nan = "refused"

    def save(self, folder):
        signature = infer_signature(WINE.data, WINE.target.to_numpy())
        return save_wine(folder / "model", signature=signature, input_example=WINE.data[:2])

    def inputs(self):
        rows = WINE.data[::40]
        return {name: rows[name].to_numpy(copy=True) for name in rows.columns}

    def wrong_width(self):
        return dict(list(self.inputs().items())[1:])


class TestTensor(RuntimeConformance):
    name = "mlflow"
    nan = "refused"

    def save(self, folder):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE.data.to_numpy(), WINE.target)
        signature = infer_signature(WINE.data.to_numpy(), WINE.target.to_numpy())
        quietly(flavor.save_model, model, str(folder / "m"), pip_requirements=[], signature=signature)
        return folder / "m"

    def inputs(self):
        return {"input-0": WINE.data.to_numpy()[::40]}

    def wrong_width(self):
        return {"input-0": np.zeros((3, 12))}


# -- signatures --


def test_a_signature_of_columns_becomes_inputs(tmp_path):
    """Each column is an input with the datatype and content type of its kind, optional where it is not required."""
    made = columns_of(
        ("flag", "boolean", True),
        ("small", "integer", True),
        ("count", "long", True),
        ("weight", "float", True),
        ("size", "double", True),
        ("word", "string", True),
        ("blob", "binary", True),
        ("when", "datetime", False),
        ("words", schema.Array(schema.DataType.string), True),
    )
    path = save_code(tmp_path / "m", lambda table, _: {"kinds": [str(kind) for kind in table.dtypes]}, made)
    runtime, signature = loaded(path)
    assert [(spec.name, spec.datatype, spec.content_type, spec.optional) for spec in signature.inputs] == [
        ("flag", "BOOL", "", False),
        ("small", "INT32", "", False),
        ("count", "INT64", "", False),
        ("weight", "FP32", "", False),
        ("size", "FP64", "", False),
        ("word", "BYTES", "", False),
        ("blob", "BYTES", "", False),
        ("when", "BYTES", "datetime", True),
        ("words", "BYTES", "", False),
    ]
    inputs = {
        "flag": np.array([True]),
        "small": np.array([1]),
        "count": np.array([1.0], np.float32).astype(np.int8),
        "weight": np.array([1.5]),
        "size": np.array([2]),
        "word": texts("é"),
        "blob": np.array([b"\xff"], object),
        "words": texts('["a", "b"]'),
    }
    runtime.predict(inputs)
    kinds = runtime.predict(inputs | {"when": texts("2024-05-06T07:08:09")})["kinds"]
    assert kinds[:5] == ["bool", "int32", "int64", "float32", "float64"]
    assert kinds[7].startswith("datetime64")
    with pytest.raises(InvalidRequest, match="'when' holds something that is no time"):
        runtime.predict(inputs | {"when": texts("yesterday?")})
    with pytest.raises(InvalidRequest, match="'words' holds something that is no JSON"):
        runtime.predict(inputs | {"words": texts("[")})
    with pytest.raises(InvalidRequest, match="'word' is INT64; expected BYTES"):
        runtime.predict(inputs | {"word": np.array([1])})
    with pytest.raises(
        InvalidRequest, match=r"missing 'size'; unknown 'sise': the model takes flag, .*when \(optional\)"
    ):
        runtime.predict({("sise" if name == "size" else name): value for name, value in inputs.items()})


def test_a_list_of_texts_stays_one(tmp_path):
    """The codec of texts gets the model's list, so that the answer says which codec it is by."""
    runtime, _ = loaded(save_code(tmp_path / "m", lambda x, _: ["a", "é"]))
    assert runtime.predict({"x": np.zeros((2, 2))}) == {"predict": ["a", "é"]}


def test_columns_stand_for_a_tensor_without_a_name(tmp_path):
    """As many columns as a tensor is wide, whatever their names, answer as the tensor does; of two lengths they do not."""
    rows = np.arange(12.0).reshape(3, 4)
    tensor = schema.TensorSpec(np.dtype(np.float64), (-1, 4))
    signature = ModelSignature(schema.Schema([tensor]))
    runtime, _ = loaded(save_code(tmp_path / "m", lambda x, _: x.sum(axis=1), signature=signature))
    columns = {f"f{at}": rows[:, at : at + 1] for at in range(4)}
    assert np.array_equal(runtime.predict(columns)["predict"], runtime.predict({"x": rows})["predict"])
    with pytest.raises(InvalidRequest, match=r"input 'f3' has shape \[2\]; expected \[3\]"):
        runtime.predict(columns | {"f3": np.zeros(2)})


def test_columns_that_the_signature_lacks_are_passed_over(tmp_path):
    """A table with a column more answers as without it, as MLflow itself does; one with a column less is refused."""
    runtime, signature = loaded(save_wine(tmp_path / "m", signature=infer_signature(WINE.data)))
    given = {spec.name: WINE.data[spec.name].to_numpy() for spec in signature.inputs}
    more = {"more": np.zeros(178), **given}
    assert np.array_equal(runtime.predict(more)["predict"], runtime.predict(given)["predict"])
    del more[signature.inputs[0].name]
    with pytest.raises(InvalidRequest, match="missing 'alcohol'; unknown 'more'"):
        runtime.predict(more)


def test_the_schemas_are_told(tmp_path):
    """Properties say of inputs and of outputs whether the signature speaks of columns or of tensors."""
    _, signature = loaded(save_wine(tmp_path / "m", signature=infer_signature(WINE.data, WINE.target.to_numpy())))
    assert {key: signature.properties.get(key) for key in ("input_schema", "output_schema")} == {
        "input_schema": "columns",
        "output_schema": "tensors",
    }
    _, bare = loaded(save_wine(tmp_path / "bare", signature=False))
    assert "input_schema" not in bare.properties


def test_a_matrix_stands_for_its_columns(tmp_path):
    """One input as wide as the signature has columns answers as the columns do."""
    runtime, _ = loaded(save_wine(tmp_path / "m", signature=infer_signature(WINE.data)))
    native = quietly(pyfunc.load_model, str(tmp_path / "m")).predict(WINE.data)
    assert np.array_equal(runtime.predict({"x": WINE.data.to_numpy()})["predict"], native)
    with pytest.raises(InvalidRequest, match=r"\[2, 5\]; expected \[rows, 13\]"):
        runtime.predict({"x": np.zeros((2, 5))})


def test_named_tensors_become_inputs_of_their_shape(tmp_path):
    """A signature of named tensors is inputs by name; a wrong shape or kind is refused, a safe one is converted."""
    made = infer_signature({"a": np.zeros((2, 3)), "b": np.zeros(2, np.float32)}, {"sum": np.zeros(2)})
    runtime, signature = loaded(save_code(tmp_path / "m", lambda x, _: {"sum": x["a"].sum(axis=1) + x["b"]}, made))
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*signature.inputs, *signature.outputs)] == [
        ("a", "FP64", (-1, 3)),
        ("b", "FP32", (-1,)),
        ("sum", "FP64", (-1,)),
    ]
    inputs = {"a": np.ones((2, 3), np.int64), "b": np.ones(2)}
    assert runtime.predict(inputs)["sum"].tolist() == [4.0, 4.0]
    with pytest.raises(InvalidRequest, match=r"'a' has shape \[2, 4\]; expected \[-1, 3\]"):
        runtime.predict(inputs | {"a": np.ones((2, 4))})
    with pytest.raises(InvalidRequest, match=r"'b' is BYTES; expected FP32"):
        runtime.predict(inputs | {"b": texts("1", "2")})


def test_without_a_signature_the_example_names_the_columns(tmp_path):
    """A model with an input example but no signature takes the example's columns, and answers what the example got."""
    path = save_wine(tmp_path / "m", input_example=WINE.data[:2])
    description = (path / "MLmodel").read_text()
    (path / "MLmodel").write_text(description[: description.index("signature:")])
    _, signature = loaded(path)
    assert [spec.name for spec in signature.inputs] == list(WINE.data.columns)
    assert [(spec.name, spec.datatype, spec.shape) for spec in signature.outputs] == [("predict", "INT64", (-1,))]


def test_without_signature_or_example_the_estimator_names_them(tmp_path):
    """A scikit-learn model with neither still knows the names of its features."""
    _, signature = loaded(save_wine(tmp_path / "m"))
    assert [spec.name for spec in signature.inputs] == list(WINE.data.columns)


def test_a_link_to_a_model_is_loaded(tmp_path):
    """A link that leads out of its folder, as the copy of a registry's version is served by, is followed."""
    save_wine(tmp_path / "cache" / "m")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "1").symlink_to(tmp_path / "cache" / "m")
    _, signature = loaded(tmp_path / "served" / "1")
    assert [spec.name for spec in signature.inputs] == list(WINE.data.columns)


def test_a_model_that_says_nothing_takes_any_columns(tmp_path):
    """A model in Python without a signature gets a DataFrame of whatever came, or the one array that came."""
    path = save_code(tmp_path / "m", lambda x, _: {"kind": type(x).__name__, "shape": list(x.shape)})
    runtime, _ = loaded(path)
    answer = runtime.predict({"a": np.zeros(2), "b": texts("x", "y")})
    assert (answer["kind"].tolist(), answer["shape"].tolist()) == ([b"DataFrame"], [2, 2])
    assert runtime.predict({"a": np.zeros((2, 3, 4))})["kind"].tolist() == [b"ndarray"]


def test_params_are_checked_and_have_defaults(tmp_path):
    """Request parameters are the model's params: defaults fill in, an unknown one or a wrong type is refused."""
    params = schema.ParamSchema([schema.ParamSpec("k", "long", 3)])
    made = columns_of(("a", "double", True), params=params)
    runtime, _ = loaded(save_code(tmp_path / "m", lambda x, params: x["a"].to_numpy() * params["k"], made))
    inputs = {"a": np.array([1.0, 2.0])}
    assert runtime.predict(inputs)["predict"].tolist() == [3.0, 6.0]
    assert runtime.predict(inputs, (), {"k": 5})["predict"].tolist() == [5.0, 10.0]
    with pytest.raises(InvalidRequest, match="unknown parameter 'j': the model takes k"):
        runtime.predict(inputs, (), {"j": 5})
    with pytest.raises(InvalidRequest, match="k"):
        runtime.predict(inputs, (), {"k": "five"})


def test_params_stand_in_the_metadata(tmp_path):
    """Their names, types and defaults are told, so that a caller need not ask who made the model."""
    params = schema.ParamSchema(
        [schema.ParamSpec("k", "long", 3), schema.ParamSpec("words", "string", ["a"], shape=(-1,))]
    )
    made = columns_of(("a", "double", True), params=params)
    _, signature = loaded(save_code(tmp_path / "m", lambda x, _: x["a"].to_numpy(), made))
    assert signature.properties["params"] == 'k: long = 3, words: string[] = ["a"]'


@pytest.mark.parametrize(
    ("predict", "answer"),
    [
        (lambda x, _: x[["a"]], "table"),
        (lambda x, _: [{"a": 1.0, "b": 2.0}], "table"),
        (lambda x, _: x["a"].to_numpy(), "array"),
        (lambda x, _: {"a": x["a"].to_numpy()}, "tensors"),
    ],
    ids=["a frame", "a list", "an array", "a dict"],
)
def test_what_the_model_answers_with_is_told(predict, answer, tmp_path):
    """The input example shows whether answers are tables, arrays or tensors by name, whatever the outputs are called."""
    example = pandas.DataFrame({"a": [1.0]})
    _, signature = loaded(save_code(tmp_path / "m", predict, input_example=example))
    assert signature.properties["answer"] == answer


def test_a_library_answers_with_an_array(tmp_path):
    """Without an example, a known library's answer is an array though the signature names it; of code nothing is told."""
    named = ModelSignature(
        inputs=infer_signature(WINE.data).inputs, outputs=schema.Schema([schema.ColSpec("long", "target")])
    )
    _, signature = loaded(save_wine(tmp_path / "m", signature=named))
    assert (signature.outputs[0].name, signature.properties["answer"]) == ("target", "array")
    _, signature = loaded(save_code(tmp_path / "code", lambda x, _: x))
    assert "answer" not in signature.properties


def test_the_input_example_is_a_sample_that_the_model_answers(tmp_path):
    """The input example comes as inputs by name, and the model answers it."""
    runtime, signature = loaded(save_wine(tmp_path / "m", input_example=WINE.data[:2]))
    sample = runtime.sample()
    assert list(sample) == [spec.name for spec in signature.inputs]
    assert len(runtime.predict(sample)["predict"]) == 2


def test_what_the_input_example_lacks_comes_as_nothing(tmp_path):
    """A text that is missing in the example is None in the sample, as a request brings it, and not the text `null`."""
    example = pandas.DataFrame({"a": [1.0, 2.0], "word": ["x", None], "other": [None, None]})
    path = save_code(tmp_path / "m", lambda x, _: x.isna().sum(axis=1).to_numpy(), input_example=example)
    runtime, signature = loaded(path)
    assert signature.warnings == ()
    assert {name: value.tolist() for name, value in runtime.sample().items()} == {
        "a": [1.0, 2.0],
        "word": [b"x", None],
        "other": [None, None],
    }


def test_an_input_example_answered_otherwise_than_by_mlflow_is_refused(tmp_path):
    """A model that answers its example from tensors in another way than MLflow has it answer is served by consent only,
    with a warning; one that answers differently each time is told so and served.
    """
    example = pandas.DataFrame({"a": [1, "x"]})  # which no signature describes, so that all of it is taken for text
    path = save_code(tmp_path / "m", lambda x, _: [type(each).__name__ for each in x["a"]], input_example=example)
    with pytest.raises(LoadFailed, match=r"by MLflow itself: output 'predict' differs in 1 of 2 rows.*accept_example"):
        loaded(path)
    _, signature = loaded(path, accept_example_mismatch=True)
    assert any("served by consent" in each for each in signature.warnings)

    def draw(table, _):
        import random

        return [random.random() for _ in table["a"]]

    _, signature = loaded(save_code(tmp_path / "random", draw, input_example=pandas.DataFrame({"a": [1.0]})))
    assert "the input example proves nothing: the model answers it differently each time" in signature.warnings


# -- faster engines --


def optimized(runtime, signature, tmp_path):
    quick = Acceptance(rows=0.1, timing_seconds=0.003, speedup=1e-6)
    return optimize(runtime, signature, mode="require", digest="", cache=tmp_path, accept=quick)


@pytest.mark.parametrize("library", ["sklearn", "xgboost"])
def test_an_estimator_inside_gets_a_faster_engine(library, tmp_path):
    """A model whose predict is its library's is answered by an engine as by `mlflow.pyfunc`, from columns as they come,
    and its input example stays its sample.
    """
    if library == "sklearn":
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(WINE.data, WINE.target)
        save = flavor.save_model
    else:
        model = pytest.importorskip("xgboost").XGBClassifier(n_estimators=5).fit(WINE.data, WINE.target)
        save = importlib.import_module("mlflow.xgboost").save_model
    signature = infer_signature(WINE.data, model.predict(WINE.data))
    quietly(save, model, str(tmp_path / "m"), signature=signature, input_example=WINE.data[:2], pip_requirements=[])
    runtime, signature = loaded(tmp_path / "m")
    assert runtime.optimizable
    served, signature = optimized(runtime, signature, tmp_path)
    assert any(seat.engine is not None for seat in served.seats), signature.properties
    rows = {name: WINE.data[name].to_numpy() for name in WINE.data.columns}
    native = quietly(pyfunc.load_model, str(tmp_path / "m"))
    answer = served.predict(rows)["predict"]
    assert (answer.dtype, answer.tolist()) == (np.int64, native.predict(WINE.data).tolist())
    assert list(served.sample()) == list(WINE.data.columns)
    served.unload()


@pytest.mark.parametrize("why", ["params", "predict_proba", "code"])
def test_a_predict_that_is_not_the_librarys_gets_none(why, tmp_path):
    """Params, another method of the estimator's, and code of somebody's stay with MLflow."""
    params = schema.ParamSchema([schema.ParamSpec("k", "long", 3)])
    columns = infer_signature(WINE.data)
    if why == "params":
        made = ModelSignature(inputs=columns.inputs, params=params)
        path = save_wine(tmp_path / "m", signature=made)
    elif why == "predict_proba":
        path = save_wine(tmp_path / "m", signature=columns, pyfunc_predict_fn=why)
    else:
        path = save_code(tmp_path / "m", lambda x, _: x["alcohol"].to_numpy(), columns)
    assert not loaded(path)[0].optimizable


# -- answers --

ANSWERS = {
    "frame": (
        lambda x, _: __import__("pandas").DataFrame({"n": [1, 2], "t": ["x", "é"]}),
        {"n": np.array([1, 2]), "t": texts("x", "é")},
    ),
    "series": (lambda x, _: __import__("pandas").Series([1.0, 2.0]), {"predict": np.array([1.0, 2.0])}),
    "array": (lambda x, _: __import__("numpy").ones((2, 2)), {"predict": np.ones((2, 2))}),
    "text": (lambda x, _: "a", {"predict": texts("a")}),
    "number": (lambda x, _: 1.5, {"predict": np.array([1.5])}),
    "dict": (lambda x, _: {"a": [1, 2], "b": "c"}, {"a": np.array([1, 2]), "b": texts("c")}),
    "documents": (lambda x, _: [{"a": [1]}, {"b": None}], {"predict": texts('{"a":[1]}', '{"b":null}')}),
    "times": (
        lambda x, _: __import__("numpy").array(["2024-01-02"], "datetime64[s]"),
        {"predict": texts("2024-01-02T00:00:00")},
    ),
}


@pytest.mark.parametrize("case", sorted(ANSWERS))
def test_answers_become_outputs_by_name(case, tmp_path):
    """Whatever the model answers comes out as arrays by name."""
    make, expected = ANSWERS[case]
    runtime, _ = loaded(save_code(tmp_path / "m", make, columns_of(("a", "double", True))))
    answer = runtime.predict({"a": np.zeros(2)})
    assert list(answer) == list(expected)
    for name, value in expected.items():
        assert answer[name].dtype == value.dtype
        assert answer[name].shape == value.shape
        assert answer[name].tolist() == value.tolist()


def test_an_output_has_the_name_that_the_signature_gives(tmp_path):
    """Where the signature names one output, an unnamed answer takes that name."""
    outputs = schema.Schema([schema.ColSpec("double", "price")])
    made = columns_of(("a", "double", True), outputs=outputs)
    runtime, signature = loaded(save_code(tmp_path / "m", lambda x, _: x["a"].to_numpy() * 2, made))
    assert [spec.name for spec in signature.outputs] == ["price"]
    assert runtime.predict({"a": np.ones(1)})["price"].tolist() == [2.0]


def test_what_code_raises_passes_through(tmp_path):
    """A ValueError of a model in Python stays its own."""

    def predict(table, _):
        raise ValueError("mine")

    runtime, _ = loaded(save_code(tmp_path / "m", predict, columns_of(("a", "double", True))))
    with pytest.raises(ValueError, match=r"^mine$"):
        runtime.predict({"a": np.zeros(1)})


@pytest.mark.parametrize("texts", [[None], [None, None], [b"x", None]])
def test_a_missing_text_is_nan_whatever_stands_beside_it(texts, tmp_path):
    """None among the texts of a column, or alone, is the NaN that pandas reads from a file, in the dtype of texts."""

    def predict(frame, _):
        return [f"{frame['word'].dtype} {each!r}" for each in frame["word"]]

    runtime, signature = loaded(save_code(tmp_path / "m", predict, columns_of(("word", "string", True))))
    assert signature.missing_texts
    dtype = pandas.Series(["x"]).dtype
    answer = runtime.predict({"word": np.array(texts, object)})["predict"]
    assert list(answer) == [f"{dtype} nan" if each is None else f"{dtype} 'x'" for each in texts]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param({"a": np.ones(1)}, "fails where 'word' has no value: KeyError", id="left out"),
        pytest.param(
            {"a": np.ones(1), "word": [None]}, "fails where 'word' has no value: AttributeError", id="missing"
        ),
        pytest.param({"a": np.zeros(1), "word": [None]}, None, id="another reason"),
        pytest.param({"a": np.full(1, 2.0), "word": [b"x"]}, None, id="nothing is missing"),
    ],
)
def test_what_a_model_fails_of_for_want_of_a_value_is_the_callers(inputs, expected, tmp_path):
    """An error of code that comes of a column without a value names it, and is the caller's; another stays its own."""

    def predict(frame, _):
        if frame["a"][0] == 0.0:
            raise RuntimeError("mine")
        return [each.upper() if frame["a"][0] == 1.0 else frame["nope"] for each in frame["word"]]

    signature = columns_of(("a", "double", True), ("word", "string", False))
    runtime, _ = loaded(save_code(tmp_path / "m", predict, signature))
    given = {name: np.array(value, object) if name == "word" else value for name, value in inputs.items()}
    with pytest.raises(InvalidRequest if expected else (RuntimeError, KeyError), match=expected or "mine|nope"):
        runtime.predict(given)


def test_a_model_that_says_nothing_fails_of_a_missing_text_by_the_callers_fault(tmp_path):
    """What code without a signature makes of None is the caller's too, and names the column that came without a value."""
    runtime, _ = loaded(save_code(tmp_path / "m", lambda x, _: [each.upper() for each in x["word"]]))
    with pytest.raises(InvalidRequest, match="fails where 'word' has no value: AttributeError"):
        runtime.predict({"word": np.array([b"x", None], object)})


def test_a_streamable_model_streams(tmp_path):
    """A model with predict_stream answers in parts by name."""

    def define():
        class Model(pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return "whole"

            def predict_stream(self, context, model_input, params=None):
                yield "a"
                yield "b"

        return Model

    made = columns_of(("a", "string", True))
    quietly(
        pyfunc.save_model,
        str(tmp_path / "m"),
        python_model=quietly(define)(),
        signature=made,
        pip_requirements=[],
        streamable=True,
    )
    runtime, _ = loaded(tmp_path / "m")
    assert runtime.streams
    parts = [part["predict"].tolist() for part in runtime.predict_stream({"a": texts("x")})]
    assert parts == [[b"a"], [b"b"]]


# -- batching, loading, refusing --


def test_only_a_library_is_taken_to_answer_row_by_row(tmp_path):
    """A model behind a library is batchable; one in Python is when its parameters say so."""
    made = columns_of(("a", "double", True))
    path = save_code(tmp_path / "code", lambda x, _: x["a"].to_numpy(), made)
    assert loaded(save_wine(tmp_path / "wine"))[1].batchable
    assert not loaded(path)[1].batchable
    assert loaded(path, batchable=True)[1].batchable
    with pytest.raises(SettingsError, match="batchable"):
        loaded(path, batcheable=True)


def test_a_mismatch_of_requirements_is_a_warning(tmp_path, capfd):
    """What MLflow says of other versions stands in the signature's warnings, and not on the terminal."""
    path = save_wine(tmp_path / "m")
    (path / "requirements.txt").write_text("scikit-learn==0.1\n")
    capfd.readouterr()
    _, signature = loaded(path)
    assert "scikit-learn==0.1" in " ".join(signature.warnings)
    assert capfd.readouterr() == ("", "")


def test_a_flavor_that_runs_code_is_refused_under_an_allow_list(tmp_path):
    """Without trust, a model in Python or a pickle is refused, and data-only flavors are loaded."""
    code = save_code(tmp_path / "code", lambda x, _: x)
    pickled = save_wine(tmp_path / "pickled", serialization_format="pickle")
    data = save_wine(tmp_path / "data", serialization_format="skops")
    for path in (code, pickled):
        with pytest.raises(UnsafeArtifact, match="load_policy: trusted"):
            MlflowRuntime(Source(path=path, allowed_globals=("sklearn.*",))).load()
    assert MlflowRuntime(Source(path=data, allowed_globals=("sklearn.*",))).load().inputs


def test_skops_types_that_the_policy_admits_are_loaded(tmp_path):
    """A tree's file names a type beyond skops' own list: the allow-list decides, and one that it lacks is refused."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(max_depth=2).fit(WINE.data, WINE.target)
    options = {"serialization_format": "skops", "skops_trusted_types": ["sklearn.tree._tree.Tree"]}
    quietly(flavor.save_model, model, str(tmp_path / "tree"), pip_requirements=[], **options)
    assert MlflowRuntime(Source(path=tmp_path / "tree", allowed_globals=("sklearn.*",))).load().inputs
    with pytest.raises(UnsafeArtifact, match="load_policy: trusted"):
        MlflowRuntime(Source(path=tmp_path / "tree", allowed_globals=("numpy.ndarray",))).load()
    described = (tmp_path / "tree" / "MLmodel").read_text()
    (tmp_path / "tree" / "MLmodel").write_text(described.replace("sklearn.tree._tree.Tree", "builtins.eval"))
    with pytest.raises(UnsafeArtifact, match="load_policy: trusted"):
        MlflowRuntime(Source(path=tmp_path / "tree", allowed_globals=("sklearn.*",))).load()


def test_a_model_of_another_flavor_only_says_so(tmp_path):
    """A folder without a python_function flavor is recognised, and its error names the flavors that are there."""
    (tmp_path / "MLmodel").write_text("flavors:\n  spark: {}\n")
    assert "spark" in MlflowRuntime.recognise(tmp_path).evidence
    with pytest.raises(LoadFailed, match="no python_function flavor, only spark"):
        loaded(tmp_path)


def test_a_loaded_model_is_served_from_memory(tmp_path):
    """What mlflow.pyfunc.load_model gave answers as it does itself."""
    native = quietly(pyfunc.load_model, str(save_wine(tmp_path / "m", signature=infer_signature(WINE.data))))
    assert MlflowRuntime.recognise_object(native) is not None
    runtime = MlflowRuntime(Source(model=native))
    runtime.load()
    rows = {name: WINE.data[name].to_numpy() for name in WINE.data.columns}
    assert np.array_equal(runtime.predict(rows)["predict"], native.predict(WINE.data))
