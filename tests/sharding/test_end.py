"""A process that leaves the last barrier leaves nothing behind that waits for another process."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sharding.processes import finish, podrun_environments, start

# Each connection of a process but the first, to the coordinator, is late, and not all alike: which
# device opens which is not known.
LATE_CONNECTIONS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    static int number;
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (address->sa_family == AF_INET || address->sa_family == AF_INET6) {
        int late = __sync_fetch_and_add(&number, 1);
        usleep(late % 5 * 200000);
        if (late) write(2, "connects\\n", 9);
    }
    return real(socket, address, length);
}
"""
PROGRAM = """
import os
from neox_eqx.sharding.distributed import on_every_host

on_every_host(lambda options: None)(None)
os.write(2, b"left\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="makes connections late by a C library")
def test_no_device_still_connects_after_the_last_barrier(tmp_path: Path) -> None:
    source, library = tmp_path / "late.c", tmp_path / "late.so"
    source.write_text(LATE_CONNECTIONS)
    subprocess.check_call(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"])
    own = {"LD_PRELOAD": str(library), "JAX_NUM_CPU_DEVICES": "4"}
    environments = [{**each, **own} for each in podrun_environments(2)]
    ended = finish(start(["-c", PROGRAM], 2, environments=environments))
    assert [one.status for one in ended] == [0, 0], ended
    assert any("connects\n" in one.err for one in ended)
    for one in ended:
        before, _, after = one.err.partition("left\n")
        assert "connects" not in after
