"""The same completions from transformers' `generate` and from our loop, as token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, GPTNeoXForCausalLM

from neox_eqx.generation.decoding.run import Request, Row, run
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.generation.vocabulary import TokenBytes, Vocabulary
from neox_eqx.model.neox import GPTNeoX

Prompts = list[tuple[int, ...]]

# An id that no vocabulary here has. Without any, transformers takes the EOS of the config.
ENDLESS = 10**6


def random_prompts(vocab_size: int, lengths: Sequence[int], *, seed: int = 0) -> Prompts:
    """Prompts of these lengths."""
    random = np.random.default_rng(seed)
    return [tuple(random.integers(0, vocab_size, length).tolist()) for length in lengths]


def request(prompt: Sequence[int], defaults: dict[str, Any] | None = None, **own: Any) -> Request:
    """A request with these options; greedy unless a temperature is given."""
    return Request(tuple(prompt), GenerationOptions(**own).resolve(defaults or {}))


def ours(
    model: GPTNeoX,
    requests: Sequence[Request],
    eos: Sequence[int] = (),
    *,
    allowed: np.ndarray | None = None,
    token_bytes: TokenBytes = (),
    **settings: Any,
) -> list[Row]:
    """The finished rows."""
    *_, rows = run(model, requests, Vocabulary(eos, allowed, token_bytes), **settings)
    return rows


def tokens(rows: Sequence[Row]) -> Prompts:
    return [row.tokens for row in rows]


def theirs(
    model: GPTNeoXForCausalLM,
    prompts: Prompts,
    new: int,
    eos: Sequence[int] = (),
    **settings: Any,
) -> tuple[Prompts, list[float]]:
    """What transformers generates greedily from one left-padded batch, each row up to its EOS.

    With it, the sums of the log-probabilities under the logits before any processing.
    `settings` are more of its GenerationConfig.
    """
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=new,
        pad_token_id=0,
        eos_token_id=list(eos) or [ENDLESS],
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )
    output = model.generate(ids, attention_mask=mask, generation_config=config)
    logprobs = torch.stack(output.logits).double().log_softmax(-1)
    rows, sums = [], []
    for row, generated in enumerate(output.sequences[:, longest:].tolist()):
        ends = [place for place, token in enumerate(generated) if token in eos]
        kept = generated[: ends[0] + 1 if ends else None]
        rows.append(tuple(kept))
        sums.append(float(sum(logprobs[step, row, token] for step, token in enumerate(kept))))
    return rows, sums


def theirs_alone(
    model: GPTNeoXForCausalLM, prompts: Prompts, new: int, eos: Sequence[int] = ()
) -> tuple[Prompts, list[float]]:
    """What `theirs` gives, each prompt in a batch of its own."""
    each = [theirs(model, [prompt], new, eos) for prompt in prompts]
    return [rows[0] for rows, _ in each], [sums[0] for _, sums in each]
