"""The directory of a checkpoint that is on this machine or on the Hugging Face Hub."""

import fnmatch
import glob
from pathlib import Path

from neox_eqx.checkpoint.files import WEIGHT_FILES, read_weight_map
from neox_eqx.errors import InputError

# What goes with the weights: the config and whatever a tokenizer may be made of.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
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


def resolve(source: str | Path, *, config_only: bool = False) -> Path:
    """A directory that holds the checkpoint; a Hub id is downloaded into the Hub's own cache.

    Without network the cache is enough if it is complete. `config_only` asks for the shape of a
    model and leaves its weights and all else where they are.

    Raises:
        InputError: no such directory or model, or the Hub is out of reach and files are missing.
    """
    path = Path(source)
    try:
        if source and path.is_dir():
            return path
        is_file = path.is_file()
    except OSError as error:
        raise InputError(f"{str(source)[:80]}: cannot be a directory: {error.strerror}") from error
    if is_file:
        raise InputError(f"{source}: is a file; give the directory that holds the checkpoint")
    if not source:
        raise InputError("the model's name is empty; give a checkpoint's directory or a Hub id")
    if isinstance(source, Path) or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such directory; give a checkpoint's directory or a Hub id")
    return _download(source, config_only)


def _download(model_id: str, config_only: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if config_only:
            return Path(huggingface_hub.hf_hub_download(model_id, "config.json")).parent
        # Not list_repo_files, which tries for half a minute where there is no network.
        siblings = huggingface_hub.model_info(model_id).siblings or []
        stored = [sibling.rfilename for sibling in siblings]
        wanted = _small_files(stored) + _weight_files(model_id, stored)
        names = [glob.escape(name) for name in wanted]  # They are taken for patterns.
        return Path(huggingface_hub.snapshot_download(model_id, allow_patterns=names))
    except InputError:
        raise
    except HFValidationError as error:
        raise InputError(f"{model_id}: is neither a directory nor a Hub id") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{model_id}: no such directory, and no such model on the Hub that you may read; "
            "check the name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # Whatever keeps the Hub from answering, the cache may serve.
        return _cached(model_id, error, config_only)


def _small_files(stored: list[str]) -> list[str]:
    return [
        name
        for name in stored
        if "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in SMALL_FILES)
    ]


def _weight_files(model_id: str, stored: list[str]) -> list[str]:
    """The files of one format only: many repositories hold the weights twice."""
    import huggingface_hub

    found = next((name for name in WEIGHT_FILES if name in stored), None)
    if found is None:
        raise InputError(f"{model_id}: has no weights; expected one of {', '.join(WEIGHT_FILES)}")
    if not found.endswith(".json"):
        return [found]
    index = Path(huggingface_hub.hf_hub_download(model_id, found))
    return [found, *sorted(set(read_weight_map(index).values()))]


def _cached(model_id: str, error: Exception, config_only: bool) -> Path:
    """The newest cached directory of a model, if nothing in it is missing."""
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(model_id, "config.json")
    directory = Path(config).parent if isinstance(config, str) else None
    missing = _missing_files(directory, config_only)
    if directory is None or missing:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise InputError(
            f"{model_id}: the Hub did not give it ({reason}) and the local cache lacks "
            f"{', '.join(missing)}; run this once with network, or give a directory that holds "
            "these files"
        ) from error
    return directory


def _missing_files(directory: Path | None, config_only: bool) -> list[str]:
    if config_only:
        return ["config.json"] if directory is None else []
    if directory is None:
        return ["config.json", f"weights ({' or '.join(WEIGHT_FILES)})"]
    found = next((name for name in WEIGHT_FILES if (directory / name).exists()), None)
    if found is None:
        return [f"weights ({' or '.join(WEIGHT_FILES)})"]
    if not found.endswith(".json"):
        return []
    shards = sorted(set(read_weight_map(directory / found).values()))
    return [shard for shard in shards if not (directory / shard).exists()]
