"""Explainers and detectors of other servers' manifests, from apply to answer, on a server in a process of its own."""

from __future__ import annotations

import shutil

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import headrace
from headrace.client.control import ControlClient
from headrace.control.parse import File

X, Y = load_iris(return_X_y=True)
SELDON = """
apiVersion: machinelearning.seldon.io/v1
kind: SeldonDeployment
metadata: {name: income}
spec:
  predictors:
    - name: default
      graph: {name: classifier, implementation: SKLEARN_SERVER, modelUri: models/income}
      explainer: {type: AnchorTabular, modelUri: gs://seldon-models/sklearn/income/explainer, config: {threshold: "0.9"}}
"""
KSERVE = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris}
spec:
  predictor:
    minReplicas: 0
    sklearn: {storageUri: models/iris}
  explainer:
    containers:
      - name: kserve-container
        image: kserve/alibi-explainer:v0.12.1
        args: [--model_name, iris, --storage_uri, /mnt/models, AnchorTabular, --threshold, "0.9"]
        env: [{name: STORAGE_URI, value: "gs://kfserving-examples/models/sklearn/iris/explainer"}]
"""
KNATIVE = """
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: iris-outlier, annotations: {headrace.io/trust: models/iris/trust}}
spec:
  template:
    spec:
      containers:
        - image: seldonio/alibi-detect-server:1.17.1
          args: [--model_name, irisod, --storage_uri, "gs://seldon-models/od/OutlierVAE/iris", OutlierDetector]
"""
ROW = {"instances": [[6.9, 3.1, 5.4, 2.1]], "deadline_ms": 25_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory, serve):
    """A server that takes manifests, with a folder of models of which one has a trust folder."""
    folder = tmp_path_factory.mktemp("explained")
    model = LogisticRegression(max_iter=500).fit(X, Y)
    for name in ("income", "iris"):
        place = folder / "models" / name
        place.mkdir(parents=True)
        joblib.dump(model, place / "model.joblib")
    headrace.fit_trust(place, X, Y, detectors=("mahalanobis",), explainers=("permutation-shap", "anchor-tabular"))
    server = serve("--state", str(folder / "state.db"), "--control-port", "0", "--set", "models.optimize=off")
    server.models, server.client = folder / "models", ControlClient(server.control_url)
    yield server
    server.client.close()


def apply(server, text):
    server.client.apply([File(name="manifest.yaml", text=text, base=str(server.models.parent))])


def ready(server, name, told="no message"):
    """The condition Ready of a model, once it is True, or its message tells this."""

    def look(resource):
        return next((each for each in resource.status.conditions if each.type == "Ready"), None)

    def until(resource):
        condition = look(resource)
        return condition is not None and told in condition.message

    found = server.client.wait([("Model", name)], timeout_seconds=60, until=until)
    return look(found["Model", name])


def explained(server, path):
    """That the method and option of the manifest answer, though another method is the folder's first."""
    status, _, answer = server.ask(path, ROW)
    assert status == 200, answer
    assert answer["meta"]["name"] == "anchor-tabular"
    assert answer["meta"]["params"]["threshold"] == 0.9
    assert answer["data"]["anchor"]


@pytest.mark.timeout(180)
def test_an_explainer_is_applied_fitted_and_asked(server):
    """Without a trust folder an explainer's resource says what to run; once that is done its method answers at the
    names of the deployment and of its explainer.
    """
    apply(server, SELDON)
    condition = ready(server, "income-explainer", "headrace trust fit")
    assert (condition.status, condition.reason) == ("False", "Waiting")
    assert "model 'income-classifier' version '1' has no trust folder" in condition.message
    path = "/v1/models/income:explain"
    assert server.ask(path, ROW)[0] == 404
    shutil.copytree(server.models / "iris" / "trust", server.models / "income" / "trust")
    assert server.ask("/v2/repository/models/income-classifier/load", {})[0] == 200
    assert ready(server, "income-explainer").status == "True"
    explained(server, path)
    explained(server, "/seldon/any/income-explainer/default/v1/models/income:explain")


@pytest.mark.timeout(180)
def test_a_service_that_sleeps_is_explained(server):
    """A service with `minReplicas: 0`, which no request has woken, is explained by what its explainer's arguments say."""
    apply(server, KSERVE)
    assert ready(server, "iris-explainer").status == "True"
    explained(server, "/v1/models/iris:explain")
    explained(server, "/v1/models/iris-explainer:explain")


@pytest.mark.timeout(180)
def test_a_detector_beside_a_broker_is_asked(server):
    """A Service of Knative that ran alibi-detect's server answers by the detector of the trust folder that it names."""
    apply(server, KNATIVE)
    assert ready(server, "iris-outlier").status == "True"
    found = server.infer("iris-outlier", [[5.1, 3.5, 1.4, 0.2], [50.0, 35.0, -14.0, 90.0]])
    assert found["is_outlier"].tolist() == [0, 1]
