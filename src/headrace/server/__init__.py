"""Server: the only listeners. Bytes and connections in, replies out; limits, deadlines, shutdown.

May import: protocols, serving, control, monitoring, security, routing, brokers, payload, errors.
"""
