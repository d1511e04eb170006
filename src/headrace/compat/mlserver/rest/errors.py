"""Errors as custom handlers answer them."""

from __future__ import annotations

from typing import Optional

from pydantic import BaseModel
from starlette.requests import Request

from ..errors import MLServerError
from .responses import Response


class APIErrorResponse(BaseModel):
    """The body of an error."""

    error: Optional[str] = None


async def handle_mlserver_error(request: Request, exc: MLServerError) -> Response:
    """The answer to an error that has a status."""
    return Response(status_code=exc.status_code, content=APIErrorResponse(error=str(exc)).model_dump())


_EXCEPTION_HANDLERS = {MLServerError: handle_mlserver_error}
