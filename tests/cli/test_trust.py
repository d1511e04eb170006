"""`headrace trust`."""

from __future__ import annotations

import json

import joblib
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from headrace.cli import trust
from headrace.cli.group import COMMANDS, headrace
from headrace.cli.reference import reference
from headrace.errors import InvalidRequest
from headrace.trust.folder import open_folder

CHOICE = ["--detector", "mahalanobis", "--detector", "ks:outputs", "--explainer", "permutation-shap"]


@pytest.fixture(scope="module")
def iris(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iris")
    frame = load_iris(as_frame=True).frame
    x, y = frame.drop(columns="target"), frame["target"]
    joblib.dump(LogisticRegression(max_iter=1000).fit(x, y), folder / "iris.joblib")
    frame.to_parquet(folder / "train.parquet")
    frame.assign(**{"sepal length (cm)": ["x", *x.iloc[1:, 0].astype(str)]}).to_csv(folder / "bad.csv", index=False)
    return folder


def run(*args):
    result = CliRunner().invoke(headrace, ["trust", *map(str, args)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def fitted(iris):
    """What fitting beside the model printed."""
    return run("fit", iris / "iris.joblib", "--data", iris / "train.parquet", "--labels", "target", *CHOICE)


class TestFit:
    def test_writes_the_folder_beside_the_model(self, iris, fitted):
        """The folder lies where the server looks, and a table says what was fitted and how well it is calibrated."""
        folder = open_folder(iris / "iris.trust")
        assert folder.schema.features.names[0] == "sepal length (cm)"
        assert folder.schema.classes == (0, 1, 2)
        assert folder.card.data == "train.parquet"
        assert len(folder.card.model_digest) == 64
        for part in ("mahalanobis", "ks-outputs", "permutation-shap", "FALSE POSITIVES", "none is finer"):
            assert part in fitted

    def test_prints_json(self, iris):
        """As JSON, everything that was fitted is there for a program; and it is what show says later."""
        few = ("--detector", "mahalanobis", "--explainer", "none")
        args = ("--data", iris / "train.parquet", "--labels", "target", *few, "--json", "-o", iris / "here")
        told = json.loads(run("fit", iris / "iris.joblib", *args))
        assert told["detectors"][0]["method"] == "mahalanobis"
        assert told["detectors"][0]["false_positive_rate"] is not None
        assert told == json.loads(run("show", iris / "here", "--json"))

    def test_says_where_the_data_is_wrong(self, iris):
        """A mistake in the data is named by column and row, and nothing is written."""
        with pytest.raises(InvalidRequest, match=r"'sepal length \(cm\)', row 0: 'x' among numbers"):
            run("fit", iris / "iris.joblib", "--data", iris / "bad.csv", "--labels", "target", "-o", iris / "none")
        assert not (iris / "none").exists()


class TestShow:
    @pytest.mark.usefixtures("fitted")
    def test_finds_the_folder_of_a_model(self, iris):
        """Show takes the model as well as its folder."""
        assert "150 rows of train.parquet" in run("show", iris / "iris.joblib")
        assert "tabular classification" in run("show", iris / "iris.trust")


class TestGroup:
    def test_lists_and_documents_every_subcommand(self):
        """Each subcommand of the table is there, is listed with its own summary, and stands in the reference."""
        assert "trust" in COMMANDS
        text = reference()
        for name, summary in trust.COMMANDS.items():
            command = trust.command.get_command(None, name)
            assert command.short_help == summary
            assert f"headrace trust {name}" in text

    def test_names_the_nearest(self):
        """A subcommand that does not exist is refused with the nearest one."""
        with pytest.raises(Exception, match="did you mean 'show'"):
            run("shwo")
