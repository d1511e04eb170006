"""Client: talking to a running server over HTTP.

`Client` speaks the Open Inference Protocol (V2) with the standard library alone, so it also talks to other servers of
that protocol; `batch` asks such a server for a whole file of requests; `remote` is a model of such a server as an
`Infer`. May import: payload, errors, and `remote` the protocols. Never: anything of the server.
"""

from headrace.client.http import Client, IndexEntry, ModelMetadata
from headrace.errors import Unreachable

__all__ = ["Client", "IndexEntry", "ModelMetadata", "Unreachable"]
