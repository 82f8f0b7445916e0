"""Arrays for programs, made without one."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array


def array(values: Any, dtype: Any = None) -> Array:
    """As `jnp.asarray`, which compiles a program for each shape and dtype."""
    return jax.device_put(np.asarray(values, dtype))
