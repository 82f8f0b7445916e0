"""Four uses of chunks, on the bundled model: what stands before many texts is read once.

python examples/chunks.py
"""

import numpy as np

from neox_eqx import (
    DEMO_MODEL,
    Chunk,
    ChunkResult,
    GenerationOptions,
    GPTNeoX,
    TextGenerator,
    generate,
    prefill,
)
from neox_eqx.tokenizer import Tokenizer

QUESTION = "Tom has 3 boxes with 4 apples each. How many apples does Tom have?"
THINGS = [
    " boxes with 5 pens each. How many pens does Tom have?",
    " pens and buys 2 more. How many pens does he have now?",
]
WARM = GenerationOptions(temperature=0.8)
GREEDY = GenerationOptions(temperature=0)


def score_texts(model: GPTNeoX, tokenizer: Tokenizer, texts: list[str]) -> list[float]:
    """The log-probability of each text, its first token aside."""
    result = prefill(model, [], Chunk.tokenize(tokenizer, texts))
    return np.nansum(result.scores, axis=-1).tolist()


def several_samples(model: GPTNeoX, tokenizer: Tokenizer, prompt: str, number: int) -> list[str]:
    """Samples after a prompt whose keys and values are there once."""
    prefix = prefill(model, [], Chunk.tokenize(tokenizer, [prompt]))
    samples, _ = generate(model, WARM, [prefix], range(number), 40)
    return samples.texts(tokenizer)


def many_prompts(
    model: GPTNeoX, tokenizer: Tokenizer, preamble: str, prompts: list[str]
) -> list[str]:
    """Answers to prompts that share a preamble: it is read once, for all of them."""
    shared = prefill(model, [], Chunk.tokenize(tokenizer, [preamble]))
    own = prefill(model, [shared], Chunk.tokenize(tokenizer, prompts, continues=True))
    answers, _ = generate(model, GREEDY, [shared, own], [0] * len(prompts), 40)
    return answers.texts(tokenizer)


def conversation(model: GPTNeoX, tokenizer: Tokenizer, turns: list[str]) -> list[str]:
    """The answer to each turn, after all that was said before, which is never read again."""
    said: list[ChunkResult] = []
    answers = []
    for turn in turns:
        chunk = Chunk.tokenize(tokenizer, [turn], continues=bool(said))
        heard = prefill(model, said, chunk)
        answer, spoken = generate(model, GREEDY, [*said, heard], [0], 40)
        answers += answer.texts(tokenizer)
        said = [ChunkResult.join([*said, heard, spoken])]
    return answers


def main() -> None:
    generator = TextGenerator.load(DEMO_MODEL)
    model, tokenizer = generator.model, generator.tokenizer
    texts = [f"{QUESTION}\nThere are 3 x 4 = 12 apples.\n#### {n}" for n in (12, 13)]
    print(score_texts(model, tokenizer, texts))
    print(several_samples(model, tokenizer, "Tom has", 4))
    print(many_prompts(model, tokenizer, "Tom has 3", THINGS))
    print(conversation(model, tokenizer, [QUESTION, "\nHow many legs do 3 cats have?"]))


if __name__ == "__main__":
    main()
