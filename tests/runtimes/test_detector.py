"""A detector of a trust folder as a model of its own."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from headrace.errors import InvalidRequest, LoadFailed, SettingsError
from headrace.payload import InferenceRequest, RequestedOutput, Signature, Tensor, TensorSpec
from headrace.runtimes import RUNTIMES, recognise
from headrace.runtimes.base import Source
from headrace.runtimes.detector import DetectorRuntime
from headrace.serving import discovery
from headrace.serving.build import RuntimeSpec
from headrace.serving.digest import digest
from headrace.serving.engine import load_engine
from headrace.trust import fit

X = np.random.default_rng(3).normal(size=(600, 3))


def ask(inputs, outputs):
    (tensor,) = inputs
    p = 1 / (1 + np.exp(-tensor.data[:, 0]))
    return [Tensor("proba", "FP64", np.column_stack([1 - p, p]))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    signature = Signature(
        platform="x",
        inputs=(TensorSpec(name="input-0", datatype="FP64", shape=(-1, 3)),),
        outputs=(TensorSpec(name="proba", datatype="FP64", shape=(-1, 2)),),
    )
    options = fit.Options(
        detectors=("mahalanobis", "mahalanobis-online", "pca", "ks", "ks:outputs", "outlier-rate", "feature-squeezing"),
        explainers=("none",),
    )
    path = tmp_path_factory.mktemp("models") / "iris" / "trust"
    labels = (X[:, 0] > 0).astype(int)
    return fit.fit(path, X, labels, model=fit.Model(ask=ask, signature=signature), options=options)


async def answer(folder, name, *inputs, outputs=(), headers=None, again=0):
    engine = await load_engine(
        RuntimeSpec(name="d", runtime="detector", path=str(folder.path), parameters={"detector": name})
    )
    request = InferenceRequest(
        model_name="d",
        inputs=inputs,
        outputs=tuple(RequestedOutput(each) for each in outputs),
        headers=headers or {},
        id="7",
    )
    try:
        for _ in range(again):
            await engine.infer(request)
        reply = await engine.infer(request)
    finally:
        await engine.close(1.0)
    return reply, {each.name: each.data for each in reply.outputs}


def rows(*values):
    return Tensor("input-0", "FP64", np.array(values, float))


class TestOutlier:
    async def test_says_which_rows_are_odd(self, folder):
        """An odd row is flagged and a usual one is not, by the folder's threshold, with the detector's own scores."""
        reply, found = await answer(folder, "mahalanobis", rows([0, 0, 0], [9, 9, 9]))
        assert found["is_outlier"].tolist() == [0, 1]
        assert found["is_outlier"].dtype == np.int64
        assert found["threshold"].tolist() == [folder.spec("mahalanobis").threshold]
        expected = folder.detector("mahalanobis").score(np.array([[0, 0, 0], [9, 9, 9.0]])).instance
        assert np.allclose(found["instance_score"], expected)
        assert reply.id == "7"
        assert reply.parameters["artifact_digest"] == folder.digest
        assert reply.parameters["method"] == "mahalanobis"
        assert reply.headers["x-seldon-alibi-type"] == "outlier"

    async def test_gives_scores_of_features_when_asked(self, folder):
        """Feature scores come when they are asked for by output or header, and only then."""
        _, found = await answer(folder, "pca", rows([0, 0, 9]))
        assert "feature_score" not in found
        _, found = await answer(folder, "pca", rows([0, 0, 9]), outputs=("feature_score",))
        assert found["feature_score"].shape == (1, 3)
        headers = {"alibi-detect-return-feature-score": "true", "alibi-detect-return-instance-score": "false"}
        _, found = await answer(folder, "pca", rows([0, 0, 9]), headers=headers)
        assert "feature_score" in found
        assert "instance_score" not in found
        _, found = await answer(folder, "pca", rows([0, 0, 9]), headers={"alibi-detect-outlier-type": "feature"})
        assert found["is_outlier"].shape == (1, 3)

    async def test_learns_where_it_is_online(self, folder):
        """An online detector finds a row less odd after it has seen it many times."""
        row = rows([4, 4, 4])
        _, first = await answer(folder, "mahalanobis-online", row)
        _, later = await answer(folder, "mahalanobis-online", row, again=60)
        assert later["instance_score"][0] < first["instance_score"][0]

    async def test_takes_no_rows(self, folder):
        """A request of no rows is answered with no flags."""
        _, found = await answer(folder, "mahalanobis", Tensor("input-0", "FP64", np.empty((0, 3))))
        assert found["is_outlier"].shape == (0,)


class TestDrift:
    async def test_tests_the_rows_of_a_request(self, folder):
        """The rows of one request are one sample: moved ones are drift, usual ones are not."""
        sample = np.random.default_rng(5).normal(size=(200, 3))
        reply, found = await answer(folder, "ks", rows(*sample))
        assert found["is_drift"].tolist() == [0]
        assert found["p_val"].shape == found["distance"].shape == (3,)
        assert reply.parameters["window_rows"] == 200
        assert reply.parameters["tested"] == "x0,x1,x2"
        _, found = await answer(folder, "ks", rows(*(sample + np.array([0, 1, 0]))))
        assert found["is_drift"].tolist() == [1]
        assert found["drifted"].tolist() == [0, 1, 0]

    async def test_is_fed_what_it_looks_at(self, folder):
        """Detectors of outputs take the model's outputs, those of outliers take flags."""
        sample = np.column_stack([np.full(100, 0.1), np.full(100, 0.9)])
        _, found = await answer(folder, "ks-outputs", Tensor("proba", "FP64", sample))
        assert found["is_drift"].tolist() == [1]
        _, found = await answer(folder, "outlier-rate", Tensor("flags", "INT64", np.ones(100, np.int64)))
        assert found["is_drift"].tolist() == [1]
        with pytest.raises(InvalidRequest, match="looks at outputs"):
            await answer(folder, "ks-outputs", Tensor("a", "FP64", sample), Tensor("b", "FP64", sample))


