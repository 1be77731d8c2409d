"""Debug mode is on: an array that changes under a request is a failure here, as it may not be elsewhere."""

from collections.abc import Iterator

import pytest

from minigrad.dist.debug_mode import debug


@pytest.fixture(autouse=True, scope="session")
def _debug_mode() -> Iterator[None]:
    with debug():
        yield
