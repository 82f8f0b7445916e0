"""Processes on several hosts that act as one program.

Every process runs the same code on its share of the data. What could differ between hosts, a
file that only some have, is agreed on before anyone enters a computation that waits for all.
"""

import contextlib
import glob
import hashlib
import importlib.util
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from neox_eqx.errors import InputError

# Seconds that Python and JAX may take longer to start on one host than on another.
_START = 60
# Seconds after which a silent process counts as failed, and the others end. podrun notices a host
# that is cut off sooner, and can name it.
_SILENCE = 20
# Seconds that a finished process waits for the others.
_FINISH = 30

# Of what a process tells the others at once: its host, and an error, which is one line.
_MESSAGE_BYTES = 2000

Options = TypeVar("Options")


def initialize() -> None:
    """Joins the other processes of this program, if there are any; call it before all else.

    JAX itself finds them on TPU, Slurm, Kubernetes and Open MPI, and podrun names them in the
    environment elsewhere. From then on only process 0 prints to stdout, and the program ends
    within seconds when a process fails.

    Raises:
        InputError: podrun's variables, or what a scheduler says, make no sense.
    """
    # With it JAX would take SIGTERM as a warning of preemption, and the program would go on.
    jax.config.update("jax_enable_preemption_service", False)
    coordinator, count, number = _from_podrun()
    waiting = threading.Timer(_START - 5, _say_that_others_are_missing, [coordinator])
    waiting.daemon = True
    waiting.start()
    try:
        with warnings.catch_warnings():
            # JAX warns so on a machine in Kubernetes that is no pod of ours.
            warnings.filterwarnings("ignore", "(?s).*Kubernetes environment detected")
            jax.distributed.initialize(
                coordinator,
                count,
                number,
                initialization_timeout=_START,
                heartbeat_timeout_seconds=_SILENCE,
                shutdown_timeout_seconds=_FINISH,
            )
    except ValueError as error:
        if "coordinator_address should be defined" in str(error):
            return  # JAX found no pod around this process
        raise InputError(f"the other processes were not found: {error}") from error
    finally:
        waiting.cancel()
    _let_only_the_first_print()


def _say_that_others_are_missing(coordinator: str | None) -> None:
    where = f" at {coordinator}" if coordinator else ""
    print(
        f"waiting for the other processes{where} since {_START - 5} s: is a host missing, or this "
        "program running on one host alone?",
        file=sys.stderr,
        flush=True,
    )


def _let_only_the_first_print() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout = open(
            os.dup(1) if is_first() else os.devnull,
            "w",
            buffering=1,
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
        )
    # What libraries in C++ print, as gloo does on connecting, is not part of the output.
    os.dup2(2, 1)
    if not is_first():
        warnings.simplefilter("ignore")


def on_every_host(main: Callable[[Options], None]) -> Callable[[Options], None]:
    """`main` for a process of a pod: it joins the others first, and waits for them at the end."""

    def joined(options: Options) -> None:
        initialize()
        main(options)
        # The others wait here for the slowest, however long it takes; at exit they would give up.
        wait_for_all()

    return joined


def _from_podrun() -> tuple[str, int, int] | tuple[None, None, None]:
    names = ("PODRUN_COORDINATOR", "PODRUN_NUM_PROCESSES", "PODRUN_PROCESS_ID")
    given = [os.environ.get(name) for name in names]
    # A TPU has numbers for its hosts, and those of its devices follow them.
    on_tpu = importlib.util.find_spec("libtpu") and glob.glob("/dev/accel*")
    if on_tpu or given == [None] * 3:
        return None, None, None
    coordinator, count, number = given
    # A few digits only: Python refuses to read thousands of them.
    is_number = [text and text.isdecimal() and len(text) < 10 for text in (count, number)]
    if not (coordinator and count and number and all(is_number)):
        each = zip(names, given, strict=True)
        listed = ", ".join(f"{name}={value!s:.80}" for name, value in each)
        raise InputError(f"{listed}: an address with a port and two whole numbers are needed")
    return coordinator, int(count), int(number)


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """The block succeeds in every process, or all raise the InputError of the first that failed.

    Raises:
        InputError: with the host and the number of the process where there are several.
    """
    error = None
    try:
        yield
    except InputError as raised:
        error = raised
    if jax.process_count() == 1:
        if error:
            raise error
        return
    for who, message in _gather(str(error) if error else ""):
        if message:
            raise InputError(f"{who}: {message}", is_reporter=is_first()) from error


def check_equal(what: str, value: object) -> None:
    """Checks that all processes hold the same value, by its `repr`: files of hosts may differ.

    Raises:
        InputError: names the hosts that differ from the first.
    """
    if jax.process_count() == 1:
        return
    (first, digest), *others = _gather(hashlib.sha256(repr(value).encode()).hexdigest())
    differing = [who for who, other in others if other != digest]
    if differing:
        raise InputError(
            f"{what} on {', '.join(differing)} differs from that on {first}; "
            "make the files of the hosts equal",
            is_reporter=is_first(),
        )


def wait_for_all() -> None:
    """Returns when every process is here, and all that its devices had to do is done.

    JAX's own barrier waits for the first device of each process alone. Another device might still
    be connecting to a process that has ended by then, and would wait for ever.
    """
    if jax.process_count() == 1:
        return
    everyone = Mesh(np.array(jax.devices()), "devices")
    apart, same = (NamedSharding(everyone, PartitionSpec(*axes)) for axes in (["devices"], []))
    ones = jax.make_array_from_callback((everyone.size,), apart, lambda _: np.ones(1, np.int32))
    jax.block_until_ready(jax.jit(jax.numpy.sum, out_shardings=same)(ones))


def broadcast(value: np.ndarray) -> np.ndarray:
    """The first process's value, in every process; all give one of the same shape."""
    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def _gather(text: str) -> list[tuple[str, str]]:
    """For each process its host and number, and its text, cut to what fits."""
    lines = f"{socket.gethostname()} (process {jax.process_index()})\n{text}".encode()
    data = lines[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    gathered = np.asarray(multihost_utils.process_allgather(np.frombuffer(data, np.uint8)))
    texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gathered]
    return [(who, rest) for who, _, rest in (text.partition("\n") for text in texts)]
