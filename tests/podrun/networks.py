"""Two ways to have several hosts on one machine, each with an sshd of its own.

As root every host is a network namespace with its own address, host name, process ids and a cable
that can be pulled. Otherwise every host is an sshd of this user on a loopback address. Several
test processes may each have a pod at the same time: names and addresses hold the process id.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.podrun.hosts import SSHD, Hosts
from tests.podrun.launch import wait_until

PREFIX = "T-podrun-"
ROOT = Path(__file__).parents[2]
METADATA_ADDRESS = "169.254.169.254"


class NamespaceHosts(Hosts):
    """Each host is a network namespace; a bridge in one more namespace is their switch."""

    def __init__(self, folder: Path, count: int, private_tmp: bool) -> None:
        super().__init__(folder, count, private_tmp)
        self.prefix = f"{PREFIX}{os.getpid()}-{folder.name[-4:]}-"
        pid = os.getpid()
        self.network = f"10.{64 + pid // 256 % 128}.{pid % 256}"

    def start(self) -> None:
        self.write_files()
        addresses = {"localhost": "127.0.0.1", "metadata.google.internal": METADATA_ADDRESS}
        # A host knows its own name: gloo, which connects JAX on CPUs, tells the others where it is.
        addresses |= {name: self.address(name) for name in [*self.names, "launcher"]}
        lines = [f"{address} {name}\n" for name, address in addresses.items()]
        self.folder.joinpath("hosts").write_text("".join(lines), "utf-8")
        Path("/run/sshd").mkdir(exist_ok=True)
        ip("netns", "add", self.prefix + "sw")
        self._switch("link", "add", "br0", "type", "bridge")
        self._switch("link", "set", "br0", "up")
        for name in [*self.names, "refusing", "launcher"]:
            self._plug_in(name)
        ip("-n", self.prefix + "launcher", "addr", "add", f"{METADATA_ADDRESS}/32", "dev", "lo")
        for name in self.names:
            self._boot(name)
        for name in self.names:
            wait_for_ssh(self.address(name), 22, self.launcher())

    def _boot(self, name: str) -> None:
        self.start_sshd(name, f"ListenAddress {self.address(name)}", self._enter(name))

    def address(self, name: str) -> str:
        numbers = {"launcher": 250, "refusing": 251, "down": 252}
        return f"{self.network}.{numbers.get(name) or int(name[1:]) + 1}"

    def launcher(self) -> list[str]:
        inside = f"mount --bind {self.folder}/hosts /etc/hosts; hostname launcher; "
        if self.private_tmp:
            inside += self._mount_tmp("launcher")
        return [
            *["nsenter", f"--net=/run/netns/{self.prefix}launcher", "unshare", "--uts", "--mount"],
            *["sh", "-c", inside + 'exec "$@"', "sh"],
        ]

    @contextlib.contextmanager
    def cut(self, name: str) -> Iterator[None]:
        self._switch("link", "set", f"p-{name}", "down")
        try:
            yield
        finally:
            self._switch("link", "set", f"p-{name}", "up")

    def power_off(self, name: str) -> None:
        """Ends all that runs on a host."""
        self.servers[name].kill()
        self.servers[name].wait()

    def power_on(self, name: str) -> None:
        """Starts a host again, with the disks that it had."""
        self._boot(name)
        wait_for_ssh(self.address(name), 22, self.launcher())

    def first_process(self, name: str) -> int:
        """The process of a host that all others of it end with: its ssh server."""
        outside = self.servers[name].pid
        return int(Path(f"/proc/{outside}/task/{outside}/children").read_text("ascii").split()[0])

    def _switch(self, *words: str) -> None:
        ip("-n", self.prefix + "sw", *words)

    def _plug_in(self, name: str) -> None:
        namespace = self.prefix + name
        ip("netns", "add", namespace)
        cable = ["type", "veth", "peer", "name", "eth0", "netns", namespace]
        self._switch("link", "add", "name", f"p-{name}", *cable)
        self._switch("link", "set", f"p-{name}", "master", "br0", "up")
        ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "set", "eth0", "up")

    def _enter(self, name: str) -> list[str]:
        inside = f"hostname {name}; mount --bind {self.folder}/hosts /etc/hosts; "
        if self.private_tmp:
            inside += self._mount_tmp(name)
        return [
            *["nsenter", f"--net=/run/netns/{self.prefix}{name}"],
            *["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"],
            *["sh", "-c", inside + 'exec "$@"', "sh"],
        ]

    def tmp(self, name: str) -> Path:
        """The /tmp of a host with a private one, as it is seen from here."""
        path = self.folder / f"tmp-{name}"
        path.mkdir(exist_ok=True)
        return path

    def _mount_tmp(self, name: str) -> str:
        own, first = self.tmp(name), ""
        if ROOT.is_relative_to("/tmp"):  # a checkout there stays in sight
            place = own / ROOT.relative_to("/tmp")
            first = f"mkdir -p {place}; mount --bind {ROOT} {place}; "
        return f"{first}mount --rbind {own} /tmp; "

    def close(self) -> None:
        super().close()
        for name in [*self.names, "refusing", "launcher", "sw"]:
            # Some are not there where the start has failed.
            subprocess.run(["ip", "netns", "del", self.prefix + name], capture_output=True)


class LoopbackHosts(Hosts):
    """Each host is an address of the loopback interface."""

    def __init__(self, folder: Path, count: int, private_tmp: bool) -> None:
        super().__init__(folder, count, private_tmp)
        pid = os.getpid()
        self.network = f"127.{64 + pid // 256 % 128}.{pid % 256}"
        with socket.socket() as probe:
            probe.bind((self.address("h0"), 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        self.write_files()
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        for first in range(0, len(self.names), 16):  # addresses that one sshd can listen on
            names = self.names[first : first + 16]
            listen = [f"ListenAddress {self.address(name)}:{self.port}" for name in names]
            self.start_sshd(f"from-{first}", "\n".join(listen))
        for name in self.names[::16]:
            wait_for_ssh(self.address(name), self.port)

    def address(self, name: str) -> str:
        numbers = {"refusing": 251, "down": 252}
        return f"{self.network}.{numbers.get(name) or int(name[1:]) + 1}"

    def launcher(self) -> list[str]:
        return []

    def tmp(self, name: str) -> Path:
        return Path("/tmp")

    @contextlib.contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """Stops all processes behind the host's connections, as there is no cable to pull."""
        end = f" {self.address(name)} {self.port}".encode()
        frozen = []
        for pid in self.processes():
            with contextlib.suppress(OSError):  # it has ended
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if any(v.startswith(b"SSH_CONNECTION=") and v.endswith(end) for v in environment):
                    os.kill(pid, signal.SIGSTOP)
                    frozen.append(pid)
        try:
            yield
        finally:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def pod_of(count: int, *, loopback: bool = False, private_tmp: bool = False) -> Iterator[Hosts]:
    """So many hosts until the end of the block; nothing of them stays.

    With `private_tmp` each host that is a namespace has a /tmp of its own.
    """
    if SSHD is None or not shutil.which("ssh-keygen"):
        raise AssertionError("these tests need an ssh server: apt-get install openssh-server")
    remove_stale()
    kind = LoopbackHosts if loopback or not has_namespaces() else NamespaceHosts
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/var/tmp"))
    try:
        hosts = kind(folder, count, private_tmp)
        try:
            hosts.start()
            yield hosts
        finally:
            hosts.close()
    finally:
        shutil.rmtree(folder)


