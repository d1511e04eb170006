"""Clients of S3, Google Cloud Storage and Azure Blob, made by `obstore`: `objects` and the sources of these stores open
them here. What is decided about options is decided in pure functions of variables.
"""

from __future__ import annotations

import base64
import datetime as dt
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.artifacts import credentials as credentials_
from headrace.artifacts import failures
from headrace.artifacts.credentials import Credentials, Variables
from headrace.artifacts.settings import ArtifactSettings
from headrace.artifacts.uri import Place, scheme_of
from headrace.errors import ArtifactDenied, SettingsError

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

_METADATA_SECONDS: Final = 1.0
_AWS_METADATA: Final = ("169.254.169.254", 80)


@dataclass(frozen=True, kw_only=True, repr=False)
class Options:
    """What a client is made of. The `repr` has no values."""

    config: Mapping[str, Any]
    client: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    """Where the credentials came from; empty: there are none."""
    secrets: frozenset[str] = frozenset()
    """Values that must be in no text."""

    def __repr__(self) -> str:
        return f"<Options {', '.join(sorted(self.config))} of {self.origin or 'nobody'}>"


@dataclass(frozen=True, kw_only=True, repr=False)
class OpenStore:
    """A client, and what messages about it may say."""

    client: S3Store | GCSStore | AzureStore
    origin: str
    secrets: frozenset[str]


def open_store(place: Place, uri: str, *, settings: ArtifactSettings, credentials: Credentials) -> OpenStore:
    """A client for the bucket or container of a uri. Nothing is asked of it yet.

    Raises:
        ArtifactDenied: there are no credentials where there must be.
        SettingsError: what is set is not enough, or cannot be understood.
    """
    try:
        import obstore.store as stores
    except ModuleNotFoundError as exc:
        raise SettingsError(f"{place.shown}: needs obstore: pip install 'headrace[storage]'") from exc
    variables = credentials.of(scheme_of(uri), place.scheme)
    options = _DECIDE[place.scheme](place, variables, credentials.home())
    seconds = dt.timedelta(seconds=settings.timeout_seconds)
    client: dict[str, Any] = {
        "connect_timeout": seconds,
        "read_timeout": seconds,
        "timeout": dt.timedelta(days=1),  # of a whole object; the default is half a minute
        "user_agent": "headrace",
        **options.client,
    }
    retry: Any = {
        "max_retries": settings.retries,
        "backoff": {"init_backoff": dt.timedelta(seconds=0.1), "max_backoff": dt.timedelta(seconds=10), "base": 2},
        "retry_timeout": dt.timedelta(seconds=max(settings.timeout_seconds * (settings.retries + 1), 1)),
    }
    make: Any = {"s3": stores.S3Store, "gs": stores.GCSStore, "az": stores.AzureStore}[place.scheme]
    with failures.told(place.shown, "opening", origin=options.origin, secrets=options.secrets):
        store = make(place.host, config=options.config, client_options=client, retry_config=retry)
    return OpenStore(client=store, origin=options.origin, secrets=options.secrets)


def s3_options(place: Place, variables: Variables, home: Path) -> Options:
    """Of S3 and what is compatible with it.

    Raises:
        ArtifactDenied: no credentials can be found.
        SettingsError: a file that is named cannot be used.
    """
    names = {
        "access_key_id": ("AWS_ACCESS_KEY_ID",),
        "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
        "session_token": ("AWS_SESSION_TOKEN", "AWS_TOKEN"),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "web_identity_token_file": ("AWS_WEB_IDENTITY_TOKEN_FILE",),
        "role_arn": ("AWS_ROLE_ARN",),
        "role_session_name": ("AWS_ROLE_SESSION_NAME",),
        "server_side_encryption": ("AWS_SERVER_SIDE_ENCRYPTION",),
        "sse_kms_key_id": ("AWS_SSE_KMS_KEY_ID",),
    }
    config: dict[str, Any] = {key: value for key, of in names.items() if (value := variables.first(*of))}
    origin = variables.origin if "access_key_id" in config else ""
    profile = _profile(variables, home)
    if not origin and "web_identity_token_file" not in config:
        keys = ("access_key_id", "secret_access_key", "session_token")
        own = {key: profile[f"aws_{key}"] for key in keys if profile.get(f"aws_{key}")}
        own |= {key: profile[key] for key in ("web_identity_token_file", "role_arn") if profile.get(key)}
        if "access_key_id" in own or "web_identity_token_file" in own:
            config |= own
            origin = f"the profile {variables.first('AWS_PROFILE') or 'default'}"
        elif profile.get("credential_process") or profile.get("sso_session") or profile.get("source_profile"):
            raise ArtifactDenied(
                f"{place.shown}: the profile {variables.first('AWS_PROFILE') or 'default'} gets its credentials from a "
                f"program, a role or a sign-in: put them into the environment with "
                f"`aws configure export-credentials --format env`"
            )
    config.setdefault("region", profile.get("region") or "us-east-1")
    if variables.truth("awsAnonymousCredential", "AWS_SKIP_SIGNATURE", "AWS_NO_SIGN_REQUEST"):
        config = {key: value for key, value in config.items() if key == "region"} | {"skip_signature": True}
        origin = ""
    elif ("access_key_id" in config) != ("secret_access_key" in config):
        raise ArtifactDenied(
            f"{place.shown}: of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set: set both, or neither"
        )
    elif not origin:
        origin = _s3_machine(place, variables)
    client = _tls(
        variables.first("AWS_CA_BUNDLE") or profile.get("ca_bundle", ""), variables.truth("S3_VERIFY_SSL"), variables
    )
    _s3_endpoint(place, variables, profile, config)
    client["allow_http"] = str(config.get("endpoint", "")).startswith("http://")
    private = {str(config[key]) for key in ("secret_access_key", "session_token", "access_key_id") if key in config}
    return Options(config=config, client=client, origin=origin, secrets=variables.secrets() | private)


