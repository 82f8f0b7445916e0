"""The commands of `neox-eqx`, a module each: `Options`, and `main` that does what they ask for."""