def has_namespaces() -> bool:
    """Whether this user may make network namespaces here."""
    if os.getuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        return False
    name = f"{PREFIX}{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    inside = ["nsenter", f"--net=/run/netns/{name}", "ip", "link", "add", "br0", "type", "bridge"]
    unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
    works = not subprocess.run([*unshare, *inside], capture_output=True).returncode
    ip("netns", "del", name)
    return works


def remove_stale() -> None:
    """Removes what test processes that were killed have left."""
    folders = [Path("/var/tmp"), Path("/run/netns")]
    for path in [path for folder in folders for path in folder.glob(f"{PREFIX}*")]:
        if not Path("/proc", path.name.removeprefix(PREFIX).split("-")[0]).exists():
            if path.parent.name == "netns":
                # Another test process may be as quick to remove it.
                subprocess.run(["ip", "netns", "del", path.name], capture_output=True)
            else:
                shutil.rmtree(path, ignore_errors=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def wait_for_ssh(address: str, port: int, around: Sequence[str] = ()) -> None:
    """Waits until the server answers."""
    question = f"import socket; socket.create_connection(({address!r}, {port}), 1).recv(4)"
    command = [*around, "python3", "-IS", "-c", question]
    wait_until(
        lambda: subprocess.run(command, capture_output=True).returncode == 0,
        10,
        lambda: f"no ssh server at {address} port {port}",
    )
