"""Loss on held-out documents, and answers that are right."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.word_problems import NEW_KINDS, PRETRAINING_KINDS, distinct_problems, final_result
from neox_eqx import DEMO_MODEL, TextGenerator
from neox_eqx.sharding.mesh import make_mesh
from neox_eqx.sharding.rules import TRAINING_RULES, parameter_shardings
from neox_eqx.text.named_template import NamedTemplate
from neox_eqx.training.data.dataset import TrainingData
from neox_eqx.training.data.documents import Document
from neox_eqx.training.data.examples import Example
from neox_eqx.training.run.evaluate import (
    eval_loss,
    exact_match,
    inference_model,
    is_right,
    questions,
)
from neox_eqx.training.update.recipe import Recipe
from tests.hf_models import pair, stack_layers
from tests.training.documents import document
from tests.training.peers import CONFIGS

RECIPE = Recipe(steps=1)


def documents(vocab_size: int) -> list[Document]:
    random = np.random.default_rng(0)
    return [
        document(number, random.integers(0, vocab_size, length), given=length // 3)
        for number, length in enumerate([9, 4, 12, 7, 5])
    ]


def test_the_loss_is_that_of_transformers_packed_or_not() -> None:
    theirs, model = pair(CONFIGS["parallel"])
    texts = documents(model.config.vocab_size)
    total = learnt = 0.0
    for text in texts:
        tokens = torch.tensor(text.tokens)[None].long()
        labels = torch.where(torch.tensor(text.is_learnt), tokens, -100)
        total += theirs(tokens, labels=labels).loss.item() * text.learnt
        learnt += text.learnt
    for pack in (False, True):
        data = TrainingData.of(texts, batch_size=2, max_length=16, pack=pack)
        assert eval_loss(model, data, RECIPE) == pytest.approx(total / learnt, rel=1e-6)
    # Control: the prompts too.
    whole = [document(text.number, text.tokens) for text in texts]
    data = TrainingData.of(whole, batch_size=2, max_length=16)
    assert abs(eval_loss(model, data, RECIPE) - total / learnt) > 1e-3


def test_a_model_in_training_generates_where_load_would_place_it() -> None:
    model = stack_layers(pair(CONFIGS["parallel"])[1])
    mesh = make_mesh(model.config, "data=2,model=4")
    on_mesh = dataclasses.replace(model, mesh=mesh)
    spread = jax.device_put(on_mesh, parameter_shardings(on_mesh, mesh, TRAINING_RULES))
    made = inference_model(spread, "bfloat16")
    places = jax.tree.leaves(parameter_shardings(made, mesh))
    moved = 0
    for (
        array,
        before,
        place,
    ) in zip(*map(jax.tree.leaves, (made, spread, places)), strict=True):
        assert array.sharding.is_equivalent_to(place, array.ndim)
        np.testing.assert_array_equal(array, before.astype("bfloat16"))
        moved += not before.sharding.is_equivalent_to(place, array.ndim)
    assert moved  # control: training has them elsewhere
    alone = inference_model(model, "float32")
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), alone, model))


def test_questions_are_the_prompts_that_are_not_too_long() -> None:
    texts = documents(vocab_size=9)
    examples = [Example(text.number, "Two cats", "8") for text in texts]
    examples[1] = Example(1, None, "Two cats")
    data = TrainingData.of(texts, batch_size=2, max_length=8)
    assert [example.number for example in questions(examples, texts, data)] == [3, 4]
    # Parts of what is too long are measured, and asked only where the whole prompt is in a row.
    texts[2] = document(2, texts[2].tokens, given=9)
    data = TrainingData.of(texts, batch_size=2, max_length=8, too_long="window")
    assert {own.number for own in data.documents} == {0, 1, 2, 3, 4}
    assert [example.number for example in questions(examples, texts, data)] == [0, 3, 4]


def test_of_messages_the_last_turn_of_the_assistant_is_asked() -> None:
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    said = tuple({"role": role, "content": str(n)} for n, role in enumerate(roles))
    assert Example(1, None, "4", messages=said).asked == list(said[:4])
    assert Example(1, None, "2", messages=said[2:3]).asked is None
    learnt = np.array([False, False, True, True, False, True, True, False])
    assert Document(1, np.arange(8, dtype=np.int32), learnt).asked == 5


@pytest.mark.parametrize(
    ("said", "expected", "is_same"),
    [
        ("\n2 x 9 = 18\n#### 18 dollars", "\nTwo boxes.\n#### 18", True),
        ("#### 1234", "#### 1,234", True),
        ("#### 18\n#### 3", "#### 18", True),
        ("18", "#### 18", False),
        ("#### 180", "#### 18", False),
        ("#### -18", "#### 18", False),
        ("So:\n#### yes \n", "It is.\n#### yes", True),
        ("#### no", "#### yes", False),
        (" 8 legs \n", "\n8 legs", True),
        ("1,234", "1234", False),
    ],
)
def test_of_an_answer_what_stands_after_the_mark_counts_or_all(
    said: str, expected: str, is_same: bool
) -> None:
    assert is_right(said, Example(1, "", expected, is_answer=True)) == is_same


def test_of_a_completion_all_counts() -> None:
    completion = Example(1, "Write.", "#### 8 kinds of cats\nare here.")
    assert is_right("#### 8 kinds of cats\nare here.\n", completion)
    assert not is_right("#### 8 dogs", completion)


def test_exact_match_counts_the_answers_that_transformers_gets_right() -> None:
    # Of the last the model was never taught the kind.
    problems = distinct_problems(PRETRAINING_KINDS, 5, 6) + distinct_problems(NEW_KINDS, 5, 2)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    right = 0
    for problem in problems:
        inputs = tokenizer(problem.question, return_tensors="pt")
        tokens = model.generate(**inputs)[0, inputs.input_ids.shape[1] :]
        right += final_result(tokenizer.decode(tokens, skip_special_tokens=True)) == problem.result
    assert 0 < right < len(problems)
    examples = [
        Example(number, problem.question, f"\nThe steps are free.\n#### {problem.result}", True)
        for number, problem in enumerate(problems)
    ]
    assert exact_match(TextGenerator.load(DEMO_MODEL), examples, 96) == right / len(problems)


@pytest.mark.slow
def test_an_answer_that_fails_is_not_right() -> None:
    generator = TextGenerator.load(DEMO_MODEL)
    (bad,) = generator.tokenizer.encode("Z").ids
    embeddings = generator.model.embed_in.weight.at[bad].set(jnp.nan)
    model = eqx.tree_at(lambda m: m.embed_in.weight, generator.model, embeddings)
    generator = dataclasses.replace(generator, model=model)
    question = "How many legs do 3 cats have?"
    right = generator.generate([question])[0].text
    examples = [Example(0, question, right), Example(1, f"{question} Z", "")]
    assert exact_match(generator, examples, 96) == 1 / 2


def test_of_a_chat_what_is_said_before_the_stop_text_counts() -> None:
    """What transformers writes after the same prompts, up to the mark that ends a turn here."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    generator = TextGenerator.load(DEMO_MODEL, template="koalpaca")
    vars(generator)["template"] = NamedTemplate("own", begin="", user="{user}", stop=("####",))
    examples = []
    for problem in distinct_problems(PRETRAINING_KINDS, 5, 3):
        inputs = tokenizer(problem.question, return_tensors="pt")
        tokens = model.generate(**inputs)[0, inputs.input_ids.shape[1] :]
        answer, stop, _ = tokenizer.decode(tokens, skip_special_tokens=True).partition("####")
        assert answer.strip() and stop
        said = ({"role": "user", "content": problem.question},
                {"role": "assistant", "content": answer})  # fmt: skip
        examples.append(Example(len(examples), None, answer, messages=said))
    assert exact_match(generator, examples, 96) == 1
    wrong = dataclasses.replace(examples[0], completion="no")
    assert exact_match(generator, [wrong, *examples[1:]], 96) == 2 / 3
