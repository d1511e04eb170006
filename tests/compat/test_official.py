"""Stand-ins for MLServer's official runtimes, for the classes that people derive from them.

Every statement about an answer was observed of mlserver 1.7.1 and its runtimes, save those that say "not" of an error of
theirs. Not here: the same models named by settings directly (tests/runtimes, tests/differential), and how the classes
are found by name (test_official_packages).
"""

import importlib
import json
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from mlserver import MLModel, ModelSettings
from mlserver.errors import InferenceError, InvalidModelURI
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, Parameters, RequestInput, RequestOutput
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from headrace.errors import MissingExtra

ROWS, LABELS = load_iris(return_X_y=True)
TWO = [[5.1, 3.5, 1.4, 0.2], [6.0, 3.0, 5.0, 2.0]]


def settings(uri, **parameters):
    return ModelSettings(
        name="m", implementation=MLModel, parameters=ModelParameters(uri=str(uri), version="v1", **parameters)
    )


def ask(*outputs, rows=TWO, datatype="FP64", content_type=None, name="x", **parameters):
    array = np.asarray(rows)
    tagged = Parameters(content_type=content_type) if content_type else None
    return InferenceRequest(
        id="1",
        inputs=[
            RequestInput(
                name=name, shape=list(array.shape), datatype=datatype, data=array.ravel().tolist(), parameters=tagged
            )
        ],
        outputs=[RequestOutput(name=each) for each in outputs] or None,
        parameters=Parameters(**parameters) if parameters else None,
    )


def table(**columns):
    inputs = [
        RequestInput(
            name=name,
            shape=[len(values)],
            datatype="BYTES" if isinstance(values[0], str) else "FP64",
            data=values,
        )
        for name, values in columns.items()
    ]
    return InferenceRequest(inputs=inputs, parameters=Parameters(content_type="pd"))


async def loaded(kind, uri, **parameters):
    model = kind(settings(uri, **parameters))
    assert await model.load() is True
    return model


def said(response):
    """Name, datatype, shape and content type of each output."""
    return [
        (each.name, each.datatype, each.shape, each.parameters and each.parameters.content_type)
        for each in response.outputs
    ]


# -- scikit-learn --


@pytest.fixture
def sklearn_model(tmp_path):
    """Save an estimator and give the class loaded with it."""
    from mlserver_sklearn import SKLearnModel

    async def make(estimator, *, file="model.joblib", **parameters):
        joblib.dump(estimator, tmp_path / file)
        return await loaded(SKLearnModel, tmp_path, **parameters)

    return make


@pytest.fixture(scope="module")
def classifier():
    return LogisticRegression(max_iter=500).fit(ROWS, LABELS)


async def test_sklearn_default(sklearn_model, classifier):
    """A request without outputs is answered with predict, names the model and its version, and has no id of its own."""
    model = await sklearn_model(classifier)
    request = ask()
    response = await model.predict(request)
    assert (response.model_name, response.model_version, response.id) == ("m", "v1", None)
    assert said(response) == [("predict", "INT64", [2, 1], "np")]
    assert list(response.outputs[0].data) == [0, 2]
    assert isinstance(model._model, LogisticRegression)
    assert [each.name for each in request.outputs] == ["predict"]  # which code after super().predict can read


async def test_sklearn_outputs(sklearn_model, classifier):
    """The outputs that are asked for come in the order that they are asked for, each once for each time."""
    model = await sklearn_model(classifier, file="model.pkl")
    response = await model.predict(ask("predict_proba", "predict", "predict"))
    assert said(response) == [
        ("predict_proba", "FP64", [2, 3], "np"),
        ("predict", "INT64", [2, 1], "np"),
        ("predict", "INT64", [2, 1], "np"),
    ]
    np.testing.assert_allclose(
        np.reshape(list(response.outputs[0].data), (2, 3)), classifier.predict_proba(np.array(TWO))
    )


