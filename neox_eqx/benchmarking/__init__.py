"""Times of generation, beside those of a peer on the same weights."""
