"""A wall clock that jumps, for the processes of one host, as Linux has one for all namespaces."""

import shutil
import struct
import subprocess
from pathlib import Path

# The seconds of the host's /tmp/clock are added to what the system says; a change is seen at once.
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    static volatile long *seconds;
    if (!seconds) {
        int file = open("/tmp/clock", O_RDONLY);
        void *there = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        if (there == MAP_FAILED) return 0;
        seconds = there;
    }
    return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (!status && clock == CLOCK_REALTIME) now->tv_sec += shift();
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *copy) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (copy) *copy = exact.tv_sec;
    return exact.tv_sec;
}
"""


def build(folder: Path) -> Path | None:
    """The library to preload; None where there is no C compiler."""
    if not shutil.which("cc"):
        return None
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_SOURCE)
    subprocess.check_call(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"])
    return library


def set_shift(tmp: Path, seconds: int) -> None:
    """Sets the clock of the host with this /tmp so much forward, or back."""
    path = tmp / "clock"
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))
