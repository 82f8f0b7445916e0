"""JAX finds a pod by what surrounds a process, and `initialize()` joins it without arguments."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import initialize
from tests.sharding.processes import finish, free_port, start

# JAX forgets that it is on a TPU VM when it finds no chip; the rest is a host's program.
PROGRAM = """
import os
import jax
os.environ.pop("TPU_SKIP_MDS_QUERY", None)
from neox_eqx.sharding.distributed import initialize

initialize()
print(jax.process_count(), jax.device_count())
"""


@contextmanager
def metadata_server(worker: int, workers: int) -> Iterator[str]:
    """The address of a metadata server of one host of a TPU pod."""
    fields = {
        "agent-worker-number": str(worker),
        "worker-network-endpoints": ",".join(["unknown:unknown:127.0.0.1"] * workers),
        "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\nWORKER_ID: '0'\n",
    }

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            field = self.path.rpartition("/attributes/")[2]
            known = field in fields and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(fields[field].encode() if known else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_initialize_without_arguments_joins_the_hosts_of_a_tpu_pod(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    port = free_port()
    with ExitStack() as stack:
        addresses = [stack.enter_context(metadata_server(worker, 4)) for worker in range(4)]
        environments = [
            {
                "GCE_METADATA_IP": address,
                "JAX_FORCE_TPU_INIT": "1",
                "JAX_COORDINATOR_PORT": str(port),
                "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
            }
            for address in addresses
        ]
        ended = finish(start([program], 4, environments=environments))
    assert [(one.status, one.out) for one in ended] == [(0, "4 8\n")] + [(0, "")] * 3, ended


def slurm(number: int, count: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": "0",
    }


def open_mpi(number: int, count: int) -> dict[str, str]:
    return {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(number),
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    }


@pytest.mark.parametrize("scheduler", [slurm, open_mpi])
def test_initialize_joins_the_processes_of_a_scheduler(
    tmp_path: Path, scheduler: Callable[[int, int], dict[str, str]]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    port = free_port()
    own = {
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
    }
    environments = [scheduler(number, 2) | own for number in range(2)]
    ended = finish(start([program], 2, environments=environments))
    assert [(one.status, one.out) for one in ended] == [(0, "2 4\n"), (0, "")], ended


def test_without_a_pod_a_process_is_alone(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (ended,) = finish(start([program], 1, environments=[{}]))
    assert (ended.status, ended.out) == (0, "1 2\n"), ended


def test_half_of_what_podrun_sets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODRUN_COORDINATOR", "127.0.0.1:1234")
    monkeypatch.setenv("PODRUN_NUM_PROCESSES", "two")
    with pytest.raises(InputError, match="PODRUN_NUM_PROCESSES=two.*: an address with a port and"):
        initialize()
    monkeypatch.setenv("PODRUN_NUM_PROCESSES", "9" * 5000)
    monkeypatch.setenv("PODRUN_PROCESS_ID", "0")
    with pytest.raises(InputError, match="PODRUN_NUM_PROCESSES=9{80}, .*: an address with a port"):
        initialize()
