"""The hosts of these tests; a test process makes its own."""

from collections.abc import Iterator

import pytest

from tests.podrun.hosts import Hosts
from tests.podrun.networks import pod_of


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Four hosts, h0 to h3."""
    with pod_of(4) as hosts:
        yield hosts


@pytest.fixture
def pod(hosts: Hosts) -> Iterator[Hosts]:
    """The four hosts, with nothing left on them by the test that ends."""
    yield hosts
    hosts.expect_nothing_left()
