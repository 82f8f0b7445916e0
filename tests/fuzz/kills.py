"""Kills programs at drawn moments, starts them again, and holds what comes out against a whole run.

python -m tests.fuzz.kills --kills 200               # counts of each program; finds end in status 1
python -m tests.fuzz.kills --kills 20 --cases train

A trial is a command that is killed one to four times, at a drawn time or point (kill_child.py),
mostly by SIGKILL, and then runs to its end. Nothing that was promised after a kill may be missing
after the next; the result is that of a run that nobody killed; and nothing is left beside it.
"""

import argparse
import gc
import importlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.kill_cases import CASES
from tests.fuzz.kill_trials import Fault, Kills

_LIBRARIES = ("optax", "orbax.checkpoint", "tensorstore", "torch", "transformers")
_PROGRAMS = tuple(f"neox_eqx.cli.{name}" for name in ("generate", "train", "score", "convert"))


def _import() -> None:
    """What children share; JAX's backend and its threads start in each of them."""
    for name in (*_LIBRARIES, *_PROGRAMS, "neox_eqx.training.log.loss_picture"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1


def _trials(options: argparse.Namespace, kills: Kills) -> Iterator[str]:
    """Runs cases in turn until there were so many kills; yields each fault."""
    names = [name for name in CASES if any(word in name for word in options.cases or [""])]
    total, end = 0, time.monotonic() + options.seconds
    while total < options.kills and time.monotonic() < end:
        for name in names:
            try:
                killed = kills.trial(name)
                total += killed
                print(f"{time.strftime('%T')} {total:4} kills, {killed} of {name}", flush=True)
            except Fault as fault:
                yield str(fault)
            if total >= options.kills:
                break


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--cases", nargs="*", help="those that have one of these in their names")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    found = 0
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(place / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "HF_HUB_OFFLINE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    _import()
    kills = Kills(place, options.seed)
    for fault in _trials(options, kills):
        found += 1
        print(fault, flush=True)
    for name, counts in kills.counts.items():
        kinds = ", ".join(f"{number} {kind}" for kind, number in counts.kills.items())
        print(f"{counts.kills.total():4} kills in {counts.trials} trials of {name}: {kinds}")
    total = sum(counts.kills.total() for counts in kills.counts.values())
    print(f"{total} kills, {found} finds")
    if not found:
        shutil.rmtree(place)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
