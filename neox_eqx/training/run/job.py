"""A run before anything is loaded or compiled: all of its settings, checked."""

import dataclasses
import math
import sys
from typing import Any

import jax

from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import agreed, check_equal
from neox_eqx.sharding.mesh import Arrangement, make_mesh, model_sizes
from neox_eqx.shown import shown
from neox_eqx.tokenizer import token_ids
from neox_eqx.training.data.dataset import TrainingData
from neox_eqx.training.data.reader import Reader
from neox_eqx.training.run.held_out import HeldOut
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.run.start import Start
from neox_eqx.training.update.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained on what, and how."""

    options: TrainingOptions
    start: Start
    data: TrainingData
    held_out: HeldOut | None
    recipe: Recipe
    mesh: str
    max_length: int
    """Tokens of a row at most."""
    prompt: tuple[int, ...]
    """The tokens that a soft prompt or a prefix begins as."""

    @classmethod
    def of(cls, options: TrainingOptions) -> "Job":
        """The job that the options ask for, the same in all processes.

        Raises:
            InputError: a file cannot be read or is wrong, or the options do not fit each other.
        """
        with agreed():
            start = Start.of(options)
            source, config = start.source, start.config
            # All that can be wrong before the data, which may take minutes to read.
            mesh, longest = _mesh(options, config), _longest(options, config)
            max_length = options.max_length or longest
            recipe = _recipe(options)
            reader = Reader.of(source, config, options.template)
            prompt = token_ids(reader.tokenizer, options.tuning.prompt_text, what="prompt_text")
            held_out = _held_out(options, reader, max_length)
            _, _, data = reader.read(
                options.data,
                batch_size=options.batch_size,
                max_length=max_length,
                too_long=options.too_long,
                pack=options.pack,
                seed=options.seed,
            )
            steps = options.steps or data.steps(options.epochs or 1)
            recipe = dataclasses.replace(recipe, steps=steps)
            job = cls(options, start, data, held_out, recipe, mesh, max_length, prompt)
        check_equal("what to train", (job.settings, held_out and held_out.data.fingerprint))
        return job

    @property
    def settings(self) -> dict[str, Any]:
        """All that the losses depend on, except the mesh."""
        names = ("batch_size", "pack", "too_long")
        return {
            **dataclasses.asdict(self.recipe),
            **dataclasses.asdict(self.start.tuning),
            **{name: getattr(self.options, name) for name in names},
            "max_length": self.max_length,
            "model": self.start.config.to_hf() | {"weights": self.start.weights},
            **({"adapter": adapter.digest} if (adapter := self.start.adapter) else {}),
            **({"quantize": form} if (form := self.start.form) else {}),
            "data": self.data.fingerprint,
        }

    @property
    def summary(self) -> str:
        """What was made of the examples: a line for each file."""
        lines = [f"{self.options.data}: {self.data.counts.told('are learnt')}"]
        if self.held_out:
            asked, counts = len(self.held_out.examples), self.held_out.data.counts
            lines += [
                f"{self.options.eval_data}: {counts.told('are measured')}, {asked} prompts answered"
            ]
        return "\n".join(lines)

    @property
    def warnings(self) -> list[str]:
        """A line for each file of which many examples are dropped for their length."""
        own, held_out = self.options, self.held_out
        files = [(own.data, self.data), (own.eval_data, held_out and held_out.data)]
        longest = _longest(own, self.start.config)
        found = [(path, data.counts.warning(longest)) for path, data in files if data]
        return [f"{path}: {warning}" for path, warning in found if warning]

    def evaluates_at(self, step: int) -> bool:
        return self._is_due(step, self.options.eval_every)

    def saves_at(self, step: int) -> bool:
        return self._is_due(step, self.options.save_every)

    def _is_due(self, step: int, every: int | None) -> bool:
        """At the end and every so many steps, or ten times in all where `every` is None."""
        last = self.recipe.steps
        return step == last or step % (every or math.ceil(last / 10)) == 0


def _held_out(options: TrainingOptions, reader: Reader, max_length: int) -> HeldOut | None:
    if options.eval_data is None:
        return None
    return HeldOut.of(
        reader,
        options.eval_data,
        options.eval_questions,
        # A part of a batch is what the devices have room for.
        batch_size=options.batch_size // options.grad_accumulation,
        max_length=max_length,
        too_long=options.too_long,
    )


def _longest(options: TrainingOptions, config: GPTNeoXConfig) -> int:
    """The tokens of a row that the model can take, of which `max_length` may be fewer."""
    positions = options.tuning.positions
    longest = config.context_length - positions
    left = f" that {positions} positions before the text leave" if positions else ""
    if longest < 1:
        raise InputError(f"the model's context of {config.context_length} has no token{left}")
    if (options.max_length or longest) > longest:
        raise InputError(
            f"max_length {options.max_length} is above the {longest} tokens of the model's "
            f"context{left}"
        )
    return longest


def _recipe(options: TrainingOptions) -> Recipe:
    """How it is trained; where epochs are asked for, the number of steps is not known yet."""
    on_cpu = jax.default_backend() == "cpu"
    return Recipe(
        steps=options.steps or sys.maxsize,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        accumulate=options.grad_accumulation,
        compute_dtype=options.dtype or ("float32" if on_cpu else "bfloat16"),
        remat=options.remat,
        seed=options.seed,
    )


def _mesh(options: TrainingOptions, config: GPTNeoXConfig) -> str:
    """The mesh in words; the rows of each part of a batch divide over its data axis."""
    rows, rest = divmod(options.batch_size, options.grad_accumulation)
    if rest:
        raise InputError(
            f"batch_size {options.batch_size} does not divide into {options.grad_accumulation} "
            "parts; change batch_size or grad_accumulation"
        )
    asked = Arrangement.parse(options.mesh)
    if asked.heads or asked.layout != "1d":
        raise InputError(f"the mesh {shown(options.mesh)}: heads and layout are not for training")
    mesh = options.mesh
    if mesh == "auto":
        mesh = _largest_data_axis(rows, config) or mesh
    data = make_mesh(config, mesh).shape["data"]
    if rows % data:
        raise InputError(
            f"the {rows} rows of a part of the batch do not divide over data={data} of the mesh; "
            "change batch_size, grad_accumulation or mesh"
        )
    return mesh


def _largest_data_axis(rows: int, config: GPTNeoXConfig) -> str | None:
    """The mesh with the largest data axis: splitting rows costs the least traffic in training."""
    count = jax.device_count()
    models = [size for size in model_sizes(config, count) if count % size == 0]
    fitting = [size for size in models if rows % (count // size) == 0]
    return f"data={count // fitting[0]},model={fitting[0]}" if fitting else None
