"""Rounding a weight to 4 bits so that what it makes of given inputs changes little.

Frantar et al. 2022, arXiv:2210.17323: inputs are rounded one after the other, and each time the
error is made up for by the numbers of the row that are not rounded yet.
"""

import numpy as np
from jaxtyping import Float, Float32

from neox_eqx.model.int4 import ZERO, best_scale, rounded
from neox_eqx.model.int4_file import packed
from neox_eqx.native.tiles import GROUP

_DAMPING = 0.01
"""Of the mean of the inputs' squares, added to each of these: inputs that are always 0 would leave
no inverse."""


def round_for_inputs(
    weight: Float32[np.ndarray, "out in"], products: Float[np.ndarray, "in in"]
) -> dict[str, np.ndarray]:
    """Codes and scales of the weight in 4 bits, as a file has them.

    `products` is xᵀ x of the inputs x: the products of each two, summed over all positions.
    """
    out, columns = weight.shape
    rest = np.pad(weight.astype(np.float64), ((0, 0), (0, -columns % GROUP)))
    factors = _factors(products)
    codes, scales = np.zeros(rest.shape, np.uint8), []
    for start in range(0, columns, GROUP):
        end = min(start + GROUP, columns)
        group = slice(start, start + GROUP)
        scale = best_scale(rest[:, group].astype(np.float32))
        wide, off = scale.astype(np.float32), np.zeros((out, end - start))
        for column in range(start, end):
            code = rounded(rest[:, column : column + 1].astype(np.float32), wide)[:, 0]
            codes[:, column] = code + ZERO
            own = factors[column, column:end]
            off[:, column - start] = (rest[:, column] - code * wide) / own[0]
            rest[:, column:end] -= np.outer(off[:, column - start], own)
        rest[:, end:columns] -= off @ factors[start:end, end:]
        codes[:, end : start + GROUP] = ZERO
        scales.append(scale)
    return {"weight": packed(codes), "scale": np.stack(scales, axis=1)}


def _factors(products: Float[np.ndarray, "in in"]) -> Float[np.ndarray, "in in"]:
    """The upper Cholesky factor of the inverse: row i says how later inputs make up for input i."""
    whole = products.astype(np.float64)
    mean = np.trace(whole) / len(whole)
    whole = whole + (_DAMPING * mean or 1.0) * np.eye(len(whole))
    return np.linalg.cholesky(np.linalg.inv(whole)).T
