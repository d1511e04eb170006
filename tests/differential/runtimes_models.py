"""Writes the models of runtimes.py as an MLServer folder. Run by the reference environment's own Python, so that both
servers can read the files: `python runtimes_models.py FOLDER`. Data: what ships inside scikit-learn.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import catboost
import joblib
import lightgbm
import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow.models.signature import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

IRIS, SPECIES = load_iris(return_X_y=True)
CANCER, BENIGN = load_breast_cancer(return_X_y=True)
CANCER = CANCER[:, :5]
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
DIABETES = DIABETES[:, :4]
COLUMNS = ["a", "b", "c", "d"]
FRAME = pd.DataFrame(IRIS, columns=COLUMNS)
COLOURS = np.array(["red", "green", "blue"], dtype=object)
MIXED = pd.DataFrame({"size": IRIS[:, 0], "colour": COLOURS[np.arange(150) % 3], "weight": IRIS[:, 2]})
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
TEXTS = ["a good day", "a bad day", "good news", "bad news"] * 10
FEW = {"n_estimators": 5, "max_depth": 2}
TRAIN = {"objective": "reg:squarederror", "max_depth": 2}


class Frames(mlflow.pyfunc.PythonModel):
    """A table for a table: numbers, truth, and text if it is asked to."""

    def __init__(self, **more):
        self.more = more

    def predict(self, context, model_input, params=None):
        total = model_input.sum(axis=1, numeric_only=True)
        return pd.DataFrame({"total": total, "many": total > 5, **self.more})


class Dicts(mlflow.pyfunc.PythonModel):
    """A dict of arrays."""

    def predict(self, context, model_input, params=None):
        rows = np.asarray(model_input["x"] if isinstance(model_input, dict) else model_input)
        return {"total": rows.sum(axis=1), "twice": rows * 2}


class Params(mlflow.pyfunc.PythonModel):
    """What the params make of the rows."""

    def predict(self, context, model_input, params=None):
        return np.asarray(model_input).sum(axis=1) * params["factor"] + len(params["word"])


class Words(mlflow.pyfunc.PythonModel):
    """Text for text, a list."""

    def predict(self, context, model_input, params=None):
        return [str(each).upper() for each in model_input.iloc[:, 0]]


class Series(mlflow.pyfunc.PythonModel):
    """A column of a table."""

    def predict(self, context, model_input, params=None):
        return pd.Series(model_input.sum(axis=1, numeric_only=True), name="sum")


class Arrays(mlflow.pyfunc.PythonModel):
    """An array, which the signature calls by a name."""

    def predict(self, context, model_input, params=None):
        return np.asarray(model_input)[:, :2] * 2


class Types(mlflow.pyfunc.PythonModel):
    """What a row of columns of each type was read as."""

    def predict(self, context, model_input, params=None):
        return [str(value) for value in model_input.drop(columns=["note"], errors="ignore").iloc[0]]


class Times(mlflow.pyfunc.PythonModel):
    """The day of a time."""

    def predict(self, context, model_input, params=None):
        return np.asarray(model_input["when"].dt.day)


def of_xgboost(rows, labels, **parameters):
    """A Booster without its scikit-learn API."""
    return xgboost.train({**TRAIN, **parameters}, xgboost.DMatrix(rows, labels), num_boost_round=5)


def of_lightgbm(rows, labels, **rest):
    """A Booster."""
    parameters = {"verbose": -1, "min_data_in_leaf": 5, "num_leaves": 4, **rest}
    return lightgbm.train(parameters, lightgbm.Dataset(rows, labels), num_boost_round=5)


def columns_transformed():
    """Numbers and text columns of a table, then a classifier."""
    each = [("numbers", StandardScaler(), ["size", "weight"]), ("texts", OneHotEncoder(), ["colour"])]
    return make_pipeline(ColumnTransformer(each), LogisticRegression(max_iter=500)).fit(MIXED, SPECIES)


def scikit_learn():
    """Name to estimator."""
    two = np.stack([SPECIES, SPECIES % 2], axis=1)
    flat = ColumnTransformer([("numbers", StandardScaler(), ["size"])], remainder="drop")
    return {
        "iris": LogisticRegression(max_iter=500).fit(IRIS, SPECIES),
        "named": LogisticRegression(max_iter=500).fit(IRIS, NAMES),
        "framed": LogisticRegression(max_iter=500).fit(FRAME, SPECIES),
        "mixed": columns_transformed(),
        "regressor": RandomForestRegressor(**FEW).fit(DIABETES, PROGRESS),
        "targets": LinearRegression().fit(IRIS[:, :2], IRIS[:, 2:]),
        "multilabel": RandomForestClassifier(**FEW).fit(IRIS, two),
        "unsure": SVC().fit(IRIS, SPECIES),
        "scaler": StandardScaler().fit(IRIS),
        "scaler-frame": StandardScaler().set_output(transform="pandas").fit(FRAME),
        "columns-frame": flat.set_output(transform="pandas").fit(MIXED),
        "one-hot": OneHotEncoder(handle_unknown="ignore").fit(MIXED[["colour"]].to_numpy()),
        "clusters": KMeans(n_clusters=3, n_init=1, random_state=0).fit(IRIS),
        "pca": make_pipeline(StandardScaler(), PCA(n_components=2)).fit(IRIS),
        "outliers": IsolationForest(n_estimators=5, random_state=0).fit(IRIS),
        "texts": make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, [1, 0, 1, 0] * 10),
    }


def mlflow_models(folder):
    """Each of MLflow's models, in a folder of its own."""
    iris = LogisticRegression(max_iter=500).fit(FRAME, SPECIES)
    of_array = LogisticRegression(max_iter=500).fit(IRIS, SPECIES)
    tensor = Schema([TensorSpec(np.dtype(np.float64), (-1, 4))])
    named = Schema([TensorSpec(np.dtype(np.float64), (-1, 4), "x")])
    integer = Schema([TensorSpec(np.dtype(np.int64), (-1,))])
    number = Schema([TensorSpec(np.dtype(np.float64), (-1,))])
    column = Schema([ColSpec("double", "sum")])
    two = Schema([TensorSpec(np.dtype(np.float64), (-1,), "total"), TensorSpec(np.dtype(np.float64), (-1, 4), "twice")])
    params = ParamSchema([ParamSpec("factor", "double", 2.0), ParamSpec("word", "string", "abc")])
    words, times = Schema([ColSpec("string", "word")]), Schema([ColSpec("datetime", "when")])
    two_columns = [ColSpec("double", "total"), ColSpec("boolean", "many")]
    named_target = Schema([ColSpec("long", "species")])
    mixed = infer_signature(MIXED, SPECIES)
    every = {"flag": "boolean", "small": "integer", "count": "long", "weight": "float", "word": "string",
             "blob": "binary", "when": "datetime"}  # fmt: skip
    types = Schema([*(ColSpec(kind, name) for name, kind in every.items()), ColSpec("string", "note", required=False)])
    saved = {
        "mlflow-columns": (mlflow.sklearn, iris, infer_signature(FRAME, SPECIES)),
        "mlflow-tensor": (mlflow.sklearn, of_array, ModelSignature(inputs=tensor, outputs=integer)),
        "mlflow-bare": (mlflow.sklearn, of_array, False),
        "mlflow-bare-frame": (mlflow.sklearn, iris, False),
        "mlflow-inputs-alone": (mlflow.sklearn, iris, infer_signature(FRAME)),
        "mlflow-mixed": (mlflow.sklearn, columns_transformed(), mixed),
        "mlflow-dict": (mlflow.pyfunc, Dicts(), ModelSignature(inputs=named, outputs=two)),
        "mlflow-target": (
            mlflow.sklearn,
            iris,
            ModelSignature(inputs=infer_signature(FRAME).inputs, outputs=named_target),
        ),
        "mlflow-named": (mlflow.pyfunc, Arrays(), ModelSignature(inputs=tensor, outputs=named)),
        "mlflow-frame": (mlflow.pyfunc, Frames(), ModelSignature(inputs=mixed.inputs, outputs=Schema(two_columns))),
        "mlflow-frame-text": (
            mlflow.pyfunc,
            Frames(word="x"),
            ModelSignature(inputs=mixed.inputs, outputs=Schema([*two_columns, ColSpec("string", "word")])),
        ),
        "mlflow-params": (mlflow.pyfunc, Params(), ModelSignature(inputs=tensor, outputs=number, params=params)),
        "mlflow-words": (mlflow.pyfunc, Words(), ModelSignature(inputs=words, outputs=Schema([ColSpec("string")]))),
        "mlflow-types": (mlflow.pyfunc, Types(), ModelSignature(inputs=types, outputs=words)),
        "mlflow-series": (
            mlflow.pyfunc,
            Series(),
            ModelSignature(inputs=infer_signature(FRAME).inputs, outputs=column),
        ),
        "mlflow-times": (mlflow.pyfunc, Times(), ModelSignature(inputs=times, outputs=integer)),
        "mlflow-xgboost": (
            mlflow.xgboost,
            xgboost.XGBClassifier(**FEW).fit(FRAME, SPECIES),
            infer_signature(FRAME, SPECIES),
        ),
    }
    for name, (flavor, model, signature) in saved.items():
        place = folder / name / "model"
        what = {"python_model": model} if flavor is mlflow.pyfunc else {
            "xgb_model" if flavor is mlflow.xgboost else "sk_model": model
        }  # fmt: skip
        if flavor is mlflow.sklearn:
            what["serialization_format"] = "cloudpickle"
        flavor.save_model(path=str(place), signature=signature, pip_requirements=[], **what)
        settings(folder, name, "mlserver_mlflow.MLflowRuntime", "model")


