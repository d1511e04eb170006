"""MLServer's `model_repository_implementation`: a class of somebody's own that says which models there are. The dialect
calls it where settings name one; it is the one place of the dialect that runs foreign code.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from headrace import compat
from headrace.errors import HeadraceError, LoadFailed
from headrace.runtimes.own_code import OwnCode
from headrace.serving.dialects.fields import Document

DEFAULT: Final = frozenset(
    {
        "mlserver.repository.SchemalessModelRepository",
        "mlserver.repository:SchemalessModelRepository",
        "mlserver.repository.repository.SchemalessModelRepository",
    }
)
"""The original's own class, whose rules are those of the dialect."""


def listed(implementation: str, arguments: Mapping[str, Any], root: Path) -> list[tuple[Path | None, Document]]:
    """What the repository lists: of each model the settings file that it came from, if any, and its settings.

    Blocks, and runs a loop of its own: call it where none runs.

    Args:
        implementation: The dotted path of the class.
        arguments: What it is constructed with, beside `root`.
        root: The folder of models, first on the import path.

    Raises:
        LoadFailed: the class is not there, or what it does fails; the cause is chained.
    """
    module, _, name = implementation.replace(":", ".").rpartition(".")
    compat.provide(always=False)
    code = OwnCode(root, others=[Path.cwd()], fresh=True)
    try:
        with code.importable():
            kind = getattr(code.module(module), name)
            repository = kind(**{"root": str(root), **arguments})
            found = asyncio.run(repository.list())
            return [_document(settings, implementation) for settings in found]
    except HeadraceError:
        raise
    except Exception as error:
        raise LoadFailed(
            f"model_repository_implementation {implementation}: {type(error).__name__}: {error}"
        ) from error
    finally:
        code.forget()


def _document(settings: Any, implementation: str) -> tuple[Path | None, Document]:
    content = settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    with contextlib.suppress(KeyError):
        content["implementation"] = content.pop("implementation_")  # the original has no alias for it
    source = getattr(settings, "_source", None)
    file = Path(source).absolute() if source else None
    return file, Document(str(file or implementation), content)
