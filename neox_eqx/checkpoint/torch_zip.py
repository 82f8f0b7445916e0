"""The zip file that `torch.save` writes: where its tensors' data stand."""

import re
import struct
import zipfile
from pathlib import Path

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.small_files import check_file

# The most that is read of a member which is no tensor's data. A thousand tensors take some hundred
# kilobytes, and each byte of a pickle may become an object of a hundred.
MAX_PICKLE_BYTES = 20_000_000
_DATA = re.compile("[^/]+/data/[^/]+")


def data_starts(path: Path) -> set[int] | None:
    """The bytes of a zip file at which its uncompressed members' data begin; None if it is none.

    Raises:
        InputError: it cannot be read, is corrupt, or no file of torch's.
    """
    check_file(path)
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            starts, big_endian = set(), False
            for member in archive.infolist():
                if not _DATA.fullmatch(member.filename) and member.file_size > MAX_PICKLE_BYTES:
                    raise _too_large(path, member)
                # torch looks for it in capitals too.
                if member.filename.lower().endswith("/byteorder"):
                    big_endian |= archive.read(member) == b"big"
                if member.compress_type == zipfile.ZIP_STORED:
                    file.seek(member.header_offset + 26)
                    lengths = file.read(4)
                    # A local header is 30 bytes, its name and an extra field of their own lengths.
                    starts.add(member.header_offset + 30 + sum(struct.unpack("<HH", lengths)))
    except InputError:
        raise
    except Exception as error:  # A corrupt archive can fail in any way at all.
        raise corrupt(path) from error
    if big_endian:
        # Without their data, torch would turn round bytes that are not there, and crash.
        raise InputError(f"{path}: was written big-endian; save it on a little-endian machine")
    return starts


def corrupt(path: Path) -> InputError:
    """The error for a file that torch did not write like this."""
    return InputError(f"{path}: is truncated or corrupt; get the file again")


def _too_large(path: Path, member: zipfile.ZipInfo) -> InputError:
    return InputError(
        f"{path}: holds {shown(member.filename)}, which would unpack to {member.file_size} bytes "
        "and is no tensor's data; get the file again"
    )
