"""The GPT-NeoX forward pass.

Dimensions in shapes: B rows, T new tokens, S slots of a segment, U attended slots (all segments
and the new tokens), D hidden size, H heads, K head size, F MLP size, V vocabulary, L layers.
"""
