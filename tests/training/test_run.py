"""Runs of train.py: however often they are ended, they end as one that was left alone."""

import dataclasses
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from neox_eqx.checkpoint.load import load
from neox_eqx.errors import InputError, Stopped
from neox_eqx.training.log.run_log import RunLog
from neox_eqx.training.run.fine_tune import fine_tune
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.update.tuning import Tuning
from tests.sharding.processes import finish, podrun_environments
from tests.text.checkpoints import byte_level, save_checkpoint
from tests.training.runs import EVERY, STEPS, Run, stop_when, wait_for, write_data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, data, and what is compiled for them."""
    directory = tmp_path_factory.mktemp("files")
    save_checkpoint(directory / "model", byte_level())
    write_data(directory / "data.jsonl", 22)
    write_data(directory / "held_out.jsonl", 3)
    return directory


def new_run(files: Path, output: Path) -> Run:
    return Run(files / "model", files / "data.jsonl", output, files / "compiled")


@pytest.fixture(scope="module")
def undisturbed(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(files, tmp_path_factory.mktemp("undisturbed"))
    (ended,) = finish(run.start(eval_data=files / "held_out.jsonl"))
    assert (ended.status, ended.err) == (0, "")
    counts, held_out, *said, result = ended.out.splitlines()
    assert counts.startswith(f"{files / 'data.jsonl'}: 22 examples; ")
    assert held_out.startswith(f"{files / 'held_out.jsonl'}: 3 examples; ")
    assert held_out.endswith(" tokens are measured, 3 prompts answered")
    steps = range(0, STEPS + 1, EVERY)
    assert [line.split(":")[0] for line in said] == [f"step {step}" for step in steps]
    assert result == f"{run.output / 'hf'}: the model after {STEPS} steps"
    return run


def test_a_run_leaves_its_numbers_a_picture_and_a_model(undisturbed: Run) -> None:
    assert [step for step, *_ in undisturbed.losses()] == [*range(1, STEPS + 1)]
    steps = [row["step"] for row in undisturbed.rows() if "eval_loss" in row]
    assert steps == [*range(0, STEPS + 1, EVERY)]
    assert all(0 <= row["exact_match"] <= 1 for row in undisturbed.rows() if "exact_match" in row)
    assert undisturbed.losses()[-1][1] < undisturbed.losses()[0][1]
    assert undisturbed.checkpoints() == [STEPS - EVERY, STEPS]
    assert (undisturbed.output / "loss.png").stat().st_size > 1000


def test_transformers_loads_the_result_with_its_tokenizer(undisturbed: Run, files: Path) -> None:
    directory = undisturbed.output / "hf"
    theirs = GPTNeoXForCausalLM.from_pretrained(directory)
    assert theirs.generation_config.pad_token_id == 1
    text = "Two cats and three dogs went home."
    ids = AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
    assert ids == byte_level().encode(text).ids
    ours = load(directory)
    hidden, _ = ours(jnp.array([ids]), jnp.ones((1, len(ids)), bool))
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours.logits(hidden)), expected, atol=2e-5)
    before = GPTNeoXForCausalLM.from_pretrained(files / "model")
    with torch.no_grad():
        assert np.abs(before(torch.tensor([ids])).logits.numpy() - expected).max() > 0.1


def test_a_run_that_is_ended_again_and_again_has_the_losses_of_one_that_is_not(
    files: Path, undisturbed: Run, tmp_path: Path
) -> None:
    """Killed while it writes a checkpoint, asked to end, and killed at any step."""
    run = new_run(files, tmp_path / "run")
    (process,) = run.start(save_every=1)
    whole = kill_while_it_saves(run, process)
    assert run.checkpoints() == whole

    (process,) = run.start(save_every=1)
    wait_for(lambda: len(run.losses()) > whole[-1] + 2, process)
    process.terminate()
    (ended,) = finish([process])
    assert ended.status == 75
    said = ended.err.splitlines()
    step = len(run.losses())
    assert said[0] == "SIGTERM: saving after this step" and len(said) == 2
    assert said[1].startswith(
        f"train.py: SIGTERM: the checkpoint of step {step} is in {run.output}"
    )
    assert run.checkpoints()[-1] == step < STEPS

    (process,) = run.start(save_every=4)
    target = random.randrange(step + 1, max(step + 2, STEPS - 4))
    print(f"killed after step {target}")
    wait_for(lambda: len(run.losses()) >= target, process)
    process.kill()
    finish([process])
    assert not (run.output / "hf").exists()

    (ended,) = finish(run.start())
    assert (ended.status, ended.err) == (0, "")
    assert run.losses() == undisturbed.losses()
    assert not run.unfinished()
    results = [
        (each.output / "hf" / "model.safetensors").read_bytes() for each in (run, undisturbed)
    ]
    assert results[0] == results[1]


def kill_while_it_saves(run: Run, process: subprocess.Popen[str]) -> list[int]:
    """Kills a run between the beginning and the end of a save; the checkpoints there are then."""
    stop_when(lambda: len(run.checkpoints()) > 1 and run.unfinished(), process)
    whole = run.checkpoints()
    process.kill()
    finish([process])
    assert run.unfinished()
    return whole


def test_a_run_goes_on_to_more_steps_and_keeps_its_checkpoint_where_there_is_no_space(
    files: Path, undisturbed: Run, tmp_path: Path
) -> None:
    """Files may not be larger than 100 kB at first, which is less than the state."""
    run = new_run(files, tmp_path / "run")
    shutil.copytree(undisturbed.output, run.output)
    # What is compiled goes to a file too.
    (process,) = run.start([{"JAX_ENABLE_COMPILATION_CACHE": "false"}], steps=STEPS + 2)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    (ended,) = finish([process])
    where = run.output / "checkpoints"
    assert ended.status == 2
    assert ended.err == f"train.py: error: {where}: the newest cannot be written: File too large\n"
    assert run.checkpoints() == [STEPS - EVERY, STEPS]
    assert not (run.output / "hf").exists()

    (ended,) = finish(run.start(steps=STEPS + 2))
    assert (ended.status, ended.err) == (0, "")
    assert [step for step, *_ in run.losses()] == [*range(1, STEPS + 3)]
    assert run.losses()[:STEPS] == undisturbed.losses()
    result, before = (each.output / "hf" / "model.safetensors" for each in (run, undisturbed))
    assert result.read_bytes() != before.read_bytes()


def options(files: Path, run: Run, data: str = "data.jsonl", **own: Any) -> TrainingOptions:
    """Those of the run, and others."""
    given = {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-2, "mesh": "data=1,model=1"}
    given |= {"model": str(files / "model"), "wandb_mode": "disabled"}
    return TrainingOptions(files / data, run.output, **given | own)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"batch_size": 2}, r"another batch_size \(4, not 2\); give what it began with"),
        ({"learning_rate": 0.5}, r"another learning_rate \(0.01, not 0.5\)"),
        ({"seed": 1}, r"another seed \(0, not 1\)"),
        ({"pack": True}, r"another pack \(false, not true\)"),
        ({"tuning": Tuning(lora_rank=2)}, r"another lora_rank \(0, not 2\)"),
        ({"data": "held_out.jsonl"}, "another data; give what it began with, or name another"),
        ({"steps": 1}, f"is at step {STEPS} already, and --steps 1 is less"),
    ],
)
def test_another_run_is_not_gone_on_with(
    files: Path, undisturbed: Run, own: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fine_tune(options(files, undisturbed, **own))


def ended_by_signal(files: Path, run: Run, step: int, name: str, **own: Any) -> None:
    """Goes on with the run until SIGTERM comes, as this number of this step is written."""
    write = RunLog.write

    def write_and_signal(log: RunLog, at: int, numbers: Mapping[str, float]) -> None:
        write(log, at, numbers)
        if at == step and name in numbers:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(RunLog, "write", write_and_signal)
        fine_tune(options(files, run, **own))
    assert stopped.value.status == 75


def test_a_signal_takes_no_evaluation_and_another_model_no_checkpoint(
    files: Path, tmp_path: Path
) -> None:
    """SIGTERM at a step that is due for evaluation, and during the last evaluation."""
    run = new_run(files, tmp_path / "run")
    own = {"steps": 4, "eval_data": files / "held_out.jsonl", "eval_every": 2, "save_every": 4}
    # The row of step 1 is written while the devices are at step 2.
    ended_by_signal(files, run, 1, "loss", **own)
    assert run.checkpoints() == [2] and [row["step"] for row in run.rows()] == [0, 1, 2]

    shutil.copytree(files / "model", tmp_path / "other")
    path = tmp_path / "other" / "model.safetensors"
    tensors = load_file(path)
    tensors["gpt_neox.layers.1.attention.dense.weight"][0] += 1
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputError, match="holds a run with another model; give what it began with"):
        fine_tune(dataclasses.replace(options(files, run, **own), model=str(tmp_path / "other")))

    ended_by_signal(files, run, 4, "eval_loss", **own)
    assert not (run.output / "hf").exists()
    fine_tune(options(files, run, **own))
    assert [(row["step"], "loss" in row) for row in run.rows()] == [
        *[(0, False), (1, True), (2, True), (2, False), (3, True), (4, True), (4, False)]
    ]
    assert (run.output / "loss.png").exists()

    before = (run.output / "metrics.jsonl").read_text()
    shutil.rmtree(run.output / "checkpoints")
    with pytest.raises(InputError, match="holds a result, and no checkpoint to go on from"):
        fine_tune(options(files, run, **own))
    assert (run.output / "hf").exists()
    assert (run.output / "metrics.jsonl").read_text() == before


def test_a_first_try_that_failed_does_not_bind_the_next(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    for rate in (0.5, 0.1):
        own = options(files, new_run(files, tmp_path / "run"), learning_rate=rate)
        with pytest.raises(InputError, match="there is no W&B login"):
            fine_tune(dataclasses.replace(own, wandb_mode="online"))


def test_a_run_that_has_ended_is_left_as_it_is(
    files: Path, undisturbed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.output.rglob("hf/*")}
    fine_tune(options(files, undisturbed))
    said = capsys.readouterr().out
    assert (
        said == f"{undisturbed.output}/hf: the model after {STEPS} steps, which was there already\n"
    )
    assert {path: path.stat().st_mtime_ns for path in undisturbed.output.rglob("hf/*")} == before


def test_processes_end_together_and_one_goes_on_alone_with_their_losses(
    files: Path, undisturbed: Run, tmp_path: Path
) -> None:
    """Two processes with two devices each; a signal to one of them makes both save and end."""
    run = new_run(files, tmp_path / "run")
    processes = run.start(podrun_environments(2), devices=2, save_every=4, mesh="data=2,model=2")
    wait_for(lambda: len(run.losses()) > 1, processes[1])
    processes[1].terminate()
    ended = finish(processes)
    assert [one.status for one in ended] == [75, 75], ended
    step = len(run.losses())
    assert run.checkpoints()[-1] == step < STEPS
    assert [one.err.count("saving after this step") for one in ended] == [0, 0]
    assert [one.err.count(f"checkpoint of step {step}") for one in ended] == [1, 0]
    assert ended[1].out == ""

    (one,) = finish(run.start(devices=4, mesh="data=4"))
    assert one.status == 0, one
    numbers, expected = np.array(run.losses()), np.array(undisturbed.losses())
    np.testing.assert_allclose(numbers, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora_rank", "prompt_tokens", "prefix_tokens"])
def test_what_is_trained_beside_the_model_goes_on_as_it_would_have(
    files: Path, tmp_path: Path, kind: str
) -> None:
    own = {kind: 3, "steps": 8, "eval_data": files / "held_out.jsonl"}
    whole = new_run(files, tmp_path / "whole")
    (ended,) = finish(whole.start(save_every=4, **own))
    assert (ended.status, ended.err) == (0, "")
    run = new_run(files, tmp_path / "run")
    shutil.copytree(whole.output, run.output)
    shutil.rmtree(run.output / "checkpoints" / "8")
    (ended,) = finish(run.start(**own))
    assert (ended.status, ended.err) == (0, "")
    assert run.losses() == whole.losses() and len(run.losses()) == 8
    assert run.losses()[-1][1] < run.losses()[0][1]
    results = {"lora_rank": ["adapter", "hf"]}.get(kind, ["adapter"])
    for each in (whole, run):
        there = [name for name in ("adapter", "hf") if (each.output / name).exists()]
        assert there == results
    for name in results:
        files_of = [sorted((each.output / name).glob("*.safetensors")) for each in (whole, run)]
        assert files_of[0][0].read_bytes() == files_of[1][0].read_bytes()
