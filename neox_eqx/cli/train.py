"""Fine-tunes a GPT-NeoX model.

neox-eqx train --model MODEL --data FILE.jsonl --output DIR
"""

from collections.abc import Sequence

from neox_eqx.command_line import parse
from neox_eqx.sharding.distributed import on_every_host
from neox_eqx.training.options import TrainingOptions as Options
from neox_eqx.training.run import fine_tune as main


def command(program: str, args: Sequence[str]) -> None:
    on_every_host(main)(parse(Options, program, args))
