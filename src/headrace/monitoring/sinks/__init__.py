"""Sinks: where events go. One file per kind of address, and one line in `registry`.

May import: payload, errors, protocols. A sink is called from threads of `monitoring.outbox`, never from a loop.
"""
