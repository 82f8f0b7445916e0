"""Settings of the whole test run. They act on import, before any test imports the package."""

import os

# Read when jax starts its backend; a user who sets XLA_FLAGS chooses the devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import torch
from jaxtyping import install_import_hook

# Every shape annotation is checked as it is called, in all that is imported from here on.
install_import_hook(
    "neox_eqx", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# The test processes share the cores; more threads would only fight over them.
torch.set_num_threads(1)
