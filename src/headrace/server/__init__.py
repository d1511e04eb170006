"""Server: the only listeners. Bytes and connections in, replies out; limits, deadlines, shutdown.

May import: protocols, serving, monitoring, payload, errors.
"""
