"""Lets these tests import `mlserver` as the models they speak of do."""

from headrace import compat

compat.provide(always=True)
