"""The rows of docs/benchmarks.md: what is served, by whom, what is asked, and the target of the ratio."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from load import Question, Server

INFER = "/v2/models/{name}/infer"
HEADRACE = "headrace serve {models}/%s --port {port} --grpc-port {grpc} --metrics-port {metrics} --log-level warning"


def ours(model: str, body: str, *, options: str = "", expect: bytes = b"", name: str = "Headrace") -> Server:
    path = INFER.format(name=model.rpartition("/")[2])
    return Server(name, "headrace", HEADRACE % model + (f" {options}" if options else ""), Question(path, body, expect))


def mlserver(model: str, body: str, *, batch: int = 0, name: str = "MLServer") -> Server:
    settings = {"debug": False, "parallel_workers": 0, "host": "127.0.0.1"}
    ports = {"http_port": "<port>", "grpc_port": "<grpc>", "metrics_port": "<metrics>"}
    file, kind = MODELS[model]
    described = {
        "name": model,
        "implementation": "mlserver_sklearn.SKLearnModel" if kind == "joblib" else "peers.mlserver_app.Onnx",
        "parameters": {"uri": f"<models>/{file}"},
    }
    if batch:
        described |= {"max_batch_size": batch, "max_batch_time": 0.002}
    files = {"settings.json": json.dumps({**settings, **ports}), "model-settings.json": json.dumps(described)}
    return Server(
        name, "mlserver", "mlserver start {folder}", Question(INFER.format(name=model), body),
        files=files,
    )  # fmt: skip


def folder(model: str, body: str, *, ours: bool, workers: int = 0, batch: int = 0) -> Server:
    """An MLServer folder, the same files for both, in a form that suits it; by its original or by ours."""
    settings = {"debug": False, "parallel_workers": workers, "host": "127.0.0.1"}
    ports = {"http_port": "<port>", "grpc_port": "<grpc>", "metrics_port": "<metrics>"}
    described: dict[str, object] = {"name": model}
    if model == "constant":
        described["implementation"] = "peers.constant.Constant"
    else:
        described["implementation"] = "mlserver_sklearn.SKLearnModel"
        described["parameters"] = {"uri": f"<models>/{model}/model.joblib"}
    if batch:
        described |= {"max_batch_size": batch, "max_batch_time": 0.002}
    files = {"settings.json": json.dumps({**settings, **ports}), "model-settings.json": json.dumps(described)}
    form = f", {workers} workers" if workers else ""
    form += f", batch {batch}" if batch else ""
    name, environment, command = ("Headrace", "headrace", "headrace mlserver start") if ours else (
        "MLServer", "mlserver", "mlserver start"
    )  # fmt: skip
    return Server(
        name + form, environment, command + " {folder}", Question(INFER.format(name=model), body), files=files
    )


GRAPH = """\
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: chain}
spec:
  steps:
  - {name: first}
  - {name: second, inputs: [first]}
  - {name: third, inputs: [second]}
  output: {steps: [third]}
---
apiVersion: headrace.io/v1
kind: Experiment
metadata: {name: split}
spec:
  candidates: [{name: first, weight: 50}, {name: second, weight: 50}]
---
apiVersion: headrace.io/v1
kind: Experiment
metadata: {name: mirrored}
spec:
  candidates: [{name: first, weight: 100}]
  mirror: {name: second, percent: 100}
