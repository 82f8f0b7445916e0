"""neox-eqx and its doors: what they list, which command they run, and by which name it goes."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from neox_eqx import __version__
from neox_eqx.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
DOORS = {
    "generate.py": "generate",
    "train.py": "train",
    "scripts/score.py": "score",
    "scripts/convert_params.py": "convert",
    "scripts/plan.py": "plan",
    "scripts/benchmark.py": "benchmark",
}
IMPORTED = """
import sys
from neox_eqx.cli.main import main

try:
    main()
finally:
    print(*sys.modules)
"""
# Ctrl-C as JAX is looked for.
INTERRUPTED = """
import os, signal, sys
from neox_eqx.cli.main import main

class Interrupt:
    def find_spec(self, name, *_):
        if name == "jax":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
main()
"""
ABSENT = """
import sys
from neox_eqx.cli.main import main

sys.modules[sys.argv.pop(1)] = None
main()
"""


def test_every_command_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem for path in (ROOT / "neox_eqx" / "cli").glob("*.py")}
    assert modules == {"__init__", "main", *COMMANDS}
    main([])
    told = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert any(line.split() == [name, *text.split()] for line in told.splitlines())
    assert max(map(len, told.splitlines())) <= 88
    for help in ("--help", "-h", "help"):
        main([help])
        assert capsys.readouterr().out == told


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"neox-eqx {__version__}\n"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("genrate", "there is no command 'genrate'; did you mean generate?"),
        ("convert_params", "there is no command 'convert_params'; did you mean convert?"),
        ("--prompt", "there is no command '--prompt'; neox-eqx --help lists the commands"),
        ("", "there is no command ''; neox-eqx --help lists the commands"),
        ("x" * 10**5, f"there is no command '{'x' * 79}...; neox-eqx --help lists the commands"),
    ],
)
def test_a_word_that_is_no_command_is_answered_with_one_line(
    word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert (ended.value.code, *capsys.readouterr()) == (2, "", f"neox-eqx: error: {message}\n")


@pytest.mark.parametrize(("door", "name"), DOORS.items(), ids=DOORS)
def test_a_door_runs_its_command_by_the_name_that_the_user_called(
    door: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", [*args])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / door), run_name="__main__")
        out, error = capsys.readouterr()
        assert ended.value.code == (2 if error else 0)
        return error or " ".join(out.split())

    script = Path(door).name
    assert told(door, "--nothing").startswith(f"{script}: error: ")
    assert told(door, "--help").startswith(f"usage: {script} ")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    same = " ".join(capsys.readouterr().out.split())
    assert same == told(door, "--help").replace(script, f"neox-eqx {name}", 1)


def test_python_runs_the_package_as_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["neox_eqx", "score", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("neox_eqx", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: neox-eqx score ")


def ended(code: str, *args: str, status: int = 2) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert ran.returncode == status, ran
    return ran


def test_help_imports_nothing_that_takes_time() -> None:
    modules = {*ended(IMPORTED, "--help", status=0).stdout.split("guide.")[1].split()}
    assert "neox_eqx.cli.main" in modules
    assert not modules & {"jax", "numpy", "tyro"}


def test_ctrl_c_during_the_imports_ends_as_it_does_later() -> None:
    ran = ended(INTERRUPTED, "generate", status=130)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_command_imports_no_other() -> None:
    ran = ended(IMPORTED, "score", "--nothing")
    assert ran.stderr.startswith("neox-eqx score: error: Missing from neox-eqx score: --model")
    modules = {*ran.stdout.split()}
    commands = {name for name in modules if name.startswith("neox_eqx.cli.")}
    assert commands == {"neox_eqx.cli.main", "neox_eqx.cli.score"}
    assert not modules & {"datasets", "lm_eval", "optax", "torch", "transformers", "wandb"}


def test_a_command_whose_library_is_not_installed_names_what_to_install() -> None:
    ran = ended(ABSENT, "optax", "train", "--help")
    reason = "optax, which train needs, is not installed; run pip install 'neox-eqx[train]'"
    assert (ran.stdout, ran.stderr) == ("", f"neox-eqx train: error: {reason}\n")
