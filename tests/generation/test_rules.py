"""Penalties, biases and bans give the scores of transformers' processors of the same names."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GPTNeoXForCausalLM

from neox_eqx.generation.history import NOTHING, History
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.options.resolved_options import ResolvedOptions
from neox_eqx.generation.processors.chain import processors_of, warpers_of
from neox_eqx.generation.vocabulary import Vocabulary
from tests.hf_models import config_json, hf_model

VOCAB, PROMPT, SLOTS = 23, 16, 64
Row = tuple[tuple[int, ...], tuple[int, ...]]


def drawn_row(random: np.random.Generator, count: int) -> Row:
    """A prompt and `count` generated tokens; of few ids, so that much of it repeats."""
    ids = random.choice(VOCAB, random.integers(2, 8), replace=False)
    prompt = random.choice(ids, random.integers(1, PROMPT + 1))
    return tuple(prompt.tolist()), tuple(random.choice(ids, count).tolist())


def history_of(rows: Sequence[Row]) -> History:
    """What stands behind the generated tokens of each row is not nothing."""
    prompts = np.full((len(rows), PROMPT), NOTHING, np.int32)
    generated = np.random.default_rng(0).integers(0, VOCAB, (len(rows), SLOTS)).astype(np.int32)
    for row, (prompt, new) in enumerate(rows):
        prompts[row, PROMPT - len(prompt) :] = prompt
        generated[row, : len(new)] = new
    lengths = [len(new) for _, new in rows]
    return History(*(jnp.asarray(x, jnp.int32) for x in (prompts, generated, lengths)))


def drawn_logits(random: np.random.Generator, rows: int) -> np.ndarray:
    """With ties, zeros and tokens that are forbidden already."""
    logits = random.normal(0, 3, (rows, VOCAB)).round(random.integers(0, 5))
    return np.where(random.random(logits.shape) < 0.05, -np.inf, logits).astype(np.float32)


def processed(
    options: Sequence[ResolvedOptions], rows: Sequence[Row], logits: np.ndarray, eos: Sequence[int]
) -> np.ndarray:
    """The logits after our processors, and our warpers where a row samples."""
    warpers = warpers_of(options) if all(one.temperature for one in options) else ()
    chain = (processors_of(options, Vocabulary(eos)), warpers)
    return np.asarray(_processed(chain, history_of(rows), jnp.asarray(logits)))


@jax.jit
def _processed(chain: Any, history: History, logits: jax.Array) -> jax.Array:
    processors, warpers = chain
    for processor in processors:
        logits = processor(logits, history)
    for warper in warpers:
        logits = warper(logits)
    return logits


MODEL = hf_model(config_json(vocab_size=VOCAB))


def expected(
    own: dict[str, Any], row: Row, logits: np.ndarray, eos: Sequence[int], model: Any = MODEL
) -> np.ndarray:
    """One row after the processors that transformers itself puts together."""
    prompt, new = row
    settings = dict(own)
    bias = settings.pop("logit_bias", None)
    if bias:
        settings["sequence_bias"] = [[[id], float(value)] for id, value in bias.items()]
    bad = settings.pop("bad_words", None)
    if bad:
        settings["bad_words_ids"] = [list(word) for word in bad]
    if not eos:  # without which transformers fails
        settings.pop("exponential_decay_length_penalty", None)
    temperature = settings.pop("temperature", 0)
    if temperature:
        settings |= {"do_sample": True, "temperature": float(temperature)}
    config = GenerationConfig(**settings, eos_token_id=list(eos))
    config._eos_token_tensor = torch.tensor(list(eos)) if eos else None
    if config.min_new_tokens is not None:  # as `generate` prepares it
        config.min_length = config.min_new_tokens + len(prompt)
    assert isinstance(model, GPTNeoXForCausalLM)
    chain = model._get_logits_processor(config, input_ids_seq_length=len(prompt))
    return chain(torch.tensor([prompt + new]), torch.tensor(logits[None]))[0].numpy()


def drawn_ids(random: np.random.Generator, most: int) -> tuple[int, ...]:
    return tuple(random.integers(0, VOCAB, random.integers(1, most + 1)).tolist())


def bad_words(random: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Id 0 and words longer than some texts among them."""
    lengths = [1, 1, 2, 2, 2, 3, 4, 20]
    drawn = [tuple(random.integers(0, 6, length).tolist()) for length in lengths]
    return tuple(drawn[: random.integers(1, 9)]) + ((0,),) * bool(random.random() < 0.5)


