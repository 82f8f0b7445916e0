"""How a model is trained: the numbers of the optimiser and of the step."""

import dataclasses

from neox_eqx.errors import InputError
from neox_eqx.shown import shown


@dataclasses.dataclass(frozen=True)
class Recipe:
    """AdamW with a schedule, and how a step is computed.

    Raises:
        InputError: a number is out of its range; the message names it.
    """

    steps: int
    """Updates in the whole run, which the schedule is stretched over."""
    learning_rate: float = 1e-5
    """At its peak, after `warmup_steps` of linear growth from 0."""
    warmup_steps: int = 0
    final_learning_rate: float = 0.0
    """Where the cosine that follows the peak ends, at `steps`."""
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    """Of the matrices; biases and norms do not decay."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other."""
    compute_dtype: str = "float32"
    """bfloat16 on accelerators. Parameters, moments, softmax and loss are float32 anyway."""
    remat: bool = True
    """Computes each layer a second time for its gradient, and keeps only its input until then.
    On a CPU this needs stacked layers."""
    loss_chunk: int = 64
    """Tokens of each row whose logits exist at a time."""
    seed: int = 0
    """Of dropout: the seed, the step and the part of the batch are all its random state."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "loss_chunk"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.warmup_steps < self.steps:
            raise InputError(
                f"warmup_steps must be from 0 to below the {self.steps} steps, "
                f"not {self.warmup_steps}"
            )
        for name in ("learning_rate", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("final_learning_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be below 0, not {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"compute_dtype must be float32 or bfloat16, not {shown(self.compute_dtype)}"
            )
