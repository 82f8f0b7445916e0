"""EleutherAI's layout of checkpoints: reading it, and writing it."""
