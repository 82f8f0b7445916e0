"""From token ids to token ids: options, sampling and the one decoding loop.

From the bottom: `lengths`, `options/`, `history` and `words` (what a row has said so far),
`processors/` and `stopping/`, which read it, `decoding/` and `chunks/`.

Dimensions in shapes: B prompts, R rows (B times the samples of each prompt), T prompt slots,
N slots for generated tokens, V vocabulary.
"""