"""


def graph(name: str, endpoint: str) -> Server:
    """Three small models, a chain of them, a split and a mirror, all in one server; one of them is asked."""
    return Server(
        name, "headrace",
        "headrace serve {models}/chain -f {folder}/graph.yaml --port {port} --grpc-port {grpc} "
        "--metrics-port {metrics} --control-port 0 --log-level warning",
        Question(INFER.format(name=endpoint), "flowers.json", b'"outputs"'), files={"graph.yaml": GRAPH},
    )  # fmt: skip


def kserve(model: str, body: str) -> Server:
    file, _ = MODELS[model]
    command = f"python {{here}}/peers/kserve_app.py {{port}} {{grpc}} {model} {{models}}/{file}"
    return Server("KServe", "kserve", command, Question(INFER.format(name=model), body))


def mosec(model: str, body: str, *, batch: int = 1) -> Server:
    file, _ = MODELS[model]
    return Server(
        f"mosec, batch {batch}" if batch > 1 else "mosec", "mosec",
        "python {here}/peers/mosec_app.py --port {port} --address 127.0.0.1 --log-level error",
        Question("/inference", body), variables={"MODEL": file, "BATCH": str(batch)},
    )  # fmt: skip


def pytriton(model: str, body: str) -> Server:
    file, _ = MODELS[model]
    command = f"python {{here}}/peers/pytriton_app.py {{port}} {{grpc}} {model} {{models}}/{file}"
    return Server("PyTriton", "pytriton", command, Question(INFER.format(name=model), body))


def floor(model: str, body: str) -> Server:
    file, _ = MODELS[model]
    return Server(
        "raw ASGI on uvicorn", "floor",
        "uvicorn peers.floor_app:app --port {port} --loop uvloop --http httptools --no-access-log --log-level warning",
        Question("/", body), variables={"MODEL": file},
    )  # fmt: skip


MODELS = {
    "iris": ("iris/model.onnx", "onnx"),
    "pixels": ("pixels/model.onnx", "onnx"),
    "forest": ("forest/model.joblib", "joblib"),
    "plain": ("plain/model.joblib", "joblib"),
}


@dataclass(frozen=True)
class Work:
    """One row: ours against one peer."""

    name: str
    what: str
    ours: Server
    peer: Server
    target: float
    """Ratio of `figure`, ours over the peer's, at least; for latencies at most."""
    figure: str = "rate"
    connections: int = 16


IRIS = ours("iris", "iris.json", expect=b'"outputs"')
FOREST = ours("forest", "forest.json")
PLAIN = ours("plain", "iris.json")
BINARY, JSON = ours("pixels", "pixels.bin"), ours("pixels", "pixels.json")
GRPC = ours("iris", "iris.raw.grpc")
WATCHED = ours("watched", "iris.json", options="--set trust.state={folder}/state", name="Headrace, watched")
PROCESS = ours("iris", "iris.json", options="--placement process", name="Headrace, model in a worker process")
UNBATCHED = ours("unbatched", "iris.json", name="Headrace without batching")
HUNDRED = replace(
    IRIS,
    name="Headrace, 100 models",
    command=HEADRACE % "hundred",
    question=Question(INFER.format(name="iris-42"), "iris.json"),
)

ALONE = graph("Headrace, one of the models", "first")
BATCHED = mlserver("plain", "iris.json", batch=16, name="MLServer, batch 16")
PIXELS_GRPC = mlserver("pixels", "pixels.typed.grpc", name="MLServer gRPC")

