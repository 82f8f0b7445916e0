"""The rows of a dataset of Hugging Face: saved here, files in a directory, or on the Hub."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neox_eqx.errors import InputError
from neox_eqx.shown import shown
from neox_eqx.training.data.rows import Row

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SOURCE = re.compile(r"(?P<name>[^:]+)((:(?P<config>[^:\[]+))?:(?P<split>[^:\[]+(\[[^\]]*\])?))?")
_FILES = (".jsonl", ".json", ".parquet")
_SAVED = ("dataset_dict.json", "state.json")


def is_dataset(source: Path) -> bool:
    """Whether it names a dataset and no file: a directory, or what may be one on the Hub."""
    name, *_ = _parts(source)
    if os.path.isdir(name):
        return True
    # Neither a file that is there, nor one that is missing from a folder that is there.
    is_file = any(os.path.exists(path) for path in (source, name, os.path.dirname(name)))
    return bool(_HUB_ID.fullmatch(name)) and not is_file and not name.endswith(_FILES)


def dataset_rows(source: Path) -> Iterator[Row]:
    """The rows of `NAME`, `NAME:SPLIT` or `NAME:CONFIG:SPLIT`, a directory or a Hub id.

    A directory is one that save_to_disk wrote, or holds the files of a dataset as on the Hub. The
    split may be left out where there is one alone, and may be a part, as `train[:1000]`.

    Raises:
        InputError: there is no such dataset or split, or it cannot be read.
    """
    name, config, split = _parts(source)
    if os.path.isdir(name):
        name = os.path.abspath(name)  # The library takes no "." for a directory.
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"{source}: to read a dataset, pip install datasets") from error
    if not sys.stderr.isatty():  # the files that it is sent to would fill with bars
        datasets.disable_progress_bars()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # our own line says what is wrong
    try:
        if any((Path(name) / file).is_file() for file in _SAVED):
            dataset = _saved(datasets, name, split)
        else:
            dataset = _loaded(datasets, name, config, split)
        for number, fields in enumerate(dataset):
            yield Row("row", number, fields)
    except InputError:
        raise
    except Exception as error:  # of the library, of pyarrow, of the network, or of Python
        # This one wraps what is wrong with a file and does not say it.
        wraps = isinstance(error, datasets.exceptions.DatasetGenerationError)
        said = error.__cause__ if wraps else error
        reason = " ".join(str(said).split()).rstrip(".")
        raise InputError(f"{source}: is no dataset that can be loaded: {reason:.300}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def _parts(source: Path) -> tuple[str, str | None, str | None]:
    """Name, config and split."""
    if os.path.isdir(source):
        return str(source), None, None
    match = _SOURCE.fullmatch(str(source))
    return (match["name"], match["config"], match["split"]) if match else (str(source), None, None)


def _saved(datasets: Any, name: str, split: str | None) -> Any:
    dataset = datasets.load_from_disk(name)
    if isinstance(dataset, datasets.DatasetDict):
        return dataset[_only(name, list(dataset), split)]
    if split:
        raise InputError(f"{name}: is one dataset without splits; leave :{split} out")
    return dataset


def _loaded(datasets: Any, name: str, config: str | None, split: str | None) -> Any:
    if split is None:
        split = _only(name, datasets.get_dataset_split_names(name, config), None)
    return datasets.load_dataset(name, config, split=split)


def _only(name: str, splits: list[str], split: str | None) -> str:
    """The split that was asked for, or the only one."""
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        wrong = "holds several splits" if split is None else f"has no split {shown(split)}"
        named = ", ".join(f"{name}:{own}" for own in splits[:10])
        raise InputError(f"{name}: {wrong}; name one of {named}")
    return split
