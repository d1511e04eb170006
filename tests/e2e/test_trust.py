"""A model with its trust folder, served whole: what is found beside it is switched on, and what protects it holds.

The model is a logistic regression of breast cancer; requests are rows that it was not trained on.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time

import grpc
import joblib
import numpy as np
import pytest
import tritonclient.grpc
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headrace
from headrace.errors import LoadFailed
from headrace.trust.folder import open_folder

DATA = load_breast_cancer()
ORDER = np.random.default_rng(0).permutation(len(DATA.data))
X, Y = DATA.data[ORDER], DATA.target[ORDER]
DETECTORS = ("mahalanobis", "tabular", "ks:outputs")


def fitted(place, *, scale=1.0):
    """A model's folder with its trust folder, fitted on rows that the model was not trained on."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=scale)).fit(X[:200], Y[:200])
    place.mkdir()
    joblib.dump(model, place / "model.joblib")
    headrace.fit_trust(place, X[200:450], Y[200:450], detectors=DETECTORS, explainers=("linear-shap",), favourable="1")
    return model


def edit(place, file, change):
    """Change one of the files that people may edit."""
    path = place / "trust" / file
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def cancer(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "cancer"
    fitted(place)

    def smaller(detectors):
        for each in detectors:
            each["window"] |= {"rows": 100, "min_rows": 50}

    edit(place, "detectors.json", smaller)
    edit(place, "explainers.json", lambda document: document.update(model="why-cancer"))
    return place


class Caller:
    """Asks a running server over one connection."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)

    def __call__(self, method, path, body=None, **headers):
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = self.connection.getresponse()
        content = reply.read()
        kind = reply.getheader("content-type", "")
        return reply.status, json.loads(content) if "json" in kind else content, dict(reply.getheaders())

    def infer(self, rows, *outputs, **headers):
        return self("POST", "/v2/models/cancer/infer", body_of(rows, *outputs), **headers)


def body_of(rows, *outputs, **parameters):
    rows = np.atleast_2d(rows)
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": list(rows.shape), "data": rows.ravel().tolist()}]}
    if outputs:
        body["outputs"] = [{"name": each} for each in outputs]
    return body | ({"parameters": parameters} if parameters else {})


@pytest.fixture
def serving(cancer, tmp_path):
    """Serves the model with settings of its own, in a state folder of its own."""
    servers = []

    def start(*, settings=(), place=cancer, **trust):
        chosen = {"trust.state": str(tmp_path / "state"), "models.optimize": "off"}
        chosen |= {"security.audit_log": str(tmp_path / "audit.jsonl"), **dict(settings)}
        server = headrace.serve(str(place), name="cancer", settings=chosen, **({"trust": trust} if trust else {}))
        servers.append((server, Caller(server)))
        return servers[-1]

    yield start
    for server, ask in servers:
        ask.connection.close()
        server.stop()


def told(ask, until, seconds=120):
    """The status, once it is as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        status = ask("GET", "/v2/models/cancer/trust")[1]
        detectors = {each["name"]: each for each in status.get("detectors", ())}
        if until(detectors):
            return detectors
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


def test_what_is_beside_the_model_is_switched_on(serving):
    """Fresh rows are no drift and large tumours are; the report, metrics and an explanation say so, unasked-for."""
    server, ask = serving()
    for rows in np.array_split(X[450:550], 5):
        status, answer, _ = ask.infer(rows)
        assert (status, len(answer["outputs"][0]["data"]), bool(answer["id"])) == (200, 20, True)
    first = told(ask, lambda found: found and found["tabular"]["windows"] == 1)
    assert first["tabular"]["drift_windows"] == 0
    large = X[X[:, 0] > 16][:100]
    ask.infer(large)
    later = told(ask, lambda found: found["tabular"]["windows"] == 2)
    assert later["tabular"]["drift_windows"] == 1
    status, page, _ = ask("GET", "/v2/models/cancer/trust/report")
    assert (status, b"<svg" in page) == (200, True)
    status, reply, _ = ask("POST", "/v2/models/cancer/explain", body_of(X[460]))
    assert (status, reply["explanations"][0]["meta"]["name"]) == (200, "linear-shap")
    scraped = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=20)
    scraped.request("GET", "/metrics")
    text = scraped.getresponse().read().decode()
    scraped.close()
    (line,) = (each for each in text.splitlines() if each.startswith("headrace_drift_windows_total") and
               'detector="tabular"' in each and 'drift="true"' in each)  # fmt: skip
    assert line.endswith(" 1.0")


