"""`--apply_chat_template`: the texts and the answers of the harness's own transformers model."""

import json
import shutil
from typing import Any

import pytest

from neox_eqx import DEMO_MODEL, InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports

# It refuses a system's message that is not the first, and trims.
TEMPLATE = """{% for m in messages %}{% if m.role == 'system' and loop.index0 %}\
{{ raise_exception('the system speaks first') }}{% endif %}<{{ m.role }}>{{ m.content | trim }}
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""
CHATS = [
    [("user", " Tom has 3 boxes. ")],
    [("system", "Count."), ("user", "Two cats"), ("assistant", "There are  ")],
    [("user", "hi"), ("system", "Count."), ("user", "한국어")],
]
TASK: dict[str, Any] = {
    "test_split": "test",
    "fewshot_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "target_delimiter": " ",
    "num_fewshot": 1,
}
TASKS: list[dict[str, Any]] = [
    {**TASK, "task": "said", "output_type": "loglikelihood", "metric_list": [{"metric": "acc"}]},
    {
        **TASK,
        "task": "written",
        "output_type": "generate_until",
        "gen_prefix": "There",  # of the answer, which the model continues
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and the harness's own, of one checkpoint that has a template."""
    from lm_eval.models.huggingface import HFLM

    from neox_eqx.harness.adapter import NeoXLM

    place = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(DEMO_MODEL, place)
    config = json.loads((place / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATE
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    (place / "generation_config.json").write_text('{"eos_token_id": 0, "pad_token_id": 0}')
    own = {"pretrained": str(place), "dtype": "float", "batch_size": 2}
    return NeoXLM.create_from_arg_obj(own), HFLM(**own, device="cpu")


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_conversation_is_the_text_that_the_transformers_model_makes_of_it(
    models: tuple[Any, Any], chat: list[tuple[str, str]], add_generation_prompt: bool
) -> None:
    ours, theirs = models
    messages = [{"role": role, "content": content} for role, content in chat]
    text = ours.apply_chat_template(messages, add_generation_prompt)
    assert text == theirs.apply_chat_template(messages, add_generation_prompt)
    assert ours.tokenizer_name == theirs.tokenizer_name
    assert ours.chat_template(True) == theirs.chat_template(True) == TEMPLATE


def test_both_answer_conversations_with_a_system_and_examples_alike(
    models: tuple[Any, Any],
) -> None:
    from datasets import Dataset
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = [
        {"question": "Tom has 3 boxes with 4 apples each.", "answer": "There are 12 apples."},
        {"question": "How many legs do 3 cats have?", "answer": "12 legs"},
    ]
    data = {"test": Dataset.from_list(rows)}
    results = [
        simple_evaluate(
            model,
            tasks=[{**task, "custom_dataset": lambda **_: data} for task in TASKS],
            task_manager=TaskManager(include_defaults=False),
            system_instruction="You count.",
            apply_chat_template=True,
            fewshot_as_multiturn=True,
            bootstrap_iters=0,
        )["samples"]
        for model in models
    ]
    for task in ("said", "written"):
        ours, theirs = (each[task] for each in results)
        assert [one["arguments"] for one in ours] == [one["arguments"] for one in theirs]
        assert all("<system>You count." in str(one["arguments"]) for one in ours)
    said, expected = ([one["resps"][0][0] for one in each["said"]] for each in results)
    for (sum, is_greedy), (their_sum, theirs_is) in zip(said, expected, strict=True):
        assert float(sum) == pytest.approx(float(their_sum), rel=1e-5) and is_greedy == theirs_is
    written, expected = ([one["resps"] for one in each["written"]] for each in results)
    assert written == expected and any(text for ((text,),) in written)


def test_a_model_without_a_template_is_given_one_by_its_name() -> None:
    from neox_eqx.harness.adapter import NeoXLM

    model = NeoXLM.create_from_arg_obj({"pretrained": str(DEMO_MODEL)})
    question = [{"role": "user", "content": "Two cats"}]
    with pytest.raises(InputError, match="no chat template; give --apply_chat_template NAME, one"):
        model.apply_chat_template(question)
    with pytest.raises(InputError, match="there is no template 'none such'; there are "):
        model.chat_template("none such")
    assert "### Instruction" in (model.chat_template("dolly") or "")
    assert model.apply_chat_template(question).endswith("Two cats\n\n### Response:\n")


@pytest.mark.parametrize("add_bos_token", [None, False, True])
def test_bos_stands_where_the_transformers_model_has_it(
    models: tuple[Any, Any], add_bos_token: bool | None
) -> None:
    from lm_eval.models.huggingface import HFLM

    from neox_eqx.harness.adapter import NeoXLM

    ours, theirs = models
    if add_bos_token is not None:
        place = ours.tokenizer_name.replace("__", "/")
        own = {"pretrained": place, "add_bos_token": add_bos_token}
        ours, theirs = NeoXLM.create_from_arg_obj(own), HFLM(**own, device="cpu")
    for text in ("Two cats", "<|endoftext|>Two", ""):
        for special in (None, False):
            assert ours.tok_encode(text, special) == theirs.tok_encode(text, special)
