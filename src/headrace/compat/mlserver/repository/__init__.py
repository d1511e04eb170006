"""Where models' settings come from, for code that reads them itself."""

from .factory import ModelRepositoryFactory
from .repository import DEFAULT_MODEL_SETTINGS_FILENAME, ModelRepository, SchemalessModelRepository

__all__ = [
    "ModelRepository",
    "SchemalessModelRepository",
    "DEFAULT_MODEL_SETTINGS_FILENAME",
    "ModelRepositoryFactory",
]
