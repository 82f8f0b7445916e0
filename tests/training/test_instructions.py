"""A file of instructions, from the rows as their author left them to a model that answers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neox_eqx import DEMO_MODEL
from neox_eqx.errors import InputError
from neox_eqx.training.log.metrics_file import read_metrics
from neox_eqx.training.run.fine_tune import fine_tune
from neox_eqx.training.run.options import TrainingOptions


def alpaca(path: Path, count: int, long: int = 0) -> Path:
    """So many instructions; the last ones are longer than the model's context."""
    rows = [
        {"instruction": "Add one." if n % 2 else "Say it again.", "input": f"{n}", "output": f"{n}"}
        for n in range(count)
    ]
    for row in rows[count - long :]:
        row["input"] = "1 2 3 " * 99
    path.write_text(json.dumps(rows, indent=1))
    return path


def test_an_alpaca_file_is_trained_on_and_the_result_is_a_model(tmp_path: Path) -> None:
    data, run = alpaca(tmp_path / "alpaca.json", 20, long=3), tmp_path / "run"
    options = TrainingOptions(
        data,
        run,
        str(DEMO_MODEL),
        template="alpaca",
        steps=3,
        batch_size=4,
        learning_rate=1e-3,
        eval_data=data,
        eval_questions=2,
        eval_every=3,
        mesh="data=1,model=1",
        wandb_mode="disabled",
    )
    with pytest.warns(UserWarning, match="3 of 20 examples are too long: 95 % have at most"):
        fine_tune(options)
    rows = read_metrics(run)
    evaluations = [row for row in rows if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [0, 3]
    assert all(0 <= row["exact_match"] <= 1 for row in evaluations)
    # The loss of the answers, by transformers on the result: the prompt as Alpaca documents it.
    model = AutoModelForCausalLM.from_pretrained(run / "hf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / "hf")
    total = count = 0.0
    for row in json.loads(data.read_text())[:17]:
        prompt = (
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{row['instruction']}\n\n### Input:\n{row['input']}\n\n### Response:"
        )
        given = tokenizer(prompt).input_ids
        tokens = given + tokenizer(row["output"] + tokenizer.eos_token).input_ids
        labels = torch.tensor([[-100] * len(given) + tokens[len(given) :]])
        loss = model(torch.tensor([tokens]), labels=labels).loss.item()
        total, count = total + loss * (len(tokens) - len(given)), count + len(tokens) - len(given)
    assert evaluations[1]["eval_loss"] == pytest.approx(total / count, rel=1e-4)
    assert evaluations[1]["eval_loss"] < evaluations[0]["eval_loss"]


def test_instructions_for_a_model_without_a_template_ask_for_its_name(tmp_path: Path) -> None:
    data = alpaca(tmp_path / "alpaca.json", 3)
    options = TrainingOptions(data, tmp_path / "run", str(DEMO_MODEL), wandb_mode="disabled")
    with pytest.raises(InputError, match="has no chat template; give --template NAME, one of"):
        fine_tune(options)
    assert not (tmp_path / "run").exists()
