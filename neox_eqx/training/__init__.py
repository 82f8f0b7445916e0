"""Fine-tuning: from the rows of a file to a model that was trained on them."""