WORKS = [
    Work("rest-json-mlserver", "V2 JSON, 4 features, ONNX", IRIS, mlserver("iris", "iris.json"), 8),
    Work("rest-json-kserve", "V2 JSON, 4 features, ONNX", IRIS, kserve("iris", "iris.json"), 9),
    Work("rest-json-mosec", "V2 JSON, 4 features, ONNX", IRIS, mosec("iris", "iris.json"), 1.8),
    Work("rest-json-mosec-batch", "V2 JSON, 4 features, ONNX (stretch)", IRIS, mosec("iris", "iris.json", batch=16), 1),
    Work("rest-json-floor", "V2 JSON, 4 features, ONNX", IRIS, floor("iris", "iris.json"), 0.65),
    Work("worker-process", "the same in a worker process", PROCESS, IRIS, 0.75),
    Work("forest-mlserver", "random forest of 200 trees, joblib", FOREST, mlserver("forest", "forest.json"), 150),
    Work("forest-kserve", "random forest of 200 trees, joblib", FOREST, kserve("forest", "forest.json"), 150),
    Work("plain-mlserver", "scikit-learn, not convertible", PLAIN, BATCHED, 3),
    Work("plain-one", "scikit-learn, one connection, p50", PLAIN, UNBATCHED, 1.05, "p50_ms", 1),
    Work("binary-mlserver", "32x784 FP32, binary, against its gRPC", BINARY, PIXELS_GRPC, 8),
    Work("binary-mlserver-json", "32x784 FP32, binary, against its JSON", BINARY, mlserver("pixels", "pixels.json"), 8),
    Work("binary-pytriton", "32x784 FP32, binary", BINARY, pytriton("pixels", "pixels.bin"), 5),
    Work("json-mlserver", "32x784 FP32, JSON", JSON, mlserver("pixels", "pixels.json"), 2.3),
    Work("json-mosec", "32x784 FP32, JSON", JSON, mosec("pixels", "pixels.json"), 1.5),
    Work("grpc-mlserver", "gRPC, 4 features", GRPC, mlserver("iris", "iris.raw.grpc", name="MLServer gRPC"), 1.8),
    Work("grpc-kserve", "gRPC, 4 features", GRPC, kserve("iris", "iris.raw.grpc"), 1.8),
    Work("one-mlserver", "V2 JSON, one connection, p50", IRIS, mlserver("iris", "iris.json"), 0.45, "p50_ms", 1),
    Work("one-kserve", "V2 JSON, one connection, p50", IRIS, kserve("iris", "iris.json"), 0.45, "p50_ms", 1),
    *[
        Work(f"{model}-{wire}-mlserver{form}", f"an MLServer folder, scikit-learn {what}, {wire}",
             folder(model, f"{model}.{end}", ours=True),
             folder(model, f"{model}.{end}", ours=False, batch=batch), target)
        for model, what in (("flowers", "regression"), ("digits", "SVC"))
        for wire, end, target in (("rest", "json", 8), ("grpc", "raw.grpc", 2.5))
        for form, batch in (("", 0), ("-batch", 16))
    ],
    Work("folder-memory", "the same, memory in use", folder("flowers", "flowers.json", ours=True),
         folder("flowers", "flowers.json", ours=False), 0.6, "pss_mib"),
    Work("folder-start", "the same, seconds to the first answer", folder("flowers", "flowers.json", ours=True),
         folder("flowers", "flowers.json", ours=False), 0.4, "cold_seconds"),
    Work("default-memory", "the same, MLServer as it comes: one worker", folder("flowers", "flowers.json", ours=True),
         folder("flowers", "flowers.json", ours=False, workers=1), 0.6, "pss_mib"),
    Work("default-start", "the same", folder("flowers", "flowers.json", ours=True),
         folder("flowers", "flowers.json", ours=False, workers=1), 0.4, "cold_seconds"),
    Work("constant", "a custom runtime that returns a constant", folder("constant", "flowers.json", ours=True),
         folder("constant", "flowers.json", ours=False), 4),
    Work("constant-worker", "the same, in a worker process", folder("constant", "flowers.json", ours=True, workers=1),
         folder("constant", "flowers.json", ours=False, workers=1), 4),
    Work("chain", "a pipeline of three small models", graph("Headrace, chain", "chain"), ALONE, 0.7),
    Work("split", "a split between two models", graph("Headrace, split", "split"), ALONE, 0.95),
    Work("mirror", "all requests mirrored", graph("Headrace, mirror", "mirrored"), ALONE, 0.95),
    Work("mirror-one", "the same, one connection, p50", graph("Headrace, mirror", "mirrored"), ALONE, 1.05,
         "p50_ms", 1),
    Work("watched", "a model with its trust folder, watched beside the path", WATCHED, IRIS, 0.97),
    Work("hundred", "100 models, one of them asked", HUNDRED, IRIS, 0.9),
]  # fmt: skip
