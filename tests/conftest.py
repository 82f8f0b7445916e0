"""Settings of the whole test run. They act on import, before any test imports the package."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Read when jax starts its backend; a user who sets XLA_FLAGS chooses the devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# The programs that tests start share what they compile. A worker of the tests has this directory
# from the process that began, and does without it itself: most that it compiles, nobody else does.
os.environ["TESTS_PROGRAMS"] = os.environ.pop("JAX_COMPILATION_CACHE_DIR", "")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NEOX_EQX_PROGRAMS"] = "0"  # commands that tests start leave nothing in the user's home
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import jaxtyping
import pytest
import torch

# Every shape annotation is checked as it is called, in all that is imported from here on. It takes
# a quarter of a test's time: `make test` sets JAXTYPING_DISABLE for those that others stand for.
if not jaxtyping.config.jaxtyping_disable:
    jaxtyping.install_import_hook(
        "neox_eqx", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    )

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# The test processes share the cores; more threads would only fight over them.
torch.set_num_threads(1)

QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 12):
    # They make faster programs, and take longer for it than all else that compiles one. JAX 0.12
    # has no such flag any more.
    QUICK += " --xla_cpu_use_fusion_emitters=false"

PROGRAMS = os.environ.pop("TESTS_PROGRAMS")
MAPS = Path("/proc/self/maps")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick-compile",
        action="store_true",
        help="let XLA optimise nothing: it takes a quarter of the time",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Starts XLA with what it compiles how, for this process and for those that tests start."""
    if config.getoption("--quick-compile"):
        os.environ["XLA_FLAGS"] += f" {QUICK}"
    jax.devices()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS or tempfile.mkdtemp(prefix="programs-")


def pytest_collection_finish() -> None:
    """Python then looks for garbage in what the tests make, and no more in all that is imported."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """The process that began, and not one of its workers, removes what they all compiled."""
    if not PROGRAMS:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def room_for_programs() -> Iterator[None]:
    """Forgets all that was compiled before Linux runs out of room to map it.

    A program that XLA compiles for a CPU takes a dozen of the 65,530 memory maps of a process, and
    at the last of them XLA crashes: after some thousand tests.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 45_000:
        jax.clear_caches()
