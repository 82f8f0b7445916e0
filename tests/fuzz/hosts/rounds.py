"""A round: a command that is disturbed once or twice, and then runs to its end."""

import dataclasses
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.hosts import clock
from tests.fuzz.hosts.faults import FAULTS, Fault, Scene
from tests.fuzz.hosts.tasks import Task
from tests.podrun.launch import Launch, wait_until
from tests.podrun.networks import NamespaceHosts

ROOT = Path(__file__).parents[3]
VENV = str(Path(sys.executable).parent.parent)
RUN_SECONDS = 400  # of a whole run, on a busy machine
MOMENTS = ("connecting", "starting", "working", "saving", "ending")


@dataclasses.dataclass(frozen=True)
class Result:
    """How a disturbed launch ended."""

    fault: str
    moment: str
    status: int
    seconds: float
    hosts_seconds: float
    finds: list[str]

    def __str__(self) -> str:
        end = f"{self.status} after {self.seconds:.1f} s, hosts {self.hosts_seconds:.1f} s later"
        return f"{self.fault} while {self.moment}: {end}" + "".join(
            f"\n  FIND: {find}" for find in self.finds
        )


class Rounds:
    """Rounds on one pod, whose hosts share a disk."""

    def __init__(self, pod: NamespaceHosts, disk: Path, draw: random.Random) -> None:
        self.pod, self.disk, self.draw = pod, disk, draw
        self.library = clock.build(disk)
        for name in pod.names:
            clock.set_shift(pod.tmp(name), 0)

    def undisturbed(self, task: Task) -> list[str]:
        """Runs the command to its end; what is wrong with that."""
        launch = self._launch(task, [])
        begun = time.monotonic()
        status = launch.end(RUN_SECONDS)
        print(f"{type(task).__name__}, {task.count}: {time.monotonic() - begun:.0f} s", flush=True)
        self.pod.expect_nothing_left(3)
        if status or _reasons(launch):
            return [f"an undisturbed run ends with {status}: {launch.stderr[-3000:]}"]
        wrong = task.complaint()
        return [wrong] if wrong else []

    def disturbed(self, task: Task, only: str | None = None) -> Result:
        """Runs the command with a drawn fault at a drawn moment."""
        faults = [fault for fault in FAULTS if isinstance(task, fault.task)]
        fault = self.draw.choice([fault for fault in faults if only is None or only in fault.name])
        moment = self.draw.choice(MOMENTS)
        host = self.draw.choice(self.pod.names[: task.count])
        fault.before(self.pod, host, task.output)
        preload = ["env", f"LD_PRELOAD={self.library}"] if fault.name == "clock jumps" else []
        launch = self._launch(task, preload)
        scene = Scene(self.pod, launch, host, self.disk, task.output, self.draw)
        self._wait_for(moment, fault, scene, task)
        is_late = launch.process.poll() is not None
        begun = time.monotonic()
        finds: list[str] = []
        with fault.act(scene):
            status = launch.end(fault.seconds + RUN_SECONDS)
            seconds = time.monotonic() - begun
            waited = self._until_nothing_is_left(RUN_SECONDS)
        clock.set_shift(self.pod.tmp(host), 0)
        if not is_late:
            finds = self._finds(fault, host, launch, task)
            finds += [f"podrun takes {seconds:.1f} s"] * (seconds > fault.seconds)
            finds += [f"a host takes {waited:.1f} s more"] * (waited > fault.hosts_seconds)
        label = f"{fault.name} ({type(task).__name__}, {host} of {task.count})"
        if finds:
            finds.append(f"stderr: {launch.stderr[-4000:]}")
        moment += ", too late" * is_late
        return Result(label, moment, status, seconds, waited, finds)

    def _finds(self, fault: Fault, host: str, launch: Launch, task: Task) -> list[str]:
        status, reasons = launch.process.returncode, _reasons(launch)
        finds = []
        if status == 0:
            wrong = task.complaint() + "; ".join(reasons)
        else:
            wrong = task.half_written()
            if fault.may_end_first_host and host == self.pod.names[0]:
                return [wrong] * bool(wrong)
            if fault.status is not None and status != fault.status:
                finds.append(f"status {status}, not {fault.status}")
            expected = [] if fault.reason is None else [fault.reason.replace("HOST", host)]
            if len(reasons) != len(expected):
                finds.append(f"not one reason: {reasons}")
            elif expected and not re.fullmatch(f"podrun: {expected[0]}", reasons[0]):
                finds.append(f"not the reason: {reasons[0]}")
        # Of a process whose peer is gone, a collective fails; podrun names the one that went.
        if "Traceback" in launch.stderr and "JaxRuntimeError: UNKNOWN: Gloo" not in launch.stderr:
            finds.append("a traceback")
        return finds + [wrong] * bool(wrong)

    def _launch(self, task: Task, before: list[str]) -> Launch:
        return self.pod.launch(
            "-w",
            *before,
            *task.words(),
            hosts=",".join(self.pod.names[: task.count]),
            directory=ROOT,
            VIRTUAL_ENV=VENV,
            JAX_PLATFORMS="cpu",
            JAX_NUM_CPU_DEVICES="1",
            XLA_FLAGS="",
            JAX_COMPILATION_CACHE_DIR=str(self.disk / "compiled"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )

    def _wait_for(self, moment: str, fault: Fault, scene: Scene, task: Task) -> None:
        """Waits until the moment, or until the launch has ended."""

        def wait(condition: Callable[[], object]) -> None:
            is_over = scene.launch.process.poll
            wait_until(
                lambda: condition() or is_over() is not None,
                *(RUN_SECONDS, lambda: f"no moment: {scene.launch.stderr}"),
            )

        begun = task.progress()
        if moment != "connecting" or fault.needs_rank:
            wait(lambda: scene.rank)
        if moment in ("connecting", "starting"):
            time.sleep(self.draw.uniform(0, 2 if moment == "connecting" else 12))
        elif moment == "working":
            rows = self.draw.randint(1, 10)
            wait(lambda: task.progress() >= begun + rows)
        elif moment == "saving":
            wait(task.is_saving)
        else:
            wait(lambda: task.progress() >= task.rows)
            time.sleep(self.draw.uniform(0, 1.5))

    def _until_nothing_is_left(self, seconds: float) -> float:
        begun = time.monotonic()
        self.pod.expect_nothing_left(seconds)
        return time.monotonic() - begun


def _reasons(launch: Launch) -> list[str]:
    lines = [line for line in launch.stderr.splitlines() if line.startswith("podrun: ")]
    return [line for line in lines if "passed on to all hosts" not in line]
