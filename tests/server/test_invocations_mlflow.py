"""`/invocations` against MLflow's own scoring server: the same models, the same bodies, the same statuses and values.

The reference is the application of `mlflow.pyfunc.scoring_server`, which `mlflow models serve` runs, asked without a
socket. What is meant to differ stands in `BETTER`, with both sides.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import runpy
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import headrace

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore"),  # of MLflow's code, which would answer them as errors
]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("mlflow")
    pyfunc = importlib.import_module("mlflow.pyfunc")
    flavor = importlib.import_module("mlflow.sklearn")
    scoring_server = importlib.import_module("mlflow.pyfunc.scoring_server")
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

census = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "lifecycle" / "census.py")))


def answer(frame, params):
    """What the model in Python gives, by what it is asked for."""
    match params["what"]:
        case "frame":
            return pd.DataFrame({"sum": frame["d"] * params["k"] + frame["l"], "text": frame["s"].astype(str)})
        case "array":
            return np.asarray(frame["d"], np.float32) * np.float32(0.1)
        case "matrix":
            return np.stack([frame["d"].to_numpy(), frame["l"].to_numpy().astype(float)], 1)
        case "list":
            return [str(each) for each in frame["s"]]
        case "dict":
            return {"a": np.asarray(frame["d"]), "b": np.ones((len(frame), 2), np.float32) / 3}
        case "types":
            return [str(each) for each in frame.dtypes]
    raise RuntimeError("secret")


def save_models(folder):
    """`mixed`, in Python with columns and params; `tensor`, `named` and `census`, of scikit-learn."""

    class Mixed(pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return answer(model_input, params)

    columns = [("double", "d", True), ("long", "l", True), ("string", "s", True), ("boolean", "b", False)]
    signature = ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=required) for kind, name, required in columns]),
        params=ParamSchema([ParamSpec("what", DataType.string, "frame"), ParamSpec("k", DataType.double, 1.0)]),
    )
    pyfunc.save_model(str(folder / "mixed"), python_model=Mixed(), signature=signature, pip_requirements=[])
    rows = np.random.default_rng(0).normal(size=(20, 4))
    labels = (rows[:, 0] > 0).astype(int)
    frame, named = pd.DataFrame(rows, columns=list("abcd")), pd.Series(labels, name="target")
    for name, x, y in (("tensor", rows, labels), ("named", frame, named)):
        fitted = LogisticRegression().fit(x, y)
        flavor.save_model(fitted, str(folder / name), signature=infer_signature(x, y), pip_requirements=[])
    census.save(folder / "census")


def parquet(frame):
    told = io.BytesIO()
    pd.DataFrame(frame).to_parquet(told)
    return told.getvalue()


JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
ROWS = {"columns": ["d", "l", "s"], "data": [[1.5, 2, "x"], [2.5, 3, "\u00e9"]]}
ONE = {"d": 1.5, "l": 2, "s": "a"}


PERSON = {"age": 30, "hours": 40.0, "workclass": "Private", "occupation": "Sales", "country": "Mexico"}


def shown(what):
    return {"dataframe_split": ROWS, "params": {"what": what, "k": 2.0}}


ALIKE = [
    *(("mixed", JSON, shown(what)) for what in ("frame", "array", "matrix", "list", "dict", "types")),
    ("mixed", JSON, {"dataframe_split": {**ROWS, "index": [5, 6]}}),
    ("mixed", JSON, {"dataframe_records": [ONE, {**ONE, "d": 1}]}),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "extra": 1}]}),
    ("mixed", JSON, {"dataframe_records": [{"d": 1.5, "l": 2}]}),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "d": "x"}]}),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "l": None}]}),
    ("mixed", JSON, {"instances": [ONE]}),
    ("mixed", JSON, {"inputs": {"d": [1.5], "l": [2], "s": ["a"]}}),
    ("mixed", JSON, {"inputs": {"d": [1.5], "l": [2], "s": ["a"]}, "params": None}),
    ("mixed", JSON, {"inputs": [ONE]}),
    ("mixed", JSON, {"inputs": {"d": [1], "l": [2], "s": ["a"]}, "params": {"k": "x"}}),
    ("mixed", JSON, ROWS),
    ("mixed", JSON, [1]),
    ("mixed", JSON, {}),
    ("mixed", JSON, {"instances": [], "inputs": []}),
    ("mixed", JSON, {"dataframe_split": []}),
    ("mixed", JSON, {"dataframe_records": {}}),
    ("mixed", JSON, b"{"),
    ("mixed", "application/json; format=pandas-split", ROWS),
    ("mixed", "application/json; charset=latin-1", {"dataframe_split": ROWS}),
    ("mixed", "text/plain", b"x"),
    ("mixed", CSV, b"d,l,s\n1,2,x\n2,3,y\n"),
    ("mixed", CSV, b",d,l,s\n0,1,2,07\n"),
    ("mixed", CSV, b"d,l\n1,2\n"),
    ("mixed", CSV, b""),
    ("mixed", PARQUET, parquet({"d": [1.5, 2.5], "l": [2, 3], "s": ["x", "\u00e9"], "extra": [1, 2]})),
    ("mixed", PARQUET, parquet({"d": [1.5], "s": ["x"]})),
    ("mixed", PARQUET, b"PAR1"),
    ("named", PARQUET, parquet(pd.DataFrame(np.eye(4) - 0.5, columns=list("dcba"), index=list("wxyz")))),
    ("tensor", PARQUET, parquet(pd.DataFrame(np.eye(4) - 0.5, columns=list("abcd")))),
    *(
        (model, JSON, body)
        for model in ("tensor", "named")
        for body in (
            {"dataframe_split": {"columns": list("abcd"), "data": [[1, 2, 3, 4]]}},
            {"dataframe_split": {"columns": list("dcba"), "data": [[1, 2, 3, -4]]}},
            {"dataframe_records": [{"a": -1, "b": 2, "c": 3, "d": 4}] * 200},
            {"instances": [[1, 2, 3]]},
            {"instances": [[1, 2, 3, "x"]]},
            {"instances": []},
            {"instances": [[1, 2, 3, None]]},
        )
    ),
    ("tensor", JSON, {"instances": [[1, 2, 3, 4], [-5, 6.5, 7, 8]]}),
    ("tensor", JSON, {"inputs": [[1, 2, 3, 4], [-5, 6.5, 7, 8]]}),
    ("tensor", JSON, {"inputs": [[index - 99.5, 2, 3.25, 4] for index in range(200)]}),
    ("tensor", JSON, {"dataframe_split": {"data": [[1, 2, 3, 4]]}}),
    ("named", JSON, {"instances": [{"a": 1, "b": 2, "c": 3, "d": 4}]}),
    ("named", JSON, {"inputs": {"a": [1], "b": [2], "c": [3], "d": [-4]}}),
    ("named", JSON, {"inputs": {"a": 1, "b": 2, "c": 3, "d": -4}}),
    ("named", JSON, {"dataframe_split": {"columns": list("bacd"), "data": [[5, index - 99.5, 3, 4] for index in range(200)]}}),
    ("named", CSV, b"a,b,c,d\n1,2,3,4\n"),
    ("named", CSV, b"d,c,b,a\n" + b"".join(b"%d,1.5,2,%d\n" % (index, index - 250) for index in range(500))),
    ("named", CSV, b"0,1,2,3\n1,2,3,4\n"),
    ("mixed", JSON, {"dataframe_records": [{**ONE, "s": None}, ONE], "params": {"what": "types"}}),
    ("census", JSON, {"dataframe_records": [{**PERSON, "workclass": None}, {**PERSON, "occupation": None}, PERSON]}),
    ("census", JSON, {"dataframe_records": [PERSON, {"age": 30, "hours": 40.0}]}),
    ("census", JSON, {"dataframe_records": [{"age": 30, "hours": 40.0}]}),
    ("census", JSON, {"dataframe_records": [{**PERSON, "hours": None}]}),
    ("census", JSON, {"dataframe_records": [{**PERSON, "age": None}]}),
    ("census", CSV, b"age,hours,workclass,occupation,country\n30,,,n/a,Mexico\n40,1,NULL,n/a?,\n"),
]  # fmt: skip

BETTER = [
    pytest.param("mixed", JSON, shown("fails"), 400, 500, None, id="a failing model is no fault of the caller's"),
    pytest.param(
        "mixed", JSON, {"dataframe_records": [{**ONE, "d": None}]}, 200, 200, [{"sum": None, "text": "a"}], id="NaN"
    ),
    pytest.param("mixed", JSON, {"dataframe_records": [{**ONE, "l": 2.5}]}, 200, 400, None, id="an integer cut off"),
    pytest.param("mixed", JSON, {"dataframe_records": [{**ONE, "s": 3}]}, 200, 400, None, id="a number for text"),
    pytest.param("mixed", JSON, {**shown("list"), "params": {"nope": 1}}, 200, 400, None, id="an unknown param"),
    pytest.param("tensor", CSV, b"a,b,c,d\n1,2,3,4\n", 400, 200, [1], id="CSV for a tensor"),
    pytest.param("tensor", CSV, b"1,2,3,4\n-5,2,3,4\n", 400, 200, [1, 0], id="CSV without a header"),
    pytest.param("named", JSON, {"instances": [[1, 2, 3, 4]]}, 400, 200, [1], id="rows in the order of the columns"),
    pytest.param(
        *("mixed", JSON, {"dataframe_records": [{**ONE, "s": None}], "params": {"what": "list"}}, 200, 200, ["nan"]),
        id="a text that is missing in all rows",
    ),
]


def ask_url(url, body, content_type):
    sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, sent, {"Content-Type": content_type}), timeout=60
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def ask_app(app, path, body, content_type):
    """One request to an ASGI application (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
    sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET" if sent is None else "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", content_type.encode())],
    }
    given, told = [{"type": "http.request", "body": sent or b""}], []

    async def receive():
        return given.pop() if given else await asyncio.Event().wait()

    async def send(message):
        told.append(message)

    asyncio.run(app(scope, receive, send))
    return told[0]["status"], b"".join(each.get("body", b"") for each in told)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """What asks MLflow's application and what asks our server: each takes a model, a path, a body, its content type."""
    folder = tmp_path_factory.mktemp("mlflow")
    names = ("mixed", "tensor", "named", "census")
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True),
    ):  # MLflow shows some against filters
        warnings.simplefilter("ignore")
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # which its application sets for good
        save_models(folder)
        apps = {name: scoring_server.init(pyfunc.load_model(str(folder / name))) for name in names}
        settings = {"grpc.enabled": False, "metrics.enabled": False}
        with headrace.serve({name: str(folder / name) for name in names}, settings=settings) as server:

            def theirs(model, path, body=None, content_type=JSON):
                return ask_app(apps[model], f"/{path}", body, content_type)

            def ours(model, path, body=None, content_type=JSON):
                at = f"/v2/models/{model}/{path}" if path == "invocations" else f"/{path}"
                return ask_url(f"{server.url}{at}", body, content_type)

            ours.predict = pyfunc.load_model(str(folder / "census")).predict
            yield theirs, ours


