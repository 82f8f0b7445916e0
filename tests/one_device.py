"""The environment of a program that is not to have the eight devices of the tests."""

import os


def one_device() -> dict[str, str]:
    """This process's, where XLA's flags say how it compiles and nothing of devices."""
    flags = os.environ["XLA_FLAGS"].split()
    kept = [flag for flag in flags if "device_count" not in flag]
    return {**os.environ, "XLA_FLAGS": " ".join(kept)}
