"""Fitting a trust folder."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from headrace.errors import InvalidRequest
from headrace.payload import Signature, Tensor, TensorSpec
from headrace.trust import fit
from headrace.trust.folder import open_folder
from headrace.trust.rows import Rows
from headrace.trust.schema import Hints

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
GENERATOR = np.random.default_rng(7)
X = GENERATOR.normal(size=(900, 4)) @ GENERATOR.normal(size=(4, 4))
Y = (X[:, 0] + 0.3 * GENERATOR.normal(size=900) > 0).astype(int)
FEW = fit.Options(detectors=("mahalanobis", "ks:outputs"), explainers=("permutation-shap",))


class Logistic:
    """A model of our own, so that no framework is waited for; counts what it is asked."""

    def __init__(self):
        self.rows = 0

    def ask(self, inputs, outputs):
        (tensor,) = inputs
        self.rows += len(tensor.data)
        p = 1 / (1 + np.exp(-4 * tensor.data[:, 0]))
        found = {"predict": (p > 0.5).astype(np.int64), "predict_proba": np.column_stack([1 - p, p])}
        wanted = [each.name for each in outputs] or ["predict"]
        return [Tensor(name, "FP64" if name == "predict_proba" else "INT64", found[name]) for name in wanted]

    def model(self):
        outputs = (
            TensorSpec(name="predict", datatype="INT64", shape=(-1,)),
            TensorSpec(name="predict_proba", datatype="FP64", shape=(-1, 2), labels=("0", "1")),
        )
        inputs = (TensorSpec(name="input-0", datatype="FP64", shape=(-1, 4)),)
        signature = Signature(platform="x", inputs=inputs, outputs=outputs, default_outputs=("predict",))
        return fit.Model(ask=self.ask, signature=signature, digest="d")


def fitted(path, x=X, y=Y, options=FEW, **more):
    return fit.fit(path, x, y, model=Logistic().model(), options=options, now=lambda: NOW, **more)


class TestFit:
    def test_writes_what_serving_needs(self, tmp_path):
        """The folder holds schema, rows, answers, calibrated detectors and explainers, and says where they come from."""
        steps = []
        folder = fitted(tmp_path / "t", progress=lambda step, done, of: steps.append((step, done, of)))
        folder = open_folder(folder.path)
        assert folder.card.rows == 900
        assert folder.card.fitted_at.startswith("2026-01-02")
        assert folder.card.model_digest == "d"
        assert folder.schema.classes == (0, 1)
        assert len(folder.reference().x) + len(folder.held_out().x) + 180 == pytest.approx(900, abs=5)
        rows = Rows(folder.schema)
        outputs = Logistic().ask(rows.tensors(folder.reference().x), rows.requested())
        assert np.allclose(rows.answers(outputs), folder.outputs())
        assert [each.name for each in folder.detectors] == ["mahalanobis", "ks-outputs"]
        assert folder.explainers.explainers[0].name == "permutation-shap"
        assert {step for step, _, _ in steps} >= {"reading the data", "asking the model", "fitting mahalanobis"}
        assert all(done <= of for _, done, of in steps)

    def test_is_the_same_again(self, tmp_path):
        """The same data, options and seed give the same bytes; another seed gives others."""
        first, second = fitted(tmp_path / "a"), fitted(tmp_path / "b")
        assert first.digest == second.digest
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
        import msgspec

        other = fitted(tmp_path / "c", options=msgspec.structs.replace(FEW, seed=1))
        assert other.digest != first.digest

    def test_thresholds_hold_on_fresh_rows(self, tmp_path):
        """A restored detector passes fresh rows of the same law about as often as was asked, and odd ones always."""
        import msgspec

        options = msgspec.structs.replace(FEW, false_positive_rate=0.05)
        folder = fitted(tmp_path / "t", options=options)
        spec, detector = folder.spec("mahalanobis"), folder.detector("mahalanobis")
        generator = np.random.default_rng(7)
        generator.normal(size=(900, 4))
        fresh = generator.normal(size=(4, 4))  # the mixing matrix of X
        fresh = np.random.default_rng(9).normal(size=(4000, 4)) @ fresh
        passed = (detector.score(fresh).instance > spec.threshold).mean()
        # The share above the threshold of 180 rows is Beta(10, 171): 99.9 % of it lies below .115.
        assert 0.012 < passed < 0.115
        low, high = spec.false_positive_interval
        assert low <= spec.false_positive_rate <= high
        assert (detector.score(fresh + 40).instance > spec.threshold).all()

    def test_measures_tests_on_usual_windows_in_any_order(self, tmp_path):
        """Sorted data is no drift of its own: the measured rate of a test is that of shuffled windows."""
        order = np.argsort(X[:, 0])
        folder = fitted(tmp_path / "t", X[order], Y[order])
        spec = folder.spec("ks-outputs")
        assert spec.false_positive_rate <= 0.3
        assert spec.parameters["alpha"] == 0.05

    def test_fits_defaults_to_the_data(self, tmp_path):
        """Without a choice, tables get detectors of each kind; without labels nothing that needs them, and a note."""
        folder = fitted(tmp_path / "t", X[:300], None, fit.Options(explainers=("none",)))
        kinds = {each.kind for each in folder.detectors}
        assert kinds == {"outlier", "drift", "adversarial", "performance"}
        assert "cbpe" not in {each.method for each in folder.detectors}
        assert any("no labels" in each for each in folder.card.warnings)
        assert any("none is finer" in each for each in folder.card.warnings)

    def test_reads_parameters_of_methods(self, tmp_path):
        """A method's parameters reach its fit and stand in the folder; two of a method have two names."""
        options = fit.Options(detectors=("ks,correction=bh", "ks,alpha=0.01"), explainers=("permutation-shap",))
        folder = fitted(tmp_path / "t", options=options)
        assert [each.name for each in folder.detectors] == ["ks", "ks-2"]
        assert folder.spec("ks").parameters == {"correction": "bh", "alpha": 0.05}
        assert folder.spec("ks-2").parameters == {"alpha": 0.01}

    def test_counts_flags_of_an_outlier_detector(self, tmp_path):
        """The share of outliers is watched for the detector that was fitted before."""
        options = fit.Options(detectors=("mahalanobis", "outlier-rate"), explainers=("permutation-shap",))
        folder = fitted(tmp_path / "t", options=options)
        assert folder.spec("outlier-rate").parameters["of"] == "mahalanobis"
        assert folder.spec("outlier-rate").on == "outliers"
        assert folder.detector("outlier-rate").test(np.ones((200, 1))).is_drift

    def test_refuses_a_detector_that_sees_drift_in_usual_rows(self, tmp_path):
        """Of a series that wanders off, the detector of rows is left out, and the note says how often it was wrong."""
        x = X + np.linspace(0, 60, len(X))[:, None]
        folder = fitted(
            tmp_path / "t",
            x,
            None,
            fit.Options(detectors=("mahalanobis",), explainers=("none",), hints=Hints(data="series")),
        )
        assert folder.detectors == ()
        assert any("mahalanobis was refused" in each for each in folder.card.warnings)

    def test_asks_the_model_seldom(self, tmp_path):
        """Each row is asked for once, and a few more to see what the outputs are."""
        model = Logistic()
        fit.fit(tmp_path / "t", X, Y, model=model.model(), options=FEW)
        assert model.rows <= 900 + 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (fit.Options(detectors=("mahalanobi",)), "did you mean 'mahalanobis'"),
            (fit.Options(detectors=("ks:output",)), "expected one of inputs"),
            (fit.Options(detectors=("ks,alfa=1",)), "did you mean 'alpha'"),
            (fit.Options(detectors=("ks,alpha",)), "is no parameter"),
            (fit.Options(detectors=("k s",)), "is no method"),
            (fit.Options(detectors=("groups",)), "no protected attributes"),
            (fit.Options(detectors=("outlier-rate",)), "was not fitted before"),
            (fit.Options(explainers=("permutation-shp",)), "did you mean 'permutation-shap'"),
            (fit.Options(labels="y"), "no column 'y' of labels"),
        ],
    )
    def test_says_what_is_wrong_with_the_options(self, tmp_path, options, message):
        """A method, parameter or column that does not exist is refused by name, and nothing is written."""
        with pytest.raises(InvalidRequest, match=message):
            fitted(tmp_path / "t", options=options)
        assert not (tmp_path / "t").exists()

    def test_says_what_is_wrong_with_the_data(self, tmp_path):
        """Too few rows, or labels of another length, are refused."""
        with pytest.raises(InvalidRequest, match="at least 20"):
            fitted(tmp_path / "t", X[:10], Y[:10])
        with pytest.raises(InvalidRequest, match="899 labels came for 900 rows"):
            fitted(tmp_path / "t", X, Y[:-1])