def test_the_answers_are_those_of_mlflows_server(sides):
    """Status by status and value by value; a refusal is one on both sides and says nothing of a trace."""
    for model, content_type, body in ALIKE:
        (status, theirs), (code, ours) = (ask(model, "invocations", body, content_type) for ask in sides)
        told = (model, content_type, str(body)[:200], theirs[:200], ours[:200])
        assert code == status, told
        found = json.loads(ours)
        if status == 200:
            assert found == json.loads(theirs), told
        else:
            assert found.keys() == {"error_code", "message"}, told
            assert "Traceback" not in found["message"], told


@pytest.mark.parametrize(("model", "content_type", "body", "theirs", "ours", "predictions"), BETTER)
def test_what_differs_from_mlflows_server_is_meant_to(sides, model, content_type, body, theirs, ours, predictions):
    """Each difference is as the documents say, on both sides, so that a release of MLflow that changes it is seen."""
    replies = [ask(model, "invocations", body, content_type) for ask in sides]
    assert [status for status, _ in replies] == [theirs, ours]
    if predictions is not None:
        assert json.loads(replies[1][1]) == {"predictions": predictions}
    else:
        assert "secret" not in json.loads(replies[1][1])["error_code"]


def bodies(frame):
    """A table in each form that a body has."""
    nulls = frame.astype(object).where(frame.notna(), None)
    records, columns = nulls.to_dict("records"), nulls.to_dict("list")
    yield JSON, {"dataframe_records": records}
    yield JSON, {"instances": records}
    yield JSON, {"dataframe_split": {"columns": list(frame), "data": nulls.to_numpy().tolist()}}
    yield JSON, {"inputs": columns}
    yield JSON, {"inputs": records}
    yield CSV, frame.to_csv(index=False).encode()
    yield CSV, frame.to_csv(index=False, na_rep="n/a").encode()
    yield PARQUET, parquet(frame)
    yield PARQUET, parquet(nulls)
    yield "application/jsonlines", "\n".join(map(json.dumps, records)).encode()


@pytest.mark.parametrize("missing", [[], ["workclass"], ["hours"], ["workclass", "occupation", "country", "hours"]])
@pytest.mark.parametrize("count", [1, 60])
def test_what_is_missing_is_answered_as_the_model_answers_a_frame(sides, count, missing):
    """In each form of a body, texts and numbers that are missing, in some rows or in all, are the NaN of the DataFrame."""
    _, ours = sides
    frame = census.frame(count, seed=count)
    for name in missing:
        frame[name] = pd.Series([np.nan] * count, dtype=frame[name].dtype)
    expected = ours.predict(frame)
    for content_type, body in bodies(frame):
        status, found = ours("census", "invocations", body, content_type)
        told = (content_type, str(body)[:200], found[:300])
        assert status == 200, told
        np.testing.assert_allclose(json.loads(found)["predictions"], expected, rtol=1e-9, err_msg=str(told))


def test_the_health_of_both_is_asked_alike(sides):
    """`/ping`, `/health` and `/version` have the same statuses and bytes."""
    for path in ("ping", "health", "version"):
        theirs, ours = (ask("tensor", path) for ask in sides)
        assert theirs == ours, path
