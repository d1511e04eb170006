"""The role of a dialect: another server's folder layout, read into our specs. `discovery` asks at the top of each PATH.

A survey's outcome stands here too, since dialects and discovery's own rules give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from headrace.errors import HeadraceError
from headrace.runtimes.base import Recognition
from headrace.serving.spec import ModelSpec, Overrides

Recognise = Callable[[Path], tuple[str, Recognition]]
"""A path to the runtime's name and its evidence; raises UnknownFormat when nobody claims it, LoadFailed on a tie."""

Foreign = Mapping[str, tuple[Any, str]]
"""Settings as `settings.load` takes them from elsewhere: `section.field` to a value and where it came from."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that should have been a model and cannot be."""

    name: str
    """The name it would have had; it may be one that no URL can hold."""
    version: str = ""
    place: str
    """File or folder."""
    error: HeadraceError


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: what can be loaded, and what should be but cannot. All in a fixed order."""

    specs: tuple[ModelSpec, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    """What somebody may miss and no one model is to blame for."""


class Dialect(Protocol):
    """A module with these functions; one row in `dialects.DIALECTS`."""

    def speaks(self, folder: Path, environ: Mapping[str, str]) -> bool:
        """Whether the folder was made for that server. Cheap: names are looked at, no model is."""

    def survey(
        self,
        folder: Path,
        *,
        environ: Mapping[str, str],
        recognise: Recognise,
        defaults: Overrides,
        overrides: Overrides,
    ) -> Survey:
        """The models of a folder that it speaks of; what is wrong with one is no other's problem.

        Args:
            folder: Absolute.
            environ: Environment variables.
            recognise: As for `discovery.survey`.
            defaults: As for `discovery.survey`; over what the folder says of all its models, under what it says of one.
            overrides: As for `discovery.survey`.
        """

    def server_settings(self, folder: Path, environ: Mapping[str, str]) -> tuple[Foreign, tuple[str, ...]]:
        """What the folder says of the server, and what of that is not honoured.

        Raises:
            SettingsError: a settings file is wrong; names file, line and key.
        """
