"""Real hosts on one machine, and podrun launched beside them.

What is common to the two kinds of `networks.py`: the keys and files of ssh, the launch, and the
processes that there are because of it.
"""

import abc
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.podrun.launch import Launch, wait_until

PODRUN = Path(__file__).parents[2] / "podrun"
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
# The commands of a host, and last the Python of the tests where the system has none.
PATH = "/usr/local/bin:/usr/bin:/bin:" + os.path.dirname(os.path.realpath(sys.executable))
SSHD_CONFIG = """
HostKey {hostkey}
AuthorizedKeysFile {key}.pub
PidFile none
StrictModes no
UsePAM no
MaxStartups 300
"""
SSH_CONFIG = """
Host {name}
    HostName {address}
    Port {port}
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known_hosts}
    GlobalKnownHostsFile none
    HashKnownHosts no
"""


class Hosts(abc.ABC):
    """A few hosts named h0, h1, ... and a machine to launch from; see `pod_of`."""

    def __init__(self, folder: Path, count: int, private_tmp: bool) -> None:
        self.folder = folder
        self.names = [f"h{i}" for i in range(count)]
        self.private_tmp = private_tmp
        self.token = f"{os.getpid()}-{folder.name}"
        self.servers: dict[str, subprocess.Popen] = {}
        self.key, self.hostkey = folder / "key", folder / "hostkey"
        self.known_hosts = folder / "known_hosts"
        for key in (self.key, self.hostkey):
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", key], check=True)
        self._launches: list[Launch] = []

    port = 22

    @abc.abstractmethod
    def start(self) -> None:
        """Starts an ssh server on every host, and returns when all answer."""

    @abc.abstractmethod
    def address(self, name: str) -> str:
        """Where a host is reached."""

    @abc.abstractmethod
    def launcher(self) -> list[str]:
        """The words before a command that runs it where podrun is launched."""

    @abc.abstractmethod
    def cut(self, name: str) -> contextlib.AbstractContextManager:
        """Takes a host off the network, or stops it as a whole."""

    def write_files(self) -> None:
        """The client's ssh_config and known_hosts, and an `ssh` that uses them."""
        values = {"port": self.port, "key": self.key, "known_hosts": self.known_hosts}
        names = [*self.names, "down", "refusing"]
        config = [SSH_CONFIG.format(name=n, address=self.address(n), **values) for n in names]
        self.folder.joinpath("ssh_config").write_text("".join(config), "utf-8")
        self.know_hosts(self.hostkey)
        ssh = self.folder / "bin" / "ssh"
        ssh.parent.mkdir()
        real = shutil.which("ssh")
        ssh.write_text(f'#!/bin/sh\nexec {real} -F {self.folder}/ssh_config "$@"\n', "utf-8")
        ssh.chmod(0o755)

    def know_hosts(self, *keys: Path, but: str = "") -> None:
        """Writes known_hosts: this key for every host, no line for the host `but`."""
        (key,) = keys
        public = " ".join(Path(f"{key}.pub").read_text("utf-8").split()[:2])
        known = [self._known_name(name) for name in self.names if name != but]
        self.known_hosts.write_text("".join(f"{n} {public}\n" for n in known), "utf-8")

    def _known_name(self, name: str) -> str:
        address = self.address(name)
        return address if self.port == 22 else f"[{address}]:{self.port}"

    def start_sshd(self, name: str, config: str, around: Sequence[str] = ()) -> None:
        path = self.folder / f"sshd_config-{name}"
        text = SSHD_CONFIG.format(hostkey=self.hostkey, key=self.key) + config
        for each in self.names:
            text += f"\nMatch LocalAddress {self.address(each)}\n"
            # With SHLVL bash leaves out the user's own ~/.bashrc.
            text += f"SetEnv PATH={PATH} SHLVL=1 PYTHONPATH={self.packages(each)}\n"
            if each == "h2":  # as the start-up files of some shells do
                text += 'ForceCommand echo welcome to h2; eval "$SSH_ORIGINAL_COMMAND"\n'
        path.write_text(text, "utf-8")
        with open(self.folder / f"sshd-{name}.log", "wb") as log:
            self.servers[name] = subprocess.Popen(
                # The first words end the server with this process, whatever ends that.
                ["setpriv", "--pdeathsig", "KILL", *around, SSHD, "-D", "-e", "-f", path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def packages(self, name: str) -> Path:
        """The PYTHONPATH of this host alone."""
        path = self.folder / f"packages-{name}"
        path.mkdir(exist_ok=True)
        return path

    def launch(
        self,
        *arguments: str,
        hosts: str | None = None,
        directory: Path | None = None,
        stdout: int | None = None,
        **environment: str,
    ) -> Launch:
        """Starts podrun on all the hosts, or on those that `hosts` names ('' for no option).

        It runs in `directory`, writes to the file `stdout`, and gets these variables; where they
        are not given, in a folder of its own, to be read from the launch, and with a few.
        """
        folder = self.folder / f"launch-{len(self._launches)}"
        folder.joinpath("home").mkdir(parents=True)
        own = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "HF_TEST_TOKEN": self.token,  # passed on: marks every process of this pod
        }
        listed = ",".join(self.names) if hosts is None else hosts
        option = ["--hosts", listed] if listed else []
        # The first words end podrun with this process, whatever ends that.
        around = ["setpriv", "--pdeathsig", "TERM", *self.launcher()]
        command = [*around, sys.executable, str(PODRUN), *option, *arguments]
        launch = Launch(command, own | environment, folder, directory or folder, stdout)
        self._launches.append(launch)
        return launch

    def run(self, *arguments: str, within_seconds: float = 30, **more: str) -> Launch:
        """podrun from start to end; `.process.returncode` holds its exit status."""
        launch = self.launch(*arguments, **more)
        launch.end(within_seconds)
        return launch

    def processes(self) -> dict[int, str]:
        """What podrun has started, here and on the hosts: agents, keepers, commands, ssh."""
        addresses = "|".join(re.escape(self.address(name)) for name in self.names)
        marks = rf"HF_TEST_TOKEN={self.token}|SSH_CONNECTION=.* ({addresses}) \d+"
        ours = re.compile(f"^({marks})$".encode())
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environment = entry.joinpath("environ").read_bytes().split(b"\0")
                    if any(map(ours.match, environment)):
                        words = entry.joinpath("cmdline").read_bytes().replace(b"\0", b" ")
                        found[int(entry.name)] = words.decode(errors="replace")
        return found

    def expect_nothing_left(self, within_seconds: float = 1) -> None:
        wait_until(
            lambda: not self.processes(), within_seconds, lambda: f"still there: {self.processes()}"
        )

    def commands(self) -> list[int]:
        """Those of the processes that are the user's command, or what it has started."""
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if b"\0PODRUN_AGENT=" in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def close(self) -> None:
        for process in [*self.servers.values(), *(launch.process for launch in self._launches)]:
            process.kill()
            process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_agent(pid: int) -> bool:
    """Not its keeper, which is its parent, nor ssh, nor the shell that sshd starts that in."""
    try:
        return runs_agent(pid) and runs_agent(parent(pid))
    except OSError:  # it has ended
        return False


def runs_agent(pid: int) -> bool:
    """Whether it is an agent or a keeper."""
    is_python = Path(f"/proc/{pid}/comm").read_text("utf-8").startswith("python")
    return is_python and b"\0-I\0-S\0-c\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
