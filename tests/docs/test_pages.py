"""Every command and snippet of the documentation works, or says why it is not tried."""

import importlib
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from neox_eqx import DEMO_MODEL, InputError
from neox_eqx.cli.main import COMMANDS
from neox_eqx.command_line import _spellings, parse
from tests.docs.blocks import PAGES, ROOT, RUN, SHOWN, Block, blocks, commands
from tests.hub import COMMIT, Hub, Repository, only, serving

DOORS = {"generate.py": "generate", "train.py": "train"}
GSM8K = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: train.jsonl
---
"""
OTHERS = {
    *("help", "version"),
    # lm-evaluation-harness's
    *("model_args", "apply_chat_template", "batch_size", "config", "device"),
    *("hosts", "check"),  # podrun's
    "spot",  # gcloud's
    *("evaluate", "processes"),  # of scripts in the repository
}
"""Options of other programs."""
QUICK_START = ROOT / "docs" / "index.md"


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_each_block_says_what_it_is_and_its_options_exist(page: Path) -> None:
    for block in blocks(page):
        _check(block)


def _check(block: Block) -> None:
    assert block.language in (*RUN, *SHOWN), f"{block.where}: name a language, as {RUN + SHOWN}"
    if block.language == "python":
        compile(block.text, block.where, "exec")
    elif block.language == "bash":
        for words in commands(block.text):
            _check_options(words, block.where)


def _check_options(words: list[str], where: str) -> None:
    """Where a command of ours stands among the words, as after podrun's, its options are parsed."""
    for number, word in enumerate(words):
        name = words[number + 1] if word == "neox-eqx" and words[number + 1 :] else DOORS.get(word)
        if name is None or name.startswith("-"):
            continue
        assert name in COMMANDS, f"{where}: there is no command {name}"
        given = words[number + (2 if word == "neox-eqx" else 1) :]
        if name == "evaluate" or "--help" in given:  # evaluate's options are the harness's own
            return
        try:
            parse(importlib.import_module(f"neox_eqx.cli.{name}").Options, name, given)
        except InputError as error:
            pytest.fail(f"{where}: {error}")
        return


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_each_option_that_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = re.findall(r"(?<=[` ])--([a-z][\w-]*)(?=[^`]*`)", text)
    known = _known_options() | OTHERS
    assert [name for name in named if not {name, name.removeprefix("no-")} & known] == []


@cache
def _known_options() -> set[str]:
    """Those of all commands but evaluate, whose options are the harness's."""
    modules = [importlib.import_module(f"neox_eqx.cli.{name}") for name in COMMANDS]
    own = [module.Options for module in modules if hasattr(module, "Options")]
    return {option[2:] for options in own for option, _ in _spellings(options)}


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nneox-eqx generate --temprature 0\n```",
        "```bash\nHF_HOME=x ./podrun -icw neox-eqx train --model M --data D.jsonl > out\n```",
        "```bash\nneox-eqx guess\n```",
        "```python\nprint(\n```",
        "```\nneox-eqx generate\n```",
    ],
    ids=["a wrong option", "one that is missing", "a wrong command", "Python", "no language"],
)
def test_a_mistake_in_a_page_fails(text: str) -> None:
    (block,) = blocks(ROOT / "README.md", text)
    with pytest.raises((AssertionError, SyntaxError, pytest.fail.Exception)):
        _check(block)


def test_a_block_that_fails_or_prints_something_else_fails(tmp_path: Path) -> None:
    page = '```python\nprint("four")\n```\n\n```text\nfo...\n```\n\n```bash\nexit {}\n```'
    for status, expected in ((0, 0), (3, 1)):
        assert _run_text(page.format(status), tmp_path).returncode == expected
    assert (
        "this was printed instead:\nfour"
        in _run_text(page.replace("fo...", "five"), tmp_path).stderr
    )


def _run_text(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pathlib import Path; from tests.docs import run_page; "
    code += f"run_page.main(Path({str(ROOT / 'README.md')!r}), sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", code, text],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """It gives the demo model, and a dataset as GSM8K, under any id and revision."""
    problems = tmp_path_factory.mktemp("dataset")
    (problems / "README.md").write_text(GSM8K)
    answer = "There are 3 x 4 = 12 apples.\\n#### 12"
    (problems / "train.jsonl").write_text(8 * f'{{"question": "3 x 4?", "answer": "{answer}"}}\n')
    demo, examples = (
        Repository({COMMIT: directory}, defaultdict(lambda: COMMIT))
        for directory in (DEMO_MODEL, problems)
    )
    with serving(defaultdict(lambda: demo), defaultdict(lambda: examples)) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages share: what is downloaded and what is compiled."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(
    "page",
    [
        page if page == QUICK_START else pytest.param(page, marks=pytest.mark.slow)
        for page in PAGES
        if any(block.is_run for block in blocks(page))
    ],
    ids=_name,
)
def test_the_blocks_of_a_page_run_in_their_order(
    page: Path, hub: Hub, home: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "neox-eqx").write_text(f'#!/bin/sh\nexec {sys.executable} -m neox_eqx "$@"\n')
    (programs / "neox-eqx").chmod(0o755)
    (programs / "podrun").symlink_to(ROOT / "podrun")
    own = {
        **only(hub.address, home / "hub"),
        "HOME": str(home),
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "PATH": os.pathsep.join(
            [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(ROOT),
    }
    # As it is outside of the tests: they have eight devices.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    place = tmp_path / "place"
    place.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "tests.docs.run_page", page],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment | own,
        timeout=1500,
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
