"""The files of an EleutherAI checkpoint, and the tensors of each of its ranks.

latest                                        the newest step's name
global_step150000/layer_02-model_00-…         a module's tensors in a rank (pipeline layout)
global_step150000/mp_rank_00_model_states.pt  all tensors of a rank (sequential layout)
global_step150000/configs/*.yml               the settings, or in configs/ beside `latest`
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.checkpoint.torch_file import read_states
from neox_eqx.errors import InputError
from neox_eqx.shown import few, shown
from neox_eqx.small_files import read_bytes

LAYER_FILE = "layer_{number:02}-model_{rank:02}-model_states.pt"
RANK_FILE = "mp_rank_{rank:02}_model_states.pt"

_LAYER_FILE = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_STEP = re.compile(r"global_step\d+")
_KEY = re.compile(r"sequential\.(\d+)\.(.+)")

Tensors = Mapping[tuple[int, str], Entry]
"""The tensors of a rank by their module's number and their name within it."""


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The tensors of all ranks of tensor parallelism, and what is known of the run beside them.

    `arguments` are the settings that the states hold, rarely all of them. `where` gives the file
    in which a rank has a module, or would have it.
    """

    tensors: tuple[Tensors, ...]
    arguments: dict[str, Any]
    files: tuple[Path, ...]
    step: Path
    is_pipeline: bool

    def where(self, number: int, rank: int = 0) -> Path:
        name = LAYER_FILE if self.is_pipeline else RANK_FILE
        return self.step / name.format(number=number, rank=rank)


def find_step(directory: Path) -> tuple[Path, Path] | None:
    """The checkpoint's directory, with `latest`, and the one of a step's files in it.

    `directory` may be either. The two are the same where there is no `latest` above a step. Returns
    None where this is no EleutherAI checkpoint.

    Raises:
        InputError: `latest` names no directory beside it, or is absent among several steps.
    """
    if _has_weights(directory):
        return _with_root(directory)
    latest = directory / "latest"
    if latest.is_file():
        name = read_bytes(latest).decode(errors="replace").strip()
        if not re.fullmatch(r"\w[\w.-]{,200}", name) or not (directory / name).is_dir():
            raise InputError(f"{latest}: names {shown(name)}, which is no directory beside it")
        return directory, directory / name
    steps = [match[0] for match in _matches(_STEP, _names(directory))]
    if len(steps) > 1:
        raise InputError(f"{directory}: has no file `latest`; give one of {few(steps)} in it")
    return (directory, directory / steps[0]) if steps else None


def _with_root(step: Path) -> tuple[Path, Path]:
    """A step and its root, by the path as given where that tells what is above the step."""
    unclear = step.name in ("", "..") or step.is_symlink()
    for path in (step.resolve(), step) if unclear else (step,):
        if (path.parent / "latest").is_file():
            return path.parent, path
    return step, step


def read_ranks(step: Path) -> Ranks:
    """The tensors of a step's files, without their data.

    Raises:
        InputError: a rank's file is missing, corrupt or of another step, or holds more than a
            training run leaves behind.
    """
    names = _names(step)
    experts = next((name for name in names if "expert" in name and name.endswith(".pt")), None)
    if experts:
        raise InputError(f"{step / experts}: holds experts, which Hugging Face's GPT-NeoX has not")
    layers = {
        (int(match[1]), int(match[2])): step / match[0] for match in _matches(_LAYER_FILE, names)
    }
    if layers:
        return _read_pipeline(step, layers)
    ranks = {int(match[1]): step / match[0] for match in _matches(_RANK_FILE, names)}
    if not ranks:
        example = RANK_FILE.format(rank=0)
        raise InputError(
            f"{step}: has no weights; expected {example} or {LAYER_FILE.format(number=0, rank=0)}"
        )
    return _read_sequential(step, ranks)


def _has_weights(directory: Path) -> bool:
    names = _names(directory)
    return any(_matches(_LAYER_FILE, names)) or any(_matches(_RANK_FILE, names))


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}") from error


def _matches(pattern: re.Pattern[str], names: list[str]) -> list[re.Match[str]]:
    return [match for match in map(pattern.fullmatch, names) if match]


def _read_pipeline(step: Path, layers: dict[tuple[int, int], Path]) -> Ranks:
    # Ranks are counted, so that one which is missing in between is found below.
    numbers, count = sorted({number for number, _ in layers}), len({rank for _, rank in layers})
    wanted = [(number, rank) for number in numbers for rank in range(count)]
    names = [LAYER_FILE.format(number=number, rank=rank) for number, rank in wanted]
    _check_present(step, [n for n, key in zip(names, wanted, strict=True) if key not in layers])
    tensors: list[dict[tuple[int, str], Entry]] = [{} for _ in range(count)]
    for number, rank in wanted:
        entries, _ = read_states(layers[number, rank])
        tensors[rank] |= {(number, entry.name): entry for entry in entries}
    return Ranks(tuple(tensors), {}, tuple(layers[key] for key in wanted), step, is_pipeline=True)


def _read_sequential(step: Path, ranks: dict[int, Path]) -> Ranks:
    wanted = range(len(ranks))
    _check_present(step, [RANK_FILE.format(rank=rank) for rank in wanted if rank not in ranks])
    tensors, states = [], []
    for rank in wanted:
        entries, beside = read_states(ranks[rank])
        tensors.append({_key(ranks[rank], entry.name): entry for entry in entries})
        states.append(beside)
    first = states[0]
    for rank, beside in enumerate(states):
        for key in ("iteration", "global_steps"):
            if beside.get(key) != first.get(key):
                raise InputError(
                    f"{ranks[rank]}: is of {key} {beside.get(key)}, and {ranks[0].name} of "
                    f"{first.get(key)}; the ranks must be of one step of one run"
                )
    arguments = first["args"] if isinstance(first.get("args"), dict) else {}
    files = tuple(ranks[rank] for rank in wanted)
    return Ranks(tuple(tensors), arguments, files, step, is_pipeline=False)


def _key(path: Path, name: str) -> tuple[int, str]:
    match = _KEY.fullmatch(name)
    if match is None:
        raise InputError(f"{path}: holds {name:.80}, and no sequence of modules; not from GPT-NeoX")
    return int(match[1]), match[2]


def _check_present(step: Path, missing: list[str]) -> None:
    if missing:
        raise InputError(f"{step}: lacks {few(missing)}; get the checkpoint again")
