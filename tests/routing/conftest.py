"""What tests of traffic share."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture
def settle():
    """Let what is scheduled run until a condition holds."""

    async def until(condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)

    return until
