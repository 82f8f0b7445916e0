"""What fails for one prompt or text alone, as users of the programs see it; the rest completes."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, decoders

from neox_eqx import Conversation, GenerationOptions, TextGenerator
from neox_eqx.cli import generate, score
from neox_eqx.command_line import run
from neox_eqx.text.completion import Event
from neox_eqx.text.conversation import AnswerFailed
from tests.text.checkpoints import byte_level, save_checkpoint

NAN = "Z"
"""A token that the model reads as NaN."""
ENDLESS = "t" * 60 + "!"
"""A token over which the decoder's regular expression goes on for ever, until it gives up."""
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
PROMPTS = ["Two cats", f"Two {NAN}", "How many animals", ENDLESS, "three dogs"]
NEW = ["--max-new-tokens", "6", "--mesh", "data=1,model=1"]
NAN_ERROR = "the model's logits for token 1 of the completion are NaN or infinite: the checkpoint's"
TOKENIZER_ERROR = "the tokenizer breaks down over the text of tokens: Onig: "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    tokenizer = byte_level()
    tokenizer.add_tokens([ENDLESS])
    pieces = [decoders.ByteLevel(), decoders.Fuse(), decoders.Replace(Regex("(t|tt)+$"), "")]
    tokenizer.decoder = decoders.Sequence(pieces)
    save_checkpoint(directory, tokenizer, {"suppress_tokens": tokenizer.encode(NAN).ids})
    # Else the class of the model decides over the decoder.
    plain = '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    (directory / "tokenizer_config.json").write_text(plain)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["gpt_neox.embed_in.weight"][tokenizer.encode(NAN).ids] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


def call(program: ModuleType, *args: str | Path) -> int:
    """The status that a program ends with."""
    try:
        run(program.main, program.Options, [str(arg) for arg in args])
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def prompt_file(place: Path, prompts: list[str]) -> Path:
    path = place / "in.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_prompt_that_fails_has_its_error_in_its_row_and_the_others_are_whole(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    ask = ["--model", model, *NEW, "--batch-size", "2", "--output", output]
    assert call(generate, *ask, "--prompt-file", prompt_file(tmp_path, PROMPTS)) == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert "2 of 5 completions failed, the first that of prompt 2, which begins 'Two Z': " in line
    assert NAN_ERROR in line
    rows = rows_of(output)
    assert [row["prompt"] for row in rows] == PROMPTS
    for row, error in ((rows[1], NAN_ERROR), (rows[3], TOKENIZER_ERROR)):
        assert row["error"].startswith(error)
        assert (row["finish_reason"], row["text"], row["tokens"]) == ("error", "", [])
        assert (row["logprob"], row["score"]) == (0, None)
    good = PROMPTS[::2]
    assert call(generate, *ask, "--prompt-file", prompt_file(tmp_path, good)) == 0
    alone = rows_of(output)
    for row, expected in zip(rows[::2], alone, strict=True):
        assert row.pop("logprob") == pytest.approx(expected.pop("logprob"), abs=1e-5)
        assert row == expected and "error" not in row


@pytest.mark.slow
def test_on_the_terminal_what_failed_before_its_first_token_is_not_there(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ask = ["--model", model, *NEW, "--prompt-file", prompt_file(tmp_path, PROMPTS)]
    outputs = []
    for stream in ("--stream", "--no-stream"):
        assert call(generate, *ask, stream) == 2
        out, err = capfd.readouterr()
        assert "2 of 5 completions failed, the first that of prompt 2, " in err
        outputs.append(out)
    assert outputs[0] == outputs[1]
    shown = iter(outputs[0].split("\n\n"))
    assert all(any(block.startswith(prompt) for block in shown) for prompt in PROMPTS[::2])
    assert not any(prompt in outputs[0] for prompt in PROMPTS[1::2])


def test_where_all_fail_nothing_is_written(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = prompt_file(tmp_path, [f"{NAN} dogs", f"{NAN} cats"])
    before = sorted(tmp_path.iterdir())
    output = tmp_path / "out.jsonl"
    ask = ["--model", model, "--mesh", "data=1,model=1", "--output", output]
    assert call(generate, *ask, "--prompt-file", source, "--max-new-tokens", "6") == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "2 of 2 completions failed" in err
    assert call(score, *ask, "--input", source) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"no line can be scored; the first is {source}, line 1: the model's logits for" in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_text_whose_scores_are_no_numbers_has_its_error_in_its_row(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    ask = ["--model", model, "--mesh", "data=1,model=1", "--output", output]
    texts = ["Two cats", f"Two {NAN} cats", "three dogs"]
    assert call(score, *ask, "--input", prompt_file(tmp_path, texts)) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "1 of 3 lines could not be scored" in err
    bad = rows_of(output)[1]
    assert list(bad) == ["finish_reason", "error"] and bad["finish_reason"] == "error"
    assert "in.txt, line 2: the model's logits for the text are NaN or infinite" in bad["error"]
    good = rows_of(output)[::2]
    assert call(score, *ask, "--input", prompt_file(tmp_path, texts[::2])) == 0
    for row, alone in zip(good, rows_of(output), strict=True):
        assert row["tokens"] == alone["tokens"]
        assert row["sum_logprob"] == pytest.approx(alone["sum_logprob"], abs=1e-5)


def test_a_chat_goes_on_after_an_answer_that_failed(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"Two cats\n{NAN}\n{NAN}\nthree dogs\n"))
    with pytest.warns(UserWarning, match="answer [23] failed: the model's logits") as told:
        assert call(generate, "--model", model, "--chat", *NEW) == 2
    out, err = capfd.readouterr()
    assert len(told) == 2
    assert ": error: 2 of 4 answers failed, the first, 2: the model's logits for token 1" in err
    generator = TextGenerator.load(model, mesh="data=1,model=1")
    conversation = Conversation(generator, GenerationOptions(max_new_tokens=6))
    answers = ["".join(conversation.say("Two cats")), "", ""]
    with pytest.raises(AnswerFailed, match=NAN_ERROR):
        list(conversation.say(NAN))
    assert len(conversation.messages) == 2
    answers.append("".join(conversation.say("three dogs")))
    assert out == "".join(f"{answer}\n" for answer in answers)


def test_a_stream_ends_a_completion_that_failed_with_an_event_without_a_token(
    model: Path,
) -> None:
    generator = TextGenerator.load(model, mesh="data=1,model=1")
    options = GenerationOptions(max_new_tokens=6)
    events: dict[int, list[Event]] = {number: [] for number in range(len(PROMPTS))}
    for event in generator.stream(PROMPTS, options):
        events[event.row].append(event)
    for own in events.values():
        assert [event.completion is not None for event in own] == [*[False] * (len(own) - 1), True]
    for number in (1, 3):
        (event,) = events[number]
        assert (event.text, event.token, event.logprob) == ("", None, None)
        assert event.finish_reason == "error"
    last = [own[-1].completion for own in events.values()]
    assert last == generator.generate(PROMPTS, options)
