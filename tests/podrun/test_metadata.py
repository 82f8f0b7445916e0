"""A metadata server that speaks nonsense, or without end: one line, soon."""

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.podrun.hosts import PODRUN

OK = b"HTTP/1.1 200 OK\r\n"


def serve(server: socket.socket, answer: Iterable[bytes], pause: float) -> None:
    """Gives each request the answer, whatever it asks."""
    with server:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # the test has ended
                return
            with connection:
                try:
                    connection.recv(9999)
                    for piece in answer:
                        connection.sendall(piece)
                        time.sleep(pause)
                except OSError:  # podrun has gone
                    pass


def ask(answer: Iterable[bytes], home: Path, pause: float = 0) -> subprocess.CompletedProcess:
    """podrun, which finds its hosts in such a server's answer."""
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    threading.Thread(target=serve, args=(server, answer, pause), daemon=True).start()
    environment = os.environ | {"HOME": str(home), "GCE_METADATA_IP": address}
    try:
        command = [sys.executable, PODRUN, "true"]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=6)
    finally:
        server.shutdown(socket.SHUT_RDWR)


def whole(body: bytes) -> list[bytes]:
    return [OK, b"Content-Length: %d\r\n\r\n" % len(body), body]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([b"\0\xffgarbage\r\n\r\n"], "BadStatusLine"),
        ([OK, b"Content-Length: 100\r\n\r\nunknown:unknown:10.0.0.1"], "cut off"),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n18\r\nunknown"], "IncompleteRead"),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n-1\r\nunknown"], "gives no metadata: "),
        ([OK, b"Content-Length: x\r\n\r\n\xff\xfea"], "UnicodeDecodeError"),
        ([OK, b"\r\n", *itertools.repeat(b"x" * 99_999, 100)], "longer than 1048576 bytes"),
        ([OK, *itertools.repeat(b"X: y\r\n", 9999)], "got more than 100 headers"),
        ([OK, *itertools.repeat(b"x" * 9999, 999)], "got more than 65536 bytes"),
        ([b"HTTP/1.1 302 Found\r\nLocation: http://[x\r\n\r\n"], "this is no TPU with metadata"),
        ([], "this is no TPU with metadata"),
        (whole(b"a b"), "the TPU's metadata gives 1 hosts, and this one as 'a b'"),
        (whole(b"9" * 9999), "the TPU's metadata gives 1 hosts, and this one as '9999"),
        (whole("²,²,²".encode()), "the TPU's metadata gives 3 hosts, and this one as "),
        (whole(b"0"), "the TPU's metadata names no other host than this one"),
    ],
)
def test_nonsense(answer: list[bytes], why: str, tmp_path: Path) -> None:
    expect_a_line(ask(answer, tmp_path), why)


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        (itertools.repeat(b"x"), 0.1),
        (itertools.chain([OK, b"\r\n"], itertools.repeat(b"x")), 0.1),
        (itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), 0),
    ],
)
def test_an_answer_without_end(answer: Iterator[bytes], pause: float, tmp_path: Path) -> None:
    expect_a_line(ask(answer, tmp_path, pause), "gives no metadata in 3 s")


def expect_a_line(answer: subprocess.CompletedProcess, why: str) -> None:
    assert answer.returncode == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("podrun: ") and why in line
    assert line.isprintable() and len(line) < 500
