"""Ctrl-C and SIGTERM reach the programs; what podrun cannot end any more ends by itself."""

import os
import signal
import time

import pytest

from tests.podrun.hosts import Hosts
from tests.podrun.launch import wait_until

# Prints the signals that it gets; the argument says whether it then ends.
LISTENER = """
import signal, sys, time

def note(number, frame):
    print(signal.Signals(number).name)
    if sys.argv[1] == "ends":
        sys.exit(0)

signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
print("started")
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_reaches_every_host(pod: Hosts, name: str) -> None:
    launch = pod.launch("-i", "python3", "-c", LISTENER, "ends")
    launch.wait_for("started", times=5)
    launch.process.send_signal(signal.Signals[name])
    assert launch.end(within_seconds=3) == 128 + signal.Signals[name]
    pod.expect_nothing_left()
    assert [line.endswith(f"| {name}") for line in launch.stdout.splitlines()[5:]] == 5 * [True]


def test_a_signal_reaches_the_children_of_the_command(pod: Hosts) -> None:
    launch = pod.launch("sh", "-c", 'trap : TERM; python3 -c "$0" ends & wait; wait', LISTENER)
    launch.wait_for("started", times=4)
    launch.process.send_signal(signal.SIGTERM)
    assert launch.end(within_seconds=3) == 143
    assert launch.stdout.count("| SIGTERM\n") == 4


def test_a_program_has_time_to_end_and_a_second_signal_kills_it(pod: Hosts) -> None:
    launch = pod.launch("python3", "-c", LISTENER, "stays")
    launch.wait_for("started", times=4)
    launch.process.send_signal(signal.SIGINT)
    launch.wait_for("SIGINT", times=4)
    time.sleep(1.5)
    assert len(pod.commands()) == 4
    assert "SIGTERM" not in launch.stdout
    launch.process.send_signal(signal.SIGINT)
    assert launch.end(within_seconds=2) == 130


def test_the_grace_of_a_signal_ends(pod: Hosts) -> None:
    launch = pod.launch("python3", "-c", LISTENER, "stays", hosts="h0")
    launch.wait_for("started")
    launch.process.send_signal(signal.SIGINT)
    assert launch.end(within_seconds=14) == 130
    assert time.monotonic() - launch.started > 10


def test_a_signal_ends_a_launch_that_is_still_connecting(pod: Hosts) -> None:
    launch = pod.launch("sh", "-c", "echo started")
    wait_until(
        lambda: any("BatchMode" in command for command in pod.processes().values()),
        *(10, lambda: "no ssh was started"),
    )
    launch.process.send_signal(signal.SIGTERM)
    assert launch.end(within_seconds=2) == 143
    assert launch.stdout == ""


def test_the_programs_end_when_podrun_is_killed(pod: Hosts) -> None:
    launch = pod.launch("-i", "python3", "-c", LISTENER, "stays")
    launch.wait_for("started", times=5)
    launch.process.send_signal(signal.SIGKILL)
    launch.process.wait()
    pod.expect_nothing_left(within_seconds=3)


def test_the_programs_end_when_podrun_stops_answering(pod: Hosts) -> None:
    launch = pod.launch("python3", "-c", LISTENER, "stays", hosts="h0,h1")
    launch.wait_for("started", times=2)
    launch.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: not pod.commands(), 20, lambda: "the programs run on")
    launch.process.send_signal(signal.SIGCONT)
    assert launch.end(within_seconds=3) == 255


def test_a_reader_that_leaves_ends_the_programs(pod: Hosts) -> None:
    reading, writing = os.pipe()
    launch = pod.launch("sh", "-c", "while echo line; do sleep 0.1; done", stdout=writing)
    os.close(writing)
    os.read(reading, 5)
    os.close(reading)
    assert launch.end(within_seconds=3) == 141
