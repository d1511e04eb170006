"""A repository class of somebody's own, named in settings.json: what it lists is what is served."""

import json

import pytest

from headrace.errors import UnknownFormat
from headrace.serving import discovery

REPOSITORY = """
import shelf
from mlserver import ModelSettings
from mlserver.repository import ModelRepository
from mlserver.settings import ModelParameters
from shelf import Own

class Shelf(ModelRepository):
    def __init__(self, root, versions=()):
        self.root, self.versions = root, versions

    async def list(self):
        return [
            ModelSettings(
                name="own",
                implementation=Own,
                max_batch_size=3,
                parameters=ModelParameters(version=each, uri=self.root, threshold=2),
            )
            for each in self.versions
        ] + [ModelSettings.model_validate({"implementation": "m.M", "name": "filed", "_source": self.root + "/f/model-settings.json"})]

    async def find(self, name):
        return [each for each in await self.list() if each.name == name]

class Empty(Shelf):
    async def list(self):
        raise OSError("no shelf")
"""


def recognise(path):
    raise UnknownFormat(f"{path}: no runtime recognises this")


@pytest.fixture
def root(tmp_path):
    """A folder with a repository class, and a module that it imports."""
    (tmp_path / "repo_of_mine.py").write_text(REPOSITORY)
    (tmp_path / "shelf.py").write_text("from mlserver import MLModel\nclass Own(MLModel): ...\n")
    (tmp_path / "f").mkdir()
    return tmp_path


def survey(root, name, arguments=None):
    settings = {"model_repository_implementation": name, "model_repository_implementation_args": arguments or {}}
    (root / "settings.json").write_text(json.dumps(settings))
    return discovery.survey([str(root)], recognise=recognise, environ={})


def test_what_it_lists_is_served(root):
    """The class is constructed with the folder and its arguments; each of its settings is a model, at each look anew."""
    for _ in range(2):
        found = survey(root, "repo_of_mine.Shelf", {"versions": ["1", "2"]})
        assert found.problems == ()
        assert [(spec.name, spec.version) for spec in found.specs] == [("own", "1"), ("own", "2"), ("filed", "")]
        own, filed = found.specs[0], found.specs[2]
        assert own.reference == "shelf.Own"
        assert own.folder == str(root)
        assert own.parameters["settings"]["max_batch_size"] == 3
        assert own.parameters["settings"]["parameters"] == {"threshold": 2, "version": "1", "uri": str(root)}
        assert filed.folder == str(root / "f")
        assert filed.parameters["source"] == str(root / "f" / "model-settings.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("repo_of_mine.Empty", "OSError: no shelf"),
        ("repo_of_mine.Nobody", "has no attribute 'Nobody'"),
        ("nobody_has_this.Shelf", "No module named 'nobody_has_this'"),
    ],
    ids=["raises", "no-class", "no-module"],
)
def test_what_fails(root, name, message):
    """A class that is not there or raises is a problem of the folder that names the class and the cause."""
    found = survey(root, name)
    assert found.specs == ()
    (problem,) = found.problems
    assert problem.place == str(root)
    assert name.partition(".")[0] in str(problem.error)
    assert message in str(problem.error)
