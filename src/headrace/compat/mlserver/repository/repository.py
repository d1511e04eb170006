"""The role of a repository, and the one that is a folder."""

from __future__ import annotations

import abc
import glob
import os
from typing import List

from pydantic import ValidationError

from ..errors import ModelNotFound
from ..logging import logger
from ..settings import ModelParameters, ModelSettings
from .load import load_model_settings

DEFAULT_MODEL_SETTINGS_FILENAME = "model-settings.json"


class ModelRepository(abc.ABC):
    """Gives the settings of models."""

    @abc.abstractmethod
    async def list(self) -> List[ModelSettings]:
        """Of all models."""

    @abc.abstractmethod
    async def find(self, name: str) -> List[ModelSettings]:
        """Of all versions of one model.

        Raises:
            ModelNotFound: there is none.
        """


class SchemalessModelRepository(ModelRepository):
    """Every model-settings.json below a folder; where there is none, the environment."""

    def __init__(self, root: str) -> None:
        self._root = root

    async def list(self) -> List[ModelSettings]:
        """Of all models; a file that cannot be read is logged and left out."""
        found = []
        pattern = os.path.join(os.path.abspath(self._root), "**", DEFAULT_MODEL_SETTINGS_FILENAME)
        for path in glob.glob(pattern, recursive=True):
            try:
                found.append(load_model_settings(path))
            except (OSError, ValueError):
                logger.exception("Failed load model settings at %s.", path)
        return found or self._from_environment()

    @staticmethod
    def _from_environment() -> List[ModelSettings]:
        try:
            settings = ModelSettings()
        except ValidationError:
            return []
        settings.parameters = settings.parameters or ModelParameters()
        return [settings]

    async def find(self, name: str) -> List[ModelSettings]:
        """Of all versions of one model."""
        found = [settings for settings in await self.list() if settings.name == name]
        if not found:
            raise ModelNotFound(name)
        return found
