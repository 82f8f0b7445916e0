"""One server for all cases of these tests."""

from collections.abc import Iterator

import pytest

from tests.fuzz.bases import add_bases
from tests.fuzz.runner import Runner


@pytest.fixture(scope="package")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("fuzz")) as server:
        add_bases(server)
        yield server
