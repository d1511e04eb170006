"""Client: talking to a running server over HTTP.

May import: payload, errors.
"""
