"""Whether what a peer needs is installed."""

import importlib.util

from neox_eqx.errors import InputError


def check_installed(packages: dict[str, str]) -> None:
    """`packages` has the name for pip of each module.

    Raises:
        InputError: one is not installed.
    """
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            needed = " ".join(packages.values())
            raise InputError(f"{package} is not installed; run pip install {needed}")
