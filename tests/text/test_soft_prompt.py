"""Texts after a soft prompt or a prefix are PEFT's, in a batch and one by one."""

import warnings
from pathlib import Path

import peft
import pytest
from transformers import GPTNeoXForCausalLM

from neox_eqx import GenerationOptions, InputError, TextGenerator
from neox_eqx.cli import generate
from neox_eqx.command_line import run
from tests.text.checkpoints import byte_level
from tests.training.peft_peers import peft_tokens, trained_at_random

TEXTS = ["Two cats", "안녕하세요, 세계!", "How many animals went home? How many"]
GREEDY = GenerationOptions(temperature=0.0, max_new_tokens=10)
KINDS = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}


@pytest.fixture(scope="module", params=KINDS)
def tuned(
    request: pytest.FixtureRequest,
    saved: tuple[Path, GPTNeoXForCausalLM],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[peft.PeftModel, Path, TextGenerator]:
    """PEFT's model, the directory that it wrote, and our generator with that."""
    directory = tmp_path_factory.mktemp(request.param)
    base = GPTNeoXForCausalLM.from_pretrained(saved[0])
    config = KINDS[request.param](task_type="CAUSAL_LM", num_virtual_tokens=6)
    theirs = trained_at_random(base, config)
    with warnings.catch_warnings(action="ignore"):
        theirs.save_pretrained(directory)
    return theirs, directory, TextGenerator.load(saved[0], soft_prompt=directory)


@pytest.mark.typed
def test_greedy_tokens_of_a_batch_are_pefts(
    tuned: tuple[peft.PeftModel, Path, TextGenerator], generator: TextGenerator
) -> None:
    theirs, _, ours = tuned
    completions = ours.generate(TEXTS, GREEDY)
    expected = [peft_tokens(theirs, byte_level().encode(text).ids, 10) for text in TEXTS]
    assert [list(completion.tokens) for completion in completions] == expected
    plain = generator.generate(TEXTS, GREEDY)
    assert all(a.tokens != b.tokens for a, b in zip(completions, plain, strict=True))


def test_samples_of_a_prompt_do_not_depend_on_those_beside_it(
    tuned: tuple[peft.PeftModel, Path, TextGenerator],
) -> None:
    _, _, ours = tuned
    options = GenerationOptions(temperature=1.5, num_samples=2, seed=3, max_new_tokens=8)
    samples = [completion.tokens for completion in ours.generate(TEXTS, options)]
    others = ours.generate([TEXTS[2], TEXTS[2], TEXTS[0]], options)
    assert [completion.tokens for completion in others[2:]] == [*samples[4:], *samples[:2]]
    assert len(set(samples)) == len(samples)


def test_the_command_takes_a_directory_and_tells_what_is_wrong_with_it(
    tuned: tuple[peft.PeftModel, Path, TextGenerator],
    saved: tuple[Path, GPTNeoXForCausalLM],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, directory, ours = tuned
    completions = ours.generate(TEXTS, GREEDY)
    ask = ["--model", saved[0], "--temperature", "0", "--max-new-tokens", "10", "--prompt", *TEXTS]
    command([*ask, "--soft-prompt", directory])
    printed = capsys.readouterr().out
    assert printed == "".join(
        f"{text}{c.text}\n\n" for text, c in zip(TEXTS, completions, strict=True)
    )
    with pytest.raises(SystemExit) as exit:
        command([*ask, "--soft-prompt", saved[0]])
    printed, told = capsys.readouterr()
    assert (exit.value.code, printed, told.count("\n")) == (2, "", 1)
    assert "adapter_config.json: cannot be read: No such file" in told
    # It takes positions of the context.
    with pytest.raises(InputError, match="58 tokens, but the model has 58 positions"):
        ours.generate(["7" * 58])


def command(args: list[str | Path]) -> None:
    run(generate.main, generate.Options, [str(arg) for arg in args])
