"""What the tests of the library share."""

from collections.abc import Iterator

import pytest

from neox_eqx.native import library

ALL = ("avx512", "avx2", "plain")


@pytest.fixture
def instruction_sets() -> Iterator[list[str]]:
    """Those that this machine has; the fastest computes again afterwards, with all threads."""
    if not library.is_available():
        pytest.skip("there is no C++ compiler, or the library is turned off")
    yield [name for name in ALL if library.use(name)]
    library.use()
