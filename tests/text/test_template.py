"""Chat templates: transformers' own rendering, what the assistant says, and nothing without end."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from neox_eqx import DEMO_MODEL, InputError
from neox_eqx.text.template import load_template

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA = """
{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\\n' ~ messages[0]['content'] ~ '\\n<</SYS>>\\n\\n' %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system, rest = '', messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set content = (system if loop.first else '') ~ message.content | trim %}
    {%- if message['role'] == 'user' %}
        {{- bos_token ~ '[INST] ' ~ content ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' ~ content ~ ' ' ~ eos_token }}
    {%- endif %}
{%- endfor %}
"""
ZEPHYR = """
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
MARKED = """
{%- set seen = namespace(system=false, turns=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% set seen.system = true %}{% continue %}{% endif %}
    {%- set seen.turns = seen.turns + 1 %}
    {%- if message.role == 'assistant' %}
        {{- 'A:' }}{% generation %}{{ ' ' ~ message.content ~ eos_token }}{% endgeneration %}
    {%- else %}
        {{- message.role | upper ~ ': ' ~ message | tojson ~ loop.length ~ '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}A:{% endif %}
"""
ASKED = [{"role": "user", "content": "Hello"}]
IDIOMS = """
{%- macro said(message, end='.') -%}
    {{ '%s=%r' % (message.role, message['content'].split('\\n')[-1].lstrip()) ~ end }}
{%- endmacro %}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- set tools = tools if tools is defined and tools is not none else [] %}
{{ users | length }}/{{ messages | map(attribute='role') | join(', ') }}/{{ tools | length }}
{%- for message in messages[::-1] recursive %}
    {%- if loop.index > 4 %}{% break %}{% endif %}
    {{- said(message, end='!' * loop.index) ~ (loop.previtem.role if loop.previtem else '-') }}
    {%- for key, value in message.items() if key != 'role' %}
{{ loop.length }}{{ key | title }}: {{ value | trim | replace('H', 'h') | indent(2) }}
    {%- else %}none{% endfor %}
    {{- loop.last ~ (loop.nextitem is defined) ~ (not loop.first) }}
{%- endfor %}
{%- set block %}{{ dict(a=1, b=[2.5]) | tojson(indent=2) }}{{ strftime_now('%Y') }}{% endset %}
{{ block | upper }}{{ '{:>6}|{}'.format(7 ** 2 + 3 * 4 % 5, 'x' * 3) }}{{ nothing }}{{ none }}
{{ [1, 2, 3] | sum }}{{ 'a-b' | batch(2) | list }}{{ range(3) | list }}
{{ (1, 'b') }}{{ 1 in [1] }}
{%- filter upper %} end{% endfilter %}
{%- if add_generation_prompt %}{{ '\\n' ~ sep_token }}{% endif %}
"""
TEMPLATES = {
    "chatml": CHATML,
    "llama": LLAMA,
    "zephyr": ZEPHYR,
    "marked": MARKED,
    "idioms": IDIOMS,
}
SEP = {"__type": "AddedToken", "content": "|"}
WORDS = [
    "Hello",
    "고마워요",
    "{{ 7 }}",
    "  two\n\n",
    "<|im_end|>",
    "😀",
    "ありがとう",
    "a & b < 'c'",
]


def conversation(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    said = [{"role": "system"}] if draw.random() < 0.5 else []
    said += [{"role": ("user", "assistant")[turn % 2]} for turn in range(draw.randint(1, 6))]
    return [own | {"content": " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))} for own in said]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_MODEL / name, tmp_path)
    return tmp_path


def configure(directory: Path, **fields: Any) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_written_as_transformers_writes_it(directory: Path, name: str) -> None:
    configure(directory, chat_template=TEMPLATES[name], bos_token="<s>", sep_token=SEP)
    template, oracle = load_template(directory, None), AutoTokenizer.from_pretrained(directory)
    for seed in range(25):
        messages = conversation(seed)
        for prompt in (False, True):
            expected = oracle.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=prompt
            )
            assert template.render(messages, add_generation_prompt=prompt) == expected


def test_what_else_a_message_says_reaches_the_template_as_it_is(directory: Path) -> None:
    configure(directory, chat_template=MARKED)
    call = {"name": "add", "arguments": {"of": [1, 2.5, None, True, "고마워요", []], "to": (3,)}}
    messages = [ASKED[0] | {"tool_calls": [call, call], "weight": 0.5, "is_last": False}]
    oracle = AutoTokenizer.from_pretrained(directory)
    expected = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert load_template(directory, None).render(messages) == expected
    assert '"of": [1, 2.5, null, true, "고마워요", []], "to": [3]' in expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' | format(999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'x'.center(10 ** 9) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | center(50000000) }}",
        "{{ '{:>{}}'.format(1, 10 ** 9) }}",
        "{{ [1] * 50000000 }}",
        "{{ range(9) | slice(10 ** 8) | list }}",
        "{% set t = namespace(x='x') %}{% for i in range(99) %}"
        "{% set t.x = t.x ~ t.x %}{% endfor %}",
        "{% set t = namespace(x=1) %}{% for i in range(99) %}"
        "{% set t.x = [t.x, t.x] %}{% endfor %}",
        "{{ strftime_now('%999999999d') }}",
        "{{ 'ab'.replace('', 'x' * 100000).replace('x', 'y' * 100000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(__class__=1) }}",
        "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
        "{% include '/etc/passwd' %}",
        "{{ nothing.there }}",
        "{{ 1 + '1' }}",
        "{{ messages[0].content | no_such_filter }}",
        "{% for %}",
        "{{ '1' + }}",
    ],
)
def test_a_template_that_is_no_template_ends_in_one_line(tmp_path: Path, source: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(f"\n\n{source}")
    with pytest.raises(InputError, match=r"chat_template.jinja, line 3 of the template: ") as told:
        load_template(tmp_path, None).render(ASKED)
    assert len(str(told.value)) < 500 and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "source",
    ["{{ '%9999999d' % 1 }}", "{{ '%9999999d' | format(1) }}", "{{ '{:9999999}'.format(1) }}"],
)
def test_a_width_without_bound_is_refused_before_a_text_of_it_is_made(
    tmp_path: Path, source: str
) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    with pytest.raises(InputError, match="formats with a width without bound: '.*9999999"):
        load_template(tmp_path, None).render(ASKED)


@pytest.mark.parametrize("source", ["{{ 'x' | center(%d) }}", "{{ 'x'.rjust(%d) }}"])
def test_a_number_beside_a_text_is_of_two_millions_at_most(tmp_path: Path, source: str) -> None:
    """As it may be the width of another text."""
    path = tmp_path / "chat_template.jinja"
    path.write_text(source.replace(" }}", " | length }}") % 2_000_000)
    assert load_template(tmp_path, None).render(ASKED) == "2000000"
    path.write_text(source % 2_000_001)
    with pytest.raises(InputError, match="makes a text or a list without bound"):
        load_template(tmp_path, None).render(ASKED)


FILES = ("chat_template.jinja", "additional_chat_templates/other.jinja", "chat_template.json")


@pytest.mark.parametrize("files", [FILES[:1], FILES[:2], FILES[1:2], FILES[2:], ()])
@pytest.mark.parametrize("configured", ["C", [{"name": "default", "template": "D"}], None])
def test_a_template_is_found_where_transformers_finds_it(
    directory: Path, files: tuple[str, ...], configured: Any
) -> None:
    configure(directory, chat_template=configured)
    for name in files:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"chat_template": "P"}) if name.endswith(".json") else name[0]
        path.write_text(text)
    oracle = AutoTokenizer.from_pretrained(directory).chat_template
    expected = oracle if isinstance(oracle, dict) else {"default": oracle} if oracle else {}
    if not expected and FILES[2] in files:
        expected = {"default": "P"}  # where processors have theirs, which transformers leaves
    for name in ("default", "other"):
        if name in expected:
            given = None if name == "default" else name
            assert load_template(directory, given).render(ASKED) == expected[name]
        else:
            with pytest.raises(InputError, match="no (chat )?template"):
                load_template(directory, None if name == "default" else name)


@pytest.mark.parametrize(
    "value", [7, ["x"], [{"name": "default"}], [{"name": 1, "template": "x"}], {"default": "x"}]
)
def test_a_template_of_another_form_is_named(directory: Path, value: Any) -> None:
    configure(directory, chat_template=value)
    with pytest.raises(InputError, match=r"tokenizer_config.json: .*chat_template"):
        load_template(directory, None)


@pytest.mark.parametrize("older", [{}, {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}])
@pytest.mark.parametrize(
    "kind", ["GPTNeoXTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast", None]
)
def test_special_tokens_are_those_of_transformers(
    directory: Path, kind: str | None, older: dict[str, Any]
) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (directory / "special_tokens_map.json").write_text(json.dumps(older))
    source = "{{ bos_token }} {{ eos_token }} {{ unk_token }} {{ pad_token }} {{ mask_token }}"
    (directory / "chat_template.jinja").write_text(source)
    oracle = AutoTokenizer.from_pretrained(directory)
    expected = oracle.apply_chat_template(ASKED, tokenize=False)
    assert load_template(directory, None).render(ASKED) == expected


def test_what_is_marked_is_learnt_as_by_transformers(directory: Path) -> None:
    configure(directory, chat_template=MARKED)
    template, oracle = load_template(directory, None), AutoTokenizer.from_pretrained(directory)
    for seed in range(25):
        pieces = template.render_learnt(conversation(seed))
        given = oracle.apply_chat_template(
            conversation(seed), return_dict=True, return_assistant_tokens_mask=True
        )
        ids, learnt = [], []
        for text, is_learnt in pieces:
            own = oracle.encode(text, add_special_tokens=False)
            ids += own
            learnt += [int(is_learnt)] * len(own)
        assert "".join(text for text, _ in pieces) == oracle.decode(given["input_ids"])
        if ids == given["input_ids"]:  # no token reaches over the border of two pieces
            assert learnt == given["assistant_masks"]


@pytest.mark.parametrize("name", ["chatml", "llama"])
def test_without_marks_an_answer_is_what_follows_its_prompt(directory: Path, name: str) -> None:
    configure(directory, chat_template=TEMPLATES[name])
    template = load_template(directory, None)
    for seed in range(25):
        messages = conversation(seed)
        pieces = template.render_learnt(messages)
        whole = template.render(messages, add_generation_prompt=False)
        assert "".join(text for text, _ in pieces) == whole
        learnt = [text for text, is_learnt in pieces if is_learnt]
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        end = "{}<|im_end|>\n" if name == "chatml" else " {} <|endoftext|>"
        strip = str if name == "chatml" else str.strip
        assert learnt == [end.format(strip(text)) for text in said]


def test_where_a_template_hides_what_is_said_it_is_told(directory: Path) -> None:
    source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    configure(directory, chat_template=source)
    with pytest.raises(InputError, match=r"in message 2: .* needs {% generation %} marks"):
        load_template(directory, None).render_learnt(
            [*ASKED, {"role": "assistant", "content": "A"}, *ASKED]
        )
