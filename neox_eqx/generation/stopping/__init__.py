"""When a row ends: at an EOS, at a text or ids to stop at, or at its limit."""