def test_a_model_of_its_own_explains_over_grpc(serving):
    """The model that the folder names answers an inference request with explanations, and leaves with its model."""
    server, ask = serving()
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    tensor = tritonclient.grpc.InferInput("x", [2, 30], "FP64")
    tensor.set_data_from_numpy(X[500:502])
    answers = client.infer("why-cancer", [tensor]).as_numpy("explanation")
    assert [json.loads(each)["meta"]["name"] for each in answers] == ["linear-shap", "linear-shap"]
    assert ask("POST", "/v2/repository/models/cancer/unload", {})[0] == 200
    with pytest.raises(tritonclient.utils.InferenceServerException) as caught:
        client.infer("why-cancer", [tensor])
    assert "not found" in str(caught.value)
    assert ask("POST", "/v2/repository/models/cancer/load", {})[0] == 200
    assert len(client.infer("why-cancer", [tensor]).as_numpy("explanation")) == 2
    client.close()


def test_rows_that_the_model_was_not_made_for_are_refused(serving):
    """Validation answers 422 with the column, over REST and gRPC, and lets usual rows through untouched."""
    server, ask = serving(validation={"mode": "reject"})
    odd = X[500].copy()
    odd[0] = 1e6
    status, answer, _ = ask.infer(odd)
    assert (status, "row 0: x0" in answer["error"] or "radius" in answer["error"]) == (422, True)
    assert ask.infer(X[500])[0] == 200
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    tensor = tritonclient.grpc.InferInput("x", [1, 30], "FP64")
    tensor.set_data_from_numpy(odd[None])
    with pytest.raises(tritonclient.utils.InferenceServerException) as caught:
        client.infer("cancer", [tensor])
    assert caught.value.status() == str(grpc.StatusCode.FAILED_PRECONDITION)
    client.close()


def test_a_detector_on_the_path_flags(serving, tmp_path):
    """A detector whose entry says `guard: flag` answers, and says in parameters and headers which rows are odd."""
    place = tmp_path / "cancer"
    fitted(place)

    def guard(detectors):
        (found,) = (each for each in detectors if each["name"] == "mahalanobis")
        found["guard"] = "flag"

    edit(place, "detectors.json", guard)
    _, ask = serving(place=place)
    status, answer, headers = ask.infer(np.stack([X[500], X[500] * 10]))
    assert (status, answer["parameters"]["mahalanobis_rows"]) == (200, "1")
    assert headers["headrace-outlier"] == "mahalanobis rows=1"
    assert "parameters" not in ask.infer(X[500])[1]


def test_roles_get_what_is_theirs(serving, tmp_path):
    """Without a key only the label is answered and nothing explained; a partner's key gets rounded probabilities."""
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"shop: {{role: partner, sha256: {hashlib.sha256(b'k').hexdigest()}}}\n")
    server, ask = serving(
        settings={"security.keys_file": str(keys)},
        outputs={"default": {"label_only": True}, "partner": {"decimals": 1}},
        audit=True,
    )
    wanted = ("predict", "predict_proba")
    assert [each["name"] for each in ask.infer(X[500], *wanted)[1]["outputs"]] == ["predict"]
    shown = ask.infer(X[500], *wanted, **{"x-api-key": "k"})[1]["outputs"][1]["data"]
    assert shown == np.round(shown, 1).tolist()
    status, refused, _ = ask("POST", "/v2/models/cancer/explain", body_of(X[500]))
    assert (status, "an explanation says more" in refused["error"]) == (403, True)
    server.stop()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(each["caller"], each["role"], each["status"]) for each in lines] == [
        ("anonymous", "default", "ok"),
        ("shop", "partner", "ok"),
    ]


def test_another_model_in_its_place_is_told(serving, tmp_path):
    """A model that answers otherwise than when the folder was fitted is served with a warning, or not where required."""
    place = tmp_path / "cancer"
    fitted(place)
    other = make_pipeline(StandardScaler(), LogisticRegression(C=0.001)).fit(X[:200], Y[:200])
    joblib.dump(other, place / "model.joblib")
    _, ask = serving(place=place)
    assert "otherwise than when its trust folder was fitted" in json.dumps(ask("GET", "/v2/models/cancer")[1])
    with pytest.raises(LoadFailed, match="otherwise than when its trust folder was fitted"):
        serving(place=place, canaries="require")


