"""The soft prompt or prefix that stands before every prompt."""

from pathlib import Path

import jax
import numpy as np

from neox_eqx.checkpoint.load_prompt import load_prompt
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.model.prompt import Prompt
from neox_eqx.sharding.distributed import agreed, check_equal


def agreed_prompt(directory: str | Path, config_file: Path) -> Prompt:
    """The soft prompt or prefix in a directory, the same in all processes.

    Raises:
        InputError: as `load_prompt`, in any process; or hosts hold different ones.
    """
    with agreed():
        prompt = load_prompt(directory, GPTNeoXConfig.from_file(config_file))
    arrays = map(np.asarray, jax.tree.leaves(prompt))
    check_equal(f"{directory}", [array.tobytes() for array in arrays])
    return prompt
