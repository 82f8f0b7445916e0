"""How attention is computed: one way is one class, and here is chosen which."""

import jax.numpy as jnp
from jax.sharding import Mesh

from neox_eqx.model.kernels.blocks import Blocks
from neox_eqx.model.kernels.cudnn import CuDNN
from neox_eqx.model.kernels.dense import Dense
from neox_eqx.model.kernels.flash import Flash
from neox_eqx.model.kernels.fused import Fused
from neox_eqx.model.visible import Visible
from neox_eqx.sharding.rules import platform_of

Attending = Dense | Flash | CuDNN | Fused | Blocks
"""All have `attend(query, segments)`: the new tokens' keys and values are the last segment."""


def attending(
    visible: Visible, mesh: Mesh | None, *, head_size: int, dtype: jnp.dtype, drops: bool
) -> Attending:
    """The way for these tokens: a kernel of the platform if it fits. `drops`: attention's weights
    are dropped out, which Dense alone does."""
    length = visible.ids.shape[1]
    platform = platform_of(mesh)
    if drops:
        return Dense(visible.mask())
    if not visible.past and Flash.fits(length, platform):
        return Flash(visible.ids, mesh)
    is_long = Blocks.fits(length, platform)
    if is_long and CuDNN.fits(visible, platform, head_size=head_size, dtype=dtype):
        return CuDNN.of(visible)
    in_jax = Blocks(visible) if is_long else Dense(visible.mask())
    return Fused(visible, mesh, in_jax) if Fused.fits(length, platform) else in_jax
