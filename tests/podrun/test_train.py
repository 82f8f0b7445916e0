"""train.py on a pod of four hosts: what one machine computes, and one end for all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neox_eqx.training.log.metrics_file import read_metrics
from tests.podrun.hosts import Hosts
from tests.podrun.launch import Launch, wait_until
from tests.podrun.test_generate import ON_CPU, ROOT, VENV, rank
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.runs import write_data

SECONDS = 300  # until four processes share two cores' time to import, load, compile and train
STEPS = 60


def losses(directory: Path) -> np.ndarray:
    path = directory / "metrics.jsonl"
    rows = read_metrics(directory) if path.exists() else []
    return np.array([(row["step"], row["loss"]) for row in rows]).reshape(-1, 2)


@pytest.mark.slow
def test_four_hosts_have_the_losses_of_one_machine_and_stop_together(
    pod: Hosts, tmp_path: Path
) -> None:
    """A process of one host is told that the host goes; the same command ends what it began."""
    save_checkpoint(tmp_path / "model", byte_level())
    data = write_data(tmp_path / "data.jsonl", 30)
    words = ["--model", tmp_path / "model", "--data", data, "--steps", STEPS, "--batch-size", 8]
    words += ["--learning-rate", 1e-2, "--wandb-mode", "disabled"]
    command = [str(word) for word in ("python", "train.py", *words, "--output")]

    alone = tmp_path / "alone"
    environment = {**os.environ, **ON_CPU, "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.check_call([sys.executable, *command[1:], str(alone)], cwd=ROOT, env=environment)

    output = tmp_path / "pod"
    mesh = ("--mesh", "data=4,model=2", "--save-every", "3")

    def launch() -> Launch:
        return pod.launch(
            "-w", *command, str(output), *mesh, directory=ROOT, VIRTUAL_ENV=VENV, **ON_CPU
        )

    first = launch()
    wait_until(
        lambda: len(losses(output)) > 0 or first.process.poll() is not None,
        SECONDS,
        lambda: first.stderr,
    )
    os.kill(rank(pod, 2), signal.SIGTERM)
    assert first.end(SECONDS) == 75, first.stderr
    step = len(losses(output))
    assert step < STEPS and (output / "checkpoints" / str(step)).is_dir()
    said = [line for line in first.stderr.splitlines() if "train.py: " in line]
    assert len(said) == 1 and f"SIGTERM: the checkpoint of step {step} is in" in said[0]

    second = launch()
    assert second.end(SECONDS) == 0, second.stderr
    counts, result = second.stdout.splitlines()
    assert counts.startswith(f"h0| {data}: 30 examples; ")
    assert result == f"h0| {output}/hf: the model after {STEPS} steps"
    np.testing.assert_allclose(losses(output), losses(alone), rtol=1e-4)
    assert len(losses(alone)) == STEPS
