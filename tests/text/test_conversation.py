"""A conversation: the tokens of a fresh prompt of all that was said, of which new ones are read."""

import dataclasses
import json
import os
import pty
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GPTNeoXForCausalLM

from neox_eqx import GenerationOptions, InputError, TextGenerator
from neox_eqx.cli import generate
from neox_eqx.command_line import run
from neox_eqx.text.conversation import Conversation, Spoken
from neox_eqx.text.prompts import as_messages
from tests.generation.completions import theirs

TURNS = ("두 마리", "Two cats", "家へ")
TEMPLATE = """
{%- for message in messages %}
    {{- '<bos>' ~ message.role[0] ~ ':' ~ message.content ~ '<eos>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}<bos>a:{% endif %}
"""
POSITIONS = 256


@pytest.fixture(scope="module")
def directory(
    saved: tuple[Path, GPTNeoXForCausalLM], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    directory = tmp_path_factory.mktemp("chat")
    shutil.copytree(saved[0], directory, dirs_exist_ok=True)
    config = json.loads((directory / "config.json").read_text())
    config["max_position_embeddings"] = POSITIONS
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="module")
def generator(directory: Path) -> TextGenerator:
    return TextGenerator.load(directory)


def common(some: list[int], others: list[int]) -> int:
    pairs = enumerate(zip(some, others, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(some), len(others)))


def test_every_answer_is_transformers_to_the_whole_conversation_and_nothing_is_read_twice(
    directory: Path, generator: TextGenerator, saved: tuple[Path, GPTNeoXForCausalLM]
) -> None:
    oracle = AutoTokenizer.from_pretrained(directory)
    eos = generator.eos_token_ids
    conversation = Conversation(generator, GenerationOptions(max_new_tokens=9), system="お話")
    messages, before, expected = [{"role": "system", "content": "お話"}], [], 0
    for turn in TURNS:
        pieces = list(conversation.say(turn))
        messages.append({"role": "user", "content": turn})
        ids = oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        (answer,), _ = theirs(saved[1], [tuple(ids)], 9, eos)
        expected += len(ids) - min(common(ids, before), len(ids) - 1)
        before = [*ids, *answer]
        said = oracle.decode([id for id in answer if id not in eos]).strip()
        messages.append({"role": "assistant", "content": said})
        assert "".join(pieces) == said
        assert len(pieces) > 5
    assert conversation.messages == messages
    assert conversation.tokens_read == expected < len(before)


def test_to_what_a_template_writes_the_tokenizer_adds_no_special_tokens(
    directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    configured = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(configured))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    oracle, generator = AutoTokenizer.from_pretrained(tmp_path), TextGenerator.load(tmp_path)
    messages = as_messages("Two cats")
    for prompt, ids in (
        ("Two cats", oracle("Two cats").input_ids),
        (messages, oracle.apply_chat_template(messages, add_generation_prompt=True).input_ids),
    ):
        assert list(generator.request(prompt, GenerationOptions())[1].tokens) == ids
        assert ids[0] == 0 != ids[1]


def test_a_prompt_of_messages_is_what_the_template_writes(
    directory: Path, generator: TextGenerator
) -> None:
    messages = [{"role": "user", "content": "家へ"}]
    oracle = AutoTokenizer.from_pretrained(directory)
    text, request = generator.request(messages, GenerationOptions())
    applied = {"add_generation_prompt": True, "return_dict": False}
    assert text == oracle.apply_chat_template(messages, **applied, tokenize=False)
    assert list(request.tokens) == oracle.apply_chat_template(messages, **applied)
    assert request.options.stop == ()


def test_a_named_template_stops_where_its_turns_end_unless_told_otherwise(
    generator: TextGenerator,
) -> None:
    dolly = dataclasses.replace(generator, template_name="dolly")
    messages = [{"role": "user", "content": "ok"}]
    for stop, expected in [(None, ("### End",)), (("x",), ("x",)), ((), ())]:
        _, request = dolly.request(messages, GenerationOptions(stop=stop))
        assert request.options.stop == expected
    assert dolly.request("ok", GenerationOptions())[1].options.stop == ()


def test_with_a_template_or_a_system_a_plain_prompt_is_a_users_message() -> None:
    user, system = ({"role": role, "content": role} for role in ("user", "system"))
    options = {"prompt": ("user",), "template": "oasst"}
    assert generate._requests(generate.Options(**options))[0][0] == [user]
    options = {"prompt": ("user",), "system": "system"}
    assert generate._requests(generate.Options(**options))[0][0] == [system, user]
    assert generate._requests(generate.Options(prompt=("user",)))[0][0] == "user"
    assert as_messages([system, user], "another") == [system, user]


@pytest.mark.slow
def test_all_options_are_those_of_a_prompt(generator: TextGenerator) -> None:
    options = GenerationOptions(max_new_tokens=9, temperature=1.5, seed=3, repetition_penalty=1.3)
    tokens = jnp.array([[7, 8, 9]])
    _, before = generator.model(tokens, jnp.ones(tokens.shape, bool))
    generator = dataclasses.replace(generator, past=(before,), mask_unknown_tokens=True)
    conversation = Conversation(generator, options)
    answers = ["".join(conversation.say(turn)) for turn in TURNS[:2]]
    (fresh,) = generator.generate([conversation.messages[:-1]], options)
    assert answers[-1] == fresh.text.strip()


