"""The GPT-NeoX forward pass.

Dimensions in shapes: B rows, T new tokens, S slots of a segment, U attended slots (all segments
and the new tokens), D hidden size, H heads, K head size, F MLP size, V vocabulary, L layers.
b rows of a segment, each shared by r of the B rows (rT: their tokens side by side); G groups of
h heads whose C dims stand side by side; P positions of a soft prompt or a prefix; X any other
size. In rotary.py R rotated dims of a head, R2 pairs of them; elsewhere R is rows.
"""
