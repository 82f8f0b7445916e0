"""Fine-tunes a GPT-NeoX model.

neox-eqx train --model MODEL --data FILE.jsonl --output DIR
"""

from neox_eqx.command_line import run
from neox_eqx.sharding.distributed import on_every_host
from neox_eqx.training.options import TrainingOptions as Options
from neox_eqx.training.run import fine_tune as main


def command() -> None:
    run(on_every_host(main), Options)