@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
async def test_sklearn_predict_fn(sklearn_model, classifier, method):
    """`extra.predict_fn` is the output of a request that asks for none, whatever method it is; others may be asked for."""
    model = await sklearn_model(classifier, extra={"predict_fn": method})
    assert said(await model.predict(ask())) == [(method, "FP64", [2, 3], "np")]
    assert said(await model.predict(ask("predict"))) == [("predict", "INT64", [2, 1], "np")]


async def test_sklearn_unknown_output(sklearn_model, classifier):
    """An output that no scikit-learn model has is refused with the original's words."""
    model = await sklearn_model(classifier)
    with pytest.raises(InferenceError) as caught:
        await model.predict(ask("zzz"))
    assert str(caught.value) == (
        "SKLearnModel only supports 'predict', 'predict_proba' and 'transform' as outputs (zzz was received)"
    )
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("estimator", "output", "named"),
    [
        (StandardScaler(), "predict_proba", "StandardScaler"),
        (make_pipeline(StandardScaler(), PCA(2)), "predict", "PCA"),
        (LogisticRegression(max_iter=500), "transform", "LogisticRegression"),
    ],
    ids=["proba", "pipeline", "transform"],
)
async def test_sklearn_missing_method(sklearn_model, estimator, output, named):
    """An output whose method the estimator lacks is the caller's fault, and names the class that lacks it."""
    model = await sklearn_model(estimator.fit(ROWS, LABELS))
    with pytest.raises(InferenceError, match=rf"\.{named}'> models do not support '{output}"):
        await model.predict(ask(output))


async def test_sklearn_frame(sklearn_model):
    """A transformer that gives a data frame is answered with an output for each column, and with nothing beside it."""
    frame = pd.DataFrame(ROWS, columns=list("abcd"))
    model = await sklearn_model(StandardScaler().set_output(transform="pandas").fit(frame))
    request = table(a=[1.0, 2.0], b=[1.0, 2.0], c=[1.0, 2.0], d=[1.0, 2.0])
    request.outputs = [RequestOutput(name="transform")]
    assert said(await model.predict(request)) == [(name, "FP64", [2, 1], None) for name in "abcd"]
    request.outputs.append(RequestOutput(name="transform"))
    with pytest.raises(InferenceError, match="Cannot encode multiple columnar data responses"):
        await model.predict(request)


async def test_sklearn_sparse(sklearn_model):
    """What an encoder gives as a sparse matrix is answered dense, not refused."""
    model = await sklearn_model(OneHotEncoder().fit([["a"], ["b"]]))
    response = await model.predict(ask("transform", rows=[["b"], ["a"]], datatype="BYTES"))
    assert list(response.outputs[0].data) == [0.0, 1.0, 1.0, 0.0]


async def test_sklearn_hooks(sklearn_model, classifier, tmp_path):
    """A class that overrides a step of the original's finds its override called."""
    from mlserver_sklearn import SKLearnModel

    class Mine(SKLearnModel):
        async def load(self):
            await super().load()
            self._model.intercept_[2] += 1e6
            return True

        def _check_request(self, payload):
            payload.outputs = [RequestOutput(name="predict_proba")]
            return super()._check_request(payload)

    await sklearn_model(classifier)
    model = await loaded(Mine, tmp_path)
    assert list((await model.predict(ask("predict"))).outputs[0].data) == [0.0, 0.0, 1.0] * 2


# -- the boosters --


async def test_xgboost_classifier(tmp_path):
    """A saved classifier comes back as one, and answers labels and probabilities."""
    xgboost = pytest.importorskip("xgboost")
    from mlserver_xgboost import XGBoostModel

    xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(ROWS, LABELS).save_model(tmp_path / "model.json")
    model = await loaded(XGBoostModel, tmp_path)
    assert isinstance(model._model, xgboost.XGBClassifier)
    response = await model.predict(ask("predict_proba", "predict"))
    assert said(response) == [("predict_proba", "FP32", [2, 3], "np"), ("predict", "INT64", [2, 1], "np")]
    assert list(response.outputs[1].data) == [0, 2]
    with pytest.raises(
        InferenceError, match=r"XGBoostModel only supports 'predict' and 'predict_proba' as outputs \(t"
    ):
        await model.predict(ask("transform"))


