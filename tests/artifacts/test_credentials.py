"""Who we are to stores, from every place that may say it; and that no place's secret is ever shown."""

from __future__ import annotations

import base64
import json

import pytest

from headrace.artifacts import credentials, objects, stores, uri
from headrace.errors import ArtifactDenied, SettingsError

KEYS = {"AWS_ACCESS_KEY_ID": "id-of-tests", "AWS_SECRET_ACCESS_KEY": "secret-of-tests"}
NOWHERE = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}


def options(text, environ, tmp_path, path=""):
    known = credentials.load(path, {"HOME": str(tmp_path), **NOWHERE, **environ})
    place = uri.parse(text)
    remote = known.remotes.get(uri.scheme_of(text))
    kind = remote.scheme if remote is not None else place.scheme
    made = stores._DECIDE[kind](place, known.of(uri.scheme_of(text), kind), known.home())
    assert "secret-of-tests" not in f"{known!r} {known.variables!r} {known.remotes!r} {known.kinds!r} {made!r}"
    return made


def test_variables_of_aws(tmp_path):
    """AWS's variables are taken as its own tools take them."""
    more = {"AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_S3": "http://s3:9000/"}
    made = options("s3://b/x", KEYS | more, tmp_path)
    assert made.config == {
        "access_key_id": "id-of-tests",
        "secret_access_key": "secret-of-tests",
        "session_token": "t",
        "region": "eu-west-1",
        "endpoint": "http://s3:9000",
    }
    assert made.client["allow_http"]
    assert "secret-of-tests" in made.secrets


@pytest.mark.parametrize("name", KEYS)
def test_half_a_pair_of_keys(name, tmp_path):
    """One key without the other is an error that names both, before any store is asked."""
    with pytest.raises(ArtifactDenied, match="of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set"):
        options("s3://b/x", {name: KEYS[name]}, tmp_path)


