"""Monitoring: what is measured and logged about each exchange. Wraps `Infer`; never on the way of a reply.

May import: payload, errors.
"""
