"""`neox-eqx benchmark`: what it refuses before anything of the model is there."""

import pytest

from neox_eqx.cli import benchmark
from neox_eqx.errors import InputError


def test_a_preset_that_the_memory_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "free_bytes", lambda model: 20 * 2**30)
    with pytest.raises(InputError) as caught:
        benchmark.main(benchmark.Options(preset="polyglot-ko-12.8b"))
    assert str(caught.value).startswith(
        "--preset polyglot-ko-12.8b: its parameters take 25.8 GB in float16, and 21.5 GB"
    )
