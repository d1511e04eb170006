"""The types of the repository extension."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, List, Optional

from pydantic import RootModel

from .base import BaseModel


class State(Enum):
    """Where a model is in its life."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


class RepositoryIndexRequest(BaseModel):
    """Which models to list."""

    ready: Optional[bool] = None


class RepositoryIndexResponseItem(BaseModel):
    """One model in the index."""

    name: str
    version: Optional[str] = None
    state: State
    reason: str


class RepositoryIndexResponse(RootModel[List[RepositoryIndexResponseItem]]):
    """The index."""

    root: List[RepositoryIndexResponseItem]

    def __iter__(self) -> Iterator[RepositoryIndexResponseItem]:  # type: ignore[override]  # the original has it so
        return iter(self.root)

    def __getitem__(self, idx: Any) -> Any:
        return self.root[idx]

    def __len__(self) -> int:
        return len(self.root)


class RepositoryLoadErrorResponse(BaseModel):
    """Why a load failed."""

    error: Optional[str] = None


class RepositoryUnloadErrorResponse(BaseModel):
    """Why an unload failed."""

    error: Optional[str] = None
