"""Training as `neox-eqx train` does it, on request: a process of train.py."""

import jax
import numpy as np
from trainer import Task, Train, serve

from neox_eqx import load
from neox_eqx.sharding.rules import TRAINING_RULES
from neox_eqx.training.data.dataset import Rows, to_devices
from neox_eqx.training.update.recipe import Recipe
from neox_eqx.training.update.state import TrainState
from neox_eqx.training.update.step import train_step


def begin(task: Task) -> Train:
    recipe = Recipe(**task.recipe)
    model = load(
        task.checkpoint,
        dtype="float32",
        mesh="data=1,model=1",
        rules=TRAINING_RULES,
        stacked=True,
    )
    mesh, state = model.mesh, TrainState.start(model, recipe)
    del model

    def train(batches: list[np.ndarray]) -> list[float]:
        nonlocal state
        losses = []
        for tokens in batches:
            documents, weights = np.ones_like(tokens, np.int32), np.ones(tokens.shape, np.float32)
            batch = to_devices(Rows(tokens.astype(np.int32), documents, weights), mesh)
            state, metrics = train_step(state, batch, recipe)
            losses.append(metrics.loss)
        jax.block_until_ready(state)
        return [float(loss) for loss in losses]

    return train


if __name__ == "__main__":
    serve(begin)
