"""`-c` removes what dead processes of this user left, and nothing of a live one."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.podrun.hosts import Hosts, is_agent, parent
from tests.podrun.launch import wait_until
from tests.podrun.networks import pod_of

NAME = "libtpu_lockfile"
HOLD = """
import fcntl, sys, time
file = open("/tmp/libtpu_lockfile", "w")
getattr(fcntl, sys.argv[1], lambda *_: None)(file, fcntl.LOCK_EX)
print("started")
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def private() -> Iterator[Hosts]:
    """Two hosts with a /tmp of their own; where that cannot be, one test process at a time."""
    with pod_of(2, private_tmp=True) as hosts, contextlib.ExitStack() as stack:
        if hosts.tmp("h0") == Path("/tmp"):
            turn = stack.enter_context(open(f"/tmp/podrun-tests-{os.getuid()}.lock", "w"))
            fcntl.flock(turn, fcntl.LOCK_EX)
            assert not Path("/tmp", NAME).exists(), "a TPU is in use here"
        yield hosts


def notes(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line.startswith("podrun: "))


def test_the_lock_file_of_a_dead_process_goes(private: Hosts) -> None:
    lock = private.tmp("h1") / NAME
    lock.touch()
    launch = private.run("-c", "true", hosts="h1")
    assert launch.process.returncode == 0
    assert notes(launch.stderr) == [f"podrun: h1: removed /tmp/{NAME}, left by a dead process"]
    assert not lock.exists()
    assert notes(private.run("-c", "true", hosts="h1").stderr) == []


def test_without_c_nothing_is_removed(private: Hosts) -> None:
    lock = private.tmp("h1") / NAME
    lock.touch()
    assert private.run("true", hosts="h1").stderr == ""
    assert lock.exists()
    lock.unlink()


@pytest.mark.parametrize("way", ["flock", "lockf", "open"])
def test_the_lock_file_of_a_live_process_stays(private: Hosts, way: str) -> None:
    """Whether it is locked in one of two ways or just open."""
    lock = private.tmp("h0") / NAME
    holder = private.launch("python3", "-c", HOLD, way, hosts="h0")
    holder.wait_for("started")
    launch = private.run("-c", "true", hosts="h0")
    assert notes(launch.stderr) == [f"podrun: h0: /tmp/{NAME} stays: a live process holds it"]
    assert lock.exists()
    assert holder.process.poll() is None
    holder.process.terminate()
    assert holder.end(within_seconds=3) == 143
    lock.unlink()


if os.getuid() == 0:  # nobody else can give a file away

    def test_the_lock_file_of_another_user_stays(private: Hosts) -> None:
        lock = private.tmp("h0") / NAME
        lock.touch()
        os.chown(lock, 12345, 12345)
        assert notes(private.run("-c", "true", hosts="h0").stderr) == []
        assert lock.exists()
        lock.unlink()


def test_a_link_at_the_place_of_the_lock_file_is_not_followed(private: Hosts) -> None:
    lock, target = private.tmp("h0") / NAME, private.folder / "precious"
    target.touch()
    lock.symlink_to(target)
    assert notes(private.run("-c", "true", hosts="h0").stderr) == []
    assert target.exists() and lock.is_symlink()
    lock.unlink()


def test_what_a_dead_launch_left_is_killed_and_a_live_one_is_not(private: Hosts) -> None:
    live = private.launch("sh", "-c", "echo started; sleep 1000", hosts="h0")
    live.wait_for("started")
    running, others = set(private.commands()), set(private.processes())
    lost = private.launch("sh", "-c", "sleep 2000 & echo started; wait", hosts="h0")
    lost.wait_for("started")
    orphans = set(private.commands()) - running
    assert len(orphans) == 2  # the shell, which ends with its agent, and sleep
    # Both stand still first, so that neither can do its work when the other dies.
    agent = next(pid for pid in private.processes() if pid not in others and is_agent(pid))
    both = (agent, parent(agent))
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in both:
            os.kill(pid, number)
    assert lost.end(within_seconds=5) == 255
    left = set(private.commands()) - running
    assert len(left) == 1 and left < orphans

    launch = private.run("-c", "true", hosts="h0")
    assert launch.process.returncode == 0
    (note,) = notes(launch.stderr)
    assert note.endswith(" (sleep), left by a dead launch")
    wait_until(lambda: set(private.commands()) == running, 1, lambda: "orphans are left")
    assert live.process.poll() is None
    live.process.terminate()
    assert live.end(within_seconds=3) == 143
    private.expect_nothing_left()


def test_a_mark_that_no_agent_has_written_is_nothing_to_c(private: Hosts) -> None:
    marks = "x '' 'a b c' 'pid:[1] x y' 'pid:[1] 99999 \u00b2' \"$(printf '\\377')\""
    script = f"for m in {marks}; do PODRUN_AGENT=$m sleep 1000 & done; echo started; wait"
    other = private.launch("sh", "-c", script, hosts="h0")
    other.wait_for("started")
    before = set(private.commands())
    launch = private.run("-c", "true", hosts="h0")
    assert (launch.process.returncode, launch.stderr) == (0, "")
    assert set(private.commands()) == before and len(before) == 7
    other.process.terminate()
    assert other.end(within_seconds=3) == 143
    private.expect_nothing_left()
