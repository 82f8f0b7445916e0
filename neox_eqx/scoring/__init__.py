"""Scores of texts: how likely a model finds what is already written."""