def test_profiles_of_aws(tmp_path):
    """Profiles of both files are found by AWS_PROFILE; the environment's keys hold over them; a missing one is said."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = secret-of-tests\n"
        "[work]\naws_access_key_id = w\naws_secret_access_key = secret%of%tests\naws_session_token = t\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        "[profile work]\nregion = eu-north-1\nendpoint_url = https://s3.work\n[profile sso]\nsso_session = x\n"
    )
    assert options("s3://b", {}, tmp_path).config["access_key_id"] == "d"
    work = options("s3://b", {"AWS_PROFILE": "work"}, tmp_path)
    assert work.config["secret_access_key"] == "secret%of%tests"
    assert (work.config["region"], work.config["endpoint"]) == ("eu-north-1", "https://s3.work")
    assert work.origin == "the profile work"
    assert options("s3://b", KEYS | {"AWS_PROFILE": "work"}, tmp_path).config["access_key_id"] == "id-of-tests"
    with pytest.raises(SettingsError, match="no profile 'other'"):
        options("s3://b", {"AWS_PROFILE": "other"}, tmp_path)
    with pytest.raises(ArtifactDenied, match="export-credentials"):
        options("s3://b", {"AWS_PROFILE": "sso"}, tmp_path)


def test_roles_of_machines_are_left_to_the_client(tmp_path):
    """Web identity and container roles are not looked up here; without any, what to set is said."""
    web = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:x"}
    made = options("s3://b", web, tmp_path)
    assert made.config["web_identity_token_file"] == "/token"
    assert "skip_signature" not in made.config
    container = options("s3://b", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"}, tmp_path)
    assert container.origin == "this container"
    with pytest.raises(ArtifactDenied, match="AWS_ACCESS_KEY_ID"):
        options("s3://b", {}, tmp_path)


def test_variables_of_kserve(tmp_path):
    """KServe's names for endpoint, TLS, style of bucket and anonymity mean what they mean there."""
    plain = options("s3://b", KEYS | {"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, tmp_path)
    assert plain.config["endpoint"] == "http://minio:9000"
    secure = {"S3_ENDPOINT": "minio:9000", "S3_VERIFY_SSL": "0", "S3_USER_VIRTUAL_BUCKET": "true"}
    made = options("s3://b", KEYS | secure, tmp_path)
    assert made.config["endpoint"] == "https://b.minio:9000"
    assert made.config["virtual_hosted_style_request"]
    assert made.client["allow_invalid_certificates"]
    fast = options("s3://b", KEYS | {"S3_USE_ACCELERATE": "1"}, tmp_path)
    assert fast.config["endpoint"] == "https://b.s3-accelerate.amazonaws.com"
    nobody = options("s3://b", {"awsAnonymousCredential": "True"}, tmp_path)
    assert (nobody.config["skip_signature"], nobody.origin) == (True, "")
    with pytest.raises(SettingsError, match="AWS_CA_BUNDLE"):
        options("s3://b", KEYS | {"AWS_CA_BUNDLE": str(tmp_path / "none")}, tmp_path)


@pytest.mark.parametrize(
    ("word", "secure"), [("False", False), ("off", False), ("0", False), ("YES", True), (" on ", True), ("1", True)]
)
def test_a_yes_or_no_is_one_of_the_known_words(tmp_path, word, secure):
    """A switch means what its word says, in any case; any other word is refused by the switch's name, unrepeated."""
    assert (
        "allow_invalid_certificates" in options("s3://b", KEYS | {"S3_VERIFY_SSL": word}, tmp_path).client
    ) != secure
    with pytest.raises(SettingsError, match=r"^S3_VERIFY_SSL: expected one of true, .*another word$") as refused:
        options("s3://b", KEYS | {"S3_VERIFY_SSL": f"un{word}"}, tmp_path)
    assert f"un{word}" not in str(refused.value)


S3_DOCUMENT = {
    "type": "s3",
    "access_key_id": "doc",
    "secret_access_key": "secret-of-tests",
    "endpoint_url": "http://minio:9000",
    "region": "eu-1",
    "bucket": "models",
    "anonymous": False,
}


def test_storage_config_of_kserve(tmp_path):
    """A mounted storage-config secret, a single document of it, and STORAGE_CONFIG with its override are understood."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "default").write_text(json.dumps(S3_DOCUMENT))
    (folder / "..data").mkdir()
    whole = tmp_path / "storage-config.json"
    whole.write_text(json.dumps({"other": {"type": "s3", "access_key_id": "no"}, "default": json.dumps(S3_DOCUMENT)}))
    for path in (folder, folder / "default", whole):
        made = options("s3://b", {}, tmp_path, str(path))
        assert (made.config["access_key_id"], made.config["endpoint"]) == ("doc", "http://minio:9000"), path
    environ = {
        "STORAGE_CONFIG": json.dumps(S3_DOCUMENT),
        "STORAGE_OVERRIDE_CONFIG": json.dumps({"region": "eu-2"}),
    }
    made = options("s3://b", environ, tmp_path)
    assert (made.config["access_key_id"], made.config["region"]) == ("doc", "eu-2")


def test_a_mounted_secret_of_variables(tmp_path):
    """A folder with a variable a file, as Kubernetes mounts secrets, adds to the environment."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    for name, value in KEYS.items():
        (folder / name).write_text(value + "\n")
    (folder / "gcloud-application-credentials.json").write_text(json.dumps({"type": "service_account"}))
    made = options("s3://b", {}, tmp_path, str(folder))
    assert made.config["secret_access_key"] == "secret-of-tests"
    gs = options("gs://b", {}, tmp_path, str(folder))
    assert gs.config == {"application_credentials": str(folder / "gcloud-application-credentials.json")}


RCLONE = """
[mine]
type = s3
provider = Minio
access_key_id = rclone
secret_access_key = secret-of-tests
endpoint = http://minio:9000
force_path_style = true

[blob]
type = azureblob
account = acc
key = c2VjcmV0LW9mLXRlc3Rz

[box]
type = dropbox
token = secret-of-tests
"""

SELDON_YAML = """
type: s3
name: mine
parameters:
  provider: minio
  env_auth: false
  access_key_id: rclone
  secret_access_key: secret-of-tests
  endpoint: http://minio:9000
"""


def test_rclone_and_seldon(tmp_path):
    """The remotes of rclone.conf and of Seldon's secrets are the schemes of uris that begin with their names."""
    (tmp_path / "rclone.conf").write_text(RCLONE)
    (tmp_path / "secret.yaml").write_text(SELDON_YAML)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "mine").write_text(SELDON_YAML)
    (tmp_path / "secret.json").write_text(
        json.dumps(
            [{"type": "s3", "name": "mine", "parameters": {"access_key_id": "rclone", "endpoint": "http://minio:9000"}}]
        )
    )
    variables = {
        "RCLONE_CONFIG_MINE_TYPE": "s3",
        "RCLONE_CONFIG_MINE_ACCESS_KEY_ID": "rclone",
        "RCLONE_CONFIG_MINE_ENDPOINT": "http://minio:9000",
    }
    for path, environ in (
        ("rclone.conf", {}),
        ("secret.yaml", {}),
        ("secrets", {}),
        ("secret.json", {}),
        ("", {"RCLONE_CONFIG": str(tmp_path / "rclone.conf")}),
        ("", variables),
    ):
        made = options("mine://bucket/x", KEYS | environ, tmp_path, str(tmp_path / path) if path else "")
        assert (made.config["access_key_id"], made.config["endpoint"]) == ("rclone", "http://minio:9000"), path
        assert "virtual_hosted_style_request" not in made.config
    blob = options("blob://container/x", {}, tmp_path, str(tmp_path / "rclone.conf"))
    assert blob.config == {"account_name": "acc", "account_key": "c2VjcmV0LW9mLXRlc3Rz"}


@pytest.mark.parametrize(
    "text",
    ['{"type": "s3", "access_key_id": "secret-of-tests"', "type: [secret-of-tests", "[s3\nkey=secret-of-tests", "[1]"],
)
def test_files_that_cannot_be_understood(tmp_path, text):
    """A damaged file of credentials is named, and not one word of it is quoted."""
    (tmp_path / "file").write_text(text)
    with pytest.raises(SettingsError, match="file") as caught:
        credentials.load(str(tmp_path / "file"), {})
    assert "secret-of-tests" not in f"{caught.value} {caught.value.__cause__}"
    with pytest.raises(SettingsError, match="there is no file or folder"):
        credentials.load(str(tmp_path / "none"), {})


def test_google(tmp_path):
    """A service account's file, its text, the usual place, an emulator, and nobody for public buckets."""
    (tmp_path / "sa.json").write_text("{}")
    named = options("gs://b", {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "sa.json")}, tmp_path)
    assert named.config == {"application_credentials": str(tmp_path / "sa.json")}
    with pytest.raises(SettingsError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        options("gs://b", {"GOOGLE_APPLICATION_CREDENTIALS": "/none"}, tmp_path)
    assert options("gs://b", {}, tmp_path).config == {"skip_signature": True}
    emulated = options("gs://b", {"STORAGE_EMULATOR_HOST": "localhost:9023"}, tmp_path)
    assert emulated.config == {"base_url": "http://localhost:9023", "bearer_token": "emulator"}
    assert emulated.client["allow_http"]
    (tmp_path / "doc.json").write_text(
        json.dumps({"type": "gs", "base64_service_account": base64.b64encode(b'{"k": "secret-of-tests"}').decode()})
    )
    document = options("gs://b", {}, tmp_path, str(tmp_path / "doc.json"))
    assert document.config == {"service_account_key": '{"k": "secret-of-tests"}'}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AZURE_STORAGE_ACCESS_KEY": "k"}, {"account_key": "k"}),
        ({"AZURE_STORAGE_SAS_TOKEN": "?sv=1"}, {"sas_key": "sv=1"}),
        ({"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=k=="}, {"account_key": "k=="}),
        (
            {"AZ_CLIENT_ID": "i", "AZ_TENANT_ID": "t", "AZ_CLIENT_SECRET": "s"},
            {"client_id": "i", "tenant_id": "t", "client_secret": "s"},
        ),
        (
            {"AZURE_CLIENT_ID": "i", "AZURE_TENANT_ID": "t", "AZURE_FEDERATED_TOKEN_FILE": "/t"},
            {"client_id": "i", "tenant_id": "t", "federated_token_file": "/t"},
        ),
        ({}, {"skip_signature": True}),
    ],
    ids=["key", "sas", "connection string", "client", "workload", "nobody"],
)
def test_azure(tmp_path, environ, expected):
    """Each of Azure's ways to say who we are is taken, the account from the uri or the environment."""
    made = options("abfss://c@acc.dfs.core.windows.net/x", environ, tmp_path)
    assert made.config == {"account_name": "acc"} | expected
    made = options("az://c/x", environ | {"AZURE_STORAGE_ACCOUNT_NAME": "acc"}, tmp_path)
    assert made.config == {"account_name": "acc"} | expected


