"""Checkpoints from one layout to another, bit for bit, with a certificate of it."""
