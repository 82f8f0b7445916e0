"""Trains the bundled demo model from nothing, or examines it on held-out word problems.

python scripts/train_demo_model.py --output DIR    # train, then examine
python scripts/train_demo_model.py --evaluate      # examine the bundled model
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import word_problems
from demo_tokenizer import END, save_tokenizer, train_tokenizer
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer
from word_problems import KINDS, PRETRAINING_KINDS, Problem

from neox_eqx import DEMO_MODEL, GenerationOptions, TextGenerator
from neox_eqx.checkpoint.save import save
from neox_eqx.command_line import run
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.rope import RopeParameters

EXAM_SEED, EXAM_SIZE = 1_000_003, 500
POOL = 16
"""Batches that are drawn at once and sorted by length, so that little of them is padding."""

CONFIG = GPTNeoXConfig(
    vocab_size=512,
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
    max_position_embeddings=256,
    # Three times the usual 0.02, which is made for wider models: this one starts faster with it.
    initializer_range=0.06,
    bos_token_id=0,
    eos_token_id=0,
    # After 300 steps the loss is 0.28 with every dim rotated, 0.36 with a quarter of them.
    rope_parameters=RopeParameters(partial_rotary_factor=1.0),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the demo model, or examine a model on held-out problems."""

    output: Path | None = None
    """Train from nothing into this directory, which must be absent or empty."""
    evaluate: bool = False
    """Examine `--model` on 500 held-out problems of `--kinds`."""
    model: str = str(DEMO_MODEL)
    """Checkpoint to examine."""
    quantize: Literal["int8", "int4"] | None = None
    """Round its weights to 8 or 4 bits first."""
    kinds: tuple[str, ...] = PRETRAINING_KINDS
    """Kinds of problems, of those in demo/word_problems.py."""
    steps: int = 5000
    """Updates of the parameters."""
    batch_size: int = 32
    """Problems in an update, drawn afresh for each."""
    learning_rate: float = 3e-3
    """At its peak, after `--warmup-steps`; it then falls to nearly 0 along a cosine."""
    warmup_steps: int = 100
    """Updates until the learning rate is at its peak."""
    seed: int = 0
    """Of the problems and the first parameters; the same seed gives the same model."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kinds {unknown} are not there; choose from {', '.join(KINDS)}")
        if self.batch_size < 1 or not 0 <= self.warmup_steps < self.steps:
            raise InputError("batch_size must be positive and steps above warmup_steps")
        if self.output and self.output.exists() and any(self.output.iterdir()):
            raise InputError(f"{self.output}: is not empty; choose another directory")


def main(options: Options) -> None:
    if options.output is not None:
        train(options, options.output)
    elif options.evaluate:
        evaluate(options.model, options.kinds, options.quantize)
    else:
        raise InputError("nothing to do; pass --output DIR to train or --evaluate to examine")


def train(options: Options, directory: Path) -> None:
    """Trains tokenizer and model on problems that are in no exam, and examines the result."""
    exams = {problem.question for kind in KINDS for problem in exam_problems((kind,))}
    # Of all kinds: a model is fine-tuned on new kinds with the vocabulary that it has.
    reading = word_problems.problems(tuple(KINDS), options.seed, without=exams)
    texts = (f"{problem.question}\n{problem.answer}" for problem in islice(reading, 20_000))
    tokenizer = train_tokenizer(texts, CONFIG.vocab_size)
    lessons = word_problems.problems(options.kinds, options.seed + 1, without=exams)
    model = fit(options, batches(lessons, tokenizer, options.batch_size))
    save(model, directory, companions=())
    write_text_files(directory, tokenizer, exam_problems(options.kinds))
    evaluate(str(directory), options.kinds)


def exam_problems(kinds: tuple[str, ...]) -> list[Problem]:
    """The same problems at every call, the kinds in turn, from a seed that training never uses."""
    by_kind = [word_problems.distinct_problems((kind,), EXAM_SEED, EXAM_SIZE) for kind in kinds]
    in_turn = (problem for turn in zip(*by_kind, strict=True) for problem in turn)
    return list(islice(in_turn, EXAM_SIZE))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Problems padded on the right; `graded` marks the tokens of the answers."""

    tokens: Int[Array, "B T"]
    valid: Bool[Array, "B T"]
    graded: Bool[Array, "B T"]


