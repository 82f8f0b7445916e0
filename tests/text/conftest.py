"""One checkpoint that transformers saved, with a tokenizer, for all tests of texts."""

from pathlib import Path

import pytest
from transformers import GPTNeoXForCausalLM

from neox_eqx.text.generator import TextGenerator
from tests.text.checkpoints import byte_level, save_checkpoint


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GPTNeoXForCausalLM]:
    """A directory, and transformers' model of it. Shared: do not alter either."""
    directory = tmp_path_factory.mktemp("saved")
    return directory, save_checkpoint(directory, byte_level())


@pytest.fixture(scope="session")
def generator(saved: tuple[Path, GPTNeoXForCausalLM]) -> TextGenerator:
    return TextGenerator.load(saved[0])
