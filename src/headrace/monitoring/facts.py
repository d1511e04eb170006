"""What is measured of a window beside drift: how well the model does, and whom it treats worse. `stream` makes a judge
of each; the statistics are in `detectors.performance` and `detectors.bias`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.errors import NotSupported
from headrace.monitoring.window import Columns
from headrace.trust.folder import Folder
from headrace.trust.spec import DetectorSpec

Measure = Callable[[Columns], Mapping[str, Any] | None]


def measure_of(folder: Folder, spec: DetectorSpec) -> Measure:
    """What a detector of kind performance or bias measures."""
    raise NotSupported(f"{folder.path}: '{spec.method}' is not known")
