"""Codecs: tensor to value by content type, and back.

Belongs here: what a content type means. Does not belong here: wires, models. May import: payload, errors.
"""
