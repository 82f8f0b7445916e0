"""What a forward pass carries beside the residual stream."""

import dataclasses

import equinox as eqx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from neox_eqx.model.attending import Attending
from neox_eqx.model.dropout import Dropout
from neox_eqx.model.kernels.dense import Dense
from neox_eqx.model.keys_values import KeysValues
from neox_eqx.model.rotary import Rotary
from neox_eqx.sharding.rules import LAYOUTS, constrain


class Context(eqx.Module):
    """The same for all layers, but for `dropout`, which has a key for each."""

    rotary: Rotary
    attending: Attending
    mesh: Mesh | None = eqx.field(static=True, default=None)
    layout: str = eqx.field(static=True, default="1d")
    dropout: Dropout | None = None

    def place(self, x: Float[Array, "*X"], *axes: str | None) -> Float[Array, "*X"]:
        """`x` sharded as the layout says for these logical axes; without a mesh, just `x`."""
        return constrain(x, self.mesh, *axes, rules=LAYOUTS[self.layout])

    def attend(
        self, query: Float[Array, "B H T K"], segments: tuple[KeysValues, ...]
    ) -> Float[Array, "B H T K"]:
        """softmax(q kᵀ / sqrt(K)) v over the slots of all segments, the new tokens' the last."""
        if isinstance(self.attending, Dense):
            return self.attending.attend(query, segments, self.dropout)
        return self.attending.attend(query, segments)

    def layer(self, index: int | Int[Array, ""] | None) -> "Context":
        """The context of layer `index`, which differs in the key of dropout alone."""
        if self.dropout is None or index is None:
            return self
        return dataclasses.replace(self, dropout=self.dropout.layer(index))
