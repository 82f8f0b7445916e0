"""lm-evaluation-harness on local tasks: our model beside the harness's own transformers backend."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from neox_eqx import DEMO_MODEL, InputError
from tests.sharding.processes import Ended, finish, podrun_environments, start
from tests.sharding.test_processes import CHATTER

ROOT = Path(__file__).parents[2]
# Measured 1.7e-6 of a perplexity, the exponential of 50, and its error 6.7e-6.
RELATIVE_FIGURE = 2e-5
# Measured 1.3e-7 of sums over up to 700 tokens, and 1.2e-7 where the sum is near 0.
TOLERANCE = 1e-6

QUESTION = "Tom has {0} boxes with {1} apples each. How many apples does Tom have?"
LONG = " ".join(QUESTION.format(a, b) for a in range(2, 10) for b in (3, 7))
DOCUMENTS = [
    # A context at whose end a space stands, none at all, and one longer than the model takes.
    {"context": QUESTION.format(3, 4) + "\n", "choices": ["There are 12", " 12", "12"]},
    {"context": "How many legs do 3 cats have? ", "choices": ["12 legs", "There are", "7"]},
    {"context": "", "choices": ["There are", "Tom has 3 boxes", "#### 12"]},
    {"context": LONG, "choices": [" There are 12", "\nThere", "7"]},
]
TEXTS = ["How many legs do 3 cats have?", "안녕 👍🏽", LONG, f"<|endoftext|>{LONG} {LONG}"]
PROMPTS = [QUESTION.format(3, 4) + "\n", "How many legs do 3 cats have?\n", LONG, "Anna"]
TASKS: dict[str, dict[str, Any]] = {
    "local_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_likelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{choices[0]}}",
        "target_delimiter": " ",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "local_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "local_generate": {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "There are 3 x 4 ",
        # The prompts end with a newline, which is no part of what is generated.
        "generation_kwargs": {"until": ["\n\n", "= 1", "####"], "max_gen_toks": 40},
        "metric_list": [{"metric": "exact_match"}],
    },
}

# A process of a pod: what the harness is told, before it refuses its command.
ASKED_IN_VAIN = """
import json, os
from pathlib import Path
from neox_eqx import InputError
from neox_eqx.cli.evaluate import main
from neox_eqx.sharding.distributed import initialize

initialize()
try:
    main(["--model", "no/model"])
