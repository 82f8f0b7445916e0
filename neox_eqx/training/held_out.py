"""Data that a run is measured on and does not learn from."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from neox_eqx.model.adapt import merge
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.prompt import read_prompt
from neox_eqx.text.generator import TextGenerator
from neox_eqx.tokenizer import Tokenizer
from neox_eqx.training.dataset import TrainingData
from neox_eqx.training.evaluate import eval_loss, exact_match, inference_model
from neox_eqx.training.examples import Example
from neox_eqx.training.recipe import Recipe
from neox_eqx.training.trained import Trained, join


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out documents, and what generation needs to answer their prompts."""

    data: TrainingData
    examples: Sequence[Example]
    """Those of `data` whose prompts are answered."""
    max_new_tokens: int
    tokenizer: Tokenizer
    defaults: Mapping[str, Any]
    directory: Path
    """Of the tokenizer and the chat template."""
    template_name: str | None

    @classmethod
    def of(cls, data: TrainingData, examples: Sequence[Example], **model: Any) -> "HeldOut":
        """An answer may be twice as long as the longest right one."""
        longest = max(len(document.tokens) - document.asked for document in data.documents)
        return cls(data, examples, 2 * longest, **model)

    def measure(self, trained: Trained, frozen: GPTNeoX | None, recipe: Recipe) -> dict[str, float]:
        """`eval_loss`, and `exact_match` where there are prompts."""
        numbers = {"eval_loss": eval_loss(trained, self.data, recipe, frozen)}
        if self.examples:
            model, prompt = join(trained, frozen)
            model = inference_model(jax.jit(merge)(model), recipe.compute_dtype)
            past = () if prompt is None else (read_prompt(prompt, model),)
            generator = TextGenerator(
                model,
                self.tokenizer,
                self.defaults,
                past=past,
                directory=self.directory,
                template_name=self.template_name,
            )
            numbers["exact_match"] = exact_match(
                generator, self.examples, self.max_new_tokens, batch_size=self.data.batch_size
            )
        return numbers
