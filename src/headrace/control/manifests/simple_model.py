"""The model that Seldon Core v1 has for trying things out (`implementation: SIMPLE_MODEL`), as a component class. Named
by the resources that `seldon_v1` makes; loaded by the runtime of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SimpleModel:
    """Answers the same three numbers, whatever it is asked."""

    class_names = ("class0", "class1", "class2")

    def predict(self, values: Any, names: Sequence[str]) -> list[list[float]]:
        """One row of three numbers."""
        del values, names
        return [[0.1, 0.9, 0.5]]
