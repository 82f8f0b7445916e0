"""GPT-NeoX models in JAX with Equinox."""
