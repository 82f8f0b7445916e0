"""Checkpoints in Hugging Face's layout: config.json and tensors in safetensors or .bin files."""
