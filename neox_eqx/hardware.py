"""What devices can do at most, from their makers' pages: operations and bytes a second.

Operations are those of bfloat16, without sparsity. TPUs are from cloud.google.com/tpu/docs, pages
v4, v5e, v5p and v6e; GPUs from NVIDIA's data sheets, in the form with SXM.
"""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Rates:
    """What one chip of a TPU can do in a second."""

    flops: float
    """Operations."""
    hbm_bandwidth: float
    """Bytes from and to its own memory."""
    ici_bandwidth: float
    """Bytes out of the chip, over all its links together."""


TPUS = {
    "v4": Rates(275e12, 1228e9, 300e9),
    "v5e": Rates(197e12, 819e9, 200e9),
    "v5p": Rates(459e12, 2765e9, 600e9),
    "v6e": Rates(918e12, 1600e9, 400e9),
}
_FLOPS = {
    **{f"TPU {name}": rates.flops for name, rates in TPUS.items()},
    "TPU v5 lite": TPUS["v5e"].flops,
    "TPU v5": TPUS["v5p"].flops,
    "TPU v6 lite": TPUS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Operations a second, by the kind of a device as JAX calls it, or by how that begins."""


def peak_flops(devices: int) -> float | None:
    """Operations a second of so many devices like the first one; None where that is not known."""
    own = jax.devices()[0].device_kind
    kinds = [kind for kind in _FLOPS if own.startswith(kind)]
    return devices * _FLOPS[max(kinds, key=len)] if kinds else None
