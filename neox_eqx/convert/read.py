"""Opens a checkpoint to convert, in whichever of the three layouts it is."""

import dataclasses
from pathlib import Path

from neox_eqx.checkpoint.adapter import adapter_file, merged
from neox_eqx.checkpoint.files import ADAPTER_CONFIG, WEIGHT_FILES
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.native import PARAMETERS
from neox_eqx.checkpoint.origin import (
    TextOriginOptions,
    is_tokenizers,
    stored_as,
    tokenizer_files,
)
from neox_eqx.config import GPTNeoXConfig
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
    where = origin.find(source)
    directory = where.directory
    if _has_tensors(directory):
        GPTNeoXConfig.from_file(directory / CONFIG)  # its errors name the file
        found = read_tensors(directory, read_json(directory / CONFIG))
        found = dataclasses.replace(found, files=(directory / CONFIG, *found.files))
    elif find_step(directory):
        other = None if where.tokenizer == directory else where.tokenizer
        found = read_neox(directory, neox, tokenizer=other)
    else:
        raise InputError(
            f"{directory}: holds no checkpoint; expected {WEIGHT_FILES[0]} or another file of "
            f"Hugging Face's, a native checkpoint's directory {PARAMETERS}, or the file latest or "
            "the layer_*.pt of EleutherAI's"
        )
    if where.adapter is not None:
        found = _with_adapter(found, where.adapter)
    fitting(found.checkpoint)
    if where.tokenizer != directory:
        found = dataclasses.replace(found, companions=_with_tokenizer(found, where.tokenizer))
    return dataclasses.replace(found, commits=where.commits)


def _has_tensors(directory: Path) -> bool:
    return weight_file(directory) is not None or (directory / PARAMETERS).is_dir()


def _with_adapter(found: Source, adapter: Path) -> Source:
    tied = GPTNeoXConfig.from_hf(found.config_json).tie_word_embeddings
    entries = merged(adapter, found.entries, tied=tied)
    files = (*found.files, adapter / ADAPTER_CONFIG, adapter_file(adapter))
    return dataclasses.replace(found, entries=entries, files=files, adapter=adapter)


def _with_tokenizer(found: Source, tokenizer: Path) -> dict[str, Path]:
    """The companions, with the tokenizer's files of another directory in place of its own."""
    companions = found.companions.items()
    others = {name: path for name, path in companions if not is_tokenizers(Path(name))}
    return others | {stored_as(path): path for path in tokenizer_files(tokenizer)}
