"""What can happen to a host, or to podrun, and how all must end then."""

import contextlib
import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.hosts import clock, machines
from tests.fuzz.hosts.tasks import Task, Train
from tests.podrun.launch import Launch
from tests.podrun.networks import NamespaceHosts


@dataclasses.dataclass(frozen=True)
class Scene:
    """A launch that runs, and the host that something happens to."""

    pod: NamespaceHosts
    launch: Launch
    host: str
    disk: Path
    output: Path
    draw: random.Random

    @property
    def rank(self) -> int | None:
        return machines.rank(self.pod, self.host)


Act = Callable[[Scene], contextlib.AbstractContextManager[None]]
Prepare = Callable[[NamespaceHosts, str, Path], None]
"""Of a host, for a launch with this output."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done, until the block that `act` gives is left."""

    name: str
    act: Act
    status: int | None
    """podrun's exit status; None where the command may also succeed in spite of it."""
    reason: str | None
    """podrun's one line in full, where HOST is the host's name; None for no line."""
    seconds: float = 6
    """From the fault until podrun has ended: what the launch allows, and a busy machine's share."""
    hosts_seconds: float = 3
    """From then until nothing runs on any host."""
    before: Prepare = lambda pod, host, output: None
    """What is made ready before the launch."""
    needs_rank: bool = True
    """Whether it can only happen to a command that runs."""
    may_end_first_host: bool = False
    """Whether JAX's service on the first host may end all, with lines of its own."""
    task: type[Task] = Task
    """The commands that it can happen to."""


def _sent(number: signal.Signals, seconds: float, reason: str) -> Fault:
    def act(scene: Scene) -> contextlib.AbstractContextManager[None]:
        machines.send([pid for pid in [scene.rank] if pid], number)
        return contextlib.nullcontext()

    return Fault(f"{number.name} of a process", act, 128 + number, f"HOST: {reason}", seconds)


def _kill_agent(scene: Scene) -> contextlib.AbstractContextManager[None]:
    machines.send(machines.agent(scene.pod, scene.host), signal.SIGKILL)
    return contextlib.nullcontext()


def _kill_agent_and_keeper(scene: Scene) -> contextlib.AbstractContextManager[None]:
    machines.send(machines.agent_and_keeper(scene.pod, scene.host), signal.SIGKILL)
    return contextlib.nullcontext()


def _kill_session(scene: Scene) -> contextlib.AbstractContextManager[None]:
    machines.send(machines.sessions(scene.pod, scene.host), signal.SIGKILL)
    return contextlib.nullcontext()


def _launcher(number: signal.Signals) -> Act:
    def act(scene: Scene) -> contextlib.AbstractContextManager[None]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(scene.launch.process.pid, number)
        return contextlib.nullcontext()

    return act


def _cut(scene: Scene) -> contextlib.AbstractContextManager[None]:
    return scene.pod.cut(scene.host)


def _cut_for_a_while(scene: Scene) -> contextlib.AbstractContextManager[None]:
    with scene.pod.cut(scene.host):
        time.sleep(scene.draw.uniform(0.1, 6))
    return contextlib.nullcontext()


@contextlib.contextmanager
def _power_off(scene: Scene) -> Iterator[None]:
    scene.pod.power_off(scene.host)
    try:
        yield
    finally:
        scene.pod.power_on(scene.host)


@contextlib.contextmanager
def _full_disk(scene: Scene) -> Iterator[None]:
    filling = scene.disk / "filling"
    with open(filling, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    try:
        yield
    finally:
        filling.unlink()


def _small_disk(at: Callable[[Path], Path]) -> tuple[Prepare, Act]:
    """Before the launch a small disk; then that it is full."""

    def before(pod: NamespaceHosts, host: str, output: Path) -> None:
        at(output).mkdir(parents=True, exist_ok=True)
        machines.mount_small_disk(pod, host, at(output))

    @contextlib.contextmanager
    def act(scene: Scene) -> Iterator[None]:
        machines.fill(scene.pod, scene.host, at(scene.output))
        try:
            yield
        finally:
            machines.unmount(scene.pod, scene.host, at(scene.output))

    return before, act


def _clock_jumps(scene: Scene) -> contextlib.AbstractContextManager[None]:
    seconds = scene.draw.choice([-86400 * 365, -3600, -15, 15, 3600, 86400 * 365])
    clock.set_shift(scene.pod.tmp(scene.host), seconds)
    return contextlib.nullcontext()


def _slow(scene: Scene) -> contextlib.AbstractContextManager[None]:
    for _ in range(scene.draw.randint(1, 3)):
        pids = [pid for pid in [scene.rank] if pid]
        machines.send(pids, signal.SIGSTOP)
        time.sleep(scene.draw.uniform(0.2, 3))
        machines.send(pids, signal.SIGCONT)
        time.sleep(0.3)
    return contextlib.nullcontext()


_GONE = r"connection lost, or its agent was killed \(.*\)"
_LOST = rf"(silent for 10 s|{_GONE}|ssh could not connect: .*)"
_wandb, _fill_wandb = _small_disk(lambda output: output / "wandb")
_tmp, _fill_tmp = _small_disk(lambda output: Path("/tmp"))
FAULTS = (
    _sent(signal.SIGKILL, 6, "signal SIGKILL"),
    _sent(signal.SIGSEGV, 6, "signal SIGSEGV"),
    _sent(signal.SIGSTOP, 14, r"stopped \(SIGSTOP\) for 5 s, process \d+"),
    Fault("agent killed", _kill_agent, 255, f"HOST: {_LOST}"),
    Fault("agent and keeper killed", _kill_agent_and_keeper, 255, f"HOST: {_LOST}"),
    Fault("ssh session killed", _kill_session, 255, f"HOST: {_LOST}"),
    Fault("podrun killed", _launcher(signal.SIGKILL), -9, None, 3, 16, needs_rank=False),
    Fault("Ctrl-C", _launcher(signal.SIGINT), 130, None, 16, needs_rank=False),
    Fault("SIGTERM of podrun", _launcher(signal.SIGTERM), 143, None, 16, needs_rank=False),
    Fault("cable cut", _cut, 255, f"HOST: {_LOST}", 24, 16, needs_rank=False),
    Fault("cable cut for a while", _cut_for_a_while, None, "h\\d: .*", 300, needs_rank=False),
    Fault("power off", _power_off, 255, f"HOST: {_LOST}", 24, 16, needs_rank=False),
    Fault("shared disk full", _full_disk, 2, "h\\d: exit 2", 300),
    Fault("disk of W&B full", _fill_wandb, None, "h\\d: .*", 300, before=_wandb, task=Train),
    Fault("/tmp full", _fill_tmp, None, "h\\d: .*", 300, before=_tmp),
    # JAX's service, on the first host, measures heartbeats by the wall clock (0.11).
    Fault("clock jumps", _clock_jumps, 0, None, 300, may_end_first_host=True),
    Fault("slow host", _slow, None, "h\\d: .*", 300),
)
