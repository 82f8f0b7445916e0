"""Opens a checkpoint to convert, in whichever of the three layouts it is."""

import dataclasses
from pathlib import Path

from neox_eqx.checkpoint.adapter import adapter_file, merged
from neox_eqx.checkpoint.adapter_config import read_base_form
from neox_eqx.checkpoint.files import ADAPTER_BASE, ADAPTER_CONFIG, WEIGHT_FILES
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.native import PARAMETERS
from neox_eqx.checkpoint.origin import (
    TextOriginOptions,
    is_tokenizers,
    stored_as,
    tokenizer_files,
)
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.convert.cast import in_numbers
from neox_eqx.convert.neox.files import find_step
from neox_eqx.convert.neox.read import NeoxOptions, read_neox
from neox_eqx.convert.source import CONFIG, Source, read_tensors, weight_file
from neox_eqx.errors import InputError
from neox_eqx.small_files import read_json


def read_source(
    source: str | Path,
    origin: TextOriginOptions = TextOriginOptions(),
    neox: NeoxOptions = NeoxOptions(),
) -> Source:
    """Opens the checkpoint in a directory or of a Hub id; its tensors are not read yet.

    `origin` says where to look for it, `neox` how a checkpoint of EleutherAI's is read.

    Raises:
        InputError: no such checkpoint, of no known layout, or incomplete or corrupt; or its
            tensors are not those that its config.json asks for.
    """
    located = origin.find(source)
    directory = located.directory
    if _has_tensors(directory):
        GPTNeoXConfig.from_file(directory / CONFIG)  # its errors name the file
        opened = read_tensors(directory, read_json(directory / CONFIG))
        opened = dataclasses.replace(opened, files=(directory / CONFIG, *opened.files))
    elif find_step(directory):
        other = None if located.tokenizer == directory else located.tokenizer
        opened = read_neox(directory, neox, tokenizer=other)
    else:
        raise InputError(
            f"{directory}: holds no checkpoint; expected {WEIGHT_FILES[0]} or another file of "
            f"Hugging Face's, a native checkpoint's directory {PARAMETERS}, or the file latest or "
            "the layer_*.pt of EleutherAI's"
        )
    if located.adapter is not None:
        opened = _with_adapter(opened, located.adapter)
    fitting(opened.checkpoint)
    if located.tokenizer != directory:
        opened = dataclasses.replace(opened, companions=_with_tokenizer(opened, located.tokenizer))
    return dataclasses.replace(opened, commits=located.commits)


def _has_tensors(directory: Path) -> bool:
    return weight_file(directory) is not None or (directory / PARAMETERS).is_dir()


def _with_adapter(opened: Source, adapter: Path) -> Source:
    base = opened.checkpoint.rounded(read_base_form(adapter))
    entries = merged(adapter, base.entries, tied=base.config.tie_word_embeddings)
    own = [path for path in (adapter / ADAPTER_BASE,) if path.is_file()]
    files = (*opened.files, adapter / ADAPTER_CONFIG, *own, adapter_file(adapter))
    # What it is added to is not in few bits any more, and then nothing is.
    return in_numbers(dataclasses.replace(opened, entries=entries, files=files, adapter=adapter))


def _with_tokenizer(opened: Source, tokenizer: Path) -> dict[str, Path]:
    """The companions, with the tokenizer's files of another directory in place of its own."""
    companions = opened.companions.items()
    others = {name: path for name, path in companions if not is_tokenizers(Path(name))}
    return others | {stored_as(path): path for path in tokenizer_files(tokenizer)}
