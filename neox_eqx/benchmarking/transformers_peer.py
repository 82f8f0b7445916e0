"""transformers generating and scoring with the weights of one of our models."""

import os
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from neox_eqx.checkpoint.names import HEAD, parameters
from neox_eqx.model.neox import GPTNeoX

if TYPE_CHECKING:
    import torch

NEEDED = {"transformers": "transformers", "torch": "torch"}
"""Modules, and their names for pip."""


class TransformersPeer:
    """transformers' model in the dtype of our computation, on as many cores as this process has.

    Where our parameters are in this dtype, it has their memory and no copy.
    """

    def __init__(self, model: GPTNeoX):
        import torch
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        with torch.device("meta"):
            self._model = GPTNeoXForCausalLM(GPTNeoXConfig(**model.config.to_hf()))
        self._model.load_state_dict(_state(model), assign=True)
        # What has no entry in a checkpoint (rotary frequencies) was made on the meta device.
        fresh = type(self._model.gpt_neox.rotary_emb)(self._model.config)
        self._model.gpt_neox.rotary_emb = fresh
        self._model.tie_weights()
        self._model.eval()

    def generate(
        self,
        prompts: np.ndarray,
        count: int,
        *,
        num_beams: int = 1,
        repetition_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        bad_words_ids: list[list[int]] | None = None,
    ) -> tuple[float, float, np.ndarray]:
        """Seconds to the first token, seconds for the rest, and the tokens; it never stops early.

        Greedy, or with beams; the options are transformers' own.
        """
        import torch
        from transformers import StoppingCriteriaList

        clock = _FirstTokenClock()
        ids = torch.from_numpy(prompts)
        self._model.generation_config.eos_token_id = None
        start = time.perf_counter()
        with torch.no_grad():
            tokens = self._model.generate(  # type: ignore[misc]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
                num_beams=num_beams,
                repetition_penalty=repetition_penalty,
                no_repeat_ngram_size=no_repeat_ngram_size,
                bad_words_ids=bad_words_ids,
            )
        end = time.perf_counter()
        assert clock.first is not None
        return clock.first - start, end - clock.first, tokens[:, prompts.shape[1] :].numpy()

    def logprobs(self, texts: list[list[int]]) -> list[np.ndarray]:
        """The log-probability of each token after the first, of texts in one padded batch."""
        import torch

        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        mask = torch.tensor(
            [[position < len(text) for position in range(longest)] for text in texts]
        )
        with torch.no_grad():
            logits = self._model(ids, attention_mask=mask.long()).logits
        scores = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].numpy()
        return [row[: len(text) - 1] for row, text in zip(scores, texts, strict=True)]


class _FirstTokenClock:
    """A stopping criterion: it is asked after each new token, and never stops."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(
        self, input_ids: "torch.Tensor", scores: "torch.Tensor", **kwargs: Any
    ) -> "torch.Tensor":
        import torch

        if self.first is None:
            self.first = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def _state(model: GPTNeoX) -> "dict[str, torch.Tensor]":
    state = {}
    for parameter in parameters(model):
        layers = np.asarray(parameter.array).astype(model.dtype)
        for name, array in zip(
            parameter.names, layers if parameter.stacked else [layers], strict=True
        ):
            state["lm_head.weight" if name == HEAD else name] = _tensor(array)
    if model.embed_out is None:
        state["lm_head.weight"] = state["gpt_neox.embed_in.weight"]
    return state


def _tensor(array: np.ndarray) -> "torch.Tensor":
    import torch

    bits = {2: np.int16, 4: np.int32}[array.dtype.itemsize]
    with warnings.catch_warnings():
        # The memory is JAX's and read-only; nothing writes to a model that only generates.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensor = torch.from_numpy(array.view(bits))
    return tensor.view(getattr(torch, array.dtype.name))