def settings(folder, name, implementation, uri="", **parameters):
    """model-settings.json of one model."""
    (folder / name).mkdir(exist_ok=True)
    content = {"name": name, "implementation": implementation, "parameters": {"uri": f"./{uri}", **parameters}}
    (folder / name / "model-settings.json").write_text(json.dumps(content))


def boosters(folder):
    """Models of the three libraries of trees: name to implementation, file, and what writes it."""
    xgb, lgb, cat = (
        "mlserver_xgboost.XGBoostModel",
        "mlserver_lightgbm.LightGBMModel",
        "mlserver_catboost.CatboostModel",
    )
    quiet = {"iterations": 5, "depth": 2, "verbose": False, "allow_writing_files": False}
    classes = xgboost.XGBClassifier(**FEW).fit(IRIS, SPECIES)
    both = xgboost.XGBClassifier(**FEW).fit(CANCER, BENIGN)
    return {
        "xgb-regressor": (xgb, "model.json", xgboost.XGBRegressor(**FEW).fit(DIABETES, PROGRESS)),
        "xgb-classes": (xgb, "model.json", classes),
        "xgb-classes-ubj": (xgb, "model.ubj", classes),
        "xgb-binary": (xgb, "model.json", both),
        "xgb-booster": (xgb, "model.bst", of_xgboost(DIABETES, PROGRESS)),
        "xgb-booster-logistic": (xgb, "model.json", of_xgboost(CANCER, BENIGN, objective="binary:logistic")),
        "xgb-booster-softprob": (xgb, "model.json", of_xgboost(IRIS, SPECIES, objective="multi:softprob", num_class=3)),
        "xgb-linear": (xgb, "model.json", xgboost.XGBRegressor(booster="gblinear", n_estimators=5).fit(DIABETES, PROGRESS)),
        "xgb-framed": (xgb, "model.json", xgboost.XGBClassifier(**FEW).fit(FRAME, SPECIES)),
        "lgb-regression": (lgb, "model.bst", of_lightgbm(DIABETES, PROGRESS)),
        "lgb-binary": (lgb, "model.bst", of_lightgbm(CANCER, BENIGN, objective="binary")),
        "lgb-classes": (lgb, "model.bst", of_lightgbm(IRIS, SPECIES, objective="multiclass", num_class=3)),
        "lgb-framed": (lgb, "model.bst", of_lightgbm(FRAME, SPECIES, objective="multiclass", num_class=3)),
        "cat-classes": (cat, "model.cbm", catboost.CatBoostClassifier(**quiet).fit(IRIS, SPECIES)),
        "cat-binary": (cat, "model.bin", catboost.CatBoostClassifier(**quiet).fit(CANCER, BENIGN)),
        "cat-named": (cat, "model.cbm", catboost.CatBoostClassifier(**quiet).fit(IRIS, NAMES)),
        "cat-framed": (cat, "model.cbm", catboost.CatBoostClassifier(**quiet).fit(FRAME, SPECIES)),
        "cat-mixed": (cat, "model.cbm", catboost.CatBoostClassifier(**quiet, cat_features=["colour"]).fit(MIXED, SPECIES)),
        "cat-regressor": (cat, "model.cbm", catboost.CatBoostRegressor(**quiet).fit(DIABETES, PROGRESS)),
    }  # fmt: skip


