"""Runtimes: the model itself. One file per framework, each framework imported only there and only in `load`.

Belongs here: recognising an artifact by its content, loading it, calling it on arrays, describing it (Signature).
Does not belong here: wires, content types, batching, threads, processes. May import: payload, errors.

`RUNTIMES` is the registry: adding a runtime is one line here.
"""
