"""A process that has imported the programs, and forks a child for the cases of each request.

Starting a program takes seconds, a child some hundredths of one. JAX's backend and its threads
start in the child: a process with threads cannot be forked safely. A command has a child of its
own; many cases of the readers in tests/fuzz/readers.py share one.

python tests/fuzz/server.py ROOT

On stdin a request in JSON on each line, on stdout a list of answers, one for each of its cases up
to the one in which the child ended; as Runner.run_all asks and reads them.
"""

import atexit
import gc
import importlib
import json
import math
import os
import resource
import runpy
import select
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1])
PROGRAMS = {
    "generate.py": "generate.py",
    "train.py": "train.py",
    "score.py": "scripts/score.py",
    "convert_params.py": "scripts/convert_params.py",
    "plan.py": "scripts/plan.py",
    "benchmark.py": "scripts/benchmark.py",
    "harness_model.py": "tests/fuzz/harness_model.py",
    "podrun": "podrun",
    "neox_eqx.harness": "neox_eqx/harness/__main__.py",
}
READ = "read"
"""The program of a case of a reader, whose first argument names it."""
# What the programs import late, which is most of what a child would take its time for.
_LIBRARIES = ("optax", "orbax.checkpoint", "tensorstore", "torch", "transformers", "yaml")
_POLL = 20
_PAGE = resource.getpagesize()


def serve() -> dict[str, Any]:
    """Answers requests until there are no more; returns in each child, with its request."""
    for line in sys.stdin:
        request = json.loads(line)
        path = Path(request["answers"])
        path.write_bytes(b"")
        pid = os.fork()
        if not pid:
            return request
        status, usage, killed = _watch(pid, request)
        answers = [json.loads(answer) for answer in path.read_text().splitlines()]
        if len(answers) < len(request["cases"]):
            answers.append(_answer(status, killed, usage.ru_utime + usage.ru_stime, usage))
        print(json.dumps(answers), flush=True)
    sys.exit()


def _answer(status: int, killed: str | None, seconds: float, usage: Any) -> dict[str, Any]:
    peak = usage.ru_maxrss * 1024
    return {"status": status, "killed": killed, "seconds": seconds, "peak_bytes": peak}


def _watch(pid: int, request: dict[str, Any]) -> tuple[int, Any, str | None]:
    """Waits for the child, and kills it at a limit, whose name it returns."""
    killed = None
    used, since = 0, time.monotonic()
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not killed and not poll.poll(_POLL):
        resident, now_used = _usage(pid)
        if now_used != used:
            used, since = now_used, time.monotonic()
        if resident > request["most_bytes"]:
            killed = "memory"
        elif time.monotonic() - since > request["most_idle_seconds"]:
            killed = "idle time"
    if killed:
        os.kill(pid, signal.SIGKILL)
    os.close(descriptor)
    _, status, usage = os.wait4(pid, 0)
    try:
        os.killpg(pid, signal.SIGKILL)  # what it started and left behind
    except ProcessLookupError:
        pass
    status = os.waitstatus_to_exitcode(status)
    if status == -signal.SIGXCPU:
        killed = "time"
    return status, usage, killed


def _usage(pid: int) -> tuple[int, int]:
    """The bytes of memory of a process, and how much of a processor it and its children took."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return 0, 0  # it has ended just now
    return int(fields[21]) * _PAGE, sum(map(int, fields[11:15]))


def run_all(request: dict[str, Any]) -> int:
    """Runs the cases one after another, and returns the exit status of a last that is a command.

    An answer is written for each that leaves this process as it was, which is a reader's.
    """
    os.setsid()
    status = 0
    with open(request["answers"], "a", buffering=1) as answers:
        for case in request["cases"]:
            before = resource.getrusage(resource.RUSAGE_SELF)
            used = before.ru_utime + before.ru_stime
            most = math.ceil(used + request["most_cpu_seconds"])
            resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
            status = run(case)
            if case["program"] == READ:
                after = resource.getrusage(resource.RUSAGE_SELF)
                more = (after.ru_maxrss - before.ru_maxrss) * 1024
                killed = "memory" if more > request["most_more_bytes"] else None
                seconds = after.ru_utime + after.ru_stime - used
                print(json.dumps(_answer(status, killed, seconds, after)), file=answers)
    return status


def run(case: dict[str, Any]) -> int:
    """Runs a case as the process of a user's would, and returns its exit status."""
    os.chdir(case["directory"])
    for descriptor, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_WRONLY | os.O_CREAT),
        (2, "stderr", os.O_WRONLY | os.O_CREAT),
    ):
        own = os.open(case[name], flags, 0o600)
        os.dup2(own, descriptor)
        os.close(own)
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = [case["program"], *case["args"]]
    try:
        if case["program"] == READ:
            importlib.import_module("tests.fuzz.readers").main()
        else:
            runpy.run_path(str(ROOT / PROGRAMS[case["program"]]), run_name="__main__")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from neox_eqx.cli.main import COMMANDS

    commands = [f"neox_eqx.cli.{name}" for name in COMMANDS]
    for name in (*_LIBRARIES, *commands, "tests.fuzz.readers"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy what it shares
    sys.unraisablehook = sys.__unraisablehook__
    print(json.dumps({"threads": threading.active_count(), "bytes": _usage(os.getpid())[0]}))
    sys.stdout.flush()
    status = run_all(serve())
    # As Python ends, but for taking down all that was imported.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


if __name__ == "__main__":
    main()
