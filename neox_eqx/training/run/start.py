"""What a run begins with: a checkpoint, and the LoRA adapter that it goes on from."""

import dataclasses

from neox_eqx.checkpoint.adapter import Adapter, check_fits, read_adapter
from neox_eqx.checkpoint.adapter_config import read_base_form
from neox_eqx.checkpoint.checkpoint import Checkpoint
from neox_eqx.checkpoint.fingerprint import fingerprint
from neox_eqx.checkpoint.fit import fitting
from neox_eqx.checkpoint.lora_targets import Targets
from neox_eqx.checkpoint.origin import Origin, find
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.adapt import TARGETS
from neox_eqx.shown import shown
from neox_eqx.training.run.options import TrainingOptions
from neox_eqx.training.update.tuning import FEW_BITS, Tuning


@dataclasses.dataclass(frozen=True)
class Start:
    """The model that is trained, before any of its weights are read."""

    source: Origin
    """Where the checkpoint is."""
    weights: str
    """A hash that tells the weights from others of the same config."""
    config: GPTNeoXConfig
    tuning: Tuning
    """What is trained, with the names of the Linears that LoRA is on."""
    adapter: Adapter | None
    """The adapter that LoRA goes on from, if it does not begin anew."""
    form: str | None
    """The form in few bits that the weights beside LoRA are in."""

    @classmethod
    def of(cls, options: TrainingOptions) -> "Start":
        """What the options ask for.

        Raises:
            InputError: a file is missing or wrong, or cannot be trained as is asked for.
        """
        if options.adapter is None:
            source, adapter, own_form = options.origin.find(options.model or ""), None, None
        else:
            base, words = options.model or options.origin.base, options.origin.tokenizer
            both = find(options.adapter, base=base, tokenizer=words)
            if both.adapter is None:
                raise InputError(f"{options.adapter}: is no LoRA adapter to go on from")
            source, adapter = dataclasses.replace(both, adapter=None), read_adapter(both.adapter)
            own_form = read_base_form(both.adapter)
            if options.quantize and own_form and options.quantize != own_form:
                raise InputError(f"{options.adapter}: was trained beside weights in {own_form}")
        checkpoint = Checkpoint.open_here(source)
        config, tensors = checkpoint.config, fitting(checkpoint)
        if adapter is not None:
            check_fits(adapter, tensors)
            tuning = _tuning_of(adapter, config, options.tuning.lora_dropout)
        else:
            tuning = _tuning(options.tuning, source, config)
        form = checkpoint.form_to_hold(options.quantize or own_form)
        if form is not None and not tuning.lora_rank:
            raise InputError(f"{source.directory}: {FEW_BITS}")
        weights = fingerprint(tensors, first_rows=True)
        name = None if form is None else form.name
        return cls(source, weights, config, tuning, adapter, name)


def _tuning(tuning: Tuning, source: Origin, config: GPTNeoXConfig) -> Tuning:
    if source.adapter is not None and tuning.is_partial:
        raise InputError(
            f"{source.adapter}: is an adapter, beside which no other is trained; go on from it "
            "with --adapter, or make one model of it with neox-eqx convert --to hf"
        )
    if not tuning.lora_rank:
        return tuning
    targets = _targets(Targets.of({"target_modules": _spelt(tuning, config)}), config)
    return dataclasses.replace(tuning, lora_targets=targets)


def _spelt(tuning: Tuning, config: GPTNeoXConfig) -> str | list[str]:
    """The targets as PEFT has them: names, or one text, which is all-linear or an expression."""
    names = list(tuning.lora_targets)
    is_name = len(names) > 1 or Targets(tuple(names)).among(_linears(config))
    return names if is_name else names[0]


def _tuning_of(adapter: Adapter, config: GPTNeoXConfig, dropout: float | None) -> Tuning:
    """The tuning that an adapter comes from.

    Raises:
        InputError: the adapter holds what a run cannot train.
    """
    own = adapter.settings
    ranks = {(own.rank_of(module), own.alpha_of(module)) for module in adapter.pairs}
    if adapter.whole or len(ranks) != 1:
        raise InputError(
            f"{adapter.path}: a run goes on from LoRA alone, of one rank and one alpha; make one "
            "model of this adapter with neox-eqx convert --to hf, and train on that"
        )
    ((rank, alpha),) = ranks
    try:
        targets = _targets(own.targets, config)
    except InputError as error:
        raise InputError(f"{adapter.path}: {error}") from error
    return Tuning(
        lora_rank=rank,
        lora_alpha=float(alpha),
        lora_targets=targets,
        lora_dropout=own.lora_dropout if dropout is None else dropout,
        use_rslora=own.use_rslora,
    )


def _targets(targets: Targets, config: GPTNeoXConfig) -> tuple[str, ...]:
    """The names of the Linears that are meant, which must be the same in all layers."""
    modules = targets.among([*_linears(config), "gpt_neox.embed_in", "embed_out"])
    names = tuple(name for name in TARGETS if any(one.endswith(f".{name}") for one in modules))
    if not modules or len(modules) != len(names) * config.num_hidden_layers:
        raise InputError(
            f"LoRA is trained on {', '.join(TARGETS)}, on those in every layer that are asked "
            f"for; {shown(targets.modules)} names {', '.join(modules)[:200] or 'none of them'}"
        )
    return names


def _linears(config: GPTNeoXConfig) -> list[str]:
    return [
        f"gpt_neox.layers.{layer}.{where}.{name}"
        for layer in range(config.num_hidden_layers)
        for name, where in TARGETS.items()
    ]
