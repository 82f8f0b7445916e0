"""From token ids to token ids: options, sampling and the one decoding loop.

From the bottom: `lengths`, `options/`, `history` and `words` (what a row has said so far),
`processors/` and `stopping/`, which read it, `decoding/` and `chunks/`.

Dimensions in shapes: B prompts, R rows (B times the samples or beams of each prompt), T prompt
slots, N slots for generated tokens, U = T + N, V vocabulary, K beams or candidates, M candidates
of a beam search; W words of a row with L tokens each, E ids of EOS, P positions, C of them scored
at a time. In chunks/ B and R are rows of texts, S slots.
"""
