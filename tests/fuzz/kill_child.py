"""A forked child that runs a program and may end by a signal at a point that is counted.

A point is what the program or a library asks of the file system (to open for writing, to make,
rename or remove), or a line of the package's files that write. So the moments between a write and
a rename are met as often as the long ones between them, where a process by itself would be met
once in thousands of times.
"""

import atexit
import contextlib
import io
import os
import resource
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "generate.py": ROOT / "generate.py",
    "score.py": ROOT / "scripts" / "score.py",
    "convert_params.py": ROOT / "scripts" / "convert_params.py",
    "train.py": ROOT / "train.py",
}
_WRITERS = (
    "neox_eqx/destination.py",
    "neox_eqx/text/resume.py",
    "neox_eqx/convert/convert.py",
    "neox_eqx/checkpoint/save.py",
    "neox_eqx/checkpoint/save_adapter.py",
    "neox_eqx/training/run/checkpoints.py",
    "neox_eqx/training/log/run_log.py",
    "neox_eqx/training/log/metrics_file.py",
    "neox_eqx/training/run/result.py",
    "neox_eqx/training/run/fine_tune.py",
    "neox_eqx/training/run/settings.py",
)
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Points:
    """Counts the points of this process, and sends it the signal at one of them."""

    def __init__(self, at: int | None, number: int, directory: Path):
        self._at, self._number, self._directory = at, number, str(directory)
        self.passed = 0
        self._is_writer: dict[CodeType, bool] = {}
        self._lock = threading.Lock()

    def watch(self, *, lines: bool) -> None:
        """Counts lines too or not: they are fine, but to look for them makes all slower."""
        sys.addaudithook(self._event)
        if lines:
            sys.settrace(self._call)
            threading.settrace(self._call)

    def _pass(self) -> None:
        with self._lock:
            self.passed += 1
            is_now = self.passed == self._at
        if is_now:
            os.kill(os.getpid(), self._number)

    def _event(self, name: str, args: tuple[Any, ...]) -> None:
        if name in _EVENTS or (name == "open" and isinstance(args[2], int) and args[2] & _WRITING):
            path = args[0]
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            if isinstance(path, int) or os.path.abspath(path).startswith(self._directory):
                self._pass()

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        found = self._is_writer.get(code)
        if found is None:
            found = code.co_filename.endswith(_WRITERS) and code.co_name != "<module>"
            self._is_writer[code] = found
        return self._line if found else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self._pass()
        return self._line


def start(
    program: str,
    args: Sequence[str],
    place: Path,
    *,
    counts: bool = False,
    point: int | None = None,
    lines: bool = False,
    number: int = signal.SIGKILL,
    largest: int | None = None,
) -> int:
    """Forks a child that runs the program in `place`/work, and returns its id.

    At the `point`, counted with or without `lines`, it gets the signal `number`. What it prints is
    in `place`/stderr, and where it `counts` its points, they are in `place`/points.
    """
    # A Ctrl-C before the child is where it can be caught would run on in its copy of this stack.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.setsid()
        os.chdir(place / "work")
        os.environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
        for descriptor, name in ((0, os.devnull), (1, place / "stdout"), (2, place / "stderr")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        sys.argv = [program, *args]
        points = Points(point, number, place / "work")
        if counts or point is not None:
            points.watch(lines=lines)
        status = _run(PROGRAMS[program]) if largest is None else _limited(program, largest)
        if counts:
            (place / "points").write_text(str(points.passed))
        # As Python ends, but for taking down all that was imported.
        threading._shutdown()
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130  # before the program has begun, or as it ends
    finally:
        os._exit(status)


def _limited(program: str, largest: int) -> int:
    """As `_run`, with a limit on files; what is printed meanwhile is written after it."""
    stderr, sys.stderr = sys.stderr, io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    status = _run(PROGRAMS[program])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    stderr.write(sys.stderr.getvalue())
    sys.stderr = stderr
    return status


def _run(program: Path) -> int:
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except KeyboardInterrupt:
        raise  # before the program's own handling of it
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