def _s3_endpoint(place: Place, variables: Variables, profile: Mapping[str, str], config: dict[str, Any]) -> None:
    endpoint = variables.first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT")
    endpoint = endpoint or profile.get("endpoint_url", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"{'http' if variables.truth('S3_USE_HTTPS') is False else 'https'}://{endpoint}"
    virtual = variables.truth("S3_USER_VIRTUAL_BUCKET", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST") is True
    if variables.truth("S3_USE_ACCELERATE"):
        endpoint, virtual = "https://s3-accelerate.amazonaws.com", True
    if endpoint and virtual:
        scheme, _, host = endpoint.partition("://")
        endpoint = f"{scheme}://{host}" if host.startswith(f"{place.host}.") else f"{scheme}://{place.host}.{host}"
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    if virtual:
        config["virtual_hosted_style_request"] = True


def _s3_machine(place: Place, variables: Variables) -> str:
    """Who the machine is, where nobody says who we are: asked by the client itself; here, only whether it can be."""
    if variables.first("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return "AWS_WEB_IDENTITY_TOKEN_FILE"
    if variables.first("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        return "this container"
    if variables.truth("AWS_EC2_METADATA_DISABLED") is not True and (
        variables.first("AWS_METADATA_ENDPOINT") or _answers(_AWS_METADATA)
    ):
        return "this machine's role, the only ones there are (set AWS_ACCESS_KEY_ID or AWS_PROFILE for others),"
    raise ArtifactDenied(
        f"{place.shown}: there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        f"AWS_PROFILE, or artifacts.credentials; AWS_SKIP_SIGNATURE=true for a public bucket"
    )


def _profile(variables: Variables, home: Path) -> Mapping[str, str]:
    """A profile of `~/.aws/credentials` and `~/.aws/config`; empty: there is none.

    Raises:
        SettingsError: AWS_PROFILE names one that is not there.
    """
    name = variables.first("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
    places = (
        (variables.first("AWS_CONFIG_FILE") or str(home / ".aws" / "config"), f"profile {name}"),
        (variables.first("AWS_SHARED_CREDENTIALS_FILE") or str(home / ".aws" / "credentials"), name),
    )
    found: dict[str, str] = {}
    there = False
    for path, section in places:
        file = Path(path).expanduser()
        if not file.is_file():
            continue
        sections = credentials_.ini(file.read_text("utf-8"), file)
        for one in (section, name) if name else ("default",):
            if one in sections:
                found.update(sections[one])
                there = True
                break
    if name and not there and name != "default":
        raise SettingsError(f"AWS_PROFILE: there is no profile {name!r} in {places[0][0]} or {places[1][0]}")
    return found


def gs_options(_place: Place, variables: Variables, home: Path) -> Options:
    """Of Google Cloud Storage. Without credentials: as for a public bucket, which is what KServe does."""
    config: dict[str, Any] = {}
    origin = ""
    if encoded := variables.first("HEADRACE_GOOGLE_BASE64"):
        try:
            config["service_account_key"] = base64.b64decode(encoded).decode()
        except ValueError:
            raise SettingsError(f"{variables.origin}: base64_service_account is no base64") from None
        origin = variables.origin
    elif key := variables.first("GOOGLE_SERVICE_ACCOUNT_KEY"):
        config["service_account_key"], origin = key, variables.origin
    elif path := variables.first("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "SERVICE_ACCOUNT"):
        if not Path(path).is_file():
            raise SettingsError(f"GOOGLE_APPLICATION_CREDENTIALS: there is no file {path}")
        config["application_credentials"], origin = path, path
    else:
        usual = home / ".config" / "gcloud" / "application_default_credentials.json"
        if usual.is_file():
            config["application_credentials"], origin = str(usual), str(usual)
    base = variables.first("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST")
    if base:
        config["base_url"] = (base if "://" in base else f"http://{base}").rstrip("/")
    anonymous = variables.truth("GOOGLE_SKIP_SIGNATURE")
    if base and not origin and not anonymous:
        config["bearer_token"] = "emulator"  # noqa: S105 - emulators take any; without one the client asks the machine's
    elif anonymous or (not origin and not _google_machine(variables)):
        config = {key: value for key, value in config.items() if key == "base_url"} | {"skip_signature": True}
        origin = ""
    elif not origin:
        origin = "this machine's service account"
    client = _tls("", None, variables)
    client["allow_http"] = base.startswith("http://") or (bool(base) and "://" not in base)
    private = {str(config[key]) for key in ("service_account_key",) if key in config}
    return Options(config=config, client=client, origin=origin, secrets=variables.secrets() | private)


def _google_machine(variables: Variables) -> bool:
    if variables.first("GCE_METADATA_HOST"):
        return True
    return variables.truth("NO_GCE_CHECK") is not True and _answers(("metadata.google.internal", 80))


def az_options(place: Place, variables: Variables, _home: Path) -> Options:
    """Of Azure Blob. Without credentials: as for a public container.

    Raises:
        SettingsError: no account is named.
    """
    text = variables.first("AZURE_STORAGE_CONNECTION_STRING")
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    account = (
        place.account
        or parts.get("AccountName", "")
        or variables.first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT", "AZ_STORAGE_ACCOUNT")
    )
    emulator = variables.truth("AZURE_STORAGE_USE_EMULATOR") is True
    if not account and not emulator:
        raise SettingsError(
            f"{place.shown}: no account is named: set AZURE_STORAGE_ACCOUNT_NAME, or write "
            f"abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
        )
    config: dict[str, Any] = {"account_name": account} if account else {}
    endpoint = variables.first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT") or parts.get("BlobEndpoint", "")
    if not endpoint and place.domain and place.domain != "blob.core.windows.net":
        endpoint = f"https://{account}.{place.domain}"
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    if emulator:
        config["use_emulator"] = True
    own = _az_identity(place, variables, parts)
    config |= own
    if not own and not emulator:
        config["skip_signature"] = True
    client = _tls("", None, variables)
    client["allow_http"] = emulator or endpoint.startswith("http://")
    private = {str(own[key]) for key in ("account_key", "sas_key", "client_secret", "token") if key in own}
    origin = "the uri's signature" if place.query else variables.origin
    return Options(config=config, client=client, origin=origin if own else "", secrets=variables.secrets() | private)


def _az_identity(place: Place, variables: Variables, parts: Mapping[str, str]) -> dict[str, Any]:
    """Of several ways the first that is there: what is nearer to the uri holds over what is further."""
    sas = place.query.reveal() or parts.get("SharedAccessSignature", "")
    sas = sas or variables.first("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
    if sas:
        return {"sas_key": sas.removeprefix("?")}
    key = parts.get("AccountKey", "") or variables.first(
        "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_MASTER_KEY"
    )
    if key:
        return {"account_key": key}
    if token := variables.first("AZURE_STORAGE_TOKEN"):
        return {"token": token}
    who = {
        "client_id": variables.first("AZURE_CLIENT_ID", "AZ_CLIENT_ID"),
        "tenant_id": variables.first("AZURE_TENANT_ID", "AZ_TENANT_ID"),
        "client_secret": variables.first("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"),
        "federated_token_file": variables.first("AZURE_FEDERATED_TOKEN_FILE"),
        "authority_host": variables.first("AZURE_AUTHORITY_HOST"),
    }
    if who["client_id"] and (who["client_secret"] or who["federated_token_file"]):
        return {name: value for name, value in who.items() if value}
    if variables.truth("AZURE_USE_AZURE_CLI"):
        return {"use_azure_cli": True}
    if identity := variables.first("AZURE_IDENTITY_ENDPOINT", "IDENTITY_ENDPOINT", "AZURE_MSI_ENDPOINT"):
        return {"msi_endpoint": identity} | ({"client_id": who["client_id"]} if who["client_id"] else {})
    return {}


def _tls(bundle: str, verify: bool | None, variables: Variables) -> dict[str, Any]:
    client: dict[str, Any] = {}
    if verify is False:
        client["allow_invalid_certificates"] = True
    if pem := variables.first("HEADRACE_CA_PEM"):
        client["root_certificate"] = pem
    elif bundle:
        try:
            client["root_certificate"] = Path(bundle).read_text("ascii")
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"AWS_CA_BUNDLE: {bundle} cannot be read: {type(exc).__name__}") from exc
    return client


def _answers(address: tuple[str, int]) -> bool:
    """Whether a machine's own service is there; where it is not, waiting for it would take minutes."""
    try:
        with socket.create_connection(address, timeout=_METADATA_SECONDS):
            return True
    except OSError:
        return False


_DECIDE: Final = {"s3": s3_options, "gs": gs_options, "az": az_options}
