"""The library in this process, as XLA calls it.

Without it all works in pure JAX. What is missing is said once, in a line on stderr.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import jax
import numpy as np
from jax.experimental import multihost_utils

from neox_eqx.native.build import BuildError, sources_key
from neox_eqx.native.store import find
from neox_eqx.output import complain
from neox_eqx.shown import shown

SWITCH = "NEOX_EQX_NATIVE"
"""The variable that turns the library off with 0, or names an instruction set."""
ATTENTION = f"neox_eqx_attention_{sources_key()}"
PRODUCT = f"neox_eqx_product_{sources_key()}"
READ = f"neox_eqx_read_{sources_key()}"
ENCODE = f"neox_eqx_encode_{sources_key()}"
"""What XLA calls the functions. A program that was compiled for others does not find these."""


@cache
def instruction_set() -> str | None:
    """The name of what the library computes with; None where there is none.

    It is loaded here, and built if need be, on the first call. All processes of a pod have it or
    none has: they must run the same program. Where JAX's devices are no CPUs it is not looked for.
    """
    if jax.default_backend() != "cpu":
        return None
    name = _loaded() if os.environ.get(SWITCH) != "0" else None
    return name if jax.process_count() == 1 or _all_have(name is not None) else None


def is_available() -> bool:
    return instruction_set() is not None


def use(name: str = "", threads: int | None = None) -> str | None:
    """Computes with the instruction set of this name from now on, or with the fastest; its name.

    None, and nothing changes, where this machine has none of that name. At most so many threads
    compute: without a number, as many as this process may use.
    """
    library = _library()
    if library is None:
        return None
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    chosen = library.neox_eqx_use(name.encode(), threads or own or 1)
    return chosen.decode() if chosen else None


def _all_have(it: bool) -> bool:
    """Asked in a thread of its own: this one may be tracing, and then computes nothing."""
    with ThreadPoolExecutor(1) as apart:
        answers = apart.submit(multihost_utils.process_allgather, np.asarray(it)).result()
    return bool(np.all(answers))


def _loaded() -> str | None:
    wanted = os.environ.get(SWITCH, "")
    name = use(wanted)
    if _library() and not name:
        name = use()
        complain("neox_eqx", f"{SWITCH}={shown(wanted)} is not for this machine; {name} is used")
    return name


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = find()
    except BuildError as error:
        complain(
            "neox_eqx",
            "products of 16 bits and fewer, and long prompts, are slower without the C++ library: "
            f"{error}",
        )
        return None
    library.neox_eqx_use.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    library.neox_eqx_use.restype = ctypes.c_char_p
    for name, function in (
        (ATTENTION, library.neox_eqx_attention),
        (PRODUCT, library.neox_eqx_product),
        (READ, library.neox_eqx_read),
        (ENCODE, library.neox_eqx_encode),
    ):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return library
