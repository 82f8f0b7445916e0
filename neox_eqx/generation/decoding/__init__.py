"""The one loop: rows, how their tokens are chosen, and the state from token to token."""
