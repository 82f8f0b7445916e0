"""Lines without an end: what is shown of them, when, and what host stands before it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.podrun.hosts import PODRUN, Hosts
from tests.podrun.launch import wait_until
from tests.podrun.parts import podrun

LIMIT = 1000
# From a small process: the memory of one that forks counts as its child's too.
MEASURE = """
import os, sys
_, status, used = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(status, used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
"""


@pytest.fixture
def stream() -> Callable[[bytes], SimpleNamespace]:
    """Makes streams of hosts that go to one file."""
    output = podrun.Output(1)
    return lambda front: podrun.Stream(1, output, front, LIMIT)


def test_an_unfinished_line_is_held_and_then_comes_whole(stream: Callable) -> None:
    a = stream(b"a| ")
    assert a.take(b"one\ntw") == b"a| one\n"
    assert a.take(b"o") == b""
    assert a.take(b"\nthree\n") == b"a| two\na| three\n"


def test_a_line_comes_in_pieces_with_its_host_once(stream: Callable) -> None:
    a = stream(b"a| ")
    assert a.take(b"x" * (LIMIT + 1)) == b"a| " + b"x" * (LIMIT + 1)
    assert a.take(b"y" * 2 * LIMIT) == b"y" * 2 * LIMIT
    assert a.take(b"z\nnext\n") == b"z\na| next\n"


def test_the_host_stands_again_where_another_came_between(stream: Callable) -> None:
    a, b = stream(b"a| "), stream(b"b| ")
    a.take(b"one ")
    assert a.take_rest() == b"a| one "
    assert b.take(b"whole\n") == b"\nb| whole\n"
    assert a.take(b"two\n") == b"a| two\n"


def test_the_end_of_a_line_that_was_broken_off_makes_no_empty_line(stream: Callable) -> None:
    a, b = stream(b"a| "), stream(b"b| ")
    a.take(b"one")
    a.take_rest()
    b.take(b"whole\n")
    assert a.take(b"\n") == b""
    assert a.take(b"\n") == b"a| \n"


def test_after_the_end_of_a_host_others_begin_on_a_line_of_their_own(stream: Callable) -> None:
    a, b = stream(b"a| "), stream(b"b| ")
    a.take(b"last")
    assert a.end() == b"a| last\n"
    assert b.take(b"whole\n") == b"b| whole\n"
    assert a.end() == b""


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ([b"\r 1%", b"\r 2%", b"\n"], b"a| \ra|  1%\ra|  2%\n"),  # tqdm
        ([b"1%\r", b"2%\r", b"\n"], b"a| 1%\ra| 2%\r\n"),
        ([b"1%\r2%\r", b"3%", b"\r\n"], b"a| 1%\ra| 2%\ra| 3%\r\n"),
        ([b"dos\r\nfile\r", b"\n"], b"a| dos\r\na| file\r\n"),
    ],
)
def test_the_host_stands_again_where_a_program_goes_back_in_its_line(
    stream: Callable, pieces: list[bytes], shown: bytes
) -> None:
    a = stream(b"a| ")
    assert b"".join(a.take(piece) + a.take_rest() for piece in pieces) == shown


def test_after_the_reader_of_the_output_waited_a_line_has_time_to_end(stream: Callable) -> None:
    """Until `less` reads on, hosts cannot end their lines."""
    a = stream(b"a| ")
    a.take(b"half")
    read_on: list[float] = []
    shown: list[tuple[bytes, float]] = []

    def wait() -> None:
        time.sleep(1.5 * podrun.PIECE_SECONDS)
        read_on.append(time.monotonic())

    async def show(_: object, text: bytes) -> None:
        shown.append((text, time.monotonic()))

    async def launch(printer: ThreadPoolExecutor) -> None:
        hosts = [SimpleNamespace(streams={1: a})]
        pod = SimpleNamespace(printer=printer, hosts=hosts, print=show)
        printer.submit(wait)
        printing = asyncio.create_task(podrun.Pod.print_pieces(pod))
        while not shown:
            await asyncio.sleep(0.02)
        printing.cancel()

    with ThreadPoolExecutor(1) as printer:
        asyncio.run(launch(printer))
    ((text, at),) = shown
    assert text == b"a| half" and at > read_on[0] + podrun.PIECE_SECONDS


def test_a_progress_bar_is_seen_while_it_runs(pod: Hosts) -> None:
    bar = "printf '10%%\\r'; sleep 1; printf '20%%\\r'; sleep 1000"
    launch = pod.launch("sh", "-c", bar, hosts="h0")
    wait_until(lambda: launch.stdout == "h0| 10%\rh0| 20%\r", 20, lambda: repr(launch.stdout))
    launch.process.terminate()
    assert launch.end(within_seconds=3) == 143


def test_the_bars_of_all_hosts_are_seen_and_stay_apart(pod: Hosts) -> None:
    bar = "for i in 1 2 3 4 5 6 7 8; do printf '\\r%s%%' $i >&2; sleep 0.6; done; echo >&2"
    launch = pod.run("sh", "-c", bar)
    lines = launch.stderr.split("\n")[:-1]
    assert {line[:4] for line in lines} == {f"{name}| " for name in pod.names}
    for name in pod.names:
        states = [part for line in lines if line.startswith(name) for part in line.split("\r")]
        assert all(state.startswith(f"{name}| ") for state in states)
        assert [s[4:] for s in states if s[4:]] == [f"{i}%" for i in range(1, 9)]
    # One host's bar moves in its place for a while; then the others have their turn.
    assert 4 <= len(lines) <= 16


def test_100_mb_in_one_line_take_seconds_and_little_memory(tmp_path: Path) -> None:
    """Both the launcher and the agent, here on one host. It took 140 s and 330 MB."""
    program = "import sys\nfor _ in range(1600): sys.stdout.write('x' * 65536)"
    command = [sys.executable, PODRUN, "-i", "--hosts", "127.0.0.1", sys.executable, "-c", program]
    with open(tmp_path / "out", "wb") as out:
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, *command], stdout=out, stderr=subprocess.PIPE, text=True
        )
    status, seconds, kilobytes = map(float, measured.stderr.split())
    assert status == 0
    assert (tmp_path / "out").stat().st_size == len("127.0.0.1| ") + 1600 * 65536 + 1
    assert seconds < 15
    assert kilobytes < 100 * 1024
