"""The commands of `neox-eqx`, a module each: its `Options`, and `main` that does what they ask."""