def test_a_damaged_folder_stops_what_depends_on_it_alone(serving, tmp_path):
    """A model whose folder is damaged is served unwatched, with a warning; one that it protects is not served."""
    place = tmp_path / "cancer"
    fitted(place)
    reference = place / "trust" / "reference.npz"
    reference.write_bytes(reference.read_bytes()[:-10])
    _, ask = serving(place=place)
    assert ask.infer(X[500])[0] == 200
    assert "not watched, and not explained" in json.dumps(ask("GET", "/v2/models/cancer")[1])
    assert ask("POST", "/v2/models/cancer/explain", body_of(X[500]))[0] == 404
    with pytest.raises(LoadFailed, match=r"reference\.npz"):
        serving(place=place, validation={"mode": "reject"})


def test_guards_without_a_folder_are_no_model(serving, tmp_path):
    """Settings that ask for guards where no trust folder is do not serve the model unguarded."""
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:200], Y[:200])
    (tmp_path / "bare").mkdir()
    joblib.dump(model, tmp_path / "bare" / "model.joblib")
    with pytest.raises(LoadFailed, match="headrace trust fit"):
        serving(place=tmp_path / "bare", validation={"mode": "reject"})


def test_trust_can_be_left_alone(serving):
    """With `trust: {enabled: false}` the folder is not read: nothing watches and nothing explains."""
    _, ask = serving(enabled=False)
    answer = ask.infer(X[500])[1]
    assert not answer.get("id")
    assert ask("GET", "/v2/models/cancer/trust")[0] == 404
    assert ask("POST", "/v2/models/cancer/explain", body_of(X[500]))[0] == 404


def test_a_trust_folder_is_read_by_version(tmp_path, serving):
    """Each version has the folder beside it."""
    place = tmp_path / "cancer"
    place.mkdir()
    for version in ("1", "2"):
        fitted(place / version, scale=float(version))
    digests = [open_folder(place / version / "trust").digest for version in ("1", "2")]
    _, ask = serving(place=place)
    for version, digest in zip(("1", "2"), digests, strict=True):
        ask("POST", f"/v2/models/cancer/versions/{version}/infer", body_of(X[500]))
        deadline = time.monotonic() + 30
        while ask("GET", f"/v2/models/cancer/versions/{version}/trust")[1].get("artifact_digest") != digest:
            assert time.monotonic() < deadline
            time.sleep(0.1)


PIPELINE = """
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: answered-and-explained}
spec:
  steps:
  - {name: cancer}
  - {name: why-cancer}
  output: {steps: [cancer, why-cancer]}
"""


def test_a_pipeline_explains(cancer, tmp_path):
    """A model that a trust folder names is a step of a pipeline like any other, beside the model that it explains."""
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "headrace", "serve", str(cancer), "-f", str(tmp_path / "pipeline.yaml")]
    ports = ["--port", "0", "--grpc-port", "0", "--metrics-port", "0", "--control-port", "0"]
    with subprocess.Popen(
        [*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=environ
    ) as server:
        try:
            port = next(
                int(match[1]) for line in server.stdout if (match := re.search(r"REST +http://\S+:(\d+)", line))
            )
            threading.Thread(target=server.stdout.read, daemon=True).start()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v2/pipelines/answered-and-explained/infer", json.dumps(body_of(X[500])), {})
            reply = connection.getresponse()
            answer = json.loads(reply.read())
            connection.close()
            assert reply.status == 200, answer
            found = {each["name"]: each["data"] for each in answer["outputs"]}
            assert json.loads(found["explanation"][0])["meta"]["name"] == "linear-shap"
            assert len(found["predict"]) == 1
        finally:
            server.terminate()
            server.wait(30)


STREAMS = """
import numpy as np


class Counts:
    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.sum(axis=1)

    def predict_stream(self, x: np.ndarray):
        for column in x.T:
            yield column
"""


@pytest.mark.parametrize("audit", [True, False])
def test_a_stream_is_no_way_around_guards(tmp_path, audit):
    """A model that is audited answers a request for a stream as one whole, audited answer; another one in parts."""
    place = tmp_path / "counts"
    place.mkdir()
    (place / "counts.py").write_text(STREAMS)
    (place / "headrace.yaml").write_text("reference: counts:Counts\n" + ("trust: {audit: true}\n" if audit else ""))
    log = tmp_path / "audit.jsonl"
    with headrace.serve(str(place), name="counts", settings={"security.audit_log": str(log)}) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        connection.request("POST", "/v2/models/counts/infer_stream", json.dumps(body_of([1.0, 2.0, 3.0])))
        events = connection.getresponse().read().count(b"data:")
        connection.close()
    assert events == (1 if audit else 3)
    assert log.exists() == audit
