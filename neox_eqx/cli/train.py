"""Fine-tunes a GPT-NeoX model.

neox-eqx train --model MODEL --data FILE.jsonl --output DIR
"""

from collections.abc import Sequence

from neox_eqx.command_line import parse
from neox_eqx.sharding.distributed import on_every_host
from neox_eqx.training.run.fine_tune import fine_tune as main
from neox_eqx.training.run.options import TrainingOptions as Options


def command(program: str, args: Sequence[str]) -> None:
    on_every_host(main)(parse(Options, program, args))
