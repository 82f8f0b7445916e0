"""A run: its settings, its steps with evaluations and checkpoints, and what it leaves."""
