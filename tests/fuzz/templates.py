"""Chat templates that loop, fail, grow, or reach for what they should not."""

import json
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz import commands
from tests.fuzz.case import Case, Edit
from tests.fuzz.faults import TEXTS, Draw

_WHOLE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_PIECES = (
    *("{% for m in messages %}", "{% endfor %}", "{% if m %}", "{% endif %}", "{{ m.content }}"),
    *("{{ messages[99] }}", "{{ messages[0].nothing.at.all }}", "{{ 1 / 0 }}", "{{ 'x' * 10**9 }}"),
    *("{{ range(10**9) | list }}", "{{ 9 ** 9 ** 9 }}", "{% for i in range(10**8) %}x{% endfor %}"),
    *("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__ }}"),
    *(
        "{{ raise_exception('no\x1b[31m\n' ~ 'x' * 5000) }}",
        "{{ raise_exception() }}",
        "{{ self }}",
    ),
    *(
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
    ),
    *(
        "{% import 'x' as y %}",
        "{% generation %}",
        "{% endgeneration %}",
        "{% break %}",
        "{% continue %}",
    ),
    *(
        "{{ messages | tojson(indent=10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
    ),
    *(
        "{{ strftime_now('%' * 9) }}",
        "{{ strftime_now(1) }}",
        "{{ bos_token + none }}",
        "{{ eos_token }}",
    ),
    *(
        "{% set messages = messages * 10**8 %}",
        "{{ lipsum(10**6) }}",
        "{{ namespace() }}",
        "{{ joiner }}",
    ),
    *("{{ 'a' | center(10**9) }}", "{{ messages | batch(0) | list }}", "{{ 'x' | indent(10**9) }}"),
    *(
        "{{ [1] | sum(start='') }}",
        "{{ {}[[]] }}",
        "{{ -'x' }}",
        "{{ 'x' | int(base=99) }}",
        "{{ x() }}",
    ),
    *(
        "{{ 'x' | wordwrap(0) }}",
        "{{ messages | groupby('x') }}",
        "{{ 'x' | urlize }}",
        "{{ (" * 200,
    ),
    *(
        "{{ " + "(" * 3000 + ")" * 3000 + " }}",
        "{% raw %}",
        "{#",
        "{{",
        "%}",
        "{% if %}",
        "{{ 'é' | format(1) }}",
    ),
    *(
        "{% filter upper %}",
        "{% call x() %}",
        "{% trans %}",
        "{% do x %}",
        "{% set x %}",
        "{{ loop.index }}",
    ),
    *(
        "{{ 10 ** 400 * 1.5 }}",
        "{{ 'x'.encode('utf-16') }}",
        "{{ '\\ud800' }}",
        "{{ messages.append(messages) }}",
    ),
    *(
        "{{ messages | xmlattr }}",
        "{{ [] | first }}",
        "{{ [] | random }}",
        "{{ 'a'.join(1) }}",
        "{{ tools }}",
    ),
    *(
        "{{ 'a' | replace('', 'x' * 10**5) | replace('', 'y' * 10**5) }}",
        "{{ dict(**1) }}",
        "{{ 1 | attr('x') }}",
    ),
)
_MESSAGES = (
    ("--prompt", "a", "--system", "b"),
    ("--chat",),
    ("--prompt-file", "messages.jsonl", "--output", "out.jsonl"),
)


def of_template(draw: Draw, bases: Mapping[str, Path], *, reads: bool = False) -> Case:
    """A template in its own file or in tokenizer_config.json, and a command that renders it."""
    pieces = draw(
        st.lists(
            st.one_of(st.sampled_from(_PIECES), st.sampled_from(TEXTS)), min_size=1, max_size=3
        )
    )
    cut = draw(st.integers(0, len(_WHOLE)))
    template = draw(
        st.sampled_from(("".join(pieces), _WHOLE[:cut] + "".join(pieces) + _WHOLE[cut:]))
    )
    if draw(st.booleans()):
        data = template.encode("utf-8", "surrogatepass")
        edit = Edit("model/chat_template.jinja", "bytes", data)
    else:
        path = "model/tokenizer_config.json"
        config = json.loads((bases["model"] / path).read_bytes())
        forms = (template, {"default": template}, [{"name": "default", "template": template}])
        config["chat_template"] = draw(st.sampled_from(forms))
        edit = Edit(path, "bytes", json.dumps(config).encode())
    edits = (edit,)
    if reads:
        return Case("reading chat templates", "read", ("template",), ("model",), edits)
    program, args, stdin = commands.generate(
        draw, ("--model", "model"), draw(st.sampled_from(_MESSAGES))
    )
    if draw(st.integers(0, 4)) == 0:
        program, args, stdin = commands.train("chats.jsonl")
    return Case("chat templates", program, args, ("model", "texts"), edits, stdin)
