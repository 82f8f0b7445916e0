"""Output comes live, in whole lines, each with its host in front."""

import collections
import os
import pty
import time
from collections.abc import Iterator

import pytest

from tests.podrun.hosts import Hosts
from tests.podrun.launch import Launch
from tests.podrun.networks import pod_of

# Each line in one piece: of a busy machine, a pause within a line would show its beginning alone.
COUNT = (
    "import sys\nfor i in range({lines}): sys.stdout.write(str(i) + ' ' + 'x' * {width} + '\\n')"
)


def by_host(text: str) -> dict[str, list[str]]:
    assert text.endswith("\n")
    found = collections.defaultdict(list)
    for line in text.splitlines():
        host, separator, rest = line.partition("| ")
        assert separator, line[:99]
        found[host].append(rest)
    return found


def expect_counts(launch: Launch, hosts: list[str], lines: int, width: int) -> None:
    assert launch.process.returncode == 0, launch.stderr
    found = by_host(launch.stdout)
    assert sorted(found) == sorted(hosts)
    for rest in found.values():
        assert rest == [f"{i} {'x' * width}" for i in range(lines)]


def test_lines_of_all_hosts_stay_whole_and_in_order(pod: Hosts) -> None:
    program = COUNT.format(lines=2000, width=500)
    launch = pod.run("python3", "-c", program, PYTHONUNBUFFERED="")
    expect_counts(launch, pod.names, 2000, 500)


def test_lines_are_printed_as_they_come(pod: Hosts) -> None:
    launch = pod.launch("python3", "-c", "import time; print('first'); time.sleep(1000)")
    launch.wait_for("| first", times=4)
    launch.process.terminate()
    assert launch.end(within_seconds=3) == 143


def test_stdout_and_stderr_stay_apart(pod: Hosts) -> None:
    launch = pod.run("sh", "-c", "echo out; echo error >&2")
    assert sorted(launch.stdout.splitlines()) == [f"{name}| out" for name in pod.names]
    assert sorted(launch.stderr.splitlines()) == [f"{name}| error" for name in pod.names]


def test_bytes_pass_as_they_are_and_the_last_line_needs_no_end(pod: Hosts) -> None:
    launch = pod.run("printf", r"\377\300 \r\n\t한\000\033[31m\n\nlast", hosts="h0")
    expected = b"h0| \xff\xc0 \r\nh0| \t\xed\x95\x9c\0\x1b[31m\nh0| \nh0| last\n"
    assert launch.stdout.encode(errors="surrogateescape") == expected


def test_a_long_line_is_one_line(pod: Hosts) -> None:
    launch = pod.run("python3", "-c", "print('x' * 5_000_000)", "", hosts="h0,h1")
    assert by_host(launch.stdout) == {"h0": ["x" * 5_000_000], "h1": ["x" * 5_000_000]}


def test_what_a_pipeline_still_writes_after_the_command_arrives(pod: Hosts) -> None:
    launch = pod.run("sh", "-c", "(sleep 0.3; echo late) & echo early", hosts="h0")
    assert launch.stdout == "h0| early\nh0| late\n"


def test_a_reader_that_waits_loses_nothing_and_ends_nothing(pod: Hosts) -> None:
    """Longer than the silence after which a host counts as gone, as in `| less`."""
    reading, writing = os.pipe()
    program = COUNT.format(lines=30, width=100_000)
    launch = pod.launch("python3", "-c", program, hosts="h0,h1", stdout=writing)
    os.close(writing)
    time.sleep(18)
    with open(reading, encoding="ascii") as reader:
        found = by_host(reader.read())
    assert launch.end(within_seconds=5) == 0
    assert found == {name: [f"{i} {'x' * 100_000}" for i in range(30)] for name in ("h0", "h1")}


def test_a_terminal_sees_colours(pod: Hosts) -> None:
    terminal, end = pty.openpty()
    launch = pod.launch("echo", "out", hosts="h0", stdout=end)
    os.close(end)
    assert os.read(terminal, 99) == b"\x1b[31mh0|\x1b[0m out\r\n"
    assert launch.end(within_seconds=5) == 0
    os.close(terminal)


@pytest.fixture
def loopback() -> Iterator[Hosts]:
    with pod_of(64, loopback=True) as hosts:
        yield hosts
        hosts.expect_nothing_left()


def test_64_sessions_lose_no_line(loopback: Hosts) -> None:
    program = COUNT.format(lines=200, width=80)
    launch = loopback.run("python3", "-c", program, within_seconds=90)
    expect_counts(launch, loopback.names, 200, 80)
