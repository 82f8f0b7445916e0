"""The batches and the log of two processes are those of one."""

import json
from pathlib import Path

import numpy as np

from neox_eqx.training.data.dataset import TrainingData
from tests.sharding.processes import finish, start
from tests.training.documents import document

PROGRAM = """
import sys
from pathlib import Path
import jax
from neox_eqx import initialize
from neox_eqx.presets import PRESETS
from neox_eqx.sharding.distributed import wait_for_all
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.training.data.dataset import to_devices
from neox_eqx.training.log.run_log import RunLog
from tests.training.test_data_processes import data

@jax.jit
def digests(batch):
    places = jax.numpy.arange(1, 9)[:, None] * jax.numpy.arange(1, 17)
    return {name: (array * places).sum() for name, array in vars(batch).items()}

initialize()
mesh = make_mesh(PRESETS["pythia-70m"], "data=4,model=1")
log = RunLog(Path.cwd(), wandb_mode="disabled", config={})
for step in range(3):
    batch = to_devices(data().batch(step), mesh)
    assert all(len(shard.data) == 2 for shard in batch.tokens.addressable_shards)
    log.write(step, digests(batch))
log.finish()
wait_for_all()
"""


def data() -> TrainingData:
    random = np.random.default_rng(0)
    documents = [
        document(number, random.integers(0, 100, length), given=1)
        for number, length in enumerate(random.integers(2, 12, 50))
    ]
    return TrainingData.of(documents, batch_size=8, max_length=16, pack=True, seed=5)


def test_two_processes_have_the_batches_of_one_and_write_one_log(tmp_path: Path) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    for directory in directories:
        directory.mkdir()
    ended = finish(start(["-c", PROGRAM], 2, directories))
    assert [one.status for one in ended] == [0, 0], ended
    assert not list(directories[1].iterdir())
    lines = (directories[0] / "metrics.jsonl").read_text().splitlines()
    places = np.arange(1, 9)[:, None] * np.arange(1, 17)
    expected = [
        {"step": step, **{name: float((array * places).sum()) for name, array in rows.items()}}
        for step in range(3)
        for rows in [data().batch(step)._asdict()]
    ]
    assert [json.loads(line) for line in lines] == expected
