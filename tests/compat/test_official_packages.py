"""Whose `mlserver_sklearn` and its like are imported, and what of them is there by name.

Each case that imports runs in an interpreter of its own, because imports cannot be taken back.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace import compat

SOURCE = Path(__file__).resolve().parents[2] / "src"


def ran(code, *paths):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *map(str, paths)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_own_names():
    """The classes live under the packages' own names, and importing them imports no framework."""
    code = """
import sys
from headrace import compat
compat.provide(always=False)
import mlserver, mlserver_sklearn, mlserver_xgboost, mlserver_lightgbm, mlserver_catboost
from mlserver_sklearn.sklearn import SKLearnModel, WELLKNOWN_MODEL_FILENAMES, VALID_OUTPUTS, PREDICT_OUTPUT
from mlserver_xgboost.xgboost import XGBoostModel, PREDICT_PROBA_OUTPUT
from mlserver_lightgbm.lightgbm import LightGBMModel
from mlserver_catboost.catboost import CatboostModel
from mlserver_sklearn.version import __version__
print(SKLearnModel is mlserver_sklearn.SKLearnModel, SKLearnModel.__module__, WELLKNOWN_MODEL_FILENAMES)
print([issubclass(each, mlserver.MLModel) for each in (SKLearnModel, XGBoostModel, LightGBMModel, CatboostModel)])
print(sorted({"sklearn", "xgboost", "lightgbm", "catboost", "joblib", "mlflow"} & sys.modules.keys()))
"""
    assert ran(code).splitlines() == [
        "True mlserver_sklearn.sklearn ['model.joblib', 'model.pickle', 'model.pkl']",
        "[True, True, True, True]",
        "[]",
    ]


def test_mlflow_names():
    """The MLflow runtime and its codec are importable from where the original has them."""
    code = """
from headrace import compat
compat.provide(always=False)
import mlserver_mlflow
from mlserver_mlflow.runtime import MLflowRuntime, TensorDictCodec
from mlserver_mlflow.codecs import TensorDictCodec as Again
from mlserver_mlflow.metadata import to_metadata_tensors, to_model_content_type, DefaultInputPrefix
print(MLflowRuntime is mlserver_mlflow.MLflowRuntime, TensorDictCodec is Again is mlserver_mlflow.TensorDictCodec)
"""
    assert ran(code) == "True True"


@pytest.mark.parametrize("always", [False, True], ids=["auto", "always"])
def test_original_installed(tmp_path, always):
    """Each installed original wins for itself alone, unless ours are asked for."""
    (tmp_path / "mlserver_sklearn").mkdir()
    (tmp_path / "mlserver_sklearn" / "__init__.py").write_text("SKLearnModel = 'original'\n")
    code = f"""
from headrace import compat
compat.provide(always={always})
import mlserver_sklearn, mlserver_xgboost
print(mlserver_sklearn.SKLearnModel == "original", compat.provided("mlserver_sklearn"), compat.provided("mlserver_xgboost"))
"""
    assert ran(code, tmp_path) == f"{not always} {always} True"


@pytest.mark.parametrize("package", compat.OFFICIAL)
def test_not_offered(package):
    """A part that is not there is an ImportError that names it and the package to install."""
    with pytest.raises(ImportError) as caught:
        exec(f"import {package}.nothing", {})
    assert f"does not offer {package}.nothing" in str(caught.value)
    assert f"pip install {package.replace('_', '-')})" in str(caught.value)


@pytest.mark.parametrize("package", ["mlserver_huggingface", "mlserver_alibi_explain", "mlserver_other"])
def test_others(package):
    """Runtimes that are not stood in for are as absent as any package."""
    with pytest.raises(ModuleNotFoundError, match=f"^No module named '{package}'$"):
        exec(f"import {package}", {})
