"""Texts that are read and written in chunks, and what transformers says of them as a whole."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from neox_eqx.generation.chunks.chunk import Chunk
from neox_eqx.generation.chunks.chunk_result import ChunkResult
from neox_eqx.generation.chunks.read_write import generate, prefill
from neox_eqx.generation.options.generation_options import GenerationOptions
from neox_eqx.model.neox import GPTNeoX
from tests.generation.completions import random_prompts
from tests.hf_models import config_json, hf_logits

VOCAB = 96
CONFIG = config_json(32, 4, vocab_size=VOCAB, max_position_embeddings=160, rotary_pct=0.5)
# Random text meets one of them every few tokens.
EOS = tuple(range(20))
WARM = GenerationOptions(temperature=1.5, top_k=0, seed=7)
GREEDY = GenerationOptions(temperature=0)
MIXED = [WARM, WARM, GREEDY, GREEDY, WARM, WARM]
# Only the order of float32 sums differs, from transformers' too. Measured: at most 1.8e-6.
TOLERANCE = 1e-5
CANDIDATES = 3


def random_chunk(*lengths: int, seed: int = 0) -> Chunk:
    return Chunk.of(random_prompts(VOCAB, lengths, seed=seed))


def story(model: GPTNeoX) -> list[ChunkResult]:
    """A prompt, three tasks after it, two samples of each, and what follows those."""
    chunks: list[ChunkResult] = []
    for chunk in (random_chunk(13), random_chunk(7, 1, 3)):
        chunks.append(prefill(model, chunks, chunk, candidates=CANDIDATES))
    chunks.append(written(model, chunks))
    more = random_chunk(4, 0, 2, 5, 1, 3, seed=1)
    chunks.append(prefill(model, chunks, more, candidates=CANDIDATES))
    return chunks


def written(
    model: GPTNeoX, chunks: list[ChunkResult], samples: Sequence[int] = (0, 1) * 3
) -> ChunkResult:
    """Two rows after each of three, a pair of them greedy."""
    return generate(model, MIXED, chunks, samples, 12, candidates=CANDIDATES, eos=EOS)[1]


def check(hf: GPTNeoXForCausalLM, whole: ChunkResult) -> None:
    """Holds what is known of whole texts against transformers, which reads each alone."""
    for row, tokens in enumerate(whole.chunk.rows):
        length = len(tokens)
        logits = hf_logits(hf, np.array([tokens]), np.ones((1, length), bool))[0]
        logprobs = torch.tensor(logits).double().log_softmax(-1)[:-1]
        scores = logprobs.gather(1, torch.tensor(tokens[1:], dtype=torch.long)[:, None])[:, 0]
        best, candidates = logprobs.exp().topk(whole.candidates.shape[-1])
        assert np.isnan(whole.scores[row, 0])
        assert np.isnan(whole.candidate_probs[row, 0]).all()
        for name, expected in {"scores": scores, "candidate_probs": best}.items():
            ours = getattr(whole, name)[row, 1:length]
            np.testing.assert_allclose(ours, expected, atol=TOLERANCE, rtol=0)
            assert not getattr(whole, name)[row, length:].any()
        np.testing.assert_array_equal(whole.candidates[row, 1:length], candidates)
        np.testing.assert_allclose(whole.next_logits[row], logits[-1], atol=TOLERANCE, rtol=0)


def close(one: ChunkResult, other: ChunkResult) -> None:
    """Two results of the same text, read in other chunks or in another place."""
    assert one.text.rows == other.text.rows and one.chunk.rows == other.chunk.rows
    width = int(one.chunk.lengths.max())
    for name in ("scores", "candidates", "candidate_probs"):
        ours, theirs = (getattr(result, name)[:, :width] for result in (one, other))
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(one.next_logits, other.next_logits, atol=TOLERANCE, rtol=0)
