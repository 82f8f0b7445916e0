"""What a model is trained on: from the rows of a file to batches of tokens."""