def test_a_signed_blob_url(tmp_path):
    """A blob's URL with a signature is opened with that signature, and is shown without."""
    text = "https://acc.blob.core.windows.net/c/x?sv=1&sig=secret-of-tests"
    made = options(text, {"AZURE_STORAGE_ACCESS_KEY": "k"}, tmp_path)
    assert made.config == {"account_name": "acc", "sas_key": "sv=1&sig=secret-of-tests"}
    opened = objects.open_objects(text, credentials=credentials.load("", {"HOME": str(tmp_path), **NOWHERE}))
    assert "secret-of-tests" not in f"{opened!r} {opened.uri}"


def test_a_remote_is_a_store(s3, tmp_path, monkeypatch):
    """A uri of a remote is read and written with the remote's own keys, whatever the environment's are."""
    bucket = s3.bucket()
    (tmp_path / "rclone.conf").write_text(
        f"[mine]\ntype = s3\naccess_key_id = {s3.access_key}\nsecret_access_key = {s3.secret_key}\n"
        f"endpoint = {s3.endpoint}\n"
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    known = credentials.load(str(tmp_path / "rclone.conf"))
    store = objects.open_objects(f"mine://{bucket}/in", credentials=known)
    store.put("a", b"1")
    assert [info.uri for info in objects.expand(f"mine://{bucket}/in/*", credentials=known)] == [
        f"mine://{bucket}/in/a"
    ]
    with pytest.raises(ArtifactDenied):
        objects.open_objects(f"s3://{bucket}", credentials=known).read("in/a")
