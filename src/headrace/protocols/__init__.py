"""Protocols: wire to request and back. Each has a parse, a render and a status table, and opens nothing.

Belongs here: bytes to InferenceRequest, InferenceResponse to bytes, errors to codes.
Does not belong here: sockets, routing, models.
May import: payload, errors.
"""
