"""From texts to completions: transformers' tokens, in order, streamed or not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import GPTNeoXForCausalLM

from neox_eqx import DEMO_MODEL
from neox_eqx.errors import InputError
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.text.completion import Completion
from neox_eqx.text.generator import TextGenerator
from tests.generation.completions import theirs
from tests.generation.test_compiled import compilations

Saved = tuple[Path, GPTNeoXForCausalLM]

PROMPTS = ["Two cats", "안녕하세요, 세계!", "", "👍🏽 and", "How many animals went home?"]
WARM = GenerationOptions(temperature=1.2, max_new_tokens=12, num_samples=2, seed=4)


def streamed(
    generator: TextGenerator,
    prompts: list[str],
    options: GenerationOptions | list[GenerationOptions],
    batch_size: int = 8,
) -> tuple[list[Completion], list[str]]:
    """The completions that the last events bring, and the joined texts of all events."""
    finished: dict[int, Completion] = {}
    texts: dict[int, str] = {}
    for event in generator.stream(prompts, options, batch_size=batch_size):
        assert event.row not in finished
        texts[event.row] = texts.get(event.row, "") + event.text
        if event.completion:
            finished[event.row] = event.completion
    return [finished[n] for n in sorted(finished)], [texts[n] for n in sorted(texts)]


def test_greedy_completions_have_the_tokens_of_transformers(
    generator: TextGenerator, saved: Saved
) -> None:
    _, hf = saved
    completions = generator.generate(PROMPTS)
    ids = [tuple(generator.tokenizer.encode(prompt).ids) or (0,) for prompt in PROMPTS]
    assert [completion.prompt for completion in completions] == PROMPTS
    assert [completion.prompt_tokens for completion in completions] == ids
    expected, logprobs = theirs(hf, ids, 20, generator.eos_token_ids)
    assert [completion.tokens for completion in completions] == expected
    for completion, logprob in zip(completions, logprobs, strict=True):
        ended = completion.tokens[-1] in generator.eos_token_ids
        assert completion.finish_reason == ("eos" if ended else "length")
        assert completion.logprob == pytest.approx(logprob, abs=1e-4)
        before = generator.tokenizer.decode(completion.prompt_tokens)
        after = generator.tokenizer.decode(completion.prompt_tokens + completion.tokens)
        assert completion.text == after[len(before) :]


def test_an_empty_prompt_begins_with_bos(generator: TextGenerator, saved: Saved) -> None:
    _, hf = saved
    (completion,) = generator.generate([""])
    assert completion.prompt_tokens == (0,)
    output = hf.generate(max_new_tokens=20, do_sample=False)
    assert (0, *completion.tokens) == tuple(output[0].tolist())
    other = dataclasses.replace(generator, defaults={"bos_token_id": 5})
    assert other.generate([""])[0].prompt_tokens == (5,)
    config = dataclasses.replace(generator.model.config, bos_token_id=None)
    model = dataclasses.replace(generator.model, config=config)
    with pytest.raises(InputError, match="the prompt is empty and the model has no BOS token"):
        dataclasses.replace(generator, model=model, defaults={}).generate([""])


@pytest.mark.parametrize("options", [GenerationOptions(), WARM], ids=["greedy", "sampled"])
def test_a_stream_brings_what_generate_returns(
    generator: TextGenerator, options: GenerationOptions
) -> None:
    expected = generator.generate(PROMPTS, options)
    completions, texts = streamed(generator, PROMPTS, options)
    assert completions == expected
    assert texts == [completion.text for completion in expected]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_no_completion(generator: TextGenerator, batch_size: int) -> None:
    expected = generator.generate(PROMPTS, WARM)
    completions = generator.generate(PROMPTS, WARM, batch_size=batch_size)
    for one, other in zip(completions, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert dataclasses.replace(one, logprob=other.logprob) == other


def test_options_by_name_are_those_of_an_options_object(generator: TextGenerator) -> None:
    by_name = generator.generate(
        PROMPTS, temperature=1.2, max_new_tokens=12, num_samples=2, seed=4, batch_size=2
    )
    assert by_name == generator.generate(PROMPTS, WARM, batch_size=2)
    events = generator.stream(PROMPTS[:1], max_new_tokens=2, stop=("\n",))
    assert [*events] == [
        *generator.stream(PROMPTS[:1], GenerationOptions(max_new_tokens=2, stop=("\n",)))
    ]


@pytest.mark.parametrize("ask", [TextGenerator.generate, TextGenerator.stream])
def test_options_that_are_not_there_or_given_twice_are_refused(
    ask: Any, generator: TextGenerator
) -> None:
    with pytest.raises(InputError, match="^unknown option top_q; did you mean top_p\\?$"):
        ask(generator, ["cats"], top_q=0.5)
    with pytest.raises(InputError, match="^seed is given beside options; put it into those$"):
        ask(generator, ["cats"], GenerationOptions(max_new_tokens=3), seed=1)
    with pytest.raises(InputError, match="^max_new_tokens must be a whole number of at least 1"):
        ask(generator, ["cats"], max_new_tokens=0)


def test_prompts_with_options_of_their_own_come_back_in_order(generator: TextGenerator) -> None:
    options = [
        GenerationOptions(max_new_tokens=3),
        WARM,
        GenerationOptions(max_new_tokens=5, temperature=0.5, seed=9),
        dataclasses.replace(WARM, num_samples=3),
        GenerationOptions(),
    ]
    completions = generator.generate(PROMPTS, options)
    wanted = [
        (prompt, sample, own.seed)
        for prompt, own in zip(PROMPTS, options, strict=True)
        for sample in range(own.num_samples)
    ]
    assert [(one.prompt, one.sample, one.seed) for one in completions] == wanted
    alone = [
        one
        for prompt, own in zip(PROMPTS, options, strict=True)
        for one in generator.generate([prompt], own)
    ]
    assert [one.tokens for one in completions] == [one.tokens for one in alone]
    live = streamed(generator, PROMPTS, options)[0]
    assert [(one.text, one.tokens) for one in live] == [
        (one.text, one.tokens) for one in completions
    ]


def test_the_eos_ids_of_generation_config_win(generator: TextGenerator) -> None:
    first = generator.generate(["Two cats"])[0].tokens
    for eos in (first[2], [first[4], first[2]]):
        changed = dataclasses.replace(generator, defaults={"eos_token_id": eos})
        (completion,) = changed.generate(["Two cats"])
        assert completion.tokens == first[: first.index(first[2]) + 1]
        assert completion.finish_reason == "eos"
    silent = dataclasses.replace(generator, defaults={})
    assert silent.eos_token_ids == generator.model.config.eos_token_ids == (1,)


def test_ids_without_a_token_are_never_chosen_where_they_are_masked(
    generator: TextGenerator,
) -> None:
    gap = 7
    fields = json.loads(generator.tokenizer.to_str())
    vocabulary = fields["model"]["vocab"]
    fields["model"]["vocab"] = {token: n for token, n in vocabulary.items() if n != gap}
    fields["model"]["merges"] = []
    sparse = dataclasses.replace(generator, tokenizer=Tokenizer.from_str(json.dumps(fields)))
    known = set(sparse.tokenizer.get_vocab().values())
    assert gap not in known and max(known) >= len(known)
    hot = GenerationOptions(temperature=1e6, top_k=0, max_new_tokens=40, num_samples=8)

    def chosen(generator: TextGenerator) -> set[int]:
        return {token for one in generator.generate(["c"], hot) for token in one.tokens}

    assert chosen(sparse) - known
    assert not chosen(dataclasses.replace(sparse, mask_unknown_tokens=True)) - known


def test_a_prompt_that_is_too_long_is_refused_before_anything_runs(
    generator: TextGenerator,
) -> None:
    long = "cats " * 64
    count = len(generator.tokenizer.encode(long).ids)
    message = f"has {count} tokens, but the model has 64 positions"
    with pytest.raises(InputError, match=f"^the prompt {message}"):
        generator.generate([long])
    with pytest.raises(InputError, match=f"^prompt 2 of 2, which begins 'cats .*: .* {message}"):
        generator.generate(["cats", long])
    with pytest.raises(InputError, match=f"has {count} tokens"):
        generator.stream(["cats", long])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(generator: TextGenerator, batch_size: int) -> None:
    with pytest.raises(InputError, match=f"batch_size must be .* at least 1, not {batch_size}"):
        generator.generate(["cats"], batch_size=batch_size)


def test_a_prompt_that_is_no_text_is_refused(generator: TextGenerator) -> None:
    with pytest.raises(InputError, match=r"'\\ud83d cats' is not valid Unicode"):
        generator.generate(["\ud83d cats"])


def test_one_text_in_place_of_a_list_is_refused(generator: TextGenerator) -> None:
    with pytest.raises(InputError, match="must be a list of texts, not the text 'cats'"):
        generator.generate("cats")
    with pytest.raises(InputError, match="there are 1 options for 2 prompts"):
        generator.generate(["cats", "dogs"], [WARM])


def test_options_that_need_a_temperature_are_named_where_there_is_none(
    generator: TextGenerator,
) -> None:
    with pytest.warns(UserWarning, match="temperature is 0.* makes top_p, num_samples of no use"):
        generator.generate(["cats"], GenerationOptions(top_p=0.5, num_samples=2))
    with pytest.warns(UserWarning, match="no search, for which length_penalty would be of use"):
        generator.generate(["cats"], GenerationOptions(length_penalty=2.0))
    sampling = dataclasses.replace(generator, defaults={"do_sample": True})
    sampling.generate(["cats"], GenerationOptions(top_p=0.5, num_samples=2))


def test_a_stream_begins_with_the_first_prompt_however_long_it_is(
    generator: TextGenerator,
) -> None:
    events = generator.stream(["How many animals went home?", "a", "b"], batch_size=1)
    assert next(events).row == 0


def test_no_prompts_are_no_completions(generator: TextGenerator) -> None:
    assert generator.generate([]) == []
    assert list(generator.stream([])) == []


def test_layers_in_the_wrong_order_would_be_noticed(generator: TextGenerator) -> None:
    """Control: the comparison with transformers fails for another model."""
    layers = generator.model.layers
    assert isinstance(layers, tuple)
    model = dataclasses.replace(generator.model, layers=layers[::-1])
    (swapped,) = dataclasses.replace(generator, model=model).generate(["Two cats"])
    assert swapped.tokens != generator.generate(["Two cats"])[0].tokens


def test_bitwise_gives_a_prompt_the_same_bits_whatever_it_runs_with() -> None:
    """Not so otherwise: sums in another order give other bits to one of these on most machines."""
    generator = dataclasses.replace(TextGenerator.load(DEMO_MODEL), bitwise=True)
    prompts = ["Tom has 3 boxes", "Two cats", "Two cats"]
    own: list[dict[str, Any]] = [{}, {}, {"temperature": 1.0, "typical_p": 0.8, "stop": ("####",)}]
    options = [GenerationOptions(max_new_tokens=12, **each) for each in own]
    alone = [
        generator.generate([prompt], each)[0] for prompt, each in zip(prompts, options, strict=True)
    ]
    together = generator.generate(prompts, options)
    assert [row.logprob for row in together] == [row.logprob for row in alone]


def test_the_batches_of_requests_with_options_of_their_own_compile_one_program() -> None:
    """The second has fewer requests, other processors, and more and longer words to stop at."""
    generator = TextGenerator.load(DEMO_MODEL)
    first = [
        GenerationOptions(max_new_tokens=5, repetition_penalty=1.2),
        GenerationOptions(max_new_tokens=5, bad_words=((5,),), stop=("\n",)),
    ]
    second = GenerationOptions(
        max_new_tokens=5,
        temperature=0.7,
        top_k=100,
        bad_words=((1, 2), *((id,) for id in range(40))),
        stop=("dollars and cents", "How many coins", (3, 4)),
        suppress_tokens=(7,),
    )
    prompts = ["Tom", "Two cats", "Joe"]
    tokens = []
    with compilations() as seen:
        for event in generator.stream(prompts, [*first, second], batch_size=2):
            if event.row < 2:
                of_first = len(seen)
            else:
                tokens.append(event.token)
    assert len(seen) == of_first > 0
    assert tuple(tokens) == generator.generate(prompts[2:], second)[0].tokens


def test_an_event_is_a_token_of_one_row(saved: Saved) -> None:
    generator = TextGenerator.load(saved[0])
    tokens: dict[int, list[int]] = {}
    logprobs: dict[int, float] = {}
    for event in generator.stream(PROMPTS[:2], WARM):
        tokens.setdefault(event.row, []).append(event.token)
        logprobs[event.row] = logprobs.get(event.row, 0) + event.logprob
        assert (event.finish_reason is None) == (event.completion is None)
        if event.completion:
            assert event.finish_reason == event.completion.finish_reason
            assert tuple(tokens[event.row]) == event.completion.tokens
            assert logprobs[event.row] == pytest.approx(event.completion.logprob, abs=1e-4)
    assert sorted(tokens) == [0, 1, 2, 3]
