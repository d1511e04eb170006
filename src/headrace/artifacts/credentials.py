"""Who we are to stores: the usual variables and files, KServe's, and rclone's as Seldon mounts them, gathered once and
turned into what each kind of store wants. `objects.open_objects` and `registry.open_source` load them; sources take
them apart.

All kinds are brought to one form, variables by name, so that each store has one table of what it understands.

Sources:
    The variables and files of AWS's, Google's and Azure's own command lines.
    KServe's storage initializer (`S3_ENDPOINT`, `storage-config`, `<host>-headers`).
    rclone.org/docs (`rclone.conf`), and the secrets of Seldon Core, which hold `{type, name, parameters}`.
"""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from headrace.errors import SettingsError

_SECRET_NAMES: Final = ("KEY", "SECRET", "TOKEN", "PASSWORD", "SAS", "CONNECTION_STRING", "HEADERS", "CONFIG", "JSON")

_S3_CONFIG: Final = MappingProxyType(
    {
        "access_key_id": "AWS_ACCESS_KEY_ID",
        "secret_access_key": "AWS_SECRET_ACCESS_KEY",
        "session_token": "AWS_SESSION_TOKEN",
        "endpoint_url": "AWS_ENDPOINT_URL",
        "endpoint": "AWS_ENDPOINT_URL",
        "region": "AWS_REGION",
        "default_bucket": "AWS_BUCKET",
        "bucket": "AWS_BUCKET",
        "anonymous": "awsAnonymousCredential",
        "verify_ssl": "S3_VERIFY_SSL",
        "certificate": "HEADRACE_CA_PEM",
        "use_https": "S3_USE_HTTPS",
    }
)
_AZ_CONFIG: Final = MappingProxyType(
    {
        "account": "AZURE_STORAGE_ACCOUNT_NAME",
        "account_name": "AZURE_STORAGE_ACCOUNT_NAME",
        "key": "AZURE_STORAGE_ACCESS_KEY",
        "access_key": "AZURE_STORAGE_ACCESS_KEY",
        "account_key": "AZURE_STORAGE_ACCESS_KEY",
        "access_token": "AZURE_STORAGE_TOKEN",
        "sas_token": "AZURE_STORAGE_SAS_TOKEN",
        "client_id": "AZURE_CLIENT_ID",
        "tenant": "AZURE_TENANT_ID",
        "tenant_id": "AZURE_TENANT_ID",
        "client_secret": "AZURE_CLIENT_SECRET",
        "endpoint": "AZURE_STORAGE_ENDPOINT",
    }
)
_GS_CONFIG: Final = MappingProxyType(
    {
        "service_account_file": "GOOGLE_APPLICATION_CREDENTIALS",
        "service_account_credentials": "GOOGLE_SERVICE_ACCOUNT_KEY",
        "service_account_key": "GOOGLE_SERVICE_ACCOUNT_KEY",
        "anonymous": "GOOGLE_SKIP_SIGNATURE",
        "endpoint": "GOOGLE_BASE_URL",
    }
)
_HF_CONFIG: Final = MappingProxyType({"token": "HF_TOKEN", "endpoint": "HF_ENDPOINT"})
_HTTP_CONFIG: Final = MappingProxyType({"url": "HEADRACE_HTTP_URL", "headers": "HEADRACE_HTTP_HEADERS"})

_TRUTHS: Final = MappingProxyType(
    dict.fromkeys(("true", "yes", "on", "1", "t", "y"), True)
    | dict.fromkeys(("false", "no", "off", "0", "f", "n"), False)
)

_KINDS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = MappingProxyType(
    {
        "s3": ("s3", _S3_CONFIG),
        "gs": ("gs", _GS_CONFIG),
        "gcs": ("gs", _GS_CONFIG),
        "google cloud storage": ("gs", _GS_CONFIG),
        "az": ("az", _AZ_CONFIG),
        "azure": ("az", _AZ_CONFIG),
        "azureblob": ("az", _AZ_CONFIG),
        "hf": ("hf", _HF_CONFIG),
        "huggingface": ("hf", _HF_CONFIG),
        "http": ("http", _HTTP_CONFIG),
        "https": ("http", _HTTP_CONFIG),
        "local": ("file", MappingProxyType({})),
    }
)
"""What KServe and rclone call a kind of store: our scheme, and their words as variables."""


