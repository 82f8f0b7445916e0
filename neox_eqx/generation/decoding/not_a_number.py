"""What is said of a row whose logits are no numbers."""

import jax.numpy as jnp


def not_numbers(what: str, dtype: jnp.dtype) -> str:
    """Why there are no scores or no choice of what a message names, such as "the text"."""
    return f"the model's logits for {what} are NaN or infinite: {_why(dtype)}"


def _why(dtype: jnp.dtype) -> str:
    largest = jnp.finfo(dtype).max
    if largest < jnp.finfo(jnp.bfloat16).max:
        return (
            f"{dtype} ends at {float(largest):.0f}, or the checkpoint's weights hold NaN or "
            "infinity; try --dtype bfloat16 or float32"
        )
    return f"the checkpoint's weights hold NaN or infinity, or numbers too large even for {dtype}"
