"""Nothing that a command has started outlives it, whatever it does to get out of sight."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.podrun.hosts import Hosts, is_agent, parent, runs_agent
from tests.podrun.launch import Launch, wait_until


class Daemon:
    """A process without the environment, the session and the parent of the one that starts it."""

    def __init__(self) -> None:
        self.seconds = f"{10_000 + os.getpid()}.25"  # to sleep: no other process has this word
        self.start = f"env -i setsid sh -c 'sleep {self.seconds} & exit' </dev/null >/dev/null 2>&1"

    def processes(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes() == f"sleep\0{self.seconds}\0".encode():
                    found.append(int(path.parent.name))
            except OSError:  # it has ended
                continue
        return found


@pytest.fixture
def daemon(pod: Hosts) -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    left = daemon.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def start(pod: Hosts, daemon: Daemon, *options: str, hosts: str = "h0,h1") -> Launch:
    launch = pod.launch(
        *options, "sh", "-c", f"{daemon.start}; echo started; sleep 1000", hosts=hosts
    )
    launch.wait_for("started", times=len(hosts.split(",")) + len(options))
    wait_until(daemon.processes, 3, lambda: "no daemon")
    return launch


def expect_none(daemon: Daemon) -> None:
    wait_until(lambda: not daemon.processes(), 2, lambda: "a daemon is left")


def test_a_daemon_ends_with_a_command_that_ends_well(pod: Hosts, daemon: Daemon) -> None:
    seen = "sleep 0.3; ls -d /proc/[0-9]*/exe -l | grep -c /sleep || true"
    launch = pod.run("sh", "-c", f"{daemon.start}; {seen}", hosts="h0")
    assert launch.process.returncode == 0
    assert launch.stdout == "h0| 1\n"
    assert not daemon.processes()


@pytest.mark.parametrize("victim", ["agent", "keeper", "launcher"])
def test_a_daemon_ends_whoever_is_killed(pod: Hosts, daemon: Daemon, victim: str) -> None:
    launch = start(pod, daemon, "-i")
    agents = [pid for pid in pod.processes() if is_agent(pid)]
    assert len(agents) == 3
    pids = {"agent": agents, "keeper": map(parent, agents), "launcher": [launch.process.pid]}
    for pid in list(pids[victim]):
        os.kill(pid, signal.SIGKILL)
    assert launch.end(within_seconds=5) == (-signal.SIGKILL if victim == "launcher" else 255)
    expect_none(daemon)


def test_a_daemon_ends_with_an_interrupted_command(pod: Hosts, daemon: Daemon) -> None:
    launch = start(pod, daemon)
    launch.process.terminate()
    assert launch.end(within_seconds=3) == 143
    expect_none(daemon)


def test_processes_that_were_there_before_go_on(pod: Hosts, daemon: Daemon) -> None:
    """Of the same user and the same program, and a launch beside this one."""
    other = start(pod, daemon, hosts="h0")
    before = daemon.processes()
    assert pod.run("true", hosts="h0").process.returncode == 0
    assert pod.run("-c", "sh", "-c", "exit 3", hosts="h0").process.returncode == 3
    assert daemon.processes() == before
    other.process.terminate()
    assert other.end(within_seconds=3) == 143
    expect_none(daemon)


def test_many_orphans_leave_no_zombies(pod: Hosts) -> None:
    orphans = "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 &); done; sleep 1; "
    count = "cat /proc/[0-9]*/stat | grep -c ') Z ' || true"
    launch = pod.run("sh", "-c", orphans + count, hosts="h0")
    if hasattr(pod, "prefix"):  # a host with processes of its own
        assert launch.stdout == "h0| 0\n"


def test_what_a_start_up_file_has_started_goes_on(pod: Hosts, daemon: Daemon) -> None:
    """Though it is a child of what the shell becomes: the keeper."""
    ssh = pod.folder / "start-up" / "ssh"
    ssh.parent.mkdir()
    first = f"sleep {daemon.seconds} </dev/null >/dev/null 2>&1 & exec"
    words = '"${@:1:$#-1}" "' + first + ' ${@: -1}"'
    ssh.write_text(f"#!/bin/bash\nexec {pod.folder}/bin/ssh {words}\n", "utf-8")
    ssh.chmod(0o755)
    path = f"{ssh.parent}:{os.environ['PATH']}"
    launch = pod.launch("sh", "-c", "echo started; sleep 0.5; exit 3", hosts="h0", PATH=path)
    launch.wait_for("started")
    (other,) = daemon.processes()
    assert runs_agent(parent(other))
    assert launch.end(within_seconds=3) == 3
    wait_until(lambda: set(pod.processes()) <= {other}, 2, lambda: "the keeper is left")
    assert daemon.processes() == [other]
    os.kill(other, signal.SIGKILL)
    expect_none(daemon)  # what was killed may take its time to end
