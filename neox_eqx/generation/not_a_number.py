"""What is said where a model's logits are no numbers."""

from neox_eqx.errors import InputError
from neox_eqx.sharding.distributed import is_first


def check_numbers(is_nan: bool) -> None:
    """Raises where the logits, or what was worked out from them, hold NaN.

    Raises:
        InputError: they do, in all processes alike.
    """
    if is_nan:
        raise InputError(
            "the model's logits are NaN: its parameters hold NaN, or overflow in "
            "this dtype; try --dtype float32",
            mine=is_first(),
        )
