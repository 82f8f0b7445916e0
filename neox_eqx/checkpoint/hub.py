"""The directory of a checkpoint that is on this machine or on the Hugging Face Hub."""

import contextlib
import dataclasses
import fnmatch
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from neox_eqx.checkpoint.files import ADAPTER_CONFIG, ADAPTER_FILES, WEIGHT_FILES, read_weight_map
from neox_eqx.errors import InputError
from neox_eqx.shown import few, shown

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.vocab",
    "chat_template*",
)
# Chat templates by name, as transformers saves them.
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
# What goes with the weights: the configs and whatever a tokenizer may be made of.
SMALL_FILES = ("config.json", GENERATION_CONFIG, *TOKENIZER_FILES)

Wanted = Literal["all", "config", "tokenizer"]
# One of these is there; it is asked for first, and all else is read at the commit that it has.
_FIRST_FILES: dict[Wanted, tuple[str, ...]] = {
    "all": ("config.json", ADAPTER_CONFIG),
    "config": ("config.json", ADAPTER_CONFIG),
    "tokenizer": ("tokenizer_config.json", "tokenizer.json", "config.json"),
}


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The directory of a model, and what it is called where it was found."""

    directory: Path
    name: str
    """The Hub id, or the whole path of a directory that was here."""
    revision: str | None = None
    """The branch, tag or commit of the Hub that was asked for."""
    commit: str | None = None
    """The 40 hexadecimal digits of the Hub's commit."""


