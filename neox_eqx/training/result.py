"""What a run leaves for others to use."""

from collections.abc import Iterable
from pathlib import Path

import jax

from neox_eqx.checkpoint.save import save
from neox_eqx.checkpoint.save_adapter import save_adapter
from neox_eqx.model.adapt import merge
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.training.trained import Trained, join

MODEL, ADAPTER = "hf", "adapter"


def save_result(
    trained: Trained,
    frozen: GPTNeoX | None,
    directory: Path,
    *,
    base_model: str,
    companions: Iterable[Path] = (),
) -> None:
    """Writes `hf`, a model that transformers loads, and `adapter`, which PEFT loads.

    Where all parameters were trained there is no adapter; a soft prompt and a prefix leave the
    model as it was, and there is no `hf`. `base_model` is where the frozen model came from, and
    `companions` are files to copy to `hf`.

    Raises:
        InputError: one of the two directories holds something, or cannot be written.
    """
    model, _ = join(trained, frozen)
    if frozen is not None:
        adapter = directory / ADAPTER
        save_adapter(trained, adapter, config=model.config, base_model=base_model)
    if isinstance(trained, GPTNeoX):
        save(jax.jit(merge)(model), directory / MODEL, companions)