def main(folder):
    """Everything."""
    warnings.simplefilter("ignore")
    for name, model in scikit_learn().items():
        (folder / name).mkdir(parents=True)
        joblib.dump(model, folder / name / "model.joblib")
        settings(folder, name, "mlserver_sklearn.SKLearnModel")
    for name, of, extra in (
        ("iris-proba", "iris", {"predict_fn": "predict_proba"}),
        ("pca-transform", "pca", {"predict_fn": "transform"}),
        ("scaler-transform", "scaler", {"predict_fn": "transform"}),
        ("frame-transform", "scaler-frame", {"predict_fn": "transform"}),
        ("wrong-fn", "iris", {"predict_fn": "nonsense"}),
    ):
        (folder / name).mkdir()
        shutil.copy(folder / of / "model.joblib", folder / name / "model.joblib")
        settings(folder, name, "mlserver_sklearn.SKLearnModel", extra=extra)
    for name, content_type in (("framed-pd", "pd"), ("iris-np", "np")):
        (folder / name).mkdir()
        shutil.copy(folder / name.partition("-")[0] / "model.joblib", folder / name / "model.joblib")
        settings(folder, name, "mlserver_sklearn.SKLearnModel", content_type=content_type)
    for name, (implementation, file, model) in boosters(folder).items():
        (folder / name).mkdir()
        model.save_model(str(folder / name / file))
        settings(folder, name, implementation)
    mlflow_models(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
