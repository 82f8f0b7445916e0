"""From text to text: tokenizer, generation and the files of prompts and completions."""
