"""Texts that are read and written piece by piece, and kept."""