DRAWS: dict[str, Any] = {
    "repetition_penalty": lambda random: float(random.choice([0.5, 1.0, 1.1, 1.7, 5.0])),
    "no_repeat_ngram_size": lambda random: int(random.choice([0, 1, 2, 3, 4, 30, 10**12])),
    "bad_words": bad_words,
    "min_length": lambda random: int(random.integers(0, 40)),
    "min_new_tokens": lambda random: int(random.integers(0, 12)),
    "exponential_decay_length_penalty": lambda random: (
        int(random.integers(0, 12)),
        float(random.choice([0.0, 0.5, 1.0, 1.01, 1.6])),
    ),
    "suppress_tokens": lambda random: drawn_ids(random, 5),
    "logit_bias": lambda random: {
        int(id): float(random.choice([-np.inf, -2.5, 0.0, 1.25, 100.0]))
        for id in drawn_ids(random, 6)
    },
}
IN_FILE: dict[str, Any] = {
    "begin_suppress_tokens": lambda random: list(drawn_ids(random, 5)),
    "sequence_bias": lambda random: [
        [list(word), float(random.normal(0, 3))] for word in set(bad_words(random))
    ],
}


def compare(random: np.random.Generator, names_of: Sequence[Sequence[str]]) -> None:
    """Draws a row with options of its own for each list of names, and runs them together.

    Each is compared with what transformers makes of it alone.
    """
    rows = len(names_of)
    count = int(random.choice([0, 1, 2, 9, 30, SLOTS]))
    drawn = [drawn_row(random, count) for _ in range(rows)]
    # The rows of a batch need not be of one length.
    texts = [(prompt, new[: max(count - row % 4, 0)]) for row, (prompt, new) in enumerate(drawn)]
    logits = drawn_logits(random, rows)
    eos = drawn_ids(random, 2) if random.random() < 0.8 else ()
    own = [{name: (DRAWS | IN_FILE)[name](random) for name in names} for names in names_of]
    options = []
    for each in own:
        call = {name: value for name, value in each.items() if name in DRAWS}
        file = {name: value for name, value in each.items() if name in IN_FILE}
        options.append(GenerationOptions(temperature=0.0, **call).resolve(file))
    actual = processed(options, texts, logits, eos)
    for row in range(rows):
        wanted = expected(own[row], texts[row], logits[row], eos)
        # Equal to the bit, but that XLA divides by a penalty as it multiplies by its inverse,
        # and adds up the biases of words that end alike in another order; a float32 to the power
        # of 60 is 2e-6 off, and a factor below 1 leaves little of a logit.
        sums = {"sequence_bias", "exponential_decay_length_penalty"} & own[row].keys()
        slack = dict(
            rtol=4e-6
            if "exponential_decay_length_penalty" in sums
            else 2e-7 * bool(sums or "repetition_penalty" in own[row]),
            atol=2e-6 * bool(sums),
        )
        np.testing.assert_allclose(actual[row], wanted, err_msg=str(own[row]), **slack)


@pytest.mark.typed
@pytest.mark.parametrize("name", [*DRAWS, *IN_FILE])
def test_each_processor_alone_gives_the_scores_of_transformers(name: str) -> None:
    random = np.random.default_rng(sum(map(ord, name)))
    for _ in range(6):
        compare(random, 12 * [[name]])


def test_hundreds_of_combinations_give_the_scores_of_transformers() -> None:
    random = np.random.default_rng(0)
    names = [*DRAWS, "begin_suppress_tokens"]
    for _ in range(10):
        numbers = random.integers(2, len(names) + 1, 40)
        compare(random, [random.choice(names, n, replace=False).tolist() for n in numbers])


