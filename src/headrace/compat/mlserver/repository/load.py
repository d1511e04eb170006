"""Reads one model-settings.json."""

from __future__ import annotations

import os

from ..logging import logger
from ..settings import ModelParameters, ModelSettings


def load_model_settings(model_settings_path: str) -> ModelSettings:
    """The settings in a file, with the folder's name and place where they give none."""
    settings = ModelSettings.parse_file(model_settings_path)
    folder = os.path.dirname(os.path.abspath(model_settings_path))
    name = os.path.basename(folder)
    if not settings.name:
        settings.name = name
    elif not _folder_matches(name, settings):
        logger.warning("Model name '%s' is different than model's folder name '%s'.", settings.name, name)
    if settings.parameters is None:
        settings.parameters = ModelParameters()
    if not settings.parameters.uri:
        settings.parameters.uri = folder
    return settings


def _folder_matches(folder_name: str, model_settings: ModelSettings) -> bool:
    """Whether the folder is named for the model, or for its version."""
    return folder_name in {model_settings.name, model_settings.version}
