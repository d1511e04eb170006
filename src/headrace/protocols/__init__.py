"""Protocols: wire to request and back. Each has a parse, a render and a status table, and opens nothing.

Belongs here: bytes to InferenceRequest, InferenceResponse to bytes, errors to codes; the documents about the wire.
Does not belong here: sockets, routing, models.
May import: payload, errors, and the messages of brokers (`brokers.base`).

`v2_rest`, `v2_grpc` and `v1` are the protocols; `v2_control` holds the V2 bodies around inference; `status` the REST
protocols' table of errors; `routes` every REST path, from which `openapi` makes the document. What they share has a
module for each thing: `numbers`, `documents`, `bytes_tensor`, `classification`.
"""
