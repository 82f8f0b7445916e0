"""Real hosts on one machine, each with an sshd of its own, and podrun launched beside them.

As root every host is a network namespace with its own address, host name, process ids and a cable
that can be pulled. Otherwise every host is an sshd of this user on a loopback address. Several
test processes may each have a pod at the same time: names and addresses hold the process id.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PODRUN = Path(__file__).parents[2] / "podrun"
PROGRAMS = Path(__file__).parent / "programs"
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
PREFIX = "T-podrun-"
METADATA_ADDRESS = "169.254.169.254"
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


class Hosts:
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
        self._launches = 0

    port = 22

    def start(self) -> None:
        raise NotImplementedError

    def address(self, name: str) -> str:
        raise NotImplementedError

    def launcher(self) -> list[str]:
        """The words before a command that runs it where podrun is launched."""
        raise NotImplementedError

    def cut(self, name: str) -> contextlib.AbstractContextManager:
        """Takes a host off the network, or stops it as a whole."""
        raise NotImplementedError

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
            text += f"SetEnv PYTHONPATH={self.packages(each)}\n"
        path.write_text(text, "utf-8")
        with open(self.folder / f"sshd-{name}.log", "wb") as log:
            self.servers[name] = subprocess.Popen(
                # The first word ends the server with this process, whatever ends that.
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
        self._launches += 1
        folder = self.folder / f"launch-{self._launches}"
        folder.joinpath("home").mkdir(parents=True)
        own = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "HF_TEST_TOKEN": self.token,  # passed on: marks every process of this pod
        }
        listed = ",".join(self.names) if hosts is None else hosts
        option = ["--hosts", listed] if listed else []
        command = [*self.launcher(), sys.executable, str(PODRUN), *option, *arguments]
        return Launch(command, own | environment, folder, directory or folder, stdout)

    def run(self, *arguments: str, within_seconds: float = 30, **more: str) -> Launch:
        """podrun from start to end; `.process.returncode` holds its exit status."""
        launch = self.launch(*arguments, **more)
        launch.end(within_seconds)
        return launch

    def processes(self) -> dict[int, str]:
        """What podrun has started, here and on the hosts: agents, keepers, commands, ssh."""
        addresses = [re.escape(self.address(name)) for name in self.names]
        ours = re.compile(
            rf"^(HF_TEST_TOKEN={self.token}|SSH_CONNECTION=.* ({'|'.join(addresses)}) \d+)$".encode()
        )
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
        for server in self.servers.values():
            server.kill()
            server.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class NamespaceHosts(Hosts):
    """Each host is a network namespace; a bridge in one more namespace is their switch."""

    def __init__(self, folder: Path, count: int, private_tmp: bool) -> None:
        super().__init__(folder, count, private_tmp)
        self.prefix = f"{PREFIX}{os.getpid()}-{folder.name[-4:]}-"
        pid = os.getpid()
        self.network = f"10.{64 + pid // 256 % 128}.{pid % 256}"

    def start(self) -> None:
        self.write_files()
        lines = f"127.0.0.1 localhost\n{METADATA_ADDRESS} metadata.google.internal\n"
        self.folder.joinpath("hosts").write_text(lines, "utf-8")
        Path("/run/sshd").mkdir(exist_ok=True)
        ip("netns", "add", self.prefix + "sw")
        self._switch("link", "add", "br0", "type", "bridge")
        self._switch("link", "set", "br0", "up")
        for name in [*self.names, "refusing", "launcher"]:
            self._plug_in(name)
        ip("-n", self.prefix + "launcher", "addr", "add", f"{METADATA_ADDRESS}/32", "dev", "lo")
        for name in self.names:
            self.start_sshd(name, f"ListenAddress {self.address(name)}", self._enter(name))
        for name in self.names:
            wait_for_ssh(self.address(name), 22, self.launcher())

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
        return f"mount --bind {self.tmp(name)} /tmp; "

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
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if any(v.startswith(b"SSH_CONNECTION=") and v.endswith(end) for v in environment):
                frozen.append(pid)
                os.kill(pid, signal.SIGSTOP)
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
    ip("netns", "del", name)
    return True


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


def is_python(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text("utf-8").startswith("python")


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


def wait_until(condition, seconds: float, complaint) -> None:
    """Waits until the condition holds, and raises with the complaint where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.02)
