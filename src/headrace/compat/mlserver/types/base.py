"""What the types have in common."""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic import ConfigDict


class BaseModel(pydantic.BaseModel):
    """A model whose dumps leave out what is unset or None."""

    model_config = ConfigDict(use_enum_values=True, protected_namespaces=())

    def model_dump(self, exclude_unset: bool = True, exclude_none: bool = True, **kwargs: Any) -> dict[str, Any]:
        """As pydantic's, without what is unset or None."""
        return super().model_dump(exclude_unset=exclude_unset, exclude_none=exclude_none, **kwargs)

    def model_dump_json(self, exclude_unset: bool = True, exclude_none: bool = True, **kwargs: Any) -> str:
        """As pydantic's, without what is unset or None."""
        return super().model_dump_json(exclude_unset=exclude_unset, exclude_none=exclude_none, **kwargs)
