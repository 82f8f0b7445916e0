"""Fine-tunes a GPT-NeoX model."""

from neox_eqx.command_line import run
from neox_eqx.sharding.distributed import on_every_host
from neox_eqx.training.options import TrainingOptions
from neox_eqx.training.run import fine_tune

if __name__ == "__main__":
    run(on_every_host(fine_tune), TrainingOptions)
