"""The errors that model code raises, each with the HTTP status that it asks for."""

from __future__ import annotations

from typing import Optional


class MLServerError(Exception):
    """Ends a request with a status of the model's choice."""

    def __init__(self, msg: str, status_code: int = 400) -> None:
        super().__init__(msg)
        self.status_code = status_code


def _named(name: str, version: Optional[str]) -> str:
    return f"Model {name} with version {version}" if version else f"Model {name}"


class ModelNotFound(MLServerError):
    """No such model, or no such version of it: 404."""

    def __init__(self, name: str, version: Optional[str] = None) -> None:
        super().__init__(f"{_named(name, version)} not found", 404)


class ModelNotReady(MLServerError):
    """The model is known but not loaded: 400."""

    def __init__(self, name: str, version: Optional[str] = None) -> None:
        super().__init__(f"{_named(name, version)} is not ready yet.", 400)


class InferenceError(MLServerError):
    """The request cannot be answered: 400."""

    def __init__(self, msg: str) -> None:
        super().__init__(msg, 400)


class InvalidModelURI(MLServerError):
    """The model's uri leads nowhere: 422."""

    def __init__(self, name: str, model_uri: Optional[str] = None) -> None:
        where = f" ({model_uri})" if model_uri else ""
        super().__init__(f"Invalid URI specified for model {name}{where}", 422)


class ModelParametersMissing(MLServerError):
    """The model needs parameters that its settings lack: 400."""

    def __init__(self, model_name: str) -> None:
        super().__init__(f"Parameters missing for model {model_name}", 400)
