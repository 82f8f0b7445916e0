"""Disturbs generate.py and train.py on a pod of four hosts, for a time.

python -m tests.fuzz.hosts --seconds 600        # as root, on Linux: hosts are network namespaces
"""

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.hosts.rounds import Rounds
from tests.fuzz.hosts.tasks import Generate, Task, Train
from tests.podrun.networks import PREFIX, NamespaceHosts, has_namespaces, pod_of

INSIDE = "FUZZ_HOSTS_INSIDE"
DISK = "size=2g"


def main() -> None:
    options = _options()
    if not has_namespaces():
        sys.exit("hosts are network namespaces: they need root, ip, nsenter and unshare")
    if INSIDE not in os.environ:
        # What is mounted here goes with this process, whatever ends it.
        around = ["unshare", "--mount", "--propagation", "private"]
        command = [*around, sys.executable, "-m", "tests.fuzz.hosts", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir="/var/tmp") as disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", disk], check=True)
        try:
            with pod_of(4, private_tmp=True) as pod:
                assert isinstance(pod, NamespaceHosts)
                sys.exit(_fuzz(pod, Path(disk), options))
        finally:
            subprocess.run(["umount", "--lazy", disk])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.hosts", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--only", help="faults that have this in their name")
    parser.add_argument("--count", type=int, choices=[2, 4], help="hosts of each launch")
    return parser.parse_args()


def _fuzz(pod: NamespaceHosts, disk: Path, options: argparse.Namespace) -> int:
    """Rounds until the time is over; 1 where there is a find."""
    print(f"seed {options.seed}", flush=True)
    draw = random.Random(options.seed)
    rounds = Rounds(pod, disk, draw)
    end = time.monotonic() + options.seconds
    counts: collections.Counter[str] = collections.Counter()
    finds = 0
    while time.monotonic() < end:
        count = options.count or draw.choice([2, 2, 4])
        task: Task = draw.choice([Generate, Train])(disk, count)
        if not task.reference.exists():
            if wrong := rounds.undisturbed(task):
                print(f"  FIND: {wrong}", flush=True)
                return 1
            task.keep_as_reference()
        for _ in range(draw.randint(1, 4)):
            result = rounds.disturbed(task, options.only)
            print(result, flush=True)
            counts[result.fault.partition(" (")[0]] += 1
            finds += len(result.finds)
            if result.status == 0:  # it is whole
                break
        wrong = rounds.undisturbed(task)
        print("and then undisturbed: " + ("; ".join(wrong) or "equal"), flush=True)
        finds += len(wrong)
        task.remove()
    for name, count in sorted(counts.items()):
        print(f"{count:4} {name}")
    print(f"{sum(counts.values())} faults, {finds} finds")
    return int(finds > 0)


if __name__ == "__main__":
    main()
