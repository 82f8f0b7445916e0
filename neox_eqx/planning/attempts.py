"""Starts the compiling process, and asks it for one program after the other."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from neox_eqx.errors import InputError

# Where `make tpu-compiler` puts libtpu: elsewhere, programs would find it and look for a TPU.
APART = Path(sys.prefix) / "tpu-compiler"


def environment() -> dict[str, str]:
    """The environment of a process that compiles with libtpu, and has no TPU.

    Raises:
        InputError: libtpu is not installed.
    """
    # libtpu ends a process with a flag of XLA's for CPUs.
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "xla_cpu_" not in flag]
    paths = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    found = importlib.util.find_spec("libtpu")
    if found is None or found.origin is None:  # absent, or just a folder of that name
        if not (APART / "libtpu").is_dir():
            raise InputError(
                "libtpu, the TPU compiler, is not installed; run make tpu-compiler in a checkout, "
                "or pip install 'neox-eqx[plan]'"
            )
        paths.insert(0, str(APART))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        # A TPU's process has no products for a CPU, and traces none.
        "NEOX_EQX_NATIVE": "0",
        # It uses no TPU, so it need not be the only process, nor ask what TPU this is.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        # A cached program would say nothing of how long it takes to compile.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }


class Compiler:
    """The TPU compiler, in a process of its own that lives as long as this context.

    Raises:
        InputError: libtpu is not installed.
    """

    def __init__(self) -> None:
        self._environment = environment()

    def __enter__(self) -> "Compiler":
        # A file and not a pipe: nobody reads it unless the process fails.
        self._noise = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "neox_eqx.planning.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            text=True,
            env=self._environment,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            assert self._process.stdin
            self._process.stdin.close()
        else:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        self._noise.close()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Sends a `message.Question` as JSON, and returns the `message.Answer` as JSON.

        Raises:
            InputError: the question has no answer, or the compiler failed.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said before it ended tells more
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._noise.seek(0)
            said = self._noise.read().strip().splitlines() or ["it said nothing"]
            ended = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise InputError(f"the TPU compiler ended {ended}: {said[-1]:.300}")
        reply = json.loads(line)
        if "error" in reply:
            raise InputError(reply["error"])
        return reply