except InputError:
    told = [os.environ["LOCAL_RANK"], os.environ["WANDB_MODE"]]
    Path("told.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tasks and a model."""
    place = tmp_path_factory.mktemp("tasks")
    rows = {
        "local_choice": DOCUMENTS,
        "local_likelihood": DOCUMENTS,
        "local_rolling": [{"text": text} for text in TEXTS],
        "local_generate": [{"prompt": prompt} for prompt in PROMPTS],
    }
    for name, task in TASKS.items():
        data = place / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        own = {"task": name, **source, "test_split": "test", **task}
        (place / f"{name}.yaml").write_text(yaml.safe_dump(own))
    # Where a generation_config.json limits new tokens, transformers ignores the task's own limit.
    model = place / "model"
    shutil.copytree(DEMO_MODEL, model)
    (model / "generation_config.json").write_text('{"eos_token_id": 0, "pad_token_id": 0}')
    return place


@pytest.fixture(scope="module")
def evaluated(place: Path) -> dict[str, tuple[dict, dict]]:
    """Of either backend its figures, and by task what it answered to each document."""
    backends = ("neox_eqx", "hf")
    ended = finish([_start(place, backend) for backend in backends], within=500)
    assert [one.status for one in ended] == [0, 0], ended
    assert all(task in one.out for task in TASKS for one in ended)
    return {backend: _read(place / backend) for backend in backends}


def _start(place: Path, backend: str) -> subprocess.Popen[str]:
    ours = "--model_args pretrained=./model,dtype=float32 --batch_size 3 --log_samples"
    command = [*ours.split(), "--include_path", ".", "--output_path", backend]
    if backend != "neox_eqx":
        command += ["--model", backend, "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "neox_eqx.harness", *command, "--tasks", ",".join(TASKS)],
        cwd=place,
        env={**os.environ, **_offline(place), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _offline(place: Path) -> dict[str, str]:
    return {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "home")}


def _read(directory: Path) -> tuple[dict, dict]:
    (figures,) = directory.rglob("results_*.json")
    samples = {}
    for file in directory.rglob("samples_*.jsonl"):
        (name,) = (name for name in TASKS if file.name.startswith(f"samples_{name}_"))
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        samples[name] = [row["resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
    return json.loads(figures.read_text())["results"], samples


def test_both_backends_have_the_same_figures(
    evaluated: dict[str, tuple[dict, dict]],
) -> None:
    (ours, _), (theirs, _) = evaluated["neox_eqx"], evaluated["hf"]
    for task in TASKS:
        numbers = {name: value for name, value in theirs[task].items() if name != "alias"}
        assert len(numbers) > 2
        for name, value in numbers.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=RELATIVE_FIGURE)
            assert ours[task][name] == value, (task, name)


def test_both_backends_answer_each_request_alike(
    evaluated: dict[str, tuple[dict, dict]],
) -> None:
    (_, ours), (_, theirs) = evaluated["neox_eqx"], evaluated["hf"]
    assert ours["local_generate"] == theirs["local_generate"]
    generated = [answer for ((answer,),) in ours["local_generate"]]
    assert any("\n" in answer for answer in generated) and len(set(generated)) == len(PROMPTS)
    greedy = set()
    for task in ("local_choice", "local_likelihood", "local_rolling"):
        for own, other in zip(ours[task], theirs[task], strict=True):
            for (answer,), (expected,) in zip(own, other, strict=True):
                if task == "local_rolling":
                    answer, expected = [answer, "False"], [expected, "False"]
                assert float(answer[0]) == pytest.approx(
                    float(expected[0]), rel=TOLERANCE, abs=TOLERANCE
                )
                assert answer[1] == expected[1]
                greedy.add(answer[1])
    assert len(greedy) == 2


@pytest.mark.slow
def test_on_several_hosts_the_first_writes_and_a_mistake_is_one_line(
    place: Path, evaluated: dict[str, tuple[dict, dict]], tmp_path: Path
) -> None:
    directories = [tmp_path / str(number) for number in range(2)]
    for directory in directories:
        directory.mkdir()

    def run(model_args: str) -> list[Ended]:
        quiet = {**_offline(place), "LMEVAL_LOG_LEVEL": "ERROR"}
        environments = [{**own, **quiet} for own in podrun_environments(2)]
        command = "--tasks local_choice --log_samples --output_path out --include_path"
        options = [*command.split(), place, "--model_args", model_args]
        running = start(["-m", "neox_eqx", "evaluate", *options], 2, directories, environments)
        return finish(running, within=300)

    own = {"dtype": "float32", "mesh": "data=2,model=2"}
    ended = run(json.dumps({"pretrained": str(place / "model"), **own}))
    assert [one.status for one in ended] == [0, 0], ended
    assert "local_choice" in ended[0].out and not ended[1].out
    assert not list(directories[1].iterdir())
    _, samples = _read(directories[0] / "out")
    answers, expected = samples["local_choice"], evaluated["neox_eqx"][1]["local_choice"]
    for own_answers, alone in zip(answers, expected, strict=True):
        sums, sums_alone = ([float(sum) for ((sum, _),) in each] for each in (own_answers, alone))
        assert sums == pytest.approx(sums_alone, rel=1e-5)

    ended = run(f"pretrained={place / 'model'},step=3000")
    assert [one.status for one in ended] == [2, 2], ended
    said = "".join(CHATTER.sub("", one.err) for one in ended)
    assert said.startswith("neox-eqx evaluate: error: ") and said.count("\n") == 1, said
    assert "model_args: there is no step; there are pretrained, revision, base, token" in said


def test_the_harness_knows_that_one_process_of_several_writes(tmp_path: Path) -> None:
    directories = [tmp_path / str(number) for number in range(2)]
    for directory in directories:
        directory.mkdir()
    environments = [{**own, "WANDB_MODE": "offline"} for own in podrun_environments(2)]
    ended = finish(start(["-c", ASKED_IN_VAIN], 2, directories, environments))
    assert [one.status for one in ended] == [0, 0], ended
    told = [json.loads((directory / "told.json").read_text()) for directory in directories]
    assert told == [["0", "offline"], ["1", "disabled"]]


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_what_cannot_be_asked_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from lm_eval.api.instance import Instance

    from neox_eqx.cli.evaluate import main, with_defaults
    from neox_eqx.harness.adapter import NeoXLM

    with pytest.raises(InputError, match="^./absent: no such directory"):
        main(["--model_args", "pretrained=./absent", "--tasks", "arc_easy"])
    arguments = {
        "batch_size must be a whole number of at least 1, or aut": {"batch_size": "x"},
        "max_length must be a whole number from 1 to 256, not 600": {"max_length": 600},
        "prefix_token_id must be a whole number from 0 to": {"prefix_token_id": -1},
    }
    for message, given in arguments.items():
        with pytest.raises(InputError, match=message):
            NeoXLM(str(DEMO_MODEL), **given)
    for given, message in {
        "dtype=float32": "pretrained is missing",
        "pretrained=./a,step=3000,typo=1": "there is no step, typo",
        "pretrained=./a,batch_size=4": "there is no batch_size",
    }.items():
        with pytest.raises(InputError, match=f"^model_args: {message}; there are pretrained, rev"):
            NeoXLM.create_from_arg_string(given, {"batch_size": 8, "device": None})
    model = NeoXLM(str(DEMO_MODEL), max_length=32, batch_size="auto")
    cases: dict[str, dict[str, Any]] = {
        "num_beams 4 is not supported": {"num_beams": 4, "max_gen_toks": 8},
        "typo 1 is not supported": {"typo": 1, "max_gen_toks": 8},
        "max_gen_toks is 256, but the model has 32 positions": {"num_beams": 1},
        "do_sample is true and the temperature 0": {"do_sample": True, "temperature": 0},
    }
    for message, settings in cases.items():
        with pytest.raises(InputError, match=message):
            model.generate_until([Instance("generate_until", {}, ("Tom", settings), 0)])
    with pytest.raises(InputError, match="a continuation has 33 tokens, but the model has 32"):
        model.loglikelihood(
            [Instance("loglikelihood", {}, ("Tom", "7" * 33), 0)], disable_tqdm=True
        )
    with pytest.raises(InputError, match="a continuation is empty: the task leaves nothing to sc"):
        model.loglikelihood([Instance("loglikelihood", {}, ("Tom", ""), 0)], disable_tqdm=True)
    runs = {
        "--tasks a": "run --tasks a --model neox_eqx --batch_size 8",
        "run -M hf --tasks a": "run -M hf --tasks a --batch_size 8",
        "run -b 4 -M=hf": "run -b 4 -M=hf",
        "ls tasks": "ls tasks",
        "": "run --help",
        "--help": "run --help",
    }
    for given, completed in runs.items():
        assert " ".join(with_defaults(given.split())) == completed
    with pytest.raises(InputError, match="the checkpoint itself is --model_args pretrained=a/b$"):
        with_defaults("--model a/b --tasks a".split())


@pytest.mark.parametrize(
    ("written", "added"),
    {
        "tasks: [a]": "--model neox_eqx --batch_size 8",
        "batch_size: 2": "--model neox_eqx",
        "model: hf": "--batch_size 8",
    }.items(),
)
def test_our_model_is_the_default_of_a_file_of_options_too(
    tmp_path: Path, written: str, added: str
) -> None:
    from neox_eqx.cli.evaluate import with_defaults

    file = tmp_path / "a.yaml"
    file.write_text(written, "utf-8")
    assert with_defaults(["--config", str(file)]) == ["run", "--config", str(file), *added.split()]


@pytest.mark.filterwarnings("ignore")
def test_settings_sample_at_the_temperature_that_transformers_has() -> None:
    from neox_eqx.harness.settings import read_settings

    def temperature(settings: dict[str, Any], **defaults: Any) -> float:
        options, until = read_settings(settings, "<eos>", defaults, seed=0)
        assert until == ["<eos>"]
        return options.temperature

    sampled = {"do_sample": True}
    assert temperature(sampled) == temperature(sampled, temperature=None) == 1
    assert temperature(sampled, temperature=0.7) == 0.7
    assert temperature({**sampled, "temperature": 0.3}, temperature=0.7) == 0.3
    assert temperature({"temperature": 0.3}) == 0.3
    assert temperature({}, do_sample=True, temperature=0.7) == 0
    assert temperature({"do_sample": False, "temperature": 0.3}) == 0
    for settings, defaults in (({"temperature": 0}, {}), ({}, {"temperature": 0})):
        with pytest.raises(InputError, match="do_sample is true and the temperature 0; give one a"):
            temperature({**sampled, **settings}, **defaults)
