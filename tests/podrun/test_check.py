"""`--check` shows what differs between the hosts before anything runs."""

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.podrun.hosts import Hosts

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c"]


def table(text: str) -> dict[str, dict[str, str]]:
    """The cells of the table: by host, by column."""
    head, *lines = [re.split(r"  +", line) for line in text.splitlines()]
    assert head[0] == "host"
    return {line[0]: dict(zip(head[1:], line[1:], strict=False)) for line in lines}


@pytest.fixture
def odd(pod: Hosts) -> Iterator[str]:
    """h3, whose Python finds another jax than the others'."""
    package = pod.packages("h3") / "jax-0.0.1.dist-info"
    package.mkdir()
    package.joinpath("METADATA").write_text("Name: jax\nVersion: 0.0.1\n", "utf-8")
    yield "h3"
    shutil.rmtree(package)


def test_hosts_that_agree(pod: Hosts, tmp_path: Path) -> None:
    """The Python is that of the launch, with its packages; the commit that of the directory."""
    subprocess.run([*GIT, "init", "-q", tmp_path], check=True)
    commit = [*GIT, "-C", tmp_path, "commit", "-q", "--allow-empty", "-m", "one"]
    subprocess.run(commit, check=True)
    head = subprocess.check_output([*GIT, "-C", tmp_path, "rev-parse", "HEAD"], text=True)
    launch = pod.run("-iw", "--check", directory=tmp_path, VIRTUAL_ENV=sys.prefix)
    assert launch.process.returncode == 0, launch.stderr
    found = table(launch.stdout)
    assert len(found) == 5 and set(pod.names) < set(found)
    for cells in found.values():
        assert cells["python"] == platform.python_version()
        assert cells["jax"] == importlib.metadata.version("jax")
        assert cells["commit"] == head[:12]
        assert re.fullmatch(r"\d+ (CPU|TPU)", cells["devices"])
        assert re.fullmatch(r"\d+\.\d GiB", cells["free memory"])


def test_the_host_that_differs_is_marked_and_nothing_runs(pod: Hosts, odd: str) -> None:
    launch = pod.run("--check")
    assert launch.process.returncode == 1
    found = table(launch.stdout)
    assert found[odd]["jax"] == "0.0.1*"
    assert launch.stdout.count("*") == 1
    launch = pod.run("--check", "python3", "-c", "print('ran')")
    assert launch.process.returncode == 1
    assert launch.stdout == ""
    assert table(launch.stderr)[odd]["jax"] == "0.0.1*"


def test_a_command_runs_after_the_table_where_all_agree(pod: Hosts) -> None:
    launch = pod.run("--check", "echo", "ran")
    assert launch.process.returncode == 0
    assert sorted(launch.stdout.splitlines()) == [f"{name}| ran" for name in pod.names]
    assert set(table(launch.stderr)) == set(pod.names)


def test_a_host_that_does_not_answer_is_in_the_table(pod: Hosts) -> None:
    launch = pod.run("--check", hosts="h0,refusing,h1")
    assert launch.process.returncode == 1
    assert list(table(launch.stdout)) == ["h0", "refusing", "h1"]
    assert "refusing  ssh could not connect: " in launch.stdout


def test_the_columns_stand_below_each_other_whatever_the_names_of_hosts_that_fail(
    pod: Hosts,
) -> None:
    head, *lines = pod.run("--check", hosts="h0,refusing,h1").stdout.splitlines()
    assert head.index("python") == len("refusing  ")
    assert {line[:10] for line in lines} == {"h0        ", "refusing  ", "h1        "}
    for line in (lines[0], lines[2]):
        assert re.search("[^ ] +$", line[: head.index("jax")])
        assert line[head.index("free memory") :].endswith("GiB")
