"""Writing EleutherAI checkpoints in tests: the models, and each saved by transformers first."""

import functools
from pathlib import Path
from typing import Any

from transformers import GPTNeoXForCausalLM

from neox_eqx.convert.neox.write import Layout, write_neox
from neox_eqx.convert.read import read_source
from neox_eqx.convert.source import Source
from tests.hf_models import config_json, hf_model

EIGHT_HEADS = config_json(64, 8, rotary_pct=0.25)


LAYOUTS: tuple[Layout, ...] = ("pipeline", "sequential")


@functools.cache
def model(parallel: bool, tied: bool = False) -> GPTNeoXForCausalLM:
    options = {"use_parallel_residual": parallel, "tie_word_embeddings": tied}
    return hf_model(EIGHT_HEADS | options)


def saved(directory: Path, theirs: GPTNeoXForCausalLM) -> Source:
    theirs.save_pretrained(directory)
    return read_source(directory)


def write(source: Source, directory: Path, ranks: int, layout: Layout, **options: Any) -> Path:
    directory.mkdir()
    write_neox(source, directory, tensor_parallel=ranks, layout=layout, **options)
    return directory
