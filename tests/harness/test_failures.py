"""Requests that the model gives no numbers for: the least there is answers them, and is told."""

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from neox_eqx import DEMO_MODEL
from neox_eqx.cli import evaluate
from neox_eqx.errors import InputError
from neox_eqx.harness import adapter
from neox_eqx.harness.failures import Failures

NAN = "Z"
"""A token that the model reads as NaN."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that reads this token as NaN."""
    directory: Path = tmp_path_factory.mktemp("model") / "nan"
    shutil.copytree(DEMO_MODEL, directory)
    tensors = load_file(directory / "model.safetensors")
    (token,) = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(NAN).ids
    tensors["gpt_neox.embed_in.weight"][token] = np.nan
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> adapter.NeoXLM:
    return adapter.NeoXLM(str(directory), dtype="float32", mesh="data=1,model=1", batch_size=2)


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> Failures:
    """Of one test alone."""
    own = Failures()
    monkeypatch.setattr(adapter, "FAILURES", own)
    monkeypatch.setattr(evaluate, "FAILURES", own)
    return own


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, own, number) for number, own in enumerate(arguments)]


def test_a_continuation_that_is_no_number_is_impossible(
    model: adapter.NeoXLM, failures: Failures
) -> None:
    asked = requests("loglikelihood", ("Tom", " has"), (f"Tom {NAN}", " has"), ("How", " many"))
    with pytest.warns(UserWarning, match=r"1 of 3 requests failed .* by a log-likelihood of -inf"):
        answers = model.loglikelihood(asked, disable_tqdm=True)
    assert answers[1] == (-np.inf, False)
    assert answers[::2] == model.loglikelihood(asked[::2], disable_tqdm=True)
    assert all(np.isfinite(logprob) for logprob, _ in answers[::2])
    with pytest.raises(InputError, match="^1 of 5 requests failed, the first: the model's logits"):
        failures.check()


def test_a_text_that_is_no_number_is_impossible(model: adapter.NeoXLM, failures: Failures) -> None:
    asked = requests("loglikelihood_rolling", ("Tom has",), (f"{NAN} has 3",))
    with pytest.warns(UserWarning, match="1 of 2 requests failed"):
        good, bad = model.loglikelihood_rolling(asked, disable_tqdm=True)
    assert np.isfinite(good) and bad == -np.inf


def test_a_context_that_is_no_number_goes_on_with_nothing(
    model: adapter.NeoXLM, failures: Failures
) -> None:
    settings = {"until": ["\n\n"], "max_gen_toks": 20}
    questions = ("How many legs do 3 cats have?\n", f"{NAN}\n", "Tom has 3 boxes\n")
    asked = requests("generate_until", *((question, settings) for question in questions))
    with pytest.warns(UserWarning, match="1 of 3 requests failed and are answered by an empty"):
        answers = model.generate_until(asked, disable_tqdm=True)
    assert answers[1] == "" and answers[0] and answers[2]


def test_a_model_that_fails_at_all_requests_is_not_evaluated(
    model: adapter.NeoXLM, failures: Failures
) -> None:
    asked = requests("loglikelihood", (NAN, " has"), (f"Tom {NAN}", " has"))
    with pytest.raises(InputError, match="^2 of 2 requests failed, the first: the model's logits"):
        model.loglikelihood(asked, disable_tqdm=True)


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_the_command_writes_its_results_and_then_says_that_requests_failed(
    directory: Path, failures: Failures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [{"context": "Tom"}, {"context": NAN}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(own) + "\n" for own in documents))
    source = {"data_files": {"test": "a.jsonl"}, "cache_dir": str(tmp_path / "cache")}
    task = {
        **{"task": "legs", "dataset_path": "json", "dataset_kwargs": source, "test_split": "test"},
        **{"output_type": "loglikelihood", "doc_to_text": "{{context}}", "doc_to_target": "has"},
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(task))
    # Without the harness's own tasks, whose files take ten seconds to read.
    local = functools.partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", local)
    monkeypatch.setattr(sys, "argv", ["neox-eqx"])
    monkeypatch.chdir(tmp_path)
    args = f"--model_args pretrained={directory} --tasks legs --include_path . --output_path out"
    with pytest.raises(InputError, match="^1 of 2 requests failed, the first: the model's logits"):
        evaluate.main(args.split())
    (results,) = tmp_path.rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["legs"]["acc,none"] <= 0.5
