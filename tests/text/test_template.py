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
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "zephyr": ZEPHYR, "marked": MARKED}
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
        load_template(tmp_path, None).render([{"role": "user", "content": "Hello"}])
    assert len(str(told.value)) < 500 and "\n" not in str(told.value)
