"""The run at Weights & Biases, which may fail without the training failing."""

import contextlib
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from neox_eqx.destination import whole_file
from neox_eqx.errors import InputError
from neox_eqx.small_files import read_text

PROJECT = "neox_eqx"
"""Where runs go unless WANDB_PROJECT says otherwise; WANDB_NAME may name them too."""


def check_login(mode: Literal["online", "offline"]) -> None:
    """Checks that W&B is installed and, online, that there is a login; writes nothing.

    Raises:
        InputError: W&B is not installed, or there is no login, or no key as W&B has them.
    """
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "W&B is not installed; pip install wandb, or pass --wandb-mode disabled"
        ) from error
    with _told():
        if mode == "online" and not wandb.login(prompt=False):
            raise InputError(
                "there is no W&B login; run `wandb login`, set WANDB_API_KEY, "
                "or pass --wandb-mode offline or disabled"
            )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Reports an error of W&B's in one line."""
    import wandb

    try:
        yield
    except wandb.Error as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"W&B: {reason}; to log without it pass --wandb-mode offline") from error


class WandbRun:
    """A run under the id in `directory`/wandb-run-id, so that a resumed run goes on as the same.

    Its files are in `directory`/wandb. Offline, a resumed run writes all of its rows again: W&B
    would not join its files to those from before, which may lack the last seconds before a kill.

    Raises:
        InputError: W&B cannot be reached, or refuses the run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        mode: Literal["online", "offline"],
        name: str,
        config: Mapping[str, Any],
    ):
        import wandb

        with _told():
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=os.environ.get("WANDB_NAME", name),
                id=_run_id(directory),
                resume="allow",
                mode=mode,
                dir=directory,
                config=dict(config),
                settings=wandb.Settings(console="off"),
            )
        self._teardown = wandb.teardown
        self._first_step = self._run.step
        self._works = True

    def catch_up(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Sends the rows of metrics.jsonl that W&B has not; None stands for what was not finite."""
        for row in rows:
            numbers = {name: math.nan if number is None else number for name, number in row.items()}
            self.write(int(numbers.pop("step")), numbers)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        # W&B warns of each step that it knows already, and ignores it.
        if self._works and step >= self._first_step:
            self._try(lambda: self._run.log(dict(numbers), step=step))

    def finish(self, status: int) -> None:
        """Its files are whole when this returns."""

        def close() -> None:
            self._run.finish(exit_code=status)
            self._teardown(status)  # waits for the service, which writes the files

        if self._works:
            self._try(close)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever its service, its sockets or the network raise
            self._works = False
            tqdm.write(f"W&B failed, and the run goes on without it: {error}", file=sys.stderr)
            with contextlib.suppress(Exception):
                self._teardown()  # now, since at exit it would end in a traceback


def _run_id(directory: Path) -> str:
    path = directory / "wandb-run-id"
    if not path.exists():
        with whole_file(path) as file:
            file.write(secrets.token_hex(4))
    return read_text(path)
