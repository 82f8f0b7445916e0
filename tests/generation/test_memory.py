"""What would take more memory than there is is refused before it is there."""

from typing import Any

import pytest

from neox_eqx import DEMO_MODEL, GenerationOptions, InputError, TextGenerator
from neox_eqx.generation.decoding.memory import bytes_needed, free_bytes
from neox_eqx.generation.words import Words


@pytest.fixture(scope="module")
def demo() -> TextGenerator:
    return TextGenerator.load(DEMO_MODEL)


@pytest.mark.parametrize(
    ("own", "what"),
    [
        (dict(num_beams=1_000_000), "the keys and values of|the scores of"),
        (dict(num_beams=2**40), "the scores of"),
        (dict(num_samples=10_000_000, temperature=1.0), "the keys and values of"),
        (dict(num_samples=2**62, temperature=1.0), "the keys and values of"),
    ],
)
def test_a_request_beyond_all_memory_is_refused_in_one_line(
    demo: TextGenerator, own: dict[str, Any], what: str
) -> None:
    message = (
        rf"a batch of 1 needs [\d.,]+ [GT]B of memory, [\d.,]+ [GT]B of it for ({what}).* free"
    )
    with pytest.raises(InputError, match=message) as told:
        demo.generate(["Tom has 3 cats."], GenerationOptions(max_new_tokens=2, **own))
    assert len(str(told.value)) < 300


def test_what_is_counted_are_the_arrays(demo: TextGenerator) -> None:
    own = dict(bad_words=((1, 2, 3), (4,)), logit_bias={7: 1.0}, stop=("ab", "c", (5, 6)))
    _, request = demo.request("Tom", GenerationOptions(num_samples=10, temperature=1.0, **own))
    needed = bytes_needed(demo.model, [request], tokens_spelled=100)
    config, length = demo.model.config, 16 + 64 * 10  # a prompt, and ten texts as they begin
    cache = 2 * 4 * config.num_hidden_layers * config.hidden_size * length
    assert needed["the keys and values of 10 samples"] == cache
    assert needed["bad_words"] == Words.of([own["bad_words"]] * 10).ids.nbytes
    assert needed["logit_bias"] == Words.of([[(7,)]] * 10).ids.nbytes
    sequences = Words.of([[(5, 6)]] * 10).ids.nbytes
    assert needed["stop"] == sequences + 4 * 100 * len(b"abc")
    assert 10**8 < free_bytes(demo.model) < 10**13


def test_the_scores_of_a_prompt_are_those_of_all_pairs_of_its_positions(
    demo: TextGenerator,
) -> None:
    _, request = demo.request("Tom has 3 cats. " * 25, GenerationOptions())
    assert 128 < len(request.tokens) <= 256
    needed = bytes_needed(demo.model, [request], tokens_spelled=0)
    config = demo.model.config
    numbers = config.num_attention_heads * 256**2 + 256 * config.intermediate_size
    assert needed["the scores of 1 rows"] == 3 * 4 * numbers
