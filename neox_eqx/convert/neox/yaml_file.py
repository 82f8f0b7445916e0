"""A YAML file of settings."""

from pathlib import Path
from typing import Any

import yaml

from neox_eqx.errors import InputError
from neox_eqx.small_files import read_text

_MOST_BYTES = 1_000_000
"""The settings of a real run have some thousand."""
_MOST_VALUES = 20_000
"""Values that an alias repeats count each time. The settings of a real run have some hundred."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file by their names; of an empty file none.

    Raises:
        InputError: it cannot be read, is too large, or holds no settings by name.
    """
    text = read_text(path, _MOST_BYTES)
    try:
        values = yaml.load(text, _Loader)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # What is no number or date by its tag fails in any way at all.
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not valid YAML: {reason:.200}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path}: holds no settings by name; remove it from beside the checkpoint")
    return values


class _Loader(yaml.SafeLoader):
    """PyYAML's, which counts the values before it makes any."""

    def construct_document(self, node: yaml.Node) -> Any:
        _check_bounded(node)
        return super().construct_document(node)


def _check_bounded(root: yaml.Node) -> None:
    """Refuses aliases that stand for more values than settings have.

    A few lines of aliases of aliases may stand for more than any memory holds, and an alias within
    what it repeats stands for values without end.
    """
    nodes, count = [root], 0
    while nodes:
        node = nodes.pop()
        count += 1
        if count > _MOST_VALUES:
            raise InputError(
                f"stands for more than {_MOST_VALUES} values, which settings never have; "
                "write out its aliases"
            )
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
