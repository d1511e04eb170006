"""Lets these tests import `mlserver` as the models they speak of do."""

import pytest

from headrace import compat

compat.provide(always=True)  # while they are collected


@pytest.fixture(autouse=True)
def _provided():
    """While each of them runs: the tests of other rooms take the finder away."""
    compat.provide(always=True)
    yield
    compat.remove()