def test_the_call_and_the_file_give_the_same_biases_and_bans() -> None:
    call = GenerationOptions(
        logit_bias={"3": 1.5, 4: -2}, bad_words=((0,), (1, 2)), suppress_tokens=(7,)
    )
    file = {
        "sequence_bias": [[[3], 1.5], [[4], -2.0]],
        "bad_words_ids": [[0], [1, 2]],
        "suppress_tokens": [7],
    }
    assert call.resolve({}) == GenerationOptions().resolve(file)
    assert call.resolve({"sequence_bias": [[[9], 1.0]], "suppress_tokens": [1]}) == call.resolve({})
    off = GenerationOptions(logit_bias={}, bad_words=(), suppress_tokens=())
    assert off.resolve(file) == GenerationOptions().resolve({})


def one_row(own: dict[str, Any], prompt: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Zeros after the processors of one row of options."""
    options = GenerationOptions(temperature=0.0, **own).resolve({})
    row = (tuple(prompt), tuple(new))
    return processed([options], [row], np.zeros((1, VOCAB), np.float32), [])[0]


@pytest.mark.typed
def test_presence_and_frequency_penalties_count_what_was_generated() -> None:
    prompt, new = [1, 2, 2, 2], [5, 2, 5, 5]
    presence = one_row({"presence_penalty": 0.75}, prompt, new)
    frequency = one_row({"frequency_penalty": -0.5}, prompt, new)
    both = one_row({"presence_penalty": 0.75, "frequency_penalty": -0.5}, prompt, new)
    wanted = np.zeros(VOCAB, np.float32)
    wanted[[5, 2]] = -0.75
    np.testing.assert_array_equal(presence, wanted)
    wanted[[5, 2]] = 1.5, 0.5
    np.testing.assert_array_equal(frequency, wanted)
    np.testing.assert_array_equal(both, presence + frequency)
    np.testing.assert_array_equal(one_row({"frequency_penalty": 2.0}, prompt, []), 0)


def test_a_repeated_ngram_may_begin_in_the_prompt_and_end_in_what_was_generated() -> None:
    forbidden = one_row({"no_repeat_ngram_size": 3}, [9, 4, 5], [6, 7, 4, 5]) == -np.inf
    assert forbidden.nonzero()[0].tolist() == [6]


def test_a_bad_word_may_begin_in_the_prompt_and_id_0_is_a_word() -> None:
    own = {"bad_words": ((0,), (1, 2, 3), (8, 2, 4))}
    forbidden = one_row(own, [9, 1], [2]) == -np.inf
    assert forbidden.nonzero()[0].tolist() == [0, 3]


def test_a_bad_word_that_is_an_eos_id_alone_is_left_to_the_model() -> None:
    options = GenerationOptions(temperature=0.0, bad_words=((3,), (3, 3))).resolve({})
    logits = np.zeros((1, VOCAB), np.float32)
    assert (processed([options], [((5,), ())], logits, [3]) == 0).all()
    assert (processed([options], [((3,), ())], logits, [3]) == -np.inf).nonzero()[1].tolist() == [3]


def test_tokens_that_are_not_allowed_are_dropped() -> None:
    logits = drawn_logits(np.random.default_rng(0), 3)
    known = np.arange(VOCAB) % 7 != 3
    (mask,) = processors_of([GenerationOptions().resolve({})], Vocabulary(allowed=known))
    kept = np.asarray(mask(jnp.asarray(logits), history_of([((1,), ())] * 3)))
    np.testing.assert_array_equal(kept[:, known], logits[:, known])
    assert (kept[:, ~known] == -np.inf).all()


def test_rows_that_are_off_are_left_as_they_are() -> None:
    """A row without options beside one that has them all."""
    random = np.random.default_rng(5)
    own = {name: draw(random) for name, draw in DRAWS.items()}
    own |= {"presence_penalty": 1.0, "frequency_penalty": 1.0, "temperature": 0.7}
    own |= {"top_p": 0.5, "top_k": 5, "min_p": 0.1, "typical_p": 0.5}
    own |= {"epsilon_cutoff": 0.1, "eta_cutoff": 0.1}
    off = GenerationOptions(temperature=1.0, top_k=0).resolve({})
    options = [off, GenerationOptions(**own).resolve({}), off]
    texts = [drawn_row(random, 9) for _ in options]
    logits = drawn_logits(random, 3)
    actual = processed(options, texts, logits, [1, 2])
    np.testing.assert_array_equal(actual[[0, 2]], logits[[0, 2]])
    assert not np.array_equal(actual[1], logits[1])


def test_values_that_differ_compile_nothing_new() -> None:
    random = np.random.default_rng(8)
    names = [*DRAWS]

    def run() -> None:
        own = [{name: DRAWS[name](random) for name in names} for _ in range(4)]
        for each in own:  # which are there at all is part of the program
            each |= {"repetition_penalty": 1.5, "no_repeat_ngram_size": 3, "bad_words": ((1, 2),)}
            each |= {"min_new_tokens": 4, "logit_bias": {1: 1.0}}
            each["exponential_decay_length_penalty"] = (2, float(random.choice([1.5, 0.5])))
        options = [GenerationOptions(temperature=0.0, **each).resolve({}) for each in own]
        texts = [drawn_row(random, 9) for _ in own]
        processed(options, texts, drawn_logits(random, 4), [1])

    run()
    before = _processed._cache_size()
    for _ in range(5):
        run()
    assert _processed._cache_size() == before


class Wrong:
    """Mistakes that are easily made, one a control: each is seen by the comparison."""

    @staticmethod
    def penalises_by_count(logits: np.ndarray, text: Sequence[int]) -> np.ndarray:
        for id in text:
            logits[id] = logits[id] * 1.7 if logits[id] < 0 else logits[id] / 1.7
        return logits

    @staticmethod
    def always_divides(logits: np.ndarray, text: Sequence[int]) -> np.ndarray:
        logits[list(set(text))] /= 1.7
        return logits


@pytest.mark.parametrize("mistake", [Wrong.penalises_by_count, Wrong.always_divides])
def test_wrong_penalties_would_be_noticed(mistake: Any) -> None:
    random = np.random.default_rng(1)
    prompt, new = drawn_row(random, 30)
    logits = drawn_logits(random, 1)[0]
    wanted = expected({"repetition_penalty": 1.7}, (prompt, new), logits, ())
    own = GenerationOptions(repetition_penalty=1.7, temperature=0.0).resolve({})
    right = processed([own], [(prompt, new)], logits[None], ())[0]
    np.testing.assert_array_max_ulp(right, wanted, maxulp=1)
    with pytest.raises(AssertionError):
        np.testing.assert_array_max_ulp(mistake(logits.copy(), prompt + new), wanted, maxulp=1)


def test_a_prompt_that_is_aligned_to_the_left_would_be_noticed() -> None:
    """Control: with a gap between prompt and generated tokens, n-grams across it are missed."""
    row = ((9, 4, 5), (6, 7, 4, 5))
    options = [GenerationOptions(no_repeat_ngram_size=3, temperature=0.0).resolve({})]
    history = history_of([row])
    gap = History(jnp.roll(history.prompt, 3, axis=1), history.generated, history.lengths)
    logits = jnp.zeros((1, VOCAB))
    assert (_processed((processors_of(options), ()), history, logits) == -jnp.inf).any()
    assert not (_processed((processors_of(options), ()), gap, logits) == -jnp.inf).any()


def test_stale_tokens_that_count_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what stands behind the newest token is not part of the text."""
    options = [GenerationOptions(no_repeat_ngram_size=1, temperature=0.0).resolve({})]
    history = history_of([((9, 4, 5), (6, 7))])
    (ban,) = processors_of(options)
    forbidden = np.asarray(ban(jnp.zeros((1, VOCAB)), history))[0] == -np.inf
    assert forbidden.nonzero()[0].tolist() == [4, 5, 6, 7, 9]
    monkeypatch.setattr(History, "new", lambda history: history.generated)
    assert (np.asarray(ban(jnp.zeros((1, VOCAB)), history)) == -np.inf).sum() > 5
