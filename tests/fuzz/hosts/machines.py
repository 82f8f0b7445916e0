"""The processes of a host by what they do, and its disks, as the test sees them from outside."""

import os
import signal
import subprocess
from pathlib import Path

from tests.podrun.hosts import is_agent
from tests.podrun.networks import NamespaceHosts


def processes(pod: NamespaceHosts, name: str) -> list[int]:
    """All that run on a host."""
    host = _namespace(pod.first_process(name))
    return [pid for pid in pod.processes() if _namespace(pid) == host]


def rank(pod: NamespaceHosts, name: str) -> int | None:
    """The user's command itself, not what it has started."""
    marked = [pid for pid in processes(pod, name) if _is_marked(pid)]
    return next((pid for pid in marked if not _is_marked(_parent(pid))), None)


def agent(pod: NamespaceHosts, name: str) -> list[int]:
    return [pid for pid in processes(pod, name) if is_agent(pid)]


def agent_and_keeper(pod: NamespaceHosts, name: str) -> list[int]:
    """The keeper, which is the agent's parent, comes first."""
    return [pid for one in agent(pod, name) for pid in (_parent(one), one)]


def sessions(pod: NamespaceHosts, name: str) -> list[int]:
    """The processes of the ssh server that serve a connection."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pod.first_process(name):
            here = _namespace(int(entry.name)) == _namespace(pod.first_process(name))
            if here and _read(int(entry.name), "comm").startswith(b"sshd"):
                found.append(int(entry.name))
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def mount_small_disk(pod: NamespaceHosts, name: str, path: Path) -> None:
    """A disk of 1 MB at `path`, as this host alone sees it."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path]
    subprocess.run([*_inside(pod, name), *command], check=True)


def fill(pod: NamespaceHosts, name: str, path: Path) -> None:
    command = ["dd", "if=/dev/zero", f"of={path}/filling", "bs=4k"]
    subprocess.run([*_inside(pod, name), *command], capture_output=True)


def unmount(pod: NamespaceHosts, name: str, path: Path) -> None:
    subprocess.run([*_inside(pod, name), "umount", "--lazy", path], capture_output=True)


def _inside(pod: NamespaceHosts, name: str) -> list[str]:
    return ["nsenter", f"--target={pod.first_process(name)}", "--mount"]


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it has ended
        return f"that of {pid}"


def _is_marked(pid: int) -> bool:
    return b"\0PODRUN_AGENT=" in _read(pid, "environ")


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""