class Variables(Mapping[str, str]):
    """Variables by name; the `repr` has names only.

    Args:
        values: By name.
        origin: Where they came from, for messages.
    """

    def __init__(self, values: Mapping[str, str], origin: str = "the environment") -> None:
        self._values = dict(values)
        self.origin = origin

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{len(self)} variables of {self.origin}>"

    def first(self, *names: str) -> str:
        """The first of these that is set and not empty; empty if none is."""
        return next((value for name in names if (value := self._values.get(name, ""))), "")

    def truth(self, *names: str) -> bool | None:
        """The first of these that is set, as a yes or no; None if none is.

        Raises:
            SettingsError: it is another word.
        """
        name = next((each for each in names if self._values.get(each, "").strip()), "")
        return _truth(self._values[name], name) if name else None

    def over(self, values: Mapping[str, str], origin: str) -> Variables:
        """These with others over them."""
        return Variables({**self._values, **values}, origin)

    def secrets(self) -> frozenset[str]:
        """Values that must be in no text: those of names that speak of keys, tokens, passwords."""
        return frozenset(
            value
            for name, value in self._values.items()
            if value and any(word in name.upper() for word in _SECRET_NAMES) and not name.endswith("_FILE")
        )


class Remote:
    """A store as rclone and KServe describe it.

    Args:
        scheme: Our word for its kind.
        values: Variables.
        origin: Where it was found.
    """

    def __init__(self, scheme: str, values: Mapping[str, str], origin: str) -> None:
        self.scheme, self.origin = scheme, origin
        self._values = dict(values)

    def __repr__(self) -> str:
        return f"<Remote {self.scheme} of {self.origin}>"

    @property
    def values(self) -> Mapping[str, str]:
        """Variables by name."""
        return MappingProxyType(self._values)


class Credentials:
    """All that is known of us. Nothing of it is looked at before a store is opened.

    Args:
        variables: The environment, and what mounted secrets add to it.
        remotes: Stores with credentials of their own, by the scheme that names them.
        kinds: The same, for all uris of a kind of store that no remote is named for (`storage-config`).
    """

    def __init__(
        self,
        variables: Variables,
        remotes: Mapping[str, Remote] = MappingProxyType({}),
        kinds: Mapping[str, Remote] = MappingProxyType({}),
    ) -> None:
        self.variables = variables
        self.remotes = MappingProxyType(dict(remotes))
        self.kinds = MappingProxyType(dict(kinds))

    def __repr__(self) -> str:
        named = ", ".join(sorted({*self.remotes, *self.kinds})) or "no store"
        return f"<Credentials of {self.variables.origin}, of their own for {named}>"

    def of(self, scheme: str, kind: str = "") -> Variables:
        """The variables that hold for uris of a scheme.

        Args:
            scheme: As the uri has it.
            kind: Our word for the kind of store; empty: the same.
        """
        remote = self.remotes.get(scheme) or self.kinds.get(kind or scheme)
        return self.variables if remote is None else self.variables.over(remote.values, remote.origin)

    def home(self) -> Path:
        """Where the usual files are."""
        return Path(self.variables.first("HOME") or Path.home())


def load(path: str = "", environ: Mapping[str, str] | None = None) -> Credentials:
    """What the environment and a file or folder say.

    Args:
        path: Of the setting `credentials`; empty: there is none.
        environ: None: the process's.

    Raises:
        SettingsError: the file is not there, or cannot be understood. No value of it is in the text.
    """
    values = dict(os.environ if environ is None else environ)
    remotes: dict[str, Remote] = {}
    kinds: dict[str, Remote] = {}
    variables = Variables(values)
    _of_rclone_variables(variables, remotes)
    if path:
        place = Path(path).expanduser()
        if place.is_dir():
            variables = variables.over(_of_folder(place, remotes, kinds), f"the environment and {place}")
        elif place.is_file():
            _of_file(place, remotes, kinds)
        else:
            raise SettingsError(f"artifacts.credentials: there is no file or folder {place}")
    elif config := variables.first("RCLONE_CONFIG"):
        _of_rclone_file(Path(config).expanduser(), remotes)
    _of_storage_config(variables, kinds)
    return Credentials(variables, remotes, kinds)


