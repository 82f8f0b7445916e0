"""Which tensors of an EleutherAI checkpoint's ranks make up each parameter."""

from neox_eqx.checkpoint.entry import Entry
from neox_eqx.convert.neox.files import Ranks
from neox_eqx.convert.neox.names import NeoxParameter, is_dropped, neox_parameters
from neox_eqx.convert.neox.settings import Settings
from neox_eqx.errors import InputError
from neox_eqx.shown import few, shown


def find_parameters(ranks: Ranks, settings: Settings) -> dict[NeoxParameter, tuple[Entry, ...]]:
    """The tensors of each parameter, one a rank, in the order in which transformers has them.

    Raises:
        InputError: ranks, layers or tensors are missing or too many, or differ between ranks.
    """
    _check_count(ranks, settings)
    wanted = _wanted(ranks, settings)
    _check_rest(
        ranks, {(parameter.number, name) for parameter in wanted for name in parameter.names}
    )
    found, missing = {}, []
    for parameter in wanted:
        keys = [(parameter.number, name) for name in _read_names(parameter, settings)]
        stored = [[tensors[key] for key in keys if key in tensors] for tensors in ranks.tensors]
        missing += [
            f"{keys[0][1]} in {ranks.where(parameter.number, rank).name}"
            for rank, entries in enumerate(stored)
            if len(entries) != 1
        ]
        found[parameter] = tuple(entry for entries in stored for entry in entries)
    if missing:
        raise InputError(f"{ranks.step}: lacks {few(missing)}; get the checkpoint again")
    for entries in found.values():
        _check_alike(entries)
    return found


def _check_count(ranks: Ranks, settings: Settings) -> None:
    """Checks that there are as many ranks and layers as the settings say."""
    count = settings.values.get("model_parallel_size", len(ranks.tensors))
    if count != len(ranks.tensors):
        raise InputError(
            f"{ranks.step}: has the files of {len(ranks.tensors)} ranks, and model_parallel_size "
            f"is {shown(count, 20)} in {settings.where}; get the missing files, or correct it"
        )
    numbers = {number for number, name in ranks.tensors[0] if name in _NORMS}
    layers = settings.values.get("num_layers")
    if not isinstance(layers, int) or numbers and layers + 3 not in numbers:
        stored = f"{max(numbers) - 3} layers" if numbers else "no final norm"
        raise InputError(
            f"{settings.where}: num_layers is {shown(layers, 20)}, and {ranks.step} has {stored}; "
            "give the settings of this run"
        )


_NORMS = ("norm.weight", "norm.norm.weight", "norm.scale")


def _wanted(ranks: Ranks, settings: Settings) -> list[NeoxParameter]:
    """The parameters that a model of these settings has."""
    values = settings.values
    wanted = neox_parameters(min(values["num_layers"], len(ranks.tensors[0])))
    if not values.get("no_weight_tying", False):
        wanted = wanted[:-1]
    if not values.get("use_bias_in_attn_linear", True):
        wanted = [
            parameter
            for parameter in wanted
            if not parameter.name.endswith(("value.bias", "attention.dense.bias"))
        ]
    return wanted


def _read_names(parameter: NeoxParameter, settings: Settings) -> tuple[str, ...]:
    """The names to read a parameter under.

    With `gpt_j_tied` one norm feeds both branches of a layer. The other norm is stored, but feeds
    none.
    """
    values = settings.values
    tied = values.get("gpt_j_residual") and values.get("gpt_j_tied")
    if not tied or values.get("te_layernorm_mlp"):
        return parameter.names
    stored = tuple(name.replace("post_attention_", "input_") for name in parameter.names)
    return tuple(name for name in stored if not name.startswith("mlp.layer_norm_"))


def _check_rest(ranks: Ranks, known: set[tuple[int, str]]) -> None:
    unknown = [
        f"{name:.80} in {entry.path.name}"
        for tensors in ranks.tensors
        for (number, name), entry in tensors.items()
        if (number, name) not in known and not is_dropped(name)
    ]
    if unknown:
        raise InputError(
            f"{ranks.step}: holds {few(unknown)}, for which Hugging Face's GPT-NeoX with these "
            "settings has no place; check the settings"
        )


def _check_alike(entries: tuple[Entry, ...]) -> None:
    first = entries[0]
    for entry in entries[1:]:
        if (entry.shape, entry.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"{entry.path}: {entry.name} is {entry.dtype} {list(entry.shape)}, and "
                f"{first.dtype} {list(first.shape)} in {first.path.name}; the ranks must be of "
                "one step of one run"
            )
