"""Whatever goes wrong on one host ends the command on all of them, soon and with one reason."""

import os
import re
import signal
import time

import pytest

from tests.podrun.hosts import Hosts, is_agent, parent
from tests.podrun.launch import Launch, wait_until

START_SECONDS = 20  # until all hosts print, on a busy machine
STOP_SECONDS = 3  # from a fault to the end of podrun; one of these a second's grace and its margin
STOPPED_SECONDS = 7  # until a stopped process is noticed: five, and two of its margin
# Four short stops that are longer together than the one that is no longer short.
STOPS_AND_GOES_ON = """
import os, signal, subprocess, time
for _ in range(4):
    subprocess.Popen(["sh", "-c", f"sleep 1.8; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
print("done")
"""
# One host fails a second after all have started; the others ignore SIGTERM, as JAX does.
ONE_FAILS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started")
while os.environ["PODRUN_PROCESS_ID"] != "2" or not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
"""


def start_all(pod: Hosts, program: str, *arguments: str) -> Launch:
    """Four hosts that have all printed "started"."""
    launch = pod.launch("python3", "-c", program, *arguments)
    launch.wait_for("started", times=4, seconds=START_SECONDS)
    return launch


def reasons(launch: Launch) -> list[str]:
    return [line for line in launch.stderr.splitlines() if line.startswith("podrun: ")]


@pytest.mark.parametrize(
    ("failing", "status", "reason"),
    [
        ("raise ValueError('broken')", 1, "exit 1"),
        ("sys.exit(3)", 3, "exit 3"),
        ("os._exit(255)", 255, "exit 255"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "signal SIGKILL"),
        ("os.abort()", 134, "signal SIGABRT"),
    ],
)
def test_a_failing_program_ends_the_others(
    pod: Hosts, failing: str, status: int, reason: str
) -> None:
    go = pod.folder / "go"
    go.unlink(missing_ok=True)
    launch = start_all(pod, ONE_FAILS + failing, str(go))
    go.touch()
    assert launch.end(STOP_SECONDS) == status
    pod.expect_nothing_left()
    assert reasons(launch) == [f"podrun: h2: {reason}"]
    if "raise" in failing:
        assert "h2| ValueError: broken\n" in launch.stderr


def test_the_others_end_within_a_second(pod: Hosts) -> None:
    go = pod.folder / "go"
    go.unlink(missing_ok=True)
    launch = start_all(pod, ONE_FAILS + "sys.exit(3)", str(go))
    go.touch()
    wait_until(lambda: len(pod.commands()) < 4, 2, lambda: "the fault did not happen")
    failed = time.monotonic()
    wait_until(lambda: not pod.commands(), 5, lambda: "the other programs run on")
    assert time.monotonic() - failed < 1
    assert launch.end(STOP_SECONDS) == 3


def test_a_program_that_another_kills_is_named(pod: Hosts) -> None:
    launch = start_all(pod, "import time; print('started'); time.sleep(1000)")
    victims = pod.commands()
    assert len(victims) == 4
    os.kill(victims[0], signal.SIGKILL)
    assert launch.end(STOP_SECONDS) == 137
    (reason,) = reasons(launch)
    assert reason.endswith("signal SIGKILL")


@pytest.mark.parametrize("stop", ["kill -STOP $$", "sh -c 'kill -STOP $$'"])
def test_a_command_that_stays_stopped_is_named_or_its_child(pod: Hosts, stop: str) -> None:
    script = f"echo started; if [ $PODRUN_PROCESS_ID = 2 ]; then {stop}; fi; sleep 1000"
    launch = pod.launch("sh", "-c", script)
    launch.wait_for("started", times=4, seconds=START_SECONDS)
    assert launch.end(STOPPED_SECONDS + STOP_SECONDS) == 147
    pod.expect_nothing_left()
    (reason,) = reasons(launch)
    assert re.fullmatch(r"podrun: h2: stopped \(SIGSTOP\) for 5 s, process \d+", reason)


def test_a_command_that_is_stopped_for_a_short_time_goes_on(pod: Hosts) -> None:
    launch = pod.run("python3", "-c", STOPS_AND_GOES_ON, hosts="h0,h1")
    assert launch.process.returncode == 0, launch.stderr
    assert sorted(launch.stdout.splitlines()) == ["h0| done", "h1| done"]
    assert reasons(launch) == []


def test_a_killed_agent_leaves_nothing_behind(pod: Hosts) -> None:
    """Not even a grandchild that has left the process group and ignores SIGTERM."""
    script = "trap '' TERM; setsid sleep 1000 & echo started; sleep 1000; sleep 1000"
    launch = pod.launch("sh", "-c", script)
    launch.wait_for("started", times=4, seconds=START_SECONDS)
    agents = [pid for pid in pod.processes() if is_agent(pid)]
    assert len(agents) == 4
    os.kill(agents[0], signal.SIGKILL)
    assert launch.end(STOP_SECONDS) == 255
    (reason,) = reasons(launch)
    assert "connection lost, or its agent was killed" in reason


def test_a_command_ends_where_agent_and_keeper_are_killed_at_once(pod: Hosts) -> None:
    launch = start_all(pod, "import time; print('started'); time.sleep(1000)")
    agent = next(pid for pid in pod.processes() if is_agent(pid))
    for pid in (parent(agent), agent):
        os.kill(pid, signal.SIGKILL)
    assert launch.end(STOP_SECONDS) == 255
    pod.expect_nothing_left()


def test_an_agent_that_stops_answering_is_named(pod: Hosts) -> None:
    launch = start_all(pod, "import time; print('started'); time.sleep(1000)")
    agent = next(pid for pid in pod.processes() if is_agent(pid))
    os.kill(agent, signal.SIGSTOP)
    try:
        assert launch.end(25) == 255
    finally:
        os.kill(agent, signal.SIGCONT)
    (reason,) = reasons(launch)
    assert reason.endswith(": silent for 10 s")
    pod.expect_nothing_left(within_seconds=3)


def test_a_host_that_is_down_is_named_and_nothing_starts(pod: Hosts) -> None:
    launch = pod.run("touch", str(pod.folder / "ran"), hosts="h0,down,h1")
    assert launch.process.returncode == 255
    (reason,) = reasons(launch)
    assert reason.startswith("podrun: down: ssh could not connect: connect to host")
    assert not pod.folder.joinpath("ran").exists()


def test_a_host_that_refuses_is_named_and_nothing_starts(pod: Hosts) -> None:
    launch = pod.run("touch", str(pod.folder / "ran"), hosts="h0,h1,refusing", within_seconds=10)
    assert launch.process.returncode == 255
    (reason,) = reasons(launch)
    assert reason.startswith("podrun: refusing: ssh could not connect: ")
    assert reason.endswith("Connection refused")
    assert not pod.folder.joinpath("ran").exists()


def test_a_wrong_host_key_is_refused(pod: Hosts) -> None:
    pod.know_hosts(pod.key)
    try:
        launch = pod.run("hostname", within_seconds=10)
    finally:
        pod.know_hosts(pod.hostkey)
    assert launch.process.returncode == 255
    (reason,) = reasons(launch)
    assert reason.endswith(": wrong host key: it is not the one in known_hosts")
    assert launch.stdout == ""


def test_an_unknown_host_key_is_refused_and_not_learned(pod: Hosts) -> None:
    pod.know_hosts(pod.hostkey, but="h1")
    known = pod.known_hosts.read_text("utf-8")
    try:
        launch = pod.run("hostname", within_seconds=10)
        assert pod.known_hosts.read_text("utf-8") == known
    finally:
        pod.know_hosts(pod.hostkey)
    assert launch.process.returncode == 255
    assert reasons(launch) == ["podrun: h1: unknown host key: compare and accept it with ssh first"]
    assert launch.stdout == ""


def test_a_host_that_is_cut_off_is_named_and_ends_by_itself(pod: Hosts) -> None:
    launch = start_all(pod, "import time; print('started'); time.sleep(1000)")
    with pod.cut("h3"):
        assert launch.end(25) == 255
        (reason,) = reasons(launch)
        assert reason.startswith("podrun: h3: ")
        assert "silent for 10 s" in reason or "Timeout, server" in reason
        if not hasattr(pod, "prefix"):  # its processes are stopped, and stay until they go on
            return
        pod.expect_nothing_left(within_seconds=10)


def test_a_missing_directory_is_named_and_nothing_starts(pod: Hosts) -> None:
    """The hosts share their files, so the directory goes once podrun has looked at its own."""
    folder = pod.folder / "remove-directory"
    folder.mkdir()
    ssh = folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nrmdir "$PWD" 2>/dev/null\nexec {pod.folder}/bin/ssh "$@"\n')
    ssh.chmod(0o755)
    path = f"{folder}:{pod.folder}/bin:{os.environ['PATH']}"
    directory = folder / "work"
    directory.mkdir()
    launch = pod.run("-w", "echo", "started", directory=directory, within_seconds=10, PATH=path)
    assert launch.process.returncode == 1
    (reason,) = reasons(launch)
    assert reason.split(": ")[1] in pod.names
    assert reason.endswith(f": no directory {directory}")
    assert launch.stdout == ""


def test_a_missing_program_is_named(pod: Hosts) -> None:
    launch = pod.run("no-such-program", within_seconds=10)
    assert launch.process.returncode == 127
    (reason,) = reasons(launch)
    assert reason.endswith(": no program no-such-program")
