"""The YAML files with the settings of an EleutherAI run."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neox_eqx.convert.neox.yaml_file import read_yaml
from neox_eqx.errors import InputError
from neox_eqx.shown import few, shown

SUFFIXES = (".yml", ".yaml")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, keys with underscores, and the files that they are from."""

    values: Mapping[str, Any]
    files: tuple[Path, ...]
    where: Path
    """The file that errors name."""


def read_settings(step: Path, root: Path, states: Path, arguments: Mapping[str, Any]) -> Settings:
    """The settings of a checkpoint; its step or its root has them in `configs/` or beside it.

    Without such files they are the `arguments` in the file `states`, if those are complete: most
    runs store a few sizes only, and with defaults for the rest it would be another model.

    Raises:
        InputError: there are none, a file is no YAML of settings, or two of them disagree.
    """
    folders = dict.fromkeys((step / "configs", root / "configs", step, root))
    found = next(filter(None, map(_yaml_files, folders)), ())
    if not found and "pos_emb" in arguments:
        return Settings(arguments, (), states)
    if not found:
        raise InputError(
            f"{step}: has no settings beside it; put the .yml files that the model was trained "
            f"with into {step / 'configs'}"
        )
    values: dict[str, Any] = {}
    for path in found:
        for key, value in _read_settings(path).items():
            if values.setdefault(key, value) != value:
                raise InputError(
                    f"{path}: {key} is {shown(value)}, and {shown(values[key])} in another file "
                    "beside it; keep only those of this run"
                )
    return Settings(values, found, found[0] if len(found) == 1 else found[0].parent)


def check_representable(settings: Settings) -> None:
    """Refuses what Hugging Face's GPT-NeoX has no place for, by the name of the setting.

    Raises:
        InputError: there are some; the message names them all.
    """
    values = settings.values
    wrong = [
        f"{key} {shown(values.get(key, default), 60)} (only {' or '.join(map(repr, possible))})"
        for key, (default, possible) in _POSSIBLE.items()
        if values.get(key, default) not in possible
    ]
    kinds = set(_texts(values.get("attention_config"))) - {"global", "flash"}
    if kinds:
        wrong.append(f"attention_config with {few(sorted(kinds))} (only 'global' or 'flash')")
    soft = values.get("soft_prompt_tuning")
    if isinstance(soft, Mapping) and soft.get("enabled", True):
        wrong.append("soft_prompt_tuning (only without)")
    if values.get("num_unique_layers") not in (None, values.get("num_layers")):
        wrong.append(f"num_unique_layers {shown(values['num_unique_layers'])} (only num_layers)")
    if values.get("te_layernorm_mlp") and values.get("layernorm_epsilon", 1e-5) != 1e-5:
        # Transformer Engine's fused norm has 1e-5 whatever the others have.
        wrong.append(
            f"te_layernorm_mlp with layernorm_epsilon {shown(values['layernorm_epsilon'], 60)}"
        )
    if wrong:
        raise InputError(
            f"{settings.where}: Hugging Face's GPT-NeoX cannot represent {'; '.join(wrong)}; "
            "such a model cannot be converted"
        )


# For each setting its default in EleutherAI's code, and the values that Hugging Face's model has.
_POSSIBLE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "model_arch": ("gpt2", ("gpt2",)),
    "train_impl": ("normal", ("normal", "dpo", "kto", "reinforce")),
    "pos_emb": ("learned", ("rotary",)),
    "norm": ("layernorm", ("layernorm", "te_layernorm")),
    "activation": ("gelu", ("gelu", "relu", "silu", "swish")),
    "mlp_type": ("regular", ("regular",)),
    "use_bias_in_mlp": (True, (True,)),
    "use_bias_in_norms": (True, (True,)),
    "use_qk_layernorm": (False, (False,)),
    "sliding_window_width": (None, (None,)),
    "use_mup": (False, (False,)),
    "num_experts": (1, (0, 1, None)),
    "moe_num_experts": (1, (0, 1, None)),
}


def _yaml_files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES))


def _read_settings(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in read_yaml(path).items():
        name = key.replace("-", "_")
        if settings.setdefault(name, _number(value)) != _number(value):
            raise InputError(f"{path}: sets {name} twice, with - and with _; remove one")
    return settings


def _number(value: Any) -> Any:
    """YAML 1.1 takes `1e-5`, without a point, for a text; NeoX's users mean the number."""
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