class _TerminalBar(tqdm):
    """A bar on terminals only: the Hub's own would fill a file that stderr is sent to."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **({"disable": None} | kwargs))


def resolve(source: str | Path, revision: str | None = None, *, wanted: Wanted = "all") -> Resolved:
    """A directory that holds the checkpoint; a Hub id is downloaded into the Hub's own cache.

    A branch, tag or commit of a Hub id is its `revision`, or stands after it as in ID@step3000.
    Without network the cache is enough if it is complete. `wanted` are all files of a model, its
    config alone, or those of its tokenizer.

    Raises:
        InputError: no such directory, model or revision, or the Hub is out of reach and files are
            missing.
    """
    path = Path(os.path.expanduser(source))
    try:
        if source and path.is_dir():
            if revision is not None:
                raise InputError(f"{source}: is a directory, and has no revision {shown(revision)}")
            return Resolved(path, str(path.resolve()))
        is_file = path.is_file()
    except OSError as error:
        raise InputError(f"{str(source)[:80]}: cannot be a directory: {error.strerror}") from error
    if is_file:
        raise InputError(f"{source}: is a file; give the directory that holds the checkpoint")
    if not source:
        raise InputError("the model's name is empty; give a checkpoint's directory or a Hub id")
    model_id, at, own = str(source).partition("@")
    if at and Path(os.path.expanduser(model_id)).is_dir():
        raise InputError(f"{model_id}: is a directory, and has no revision {shown(own)}")
    if isinstance(source, Path) or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such directory; give a checkpoint's directory or a Hub id")
    if at and revision is not None:
        raise InputError(f"{source}: names a revision, and {shown(revision)} is another; give one")
    if at and not own:
        raise InputError(f"{source}: names no revision after the @")
    return _download(model_id, own or revision, wanted)


def _download(model_id: str, revision: str | None, wanted: Wanted) -> Resolved:
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with _quiet():
            return _downloaded(model_id, revision, wanted)
    except InputError:
        raise
    except HFValidationError as error:
        raise InputError(f"{model_id}: is neither a directory nor a Hub id") from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"{model_id}: has no revision {shown(revision)}; its branches and tags are at "
            f"https://huggingface.co/{model_id}/tree/main"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{model_id}: no such directory, and no such model on the Hub that you may read; "
            "check the name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # Whatever keeps the Hub from answering, the cache may serve.
        return _cached(model_id, revision, error, wanted)


def _downloaded(model_id: str, revision: str | None, wanted: Wanted) -> Resolved:
    import huggingface_hub

    # First, for without network all else tries for half a minute.
    info = huggingface_hub.model_info(model_id, revision=revision)
    first = _first_file(model_id, revision, _names(info), wanted)
    # Only this writes down which commit the revision is, for when there is no network.
    directory = huggingface_hub.snapshot_download(
        model_id, revision=revision, allow_patterns=first, tqdm_class=_TerminalBar
    )
    resolved = Resolved(Path(directory), model_id, revision, Path(directory).name)
    if info.sha != resolved.commit:  # Somebody has just pushed.
        info = huggingface_hub.model_info(model_id, revision=resolved.commit)
    files = _wanted_files(model_id, resolved, _names(info), wanted)
    patterns = [glob.escape(name) for name in files]  # They are taken for patterns.
    huggingface_hub.snapshot_download(
        model_id, revision=resolved.commit, allow_patterns=patterns, tqdm_class=_TerminalBar
    )
    return resolved


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own words on why the Hub does not answer: our error says it."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _names(info: Any) -> list[str]:
    return [sibling.rfilename for sibling in info.siblings or []]


def _first_file(model_id: str, revision: str | None, stored: list[str], wanted: Wanted) -> str:
    found = next((name for name in _FIRST_FILES[wanted] if name in stored), None)
    if found is None:
        at = f" at revision {shown(revision)}" if revision else ""
        raise InputError(f"{model_id}: has no {' or '.join(_FIRST_FILES[wanted])}{at}")
    return found


def _wanted_files(
    model_id: str, resolved: Resolved, stored: list[str], wanted: Wanted
) -> list[str]:
    _first_file(model_id, resolved.commit, stored, wanted)  # which a push may have taken away
    if wanted == "config":
        return [name for name in _FIRST_FILES[wanted] if name in stored]
    patterns = SMALL_FILES if wanted == "all" else TOKENIZER_FILES
    small = [
        name
        for name in stored
        if fnmatch.fnmatch(name, MORE_TEMPLATES)
        or ("/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in patterns))
    ]
    if wanted == "tokenizer":
        return small
    if ADAPTER_CONFIG in stored:
        small += [ADAPTER_CONFIG]
    return small + _weight_files(model_id, resolved, stored)


def _weight_files(model_id: str, resolved: Resolved, stored: list[str]) -> list[str]:
    """The files of one format only: many repositories hold the weights twice."""
    import huggingface_hub

    names = ADAPTER_FILES if ADAPTER_CONFIG in stored else WEIGHT_FILES
    found = next((name for name in names if name in stored), None)
    if found is None:
        raise InputError(f"{model_id}: has no weights; expected one of {', '.join(names)}")
    if not found.endswith(".json"):
        return [found]
    index = huggingface_hub.hf_hub_download(model_id, found, revision=resolved.commit)
    return [found, *sorted(set(read_weight_map(Path(index)).values()))]


def _cached(model_id: str, revision: str | None, error: Exception, wanted: Wanted) -> Resolved:
    """The cached directory of a revision, as it was last seen, if nothing in it is missing."""
    import huggingface_hub

    files = _FIRST_FILES[wanted]
    paths = [
        huggingface_hub.try_to_load_from_cache(model_id, file, revision=revision) for file in files
    ]
    directory = next((Path(path).parent for path in paths if isinstance(path, str)), None)
    missing = [files[0]] if directory is None else []
    if wanted == "all":
        missing += _missing_weights(directory)
    if directory is None or missing:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        at = f" at revision {shown(revision)}" if revision else ""
        raise InputError(
            f"{model_id}: the Hub did not give it{at} ({reason}) and the local cache lacks "
            f"{few(missing)}; run this once with network, or give a directory that holds "
            "these files"
        ) from error
    return Resolved(directory, model_id, revision, directory.name)


def _missing_weights(directory: Path | None) -> list[str]:
    if directory is None:
        return [f"weights ({' or '.join(WEIGHT_FILES)})"]
    names = ADAPTER_FILES if (directory / ADAPTER_CONFIG).exists() else WEIGHT_FILES
    found = next((name for name in names if (directory / name).exists()), None)
    if found is None:
        return [f"weights ({' or '.join(names)})"]
    if not found.endswith(".json"):
        return []
    shards = sorted(set(read_weight_map(directory / found).values()))
    return [shard for shard in shards if not (directory / shard).exists()]
