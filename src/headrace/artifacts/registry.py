"""Which stores and registries there are, by the scheme of their uris: `fetch` opens them, and so do sources that lead
to other sources.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

from headrace.artifacts import uri as uri_
from headrace.artifacts.base import Source
from headrace.artifacts.credentials import Credentials
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import SettingsError

SCHEMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "file": "headrace.artifacts.buckets:open_local",
        "s3": "headrace.artifacts.buckets:open_bucket",
        "gs": "headrace.artifacts.buckets:open_bucket",
        "az": "headrace.artifacts.buckets:open_bucket",
        "http": "headrace.artifacts.http:open_web",
        "https": "headrace.artifacts.http:open_web",
        "pvc": "headrace.artifacts.buckets:open_volume",
        "hf": "headrace.artifacts.hf:open_hub",
        "models": "headrace.artifacts.mlflow:open_models",
        "runs": "headrace.artifacts.mlflow:open_runs",
        "mlflow-artifacts": "headrace.artifacts.mlflow:open_artifacts",
    }
)
"""Scheme to `module:function`, which takes the uri, `settings` and `credentials`, and asks nothing of anybody yet."""

INSTEAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "hdfs": "mount it, or copy it to a bucket with `hadoop distcp`",
        "webhdfs": "mount it, or copy it to a bucket with `hadoop distcp`",
        "oci": "copy the model out of the image, or mount it as an image volume and name its path",
        "modelscope": "download it with `modelscope download` and name its path",
        "git": "clone it and name its path",
        "ssh": "copy it with `scp` and name its path",
        "ftp": "copy it and name its path",
    }
)
"""What is known and not spoken, and what to do instead."""


def open_source(name: str, *, settings: ArtifactSettings, credentials: Credentials) -> Source:
    """The files of a uri. Nothing is asked of the store yet.

    Raises:
        SettingsError: no store or registry is known by its scheme, or the uri lacks a part.
        ArtifactDenied: there are no credentials where there must be.
    """
    scheme = uri_.parse(name).scheme
    remote = credentials.remotes.get(uri_.scheme_of(name))
    if remote is not None:
        scheme = remote.scheme
    if scheme not in SCHEMES:
        raise unknown(name, SCHEMES, (*uri_.SAME, *credentials.remotes))
    module, _, function = SCHEMES[scheme].partition(":")
    make: Callable[..., Source] = getattr(importlib.import_module(module), function)
    return make(name, settings=settings, credentials=credentials)


def unknown(name: str, known: Collection[str], others: Collection[str] = (), *, what: str = "models") -> SettingsError:
    """The error for a scheme that does not lead to what is asked for: what to do, or the nearest one, and all.

    Args:
        name: The uri.
        known: Schemes that do.
        others: Words that do as well.
        what: It is asked for.
    """
    scheme = uri_.scheme_of(name)
    place = uri_.shown(name)
    if scheme in INSTEAD:
        return SettingsError(f"{place}: {scheme} is not supported: {INSTEAD[scheme]}")
    near = difflib.get_close_matches(scheme, (*known, *others), n=1, cutoff=0.5)
    return SettingsError(
        f"{place}: no {what} come by {scheme!r}: {f'did you mean {near[0]}? ' if near else ''}known are "
        f"{', '.join(sorted(known))}, and remotes of artifacts.credentials"
    )