async def test_xgboost_booster(tmp_path):
    """A booster saved alone is a regressor, which has no probabilities."""
    xgboost = pytest.importorskip("xgboost")
    from mlserver_xgboost import XGBoostModel

    booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(ROWS, LABELS), num_boost_round=3)
    booster.save_model(tmp_path / "model.ubj")
    model = await loaded(XGBoostModel, tmp_path)
    assert isinstance(model._model, xgboost.XGBRegressor)
    assert said(await model.predict(ask())) == [("predict", "FP32", [2, 1], "np")]
    with pytest.raises(InferenceError, match="XGBRegressor models do not support 'predict_proba"):
        await model.predict(ask("predict_proba"))


async def test_xgboost_ranker(tmp_path):
    """A saved ranker loads as one, not at all with the original."""
    xgboost = pytest.importorskip("xgboost")
    from mlserver_xgboost import XGBoostModel

    ranker = xgboost.XGBRanker(n_estimators=3, max_depth=2).fit(ROWS, LABELS, qid=np.arange(150) // 10)
    ranker.save_model(tmp_path / "model.json")
    model = await loaded(XGBoostModel, tmp_path)
    response = await model.predict(ask())
    np.testing.assert_allclose(list(response.outputs[0].data), ranker.predict(np.array(TWO)), rtol=1e-6)


async def test_lightgbm(tmp_path):
    """The booster's own answer comes under predict, whatever is asked for."""
    lightgbm = pytest.importorskip("lightgbm")
    from mlserver_lightgbm import LightGBMModel

    options = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_leaves": 4}
    booster = lightgbm.train(options, lightgbm.Dataset(ROWS, LABELS), num_boost_round=3)
    booster.save_model(tmp_path / "model.bst")
    model = await loaded(LightGBMModel, tmp_path)
    assert isinstance(model._model, lightgbm.Booster)
    for request in (ask(), ask("predict_proba"), ask("zzz")):
        response = await model.predict(request)
        assert said(response) == [("predict", "FP64", [2, 3], "np")]
    np.testing.assert_allclose(list(response.outputs[0].data), booster.predict(np.array(TWO)).ravel())


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
async def test_catboost_classifier(tmp_path, text):
    """A classifier answers its labels, a column of them, ready as soon as it is loaded."""
    catboost = pytest.importorskip("catboost")
    from mlserver_catboost import CatboostModel

    names = np.array(["setosa", "versicolor", "virginica"])[LABELS] if text else LABELS
    fitted = catboost.CatBoostClassifier(iterations=5, depth=2, verbose=0, allow_writing_files=False).fit(ROWS, names)
    fitted.save_model(str(tmp_path / "model.cbm"))
    model = await loaded(CatboostModel, tmp_path)
    assert model.ready
    assert isinstance(model._model, catboost.CatBoostClassifier)
    response = await model.predict(ask("predict_proba"))
    assert said(response) == [("predict", "BYTES" if text else "INT64", [2, 1], "np")]
    answer = [each.decode() if isinstance(each, bytes) else each for each in response.outputs[0].data]
    assert answer == (["setosa", "virginica"] if text else [0, 2])


async def test_catboost_regressor(tmp_path):
    """A regressor answers its values, not an IndexError."""
    catboost = pytest.importorskip("catboost")
    from mlserver_catboost import CatboostModel

    fitted = catboost.CatBoostRegressor(iterations=5, depth=2, verbose=0, allow_writing_files=False).fit(ROWS, LABELS)
    fitted.save_model(str(tmp_path / "model.bin"))
    response = await (await loaded(CatboostModel, tmp_path)).predict(ask())
    np.testing.assert_allclose(list(response.outputs[0].data), fitted.predict(TWO))


# -- what all of them do --

CLASSES = [
    ("mlserver_sklearn.SKLearnModel", "model.joblib"),
    ("mlserver_xgboost.XGBoostModel", "model.bst"),
    ("mlserver_lightgbm.LightGBMModel", "model.bst"),
    ("mlserver_catboost.CatboostModel", "model.cbm"),
]


def find(reference):
    module, _, name = reference.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("reference", [each for each, _ in CLASSES])
async def test_nowhere(tmp_path, reference):
    """A uri that leads nowhere is the original's error, with its status, and leaves no model behind."""
    model = find(reference)(settings(tmp_path / "nothing"))
    with pytest.raises(InvalidModelURI) as caught:
        await model.load()
    assert caught.value.status_code == 422
    assert not hasattr(model, "_model")


@pytest.mark.parametrize("reference", [each for each, _ in CLASSES])
async def test_not_one_input(tmp_path, reference):
    """A request of no inputs at all is the codec's error, 400."""

    class Echo:
        def predict(self, rows):
            return rows

    model = find(reference)(settings(tmp_path))
    model._model = Echo()
    with pytest.raises(Exception, match="The 'np' codec only supports a single input tensor") as caught:
        await model.predict(InferenceRequest(inputs=[]))
    assert caught.value.status_code == 400


@pytest.mark.parametrize(("reference", "file"), CLASSES)
async def test_library_missing(tmp_path, monkeypatch, reference, file):
    """Without the framework, loading names it and the extra that installs it; importing the class needs neither."""
    package = reference.partition("_")[2].partition(".")[0]
    (tmp_path / file).touch()
    monkeypatch.setitem(sys.modules, "joblib" if package == "sklearn" else package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'headrace\[{package}\]'"):
        await find(reference)(settings(tmp_path)).load()


# -- MLflow --


@pytest.fixture(scope="module")
def mlflow():
    """The library, imported where its remarks on itself are no failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mlflow")
        for name in ("mlflow.pyfunc.scoring_server", "mlflow.sklearn", "mlflow.models", "mlflow.types"):
            importlib.import_module(name)
        return importlib.import_module("mlflow")


@pytest.fixture
def mlflow_model(tmp_path, mlflow):
    """Save a scikit-learn estimator with a signature and give the class loaded with it."""
    from mlserver_mlflow import MLflowRuntime

    async def make(estimator, signature):
        with warnings.catch_warnings(record=True):  # MLflow shows some against a filter
            mlflow.sklearn.save_model(estimator, tmp_path / "m", signature=signature, pip_requirements=[])
        return await loaded(MLflowRuntime, tmp_path / "m")

    return make


@pytest.fixture
def columns(mlflow):
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([ColSpec("double", name) for name in "abcd"]),
        outputs=Schema([TensorSpec(np.dtype(np.int64), (-1,))]),
    )


async def test_mlflow_columns(mlflow_model, columns, classifier):
    """A signature of columns becomes metadata, and makes a data frame of a request that names no content type."""
    model = await mlflow_model(
        LogisticRegression(max_iter=500).fit(pd.DataFrame(ROWS, columns=list("abcd")), LABELS), columns
    )
    assert [(each.name, each.datatype, each.shape, each.parameters.content_type) for each in model.inputs] == [
        (name, "FP64", [-1, 1], "np") for name in "abcd"
    ]
    assert [(each.name, each.datatype, each.shape) for each in model.outputs] == [("output-0", "INT64", [-1])]
    assert model.settings.parameters.content_type == "pd"
    request = table(a=[5.1, 6.0], b=[3.5, 3.0], c=[1.4, 5.0], d=[0.2, 2.0])
    request.parameters = None
    response = await model.predict(request)
    assert (said(response), response.parameters.content_type) == ([("output-1", "INT64", [2, 1], "np")], "np")
    assert list(response.outputs[0].data) == [0, 2]


@pytest.mark.parametrize("name", [None, "x"], ids=["array", "dict"])
async def test_mlflow_tensors(mlflow_model, classifier, name):
    """A tensor without a name makes an array of a request, one with a name a dict; no outputs in it is no error."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs = Schema([TensorSpec(np.dtype(np.float64), (-1, 4), name)])
    model = await mlflow_model(classifier, ModelSignature(inputs=inputs))
    assert model.settings.parameters.content_type == ("dict" if name else "np")
    assert [(each.name, each.shape) for each in model.inputs] == [(name or "input-0", [-1, 4])]
    assert model.outputs == []
    seen = []
    model._model = type("Seen", (), {"predict": lambda self, rows, params=None: seen.append(rows) or np.zeros(2)})()
    await model.predict(ask(name="x"))
    rows = seen[0]["x"] if name else seen[0]
    np.testing.assert_array_equal(rows, np.array(TWO))


async def test_mlflow_no_signature(mlflow_model, classifier):
    """Without a signature one tensor is an array and several are columns, not an error."""
    model = await mlflow_model(classifier, False)
    assert list((await model.predict(ask())).outputs[0].data) == [0, 2]
    request = table(a=[5.1, 6.0], b=[3.5, 3.0], c=[1.4, 5.0], d=[0.2, 2.0])
    request.parameters = None
    with pytest.warns(UserWarning, match="X has feature names"):
        assert list((await model.predict(request)).outputs[0].data) == [0, 2]


@pytest.mark.parametrize(
    ("answer", "expected", "content_type"),
    [
        (np.array([1.0, 2.0]), [("output-1", "FP64", [2, 1], "np")], "np"),
        (["a", "b"], [("output-1", "BYTES", [2, 1], "str")], "str"),
        (
            pd.DataFrame({"n": [1, 2], "t": ["x", "y"]}),
            [("n", "INT64", [2, 1], None), ("t", "BYTES", [2, 1], "str")],
            "pd",
        ),
        ({"p": np.zeros(2), "q": np.zeros((2, 2))}, [("p", "FP64", [2, 1], "np"), ("q", "FP64", [2, 2], "np")], "dict"),
        (pd.Series([1.5, 2.5]), [("output-1", "FP64", [2, 1], "np")], None),
        ([1, 2], [("output-1", "INT64", [2, 1], "np")], None),
    ],
    ids=["array", "texts", "frame", "dict", "series", "numbers"],
)
async def test_mlflow_answers(tmp_path, answer, expected, content_type):
    """Whatever a model gives becomes the outputs that the original makes of it; a column or a list is an array."""
    from mlserver_mlflow import MLflowRuntime

    params = []
    model = MLflowRuntime(settings(tmp_path))
    model._model = type("Fixed", (), {"predict": lambda self, rows, params=None: seen(params) or answer})()
    seen = params.append
    response = await model.predict(ask(factor=3, content_type="np"))
    assert said(response) == expected
    assert content_type in {None, response.parameters.content_type}
    await model.predict(ask())
    assert params == [{"factor": 3}, None]  # the request's own, without content type and headers


async def test_mlflow_scoring(mlflow, mlflow_model, columns):
    """The scoring protocol answers JSON and CSV as MLflow's server; what it refuses is InferenceError, and ping says it is there."""
    frame = pd.DataFrame(ROWS, columns=list("abcd"))
    model = await mlflow_model(LogisticRegression(max_iter=500).fit(frame, LABELS), columns)
    split = json.dumps({"dataframe_split": {"columns": list("abcd"), "data": TWO}})
    for body, kind in [(split, "application/json; charset=utf-8"), ("a,b,c,d\n5.1,3.5,1.4,0.2\n6,3,5,2\n", "text/csv")]:
        reply = await model.invocations(body, kind)
        assert (reply.status_code, reply.media_type) == (200, "application/json")
        assert json.loads(reply.body) == {"predictions": [0, 2]}
    refused = [
        ("{bad", "application/json", "valid JSON"),
        ("{}", "application/json", "exactly one of the input fields"),
        (split, "application/json; charset=latin-1", "only supports UTF-8"),
        ("x", "text/plain", r"only supports the following content types, .* Got 'text/plain'"),
        ("x", "application/vnd.apache.parquet", "Got 'application/vnd.apache.parquet'"),
        ('{"inputs": [[1, 2]]}', "application/json", "Model is missing inputs"),
    ]
    for body, kind, text in refused:
        with pytest.raises(InferenceError, match=text):
            await model.invocations(body, kind)
    assert (await model.ping(), await model.health()) == ("\n", "\n")
    assert await model.mlflow_version() == mlflow.__version__


def test_mlflow_routes(tmp_path):
    """The paths of MLflow's server are custom handlers of the class, which a class derived from it has too."""
    from mlserver.handlers import get_custom_handlers
    from mlserver_mlflow import MLflowRuntime

    class Mine(MLflowRuntime):
        pass

    found = {(each.rest_method, each.rest_path) for each, _ in get_custom_handlers(Mine(settings(tmp_path)))}
    assert found == {("GET", "/ping"), ("GET", "/health"), ("GET", "/version"), ("POST", "/invocations")}


def test_mlflow_types(mlflow):
    """Each type of column and tensor has the datatype, shape and content type that the original gives it."""
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array, Object, Property
    from mlserver_mlflow.metadata import to_metadata_tensors

    expected = {
        "boolean": ("BOOL", "np"),
        "integer": ("INT32", "np"),
        "long": ("INT64", "np"),
        "float": ("FP32", "np"),
        "double": ("FP64", "np"),
        "string": ("BYTES", "str"),
        "binary": ("BYTES", "base64"),
        "datetime": ("BYTES", "datetime"),
    }
    kinds = [*expected, Array(DataType.double), Object([Property("a", DataType.long)])]
    found = to_metadata_tensors(Schema([ColSpec(kind) for kind in kinds]), prefix="p-")
    assert [each.name for each in found] == [f"p-{index}" for index in range(len(kinds))]
    wanted = [*expected.values(), ("BYTES", "pd_json"), ("BYTES", "pd_json")]
    assert [(each.datatype, each.parameters.content_type) for each in found] == wanted
    assert {tuple(each.shape) for each in found} == {(-1, 1)}
    tensors = Schema([TensorSpec(np.dtype(np.float16), (-1, 2, 2), "a"), TensorSpec(np.dtype("S"), (-1,), "b")])
    assert [(each.name, each.datatype, each.shape) for each in to_metadata_tensors(tensors)] == [
        ("a", "FP16", [-1, 2, 2]),
        ("b", "BYTES", [-1]),
    ]


def test_tensor_dict():
    """A dict of arrays goes into a request and a response and comes back, tagged; nothing else is taken for one."""
    from mlserver_mlflow import TensorDictCodec

    values = {"a": np.ones((2, 3)), "b": np.arange(2)}
    request = TensorDictCodec.encode_request(values)
    response = TensorDictCodec.encode_response("m", values, "v")
    assert request.parameters.content_type == response.parameters.content_type == "dict"
    assert said(response) == [("a", "FP64", [2, 3], "np"), ("b", "INT64", [2, 1], "np")]
    for back in (TensorDictCodec.decode_request(request), TensorDictCodec.decode_response(response)):
        np.testing.assert_array_equal(back["a"], values["a"])
        np.testing.assert_array_equal(back["b"].ravel(), values["b"])
    assert TensorDictCodec.can_encode(values)
    assert not any(map(TensorDictCodec.can_encode, ({"a": [1]}, {1: np.ones(1)}, [1], LinearRegression())))