def test_a_stop_text_ends_an_answer_and_is_neither_printed_nor_said_again(
    generator: TextGenerator,
) -> None:
    whole = "".join(Conversation(generator, GenerationOptions(max_new_tokens=20)).say("ok"))
    stop = re.search("[ -~]{2}", whole)[0]
    conversation = Conversation(generator, GenerationOptions(max_new_tokens=20, stop=(stop,)))
    expected = whole[: whole.index(stop)].strip()
    assert "".join(conversation.say("ok")) == expected
    assert conversation.messages[-1]["content"] == expected


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_what_may_yet_be_a_stop_text_waits(size: int) -> None:
    text = "\n 12 ## a #\n\n### En\n\n### End"  # in the last token, more may follow it
    spoken = Spoken(("### End", "<human>:"))
    starts = range(0, len(text), size)
    pieces = [spoken.add(f"{text} of"[start : start + size]) for start in starts]
    pieces.append(spoken.end(has_stopped=True))
    assert "".join(pieces) == spoken.text == "12 ## a #\n\n### En"


def test_a_conversation_that_fills_the_context_ends_in_one_line(generator: TextGenerator) -> None:
    conversation = Conversation(generator)
    assert conversation.options.max_new_tokens == POSITIONS  # an answer has all the room there is
    long = [{"role": role, "content": "ok" * 99} for role in ("user", "assistant")]
    conversation.messages = long
    with pytest.raises(InputError, match=rf"turn 2 .* the {POSITIONS} positions .*; begin a new"):
        list(conversation.say("ok"))
    assert conversation.messages == long


def test_one_answer_a_turn_and_a_template_are_needed(
    generator: TextGenerator, saved: tuple[Path, GPTNeoXForCausalLM]
) -> None:
    for name in ("num_samples", "num_beams"):
        for given in ((GenerationOptions(**{name: 2}),), ()):
            with pytest.raises(InputError, match=f"^{name} is 2, but a turn has one answer"):
                Conversation(generator, *given, **({} if given else {name: 2}))
    with pytest.raises(InputError, match="^bitwise is for prompts, and a conversation reads its"):
        Conversation(dataclasses.replace(generator, bitwise=True))
    bare = dataclasses.replace(generator, directory=saved[0])
    with pytest.raises(InputError, match="no chat template; give --template NAME, one of dolly,"):
        Conversation(bare)
    with pytest.raises(InputError, match="template koalpaca: has no place for a system's message"):
        Conversation(dataclasses.replace(bare, template_name="koalpaca"), system="Be short.")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Has the command read what is typed into a real pipe or terminal."""
    opened = []

    def type_into(text: bytes, *, terminal: bool) -> int:
        ours, child = pty.openpty() if terminal else os.pipe()[::-1]
        os.write(ours, text)
        if not terminal:
            os.close(ours)
        stdin = os.fdopen(child, encoding="utf-8")
        opened.append(stdin)
        monkeypatch.setattr(sys, "stdin", stdin)
        return ours

    yield type_into
    for file in opened:
        file.close()


def chat(*args: str | Path) -> None:
    run(generate.main, generate.Options, ["--chat", *map(str, args)])


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_gets_an_answer_until_the_end_of_input(
    directory: Path,
    generator: TextGenerator,
    typed: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
) -> None:
    typed("ok\n\n두 마리\n".encode() + b"\x04" * terminal, terminal=terminal)
    args = (
        "--max-new-tokens",
        "9",
        "--prompt",
        "家へ",
        "--system",
        "お話",
        "--mesh",
        "data=1,model=1",
    )
    chat("--model", directory, *args)
    conversation = Conversation(generator, GenerationOptions(max_new_tokens=9), system="お話")
    answers = ["".join(conversation.say(turn)) for turn in ("家へ", "ok", "두 마리")]
    out, err = capsys.readouterr()
    assert out == "".join(f"{answer}\n" for answer in answers)
    assert err == (4 * "> " + "\n" if terminal else "")


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        (b"\xff\n", (), r"turn 1 .* message 1: content .* is not valid Unicode"),
        (b"ok" * 300, (), rf"turn 1 of the conversation: .* the {POSITIONS} positions that"),
        (b"x" * 1_000_002, (), "a line has more than 1000000 letters"),
        (b"", ("--output", "x"), "--chat talks on the terminal"),
        (b"", ("--template", "nobody"), "there is no template 'nobody'; there are default, dolly"),
        (b"", ("--num-samples", "2"), "num_samples is 2, but a turn has one answer"),
    ],
)
def test_what_ends_a_chat_is_one_line(
    directory: Path,
    typed: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: bytes,
    args: tuple[str, ...],
    message: str,
) -> None:
    path = tmp_path / "typed"
    path.write_bytes(text)
    typed(b"", terminal=False)
    os.dup2(os.open(path, os.O_RDONLY), sys.stdin.fileno())
    with pytest.raises(SystemExit) as ended:
        chat("--model", directory, "--mesh", "data=1,model=1", *args)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert re.search(message, line), line
