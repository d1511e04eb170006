"""MLServer's folders: a model-settings.json is a model at its folder."""

import pytest

from headrace.control import manifests
from headrace.control.resources import Model
from headrace.errors import InvalidResources


def convert(content, where="models/iris/model-settings.json:1", base="/srv/models/iris"):
    (found,) = manifests.convert(content, where=where, base=base)
    return found


def test_folder_is_a_model():
    """The model is at the file's folder, under the name in the file."""
    found = convert({"name": "flowers", "implementation": "mlserver_sklearn.SKLearnModel"})
    assert found.key == ("Model", "flowers")
    assert (found.spec, found.base, found.notes) == (Model(uri="."), "/srv/models/iris", ())


def test_name_of_the_folder():
    """Without a name in it the model is called like the folder; a version is noted, as revisions are the versions."""
    found = convert({"implementation": "a.B", "parameters": {"version": "v2"}})
    assert found.metadata.name == "iris"
    assert found.notes == ("parameters.version: v2: without effect: a resource's versions are its revisions",)


def test_other_files():
    """A document without apiVersion and kind is refused, unless it is such a file by name or has an implementation."""
    with pytest.raises(InvalidResources, match=r"notes.json:1: 'apiVersion' and 'kind' are missing"):
        convert({"name": "x"}, where="notes.json:1")
    assert convert({"implementation": "a.B"}, where="standard input:1").key == ("Model", "iris")
    with pytest.raises(InvalidResources, match="expected 'name', as the folder has none"):
        convert({"implementation": "a.B"}, where="standard input:1", base="")
