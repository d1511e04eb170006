"""Settings: explicit values over the environment over `.env` over defaults; the class of a model; repositories."""

import json
import sys

import pytest
from mlserver.errors import ModelNotFound
from mlserver.model import MLModel
from mlserver.repository import ModelRepository, ModelRepositoryFactory, SchemalessModelRepository
from mlserver.repository.load import load_model_settings
from mlserver.settings import CORSSettings, ModelParameters, ModelSettings, Settings
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

NAME = "mlserver.MLModel"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """A working folder without a .env, and an environment without variables of ours."""
    monkeypatch.chdir(tmp_path)


def test_defaults():
    """The defaults are those of 1.7.1."""
    settings = Settings()
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (8080, 8081, 8082)
    assert (settings.debug, settings.parallel_workers, settings.server_version) == (True, 1, "1.7.1")
    model = ModelSettings(name="m", implementation=NAME)
    assert (model.parameters, model.max_batch_size, model.version) == (None, 0, None)
    assert ModelParameters().extra == {}
    assert CORSSettings().allow_methods == ["GET"]


def test_environment(monkeypatch):
    """The environment fills what is not given, by prefix, whatever the case; lists and objects are JSON."""
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "9")
    monkeypatch.setenv("mlserver_extensions", '["a"]')
    monkeypatch.setenv("MLSERVER_LOGGING_SETTINGS", "a.json")
    settings = Settings(grpc_port=3)
    assert (settings.http_port, settings.grpc_port, settings.extensions) == (9, 3, ["a"])
    assert settings.logging_settings == "a.json"
    assert Settings(http_port=1).http_port == 1


def test_model_environment(monkeypatch):
    """A model's settings and its parameters take theirs, below what the file says."""
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "e")
    monkeypatch.setenv("MLSERVER_MODEL_URI", "u")
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", NAME)
    assert (ModelSettings().name, ModelSettings().parameters) == ("e", None)
    given = ModelSettings.model_validate({"name": "m", "parameters": {"version": "1"}})
    assert (given.name, given.parameters.uri, given.version) == ("m", "u", "1")
    assert ModelSettings(parameters={"uri": "x"}).parameters.uri == "x"


def test_objects_are_merged(monkeypatch):
    """Parameters in the environment are completed by those given."""
    monkeypatch.setenv("MLSERVER_MODEL_PARAMETERS", '{"uri": "q", "version": "1"}')
    parameters = ModelSettings(name="m", implementation=NAME, parameters={"version": "3"}).parameters
    assert (parameters.uri, parameters.version) == ("q", "3")


def test_environment_that_is_no_json(monkeypatch):
    """A variable that must hold JSON and does not is named."""
    monkeypatch.setenv("MLSERVER_MODEL_INPUTS", "zzz")
    with pytest.raises(ValueError, match="MLSERVER_MODEL_INPUTS must hold JSON"):
        ModelSettings(name="m", implementation=NAME)


def test_dotenv(tmp_path, monkeypatch):
    """A .env in the working folder counts below the environment."""
    (tmp_path / ".env").write_text(
        "# comment\nexport MLSERVER_HTTP_PORT='7'\nMLSERVER_GRPC_PORT=8 # why\nMLSERVER_METRICS_PORT=9\nnonsense\n"
    )
    monkeypatch.setenv("MLSERVER_METRICS_PORT", "10")
    settings = Settings()
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (7, 8, 10)


def test_unknown_keys():
    """Unknown keys are ignored, but kept among parameters."""
    assert not hasattr(ModelSettings(name="m", implementation=NAME, other=1), "other")
    assert ModelParameters(other=1).other == 1


def test_dumps():
    """Dumps give what was set, under the names of the file."""
    settings = ModelSettings(name="m", implementation=NAME, parameters={"uri": "x"})
    expected = {"implementation": NAME, "name": "m", "parameters": {"uri": "x"}}
    assert settings.dict() == expected
    assert json.loads(settings.json()) == expected
    assert settings.model_dump()["implementation_"] == NAME
    assert ModelSettings.model_validate(expected) == settings


@pytest.mark.parametrize(
    ("values", "text"),
    [({"name": "m"}, "Field required"), ({"name": 3, "implementation": NAME}, "valid string")],
    ids=["missing", "kind"],
)
def test_refused(values, text):
    """What lacks an implementation, or has a wrong kind, is refused."""
    with pytest.raises(ValidationError, match=text):
        ModelSettings(**values)


