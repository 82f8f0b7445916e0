"""What a command finds on each host: its words, its directory, its variables, its Python."""

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from tests.podrun.hosts import Hosts

WORDS = [
    "plain",
    "two words",
    "",
    "'single' \"double\" \\back\\",
    "$HOME ${HOME} $(hostname) `hostname` !! #",
    "a\nnew line\n",
    "안녕하세요 세계",
    "* ? [a-z] ~ ; & | < > ( ) { } %d",
    "--hosts",
    "--",
    "-i",
    "caf\udce9",  # a byte that is not UTF-8
]
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]))"


def shown(pod: Hosts, *arguments: str, **more: str) -> dict[str, tuple]:
    """What the command sees on each host: words, directory, variables."""
    launch = pod.run(*arguments, **more)
    assert launch.process.returncode == 0, launch.stderr
    lines = [line.split("| ", 1) for line in launch.stdout.splitlines()]
    return {host: json.loads(text) for host, text in lines}


def test_words_arrive_as_they_were_typed(pod: Hosts) -> None:
    seen = shown(pod, "-i", "python3", "-c", SHOW, *WORDS)
    assert [words for words, _, _ in seen.values()] == 5 * [WORDS]


@pytest.mark.parametrize("before", [["--"], ["-i", "--"], ["-icw"], []])
def test_options_end_at_the_first_word_that_is_none(pod: Hosts, before: list[str]) -> None:
    seen = shown(pod, *before, "python3", "-c", SHOW, "-w", "--", "-c", hosts="h0")
    assert all(words == ["-w", "--", "-c"] for words, _, _ in seen.values())


def test_the_same_working_directory_or_the_home(pod: Hosts, tmp_path: Path) -> None:
    directory = tmp_path / "디렉터리 $x"
    directory.mkdir()
    seen = shown(pod, "-iw", "python3", "-c", SHOW, directory=directory)
    assert [where for _, where, _ in seen.values()] == 5 * [str(directory)]
    seen = shown(pod, "-i", "python3", "-c", SHOW, HOME=str(tmp_path))
    home = os.path.realpath(os.path.expanduser(f"~{Path.home().owner()}"))
    assert {where for host, (_, where, _) in seen.items() if host in pod.names} == {home}
    assert [w for host, (_, w, _) in seen.items() if host not in pod.names] == [str(tmp_path)]


def test_settings_and_secrets_are_passed_on_and_nothing_else(pod: Hosts) -> None:
    given = {"WANDB_API_KEY": "key 1", "HF_TOKEN": "$t'oken\n", "JAX_PLATFORMS": "cpu"}
    seen = shown(pod, "python3", "-c", SHOW, OTHER="x", XLA_FLAGS="--a --b", **given)
    for _, _, variables in seen.values():
        assert variables | given | {"XLA_FLAGS": "--a --b"} == variables
        assert "OTHER" not in variables


def test_secrets_are_on_no_command_line(pod: Hosts) -> None:
    launch = pod.launch("-i", "sh", "-c", "echo started; sleep 1000", WANDB_API_KEY="s3cr3t-key")
    launch.wait_for("started", times=5)
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if b"s3cr3t-key" in line]
    commands = pod.commands()
    assert len(commands) == 10  # the shell and sleep
    for pid in commands:
        assert b"WANDB_API_KEY=s3cr3t-key" in Path(f"/proc/{pid}/environ").read_bytes()
    launch.process.terminate()
    assert launch.end(within_seconds=3) == 143


def test_processes_are_numbered_in_the_order_of_the_hosts(pod: Hosts) -> None:
    for arguments, order in [([], pod.names), (["-i"], ["*", *pod.names])]:
        seen = shown(pod, *arguments, "python3", "-c", SHOW)
        for host, (_, _, variables) in seen.items():
            assert int(variables["PODRUN_PROCESS_ID"]) == order.index(
                host if host in order else "*"
            )
            assert variables["PODRUN_NUM_PROCESSES"] == str(len(order))


def test_all_hosts_can_reach_the_coordinator(pod: Hosts) -> None:
    """The first process listens where it is told, and every process connects to it."""
    talk = """
import os, socket, time
host, _, port = os.environ["PODRUN_COORDINATOR"].rpartition(":")
if os.environ["PODRUN_PROCESS_ID"] == "0":
    with socket.create_server((host, int(port))) as server:
        for _ in range(int(os.environ["PODRUN_NUM_PROCESSES"]) - 1):
            server.accept()[0].sendall(b"welcome")
else:
    for _ in range(100):
        try:
            print(socket.create_connection((host, int(port))).recv(99).decode())
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
"""
    for arguments in ([], ["-i"]):
        launch = pod.run(*arguments, "python3", "-c", talk)
        assert launch.process.returncode == 0, launch.stderr
        assert launch.stdout.count("| welcome\n") == 3 + len(arguments)


def test_an_active_virtual_environment_leads_the_path(pod: Hosts, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    program = "import json, os, sys; print(json.dumps([sys.prefix, os.environ['PATH'], {}]))"
    where = str(tmp_path / "venv")
    seen = shown(pod, "-i", "python", "-c", program, VIRTUAL_ENV=where)
    assert [prefix for prefix, _, _ in seen.values()] == 5 * [where]
    assert all(path.startswith(f"{where}/bin:/") for _, path, _ in seen.values())
    seen = shown(pod, "python3", "-c", SHOW, VIRTUAL_ENV=str(tmp_path / "none"))
    for _, _, variables in seen.values():
        assert "VIRTUAL_ENV" not in variables and "none" not in variables["PATH"]


def test_the_words_to_ssh_mean_the_same_to_every_shell(pod: Hosts) -> None:
    """Each shell that is here starts the program that comes on stdin from the same one word."""
    launch = pod.launch("sh", "-c", "echo started; sleep 1000", hosts="h0")
    launch.wait_for("started")
    (client,) = [line for line in pod.processes().values() if " -o BatchMode=yes " in line]
    launch.process.terminate()
    assert launch.end(within_seconds=3) == 143
    word = client[client.index("python3 -I") :].strip()
    size = int(re.search(r"read\((\d+)\)", word)[1])
    program = b"print(__name__)\n".ljust(size)
    shells = list(filter(shutil.which, ["sh", "bash", "dash", "zsh", "fish", "tcsh", "ksh"]))
    assert len(shells) > 1
    for shell in shells:
        answer = subprocess.run([shell, "-c", word], input=program, capture_output=True)
        assert answer.stdout == b"podrun\n", (shell, answer.stderr)
