"""Which files say what packages a model needs. Imports nothing, so that a server all of whose models come without one
has no need of the rest of the room.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

MLFLOW: Final = "python_env.yaml"
FILES: Final = (MLFLOW, "requirements.txt", "conda.yaml", "conda.yml", "environment.yml", "environment.yaml")
"""In the order in which they count."""


def find(folder: Path) -> Path | None:
    """The file that counts in a model's folder, or None."""
    for name in FILES:
        if (path := folder / name).is_file():
            return path
    return None


def is_asked(place: Path | None, wanted: str) -> bool:
    """Whether a model at `place` may need packages beyond the server's: a file says so, or a setting does."""
    return wanted not in {"auto", "off", "build"} or (place is not None and find(place) is not None)
