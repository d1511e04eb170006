"""Security: what may be loaded, and how it is refused.

May import: runtimes, payload, errors.
"""
