"""How much of what its devices can compute a run uses."""

import jax

from neox_eqx.config import GPTNeoXConfig

PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5e": 197e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6e": 918e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Operations a second of a device in bfloat16, without sparsity, by what JAX calls its kind or how
that begins. From cloud.google.com/tpu/docs and NVIDIA's data sheets."""


def flops_per_token(config: GPTNeoXConfig, length: int, *, is_partial: bool = False) -> float:
    """The operations that training on a token of a row of `length` needs, as PaLM counts them.

    Six for each parameter that tokens are multiplied with, forwards and backwards, and attention
    as over the whole row. With `is_partial` these parameters are frozen and need four, and what
    is trained beside them is too little to count. What remat computes again does not count.
    """
    layer = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    parameters = config.num_hidden_layers * layer + config.vocab_size * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    return (4 if is_partial else 6) * parameters + attention


def peak_flops(devices: int) -> float | None:
    """The operations a second of so many devices in bfloat16; None where that is not known."""
    own = jax.devices()[0].device_kind
    kinds = [kind for kind in PEAK_FLOPS if own.startswith(kind)]
    return devices * PEAK_FLOPS[max(kinds, key=len)] if kinds else None
