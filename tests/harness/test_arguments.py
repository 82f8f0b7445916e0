"""What the harness's users write in `--model_args`, as its own transformers model takes it."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neox_eqx import DEMO_MODEL, InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports


@pytest.mark.parametrize(
    "line",
    [
        "dtype=float,trust_remote_code=True",
        'revision=step100000,dtype="float"',
        "trust_remote_code=False,use_fast_tokenizer=False,low_cpu_mem_usage=True,device_map=auto",
        "add_bos_token=False,parallelize=False,backend=causal,softmax_dtype=float32,peft=None",
        "tokenizer=./words,max_length=64,device=cuda:0,subfolder=,truncation=False",
    ],
)
def test_the_arguments_of_ordinary_command_lines_are_taken(line: str) -> None:
    from lm_eval.utils import simple_parse_args_string

    from neox_eqx.harness.arguments import ARGUMENTS, model_arguments

    given = simple_parse_args_string(f"pretrained=./m,{line}")
    given = {name: None if value == "None" else value for name, value in given.items()}
    taken = model_arguments(given)
    ours = [name for name in given if name in ARGUMENTS]
    assert {name: str(given[name]) for name in ours} == {k: str(v) for k, v in taken.items()}


def test_every_argument_of_the_harness_own_model_is_known() -> None:
    """One that a later version adds fails here: it is to be taken, ignored or refused."""
    from lm_eval.models.huggingface import HFLM

    from neox_eqx.harness import arguments
    from neox_eqx.harness.adapter import NeoXLM

    theirs = set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs", "peft"}
    of_harness = {"batch_size", "max_batch_size"}
    known = arguments.ARGUMENTS.keys() | arguments._WITHOUT_EFFECT | arguments._NEUTRAL.keys()
    assert theirs - of_harness <= known
    own = set(inspect.signature(NeoXLM.__init__).parameters) - {"self"}
    assert own == arguments.ARGUMENTS.keys() | of_harness


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load_in_8bit": True}, "load_in_8bit=True is not supported; leave it out"),
        ({"backend": "seq2seq"}, "backend=seq2seq is not supported"),
        ({"mixed_precision_dtype": "bfloat16"}, "mixed_precision_dtype=bfloat16 is not supported"),
        ({"peft": "./a", "base": "./b"}, "peft is an adapter of what pretrained names; give no b"),
    ],
)
def test_what_would_change_results_is_refused(given: dict[str, Any], message: str) -> None:
    from neox_eqx.harness.arguments import model_arguments

    with pytest.raises(InputError, match=f"^model_args: {message}"):
        model_arguments({"pretrained": "./m", **given})


def test_the_revision_of_a_directory_is_let_through_with_a_warning(tmp_path: Path) -> None:
    from neox_eqx.harness.arguments import model_arguments

    with pytest.warns(UserWarning, match="revision step100000 is of no use, as .* is a directory"):
        taken = model_arguments({"pretrained": str(tmp_path), "revision": "step100000"})
    assert taken == {"pretrained": str(tmp_path)}


def test_an_adapter_is_named_beside_its_base() -> None:
    from neox_eqx.harness.arguments import model_arguments

    both = model_arguments({"pretrained": "ID", "peft": "./lora", "revision": "step3000"})
    expected = {"pretrained": "./lora", "base": "ID@step3000", "tokenizer": "ID@step3000"}
    assert {name: value for name, value in both.items() if value is not None} == expected


def test_dtypes_have_the_names_of_pytorch_and_of_the_checkpoint(tmp_path: Path) -> None:
    from neox_eqx.checkpoint.origin import find
    from neox_eqx.harness.arguments import read_dtype

    shutil.copytree(DEMO_MODEL, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    for stated, expected in (("float16", "float16"), ("torch.bfloat16", "bfloat16")):
        own = {name: value for name, value in config.items() if name != "dtype"}
        (tmp_path / "m/config.json").write_text(json.dumps({**own, "torch_dtype": stated}))
        assert read_dtype("auto", find(tmp_path / "m")) == expected
    names = {"float": "float32", "half": "float16", "torch.float16": "float16", "odd": "odd"}
    for name, expected in {**names, "bfloat16": "bfloat16", "float32": "float32"}.items():
        assert read_dtype(name, find(DEMO_MODEL)) == expected
    assert read_dtype(None, find(DEMO_MODEL)) is None


def test_a_batch_size_of_auto_is_left_to_the_model() -> None:
    from neox_eqx.harness.arguments import batch_rows

    sizes = {"auto": 8, "auto:4": 8, "auto:0.5": 8, "3": 3, 5: 5}
    assert {given: batch_rows(given, None) for given in sizes} == sizes
    assert batch_rows("auto", 2) == 2 and batch_rows("auto", 64) == 8
    for wrong in ("auto:x", "autos", 0, "-1", "2.5", "9" * 5000):
        with pytest.raises(InputError, match="batch_size must be a whole number of at least 1"):
            batch_rows(wrong, None)


def test_help_begins_with_the_model_and_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    from neox_eqx.cli.evaluate import main
    from neox_eqx.harness.arguments import ARGUMENTS

    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    told = capsys.readouterr().out
    assert not ended.value.code and told.startswith("usage: neox-eqx evaluate --model_args")
    own, theirs = told.split("All other options are the harness's own:")
    assert all(f"\n  {name} " in own for name in ARGUMENTS)
    assert max(map(len, own.splitlines())) < 100 and "--apply_chat_template" in theirs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--tasks no_such_task", "Tasks not found: no_such_task"),
        ("--tasks lambada_openai --fewshot_as_multiturn", "When `fewshot_as_multiturn` is True"),
    ],
)
def test_a_mistake_that_the_harness_finds_is_one_line(line: str, message: str) -> None:
    from neox_eqx.cli.evaluate import main

    with pytest.raises(InputError, match=message) as raised:
        main(["--model_args", f"pretrained={DEMO_MODEL}", *line.split()])
    assert "\n" not in str(raised.value)


def test_an_error_in_the_midst_of_the_work_keeps_its_traceback() -> None:
    """Control: only what the harness says of its options becomes a line."""
    from neox_eqx.cli.evaluate import _is_mistake

    with pytest.raises(ValueError) as raised:
        json.loads("{")
    assert not _is_mistake(raised.value)
