"""Models and request bodies for the benchmarks.

Usage: prepare.py FOLDER
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import joblib
import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

import headrace
from headrace.protocols import v2_grpc


def save_onnx(model, rows: np.ndarray, path: Path) -> None:
    graph = to_onnx(model, rows[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString())


def save_joblib(model, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, path)


def models(folder: Path) -> None:
    rows, labels = load_iris(return_X_y=True)
    iris = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(rows, labels)
    save_onnx(iris, rows, folder / "iris" / "model.onnx")
    save_onnx(iris, rows, folder / "watched" / "model.onnx")
    headrace.fit_trust(folder / "watched", rows, labels)
    # No converter knows a function of numpy's, so this one stays with scikit-learn.
    plain = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression(max_iter=500))
    for name in ("plain", "unbatched"):
        save_joblib(plain.fit(rows, labels), folder / name / "model.joblib")
    (folder / "unbatched" / "headrace.yaml").write_text("batching: {max_batch_size: 1}\n")
    for number in range(100):
        save_onnx(iris, rows, folder / "hundred" / f"iris-{number:02}" / "model.onnx")
    rows, labels = load_breast_cancer(return_X_y=True)
    save_joblib(
        RandomForestClassifier(200, random_state=0, n_jobs=1).fit(rows, labels), folder / "forest" / "model.joblib"
    )
    rows, labels = load_digits(return_X_y=True)
    save_joblib(SVC(gamma=0.001).fit(rows[:898], labels[:898]), folder / "digits" / "model.joblib")
    rows, labels = load_iris(return_X_y=True)
    save_joblib(LogisticRegression(max_iter=500).fit(rows, labels), folder / "flowers" / "model.joblib")
    random = np.random.default_rng(0)
    for name in ("first", "second", "third"):  # four numbers in, four out: they can be chained
        mixed = rows @ random.normal(size=(4, 4))
        save_joblib(LinearRegression().fit(rows, mixed), folder / "chain" / name / "model.joblib")
    rows = random.random((600, 784)).astype(np.float32)
    save_onnx(MLPClassifier((64,), max_iter=5).fit(rows, np.arange(600) % 10), rows, folder / "pixels" / "model.onnx")


def bodies(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    asked = {
        "iris": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32),
        "flowers": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32),
        "digits": load_digits().data[-1:].astype(np.float32),
        "forest": random.random((1, 30)).astype(np.float32).round(4),
        "pixels": random.random((32, 784)).astype(np.float32).round(4),
    }
    for name, rows in asked.items():
        tensor = {"name": "X", "shape": list(rows.shape), "datatype": "FP32"}
        numbers = [float(f"{number:.4f}") for number in rows.ravel()]
        (folder / f"{name}.json").write_text(json.dumps({"inputs": [{**tensor, "data": numbers}]}))
        header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": rows.nbytes}}]}).encode()
        (folder / f"{name}.bin").write_bytes(header + rows.tobytes())
        (folder / f"{name}.bin.header").write_text(str(len(header)))
        for form in ("raw", "typed"):
            message = v2_grpc.ModelInferRequest(model_name=name)
            sent = message.inputs.add(name="X", datatype="FP32", shape=rows.shape)
            if form == "raw":
                message.raw_input_contents.append(rows.tobytes())
            else:
                sent.contents.fp32_contents.extend(rows.ravel().tolist())
            data = message.SerializeToString()
            (folder / f"{name}.{form}.grpc").write_bytes(b"\0" + struct.pack(">I", len(data)) + data)


if __name__ == "__main__":
    models(Path(sys.argv[1]) / "models")
    bodies(Path(sys.argv[1]) / "bodies")