def batches(lessons: Iterator[Problem], tokenizer: Tokenizer, size: int) -> Iterator[Batch]:
    """Endless batches, each of problems of similar length."""
    random = np.random.default_rng(0)
    while True:
        pool = list(islice(lessons, POOL * size))
        questions = tokenizer.encode_batch([problem.question for problem in pool])
        # The model writes the line break itself, so that a prompt is the bare question.
        answers = tokenizer.encode_batch([f"\n{problem.answer}{END}" for problem in pool])
        pairs = [(q.ids, a.ids) for q, a in zip(questions, answers, strict=True)]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        for start in size * random.permutation(POOL):
            yield pad(pairs[start : start + size])


def pad(pairs: list[tuple[list[int], list[int]]]) -> Batch:
    """Questions and answers in one array, whose length is a multiple of 16 to compile rarely."""
    longest = max(len(question) + len(answer) for question, answer in pairs)
    tokens = np.zeros((len(pairs), -(-longest // 16) * 16), np.int32)
    valid, graded = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for row, (question, answer) in enumerate(pairs):
        end = len(question) + len(answer)
        tokens[row, :end] = question + answer
        valid[row, :end] = True
        graded[row, len(question) : end] = True
    return Batch(jnp.asarray(tokens), jnp.asarray(valid), jnp.asarray(graded))


def fit(options: Options, lessons: Iterator[Batch]) -> GPTNeoX:
    """AdamW on the answers' tokens for `options.steps` batches."""
    schedule = optax.warmup_cosine_decay_schedule(
        0, options.learning_rate, options.warmup_steps, options.steps, options.learning_rate / 50
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.1)
    )
    model = GPTNeoX.init(CONFIG, key=jax.random.key(options.seed))
    # Donated buffers must be distinct, but arrays of zeros may share theirs when they are made.
    model = jax.tree.map(jnp.copy, model)
    state = optimizer.init(model)
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(model)):,} parameters", flush=True)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(
        model: GPTNeoX, state: optax.OptState, batch: Batch
    ) -> tuple[GPTNeoX, optax.OptState, Float[Array, ""]]:
        loss, gradients = jax.value_and_grad(answer_loss)(model, batch)
        updates, state = optimizer.update(gradients, state, model)
        return optax.apply_updates(model, updates), state, loss

    began, losses = time.monotonic(), []
    for step, batch in enumerate(islice(lessons, options.steps), start=1):
        model, state, loss = update(model, state, batch)
        losses.append(loss)
        if step % 100 == 0 or step == options.steps:
            mean = float(jnp.mean(jnp.stack(losses)))
            seconds = time.monotonic() - began
            print(f"step {step}: loss {mean:.4f}, {seconds:.0f} s", flush=True)
            losses.clear()
    return model


def answer_loss(model: GPTNeoX, batch: Batch) -> Float[Array, ""]:
    """Mean cross entropy of the answers' tokens, each given all that stands before it."""
    hidden, _ = model(batch.tokens[:, :-1], batch.valid[:, :-1])
    graded = batch.graded[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(
        model.logits(hidden), batch.tokens[:, 1:]
    )
    return jnp.where(graded, losses, 0).sum() / graded.sum()


def write_text_files(directory: Path, tokenizer: Tokenizer, exam: list[Problem]) -> None:
    """What a checkpoint has beside its parameters, and questions to try it on."""
    save_tokenizer(tokenizer, directory, CONFIG.max_position_embeddings)
    generation = {"eos_token_id": 0, "pad_token_id": 0, "do_sample": False, "max_new_tokens": 96}
    text = json.dumps(generation, indent=2) + "\n"
    (directory / "generation_config.json").write_text(text, encoding="utf-8")
    questions = [problem.question for problem in exam[3:8]]
    (directory / "questions.txt").write_text("\n".join(questions) + "\n", encoding="utf-8")


def evaluate(model: str, kinds: tuple[str, ...], quantize: str | None = None) -> None:
    """Prints how many exam problems of each kind, and in all, greedy decoding gets right."""
    exam = exam_problems(kinds)
    completions = TextGenerator.load(model, quantize=quantize).generate(
        [problem.question for problem in exam], GenerationOptions(temperature=0.0), batch_size=50
    )
    right = [
        word_problems.final_result(completion.text) == problem.result
        for completion, problem in zip(completions, exam, strict=True)
    ]
    for turn, kind in enumerate(kinds):
        print_share(kind, right[turn :: len(kinds)])
    print_share("exact match", right)


def print_share(name: str, right: list[bool]) -> None:
    print(f"{name}: {sum(right)} / {len(right)} = {100 * sum(right) / len(right):.1f} %")


if __name__ == "__main__":
    run(main, Options)
