"""`neox-eqx benchmark`: what it refuses before anything of the model is there."""

import importlib.util
import json
from pathlib import Path
from typing import Literal

import pytest

from neox_eqx.benchmarking import random_model
from neox_eqx.cli import benchmark
from neox_eqx.errors import InputError


def test_a_preset_that_the_memory_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_model, "free_bytes", lambda model: 20 * 2**30)
    with pytest.raises(InputError) as caught:
        benchmark.main(benchmark.Options(preset="polyglot-ko-12.8b"))
    assert str(caught.value).startswith(
        "--preset polyglot-ko-12.8b: its parameters take 25.8 GB in float16, and 21.5 GB"
    )


REFUSED = {
    "leave out --num-beams": {"num_beams": 2},
    "leave out --bad-words": {"bad_words": 3},
    "leave out --cache-bits": {"cache_bits": 8},
    "leave out --top-p": {"top_p": 0.9},
}


@pytest.mark.parametrize("said", REFUSED)
def test_llama_cpp_is_compared_with_greedy_tokens_of_the_same_bits(said: str) -> None:
    options = benchmark.Options(preset="pythia-14m", against="llama.cpp", **REFUSED[said])
    with pytest.raises(InputError, match=said):
        benchmark.main(options)


def test_a_peer_that_is_not_installed_is_named_with_what_to_install() -> None:
    if importlib.util.find_spec("llama_cpp"):
        pytest.skip("llama.cpp is installed here")
    with pytest.raises(InputError, match="run pip install llama-cpp-python gguf"):
        benchmark.main(benchmark.Options(preset="pythia-14m", against="llama.cpp"))


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_llama_cpp_generates_from_the_same_weights(
    quantize: Literal["int8", "int4"] | None, tmp_path: Path
) -> None:
    """Where it is installed; the tests do not ask for it, as it is compiled for many minutes."""
    pytest.importorskip("llama_cpp")
    benchmark.main(
        benchmark.Options(
            preset="pythia-14m",
            against="llama.cpp",
            batch_size=2,
            prompt_len=20,
            gen_len=8,
            rounds=1,
            quantize=quantize,
            json=tmp_path / "out.json",
        )
    )
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["peer"] == "llama.cpp"
    assert written["equal_tokens"] == 1 if quantize is None else written["equal_tokens"] > 0


def test_transformers_is_compared_with_the_same_bits() -> None:
    for own in ({"quantize": "int8"}, {"cache_bits": 8}):
        with pytest.raises(InputError, match="leave out --quantize and --cache-bits"):
            benchmark.main(benchmark.Options(preset="pythia-14m", against="transformers", **own))
