"""Client: talking to a running server over HTTP.

`Client` speaks the Open Inference Protocol (V2) with the standard library alone, so it also talks to other servers of
that protocol; `batch` asks such a server for a whole file of requests. May import: payload, errors. Never: anything of
the server.
"""

from headrace.client.http import Client, IndexEntry, ModelMetadata, Unreachable

__all__ = ["Client", "IndexEntry", "ModelMetadata", "Unreachable"]
