"""A podrun that runs, and waiting for what it does."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class Launch:
    """A running podrun, and what it has printed so far."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        folder: Path,
        directory: Path,
        stdout: int | None,
    ) -> None:
        self.started = time.monotonic()
        self._paths = [folder / "stdout", folder / "stderr"]
        with open(self._paths[0], "wb") as output, open(self._paths[1], "wb") as errors:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._paths[0].read_bytes().decode(errors="surrogateescape")

    @property
    def stderr(self) -> str:
        return self._paths[1].read_bytes().decode(errors="surrogateescape")

    def wait_for(self, text: str, times: int = 1, seconds: float = 30) -> None:
        """Waits until so many lines of stdout end with the text."""
        wait_until(
            lambda: sum(line.endswith(text) for line in self.stdout.splitlines()) >= times,
            seconds,
            lambda: f"{times} times {text!r} in {self.stdout!r}, {self.stderr!r}",
        )

    def end(self, within_seconds: float) -> int:
        """podrun's exit status, if it ends in time."""
        try:
            return self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(
                f"podrun runs after {within_seconds} s: {self.stdout} {self.stderr}"
            ) from None


def wait_until(
    condition: Callable[[], object], seconds: float, complaint: Callable[[], str]
) -> None:
    """Waits until the condition holds, and raises with the complaint where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.02)
