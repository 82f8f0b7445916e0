"""Which parameters a run trains."""

import dataclasses

from neox_eqx.errors import InputError

FEW_BITS = "weights in few bits stay as they are, and only LoRA is trained beside; add lora_rank"
"""What is said where something else is to be trained."""
_SIZES = ("lora_rank", "prompt_tokens", "prefix_tokens")


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is trained: all parameters, or else LoRA, a soft prompt or a prefix.

    Raises:
        InputError: several are asked for, a number is out of its range, or an option has no use.
    """

    lora_rank: int = 0
    """Train only matrices of this rank that are added to the layers' own; 0 for none."""
    lora_alpha: float = 8.0
    """LoRA adds its product times alpha / rank."""
    use_rslora: bool = False
    """Add it times alpha / √rank instead."""
    lora_dropout: float | None = None
    """Share of its inputs that LoRA drops while it learns; none if not given."""
    lora_targets: tuple[str, ...] = ("query_key_value",)
    """Of query_key_value, dense, dense_h_to_4h and dense_4h_to_h, those that LoRA is on, or
    all-linear, or as PEFT spells its target_modules."""
    prompt_tokens: int = 0
    """Train only the embeddings of so many positions before the text; 0 for none."""
    prefix_tokens: int = 0
    """Train only the keys and values of so many positions before the text; 0 for none."""
    prompt_text: str = ""
    """What a soft prompt or a prefix begins as; tokens at random if not given."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in _SIZES}
        for name, size in sizes.items():
            if size < 0:
                raise InputError(f"{name} must not be below 0, not {size}")
        if sum(size > 0 for size in sizes.values()) > 1:
            raise InputError(f"of {', '.join(_SIZES)} only one can be above 0")
        if not self.lora_alpha > 0:
            raise InputError(f"lora_alpha must be above 0, not {self.lora_alpha}")
        if not self.lora_targets:
            raise InputError("lora_targets names none")
        if len(set(self.lora_targets)) < len(self.lora_targets):
            raise InputError(f"lora_targets names one twice: {', '.join(self.lora_targets)}")
        if not 0 <= (self.lora_dropout or 0) < 1:
            raise InputError(f"lora_dropout must be from 0 to below 1, not {self.lora_dropout}")
        for name in ("lora_alpha", "lora_targets", "use_rslora"):
            if not self.lora_rank and getattr(self, name) != getattr(Tuning, name):
                raise InputError(f"{name} is of use with lora_rank only")
        if self.prompt_text and not self.positions:
            raise InputError("prompt_text is of use with prompt_tokens or prefix_tokens only")

    @property
    def is_partial(self) -> bool:
        """Whether the model's own parameters stay as they are."""
        return any(getattr(self, name) for name in _SIZES)

    @property
    def positions(self) -> int:
        """How many positions stand before each text, and count in its length."""
        return self.prompt_tokens or self.prefix_tokens
