"""What the tests of commands share."""

import socket

import pytest


@pytest.fixture
def unused_url():
    """An address at which nobody listens, for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
