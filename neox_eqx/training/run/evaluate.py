"""How good a model is: its loss on held-out documents, and how many answers it gets right."""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial

import jax
from jaxtyping import Array, Float32
from tqdm import tqdm

from neox_eqx.generation.decoding.run import room
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.sharding.distributed import is_first
from neox_eqx.sharding.rules import parameter_shardings
from neox_eqx.text.completion import Completion
from neox_eqx.text.generator import TextGenerator
from neox_eqx.training.data.batch import Batch
from neox_eqx.training.data.dataset import TrainingData, to_devices
from neox_eqx.training.data.documents import Document
from neox_eqx.training.data.examples import Example
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.step import summed_loss
from neox_eqx.training.update.trained import Trained


def eval_loss(
    trained: Trained, data: TrainingData, recipe: Recipe, frozen: GPTNeoX | None = None
) -> float:
    """The mean loss over all of `data`, weighted as its tokens are, without dropout."""
    hidden = None if is_first() else True
    losses = weights = 0.0
    for rows in tqdm(
        data.once(), total=data.steps(1), unit=" batches", leave=False, disable=hidden
    ):
        sums = _sums(trained, to_devices(rows, trained.mesh), recipe, frozen)
        loss, weight = map(float, jax.device_get(sums))
        losses, weights = losses + loss, weights + weight
    return losses / weights


@partial(jax.jit, static_argnames="recipe")
def _sums(
    trained: Trained, batch: Batch, recipe: Recipe, frozen: GPTNeoX | None
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    return summed_loss(trained, batch, recipe, frozen=frozen), batch.targets()[1].sum()


def questions(
    examples: Sequence[Example], documents: Sequence[Document], data: TrainingData
) -> list[Example]:
    """The examples that ask something and were not dropped from `data`.

    `documents` are those of the examples. Where one was cut or became windows, its prompt may be
    longer than a row, and it is left out.
    """
    numbers = {document.number for document in data.documents}
    return [
        example
        for example, document in zip(examples, documents, strict=True)
        if example.asked is not None
        and example.number in numbers
        and document.asked < data.row_length
    ]


def exact_match(
    generator: TextGenerator,
    examples: Sequence[Example],
    max_new_tokens: int,
    *,
    batch_size: int = 8,
) -> float:
    """The share of `questions` whose completion, decoded greedily, `is_right`.

    A completion has `max_new_tokens` at most, or what the context has left for it. In a
    conversation it is what the assistant says next, up to where the template says that it stops.
    A completion that failed counts as wrong.
    """
    prompts = [example.asked for example in examples if example.asked is not None]
    context = room(generator.model, generator.past)
    one = GenerationOptions(max_new_tokens=1, temperature=0.0, num_beams=1)
    left = [context - len(generator.request(prompt, one)[1].tokens) for prompt in prompts]
    options = [dataclasses.replace(one, max_new_tokens=min(max_new_tokens, each)) for each in left]
    completions = generator.generate(prompts, options, batch_size=batch_size, progress=is_first())
    right = [
        completion.error is None
        and is_right(_said(generator, completion) if example.messages else completion.text, example)
        for completion, example in zip(completions, examples, strict=True)
    ]
    return sum(right) / len(right)


def _said(generator: TextGenerator, completion: Completion) -> str:
    """What the assistant says, without the template's stop text."""
    stops = generator.template.stop if completion.finish_reason == "stop" else ()
    ends = [completion.text.rfind(stop) for stop in stops]
    return completion.text[: max(ends)] if max(ends, default=-1) >= 0 else completion.text


def is_right(completion: str, example: Example) -> bool:
    """Whether the completion equals the example's, but for the space around it.

    Of an answer with `####` only what follows counts: a number alone and without commas, as GSM8K
    is scored, or else the rest of the line.
    """
    expected = _final(example.completion) if example.is_answer else None
    if expected is None:
        return completion.strip() == example.completion.strip()
    return _final(completion) == expected


def _final(text: str) -> str | None:
    match = re.search(r"#### ?(-?[0-9.,]+|.*)", text)
    return match and match[1].strip().replace(",", "")


def inference_model(model: GPTNeoX, dtype: str) -> GPTNeoX:
    """A model in training as generation has it: in `dtype`, and placed as `load` places it.

    Use it before the next step, which consumes the parameters that the two may share.
    """
    mesh = model.mesh
    shardings = None if mesh is None else parameter_shardings(model, mesh)
    return jax.jit(_cast, static_argnums=1, out_shardings=shardings)(model, dtype)


def _cast(model: GPTNeoX, dtype: str) -> GPTNeoX:
    return jax.tree.map(lambda x: x.astype(dtype), model)
