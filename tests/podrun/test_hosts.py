"""Where the hosts come from, and what is no list of hosts."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.podrun.hosts import PODRUN, Hosts
from tests.podrun.launch import Launch
from tests.podrun.networks import METADATA_ADDRESS

METADATA = """
import http.server, json, os, sys

class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        fields = json.loads(sys.argv[2])
        prefix, _, field = self.path.rpartition("/")
        known = prefix == "/computeMetadata/v1/instance/attributes" and field in fields
        known = known and self.headers["Metadata-Flavor"] == "Google"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(fields[field].encode() if known else b"")

    def log_message(self, *words): pass

address, _, port = sys.argv[1].partition(":")
server = http.server.HTTPServer((address, int(port or 80)), Metadata)
print(server.server_port, flush=True)
server.serve_forever()
"""
NAMES = ["sh", "-c", "echo $PODRUN_PROCESS_ID/$PODRUN_NUM_PROCESSES/$PODRUN_COORDINATOR"]


def who(launch: Launch) -> dict[str, str]:
    """What each host printed."""
    assert launch.process.returncode == 0, launch.stderr
    return dict(line.split("| ") for line in launch.stdout.splitlines())


def test_a_file_lists_hosts(pod: Hosts, tmp_path: Path) -> None:
    tmp_path.joinpath("hosts.txt").write_text("\n# a pod\nh2\n\n  h0  # the second\n", "utf-8")
    expect_h2_and_h0(pod, tmp_path)


def test_a_file_of_windows_lists_hosts(pod: Hosts, tmp_path: Path) -> None:
    tmp_path.joinpath("hosts.txt").write_text("h2\r\nh0\r\n", "utf-8-sig", newline="")
    expect_h2_and_h0(pod, tmp_path)


def expect_h2_and_h0(pod: Hosts, tmp_path: Path) -> None:
    seen = who(pod.run(*NAMES, hosts=str(tmp_path / "hosts.txt")))
    assert {host: text[:3] for host, text in seen.items()} == {"h2": "0/2", "h0": "1/2"}


def test_podips_in_the_home_is_read_without_an_option(pod: Hosts, tmp_path: Path) -> None:
    tmp_path.joinpath("podips.txt").write_text("h1\nh3\n", "utf-8")
    seen = who(pod.run("-i", *NAMES, hosts="", HOME=str(tmp_path)))
    numbers = sorted(text[:3] for text in seen.values())
    assert numbers == ["0/3", "1/3", "2/3"]
    assert (seen["h1"][:3], seen["h3"][:3]) == ("1/3", "2/3")


def test_a_list_that_names_this_host_runs_it_once_and_in_its_place(pod: Hosts) -> None:
    launch = pod.run("-i", "sh", "-c", "echo ${SSH_CONNECTION:-none}", hosts="h0,127.0.0.1,h1")
    seen = who(launch)
    assert list(seen) and seen["127.0.0.1"] == "none"
    assert "none" not in (seen["h0"], seen["h1"]) and len(seen) == 3


def test_this_host_is_known_by_its_own_name_where_no_name_server_knows_that(
    tmp_path: Path,
) -> None:
    names = "localhost,name-of-its-own"
    renamed = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c"]
    renamed += ['hostname name-of-its-own && exec "$@"', "sh"]
    if subprocess.run([*renamed, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make namespaces here")
    command = [*renamed, sys.executable, PODRUN, "-i", "--hosts", names, "ls"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr == "podrun: localhost and name-of-its-own both name this host\n"


@pytest.fixture
def metadata(pod: Hosts) -> Iterator[dict[str, str]]:
    """A TPU's metadata server for the launcher, which is worker 1.

    It is found by its usual name, or by these variables where that name would be all the machine's.
    """
    has_own_network = bool(pod.launcher())
    addresses = [pod.address(name) for name in pod.names[:2]]
    own = pod.address("launcher") if has_own_network else "127.0.0.1"
    addresses.insert(1, own)
    fields = {
        "worker-network-endpoints": ",".join(f"unknown:unknown:{a}" for a in addresses),
        "agent-worker-number": "1",
    }
    address = METADATA_ADDRESS if has_own_network else "127.0.0.1:0"
    with serving(fields, address, pod.launcher()) as port:
        yield {} if has_own_network else {"GCE_METADATA_IP": f"127.0.0.1:{port}"}


@contextlib.contextmanager
def serving(fields: dict[str, str], address: str, around: Sequence[str] = ()) -> Iterator[str]:
    """A metadata server with these fields of a TPU, and its port."""
    command = [*around, sys.executable, "-c", METADATA, address, json.dumps(fields)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def test_a_tpu_of_one_host_has_no_other_to_run_on(tmp_path: Path) -> None:
    fields = {"worker-network-endpoints": "unknown:unknown:127.0.0.1", "agent-worker-number": "0"}
    with serving(fields, "127.0.0.1:0") as port:
        own = {"HOME": str(tmp_path), "GCE_METADATA_IP": f"127.0.0.1:{port}"}
        command = [sys.executable, PODRUN, "ls"]
        answer = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | own, timeout=30
        )
    assert answer.returncode == 2
    why = "the TPU's metadata names no other host than this one; -i includes it"
    assert answer.stderr == f"podrun: {why}\n"


def test_a_tpu_lists_its_own_hosts(pod: Hosts, metadata: dict[str, str]) -> None:
    """Each runs once, this one without ssh, and JAX is left to ask the metadata itself."""
    _answer_to_addresses(pod)
    script = "echo ${PODRUN_COORDINATOR-no} ${SSH_CLIENT+ssh}"
    seen = who(pod.run("-i", "sh", "-c", script, hosts="", **metadata))
    remote = [pod.address(name) for name in pod.names[:2]]
    assert [seen.pop(address) for address in remote] == 2 * ["no ssh"]
    assert list(seen.values()) == ["no"]


def test_a_tpu_without_i_runs_on_the_others(pod: Hosts, metadata: dict[str, str]) -> None:
    _answer_to_addresses(pod)
    seen = who(pod.run("echo", "here", hosts="", **metadata))
    assert seen == {pod.address(name): "here" for name in pod.names[:2]}


def _answer_to_addresses(pod: Hosts) -> None:
    """Lets ssh_config hold for the hosts' addresses too: the metadata has no other names."""
    path = pod.folder / "ssh_config"
    text = path.read_text("utf-8")
    for name in pod.names:
        text = text.replace(f"Host {name}\n", f"Host {name} {pod.address(name)}\n")
    path.write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--hosts", "h0,h1,h0", "ls"], "--hosts names h0 twice"),
        (["--hosts", "", "ls"], "--hosts names no host"),
        (["--hosts", " , ", "ls"], "--hosts names no host"),
        (["--hosts", "./none", "ls"], "--hosts: no file ./none"),
        (["--hosts", "empty.txt", "ls"], "--hosts names no host"),
        (["--hosts", "broken.txt", "ls"], "cannot read the hosts in broken.txt: it is no UTF-8"),
        (["--hosts", "utf-16.txt", "ls"], "cannot read the hosts in utf-16.txt: it is no UTF-8"),
        (["--hosts", "/dev/zero", "ls"], "/dev/zero is no file with hosts"),
        (["--hosts", "fifo", "ls"], "fifo is no file with hosts"),
        (["--hosts", "./folder", "ls"], "hosts in ./folder: Is a directory"),
        (["--hosts", "large.txt", "ls"], "large.txt has more than 4194304 bytes"),
        (["--hosts", "nul.txt", "ls"], r"--hosts: 'h0\x00' is no host name"),
        (["--hosts", "control.txt", "ls"], r"--hosts: '\x1b[31mh0' is no host name"),
        (["--hosts", "./no\x1b[31mne", "ls"], r"--hosts: no file ./no\x1b[31mne"),
        (["--hosts", "./" + "x" * 5000, "ls"], "--hosts: no file ./xxx"),
        (["-i", "--hosts", "a..b", "ls"], "'a..b' is no host name"),
        (["--hosts", ".a", "ls"], "'.a' is no host name"),
        (["--hosts", "h0," + "x" * 64, "ls"], "xxxx' is no host name"),
        (["--hosts", "user@" + "x." * 127, "ls"], "is no host name"),
        (["--hosts", "user@-oProxyCommand=x", "ls"], "'user@-oProxyCommand=x' is no host name"),
        (["--hosts", "a@b@-oProxyCommand=x", "ls"], "'a@b@-oProxyCommand=x' is no host name"),
        (["--hosts", "$(x)", "ls"], "'$(x)' is no host name"),
        (["--hosts", "호스트", "ls"], r"'\ud638\uc2a4\ud2b8' is no host name"),
        (["--hosts", "h\x07", "ls"], r"'h\x07' is no host name"),
        (["--hosts", "h0", "-\x1b[31m"], r"unrecognized arguments: -\x1b[31m"),
        (["--hosts", "-oProxyCommand=x", "ls"], "expected one argument"),
        (["--hosts=-oProxyCommand=x", "ls"], "'-oProxyCommand=x' is no host name"),
        (["--hosts", "a b", "ls"], "'a b' is no host name"),
        (["-i", "--hosts", "localhost,127.0.0.1", "ls"], "both name this host"),
        (["--hosts", "h0"], "no command to run"),
        (["-x", "--hosts", "h0", "ls"], "unrecognized arguments: -x"),
        (["--host", "h0", "ls"], "--host"),
        (["-i", "ls"], "no hosts: give --hosts or write ~/podips.txt"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    tmp_path.joinpath("empty.txt").write_text("\n# none\n", "utf-8")
    tmp_path.joinpath("broken.txt").write_bytes(b"h\xff\n")
    tmp_path.joinpath("utf-16.txt").write_text("h0\n", "utf-16")
    tmp_path.joinpath("nul.txt").write_bytes(b"h0\0\n")
    tmp_path.joinpath("control.txt").write_text("\x1b[31mh0\n", "utf-8")
    tmp_path.joinpath("folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "large.txt", "wb") as large:
        large.truncate(2**30)
    environment = os.environ | {"HOME": str(tmp_path), "GCE_METADATA_IP": "127.0.0.1:9"}
    command = [sys.executable, PODRUN, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith("podrun: ") and answer.stderr[:-1].isprintable()
    assert len(answer.stderr) < 500
    assert complaint in answer.stderr


def test_help_has_a_line_for_each_option() -> None:
    answer = subprocess.check_output([sys.executable, PODRUN, "--help"], text=True)
    for option in ("-i", "-c", "-w", "--hosts", "--check", "COMMAND"):
        assert [line for line in answer.splitlines() if line.startswith(f"  {option} ")]
