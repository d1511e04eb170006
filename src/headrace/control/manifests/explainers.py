"""What other servers say of explainers, as models of ours that explain another. Shared by the dialects; pure.

Theirs is a server of its own that loads a saved object, pickled code, which is never read here. Ours has a method of
the same kind, which is made from the trust folder of the model that it explains, or from one that the uri names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.compat import alibi
from headrace.control.manifests import base, pods
from headrace.control.manifests.base import Field, Reader, group, idle, several, text
from headrace.control.resources import EXPLAINER, Model

FIT: Final = "headrace trust fit MODEL --data TRAINING_DATA"
STORAGE_URI: Final = "STORAGE_URI"

CONTAINER: Final[Mapping[str, Field]] = {
    **pods.CONTAINER,
    "image": text("not run: the arguments say what it explains by"),
    "args": several(text("the method, and `parameters.options`")),
}
"""The fields of an explainer's container."""
_IMAGES: Final = ("alibi-explainer", "alibiexplainer", "aix-explainer", "aixserver", "art-explainer", "artserver")
_TYPES: Final = ("explainer_type", "adversary_type")
_OF_SERVERS: Final = frozenset(
    {
        "enable_docs_url",
        "grpc_port",
        "http_port",
        "log_config_file",
        "max_buffer_size",
        "model_name",
        "predictor_host",
        "predictor_protocol",
        "predictor_request_timeout_seconds",
        "predictor_use_ssl",
        "protocol",
        "workers",
    }
)
"""Arguments that say how a server is reached and reaches others."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """An explainer as somebody else's manifest asks for it."""

    kind: str
    """Its class, in their words; empty: none is said."""
    path: str
    """The field that says so."""
    uri: str = ""
    """Where they have what was saved."""
    uri_path: str = ""
    options: Mapping[str, Any] = {}
    options_path: str = ""


def model(reader: Reader, asked: Asked, *, explains: str, endpoint: str = "") -> Model:
    """A model that explains another.

    Args:
        reader: Takes faults and notes.
        asked: What the manifest says.
        explains: The name of the model that is explained, or `NAME.pipeline`.
        endpoint: The name at which it is asked, too; empty: at its own alone.
    """
    method = alibi.explainer(asked.kind)
    if not asked.kind:
        reader.fault(asked.path, f"expected an explainer's type, came none; {alibi.unknown('', alibi.EXPLAINERS)}")
    elif not method:
        reader.fault(asked.path, f"no method of ours for {asked.kind!r}: {alibi.unknown(asked.kind, alibi.EXPLAINERS)}")
    parameters: dict[str, Any] = {"model": explains, "method": method}
    try:
        options, others = alibi.options(method, asked.options)
    except ValueError as error:
        reader.fault(asked.options_path, str(error))
    else:
        parameters |= {"options": options} if options else {}
        for name in others:
            reader.note(f"{asked.options_path}.{name}", f"without effect: our {method} has no such option")
    if endpoint:
        parameters["endpoint"] = endpoint
    return Model(runtime=EXPLAINER, uri=folder(reader, asked.uri, asked.uri_path), parameters=parameters)


def folder(reader: Reader, uri: str, path: str) -> str:
    """The uri, if it can be a trust folder's; others are noted."""
    if pods.may_be_trusted(uri):
        return uri
    reader.note(
        path,
        f"without effect: what alibi saved is pickled code, which is not read; write a trust folder beside the model "
        f"that is explained, by `{FIT}`",
        uri,
    )
    return ""


def of_container(reader: Reader, container: Mapping[str, Any], path: str) -> Asked:
    """What a container explains by, of the servers of alibi, AIX and ART that KServe publishes.

    Their arguments: those of a server, then the explainer's class (of alibi by its place, of the others by name), then
    options by name.
    """
    env = pods.variables(reader, container, path, honoured=(STORAGE_URI,))
    image = container.get("image", "")
    named, rest = pods.arguments(container.get("args", ()))
    kind = rest[0] if rest else next((named[each] for each in _TYPES if each in named), "")
    if pods.image_name(image) not in _IMAGES and not alibi.explainer(kind):
        reader.fault(
            path,
            f"the image {image!r} cannot be run here, and its args name no explainer; "
            f"{alibi.unknown(kind, alibi.EXPLAINERS)}. Leave the explainer out: a model with a trust folder, which "
            f"`{FIT}` writes, answers `:explain` at its own name",
        )
    for key, reason in (("name", pods.NO_PODS), ("image", pods.NO_IMAGE)):
        if key in container:
            reader.note(f"{path}.{key}", f"without effect: {reason}", container[key])
    storage = named.get("storage_uri", "")
    mounted = storage.startswith("/mnt/")
    for name in sorted(named.keys() & {*_OF_SERVERS, *(("storage_uri",) if mounted else ())}):
        reader.note(f"{path}.args", f"without effect: --{name}: {pods.NO_PODS}")
    options = {k: v for k, v in named.items() if k not in _OF_SERVERS and k not in {*_TYPES, "storage_uri"}}
    return Asked(
        kind=kind,
        path=f"{path}.args",
        uri=env.get(STORAGE_URI, "") if mounted or not storage else storage,
        uri_path=f"{path}.env" if mounted or not storage else f"{path}.args",
        options=options,
        options_path=f"{path}.args",
    )


def typed(uri: str) -> Field:
    """An explainer that is said by its type.

    Args:
        uri: What the field is called that says where it was saved.
    """
    return group(
        {
            **{name: idle(pods.NO_PODS) for name in pods.CONTAINER},
            "storage": idle("a trust folder is named by its uri"),
            "type": text("`parameters.method`, by our name for it"),
            uri: text("`uri`, where it is a trust folder"),
            "runtimeVersion": idle("the library that is installed here is used", "text"),
            "config": base.mapped(base.anything("`parameters.options`, by our names for them")),
        }
    )


def of_type(content: Mapping[str, Any], path: str, uri: str, *, given: str = "") -> Asked:
    """What an explainer that is said by its type explains by.

    Args:
        content: As `typed` describes it.
        path: Where it stands.
        uri: As for `typed`.
        given: Where it was saved, if that is said elsewhere.
    """
    return Asked(
        kind=content.get("type", ""),
        path=f"{path}.type",
        uri=content.get(uri, "") or given,
        uri_path=f"{path}.{uri}",
        options=content.get("config", {}),
        options_path=f"{path}.config",
    )
