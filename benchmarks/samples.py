"""Times several samples of one prompt against as many copies of the prompt.

python benchmarks/samples.py
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from neox_eqx import Chunk, GenerationOptions, GPTNeoX, TextGenerator, generate, prefill
from neox_eqx.benchmarking.transformers_peer import TransformersPeer
from neox_eqx.command_line import run
from neox_eqx.generation.decoding import loop
from neox_eqx.generation.decoding.run import pad_prompts
from neox_eqx.generation.decoding.sampling import Sampler
from neox_eqx.presets import preset


@dataclasses.dataclass(frozen=True)
class Options:
    """Time several samples of one prompt against as many copies of the prompt."""

    preset: str = "pythia-160m"
    """Random float32 weights of this shape."""
    samples: int = 8
    """Samples of the prompt."""
    prompt_len: int = 512
    """Tokens of the prompt."""
    gen_len: int = 32
    """Tokens of each sample."""
    rounds: int = 5
    """Timed rounds after one to warm up; in each, every system runs once."""


def main(options: Options) -> None:
    config = preset(options.preset)
    model = jax.jit(lambda key: GPTNeoX.init(config, key=key))(jax.random.key(0))
    prompt = np.random.default_rng(0).integers(1, config.vocab_size, options.prompt_len)
    _check_shapes(model, prompt.tolist(), options.samples)
    systems = _systems(model, prompt, options)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(options.rounds + 1):
        for name, complete in systems.items():
            start = time.perf_counter()
            complete()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(own[1:]) for name, own in seconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.3f} s, {median / medians['samples']:.2f} times the first")


def _check_shapes(model: GPTNeoX, prompt: list[int], samples: int) -> None:
    """The prompt's keys are there once, whatever the number of samples."""
    own = GenerationOptions(temperature=1.0, num_samples=samples).resolve({})
    tokens, valid = pad_prompts([prompt], model.config.vocab_size)
    segment, state = jax.eval_shape(loop.read_prompts, model, tokens, valid, Sampler.of([own], [1]))
    assert {array.shape[-4] for array in jax.tree.leaves(segment.kv)} == {1}
    assert len(state.rows.tokens) == samples


def _systems(
    model: GPTNeoX, prompt: np.ndarray, options: Options
) -> dict[str, Callable[[], object]]:
    """Each writes the samples from the prompt's text or tokens to theirs."""
    words = {str(id): id for id in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    generator = TextGenerator(model, tokenizer, {"eos_token_id": ()})
    number, text = options.samples, " ".join(map(str, prompt))
    own = GenerationOptions(temperature=1.0, top_k=0, max_new_tokens=options.gen_len)
    shared = dataclasses.replace(own, num_samples=number)
    copies = [dataclasses.replace(own, seed=seed) for seed in range(number)]
    peer = TransformersPeer(model)

    def by_chunks() -> None:
        prefix = prefill(model, [], Chunk.tokenize(tokenizer, [text]), scores=False)
        generate(model, own, [prefix], range(number), options.gen_len, eos=())

    return {
        "samples": lambda: generator.generate([text], shared),
        "samples by chunks": by_chunks,
        "copies of the prompt": lambda: generator.generate([text] * number, copies),
        "copies in transformers": lambda: peer.generate(
            np.tile(prompt, (number, 1)), options.gen_len
        ),
    }


if __name__ == "__main__":
    run(main, Options)
