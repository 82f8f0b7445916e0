"""From token ids to token ids: options, sampling and the one decoding loop.

Dimensions in shapes: B prompts, R rows (B times the samples of each prompt), T prompt slots,
N slots for generated tokens, V vocabulary.
"""