def _of_folder(folder: Path, remotes: dict[str, Remote], kinds: dict[str, Remote]) -> dict[str, str]:
    """A mounted secret: a variable a file, or documents; what it adds to the environment."""
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith("..") or not file.is_file():  # Kubernetes keeps versions in `..data`
            continue
        text = _text(file)
        if file.suffix == ".conf":
            _of_ini(text, file, remotes)
        elif file.suffix in {".json", ".yaml", ".yml"} or text.lstrip().startswith(("{", "[")):
            if file.name.endswith("-headers"):
                found[file.name] = text
            else:
                found.update(_of_document(_parsed(text, file), file, remotes, kinds))
        elif _looks_yaml(text):
            found.update(_of_document(_parsed(text, file), file, remotes, kinds))
        else:
            found[file.name] = text.strip()
    return found


def _looks_yaml(text: str) -> bool:
    return any(line.startswith(("type:", "- type:", "name:", "- name:", "parameters:")) for line in text.splitlines())


def _of_file(file: Path, remotes: dict[str, Remote], kinds: dict[str, Remote]) -> None:
    text = _text(file)
    before = len(remotes) + len(kinds)
    if file.suffix in {".json", ".yaml", ".yml"} or text.lstrip().startswith(("{", "[{")) or _looks_yaml(text):
        _of_document(_parsed(text, file), file, remotes, kinds)
    else:
        _of_ini(text, file, remotes)
    if len(remotes) + len(kinds) == before:
        raise SettingsError(
            f"artifacts.credentials: {file} describes no store that is known; expected type, name and parameters, a "
            f"KServe storage-config, or an rclone configuration"
        )


def _of_document(value: Any, file: Path, remotes: dict[str, Remote], kinds: dict[str, Remote]) -> dict[str, str]:
    """A JSON or YAML value: Seldon's secret (or several), a KServe `storage-config`, or a Google service account."""
    if isinstance(value, list):
        found: dict[str, str] = {}
        for one in value:
            found.update(_of_document(one, file, remotes, kinds))
        return found
    if not isinstance(value, dict):
        raise SettingsError(f"artifacts.credentials: {file} holds {type(value).__name__}, expected an object")
    if value.get("type") in {"service_account", "authorized_user", "external_account"}:
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    if "type" in value and ("parameters" in value or "name" in value):
        name = str(value.get("name") or value["type"])
        parameters = value.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise SettingsError(f"artifacts.credentials: {file}: parameters is not an object")
        remotes[name] = _remote({"type": value["type"], **parameters}, f"{name} in {file}", file)
    elif "type" in value:
        remote = _remote(value, str(file), file)
        kinds.setdefault(remote.scheme, remote)
        remotes.setdefault(file.stem, remote)
    else:  # a whole storage-config: a document by key, as text or as it is
        for key, document in sorted(value.items(), key=lambda item: item[0] != "default"):
            one = (
                _parsed(document, file) if isinstance(document, str) and document.lstrip().startswith("{") else document
            )
            if isinstance(one, dict) and "type" in one:
                remote = _remote(one, f"{key} in {file}", file)
                remotes[key] = remote
                if key in {"default", f"default_{one['type']}"}:
                    kinds[remote.scheme] = remote
                kinds.setdefault(remote.scheme, remote)
    return {}


