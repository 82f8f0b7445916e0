"""From a batch to an update of the parameters.

Dimensions in shapes are those of `neox_eqx.model`; N counts the chunks of a sequence and C the
tokens in each.
"""
