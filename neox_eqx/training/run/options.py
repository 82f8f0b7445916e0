"""What a fine-tuning run is asked for."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from neox_eqx.checkpoint.origin import TextOriginOptions
from neox_eqx.errors import InputError
from neox_eqx.training.data.lengths import TooLong
from neox_eqx.training.log.run_log import WandbMode
from neox_eqx.training.update.tuning import FEW_BITS, Tuning

_POSITIVE = (
    "steps",
    "batch_size",
    "grad_accumulation",
    "max_length",
    "eval_every",
    "save_every",
    "keep",
    "max_skipped",
)


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """Fine-tunes a GPT-NeoX model.

    Run again with the same output, it goes on where it was. SIGTERM makes it save and exit with
    status 75, Ctrl-C with 130; batches that are not finite end it with 1.

    Raises:
        InputError: options exclude each other or are out of range.
    """

    data: Path
    """A file (JSON lines, a JSON array or Parquet), or a dataset of Hugging Face as DIR, ID,
    ID:SPLIT or ID:CONFIG:SPLIT. Each example has question and answer, prompt and completion,
    instruction and output (Alpaca) or response (Dolly), messages, conversations (ShareGPT) or a
    text; only what answers is learnt."""
    output: Path
    """The directory of the run, which all hosts must see."""
    model: str | None = None
    """A directory in Hugging Face or native layout, or a Hub id, also as ID@REVISION."""
    adapter: str | None = None
    """A LoRA adapter of PEFT's to go on from, with its rank, alpha and targets; the model is then
    its base, and needs no name where the adapter says it."""
    template: str | None = None
    """How instructions and messages are written, if not by the model's own chat template; a wrong
    name gets the list of them."""
    steps: int | None = None
    """Updates in all; a run that has ended goes on if there are more of them than before."""
    epochs: float | None = None
    """Times to go through the data, instead of steps; 1 if neither is given."""
    batch_size: int = 8
    """Rows of a step, over all devices."""
    grad_accumulation: int = 1
    """Parts that a batch is computed in, one after the other, to save memory."""
    learning_rate: float = 1e-5
    """At its peak, from which a cosine leads to 0."""
    warmup_steps: int = 0
    """Steps in which the learning rate grows to its peak."""
    weight_decay: float = 0.01
    """Of AdamW, for matrices only."""
    clip_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it."""
    max_length: int | None = None
    """Tokens of a row at most; the model's context if not given."""
    pack: bool = False
    """Fill each row with several documents, which do not see each other."""
    too_long: TooLong | None = None
    """What becomes of longer examples: windows that are all learnt, a cut at the end, or nothing;
    if not given, texts are windows, and those with an answer dropped."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computation, float32 on a CPU and bfloat16 on an accelerator; what is trained is
    float32."""
    remat: bool = True
    """Compute each layer a second time for its gradient, which saves memory; without, a step is
    faster."""
    quantize: Literal["int8", "int4"] | None = None
    """With LoRA: round the weights beside which it is trained to 8 or 4 bits."""
    origin: tyro.conf.OmitArgPrefixes[TextOriginOptions] = TextOriginOptions()
    mesh: str = "auto"
    """Devices to spread rows and parameters over, as data=2,model=4."""
    tuning: tyro.conf.OmitArgPrefixes[Tuning] = Tuning()
    eval_data: Path | None = None
    """Held-out data in the same form: its loss, and how many answers are right."""
    eval_every: int | None = None
    """Steps between evaluations; a tenth of the run if not given."""
    eval_questions: int | None = None
    """Held-out prompts to answer, the first ones; all if not given."""
    save_every: int | None = None
    """Steps between checkpoints; a tenth of the run if not given."""
    keep: int = 2
    """Checkpoints to keep, the last ones."""
    max_skipped: int = 5
    """End the run after so many batches in a row whose loss or gradients are not finite."""
    seed: int = 0
    """Of the order of the data and of dropout."""
    wandb_mode: WandbMode = "online"
    """Where Weights & Biases logs the run, as WANDB_PROJECT, WANDB_ENTITY and WANDB_NAME in the
    environment say; metrics.jsonl is always written."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise InputError("--steps and --epochs exclude each other; give one")
        self._check_model()
        if self.quantize and self.adapter is None and not self.tuning.lora_rank:
            raise InputError(FEW_BITS)
        if self.epochs is not None and not 0 < self.epochs < float("inf"):
            raise InputError(f"epochs must be above 0, not {self.epochs}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be above 0, not {value}")
        if (self.eval_questions or 0) < 0:
            raise InputError(f"eval_questions must not be below 0, not {self.eval_questions}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")
        for name in ("eval_every", "eval_questions"):
            if self.eval_data is None and getattr(self, name) is not None:
                raise InputError(f"{name} is of use with eval_data only")

    def _check_model(self) -> None:
        if self.model is None and self.adapter is None:
            raise InputError("give --model, or --adapter to go on from one")
        own = self.tuning
        if self.adapter is None:
            if own.lora_dropout is not None and not own.lora_rank:
                raise InputError("lora_dropout is of use with lora_rank or adapter only")
            return
        if dataclasses.replace(own, lora_dropout=None) != Tuning():
            raise InputError("what is trained comes from the adapter; leave out lora_rank and such")
        if self.origin.revision is not None:
            raise InputError("with adapter, revision could be of either; name it as ID@REVISION")
        if self.model is not None and self.origin.base is not None:
            raise InputError("with adapter, model and base are the same; give one")
