"""A model that another server holds: a `Model` resource pinned to a `Server` with a url. The backend puts what this
gives into the routing table, where it is a model like any other.
"""

from __future__ import annotations

import msgspec

from headrace.client.remote import Remote
from headrace.control.backends.base import ModelUnit, ServerUnit
from headrace.errors import HeadraceError, LoadFailed
from headrace.payload import Signature


async def connect(unit: ModelUnit, server: ServerUnit) -> tuple[Remote, Signature]:
    """What asks the model, and what it says of itself.

    Raises:
        LoadFailed: the server does not answer, or does not serve a model of that name; says which.
    """
    url = server.spec.url
    where = f"Server '{server.name}' at {url}"
    remote = Remote(url, model=unit.name)
    try:
        signature = await remote.metadata() if await remote.ready() else None
    except HeadraceError as error:
        await remote.close(drain_seconds=0.0)
        raise LoadFailed(f"{where} does not tell of model '{unit.name}': {error}") from error
    except BaseException:
        await remote.close(drain_seconds=0.0)
        raise
    if signature is None:
        await remote.close(drain_seconds=0.0)
        raise LoadFailed(f"{where} does not have model '{unit.name}' ready; load it there")
    note = f"served by {where}"
    return remote, msgspec.structs.replace(signature, properties={**signature.properties, "placement.reason": note})
