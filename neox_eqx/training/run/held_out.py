"""Data that a run is measured on and does not learn from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from neox_eqx.model.adapt import merge
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import read_prompt
from neox_eqx.training.data.dataset import TrainingData
from neox_eqx.training.data.examples import Example
from neox_eqx.training.data.lengths import TooLong
from neox_eqx.training.data.reader import Reader
from neox_eqx.training.run.evaluate import eval_loss, exact_match, inference_model, questions
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.trained import Trained, join


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out documents, and what generation needs to answer their prompts."""

    data: TrainingData
    examples: Sequence[Example]
    """Those of `data` whose prompts are answered."""
    max_new_tokens: int
    reader: Reader

    @classmethod
    def of(
        cls,
        reader: Reader,
        path: Path,
        most: int | None,
        *,
        batch_size: int,
        max_length: int,
        too_long: TooLong | None,
    ) -> "HeldOut":
        """Reads a file or dataset; the first `most` of its prompts are answered.

        An answer may be twice as long as the longest right one. The options are those of
        `TrainingData.of`.

        Raises:
            InputError: as `Reader.read`.
        """
        examples, documents, data = reader.read(
            path, batch_size=batch_size, max_length=max_length, too_long=too_long
        )
        longest = max(len(document.tokens) - document.asked for document in data.documents)
        return cls(data, questions(examples, documents, data)[:most], 2 * longest, reader)

    def measure(self, trained: Trained, frozen: GPTNeoX | None, recipe: Recipe) -> dict[str, float]:
        """`eval_loss`, and `exact_match` where there are prompts."""
        numbers = {"eval_loss": eval_loss(trained, self.data, recipe, frozen)}
        if self.examples:
            model, prompt = join(trained, frozen)
            model = inference_model(jax.jit(merge)(model), recipe.compute_dtype)
            past = () if prompt is None else (read_prompt(prompt, model),)
            generator = self.reader.generator(model, past)
            numbers["exact_match"] = exact_match(
                generator, self.examples, self.max_new_tokens, batch_size=self.data.batch_size
            )
        return numbers
