"""One model over the devices of a machine or of a pod.

A mesh has two axes: `data` splits the rows of a batch, `model` splits heads, MLP and vocabulary.
"""
