"""The tensors of a checkpoint directory, whichever files hold them."""

from pathlib import Path, PureWindowsPath

from neox_eqx.checkpoint import native, safetensors_file, torch_file
from neox_eqx.checkpoint.entry import LONGEST_NAME, Entry, check_name
from neox_eqx.errors import InputError
from neox_eqx.shown import few, shown
from neox_eqx.small_files import read_json

# In the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_BASE = "base.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def read_entries(directory: Path) -> list[Entry]:
    """The tensors of all weight files of a checkpoint, without their data.

    Raises:
        InputError: there are no weights, or a file or the index is incomplete or corrupt.
    """
    found = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if found is None and (directory / native.PARAMETERS).is_dir():
        return list(native.read_entries(directory / native.PARAMETERS))
    if found is None:
        raise InputError(f"{directory}: has no weights; expected one of {', '.join(WEIGHT_FILES)}")
    path = directory / found
    return _read_sharded(path) if path.suffix == ".json" else read_file(path)


def read_weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, from an index file.

    Raises:
        InputError: not an index, or one that names a file outside its own directory.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: has no weight_map; get the file again")
    odd = sorted({shown(file) for file in weight_map.values() if not _is_plain(file)})
    if odd:
        raise InputError(f"{index}: names what cannot be a file beside it: {few(odd)}")
    for name in weight_map:
        check_name(index, name)
    return weight_map


def _is_plain(file: object) -> bool:
    # As a Windows path, so that neither separator nor a drive gets through on any system.
    return (
        isinstance(file, str)
        and file.isprintable()
        and PureWindowsPath(file).name == file
        and file not in ("", "..")
        and len(file.encode()) <= LONGEST_NAME
    )


def read_file(path: Path) -> list[Entry]:
    """The tensors of one file of weights, without their data.

    Raises:
        InputError: it is corrupt, or holds more than tensors.
    """
    reader = safetensors_file if path.suffix == ".safetensors" else torch_file
    return list(reader.read_entries(path))


def _read_sharded(index: Path) -> list[Entry]:
    weight_map = read_weight_map(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise InputError(f"{index.parent}: lacks files that its index names: {few(missing)}")
    entries = [
        entry
        for shard in shards
        for entry in read_file(index.parent / shard)
        if weight_map.get(entry.name, shard) == shard
    ]
    absent = sorted(weight_map.keys() - {entry.name for entry in entries})
    if absent:
        listed = few([f"{name} in {weight_map[name]}" for name in absent])
        raise InputError(f"{index}: lists tensors that the files lack: {listed}")
    return entries
