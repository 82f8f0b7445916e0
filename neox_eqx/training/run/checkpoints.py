"""Checkpoints of a run: all that it needs to go on as if nothing had happened."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from neox_eqx.errors import InputError, Stopped
from neox_eqx.sharding.distributed import agreed, broadcast, is_first
from neox_eqx.sizes import size_text
from neox_eqx.small_files import MOST_BYTES, check_file
from neox_eqx.training.update.state import TrainState

# Orbax moves a checkpoint here before it deletes it: half deleted it must not look like one.
_OLD = ".old"


class Checkpoints:
    """The last checkpoints of a run, in a directory that all hosts share.

    Each is a directory named by its step, and has its name only when all of it is there. It is
    written while the run goes on, by each process what its own devices hold. As a context, this
    waits at the end for what was begun, unless an error ends it.

    Raises:
        InputError: the directory cannot be made, or holds a pipe, a device or a file out of all
            proportion.
    """

    latest: int | None
    """The step of the newest checkpoint, whole or begun; at first as the first process sees it."""

    def __init__(self, directory: Path, keep: int):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import LatestN

        # What is wrong is raised; what it logs beside that is of its own workings.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.directory = directory.resolve()
        self._args = ocp.args
        with agreed():
            if is_first():
                _check_files(self.directory)
        with agreed(), self._errors("cannot be made"):
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=LatestN(keep),
                    cleanup_tmp_directories=True,
                    save_root_metadata=False,
                    todelete_subdir=_OLD,
                ),
            )
        self._remove_old()
        self.latest = int(broadcast(np.array(self._manager.latest_step() or 0))) or None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Stopped):
            self.finish()

    def check_space(self, state: TrainState) -> None:
        """Checks that the disk has room for a checkpoint; takes a state, or the shapes of one.

        Raises:
            InputError: the file system has no room for a checkpoint of it.
        """
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise InputError(
                f"{self.directory}: a checkpoint takes {size_text(needed)}, and there is room "
                f"for {size_text(free)}; make room, or name another --output"
            )

    def save(self, state: TrainState) -> None:
        """Begins to write a checkpoint; when this returns, the state may be consumed.

        Raises:
            InputError: this one, or the one before, cannot be written.
        """
        self.finish()
        step = int(state.step)
        if step == self.latest:
            return
        self.check_space(state)
        with self._errors(f"that of step {step} cannot be written"):
            self._manager.save(step, args=self._args.StandardSave(_named(state)), force=True)
        self.latest = step

    def finish(self) -> None:
        """Waits until the last checkpoint is whole.

        Raises:
            InputError: it cannot be written.
        """
        with self._errors("the newest cannot be written"):
            self._manager.wait_until_finished()
        self._remove_old()

    def restore(self, shapes: TrainState) -> TrainState:
        """The state of the newest checkpoint, each array where `shapes` say.

        Raises:
            InputError: it cannot be read.
        """
        named = _named(shapes)
        with self._reading():
            arrays = self._manager.restore(self.latest, args=self._args.StandardRestore(named))
        return jax.tree.unflatten(jax.tree.structure(shapes), [arrays[name] for name in named])

    def _remove_old(self) -> None:
        if is_first():
            shutil.rmtree(self.directory / _OLD, ignore_errors=True)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        before = [step for step in self._manager.all_steps() if step != self.latest]
        then = f"goes on from step {max(before)}" if before else "begins anew"
        return self._errors(
            f"that of step {self.latest} cannot be read; if it is damaged, remove it, and the run "
            f"{then}"
        )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns whatever Orbax raises into one line."""
        try:
            yield
        except Exception as error:  # tensorstore's are ValueErrors, and others are as wide
            # At exit asyncio would complain of all that was cut short by it.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            # The text of the error alone has the system's number.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            reason = os.strerror(int(code[1])) if code else " ".join(str(error).split())[:300]
            raise InputError(f"{self.directory}: {what}: {reason}") from error


def _check_files(directory: Path) -> None:
    """Refuses pipes, devices and huge files: Orbax would wait for these, or read them whole."""
    for path in directory.rglob("*"):
        check_file(path)
        is_data = path.parent.name == "d"  # in a directory of OCDBT: arrays, of any size
        if not is_data and path.is_file() and path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: has more than {MOST_BYTES} bytes, and is no description")


def _named(state: TrainState) -> dict[str, Any]:
    """The arrays of a state by their paths in it, as model.embed_in.weight."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
