"""A metadata server that speaks nonsense, or without end: one line, soon."""

import contextlib
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
from tests.podrun.parts import podrun

OK = b"HTTP/1.1 200 OK\r\n"


def serve(listener: socket.socket, answer: Iterable[bytes], pause: float) -> None:
    """Gives each request the answer, whatever it asks."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the test has ended
            return
        with connection, contextlib.suppress(OSError):  # once podrun has gone
            connection.recv(9999)
            for piece in answer:
                connection.sendall(piece)
                time.sleep(pause)


@contextlib.contextmanager
def server(answer: Iterable[bytes], pause: float = 0) -> Iterator[str]:
    """The address of a server that answers so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, answer, pause), daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


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
    ],
)
def test_nonsense(answer: list[bytes], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(answer) as address:
        monkeypatch.setenv("GCE_METADATA_IP", address)
        with pytest.raises(podrun.Failed) as failed:
            podrun.metadata_hosts()
    assert why in str(failed.value)
    assert str(failed.value).isprintable() and len(str(failed.value)) < 400


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        (itertools.repeat(b"x"), 0.1),
        (itertools.chain([OK, b"\r\n"], itertools.repeat(b"x")), 0.1),
        (itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"), 0.01),
    ],
)
def test_an_answer_without_end(answer: Iterator[bytes], pause: float, tmp_path: Path) -> None:
    with server(answer, pause) as address:
        run = subprocess.run(
            [sys.executable, PODRUN, "true"],
            env=os.environ | {"HOME": str(tmp_path), "GCE_METADATA_IP": address},
            capture_output=True,
            text=True,
            timeout=6,
        )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        "podrun: no hosts: give --hosts or write ~/podips.txt "
        f"({address} gives no metadata in 3 s)\n"
    )