class TestRefusals:
    @pytest.mark.parametrize(
        ("parameters", "error", "message"),
        [
            ({}, LoadFailed, "say which of its detectors.*mahalanobis"),
            ({"detector": "none"}, LoadFailed, "there are mahalanobis"),
            ({"detector": "feature-squeezing"}, LoadFailed, "beside its model"),
            ({"detectr": "ks"}, SettingsError, "detector"),
            ({"kind": "bias"}, LoadFailed, r"mahalanobis \(outlier\)"),
        ],
    )
    def test_says_which_detectors_there_are(self, folder, parameters, error, message):
        """No name, an unknown one, and a detector that needs its model are refused with what to do."""
        with pytest.raises(error, match=message):
            DetectorRuntime(Source(path=folder.path, parameters=parameters)).load()

    @pytest.mark.parametrize(("kind", "first"), [("outlier", "mahalanobis"), ("drift", "ks")])
    def test_of_a_kind_the_first_is_meant(self, folder, kind, first):
        """Where a kind is named and no detector, the folder's first of that kind answers."""
        runtime = DetectorRuntime(Source(path=folder.path, parameters={"kind": kind}))
        assert runtime.load().properties["detector"] == first
        runtime.unload()

    async def test_refuses_an_output_that_is_not_there(self, folder):
        """An output that the detector does not have is refused by name."""
        with pytest.raises(InvalidRequest, match="p_val"):
            await answer(folder, "mahalanobis", rows([0, 0, 0]), outputs=("p_val",))


class TestDiscovery:
    def test_takes_no_trust_folder_for_a_model(self, folder, tmp_path):
        """Trust folders beside models, in their folders and beside versions are no models and hide none."""
        import shutil

        import joblib
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(X, X[:, 0] > 0)
        for place in ("a.joblib", "b/model.joblib", "c/1/model.joblib", "c/2/model.joblib"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            joblib.dump(model, tmp_path / place)
        before = [(spec.name, spec.version, spec.path) for spec in discovery.discover([str(tmp_path)])]
        fingerprint = digest(tmp_path / "b")
        for place in ("a.trust", "b/trust", "c/trust", "c/2/trust"):
            shutil.copytree(folder.path, tmp_path / place)
        found = discovery.survey([str(tmp_path)])
        assert [(spec.name, spec.version, spec.path) for spec in found.specs] == before
        assert len(before) == 4
        assert not found.problems
        assert digest(tmp_path / "b") == fingerprint
        assert [spec.name for spec in discovery.discover([str(tmp_path / "b")])] == ["b"]

    def test_serves_one_that_is_named(self, folder, tmp_path):
        """A headrace.yaml that names the runtime and the folder makes a detector a model."""
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / "headrace.yaml").write_text(
            json.dumps({"runtime": "detector", "path": str(folder.path), "parameters": {"detector": "pca"}})
        )
        (spec,) = discovery.discover([str(tmp_path / "odd")])
        assert (spec.name, spec.runtime) == ("odd", "detector")
        with pytest.raises(Exception, match="recognises"):
            recognise.recognise(folder.path, RUNTIMES)


async def test_answers_beside_the_loop(folder):
    """While a detector works, the loop goes on: answers come one after the other, in a thread of its own."""
    runtime = DetectorRuntime(Source(path=folder.path, parameters={"detector": "mahalanobis"}))
    runtime.load()
    request = InferenceRequest(model_name="d", inputs=(rows([0, 0, 0]),))
    replies = await asyncio.gather(*(runtime.answer(request) for _ in range(20)))
    assert len({reply.outputs[1].data[0] for reply in replies}) == 1
    runtime.unload()
    with pytest.raises(LoadFailed, match="after unload"):
        await runtime.answer(request)
