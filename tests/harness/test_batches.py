"""The harness's requests run as those of TextGenerator do: one program for all batches."""

from typing import Any

import pytest

from tests.generation.test_compiled import compilations
from tests.text.checkpoints import byte_level, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports

SETTINGS: list[dict[str, Any]] = [
    {"max_gen_toks": 9},
    {"repetition_penalty": 1.3, "until": ["\n"]},
    {"do_sample": True, "temperature": 0.7, "top_k": 5},
    {"no_repeat_ngram_size": 2, "until": ["apples and pears", "####"]},
    {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "min_new_tokens": 3},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from neox_eqx.harness.adapter import NeoXLM

    place = tmp_path_factory.mktemp("batches")
    save_checkpoint(place, byte_level())
    return NeoXLM(str(place), batch_size=4, dtype="float32")


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, own, number) for number, own in enumerate(arguments)]


def test_ten_requests_with_options_of_their_own_run_one_program(model: Any) -> None:
    from neox_eqx.harness.continuations import continue_texts

    asked = [
        model._continuation(f"Tom has {n}", {"max_gen_toks": 12, **SETTINGS[n % 5]}, seed=n)
        for n in range(10)
    ]
    texts: dict[int, str] = {}
    with compilations() as seen:
        batches = continue_texts(model._generator, asked, batch_size=4)
        texts.update(next(batches))
        of_first = len(seen)
        for batch in batches:
            texts.update(batch)
    assert len(seen) == of_first > 0 and sorted(texts) == [*range(10)]
    ((_, alone),) = next(continue_texts(model._generator, asked[9:], batch_size=4))
    assert texts[9] == alone


def test_a_last_batch_of_scores_that_is_smaller_runs_the_same_program(model: Any) -> None:
    pairs = [(f"Tom has {n}", " boxes") for n in range(10)]
    first = model.loglikelihood(instances("loglikelihood", pairs[:8]), disable_tqdm=True)
    with compilations() as seen:
        answers = model.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    assert not seen
    assert [sum for sum, _ in answers[:8]] == pytest.approx([sum for sum, _ in first], rel=1e-5)
