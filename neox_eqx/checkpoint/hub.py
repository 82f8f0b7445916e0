"""The directory of a checkpoint that is on this machine or on the Hugging Face Hub."""

from pathlib import Path

from neox_eqx.errors import InputError


def resolve(source: str | Path) -> Path:
    """A directory that holds the checkpoint.

    Raises:
        InputError: there is no such directory.
    """
    directory = Path(source)
    if not directory.is_dir():
        raise InputError(f"{source}: is not a directory")
    return directory
