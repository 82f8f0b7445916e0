"""On a TPU JAX finds the pod by itself: `initialize()` asks the metadata server alone."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.sharding.processes import finish, free_port, start

# JAX forgets that it is on a TPU VM when it finds no chip; the rest is a TPU host's program.
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
