"""Tensors that are used where they stand in the page cache of the machine, and not copied.

The mapping is private and read-only, so nothing that computes can change the file; JAX copies such
an array before it writes, donated or not. A file that is replaced, as all writers do who write
beside a name and then take it, stays as it was for who has it mapped. One that is cut short in
place ends the process (SIGBUS), which is why files on a network are read instead.
"""

import mmap
import os
import weakref
from pathlib import Path

import numpy as np
import psutil

from neox_eqx.checkpoint.entry import FileEntry, ends_within

ALIGNMENT = 64
"""Bytes: at another address JAX copies what it is given on a CPU."""

_LEAST = 2**16
"""Bytes of what is mapped; to read less is as fast."""

_LOCAL = {
    *("apfs", "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "hfs", "overlay"),
    *("squashfs", "tmpfs", "xfs", "zfs"),
}
"""File systems whose files are this machine's own, by the names of the system."""

_maps: "weakref.WeakValueDictionary[tuple[Path, int, int, int], mmap.mmap]" = (
    weakref.WeakValueDictionary()
)
"""Those in use, so that the tensors of a file share one."""


def mapped(entry: FileEntry, index: tuple[slice, ...]) -> np.ndarray | None:
    """The part of a tensor at `index` in the page cache; None where it has to be read.

    It has to be where the part is small, or not in one piece, or not aligned as JAX takes it, or on
    a file system that may fail while the mapping is in use.

    Raises:
        InputError: the file ends within the tensor.
    """
    span = entry.span(index)
    if span is None or span.nbytes < _LEAST or span.start % ALIGNMENT:
        return None
    try:
        whole = _map_of(entry.path)
    except OSError:
        return None  # to read it says why, if that fails too
    if whole is None:
        return None
    if span.start + span.nbytes > len(whole):
        raise ends_within(entry)
    _read_ahead(whole, span.start, span.nbytes)
    return (
        np.frombuffer(whole, np.uint8, span.nbytes, span.start)
        .view(entry.dtype)
        .reshape(span.shape)
    )


def _map_of(path: Path) -> mmap.mmap | None:
    """The file as it is now; None where it is not on a disk of this machine."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        known = _maps.get(key)
        if known is None and is_local(path):
            known = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
            _maps[key] = known
    return known


def is_local(path: Path) -> bool:
    real = path.resolve()
    holding = [
        disk for disk in psutil.disk_partitions(all=True) if real.is_relative_to(disk.mountpoint)
    ]
    # Of two on one place the later one hides the earlier.
    longest = max(reversed(holding), key=lambda disk: len(disk.mountpoint), default=None)
    return longest is not None and longest.fstype.lower() in _LOCAL


def _read_ahead(whole: mmap.mmap, start: int, count: int) -> None:
    """Lets the system bring these bytes from the disk while other work goes on."""
    if hasattr(mmap, "MADV_WILLNEED"):
        first = start - start % mmap.PAGESIZE
        whole.madvise(mmap.MADV_WILLNEED, first, start + count - first)
