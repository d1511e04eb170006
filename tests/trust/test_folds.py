"""Whether a model knows rows, and what it would say of them if it did not: `trust.folds` and `trust.parts`."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headrace
from headrace.errors import InvalidRequest
from headrace.features import numeric
from headrace.trust import folds, table
from headrace.trust.spec import Output, Schema

X, Y = load_breast_cancer(return_X_y=True)
ORDER = np.random.default_rng(1).permutation(len(X))
KNOWN, UNSEEN, FRESH = np.split(ORDER, [250, 370])
FEW = {"detectors": ["ks:outputs", "ks:uncertainty", "cbpe"], "explainers": ["none"]}


def forest(seed=0):
    return RandomForestClassifier(30, random_state=seed).fit(X[KNOWN], Y[KNOWN])


def folded(model, rows, *, y=Y, x=X, clock=None, seconds=60.0):
    is_classifier = hasattr(model, "predict_proba")
    answers = model.predict_proba(x[rows]) if is_classifier else model.predict(x[rows])[:, None]
    schema = Schema(
        task="classification" if is_classifier else "regression",
        features=numeric(tuple(f"x{at}" for at in range(x.shape[1]))),
        output=Output(probabilities="p") if is_classifier else Output(labels="p"),
        classes=(0, 1) if is_classifier else (),
    )
    found = folds.fold(
        model,
        table.of(x[rows]),
        x[rows],
        y[rows],
        own=answers,
        rows=np.arange(len(rows)),
        schema=schema,
        seconds=seconds,
        tell=lambda *_: None,
        **({} if clock is None else {"clock": clock}),
    )
    return found, folds.judged(answers, found, np.arange(len(rows)), y[rows], is_classifier=is_classifier)


class TestFolds:
    def test_clones_answer_rows_that_they_have_not_seen(self):
        """A forest is right about all rows that it knows; its clones are as right about them as it is about others."""
        model = forest()
        found, judged = folded(model, KNOWN)
        assert judged.own == 1.0
        assert judged.verdict == "seen"
        # Of 250 rows the standard error of the accuracy is .013.
        assert judged.folded == pytest.approx(model.score(X[FRESH], Y[FRESH]), abs=0.05)
        assert np.allclose(found.answers.sum(axis=1), 1.0)
        assert (found.predictions == found.answers.argmax(axis=1)).mean() > 0.99

    def test_knows_training_rows_though_the_fit_cannot_be_repeated(self):
        """A fit with other luck is told by how wrong it is on the rows, where it cannot be told by being the same."""
        model = RandomForestClassifier(60, random_state=np.random.RandomState(5)).fit(X[KNOWN], Y[KNOWN])
        _, judged = folded(model, KNOWN)
        assert not judged.is_same
        assert judged.verdict == "seen"

    def test_does_not_call_other_rows_seen(self):
        """Of rows that the model was not fitted on it is never said that it was."""
        for seed in range(3):
            _, judged = folded(forest(seed), UNSEEN)
            assert judged.verdict != "seen"
            assert judged.place < 0.7

    def test_knows_rows_of_a_regression(self):
        """Numbers are judged by their square error."""
        x, y = load_diabetes(return_X_y=True)
        model = RandomForestRegressor(20, random_state=0).fit(x[:250], y[:250])
        assert folded(model, np.arange(250), x=x, y=y)[1].verdict == "seen"
        assert folded(model, np.arange(250, 442), x=x, y=y)[1].verdict in {"unseen", "unclear"}

    def test_begins_no_fit_that_would_take_too_long(self):
        """Small fits are timed first; when the whole would take longer than allowed, it is not begun."""
        ticks = iter(np.arange(0, 1e6, 40.0))
        with pytest.raises(folds.Unfolded, match="expected to take"):
            folded(forest(), KNOWN, clock=lambda: float(next(ticks)))

    def test_needs_an_estimator_that_is_the_served_model(self):
        """What cannot be cloned, or answers otherwise than the model that is served, is refused with the reason."""
        model = forest()
        model.fit = None
        with pytest.raises(folds.Unfolded, match="no scikit-learn estimator"):
            folds.fold(
                object(),
                table.of(X),
                X,
                Y,
                own=np.zeros((5, 2)),
                rows=np.arange(5),
                schema=Schema(),
                seconds=1.0,
                tell=lambda *_: None,
            )


class TestAnswers:
    def windows(self, folder, model, rows=33):
        fresh = model.predict_proba(X[FRESH])
        detector = folder.detector("ks-outputs")
        return [detector.test(fresh[at : at + rows]).is_drift for at in range(0, len(fresh) - rows + 1, rows)]

    def test_without_other_rows_clones_are_the_reference(self, tmp_path):
        """Fitted on its own training rows, the folder says so, and windows of other rows are no drift."""
        model = forest()
        folder = headrace.fit_trust(model, X[KNOWN], Y[KNOWN], path=tmp_path / "t", **FEW)
        assert folder.card.answers == "out-of-fold"
        assert "accuracy 1 on these rows" in folder.card.answers_told
        assert any("was trained on these rows" in each for each in folder.card.warnings)
        assert np.allclose(folder.outputs(), model.predict_proba(folder.reference().x))
        assert not np.allclose(folder.held_outputs(), model.predict_proba(folder.held_out().x))
        assert sum(self.windows(folder, model)) <= 1
        assert folder.state("cbpe").parameters["metrics"]["accuracy"] < 1.0

    def test_unseen_rows_are_the_reference(self, tmp_path):
        """Rows that the model does not know are what is compared with, and the card names them."""
        model = forest()
        folder = headrace.fit_trust(
            model, X[KNOWN], Y[KNOWN], unseen=X[UNSEEN], unseen_labels=Y[UNSEEN], path=tmp_path / "t", **FEW
        )
        card = folder.card
        assert (card.answers, card.unseen_rows, len(card.unseen_digest)) == ("unseen", 120, 64)
        assert np.allclose(folder.held_outputs(), model.predict_proba(folder.held_out().x))
        assert {tuple(each) for each in folder.held_out().x.astype(np.float32)} <= {
            tuple(each) for each in X[UNSEEN].astype(np.float32)
        }
        assert sum(self.windows(folder, model)) <= 1
        assert folder.state("cbpe").parameters["rows"] == 120

    def test_own_answers_stay_where_the_rows_are_unknown_to_the_model(self, tmp_path):
        """A person who gives rows that the model was not trained on gets its own answers to them."""
        folder = headrace.fit_trust(forest(), X[UNSEEN], Y[UNSEEN], path=tmp_path / "t", **FEW)
        assert folder.card.answers == "own"

    def test_warns_where_it_cannot_be_known(self, tmp_path):
        """Without labels, or without time for clones, the card says what may alarm and how to mend it."""
        for y, seconds in ((None, 60.0), (Y[KNOWN], 0.0)):
            folder = headrace.fit_trust(
                forest(),
                X[KNOWN],
                y,
                path=tmp_path / "t",
                fold_seconds=seconds,
                detectors=["none"],
                explainers=["none"],
            )
            assert any("--unseen FILE" in each for each in folder.card.warnings)

    def test_refuses_unseen_rows_that_are_training_rows(self, tmp_path):
        """The training rows given again as unseen are an error; unseen rows of other columns are, too."""
        with pytest.raises(InvalidRequest, match="250 of its 250 rows are in the training data"):
            headrace.fit_trust(forest(), X[KNOWN], Y[KNOWN], unseen=X[KNOWN], path=tmp_path / "t", **FEW)
        with pytest.raises(InvalidRequest, match="it has 29 columns, and the data has 30"):
            headrace.fit_trust(forest(), X[KNOWN], Y[KNOWN], unseen=X[UNSEEN][:, 1:], path=tmp_path / "t", **FEW)

    def test_clones_of_a_pipeline_on_a_table_with_text_labels(self, tmp_path):
        """Labels that are text and columns with names reach the clones as they reached the model."""
        data = load_breast_cancer(as_frame=True)
        x, y = data.data.iloc[KNOWN], np.array(["malignant", "benign"])[Y[KNOWN]]
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x, y)
        folder = headrace.fit_trust(model, x, y, path=tmp_path / "t", **FEW)
        assert "clones" in folder.card.answers_told


class TestWishes:
    def test_windows_guards_and_models_stand_in_the_folder(self, tmp_path):
        """What is asked of windows, guards and names of models is what serving reads."""
        folder = headrace.fit_trust(
            forest(),
            X[KNOWN],
            path=tmp_path / "t",
            detectors=["mahalanobis", "ks"],
            explainers=["permutation-shap"],
            window={"rows": "50", "seconds": 60},
            guards={"mahalanobis": "reject"},
            detector_models={"ks": "cancer-drift"},
            explainer_model="cancer-why",
        )
        spec = folder.spec("mahalanobis")
        assert (spec.window.rows, spec.window.min_rows, spec.window.seconds) == (50, 50, 60.0)
        assert (spec.guard, folder.spec("ks").guard) == ("reject", "off")
        assert folder.spec("ks").model == "cancer-drift"
        assert folder.explainers.model == "cancer-why"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window": {"row": 5}}, "did you mean 'rows'"),
            ({"window": {"rows": 0}}, "expected rows of at least 1"),
            ({"window": {"rows": 50, "min_rows": 60}}, "min_rows from 1 to 50"),
            ({"window": {"rows": "many"}}, "window"),
            ({"guards": {"ks": "flag"}}, "cannot be a guard"),
            ({"guards": {"nothing": "flag"}}, "there is no detector 'nothing'"),
        ],
        ids=["unknown field", "no rows", "never tested", "no number", "guard of windows", "unknown detector"],
    )
    def test_refuses_wishes_that_cannot_be(self, tmp_path, options, message):
        """A window, guard or name that cannot be is an error, and nothing is written."""
        with pytest.raises(InvalidRequest, match=message):
            headrace.fit_trust(
                forest(), X[KNOWN], path=tmp_path / "t", detectors=["ks"], explainers=["none"], **options
            )
        assert not (tmp_path / "t").exists()
