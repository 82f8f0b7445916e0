"""The names of classes and functions in a pickle, before torch meets them."""

import pickletools
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from neox_eqx.checkpoint.torch_zip import corrupt
from neox_eqx.errors import InputError
from neox_eqx.shown import shown

# The longest names in files of training runs have some tens of letters.
_MOST_LETTERS = 1000
# Before the tensors' data an old file has its magic number, a version, the machine, the objects
# and the keys of the data.
_PICKLES = 5


def check_names(path: Path, *, is_zip: bool) -> None:
    """Refuses a file of torch's in which a name is longer than any real one.

    Where torch 2.13 does not know a name it looks through its message in quadratic time: a name of
    100 kilobytes takes a minute.

    Raises:
        InputError: there is such a name, or what stands there is no pickle.
    """
    try:
        for pickle in _pickles(path, is_zip):
            for code, name, _ in pickletools.genops(pickle):
                if code.name == "GLOBAL" and len(name or "") > _MOST_LETTERS:
                    raise InputError(f"{path}: names {shown(name)}, which is no class of tensors")
    except InputError:
        raise
    except Exception as error:  # A corrupt pickle can fail in any way at all.
        raise corrupt(path) from error


def _pickles(path: Path, is_zip: bool) -> Iterator[BinaryIO]:
    if not is_zip:
        with path.open("rb") as file:
            for _ in range(_PICKLES):
                yield file
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.lower().endswith("/data.pkl"):  # torch looks for it in capitals too
                yield BytesIO(archive.read(name))
