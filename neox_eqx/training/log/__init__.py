"""Where the numbers of a run go, and the picture that is drawn of them."""
