"""What every command does where an option is left out: it changes for all who leave it out."""

import dataclasses
from typing import Any

import pytest

from neox_eqx.cli import benchmark, convert, generate, plan, score
from neox_eqx.cli.main import COMMANDS
from neox_eqx.training.run.options import TrainingOptions

OPTIONS = {
    "generate": generate.Options,
    "score": score.Options,
    "train": TrainingOptions,
    "convert": convert.Options,
    "plan": plan.Options,
    "benchmark": benchmark.Options,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "generate": dict(num_samples=1, seed=0, batch_size=8, mesh="auto", stream=True),
    "score": dict(batch_size=8, top_candidates=0, mesh="auto"),
    "train": {
        **dict(batch_size=8, grad_accumulation=1, mesh="auto", remat=True, seed=0),
        **dict(learning_rate=1e-5, warmup_steps=0, weight_decay=0.01, clip_norm=1.0),
        **dict(lora_rank=0, lora_alpha=8.0, lora_targets=("query_key_value",)),
        **dict(prompt_tokens=0, prefix_tokens=0, prompt_text=""),
        **dict(keep=2, max_skipped=5, wandb_mode="online"),
    },
    "convert": {
        **dict(dtype="same", max_shard_size="5GB", verify=True),
        **dict(row_bias="auto", padded_vocab="keep", fused_gelu="gelu", replicated="equal"),
        **dict(tensor_parallel=1, neox_layout="pipeline"),
    },
    "plan": dict(
        batch_size=1, prompt_len=1024, gen_len=1024, mesh="auto", layout="auto", dtype="bfloat16"
    ),
    # Those of README's table.
    "benchmark": {
        **dict(batch_size=1, prompt_len=128, gen_len=64, rounds=5),
        **dict(num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0, bad_words=0),
    },
}


def defaults(options: Any) -> dict[str, Any]:
    """The options that may be left out and then are not off, by name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = field.default
        if dataclasses.is_dataclass(value):
            found |= defaults(value)
        elif value not in (dataclasses.MISSING, None, ()) and value is not False:
            found[field.name] = value
    return found


@pytest.mark.parametrize("command", OPTIONS)
def test_an_option_that_is_left_out_is_off_or_has_the_value_that_users_count_on(
    command: str,
) -> None:
    assert defaults(OPTIONS[command]) == DEFAULTS[command]


def test_all_commands_with_options_of_their_own_are_held() -> None:
    assert COMMANDS.keys() - OPTIONS.keys() == {"evaluate"}
