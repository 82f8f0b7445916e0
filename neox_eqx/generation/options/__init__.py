"""What a request may ask for: options as they are given, their values, and all of them settled."""
