"""Makes the repository that the settings ask for."""

from __future__ import annotations

from ..settings import Settings
from .repository import ModelRepository, SchemalessModelRepository


class ModelRepositoryFactory:
    """Makes repositories."""

    @staticmethod
    def resolve_model_repository(settings: Settings) -> ModelRepository:
        """The folder of models, or what `model_repository_implementation` names."""
        kind = settings.model_repository_implementation or SchemalessModelRepository
        made: ModelRepository = kind(
            root=settings.model_repository_root, **settings.model_repository_implementation_args
        )
        return made