def test_pool_of_its_own():
    """A generated pool id is made only where it is asked for and none is given."""
    assert ModelParameters().inference_pool_gid is None
    assert len(ModelParameters(autogenerate_inference_pool_gid=True).inference_pool_gid) == 36
    assert ModelParameters(autogenerate_inference_pool_gid=True, inference_pool_gid="a").inference_pool_gid == "a"


def test_implementation():
    """The class is found by its path, or is the one that was given; a path that leads nowhere is refused."""

    class Local(MLModel):
        pass

    settings = ModelSettings(name="m", implementation=NAME)
    assert settings.implementation is MLModel
    assert ModelSettings(name="m", implementation=Local).implementation is Local
    settings.implementation = Local
    assert settings.implementation_ == f"{__name__}.Local"
    assert settings.implementation is Local
    for path in ("nope.Klass", "mlserver.Nope"):
        with pytest.raises(PydanticCustomError, match="Invalid python path: No module named"):
            _ = ModelSettings(name="m", implementation=path).implementation


def written(folder, name, values):
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model-settings.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_implementation_beside_the_file(tmp_path):
    """Modules of one name in two folders each give their own class, and the search path is left as it was."""
    before = list(sys.path)
    found = []
    for folder in ("a", "b"):
        path = written(tmp_path, folder, {"name": folder, "implementation": "shim_models_of_two.Mine"})
        (path.parent / "shim_models_of_two.py").write_text(
            f"from mlserver import MLModel\nclass Mine(MLModel):\n    folder = {folder!r}\n"
        )
        found.append(ModelSettings.parse_file(str(path)).implementation.folder)
    del sys.modules["shim_models_of_two"]
    assert found == ["a", "b"]
    assert sys.path == before


def test_parse_file(tmp_path):
    """A file's settings know the file; one that is no JSON is a ValueError."""
    path = written(tmp_path, "a", {"implementation": NAME})
    assert ModelSettings.parse_file(str(path))._source == str(path)
    with pytest.raises(ValueError, match="Expecting"):
        ModelSettings.parse_file(str(written(tmp_path, "b", '{"name":3')))


def test_load_model_settings(tmp_path, caplog):
    """Name and uri default to the folder; another name than the folder's or the version's is warned of."""
    bare = load_model_settings(str(written(tmp_path, "a", {"implementation": NAME})))
    assert (bare.name, bare.parameters.uri) == ("a", str(tmp_path / "a"))
    load_model_settings(
        str(written(tmp_path, "v1", {"name": "m", "implementation": NAME, "parameters": {"version": "v1"}}))
    )
    assert not caplog.records
    load_model_settings(str(written(tmp_path, "c", {"name": "other", "implementation": NAME})))
    assert "Model name 'other' is different than model's folder name 'c'." in caplog.text


async def test_repository(tmp_path, caplog):
    """Every readable settings file below the root is listed, at any depth; a name is found or refused."""
    written(tmp_path, "a", {"implementation": NAME})
    written(tmp_path, "deep/b", {"implementation": NAME})
    written(tmp_path, "bad", '{"name":3')
    repository = SchemalessModelRepository(str(tmp_path))
    assert sorted(settings.name for settings in await repository.list()) == ["a", "b"]
    assert "Failed load model settings" in caplog.text
    assert [settings.name for settings in await repository.find("b")] == ["b"]
    with pytest.raises(ModelNotFound, match="Model nope not found"):
        await repository.find("nope")


async def test_repository_from_the_environment(tmp_path, monkeypatch):
    """Where no file is found, the environment may name one model."""
    repository = SchemalessModelRepository(str(tmp_path))
    assert await repository.list() == []
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "e")
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", NAME)
    assert [settings.name for settings in await repository.list()] == ["e"]


class Fixed(ModelRepository):
    """A repository of a user's own."""

    def __init__(self, root, names):
        self.root = root
        self.names = names

    async def list(self):
        return []

    async def find(self, name):
        return []


def test_repository_of_ones_own(monkeypatch):
    """The settings choose the repository's class and give it its arguments."""
    monkeypatch.setitem(sys.modules, "shim_repository", sys.modules[__name__])
    settings = Settings(
        model_repository_root="r",
        model_repository_implementation="shim_repository.Fixed",
        model_repository_implementation_args={"names": ["a"]},
    )
    made = ModelRepositoryFactory.resolve_model_repository(settings)
    assert (type(made), made.root, made.names) == (Fixed, "r", ["a"])
    assert type(ModelRepositoryFactory.resolve_model_repository(Settings())) is SchemalessModelRepository
