"""From token ids to vectors."""

import equinox as eqx
from jaxtyping import Array, Float, Int

from neox_eqx.sharding.rules import Placed


class Embedding(Placed):
    """One row of the weight for each token id."""

    weight: Float[Array, "V D"]
    axes: tuple[str, str] = eqx.field(static=True, default=("vocab", "embed"))

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return self.weight[tokens]
