"""MLServer folders with real artifacts under their well-known names: found by the dialect, loaded by our runtimes.

Left out: scikit-learn and somebody's own class (tests/cli/test_serve does both through a server), answers (the runtimes').
"""

import json

import numpy as np
import pytest

from headrace.serving import discovery
from headrace.serving.build import RuntimeSpec, build

X = np.random.default_rng(0).random((40, 3))
Y = (X.sum(axis=1) > 1.5).astype(int)


def xgboost(path):
    import xgboost as xgb

    booster = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(X, Y), 2)
    path.write_bytes(booster.save_raw("json" if path.suffix == ".json" else "ubj"))


def lightgbm(path):
    import lightgbm as lgb

    lgb.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lgb.Dataset(X, Y), 2).save_model(path)


def catboost(path):
    import catboost

    model = catboost.CatBoostClassifier(iterations=2, verbose=False, thread_count=1, allow_writing_files=False)
    model.fit(X, Y).save_model(str(path))


CASES = {
    "xgboost-bst": ("mlserver_xgboost.XGBoostModel", "model.bst", xgboost),
    "xgboost-json": ("mlserver_xgboost.XGBoostModel", "model.json", xgboost),
    "lightgbm-bst": ("mlserver_lightgbm.LightGBMModel", "model.bst", lightgbm),
    "catboost-bin": ("mlserver_catboost.CatboostModel", "model.bin", catboost),
}


@pytest.mark.parametrize(("implementation", "file", "save"), CASES.values(), ids=CASES)
def test_artifact_loads(tmp_path, implementation, file, save):
    """An artifact under a well-known name loads in the runtime that its class became, and answers rows."""
    save(tmp_path / file)
    (tmp_path / "model-settings.json").write_text(json.dumps({"name": "m", "implementation": implementation}))
    (spec,) = discovery.discover([str(tmp_path)])
    assert spec.path == str(tmp_path / file)
    runtime, signature = build(
        RuntimeSpec(name="m", runtime=spec.runtime, path=spec.path, parameters=dict(spec.parameters))
    )
    try:
        rows = X[:5].astype({"FP32": np.float32, "FP64": np.float64}[signature.inputs[0].datatype])
        (answer,) = runtime.predict({signature.inputs[0].name: rows}, signature.default_outputs).values()
        assert len(answer) == 5
    finally:
        runtime.unload()