def _remote(document: Mapping[str, Any], origin: str, file: Path | str) -> Remote:
    kind = str(document.get("type", "")).lower()
    if kind not in _KINDS:
        raise SettingsError(
            f"artifacts.credentials: {file}: no store of type {kind!r} is known; known are {', '.join(sorted(_KINDS))}"
        )
    scheme, names = _KINDS[kind]
    values: dict[str, str] = {}
    for key, value in document.items():
        if key in names and value is not None and not isinstance(value, dict | list):
            values[names[key]] = str(value).lower() if isinstance(value, bool) else str(value)
    if scheme == "s3":
        _s3_words(document, values)
    if sas := document.get("sas_url"):
        values["AZURE_STORAGE_SAS_TOKEN"] = str(sas).partition("?")[2]
    if encoded := document.get("base64_service_account"):
        values["HEADRACE_GOOGLE_BASE64"] = str(encoded)
    return Remote(scheme, values, origin)


def _s3_words(document: Mapping[str, Any], values: dict[str, str]) -> None:
    """Those whose sense is turned round, and what a remote of its own must not take from the environment."""
    style = document.get("force_path_style", document.get("path_style"))
    if style is not None:
        values["S3_USER_VIRTUAL_BUCKET"] = "false" if _truth(str(style), "force_path_style") else "true"
    if "access_key_id" in document and "session_token" not in document:
        values["AWS_SESSION_TOKEN"] = ""
    if str(document.get("cabundle_configmap", "")):
        values["AWS_CA_BUNDLE"] = str(document["cabundle_configmap"])


def _truth(value: str, name: str) -> bool:
    known = _TRUTHS.get(value.strip().lower())
    if known is None:  # what came is not repeated: it may be a secret that was put into the wrong place
        raise SettingsError(f"{name}: expected one of {', '.join(_TRUTHS)}, came another word")
    return known


def _of_rclone_file(file: Path, remotes: dict[str, Remote]) -> None:
    if file.is_file():
        _of_ini(_text(file), file, remotes)


def _of_ini(text: str, file: Path, remotes: dict[str, Remote]) -> None:
    for name, section in ini(text, file).items():
        if section.get("type", "").lower() in _KINDS:
            remotes[name] = _remote(section, f"{name} in {file}", file)


def _of_rclone_variables(variables: Variables, remotes: dict[str, Remote]) -> None:
    """`RCLONE_CONFIG_MYREMOTE_TYPE=s3` and the other parameters of `myremote`."""
    for name in variables:
        if name.startswith("RCLONE_CONFIG_") and name.endswith("_TYPE"):
            remote = name[len("RCLONE_CONFIG_") : -len("_TYPE")]
            head = f"RCLONE_CONFIG_{remote}_"
            section = {key[len(head) :].lower(): value for key, value in variables.items() if key.startswith(head)}
            if section["type"].lower() in _KINDS:
                remotes[remote.lower()] = _remote(section, f"{head}*", f"{head}*")


def _of_storage_config(variables: Variables, kinds: dict[str, Remote]) -> None:
    """What KServe's webhook puts into the environment of a storage initializer."""
    config, override = variables.first("STORAGE_CONFIG"), variables.first("STORAGE_OVERRIDE_CONFIG")
    if not config and not override:
        return
    document: dict[str, Any] = {}
    for name, text in (("STORAGE_CONFIG", config), ("STORAGE_OVERRIDE_CONFIG", override)):
        if text:
            value = _parsed(text, name)
            if not isinstance(value, dict):
                raise SettingsError(f"{name}: expected a JSON object")
            document.update(value)
    if "type" in document:
        remote = _remote(document, "STORAGE_CONFIG", "STORAGE_CONFIG")
        kinds[remote.scheme] = remote


def ini(text: str, file: Path | str) -> Mapping[str, Mapping[str, str]]:
    """Sections of an ini file, as rclone and AWS write them; no interpolation.

    Raises:
        SettingsError: it is none.
    """
    parser = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        parser.read_string(text)
    except configparser.Error as exc:
        line = getattr(exc, "lineno", None)
        at = f", line {line}" if line else ""
        raise SettingsError(f"{file}{at}: is no ini file ([section] and key = value)") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _parsed(text: str, file: Path | str) -> Any:
    import yaml

    try:
        return json.loads(text) if text.lstrip().startswith(("{", "[")) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):  # their texts quote the file
        raise SettingsError(f"{file}: is neither JSON nor YAML") from None


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{file}: cannot be read as text: {type(exc).__name__}") from None
