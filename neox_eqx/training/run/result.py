"""What a run leaves for others to use."""

from collections.abc import Iterable
from pathlib import Path

from neox_eqx.checkpoint.origin import Origin
from neox_eqx.checkpoint.save import Companion, save
from neox_eqx.checkpoint.save_adapter import save_adapter
from neox_eqx.checkpoint.save_merged import save_merged
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.text.generation_config import settings_file, settings_in_config
from neox_eqx.training.update.trained import Trained

MODEL, ADAPTER = "hf", "adapter"


def save_result(
    trained: Trained,
    frozen: GPTNeoX | None,
    directory: Path,
    *,
    source: Origin,
    quantize: str | None = None,
    companions: Iterable[Companion] = (),
) -> None:
    """Writes `hf`, a model in float32 that transformers loads, and `adapter`, which PEFT loads.

    Where all parameters were trained there is no adapter; a soft prompt and a prefix leave the
    model as it was, and there is no `hf`. `source` is where to find the frozen model, `quantize`
    the form in few bits that it was in, and `companions` are files to copy to `hf`. Settings of
    generation that stand in its config.json become a generation_config.json.

    Raises:
        InputError: one of the two directories holds something, or cannot be written; or the
            checkpoint is not there any more.
    """
    if frozen is not None:
        adapter = directory / ADAPTER
        save_adapter(
            trained,
            adapter,
            config=frozen.config,
            base_model=source.name,
            revision=source.revision,
            quantize=quantize,
        )
        if not isinstance(trained, GPTNeoX):
            return
    assert isinstance(trained, GPTNeoX)
    companions = [*companions, *settings_file(settings_in_config(source.directory))]
    if frozen is not None:
        save_merged(trained, source, directory / MODEL, companions, quantize=quantize)
    else:
        save(trained, directory / MODEL, companions)
